//! Who gets what: the caller gets what it could have got from upstream itself.
//!
//! ```text
//! may everyone read it here? ── yes ────────────────────────────────────────────────► served
//!   did upstream say so of    │
//!   this repository, lately,  └ no ── credentials? ── no ─► 404, or 401
//!   to any node; else one             └ yes: one HEAD as the client, for the fleet
//!   HEAD for the fleet
//! ```
//!
//! Digests are no secrets: that a client knows one, that a node holds it, and that a manifest lists it, admits nobody.
//! Registries take manifests that name what is in other repositories, so that each object is in this one upstream says
//! itself. That a registry says it has one is not believed of bytes that came from elsewhere (`proofs.rs`). Upstream's
//! trouble is no refusal: what everyone could read is served on while it is down, however long. A client's own
//! credentials are believed then for as long as upstream's last word on them holds, and not beyond. They are shown to no
//! registry that gives everyone what is asked for.

use std::time::Duration;

use shoal_gateway::error::PullError;
use shoal_gateway::source::{Accept, Passage, Passed};
use shoal_gateway::upstream::config::Access;
use shoal_gateway::upstream::identity::{ClientLogin, Identity};
use shoal_proto::name::{Reference, Scope, Tag};
use shoal_proto::tag::TagMapping;
use shoal_proto::verdict::{Object, Question, Reader, SignedVerdict};
use shoal_store::Of;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::tags::{Answer, Ask};
use super::{MOST_PEERS, NodeSource, ONE_PEER, PEERS_LIMIT, unavailable};
use crate::turn::Wish;

/// A registry that failed no longer ago than this fails now.
const STILL_DOWN: Duration = Duration::from_secs(2);
/// How long the node may ask for a repository with what a client lent it: longer than a transfer takes.
const LENT: Duration = Duration::from_mins(10);

impl NodeSource {
    /// For whose sake the caller gets this of the repository, if it may: for everyone's if upstream said so lately. What
    /// everyone could read before it went down is served to them, and makes it nobody else's.
    ///
    /// # Errors
    /// What upstream said, or that the caller has not shown that it may.
    pub(super) async fn admit(&self, scope: &Scope, object: Object) -> Result<Of, PullError> {
        let question = Question { scope: scope.clone(), object, reader: self.everyone(scope) };
        let of = |everyones| Of { scope: scope.clone(), everyones };
        let asks_all = question.reader == Reader::Everyone;
        if self.knows(&question).await? {
            return Ok(of(asks_all));
        }
        if self.client_is_known(&question).await? {
            return Ok(of(false));
        }
        match self.everyone_may(&question).await {
            Ok(()) => Ok(of(asks_all && self.knows(&question).await?)),
            Err(refused) if is_refusal(&refused) => {
                self.client_or(&question, refused).await?;
                Ok(of(false))
            }
            Err(error) => Err(error),
        }
    }

    /// What a tag names now, if the caller may know.
    ///
    /// # Errors
    /// As [`NodeSource::admit`].
    pub(super) async fn admitted_tag(
        &self,
        scope: &Scope,
        tag: &Tag,
        accept: &Accept,
    ) -> Result<Answer, PullError> {
        let object = Object::Manifest(Reference::Tag(tag.clone()));
        let question = Question { scope: scope.clone(), object, reader: self.everyone(scope) };
        let may_read = self.access.may_read(scope, question.reader);
        let told = if may_read || !self.client_is_known(&question).await? {
            match self.tag_for_everyone(scope, tag, accept).await {
                Err(refused) if is_refusal(&refused) => {
                    self.client_or(&question, refused).await?;
                    None
                }
                told => Some(told?),
            }
        } else {
            None
        };
        let public = told.is_some() && question.reader == Reader::Everyone;
        let answer = match told {
            Some(answer) => answer,
            // The client may.
            None => self.resolve_tag(Ask { scope, tag, accept, identity: &Identity::Node }).await?,
        };
        let TagMapping { digest, size, .. } = answer.mapping;
        self.sizes.note_one(scope, digest, size);
        self.access.found(scope, &digest, public).await;
        Ok(answer)
    }

