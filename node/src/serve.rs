//! What this node gives to its peers: blobs it holds, chunks of those it is fetching, tags and verdicts it
//! knows; and what it answers as the home of a key.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::digest::Digest;
use shoal_proto::identity::{Keypair, PeerId};
use shoal_proto::name::{Scope, Tag};
use shoal_proto::origin::Origin;
use shoal_proto::swarm::lease::LeaseEnd;
use shoal_proto::swarm::message::{Claim as ClaimMessage, ClaimAnswer, Report, Standing, SwarmKey};
use shoal_proto::swarm::turn::{AskTurn, TurnAnswer, TurnEnded};
use shoal_proto::tag::SignedTagMapping;
use shoal_proto::verdict::{Question, SignedVerdict};
use shoal_proto::wire::{AskBlob, ChunkRequest, Holding, Refusal, Whereabouts};
use shoal_store::{Of, ReadError, Store, StoreError, Whose};
use shoal_swarm::Serve;
use tokio::time::{Instant, timeout};

use crate::access::Access;
use crate::fetch::{Fetcher, Status, TransferHandle};
use crate::homes::Homes;
use crate::metrics::{Direction, Metrics};
use crate::tags::Recent;

/// How long one who follows a running transfer waits for news.
const NEWS: Duration = Duration::from_secs(1);
/// News of all transfers is told so often: each telling costs both ends a message, and those to one peer in the same
/// instant cost little more than one.
const TELL: Duration = Duration::from_millis(80);
/// What a member is told while this node starts.
const LATER: Duration = Duration::from_millis(250);

/// Answers peers from the store and from running transfers.
#[derive(Debug, Clone)]
pub struct NodeServe {
    store: Store,
    keypair: Arc<Keypair>,
    metrics: Metrics,
    access: Access,
    recent: Recent,
    /// What the times at which news is told are counted from.
    began: Instant,
    /// Set once, right after the swarm has started: these need the swarm, and the swarm needs this. Until then only
    /// what is held is given.
    later: Arc<OnceLock<Later>>,
}

/// What serving needs that itself needs the swarm.
#[derive(Debug)]
struct Later {
    fetcher: Fetcher,
    homes: Homes,
    peers: shoal_swarm::Handle,
}

impl NodeServe {
    /// Serves what the store holds; chunks get this node's own signature, since it proved their digest.
    pub fn new(
        store: Store,
        keypair: Arc<Keypair>,
        metrics: Metrics,
        access: Access,
        recent: Recent,
    ) -> Self {
        Self { store, keypair, metrics, access, recent, began: Instant::now(), later: Arc::default() }
    }

    /// Serves running transfers too, and keeps swarms.
    pub fn complete(&self, fetcher: Fetcher, homes: Homes, peers: shoal_swarm::Handle) {
        // A second call would change nothing, and there is none.
        drop(self.later.set(Later { fetcher, homes, peers }));
    }

    async fn holds(self, from: PeerId, ask: AskBlob) -> Holding {
        if let Some(size) = self.held(&ask.digest, ask.origin).await {
            return Holding::Complete { size };
        }
        // A transfer that ends meanwhile has left a held blob behind: that is not nothing.
        match self.takes_part(from, ask).await {
            Some(holding) => holding,
            None => self
                .held(&ask.digest, ask.origin)
                .await
                .map_or(Holding::None, |size| Holding::Complete { size }),
        }
    }

    /// The size of a blob that is held, and known to be of this registry.
    async fn held(&self, digest: &Digest, origin: Origin) -> Option<u64> {
        let held = async {
            let held = self.store.held_of(digest, origin).await?;
            let is_given = self.access.is_for_peers(false) || self.store.whose(digest).await?.everyones;
            Ok::<_, StoreError>(held.filter(|_| is_given))
        };
        match held.await {
            Ok(held) => held.map(|held| held.size),
            Err(error) => {
                tracing::warn!(%error, "the store did not answer a peer's question");
                None
            }
        }
    }

    /// What a running transfer has, for one who may follow it.
    async fn takes_part(&self, from: PeerId, ask: AskBlob) -> Option<Holding> {
        let mut transfer = self.running(ask.digest, ask.origin).await?;
        if let Some(known) = ask.following {
            transfer.follower(from);
            if news(&mut transfer, known, ask.round, self.began).await {
                return Some(Holding::Complete { size: transfer.size });
            }
        }
        let chunks = transfer.have(ask.round).await?;
        Some(Holding::Partial { size: transfer.size, chunks })
    }

    async fn running(&self, digest: Digest, origin: Origin) -> Option<TransferHandle> {
        let transfer = self.later.get()?.fetcher.find(digest).await;
        let is_given =
            |transfer: &TransferHandle| self.access.is_for_peers(transfer.partial().is_everyones());
        transfer.filter(|transfer| transfer.origin == origin && is_given(transfer))
    }

