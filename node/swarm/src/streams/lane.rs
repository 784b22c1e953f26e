//! One chunk stream that this node opened: requests in a pipeline, replies in order.

use bytes::Bytes;
use shoal_proto::attestation::Attestation;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::range::ByteRange;
use shoal_proto::wire::{self, ChunkReply, ChunkRequest, Refusal, WireError, generated, negotiate};
use tokio::sync::{mpsc, oneshot, watch};

use super::frame::{self, Reader, StreamError, Writer};
use crate::{ChunkError, RateCap};

/// Requests that may be on their way on one lane.
pub(super) const PIPELINE: usize = 8;

/// A request and who waits for the reply.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) request: ChunkRequest,
    pub(super) reply: oneshot::Sender<Result<(Bytes, Attestation), ChunkError>>,
}

/// Runs a lane until its stream fails or ends, or nobody can ask any more.
///
/// A request that is dropped without a reply was not answered, not even in part: it may be asked again elsewhere.
/// Whatever ends one half ends the lane, and with it the stream: the peer sees the reset and frees its slot.
pub(super) async fn run(stream: libp2p::swarm::Stream, mut asks: mpsc::Receiver<Ask>, rate: RateCap) {
    let (reader, writer) = frame::split(stream);
    let (sent, mut due) = mpsc::channel(PIPELINE);
    let (came, received) = watch::channel(0);
    let mut current = None;
    let ended = {
        let mut reading = std::pin::pin!(read(reader, &rate, &mut due, &mut current, &came));
        // Not cancel-safe, and need not be: the stream is given up with the half that is dropped.
        tokio::select! {
            read = &mut reading => read,
            written = write(writer, &mut asks, sent, received) => match written {
                // Nobody asks any more; what was asked is still answered. That it came is not said: the slots are
                // free when the stream ends.
                Ok(()) => reading.await,
                Err(error) => Err(error),
            },
        }
    };
    let Err(error) = ended else { return };
    tracing::debug!(%error, "a chunk stream ended");
    asks.close();
    let answer = match chunk_error(&error) {
        // Dropping them says that they were not answered.
        ChunkError::Gone => return,
        other => other,
    };
    let waiting = current.into_iter().chain(std::iter::from_fn(|| due.try_recv().ok()));
    for ask in waiting.chain(std::iter::from_fn(|| asks.try_recv().ok())) {
        drop(ask.reply.send(Err(answer.clone())));
    }
}

/// Sends requests as they come, and says how many chunks were `received`. Each request goes into `sent` before, so that
/// its reply finds who waits.
async fn write(
    mut writer: Writer,
    asks: &mut mpsc::Receiver<Ask>,
    sent: mpsc::Sender<Ask>,
    mut received: watch::Receiver<u64>,
) -> Result<(), StreamError> {
    writer.hello();
    loop {
        // Cancel-safe: both only receive.
        let mut next = tokio::select! {
            ask = asks.recv() => match ask {
                Some(ask) => Some(ask),
                None => return Ok(()),
            },
            Ok(()) = received.changed() => {
                writer.queue(&wire::received(*received.borrow_and_update()));
                None
            }
        };
        while let Some(ask) = next {
            if !ask.reply.is_closed() {
                if sent.capacity() == 0 {
                    // The pipeline is full: room comes with replies, and those to what was not sent never come.
                    writer.flush().await?;
                }
                let Ok(place) = sent.reserve().await else { return Ok(()) };
                writer.queue(&ask.request.into_wire(*received.borrow_and_update()));
                place.send(ask);
            }
            next = asks.try_recv().ok();
        }
        writer.flush().await?;
    }
}

/// Reads replies, in the order of the requests, and watches the stream while none is due. A request stays in
/// `current` until the first of its reply is here.
async fn read(
    mut reader: Reader,
    rate: &RateCap,
    due: &mut mpsc::Receiver<Ask>,
    current: &mut Option<Ask>,
    came: &watch::Sender<u64>,
) -> Result<(), StreamError> {
    let mut greeted = false;
    loop {
        // Cancel-safe: `recv` takes nothing, and what `idle` read stays in the reader's buffer.
        let ask = tokio::select! {
            // A reply that is here may be due: what is due is looked at first.
            biased;
            ask = due.recv() => match ask {
                Some(ask) => Some(ask),
                None => return Ok(()),
            },
            more = reader.idle() => {
                if !more? {
                    return Err(StreamError::Ended);
                }
                // `recv` says "not yet" also to a task that has run for long.
                due.try_recv().ok()
            }
        };
        let unasked = ask.is_none();
        *current = ask;
        if !greeted {
            let hello: generated::Hello = reader.due().await?;
            negotiate(&hello)?;
            greeted = true;
        } else if unasked {
            return Err(WireError::Field("a reply to no request").into());
        }
        let Some(ask) = current else { continue };
        let answer = match head(&mut reader, &ask.request).await? {
            Ok((attestation, length)) => {
                let bytes = reader.bytes(length, rate).await;
                if bytes.is_ok() {
                    came.send_modify(|chunks| *chunks += 1);
                }
                bytes.map(|bytes| Ok((bytes, attestation)))
            }
            Err(refusal) => Ok(Err(ChunkError::Refused(refusal))),
        };
        let Some(Ask { reply, .. }) = current.take() else { continue };
        match answer {
            Ok(answer) => drop(reply.send(answer)),
            Err(error) => {
                drop(reply.send(Err(chunk_error(&error))));
                return Err(error);
            }
        }
    }
}

type Head = Result<(Attestation, usize), Refusal>;

/// The next reply, but for its bytes.
async fn head(reader: &mut Reader, request: &ChunkRequest) -> Result<Head, StreamError> {
    let message: generated::ChunkReply = reader.due().await?;
    let expected = ChunkLayout::of(request.size)
        .ok()
        .and_then(|layout| layout.range(request.chunk))
        .map_or(0, ByteRange::len);
    // A chunk is at most 4 MiB.
    let expected = u32::try_from(expected).unwrap_or(0);
    let (id, reply) = ChunkReply::from_wire(&message, expected)?;
    if id != request.id {
        return Err(WireError::Field("id").into());
    }
    Ok(match reply {
        ChunkReply::Refused(refusal) => Err(refusal),
        ChunkReply::Chunk { attestation, length } => Ok((attestation, length as usize)),
    })
}

fn chunk_error(error: &StreamError) -> ChunkError {
    match error {
        StreamError::Stalled => ChunkError::Stalled,
        StreamError::Wire(wire) => ChunkError::Protocol(wire.to_string()),
        StreamError::Io(_) | StreamError::Ended => ChunkError::Gone,
    }
}
