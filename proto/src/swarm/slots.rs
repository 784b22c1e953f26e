//! Upload slots: how many chunks a node sends at once. A few more askers wait in line; one more is told "busy", and
//! goes elsewhere.
//!
//! Uploads share a link. Too many at once all end late: while a chunk is under way to thirty nodes none of them can
//! pass it on, and a swarm grows by whole chunks. Too few leave a fast link idle for the round trip between two of
//! them. So what is bounded is the time that an upload takes: it is what the next node waits for.
//!
//! An upload is over when the asker says that it has the chunk. That it is written says little: queues on the way take
//! half a megabyte for each connection at once. So the time is long, for the asker's link is in it, where other chunks
//! may come first; and several uploads are always under way.
//!
//! The line is short, so that nobody waits longer than a chunk takes elsewhere, but it is there: asked for at once or
//! never, in a fleet in which everybody is busy most requests are refused, and who is out of luck starves.
//!
//! A chunk that came from upstream to this node alone is asked for by all at once, and sent to each from here it
//! would reach the last of them after as many times its own time; meanwhile those who got it first have nothing to
//! do. So while slots are scarce, they are for what this node has not sent yet: the others are told who could have it
//! by now, and wait in no line for it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::digest::Digest;
use crate::wire::Refusal;

/// So many are sent at once before it is known how long that takes.
const FIRST: usize = 12;
/// Even the slowest link sends so many at once.
const LEAST: usize = 3;
/// Uploads that take longer than this are too many, if they are more than [`FIRST`].
const SLOW: Duration = Duration::from_millis(400);
/// Uploads that take longer than this are too many even so: large chunks on a slow link.
const TOO_SLOW: Duration = Duration::from_millis(1500);
/// Uploads that take less than this leave room for more than [`FIRST`].
const FAST: Duration = Duration::from_millis(200);

/// So many askers may wait for each slot.
const LINE: usize = 1;
/// So many uploads are remembered.
const REMEMBERED: usize = 256;
/// For each copy of a chunk that was sent lately, one of so many parts of the slots is kept free from the next copy, up
/// to half of them: kept from the last ones to ask, whole slots would idle while those wait.
const PARTS: usize = 8;

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

/// Numbers one who waits in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What becomes of one who asks and is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// A slot is taken.
    Now,
    /// A slot is taken once [`Slots::admit`] says so.
    Wait(Ticket),
}

/// The slots of one node.
#[derive(Debug, Clone)]
pub struct Slots {
    used: usize,
    /// So many of them began when more were allowed than are now: how long they take says nothing of that.
    older: usize,
    limit: usize,
    most: usize,
    /// What was sent lately or is about to be, the oldest first.
    sent: VecDeque<ChunkKey>,
    /// Who waits, the first first.
    line: VecDeque<(Ticket, ChunkKey)>,
    next_ticket: u64,
}

impl Slots {
    /// At most `most` at once, whatever the link.
    pub fn new(most: usize) -> Self {
        Self {
            used: 0,
            older: 0,
            limit: FIRST.min(most),
            most,
            sent: VecDeque::with_capacity(REMEMBERED),
            line: VecDeque::new(),
            next_ticket: 0,
        }
    }

    /// Takes a slot for this chunk, or a place in line. What is taken is given back by [`Slots::release`], a place in
    /// line by [`Slots::leave`].
    ///
    /// # Errors
    /// [`Refusal::Busy`] if the line is full, [`Refusal::Sent`] if there is no room for what was just sent to others.
    pub fn ask(&mut self, chunk: ChunkKey) -> Result<Admission, Refusal> {
        let places = self.limit * (1 + LINE);
        let taken = self.used + self.line.len();
        if taken >= places {
            return Err(Refusal::Busy);
        }
        let copies = self.sent.iter().filter(|&&sent| sent == chunk).count();
        let kept_free = self.limit * copies.min(PARTS / 2) / PARTS;
        if copies > 0 && self.used + kept_free >= self.limit {
            return Err(Refusal::Sent);
        }
        if self.sent.len() >= REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back(chunk);
        if self.used < self.limit {
            self.used += 1;
            return Ok(Admission::Now);
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.line.push_back((ticket, chunk));
        Ok(Admission::Wait(ticket))
    }

    /// An upload of this chunk is over. `took` is how long it took, if it came to its end. Then [`Slots::admit`] says
    /// who is next.
    pub fn release(&mut self, chunk: ChunkKey, took: Option<Duration>) {
        if took.is_none() {
            self.forget(chunk);
        }
        // Only uploads beside as many as allowed say whether more could be.
        let full = self.used >= self.limit;
        self.used = self.used.saturating_sub(1);
        let is_old = self.older > 0;
        self.older = self.older.saturating_sub(1);
        // Twice as many at once take twice as long: what takes half of what is too long has room.
        let fast = if self.limit < FIRST { TOO_SLOW / 2 } else { FAST };
        match took {
            _ if is_old => {}
            Some(took) if took > TOO_SLOW && self.limit > LEAST || took > SLOW && self.limit > FIRST => {
                self.limit -= 1;
                self.older = self.used;
            }
            Some(took) if took < fast && full => self.limit = (self.limit + 1).min(self.most),
            _ => {}
        }
    }

    /// Gives a free slot to who is next in line.
    pub fn admit(&mut self) -> Option<Ticket> {
        if self.used >= self.limit {
            return None;
        }
        let (ticket, _) = self.line.pop_front()?;
        self.used += 1;
        Some(ticket)
    }

    /// Whoever waits gives up; says whether it had still been waiting, and not got its slot meanwhile.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let place = self.line.iter().position(|&(waiting, _)| waiting == ticket);
        let left = place.and_then(|place| self.line.remove(place));
        if let Some((_, chunk)) = left {
            self.forget(chunk);
        }
        left.is_some()
    }

