//! A blob's bytes in order, for one client: from the store, or from a transfer while it runs.
//!
//! Memory for chunks that clients do not take is bounded (`room`): see there.
//!
//! A reader that meets a damaged chunk in the store has it fetched again and goes on. The last chunk of a blob that is
//! being fetched is given only after the digest is proven, but for those who read a part of it: lazy pullers begin with
//! the index at the blob's end, and check what they read themselves. If the digest does not come out, the blob is fetched
//! once more; a client that has got something of it by then gets no more, because that may have been wrong.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use shoal_gateway::error::PullError;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::range::ByteRange;
use shoal_store::{Of, ReadError, Store};
use tokio::sync::{mpsc, oneshot};

use super::room::{Room, Taken};
use super::{Fetcher, Given, OpenError, Question, TransferHandle};
use crate::metrics::Metrics;

/// Chunks read ahead of the client.
const AHEAD: usize = 1;

static NEXT_READER: AtomicU64 = AtomicU64::new(0);

/// Where the next chunk comes from.
enum From {
    Store,
    Transfer(TransferHandle),
}

/// Who reads, what, and where it goes.
struct Client {
    id: u64,
    range: ByteRange,
    from: From,
    /// Which time the blob is fetched whose bytes it gets.
    round: u32,
    /// It has got some.
    has_some: bool,
    out: mpsc::Sender<Result<Bytes, PullError>>,
}

impl Client {
    /// From here on its bytes are of this round.
    fn goes_on_in(&mut self, round: u32, digest: &Digest) -> Result<(), PullError> {
        if self.has_some && round != self.round {
            return Err(PullError::Unavailable(format!(
                "what was sent of {digest} may be wrong: its digest did not come out, and it is fetched again"
            )));
        }
        self.round = round;
        Ok(())
    }

    /// Tells it, which is the end.
    async fn fails(&self, error: PullError) -> bool {
        self.out.send(Err(error)).await.ok();
        false
    }
}

/// Reads one range of one blob.
pub struct Reader {
    /// The store.
    pub store: Store,
    /// To fetch what the store turns out not to have.
    pub fetcher: Fetcher,
    /// Counts.
    pub metrics: Metrics,
    /// Which blob.
    pub digest: Digest,
    /// For whose sake: the repository that the client named.
    pub of: Of,
    /// The blob's chunks.
    pub layout: ChunkLayout,
    /// Memory for what the client has not taken yet.
    pub room: Room,
    /// The client named both ends of what it wants, or the end alone: it does not go on from what it has of the blob.
    pub of_a_part: bool,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Reader {
    /// The bytes of `range`. `transfer` is the running transfer, or `None` for a blob that is held.
    ///
    /// Reading runs ahead in a task of its own, which ends when the stream is dropped.
    pub fn read(
        self,
        range: ByteRange,
        transfer: Option<TransferHandle>,
    ) -> BoxStream<'static, Result<Bytes, PullError>> {
        let (bytes, stream) = mpsc::channel(AHEAD);
        let from = transfer.map_or(From::Store, From::Transfer);
        let task = tokio::spawn(self.run(range, from, bytes));
        // Dropping the stream ends the task at once, also while it waits for a chunk.
        let guard = tokio_util::task::AbortOnDropHandle::new(task);
        stream::unfold((stream, guard), |(mut stream, guard)| async move {
            let item = stream.recv().await?;
            Some((item, (stream, guard)))
        })
        .boxed()
    }

