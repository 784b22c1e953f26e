//! Which registries may be asked, and how each is reached.
//!
//! The shapes of the configuration file's `[policy]` and `[upstream."name"]` tables, as an operator writes
//! them. What they mean together is checked when the client is built.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

/// All that the configuration says of upstreams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Which registries may be asked at all.
    pub policy: Policy,
    /// What is said of single registries, by the name that clients use (`docker.io`, `reg.local:5000`).
    pub upstreams: BTreeMap<String, UpstreamSettings>,
}

/// Which registries may be asked at all: `[policy]`.
///
/// A pattern is a registry's name, or `*.` and a domain for all names below that domain, or `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// If not empty, only these.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Never these, even if allowed.
    #[serde(default)]
    pub deny: Vec<String>,
}

/// One registry: `[upstream."name"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Where it is: `https://host[:port][/path]`, or `http://…` for a registry without TLS. Without it, https at
    /// the registry's own name. A configured URL may lie on a private address.
    pub url: Option<String>,
    /// A PEM file with certificates that are trusted for this registry, beside the public ones.
    pub ca: Option<PathBuf>,
    /// Do not check its certificate.
    #[serde(default)]
    pub insecure: bool,
    /// Hosts outside the registry's own domain that may be sent its credentials in exchange for a token.
    #[serde(default)]
    pub token_realms: Vec<String>,
    /// What this node says of itself to it.
    pub credentials: Option<Credentials>,
}

/// A user name and password for a registry, and who profits of them.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password, here in the file.
    pub password: Option<String>,
    /// Or a file that holds it.
    pub password_file: Option<PathBuf>,
    /// Who may pull through this gateway what only these credentials can read. There is no default, on purpose.
    pub access: Option<Access>,
}

/// Who may pull what only the operator's credentials can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Whoever reaches this gateway.
    Cluster,
    /// Clients whose own credentials the registry accepts for the repository. To others it is not there, so that
    /// they ask the registry themselves.
    Verify,
    /// As [`Access::Verify`], but who brings no credentials is asked for them.
    Challenge,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password never goes to a log.
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}
