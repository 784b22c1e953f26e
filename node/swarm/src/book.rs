//! Where peers can be reached, as they said when they were connected or as other peers tell.
//!
//! A DHT lookup's addresses are known only while it runs, and identify's until the first dial fails: peers that are
//! learnt of otherwise, or were lost, are dialled by what is written here. Nothing of it is proven, and need not be: who answers at
//! an address proves its peer id.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

/// The most peers in the book; the one written first goes first.
const MAX_PEERS: usize = 4096;
/// The most addresses of one peer; the newest stay.
const MAX_ADDRESSES: usize = 4;

/// The book. Clones share it: handles write, the swarm reads. A std mutex, held for one access.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    peers: HashMap<PeerId, Page>,
    /// The peers in the order in which they were written last.
    order: BTreeMap<u64, PeerId>,
    next: u64,
}

#[derive(Debug, Default)]
struct Page {
    written: u64,
    addresses: Vec<Multiaddr>,
}

impl Book {
    /// Adds to what is known of a peer.
    pub(crate) fn add(&self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>) {
        let mut addresses: Vec<Multiaddr> = addresses.into_iter().take(MAX_ADDRESSES).collect();
        if addresses.is_empty() {
            return;
        }
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = &mut *pages;
        pages.next += 1;
        let page = pages.peers.entry(peer).or_default();
        pages.order.remove(&page.written);
        page.written = pages.next;
        pages.order.insert(page.written, peer);
        for known in std::mem::take(&mut page.addresses) {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&known) {
                addresses.push(known);
            }
        }
        page.addresses = addresses;
        if pages.peers.len() > MAX_PEERS
            && let Some((_, oldest)) = pages.order.pop_first()
        {
            pages.peers.remove(&oldest);
        }
    }

    fn of(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.peers.get(peer).map_or_else(Vec::new, |page| page.addresses.clone())
    }
}

/// Gives dials what the book says.
#[derive(Debug)]
pub(crate) struct Behaviour(pub(crate) Book);

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
        Ok(peer.map_or_else(Vec::new, |peer| self.0.of(&peer)))
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

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{n}").parse().unwrap()
    }

    #[test]
    fn it_keeps_the_newest_addresses_of_the_newest_peers() {
        let book = Book::default();
        let peer = PeerId::random();
        book.add(peer, [1, 2, 3].map(address));
        book.add(peer, [4, 3, 5].map(address));
        assert_eq!(book.of(&peer), [4, 3, 5, 1].map(address));

        let others: Vec<PeerId> = (0..MAX_PEERS).map(|_| PeerId::random()).collect();
        for &other in &others[1..] {
            book.add(other, [address(1)]);
        }
        // Written again, it is no longer the oldest.
        book.add(peer, [address(6)]);
        book.add(others[0], [address(1)]);
        assert_eq!(book.of(&peer), [6, 4, 3, 5].map(address));
        assert!(book.of(&others[1]).is_empty());
        assert_eq!((book.of(&others[2]).len(), book.of(&others[0]).len()), (1, 1));
    }
}
