//! What the configured tables mean together, checked before the first request.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use shoal_proto::name::Registry;
use url::Url;

use super::config::{Access, Credentials, UpstreamSettings};

/// The largest CA or password file that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// What is wrong with the configuration of upstreams. Each text names the key, the value and what is allowed;
/// none holds a password.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A table's name is no registry.
    #[error(
        "[upstream.{name:?}]: {name:?} is not a registry: write host or host:port as clients name it, as in docker.io or registry.example.com:5000"
    )]
    Name {
        /// The table's name.
        name: String,
    },
    /// Two tables mean the same registry.
    #[error("[upstream.{name:?}] and another table both mean {registry}: keep one")]
    Twice {
        /// The table's name.
        name: String,
        /// What it means.
        registry: String,
    },
    /// The URL is not one that a registry can be reached by.
    #[error(
        "upstream.{name:?}.url = {value:?}: {problem}; write https://host[:port][/path], or http://… for a registry without TLS, without /v2 at its end"
    )]
    Url {
        /// The table's name.
        name: String,
        /// What it says, without user and password.
        value: String,
        /// Why not.
        problem: String,
    },
    /// A file that the configuration names cannot be used.
    #[error("upstream.{name:?}.{key} = {path:?}: {problem}")]
    File {
        /// The table's name.
        name: String,
        /// Which key names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        problem: String,
    },
    /// A token realm is no host.
    #[error(
        "upstream.{name:?}.token_realms: {value:?} is not a host: write host or host:port, as in auth.example.com"
    )]
    Realm {
        /// The table's name.
        name: String,
        /// The entry.
        value: String,
    },
    /// The credentials are incomplete or contradict themselves.
    #[error("upstream.{name:?}.credentials: {problem}")]
    Credentials {
        /// The table's name.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Nobody has said who profits of the credentials.
    #[error(
        "upstream.{name:?}.credentials.access is missing, and has no default on purpose: with these credentials \
         this node can pull what others cannot. access = \"cluster\": whoever reaches this gateway, every pod too, \
         may pull whatever these credentials can read. access = \"verify\": only a client whose own credentials the \
         registry accepts for the repository; any other gets a 404 and asks the registry itself, with its pull secret. \
         access = \"challenge\": as verify, but a client without credentials gets a 401, for clients that then send \
         their pull secret to a mirror. What is public is served to all with each of them"
    )]
    Access {
        /// The table's name.
        name: String,
    },
    /// An entry of the allow or deny list is no pattern.
    #[error(
        "{key}: {value:?} is not a pattern: write a registry's name (host or host:port), *. and a domain for all names below it, or *"
    )]
    Pattern {
        /// `policy.allow` or `policy.deny`.
        key: &'static str,
        /// The entry.
        value: String,
    },
    /// The agent or via given by the program cannot be sent.
    #[error("{what} {value:?} cannot be sent in a header: use visible ASCII characters")]
    Header {
        /// Which.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// The HTTP client cannot be built.
    #[error("the HTTP client for {name} cannot be set up: {problem}")]
    Client {
        /// Whose.
        name: String,
        /// Why.
        problem: String,
    },
}

/// A user name and its password, for Basic authentication.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) username: String,
    pub(super) password: String,
}

/// One checked table.
pub(super) struct Checked {
    /// As clients name it.
    pub(super) registry: Registry,
    /// Where it is, if the operator says so: then it may be anywhere.
    pub(super) url: Option<Url>,
    /// PEM.
    pub(super) ca: Option<(PathBuf, Vec<u8>)>,
    pub(super) insecure: bool,
    /// `host` or `host:port`, lower case.
    pub(super) token_realms: Vec<String>,
    pub(super) login: Option<Login>,
    pub(super) access: Option<Access>,
}

/// Checks one `[upstream."name"]` table and reads the files that it names.
pub(super) fn check(name: &str, table: &UpstreamSettings) -> Result<Checked, ConfigError> {
    let registry = name.parse().map_err(|_| ConfigError::Name { name: name.to_owned() })?;
    let url = table.url.as_deref().map(|url| base_url(name, url)).transpose()?;
    let ca = match &table.ca {
        Some(path) => Some((path.clone(), read(name, "ca", path)?)),
        None => None,
    };
    let token_realms =
        table.token_realms.iter().map(|realm| token_realm(name, realm)).collect::<Result<_, _>>()?;
    let login = table.credentials.as_ref().map(|credentials| login(name, credentials)).transpose()?;
    let access = table.credentials.as_ref().and_then(|credentials| credentials.access);
    Ok(Checked { registry, url, ca, insecure: table.insecure, token_realms, login, access })
}

fn base_url(name: &str, text: &str) -> Result<Url, ConfigError> {
    let error = |value: &str, problem: String| ConfigError::Url {
        name: name.to_owned(),
        value: value.to_owned(),
        problem,
    };
    // What is before an @ may be a password, also in a text that is no URL.
    let shown = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    let mut url = Url::parse(text).map_err(|problem| error(shown, problem.to_string()))?;
    let problem = if !matches!(url.scheme(), "http" | "https") {
        Some("only https and http are spoken")
    } else if !url.username().is_empty() || url.password().is_some() {
        Some("a user and password do not belong into the URL but under credentials")
    } else if url.query().is_some() || url.fragment().is_some() {
        Some("a query or fragment has no meaning here")
    } else if url.host_str().is_none_or(str::is_empty) {
        Some("it has no host")
    } else if url.path().trim_end_matches('/').ends_with("/v2") {
        Some("/v2 is appended by itself")
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(error(shown, problem.to_owned()));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn token_realm(name: &str, text: &str) -> Result<String, ConfigError> {
    // A registry's name has the grammar that is wanted; its canonical form is not.
    match text.parse::<Registry>() {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) => Err(ConfigError::Realm { name: name.to_owned(), value: text.to_owned() }),
    }
}

fn login(name: &str, credentials: &Credentials) -> Result<Login, ConfigError> {
    let error = |problem| ConfigError::Credentials { name: name.to_owned(), problem };
    if credentials.access.is_none() {
        return Err(ConfigError::Access { name: name.to_owned() });
    }
    if credentials.username.is_empty() || credentials.username.contains(':') {
        return Err(error("username is empty or has a colon, which Basic authentication does not allow"));
    }
    let password = match (&credentials.password, &credentials.password_file) {
        (Some(_), Some(_)) => return Err(error("password and password_file exclude each other: keep one")),
        (None, None) => return Err(error("one of password and password_file is needed")),
        (Some(password), None) => password.clone(),
        (None, Some(path)) => {
            let bytes = read(name, "credentials.password_file", path)?;
            let text = String::from_utf8(bytes).map_err(|_| ConfigError::File {
                name: name.to_owned(),
                key: "credentials.password_file",
                path: path.clone(),
                problem: "it is not UTF-8 text".to_owned(),
            })?;
            // Editors and `echo` end a file with a line break that nobody means.
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    if password.is_empty() {
        return Err(error("the password is empty"));
    }
    Ok(Login { username: credentials.username.clone(), password })
}

fn read(name: &str, key: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    let error =
        |problem: String| ConfigError::File { name: name.to_owned(), key, path: path.to_owned(), problem };
    let file = std::fs::File::open(path).map_err(|problem| error(format!("cannot be opened: {problem}")))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|problem| error(format!("cannot be read: {problem}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(error("is larger than 1 MiB".to_owned()));
    }
    Ok(bytes)
}
