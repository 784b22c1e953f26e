//! Blobs that are on their way from another registry, for its clients alone: this one's own bytes are passed on, past the
//! swarm and the store.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use shoal_gateway::error::PullError;
use shoal_gateway::source::BlobBody;
use shoal_proto::chunk::MAX_BLOB;
use shoal_proto::digest::{Digest, Hasher};
use shoal_proto::name::Registry;
use shoal_proto::range::{ByteRange, RangeRequest};
use shoal_store::Of;
use tokio::time::timeout;

use super::NodeSource;
use super::blobs::{Begin, untold};
use crate::config::Stream;
use crate::fetch::{OpenError, Ports};

/// How long what another registry sends may take to be over, before its own is passed on.
const OVER: Duration = Duration::from_secs(5);

/// A whole blob that is passed on.
struct Passing {
    ports: Ports,
    registry: Registry,
    digest: Digest,
    /// The most bytes that are taken.
    most: u64,
    stream: BoxStream<'static, Result<Bytes, PullError>>,
    hasher: Hasher,
    hashed: u64,
    /// The last piece is given when the digest has come out: no client gets all of a wrong blob.
    kept_back: Option<Bytes>,
}

impl NodeSource {
    /// The body of a blob that is on its way from another registry.
    pub(super) async fn of_another(
        &self,
        of: &Of,
        digest: &Digest,
        size: u64,
        range: Option<RangeRequest>,
    ) -> Result<BlobBody, PullError> {
        if let Some(mut transfer) = self.fetcher.find(*digest).await {
            drop(timeout(OVER, transfer.finished()).await);
        }
        if let Some(held) = self.held_blob(of, digest, range).await? {
            return Ok(held);
        }
        match self.body(of, digest, size, range, Begin::Again).await {
            Err(OpenError::OfAnother(_)) => {}
            Err(OpenError::Failed(error)) => return Err(error),
            Ok(body) => return Ok(body),
        }
        if range.is_some() || self.stream == Stream::Proven {
            return Err(OpenError::OfAnother(*digest).into());
        }
        let (size, stream) = self.passing(of, digest).await?;
        let size = size.ok_or_else(|| untold(&of.scope, digest))?;
        Ok(BlobBody { size, range: ByteRange::new(0, size), stream })
    }

    /// All bytes of the blob as the registry sends them, and how many, if it says so: what is known here of the blob shows
    /// in nothing. The stream ends well only if they are what the digest promises.
    pub(super) async fn passing(
        &self,
        of: &Of,
        digest: &Digest,
    ) -> Result<(Option<u64>, BoxStream<'static, Result<Bytes, PullError>>), PullError> {
        self.ports.metrics.upstream_request();
        let download = self.ports.upstreams.blob(&of.scope, digest, None).await?;
        let size = download.size;
        let passing = Passing {
            ports: self.ports.clone(),
            registry: of.scope.registry.clone(),
            digest: *digest,
            most: size.unwrap_or(MAX_BLOB),
            stream: download.stream,
            hasher: Hasher::new(digest.algorithm()),
            hashed: 0,
            kept_back: None,
        };
        let next = async |passing: Option<Passing>| match passing {
            Some(passing) => passing.next().await,
            None => Ok(None),
        };
        Ok((size, stream::try_unfold(Some(passing), next).boxed()))
    }
}

impl Passing {
    /// The next piece, and what comes after it.
    async fn next(mut self) -> Result<Option<(Bytes, Option<Self>)>, PullError> {
        while let Some(piece) = self.stream.next().await {
            let piece = piece?;
            self.ports.came_from_upstream(piece.len()).await;
            self.hasher.update(&piece);
            self.hashed += piece.len() as u64;
            if self.hashed > self.most {
                return Err(self.wrong());
            }
            if let Some(before) = self.kept_back.replace(piece) {
                return Ok(Some((before, Some(self))));
            }
        }
        if self.hasher.clone().finish() != self.digest {
            return Err(self.wrong());
        }
        Ok(self.kept_back.take().map(|last| (last, None)))
    }

    fn wrong(&self) -> PullError {
        PullError::Content(format!("what {} sends for {} is not that", self.registry, self.digest))
    }
}
