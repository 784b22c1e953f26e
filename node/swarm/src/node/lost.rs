//! Peers that were connected and are lost: looked for again, or two halves of a fleet that fell apart would know each
//! other only by their bootstrap addresses for minutes, and a node that was frozen would go on alone.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// When a peer that did not answer any more is first dialled again. The wait doubles with each try.
const FIRST: Duration = Duration::from_secs(10);
/// How long a connection lasts at least with a peer that wants it: one that closes it sooner has no room, perhaps.
const STEADY: Duration = Duration::from_secs(5);
/// When such a peer is dialled again.
const UNWANTED: Duration = Duration::from_secs(30);
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
    /// Not by this node: the peer took this one for dead, stops, or restarts. It may well be up.
    ByPeer {
        /// How long it lasted.
        lasted: Duration,
    },
}

impl Ended {
    fn wait(self) -> Duration {
        match self {
            Self::Silent => FIRST,
            Self::ByPeer { lasted } if lasted < STEADY => UNWANTED,
            Self::ByPeer { .. } => Duration::ZERO,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lost(HashMap<PeerId, (Instant, u32)>);

impl Lost {
    /// The last connection to this peer is gone.
    pub(super) fn note(&mut self, peer: PeerId, ended: Ended, now: Instant) {
        if self.0.len() < MOST {
            self.0.entry(peer).or_insert_with(|| (now + ended.wait(), 0));
        }
    }

    /// It is back.
    pub(super) fn found(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// Whom to dial now, whether or not they were found dead a moment ago (see `denial`).
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
        lost.note(peer, Ended::Silent, at(0));
        lost.note(other, Ended::Silent, at(0));
        assert_eq!(lost.due(at(9)), []);
        lost.found(&other);
        let tried: Vec<u64> = (0..4000).filter(|&second| lost.due(at(second)) == [peer]).collect();
        assert_eq!(tried, [10, 30, 70, 150, 310, 630, 1270]);
        assert!(lost.0.is_empty());
    }

    #[test]
    fn who_closed_a_connection_is_dialled_at_once_unless_it_never_wanted_it() {
        let mut lost = Lost::default();
        let (began, peer, other) = (Instant::now(), PeerId::random(), PeerId::random());
        lost.note(peer, Ended::ByPeer { lasted: STEADY }, began);
        lost.note(other, Ended::ByPeer { lasted: Duration::ZERO }, began);
        assert_eq!(lost.due(began), [peer]);
        lost.found(&peer);
        assert_eq!(lost.due(began + UNWANTED / 2), []);
        assert_eq!(lost.due(began + UNWANTED), [other]);
    }

    #[test]
    fn they_are_few_at_a_time_and_bounded() {
        let (mut lost, now) = (Lost::default(), Instant::now());
        for _ in 0..5000 {
            lost.note(PeerId::random(), Ended::Silent, now);
        }
        assert_eq!(lost.0.len(), MOST);
        assert_eq!(lost.due(now + FIRST).len(), AT_ONCE);
    }
}