    /// Where these can be reached, as far as they are connected here.
    fn whereabouts(&self, named: impl IntoIterator<Item = PeerId>) -> Whereabouts {
        let Some(later) = self.later.get() else { return Whereabouts::new() };
        let own = later.peers.local_peer();
        let connected = named.into_iter().filter(|&peer| peer != own);
        connected
            .map(|peer| (peer, later.peers.addresses_of(peer)))
            .filter(|(_, addresses)| !addresses.is_empty())
            .collect()
    }

    async fn reported(self, from: PeerId, key: SwarmKey, report: Report) -> (Standing, Whereabouts) {
        let Some(later) = self.later.get() else { return (Standing::Wait(LATER), Whereabouts::new()) };
        let standing = later.homes.report(from, key, report).await;
        let whereabouts = match &standing {
            Standing::Member(membership) => self.whereabouts(membership.members.iter().copied()),
            Standing::Elsewhere(home) => self.whereabouts([*home]),
            Standing::Wait(_) => Whereabouts::new(),
        };
        (standing, whereabouts)
    }

    async fn turned(self, from: PeerId, ask: AskTurn) -> (TurnAnswer, Whereabouts) {
        let Some(later) = self.later.get() else {
            // It will find another home, or none.
            return (TurnAnswer::Failed(LeaseEnd::TROUBLE), Whereabouts::new());
        };
        let answer = later.homes.turn(from, ask).await;
        let whereabouts = match answer {
            TurnAnswer::Done(peer) | TurnAnswer::Elsewhere(peer) => self.whereabouts([peer]),
            TurnAnswer::Go(_) | TurnAnswer::Failed(_) | TurnAnswer::Wait => Whereabouts::new(),
        };
        (answer, whereabouts)
    }

    async fn turn_over(self, from: PeerId, ended: TurnEnded) {
        if let Some(later) = self.later.get() {
            later.homes.turn_ended(from, ended).await;
        }
    }

    async fn claimed(self, from: PeerId, key: SwarmKey, claim: ClaimMessage) -> (ClaimAnswer, Whereabouts) {
        let Some(later) = self.later.get() else {
            return (ClaimAnswer::Granted { epoch: 0, providers: Vec::new() }, Whereabouts::new());
        };
        let answer = later.homes.claim(from, key, claim).await;
        let whereabouts = match &answer {
            ClaimAnswer::Granted { providers, .. } => self.whereabouts(providers.iter().copied()),
            ClaimAnswer::HeldBy { home, .. } => self.whereabouts([*home]),
        };
        (answer, whereabouts)
    }

    async fn gives(self, to: PeerId, request: ChunkRequest) -> Result<(Bytes, Attestation), Refusal> {
        let ChunkRequest { digest, size, chunk, origin, .. } = request;
        let given = self.given(Claim { digest, size, chunk }, origin).await?;
        let bytes = given.0.len() as u64;
        self.metrics.uploaded_bytes(bytes);
        if let Some(later) = self.later.get() {
            self.metrics.between_zones(Direction::Out, later.peers.is_near(&to), bytes);
        }
        Ok(given)
    }

    async fn given(&self, claim: Claim, origin: Origin) -> Result<(Bytes, Attestation), Refusal> {
        let held = match self.held(&claim.digest, origin).await {
            Some(size) => size,
            None => match self.running_chunk(claim, origin).await {
                // It may have ended since the store was asked.
                Err(Refusal::Missing) => self.held(&claim.digest, origin).await.ok_or(Refusal::Missing)?,
                given => return given,
            },
        };
        if held == claim.size { self.held_chunk(claim).await } else { Err(Refusal::Invalid) }
    }

    async fn held_chunk(&self, claim: Claim) -> Result<(Bytes, Attestation), Refusal> {
        match self.store.read_chunk(&claim.digest, claim.chunk).await {
            Ok(read) => {
                let attestation = self.sign(claim, read.hash)?;
                Ok((read.bytes, attestation))
            }
            Err(error) => {
                if matches!(error, ReadError::Damaged { .. }) {
                    tracing::warn!(%error, "a held blob is damaged and is repaired");
                    self.repair(claim).await;
                }
                Err(Refusal::Missing)
            }
        }
    }

    fn sign(&self, claim: Claim, hash: ChunkHash) -> Result<Attestation, Refusal> {
        Attestation::sign(&self.keypair, &claim, hash).map_err(|error| {
            tracing::error!(%error, "cannot sign for a chunk");
            Refusal::Missing
        })
    }