    /// To ask as everyone what a tag names is to ask whether everyone may read.
    async fn tag_for_everyone(&self, scope: &Scope, tag: &Tag, accept: &Accept) -> Result<Answer, PullError> {
        let (access, all) = (&self.access, self.everyone(scope));
        if self.refused_lately(scope, all) {
            return Err(denied(scope));
        }
        let everyone = self.ports.upstreams.everyone(&scope.registry);
        match self.resolve_tag(Ask { scope, tag, accept, identity: &everyone }).await {
            // Remembered of a time before upstream refused it.
            Ok(Answer { mapping, .. }) if access.refused_since(scope, all, mapping.checked_unix_ms).await => {
                Err(denied(scope))
            }
            Ok(answer) if answer.warning.is_some() => Ok(answer),
            Ok(answer) => {
                access.read_at(scope, all, answer.mapping.checked_unix_ms).await;
                // A tag may hold for longer than that everyone may read it.
                if !access.may_read(scope, all) {
                    let object = Object::Manifest(Reference::Digest(answer.mapping.digest));
                    let question = Question { scope: scope.clone(), object, reader: all };
                    self.everyone_may(&question).await?;
                }
                Ok(answer)
            }
            Err(error) => {
                if matches!(error, PullError::Denied { .. }) {
                    access.refused(scope, all).await;
                }
                Err(error)
            }
        }
    }

    /// Upstream's own answer to everyone, or else to the caller.
    ///
    /// # Errors
    /// As [`NodeSource::admit`].
    pub(super) async fn admitted_passage(
        &self,
        scope: &Scope,
        passage: Passage,
        query: &str,
    ) -> Result<Passed, PullError> {
        let everyone = self.ports.upstreams.everyone(&scope.registry);
        let passed = match (self.passed(scope, passage.clone(), query, everyone).await, self.client(scope)) {
            (Err(refused), Some(login)) if is_refusal(&refused) => {
                self.passed(scope, passage, query, Identity::Client(login.clone())).await
            }
            (passed, _) => passed,
        };
        match passed {
            Err(PullError::Denied { .. }) if self.wants_credentials(scope) => {
                Err(self.private(scope, self.client(scope).is_some()))
            }
            passed => passed,
        }
    }

    async fn passed(
        &self,
        scope: &Scope,
        passage: Passage,
        query: &str,
        identity: Identity,
    ) -> Result<Passed, PullError> {
        self.ports.metrics.upstream_request();
        let passed = self.ports.upstreams.named(identity).pass(scope, passage, query).await?;
        self.ports.metrics.upstream_bytes(passed.body.len() as u64);
        Ok(passed)
    }

    /// Who everyone that reaches this gateway is, to upstream.
    fn everyone(&self, scope: &Scope) -> Reader {
        match self.ports.upstreams.everyone(&scope.registry) {
            Identity::Anonymous => Reader::Everyone,
            Identity::Node | Identity::Client(_) => Reader::Cluster,
        }
    }

    /// The caller's own login, where it is for this registry. A client that goes by the path alone has one for this
    /// gateway, whatever registry the path names: of those only what the operator configured is shown it.
    fn client(&self, scope: &Scope) -> Option<&ClientLogin> {
        let named = self.registry_is_named || self.ports.upstreams.is_configured(&scope.registry);
        self.login.as_ref().filter(|_| named)
    }

    /// Whether the object is known to be in the repository, by upstream's word to this reader. A tag is asked for anyway.
    async fn is_in(&self, question: &Question) -> Result<bool, PullError> {
        let Some(digest) = question.object.digest() else { return Ok(true) };
        self.access.is_in(&question.scope, &digest, question.reader).await.map_err(unavailable)
    }

