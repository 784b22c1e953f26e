//! Which chunk is asked of which peer next.

use std::time::Duration;

use libp2p_identity::PeerId;

use super::providers::untaken;
use super::starving::MOST_ASKED;
use super::{Action, Transfer};

/// Of the chunks that a reader waits for soon, so many are asked for before all others, where others fetch the blob
/// too.
const URGENT: usize = 2;

impl Transfer {
    /// Gives every peer with room the chunks that are best asked of it.
    pub(super) fn assign(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let chunk_size = self.layout.chunk_size();
        let most = usize::try_from(self.options.max_in_flight / chunk_size).unwrap_or(usize::MAX).max(2);
        let most = self.feed_starving(now, actions).map_or(most, |few| few.min(most));
        while self.asked.len() < most {
            // Who is near goes first, then who would bring one more chunk soonest.
            let mut peers: Vec<(bool, Duration, PeerId)> = self
                .providers
                .iter()
                .filter(|(_, provider)| provider.room(chunk_size, now) > 0)
                .map(|(&peer, provider)| {
                    (!self.providers.is_near(&peer), provider.expected(chunk_size), peer)
                })
                .collect();
            peers.sort_unstable();
            let choice =
                peers.into_iter().find_map(|(_, _, peer)| self.pick(peer, now).map(|chunk| (peer, chunk)));
            let Some((peer, chunk)) = choice else { return };
            self.ask(peer, chunk, now, actions);
        }
    }

    /// The chunk to ask of this peer next, if it has any of use.
    fn pick(&self, peer: PeerId, now: Duration) -> Option<u32> {
        let provider = self.providers.get(&peer)?;
        let free = |chunk: u32| !self.upstream.will_bring(chunk) && provider.offers(chunk, now);
        self.pick_for_readers(|chunk| !self.taken.contains(chunk as usize) && free(chunk))
            .or_else(|| {
                if self.providers.any_partial() {
                    self.rarest(
                        untaken(provider, &self.taken, self.first_missing).filter(|&chunk| free(chunk)),
                    )
                } else {
                    // Readers move the window; behind it, what they want soonest.
                    let start = self.readers.chunks().min().unwrap_or(0).max(self.first_missing);
                    let ahead = untaken(provider, &self.taken, start);
                    ahead.chain(untaken(provider, &self.taken, self.first_missing)).find(|&chunk| free(chunk))
                }
            })
            .or_else(|| {
                self.upstream
                    .last_to_bring()
                    .filter(|&chunk| !self.flights.contains_key(&chunk) && self.can_give(peer, chunk, now))
            })
            .or_else(|| self.overdue(peer, now))
    }

    /// Within the window ahead of a reader: in order where everybody has everything. Else there are others who fetch
    /// it, whose readers stand at the same place: in order all would ask the one who has the next chunk for it, and
    /// have nothing to give each other. And only a few at a time: a window holds less than a link carries until peers
    /// have heard of a chunk.
    fn pick_for_readers(&self, free: impl Fn(u32) -> bool) -> Option<u32> {
        let end = |start: u32| start.saturating_add(self.options.window).min(self.layout.count());
        let window = |start: u32| (start..end(start)).filter(|&chunk| free(chunk));
        if !self.providers.any_partial() {
            return self.readers.chunks().filter_map(|start| window(start).next()).min();
        }
        let has_enough = |start: u32| self.flights.range(start..end(start)).count() >= URGENT;
        let mut waiting = self.readers.chunks().filter(|&start| !has_enough(start));
        waiting.find_map(|start| self.rarest(window(start)))
    }

    /// The chunk that fewest peers have, ties broken at random but the same way each time on this node.
    fn rarest(&self, free: impl Iterator<Item = u32>) -> Option<u32> {
        free.min_by_key(|&chunk| (self.providers.holders(chunk), mix(self.options.seed, chunk)))
    }

    /// A chunk whose every request takes longer than was promised, and that this peer was not asked for.
    fn overdue(&self, peer: PeerId, now: Duration) -> Option<u32> {
        self.flights
            .iter()
            .find(|&(&chunk, requests)| {
                requests.len() < MOST_ASKED
                    && self.under_way(requests).all(|asked| asked.overdue <= now && asked.peer != peer)
                    && self.can_give(peer, chunk, now)
            })
            .map(|(&chunk, _)| chunk)
    }

    fn can_give(&self, peer: PeerId, chunk: u32, now: Duration) -> bool {
        !self.has(chunk) && self.providers.get(&peer).is_some_and(|provider| provider.offers(chunk, now))
    }

    pub(super) fn anyone_can_give(&self, chunk: u32) -> bool {
        !self.has(chunk) && self.providers.anyone_has(chunk)
    }

    /// Whether upstream has to bring this chunk, because no peer can.
    pub(super) fn uncovered(&self, chunk: u32) -> bool {
        !self.has(chunk) && !self.flights.contains_key(&chunk) && !self.anyone_can_give(chunk)
    }

    /// The first chunk that upstream has to bring: what a reader waits for before anything else, then what comes behind
    /// the first reader. When a blob is fetched once more, readers wait for the proof, and it comes in one piece.
    pub(super) fn first_uncovered(&self, within: &std::ops::Range<u32>) -> Option<u32> {
        // The common case, said without a walk: somebody has everything.
        if self.providers.any_complete() {
            return None;
        }
        if let Some(wanted) = self.wanted_within(within) {
            return Some(wanted);
        }
        let reader = self.readers.chunks().min().filter(|_| self.round() == 0);
        let ahead = reader.unwrap_or(0).clamp(within.start, within.end);
        (ahead..within.end).chain(within.start..ahead).find(|&chunk| self.uncovered(chunk))
    }

    /// Whether any peer could still bring a missing chunk.
    pub(super) fn any_usable_for_missing(&self) -> bool {
        (self.first_missing..self.layout.count()).any(|chunk| self.anyone_can_give(chunk))
    }
}

/// A well-mixed number from seed and chunk (the finaliser of `SplitMix64`).
fn mix(seed: u64, chunk: u32) -> u64 {
    let mut z = seed.wrapping_add(u64::from(chunk).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
