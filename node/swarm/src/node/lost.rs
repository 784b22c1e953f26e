//! Peers that were connected and are lost: looked for again, or two halves of a fleet that fell apart would know each
//! other only by their bootstrap addresses for minutes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// When a lost peer is first dialled again: once it may be (see `denial`). The wait doubles with each try.
const FIRST: Duration = Duration::from_secs(31);
/// When it is tried again if it might not be dialled yet after all.
const SOON: Duration = Duration::from_secs(5);
/// A node that does not answer so often is gone for good, or will find this one.
const TRIES: u32 = 5;
/// The most that are looked for.
const MOST: usize = 4096;
/// The most that are dialled at a time.
const AT_ONCE: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lost(HashMap<PeerId, (Instant, u32)>);

impl Lost {
    /// The last connection to this peer is gone.
    pub(super) fn note(&mut self, peer: PeerId, now: Instant) {
        if self.0.len() < MOST {
            self.0.entry(peer).or_insert((now + FIRST, 0));
        }
    }

    /// It is back.
    pub(super) fn found(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// A peer that was due might not be dialled: it counts as no try.
    pub(super) fn not_tried(&mut self, peer: PeerId, now: Instant) {
        if let Some((at, tries)) = self.0.get_mut(&peer) {
            *tries = tries.saturating_sub(1);
            *at = now + SOON;
        }
    }

    /// Whom to dial now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<PeerId> {
        self.0.retain(|_, (_, tries)| *tries < TRIES);
        let due = self.0.iter_mut().filter(|(_, (at, _))| *at <= now).take(AT_ONCE);
        due.map(|(&peer, (at, tries))| {
            *tries += 1;
            *at = now + FIRST * 2_u32.saturating_pow(*tries);
            peer
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_peers_are_looked_for_less_and_less_and_then_no_more() {
        let mut lost = Lost::default();
        let (began, peer, other) = (Instant::now(), PeerId::random(), PeerId::random());
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        lost.note(peer, at(0));
        lost.note(other, at(0));
        assert_eq!(lost.due(at(30)), []);
        lost.found(&other);
        let tried: Vec<u64> = (0..4000).filter(|&second| lost.due(at(second)) == [peer]).collect();
        assert_eq!(tried, [31, 93, 217, 465, 961]);
        assert!(lost.0.is_empty());
    }

    #[test]
    fn a_dial_that_was_not_made_is_no_try() {
        let mut lost = Lost::default();
        let (began, peer) = (Instant::now(), PeerId::random());
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        lost.note(peer, at(0));
        assert_eq!(lost.due(at(31)), [peer]);
        lost.not_tried(peer, at(31));
        let tried: Vec<u64> = (32..4000).filter(|&second| lost.due(at(second)) == [peer]).collect();
        assert_eq!(tried, [36, 98, 222, 470, 966]);
    }

    #[test]
    fn they_are_few_at_a_time_and_bounded() {
        let (mut lost, now) = (Lost::default(), Instant::now());
        for _ in 0..5000 {
            lost.note(PeerId::random(), now);
        }
        assert_eq!(lost.0.len(), MOST);
        assert_eq!(lost.due(now + FIRST).len(), AT_ONCE);
    }
}
