//! Dead peers are left alone for a while.
//!
//! Kademlia waits 10 s for a peer that does not answer a dial, in each lookup again. A peer whose dial failed, or
//! whose connection was lost to a missed heartbeat, is therefore not dialled for 30 s: lookups go on without it. Only
//! `node/lost.rs` dials it sooner.

use std::collections::HashMap;
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionEstablished, DialFailure, FromSwarm};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

/// How long a dead peer is not dialled.
const DENIED: Duration = Duration::from_secs(30);
/// The most dead peers remembered.
const MOST: usize = 8192;

/// The peer was found dead a moment ago.
#[derive(Debug, thiserror::Error)]
#[error("the peer did not answer a moment ago, and is not dialled for {} s", DENIED.as_secs())]
struct Dead;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    dead: HashMap<PeerId, Instant>,
}

impl Behaviour {
    /// Notes that this peer is dead.
    pub(crate) fn note(&mut self, peer: PeerId) {
        let now = Instant::now();
        if self.dead.len() >= MOST {
            self.dead.retain(|_, until| *until > now);
        }
        if self.dead.len() < MOST {
            self.dead.insert(peer, now + DENIED);
        }
    }

    /// Lets this peer be dialled now, dead or not.
    pub(crate) fn lift(&mut self, peer: &PeerId) {
        self.dead.remove(peer);
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let now = Instant::now();
        match peer.and_then(|peer| self.dead.get(&peer)) {
            Some(&until) if until > now => Err(ConnectionDenied::new(Dead)),
            _ => Ok(Vec::new()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, .. }) => {
                self.dead.remove(&peer_id);
            }
            FromSwarm::DialFailure(DialFailure {
                peer_id: Some(peer),
                error: DialError::Transport(_),
                ..
            }) => {
                self.note(peer);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
