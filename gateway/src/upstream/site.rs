//! One registry as this node reaches it, and the web of all that it knows.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use shoal_proto::name::{Registry, Repository};
use url::Url;

use super::address::NotPublic;
use super::auth::Tokens;
use super::circuit::Circuit;
use super::client::{Limits, Wire, Wires};
use super::config::Access;
use super::credentials::Logins;
use super::identity::{Lent, Who};
use super::mirrors::Mirror;
use super::quota::Quota;
use super::reach::Reach;
use super::settings::Checked;
use crate::error::PullError;

/// Where Docker Hub's registry really is.
const DOCKER_HUB_URL: &str = "https://registry-1.docker.io";

/// One registry.
pub(super) struct Site {
    pub(super) registry: Registry,
    /// `scheme://host[:port][/path]`, to which `/v2/…` is appended.
    pub(super) base: Url,
    pub(super) wires: Wires,
    /// The operator gave the URL: it may be anywhere, and may lead to other hosts that were given.
    pub(super) placed: bool,
    pub(super) insecure: bool,
    pub(super) login: Option<Arc<Logins>>,
    /// Who profits of the login and of the certificate.
    pub(super) access: Option<Access>,
    /// What clients lent in its place.
    pub(super) lent: Lent,
    pub(super) token_realms: Vec<String>,
    pub(super) circuit: Circuit,
    /// The same, by the word of other nodes. It is not told on: or a pause would go round among nodes for ever.
    pub(super) hearsay: Circuit,
    pub(super) tokens: Tokens,
    pub(super) quota: Quota,
    pub(super) reach: Reach,
    /// Asked in this order before the registry itself.
    pub(super) mirrors: Vec<Arc<Mirror>>,
}

impl Site {
    /// A registry that the operator configured.
    pub(super) fn configured(
        checked: Checked,
        wires: Wires,
        mirrors: Vec<Arc<Mirror>>,
    ) -> Result<Self, PullError> {
        let (placed, base) = match checked.url {
            Some(url) => (true, url),
            None => (false, default_url(&checked.registry)?),
        };
        Ok(Self {
            registry: checked.registry,
            base,
            wires,
            placed,
            insecure: checked.insecure,
            login: checked.login,
            access: checked.access,
            lent: Lent::default(),
            token_realms: checked.token_realms,
            circuit: Circuit::default(),
            hearsay: Circuit::default(),
            tokens: Tokens::default(),
            quota: Quota::default(),
            reach: Reach::default(),
            mirrors,
        })
    }

    /// A registry of which only a client's request told: public, over https, anonymous.
    pub(super) fn stranger(registry: Registry, wire: Wire) -> Result<Self, PullError> {
        let base = default_url(&registry)?;
        Ok(Self {
            registry,
            base,
            wires: Wires { bare: wire, certified: None },
            placed: false,
            insecure: false,
            login: None,
            access: None,
            lent: Lent::default(),
            token_realms: Vec::new(),
            circuit: Circuit::default(),
            hearsay: Circuit::default(),
            tokens: Tokens::default(),
            quota: Quota::default(),
            reach: Reach::default(),
            mirrors: Vec::new(),
        })
    }

    /// The URL of `rest` (as in `manifests/latest`) in a repository.
    pub(super) fn endpoint(&self, repository: &Repository, rest: &str) -> Url {
        let mut url = self.base.clone();
        let (before, _) = self.prefix();
        url.set_path(&format!("{before}/v2/{}/{rest}", self.path_of(repository)));
        url
    }

    /// What a repository is called there: pull-through caches keep other registries' below a prefix.
    pub(super) fn path_of(&self, repository: &Repository) -> String {
        match self.prefix() {
            (_, Some(prefix)) => format!("{prefix}/{repository}"),
            (_, None) => repository.to_string(),
        }
    }

    /// The URL's path before `/v2`, and what it says behind it: the prefix of all repositories.
    pub(super) fn prefix(&self) -> (&str, Option<&str>) {
        let path = self.base.path().trim_end_matches('/');
        path.split_once("/v2/").map_or((path, None), |(before, prefix)| (before, Some(prefix)))
    }

