//! Peers that are not asked for a while, because of what they sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::identity::PeerId;

/// How long a first offence bars; it doubles with each that follows.
const FIRST: Duration = Duration::from_secs(30);
/// The longest a peer is barred.
const LONGEST: Duration = Duration::from_hours(1);
/// The most peers remembered; the one whose time is up soonest is forgotten first.
const MAX_REMEMBERED: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Entry {
    until: Instant,
    times: u32,
}

/// Who is barred, and until when.
///
/// A std mutex, held for a map access and never across an await: every transfer reads it, few write.
#[derive(Debug, Clone, Default)]
pub struct Barred {
    entries: Arc<Mutex<HashMap<PeerId, Entry>>>,
}

impl Barred {
    /// Bars a peer: longer each time.
    pub fn bar(&self, peer: PeerId) -> Duration {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_REMEMBERED
            && !entries.contains_key(&peer)
            && let Some(soonest) = entries.iter().min_by_key(|(_, entry)| entry.until).map(|(&peer, _)| peer)
        {
            entries.remove(&soonest);
        }
        let times = entries.get(&peer).map_or(0, |entry| entry.times);
        let time = FIRST.saturating_mul(2_u32.saturating_pow(times)).min(LONGEST);
        entries.insert(peer, Entry { until: Instant::now() + time, times: times.saturating_add(1) });
        time
    }

    /// Whether a peer is barred now.
    pub fn is_barred(&self, peer: &PeerId) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(peer).is_some_and(|entry| entry.until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_grows_and_is_bounded() {
        let barred = Barred::default();
        let peer = PeerId::random();
        assert!(!barred.is_barred(&peer));
        assert_eq!(barred.bar(peer), FIRST);
        assert!(barred.is_barred(&peer));
        assert_eq!(barred.bar(peer), FIRST * 2);
        for _ in 0..100 {
            barred.bar(peer);
        }
        assert_eq!(barred.bar(peer), LONGEST);
    }
}