    /// Whether upstream need not be asked, because it has just refused this reader. What is refused to everyone is asked
    /// again where neither a rule of the operator's expects that nor the caller can be asked for instead: upstream may have
    /// mended its ways.
    fn refused_lately(&self, scope: &Scope, reader: Reader) -> bool {
        let expected = match reader {
            Reader::Client(_) => true,
            Reader::Everyone | Reader::Cluster => {
                self.wants_credentials(scope) || self.client(scope).is_some()
            }
        };
        expected && self.access.is_refused(scope, reader)
    }

    /// Whether upstream has let this reader have it lately.
    async fn knows(&self, question: &Question) -> Result<bool, PullError> {
        let may_read = || self.access.may_read(&question.scope, question.reader);
        Ok(self.access.knows(question) || (may_read() && self.is_in(question).await?))
    }

    /// Whether everyone who reaches this gateway may have it.
    async fn everyone_may(&self, question: &Question) -> Result<(), PullError> {
        let scope = &question.scope;
        let identity = self.ports.upstreams.everyone(&scope.registry);
        let was_let = async || {
            let is_in = self.is_in(question).await.unwrap_or_default();
            is_in && self.access.last_read(scope, question.reader).await.is_some()
        };
        // Not asked for each part of an image: each would wait for it.
        if self.ports.upstreams.is_silent(&scope.registry, STILL_DOWN) && was_let().await {
            return Ok(());
        }
        match self.ask_once(question, identity).await {
            Err(error @ (PullError::Upstream { .. } | PullError::Throttled { .. })) => {
                if was_let().await || self.peers_know(question).await { Ok(()) } else { Err(error) }
            }
            other => other,
        }
    }

    /// Whether upstream has let this very caller have it lately. Then the node may ask for it with the caller's login.
    async fn client_is_known(&self, question: &Question) -> Result<bool, PullError> {
        let Some(login) = self.client(&question.scope) else { return Ok(false) };
        let known = self.knows(&Question { reader: reader_of(login), ..question.clone() }).await?;
        if known {
            self.ports.upstreams.lend(&question.scope, login.clone(), LENT);
        }
        Ok(known)
    }

    /// Whether this very caller may have what everyone was refused.
    ///
    /// # Errors
    /// What one is told who may not have it. Upstream's trouble is a reason, too: what cannot be checked is not given.
    async fn client_or(&self, question: &Question, refused: PullError) -> Result<(), PullError> {
        let Some(login) = self.client(&question.scope) else {
            return Err(self.refusal(question, None, refused));
        };
        let mine = Question { reader: reader_of(login), ..question.clone() };
        if let Err(error) = self.ask_once(&mine, Identity::Client(login.clone())).await {
            return Err(self.refusal(question, Some(error), refused));
        }
        self.ports.upstreams.lend(&question.scope, login.clone(), LENT);
        Ok(())
    }

    /// What one is told who may not have it: `refused` says how upstream put it for everyone, `mine` for the caller.
    fn refusal(&self, question: &Question, mine: Option<PullError>, refused: PullError) -> PullError {
        let scope = &question.scope;
        match mine {
            Some(PullError::Denied { .. }) => self.private(scope, true),
            Some(error) => error,
            // In a repository that everyone can read it is simply not there.
            _ if self.access.may_read(scope, question.reader) => refused,
            _ if self.wants_credentials(scope) => self.private(scope, false),
            _ => refused,
        }
    }

    /// Whether the operator lets clients read with credentials of their own what the node's can.
    fn wants_credentials(&self, scope: &Scope) -> bool {
        let access = self.ports.upstreams.access(&scope.registry);
        matches!(access, Some(Access::Verify | Access::Challenge))
    }

    /// What a client is told that has shown no credentials, or `wrong` ones.
    fn private(&self, scope: &Scope, wrong: bool) -> PullError {
        PullError::Private {
            registry: scope.registry.to_string(),
            wrong,
            challenge: self.ports.upstreams.access(&scope.registry) == Some(Access::Challenge),
        }
    }