    /// Has the bad chunks fetched again, from where the blob came.
    async fn repair(&self, claim: Claim) {
        let of = async {
            let Whose { mut origins, everyones } = self.store.whose(&claim.digest).await?;
            if origins.is_empty() {
                // It was found beside a new database: from any repository that it was seen in.
                origins = self.store.repositories(&claim.digest).await?;
            }
            Ok::<_, StoreError>(origins.into_iter().next().map(|scope| Of { scope, everyones }))
        };
        let of = of.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the store does not say where the blob came from");
            None
        });
        if let (Some(later), Some(of)) = (self.later.get(), of)
            && let Err(error) = later.fetcher.open(claim.digest, claim.size, of).await
        {
            tracing::warn!(?error, "the repair did not begin");
        }
    }

    async fn running_chunk(&self, claim: Claim, origin: Origin) -> Result<(Bytes, Attestation), Refusal> {
        let transfer = self.running(claim.digest, origin).await.ok_or(Refusal::Missing)?;
        if transfer.size != claim.size {
            return Err(Refusal::Invalid);
        }
        let (bytes, attestation) =
            transfer.partial().read(claim.chunk).await.map_err(|_| Refusal::Missing)?;
        // A chunk that this node vouches for by itself: it survived in a blob whose digest was proven here.
        match attestation {
            Some(attestation) => Ok((bytes, attestation)),
            None => self.sign(claim, ChunkHash::of(&bytes)).map(|attestation| (bytes, attestation)),
        }
    }

    async fn knows(self, scope: Scope, tag: Tag, asked: Option<Digest>) -> Vec<SignedTagMapping> {
        let mut known = if let Some(asked) = asked {
            let said = self.recent.get(&asked).map(|said| said.signed);
            said.filter(|signed| signed.mapping.is_of(&scope, &tag)).into_iter().collect()
        } else {
            self.store.tags(&scope, &tag).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the store did not answer a peer's question for a tag");
                Vec::new()
            })
        };
        known.retain(|signed| self.access.is_for_peers(signed.mapping.public));
        known
    }
}

/// Waits until a running transfer has other than so many chunks for one who is in this round; says whether it came to
/// its good end.
async fn news(transfer: &mut TransferHandle, known: u32, asked: u32, began: Instant) -> bool {
    let changed = |status: &Status| match *status {
        Status::Running { have, round } => known != if round < asked { 0 } else { have },
        Status::Held { .. } | Status::Failed(_) => true,
    };
    let Ok(waited) = timeout(NEWS, transfer.status.wait_for(changed)).await else { return false };
    drop(waited);
    tokio::time::sleep_until(next_telling(began, Instant::now())).await;
    matches!(*transfer.status.borrow(), Status::Held { .. })
}

/// The next time at which news is told.
fn next_telling(began: Instant, now: Instant) -> Instant {
    let ticks = now.duration_since(began).as_millis() / TELL.as_millis() + 1;
    // Below 2^32 for ten years of running; then it is told at once.
    began + TELL * u32::try_from(ticks).unwrap_or(0)
}

impl Serve for NodeServe {
    fn holding(&self, from: PeerId, ask: AskBlob) -> BoxFuture<'static, Holding> {
        self.clone().holds(from, ask).boxed()
    }

    fn report(
        &self,
        from: PeerId,
        key: SwarmKey,
        report: Report,
    ) -> BoxFuture<'static, (Standing, Whereabouts)> {
        self.clone().reported(from, key, report).boxed()
    }

    fn turn(&self, from: PeerId, ask: AskTurn) -> BoxFuture<'static, (TurnAnswer, Whereabouts)> {
        self.clone().turned(from, ask).boxed()
    }

    fn turn_ended(&self, from: PeerId, ended: TurnEnded) -> BoxFuture<'static, ()> {
        self.clone().turn_over(from, ended).boxed()
    }

    fn claim(
        &self,
        from: PeerId,
        key: SwarmKey,
        claim: ClaimMessage,
    ) -> BoxFuture<'static, (ClaimAnswer, Whereabouts)> {
        self.clone().claimed(from, key, claim).boxed()
    }

    fn chunk(
        &self,
        from: PeerId,
        request: ChunkRequest,
    ) -> BoxFuture<'static, Result<(Bytes, Attestation), Refusal>> {
        self.clone().gives(from, request).boxed()
    }

    fn verdict(&self, question: Question) -> BoxFuture<'static, Option<SignedVerdict>> {
        self.access.answer(question)
    }

    fn tag(
        &self,
        scope: Scope,
        tag: Tag,
        asked: Option<Digest>,
    ) -> BoxFuture<'static, Vec<SignedTagMapping>> {
        self.clone().knows(scope, tag, asked).boxed()
    }
}
