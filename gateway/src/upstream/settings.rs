//! What the configured tables mean together, checked before the first request.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_proto::name::Registry;
use url::Url;

use super::config::{Access, Credentials, LoginFrom, MirrorSettings, UpstreamSettings};
use super::credentials::docker_config::DockerConfig;
use super::credentials::{self, From, Login, Logins, helpers};

/// What `access` may be, and what each means for pods.
const WHICH_ACCESS: &str = "access = \"cluster\": whoever reaches this gateway, every pod too, may pull whatever these \
     credentials can read. access = \"verify\": only a client whose own credentials the registry accepts for the \
     repository; any other gets a 404 and asks the registry itself, with its pull secret. access = \"challenge\": as \
     verify, but a client without credentials gets a 401, for clients that then send their pull secret to a mirror. \
     What is public is served to all with each of them";

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
        problem: String,
    },
    /// Nobody has said who profits of the credentials.
    #[error(
        "upstream.{name:?}.credentials.access is missing, and has no default on purpose: with these credentials \
         this node can pull what others cannot. {}",
        WHICH_ACCESS
    )]
    Access {
        /// The table's name.
        name: String,
    },
    /// Nobody has said who profits of the client certificate.
    #[error(
        "upstream.{name:?}.client_cert is a credential, with which this node may pull what others cannot, and nothing \
         says who profits of it: write credentials = {{ access = … }} beside it, with a login if there is one. \
         {}",
        WHICH_ACCESS
    )]
    Certificate {
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
    pub(super) login: Option<Arc<Logins>>,
    pub(super) access: Option<Access>,
    /// PEM, certificate and key.
    pub(super) client: Option<(PathBuf, Vec<u8>)>,
    pub(super) mirrors: Vec<Self>,
}

/// Checks one `[upstream."name"]` table and reads the files that it names.
pub(super) fn check(name: &str, table: &UpstreamSettings) -> Result<Checked, ConfigError> {
    let registry: Registry = name.parse().map_err(|_| ConfigError::Name { name: name.to_owned() })?;
    let url = table.url.as_deref().map(|url| base_url(name, url)).transpose()?;
    let ca = match &table.ca {
        Some(path) => Some((path.clone(), read(name, "ca", path)?)),
        None => None,
    };
    let token_realms =
        table.token_realms.iter().map(|realm| token_realm(name, realm)).collect::<Result<_, _>>()?;
    let client = client(name, table)?;
    let login = match &table.credentials {
        Some(credentials) => login(name, &registry, credentials, client.is_some())?.map(Arc::new),
        None if client.is_some() => return Err(ConfigError::Certificate { name: name.to_owned() }),
        None => None,
    };
    let access = table.credentials.as_ref().and_then(|credentials| credentials.access);
    let mirrors = table.mirrors.iter().map(|said| mirror(name, &registry, said, login.as_ref()));
    let mirrors = mirrors.collect::<Result<_, _>>()?;
    Ok(Checked { registry, url, ca, insecure: table.insecure, token_realms, login, access, client, mirrors })
}

/// A mirror is a registry of the same name at another place.
fn mirror(
    name: &str,
    registry: &Registry,
    said: &MirrorSettings,
    login: Option<&Arc<Logins>>,
) -> Result<Checked, ConfigError> {
    if said.credentials && login.is_none() {
        return Err(ConfigError::Credentials {
            name: name.to_owned(),
            problem: format!("there is no login, and the mirror {} is to be sent one", said.url),
        });
    }
    Ok(Checked {
        registry: registry.clone(),
        url: Some(base_url(name, &said.url)?),
        ca: said.ca.as_ref().map(|path| Ok((path.clone(), read(name, "mirrors.ca", path)?))).transpose()?,
        insecure: said.insecure,
        token_realms: Vec::new(),
        login: login.filter(|_| said.credentials).cloned(),
        access: None,
        client: None,
        mirrors: Vec::new(),
    })
}

/// The certificate that this node shows, and its key.
fn client(name: &str, table: &UpstreamSettings) -> Result<Option<(PathBuf, Vec<u8>)>, ConfigError> {
    match (&table.client_cert, &table.client_key) {
        (None, None) => Ok(None),
        (None, Some(key)) => Err(ConfigError::File {
            name: name.to_owned(),
            key: "client_key",
            path: key.clone(),
            problem: "is there without client_cert: name the certificate too".to_owned(),
        }),
        (Some(cert), key) => {
            let mut pem = read(name, "client_cert", cert)?;
            if let Some(key) = key {
                pem.push(b'\n');
                pem.extend(read(name, "client_key", key)?);
            }
            Ok(Some((cert.clone(), pem)))
        }
    }
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
        Some("/v2 is appended by itself, unless a prefix of repositories follows it")
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

fn login(
    name: &str,
    registry: &Registry,
    credentials: &Credentials,
    has_certificate: bool,
) -> Result<Option<Logins>, ConfigError> {
    let error = |problem: String| ConfigError::Credentials { name: name.to_owned(), problem };
    if credentials.access.is_none() {
        return Err(ConfigError::Access { name: name.to_owned() });
    }
    let Some(from) = &credentials.from else {
        return if has_certificate {
            Ok(None)
        } else {
            Err(error("there is no login, and no client_cert that could do without".to_owned()))
        };
    };
    let password = |username: &str, password: &str| {
        if username.is_empty() || username.contains(':') {
            let problem = "username is empty or has a colon, which Basic authentication does not allow";
            return Err(error(problem.to_owned()));
        }
        if password.is_empty() {
            return Err(error("the password is empty".to_owned()));
        }
        Login::password(username, password).ok_or_else(|| {
            error("the username or password has characters that no header can carry".to_owned())
        })
    };
    let in_file = |key, path: &Path| {
        let path = path.to_owned();
        move |problem| ConfigError::File { name: name.to_owned(), key, path, problem }
    };
    let from = match from {
        LoginFrom::Password { username, password: secret } => From::Password(password(username, secret)?),
        LoginFrom::PasswordFile { username, file } => {
            let secret = credentials::read_password(file);
            password(username, &secret.map_err(in_file("credentials.password_file", file))?)?;
            From::PasswordFile { username: username.clone(), file: file.clone() }
        }
        LoginFrom::DockerConfig(file) => {
            let checked = DockerConfig::read(file).and_then(|config| config.check(registry));
            checked.map_err(in_file("credentials.docker_config", file))?;
            From::DockerConfig(file.clone())
        }
        LoginFrom::Helper(helper) => {
            helpers::check_program(helper).map_err(error)?;
            From::Helper(helper.clone())
        }
    };
    Ok(Some(Logins::new(registry.clone(), from)))
}

fn read(name: &str, key: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    let error = |problem| ConfigError::File { name: name.to_owned(), key, path: path.to_owned(), problem };
    credentials::read(path).map_err(error)
}
