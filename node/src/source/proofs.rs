//! Proofs that a registry has a blob, one at a time for each: what is held of another is taken from it once.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, Shared};
use shoal_gateway::error::PullError;
use shoal_proto::digest::Digest;
use shoal_proto::origin::Origin;
use tokio::time::Instant;

/// The most that run at a time.
const MOST: usize = 32;
/// For how long one that failed is not tried again, from its end: each takes a whole copy from upstream.
const FAILED: Duration = Duration::from_secs(30);

type Key = (Digest, Origin);

/// How a proof ends.
type Proof = Shared<BoxFuture<'static, Result<(), PullError>>>;

/// The proofs that run, and those that failed lately. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub(super) struct Proofs(Arc<Mutex<HashMap<Key, Entry>>>);

struct Entry {
    proof: Proof,
    /// When it failed; none while it runs.
    failed: Option<Instant>,
}

impl std::fmt::Debug for Proofs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proofs").finish_non_exhaustive()
    }
}

impl Proofs {
    /// The proof that is under way, or has just failed, or begins now: it goes on without those who wait for it.
    ///
    /// # Errors
    /// [`PullError::Unavailable`] if too many run.
    pub(super) fn of<F>(&self, key: Key, begin: impl FnOnce() -> F) -> Result<Proof, PullError>
    where
        F: Future<Output = Result<(), PullError>> + Send + 'static,
    {
        let mut entries = self.entries();
        entries.retain(|_, entry| entry.failed.is_none_or(|at| at.elapsed() < FAILED));
        if let Some(entry) = entries.get(&key) {
            return Ok(entry.proof.clone());
        }
        if entries.values().filter(|entry| entry.failed.is_none()).count() >= MOST {
            return Err(PullError::Unavailable(
                "it takes from one registry what it holds of another, as much as it can".to_owned(),
            ));
        }
        let (proofs, work) = (self.clone(), AssertUnwindSafe(begin()).catch_unwind());
        let task = tokio::spawn(async move {
            let died = |_| Err(PullError::Unavailable("the proof died of a fault of this node".to_owned()));
            let done = work.await.unwrap_or_else(died);
            // Here, since perhaps nobody waits any more.
            proofs.ended(key, done.is_ok());
            done
        });
        let stopped = |_| Err(PullError::Unavailable("this node stops".to_owned()));
        let proof = task.map(move |done| done.unwrap_or_else(stopped)).boxed().shared();
        entries.insert(key, Entry { proof: proof.clone(), failed: None });
        Ok(proof)
    }

    /// What came out well is noted by the store; a failure is remembered here for a while.
    fn ended(&self, key: Key, well: bool) {
        let mut entries = self.entries();
        if well {
            entries.remove(&key);
        } else if let Some(entry) = entries.get_mut(&key) {
            entry.failed = Some(Instant::now());
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn key(number: u32) -> (Digest, Origin) {
        (Digest::sha256_of(&number.to_be_bytes()), Origin::from_bytes([1; Origin::LEN]))
    }

    #[tokio::test]
    async fn one_runs_for_all_who_wait_and_for_nobody_else() {
        let proofs = Proofs::default();
        let (done, wait) = oneshot::channel();
        let first = proofs.of(key(1), || async { wait.await.unwrap() }).unwrap();
        let second = proofs.of(key(1), || async { panic!("one runs") }).unwrap();
        drop(first);
        done.send(Ok(())).unwrap();
        assert!(second.await.is_ok());
        // What came out is known otherwise, and may have gone since.
        let again = proofs.of(key(1), || async { Err(PullError::Content("gone".to_owned())) }).unwrap();
        assert!(again.await.is_err());
        // A failure is remembered.
        assert!(proofs.of(key(1), || async { Ok(()) }).unwrap().await.is_err());
        assert!(proofs.of(key(2), || async { Ok(()) }).unwrap().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_one_that_failed_is_remembered_from_its_end_though_nobody_waits() {
        let proofs = Proofs::default();
        let long = || async {
            tokio::time::sleep(Duration::from_mins(2)).await;
            Err(PullError::Content("wrong".to_owned()))
        };
        drop(proofs.of(key(1), long).unwrap());
        tokio::time::sleep(Duration::from_secs(149)).await;
        assert!(proofs.of(key(1), || async { panic!("it failed lately") }).unwrap().await.is_err());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(proofs.of(key(1), || async { Ok(()) }).unwrap().await.is_ok());
    }

    #[tokio::test]
    async fn one_that_dies_says_so_and_makes_room() {
        let proofs = Proofs::default();
        let died = || async { panic!("as the test wants") };
        assert!(proofs.of(key(1), died).unwrap().await.is_err());
        assert!(proofs.entries()[&key(1)].failed.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_bounded_and_those_that_are_over_do_not_count() {
        let proofs = Proofs::default();
        for number in 100..140 {
            drop(proofs.of(key(number), || async { Err(PullError::Content("wrong".to_owned())) }).unwrap());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _waiting: Vec<_> =
            (0..32).map(|number| proofs.of(key(number), std::future::pending).unwrap()).collect();
        assert!(proofs.of(key(32), || async { Ok(()) }).is_err());
        assert!(proofs.of(key(31), || async { Ok(()) }).is_ok());
    }
}
