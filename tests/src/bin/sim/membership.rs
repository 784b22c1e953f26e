//! Who is connected to whom, and how close each is to each digest.
//!
//! Up to `control.connections` all nodes are connected to all. In a larger fleet each node is connected to those whose
//! ids are closest to its own, as a Kademlia table has them, and to others at random: so whoever is close to a digest
//! knows the others that are, and anybody is a few hops away from them. A daemon ranks those it is connected to, and so
//! does this.

use std::time::Duration;

use fixedbitset::FixedBitSet;
use sha2::{Digest as _, Sha256};
use shoal_proto::digest::Digest;
use shoal_proto::identity::PeerId;

use crate::dice::Dice;
use crate::scenario::Scenario;

/// The closest that every node is connected to: a bucket of the DHT.
const BUCKET: usize = 20;
/// What stands before the number in an ed25519 key's peer id.
const HEAD: [u8; 6] = [0x00, 36, 0x08, 0x01, 0x12, 0x20];

#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) peers: Vec<PeerId>,
    points: Vec<[u8; 32]>,
    /// For each node the others that it is connected to; empty where all are connected to all.
    connected: Vec<FixedBitSet>,
    degrees: Vec<u32>,
    /// Nodes that nobody counts as live any more.
    gone: FixedBitSet,
    zones: u32,
    near: Duration,
    far: Duration,
    most: u32,
}

/// A node's id, of the form that ed25519 keys have, with its number in the last bytes.
fn peer(number: u32, dice: &mut Dice) -> anyhow::Result<PeerId> {
    let mut bytes = HEAD.to_vec();
    for _ in 0..3 {
        bytes.extend(dice.next().to_be_bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend(number.to_be_bytes());
    Ok(PeerId::from_bytes(&bytes)?)
}

fn first_half(point: &[u8; 32]) -> u128 {
    point.iter().take(16).fold(0, |number, &byte| number << 8 | u128::from(byte))
}

impl Membership {
    pub(crate) fn new(scenario: &Scenario, dice: &mut Dice) -> anyhow::Result<Self> {
        let peers: anyhow::Result<Vec<PeerId>> =
            (0..scenario.nodes).map(|number| peer(number, dice)).collect();
        let peers = peers?;
        let points = peers.iter().map(|peer| Sha256::digest(peer.to_bytes()).into()).collect();
        let count = scenario.nodes as usize;
        let mut membership = Self {
            peers,
            points,
            connected: Vec::new(),
            degrees: vec![scenario.nodes - 1; count],
            gone: FixedBitSet::with_capacity(count),
            zones: scenario.links.zones,
            near: crate::scenario::millis(scenario.links.latency_ms),
            far: crate::scenario::millis(scenario.links.between_zones_ms),
            most: scenario.control.max_connections,
        };
        if scenario.nodes > scenario.control.connections {
            membership.connect_some(scenario.control.connections, dice);
        }
        Ok(membership)
    }

    fn connect_some(&mut self, wanted: u32, dice: &mut Dice) {
        let count = self.peers.len();
        self.connected = vec![FixedBitSet::with_capacity(count); count];
        self.degrees = vec![0; count];
        let halves: Vec<u128> = self.points.iter().map(first_half).collect();
        for one in 0..self.len() {
            let own = halves[one as usize];
            let mut others: Vec<(u128, u32)> =
                (0..self.len()).map(|other| (halves[other as usize] ^ own, other)).collect();
            // Itself, at distance 0, is the first.
            others.select_nth_unstable(BUCKET.min(count - 1));
            for &(_, other) in others.iter().take(BUCKET + 1) {
                self.connect(one, other);
            }
        }
        for one in 0..self.len() {
            while self.degrees[one as usize] < wanted / 2 {
                self.connect(one, dice.below(self.len()));
            }
        }
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.peers.len()).unwrap_or(u32::MAX)
    }

    /// Which node this is.
    pub(crate) fn number(peer: &PeerId) -> u32 {
        let bytes = peer.as_ref().digest();
        bytes.iter().rev().take(4).rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
    }

    /// For each node its place, if all are sorted by how close they are to a digest.
    pub(crate) fn places(&self, digest: &Digest) -> Vec<u32> {
        let key: [u8; 32] = Sha256::digest(digest.multihash()).into();
        let mut order: Vec<u32> = (0..self.len()).collect();
        order.sort_by_cached_key(|&node| -> [u8; 32] {
            let point = &self.points[node as usize];
            std::array::from_fn(|byte| point[byte] ^ key[byte])
        });
        let mut places = vec![0; order.len()];
        for (place, node) in (0_u32..).zip(order) {
            places[node as usize] = place;
        }
        places
    }

    pub(crate) fn are_connected(&self, one: u32, other: u32) -> bool {
        one == other || self.connected.get(one as usize).is_none_or(|own| own.contains(other as usize))
    }

    /// Connects two nodes, unless either has too many connections.
    pub(crate) fn connect(&mut self, one: u32, other: u32) -> bool {
        if self.are_connected(one, other) {
            return true;
        }
        if self.degrees[one as usize] >= self.most || self.degrees[other as usize] >= self.most {
            return false;
        }
        self.connected[one as usize].insert(other as usize);
        self.connected[other as usize].insert(one as usize);
        self.degrees[one as usize] += 1;
        self.degrees[other as usize] += 1;
        true
    }

    /// Those that a node is connected to and takes for live.
    pub(crate) fn neighbours(&self, node: u32) -> Vec<u32> {
        (0..self.len())
            .filter(|&other| {
                other != node && self.are_connected(node, other) && !self.gone.contains(other as usize)
            })
            .collect()
    }

    /// The `count` closest of those, the node itself among them, the closest first.
    pub(crate) fn closest(&self, node: u32, places: &[u32], count: usize) -> Vec<u32> {
        let mut best = std::collections::BinaryHeap::with_capacity(count + 1);
        for other in self.neighbours(node).into_iter().chain([node]) {
            best.push((places[other as usize], other));
            if best.len() > count {
                best.pop();
            }
        }
        best.into_sorted_vec().into_iter().map(|(_, other)| other).collect()
    }

    pub(crate) fn forget(&mut self, node: u32) {
        self.gone.insert(node as usize);
    }

    pub(crate) fn is_gone(&self, node: u32) -> bool {
        self.gone.contains(node as usize)
    }

    /// How many a node takes for live, itself among them.
    pub(crate) fn fleet(&self, node: u32) -> usize {
        (self.degrees[node as usize] as usize + 1).saturating_sub(self.gone.count_ones(..)).max(1)
    }

    /// The most connections that any node has.
    pub(crate) fn most_connections(&self) -> u32 {
        self.degrees.iter().copied().max().unwrap_or(0)
    }

    pub(crate) fn same_zone(&self, one: u32, other: u32) -> bool {
        one % self.zones == other % self.zones
    }

    /// One way.
    pub(crate) fn latency(&self, one: u32, other: u32) -> Duration {
        if self.same_zone(one, other) { self.near } else { self.far }
    }
}
