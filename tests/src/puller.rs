//! The clients that people use, each told of a mirror by what `shoal setup` writes, with a Docker Hub to go to.
//!
//! What they pull are images of Docker Hub: the [`Hub`]'s, if not the mirror's.

mod content;
mod engine;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::containerd::Version as ContainerdVersion;
use crate::docker::Version as DockerVersion;
use crate::hub::Hub;
use crate::image::Image;
use crate::process::output;
use crate::tool;
pub use content::in_folder;
use engine::Engine;

/// The repository that they pull from.
pub const REPOSITORY: &str = "some/image";

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// containerd and its `ctr`.
    Containerd(ContainerdVersion),
    /// Docker Engine.
    Docker(DockerVersion),
    /// `BuildKit`, which builds an image upon the one that it pulls.
    Buildkit,
    /// podman.
    Podman,
    /// buildah.
    Buildah,
    /// skopeo, into a folder.
    Skopeo,
    /// regctl, into a folder. `shoal setup` has nothing for it: it is told by its own commands.
    Regctl,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Containerd(ContainerdVersion::Debian),
        Self::Containerd(ContainerdVersion::Built),
        Self::Docker(DockerVersion::Debian),
        Self::Docker(DockerVersion::Built),
        Self::Buildkit,
        Self::Podman,
        Self::Buildah,
        Self::Skopeo,
        Self::Regctl,
    ];
}

/// A client that is ready to pull.
#[derive(Debug)]
pub struct Puller<'a> {
    kind: Kind,
    hub: &'a Hub,
    /// The client's files; below `host` those of a host, with what `shoal setup` wrote.
    directory: PathBuf,
    engine: Engine,
}

impl<'a> Puller<'a> {
    /// Has the client told of the mirror at this URL, if one is named, and starts its daemon, if it has one.
    ///
    /// # Errors
    /// If a part is not installed, or does not start.
    pub async fn start(kind: Kind, directory: &Path, hub: &'a Hub, mirror: Option<&str>) -> Result<Self> {
        let host = directory.join("host");
        fs::create_dir_all(host.join(".config/containers"))?;
        if let Kind::Docker(_) = kind {
            engine::configure_docker(&host)?;
        }
        if let Some(mirror) = mirror {
            match kind {
                Kind::Containerd(_) => setup(&host, mirror, &["containerd"])?,
                Kind::Docker(_) => setup(&host, mirror, &["docker"])?,
                Kind::Buildkit => setup(&host, mirror, &["buildkit"])?,
                Kind::Podman | Kind::Buildah | Kind::Skopeo => {
                    setup(&host, mirror, &["podman", "--config-dir", "/.config/containers"])?;
                }
                Kind::Regctl => tools::tell_regctl(&host, hub, mirror)?,
            }
        }
        let engine = Engine::start(kind, directory, &host, hub).await?;
        Ok(Self { kind, hub, directory: directory.to_owned(), engine })
    }

    /// Pulls the image of this tag, giving up after `patience`.
    ///
    /// # Errors
    /// If it cannot be pulled: with what the client said.
    pub fn pull_within(&self, tag: &str, patience: Duration) -> Result<()> {
        let pull = self.pull_command(tag)?;
        let mut command = Command::new(tool::TIMEOUT.path()?);
        command.arg(patience.as_secs().to_string()).arg(pull.get_program()).args(pull.get_args());
        command.envs(pull.get_envs().filter_map(|(name, value)| Some((name, value?))));
        output(&mut command).map(drop).with_context(|| self.engine.tail())?;
        Ok(())
    }

    /// Pulls the image of this tag.
    ///
    /// # Errors
    /// If it cannot be pulled: with what the client said.
    pub fn pull(&self, tag: &str) -> Result<()> {
        self.pull_within(tag, Duration::from_mins(5))
    }

    fn name(tag: &str) -> String {
        format!("docker.io/{REPOSITORY}:{tag}")
    }

    fn pull_command(&self, tag: &str) -> Result<Command> {
        let host = self.directory.join("host");
        let name = Self::name(tag);
        match (&self.engine, self.kind) {
            (Engine::Containerd(containerd), _) => {
                containerd.pull_command(&host.join("etc/containerd/certs.d"), &name)
            }
            (Engine::Docker(docker), _) => {
                let mut command = docker.command(&tool::DOCKER.path()?);
                command.args(["pull", &name]);
                Ok(command)
            }
            (Engine::Buildkit(buildkit), _) => buildkit.pull_command(&name, &self.built(tag)),
            (Engine::None, kind) => tools::pull_command(kind, &self.directory, self.hub, tag),
        }
    }

    /// Where `BuildKit` puts the image that it builds.
    fn built(&self, tag: &str) -> PathBuf {
        self.directory.join(format!("{tag}.tar"))
    }

    /// Fails unless the client has the image that was pushed under this tag.
    ///
    /// # Errors
    /// If it has none, or another.
    pub fn has(&self, tag: &str, image: &Image) -> Result<()> {
        content::has(self, tag, image).with_context(|| format!("{:?}, {tag}", self.kind))
    }
}

/// Runs `shoal setup`.
fn setup(host: &Path, mirror: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(tool::shoal()?);
    command.arg("setup").args(args).arg("--root").arg(host).args(["--gateway", mirror]);
    output(&mut command).map(drop)
}
