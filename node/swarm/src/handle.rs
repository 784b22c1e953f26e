//! What the rest of the node asks of the swarm.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use shoal_proto::attestation::{self, Attestation};
use shoal_proto::digest::Digest;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::origin::Origin;
use shoal_proto::swarm::message::{Claim, ClaimAnswer, Report, Standing, SwarmKey};
use shoal_proto::swarm::turn::{AskTurn, TurnAnswer, TurnEnded};
use shoal_proto::tag::SignedTagMapping;
use shoal_proto::verdict::{Question, SignedVerdict};
use shoal_proto::wire::{AskBlob, ChunkRequest, Holding, SessionMessage, Whereabouts};
use tokio::sync::{mpsc, oneshot, watch};

use crate::book::Book;
use crate::bootstrap::{multiaddr, socket_address};
use crate::neighbours::{Neighbours, PeerSummary, is_dialable};
use crate::streams::Open;
use crate::streams::inbound::Given;
use crate::streams::link::Link;
use crate::{AskError, ChunkError, RateCap};

/// How long an answer to a question is waited for.
const ANSWER: Duration = Duration::from_secs(5);
/// Links that are kept; beyond it those to peers that are not connected go.
const MAX_LINKS: usize = 4096;

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
    /// Keys of this node that were announced, each counted once: of blobs and of tags.
    pub announced: u64,
    /// Keys for which this node keeps provider records, its own among them; some a little beyond their time.
    pub keys_kept: u64,
    /// Questions asked of peers.
    pub questions: u64,
    /// Answers given to peers.
    pub answers: u64,
}

/// What the node's task is told.
#[derive(Debug)]
pub(crate) enum Command {
    Announce(Digest),
    Withdraw(Digest),
    Providers { key: Digest, found: mpsc::Sender<PeerId>, limit: usize },
    LocalProviders { key: Digest, reply: oneshot::Sender<Vec<PeerId>> },
}

/// What the node's task shows. Short locks, never held across an await.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) neighbours: Neighbours,
    pub(crate) listening: RwLock<Vec<SocketAddr>>,
    pub(crate) announced: AtomicU64,
    pub(crate) keys_kept: AtomicU64,
    pub(crate) given: Arc<Given>,
    /// Asked of peers.
    pub(crate) questions: AtomicU64,
}

