//! Fetching blobs: one task a blob, however many want it.
//!
//! ```text
//! gateway: GET blob ─► source ─► Fetcher::open ─► driver (one task) ─► proto: Transfer (decides)
//!                                   │                │  ├─ discovery: who has it?
//!                        reader ◄───┘                │  ├─ chunks from peers, checked, stored
//!                        (bytes in order)            │  └─ ranges from upstream, cut, vouched for, stored
//!                                                    └─► store: digest proven, blob held, announced
//! ```
//!
//! [`Fetcher`] is the handle; its desk (an actor) owns the table of running transfers, so that a blob is fetched
//! once at a time. Each transfer is a task that owns its [`shoal_proto::transfer::Transfer`] and its partial
//! blob. It goes on when its clients leave, and stops with the node; what it stored until then is resumed.

use std::sync::Arc;

use fixedbitset::FixedBitSet;
use shoal_gateway::error::PullError;
use shoal_gateway::upstream::Upstreams;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::identity::{Keypair, PeerId};
use shoal_proto::name::Scope;
use shoal_proto::origin::Origin;
use shoal_store::{Of, Partial, Store};
use shoal_swarm::RateCap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::history::History;
use crate::homes::Homes;
use crate::metrics::Metrics;
use crate::run::{Parts, named};

pub mod barred;
mod desk;
pub(crate) mod discovery;
mod driver;
mod range;
pub mod reader;
pub mod room;
pub mod small;

use barred::Barred;
use desk::Desk;

/// Requests to the desk that may wait.
const DESK_QUEUE: usize = 256;

/// What fetching works with.
#[derive(Clone)]
pub struct Ports {
    /// Where blobs are kept.
    pub store: Store,
    /// The other nodes.
    pub peers: shoal_swarm::Handle,
    /// The swarms that this node keeps, and who keeps others.
    pub homes: Homes,
    /// The registries.
    pub upstreams: Upstreams,
    /// Signs for what this node fetched from upstream.
    pub keypair: Arc<Keypair>,
    /// Counts.
    pub metrics: Metrics,
    /// Peers that are not asked for now.
    pub barred: Barred,
    /// How fast blobs may come.
    pub rates: Rates,
    /// What became of what was asked for.
    pub history: History,
    /// There is no cluster: what peers say of upstream is anybody's word.
    pub is_alone: bool,
}

impl Ports {
    /// Counts bytes of a blob that came from a registry, and waits as long as the caps on them say.
    pub async fn came_from_upstream(&self, length: usize) {
        self.metrics.upstream_bytes(length as u64);
        self.rates.upstream.pass(length).await;
        self.rates.download.pass(length).await;
    }
}

/// Caps on what comes, beside the one on uploads, which the swarm keeps.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// From peers and upstream together.
    pub download: RateCap,
    /// From upstream registries.
    pub upstream: RateCap,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// How a transfer stands.
#[derive(Debug, Clone)]
pub enum Status {
    /// So many chunks are stored.
    Running {
        /// Chunks stored.
        have: u32,
        /// Which time it is fetched, from 0.
        round: u32,
    },
    /// The digest is proven and the blob is held.
    Held {
        /// Which time it came out.
        round: u32,
    },
    /// It cannot be had.
    Failed(PullError),
}

/// What a running transfer is asked.
#[derive(Debug)]
enum Question {
    /// A reader waits for this chunk. One that reads a part of the blob gets the last chunk without a proof of the whole.
    Want { reader: u64, chunk: u32, of_a_part: bool, reply: oneshot::Sender<Given> },
    /// A reader left.
    Gone { reader: u64 },
    /// Another repository that the blob is in.
    AlsoIn(Scope),
    /// Which chunks are stored, of use to one who is in this round?
    Have { round: u32, reply: oneshot::Sender<FixedBitSet> },
    /// A peer follows this transfer: it takes part, and can be asked too.
    Follower(PeerId),
}

/// A chunk for a reader.
#[derive(Debug)]
enum Given {
    /// It just came.
    Bytes(bytes::Bytes),
    /// It is in the partial blob.
    Stored,
}

/// A running transfer, to wait for and to ask.
#[derive(Debug, Clone)]
pub struct TransferHandle {
    /// The blob's size in bytes.
    pub size: u64,
    /// The registry that it is fetched from: its swarm is of this one.
    pub origin: Origin,
    partial: Partial,
    questions: mpsc::Sender<Question>,
    /// How it stands.
    pub status: watch::Receiver<Status>,
}

