//! Virtual time: what happens next.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use shoal_proto::transfer::{FetchId, ReportId, RequestId};

/// A blob of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) node: u32,
    pub(crate) layer: u8,
}

/// A chunk asked of a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Who asks, and for which blob.
    pub(crate) by: At,
    /// Of whom.
    pub(crate) of: u32,
    pub(crate) chunk: u32,
    pub(crate) id: RequestId,
}

/// Something that happens. Small, since millions wait: what is large lies in a table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// A client begins to pull.
    Begin(u32),
    /// A transfer's timer.
    Wake(At),
    /// A keeper's timer.
    HomeWake(u32),
    /// A control message arrives.
    Letter(u32),
    /// It did not arrive, or no answer came, and the sender has waited long enough.
    Undelivered(u32),
    /// A home has had its time to answer.
    ReportDue(At, ReportId),
    /// A follower is told the news.
    News(At, u32),
    /// Followers of this blob may have waited long enough.
    NewsDue(At),
    /// Half of a search's time is over.
    SearchHalf(At, u32),
    /// A search ends.
    SearchEnd(At, u32),
    /// A chunk request arrives.
    Serve(Wanted),
    /// A node's uplink may have sent a chunk whole.
    Uplink(u32),
    /// A chunk is there.
    Chunk(Wanted),
    /// The sender of a chunk hears that it is there.
    Received(Wanted),
    /// The peer is busy.
    Busy(Wanted),
    /// The peer has just sent it to others.
    Sent(Wanted),
    /// The peer does not have it.
    Missing(Wanted),
    /// The peer is gone.
    Gone(Wanted),
    /// The registry's link may have sent a chunk whole.
    Upstream,
    /// A fetch begins its next chunk.
    FetchNext(At, FetchId),
    /// A chunk from upstream is there.
    Fetched(At, FetchId, u32),
    /// A layer's digest is proven.
    Proven(At),
    /// A node dies.
    Dies(u32),
    /// Those connected to it know.
    Known(u32),
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    turn: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.turn == other.turn
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest; what was said first comes first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.turn).cmp(&(self.at, self.turn))
    }
}

/// The queue of what happens.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    entries: BinaryHeap<Entry>,
    turn: u64,
    pub(crate) now: Duration,
}

impl Clock {
    /// Has this happen, not before now.
    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.turn += 1;
        self.entries.push(Entry { at: at.max(self.now), turn: self.turn, event });
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        let entry = self.entries.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }

    /// How many events there have been.
    pub(crate) fn events(&self) -> u64 {
        self.turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_ties_keep_their_order() {
        let mut clock = Clock::default();
        for (ms, node) in [(5, 0), (1, 1), (5, 2), (0, 3)] {
            clock.at(Duration::from_millis(ms), Event::Begin(node));
        }
        let order: Vec<u32> = std::iter::from_fn(|| clock.next())
            .map(|event| if let Event::Begin(node) = event { node } else { u32::MAX })
            .collect();
        assert_eq!(order, [3, 1, 0, 2]);
        assert_eq!(clock.now, Duration::from_millis(5));
    }
}
