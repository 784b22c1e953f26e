//! What this node asks of one peer: one session, and a few chunk lanes that are opened as they are needed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use shoal_proto::attestation::Attestation;
use shoal_proto::wire::{ChunkRequest, SessionMessage};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::lane::{self, PIPELINE};
use super::{Kind, Open, OpenError, session};
use crate::{AskError, ChunkError};

/// Chunk streams to one peer: a second one covers the gap while the first waits for its window.
const LANES: usize = 2;
/// Questions that may wait to be sent.
const QUESTIONS: usize = 64;
/// How long a stream may take to open, the dial included.
const OPEN: Duration = Duration::from_secs(5);

/// The streams to one peer. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    peer: PeerId,
    opens: mpsc::Sender<Open>,
    /// Senders to the tasks that run the streams; a closed one is replaced. A std mutex, never held across an
    /// await.
    senders: Arc<Mutex<Senders>>,
    /// One opens at a time, so that many requests to a new peer share one stream.
    opening: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Senders {
    session: Option<mpsc::Sender<session::Ask>>,
    lanes: Vec<mpsc::Sender<lane::Ask>>,
}

impl Link {
    pub(crate) fn new(peer: PeerId, opens: mpsc::Sender<Open>) -> Self {
        Self { peer, opens, senders: Arc::default(), opening: Arc::default() }
    }

    /// Asks a question and waits for its answer, for as long as the caller does.
    pub(crate) async fn ask(&self, question: SessionMessage) -> Result<SessionMessage, AskError> {
        let session = self.session().await?;
        let (reply, answer) = oneshot::channel();
        session.send(session::Ask { question, reply }).await.map_err(|_| AskError::Gone)?;
        answer.await.map_err(|_| AskError::Gone)
    }

    /// Asks for a chunk and waits until it is here, or the lane has stalled.
    pub(crate) async fn chunk(&self, request: ChunkRequest) -> Result<(Bytes, Attestation), ChunkError> {
        let lane = self.lane().await?;
        let (reply, answer) = oneshot::channel();
        lane.send(lane::Ask { request, reply }).await.map_err(|_| ChunkError::Gone)?;
        answer.await.map_err(|_| ChunkError::Gone)?
    }

    fn senders(&self) -> std::sync::MutexGuard<'_, Senders> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_session(&self) -> Option<mpsc::Sender<session::Ask>> {
        self.senders().session.clone().filter(|session| !session.is_closed())
    }

    async fn session(&self) -> Result<mpsc::Sender<session::Ask>, OpenError> {
        if let Some(session) = self.open_session() {
            return Ok(session);
        }
        let _turn = self.opening.lock().await;
        if let Some(session) = self.open_session() {
            return Ok(session);
        }
        let stream = self.open(Kind::Session).await?;
        let (session, asks) = mpsc::channel(QUESTIONS);
        tokio::spawn(session::run(stream, asks));
        self.senders().session = Some(session.clone());
        Ok(session)
    }

    /// The lane with the most room, or `None` if another should be opened first.
    fn open_lane(&self) -> Option<mpsc::Sender<lane::Ask>> {
        let mut senders = self.senders();
        senders.lanes.retain(|lane| !lane.is_closed());
        let roomiest = senders.lanes.iter().max_by_key(|lane| lane.capacity())?;
        (roomiest.capacity() == PIPELINE || senders.lanes.len() >= LANES).then(|| roomiest.clone())
    }

    async fn lane(&self) -> Result<mpsc::Sender<lane::Ask>, OpenError> {
        if let Some(lane) = self.open_lane() {
            return Ok(lane);
        }
        let _turn = self.opening.lock().await;
        if let Some(lane) = self.open_lane() {
            return Ok(lane);
        }
        let stream = self.open(Kind::Chunks).await?;
        let (lane, asks) = mpsc::channel(PIPELINE);
        tokio::spawn(lane::run(stream, asks));
        self.senders().lanes.push(lane.clone());
        Ok(lane)
    }

    async fn open(&self, kind: Kind) -> Result<libp2p::swarm::Stream, OpenError> {
        let (reply, opened) = oneshot::channel();
        let open = Open { peer: self.peer, kind, reply };
        let stream = async {
            self.opens.send(open).await.map_err(|_| OpenError::Closed)?;
            opened.await.map_err(|_| OpenError::Closed)?
        };
        let late = |_| OpenError::Unreachable(format!("no stream within {} s", OPEN.as_secs()));
        timeout(OPEN, stream).await.map_err(late)?
    }
}
