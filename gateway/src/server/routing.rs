//! Which registry a request is for.
//!
//! Clients say it in three ways: containerd in the query (`?ns=ghcr.io`), podman and its kin as the first part
//! of the name (`/v2/ghcr.io/a/b/…`), Docker not at all, because its mirrors are for Docker Hub alone;
//! `BuildKit` says it twice.
//!
//! 1. With `ns`, that registry. If the name's first part means the same registry, it is taken off. A first part
//!    that looks like *another* registry stays part of the name: a proxying registry keeps what it proxies under
//!    such names (`harbor.example.com/ghcr.io/a/b`), and `ns` is the client's word on where the name is to be
//!    looked up.
//! 2. Without `ns`, the first part if it looks like a host (has a dot or a colon, or is `localhost`) or is a
//!    configured name, and something follows it.
//! 3. Otherwise the default registry, Docker Hub.
//!
//! Most clients cannot put a colon into a name, so for them a registry with a port needs a configured name.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;
use shoal_proto::name::{NameError, Registry, Repository, Scope};

use super::path::Name;

/// The registries that are known by name, and the one that is meant when none is named.
#[derive(Debug, Clone)]
pub struct Routing {
    default: Registry,
    known: BTreeSet<Registry>,
}

impl Routing {
    /// Docker Hub by default, the `known` names and whatever looks like a host as other registries.
    pub fn new(known: impl IntoIterator<Item = Registry>) -> Self {
        Self { default: Registry::docker_hub(), known: known.into_iter().collect() }
    }

    /// The registry and repository meant by a path's name and the `ns` of its query.
    pub(super) fn route(&self, name: &Name, ns: Option<&Registry>) -> Result<Scope, NameError> {
        let (registry, repository) = if let Some(host) = &name.host {
            if ns.is_some_and(|ns| ns != host) {
                // It cannot stay part of the name: names have no colon.
                return Err(NameError::Repository(format!("{host}/{}", name.rest)));
            }
            (host.clone(), name.rest.as_str())
        } else {
            let whole = name.rest.as_str();
            let prefix = whole.split_once('/').and_then(|(first, rest)| Some((self.named(first, ns)?, rest)));
            match (ns, prefix) {
                (Some(ns), Some((prefix, rest))) if *ns == prefix => (prefix, rest),
                (Some(ns), _) => (ns.clone(), whole),
                (None, Some((prefix, rest))) => (prefix, rest),
                (None, None) => (self.default.clone(), whole),
            }
        };
        let repository = repository.parse::<Repository>()?.completed_for(&registry);
        Ok(Scope { registry, repository })
    }

    /// The registry that a name's first part means, if it means one.
    fn named(&self, first: &str, ns: Option<&Registry>) -> Option<Registry> {
        let registry: Registry = first.parse().ok()?;
        let host_like = first == "localhost" || first.contains('.');
        (host_like || ns == Some(&registry) || self.known.contains(&registry)).then_some(registry)
    }
}

/// A query string, `ns` taken out of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// The registry asked for.
    pub(super) ns: Option<Registry>,
    /// Its text as the client sent it, decoded, to be echoed.
    pub(super) ns_text: String,
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
                return Err(NameError::Registry(format!("{} and {registry}", parsed.ns_text)));
            }
            parsed.ns = Some(registry);
            parsed.ns_text = text;
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
        let routing = Routing::new(["corp".parse().unwrap()]);
        let ns = Query::parse(query).unwrap().ns;
        let (host, rest) = match name.split_once('/') {
            Some((first, rest)) if first.contains(':') => (Some(first.parse().unwrap()), rest),
            _ => (None, name),
        };
        let name = Name { host, rest: rest.parse().unwrap() };
        routing.route(&name, ns.as_ref()).map_or_else(|error| error.to_string(), |scope| scope.to_string())
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
            ("corp/a/b", "", "corp/a/b"),
            ("localhost:5000/a", "", "localhost:5000/a"),
            ("localhost:5000/a", "ns=localhost:5000", "localhost:5000/a"),
            ("other/a/b", "", "docker.io/other/a/b"),
            // Twice, as `BuildKit` says it; also by alias.
            ("ghcr.io/a/b", "ns=ghcr.io", "ghcr.io/a/b"),
            ("docker.io/debian", "ns=docker.io", "docker.io/library/debian"),
            ("index.docker.io/library/debian", "ns=docker.io", "docker.io/library/debian"),
            ("corp/a", "ns=corp", "corp/a"),
            ("unknown/a", "ns=unknown", "unknown/a"),
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
    fn a_port_in_the_path_and_another_registry_in_ns_contradict() {
        assert!(route("localhost:5000/a", "ns=ghcr.io").contains("is not a repository name"));
    }

    #[test]
    fn queries() {
        let parsed = Query::parse("n=3&ns=ghcr.io&last=a%26b&&flag").unwrap();
        assert_eq!(parsed.ns_text, "ghcr.io");
        assert_eq!(parsed.rest, "n=3&last=a%26b&flag");
        assert_eq!(Query::parse("%6Es=ghcr.io").unwrap().rest, "");
        assert_eq!(Query::parse("nsx=1&xns=2").unwrap().rest, "nsx=1&xns=2");
        assert!(Query::parse("ns=GHCR.io&ns=ghcr.io").is_ok());
        for bad in [
            "ns=a/b",
            "ns=http://a",
            "ns=a%00b",
            "ns=a+b",
            "ns=%ff",
            "ns=a.b&ns=c.d",
            "ns=a%0d%0ab",
            "ns=a:x",
        ] {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
    }
}
