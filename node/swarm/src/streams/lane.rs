//! One chunk stream that this node opened: requests in a pipeline, replies in order.

use std::collections::VecDeque;

use bytes::Bytes;
use shoal_proto::attestation::Attestation;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::range::ByteRange;
use shoal_proto::wire::{ChunkReply, ChunkRequest, WireError, generated, negotiate};
use tokio::sync::{mpsc, oneshot};

use super::frame::{self, Reader, StreamError, Writer};
use crate::ChunkError;

/// Requests that may be on their way on one lane.
pub(super) const PIPELINE: usize = 8;

/// A request and who waits for the reply.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) request: ChunkRequest,
    pub(super) reply: oneshot::Sender<Result<(Bytes, Attestation), ChunkError>>,
}

/// Runs a lane until its stream fails or nobody can ask any more.
pub(super) async fn run(stream: libp2p::swarm::Stream, asks: mpsc::Receiver<Ask>) {
    let (reader, writer) = frame::split(stream);
    let (sent, due) = mpsc::channel(PIPELINE);
    let (written, read) = tokio::join!(write(writer, asks, sent), read(reader, due));
    if let Err(error) = written.and(read) {
        tracing::debug!(%error, "a chunk stream ended");
    }
}

/// Sends requests as they come; each goes into `sent` before, so that its reply finds who waits.
async fn write(
    mut writer: Writer,
    mut asks: mpsc::Receiver<Ask>,
    sent: mpsc::Sender<Ask>,
) -> Result<(), StreamError> {
    writer.hello();
    while let Some(ask) = asks.recv().await {
        let mut next = Some(ask);
        while let Some(ask) = next {
            if !ask.reply.is_closed() {
                if sent.capacity() == 0 {
                    // The pipeline is full: room comes with replies, and those to what was not sent never come.
                    writer.flush().await?;
                }
                let Ok(place) = sent.reserve().await else {
                    // The reader has failed: those who still wait are told so as their replies are dropped.
                    return Ok(());
                };
                writer.queue(&ask.request.into_wire());
                place.send(ask);
            }
            next = asks.try_recv().ok();
        }
        writer.flush().await?;
    }
    Ok(())
}

/// Reads replies, in the order of the requests.
async fn read(mut reader: Reader, mut due: mpsc::Receiver<Ask>) -> Result<(), StreamError> {
    let mut greeted = false;
    while let Some(ask) = due.recv().await {
        let reply = async {
            if !greeted {
                let hello: generated::Hello = reader.due().await?;
                negotiate(&hello)?;
                greeted = true;
            }
            reply(&mut reader, &ask.request).await
        };
        match reply.await {
            Ok(answer) => drop(ask.reply.send(answer.map_err(ChunkError::Refused))),
            Err(error) => {
                let mut waiting = VecDeque::from([ask]);
                due.close();
                while let Ok(ask) = due.try_recv() {
                    waiting.push_back(ask);
                }
                for ask in waiting {
                    drop(ask.reply.send(Err(chunk_error(&error))));
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

type Answer = Result<(Bytes, Attestation), shoal_proto::wire::Refusal>;

async fn reply(reader: &mut Reader, request: &ChunkRequest) -> Result<Answer, StreamError> {
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
    match reply {
        ChunkReply::Refused(refusal) => Ok(Err(refusal)),
        ChunkReply::Chunk { attestation, length } => {
            Ok(Ok((reader.bytes(length as usize).await?, attestation)))
        }
    }
}

fn chunk_error(error: &StreamError) -> ChunkError {
    match error {
        StreamError::Stalled => ChunkError::Stalled,
        StreamError::Wire(wire) => ChunkError::Protocol(wire.to_string()),
        StreamError::Io(_) | StreamError::Ended => ChunkError::Gone,
    }
}
