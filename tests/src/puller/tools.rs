//! Clients that are a command alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::{Kind, Puller};
use crate::hub::Hub;
use crate::process::output;
use crate::tool;

/// Where a command that pulls into a folder puts an image.
pub(super) fn folder(directory: &Path, tag: &str) -> PathBuf {
    directory.join("pulled").join(tag)
}

/// podman or buildah with a store of its own.
pub(super) fn with_store(kind: Kind, directory: &Path, hub: &Hub) -> Result<Command> {
    let program = if kind == Kind::Podman { tool::PODMAN } else { tool::BUILDAH };
    let mut command = hub.command(&program.path()?)?;
    at_home(&mut command, directory);
    command.arg("--root").arg(directory.join("root")).arg("--runroot").arg(directory.join("run"));
    // No mounts, which would outlive the command.
    command.args(["--storage-driver", "vfs"]);
    Ok(command)
}

/// These clients read a user's own files as they read those in /etc.
fn at_home(command: &mut Command, directory: &Path) {
    let home = directory.join("host");
    command.env("XDG_CONFIG_HOME", home.join(".config")).env("HOME", home);
}

fn regctl(host: &Path, hub: &Hub) -> Result<Command> {
    let mut command = hub.command(&tool::REGCTL.path()?)?;
    command.env("REGCTL_CONFIG", host.join("regctl.json"));
    Ok(command)
}

/// Has regctl know the mirror, and that Docker Hub has it.
pub(super) fn tell_regctl(host: &Path, hub: &Hub, mirror: &str) -> Result<()> {
    let mirror = mirror.trim_start_matches("http://");
    let set = |arguments: &[&str]| {
        output(regctl(host, hub)?.args(["registry", "set", "--skip-check"]).args(arguments))
    };
    set(&[mirror, "--tls", "disabled", "--path-prefix", "docker.io"])?;
    set(&["docker.io", "--mirror", mirror])?;
    Ok(())
}

pub(super) fn pull_command(kind: Kind, directory: &Path, hub: &Hub, tag: &str) -> Result<Command> {
    let name = Puller::name(tag);
    let to = folder(directory, tag);
    Ok(match kind {
        Kind::Podman | Kind::Buildah => {
            let mut command = with_store(kind, directory, hub)?;
            command.args(["pull", "--quiet", &name]);
            command
        }
        Kind::Skopeo => {
            std::fs::create_dir_all(&to)?;
            let mut command = hub.command(&tool::SKOPEO.path()?)?;
            at_home(&mut command, directory);
            command.args(["--insecure-policy", "copy", "--preserve-digests", &format!("docker://{name}")]);
            command.arg(format!("dir:{}", to.display()));
            command
        }
        Kind::Regctl => {
            let mut command = regctl(&directory.join("host"), hub)?;
            command.args(["image", "copy", &name, &format!("ocidir://{}:{tag}", to.display())]);
            command
        }
        other => bail!("{other:?} has a daemon"),
    })
}
