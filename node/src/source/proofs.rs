//! Proofs that a registry has a blob, one at a time for each: what is held of another is taken from it once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _, Shared};
use shoal_gateway::error::PullError;
use shoal_proto::digest::Digest;
use shoal_proto::origin::Origin;

/// The most that run at a time.
const MOST: usize = 32;
/// For how long one that failed is not tried again.
const FAILED: Duration = Duration::from_secs(30);

/// How a proof ends.
type Proof = Shared<BoxFuture<'static, Result<(), PullError>>>;

/// The proofs that run, and those that failed lately. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub(super) struct Proofs(Arc<Mutex<HashMap<(Digest, Origin), Entry>>>);

struct Entry {
    proof: Proof,
    begun: Instant,
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
    pub(super) fn of<F>(&self, key: (Digest, Origin), begin: impl FnOnce() -> F) -> Result<Proof, PullError>
    where
        F: Future<Output = Result<(), PullError>> + Send + 'static,
    {
        let mut proofs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        proofs.retain(|_, entry| match entry.proof.peek() {
            None => true,
            Some(Err(_)) => now.duration_since(entry.begun) < FAILED,
            Some(Ok(())) => false,
        });
        if let Some(entry) = proofs.get(&key) {
            return Ok(entry.proof.clone());
        }
        if proofs.values().filter(|entry| entry.proof.peek().is_none()).count() >= MOST {
            return Err(PullError::Unavailable(
                "it takes from one registry what it holds of another, as much as it can".to_owned(),
            ));
        }
        let task = tokio::spawn(begin());
        let proof =
            async move { task.await.unwrap_or_else(|died| Err(PullError::Unavailable(died.to_string()))) };
        let proof = proof.boxed().shared();
        proofs.insert(key, Entry { proof: proof.clone(), begun: now });
        Ok(proof)
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

    #[tokio::test]
    async fn they_are_bounded() {
        let proofs = Proofs::default();
        let _waiting: Vec<_> =
            (0..32).map(|number| proofs.of(key(number), std::future::pending).unwrap()).collect();
        assert!(proofs.of(key(32), || async { Ok(()) }).is_err());
        assert!(proofs.of(key(31), || async { Ok(()) }).is_ok());
    }
}
