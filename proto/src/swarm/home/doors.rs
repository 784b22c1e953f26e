//! Doors: joins of a fleet too large for its home, answered on the way to it.
//!
//! A node asks the closest to the digest that it is connected to. In a fleet in which all are connected to all that
//! is the home. In one of ten thousand it is the home for a tenth of them, and for the others a node on the way: sent
//! on from there, all would dial the home in the same second. So a node on the way sends the first few on, who bring
//! the swarm to this side of the fleet, and after them one of many; to all others it names some of these bridges and
//! some of those who came before, and they are done. That is a tree whose root is the home: each door is closer to
//! the digest than those who come to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p_identity::PeerId;

use super::IDLE;
use super::passers::Passers;
use crate::swarm::message::{MAX_NAMED, Membership, Report, SwarmKey};
use crate::transfer::Availability;

/// So many who come first are sent on.
const FIRST: usize = 4;
/// And then one of so many.
const ONE_OF: usize = 32;
/// So many of those who were sent on are named to everybody: more, and all hang on them.
const BRIDGES: usize = 1;
/// Doors at once; for one more the one used longest ago is closed.
const MOST: usize = 1024;

#[derive(Debug, Default)]
struct Door {
    /// Those who were answered here.
    came: Passers,
    /// Those who were sent on, and so have neighbours elsewhere.
    bridges: Passers,
    /// Those who came a second time.
    again: BTreeSet<PeerId>,
    /// How often anybody came.
    count: usize,
    used: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Doors(BTreeMap<SwarmKey, Door>);

impl Doors {
    /// Somebody came here though the home is another: its place in the swarm, unless it has to go on to the home.
    pub(super) fn enter(
        &mut self,
        key: &SwarmKey,
        from: PeerId,
        report: &Report,
        now: Duration,
    ) -> Option<Membership> {
        if !is_join(report) || key.round > 0 {
            return None;
        }
        if self.0.len() >= MOST
            && !self.0.contains_key(key)
            && let Some(oldest) = self.0.iter().min_by_key(|(_, door)| door.used).map(|(key, _)| *key)
        {
            self.0.remove(&oldest);
        }
        let door = self.0.entry(*key).or_default();
        door.used = now;
        let came_before = door.came.contains(&from);
        if door.bridges.contains(&from) || came_before && !door.again.insert(from) {
            // It has found nothing through those named.
            return None;
        }
        let place = door.count;
        door.count = door.count.wrapping_add(1);
        if !came_before && (place < FIRST || place.is_multiple_of(ONE_OF)) {
            door.bridges.insert(from);
            return None;
        }
        let members = door.named(place, &from);
        if members.is_empty() {
            return None;
        }
        door.came.insert(from);
        Some(Membership { epoch: 0, members, lease: None, fetchers: Vec::new(), hopeless: None, again: None })
    }

    pub(super) fn lose(&mut self, peer: &PeerId) {
        for door in self.0.values_mut() {
            door.came.remove(peer);
            door.bridges.remove(peer);
            door.again.remove(peer);
        }
    }

    pub(super) fn close_unused(&mut self, now: Duration) {
        self.0.retain(|_, door| now < door.used + IDLE);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Door {
    /// Some bridges, and some of those who came before: others for each place.
    fn named(&self, place: usize, asker: &PeerId) -> Vec<PeerId> {
        let bridges = spread(&self.bridges, BRIDGES, place);
        let came = spread(&self.came, MAX_NAMED - bridges.len(), place);
        bridges.into_iter().chain(came).filter(|peer| peer != asker).collect()
    }
}

/// So many of these, evenly spread over all, beginning elsewhere for each place.
fn spread(peers: &Passers, most: usize, place: usize) -> Vec<PeerId> {
    let total = peers.len();
    let count = most.min(total);
    let begin = place.wrapping_mul(7919);
    (0..count).filter_map(|n| peers.get(begin.wrapping_add(n * total / count) % total)).collect()
}

/// Whether this is somebody's first report, who has nothing yet and has found nobody missing.
fn is_join(report: &Report) -> bool {
    let nothing = matches!(&report.have, Availability::Partial(chunks) if chunks.is_clear());
    nothing
        && report.lease.is_none()
        && report.ended.is_none()
        && report.unreachable.is_empty()
        && !report.whole
        && !report.leaving
}

#[cfg(test)]
mod tests {
    use fixedbitset::FixedBitSet;

    use super::super::tests::silent;
    use super::*;
    use crate::digest::Digest;
    use crate::origin::Origin;
    use crate::swarm::test_peer;

    fn join() -> Report {
        silent(Availability::Partial(FixedBitSet::with_capacity(8)))
    }

    #[test]
    fn a_few_are_sent_on_and_the_others_hear_of_each_other() {
        let mut doors = Doors::default();
        let key = SwarmKey::first(Digest::sha256_of(b"blob"), 8 << 18, Origin::from_bytes([7; 16]));
        let now = Duration::from_secs(1);
        let mut named = BTreeSet::new();
        let mut sent_on = 0;
        for number in 0..200 {
            match doors.enter(&key, test_peer(number), &join(), now) {
                None => sent_on += 1,
                Some(place) => {
                    assert!(!place.members.is_empty() && place.members.len() <= MAX_NAMED);
                    assert!(!place.members.contains(&test_peer(number)) && place.again.is_none());
                    named.extend(place.members);
                }
            }
        }
        assert_eq!(sent_on, FIRST + 200_usize.div_ceil(ONE_OF) - 1);
        assert!(named.len() > 150, "all are named to somebody, not always the same: {}", named.len());
        // One that comes again hears of others, and then has found nothing here.
        assert!(doors.enter(&key, test_peer(20), &join(), now).is_some());
        assert_eq!(doors.enter(&key, test_peer(20), &join(), now), None);
        // One that has something is no stranger to the swarm.
        let mut report = join();
        if let Availability::Partial(chunks) = &mut report.have {
            chunks.insert(3);
        }
        assert_eq!(doors.enter(&key, test_peer(201), &report, now), None);
        doors.close_unused(now + IDLE);
        assert!(doors.is_empty());
    }
}
