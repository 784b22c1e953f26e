//! Clients that have a daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Kind;
use crate::containerd::{Containerd, Options};
use crate::docker::Docker;
use crate::hub::Hub;
use crate::process::{Process, Spec, output, until};
use crate::tool;

/// How long `BuildKit` may take to start.
const START: Duration = Duration::from_secs(30);

/// A running daemon, or none.
#[derive(Debug)]
pub(super) enum Engine {
    Containerd(Containerd),
    Docker(Docker),
    Buildkit(Buildkit),
    None,
}

impl Engine {
    pub(super) async fn start(kind: Kind, directory: &Path, host: &Path, hub: &Hub) -> Result<Self> {
        Ok(match kind {
            Kind::Containerd(version) => {
                let options = Options { hub: Some(hub), ..Options::default() };
                Self::Containerd(Containerd::start_with(version, directory, "containerd", options).await?)
            }
            Kind::Docker(version) => Self::Docker(Docker::launch(version, &docker(host), Some(hub)).await?),
            Kind::Buildkit => Self::Buildkit(Buildkit::start(directory, host, hub).await?),
            Kind::Podman | Kind::Buildah | Kind::Skopeo | Kind::Regctl => Self::None,
        })
    }

    /// The end of its log, for a failure's text.
    pub(super) fn tail(&self) -> String {
        match self {
            Self::Containerd(containerd) => containerd.tail(),
            Self::Docker(docker) => docker.tail(),
            Self::Buildkit(buildkit) => buildkit.process.tail(),
            Self::None => String::new(),
        }
    }
}

/// The engine's files lie where its configuration does.
fn docker(host: &Path) -> PathBuf {
    host.join("etc/docker")
}

/// Writes what `shoal setup` adds its mirror to.
pub(super) fn configure_docker(host: &Path) -> Result<()> {
    Docker::configure(&docker(host))
}

/// `BuildKit` with a root of its own.
#[derive(Debug)]
pub(super) struct Buildkit {
    directory: PathBuf,
    process: Process,
}

impl Buildkit {
    async fn start(directory: &Path, host: &Path, hub: &Hub) -> Result<Self> {
        tool::need_root("BuildKit")?;
        tool::RUNC.path()?;
        let mut spec = Spec::behind(&hub.entrance()?, &tool::BUILDKITD.path()?, "buildkitd", directory);
        let config = host.join("etc/buildkit/buildkitd.toml");
        if config.exists() {
            spec.command().arg("--config").arg(config);
        }
        spec.command().arg("--root").arg(directory.join("root")).arg("--addr").arg(address(directory));
        // It copies files instead of mounting them, and runs nothing in a network.
        spec.command().args([
            "--oci-worker-snapshotter=native",
            "--containerd-worker=false",
            "--oci-worker-net=host",
        ]);
        spec.command().env("PATH", tool::search_path()?);
        let buildkit = Self { directory: directory.to_owned(), process: spec.start()? };
        let answers = until("BuildKit answers", START, async || {
            output(buildkit.client().ok()?.args(["debug", "workers"])).ok()
        });
        answers.await.with_context(|| buildkit.process.tail())?;
        Ok(buildkit)
    }

    fn client(&self) -> Result<Command> {
        let mut command = Command::new(tool::BUILDCTL.path()?);
        command.arg("--addr").arg(address(&self.directory));
        Ok(command)
    }

    /// Builds an image that is the pulled one and nothing else.
    pub(super) fn pull_command(&self, name: &str, to: &Path) -> Result<Command> {
        let context = self.directory.join("context");
        fs::create_dir_all(&context)?;
        fs::write(context.join("Dockerfile"), format!("FROM {name}\n"))?;
        let context = context.display();
        let mut command = self.client()?;
        command.args(["build", "--frontend", "dockerfile.v0", "--opt", "image-resolve-mode=pull"]);
        command.args(["--local", &format!("context={context}"), "--local", &format!("dockerfile={context}")]);
        command.args(["--output", &format!("type=oci,dest={}", to.display())]);
        Ok(command)
    }
}

fn address(directory: &Path) -> String {
    format!("unix://{}/socket", directory.display())
}
