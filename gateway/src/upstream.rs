//! The registry client.
//!
//! ```text
//! Upstreams ── policy ──► site (circuit, tokens) ── request ──► redirects ──► wire (TLS, addresses)
//!                                                     │
//!                                                     └─ on 401: challenge ──► realm ──► token
//! ```
//!
//! | module | concept |
//! | --- | --- |
//! | [`config`] | the tables that an operator writes |
//! | `settings`, `policy` | what they mean, checked |
//! | `site` | one registry, and the web of all |
//! | `strangers` | registries that nobody configured |
//! | `client`, `address`, `roots` | HTTP clients; which addresses are public; whose certificates are trusted |
//! | `request`, `body` | one question, one answer |
//! | `redirect`, `realm` | where a registry may lead, and who may be sent credentials |
//! | [`identity`] | in whose name a registry is asked |
//! | `credentials` | where a registry's login comes from |
//! | `auth`, `challenge` | tokens |
//! | `circuit`, `quota` | the pause that a registry asks for; how many requests it still allows |
//! | `reach` | whether it answered when it was last asked |
//! | `mirrors` | who is asked before the registry itself, and how well they are |
//! | `manifest`, `blob`, `pass` | what can be asked |

pub mod config;
pub mod identity;

mod address;
mod auth;
mod blob;
mod body;
mod challenge;
mod circuit;
mod client;
mod credentials;
mod manifest;
mod mirrors;
mod pass;
mod policy;
mod quota;
mod reach;
mod realm;
mod redirect;
mod request;
mod roots;
mod settings;
mod site;
mod strangers;
#[cfg(test)]
mod tests;

pub use blob::BlobDownload;
pub use client::{Limits, check_client_certificate};
pub use manifest::HeadAnswer;
pub use quota::Allowance;
pub use settings::ConfigError;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use shoal_proto::digest::Digest;
use shoal_proto::name::{Reference, Registry, Scope};
use shoal_proto::range::ByteRange;

use self::client::{Introduction, Wire, Wires};
use self::config::{Access, Settings};
use self::identity::{ClientLogin, Identity, Who};
use self::mirrors::Mirror;
use self::policy::Rules;
use self::roots::Roots;
use self::site::{At, Site, Web};
use self::strangers::Strangers;
use crate::error::PullError;
use crate::hops::Hops;
use crate::source::{Accept, Manifest, Passage, Passed};

/// The longest pause that is kept because another node says that a registry asked for it: enough for a burst to end. One
/// that lies gains no more.
const HEARSAY: Duration = Duration::from_secs(10);

/// Every registry that this node may ask, and how. Clones share connections, tokens and pauses.
#[derive(Clone)]
pub struct Upstreams {
    shared: Arc<Shared>,
    /// What is asked with this handle says so in its `Via`.
    via: Option<HeaderValue>,
    /// In whose name it asks.
    identity: Identity,
    /// Whether it asks mirrors too.
    mirrored: bool,
}

struct Shared {
    /// This node's name in `Via`.
    name: String,
    rules: Rules,
    by_registry: BTreeMap<Registry, Arc<Site>>,
    strangers: Strangers,
    web: Web,
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").field("known", &self.known()).finish_non_exhaustive()
    }
}

impl Upstreams {
    /// Checks the configuration and reads the files that it names; asks nobody yet.
    ///
    /// `agent` is sent as `User-Agent`. `via` names this node in the `Via` of every request, by which a node
    /// that meets its own name knows a loop.
    ///
    /// # Errors
    /// What is wrong with the configuration, by key and value.
    pub fn new(settings: Settings, agent: &str, via: &str) -> Result<Self, ConfigError> {
        Self::with_limits(settings, agent, via, Limits::default())
    }

