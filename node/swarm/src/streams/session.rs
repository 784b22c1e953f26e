//! One session stream that this node opened: questions and answers, many in flight.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_proto::wire::{SessionMessage, generated, negotiate};
use tokio::sync::{mpsc, oneshot};

use super::frame::{self, Reader, StreamError, Writer};

/// Questions that may be unanswered on one session.
const MAX_PENDING: usize = 256;

/// So many questions leave in one piece at most.
const MAX_TOGETHER: usize = 16;

/// A question and who waits for the answer.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) question: SessionMessage,
    pub(super) reply: oneshot::Sender<SessionMessage>,
}

/// Who waits for which answer. A std mutex between the two halves of one stream, held for a map access.
type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<SessionMessage>>>>;

/// Runs a session until its stream fails or nobody can ask any more. Questions that are unanswered then are
/// dropped, which those who wait see.
pub(super) async fn run(stream: libp2p::swarm::Stream, asks: mpsc::Receiver<Ask>) {
    let (reader, writer) = frame::split(stream);
    let pending = Pending::default();
    let ended = tokio::select! {
        ended = write(writer, asks, &pending) => ended,
        ended = read(reader, &pending) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a session ended");
    }
}

async fn write(
    mut writer: Writer,
    mut asks: mpsc::Receiver<Ask>,
    pending: &Pending,
) -> Result<(), StreamError> {
    writer.hello();
    let mut id = 0_u64;
    let mut together = Vec::with_capacity(MAX_TOGETHER);
    // What is asked in the same instant leaves in one piece.
    while asks.recv_many(&mut together, MAX_TOGETHER).await > 0 {
        {
            let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
            // Those who gave up make room.
            pending.retain(|_, reply| !reply.is_closed());
            for Ask { question, reply } in together.drain(..) {
                id += 1;
                if pending.len() < MAX_PENDING {
                    pending.insert(id, reply);
                    writer.queue(&question.into_wire(id));
                }
            }
        }
        writer.flush().await?;
    }
    Ok(())
}

async fn read(mut reader: Reader, pending: &Pending) -> Result<(), StreamError> {
    let Some(hello) = reader.message::<generated::Hello>().await? else { return Ok(()) };
    negotiate(&hello)?;
    while let Some(message) = reader.message::<generated::SessionMessage>().await? {
        let (id, answer) = SessionMessage::from_wire(message)?;
        let waiting = pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        // An answer that nobody waits for any more is late, not wrong.
        if let Some(reply) = waiting {
            drop(reply.send(answer));
        }
    }
    Ok(())
}
