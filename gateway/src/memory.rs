//! A source that holds everything in memory: the twin of the node for tests of what stands on a [`Source`].
//!
//! It can be told to fail, hang, stall or lie at a given byte, and counts what it was asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use http::HeaderMap;
use shoal_proto::digest::Digest;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::range::{ByteRange, RangeRequest};

use crate::caller::Caller;
use crate::error::PullError;
use crate::source::{Accept, BlobBody, Manifest, ManifestInfo, Passage, Passed, Resolved, Source};

/// How a blob's body ends early.
#[derive(Debug, Clone)]
pub enum Fault {
    /// No more bytes, for ever.
    Stall,
    /// An error.
    Fail(PullError),
    /// The end, as if that were all.
    End,
}

/// What goes wrong in a repository.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// Every question is answered with this.
    Fail(PullError),
    /// No question is answered, ever.
    Hang,
}

/// One question that was asked, in words: `resolve docker.io/library/a latest`.
pub type Asked = String;

/// Content in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    manifests: HashMap<(Scope, Digest), Manifest>,
    tags: HashMap<(Scope, Tag), Digest>,
    blobs: HashMap<(Scope, Digest), Bytes>,
    passages: HashMap<(Scope, &'static str), Passed>,
    troubles: HashMap<Scope, Trouble>,
    faults: HashMap<Digest, (u64, Fault)>,
    piece: Option<usize>,
    asked: Vec<Asked>,
    accepted: Option<Accept>,
}

impl Memory {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds a manifest, and says its digest.
    pub fn add_manifest(&self, scope: &Scope, media_type: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256_of(&bytes);
        let info = ManifestInfo { digest, size: bytes.len() as u64, media_type: media_type.to_owned() };
        self.held().manifests.insert((scope.clone(), digest), Manifest { info, bytes });
        digest
    }

    /// Lets a tag name a manifest that is held.
    pub fn add_tag(&self, scope: &Scope, tag: &Tag, digest: Digest) {
        self.held().tags.insert((scope.clone(), tag.clone()), digest);
    }

    /// Holds a blob, and says its digest.
    pub fn add_blob(&self, scope: &Scope, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256_of(&bytes);
        self.held().blobs.insert((scope.clone(), digest), bytes);
        digest
    }

    /// Answers `tags/list` or `referrers` of this repository.
    pub fn add_passed(&self, scope: &Scope, passage: &Passage, passed: Passed) {
        self.held().passages.insert((scope.clone(), kind(passage)), passed);
    }

    /// From now on this repository is in trouble.
    pub fn trouble(&self, scope: &Scope, trouble: Trouble) {
        self.held().troubles.insert(scope.clone(), trouble);
    }

    /// From now on bodies of this blob end so before the blob's byte `at`.
    pub fn break_at(&self, digest: Digest, at: u64, fault: Fault) {
        self.held().faults.insert(digest, (at, fault));
    }

    /// Bodies of this blob are in order again.
    pub fn mend(&self, digest: &Digest) {
        self.held().faults.remove(digest);
    }

    /// Bodies come in pieces of this many bytes; 64 KiB if never set.
    pub fn pieces_of(&self, bytes: usize) {
        self.held().piece = Some(bytes.max(1));
    }

    /// Every question so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.held().asked.clone()
    }

    /// The types that the last question about a manifest named.
    pub fn accepted(&self) -> Option<Accept> {
        self.held().accepted.clone()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Every operation leaves the maps whole, so a panic elsewhere does not spoil them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, question: &str, scope: &Scope, of: &str) -> Result<(), PullError> {
        let trouble = {
            let mut held = self.held();
            held.asked.push(format!("{question} {scope} {of}").trim_end().to_owned());
            held.troubles.get(scope).cloned()
        };
        match trouble {
            None => Ok(()),
            Some(Trouble::Fail(error)) => Err(error),
            Some(Trouble::Hang) => std::future::pending().await,
        }
    }
}

