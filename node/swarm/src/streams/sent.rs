//! The chunks sent on one stream that its asker has not got yet. Each keeps its upload slot until then: queues of
//! yamux, TLS and the kernel on the way take half a megabyte for each connection at once.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_proto::wire::WireError;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::frame::PATIENCE;
use super::gate::Slot;

/// So many chunks of one stream may be on their way at once: one peer alone must not have all the slots.
const UNCONFIRMED: usize = 4;

/// Shared by the two halves of one stream. A std mutex, held for a change of the queue; the gate's is taken under it,
/// never the other way round.
#[derive(Default)]
pub(super) struct Sent<'a> {
    inside: Mutex<Inside<'a>>,
    /// Said whenever the queue changes. Whoever waits for that begins to before it looks at the queue.
    changed: Notify,
}

#[derive(Default)]
struct Inside<'a> {
    /// Since when each is sent whole, the oldest first: the last may still be being sent.
    on_the_way: VecDeque<(Option<Instant>, Slot<'a>)>,
    /// How many are over.
    over: u64,
}

impl Inside<'_> {
    /// How many are written and not known to be there.
    fn whole(&self) -> usize {
        self.on_the_way.iter().filter(|(whole, _)| whole.is_some()).count()
    }
}

impl<'a> Sent<'a> {
    fn inside(&self) -> MutexGuard<'_, Inside<'a>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more is about to be sent.
    pub(super) fn begins(&self, slot: Slot<'a>) {
        self.inside().on_the_way.push_back((None, slot));
    }

    /// It is sent whole. To be called before anything that was heard since could be read.
    pub(super) fn is_whole(&self) {
        if let Some((whole @ None, _)) = self.inside().on_the_way.back_mut() {
            *whole = Some(Instant::now());
            self.changed.notify_waiters();
        }
    }

    /// The asker has got so many of this stream.
    ///
    /// # Errors
    /// [`WireError::Field`] if these are more than were sent.
    pub(super) fn received(&self, received: u64) -> Result<(), WireError> {
        let mut inside = self.inside();
        let arrived = received.saturating_sub(inside.over);
        if !usize::try_from(arrived).is_ok_and(|arrived| arrived <= inside.whole()) {
            return Err(WireError::Field("received"));
        }
        for _ in 0..arrived {
            if let Some((_, slot)) = inside.on_the_way.pop_front() {
                slot.over();
            }
        }
        inside.over += arrived;
        self.changed.notify_waiters();
        Ok(())
    }

    /// Waits until one more may be on its way. Cancel-safe.
    pub(super) async fn has_room(&self) {
        loop {
            let changed = self.changed.notified();
            if self.inside().on_the_way.len() < UNCONFIRMED {
                return;
            }
            changed.await;
        }
    }

    /// Gives up those that are not said to be there in time: a peer that died or says nothing must not keep a slot.
    /// What it does tells nothing of this node's link.
    pub(super) async fn give_up_late(&self) -> Infallible {
        loop {
            let changed = self.changed.notified();
            let oldest = self.inside().on_the_way.front().and_then(|&(whole, _)| whole);
            let Some(oldest) = oldest else {
                changed.await;
                continue;
            };
            sleep_until(oldest + PATIENCE).await;
            let mut inside = self.inside();
            while matches!(inside.on_the_way.front(), Some(&(Some(whole), _)) if whole <= oldest) {
                inside.on_the_way.pop_front();
                inside.over += 1;
            }
            self.changed.notify_waiters();
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

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_free_when_the_asker_has_the_chunk_or_never_says_so() {
        let gate = Gate::new(2);
        let sent = Sent::default();
        for number in 0..2 {
            sent.begins(gate.pass(chunk(number)).await.ok().unwrap());
            sent.is_whole();
        }
        let mut next = Box::pin(gate.pass(chunk(2)));
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(sent.received(0), Ok(()));
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(sent.received(1), Ok(()));
        assert_eq!(sent.received(3), Err(WireError::Field("received")), "two were sent");
        sent.begins(next.await.ok().unwrap());
        assert_eq!(sent.received(3), Err(WireError::Field("received")), "the third is still being sent");
        sent.is_whole();

        let mut next = Box::pin(gate.pass(chunk(3)));
        assert!(futures::poll!(&mut next).is_pending());
        let begun = Instant::now();
        tokio::select! {
            never = sent.give_up_late() => match never {},
            passed = next => assert!(passed.is_ok()),
        }
        assert_eq!(begun.elapsed(), PATIENCE);
        // It says so after all.
        assert_eq!(sent.received(3), Ok(()));
    }
    #[tokio::test]
    async fn few_of_one_stream_are_on_their_way() {
        let gate = Gate::new(32);
        let sent = Sent::default();
        for number in 0..4 {
            assert!(futures::poll!(Box::pin(sent.has_room())).is_ready());
            sent.begins(gate.pass(chunk(number)).await.ok().unwrap());
            sent.is_whole();
        }
        let mut room = Box::pin(sent.has_room());
        assert!(futures::poll!(&mut room).is_pending());
        assert_eq!(sent.received(1), Ok(()));
        assert!(futures::poll!(&mut room).is_ready());
    }
}
