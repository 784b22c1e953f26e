//! Real registries as processes, and what their access logs say was asked of them.

pub mod access;
pub mod push;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::image::Image;
use crate::image::debian::Debian;
use crate::netns::Namespace;
use crate::process::{Process, Spec, until};
use crate::token_server::{ISSUER, SERVICE};
use crate::tool::{self, Tool};
use access::Access;
use push::Target;

/// How long a registry may take to start.
const START: Duration = Duration::from_secs(20);

/// Which registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Debian's `docker-registry`, 2.8.
    Debian,
    /// The distribution project's, 3.1.
    Distribution,
}

impl Kind {
    /// Both, for tests that hold with each.
    pub const ALL: [Self; 2] = [Self::Debian, Self::Distribution];

    fn tool(self) -> Tool {
        match self {
            Self::Debian => tool::DOCKER_REGISTRY,
            Self::Distribution => tool::DISTRIBUTION,
        }
    }
}

/// Where a registry stands, and what it is.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Its address; any free port on loopback by default.
    pub address: Option<SocketAddr>,
    /// The network namespace that it runs in, if not this one's.
    pub namespace: Option<Arc<Namespace>>,
    /// The URL of the registry of which this one is a pull-through cache, if it is one.
    pub caches: Option<String>,
    /// Whom it asks for what before it gives anything, if it does.
    pub guard: Option<Guard>,
}

/// What a registry asks for.
#[derive(Debug, Clone)]
pub enum Guard {
    /// A user of this file, which it reads again when it changes.
    Passwords(PathBuf),
    /// A token of this service.
    Tokens {
        /// The URL that it sends clients to.
        realm: String,
        /// The file of the service's keys.
        keys: PathBuf,
    },
}

/// A registry, serving plain http, its content in a directory of its own.
#[derive(Debug)]
pub struct Registry {
    kind: Kind,
    directory: PathBuf,
    process: Process,
    site: Site,
    address: SocketAddr,
}

impl Registry {
    /// Starts an empty registry on loopback, whose files lie below `home`, under `name`.
    ///
    /// # Errors
    /// If it is not installed or does not start.
    pub async fn start(kind: Kind, home: &Path, name: &str) -> Result<Self> {
        Self::start_at(kind, home, name, Site::default()).await
    }

    /// Starts an empty registry somewhere.
    ///
    /// # Errors
    /// If it is not installed or does not start.
    pub async fn start_at(kind: Kind, home: &Path, name: &str, mut site: Site) -> Result<Self> {
        let directory = home.join(name);
        fs::create_dir_all(&directory)?;
        let (process, address) = launch(kind, &directory, &site).await?;
        // Where it will be again.
        site.address = Some(address);
        Ok(Self { kind, directory, process, site, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Pushes an image under a tag.
    ///
    /// # Errors
    /// If the registry refuses a part of it.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<()> {
        Target::new(&self.url()).image(repository, tag, image).await
    }

    /// Pushes Debian in all its forms: see [`Target::debian`].
    ///
    /// # Errors
    /// If the registry refuses a part of it.
    pub async fn push_debian(&self, repository: &str, debian: &Debian) -> Result<()> {
        Target::new(&self.url()).debian(repository, debian).await
    }

    /// Stops it, as a crash would. What was pushed stays.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// Has it stand still (SIGSTOP), until [`Self::thaw`].
    ///
    /// # Errors
    /// If there is no shell.
    pub fn freeze(&self) -> Result<()> {
        self.process.freeze()
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// If there is no shell.
    pub fn thaw(&self) -> Result<()> {
        self.process.thaw()
    }

    /// Starts it again, where it was, and from now on it asks for this.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn guard(&mut self, guard: Guard) -> Result<()> {
        self.site.guard = Some(guard);
        self.restart().await
    }

    /// Starts it again, where it was.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        let (process, address) = launch(self.kind, &self.directory, &self.site).await?;
        (self.process, self.address) = (process, address);
        Ok(())
    }

    /// What was asked of it so far, once its log is quiet: a request is logged after its answer's last byte.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub async fn access(&self) -> Result<Access> {
        let mut before = self.process.log()?;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = self.process.log()?;
            if now.len() == before.len() {
                return Ok(Access::parse(&now));
            }
            before = now;
        }
    }
}

async fn launch(kind: Kind, directory: &Path, site: &Site) -> Result<(Process, SocketAddr)> {
    let config = directory.join("config.yml");
    fs::write(&config, configuration(&directory.join("content"), site))?;
    let mut spec = Spec::within(site.namespace.as_deref(), &kind.tool().path()?, "registry", directory);
    spec.command().arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
    let seen = fs::metadata(directory.join("registry.log")).map_or(0, |log| log.len());
    let mut process = spec.start()?;
    let address = until("the registry listens", START, async || {
        let log = process.log().ok()?;
        let log = log.get(usize::try_from(seen).ok()?..)?;
        let at = log.split("listening on ").nth(1)?;
        at.split(['"', ' ']).next()?.parse().ok()
    })
    .await
    .with_context(|| process.tail())?;
    anyhow::ensure!(process.is_running(), "the registry ended\n{}", process.tail());
    Ok((process, address))
}

fn configuration(content: &Path, site: &Site) -> String {
    let address = site.address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let cache = site.caches.as_ref().map(|url| format!("proxy:\n  remoteurl: {url}\n")).unwrap_or_default();
    let auth = match &site.guard {
        None => String::new(),
        Some(Guard::Passwords(file)) => {
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display())
        }
        Some(Guard::Tokens { realm, keys }) => format!(
            "auth:\n  token:\n    realm: {realm}\n    service: {SERVICE}\n    issuer: {ISSUER}\n    jwks: {}\n",
            keys.display()
        ),
    };
    format!(
        "version: 0.1
log:
  level: info
  accesslog:
    disabled: false
storage:
  filesystem:
    rootdirectory: {}
  delete:
    enabled: true
http:
  addr: {address}
  secret: only-for-tests
{cache}{auth}",
        content.display()
    )
}
