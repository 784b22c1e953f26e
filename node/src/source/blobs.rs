//! Blobs: how large they are, and their bytes, from wherever they come first.

use futures::stream::{self, StreamExt as _};
use shoal_gateway::error::PullError;
use shoal_gateway::source::BlobBody;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::name::Scope;
use shoal_proto::range::{ByteRange, RangeRequest};

use super::{NodeSource, unavailable};
use crate::config::Stream;
use crate::fetch::TransferHandle;
use crate::fetch::reader::Reader;
use crate::fetch::small;

/// What is known of a blob before a byte of it is read.
enum Known {
    /// It is in the store.
    Held(u64),
    /// It is being fetched, or somebody who should have it just said so.
    Promised(u64),
    /// A manifest lists it.
    Listed(u64),
}

impl NodeSource {
    async fn known(&self, scope: &Scope, digest: &Digest) -> Result<Known, PullError> {
        if let Some(held) = self.ports.store.held(digest).await.map_err(unavailable)? {
            return Ok(Known::Held(held.size));
        }
        if let Some(transfer) = self.fetcher.find(*digest).await {
            return Ok(Known::Promised(transfer.size));
        }
        if let Some(size) = self.sizes.of(digest) {
            return Ok(Known::Listed(size));
        }
        self.promised_size(scope, digest).await.map(Known::Promised)
    }

    /// Upstream's word for the size; if upstream is down, a peer's.
    async fn promised_size(&self, scope: &Scope, digest: &Digest) -> Result<u64, PullError> {
        self.ports.metrics.upstream_request();
        match self.ports.upstreams.blob_size(scope, digest).await {
            Err(error @ (PullError::Upstream { .. } | PullError::Throttled { .. })) => {
                // A hint: if it is wrong the digest does not come out.
                small::size_from_peers(&self.ports, *digest).await.ok_or(error)
            }
            answer => answer,
        }
    }

    /// The blob's size in bytes.
    pub(super) async fn size_of_blob(&self, scope: &Scope, digest: &Digest) -> Result<u64, PullError> {
        match self.known(scope, digest).await? {
            Known::Held(size) | Known::Promised(size) => Ok(size),
            // What a manifest lists need not be there: the answer to HEAD is a promise.
            Known::Listed(_) => self.promised_size(scope, digest).await,
        }
    }

    /// The blob's bytes, or a part of them.
    pub(super) async fn open_blob(
        &self,
        scope: &Scope,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<BlobBody, PullError> {
        let known = self.known(scope, digest).await?;
        let (Known::Held(size) | Known::Promised(size) | Known::Listed(size)) = known;
        let layout = ChunkLayout::of(size).map_err(|error| PullError::TooLarge(error.to_string()))?;
        let range = match range {
            Some(range) => Some(range.resolve(size)?),
            None => ByteRange::new(0, size),
        };
        self.note_repository(scope, digest).await;
        let transfer = match known {
            Known::Held(_) => {
                self.ports.metrics.store_request();
                None
            }
            Known::Promised(_) | Known::Listed(_) => self.fetch(scope, digest, size, range).await?,
        };
        let Some(range) = range else {
            return Ok(BlobBody { size, range: None, stream: stream::empty().boxed() });
        };
        let reader = Reader {
            store: self.ports.store.clone(),
            fetcher: self.fetcher.clone(),
            metrics: self.ports.metrics.clone(),
            digest: *digest,
            scope: scope.clone(),
            layout,
        };
        let mut stream = reader.read(range, transfer);
        // The status is sent before the body: so it is known that the blob can be had, by its first bytes.
        match stream.next().await {
            Some(Ok(first)) => {
                let stream = stream::iter([Ok(first)]).chain(stream).boxed();
                Ok(BlobBody { size, range: Some(range), stream })
            }
            Some(Err(error)) => {
                if matches!(error, PullError::Content(_)) {
                    self.sizes.forget(digest);
                }
                Err(error)
            }
            None => Err(PullError::Unavailable("the node is shutting down".to_owned())),
        }
    }

    async fn fetch(
        &self,
        scope: &Scope,
        digest: &Digest,
        size: u64,
        range: Option<ByteRange>,
    ) -> Result<Option<TransferHandle>, PullError> {
        let mut transfer = self.fetcher.open(*digest, size, scope.clone()).await?;
        if self.stream == Stream::Proven || range.is_none() {
            transfer.finished().await?;
            return Ok(None);
        }
        Ok(Some(transfer))
    }

    async fn note_repository(&self, scope: &Scope, digest: &Digest) {
        if let Err(error) = self.ports.store.note_repository(digest, scope).await {
            tracing::warn!(%error, %digest, "could not note which repository the blob is in");
        }
    }
}
