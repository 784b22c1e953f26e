//! Who is connected, and where they say that they can be reached.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;

use crate::bootstrap::{multiaddr, socket_address};

/// Addresses kept of what one peer says of itself.
const MAX_TOLD: usize = 16;
/// How long a new peer may take to say where it can be reached.
const SAYS: Duration = Duration::from_secs(5);

/// A connected peer.
#[derive(Debug, Clone)]
pub struct PeerSummary {
    /// Who.
    pub peer: PeerId,
    /// Where, as seen from here.
    pub address: Multiaddr,
    /// Since when.
    pub since: Instant,
    /// How many connections. Two are one too many: both ends have dialled at once.
    pub connections: u32,
    /// Its zone, as it says.
    pub zone: Option<String>,
}

#[derive(Debug)]
struct Neighbour {
    address: Multiaddr,
    since: Instant,
    connections: u32,
    told: Vec<SocketAddr>,
    zone: Option<String>,
}

/// Where peers can be reached. A peer that dialled this node may be seen where it does not listen; where it
/// does, it says a moment later.
#[derive(Debug, Default)]
pub(crate) struct Whereabouts {
    /// Who is where.
    pub(crate) peers: HashMap<SocketAddr, PeerId>,
    /// Where there are peers that have not said yet.
    pub(crate) unsaid: HashSet<IpAddr>,
}

/// The table. The node's task writes, handles read; the lock is held for one access.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    table: RwLock<HashMap<PeerId, Neighbour>>,
    version: watch::Sender<u64>,
}

impl Neighbours {
    fn table(&self) -> RwLockReadGuard<'_, HashMap<PeerId, Neighbour>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed<T>(&self, change: impl FnOnce(&mut HashMap<PeerId, Neighbour>) -> T) -> T {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// A connection stands. Says whether it is the only one to this peer.
    pub(crate) fn established(&self, peer: PeerId, address: Multiaddr) -> bool {
        let fresh =
            || Neighbour { address, since: Instant::now(), connections: 0, told: Vec::new(), zone: None };
        let first = self.changed(|table| {
            let neighbour = table.entry(peer).or_insert_with(fresh);
            neighbour.connections += 1;
            neighbour.connections == 1
        });
        if first {
            self.version.send_modify(|version| *version += 1);
        }
        first
    }

