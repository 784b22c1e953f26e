//! Who may read what: what upstream said of it, remembered for a while.
//!
//! What this node holds was perhaps fetched with credentials that its clients do not have, so that it is held says
//! nothing of who may have it. The rule: a client gets what it could have got from upstream itself. So upstream is asked
//! in its name once, and the answer is remembered here; `source/admission.rs` decides with it. Other nodes take this
//! node's signed word, and this node theirs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::HeaderValue;
use shoal_gateway::upstream::identity::ClientLogin;
use shoal_proto::identity::Keypair;
use shoal_proto::name::Scope;
use shoal_proto::verdict::{Question, Reader, SignedVerdict, Verdict};
use shoal_store::Store;

mod verdicts;

use verdicts::Verdicts;

/// The purpose for which the key of logins' fingerprints is derived from the cluster's.
pub const FINGERPRINTS: &str = "shoal 2026-11 fingerprints of clients' logins";

/// For how long what upstream said holds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// That everyone may read a repository.
    pub everyone: Duration,
    /// That a client may, and that one may not.
    pub client: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { everyone: Duration::from_mins(10), client: Duration::from_mins(1) }
    }
}

/// What upstream said of who may read. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    store: Store,
    keypair: Arc<Keypair>,
    /// Under which logins are known: the same in all nodes of a cluster, and nowhere else.
    key: [u8; 32],
    times: Times,
    /// A std mutex, held for a map access and never across an await.
    verdicts: Arc<Mutex<Verdicts>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("times", &self.times).finish_non_exhaustive()
    }
}

impl Access {
    /// Nothing is known but what the store remembers. `key` is what logins are fingerprinted with.
    pub fn new(store: Store, keypair: Arc<Keypair>, key: [u8; 32], times: Times) -> Self {
        Self { store, keypair, key, times, verdicts: Arc::default() }
    }

    /// The login in a client's `Authorization`, if it is of a kind that registries know.
    pub fn login(&self, header: &HeaderValue) -> Option<ClientLogin> {
        ClientLogin::read(header, &self.key)
    }

    /// For how long what is said of this reader holds.
    pub const fn lasts(&self, reader: Reader) -> Duration {
        match reader {
            Reader::Everyone => self.times.everyone,
            Reader::Client(_) => self.times.client,
        }
    }

    /// Whether upstream let this reader read the repository lately.
    pub fn may_read(&self, scope: &Scope, reader: Reader) -> bool {
        self.memory().reads(scope, reader, self.lasts(reader), now_unix_ms())
    }

    /// Whether upstream gave this very object lately.
    pub fn knows(&self, question: &Question) -> bool {
        let within = self.lasts(question.reader);
        self.memory().find(question, within, now_unix_ms()).is_some()
    }

    /// Whether upstream refused this reader the repository lately.
    pub fn is_refused(&self, scope: &Scope, reader: Reader) -> bool {
        self.memory().refuses(scope, reader, self.times.client, now_unix_ms())
    }

    /// Upstream refused this reader the repository.
    pub fn refused(&self, scope: &Scope, reader: Reader) {
        self.memory().refused(scope, reader, now_unix_ms());
    }

    /// Upstream said yes, just now and to this node.
    pub async fn granted(&self, question: Question) -> Option<SignedVerdict> {
        let verdict = Verdict { question, checked_unix_ms: now_unix_ms() };
        match verdict.sign(&self.keypair) {
            Ok(signed) => {
                self.heard(signed.clone()).await;
                Some(signed)
            }
            Err(error) => {
                tracing::warn!(%error, "a verdict could not be signed, and other nodes will ask upstream themselves");
                None
            }
        }
    }

    /// Upstream let this reader read something of a repository at this time.
    pub async fn read_at(&self, scope: &Scope, reader: Reader, checked_unix_ms: u64) {
        let due = self.memory().read_at(scope, reader, checked_unix_ms);
        // For when upstream is down after a restart: once for a repository and some minutes is enough.
        if due && let Err(error) = self.store.note_public(scope, checked_unix_ms).await {
            tracing::warn!(%error, %scope, "could not note that a repository is public");
        }
    }

    /// A verdict whose signature was checked.
    pub async fn heard(&self, signed: SignedVerdict) {
        let Verdict { question, checked_unix_ms } = &signed.verdict;
        let (scope, reader, at) = (question.scope.clone(), question.reader, *checked_unix_ms);
        self.memory().remember(signed);
        self.read_at(&scope, reader, at).await;
    }

    /// When upstream last let everyone read the repository, however long ago.
    pub async fn public_at(&self, scope: &Scope) -> Option<u64> {
        let remembered = self.memory().last(scope, Reader::Everyone);
        if remembered.is_some() {
            return remembered;
        }
        self.store.public_at(scope).await.unwrap_or_else(|error| {
            tracing::warn!(%error, %scope, "the store does not say whether a repository is public");
            None
        })
    }

    /// What a peer is told that asks the same question.
    pub fn answer(&self, question: Question) -> BoxFuture<'static, Option<SignedVerdict>> {
        let access = self.clone();
        async move {
            // However old: who asks knows how old is too old for it.
            let known = access.memory().find(&question, Duration::MAX, now_unix_ms());
            if known.is_some() || question.reader != Reader::Everyone {
                return known;
            }
            let digest = question.object.digest()?;
            // It was asked for by a tag, or listed in a manifest, of a repository that everyone could read then.
            let checked_unix_ms = access.public_at(&question.scope).await?;
            let seen = access.store.is_in(&digest, &question.scope).await.unwrap_or_default();
            seen.then(|| Verdict { question, checked_unix_ms }.sign(&access.keypair).ok()).flatten()
        }
        .boxed()
    }

    fn memory(&self) -> MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
