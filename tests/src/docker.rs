//! Docker Engine with a root of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::sync::{RwLock, RwLockWriteGuard};

use crate::hub::Hub;
use crate::process::{Process, Spec, output, until};
use crate::tool;

/// Held by an engine with bridges for as long as it runs, and shared by the others while they start: an engine that has
/// no bridge takes away the machine's, whoever uses it.
static BRIDGE: RwLock<()> = RwLock::const_new(());

/// How long the engine may take to start: it starts a containerd of its own first.
const START: Duration = Duration::from_mins(1);

/// Whether the engine gives containers a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// None: nothing of the machine's network is touched.
    None,
    /// Bridges and packet filter rules, as it is usual.
    Bridge,
}

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Debian's, 20.10, with its own store of layers.
    Debian,
    /// What `tests/run` builds, 29, with containerd's store.
    Built,
}

/// A running Docker Engine.
#[derive(Debug)]
pub struct Docker {
    directory: PathBuf,
    process: Process,
    _bridge: Option<RwLockWriteGuard<'static, ()>>,
}

impl Docker {
    /// Starts an empty engine whose files lie below `home`, under `name`, with these mirrors for Docker Hub.
    ///
    /// # Errors
    /// If it is not installed, the test does not run as root, or it does not start.
    pub async fn start(home: &Path, name: &str, mirrors: &[String], network: Network) -> Result<Self> {
        let directory = home.join(name);
        write_config(&directory, mirrors, network)?;
        Self::launch_with(Version::Debian, &directory, None, network).await
    }

    /// Writes the `daemon.json` of an engine without a network whose files lie in this directory.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn configure(directory: &Path) -> Result<()> {
        write_config(directory, &[], Network::None)
    }

    /// Starts an empty engine by the `daemon.json` in its directory, which gives it no network, with a Docker Hub if one
    /// is named.
    ///
    /// # Errors
    /// If it is not installed, the test does not run as root, or it does not start.
    pub async fn launch(version: Version, directory: &Path, hub: Option<&Hub>) -> Result<Self> {
        Self::launch_with(version, directory, hub, Network::None).await
    }

    async fn launch_with(
        version: Version,
        directory: &Path,
        hub: Option<&Hub>,
        network: Network,
    ) -> Result<Self> {
        tool::need_root("a container engine")?;
        let directory = directory.to_owned();
        let entrance = hub.map(Hub::entrance).transpose()?.unwrap_or_default();
        let daemon = match version {
            Version::Debian => tool::DOCKERD,
            Version::Built => tool::MOBY_DOCKERD,
        };
        let mut spec = Spec::behind(&entrance, &daemon.path()?, "dockerd", &directory);
        spec.command().arg("--config-file").arg(directory.join("daemon.json"));
        if version == Version::Built {
            // It starts the containerd that it finds first; Debian's client is older than what it speaks to unasked.
            tool::CONTAINERD.path()?;
            spec.command().env("PATH", tool::search_path()?).env("DOCKER_MIN_API_VERSION", "1.24");
        }
        let (bridge, _starting) = match network {
            Network::Bridge => (Some(BRIDGE.write().await), None),
            Network::None => (None, Some(BRIDGE.read().await)),
        };
        let docker = Self { directory, process: spec.start()?, _bridge: bridge };
        let answers = until("Docker Engine answers", START, async || docker.docker(&["version"]).ok());
        answers.await.with_context(|| docker.process.tail())?;
        Ok(docker)
    }

    /// Runs the `docker` command against this engine and gives what it printed.
    ///
    /// # Errors
    /// If it fails: with what it said.
    pub fn docker(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut command = self.command(&tool::DOCKER.path()?);
        output(command.args(arguments))
    }

    /// A command that speaks to this engine: `docker` or a Compose.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("DOCKER_HOST", format!("unix://{}/socket", self.directory.display()));
        // Neither the user's registries' passwords nor their plugins belong in a test.
        command.env("DOCKER_CONFIG", self.directory.join("client"));
        command.env("DOCKER_BUILDKIT", "0").env("COMPOSE_DOCKER_CLI_BUILD", "0");
        command
    }

    /// Has the engine read its `daemon.json` again, which lies in its directory.
    ///
    /// # Errors
    /// If there is no shell.
    pub fn reload(&self) -> Result<()> {
        self.process.reload()
    }

    /// The engine's log so far.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn log(&self) -> Result<String> {
        self.process.log()
    }

    /// The end of the engine's log, for a failure's text.
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// Makes an image of the files in a directory, with no registry involved; `changes` are lines of a Dockerfile.
    ///
    /// # Errors
    /// If the engine does not take it.
    pub fn import(&self, root: &Path, tag: &str, changes: &[&str]) -> Result<()> {
        let archive = self.directory.join("import.tar");
        let mut tar = Command::new(tool::TAR.path()?);
        output(tar.args(["--numeric-owner", "-C"]).arg(root).arg("-cf").arg(&archive).arg("."))?;
        let mut arguments = vec!["import"];
        for change in changes {
            arguments.extend(["--change", change]);
        }
        arguments.extend([archive.to_str().context("the path is no text")?, tag]);
        self.docker(&arguments)?;
        fs::remove_file(archive)?;
        Ok(())
    }
}

fn write_config(directory: &Path, mirrors: &[String], network: Network) -> Result<()> {
    fs::create_dir_all(directory)?;
    let bridged = network == Network::Bridge;
    let mut config = json!({
        "data-root": directory.join("data"),
        "exec-root": directory.join("exec"),
        "pidfile": directory.join("pid"),
        "hosts": [format!("unix://{}/socket", directory.display())],
        "iptables": bridged,
        "ip6tables": false,
    });
    if !bridged {
        config["bridge"] = json!("none");
    }
    if !mirrors.is_empty() {
        config["registry-mirrors"] = json!(mirrors);
    }
    fs::write(directory.join("daemon.json"), config.to_string())?;
    Ok(())
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Killed at once it would leave containers, mounts and bridges behind.
        if let Ok(running) = self.docker(&["ps", "--all", "--quiet"]) {
            let running = String::from_utf8_lossy(&running).into_owned();
            for container in running.split_whitespace() {
                self.docker(&["rm", "--force", "--volumes", container]).ok();
            }
        }
        self.docker(&["network", "prune", "--force"]).ok();
        self.process.stop(Duration::from_secs(30)).ok();
    }
}
