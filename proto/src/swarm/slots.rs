//! Upload slots: how many chunks a node sends at once. One more asker is told "busy", and goes elsewhere.
//!
//! Uploads share a link. Too many at once all end late: while a chunk is under way to thirty nodes none of them can pass
//! it on, and a swarm grows by whole chunks. Too few leave a fast link idle for the round trip between two of them. So
//! what is bounded is the time that an upload takes: it is what the next node waits for.

use std::time::Duration;

/// Even the slowest link sends so many at once.
const LEAST: usize = 3;
/// Uploads that take longer than this are too many.
const SLOW: Duration = Duration::from_millis(150);
/// Uploads that take less than this leave room for more.
const FAST: Duration = Duration::from_millis(75);

/// The slots of one node.
#[derive(Debug, Clone, Copy)]
pub struct Slots {
    used: usize,
    limit: usize,
    most: usize,
}

impl Slots {
    /// At most `most` at once, whatever the link.
    pub fn new(most: usize) -> Self {
        Self { used: 0, limit: LEAST.min(most), most }
    }

    /// Takes a slot, if one is free. What is taken is given back by [`Slots::release`].
    pub fn take(&mut self) -> bool {
        let free = self.used < self.limit;
        self.used += usize::from(free);
        free
    }

    /// An upload is over. `took` is how long it took, if it came to its end.
    pub fn release(&mut self, took: Option<Duration>) {
        // Only uploads beside as many as allowed say whether more could be.
        let full = self.used >= self.limit;
        self.used = self.used.saturating_sub(1);
        match took {
            Some(took) if took > SLOW => self.limit = (self.limit - 1).max(LEAST.min(self.most)),
            Some(took) if took < FAST && full => self.limit = (self.limit + 1).min(self.most),
            _ => {}
        }
    }

    /// How many may be taken.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The limit after many uploads over a link that sends one chunk in so many milliseconds.
    fn settled(chunk_ms: u64) -> usize {
        let mut slots = Slots::new(32);
        for _ in 0..500 {
            while slots.take() {}
            slots.release(Some(Duration::from_millis(chunk_ms * slots.limit() as u64)));
        }
        slots.limit()
    }

    #[test]
    fn slow_links_send_few_at_once_and_fast_ones_many() {
        assert_eq!(settled(55), 3);
        assert!((7..=14).contains(&settled(11)), "{}", settled(11));
        assert!(settled(3) > 20, "{}", settled(3));
        assert_eq!(settled(1), 32);
    }

    proptest! {
        /// Never more than allowed, and what is given back can be taken again.
        #[test]
        fn slots_are_bounded(most in 1..40_usize, steps in prop::collection::vec(prop::option::of(0..400_u64), 1..300)) {
            let mut slots = Slots::new(most);
            let mut taken = 0_usize;
            for step in steps {
                match step {
                    None => taken += usize::from(slots.take()),
                    Some(ms) if taken > 0 => {
                        taken -= 1;
                        slots.release(Some(Duration::from_millis(ms)));
                    }
                    Some(_) => {}
                }
                prop_assert!(taken <= most && slots.limit() <= most && slots.limit() > 0);
            }
            for _ in 0..taken {
                slots.release(None);
            }
            prop_assert!(slots.take());
        }
    }
}
