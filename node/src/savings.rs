//! What a node spared its registries for as long as its database lives, through all its starts: what `shoal status` tells
//! somebody who has one machine and wonders what Shoal is good for.
//!
//! The counters themselves are [`Metrics`], which begin at nothing with each start. What earlier runs counted is read
//! once, and the sums are written down every few seconds and when the node stops; a kill loses the last of them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashlink::LruCache;
use serde::{Deserialize, Serialize};
use shoal_gateway::server::{Answered, Ended};
use shoal_proto::manifest::{DOCKER_MANIFEST, OCI_MANIFEST};
use shoal_proto::name::{Scope, Tag};
use shoal_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::metrics::Metrics;

/// How often the sums are written down, if they changed.
const WRITE_EACH: Duration = Duration::from_secs(5);

/// For how long a registry's failure counts, if it was asked nothing since.
pub const OUTAGE: Duration = Duration::from_mins(1);

/// The sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Savings {
    /// Since when it is counted, in seconds since the Unix epoch.
    pub since: u64,
    /// Bytes of manifests and blobs given to clients.
    pub given_bytes: u64,
    /// Bytes that came from other nodes.
    pub peer_bytes: u64,
    /// Bytes that came from registries.
    pub upstream_bytes: u64,
    /// Pulls of an image, whether or not the client had it: see [`Pulls`].
    pub pulls: u64,
    /// Those of them that were served while the image's registry failed, as far as this node asked it.
    pub offline_pulls: u64,
}

impl Savings {
    /// Bytes given to clients that no registry had to send again.
    pub const fn saved_bytes(&self) -> u64 {
        self.given_bytes.saturating_sub(self.upstream_bytes)
    }

    fn and(self, metrics: &Metrics) -> Self {
        let (pulls, offline_pulls) = metrics.pulls();
        Self {
            since: self.since,
            given_bytes: self.given_bytes.saturating_add(metrics.given()),
            peer_bytes: self.peer_bytes.saturating_add(metrics.from_peers().bytes),
            upstream_bytes: self.upstream_bytes.saturating_add(metrics.from_upstream().bytes),
            pulls: self.pulls.saturating_add(pulls),
            offline_pulls: self.offline_pulls.saturating_add(offline_pulls),
        }
    }

    /// The names in the database are not to be changed.
    const fn rows(&self) -> [(&'static str, u64); 6] {
        [
            ("since", self.since),
            ("given_bytes", self.given_bytes),
            ("peer_bytes", self.peer_bytes),
            ("upstream_bytes", self.upstream_bytes),
            ("pulls", self.pulls),
            ("offline_pulls", self.offline_pulls),
        ]
    }
}

/// Counts on from where the last run ended. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: Store,
    metrics: Metrics,
    before: Savings,
}

impl Ledger {
    /// Reads what earlier runs counted.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn open(store: Store, metrics: Metrics) -> Result<Self, StoreError> {
        let rows = store.totals().await?;
        let row = |name: &str| rows.get(name).copied();
        let before = Savings {
            since: row("since").unwrap_or_else(clock::unix_seconds),
            given_bytes: row("given_bytes").unwrap_or_default(),
            peer_bytes: row("peer_bytes").unwrap_or_default(),
            upstream_bytes: row("upstream_bytes").unwrap_or_default(),
            pulls: row("pulls").unwrap_or_default(),
            offline_pulls: row("offline_pulls").unwrap_or_default(),
        };
        Ok(Self { store, metrics, before })
    }

    /// The sums now.
    pub fn sums(&self) -> Savings {
        self.before.and(&self.metrics)
    }

    /// Writes the sums down now and then, until the node stops.
    pub async fn keep(self, shutdown: CancellationToken) {
        let mut written = None;
        while shutdown.run_until_cancelled(tokio::time::sleep(WRITE_EACH)).await.is_some() {
            let sums = self.sums();
            if written != Some(sums) && self.write(sums).await {
                written = Some(sums);
            }
        }
    }

    /// Writes the sums down a last time.
    pub async fn close(self) {
        self.write(self.sums()).await;
    }

    async fn write(&self, sums: Savings) -> bool {
        let written = self.store.set_totals(sums.rows().to_vec()).await;
        if let Err(error) = &written {
            tracing::warn!(%error, "what was saved so far could not be written down");
        }
        written.is_ok()
    }
}

/// Tells pulls from the requests that they are made of: a client asks for a tag (HEAD, or GET, or both) and then, by digest,
/// for the manifests that it has not kept; or by digest from the start.
#[derive(Debug)]
pub struct Pulls {
    /// The tag asked for last in a repository, and when. A std mutex, held for a map access.
    tags: Mutex<LruCache<Scope, (String, Instant)>>,
}

/// The most repositories remembered.
const MOST: usize = 1024;
/// A tag asked for again so soon is the same pull.
const SAME_PULL: Duration = Duration::from_secs(5);
/// So long after a tag manifests of its repository are asked for because of it.
const OF_A_TAG: Duration = Duration::from_mins(1);

