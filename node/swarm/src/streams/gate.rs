//! The gate that every upload passes: [`Slots`] decides, and whoever is to wait waits here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::swarm::slots::{Admission, ChunkKey, Slots, Ticket};
use shoal_proto::wire::Refusal;
use tokio::sync::oneshot;

/// The upload slots of this node, and who waits for one. A std mutex, held for a decision and never while anything
/// waits.
pub(super) struct Gate(Mutex<Inside>);

struct Inside {
    slots: Slots,
    line: HashMap<Ticket, oneshot::Sender<()>>,
}

impl Inside {
    fn release(&mut self, chunk: ChunkKey, took: Option<Duration>) {
        self.slots.release(chunk, took);
        while let Some(ticket) = self.slots.admit() {
            // Who goes away in this very instant gives the slot back: see `Place`.
            if let Some(waits) = self.line.remove(&ticket) {
                let _gone_meanwhile = waits.send(());
            }
        }
    }
}

impl Gate {
    pub(super) fn new(most: usize) -> Self {
        Self(Mutex::new(Inside { slots: Slots::new(most), line: HashMap::new() }))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an upload slot, if the line is not too long. Cancel-safe: whoever is dropped leaves the line.
    pub(super) async fn pass(&self, chunk: ChunkKey) -> Result<Slot<'_>, Refusal> {
        let (ticket, turn) = {
            let mut inside = self.inside();
            match inside.slots.ask(chunk)? {
                Admission::Now => return Ok(Slot::begin(self, chunk)),
                Admission::Wait(ticket) => {
                    let (waits, turn) = oneshot::channel();
                    inside.line.insert(ticket, waits);
                    (ticket, turn)
                }
            }
        };
        let mut place = Place { gate: self, chunk, ticket: Some(ticket) };
        // The sender is dropped only after it has sent.
        let came = turn.await;
        place.ticket = None;
        came.map(|()| Slot::begin(self, chunk)).map_err(|_| Refusal::Busy)
    }
}

/// A place in line, left when this is dropped.
struct Place<'a> {
    gate: &'a Gate,
    chunk: ChunkKey,
    ticket: Option<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut inside = self.gate.inside();
        inside.line.remove(&ticket);
        if !inside.slots.leave(ticket) {
            // The slot was given in the same instant.
            inside.release(self.chunk, None);
        }
    }
}

/// An upload slot, free again when this is dropped.
pub(super) struct Slot<'a> {
    gate: &'a Gate,
    chunk: ChunkKey,
    since: Instant,
    took: Option<Duration>,
}

impl<'a> Slot<'a> {
    fn begin(gate: &'a Gate, chunk: ChunkKey) -> Self {
        Self { gate, chunk, since: Instant::now(), took: None }
    }

    /// The asker has the chunk: how long that took says something.
    pub(super) fn over(mut self) {
        self.took = Some(self.since.elapsed());
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.gate.inside().release(self.chunk, self.took);
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::digest::Digest;

    use super::*;

    fn chunk(number: u32) -> ChunkKey {
        ChunkKey::of(&Digest::sha256_of(b"blob"), number)
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_next_slot_and_whoever_gives_up_leaves_it_to_others() {
        let gate = Gate::new(2);
        let first = gate.pass(chunk(0)).await.ok();
        let _other = gate.pass(chunk(1)).await.ok();
        let mut second = Box::pin(gate.pass(chunk(2)));
        let mut third = Box::pin(gate.pass(chunk(3)));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        assert!(matches!(gate.pass(chunk(4)).await, Err(Refusal::Busy)), "the line is full");
        // The slot goes to the second, which goes away before it has seen that.
        drop(first);
        drop(second);
        let slot = third.await.ok();
        assert!(slot.is_some());
        drop(slot);
        assert!(gate.pass(chunk(5)).await.is_ok());
        assert!(gate.inside().line.is_empty());
    }
}
