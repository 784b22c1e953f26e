//! Upload slots: how many chunks a node sends at once. One more asker is told "busy", and goes elsewhere.
//!
//! Uploads share a link. Too many at once all end late: while a chunk is under way to thirty nodes none of them can pass
//! it on, and a swarm grows by whole chunks. Too few leave a fast link idle for the round trip between two of them. So
//! what is bounded is the time that an upload takes: it is what the next node waits for.

//!
//! A chunk that came from upstream to this node alone is asked for by all at once, and sent to each from here it would
//! reach the last of them after as many times its own time; meanwhile those who got it first have nothing to do. So while
//! slots are scarce, they are for what this node has not sent yet: the others are told who could have it by now.

use std::collections::VecDeque;
use std::time::Duration;

use crate::digest::Digest;
use crate::wire::Refusal;

/// Even the slowest link sends so many at once.
const LEAST: usize = 3;
/// Uploads that take longer than this are too many.
const SLOW: Duration = Duration::from_millis(150);
/// Uploads that take less than this leave room for more.
const FAST: Duration = Duration::from_millis(75);

/// So many uploads are remembered.
const REMEMBERED: usize = 256;
/// Each copy of a chunk that was sent lately takes so many of this many parts of the slots from the next one.
const PARTS: usize = 4;

/// Which chunk of which blob, well enough to tell it from the few sent lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkKey(u64);

impl ChunkKey {
    /// Of this chunk.
    pub fn of(digest: &Digest, chunk: u32) -> Self {
        let first = digest.raw().first_chunk().copied().unwrap_or_default();
        Self(u64::from_le_bytes(first).wrapping_add(u64::from(chunk)))
    }
}

/// The slots of one node.
#[derive(Debug, Clone)]
pub struct Slots {
    used: usize,
    limit: usize,
    most: usize,
    /// What was sent lately, the oldest first.
    sent: VecDeque<ChunkKey>,
}

impl Slots {
    /// At most `most` at once, whatever the link.
    pub fn new(most: usize) -> Self {
        Self { used: 0, limit: LEAST.min(most), most, sent: VecDeque::with_capacity(REMEMBERED) }
    }

    /// Takes a slot for this chunk, if one is free for it. What is taken is given back by [`Slots::release`].
    ///
    /// # Errors
    /// [`Refusal::Busy`] if no slot is free, [`Refusal::Sent`] if none is free for what was just sent to others.
    pub fn take(&mut self, chunk: ChunkKey) -> Result<(), Refusal> {
        if self.used >= self.limit {
            return Err(Refusal::Busy);
        }
        let copies = self.sent.iter().filter(|&&sent| sent == chunk).count();
        let kept_free = self.limit * copies.min(PARTS - 1) / PARTS;
        if self.used > 0 && self.used + kept_free >= self.limit {
            return Err(Refusal::Sent);
        }
        self.used += 1;
        if self.sent.len() >= REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back(chunk);
        Ok(())
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
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use proptest::prelude::*;

    /// A chunk that nobody got yet.
    fn fresh() -> ChunkKey {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        ChunkKey(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The limit after many uploads over a link that sends one chunk in so many milliseconds.
    fn settled(chunk_ms: u64) -> usize {
        let mut slots = Slots::new(32);
        for _ in 0..500 {
            while slots.take(fresh()).is_ok() {}
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

    #[test]
    fn what_was_sent_yields_to_what_was_not() {
        let mut slots = Slots { limit: 8, ..Slots::new(32) };
        let chunk = fresh();
        let copies = (0..8).take_while(|_| slots.take(chunk).is_ok()).count();
        assert_eq!(
            copies, 3,
            "the third copy leaves half of the slots, the fourth would leave a quarter of them"
        );
        assert_eq!(slots.take(chunk), Err(Refusal::Sent));
        for _ in copies..8 {
            assert_eq!(slots.take(fresh()), Ok(()));
        }
        assert_eq!(slots.take(fresh()), Err(Refusal::Busy));
        for _ in 0..8 {
            slots.release(None);
        }
        // Nobody else waits: as many as are wanted, one after the other.
        for _ in 0..8 {
            assert_eq!(slots.take(chunk), Ok(()));
            slots.release(None);
        }
    }

    proptest! {
        /// Never more than allowed, and what is given back can be taken again.
        #[test]
        fn slots_are_bounded(most in 1..40_usize, steps in prop::collection::vec(prop::option::of(0..400_u64), 1..300)) {
            let mut slots = Slots::new(most);
            let mut taken = 0_usize;
            for step in steps {
                match step {
                    None => taken += usize::from(slots.take(ChunkKey(taken as u64 % 3)).is_ok()),
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
            prop_assert!(slots.take(ChunkKey(0)).is_ok());
        }
    }
}