impl Default for Pulls {
    fn default() -> Self {
        Self { tags: Mutex::new(LruCache::new(MOST)) }
    }
}

impl Pulls {
    /// Counts an answer to a client; `is_down` is whether its registry fails.
    pub fn count(&self, metrics: &Metrics, answered: &Answered, is_down: impl FnOnce() -> bool) {
        if matches!((answered.what, answered.status), ("manifest" | "blob", 200 | 206)) {
            metrics.gave(answered.bytes);
        }
        if self.is_new(answered, Instant::now()) {
            metrics.pulled(is_down());
        }
    }

    fn is_new(&self, answered: &Answered, now: Instant) -> bool {
        let Answered { scope: Some(scope), reference: Some(reference), .. } = answered else { return false };
        if !matches!((answered.what, answered.status, &answered.ended), ("manifest", 200 | 304, Ended::Whole))
        {
            return false;
        }
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tags.get(scope).map(|(tag, at)| (tag == reference, now.saturating_duration_since(*at)));
        if reference.parse::<Tag>().is_ok() {
            tags.insert(scope.clone(), (reference.clone(), now));
            return known.is_none_or(|(same, ago)| !same || ago >= SAME_PULL);
        }
        let types = [OCI_MANIFEST, DOCKER_MANIFEST];
        let image = answered.media_type.as_deref().is_some_and(|said| types.contains(&said));
        image && !answered.head && known.is_none_or(|(_, ago)| ago >= OF_A_TAG)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_proto::digest::Digest;
    use shoal_proto::manifest::OCI_INDEX;
    use shoal_store::disk::real::RealDisk;

    use super::*;

    fn answered(reference: &str, media_type: &str) -> Answered {
        Answered {
            what: "manifest",
            head: false,
            scope: Some(Scope { registry: "reg.test".parse().unwrap(), repository: "a".parse().unwrap() }),
            reference: Some(reference.to_owned()),
            media_type: Some(media_type.to_owned()),
            status: 200,
            bytes: 100,
            first_byte: Duration::ZERO,
            duration: Duration::ZERO,
            ended: Ended::Whole,
            refusal: None,
        }
    }

    #[test]
    fn a_pull_is_a_tag_or_an_image_by_digest() {
        let digest = Digest::sha256_of(b"x").to_string();
        let begin = Instant::now();
        let tag = || answered("v1", OCI_INDEX);
        let by_digest = |media_type| answered(&digest, media_type);
        let pulls = Pulls::default();
        for (seconds, answer, is_new) in [
            (0, Answered { status: 404, ..tag() }, false),
            (0, Answered { what: "blob", ..by_digest("application/octet-stream") }, false),
            (0, by_digest(OCI_INDEX), false),
            (0, by_digest(OCI_MANIFEST), true),
            (0, Answered { head: true, ..by_digest(DOCKER_MANIFEST) }, false),
            (0, Answered { ended: Ended::ClientLeft, ..by_digest(DOCKER_MANIFEST) }, false),
            (10, Answered { head: true, ..tag() }, true),
            (11, tag(), false),
            (11, by_digest(OCI_MANIFEST), false),
            (11, answered("v2", OCI_INDEX), true),
            (60, Answered { status: 304, ..tag() }, true),
            (121, by_digest(OCI_MANIFEST), true),
        ] {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(pulls.is_new(&answer, now), is_new, "{seconds} s: {answer:?}");
        }
    }

    #[test]
    fn what_was_given_and_pulled_is_counted() {
        let (metrics, pulls) = (Metrics::default(), Pulls::default());
        pulls.count(&metrics, &answered("v1", OCI_INDEX), || true);
        pulls.count(&metrics, &answered("v2", OCI_INDEX), || false);
        pulls.count(&metrics, &Answered { status: 404, ..answered("v3", OCI_INDEX) }, || true);
        assert_eq!((metrics.given(), metrics.pulls()), (200, (2, 1)));
    }

    #[tokio::test]
    async fn it_counts_on_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::at(home.path()).unwrap());
        let (store, _) = Store::open(disk, shoal_store::Options::default()).unwrap();
        let run = async |given: u64, upstream: u64| {
            let metrics = Metrics::default();
            let ledger = Ledger::open(store.clone(), metrics.clone()).await.unwrap();
            metrics.gave(given);
            metrics.upstream_bytes(upstream);
            metrics.pulled(given > upstream);
            let sums = ledger.sums();
            ledger.close().await;
            sums
        };
        let first = run(100, 100).await;
        assert_eq!((first.saved_bytes(), first.pulls, first.offline_pulls), (0, 1, 0));
        let second = run(100, 0).await;
        assert_eq!((second.saved_bytes(), second.pulls, second.offline_pulls), (100, 2, 1));
        assert_eq!((second.since, second.given_bytes, second.upstream_bytes), (first.since, 200, 100));
        let less = Savings { given_bytes: 1, upstream_bytes: 2, ..second };
        assert_eq!(less.saved_bytes(), 0, "a pull that was broken off saved nothing");
    }
}
