//! What a tag names: upstream decides, the fleet remembers.

use shoal_gateway::error::PullError;
use shoal_gateway::source::{Accept, ManifestInfo};
use shoal_gateway::upstream::identity::Identity;
use shoal_proto::digest::Digest;
use shoal_proto::manifest::ACCEPT_ALL;
use shoal_proto::name::{Reference, Scope, Tag};
use shoal_proto::tag::{SignedTagMapping, TagMapping};
use shoal_store::Of;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::admission::is_refusal;
use super::{MOST_PEERS, NodeSource, ONE_PEER, PEERS_LIMIT, unavailable};
use crate::clock;
use crate::tags::{Said, Trust, Ttl};
use crate::turn::Wish;

/// For ever, as homes are told: longer than they remember.
const FOREVER: Duration = Duration::from_hours(24 * 30);

/// What a tag names, and how old that is if upstream could not be asked.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) mapping: TagMapping,
    /// Why it is not upstream's word of now, for the client.
    pub(super) warning: Option<String>,
}

/// One question for a tag.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) scope: &'a Scope,
    pub(super) tag: &'a Tag,
    pub(super) accept: &'a Accept,
    /// In whose name upstream is asked.
    pub(super) identity: &'a Identity,
}

impl NodeSource {
    /// Asks upstream; if upstream is down, what was last known here or by peers.
    pub(super) async fn resolve_tag(&self, ask: Ask<'_>) -> Result<Answer, PullError> {
        self.resolve_within(ask, self.rules.ttl(ask.scope, ask.tag)).await
    }

    /// As [`NodeSource::resolve_tag`], with another time for which upstream's word holds.
    pub(super) async fn resolve_within(&self, ask: Ask<'_>, ttl: Ttl) -> Result<Answer, PullError> {
        match self.checked_within(ask, ttl).await {
            Ok(mapping) => Ok(Answer { mapping, warning: None }),
            Err(error @ (PullError::Upstream { .. } | PullError::Throttled { .. })) => {
                self.stale(ask, error).await
            }
            Err(error) => Err(error),
        }
    }

    /// The last word, while upstream is down, if it is not too old.
    async fn stale(&self, ask: Ask<'_>, error: PullError) -> Result<Answer, PullError> {
        let Ask { scope, tag, .. } = ask;
        let Some(mapping) = self.remembered(ask).await else { return Err(error) };
        let age = Duration::from_millis(clock::unix_ms().saturating_sub(mapping.checked_unix_ms));
        let shown = humantime::format_duration(Duration::from_secs(age.as_secs()));
        if age > self.rules.stale {
            let most = humantime::format_duration(self.rules.stale);
            tracing::info!(
                registry = %scope.registry, repository = %scope.repository, %tag, age = %shown, %most, %error,
                "upstream is down, and what the tag last named is older than tag_stale lets be given"
            );
            return Err(match error {
                PullError::Upstream { registry, status, reason } => PullError::Upstream {
                    registry,
                    status,
                    reason: format!(
                        "{reason}; what the tag named {shown} ago is known, and tag_stale = \"{most}\" lets nothing \
                         so old be given"
                    ),
                },
                // How long it wants to be left alone is said in a form of its own.
                other => other,
            });
        }
        self.ports.metrics.stale_tag();
        tracing::warn!(
            registry = %scope.registry, repository = %scope.repository, %tag, digest = %mapping.digest, age = %shown,
            %error, "upstream is down: the tag is answered as it was last known"
        );
        Ok(Answer { mapping, warning: Some(format!("stale: as it was {shown} ago, for {error}")) })
    }

    /// Upstream's word, as new as this asks for: one HEAD for the fleet. Whoever has the turn asks, the others ask that
    /// node.
    ///
    /// A HEAD and not a conditional GET: it costs no quota where GETs do, and has no body that a condition would save.
    async fn checked_within(&self, ask: Ask<'_>, ttl: Ttl) -> Result<TagMapping, PullError> {
        let Ask { scope, tag, accept, identity } = ask;
        let (arrived, asked) = (clock::unix_ms(), Instant::now());
        let key = as_asked(ask);
        let _turn = self.tags_in_flight.turn(&key).await;
        let mut fresh = match ttl {
            Ttl::For(fresh) => fresh,
            Ttl::Forever => FOREVER,
        };
        let refreshed = self.recent.refreshed_at(scope, tag);
        if let Some(at) = refreshed {
            fresh = fresh.min(Duration::from_millis(arrived.saturating_sub(at)));
        }
        let since = u128::from(arrived).saturating_sub(fresh.as_millis());
        let known = self.recent.get(&key).filter(|said| u128::from(said.holds_from()) >= since);
        if let Some(said) = known {
            return Ok(said.signed.mapping);
        }
        if ttl == Ttl::Forever
            && let Some(said) = self.only_known(ask).await?
            && refreshed.is_none_or(|at| said.checked_unix_ms >= at)
        {
            return Ok(said);
        }
        if self.rules.trust == Trust::Own {
            return self.checked_tag(ask, key).await;
        }
        let wish = Wish { key, fresh, asked, registry: &scope.registry };
        wish.once(
            &self.ports,
            async || self.checked_tag(ask, key).await,
            async |by| {
                let answer = timeout(ONE_PEER, self.ports.peers.ask_tag(by, scope, tag, Some(key))).await;
                let told = answer.ok().and_then(Result::ok).unwrap_or_default();
                let within = fresh.saturating_add(clock::SKEW);
                let signed = newest(told_to(identity, told), scope, tag, accept, Some(within))?;
                self.recent.note(key, Said { signed: signed.clone(), asked_unix_ms: arrived });
                let mapping = signed.mapping.clone();
                if let Err(error) = self.ports.store.put_tag(signed).await {
                    tracing::warn!(%error, %tag, "could not remember what the tag names");
                }
                Some(mapping)
            },
        )
        .await
    }

