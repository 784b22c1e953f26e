//! Who may read what: what upstream said of it, remembered for a while.
//!
//! What this node holds was perhaps fetched with credentials that its clients do not have, so that it is held says
//! nothing of who may have it. The rule: a client gets what it could have got from upstream itself. So upstream is asked
//! in its name once, and the answer is remembered here; `source/admission.rs` decides with it. Other nodes take this
//! node's signed word, and this node theirs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::HeaderValue;
use shoal_gateway::upstream::identity::ClientLogin;
use shoal_proto::digest::Digest;
use shoal_proto::identity::Keypair;
use shoal_proto::name::Scope;
use shoal_proto::verdict::{Question, Reader, SignedVerdict, Verdict};
use shoal_store::{Store, StoreError};

use crate::clock;

mod verdicts;

use verdicts::Verdicts;

/// The purpose for which the key of logins' fingerprints is derived from the cluster's.
pub const FINGERPRINTS: &str = "shoal 2026-11 fingerprints of clients' logins";

/// For how long what upstream said holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// There is no cluster: whatever runs on this machine can be a peer.
    is_alone: bool,
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
    /// Nothing is known but what the store remembers. `key` is what logins are fingerprinted with, the same for all nodes of
    /// a cluster. Without one peers have shown nothing of themselves: they are told what everyone may know, and believed
    /// nothing.
    pub fn new(store: Store, keypair: Arc<Keypair>, key: Option<[u8; 32]>, times: Times) -> Self {
        let is_alone = key.is_none();
        Self {
            store,
            keypair,
            key: key.unwrap_or_else(rand::random),
            is_alone,
            times,
            verdicts: Arc::default(),
        }
    }

    /// Whether there is no cluster, and peers get only what everyone may read.
    pub const fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Whether peers are given something that is `everyones` or not: without a cluster whoever is on this machine can ask.
    pub const fn is_for_peers(&self, everyones: bool) -> bool {
        everyones || !self.is_alone
    }

    /// The login in a client's `Authorization`, if it is of a kind that registries know.
    pub fn login(&self, header: &HeaderValue) -> Option<ClientLogin> {
        ClientLogin::read(header, &self.key)
    }

    /// For how long what is said of this reader holds.
    pub const fn lasts(&self, reader: Reader) -> Duration {
        match reader {
            Reader::Everyone | Reader::Cluster => self.times.everyone,
            Reader::Client(_) => self.times.client,
        }
    }

    /// Whether upstream let this reader read the repository lately.
    pub fn may_read(&self, scope: &Scope, reader: Reader) -> bool {
        self.memory().reads(scope, reader, self.lasts(reader), clock::unix_ms())
    }

    /// Whether upstream gave this very object lately.
    pub fn knows(&self, question: &Question) -> bool {
        let within = self.lasts(question.reader);
        self.memory().find(question, Some(within), clock::unix_ms()).is_some()
    }

    /// Whether upstream refused this reader the repository lately.
    pub fn is_refused(&self, scope: &Scope, reader: Reader) -> bool {
        self.memory().refuses(scope, reader, self.times.client, clock::unix_ms())
    }

    /// Upstream refused this reader the repository: what it once allowed is over, also when it is down later.
    pub async fn refused(&self, scope: &Scope, reader: Reader) {
        let now = clock::unix_ms();
        let was_read = self.memory().last(scope, reader).is_some();
        self.memory().refused(scope, reader, now);
        let (Some(whom), Some(refused)) = (many(reader), many_refused(reader)) else { return };
        let forgotten = async {
            // Of what nobody could read nothing is remembered that a refusal had to end.
            if was_read || self.store.readable_at(scope, whom).await?.is_some() {
                self.store.note_readable(scope, refused, now).await?;
                self.store.forget_readable(scope, whom).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, %scope, "could not forget who could read a repository");
        }
    }

    /// Whether upstream has refused this reader since that time, before a restart too.
    pub async fn refused_since(&self, scope: &Scope, reader: Reader, unix_ms: u64) -> bool {
        if self.memory().refused_since(scope, reader, unix_ms) {
            return true;
        }
        let Some(refused) = many_refused(reader) else { return false };
        match self.store.readable_at(scope, refused).await {
            // A clock that ran ahead refuses nothing for ever.
            Ok(refused) => refused
                .is_some_and(|refused| refused >= unix_ms && !clock::is_to_come(refused, clock::unix_ms())),
            Err(error) => {
                tracing::warn!(%error, %scope, "the store does not say who was refused a repository");
                true
            }
        }
    }

    /// Whether upstream has said that this is in the repository, to this reader or, but for everyone, to any other. What
    /// a manifest lists is not thereby there: registries take manifests that name what is in other repositories.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn is_in(&self, scope: &Scope, digest: &Digest, reader: Reader) -> Result<bool, StoreError> {
        self.store.is_in(digest, scope, reader == Reader::Everyone).await
    }

    /// Upstream said that this is in the repository, to everyone if it is `public`. Noted of what is given, which the disk
    /// bounds, and of what a tag names: of all that upstream says yes to there is no end.
    pub async fn found(&self, scope: &Scope, digest: &Digest, public: bool) {
        if let Err(error) = self.store.note_repository(digest, scope, public).await {
            tracing::warn!(%error, %digest, "could not note which repository it is in");
        }
    }

    /// Upstream said yes, just now and to this node.
    pub async fn granted(&self, question: Question) {
        let verdict = Verdict { question, checked_unix_ms: clock::unix_ms() };
        match verdict.sign(&self.keypair) {
            Ok(signed) => {
                self.heard(signed).await;
            }
            Err(error) => {
                tracing::warn!(%error, "a verdict could not be signed, and other nodes will ask upstream themselves");
            }
        }
    }

    /// Upstream let this reader read something of a repository at this time.
    pub async fn read_at(&self, scope: &Scope, reader: Reader, checked_unix_ms: u64) {
        let due = self.memory().read_at(scope, reader, checked_unix_ms, clock::unix_ms());
        // For when upstream is down after a restart: once for a repository and some minutes is enough.
        if due
            && let Some(whom) = many(reader)
            && let Err(error) = self.store.note_readable(scope, whom, checked_unix_ms).await
        {
            tracing::warn!(%error, %scope, "could not note who may read a repository");
        }
    }

    /// Upstream does not give this for the repository, whatever it said before.
    pub async fn gone(&self, scope: &Scope, digest: &Digest) {
        self.memory().gone(scope, digest);
        if let Err(error) = self.store.forget_repository(digest, scope).await {
            tracing::warn!(%error, %digest, "could not note which repository it is not in");
        }
    }

    /// A verdict whose signature was checked. Says whether it is taken: not of who belongs to no cluster, nor if it is of a
    /// time to come or of before a refusal.
    pub async fn heard(&self, signed: SignedVerdict) -> bool {
        let Verdict { question, checked_unix_ms } = &signed.verdict;
        let (scope, reader, at) = (question.scope.clone(), question.reader, *checked_unix_ms);
        let now = clock::unix_ms();
        if self.is_alone && signed.signer != self.keypair.public().to_peer_id() {
            return false;
        }
        if clock::is_to_come(at, now) {
            tracing::debug!(signer = %signed.signer, %scope, "its clock runs ahead: what it was told is not taken");
            return false;
        }
        if self.refused_since(&scope, reader, at).await {
            return false;
        }
        self.memory().remember(signed, now);
        self.read_at(&scope, reader, at).await;
        true
    }

    /// When upstream last let this reader read the repository, however long ago. A client's login is forgotten with the
    /// node.
    pub async fn last_read(&self, scope: &Scope, reader: Reader) -> Option<u64> {
        let remembered = self.memory().last(scope, reader);
        if remembered.is_some() {
            return remembered;
        }
        let noted = self.store.readable_at(scope, many(reader)?).await.unwrap_or_else(|error| {
            tracing::warn!(%error, %scope, "the store does not say who may read a repository");
            None
        })?;
        (!self.refused_since(scope, reader, noted).await).then_some(noted)
    }

    /// What a peer is told that asks the same question.
    pub fn answer(&self, question: Question) -> BoxFuture<'static, Option<SignedVerdict>> {
        let access = self.clone();
        async move {
            if !access.is_for_peers(question.reader == Reader::Everyone) {
                return None;
            }
            // However old: who asks knows how old is too old for it.
            let known = access.memory().find(&question, None, clock::unix_ms());
            if known.is_some() || many(question.reader).is_none() {
                return known;
            }
            let digest = question.object.digest()?;
            // It was found in a repository that they could read then.
            let checked_unix_ms = access.last_read(&question.scope, question.reader).await?;
            let seen = access.is_in(&question.scope, &digest, question.reader).await.unwrap_or_default();
            seen.then(|| Verdict { question, checked_unix_ms }.sign(&access.keypair).ok()).flatten()
        }
        .boxed()
    }

    fn memory(&self) -> MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the store calls a reader who stands for many.
const fn many(reader: Reader) -> Option<&'static str> {
    match reader {
        Reader::Everyone => Some("everyone"),
        Reader::Cluster => Some("cluster"),
        Reader::Client(_) => None,
    }
}

/// The same, of what they were refused.
const fn many_refused(reader: Reader) -> Option<&'static str> {
    match reader {
        Reader::Everyone => Some("everyone, refused"),
        Reader::Cluster => Some("cluster, refused"),
        Reader::Client(_) => None,
    }
}
