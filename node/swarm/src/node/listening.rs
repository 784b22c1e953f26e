//! Where this node listens, and what it tells others of that.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::PoisonError;
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, TransportError};

use super::{Node, StartError, chain};
use crate::bootstrap::{multiaddr, socket_address};

/// How long a listener may take to say where it listens.
const LISTENING: Duration = Duration::from_secs(5);

impl Node {
    pub(super) fn listening(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self
            .listeners
            .values()
            .flatten()
            .filter_map(socket_address)
            .collect::<HashSet<_>>()
            .into_iter()
            .collect();
        addresses.sort();
        addresses
    }

    /// Tells peers where this node is. Loopback only if that is all there is.
    pub(super) fn addresses_changed(&mut self) {
        let listening = self.listening();
        let only_loopback = listening.iter().all(|address| address.ip().is_loopback());
        let told = listening.iter().filter(|address| only_loopback || !address.ip().is_loopback());
        let told: HashSet<Multiaddr> = told.map(|&address| multiaddr(address)).collect();
        let before: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        for gone in before.iter().filter(|address| !told.contains(address)) {
            self.swarm.remove_external_address(gone);
        }
        for address in told.iter().filter(|address| !before.contains(address)) {
            self.swarm.add_external_address(address.clone());
        }
        *self.shown.listening.write().unwrap_or_else(PoisonError::into_inner) = listening;
    }

    pub(super) async fn listen(&mut self, wanted: SocketAddr) -> Result<(), StartError> {
        let failed = |reason: String| StartError::Listen { address: wanted, reason };
        // libp2p's listeners share their port (SO_REUSEPORT): two nodes would each get half of the connections. A
        // socket that does not share finds out whether the port is free.
        if let Err(error) = std::net::TcpListener::bind(wanted)
            && error.kind() == std::io::ErrorKind::AddrInUse
        {
            return Err(failed(error.to_string()));
        }
        let first = self.listen_on(wanted).await;
        if wanted.is_ipv4() || !wanted.ip().is_unspecified() {
            return first.map(|_| ()).map_err(failed);
        }
        // libp2p's IPv6 sockets are for IPv6 only: IPv4 is a second listener, on the same port. One of the two is
        // enough: a host may lack either.
        let port = first.as_ref().map_or_else(|_| wanted.port(), SocketAddr::port);
        let second = self.listen_on(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).await;
        match (first, second) {
            (Err(reason), Err(_)) => Err(failed(reason)),
            _ => Ok(()),
        }
    }

    /// Listens, and waits until the system says where.
    async fn listen_on(&mut self, address: SocketAddr) -> Result<SocketAddr, String> {
        let listener = self.swarm.listen_on(multiaddr(address)).map_err(|error| match error {
            TransportError::MultiaddrNotSupported(_) => "not an address that can be listened on".to_owned(),
            TransportError::Other(error) => chain(&error),
        })?;
        let listening = async {
            loop {
                let event = self.swarm.select_next_some().await;
                if let SwarmEvent::ListenerClosed { listener_id, reason, .. } = &event
                    && *listener_id == listener
                {
                    return Err(reason
                        .as_ref()
                        .err()
                        .map_or_else(|| "it closed".to_owned(), |error| chain(error)));
                }
                self.event(event);
                let said = self.listeners.get(&listener).and_then(|addresses| addresses.iter().next());
                if let Some(address) = said.and_then(socket_address) {
                    return Ok(address);
                }
            }
        };
        match tokio::time::timeout(LISTENING, listening).await {
            Ok(result) => result,
            Err(_) => Err(format!("the system did not say where within {} s", LISTENING.as_secs())),
        }
    }
}
