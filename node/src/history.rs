//! What lately became of what clients asked for, and where bytes came from: what `shoal why` tells.
//!
//! Kept in memory and bounded: what was asked for longest ago is forgotten first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashlink::LruCache;
use serde::{Deserialize, Serialize};
use shoal_gateway::server::Answered;
use shoal_proto::digest::Digest;
use shoal_proto::name::Scope;

use crate::clock;

/// The most answers, and the most fetches, remembered. About 2 MiB when full.
const MOST: usize = 4096;

/// How something was last answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAnswer {
    /// When its answer ended, in seconds since the Unix epoch.
    pub at: u64,
    /// The status sent.
    pub status: u16,
    /// The bytes of its body that were sent.
    pub bytes: u64,
    /// Why it was not given, or not to its end.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Where a blob or manifest that this node fetched came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// When it was whole, in seconds since the Unix epoch.
    pub at: u64,
    /// The bytes that came from other nodes.
    pub from_peers: u64,
    /// The bytes that this node fetched from upstream.
    pub from_upstream: u64,
}

/// The memory. Cheap to clone. A std mutex, held for a map access and never across an await.
#[derive(Debug, Clone, Default)]
pub struct History {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    answers: LruCache<(Scope, String), LastAnswer>,
    fetched: LruCache<Digest, Fetched>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { answers: LruCache::new(MOST), fetched: LruCache::new(MOST) }
    }
}

impl History {
    /// A request was answered.
    pub fn answered(&self, answered: &Answered) {
        let (Some(scope), Some(reference)) = (&answered.scope, &answered.reference) else { return };
        let answer = LastAnswer {
            at: clock::unix_seconds(),
            status: answered.status,
            bytes: answered.bytes,
            reason: answered.reason(),
        };
        self.inner().answers.insert((scope.clone(), reference.clone()), answer);
    }

    /// Something was fetched.
    pub fn fetched(&self, digest: Digest, from_peers: u64, from_upstream: u64) {
        self.inner().fetched.insert(digest, Fetched { at: clock::unix_seconds(), from_peers, from_upstream });
    }

    /// How a tag or digest of a repository was last answered.
    pub fn last_answer(&self, scope: &Scope, reference: &str) -> Option<LastAnswer> {
        self.inner().answers.get(&(scope.clone(), reference.to_owned())).cloned()
    }

    /// Where something came from.
    pub fn origin(&self, digest: &Digest) -> Option<Fetched> {
        self.inner().fetched.get(digest).copied()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
