//! Bodies that broke off here, for a while.
//!
//! containerd resumes a short body at its first host, which is this one, and gives up after three bodies
//! without progress; a body of wrong bytes it cannot repair at all. So whoever comes back for the rest of a blob
//! that has just broken off is sent on with a 404, and finds the rest upstream.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use shoal_proto::digest::Digest;
use shoal_proto::name::Scope;
use tokio::time::Instant;

/// The most broken bodies remembered; the oldest is forgotten for the next.
const MAX_REMEMBERED: usize = 1024;

/// Which blob of which repository.
pub(super) type Key = (Scope, Digest);

/// The memory of broken bodies.
///
/// A std lock: it is held for a map operation, never across an await.
pub(super) struct Broken {
    ttl: Duration,
    since: Mutex<HashMap<Key, Instant>>,
}

impl Broken {
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, since: Mutex::default() }
    }

    /// A body of this blob broke off now.
    pub(super) fn note(&self, key: Key) {
        let mut since = self.lock();
        if since.len() >= MAX_REMEMBERED && !since.contains_key(&key) {
            since.retain(|_, at| at.elapsed() < self.ttl);
            if since.len() >= MAX_REMEMBERED
                && let Some(oldest) = since.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone())
            {
                since.remove(&oldest);
            }
        }
        since.insert(key, Instant::now());
    }

    /// Whether a body of this blob broke off lately.
    pub(super) fn lately(&self, key: &Key) -> bool {
        let mut since = self.lock();
        match since.get(key) {
            Some(at) if at.elapsed() < self.ttl => true,
            Some(_) => {
                since.remove(key);
                false
            }
            None => false,
        }
    }

    /// The blob was given whole: it is in order again.
    pub(super) fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Instant>> {
        // Every operation leaves the map whole, so a panic elsewhere does not spoil it.
        self.since.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        let scope = Scope { registry: "docker.io".parse().unwrap(), repository: "a/b".parse().unwrap() };
        (scope, Digest::sha256_of(&n.to_be_bytes()))
    }

    #[tokio::test(start_paused = true)]
    async fn remembered_for_a_while_and_within_bounds() {
        let broken = Broken::new(Duration::from_mins(1));
        broken.note(key(0));
        assert!(broken.lately(&key(0)));
        assert!(!broken.lately(&key(1)));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!broken.lately(&key(0)));

        for n in 0..MAX_REMEMBERED + 10 {
            broken.note(key(n));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(broken.lock().len(), MAX_REMEMBERED);
        assert!(!broken.lately(&key(9)), "the oldest goes first");
        assert!(broken.lately(&key(10)));
        broken.forget(&key(10));
        assert!(!broken.lately(&key(10)));
    }
}