    /// As [`Upstreams::new`], with other times to wait.
    ///
    /// # Errors
    /// As there.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the settings are used up, and passwords not kept twice"
    )]
    pub fn with_limits(
        settings: Settings,
        agent: &str,
        via: &str,
        limits: Limits,
    ) -> Result<Self, ConfigError> {
        let introduction = Introduction::new(agent, via)?;
        let rules = Rules::compile(&settings.policy)?;
        let roots = Roots::of_this_machine();
        let mut by_registry = BTreeMap::new();
        for (name, table) in &settings.upstreams {
            let mut checked = settings::check(name, table)?;
            let registry = checked.registry.clone();
            let wires = Wires::configured(&checked, &introduction, limits, &roots)?;
            let error =
                |problem: PullError| ConfigError::Client { name: name.clone(), problem: problem.to_string() };
            let mut mirrors = Vec::new();
            for mut mirror in std::mem::take(&mut checked.mirrors) {
                // What the operator says of the registry's secret holds for it wherever it goes.
                mirror.token_realms.clone_from(&checked.token_realms);
                let wires = Wires::configured(&mirror, &introduction, limits, &roots)?;
                let site = Site::configured(mirror, wires, Vec::new()).map_err(error)?;
                mirrors.push(Arc::new(Mirror::new(site)));
            }
            let site = Site::configured(checked, wires, mirrors).map_err(error)?;
            if by_registry.insert(registry.clone(), Arc::new(site)).is_some() {
                return Err(ConfigError::Twice { name: name.clone(), registry: registry.to_string() });
            }
        }
        let web = Web {
            configured: by_registry.values().cloned().collect(),
            public: Wire::public(&introduction, limits, &roots)?,
            limits,
        };
        let strangers = Strangers::default();
        let name = via.to_owned();
        Ok(Self {
            shared: Arc::new(Shared { name, rules, by_registry, strangers, web }),
            via: None,
            identity: Identity::Node,
            mirrored: true,
        })
    }

    /// The same, for what is asked because of a request that came through these nodes.
    #[must_use]
    pub fn through(&self, hops: &Hops) -> Self {
        Self { via: hops.via(&self.shared.name), ..self.clone() }
    }

    /// The same, asking in another's name.
    #[must_use]
    pub fn named(&self, identity: Identity) -> Self {
        Self { identity, ..self.clone() }
    }

    /// The same, asking registries alone: who may read is for them to say, and a mirror reads with logins of its own.
    #[must_use]
    pub fn directly(&self) -> Self {
        Self { mirrored: false, ..self.clone() }
    }

    /// In whose name everyone who reaches this gateway may read: the operator's, if that is what `access` says, else
    /// nobody's.
    pub fn everyone(&self, registry: &Registry) -> Identity {
        match self.access(registry) {
            Some(Access::Cluster) => Identity::Node,
            Some(Access::Verify | Access::Challenge) | None => Identity::Anonymous,
        }
    }

    /// Who profits of the operator's credentials; `None` if there are none.
    pub fn access(&self, registry: &Registry) -> Option<Access> {
        self.shared.by_registry.get(registry)?.access
    }

    /// Lets this node ask for a repository with a client's login that the registry has accepted, for so long. It
    /// matters only where the operator gave no credentials.
    pub fn lend(&self, scope: &Scope, login: ClientLogin, lasts: Duration) {
        if let Ok(site) = self.site(&scope.registry)
            && !site.has_credentials()
        {
            site.lent.lend(&scope.repository, login, lasts);
        }
    }

    /// The configured registries, by the names that clients use.
    pub fn known(&self) -> Vec<Registry> {
        self.shared.by_registry.keys().cloned().collect()
    }

    /// What registries last said of how many requests they still allow, those that say it.
    pub fn allowances(&self) -> Vec<(Registry, Allowance)> {
        let sites = self.shared.by_registry.iter().map(|(name, site)| (name.clone(), site.clone()));
        let sites = sites.chain(self.shared.strangers.all());
        sites.filter_map(|(name, site)| Some((name, site.quota.last()?))).collect()
    }

    /// Takes another node's word that a registry wants to be left alone: each refused question may cost all nodes the next.
    /// For ten seconds at the most, and no longer because more of them say so: then this node finds out for itself.
    pub fn heard(&self, registry: &Registry, error: &PullError) {
        let now = tokio::time::Instant::now();
        if let PullError::Throttled { status, retry_after: Some(after), .. } = error
            && let (Ok(status), Ok(site)) = (StatusCode::from_u16(*status), self.site(registry))
            && site.hearsay.pause(now).is_none()
        {
            site.hearsay.throttled(status, (*after).min(HEARSAY), now);
        }
    }

    /// Whether a registry is left alone for now, so that what fails was not asked of it.
    pub fn is_paused(&self, registry: &Registry) -> bool {
        let now = tokio::time::Instant::now();
        self.site(registry).is_ok_and(|site| {
            [&site.circuit, &site.hearsay].iter().any(|circuit| circuit.pause(now).is_some())
        })
    }

    /// Whether a registry failed when this node last asked it, no longer ago than this.
    pub fn is_down(&self, registry: &Registry, within: Duration) -> bool {
        self.site(registry).is_ok_and(|site| site.reach.failed_within(within, tokio::time::Instant::now()))
    }

    /// Whether a registry gave no answer at all when this node last asked it, no longer ago than this: to ask it again
    /// would take as long.
    pub fn is_silent(&self, registry: &Registry, within: Duration) -> bool {
        self.site(registry).is_ok_and(|site| site.reach.silent_within(within, tokio::time::Instant::now()))
    }

    /// Whether the operator configured this registry.
    pub fn is_configured(&self, registry: &Registry) -> bool {
        self.shared.by_registry.contains_key(registry)
    }

    /// Whether a registry may be asked at all: by the allow and deny lists and by its name alone, without a
    /// lookup.
    ///
    /// # Errors
    /// [`PullError::Refused`] with the rule that forbids it.
    pub fn check(&self, registry: &Registry) -> Result<(), PullError> {
        self.site(registry).map(drop)
    }

    /// What a registry says of a manifest, without getting it.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn head_manifest(
        &self,
        scope: &Scope,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<HeadAnswer, PullError> {
        let site = self.site(&scope.registry)?;
        manifest::head(self.at(&site, scope, &self.who(&site, scope)), reference, accept).await
    }

    /// A manifest, byte for byte, its digest proven: the one asked for, or for a tag the one that the registry
    /// gives, which is computed if it gives none.
    ///
    /// # Errors
    /// See [`PullError`]; [`PullError::Content`] if it is not what it should be.
    pub async fn get_manifest(
        &self,
        scope: &Scope,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<Manifest, PullError> {
        let site = self.site(&scope.registry)?;
        manifest::get(self.at(&site, scope, &self.who(&site, scope)), reference, accept).await
    }

    /// A blob's size in bytes, as the registry says it; `None` if it has the blob and does not say.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn blob_size(&self, scope: &Scope, digest: &Digest) -> Result<Option<u64>, PullError> {
        let site = self.site(&scope.registry)?;
        blob::size(self.at(&site, scope, &self.who(&site, scope)), digest).await
    }

    /// A blob or a range of it. Resolves with the answer's head; the bytes follow in the stream, unproven.
    ///
    /// # Errors
    /// See [`PullError`]; [`PullError::Unsatisfiable`] for a range behind the blob's end.
    pub async fn blob(
        &self,
        scope: &Scope,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobDownload, PullError> {
        let site = self.site(&scope.registry)?;
        blob::blob(self.at(&site, scope, &self.who(&site, scope)), digest, range).await
    }

    /// The registry's own answer to a request that is passed on; `query` is the client's, without `ns`.
    ///
    /// # Errors
    /// See [`PullError`]; [`PullError::TooLarge`] for an answer of more than 4 MiB.
    pub async fn pass(&self, scope: &Scope, passage: Passage, query: &str) -> Result<Passed, PullError> {
        let site = self.site(&scope.registry)?;
        let who = self.who(&site, scope);
        // A mirror has a part of the list at best.
        let at = At { mirrors: &[], ..self.at(&site, scope, &who) };
        pass::pass(at, passage, query).await
    }

    fn at<'a>(&'a self, site: &'a Site, scope: &'a Scope, who: &'a Who) -> At<'a> {
        let (web, repository, via) = (&self.shared.web, &scope.repository, self.via.as_ref());
        // In another's name one asks who may read.
        let mirrors = if self.mirrored && self.identity == Identity::Node { &site.mirrors[..] } else { &[] };
        let checks_login = matches!(self.identity, Identity::Client(_));
        At { web, site, repository, who, checks_login, mirrors, via }
    }

    fn who(&self, site: &Site, scope: &Scope) -> Who {
        match &self.identity {
            Identity::Anonymous => Who::Nobody,
            Identity::Client(login) => Who::Client(login.clone()),
            Identity::Node if site.has_credentials() => Who::Operator,
            Identity::Node => site.lent.of(&scope.repository).map_or(Who::Nobody, Who::Client),
        }
    }

    fn site(&self, registry: &Registry) -> Result<Arc<Site>, PullError> {
        let shared = &self.shared;
        shared.rules.check(registry).map_err(PullError::Refused)?;
        match shared.by_registry.get(registry) {
            Some(site) => Ok(site.clone()),
            None => shared.strangers.get(registry, &shared.web.public),
        }
    }
}
