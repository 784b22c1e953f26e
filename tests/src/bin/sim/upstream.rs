//! The registry: one link that all fetches share, evenly or not. Each fetch brings its chunks in order.

use std::ops::Range;
use std::time::Duration;

use shoal_proto::transfer::{Event as Happens, FetchId};

use crate::clock::{At, Event};
use crate::dice::Dice;
use crate::fleet::Fleet;
use crate::scenario::{Scenario, millis};

/// A fetch, at the chunk that comes next.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    at: At,
    id: FetchId,
    chunks: Range<u32>,
}

impl Fleet {
    pub(crate) fn fetch_upstream(&mut self, at: At, id: FetchId, chunks: Range<u32>) {
        self.figures.upstream_requests += 1;
        self.fetches.insert((at.node, at.layer), Fetch { at, id, chunks });
        let begins = self.clock.now + millis(self.scenario.links.upstream_ms);
        self.clock.at(begins, Event::FetchNext(at, id));
    }

    fn fetch(&mut self, at: At, id: FetchId) -> Option<&mut Fetch> {
        self.fetches.get_mut(&(at.node, at.layer)).filter(|fetch| fetch.id == id)
    }

    pub(crate) fn stop_upstream(&mut self, at: At, id: FetchId) {
        if self.fetch(at, id).is_none() {
            return;
        }
        self.fetches.remove(&(at.node, at.layer));
        let stopped = self.upstream.stop(self.clock.now, |fetch| fetch.at == at && fetch.id == id);
        for (lacks, fetch) in stopped {
            // What came of the chunk that was under way came in vain.
            let bytes = self.layer(at).bytes_of(fetch.chunks.start);
            let now = self.clock.now;
            self.figures.upstream_sent((bytes - lacks).max(0.0), now);
        }
        self.watch_upstream();
    }

    /// Ends a dead node's fetches.
    pub(crate) fn drop_fetches(&mut self, node: u32) {
        for layer in 0..u8::try_from(self.layers.len()).unwrap_or(u8::MAX) {
            if let Some(fetch) = self.fetches.get(&(node, layer)).cloned() {
                self.stop_upstream(fetch.at, fetch.id);
            }
        }
    }

    pub(crate) fn fetch_next(&mut self, at: At, id: FetchId) {
        let now = self.clock.now;
        let Some(fetch) = self.fetch(at, id).cloned() else { return };
        let bytes = self.layer(at).bytes_of(fetch.chunks.start);
        self.upstream.begin_weighted(bytes, self.weight(at), fetch, now);
        self.watch_upstream();
    }

    /// How much of the link this connection gets: the same for all that a node fetches of a layer.
    fn weight(&self, at: At) -> f64 {
        let connection = u64::from(at.node) << 8 | u64::from(at.layer);
        let share = Dice::new(self.scenario.seed ^ connection.rotate_left(32)).fraction();
        self.scenario.links.upstream_uneven.powf(share)
    }

    fn watch_upstream(&mut self) {
        if let Some(due) = self.upstream.watch() {
            self.clock.at(due, Event::Upstream);
        }
    }

    pub(crate) fn upstream_sent(&mut self) {
        let now = self.clock.now;
        self.upstream.looked(now);
        while let Some(Fetch { at, id, chunks }) = self.upstream.ended(now) {
            let chunk = chunks.start;
            let bytes = self.layer(at).bytes_of(chunk);
            self.figures.upstream_sent(bytes, now);
            let there = self.received(at.node, bytes, now);
            self.clock.at(there, Event::Fetched(at, id, chunk));
            let Some(fetch) = self.fetch(at, id) else { continue };
            fetch.chunks.start += 1;
            if !fetch.chunks.is_empty() {
                // A downlink that is behind slows its fetch: at most one chunk waits for it.
                let takes = bytes / Scenario::carries(self.scenario.links.down_mbit);
                let next = there.saturating_sub(Duration::from_secs_f64(takes)).max(now);
                if next == now {
                    self.fetch_next(at, id);
                } else {
                    self.clock.at(next, Event::FetchNext(at, id));
                }
            }
        }
        self.watch_upstream();
    }

    pub(crate) fn fetched(&mut self, at: At, id: FetchId, chunk: u32) {
        let Some(fetch) = self.fetch(at, id) else { return };
        let is_last = fetch.chunks.is_empty() && chunk + 1 == fetch.chunks.end;
        self.feed(at, Happens::UpstreamChunk(id, chunk));
        self.after_chunk(at);
        if is_last && self.fetch(at, id).is_some() {
            self.fetches.remove(&(at.node, at.layer));
            self.feed(at, Happens::UpstreamEnded(id, Ok(())));
        }
    }
}
