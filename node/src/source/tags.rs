//! What a tag names: upstream decides, the fleet remembers.

use std::time::{SystemTime, UNIX_EPOCH};

use shoal_gateway::error::PullError;
use shoal_gateway::source::{Accept, ManifestInfo};
use shoal_gateway::upstream::identity::Identity;
use shoal_proto::digest::Digest;
use shoal_proto::manifest::tells_its_type;
use shoal_proto::name::{Reference, Scope, Tag};
use shoal_proto::tag::{SignedTagMapping, TagMapping};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::{NodeSource, unavailable};
use crate::turn::Wish;

/// How old an upstream check may be to answer for upstream, anywhere in the fleet.
const FRESH: Duration = Duration::from_secs(2);
/// What clocks may differ by, and an answer be under way.
const SLACK: Duration = Duration::from_secs(30);
/// How long the node that asked upstream may take to say what it heard.
const ONE_PEER: Duration = Duration::from_secs(1);
/// How long peers may take to say what they remember of a tag.
const PEERS_LIMIT: Duration = Duration::from_millis(600);
/// The most peers asked for a tag.
const MAX_ASKED: usize = 16;

impl NodeSource {
    /// Asks upstream in this name; if upstream is down, what was last known here or by peers.
    pub(super) async fn resolve_tag(
        &self,
        scope: &Scope,
        tag: &Tag,
        accept: &Accept,
        identity: &Identity,
    ) -> Result<TagMapping, PullError> {
        match self.fleet_tag(scope, tag, accept, identity).await {
            Ok(mapping) => Ok(mapping),
            Err(error @ (PullError::Upstream { .. } | PullError::Throttled { .. })) => {
                let Some(mapping) = self.remembered(scope, tag, accept, identity).await else {
                    return Err(error);
                };
                self.ports.metrics.stale_tag();
                tracing::warn!(
                    registry = %scope.registry, repository = %scope.repository, %tag, digest = %mapping.digest,
                    checked_unix_ms = mapping.checked_unix_ms, %error,
                    "upstream is down: the tag is answered as it was last known"
                );
                Ok(mapping)
            }
            Err(error) => Err(error),
        }
    }

    /// One HEAD upstream for the fleet within a short time: whoever has the turn asks, the others ask that node.
    async fn fleet_tag(
        &self,
        scope: &Scope,
        tag: &Tag,
        accept: &Accept,
        identity: &Identity,
    ) -> Result<TagMapping, PullError> {
        let key = as_asked(scope, tag, accept, identity);
        let _turn = self.tags_in_flight.turn(&key).await;
        let own = self.ports.store.tags(scope, tag).await.map_err(unavailable)?;
        if let Some(signed) = newest(told_to(identity, own), scope, tag, accept, Some(FRESH)) {
            return Ok(signed.mapping);
        }
        let wish = Wish { key, fresh: FRESH, registry: &scope.registry };
        wish.once(
            &self.ports,
            async || self.checked_tag(scope, tag, accept, identity).await,
            async |by| {
                let asked = timeout(ONE_PEER, self.ports.peers.ask_tag(by, scope, tag)).await;
                let told = asked.ok().and_then(Result::ok).unwrap_or_default();
                let signed = newest(told_to(identity, told), scope, tag, accept, Some(FRESH + SLACK))?;
                let mapping = signed.mapping.clone();
                if let Err(error) = self.ports.store.put_tag(signed).await {
                    tracing::warn!(%error, %tag, "could not remember what the tag names");
                }
                Some(mapping)
            },
        )
        .await
    }

    async fn checked_tag(
        &self,
        scope: &Scope,
        tag: &Tag,
        accept: &Accept,
        identity: &Identity,
    ) -> Result<TagMapping, PullError> {
        let info = self.upstream_tag(scope, tag, accept, identity).await?;
        let mapping = TagMapping {
            scope: scope.clone(),
            tag: tag.clone(),
            digest: info.digest,
            size: info.size,
            media_type: info.media_type,
            public: *identity == Identity::Anonymous,
            checked_unix_ms: now_unix_ms(),
        };
        self.remember(mapping.clone()).await;
        Ok(mapping)
    }

