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
use crate::{AskError, ChunkError, RateCap};

/// Chunk streams to one peer: a second one covers the gap while the first waits for its window.
const LANES: usize = 2;
/// Questions that may wait to be sent.
const QUESTIONS: usize = 64;
/// How often a chunk is asked for: one lane may die as the request was made, and one while it was being opened.
const TRIES: usize = 3;
/// How long a stream may take to open, the dial included.
const OPEN: Duration = Duration::from_secs(5);
/// How long the swarm may take to hear that a connection ended.
const ENDED: Duration = Duration::from_millis(50);

/// The streams to one peer. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    peer: PeerId,
    opens: mpsc::Sender<Open>,
    rate: RateCap,
    /// Senders to the tasks that run the streams; a closed one is replaced. A std mutex, never held across an
    /// await.
    senders: Arc<Mutex<Senders>>,
    /// One opens at a time, so that many requests to a new peer share one stream.
    opening: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Senders {
    session: Option<mpsc::Sender<session::Ask>>,
    lanes: Vec<Lane>,
    /// Lanes opened so far.
    opened: u64,
    /// Lanes up to this number may be on a connection that died: nothing more is asked of them.
    suspect: u64,
}

#[derive(Debug, Clone)]
struct Lane {
    asks: mpsc::Sender<lane::Ask>,
    /// The how-manieth it is.
    number: u64,
}

impl Senders {
    /// A lane died. The others that are open by then may have been on the same connection; those opened since the
    /// first of them died are not.
    fn died(&mut self, number: u64) {
        if number > self.suspect {
            self.suspect = self.opened;
        }
    }
}

impl Link {
    pub(crate) fn new(peer: PeerId, opens: mpsc::Sender<Open>, rate: RateCap) -> Self {
        Self { peer, opens, rate, senders: Arc::default(), opening: Arc::default() }
    }

    /// Asks a question and waits for its answer, for as long as the caller does.
    ///
    /// A session that turns out to be dead says nothing of the peer, which may have come back meanwhile: the question
    /// is asked once more, on a new one.
    pub(crate) async fn ask(&self, question: SessionMessage) -> Result<SessionMessage, AskError> {
        let (first, answer) = self.ask_once(question.clone()).await?;
        match answer {
            // One that lives has too much to do.
            None if first.is_closed() => self.ask_once(question).await?.1.ok_or(AskError::Gone),
            None => Err(AskError::Gone),
            Some(answer) => Ok(answer),
        }
    }

    async fn ask_once(
        &self,
        question: SessionMessage,
    ) -> Result<(mpsc::Sender<session::Ask>, Option<SessionMessage>), AskError> {
        let session = self.session().await?;
        let (reply, answer) = oneshot::channel();
        if session.send(session::Ask { question, reply }).await.is_err() {
            return Ok((session, None));
        }
        let answer = answer.await.ok();
        Ok((session, answer))
    }

    /// Asks for a chunk and waits until it is here, or the lane has stalled.
    ///
    /// A lane that dies before it answers says nothing of the peer, which may have come back meanwhile: the request
    /// is made again, on a lane that is newer than all that were open then. If the peer is gone for good, no such lane
    /// can be opened.
    pub(crate) async fn chunk(&self, request: ChunkRequest) -> Result<(Bytes, Attestation), ChunkError> {
        for _ in 0..TRIES {
            let lane = self.lane().await?;
            let (reply, answer) = oneshot::channel();
            if lane.asks.send(lane::Ask { request, reply }).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return answer;
            }
            self.senders().died(lane.number);
        }
        Err(ChunkError::Gone)
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

    /// The lane with the most room, or `None` if another should be opened first. Suspect ones are left to end with
    /// what was asked of them.
    fn open_lane(&self) -> Option<Lane> {
        let mut senders = self.senders();
        let suspect = senders.suspect;
        senders.lanes.retain(|lane| !lane.asks.is_closed() && lane.number > suspect);
        let roomiest = senders.lanes.iter().max_by_key(|lane| lane.asks.capacity())?;
        (roomiest.asks.capacity() == PIPELINE || senders.lanes.len() >= LANES).then(|| roomiest.clone())
    }

    async fn lane(&self) -> Result<Lane, OpenError> {
        if let Some(lane) = self.open_lane() {
            return Ok(lane);
        }
        let _turn = self.opening.lock().await;
        if let Some(lane) = self.open_lane() {
            return Ok(lane);
        }
        let stream = self.open(Kind::Chunks).await?;
        let (asks, inbox) = mpsc::channel(PIPELINE);
        tokio::spawn(lane::run(stream, inbox, self.rate.clone()));
        let mut senders = self.senders();
        senders.opened += 1;
        let lane = Lane { asks, number: senders.opened };
        senders.lanes.push(lane.clone());
        Ok(lane)
    }

    /// Opens a stream. A connection that ends under it is no answer: there may be a newer one, or none, which a dial
    /// then finds out.
    async fn open(&self, kind: Kind) -> Result<libp2p::swarm::Stream, OpenError> {
        let late = |_| OpenError::Unreachable(format!("no stream within {} s", OPEN.as_secs()));
        let opened = async {
            match self.open_once(kind).await {
                Err(OpenError::Closed) => {
                    // The swarm is about to hear of it.
                    tokio::time::sleep(ENDED).await;
                    self.open_once(kind).await
                }
                opened => opened,
            }
        };
        timeout(OPEN, opened).await.map_err(late)?
    }

    async fn open_once(&self, kind: Kind) -> Result<libp2p::swarm::Stream, OpenError> {
        let (reply, opened) = oneshot::channel();
        let open = Open { peer: self.peer, kind, reply };
        self.opens.send(open).await.map_err(|_| OpenError::Closed)?;
        opened.await.map_err(|_| OpenError::Closed)?
    }
}
