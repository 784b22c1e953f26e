//! How close nodes are to a digest: the metric of Kademlia (Maymounkov and Mazières 2002, section 2.1), over the same
//! points as the DHT, so that the closest live node to a digest is also among those that get its provider records.

use std::collections::BTreeMap;

use libp2p_identity::PeerId;
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// A node's or a digest's place: SHA-256 of its bytes, as libp2p-kad hashes keys.
type Point = [u8; 32];

fn point(bytes: &[u8]) -> Point {
    Sha256::digest(bytes).into()
}

/// The live nodes, this one among them, ready to be ranked for any digest.
#[derive(Debug, Clone)]
pub struct Ranking {
    local: PeerId,
    nodes: BTreeMap<PeerId, Point>,
}

impl Ranking {
    /// Only this node is known: a node that leaves itself out would never be a home.
    pub fn new(local: PeerId) -> Self {
        Self { local, nodes: BTreeMap::from([(local, point(&local.to_bytes()))]) }
    }

    /// This node.
    pub fn local(&self) -> PeerId {
        self.local
    }

    /// A node is live.
    pub fn insert(&mut self, peer: PeerId) {
        self.nodes.entry(peer).or_insert_with(|| point(&peer.to_bytes()));
    }

    /// A node is not live any more. This node always is.
    pub fn remove(&mut self, peer: &PeerId) {
        if *peer != self.local {
            self.nodes.remove(peer);
        }
    }

    /// Whether a node is live.
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.nodes.contains_key(peer)
    }

    /// How many nodes are live, this one among them: at least 1.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: this node is always in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The `count` nodes closest to a digest, the closest first.
    pub fn closest(&self, key: &Digest, count: usize) -> Vec<PeerId> {
        let key = point(&key.multihash());
        let distance = |at: &Point| -> Point { std::array::from_fn(|byte| at[byte] ^ key[byte]) };
        let mut ranked: Vec<(Point, PeerId)> =
            self.nodes.iter().map(|(&peer, at)| (distance(at), peer)).collect();
        if ranked.len() > count && count > 0 {
            ranked.select_nth_unstable(count - 1);
        }
        ranked.truncate(count);
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Whether `one` is closer to a digest than `other`.
    pub fn is_closer(key: &Digest, one: &PeerId, other: &PeerId) -> bool {
        let key = point(&key.multihash());
        let distance = |peer: &PeerId| -> Point {
            let at = point(&peer.to_bytes());
            std::array::from_fn(|byte| at[byte] ^ key[byte])
        };
        distance(one) < distance(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::test_peer;

    #[test]
    fn the_closest_are_those_of_a_full_sort_and_the_local_node_takes_part() {
        let mut ranking = Ranking::new(test_peer(0));
        for seed in 1..=50 {
            ranking.insert(test_peer(seed));
        }
        for n in 0..20_u8 {
            let key = Digest::sha256_of(&[n]);
            let all = ranking.closest(&key, 51);
            assert_eq!(all.len(), 51);
            assert!(all.contains(&ranking.local()));
            assert_eq!(ranking.closest(&key, 3), all[..3]);
            assert!(all.windows(2).all(|pair| Ranking::is_closer(&key, &pair[0], &pair[1])));
        }
        assert_eq!(ranking.closest(&Digest::sha256_of(b""), 0), []);
        let local = ranking.local();
        ranking.remove(&local);
        assert!(ranking.contains(&local));
    }

    #[test]
    fn homes_are_spread_over_the_nodes() {
        let mut ranking = Ranking::new(test_peer(0));
        for seed in 1..8 {
            ranking.insert(test_peer(seed));
        }
        let mut homes = BTreeMap::<PeerId, u32>::new();
        for n in 0..400_u32 {
            let home = ranking.closest(&Digest::sha256_of(&n.to_be_bytes()), 1);
            *homes.entry(home[0]).or_default() += 1;
        }
        assert!(homes.len() >= 6 && homes.values().all(|&count| count < 250), "{homes:?}");
    }
}
