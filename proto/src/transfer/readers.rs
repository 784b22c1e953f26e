//! Where a transfer's readers stand, and what upstream is to bring for them first.
//!
//! Clients read a blob in one go, in several ranges at once, or a little here and a little there. Each gets its turn: the
//! one who waits longest is served first, and none waits until the others have all they want.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::{ReaderId, Transfer};

/// Who is served keeps its turn for so many bytes: each turn of upstream costs a request.
const TURN: u64 = 1024 * 1024;

#[derive(Debug)]
struct Place {
    chunk: u32,
    /// Since when it wants that one.
    since: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Readers(BTreeMap<ReaderId, Place>);

impl Readers {
    pub(super) fn at(&mut self, reader: ReaderId, chunk: u32, now: Duration) {
        let place = self.0.entry(reader).or_insert(Place { chunk, since: now });
        if place.chunk != chunk {
            *place = Place { chunk, since: now };
        }
    }

    pub(super) fn gone(&mut self, reader: ReaderId) {
        self.0.remove(&reader);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The chunk that each wants next.
    pub(super) fn chunks(&self) -> impl Iterator<Item = u32> {
        self.0.values().map(|place| place.chunk)
    }

    /// Since when each has waited for the chunk that it wants.
    pub(super) fn since(&self) -> impl Iterator<Item = Duration> {
        self.0.values().map(|place| place.since)
    }

    /// The chunks that are wanted since then or longer, each once, the one that is waited for longest first.
    pub(super) fn waiting_since(&self, then: Duration) -> Vec<u32> {
        let mut waiting: Vec<&Place> = self.0.values().filter(|place| place.since <= then).collect();
        waiting.sort_unstable_by_key(|place| (place.since, place.chunk));
        let mut seen = BTreeSet::new();
        waiting.into_iter().map(|place| place.chunk).filter(|&chunk| seen.insert(chunk)).collect()
    }

    /// Of these chunks the one that is waited for longest.
    fn longest_wait(&self, of_these: impl Fn(u32) -> bool) -> Option<u32> {
        let places = self.0.values().filter(|place| of_these(place.chunk));
        places.min_by_key(|place| (place.since, place.chunk)).map(|place| place.chunk)
    }
}

impl Transfer {
    /// The chunk that readers wait for longest of those that upstream alone can bring. When a blob is fetched once
    /// more, readers wait for the proof, and it comes in one piece.
    pub(super) fn wanted(&self) -> Option<u32> {
        self.wanted_of(|_| true)
    }

    /// The same, within a lease.
    pub(super) fn wanted_within(&self, lease: &Range<u32>) -> Option<u32> {
        self.wanted_of(|chunk| lease.contains(&chunk))
    }

    fn wanted_of(&self, of_these: impl Fn(u32) -> bool) -> Option<u32> {
        if self.round() > 0 || self.providers.any_complete() {
            return None;
        }
        self.readers.longest_wait(|chunk| of_these(chunk) && self.uncovered(chunk))
    }

    /// How many chunks a turn of upstream has.
    fn turn(&self) -> u32 {
        u32::try_from(TURN / self.layout.chunk_size()).unwrap_or(1).max(1)
    }

    /// Where a fetch that begins here is to end: with its turn, if others wait. A request that is broken off wastes what is
    /// on its way.
    pub(super) fn end_of_turn(&self, start: u32, lease: &Range<u32>) -> u32 {
        let turn = start..start.saturating_add(self.turn()).min(lease.end);
        let others =
            self.wanted_of(|chunk| !turn.contains(&chunk) && (lease.contains(&chunk) || self.is_alone()));
        if others.is_some() { turn.end } else { lease.end }
    }

    /// Whether the running fetch is to end because readers wait for what it does not bring soon.
    pub(super) fn is_overtaken(&self) -> bool {
        let (Some((got, soon)), Some(lease)) = (self.upstream.turn(self.turn()), self.member.leased()) else {
            return false;
        };
        let elsewhere =
            self.wanted_of(|chunk| !soon.contains(&chunk) && (lease.contains(&chunk) || self.may_move()));
        elsewhere.is_some()
            && (got >= self.turn() || !self.readers.chunks().any(|chunk| soon.contains(&chunk)))
    }

    /// Whether the lease is to end because readers wait for something outside of it.
    pub(super) fn leaves_lease(&self, lease: &Range<u32>) -> bool {
        self.may_move() && self.wanted().is_some_and(|chunk| !lease.contains(&chunk))
    }

    fn is_alone(&self) -> bool {
        self.providers.is_empty() && self.asking.is_empty()
    }

    /// Where others fetch too, they may be at what is waited for here: a lease is kept then, short as it is. And one that
    /// brought nothing is kept, or a home that gives no other would be asked again and again.
    fn may_move(&self) -> bool {
        self.is_alone() && self.member.lease_moved()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_longest_is_first() {
        let at = Duration::from_millis;
        let mut readers = Readers::default();
        readers.at(ReaderId(1), 7, at(0));
        readers.at(ReaderId(2), 3, at(1));
        assert_eq!(readers.longest_wait(|_| true), Some(7));
        // It asks again for the same: its wait goes on.
        readers.at(ReaderId(1), 7, at(2));
        assert_eq!(readers.longest_wait(|_| true), Some(7));
        readers.at(ReaderId(1), 8, at(3));
        assert_eq!(readers.longest_wait(|_| true), Some(3));
        assert_eq!(readers.longest_wait(|chunk| chunk > 3), Some(8));
        assert_eq!(readers.waiting_since(at(1)), [3]);
        readers.at(ReaderId(3), 3, at(5));
        assert_eq!(readers.waiting_since(at(5)), [3, 8]);
        readers.gone(ReaderId(3));
        readers.gone(ReaderId(2));
        readers.gone(ReaderId(1));
        assert!(readers.is_empty());
    }
}