impl TransferHandle {
    /// For one who asks for it, too, as so many bytes, if what comes is for these as well.
    fn joined(self, size: u64, of: Of) -> Result<Self, OpenError> {
        // Whose it is comes first: to others its size is not told.
        if !self.partial.join(&of) {
            return Err(OpenError::OfAnother(self.partial.digest()));
        }
        if self.size != size {
            return Err(other_size(&self.partial.digest(), self.size, size));
        }
        // Its swarm is of one registry, and what everyone may read does not come from where not everyone may.
        if of.origin() == self.origin && (of.everyones || !self.partial.is_everyones()) {
            // Its queue may be full of questions: then this repository is not needed.
            drop(self.questions.try_send(Question::AlsoIn(of.scope)));
        }
        Ok(self)
    }

    /// Its size, for one who may have what comes.
    pub fn size_for(&self, of: &Of) -> Option<u64> {
        self.partial.admits(of).then_some(self.size)
    }

    /// Waits until the blob is held, or cannot be had.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn finished(&mut self) -> Result<(), PullError> {
        let ended = self.status.wait_for(|status| !matches!(status, Status::Running { .. })).await;
        match ended.as_deref() {
            Ok(Status::Failed(error)) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(PullError::Unavailable("the node is shutting down".to_owned())),
        }
    }

    /// Which time the blob is fetched, or was when it came out: what was read in an earlier one may be wrong.
    fn round(&self) -> u32 {
        match *self.status.borrow() {
            Status::Running { round, .. } | Status::Held { round } => round,
            Status::Failed(_) => 0,
        }
    }

    /// Which chunks are stored now, of use to one who is in this round: none where that is a later one.
    pub async fn have(&self, round: u32) -> Option<FixedBitSet> {
        let (reply, answer) = oneshot::channel();
        self.questions.send(Question::Have { round, reply }).await.ok()?;
        answer.await.ok()
    }

    /// A peer follows this transfer. One that is not noted for want of room asks again.
    pub fn follower(&self, peer: PeerId) {
        drop(self.questions.try_send(Question::Follower(peer)));
    }

    /// A stored chunk and who vouches for it, to serve it to a peer.
    pub fn partial(&self) -> &Partial {
        &self.partial
    }
}

fn other_size(digest: &Digest, known: u64, asked: u64) -> OpenError {
    OpenError::Failed(PullError::Content(format!(
        "{digest} is being fetched as {known} bytes and was now asked for as {asked}"
    )))
}

/// Why a transfer does not begin.
#[derive(Debug, Clone)]
pub enum OpenError {
    /// The blob is on its way for another registry's clients, or held for them.
    OfAnother(Digest),
    /// It cannot be had.
    Failed(PullError),
}

impl From<PullError> for OpenError {
    fn from(error: PullError) -> Self {
        Self::Failed(error)
    }
}

impl From<OpenError> for PullError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::OfAnother(digest) => {
                Self::Unavailable(format!("{digest} is being fetched from another registry"))
            }
            OpenError::Failed(error) => error,
        }
    }
}

/// One line of what is being fetched.
#[derive(Debug, Clone)]
pub struct InProgress {
    /// Which blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Chunks stored.
    pub have: u32,
}

impl InProgress {
    /// Bytes stored, to the chunk.
    pub fn have_bytes(&self) -> u64 {
        let chunk = ChunkLayout::of(self.size).map_or(0, |layout| layout.chunk_size());
        u64::from(self.have).saturating_mul(chunk).min(self.size)
    }
}

enum Command {
    Open { digest: Digest, size: u64, of: Of, reply: oneshot::Sender<Result<TransferHandle, OpenError>> },
    Find { digest: Digest, reply: oneshot::Sender<Option<TransferHandle>> },
    List { reply: oneshot::Sender<Vec<InProgress>> },
}

/// Opens transfers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    commands: mpsc::Sender<Command>,
}

impl Fetcher {
    /// Starts the desk. It ends with `shutdown`.
    pub fn start(ports: Ports, tasks: &mut Parts, shutdown: CancellationToken) -> Self {
        let (commands, queue) = mpsc::channel(DESK_QUEUE);
        tasks.spawn(named("the desk of transfers", Desk::new(ports).run(queue, shutdown)));
        Self { commands }
    }

    /// Begins to fetch a blob, or joins whoever already does.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot even begin: it is another's, too large, or the disk fails.
    pub async fn open(&self, digest: Digest, size: u64, of: Of) -> Result<TransferHandle, OpenError> {
        let (reply, answer) = oneshot::channel();
        let closing = || PullError::Unavailable("the node is shutting down".to_owned());
        self.commands.send(Command::Open { digest, size, of, reply }).await.map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?
    }

    /// The running transfer of this blob, if there is one.
    pub async fn find(&self, digest: Digest) -> Option<TransferHandle> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Find { digest, reply }).await.ok()?;
        answer.await.ok()?
    }

    /// Everything that is being fetched.
    pub async fn in_progress(&self) -> Vec<InProgress> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::List { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }
}
