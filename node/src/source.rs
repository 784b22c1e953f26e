//! What the gateway serves from: store first, then peers, then upstream.
//!
//! | module | concept |
//! | --- | --- |
//! | `tags` | what a tag names: upstream decides, the fleet remembers |
//! | `manifests` | manifests by digest |
//! | `blobs` | blobs: how large, and their bytes |
//! | `sizes` | what manifests said of the sizes of blobs |
//! | `flight` | one fetch of a thing at a time |

use std::sync::Arc;

use shoal_gateway::error::PullError;
use shoal_gateway::hops::Hops;
use shoal_gateway::source::{Accept, BlobBody, Manifest, ManifestInfo, Passage, Passed, Source};
use shoal_proto::digest::Digest;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::range::RangeRequest;

use crate::config::Stream;
use crate::fetch::room::Room;
use crate::fetch::{Fetcher, Ports};

mod blobs;
mod flight;
mod manifests;
mod sizes;
mod tags;
#[cfg(test)]
mod tests;

use flight::Flights;
use sizes::Sizes;

/// The node, as its gateway sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeSource {
    ports: Ports,
    fetcher: Fetcher,
    stream: Stream,
    sizes: Arc<Sizes>,
    room: Room,
    manifests_in_flight: Arc<Flights<Digest>>,
    tags_in_flight: Arc<Flights<Digest>>,
    /// Whether it is asked for a request that came through other nodes.
    relayed: bool,
}

impl NodeSource {
    /// Serves from these. `stream` says whether a body may start before its digest is proven.
    pub fn new(ports: Ports, fetcher: Fetcher, stream: Stream) -> Self {
        Self {
            ports,
            fetcher,
            stream,
            sizes: Arc::default(),
            room: Room::default(),
            manifests_in_flight: Arc::default(),
            tags_in_flight: Arc::default(),
            relayed: false,
        }
    }
}

impl Source for NodeSource {
    fn through(&self, hops: &Hops) -> Self {
        let mut other = self.clone();
        other.ports.upstreams = self.ports.upstreams.through(hops);
        other.relayed = true;
        other
    }

    async fn resolve(&self, scope: &Scope, tag: &Tag, accept: &Accept) -> Result<ManifestInfo, PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        self.resolve_tag(scope, tag, accept).await
    }

    async fn manifest(&self, scope: &Scope, digest: &Digest, accept: &Accept) -> Result<Manifest, PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        self.manifest_by_digest(scope, digest, accept).await
    }

    async fn blob_size(&self, scope: &Scope, digest: &Digest) -> Result<u64, PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        self.size_of_blob(scope, digest).await
    }

    async fn open(
        &self,
        scope: &Scope,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<BlobBody, PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        self.open_blob(scope, digest, range).await
    }

    async fn pass(&self, scope: &Scope, passage: Passage, query: &str) -> Result<Passed, PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        self.ports.metrics.upstream_request();
        let passed = self.ports.upstreams.pass(scope, passage, query).await?;
        self.ports.metrics.upstream_bytes(passed.body.len() as u64);
        Ok(passed)
    }
}

/// The store failed: that is this node's trouble, and a client is better served elsewhere.
fn unavailable(error: impl std::fmt::Display) -> PullError {
    PullError::Unavailable(error.to_string())
}