    /// Whether a URL is at this registry itself: credentials and tokens go nowhere else.
    pub(super) fn is_home(&self, url: &Url) -> bool {
        url.scheme() == self.base.scheme()
            && url.host() == self.base.host()
            && url.port_or_known_default() == self.base.port_or_known_default()
    }

    /// Whether the operator gave this node something to show: a login, a certificate, or both.
    pub(super) fn has_credentials(&self) -> bool {
        self.login.is_some() || self.wires.certified.is_some()
    }

    /// Whether it is spoken to without TLS, as configured.
    pub(super) fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// It answered with an error or with something that is no answer.
    pub(super) fn failed(&self, status: Option<StatusCode>, reason: impl Into<String>) -> PullError {
        PullError::Upstream {
            registry: self.registry.to_string(),
            status: status.map(|status| status.as_u16()),
            reason: reason.into(),
        }
    }

    /// It says no.
    pub(super) fn rejected(&self, status: StatusCode, reason: String) -> PullError {
        PullError::Rejected { registry: self.registry.to_string(), status: status.as_u16(), reason }
    }

    /// Its host, or one that it sends us to, is at an address that this node does not ask for it.
    pub(super) fn not_public(&self, url: &Url, problem: &NotPublic) -> PullError {
        let registry = &self.registry;
        PullError::Refused(if self.is_home(url) {
            format!(
                "{registry} is not asked: {problem}. Registries on private addresses are asked only where the \
                 configuration has their URL: [upstream.\"{registry}\"] url = \"{}\"",
                self.base.as_str().trim_end_matches('/')
            )
        } else {
            let host = host_and_port(url);
            format!(
                "{registry} leads to {host}, which is not asked: {problem}. If it belongs there, configure the \
                 URL of both: [upstream.\"{registry}\"] and [upstream.\"{host}\"]{}",
                " (or list it in token_realms, if it is where tokens come from)"
            )
        })
    }
}

/// Where a registry is if nobody says otherwise.
fn default_url(registry: &Registry) -> Result<Url, PullError> {
    if registry.is_docker_hub() {
        // Cannot fail for this constant; an error is as good as a proof.
        return Url::parse(DOCKER_HUB_URL).map_err(|error| PullError::Refused(error.to_string()));
    }
    let refused = |reason: String| PullError::Refused(format!("{registry} is not a host to ask: {reason}"));
    let url = Url::parse(&format!("https://{registry}")).map_err(|error| refused(error.to_string()))?;
    // A URL's host is normalised: 0x7f.1 becomes 127.0.0.1. Whoever writes it so wants to hide something, from
    // the deny list for one.
    let (host, _) = super::policy::split_port(registry.as_str());
    let normal = url.host_str().unwrap_or_default();
    let same_v6 = host.starts_with('[') && normal.starts_with('[');
    if host != normal && !same_v6 {
        return Err(refused(format!("write it as {normal}")));
    }
    Ok(url)
}

/// `host` or `host:port`, as a configuration names it.
pub(super) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Everything that one request may touch: the configured registries, and the client for the public rest.
pub(super) struct Web {
    pub(super) configured: Vec<Arc<Site>>,
    pub(super) public: Wire,
    pub(super) limits: Limits,
}

/// A repository, and the registry that it is asked of.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) web: &'a Web,
    pub(super) site: &'a Site,
    pub(super) repository: &'a Repository,
    pub(super) who: &'a Who,
    /// Whether it is asked to find out if the login of `who` is good.
    pub(super) checks_login: bool,
    /// The mirrors that may be asked before it.
    pub(super) mirrors: &'a [Arc<Mirror>],
    /// The `Via` of what is asked, if the request came through other nodes.
    pub(super) via: Option<&'a HeaderValue>,
}

impl At<'_> {
    pub(super) fn endpoint(&self, rest: &str) -> Url {
        self.site.endpoint(self.repository, rest)
    }
}
