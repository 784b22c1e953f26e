//! Proofs that a registry has what is held, but came from another, where not everyone can read it.
//!
//! That the asked one says it has the digest is no proof: whoever runs one can make it say so. So it has to send the bytes
//! once, in whole, before what is held is given for it; a fleet has one node do that. Held bytes are never compared with
//! what it sends: one that guesses could then learn a blob byte by byte.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _, Shared};
use shoal_gateway::error::PullError;
use shoal_gateway::upstream::identity::Identity;
use shoal_proto::digest::Digest;
use shoal_proto::origin::Origin;
use shoal_proto::verdict::{Object, Question, Reader};
use shoal_store::{Of, Whose};
use tokio::time::{Instant, timeout};

use super::{NodeSource, unavailable};
use crate::fetch::discovery;
use crate::turn::Wish;

/// The most repositories that are asked whether everyone can read there what came from them.
const MAX_ASKED: usize = 3;
/// How long they may take for that, together.
const ASKED: Duration = Duration::from_secs(2);
/// A registry that failed no longer ago than this is not asked.
const WAS_DOWN: Duration = Duration::from_secs(10);
/// How long one who waits for a proof waits; the proof goes on without it.
const PATIENCE: Duration = Duration::from_secs(15);
/// For how long the fleet remembers who proved it.
const FRESH: Duration = Duration::from_mins(10);
/// The most proofs that run at a time.
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

impl NodeSource {
    /// Has it proven that what is held for other registries' clients is for this one's too.
    pub(super) async fn prove(&self, of: &Of, digest: &Digest) -> Result<(), PullError> {
        let origin = of.origin();
        let (source, for_whom, digest) = (self.clone(), of.clone(), *digest);
        let proof = self.proofs.of((digest, origin), || async move {
            if source.is_everyones(&digest).await? {
                return Ok(());
            }
            if !discovery::is_held_by_any(&source.ports, digest, origin).await {
                source.have_it_sent(&for_whom, digest).await?;
            }
            source.ports.store.note_origin(&digest, for_whom).await.map_err(unavailable)
        })?;
        let waited = timeout(PATIENCE, proof).await;
        waited.unwrap_or_else(|_| {
            let registry = &of.scope.registry;
            Err(PullError::Unavailable(format!(
                "{digest} is held of another registry, and {registry} is still sending it"
            )))
        })
    }

    /// Whether everyone can read what is held of this digest where it came from.
    async fn is_everyones(&self, digest: &Digest) -> Result<bool, PullError> {
        let Whose { origins, everyones } = self.ports.store.whose(digest).await.map_err(unavailable)?;
        if everyones {
            return Ok(true);
        }
        let reader = Reader::Everyone;
        let worth_asking = origins.into_iter().filter(|scope| {
            !self.access.is_refused(scope, reader)
                && !self.ports.upstreams.is_down(&scope.registry, WAS_DOWN)
                && !self.ports.upstreams.is_paused(&scope.registry)
        });
        let ask = async {
            for scope in worth_asking.take(MAX_ASKED) {
                let question = Question { scope: scope.clone(), object: Object::Blob(*digest), reader };
                if self.ask_once(&question, Identity::Anonymous).await.is_ok() {
                    return Some(scope);
                }
            }
            None
        };
        let Some(scope) = timeout(ASKED, ask).await.ok().flatten() else { return Ok(false) };
        let of = Of { scope, everyones: true };
        self.ports.store.note_origin(digest, of).await.map_err(unavailable)?;
        Ok(true)
    }

    /// Has a node of the fleet take the whole blob from the registry, for nothing but to know that it has it.
    async fn have_it_sent(&self, of: &Of, digest: Digest) -> Result<(), PullError> {
        let registry = &of.scope.registry;
        let key = Digest::sha256_of(format!("proof\n{registry}\n{digest}").as_bytes());
        let wish = Wish { key, fresh: FRESH, asked: Instant::now(), registry };
        let origin = of.origin();
        wish.once(
            &self.ports,
            async || {
                let (_, mut stream) = self.passing(of, &digest).await?;
                while let Some(piece) = stream.next().await {
                    piece?;
                }
                // Before the others hear that it is over, and ask this node.
                self.ports.store.note_origin(&digest, of.clone()).await.map_err(unavailable)
            },
            async |by| discovery::all_of_it_at(&self.ports, by, digest, origin).await.map(drop),
        )
        .await
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