    async fn run(self, range: ByteRange, from: From, out: mpsc::Sender<Result<Bytes, PullError>>) {
        let id = NEXT_READER.fetch_add(1, Ordering::Relaxed);
        let _place = Place { id, questions: from.questions() };
        let mut client = Client { id, range, from, round: 0, has_some: false, out };
        for chunk in self.layout.covering(range) {
            let goes_on = match self.chunk(&mut client, chunk).await {
                Ok(bytes) => {
                    if matches!(client.from, From::Store) {
                        self.metrics.store_bytes(bytes.len() as u64);
                    }
                    self.give(&mut client, chunk, bytes).await
                }
                Err(error) => client.fails(error).await,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Gives the client its part of a chunk, whole or in pieces. `false` if that is the end.
    async fn give(&self, client: &mut Client, chunk: u32, bytes: Bytes) -> bool {
        let part = self.cut(client.range, chunk, &bytes);
        let length = bytes.len();
        drop(bytes);
        client.has_some = true;
        if let Some(whole) = self.room.whole(&part, length) {
            drop(part);
            return client.out.send(Ok(whole)).await.is_ok();
        }
        drop(part);
        let mut at = 0;
        loop {
            // Before the chunk is read again: who waits here has none in memory.
            let Some(place) = self.room.short(length).await else { return false };
            match self.chunk(client, chunk).await {
                Ok(bytes) => {
                    let part = self.cut(client.range, chunk, &bytes);
                    drop(bytes);
                    match Room::pieces(part, place, at, &client.out).await {
                        Taken::Whole => return true,
                        Taken::Until(until) => at = until,
                        Taken::Gone => return false,
                    }
                }
                Err(error) => return client.fails(error).await,
            }
        }
    }

    /// The part of a chunk that lies in `range`.
    fn cut(&self, range: ByteRange, chunk: u32, bytes: &Bytes) -> Bytes {
        let Some(lies) = self.layout.range(chunk) else { return Bytes::new() };
        let start = range.start.saturating_sub(lies.start).min(bytes.len() as u64);
        let end = range.end.saturating_sub(lies.start).min(bytes.len() as u64);
        // Both are at most the chunk's length, a usize.
        let index = |offset: u64| usize::try_from(offset).unwrap_or(bytes.len());
        bytes.slice(index(start)..index(end))
    }

    /// That what is held now is for these: it may have come another way than by the transfer.
    async fn is_ours(&self) -> Result<(), PullError> {
        let whose = self.store.whose(&self.digest).await;
        let whose = whose.map_err(|error| PullError::Unavailable(error.to_string()))?;
        if whose.is_given_for(self.of.origin()) {
            return Ok(());
        }
        Err(OpenError::OfAnother(self.digest).into())
    }

    async fn chunk(&self, client: &mut Client, chunk: u32) -> Result<Bytes, PullError> {
        // Each turn either answers, or changes where the chunk comes from or in which round; a disk that damages what
        // was just repaired is given up.
        for _ in 0..8 {
            match &mut client.from {
                From::Store => match self.store.read_chunk(&self.digest, chunk).await {
                    Ok(read) => return Ok(read.bytes),
                    Err(ReadError::Damaged { .. } | ReadError::NotHeld) => {
                        tracing::warn!(digest = %self.digest, chunk, "a held blob is damaged and is repaired");
                        let size = self.layout.size();
                        let transfer = self.fetcher.open(self.digest, size, self.of.clone()).await?;
                        client.from = From::Transfer(transfer);
                    }
                    Err(error) => return Err(PullError::Unavailable(error.to_string())),
                },
                From::Transfer(transfer) => {
                    let round = transfer.round();
                    let got = from_transfer(transfer, client.id, chunk, self.of_a_part).await?;
                    let now = transfer.round();
                    client.goes_on_in(now, &self.digest)?;
                    match got {
                        Got::Bytes(bytes) if now == round => return Ok(bytes),
                        Got::Bytes(_) | Got::Again => {}
                        Got::Held => {
                            self.is_ours().await?;
                            client.from = From::Store;
                        }
                    }
                }
            }
        }
        Err(PullError::Unavailable(format!("{} is damaged again and again: check this disk", self.digest)))
    }
}

/// What a transfer said to one who asked for a chunk.
enum Got {
    Bytes(Bytes),
    /// The blob is held now.
    Held,
    /// It is fetched once more.
    Again,
}

/// A chunk from a running transfer.
async fn from_transfer(
    transfer: &mut TransferHandle,
    reader: u64,
    chunk: u32,
    of_a_part: bool,
) -> Result<Got, PullError> {
    let round = transfer.round();
    let (reply, answer) = oneshot::channel();
    if transfer.questions.send(Question::Want { reader, chunk, of_a_part, reply }).await.is_ok() {
        match answer.await {
            Ok(Given::Bytes(bytes)) => return Ok(Got::Bytes(bytes)),
            // If the blob is finished between the answer and the read, the store has it.
            Ok(Given::Stored) => {
                if let Ok((bytes, _)) = transfer.partial.read(chunk).await {
                    return Ok(Got::Bytes(bytes));
                }
            }
            Err(_) => {}
        }
        if transfer.round() != round {
            return Ok(Got::Again);
        }
    }
    transfer.finished().await?;
    Ok(Got::Held)
}

impl From {
    fn questions(&self) -> Option<mpsc::Sender<Question>> {
        match self {
            Self::Store => None,
            Self::Transfer(transfer) => Some(transfer.questions.clone()),
        }
    }
}

/// Says that the reader left, when it does.
struct Place {
    id: u64,
    questions: Option<mpsc::Sender<Question>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(questions) = &self.questions {
            // If the queue is full the window stays a while: it costs order, not bytes.
            drop(questions.try_send(Question::Gone { reader: self.id }));
        }
    }
}
