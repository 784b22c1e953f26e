//! One node: `shoal run` as a process.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::client::Client;
use crate::netns::Namespace;
use crate::process::{Process, Spec, until};
use crate::tool;

/// How long a node may take from its start to serving, and from serving to ready: the machine may be busy.
pub const START: Duration = Duration::from_secs(30);

/// What a node is told at its start.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Upstream registries: what clients call them, and where they are.
    pub upstreams: Vec<(String, String)>,
    /// Whom to join.
    pub bootstrap: Vec<String>,
    /// The file with the cluster key.
    pub cluster_key: Option<PathBuf>,
    /// Lines of TOML for the configuration file.
    pub config: String,
    /// The peer port's address; port 0 by default.
    pub peer_addr: Option<SocketAddr>,
    /// The gateway's address; port 0 by default.
    pub gateway_addr: Option<SocketAddr>,
    /// The network namespace that it runs in, if not this one's. Its gateway and admin port, on loopback, are then
    /// only to be reached from there.
    pub namespace: Option<Arc<Namespace>>,
    /// What it logs: `SHOAL_LOG` of this process if that is set, or else everything that helps in a failed test.
    pub log: Option<String>,
}

/// What a node prints once it serves.
#[derive(Debug, Clone, Deserialize)]
pub struct Serving {
    /// Where clients reach it.
    pub gateway: SocketAddr,
    /// Where peers reach it.
    pub peer: SocketAddr,
    /// Where its operator reaches it.
    pub admin: SocketAddr,
    /// Its identity.
    pub peer_id: String,
}

/// A part of what a node says of itself at `/status`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// Who is connected.
    pub peers: Vec<Peer>,
    /// What is on its disk.
    pub store: Stored,
    /// Where bytes came from.
    pub traffic: Traffic,
    /// What it saved for as long as its savings are kept.
    pub savings: Savings,
    /// How many keys it has announced.
    pub announced: u64,
    /// The blobs that it is fetching now.
    pub pulls: Vec<serde_json::Value>,
}

/// A connected peer.
#[derive(Debug, Clone, Deserialize)]
pub struct Peer {
    /// Its identity.
    pub peer_id: String,
    /// Its zone, as it says.
    pub zone: Option<String>,
}

/// What a node holds.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Stored {
    /// Whole blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a node spared its registries.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Savings {
    /// Bytes given to clients.
    pub given_bytes: u64,
    /// Bytes that came from registries.
    pub upstream_bytes: u64,
    /// Images pulled.
    pub pulls: u64,
    /// Those pulled while their registry was down.
    pub offline_pulls: u64,
}

/// Where bytes came from.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Traffic {
    /// From its own disk.
    pub store: Source,
    /// From peers.
    pub peer: Source,
    /// From upstream registries.
    pub upstream: Source,
}

/// One source's share.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Source {
    /// Requests made to it.
    pub requests: u64,
    /// Bytes it gave.
    pub bytes: u64,
}

/// A running node, or one that was killed and can run again with the same data.
#[derive(Debug)]
pub struct Node {
    directory: PathBuf,
    name: String,
    settings: Settings,
    process: Process,
    output: Option<ChildStdout>,
    /// Its addresses.
    pub serving: Serving,
}

impl Node {
    /// Starts a node whose files lie below `home`, under `name`, and waits until it serves.
    ///
    /// # Errors
    /// If the daemon is not built, or does not serve.
    pub async fn start(home: &Path, name: &str, settings: Settings) -> Result<Self> {
        let directory = home.join(name);
        fs::create_dir_all(&directory)?;
        let (process, output, serving) = serve(spec(&directory, name, &settings)?).await?;
        Ok(Self { directory, name: name.to_owned(), settings, process, output: Some(output), serving })
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
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

    /// Starts it again with the same data, identity and peer address.
    ///
    /// # Errors
    /// If it does not serve.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.output = None;
        self.settings.peer_addr = Some(self.serving.peer);
        let spec = spec(&self.directory, &self.name, &self.settings)?;
        let (process, output, serving) = serve(spec).await?;
        (self.process, self.output, self.serving) = (process, Some(output), serving);
        Ok(())
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.stop(Duration::from_secs(30))
    }