    /// What a tag that never moves was once said to name, after a restart too: unless manifests of several types were
    /// named, of which only upstream knows which this client should have.
    async fn only_known(&self, ask: Ask<'_>) -> Result<Option<TagMapping>, PullError> {
        let Ask { scope, tag, accept, identity } = ask;
        let mut known = told_to(identity, self.ports.store.tags(scope, tag).await.map_err(unavailable)?);
        self.trusted(&mut known);
        if known.len() != 1 {
            return Ok(None);
        }
        Ok(newest(known, scope, tag, accept, None).map(|signed| signed.mapping))
    }

    /// Leaves out the word of others, where the operator takes none.
    fn trusted(&self, known: &mut Vec<SignedTagMapping>) {
        if self.rules.trust == Trust::Own {
            let own = self.ports.peers.local_peer();
            known.retain(|signed| signed.signer == own);
        }
    }

    async fn checked_tag(&self, ask: Ask<'_>, key: Digest) -> Result<TagMapping, PullError> {
        // Upstream's word is of some moment after this.
        let checked_unix_ms = clock::unix_ms();
        let info = self.upstream_tag(ask).await?;
        let mapping = TagMapping {
            scope: ask.scope.clone(),
            tag: ask.tag.clone(),
            digest: info.digest,
            size: info.size,
            media_type: info.media_type,
            public: *ask.identity == Identity::Anonymous,
            checked_unix_ms,
        };
        self.remember(mapping.clone(), key).await;
        Ok(mapping)
    }

    /// Asks upstream now, whatever was said before, and forgets that. Returns what the tag named and names.
    pub async fn refresh(&self, scope: &Scope, tag: &Tag) -> Result<(Option<Digest>, Digest), PullError> {
        self.ports.upstreams.check(&scope.registry)?;
        let known = self.ports.store.tags(scope, tag).await.map_err(unavailable)?;
        let before = known.into_iter().max_by_key(|signed| signed.mapping.checked_unix_ms);
        let accept = Accept(ACCEPT_ALL.iter().map(|&media_type| media_type.to_owned()).collect());
        let everyone = self.ports.upstreams.everyone(&scope.registry);
        let ask = Ask { scope, tag, accept: &accept, identity: &everyone };
        let now = Ttl::For(Duration::ZERO);
        // Before upstream is asked: what it says from then on counts.
        self.recent.refreshed(scope, tag, clock::unix_ms());
        let mapping = match self.checked_within(ask, now).await {
            Err(error) if is_refusal(&error) => {
                self.checked_within(Ask { identity: &Identity::Node, ..ask }, now).await?
            }
            told => told?,
        };
        Ok((before.map(|signed| signed.mapping.digest), mapping.digest))
    }

    async fn upstream_tag(&self, ask: Ask<'_>) -> Result<ManifestInfo, PullError> {
        let Ask { scope, tag, accept, identity } = ask;
        let reference = Reference::Tag(tag.clone());
        let upstreams = self.ports.upstreams.named(identity.clone()).directly();
        self.ports.metrics.upstream_request();
        if let Some(info) = upstreams.head_manifest(scope, &reference, accept).await?.info() {
            return Ok(info);
        }
        // A registry whose HEAD does not say which digest: the manifest itself does.
        self.ports.metrics.upstream_request();
        let manifest = upstreams.get_manifest(scope, &reference, accept).await?;
        self.ports.metrics.upstream_bytes(manifest.bytes.len() as u64);
        let info = manifest.info.clone();
        let of = Of { scope: scope.clone(), everyones: *identity == Identity::Anonymous };
        self.keep(&of, manifest).await?;
        Ok(info)
    }

