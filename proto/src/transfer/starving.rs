//! Readers that have waited for too long go before everything.
//!
//! Where nodes or links carry more than they can, a chunk takes seconds to come. With many on their way at once, the one
//! that a client waits for shares the link with all that nobody waits for yet, and clients are cut off while megabytes
//! arrive that they cannot be given. So a chunk that peers have, and that a reader has waited for too long, is asked of one
//! of them at once, whether or not there is room, and of others when that one is late; and until it comes nothing else is
//! asked for while some are on their way.

use std::time::Duration;

use libp2p_identity::PeerId;

use super::{Action, Transfer};

/// Who has waited so long starves. The gateway cuts a body off that stands still for 8 s.
const STARVING: Duration = Duration::from_secs(1);
/// While a reader starves, so many requests may be on their way for what starving readers do not wait for.
pub(super) const MOST_OTHERS: usize = 4;
/// And so many for what they wait for: how many readers there are is up to clients.
pub(super) const MOST_FEEDING: usize = 12;
/// Of so many peers a chunk is asked at a time.
pub(super) const MOST_ASKED: usize = 3;

impl Transfer {
    /// Asks for what starving readers wait for. If there are any, for whom peers have something, it says how many requests
    /// may be on their way in all.
    pub(super) fn feed_starving(&mut self, now: Duration, actions: &mut Vec<Action>) -> Option<usize> {
        let starving = self.starving(now);
        let feeding = |transfer: &Self| {
            let requests = starving.iter().filter_map(|chunk| transfer.flights.get(chunk));
            requests.map(Vec::len).sum::<usize>()
        };
        for &chunk in &starving {
            if feeding(self) >= MOST_FEEDING {
                break;
            }
            if let Some(peer) = self.next_to_ask(chunk, now) {
                self.ask(peer, chunk, now, actions);
            }
        }
        // Peers that let what is asked of them drip are not to keep the others from being asked.
        (!starving.is_empty()).then(|| MOST_OTHERS + feeding(self))
    }

    /// The chunks that are waited for too long, and that peers have, the one that is waited for longest first. When a blob is
    /// fetched once more, readers wait for the proof, and it comes in one piece.
    fn starving(&self, now: Duration) -> Vec<u32> {
        let Some(begun) = now.checked_sub(STARVING).filter(|_| self.round() == 0) else { return Vec::new() };
        let can_come = |chunk: &u32| self.anyone_can_give(*chunk) && !self.upstream.will_bring(*chunk);
        self.readers.waiting_since(begun).into_iter().filter(can_come).collect()
    }

    /// The peer that is asked for this chunk next: where those that were asked take twice as long as they promised, one
    /// more.
    fn next_to_ask(&self, chunk: u32, now: Duration) -> Option<PeerId> {
        let requests = self.flights.get(&chunk).map_or(&[][..], Vec::as_slice);
        let asked = || self.under_way(requests);
        if requests.len() >= MOST_ASKED || asked().any(|asked| now < asked.half_overdue()) {
            return None;
        }
        let size = self.layout.chunk_size();
        self.providers
            .iter()
            .filter(|(peer, provider)| {
                !provider.is_paused(now)
                    && provider.offers(chunk, now)
                    && asked().all(|asked| asked.peer != **peer)
            })
            .min_by_key(|(peer, provider)| {
                (provider.room(size, now) == 0, !self.providers.is_near(peer), provider.expected(size))
            })
            .map(|(&peer, _)| peer)
    }

    /// When somebody starves next, or one more peer is to be asked.
    pub(super) fn starving_due(&self, now: Duration) -> Option<Duration> {
        let late = self
            .starving(now)
            .into_iter()
            .filter_map(|chunk| self.flights.get(&chunk))
            .flat_map(|requests| self.under_way(requests))
            .map(super::Asked::half_overdue);
        let begin = self.readers.since().map(|since| since + STARVING);
        begin.chain(late).filter(|&at| at > now).min()
    }
}