    /// Asks upstream, or the node of the fleet that just did.
    pub(super) async fn ask_once(&self, question: &Question, identity: Identity) -> Result<(), PullError> {
        let key = question.key();
        let _turn = self.verdicts_in_flight.turn(&key).await;
        if self.access.knows(question) {
            return Ok(());
        }
        if self.refused_lately(&question.scope, question.reader) {
            return Err(denied(&question.scope));
        }
        let fresh = self.access.lasts(question.reader);
        let wish = Wish { key, fresh, asked: Instant::now(), registry: &question.scope.registry };
        let asked = wish.once(
            &self.ports,
            async || {
                self.ask_upstream(question, identity.clone()).await?;
                self.access.granted(question.clone()).await;
                Ok(())
            },
            async |by| {
                let asked = timeout(ONE_PEER, self.ports.peers.ask_verdict(by, question.clone())).await;
                let signed = believed(question, asked.ok()?.ok()?)?;
                self.access.heard(signed).await;
                self.access.knows(question).then_some(())
            },
        );
        let asked = asked.await;
        if matches!(asked, Err(PullError::Denied { .. })) {
            self.access.refused(&question.scope, question.reader).await;
        }
        asked
    }

    /// One HEAD in somebody's name.
    async fn ask_upstream(&self, question: &Question, identity: Identity) -> Result<(), PullError> {
        let upstreams = self.ports.upstreams.named(identity).directly();
        let (scope, metrics) = (&question.scope, &self.ports.metrics);
        metrics.upstream_request();
        match &question.object {
            Object::Manifest(reference) => {
                let said = upstreams.head_manifest(scope, reference, &Accept::default()).await?;
                if said.size.is_none() && said.media_type.is_none() {
                    // A registry without HEAD has said nothing.
                    metrics.upstream_request();
                    let manifest = upstreams.get_manifest(scope, reference, &Accept::default()).await?;
                    metrics.upstream_bytes(manifest.bytes.len() as u64);
                }
            }
            Object::Blob(digest) => {
                if let Some(size) = upstreams.blob_size(scope, digest).await?.filter(|size| *size > 0) {
                    // So that it is not asked for its size alone again.
                    self.sizes.note_one(scope, *digest, size);
                }
            }
        }
        Ok(())
    }

    /// Whether a peer was once told by upstream that everyone may have it. For when upstream is down.
    async fn peers_know(&self, question: &Question) -> bool {
        let deadline = Instant::now() + PEERS_LIMIT;
        let mut answers = JoinSet::new();
        for summary in self.ports.peers.connected().into_iter().take(MOST_PEERS) {
            let (peers, question) = (self.ports.peers.clone(), question.clone());
            answers.spawn(async move { peers.ask_verdict(summary.peer, question).await.ok().flatten() });
        }
        while let Ok(Some(answer)) = timeout_at(deadline, answers.join_next()).await {
            let signed = answer.ok().and_then(|answer| believed(question, answer));
            if let Some(signed) = signed
                && self.access.heard(signed).await
            {
                return true;
            }
        }
        false
    }
}

/// Whether upstream has said no.
pub(super) const fn is_refusal(error: &PullError) -> bool {
    matches!(error, PullError::NotFound { .. } | PullError::Denied { .. } | PullError::Rejected { .. })
}

fn reader_of(login: &ClientLogin) -> Reader {
    Reader::Client(*login.fingerprint())
}

/// As upstream put it a short while ago.
fn denied(scope: &Scope) -> PullError {
    PullError::Denied { registry: scope.registry.to_string(), status: 401 }
}

/// An answer, if it is one to this question and its signer did sign it.
fn believed(question: &Question, answer: Option<SignedVerdict>) -> Option<SignedVerdict> {
    answer.filter(|signed| signed.verdict.question == *question && signed.verify().is_ok())
}
