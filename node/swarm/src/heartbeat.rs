//! Heartbeats on each connection: a machine that loses power sends no reset.
//!
//! Each costs both ends a message and its answer, whether anything happens or not: with a thousand peers, one a second
//! would keep a sixth of a core busy on every machine of an idle cluster (measured: 0.17 thousandths of a core a peer).
//! So the first 64 connections have one a second and each later one fewer, as it finds them when it is made: about 240 a
//! second for a thousand that were made one after the other, and less the more of them are made anew. Nothing waits for the
//! heartbeats of a large fleet: who is asked for something has a time for that, and is left for another when it is over.

use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId, ping};

/// The time between a heartbeat's answer, or its failure, and the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many connections have one each interval; one that is made beside more has it as much less often.
const QUICK: u32 = 64;
/// However many connections there are, the time between two heartbeats of one is not longer.
const LONGEST: Duration = Duration::from_secs(15);
/// How late an answer may be: a node under load answers late, and is not dead. libp2p keeps the first failure to itself,
/// so that a peer that is silent is left after two of these, and an interval before each: in a small fleet within 5 s,
/// before clients that wait for what it has are cut off.
const LIMIT: Duration = Duration::from_millis(1500);

/// The interval of a connection that is made beside so many others.
fn interval(connections: u32) -> Duration {
    (INTERVAL.saturating_mul(connections) / QUICK).clamp(INTERVAL, LONGEST)
}

/// libp2p's ping, at an interval of each connection's own.
#[derive(Default)]
pub(crate) struct Behaviour {
    events: ping::Behaviour,
    connections: u32,
}

impl Behaviour {
    /// What gives the next connection its handler.
    fn next(&self) -> ping::Behaviour {
        let interval = interval(self.connections);
        ping::Behaviour::new(ping::Config::new().with_interval(interval).with_timeout(LIMIT))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <ping::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = ping::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.next().handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.next().handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(_) => self.connections = self.connections.saturating_add(1),
            FromSwarm::ConnectionClosed(_) => self.connections = self.connections.saturating_sub(1),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.events.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<ping::Event, THandlerInEvent<Self>>> {
        self.events.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::ConnectedPoint;
    use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};

    use super::*;

    #[test]
    fn the_more_connections_there_are_the_fewer_has_a_new_one() {
        let expected = [1, 1, 1, 2, 5, 15, 15, 15].map(Duration::from_secs);
        assert_eq!([0, 1, 64, 128, 320, 960, 2048, u32::MAX].map(interval), expected);
        // Made one after the other, and none of them anew: the most that are sent in a second.
        let all: f64 = (0..2048).map(|connections| 1.0 / interval(connections).as_secs_f64()).sum();
        assert!(all < 320.0, "{all}");
    }

    #[test]
    fn connections_are_counted() {
        let mut behaviour = Behaviour::default();
        let endpoint =
            ConnectedPoint::Listener { local_addr: Multiaddr::empty(), send_back_addr: Multiaddr::empty() };
        let peer_id = PeerId::random();
        for n in 0..200 {
            let connection_id = ConnectionId::new_unchecked(n);
            behaviour.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint: &endpoint,
                failed_addresses: &[],
                other_established: n,
            }));
        }
        for n in 0..50 {
            behaviour.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id: ConnectionId::new_unchecked(n),
                endpoint: &endpoint,
                cause: None,
                remaining_established: 0,
            }));
        }
        assert_eq!(behaviour.connections, 150);
    }
}