const fn kind(passage: &Passage) -> &'static str {
    match passage {
        Passage::Tags => "tags",
        Passage::Referrers(_) => "referrers",
    }
}

fn missing(scope: &Scope) -> PullError {
    PullError::NotFound { registry: scope.registry.to_string() }
}

impl Source for Memory {
    fn asked_by(&self, _caller: &Caller) -> Self {
        // It asks nobody.
        self.clone()
    }

    async fn resolve(&self, scope: &Scope, tag: &Tag, accept: &Accept) -> Result<Resolved, PullError> {
        self.ask("resolve", scope, tag.as_str()).await?;
        let mut held = self.held();
        held.accepted = Some(accept.clone());
        let digest = held.tags.get(&(scope.clone(), tag.clone())).copied().ok_or_else(|| missing(scope))?;
        let manifest = held.manifests.get(&(scope.clone(), digest)).ok_or_else(|| missing(scope))?;
        Ok(Resolved { info: manifest.info.clone(), warning: None })
    }

    async fn manifest(&self, scope: &Scope, digest: &Digest, accept: &Accept) -> Result<Manifest, PullError> {
        self.ask("manifest", scope, &digest.to_string()).await?;
        let mut held = self.held();
        held.accepted = Some(accept.clone());
        held.manifests.get(&(scope.clone(), *digest)).cloned().ok_or_else(|| missing(scope))
    }

    async fn blob_size(&self, scope: &Scope, digest: &Digest) -> Result<u64, PullError> {
        self.ask("blob_size", scope, &digest.to_string()).await?;
        let held = self.held();
        let blob = held.blobs.get(&(scope.clone(), *digest)).ok_or_else(|| missing(scope))?;
        Ok(blob.len() as u64)
    }

    async fn open(
        &self,
        scope: &Scope,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<BlobBody, PullError> {
        self.ask("open", scope, &digest.to_string()).await?;
        let held = self.held();
        let blob = held.blobs.get(&(scope.clone(), *digest)).ok_or_else(|| missing(scope))?.clone();
        let size = blob.len() as u64;
        let range = match range {
            Some(range) => Some(range.resolve(size)?),
            None => ByteRange::new(0, size),
        };
        let Some(ByteRange { start, end }) = range else {
            return Ok(BlobBody { size, range, stream: stream::empty().boxed() });
        };
        let (until, fault) = match held.faults.get(digest) {
            Some((at, fault)) if *at < end => ((*at).max(start), Some(fault.clone())),
            _ => (end, None),
        };
        let piece = held.piece.unwrap_or(64 * 1024);
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let mut part = blob.slice(index(start)..index(until));
        // Each piece is waited for, as it would be from a disk or a peer.
        let pieces = stream::unfold((), move |()| {
            let next = (!part.is_empty()).then(|| part.split_to(piece.min(part.len())));
            async move {
                let piece = next?;
                tokio::task::yield_now().await;
                Some((Ok(piece), ()))
            }
        });
        let stream = match fault {
            None | Some(Fault::End) => pieces.boxed(),
            Some(Fault::Stall) => pieces.chain(stream::pending()).boxed(),
            Some(Fault::Fail(error)) => pieces.chain(stream::iter([Err(error)])).boxed(),
        };
        Ok(BlobBody { size, range, stream })
    }

    async fn pass(&self, scope: &Scope, passage: Passage, query: &str) -> Result<Passed, PullError> {
        self.ask(kind(&passage), scope, query).await?;
        let held = self.held();
        held.passages.get(&(scope.clone(), kind(&passage))).cloned().ok_or_else(|| missing(scope))
    }
}

impl Passed {
    /// A body of this type and no other headers.
    pub fn of_type(media_type: http::HeaderValue, body: impl Into<Bytes>) -> Self {
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, media_type)]);
        Self { headers, body: body.into() }
    }
}
