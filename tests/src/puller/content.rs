//! What a client has after it pulled.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::engine::Engine;
use super::{Kind, Puller, tools};
use crate::containerd::Containerd;
use crate::image::Image;
use crate::process::output;
use crate::tool;

/// Fails unless the client has this image, as far as it can be asked.
pub(super) fn has(puller: &Puller<'_>, tag: &str, image: &Image) -> Result<()> {
    let name = Puller::name(tag);
    match (&puller.engine, puller.kind) {
        (Engine::Containerd(containerd), _) => in_containerd(containerd, image),
        (Engine::Docker(docker), _) => {
            // An image's id is its config's digest, in containerd's store its manifest's.
            let id = docker.docker(&["image", "inspect", "--format", "{{.Id}}", &name])?;
            is_one_of(&id, &[&image.config.digest, &image.manifest.digest])
        }
        (Engine::Buildkit(_), _) => built_upon(&puller.built(tag), image),
        (Engine::None, Kind::Podman) => {
            let mut command = tools::with_store(Kind::Podman, &puller.directory, puller.hub)?;
            let said = output(command.args(["image", "inspect", "--format", "{{.Digest}}", &name]))?;
            is_one_of(&said, &[&image.manifest.digest])
        }
        (Engine::None, Kind::Buildah) => {
            let mut command = tools::with_store(Kind::Buildah, &puller.directory, puller.hub)?;
            let format = ["--format", "{{.FromImageDigest}}"];
            let said = output(command.args(["inspect", "--type", "image"]).args(format).arg(&name))?;
            is_one_of(&said, &[&image.manifest.digest])
        }
        (Engine::None, _) => in_folder(&tools::folder(&puller.directory, tag), image),
    }
}

fn is_one_of(said: &[u8], digests: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(said);
    ensure!(digests.contains(&said.trim()), "it has {said}, not one of {digests:?}");
    Ok(())
}

fn in_containerd(containerd: &Containerd, image: &Image) -> Result<()> {
    ensure!(containerd.content(&image.manifest.digest)? == image.manifest.bytes, "its manifest differs");
    for blob in image.blobs() {
        ensure!(containerd.content(&blob.digest)? == blob.bytes()?, "{} differs", blob.digest);
    }
    Ok(())
}

/// What is built upon an image has its layers, as they are.
fn built_upon(archive: &Path, image: &Image) -> Result<()> {
    let list = output(Command::new(tool::TAR.path()?).arg("-tf").arg(archive))?;
    let list = String::from_utf8_lossy(&list).into_owned();
    let built: BTreeSet<&str> = list.lines().filter_map(|line| line.strip_prefix("blobs/sha256/")).collect();
    for layer in &image.layers {
        ensure!(built.contains(hex(&layer.digest)), "{} is not in {built:?}", layer.digest);
    }
    Ok(())
}

/// Fails unless a folder has this image: of skopeo's `dir:` layout, or an OCI layout.
///
/// # Errors
/// If a blob is missing or another.
pub fn in_folder(folder: &Path, image: &Image) -> Result<()> {
    let blobs = folder.join("blobs/sha256");
    let place = if blobs.is_dir() { blobs } else { folder.to_owned() };
    for blob in image.blobs() {
        ensure!(fs::read(place.join(hex(&blob.digest)))? == blob.bytes()?, "{} differs", blob.digest);
    }
    Ok(())
}

fn hex(digest: &str) -> &str {
    digest.split_once(':').map_or(digest, |(_, hex)| hex)
}