/// The swarm, for the rest of the node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) local: PeerId,
    pub(crate) zone: Option<String>,
    pub(crate) download: RateCap,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) opens: mpsc::Sender<Open>,
    pub(crate) shown: Arc<Shown>,
    pub(crate) joined: watch::Receiver<Joined>,
    pub(crate) book: Book,
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
        self.shown.neighbours.summaries()
    }

    /// Whether a connected peer is in this node's zone; `None` if either does not say where it is.
    pub fn is_near(&self, peer: &PeerId) -> Option<bool> {
        self.shown.neighbours.is_in(peer, self.zone.as_deref()?)
    }

    /// Counts how often a peer came or went; changes with [`Handle::connected`].
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.shown.neighbours.versions()
    }

    /// Where a connected peer says that it can be reached, as multiaddrs: for telling others. Empty for any other peer,
    /// and until a new one has said it.
    pub fn addresses_of(&self, peer: PeerId) -> Vec<String> {
        self.shown.neighbours.addresses_of(&peer).iter().map(ToString::to_string).collect()
    }

    /// Notes where a peer can be reached, as another said: from now on it can be asked like any other. Of the
    /// multiaddrs, those of the form that [`Handle::addresses_of`] gives are kept if they can lead to another node;
    /// the newest four of a peer, and of the 4,096 peers that were noted last.
    pub fn add_addresses(&self, peer: PeerId, addresses: &[String]) {
        if peer == self.local {
            return;
        }
        let loopback = self.shown.neighbours.on_this_machine()
            || self.listen_addresses().iter().all(|address| address.ip().is_loopback());
        let dialable = addresses
            .iter()
            .filter_map(|address| socket_address(&address.parse().ok()?))
            .filter(|address| is_dialable(address, loopback))
            .map(multiaddr);
        self.book.add(peer, dialable);
    }

    /// Whether the others are found; changes with it.
    pub fn joined(&self) -> watch::Receiver<Joined> {
        self.joined.clone()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        Counters {
            announced: self.shown.announced.load(Ordering::Relaxed),
            keys_kept: self.shown.keys_kept.load(Ordering::Relaxed),
            questions: self.shown.questions.load(Ordering::Relaxed),
            answers: self.shown.given.answers.load(Ordering::Relaxed),
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

    /// Who announced `key` to this node, without asking others: at most 20 of them, chosen by chance, this node not
    /// among them. For keys that this node is one of the closest to, these are the providers that there are.
    pub async fn local_providers(&self, key: Digest) -> Vec<PeerId> {
        let (reply, providers) = oneshot::channel();
        // It fails only when the node shuts down.
        self.commands.send(Command::LocalProviders { key, reply }).await.ok();
        providers.await.unwrap_or_default()
    }

    /// Asks a peer which chunks of a blob it has.
    ///
    /// # Errors
    /// [`AskError`] if it does not answer within 5 s.
    pub async fn ask_blob(&self, peer: PeerId, ask: AskBlob) -> Result<Holding, AskError> {
        match self.ask(peer, SessionMessage::AskBlob(ask)).await? {
            SessionMessage::Blob(holding) => Ok(holding),
            _ => Err(AskError::Answer),
        }
    }

    /// Reports to a swarm's home. Where the peers that it names can be reached is noted.
    ///
    /// # Errors
    /// [`AskError`] if it does not answer within 5 s.
    pub async fn report(&self, home: PeerId, key: SwarmKey, report: Report) -> Result<Standing, AskError> {
        match self.ask(home, SessionMessage::Report(key, report)).await? {
            SessionMessage::Standing(standing, whereabouts) => {
                self.note(whereabouts);
                Ok(standing)
            }
            _ => Err(AskError::Answer),
        }
    }

    /// Claims a swarm at a standby. Where the peers that it names can be reached is noted.
    ///
    /// # Errors
    /// [`AskError`] if it does not answer within 5 s.
    pub async fn claim(&self, standby: PeerId, key: SwarmKey, claim: Claim) -> Result<ClaimAnswer, AskError> {
        match self.ask(standby, SessionMessage::Claim(key, claim)).await? {
            SessionMessage::ClaimAnswer(answer, whereabouts) => {
                self.note(whereabouts);
                Ok(answer)
            }
            _ => Err(AskError::Answer),
        }
    }

    /// Asks the home of a key for a turn. Where the peer that it names can be reached is noted.
    ///
    /// # Errors
    /// [`AskError`] if it does not answer within 5 s.
    pub async fn turn(&self, home: PeerId, ask: AskTurn) -> Result<TurnAnswer, AskError> {
        match self.ask(home, SessionMessage::AskTurn(ask)).await? {
            SessionMessage::TurnAnswer(answer, whereabouts) => {
                self.note(whereabouts);
                Ok(answer)
            }
            _ => Err(AskError::Answer),
        }
    }

    /// Says how a turn ended.
    ///
    /// # Errors
    /// [`AskError`] if the home does not answer within 5 s.
    pub async fn turn_ended(&self, home: PeerId, ended: TurnEnded) -> Result<(), AskError> {
        match self.ask(home, SessionMessage::TurnEnded(ended)).await? {
            SessionMessage::Heard => Ok(()),
            _ => Err(AskError::Answer),
        }
    }

    fn note(&self, whereabouts: Whereabouts) {
        for (peer, addresses) in whereabouts {
            self.add_addresses(peer, &addresses);
        }
    }

    /// Asks a peer what a tag named, to the very question `asked` if one is given. The signatures are not verified.
    ///
    /// # Errors
    /// [`AskError`] if it does not answer within 5 s.
    pub async fn ask_tag(
        &self,
        peer: PeerId,
        scope: &Scope,
        tag: &Tag,
        asked: Option<Digest>,
    ) -> Result<Vec<SignedTagMapping>, AskError> {
        match self.ask(peer, SessionMessage::AskTag(scope.clone(), tag.clone(), asked)).await? {
            SessionMessage::Tag(mappings) => Ok(mappings),
            _ => Err(AskError::Answer),
        }
    }

    /// Asks a peer whether upstream let a reader have something. The signature is not verified.
    ///
    /// # Errors
    /// [`AskError`] if it does not answer within 5 s.
    pub async fn ask_verdict(
        &self,
        peer: PeerId,
        question: Question,
    ) -> Result<Option<SignedVerdict>, AskError> {
        match self.ask(peer, SessionMessage::AskVerdict(question)).await? {
            SessionMessage::Verdict(verdict) => Ok(verdict),
            _ => Err(AskError::Answer),
        }
    }

    async fn ask(&self, peer: PeerId, question: SessionMessage) -> Result<SessionMessage, AskError> {
        let link = self.link(peer);
        self.shown.questions.fetch_add(1, Ordering::Relaxed);
        tokio::time::timeout(ANSWER, link.ask(question)).await.map_err(|_| AskError::Gone)?
    }

    /// Asks a peer for a chunk of the blob of this size. The bytes are of the chunk's length and not verified.
    ///
    /// # Errors
    /// [`ChunkError`], after some seconds without progress at the latest.
    pub async fn chunk(
        &self,
        peer: PeerId,
        claim: attestation::Claim,
        origin: Origin,
    ) -> Result<(Bytes, Attestation), ChunkError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let attestation::Claim { digest, size, chunk } = claim;
        self.link(peer).chunk(ChunkRequest { id, digest, size, chunk, origin }).await
    }

    fn link(&self, peer: PeerId) -> Link {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() >= MAX_LINKS && !links.contains_key(&peer) {
            links.retain(|peer, _| self.shown.neighbours.contains(peer));
        }
        links
            .entry(peer)
            .or_insert_with(|| Link::new(peer, self.opens.clone(), self.download.clone()))
            .clone()
    }
}
