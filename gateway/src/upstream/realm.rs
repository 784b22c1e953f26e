//! Which token services may be asked, and which of them are sent credentials.
//!
//! A registry's 401 names the service that gives tokens. Whoever can forge that answer would have the
//! operator's password sent to a place of their choice, so it goes only to the registry's own host, to its own
//! domain (by the public suffix list: `registry-1.docker.io` and `auth.docker.io` are one owner's,
//! `a.azurecr.io` and `b.azurecr.io` are not), and to hosts that the operator listed in `token_realms`.
//! Others are asked anonymously, and like a registry without configuration: on public addresses only. All of this holds
//! for the operator's client certificate too.

use url::{Host, Url};

use super::client::Wire;
use super::site::{At, Site, host_and_port};
use crate::error::PullError;

/// Domains under which everybody may have a registry, and which the public suffix list lacks. Their token
/// services are at the registry's own host.
const SHARED_DOMAINS: [&str; 8] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "azurecr.cn",
    "azurecr.io",
    "azurecr.us",
    "gcr.io",
    "jfrog.io",
    "pkg.dev",
];

/// A token service that may be asked.
#[derive(Debug)]
pub(super) struct Realm<'a> {
    pub(super) url: Url,
    pub(super) wire: &'a Wire,
    /// Whether it may have the registry's credentials.
    pub(super) trusted: bool,
}

/// Judges the realm that the registry named.
pub(super) fn judge<'a>(at: At<'a>, text: &str) -> Result<Realm<'a>, PullError> {
    let site = at.site;
    let registry = &site.registry;
    let malformed = || site.failed(None, "it names a token service that is no http or https URL");
    let mut url = Url::parse(text).map_err(|_| malformed())?;
    let has_login = !url.username().is_empty() || url.password().is_some();
    if !matches!(url.scheme(), "http" | "https") || has_login {
        return Err(malformed());
    }
    url.set_fragment(None);
    if url.scheme() == "http" && !site.is_plain() {
        return Err(PullError::Refused(format!(
            "{registry} is spoken to over https but wants tokens of {} without TLS, which is not done: make its \
             token service use https, or configure the registry itself with an http:// url",
            host_and_port(&url)
        )));
    }
    let trusted = url.host() == site.base.host() || is_listed(site, &url) || is_own_domain(&site.base, &url);
    let wire = if trusted { site.wires.of(at.who) } else { &at.web.public };
    wire.check(&url).map_err(|problem| site.not_public(&url, &problem))?;
    Ok(Realm { url, wire, trusted })
}

/// Why the credentials were not used.
pub(super) fn withheld(site: &Site, realm: &Url) -> String {
    let host = host_and_port(realm);
    format!(
        "{registry} wants tokens of {host}, which is not of its own domain and was therefore asked without the \
         configured credentials, and that does not allow this pull. If {host} may have them: \
         [upstream.\"{registry}\"] token_realms = [\"{host}\"]",
        registry = site.registry
    )
}

fn is_listed(site: &Site, realm: &Url) -> bool {
    let port = realm.port_or_known_default();
    // Compared as hosts: an IPv6 address has many spellings.
    let same = |listed: &str| Host::parse(listed).ok() == realm.host().map(|host| host.to_owned());
    site.token_realms.iter().any(|listed| match super::policy::split_port(listed) {
        (listed, None) => same(listed),
        (listed, Some(listed_port)) => same(listed) && listed_port.parse().ok() == port,
    })
}

/// Whether both hosts are names of one owner.
fn is_own_domain(registry: &Url, realm: &Url) -> bool {
    let (Some(Host::Domain(registry)), Some(Host::Domain(realm))) = (registry.host(), realm.host()) else {
        return false;
    };
    let below = realm.strip_suffix(registry).is_some_and(|left| left.ends_with('.'));
    if below && registry.contains('.') && psl::suffix_str(registry) != Some(registry) {
        return true;
    }
    match (psl::domain(registry.as_bytes()), psl::domain(realm.as_bytes())) {
        // An unknown ending may be anything: under cluster.local every namespace is somebody else's.
        (Some(one), Some(other)) => {
            let shared = SHARED_DOMAINS.iter().any(|shared| one == *shared);
            one == other && one.suffix().is_known() && !shared
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_domains() {
        let own = |registry: &str, realm: &str| {
            is_own_domain(
                &format!("https://{registry}").parse().unwrap(),
                &format!("https://{realm}/token").parse().unwrap(),
            )
        };
        for (registry, realm) in [
            ("registry-1.docker.io", "auth.docker.io"),
            ("registry.gitlab.com", "gitlab.com"),
            ("registry.example.co.uk", "auth.example.co.uk"),
            ("registry.corp.local", "auth.registry.corp.local"),
            ("reg.local:5000", "auth.reg.local"),
        ] {
            assert!(own(registry, realm), "{registry} {realm}");
        }
        for (registry, realm) in [
            ("registry-1.docker.io", "auth.docker.io.evil.com"),
            ("registry-1.docker.io", "evildocker.io"),
            ("ghcr.io", "evil.io"),
            ("example.co.uk", "evil.co.uk"),
            ("mine.azurecr.io", "evil.azurecr.io"),
            ("mine.github.io", "evil.github.io"),
            ("a.default.svc.cluster.local", "b.evil.svc.cluster.local"),
            ("registry", "auth.registry"),
            ("localhost:5000", "127.0.0.1:5001"),
            ("10.0.0.1:5000", "10.0.0.2"),
            ("co.uk", "evil.co.uk"),
        ] {
            assert!(!own(registry, realm), "{registry} {realm}");
        }
    }
}
