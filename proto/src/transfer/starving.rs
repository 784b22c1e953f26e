//! Readers that have waited for too long go before everything.
//!
//! Where nodes or links carry more than they can, a chunk takes seconds to come. With many on their way at once, the one
//! that a client waits for shares the link with all that nobody waits for yet, and clients are cut off while megabytes
//! arrive that they cannot be given. So a chunk that peers have, and that a reader has waited for too long, is asked of
//! whichever of them can be asked, and only a few others beside it.

use std::time::Duration;

use libp2p_identity::PeerId;

use super::{Action, Transfer};

/// Who has waited so long starves. Clients give up after some more of that.
const STARVING: Duration = Duration::from_secs(1);
/// So many chunks are on their way at once while a reader starves.
pub(super) const SCARCE: usize = 4;
/// Of so many peers a chunk is asked at a time.
const MOST_ASKED: usize = 3;

impl Transfer {
    /// Asks for what starving readers wait for; says whether there are any, for whom peers have something.
    pub(super) fn feed_starving(&mut self, now: Duration, actions: &mut Vec<Action>) -> bool {
        let starving: Vec<u32> = self.starving(now).collect();
        for &chunk in &starving {
            if let Some(peer) = self.to_ask_for(chunk, now) {
                self.ask(peer, chunk, now, actions);
            }
        }
        !starving.is_empty()
    }

    /// The chunks that are waited for too long, and that peers have. When a blob is fetched once more, readers wait for the
    /// proof, and it comes in one piece.
    fn starving(&self, now: Duration) -> impl Iterator<Item = u32> {
        let begun = now.checked_sub(STARVING).filter(|_| self.round() == 0);
        begun
            .into_iter()
            .flat_map(|begun| self.readers.waiting_since(begun))
            .filter(|&chunk| self.anyone_can_give(chunk) && !self.upstream.will_bring(chunk))
    }

    /// The peer that is asked for this chunk next: where those that were asked take twice as long as they promised, one
    /// more.
    fn to_ask_for(&self, chunk: u32, now: Duration) -> Option<PeerId> {
        let requests = self.flights.get(&chunk).map_or(&[][..], Vec::as_slice);
        let asked = || requests.iter().filter_map(|request| self.asked.get(request));
        if requests.len() >= MOST_ASKED || asked().any(|asked| now < asked.late()) {
            return None;
        }
        let size = self.layout.chunk_size();
        self.providers
            .iter()
            .filter(|(peer, provider)| {
                provider.answers(now)
                    && provider.offers(chunk, now)
                    && asked().all(|asked| asked.peer != **peer)
            })
            .min_by_key(|(peer, provider)| (!self.providers.is_near(peer), provider.expected(size)))
            .map(|(&peer, _)| peer)
    }

    /// When somebody starves next, or one more peer is to be asked.
    pub(super) fn starving_due(&self, now: Duration) -> Option<Duration> {
        let late = self
            .starving(now)
            .flat_map(|chunk| self.flights.get(&chunk).into_iter().flatten())
            .filter_map(|request| self.asked.get(request))
            .map(super::Asked::late);
        let begin = self.readers.since().map(|since| since + STARVING);
        begin.chain(late).filter(|&at| at > now).min()
    }
}