    async fn upstream_tag(
        &self,
        scope: &Scope,
        tag: &Tag,
        accept: &Accept,
        identity: &Identity,
    ) -> Result<ManifestInfo, PullError> {
        let reference = Reference::Tag(tag.clone());
        let upstreams = self.ports.upstreams.named(identity.clone());
        self.ports.metrics.upstream_request();
        if let Some(info) = upstreams.head_manifest(scope, &reference, accept).await?.info() {
            return Ok(info);
        }
        // A registry whose HEAD does not say which digest: the manifest itself does.
        self.ports.metrics.upstream_request();
        let manifest = upstreams.get_manifest(scope, &reference, accept).await?;
        self.ports.metrics.upstream_bytes(manifest.bytes.len() as u64);
        let info = manifest.info.clone();
        self.keep(scope, manifest).await?;
        Ok(info)
    }

    /// Signs and stores what upstream said, for when it is down, and tells the fleet who knows.
    async fn remember(&self, mapping: TagMapping) {
        let (scope, tag) = (&mapping.scope.clone(), &mapping.tag.clone());
        let stored = match mapping.sign(&self.ports.keypair) {
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
    async fn remembered(
        &self,
        scope: &Scope,
        tag: &Tag,
        accept: &Accept,
        identity: &Identity,
    ) -> Option<TagMapping> {
        let own = self.ports.store.tags(scope, tag).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the store does not say what the tag named");
            Vec::new()
        });
        let mut known = own;
        known.extend(self.ask_peers(scope, tag).await);
        newest(told_to(identity, known), scope, tag, accept, None).map(|signed| signed.mapping)
    }

    async fn ask_peers(&self, scope: &Scope, tag: &Tag) -> Vec<SignedTagMapping> {
        let deadline = Instant::now() + PEERS_LIMIT;
        let mut asked = std::collections::HashSet::new();
        let mut answers = JoinSet::new();
        let ask = |peer, answers: &mut JoinSet<_>| {
            let (peers, scope, tag) = (self.ports.peers.clone(), scope.clone(), tag.clone());
            answers.spawn(async move { peers.ask_tag(peer, &scope, &tag).await.unwrap_or_default() });
        };
        for summary in self.ports.peers.connected().into_iter().take(MAX_ASKED / 2) {
            asked.insert(summary.peer);
            ask(summary.peer, &mut answers);
        }
        let mut known = Vec::new();
        if asked.is_empty() {
            return known;
        }
        let mut providers = self.ports.peers.providers(TagMapping::key(scope, tag), MAX_ASKED).await;
        let mut searching = true;
        while searching || !answers.is_empty() {
            let step = async {
                tokio::select! {
                    provider = providers.recv(), if searching => (Some(provider), None),
                    Some(answer) = answers.join_next() => (None, answer.ok()),
                }
            };
            match timeout_at(deadline, step).await {
                Ok((Some(Some(peer)), _)) if asked.len() < MAX_ASKED => {
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

    pub(super) async fn keep(
        &self,
        scope: &Scope,
        manifest: shoal_gateway::source::Manifest,
    ) -> Result<(), PullError> {
        self.sizes.note(scope, &manifest.bytes);
        let digest = manifest.info.digest;
        let store = &self.ports.store;
        // One registry's word is kept only where the bytes are silent: it is served to every repository's clients.
        let silent = !tells_its_type(&manifest.bytes);
        let kept = async {
            store.put(&digest, manifest.bytes).await?;
            if silent {
                store.set_media_type(&digest, &manifest.info.media_type).await?;
            }
            store.note_repository(&digest, scope).await
        };
        kept.await.map_err(unavailable)?;
        self.ports.peers.announce(digest).await;
        Ok(())
    }
}

/// What a tag is asked under: registries answer clients that accept other types with other manifests, and only some
/// of those who ask at all.
fn as_asked(scope: &Scope, tag: &Tag, accept: &Accept, identity: &Identity) -> Digest {
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

fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The newest mapping that its signer did sign, of a type that the client accepts, not older than `within`.
fn newest(
    mut known: Vec<SignedTagMapping>,
    scope: &Scope,
    tag: &Tag,
    accept: &Accept,
    within: Option<Duration>,
) -> Option<SignedTagMapping> {
    let now = now_unix_ms();
    known.retain(|SignedTagMapping { mapping, .. }| {
        // A clock that runs ahead, here or there, makes no mapping fresh for ever.
        let age = now.abs_diff(mapping.checked_unix_ms);
        let fresh = within.is_none_or(|within| u128::from(age) <= within.as_millis());
        fresh && mapping.scope == *scope && mapping.tag == *tag && accept.takes(&mapping.media_type)
    });
    known.retain(|signed| signed.verify().is_ok());
    known.into_iter().max_by_key(|signed| signed.mapping.checked_unix_ms)
}
