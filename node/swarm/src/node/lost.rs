//! Peers that were connected and are lost: looked for again, or two halves of a fleet that fell apart would know each
//! other only by their bootstrap addresses for minutes, and a node that was frozen would go on alone.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// When a peer that did not answer any more is first dialled again. The wait doubles with each try.
const FIRST: Duration = Duration::from_secs(10);
/// When a peer is tried again that could not even be dialled: too much else is being dialled.
const SOON: Duration = Duration::from_secs(5);
/// A connection that lasted so long makes up for earlier losses: one that comes and goes is not dialled at once each time.
const CALM: Duration = Duration::from_mins(1);
/// How long a connection lasts at least with a peer that wants it: one that closes it sooner has no room, perhaps.
const STEADY: Duration = Duration::from_secs(5);
/// So many tries behind is where a peer begins that may have no room.
const NO_ROOM: u32 = 2;
/// A node that does not answer so often is gone for good, or will find this one.
const TRIES: u32 = 7;
/// The most that are looked for.
const MOST: usize = 4096;
/// The most that are dialled at a time.
const AT_ONCE: usize = 16;

/// How the last connection to a peer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The peer did not answer, and this node closed it.
    Silent,
    /// Not by this node: the peer took this one for dead, stops, or restarts, or the network broke it. It may well be up.
    ByPeer,
}

#[derive(Debug, Clone, Copy)]
struct Search {
    /// When it is dialled next; never, while it is connected.
    at: Option<Instant>,
    tries: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lost(HashMap<PeerId, Search>);

impl Lost {
    /// The last connection to this peer is gone, after so long.
    pub(super) fn note(&mut self, peer: PeerId, ended: Ended, lasted: Duration, now: Instant) {
        if self.0.len() >= MOST && !self.0.contains_key(&peer) {
            return;
        }
        let search = self.0.entry(peer).or_insert(Search { at: None, tries: 0 });
        if lasted >= CALM {
            search.tries = 0;
        }
        search.tries = match ended {
            Ended::ByPeer if lasted < STEADY => search.tries.max(NO_ROOM),
            Ended::ByPeer => search.tries,
            Ended::Silent => search.tries.max(1),
        };
        search.at = Some(now + wait(search.tries));
    }

    /// It is back.
    pub(super) fn found(&mut self, peer: &PeerId) {
        if let Some(search) = self.0.get_mut(peer) {
            search.at = None;
        }
    }

    /// A peer that was due could not be dialled: it counts as no try.
    pub(super) fn not_tried(&mut self, peer: PeerId, now: Instant) {
        if let Some(search) = self.0.get_mut(&peer) {
            search.tries = search.tries.saturating_sub(1);
            search.at = Some(now + SOON);
        }
    }

    /// Whom to dial now, whether or not they were found dead a moment ago (see `denial`).
    pub(super) fn due(&mut self, now: Instant) -> Vec<PeerId> {
        self.0.retain(|_, search| search.tries < TRIES);
        let due = self.0.iter_mut().filter(|(_, search)| search.at.is_some_and(|at| at <= now)).take(AT_ONCE);
        due.map(|(&peer, search)| {
            search.tries += 1;
            search.at = Some(now + wait(search.tries));
            peer
        })
        .collect()
    }
}

/// How long to wait after so many tries.
fn wait(tries: u32) -> Duration {
    tries.checked_sub(1).map_or(Duration::ZERO, |doublings| FIRST * 2_u32.saturating_pow(doublings))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    /// In which seconds this one peer is dialled.
    fn tried(lost: &mut Lost, peer: PeerId, began: Instant, seconds: std::ops::Range<u64>) -> Vec<u64> {
        seconds.filter(|&second| lost.due(began + Duration::from_secs(second)) == [peer]).collect()
    }

    #[test]
    fn lost_peers_are_looked_for_less_and_less_and_then_no_more() {
        let (began, peer, other) = (Instant::now(), PeerId::random(), PeerId::random());
        let mut lost = Lost::default();
        lost.note(peer, Ended::Silent, LONG, began);
        lost.note(other, Ended::Silent, LONG, began);
        lost.found(&other);
        assert_eq!(tried(&mut lost, peer, began, 0..4000), [10, 30, 70, 150, 310, 630]);
        assert!(!lost.0.contains_key(&peer));
    }

    #[test]
    fn who_closed_a_connection_is_dialled_at_once_unless_it_never_wanted_it() {
        let (began, peer, other) = (Instant::now(), PeerId::random(), PeerId::random());
        let mut lost = Lost::default();
        lost.note(peer, Ended::ByPeer, STEADY, began);
        assert_eq!(tried(&mut lost, peer, began, 0..100), [0, 10, 30, 70]);
        let mut lost = Lost::default();
        lost.note(other, Ended::ByPeer, Duration::ZERO, began);
        assert_eq!(tried(&mut lost, other, began, 0..100), [20, 60]);
    }

    #[test]
    fn who_comes_and_goes_is_dialled_less_and_less_until_it_stays() {
        let (began, peer) = (Instant::now(), PeerId::random());
        let mut lost = Lost::default();
        let mut waits = Vec::new();
        let mut now = began;
        for lasted in [6, 6, 6, 60, 6] {
            lost.note(peer, Ended::ByPeer, Duration::from_secs(lasted), now);
            let waited = (0..1000).find(|&s| lost.due(now + Duration::from_secs(s)) == [peer]).unwrap();
            waits.push(waited);
            lost.found(&peer);
            now += Duration::from_secs(waited + lasted);
        }
        assert_eq!(waits, [0, 10, 20, 0, 10]);
    }

    #[test]
    fn a_dial_that_was_not_made_is_no_try() {
        let (began, peer) = (Instant::now(), PeerId::random());
        let mut lost = Lost::default();
        lost.note(peer, Ended::Silent, LONG, began);
        assert_eq!(tried(&mut lost, peer, began, 0..11), [10]);
        lost.not_tried(peer, began + Duration::from_secs(10));
        assert_eq!(tried(&mut lost, peer, began, 11..100), [15, 35, 75]);
    }

    #[test]
    fn they_are_few_at_a_time_and_bounded() {
        let (mut lost, now) = (Lost::default(), Instant::now());
        for _ in 0..5000 {
            lost.note(PeerId::random(), Ended::Silent, LONG, now);
        }
        assert_eq!(lost.0.len(), MOST);
        assert_eq!(lost.due(now + FIRST).len(), AT_ONCE);
    }
}
