//! containerd with a root of its own, and its client `ctr`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::hub::Hub;
use crate::process::{Process, Spec, command_behind, output, until};
use crate::tool::{self, Tool};

/// How long the engine may take to start.
const START: Duration = Duration::from_secs(30);

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Debian's, 1.6. It fetches; containers are run by the other one.
    Debian,
    /// What `tests/run` builds, 2.4.
    Built,
}

impl Version {
    /// Both, for tests that hold with each.
    pub const ALL: [Self; 2] = [Self::Debian, Self::Built];

    /// The daemon.
    pub fn daemon(self) -> Tool {
        match self {
            Self::Debian => tool::DEBIAN_CONTAINERD,
            Self::Built => tool::CONTAINERD,
        }
    }

    fn client(self) -> Tool {
        match self {
            Self::Debian => tool::DEBIAN_CTR,
            Self::Built => tool::CTR,
        }
    }
}

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    version: Version,
    directory: PathBuf,
    /// What its client's command line begins with too: before 2.0 it is the client that speaks to registries.
    entrance: Vec<OsString>,
    process: Process,
}

/// What else a containerd is told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Docker Hub for it.
    pub hub: Option<&'a Hub>,
    /// More lines for its config.toml.
    pub config: &'a str,
}

impl Containerd {
    /// Starts an empty containerd whose files lie below `home`, under `name`.
    ///
    /// # Errors
    /// If it is not installed, the test does not run as root, or it does not start.
    pub async fn start(home: &Path, name: &str) -> Result<Self> {
        Self::start_version(Version::Built, home, name).await
    }

    /// The same, of another version.
    ///
    /// # Errors
    /// If it is not installed, the test does not run as root, or it does not start.
    pub async fn start_version(version: Version, home: &Path, name: &str) -> Result<Self> {
        Self::start_with(version, home, name, Options::default()).await
    }

    /// The same, with more to say.
    ///
    /// # Errors
    /// If it is not installed, the test does not run as root, or it does not start.
    pub async fn start_with(version: Version, home: &Path, name: &str, options: Options<'_>) -> Result<Self> {
        tool::need_root("a container engine")?;
        let directory = home.join(name);
        fs::create_dir_all(&directory)?;
        let config = directory.join("config.toml");
        fs::write(&config, configuration(version, &directory) + options.config)?;
        let entrance = options.hub.map(Hub::entrance).transpose()?.unwrap_or_default();
        let mut spec = Spec::behind(&entrance, &version.daemon().path()?, "containerd", &directory);
        spec.command().arg("--config").arg(&config);
        if version == Version::Built {
            // The shim and runc are looked up in the path; Debian's older shim must not be found first.
            tool::CONTAINERD_SHIM.path()?;
            tool::RUNC.path()?;
            spec.command().env("PATH", tool::search_path()?);
        }
        let process = spec.start()?;
        let containerd = Self { version, directory, entrance, process };
        let answers = until("containerd answers", START, async || containerd.ctr(&["version"]).ok());
        answers.await.with_context(|| containerd.process.tail())?;
        Ok(containerd)
    }

    /// Writes a `hosts.toml` so that `registry` is pulled through `mirror`, with nowhere else to go.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn mirror(&self, registry: &str, mirror: &str) -> Result<()> {
        let directory = self.hosts_directory().join(registry);
        fs::create_dir_all(&directory)?;
        // Port 9 of loopback takes no connection: what the mirror does not give fails the pull.
        let hosts = format!(
            "server = \"http://127.0.0.1:9\"\n\n[host.\"{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        fs::write(directory.join("hosts.toml"), hosts)?;
        Ok(())
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// If it cannot be pulled: with what `ctr` said.
    pub fn pull(&self, image: &str) -> Result<()> {
        self.pull_by(&self.hosts_directory(), image)
    }

    /// Pulls an image by the `hosts.toml` files of a folder.
    ///
    /// # Errors
    /// If it cannot be pulled: with what `ctr` said.
    pub fn pull_by(&self, hosts: &Path, image: &str) -> Result<()> {
        output(&mut self.pull_command(hosts, image)?).with_context(|| self.process.tail())?;
        Ok(())
    }

    /// The command that pulls an image by the `hosts.toml` files of a folder.
    ///
    /// # Errors
    /// If its client is not installed.
    pub fn pull_command(&self, hosts: &Path, image: &str) -> Result<Command> {
        let mut command = self.client()?;
        command.args(["images", "pull", "--hosts-dir"]).arg(hosts).arg(image);
        Ok(command)
    }

    /// The end of its log, for a failure's text.
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// Fetches an image by the `hosts.toml` files of a folder, and does not unpack it.
    ///
    /// # Errors
    /// If it cannot be fetched: with what `ctr` said.
    pub fn fetch(&self, hosts: &Path, image: &str) -> Result<()> {
        let hosts = hosts.to_str().context("the path is no text")?;
        let fetch = ["content", "fetch", "--hosts-dir", hosts, image];
        self.ctr(&fetch).with_context(|| self.process.tail())?;
        Ok(())
    }

    /// The bytes that its content store holds under a digest.
    ///
    /// # Errors
    /// If it holds none.
    pub fn content(&self, digest: &str) -> Result<Vec<u8>> {
        self.ctr(&["content", "get", digest])
    }

    /// Runs a command in a container of a pulled image and gives what it printed.
    ///
    /// # Errors
    /// If the container does not run.
    pub fn run(&self, image: &str, command: &[&str]) -> Result<String> {
        // runc keeps all containers of this machine in one place: two tests must not take the same name.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let container =
            format!("shoal-tests-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut arguments = vec!["run", "--rm", "--net-host", image, &container];
        arguments.extend(command);
        let said = self.ctr(&arguments).with_context(|| self.process.tail())?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    fn ctr(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        output(self.client()?.args(arguments))
    }

    fn client(&self) -> Result<Command> {
        let mut command = command_behind(&self.entrance, &self.version.client().path()?);
        command.arg("--address").arg(self.directory.join("socket"));
        Ok(command)
    }

    fn hosts_directory(&self) -> PathBuf {
        self.directory.join("hosts")
    }
}

fn configuration(version: Version, directory: &Path) -> String {
    let directory = directory.display();
    let form = match version {
        Version::Debian => 2,
        Version::Built => 3,
    };
    // Without the Kubernetes plugin, which wants a network, and without snapshotters that probe devices.
    format!(
        "version = {form}
root = \"{directory}/root\"
state = \"{directory}/state\"
disabled_plugins = [
  \"io.containerd.grpc.v1.cri\",
  \"io.containerd.cri.v1.images\",
  \"io.containerd.cri.v1.runtime\",
  \"io.containerd.snapshotter.v1.btrfs\",
  \"io.containerd.snapshotter.v1.devmapper\",
  \"io.containerd.snapshotter.v1.zfs\",
  \"io.containerd.nri.v1.nri\",
]

[grpc]
  address = \"{directory}/socket\"

[ttrpc]
  address = \"{directory}/socket.ttrpc\"
"
    )
}