    /// Signs and stores what upstream said, for when it is down, and tells the fleet who knows.
    async fn remember(&self, mapping: TagMapping, asked: Digest) {
        let (scope, tag) = (&mapping.scope.clone(), &mapping.tag.clone());
        let signed = mapping.sign(&self.ports.keypair);
        if let Ok(signed) = &signed {
            let asked_unix_ms = signed.mapping.checked_unix_ms;
            self.recent.note(asked, Said { signed: signed.clone(), asked_unix_ms });
        }
        let stored = match signed {
            Ok(signed) => self.ports.store.put_tag(signed).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        // The answer itself is right: only the memory of it is lost.
        match stored {
            Ok(()) => self.ports.peers.announce(TagMapping::key(scope, tag)).await,
            Err(error) => tracing::warn!(%error, %tag, "could not remember what the tag names"),
        }
    }

    /// The newest mapping that this node or a peer knows, among those whose type the client accepts.
    async fn remembered(&self, ask: Ask<'_>) -> Option<TagMapping> {
        let Ask { scope, tag, accept, identity } = ask;
        let mut known = self.ports.store.tags(scope, tag).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the store does not say what the tag named");
            Vec::new()
        });
        self.trusted(&mut known);
        if self.rules.trust == Trust::Fleet {
            known.extend(self.ask_peers(scope, tag).await);
        }
        newest(told_to(identity, known), scope, tag, accept, None).map(|signed| signed.mapping)
    }

    async fn ask_peers(&self, scope: &Scope, tag: &Tag) -> Vec<SignedTagMapping> {
        let deadline = Instant::now() + PEERS_LIMIT;
        let mut asked = std::collections::HashSet::new();
        let mut answers = JoinSet::new();
        let ask = |peer, answers: &mut JoinSet<_>| {
            let (peers, scope, tag) = (self.ports.peers.clone(), scope.clone(), tag.clone());
            answers.spawn(async move { peers.ask_tag(peer, &scope, &tag, None).await.unwrap_or_default() });
        };
        for summary in self.ports.peers.connected().into_iter().take(MOST_PEERS / 2) {
            asked.insert(summary.peer);
            ask(summary.peer, &mut answers);
        }
        let mut known = Vec::new();
        if asked.is_empty() {
            return known;
        }
        let mut providers = self.ports.peers.providers(TagMapping::key(scope, tag), MOST_PEERS).await;
        let mut searching = true;
        while searching || !answers.is_empty() {
            let step = async {
                tokio::select! {
                    provider = providers.recv(), if searching => (Some(provider), None),
                    Some(answer) = answers.join_next() => (None, answer.ok()),
                }
            };
            match timeout_at(deadline, step).await {
                Ok((Some(Some(peer)), _)) if asked.len() < MOST_PEERS => {
                    if asked.insert(peer) && !self.ports.barred.is_barred(&peer) {
                        ask(peer, &mut answers);
                    }
                }
                Ok((Some(_), _)) => searching = false,
                Ok((None, mappings)) => known.extend(mappings.unwrap_or_default()),
                Err(_) => break,
            }
        }
        known
    }
}

/// What a tag is asked under: registries answer clients that accept other types with other manifests, and only some
/// of those who ask at all.
fn as_asked(ask: Ask<'_>) -> Digest {
    let Ask { scope, tag, accept, identity } = ask;
    let mut types: Vec<&str> = accept.0.iter().map(String::as_str).collect();
    types.sort_unstable();
    types.dedup();
    let named = if *identity == Identity::Anonymous { "" } else { "named\n" };
    Digest::sha256_of(format!("{}\n{named}{}", TagMapping::key(scope, tag), types.join("\n")).as_bytes())
}

/// What of this may be told to those in whose name upstream is asked: what upstream said to somebody is not for
/// everyone.
fn told_to(identity: &Identity, mut known: Vec<SignedTagMapping>) -> Vec<SignedTagMapping> {
    if *identity == Identity::Anonymous {
        known.retain(|signed| signed.mapping.public);
    }
    known
}

/// The newest mapping that its signer did sign, of a type that the client accepts, not older than `within`.
fn newest(
    mut known: Vec<SignedTagMapping>,
    scope: &Scope,
    tag: &Tag,
    accept: &Accept,
    within: Option<Duration>,
) -> Option<SignedTagMapping> {
    let now = clock::unix_ms();
    known.retain(|SignedTagMapping { mapping, .. }| {
        // A clock that runs ahead, here or there, makes no mapping fresh for ever.
        let age = now.abs_diff(mapping.checked_unix_ms);
        let fresh = within.is_none_or(|within| u128::from(age) <= within.as_millis());
        fresh && mapping.scope == *scope && mapping.tag == *tag && accept.takes(&mapping.media_type)
    });
    known.retain(|signed| signed.verify().is_ok());
    known.into_iter().max_by_key(|signed| signed.mapping.checked_unix_ms)
}
