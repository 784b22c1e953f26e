//! Manifests by digest: from the store, a peer, or upstream.

use bytes::{Bytes, BytesMut};
use shoal_gateway::error::PullError;
use shoal_gateway::source::{Accept, Manifest, ManifestInfo};
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::manifest::{MAX_MANIFEST, media_type, tells_its_type};
use shoal_proto::name::{Reference, Scope};
use shoal_store::{Of, ReadError, Store, StoreError};
use tokio::time::Instant;

use super::{NodeSource, unavailable};
use crate::fetch::small;
use crate::turn::Wish;

/// For how long the fleet remembers who fetched a manifest: its digest does not change.
const FRESH: std::time::Duration = std::time::Duration::from_mins(1);

impl NodeSource {
    /// The manifest, fetched once however many ask.
    pub(super) async fn manifest_by_digest(
        &self,
        of: &Of,
        digest: &Digest,
        accept: &Accept,
    ) -> Result<Manifest, PullError> {
        let manifest = self.held_or_fetched(of, digest, accept).await;
        self.note_whether_found(of, digest, manifest.as_ref().err()).await;
        manifest
    }

    async fn held_or_fetched(
        &self,
        of: &Of,
        digest: &Digest,
        accept: &Accept,
    ) -> Result<Manifest, PullError> {
        if let Some(manifest) = self.held_manifest(of, digest).await? {
            return Ok(manifest);
        }
        // One registry's trouble with it is not another's.
        let registry = &of.scope.registry;
        let key = Digest::sha256_of(format!("manifest\n{registry}\n{digest}").as_bytes());
        let _turn = self.manifests_in_flight.turn(&key).await;
        if let Some(manifest) = self.held_manifest(of, digest).await? {
            return Ok(manifest);
        }
        let wish = Wish { key, fresh: FRESH, asked: Instant::now(), registry };
        wish.once(
            &self.ports,
            async || self.fetch_manifest(of, digest, accept).await,
            async |by| {
                let bytes = small::from_peer(&self.ports, by, *digest, of.origin(), MAX_MANIFEST).await?;
                Some(self.kept_of_peer(of, *digest, bytes).await)
            },
        )
        .await
    }

    /// From a peer that nobody knew of, or from upstream; if that is down, from whoever can be found.
    async fn fetch_manifest(&self, of: &Of, digest: &Digest, accept: &Accept) -> Result<Manifest, PullError> {
        if let Some(bytes) = small::from_connected(&self.ports, *digest, of.origin(), MAX_MANIFEST).await {
            return Ok(self.kept_of_peer(of, *digest, bytes).await);
        }
        match self.upstream_manifest(&of.scope, digest, accept).await {
            Ok(manifest) => Ok(self.kept(of, manifest).await),
            Err(error @ (PullError::Upstream { .. } | PullError::Throttled { .. })) => {
                match small::from_peers(&self.ports, *digest, of.origin(), MAX_MANIFEST).await {
                    Some(bytes) => Ok(self.kept_of_peer(of, *digest, bytes).await),
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps what a peer gave.
    async fn kept_of_peer(&self, of: &Of, digest: Digest, bytes: Bytes) -> Manifest {
        self.ports.history.fetched(digest, bytes.len() as u64, 0);
        self.kept(of, typed(digest, bytes, None)).await
    }

    /// Keeps a manifest and gives it back: a disk that is full costs the caching, not the pull.
    async fn kept(&self, of: &Of, manifest: Manifest) -> Manifest {
        if let Err(error) = self.keep(of, manifest.clone()).await {
            tracing::warn!(%error, digest = %manifest.info.digest, "the manifest is served and not kept");
        }
        manifest
    }

    /// Keeps a manifest, and what it says of sizes.
    pub(super) async fn keep(&self, of: &Of, manifest: Manifest) -> Result<(), PullError> {
        self.sizes.note(&of.scope, &manifest.bytes);
        let digest = manifest.info.digest;
        let store = &self.ports.store;
        // One registry's word is kept only where the bytes are silent: it is served to every repository's clients.
        let silent = !tells_its_type(&manifest.bytes);
        let kept = async {
            // Its bytes are proven: this registry, or a node that had them of it, gave them.
            store.put(&digest, manifest.bytes, of.clone()).await?;
            if silent {
                store.set_media_type(&digest, &manifest.info.media_type).await?;
            }
            Ok(())
        };
        kept.await.map_err(|error: StoreError| unavailable(error))?;
        self.ports.peers.announce(digest).await;
        Ok(())
    }

    async fn upstream_manifest(
        &self,
        scope: &Scope,
        digest: &Digest,
        accept: &Accept,
    ) -> Result<Manifest, PullError> {
        self.ports.metrics.upstream_request();
        let reference = Reference::Digest(*digest);
        let manifest = self.ports.upstreams.get_manifest(scope, &reference, accept).await?;
        self.ports.metrics.upstream_bytes(manifest.bytes.len() as u64);
        self.ports.history.fetched(*digest, 0, manifest.bytes.len() as u64);
        Ok(manifest)
    }

    async fn held_manifest(&self, of: &Of, digest: &Digest) -> Result<Option<Manifest>, PullError> {
        let store = &self.ports.store;
        let Some(held) = store.held(digest).await.map_err(unavailable)? else { return Ok(None) };
        let whose = store.whose(digest).await.map_err(unavailable)?;
        if !whose.is_given_for(of.origin()) {
            // It is asked for in this registry, which then proves that it has it.
            return Ok(None);
        }
        self.note_everyones(of, digest, &whose).await?;
        if held.size > MAX_MANIFEST {
            return Err(PullError::TooLarge(format!(
                "{digest} is {} bytes, and no manifest is larger than {MAX_MANIFEST}: it is a blob",
                held.size
            )));
        }
        let layout = ChunkLayout::of(held.size).map_err(unavailable)?;
        let bytes = match whole(store, digest, layout).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, %digest, "a held manifest is damaged and is fetched again");
                store.remove(digest).await.map_err(unavailable)?;
                return Ok(None);
            }
        };
        self.sizes.note(&of.scope, &bytes);
        self.ports.metrics.store_request();
        self.ports.metrics.store_bytes(bytes.len() as u64);
        let said = store.media_type(digest).await.map_err(unavailable)?;
        Ok(Some(typed(*digest, bytes, said.as_deref())))
    }
}

/// The bytes of a held manifest. Fails if a chunk of it is not what it was.
pub async fn whole(store: &Store, digest: &Digest, layout: ChunkLayout) -> Result<Bytes, ReadError> {
    let mut bytes = BytesMut::new();
    for chunk in 0..layout.count() {
        bytes.extend_from_slice(&store.read_chunk(digest, chunk).await?.bytes);
    }
    Ok(bytes.freeze())
}

/// A proven manifest, of the type that its bytes tell; `said` is what upstream called it, if that was kept.
fn typed(digest: Digest, bytes: Bytes, said: Option<&str>) -> Manifest {
    let media_type = media_type(&bytes, said);
    Manifest { info: ManifestInfo { digest, size: bytes.len() as u64, media_type }, bytes }
}
