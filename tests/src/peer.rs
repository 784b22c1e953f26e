//! A peer inside the test process: Shoal's own swarm, giving what a test wants it to give.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::identity::{Keypair, PeerId};
use shoal_proto::name::{Scope, Tag};
use shoal_proto::tag::SignedTagMapping;
use shoal_proto::wire::{AskBlob, ChunkRequest, Holding, Refusal};
use shoal_swarm::cluster_key::ClusterKey;
use shoal_swarm::{Config, Handle, Serve};
use tokio_util::sync::CancellationToken;

/// What a peer does with the chunks that are asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// It gives them.
    Honest,
    /// It gives other bytes than it signs for.
    OtherBytes,
    /// It gives other bytes and signs for them.
    FalseWord,
    /// It gives them, and says that it has them only to who takes part in the blob's swarm.
    Shy,
    /// It never answers.
    Stalls,
    /// It gives so many and is gone when the next is asked for.
    Vanishes(u64),
}

/// A member of the cluster that says it holds some blobs whole. It is gone when dropped.
#[derive(Debug)]
pub struct Peer {
    /// What it can ask of others.
    pub handle: Handle,
    served: Arc<Served>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Served {
    keypair: Keypair,
    blobs: HashMap<Digest, Bytes>,
    habit: Habit,
    /// How many chunks were asked of it, by blob.
    asked: Mutex<HashMap<Digest, u64>>,
    stop: CancellationToken,
}

impl Peer {
    /// Joins the cluster of the node at `bootstrap`.
    ///
    /// # Errors
    /// If the node is not reached, or does not let it in.
    pub async fn join(
        bootstrap: SocketAddr,
        key: ClusterKey,
        habit: Habit,
        blobs: impl IntoIterator<Item = Bytes>,
    ) -> Result<Self> {
        Self::join_as(Keypair::generate_ed25519(), bootstrap, key, habit, blobs).await
    }

    /// The same, as this identity.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub async fn join_as(
        keypair: Keypair,
        bootstrap: SocketAddr,
        key: ClusterKey,
        habit: Habit,
        blobs: impl IntoIterator<Item = Bytes>,
    ) -> Result<Self> {
        let stop = CancellationToken::new();
        let mut config = Config::new(keypair.clone(), SocketAddr::from(([127, 0, 0, 1], 0)));
        config.cluster_key = Some(key);
        config.bootstrap = vec![bootstrap.to_string().parse()?];
        let blobs = blobs.into_iter().map(|blob| (Digest::sha256_of(&blob), blob)).collect();
        let served = Served { keypair, blobs, habit, asked: Mutex::default(), stop: stop.clone() };
        let served = Arc::new(served);
        let serve = Serving(served.clone());
        let (handle, _) = shoal_swarm::start(config, Arc::new(serve), stop.clone()).await?;
        let peer = Self { handle, served, stop };
        let mut joined = peer.handle.joined();
        let joined = joined.wait_for(|joined| joined.joined);
        tokio::time::timeout(crate::node::START, joined).await.context("the peer does not join")??;
        Ok(peer)
    }

    /// How many chunks of a blob were asked of it.
    pub fn asked(&self, digest: &str) -> u64 {
        let asked = self.served.asked.lock().unwrap_or_else(PoisonError::into_inner);
        digest.parse().ok().and_then(|digest: Digest| asked.get(&digest).copied()).unwrap_or_default()
    }

    /// Whether it is gone: by its habit, at a moment of its own choosing.
    pub fn is_gone(&self) -> bool {
        self.stop.is_cancelled()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Served {
    fn holds(&self, digest: &Digest) -> Holding {
        self.blobs.get(digest).map_or(Holding::None, |blob| Holding::Complete { size: blob.len() as u64 })
    }

    /// The chunk as it is, if this is a chunk of a blob that is held.
    fn chunk(&self, claim: &Claim) -> Option<Bytes> {
        let blob = self.blobs.get(&claim.digest).filter(|blob| blob.len() as u64 == claim.size)?;
        let range = ChunkLayout::of(claim.size).ok()?.range(claim.chunk)?;
        Some(blob.slice(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?))
    }

    /// Counts a request, and says which of this blob's it is, from 1.
    fn count(&self, digest: Digest) -> u64 {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = asked.entry(digest).or_default();
        *asked += 1;
        *asked
    }

    fn sign(&self, claim: &Claim, bytes: &[u8]) -> Result<Attestation, Refusal> {
        Attestation::sign(&self.keypair, claim, ChunkHash::of(bytes)).map_err(|_| Refusal::Missing)
    }

    async fn give(&self, claim: Claim) -> Result<(Bytes, Attestation), Refusal> {
        let chunk = self.chunk(&claim).ok_or(Refusal::Missing)?;
        let number = self.count(claim.digest);
        match self.habit {
            Habit::Honest | Habit::Shy => {}
            Habit::Vanishes(after) if number <= after => {}
            Habit::OtherBytes => return Ok((other(&chunk), self.sign(&claim, &chunk)?)),
            Habit::FalseWord => {
                let chunk = other(&chunk);
                return Ok((chunk.clone(), self.sign(&claim, &chunk)?));
            }
            Habit::Stalls => std::future::pending::<()>().await,
            Habit::Vanishes(_) => {
                self.stop.cancel();
                std::future::pending::<()>().await;
            }
        }
        Ok((chunk.clone(), self.sign(&claim, &chunk)?))
    }
}

/// The same bytes, one of them wrong.
fn other(bytes: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(&bytes[..]);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.freeze()
}

/// What the swarm asks: the one place that follows its trait.
struct Serving(Arc<Served>);

impl Serve for Serving {
    fn holding(&self, _: PeerId, ask: AskBlob) -> BoxFuture<'static, Holding> {
        let shy = self.0.habit == Habit::Shy && ask.following.is_none();
        let holding = if shy { Holding::None } else { self.0.holds(&ask.digest) };
        async move { holding }.boxed()
    }

    fn chunk(
        &self,
        _: PeerId,
        ChunkRequest { digest, size, chunk, .. }: ChunkRequest,
    ) -> BoxFuture<'static, Result<(Bytes, Attestation), Refusal>> {
        let served = self.0.clone();
        async move { served.give(Claim { digest, size, chunk }).await }.boxed()
    }

    fn tag(&self, _: Scope, _: Tag, _: Option<Digest>) -> BoxFuture<'static, Vec<SignedTagMapping>> {
        async { Vec::new() }.boxed()
    }
}
