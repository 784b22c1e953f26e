//! What the rest of the node asks of the swarm.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use shoal_proto::attestation::Attestation;
use shoal_proto::digest::Digest;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::tag::SignedTagMapping;
use shoal_proto::wire::{ChunkRequest, Holding, SessionMessage};
use tokio::sync::{mpsc, watch};

use crate::streams::Open;
use crate::streams::inbound::Given;
use crate::streams::link::Link;
use crate::{AskError, ChunkError};

/// How long an answer to a question is waited for.
const ANSWER: Duration = Duration::from_secs(5);
/// Links that are kept; beyond it those to peers that are not connected go.
const MAX_LINKS: usize = 4096;

/// A connected peer.
#[derive(Debug, Clone)]
pub struct PeerSummary {
    /// Who.
    pub peer: PeerId,
    /// Where, as seen from here.
    pub address: Multiaddr,
    /// Since when.
    pub since: Instant,
}

/// Whether this node has found the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Joined {
    /// A peer is connected.
    pub joined: bool,
    /// Every bootstrap address was tried, or there is none.
    pub tried: bool,
}

/// What the swarm counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Announcements made, repeated ones included.
    pub announced: u64,
    /// Chunks given to peers.
    pub chunks_given: u64,
    /// Chunk requests that were told to go elsewhere.
    pub busy: u64,
}

/// What the node's task is told.
#[derive(Debug)]
pub(crate) enum Command {
    Announce(Digest),
    Withdraw(Digest),
    Providers { key: Digest, found: mpsc::Sender<PeerId>, limit: usize },
}

/// What the node's task shows. Short locks, never held across an await.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) connected: RwLock<Vec<PeerSummary>>,
    pub(crate) listening: RwLock<Vec<SocketAddr>>,
    pub(crate) announced: AtomicU64,
    pub(crate) given: Arc<Given>,
}

/// The swarm, for the rest of the node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) local: PeerId,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) opens: mpsc::Sender<Open>,
    pub(crate) shown: Arc<Shown>,
    pub(crate) joined: watch::Receiver<Joined>,
    pub(crate) links: Arc<Mutex<HashMap<PeerId, Link>>>,
}

impl Handle {
    /// Who this node is.
    pub fn local_peer(&self) -> PeerId {
        self.local
    }

    /// Where peers are listened for.
    pub fn listen_addresses(&self) -> Vec<SocketAddr> {
        self.shown.listening.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who is connected.
    pub fn connected(&self) -> Vec<PeerSummary> {
        self.shown.connected.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the others are found; changes with it.
    pub fn joined(&self) -> watch::Receiver<Joined> {
        self.joined.clone()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        Counters {
            announced: self.shown.announced.load(Ordering::Relaxed),
            chunks_given: self.shown.given.chunks.load(Ordering::Relaxed),
            busy: self.shown.given.busy.load(Ordering::Relaxed),
        }
    }

    /// Announces that this node has what `key` names: soon, and from time to time.
    pub async fn announce(&self, key: Digest) {
        // It fails only when the node shuts down: then nobody is to find it.
        self.commands.send(Command::Announce(key)).await.ok();
    }

    /// Announces it no longer. What others were told stays until it runs out.
    pub async fn withdraw(&self, key: Digest) {
        self.commands.send(Command::Withdraw(key)).await.ok();
    }

    /// Looks for those who announced `key`, at most `limit` of them, this node not among them. The lookup ends
    /// when the receiver is dropped.
    pub async fn providers(&self, key: Digest, limit: usize) -> mpsc::Receiver<PeerId> {
        let (found, providers) = mpsc::channel(limit.clamp(1, 64));
        self.commands.send(Command::Providers { key, found, limit }).await.ok();
        providers
    }

    /// Asks a peer which chunks of a blob it has.
    ///
    /// # Errors
    /// [`AskError`] if it does not answer within 5 s.
    pub async fn ask_blob(&self, peer: PeerId, digest: &Digest) -> Result<Holding, AskError> {
        match self.ask(peer, SessionMessage::AskBlob(*digest)).await? {
            SessionMessage::Blob(holding) => Ok(holding),
            _ => Err(AskError::Answer),
        }
    }

    /// Asks a peer what a tag named. The signatures are not verified.
    ///
    /// # Errors
    /// [`AskError`] if it does not answer within 5 s.
    pub async fn ask_tag(
        &self,
        peer: PeerId,
        scope: &Scope,
        tag: &Tag,
    ) -> Result<Vec<SignedTagMapping>, AskError> {
        match self.ask(peer, SessionMessage::AskTag(scope.clone(), tag.clone())).await? {
            SessionMessage::Tag(mappings) => Ok(mappings),
            _ => Err(AskError::Answer),
        }
    }

    async fn ask(&self, peer: PeerId, question: SessionMessage) -> Result<SessionMessage, AskError> {
        let link = self.link(peer);
        tokio::time::timeout(ANSWER, link.ask(question)).await.map_err(|_| AskError::Gone)?
    }

    /// Asks a peer for a chunk of the blob of this size. The bytes are of the chunk's length and not verified.
    ///
    /// # Errors
    /// [`ChunkError`], after some seconds without progress at the latest.
    pub async fn chunk(
        &self,
        peer: PeerId,
        digest: &Digest,
        size: u64,
        chunk: u32,
    ) -> Result<(Bytes, Attestation), ChunkError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.link(peer).chunk(ChunkRequest { id, digest: *digest, size, chunk }).await
    }

    fn link(&self, peer: PeerId) -> Link {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() >= MAX_LINKS && !links.contains_key(&peer) {
            let connected: std::collections::HashSet<PeerId> =
                self.connected().into_iter().map(|summary| summary.peer).collect();
            links.retain(|peer, _| connected.contains(peer));
        }
        links.entry(peer).or_insert_with(|| Link::new(peer, self.opens.clone())).clone()
    }
}
