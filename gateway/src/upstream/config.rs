//! Which registries may be asked, and how each is reached.
//!
//! The shapes of the configuration file's `[policy]` and `[upstream."name"]` tables, as an operator writes
//! them. What they mean together is checked when the client is built.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// If not empty, only these.
    pub allow: Vec<String>,
    /// Never these, even if allowed.
    pub deny: Vec<String>,
}

/// One registry: `[upstream."name"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Where it is: `https://host[:port][/path]`, or `http://…` for a registry without TLS. Without it, https at
    /// the registry's own name. A configured URL may lie on a private address.
    pub url: Option<String>,
    /// A PEM file with certificates that are trusted for this registry, beside the public ones.
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate that this node shows the registry, and the chain behind it. It is a credential:
    /// [`UpstreamSettings::credentials`] say who profits of it.
    pub client_cert: Option<PathBuf>,
    /// A PEM file with its private key, if that is not in the certificate's file.
    pub client_key: Option<PathBuf>,
    /// Do not check its certificate.
    pub insecure: bool,
    /// Mirrors, asked in this order before the registry itself.
    pub mirrors: Vec<MirrorSettings>,
    /// Hosts outside the registry's own domain that may be sent its credentials in exchange for a token.
    pub token_realms: Vec<String>,
    /// What this node says of itself to it.
    pub credentials: Option<Credentials>,
}

/// What this node says of itself to a registry, and who profits of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Where the login comes from; without one, a client certificate is all that is shown.
    pub from: Option<LoginFrom>,
    /// Who may pull through this gateway what only these credentials can read. There is no default, on purpose.
    pub access: Option<Access>,
}

/// Where a login comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum LoginFrom {
    /// The configuration itself.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// A file that holds the password. It is read whenever the login is needed: it may be rotated.
    PasswordFile {
        /// The user.
        username: String,
        /// The file.
        file: PathBuf,
    },
    /// Docker's `config.json`, with its entries and its helpers. It too is read whenever the login is needed.
    DockerConfig(PathBuf),
    /// The program `docker-credential-NAME`, as it is in the `PATH`.
    Helper(String),
}

/// One mirror of a registry, asked before the registry itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MirrorSettings {
    /// As [`UpstreamSettings::url`].
    pub url: String,
    /// As [`UpstreamSettings::ca`].
    pub ca: Option<PathBuf>,
    /// As [`UpstreamSettings::insecure`].
    pub insecure: bool,
    /// Whether it may be sent the registry's credentials.
    pub credentials: bool,
}

/// Who may pull what only the operator's credentials can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever reaches this gateway.
    Cluster,
    /// Clients whose own credentials the registry accepts for the repository. To others it is not there, so that
    /// they ask the registry themselves.
    Verify,
    /// As [`Access::Verify`], but who brings no credentials is asked for them.
    Challenge,
}

impl Access {
    /// As the configuration says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Verify => "verify",
            Self::Challenge => "challenge",
        }
    }
}

/// Whether `NAME` can be the name of a credential helper: the program `docker-credential-NAME` is found in the `PATH` by
/// it, and nowhere else.
pub fn is_helper_name(name: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+');
    (1..=64).contains(&name.len()) && name.bytes().all(known)
}

impl fmt::Debug for LoginFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password never goes to a log.
        match self {
            Self::Password { username, .. } => {
                f.debug_struct("Password").field("username", username).finish_non_exhaustive()
            }
            Self::PasswordFile { username, file } => {
                f.debug_struct("PasswordFile").field("username", username).field("file", file).finish()
            }
            Self::DockerConfig(file) => f.debug_tuple("DockerConfig").field(file).finish(),
            Self::Helper(name) => f.debug_tuple("Helper").field(name).finish(),
        }
    }
}
