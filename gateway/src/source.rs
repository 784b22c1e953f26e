//! What the gateway needs of the node.
//!
//! [`Source`] answers the questions that the `/v2/` routes ask. The node implements it with its store, its
//! peers and the upstream client; a test implements it with a map.

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use futures::stream::BoxStream;
use http::HeaderMap;
use shoal_proto::digest::Digest;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::range::{ByteRange, RangeRequest};

use crate::caller::Caller;
use crate::error::PullError;

/// The media types that a client accepts, as its `Accept` headers name them, in its order.
///
/// Empty means that it did not say: then anything goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accept(pub Vec<String>);

impl Accept {
    /// Whether the client takes this media type.
    pub fn takes(&self, media_type: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|accepted| accepted == media_type || accepted == "*/*")
    }
}

/// What a tag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestInfo {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// What a tag names, and what the client should know of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The manifest.
    pub info: ManifestInfo,
    /// Why it is not what upstream says now, if it is not.
    pub warning: Option<String>,
}

/// A manifest, byte for byte as its registry sent it, its digest proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What it is.
    pub info: ManifestInfo,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A blob's body on its way to a client.
pub struct BlobBody {
    /// The whole blob's size in bytes.
    pub size: u64,
    /// Which bytes `stream` yields; `None` for a blob of no bytes.
    pub range: Option<ByteRange>,
    /// The bytes of `range`, in order. An error ends the body short.
    pub stream: BoxStream<'static, Result<Bytes, PullError>>,
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody")
            .field("size", &self.size)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// A request that is handed to upstream as it is, because nothing of its answer can be proven or shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage {
    /// `tags/list`.
    Tags,
    /// `referrers/<digest>`.
    Referrers(Digest),
}

/// Upstream's answer to a [`Passage`], of bounded size.
#[derive(Debug, Clone)]
pub struct Passed {
    /// The headers that mean something to the client: content type, link, filters.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Where the gateway's answers come from.
pub trait Source: Send + Sync + 'static {
    /// The same source, asked by this caller: what it asks of upstream names the nodes that the request came through,
    /// and what only the caller's own credentials can read is given to it too.
    #[must_use]
    fn asked_by(&self, caller: &Caller) -> Self
    where
        Self: Sized;

    /// What `tag` names now, to a client that accepts these types.
    fn resolve(
        &self,
        scope: &Scope,
        tag: &Tag,
        accept: &Accept,
    ) -> impl Future<Output = Result<Resolved, PullError>> + Send;

    /// The manifest with this digest. `accept` is passed on to upstream, the digest decides.
    fn manifest(
        &self,
        scope: &Scope,
        digest: &Digest,
        accept: &Accept,
    ) -> impl Future<Output = Result<Manifest, PullError>> + Send;

    /// A blob's size in bytes, without fetching it.
    fn blob_size(
        &self,
        scope: &Scope,
        digest: &Digest,
    ) -> impl Future<Output = Result<u64, PullError>> + Send;

    /// A blob's bytes, or the part of them that was asked for. Resolves once the size is known and the fetch
    /// has begun; the body may be long in coming.
    fn open(
        &self,
        scope: &Scope,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> impl Future<Output = Result<BlobBody, PullError>> + Send;

    /// Upstream's own answer; `query` is the client's query string without `ns`.
    fn pass(
        &self,
        scope: &Scope,
        passage: Passage,
        query: &str,
    ) -> impl Future<Output = Result<Passed, PullError>> + Send;
}
