//! The chunks sent on one stream that its asker has not got yet. Each keeps its upload slot until then: between this node
//! and the other lie queues of yamux, TLS and the kernel that take half a megabyte for each connection at once.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_proto::wire::WireError;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::frame::PATIENCE;
use super::gate::Slot;

/// Shared by the two halves of one stream. A std mutex, held for a change of the queue.
#[derive(Default)]
pub(super) struct Sent<'a> {
    inside: Mutex<Inside<'a>>,
    written: Notify,
}

#[derive(Default)]
struct Inside<'a> {
    /// Since when each is sent whole, the oldest first: the last may still be being sent.
    on_the_way: VecDeque<(Option<Instant>, Slot<'a>)>,
    /// How many are over.
    over: u64,
}

impl Inside<'_> {
    fn next_is_over(&mut self) -> Option<()> {
        let (_, slot) = self.on_the_way.pop_front()?;
        self.over += 1;
        slot.over();
        Some(())
    }
}

impl<'a> Sent<'a> {
    fn inside(&self) -> MutexGuard<'_, Inside<'a>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more is about to be sent. It may be there before this node has got as far as [`Sent::is_whole`].
    pub(super) fn begins(&self, slot: Slot<'a>) {
        self.inside().on_the_way.push_back((None, slot));
    }

    /// It is sent whole.
    pub(super) fn is_whole(&self) {
        if let Some((whole @ None, _)) = self.inside().on_the_way.back_mut() {
            *whole = Some(Instant::now());
            self.written.notify_one();
        }
    }

    /// The asker has got so many of this stream.
    ///
    /// # Errors
    /// [`WireError::Field`] if these are more than were sent.
    pub(super) fn received(&self, received: u64) -> Result<(), WireError> {
        let mut inside = self.inside();
        while inside.over < received {
            inside.next_is_over().ok_or(WireError::Field("received"))?;
        }
        Ok(())
    }

    /// Gives up those that are never said to be there: their slots are for others.
    pub(super) async fn give_up_late(&self) -> Infallible {
        loop {
            let oldest = self.inside().on_the_way.front().and_then(|&(since, _)| since);
            let Some(due) = oldest.map(|since| since + PATIENCE) else {
                self.written.notified().await;
                continue;
            };
            sleep_until(due).await;
            let mut inside = self.inside();
            let is_late = |since: Option<Instant>| since.is_some_and(|since| since + PATIENCE <= due);
            while inside.on_the_way.front().is_some_and(|&(since, _)| is_late(since)) {
                inside.next_is_over();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::digest::Digest;
    use shoal_proto::swarm::slots::ChunkKey;

    use super::super::gate::Gate;
    use super::*;

    fn chunk(number: u32) -> ChunkKey {
        ChunkKey::of(&Digest::sha256_of(b"blob"), number)
    }

    #[tokio::test]
    async fn a_slot_is_free_when_the_asker_has_the_chunk_or_never_says_so() {
        let gate = Gate::new(2);
        let sent = Sent::default();
        for number in 0..2 {
            sent.begins(gate.pass(chunk(number)).await.ok().unwrap());
        }
        let mut next = Box::pin(gate.pass(chunk(2)));
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(sent.received(0), Ok(()));
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(sent.received(1), Ok(()));
        let _slot = next.await.ok().unwrap();
        assert_eq!(sent.received(3), Err(WireError::Field("received")), "two were sent");

        sent.begins(gate.pass(chunk(3)).await.ok().unwrap());
        sent.is_whole();
        let mut next = Box::pin(gate.pass(chunk(4)));
        assert!(futures::poll!(&mut next).is_pending());
        let begun = Instant::now();
        tokio::select! {
            never = sent.give_up_late() => match never {},
            passed = next => assert!(passed.is_ok()),
        }
        assert!(begun.elapsed() >= PATIENCE, "{:?}", begun.elapsed());
        // It says so after all.
        assert_eq!(sent.received(3), Ok(()));
    }
}
