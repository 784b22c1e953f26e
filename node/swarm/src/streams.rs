//! Streams to and from peers: a behaviour of our own, with every queue bounded.
//!
//! | module | concept |
//! | --- | --- |
//! | `handler` | one connection: negotiates streams and hands them over |
//! | `frame` | messages on a stream |
//! | `link` | what this node asks of one peer: a session and a few chunk lanes |
//! | `session` | questions and answers, many in flight |
//! | `lane` | chunk requests in a pipeline, replies in order |
//! | `inbound` | what peers ask of this node |
//! | `gate`, `sent` | upload slots: who gets one, and until when |
//!
//! `libp2p-stream` drops streams and hangs dials when many are opened at once; this one queues a dial's streams
//! until the dial ends, and tells each how it ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure, FromSwarm};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, NetworkBehaviour, NotifyHandler, Stream, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

mod frame;
mod gate;
mod handler;
pub(crate) mod inbound;
mod lane;
pub(crate) mod link;
mod sent;
mod session;

use handler::Handler;

/// The most streams that may wait for a connection to one peer.
const MAX_WAITING: usize = 64;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Questions and answers.
    Session,
    /// Chunks.
    Chunks,
}

/// A stream that a peer opened.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) peer: PeerId,
    pub(crate) kind: Kind,
    pub(crate) stream: Stream,
}

/// Why there is no stream.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    #[error("the connection ended")]
    Closed,
    #[error("the peer does not speak this protocol")]
    Unsupported,
    #[error("too many streams wait for this peer")]
    Full,
}

/// A stream that somebody here wants.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) peer: PeerId,
    pub(crate) kind: Kind,
    pub(crate) reply: oneshot::Sender<Result<Stream, OpenError>>,
}

/// What the handler is told to open.
#[derive(Debug)]
pub(crate) struct Wanted {
    kind: Kind,
    reply: oneshot::Sender<Result<Stream, OpenError>>,
}

/// Opens streams on connections, and dials for them.
#[derive(Debug)]
pub(crate) struct Behaviour {
    opens: mpsc::Receiver<Open>,
    inbound: mpsc::Sender<Inbound>,
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    waiting: HashMap<PeerId, Vec<Wanted>>,
    dialling: HashSet<PeerId>,
    actions: VecDeque<ToSwarm<std::convert::Infallible, Wanted>>,
}

impl Behaviour {
    /// Streams that are asked for come by `opens`; those that peers open go to `inbound`.
    pub(crate) fn new(opens: mpsc::Receiver<Open>, inbound: mpsc::Sender<Inbound>) -> Self {
        Self {
            opens,
            inbound,
            connections: HashMap::new(),
            waiting: HashMap::new(),
            dialling: HashSet::new(),
            actions: VecDeque::new(),
        }
    }

    fn open(&mut self, Open { peer, kind, reply }: Open) {
        let wanted = Wanted { kind, reply };
        if let Some(connections) = self.connections.get(&peer)
            // The newest: a peer that came back may have left a dead one behind.
            && let Some(&connection) = connections.last()
        {
            let handler = NotifyHandler::One(connection);
            self.actions.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: wanted });
            return;
        }
        let waiting = self.waiting.entry(peer).or_default();
        // Those who gave up make room.
        waiting.retain(|wanted| !wanted.reply.is_closed());
        if waiting.len() >= MAX_WAITING {
            drop(wanted.reply.send(Err(OpenError::Full)));
            return;
        }
        waiting.push(wanted);
        if self.dialling.insert(peer) {
            let opts = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).build();
            self.actions.push_back(ToSwarm::Dial { opts });
        }
    }

    fn established(&mut self, peer: PeerId, connection: ConnectionId) {
        self.connections.entry(peer).or_default().push(connection);
        self.dialling.remove(&peer);
        for wanted in self.waiting.remove(&peer).unwrap_or_default() {
            let handler = NotifyHandler::One(connection);
            self.actions.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: wanted });
        }
    }

    fn closed(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(connections) = self.connections.get_mut(&peer) {
            connections.retain(|&open| open != connection);
            if connections.is_empty() {
                self.connections.remove(&peer);
            }
        }
    }

    fn dial_failed(&mut self, peer: PeerId, error: &libp2p::swarm::DialError) {
        use libp2p::swarm::DialError;
        // Somebody else's dial is under way: its end is heard too.
        if matches!(error, DialError::DialPeerConditionFalse(_)) && !self.connections.contains_key(&peer) {
            return;
        }
        self.dialling.remove(&peer);
        for wanted in self.waiting.remove(&peer).unwrap_or_default() {
            drop(wanted.reply.send(Err(OpenError::Unreachable(error.to_string()))));
        }
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler::new(peer, self.inbound.clone())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.established(peer_id, connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.closed(peer_id, connection_id);
            }
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), error, .. }) => {
                self.dial_failed(peer, error);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            match self.opens.poll_recv(cx) {
                Poll::Ready(Some(open)) => self.open(open),
                // All handles are gone: the swarm is about to end.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}
