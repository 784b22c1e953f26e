//! What peers ask of this node: one task a stream, all of them bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::stream::{FuturesOrdered, FuturesUnordered, StreamExt as _};
use libp2p::PeerId;
use shoal_proto::attestation::Attestation;
use shoal_proto::swarm::slots::ChunkKey;
use shoal_proto::wire::{ChunkReply, ChunkRequest, Refusal, SessionMessage, WireError, generated, negotiate};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::frame::{self, Reader, StreamError, Writer};
use super::gate::{Gate, Slot};
use super::lane::PIPELINE;
use super::sent::Sent;
use super::{Inbound, Kind};
use crate::{RateCap, Serve};

/// Streams of one peer at a time; more are refused.
const MAX_STREAMS: usize = 8;
/// Questions of one session that are answered at once: one who follows a blob waits up to a second for its answer, and
/// a peer may follow several blobs.
const MAX_QUESTIONS: usize = 64;
/// Requests of one stream that may wait: an honest asker has one more under way than its pipeline holds.
const MAX_REQUESTS: usize = 2 * PIPELINE;
/// Chunks of one stream that are read ahead of the one being sent.
const READ_AHEAD: usize = 2;
/// Bytes that are sent at a time: where uploads are capped they take turns.
const PIECE: usize = 128 * 1024;
/// How long this node may take for one answer: what is slower is as good as missing, and must not hold a slot for ever.
const SERVE: std::time::Duration = std::time::Duration::from_secs(10);

/// How long one may wait in line for an upload slot: an asker takes a peer that is silent for long for a dead one.
const LINE: std::time::Duration = std::time::Duration::from_millis(500);

/// Counts of what was given.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Answers to questions.
    pub(crate) answers: AtomicU64,
}

/// What all streams that peers opened are served from.
struct Uploads {
    serve: Arc<dyn Serve>,
    gate: Gate,
    rate: RateCap,
    given: Arc<Given>,
}

/// Takes the streams that peers open, and serves each.
pub(crate) async fn run(
    mut streams: mpsc::Receiver<Inbound>,
    serve: Arc<dyn Serve>,
    upload_slots: usize,
    rate: RateCap,
    given: Arc<Given>,
    shutdown: CancellationToken,
) {
    let uploads = Arc::new(Uploads { serve, gate: Gate::new(upload_slots), rate, given });
    let mut open: HashMap<PeerId, usize> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        // Cancel-safe: each branch only receives.
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                let peer: PeerId = match ended {
                    Ok(peer) => peer,
                    Err(error) => {
                        tracing::error!(%error, "a task that serves a peer died");
                        continue;
                    }
                };
                if let Some(count) = open.get_mut(&peer) {
                    *count -= 1;
                    if *count == 0 {
                        open.remove(&peer);
                    }
                }
            }
            stream = streams.recv() => {
                let Some(Inbound { peer, kind, stream }) = stream else { return };
                let count = open.entry(peer).or_default();
                if *count >= MAX_STREAMS {
                    tracing::debug!(%peer, "the peer has too many streams: one more is refused");
                    continue;
                }
                *count += 1;
                let uploads = uploads.clone();
                tasks.spawn(async move {
                    let (reader, writer) = frame::split(stream);
                    let ended = match kind {
                        Kind::Session => session(peer, reader, writer, &uploads).await,
                        Kind::Chunks => chunks(peer, reader, writer, &uploads).await,
                    };
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "a stream of a peer ended");
                    }
                    peer
                });
            }
        }
    }
}

async fn greet(reader: &mut Reader, writer: &mut Writer) -> Result<(), StreamError> {
    writer.hello();
    let hello: generated::Hello = reader.due().await?;
    negotiate(&hello)?;
    Ok(())
}

async fn session(
    peer: PeerId,
    mut reader: Reader,
    mut writer: Writer,
    Uploads { serve, given, .. }: &Uploads,
) -> Result<(), StreamError> {
    greet(&mut reader, &mut writer).await?;
    let mut answers = FuturesUnordered::new();
    loop {
        // Cancel-safe: a message that is half read stays in the reader's buffer.
        tokio::select! {
            message = reader.message::<generated::SessionMessage>(), if answers.len() < MAX_QUESTIONS => {
                let Some(message) = message? else { return Ok(()) };
                let (id, question) = SessionMessage::from_wire(message)?;
                answers.push(async move {
                    // Whoever asked has given up by then, and gets no answer.
                    (id, tokio::time::timeout(SERVE, answer(peer, question, &**serve)).await.ok())
                });
            }
            Some(first) = answers.next(), if !answers.is_empty() => {
                // What is ready in the same instant leaves in one piece.
                let mut ready = Some(first);
                while let Some((id, answer)) = ready {
                    if let Some(answer) = answer {
                        let answer: Result<SessionMessage, WireError> = answer;
                        given.answers.fetch_add(1, Ordering::Relaxed);
                        writer.queue(&answer?.into_wire(id));
                    }
                    ready = answers.next().now_or_never().flatten();
                }
                writer.flush().await?;
            }
        }
    }
}

