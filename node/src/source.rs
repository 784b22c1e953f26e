//! What the gateway serves from: store first, then peers, then upstream.
//!
//! | module | concept |
//! | --- | --- |
//! | `admission` | who gets what |
//! | `tags` | what a tag names: upstream decides, the fleet remembers |
//! | `manifests` | manifests by digest |
//! | `blobs` | blobs: how large, and their bytes |
//! | `proofs` | proofs that a registry has what is held of another, one of a thing at a time |
//! | `unshared` | blobs that are on their way for another registry's clients alone |
//! | `sizes` | what manifests said of the sizes of blobs |
//! | `flight` | one fetch of a thing at a time |

use std::sync::Arc;
use std::time::Duration;

use shoal_gateway::caller::Caller;
use shoal_gateway::error::PullError;
use shoal_gateway::source::{Accept, BlobBody, Manifest, ManifestInfo, Passage, Passed, Resolved, Source};
use shoal_gateway::upstream::identity::ClientLogin;
use shoal_proto::digest::Digest;
use shoal_proto::name::{Reference, Scope, Tag};
use shoal_proto::range::RangeRequest;
use shoal_proto::tag::TagMapping;
use shoal_proto::verdict::Object;

use crate::access::Access;
use crate::config::Stream;
use crate::fetch::room::Room;
use crate::fetch::{Fetcher, Ports};

/// How long the node that asked upstream may take to say what it heard.
const ONE_PEER: Duration = Duration::from_secs(1);
/// How long peers may take to say what they know where upstream cannot be asked.
const PEERS_LIMIT: Duration = Duration::from_millis(600);
/// The most peers asked then.
const MOST_PEERS: usize = 16;

mod admission;
mod blobs;
mod flight;
pub mod manifests;
mod proofs;
mod sizes;
mod tags;
#[cfg(test)]
mod tests;
mod unshared;

use crate::tags::{Recent, Rules};
use flight::Flights;
use proofs::Proofs;
use sizes::Sizes;
use tags::Answer;

/// The node, as its gateway sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeSource {
    ports: Ports,
    fetcher: Fetcher,
    access: Access,
    rules: Arc<Rules>,
    recent: Recent,
    stream: Stream,
    sizes: Arc<Sizes>,
    room: Room,
    manifests_in_flight: Arc<Flights<Digest>>,
    tags_in_flight: Arc<Flights<Digest>>,
    verdicts_in_flight: Arc<Flights<Digest>>,
    proofs: Proofs,
    /// What the client it is asked for said of itself.
    login: Option<ClientLogin>,
    /// Whether it named the registry itself, and so has that login for it.
    registry_is_named: bool,
    /// Whether it is asked for a request that came through other nodes.
    relayed: bool,
}

impl NodeSource {
    /// Serves from these. `stream` says whether a body may start before its digest is proven.
    pub fn new(
        ports: Ports,
        fetcher: Fetcher,
        access: Access,
        (rules, recent): (Rules, Recent),
        stream: Stream,
    ) -> Self {
        Self {
            ports,
            fetcher,
            access,
            rules: Arc::new(rules),
            recent,
            stream,
            sizes: Arc::default(),
            room: Room::default(),
            manifests_in_flight: Arc::default(),
            tags_in_flight: Arc::default(),
            verdicts_in_flight: Arc::default(),
            proofs: Proofs::default(),
            login: None,
            registry_is_named: false,
            relayed: false,
        }
    }
}

impl Source for NodeSource {
    fn asked_by(&self, caller: &Caller) -> Self {
        let mut other = self.clone();
        other.login = caller.authorization.as_ref().and_then(|header| self.access.login(header));
        other.registry_is_named = caller.names_registry;
        if !caller.hops.is_empty() {
            other.ports.upstreams = self.ports.upstreams.through(&caller.hops);
            other.relayed = true;
        }
        other
    }

    async fn resolve(&self, scope: &Scope, tag: &Tag, accept: &Accept) -> Result<Resolved, PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        let Answer { mapping, warning } = self.admitted_tag(scope, tag, accept).await?;
        let TagMapping { digest, size, media_type, .. } = mapping;
        Ok(Resolved { info: ManifestInfo { digest, size, media_type }, warning })
    }

    async fn manifest(&self, scope: &Scope, digest: &Digest, accept: &Accept) -> Result<Manifest, PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        let of = self.admit(scope, Object::Manifest(Reference::Digest(*digest))).await?;
        self.manifest_by_digest(&of, digest, accept).await
    }

    async fn blob_size(&self, scope: &Scope, digest: &Digest) -> Result<u64, PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        let of = self.admit(scope, Object::Blob(*digest)).await?;
        self.size_of_blob(&of, digest).await
    }

    async fn open(
        &self,
        scope: &Scope,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<BlobBody, PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        let of = self.admit(scope, Object::Blob(*digest)).await?;
        let body = self.open_blob(&of, digest, range).await;
        self.note_whether_found(&of, digest, body.as_ref().err()).await;
        body
    }

    async fn pass(&self, scope: &Scope, passage: Passage, query: &str) -> Result<Passed, PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        self.admitted_passage(scope, passage, query).await
    }
}

/// The store failed: that is this node's trouble, and a client is better served elsewhere.
fn unavailable(error: impl std::fmt::Display) -> PullError {
    PullError::Unavailable(error.to_string())
}