    /// Whether its process still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its log so far.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn log(&self) -> Result<String> {
        self.process.log()
    }

    /// Where its data is.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The file of a blob that it holds, should it lie in a file.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", digest));
        self.data_dir().join("blobs").join(algorithm).join(&hex[..2]).join(hex)
    }

    /// Its gateway's URL.
    pub fn gateway_url(&self) -> String {
        format!("http://{}", self.serving.gateway)
    }

    /// A client of its gateway.
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.gateway_url())
    }

    /// A client of its admin port.
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub fn admin(&self) -> Result<Client> {
        Client::new(&format!("http://{}", self.serving.admin))
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// If it does not answer, or not with what is expected.
    pub async fn status(&self) -> Result<Status> {
        let answer = self.admin()?.get("/status").await?;
        serde_json::from_slice(&answer.body).with_context(|| format!("/status answered {answer:?}"))
    }

    /// Waits until it is ready and knows at least `peers` peers.
    ///
    /// # Errors
    /// If that does not come.
    pub async fn joined(&self, peers: usize) -> Result<()> {
        let joined = until("the node is ready and connected", START, async || {
            let status = self.status().await.ok()?;
            (status.ready && status.peers.len() >= peers).then_some(())
        });
        joined.await.with_context(|| format!("{} with {peers} peers\n{}", self.name, self.process.tail()))
    }
}

/// The command of a node with these settings, with nothing started yet.
///
/// # Errors
/// If the daemon is not built, or its configuration cannot be written.
pub fn spec(directory: &Path, name: &str, settings: &Settings) -> Result<Spec> {
    let config = directory.join("shoal.toml");
    fs::write(&config, &settings.config)?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut spec = Spec::within(settings.namespace.as_deref(), &tool::shoal()?, name, directory);
    let command = spec.command();
    command.arg("run").arg("--config").arg(&config).arg("--data-dir").arg(directory.join("data"));
    command.args(["--gateway-addr", &settings.gateway_addr.unwrap_or(any).to_string()]);
    command.args(["--peer-addr", &settings.peer_addr.unwrap_or(any).to_string()]);
    command.args(["--admin-addr", &any.to_string()]);
    for address in &settings.bootstrap {
        command.args(["--bootstrap", address]);
    }
    if let Some(key) = &settings.cluster_key {
        command.arg("--cluster-key-file").arg(key);
    }
    for (name, url) in &settings.upstreams {
        command.args(["--upstream", &format!("{name}={url}")]);
    }
    let log = std::env::var("SHOAL_LOG").ok().or_else(|| settings.log.clone());
    let log = log.unwrap_or_else(|| "info,shoal=debug".to_owned());
    command.env("SHOAL_LOG", log);
    Ok(spec)
}

/// Starts a node by a command of one's own, and waits for the line that says where it serves.
///
/// # Errors
/// If it does not serve.
pub async fn serve(spec: Spec) -> Result<(Process, ChildStdout, Serving)> {
    let (process, output) = spec.start_with_output()?;
    let mut output = BufReader::new(output);
    let reading = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        output.read_line(&mut line).map(|_| (line, output.into_inner()))
    });
    // A node that says nothing is killed with its `Process`, which also ends the reading.
    let read = tokio::time::timeout(START, reading).await;
    let (line, output) =
        read.with_context(|| format!("the node said nothing on standard output\n{}", process.tail()))???;
    let serving = serde_json::from_str(&line);
    let serving = serving.with_context(|| format!("the node said {line:?}\n{}", process.tail()))?;
    Ok((process, output, serving))
}
