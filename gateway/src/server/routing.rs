//! Which registry a request is for.
//!
//! Clients say it in three ways: containerd in the query (`?ns=ghcr.io`), podman and its kin as the first part
//! of the name (`/v2/ghcr.io/a/b/…`), Docker not at all, because its mirrors are for Docker Hub alone; BuildKit
//! says it twice.
//!
//! 1. With `ns`, that registry. If the name's first part means the same registry, it is taken off. A first part
//!    that looks like *another* registry stays part of the name: a proxying registry keeps what it proxies under
//!    such names (`harbor.example.com/ghcr.io/a/b`), and `ns` is the client's word on where the name is to be
//!    looked up.
//! 2. Without `ns`, the first part if it looks like a host (has a dot, or is `localhost`) or is a configured
//!    name, and something follows it.
//! 3. Otherwise the default registry, Docker Hub.
//!
//! Names have no colon, so a registry with a port is reached through `ns` or through a configured alias.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use shoal_proto::name::{NameError, Registry, Repository, Scope};

/// The registries that are known by name, and the one that is meant when none is named.
#[derive(Debug, Clone)]
pub struct Routing {
    default: Registry,
    names: BTreeMap<Registry, Registry>,
}

impl Default for Routing {
    fn default() -> Self {
        Self { default: Registry::docker_hub(), names: BTreeMap::new() }
    }
}

impl Routing {
    /// Docker Hub by default, other registries as hosts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The registry meant by a request that names none.
    #[must_use]
    pub fn with_default(mut self, registry: Registry) -> Self {
        self.default = registry;
        self
    }

    /// Makes `name` mean `registry`, as a path's first part and as `ns`. A configured upstream whose name has
    /// no dot is made known by `with_name(x.clone(), x)`.
    #[must_use]
    pub fn with_name(mut self, name: Registry, registry: Registry) -> Self {
        self.names.insert(name, registry);
        self
    }

    /// The registry and repository meant by a path's name and the `ns` of its query.
    pub(super) fn route(&self, name: &Repository, ns: Option<Registry>) -> Result<Scope, NameError> {
        let prefix = name.as_str().split_once('/').and_then(|(first, rest)| Some((self.named(first)?, rest)));
        let ns = ns.map(|ns| self.names.get(&ns).cloned().unwrap_or(ns));
        let (registry, repository) = match (ns, prefix) {
            (Some(ns), Some((prefix, rest))) if ns == prefix => (ns, rest),
            (Some(ns), _) => (ns, name.as_str()),
            (None, Some((prefix, rest))) => (prefix, rest),
            (None, None) => (self.default.clone(), name.as_str()),
        };
        let repository = repository.parse::<Repository>()?.completed_for(&registry);
        Ok(Scope { registry, repository })
    }

    /// The registry that a name's first part means, if it means one.
    fn named(&self, first: &str) -> Option<Registry> {
        let registry: Registry = first.parse().ok()?;
        match self.names.get(&registry) {
            Some(meant) => Some(meant.clone()),
            None => (first == "localhost" || first.contains('.')).then_some(registry),
        }
    }
}

/// A query string, `ns` taken out of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// The registry asked for.
    pub(super) ns: Option<Registry>,
    /// Its text as the client sent it, to be echoed.
    pub(super) ns_text: Option<String>,
    /// Everything else as it came, still encoded. `ns` must never go upstream: some registries answer unknown
    /// parameters with 400.
    pub(super) rest: String,
}

impl Query {
    /// Reads a request's query.
    ///
    /// # Errors
    /// [`NameError::Registry`] if `ns` is not a registry, or two different ones. An empty `ns` names none.
    pub(super) fn parse(query: &str) -> Result<Self, NameError> {
        let mut parsed = Self::default();
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if decode(key) != "ns" {
                rest.push(pair);
                continue;
            }
            let text = decode(value);
            if text.is_empty() {
                continue;
            }
            let registry: Registry = text.parse()?;
            if parsed.ns.as_ref().is_some_and(|earlier| *earlier != registry) {
                return Err(NameError::Registry(format!("{} and {registry}", parsed.ns_text.unwrap_or_default())));
            }
            parsed.ns = Some(registry);
            parsed.ns_text = Some(text);
        }
        parsed.rest = rest.join("&");
        Ok(parsed)
    }
}

/// One key or value of a query; bytes that are not UTF-8 become characters that no name has.
fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, query: &str) -> String {
        let routing = Routing::new()
            .with_name("corp".parse().unwrap(), "registry.corp:5000".parse().unwrap())
            .with_name("registry.corp".parse().unwrap(), "registry.corp".parse().unwrap());
        let ns = Query::parse(query).unwrap().ns;
        routing.route(&name.parse().unwrap(), ns).unwrap().to_string()
    }

    #[test]
    fn the_rule() {
        for (name, query, scope) in [
            ("debian", "", "docker.io/library/debian"),
            ("debian", "ns=docker.io", "docker.io/library/debian"),
            ("debian", "ns=registry-1.docker.io", "docker.io/library/debian"),
            ("a/b", "ns=", "docker.io/a/b"),
            ("ghcr.io/a", "", "ghcr.io/a"),
            ("docker.io/debian", "", "docker.io/library/debian"),
            ("localhost/a", "", "localhost/a"),
            ("corp/a/b", "", "registry.corp:5000/a/b"),
            ("other/a/b", "", "docker.io/other/a/b"),
            // Twice, as BuildKit says it; also by alias.
            ("ghcr.io/a/b", "ns=ghcr.io", "ghcr.io/a/b"),
            ("docker.io/debian", "ns=docker.io", "docker.io/library/debian"),
            ("index.docker.io/library/debian", "ns=docker.io", "docker.io/library/debian"),
            ("corp/a", "ns=registry.corp:5000", "registry.corp:5000/a"),
            ("corp/a", "ns=corp", "registry.corp:5000/a"),
            // Another host's name stays part of the name.
            ("ghcr.io/a/b", "ns=harbor.example.com", "harbor.example.com/ghcr.io/a/b"),
            ("corp/a", "ns=docker.io", "docker.io/corp/a"),
            // A host alone is no registry: nothing would be left to name.
            ("my.image", "", "docker.io/library/my.image"),
            ("ghcr.io", "ns=ghcr.io", "ghcr.io/ghcr.io"),
            ("a", "ns=localhost:5000", "localhost:5000/a"),
            ("a", "ns=%5B%3A%3A1%5D%3A5000", "[::1]:5000/a"),
        ] {
            assert_eq!(route(name, query), scope, "{name}?{query}");
        }
    }

    #[test]
    fn queries() {
        let parsed = Query::parse("n=3&ns=ghcr.io&last=a%26b&&flag").unwrap();
        assert_eq!(parsed.ns_text.as_deref(), Some("ghcr.io"));
        assert_eq!(parsed.rest, "n=3&last=a%26b&flag");
        assert_eq!(Query::parse("%6Es=ghcr.io").unwrap().rest, "");
        assert_eq!(Query::parse("nsx=1&xns=2").unwrap().rest, "nsx=1&xns=2");
        assert!(Query::parse("ns=GHCR.io&ns=ghcr.io").is_ok());
        for bad in ["ns=a/b", "ns=http://a", "ns=a%00b", "ns=a+b", "ns=%ff", "ns=a.b&ns=c.d", "ns=a%0d%0ab", "ns=a:x"] {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
    }
}
