//! Memory for what clients have not taken yet.
//!
//! A reader gives its client whole chunks, and reads one ahead: that is quick, and for a client that takes nothing
//! it is up to three chunks of memory. So all readers together may do that within one bound. A reader that finds no
//! room gives small copies instead, and keeps a chunk in memory for as long only as its client takes them quickly.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What all readers may have given out as whole chunks, in KiB.
const WHOLE: usize = 160 * 1024;
/// What those that found no room may have in memory besides, in KiB: a few of the largest chunks.
const SHORT: usize = 32 * 1024;
/// What is given at a time then.
const PIECE: usize = 32 * 1024;
/// How long a client may leave a piece before its chunk is let go, and read again when it comes back.
const QUICK: Duration = Duration::from_millis(50);

/// The memory of all readers. A clone is the same.
#[derive(Debug, Clone)]
pub struct Room {
    whole: Arc<Semaphore>,
    short: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(WHOLE, SHORT)
    }
}

/// Bytes that count until they are let go.
struct Counted {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How far a chunk was given out in pieces.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// All of it.
    Whole,
    /// Up to here; the client is slow, and may take the next piece now. The chunk is to be read again.
    Until(usize),
    /// The client left.
    Gone,
}

impl Room {
    fn of(whole: usize, short: usize) -> Self {
        Self { whole: Arc::new(Semaphore::new(whole)), short: Arc::new(Semaphore::new(short)) }
    }

    /// The bytes as they are, if there is room for the chunk of so many bytes that they are a part of.
    pub(super) fn whole(&self, bytes: &Bytes, length: usize) -> Option<Bytes> {
        let place = self.whole.clone().try_acquire_many_owned(kib(length)).ok()?;
        Some(Bytes::from_owner(Counted { bytes: bytes.clone(), _place: place }))
    }

    /// Waits for the room to have a chunk of so many bytes in memory while it is given in pieces.
    pub(super) async fn short(&self, length: usize) -> Option<OwnedSemaphorePermit> {
        self.short.clone().acquire_many_owned(kib(length)).await.ok()
    }

    /// Gives pieces of a chunk from an offset on, for as long as the client is quick.
    pub(super) async fn pieces<E>(
        chunk: Bytes,
        place: OwnedSemaphorePermit,
        mut from: usize,
        out: &mpsc::Sender<Result<Bytes, E>>,
    ) -> Taken {
        while from < chunk.len() {
            let Ok(reserved) = tokio::time::timeout(QUICK, out.reserve()).await else {
                drop((chunk, place));
                return if out.reserve().await.is_ok() { Taken::Until(from) } else { Taken::Gone };
            };
            let Ok(reserved) = reserved else { return Taken::Gone };
            let to = chunk.len().min(from + PIECE);
            // A slice would keep all of the chunk.
            reserved.send(Ok(Bytes::copy_from_slice(&chunk[from..to])));
            from = to;
        }
        Taken::Whole
    }
}

/// At most what a chunk has, 4 MiB.
fn kib(length: usize) -> u32 {
    u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whole_chunks_within_a_bound_and_pieces_beyond_it() {
        let room = Room::of(256, 256);
        let chunk = Bytes::from(vec![7; 256 * 1024]);
        let first = room.whole(&chunk, chunk.len()).unwrap();
        assert!(room.whole(&chunk, chunk.len()).is_none());
        drop(first.slice(..10));
        assert!(room.whole(&chunk, chunk.len()).is_none());
        drop(first);
        assert!(room.whole(&chunk, chunk.len()).is_some());

        // One that takes nothing keeps no chunk, and goes on where it stood.
        let (out, mut taken) = mpsc::channel::<Result<Bytes, ()>>(1);
        let place = room.short(chunk.len()).await.unwrap();
        let stalled =
            tokio::spawn(async move { (Room::pieces(chunk.clone(), place, 0, &out).await, out, chunk) });
        let began = std::time::Instant::now();
        while room.short.available_permits() < 256 {
            assert!(began.elapsed() < Duration::from_secs(20), "the chunk is kept");
            tokio::time::sleep(QUICK).await;
        }
        assert_eq!(taken.recv().await.unwrap().unwrap().len(), PIECE);
        let (given, out, chunk) = stalled.await.unwrap();
        assert_eq!(given, Taken::Until(PIECE));
        let place = room.short(chunk.len()).await.unwrap();
        let goes_on = tokio::spawn(async move { Room::pieces(chunk, place, PIECE, &out).await });
        let mut rest = 0;
        while let Some(piece) = taken.recv().await {
            rest += piece.unwrap().len();
        }
        assert_eq!((goes_on.await.unwrap(), rest), (Taken::Whole, 256 * 1024 - PIECE));
    }
}
