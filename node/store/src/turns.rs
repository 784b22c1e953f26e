//! One at a time for each blob.
//!
//! Opening a partial blob reads all of it, and so does looking for what is good in a damaged one. Two must not do so
//! to the same blob; a large blob must not keep all others waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use shoal_proto::digest::Digest;

type Lock = tokio::sync::Mutex<()>;

/// The turn of whoever has it: the next one's begins when it is dropped.
pub(crate) type Turn = tokio::sync::OwnedMutexGuard<()>;

/// A lock for each blob that somebody is at. Who waits is served in order.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Locked for a map access only.
    locks: Mutex<HashMap<Digest, Weak<Lock>>>,
}

impl Turns {
    /// Waits for the blob's turn.
    pub(crate) async fn take(&self, digest: &Digest) -> Turn {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let known = locks.get(digest).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(Lock::new(()));
                locks.insert(*digest, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}
