//! Those whom a home keeps no track of, by name: so that others hear of them.
//!
//! A home follows a few hundred members. Were only they named to those who come later, the whole fleet would ask them,
//! and nobody would ask the rest: in a fleet of thousands nine of ten uplinks would stand idle.

use std::collections::BTreeSet;

use libp2p_identity::PeerId;

/// The most that are remembered; the oldest go.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Passers {
    ring: Vec<PeerId>,
    names: BTreeSet<PeerId>,
    next: usize,
}

impl Passers {
    pub(super) fn insert(&mut self, peer: PeerId) {
        if !self.names.insert(peer) {
            return;
        }
        if self.ring.len() < MOST {
            self.ring.push(peer);
            return;
        }
        let oldest = std::mem::replace(&mut self.ring[self.next], peer);
        self.names.remove(&oldest);
        self.next = (self.next + 1) % MOST;
    }

    pub(super) fn remove(&mut self, peer: &PeerId) {
        if self.names.remove(peer) {
            self.ring.retain(|other| other != peer);
            self.next = 0;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.names.contains(peer)
    }

    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    pub(super) fn get(&self, place: usize) -> Option<PeerId> {
        self.ring.get(place).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> PeerId {
        let [high, low] = number.to_be_bytes();
        let bytes: Vec<u8> = [0, 4, 1, 2, high, low].to_vec();
        PeerId::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn the_oldest_go_and_nobody_is_there_twice() {
        let mut passers = Passers::default();
        for number in (0..5000).chain(4990..5000) {
            passers.insert(peer(number));
        }
        let all: BTreeSet<PeerId> = (0..passers.len()).filter_map(|place| passers.get(place)).collect();
        assert_eq!((passers.len(), all.len()), (MOST, MOST));
        assert!(!all.contains(&peer(0)) && all.contains(&peer(4999)));
        passers.remove(&peer(4999));
        assert_eq!(passers.len(), MOST - 1);
        passers.insert(peer(1));
        passers.insert(peer(2));
        assert_eq!(passers.len(), MOST);
    }
}