    /// A connection ended, and so many to this peer are left.
    pub(crate) fn closed(&self, peer: PeerId, left: u32) {
        if left > 0 {
            self.changed(|table| {
                if let Some(neighbour) = table.get_mut(&peer) {
                    neighbour.connections = left;
                }
            });
        } else if self.changed(|table| table.remove(&peer)).is_some() {
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// A peer says where it can be reached. What of that can be dialled from here is kept, and returned.
    pub(crate) fn told(&self, peer: PeerId, addresses: &[Multiaddr]) -> Vec<SocketAddr> {
        self.changed(|table| {
            let Some(neighbour) = table.get_mut(&peer) else { return Vec::new() };
            let on_this_machine = is_loopback(&neighbour.address);
            let mut told: Vec<SocketAddr> = addresses
                .iter()
                .take(MAX_TOLD)
                .filter_map(socket_address)
                .filter(|address| is_dialable(address, on_this_machine))
                .collect();
            // Loopback last: it is of use to few.
            told.sort_by_key(|address| address.ip().is_loopback());
            told.dedup();
            neighbour.told.clone_from(&told);
            told
        })
    }

    /// A peer says in which zone it is, if it says anything.
    pub(crate) fn told_zone(&self, peer: PeerId, zone: Option<String>) {
        self.changed(|table| {
            if let Some(neighbour) = table.get_mut(&peer) {
                neighbour.zone = zone;
            }
        });
    }

    /// Whether a connected peer says that it is in this zone; `None` if it does not say where it is.
    pub(crate) fn is_in(&self, peer: &PeerId, zone: &str) -> Option<bool> {
        self.table().get(peer)?.zone.as_deref().map(|told| told == zone)
    }

    /// Where a connected peer can be reached, as it says.
    pub(crate) fn addresses_of(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let table = self.table();
        table.get(peer).map_or_else(Vec::new, |peer| peer.told.iter().copied().map(multiaddr).collect())
    }

    /// Where who is connected can be reached, as far as it is known.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        let mut whereabouts = Whereabouts::default();
        for (&peer, neighbour) in self.table().iter() {
            let seen = socket_address(&neighbour.address);
            if neighbour.told.is_empty() && neighbour.since.elapsed() < SAYS {
                whereabouts.unsaid.extend(seen.map(|address| address.ip()));
            }
            whereabouts.peers.extend(seen.iter().chain(&neighbour.told).map(|&address| (address, peer)));
        }
        whereabouts
    }

    /// Connections to this peer.
    pub(crate) fn connections_to(&self, peer: &PeerId) -> u32 {
        self.table().get(peer).map_or(0, |neighbour| neighbour.connections)
    }

    /// Since when this peer is connected.
    pub(crate) fn since(&self, peer: &PeerId) -> Option<Instant> {
        self.table().get(peer).map(|neighbour| neighbour.since)
    }

    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        self.table().contains_key(peer)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    /// Whether a peer on this machine is among them: then loopback addresses of others may be of use.
    pub(crate) fn on_this_machine(&self) -> bool {
        self.table().values().any(|neighbour| is_loopback(&neighbour.address))
    }

    pub(crate) fn summaries(&self) -> Vec<PeerSummary> {
        let summary = |(&peer, neighbour): (&PeerId, &Neighbour)| PeerSummary {
            peer,
            address: neighbour.address.clone(),
            since: neighbour.since,
            connections: neighbour.connections,
            zone: neighbour.zone.clone(),
        };
        self.table().iter().map(summary).collect()
    }

    /// Counts how often a peer came or went.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    socket_address(address).is_some_and(|address| address.ip().is_loopback())
}

/// Whether a connection to it can lead to another node: not an address that means this machine, unless that is meant.
pub(crate) fn is_dialable(address: &SocketAddr, loopback: bool) -> bool {
    let ip = address.ip();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    address.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !link_local
        && (loopback || !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_counts_peers_that_come_and_go_not_connections() {
        let neighbours = Neighbours::default();
        let versions = neighbours.versions();
        let peer = PeerId::random();
        let address: Multiaddr = "/ip4/10.0.0.1/tcp/4000".parse().unwrap();
        assert!(neighbours.established(peer, address.clone()));
        assert!(!neighbours.established(peer, address));
        assert_eq!((*versions.borrow(), neighbours.connections_to(&peer)), (1, 2));
        neighbours.closed(peer, 1);
        assert_eq!((*versions.borrow(), neighbours.connections_to(&peer)), (1, 1));
        neighbours.closed(peer, 0);
        assert_eq!((*versions.borrow(), neighbours.is_empty()), (2, true));
    }

    #[test]
    fn what_cannot_be_dialled_from_here_is_not_kept() {
        let neighbours = Neighbours::default();
        let peer = PeerId::random();
        neighbours.established(peer, "/ip4/10.0.0.1/tcp/4000".parse().unwrap());
        let told = [
            "/ip4/127.0.0.1/tcp/5056",
            "/ip4/0.0.0.0/tcp/5056",
            "/ip4/169.254.1.1/tcp/5056",
            "/ip6/fe80::1/tcp/5056",
            "/ip4/10.0.0.1/tcp/5056",
            "/dns4/node/tcp/5056",
        ]
        .map(|address| address.parse().unwrap());
        neighbours.told(peer, &told);
        assert_eq!(neighbours.addresses_of(&peer), [told[4].clone()]);
    }

    #[test]
    fn who_has_dialled_is_known_where_it_says_to_be() {
        let neighbours = Neighbours::default();
        let peer = PeerId::random();
        neighbours.established(peer, "/ip4/10.0.0.1/tcp/4000".parse().unwrap());
        let address = "10.0.0.1:5056".parse().unwrap();
        let whereabouts = neighbours.whereabouts();
        assert!(!whereabouts.peers.contains_key(&address) && whereabouts.unsaid.contains(&address.ip()));
        neighbours.told(peer, &[multiaddr(address)]);
        let whereabouts = neighbours.whereabouts();
        assert!(whereabouts.peers.get(&address) == Some(&peer) && whereabouts.unsaid.is_empty());
    }
}
