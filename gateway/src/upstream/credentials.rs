//! Where a registry's login comes from: the configuration, a file, Docker's `config.json`, a credential helper.
//!
//! ```text
//! auth ── login(repository, refused?) ──► Logins ──► password · password_file
//!                                            ├─────► docker_config ──► auths, credHelpers, credsStore
//!                                            └─────► helpers ──► docker-credential-NAME get
//! ```
//!
//! A login is needed once a token or once in some minutes, so files are read each time: whoever rotates them needs to
//! tell nobody. A helper is a process that may ask the network; its answer is kept for some minutes, and asked for again
//! when the registry refuses it.

pub(super) mod docker_config;
pub(super) mod helpers;

use std::path::PathBuf;
use std::{fmt, io};

use http::HeaderValue;
use shoal_proto::name::{Registry, Repository};

use self::docker_config::{DockerConfig, Found};
use self::helpers::Helpers;

/// The largest file of credentials or certificates that is read.
pub(super) const MAX_FILE: u64 = 1024 * 1024;

/// What is shown to a registry or its token service. No log shows it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// A user and password, as an `Authorization` header.
    Password(HeaderValue),
    /// A refresh token of OAuth 2, which Docker calls an identity token: it is worth tokens and nothing else.
    Identity(String),
}

impl Login {
    /// A user and password; `None` if no header can carry them.
    pub(super) fn password(username: &str, password: &str) -> Option<Self> {
        if username.is_empty() || username.contains(':') || password.is_empty() {
            return None;
        }
        let mut header =
            HeaderValue::from_str(&http_auth::basic::encode_credentials(username, password)).ok()?;
        header.set_sensitive(true);
        Some(Self::Password(header))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Login::Password",
            Self::Identity(_) => "Login::Identity",
        })
    }
}

/// Where the login of one registry comes from.
#[derive(Debug)]
pub(super) enum From {
    Password(Login),
    PasswordFile { username: String, file: PathBuf },
    DockerConfig(PathBuf),
    Helper(String),
}

/// The login of one registry.
#[derive(Debug)]
pub(super) struct Logins {
    registry: Registry,
    from: From,
    helpers: Helpers,
}

impl Logins {
    pub(super) fn new(registry: Registry, from: From) -> Self {
        Self { registry, from, helpers: Helpers::default() }
    }

    /// The login for a repository, as it is now; another than the `refused` one, if there is another.
    ///
    /// Cancel-safe: a helper that runs goes on, and the next who asks gets its answer.
    ///
    /// # Errors
    /// Why there is none, for the operator: with the file or program and the registry, and no secret.
    pub(super) async fn login(
        &self,
        repository: &Repository,
        refused: Option<&Login>,
    ) -> Result<Login, String> {
        match &self.from {
            From::Password(login) => Ok(login.clone()),
            From::PasswordFile { username, file } => {
                let (read, named) = (file.clone(), username.clone());
                in_background(move || read_password(&read))
                    .await
                    .and_then(|password| {
                        Login::password(&named, &password).ok_or_else(|| "no header can carry it".to_owned())
                    })
                    .map_err(|problem| self.because(&format!("{}: {problem}", file.display())))
            }
            From::DockerConfig(file) => self.in_docker_config(file, repository, refused).await,
            From::Helper(name) => {
                let server = docker_config::server_name(&self.registry);
                let said = self.helpers.get(name, &server, refused).await;
                said.and_then(|login| {
                    login.ok_or_else(|| format!("docker-credential-{name} has none for {server}"))
                })
                .map_err(|problem| self.because(&problem))
            }
        }
    }

    async fn in_docker_config(
        &self,
        file: &std::path::Path,
        repository: &Repository,
        refused: Option<&Login>,
    ) -> Result<Login, String> {
        let read = file.to_owned();
        let in_file = |problem: String| self.because(&format!("{}: {problem}", file.display()));
        let config = in_background(move || DockerConfig::read(&read)).await.map_err(in_file)?;
        match config.find(&self.registry, repository).map_err(in_file)? {
            Found::Login(login) => Ok(login),
            Found::Helper { name, server, otherwise } => {
                match self.helpers.get(&name, &server, refused).await {
                    Ok(login) => login.or(otherwise).ok_or_else(|| {
                        in_file(format!("docker-credential-{name}, which it names, has none for {server}"))
                    }),
                    Err(problem) => otherwise.ok_or_else(|| in_file(problem)),
                }
            }
            Found::Nothing => Err(in_file("it has no entry for this registry".to_owned())),
        }
    }

    fn because(&self, problem: &str) -> String {
        format!("the credentials for {} cannot be had: {problem}", self.registry)
    }
}

/// Reads a file that somebody may be writing, on a slow disk, where that holds up nobody.
async fn in_background<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err("reading it was broken off".to_owned()))
}

/// What a password file says. Editors and `echo` end it with a line break that nobody means.
pub(super) fn read_password(file: &std::path::Path) -> Result<String, String> {
    let text = String::from_utf8(read(file)?).map_err(|_| "it is not UTF-8 text".to_owned())?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err("the password is empty".to_owned()),
        password => Ok(password.to_owned()),
    }
}

/// Reads a small regular file: to open a pipe is to wait for whoever writes to it.
pub(super) fn read(path: &std::path::Path) -> Result<Vec<u8>, String> {
    let cannot = |problem: io::Error| format!("cannot be read: {problem}");
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(|problem| format!("cannot be opened: {problem}"))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE + 1), &mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err("is larger than 1 MiB".to_owned());
    }
    Ok(bytes)
}
