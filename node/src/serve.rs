//! What this node gives to its peers: blobs it holds, chunks of those it is fetching, tags it knows.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::digest::Digest;
use shoal_proto::identity::Keypair;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::tag::SignedTagMapping;
use shoal_proto::wire::{Holding, Refusal};
use shoal_store::{ReadError, Store};
use shoal_swarm::Serve;

use crate::fetch::Fetcher;
use crate::metrics::Metrics;

/// Answers peers from the store and from running transfers.
#[derive(Debug, Clone)]
pub struct NodeServe {
    store: Store,
    keypair: Arc<Keypair>,
    metrics: Metrics,
    /// Set once, right after the swarm has started: the fetcher needs the swarm, and the swarm needs this. Until
    /// then only what is held is given.
    fetcher: Arc<OnceLock<Fetcher>>,
}

impl NodeServe {
    /// Serves what the store holds; chunks get this node's own signature, since it proved their digest.
    pub fn new(store: Store, keypair: Arc<Keypair>, metrics: Metrics) -> Self {
        Self { store, keypair, metrics, fetcher: Arc::default() }
    }

    /// Serves running transfers too.
    pub fn with_fetcher(&self, fetcher: Fetcher) {
        // A second call would change nothing, and there is none.
        drop(self.fetcher.set(fetcher));
    }

    async fn holds(self, digest: Digest) -> Holding {
        match self.store.held(&digest).await {
            Ok(Some(held)) => return Holding::Complete { size: held.size },
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the store did not answer a peer's question");
                return Holding::None;
            }
        }
        let Some(transfer) = self.running(digest).await else { return Holding::None };
        match transfer.have().await {
            Some(chunks) => Holding::Partial { size: transfer.size, chunks },
            None => Holding::None,
        }
    }

    async fn running(&self, digest: Digest) -> Option<crate::fetch::TransferHandle> {
        self.fetcher.get()?.find(digest).await
    }

    async fn gives(self, claim: Claim) -> Result<(Bytes, Attestation), Refusal> {
        let given = match self.store.held(&claim.digest).await {
            Ok(Some(held)) if held.size == claim.size => self.held_chunk(claim).await,
            Ok(Some(_)) => Err(Refusal::Invalid),
            Ok(None) => self.running_chunk(claim).await,
            Err(error) => {
                tracing::warn!(%error, "the store did not answer a peer's request");
                Err(Refusal::Missing)
            }
        }?;
        self.metrics.uploaded_bytes(given.0.len() as u64);
        Ok(given)
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

    /// Has the bad chunks fetched again, from any repository that the blob was seen in.
    async fn repair(&self, claim: Claim) {
        let scope = match self.store.repositories(&claim.digest).await {
            Ok(scopes) => scopes.into_iter().next(),
            Err(error) => {
                tracing::warn!(%error, "the store does not say where the blob came from");
                None
            }
        };
        if let (Some(fetcher), Some(scope)) = (self.fetcher.get(), scope)
            && let Err(error) = fetcher.open(claim.digest, claim.size, scope).await
        {
            tracing::warn!(%error, "the repair did not begin");
        }
    }

    async fn running_chunk(&self, claim: Claim) -> Result<(Bytes, Attestation), Refusal> {
        let transfer = self.running(claim.digest).await.ok_or(Refusal::Missing)?;
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

    async fn knows(self, scope: Scope, tag: Tag) -> Vec<SignedTagMapping> {
        self.store.tags(&scope, &tag).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the store did not answer a peer's question for a tag");
            Vec::new()
        })
    }
}

impl Serve for NodeServe {
    fn holding(&self, digest: Digest) -> BoxFuture<'static, Holding> {
        self.clone().holds(digest).boxed()
    }

    fn chunk(
        &self,
        digest: Digest,
        size: u64,
        chunk: u32,
    ) -> BoxFuture<'static, Result<(Bytes, Attestation), Refusal>> {
        self.clone().gives(Claim { digest, size, chunk }).boxed()
    }

    fn tag(&self, scope: Scope, tag: Tag) -> BoxFuture<'static, Vec<SignedTagMapping>> {
        self.clone().knows(scope, tag).boxed()
    }
}