    /// A copy that was counted was not sent.
    fn forget(&mut self, chunk: ChunkKey) {
        if let Some(place) = self.sent.iter().rposition(|&sent| sent == chunk) {
            self.sent.remove(place);
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

    /// The limit after many uploads over a link that sends one chunk in so many milliseconds, from such a limit on.
    fn settled(first: usize, chunk_ms: u64) -> usize {
        let mut slots = Slots { limit: first, ..Slots::new(32) };
        for _ in 0..500 {
            while slots.ask(fresh()).is_ok() {}
            slots.release(fresh(), Some(Duration::from_millis(chunk_ms * slots.limit() as u64)));
            while slots.admit().is_some() {}
        }
        slots.limit()
    }

    #[test]
    fn slow_links_send_few_at_once_and_fast_ones_many() {
        for (chunk_ms, limit) in [(840, 3), (300, 5), (55, 12), (11, 19), (3, 32)] {
            assert_eq!(settled(FIRST, chunk_ms), limit, "{chunk_ms} ms");
        }
        assert_eq!(settled(32, 55), FIRST, "it was faster before");
        assert_eq!(settled(LEAST, 55), FIRST, "it was slower before");
    }

    #[test]
    fn what_was_sent_yields_to_what_was_not() {
        let mut slots = Slots { limit: 8, ..Slots::new(32) };
        let chunk = fresh();
        let copies = (0..8).take_while(|_| slots.ask(chunk).is_ok()).count();
        assert_eq!(copies, 4, "the fourth copy leaves half of the slots, and they are kept for others");
        assert_eq!(slots.ask(chunk), Err(Refusal::Sent));
        for _ in copies..8 {
            assert_eq!(slots.ask(fresh()), Ok(Admission::Now));
        }
        for _ in 0..8 {
            slots.release(fresh(), None);
        }
        // Nobody else waits: as many as are wanted, one after the other.
        for _ in 0..8 {
            assert_eq!(slots.ask(chunk), Ok(Admission::Now));
            slots.release(chunk, Some(SLOW));
        }
    }

    #[test]
    fn copies_wait_in_no_line() {
        let mut slots = Slots::new(3);
        let chunks = [fresh(), fresh(), fresh()];
        assert_eq!(chunks.map(|chunk| slots.ask(chunk)), [Ok(Admission::Now); 3]);
        assert_eq!(slots.ask(chunks[0]), Err(Refusal::Sent));
        assert!(matches!(slots.ask(fresh()), Ok(Admission::Wait(_))));
    }

    #[test]
    fn what_was_not_sent_after_all_does_not_count() {
        let mut slots = Slots::new(3);
        let (chunk, other) = (fresh(), fresh());
        for _ in 0..3 {
            assert_eq!(slots.ask(chunk), Ok(Admission::Now));
            slots.release(chunk, None);
        }
        assert_eq!(slots.ask(other), Ok(Admission::Now));
        assert_eq!(slots.ask(chunk), Ok(Admission::Now), "nobody has got it yet");
    }

    #[test]
    fn a_line_is_served_in_order_and_is_short() {
        let mut slots = Slots::new(3);
        let asked: Vec<_> = (0..10).map(|_| slots.ask(fresh())).collect();
        assert_eq!(asked[..3], [Ok(Admission::Now); 3]);
        assert_eq!(asked[3..6], [0, 1, 2].map(|n| Ok(Admission::Wait(Ticket(n)))));
        assert_eq!(asked[6], Err(Refusal::Busy));
        assert_eq!(slots.admit(), None);
        assert!(slots.leave(Ticket(1)), "it waits");
        slots.release(fresh(), None);
        slots.release(fresh(), None);
        assert_eq!([slots.admit(), slots.admit(), slots.admit()], [Some(Ticket(0)), Some(Ticket(2)), None]);
        assert!(!slots.leave(Ticket(0)), "it has its slot");
    }

    proptest! {
        /// Never more than allowed are served or wait, and everyone who waits is served.
        #[test]
        fn slots_are_bounded(
            most in 1..40_usize,
            steps in prop::collection::vec((0..4_u8, 0..400_u32), 1..300),
        ) {
            let mut slots = Slots::new(most);
            let (mut served, mut waiting) = (0_usize, Vec::new());
            for (step, number) in steps {
                match step {
                    0 | 1 => match slots.ask(ChunkKey(u64::from(number) % 5)) {
                        Ok(Admission::Now) => served += 1,
                        Ok(Admission::Wait(ticket)) => waiting.push(ticket),
                        Err(_) => {}
                    },
                    2 if served > 0 => {
                        served -= 1;
                        slots.release(ChunkKey(u64::from(number) % 5), Some(Duration::from_millis(u64::from(number))));
                        while let Some(ticket) = slots.admit() {
                            prop_assert_eq!(waiting.remove(0), ticket);
                            served += 1;
                        }
                    }
                    3 if !waiting.is_empty() => {
                        let ticket = waiting.remove(number as usize % waiting.len());
                        prop_assert!(slots.leave(ticket) && !slots.leave(ticket));
                    }
                    _ => {}
                }
                prop_assert!(served <= most && slots.limit() <= most && slots.limit() > 0);
                prop_assert!(waiting.len() <= most * LINE);
            }
            while served > 0 {
                served -= 1;
                slots.release(ChunkKey(0), None);
                while let Some(ticket) = slots.admit() {
                    prop_assert_eq!(waiting.remove(0), ticket);
                    served += 1;
                }
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