async fn answer(
    peer: PeerId,
    question: SessionMessage,
    serve: &dyn Serve,
) -> Result<SessionMessage, WireError> {
    match question {
        SessionMessage::AskBlob(ask) => Ok(SessionMessage::Blob(serve.holding(peer, ask).await)),
        SessionMessage::AskTag(scope, tag, asked) => {
            Ok(SessionMessage::Tag(serve.tag(scope, tag, asked).await))
        }
        SessionMessage::AskVerdict(question) => Ok(SessionMessage::Verdict(serve.verdict(question).await)),
        SessionMessage::Report(key, report) => {
            let (standing, whereabouts) = serve.report(peer, key, report).await;
            Ok(SessionMessage::Standing(standing, whereabouts))
        }
        SessionMessage::Claim(key, claim) => {
            let (answer, whereabouts) = serve.claim(peer, key, claim).await;
            Ok(SessionMessage::ClaimAnswer(answer, whereabouts))
        }
        SessionMessage::AskTurn(ask) => {
            let (answer, whereabouts) = serve.turn(peer, ask).await;
            Ok(SessionMessage::TurnAnswer(answer, whereabouts))
        }
        SessionMessage::TurnEnded(ended) => {
            serve.turn_ended(peer, ended).await;
            Ok(SessionMessage::Heard)
        }
        SessionMessage::TurnAnswer(..)
        | SessionMessage::Heard
        | SessionMessage::Blob(_)
        | SessionMessage::Tag(_)
        | SessionMessage::Verdict(_)
        | SessionMessage::Standing(..)
        | SessionMessage::ClaimAnswer(..) => Err(WireError::Field("body")),
    }
}

/// A reply. With a chunk goes its upload slot, kept until the asker has it.
struct Reply<'a> {
    id: u64,
    chunk: Result<(Bytes, Attestation, Slot<'a>), Refusal>,
}

async fn chunks(
    peer: PeerId,
    mut reader: Reader,
    mut writer: Writer,
    uploads: &Uploads,
) -> Result<(), StreamError> {
    greet(&mut reader, &mut writer).await?;
    let sent = Sent::default();
    let (asked, mut requests) = mpsc::channel(MAX_REQUESTS);
    // Not cancel-safe, and need not be: the stream is given up with what is dropped. Whoever gives up resets it, and
    // that is always listened for, so that its slots are free for others at once.
    tokio::select! {
        ended = hear(&mut reader, &asked, &sent) => ended,
        ended = give(peer, &mut requests, &mut writer, &sent, uploads) => ended,
        never = sent.give_up_late() => match never {},
    }
}

/// Reads what is asked for, and how many chunks the asker says it has.
async fn hear(
    reader: &mut Reader,
    asked: &mpsc::Sender<ChunkRequest>,
    sent: &Sent<'_>,
) -> Result<(), StreamError> {
    while let Some(message) = reader.message::<generated::ChunkRequest>().await? {
        let (received, request) = ChunkRequest::from_wire(&message)?;
        sent.received(received)?;
        if let Some(request) = request {
            asked.try_send(request).map_err(|_| WireError::Field("more requests than may wait"))?;
        }
    }
    Ok(())
}

/// The next request, once its answer may be on its way. Cancel-safe.
async fn next(requests: &mut mpsc::Receiver<ChunkRequest>, sent: &Sent<'_>) -> Option<ChunkRequest> {
    sent.has_room().await;
    requests.recv().await
}

/// Sends what is asked for, in order.
async fn give<'a>(
    peer: PeerId,
    requests: &mut mpsc::Receiver<ChunkRequest>,
    writer: &mut Writer,
    sent: &Sent<'a>,
    uploads: &'a Uploads,
) -> Result<(), StreamError> {
    let mut replies = FuturesOrdered::new();
    loop {
        // Cancel-safe: both only take what is ready.
        tokio::select! {
            request = next(requests, sent), if replies.len() < READ_AHEAD => {
                let Some(request) = request else { return Ok(()) };
                replies.push_back(chunk(peer, request, uploads));
            }
            Some(reply) = replies.next(), if !replies.is_empty() => {
                send(writer, reply, sent, &uploads.rate).await?;
            }
        }
    }
}

async fn chunk(peer: PeerId, request: ChunkRequest, Uploads { serve, gate, .. }: &Uploads) -> Reply<'_> {
    let passed = tokio::time::timeout(LINE, gate.pass(ChunkKey::of(&request.digest, request.chunk))).await;
    let slot = match passed.unwrap_or(Err(Refusal::Busy)) {
        Ok(slot) => slot,
        Err(refusal) => return Reply { id: request.id, chunk: Err(refusal) },
    };
    let reply = serve.chunk(peer, request);
    let reply = tokio::time::timeout(SERVE, reply).await.unwrap_or(Err(Refusal::Missing));
    Reply { id: request.id, chunk: reply.map(|(bytes, attestation)| (bytes, attestation, slot)) }
}

async fn send<'a>(
    writer: &mut Writer,
    Reply { id, chunk }: Reply<'a>,
    sent: &Sent<'a>,
    rate: &RateCap,
) -> Result<(), StreamError> {
    match chunk {
        Err(refusal) => {
            writer.queue(&ChunkReply::Refused(refusal).into_wire(id));
            writer.flush().await
        }
        Ok((bytes, attestation, slot)) => {
            // A chunk is at most 4 MiB.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            writer.queue(&ChunkReply::Chunk { attestation, length }.into_wire(id));
            sent.begins(slot);
            for piece in bytes.chunks(PIECE) {
                rate.pass(piece.len()).await;
                writer.send(piece).await?;
            }
            sent.is_whole();
            writer.flush().await
        }
    }
}
