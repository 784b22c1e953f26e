//! An image of a real Debian root filesystem, made by debootstrap.
//!
//! Downloading and unpacking Debian takes half a minute, so the layers are kept between runs, in
//! `/var/cache/shoal-tests` (`SHOAL_TESTS_CACHE` names another place). The other platform's image of the index
//! shares the large layers with the host's and differs in its config and one small layer: enough for every path
//! that an index takes through a registry, without a second download.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{Blob, Dialect, Document, Image, Layer, digest, file_digest, host_architecture, index};
use crate::process::output;
use crate::tool;

/// The Debian release in the image.
const RELEASE: &str = "bookworm";

/// The layers: their names and what `tar` puts into each.
const LAYERS: [(&str, &[&str]); 3] = [
    ("base", &["--exclude=./usr/lib", "--exclude=./usr/share", "--exclude=./dev/*", "."]),
    ("lib", &["./usr/lib"]),
    ("share", &["./usr/share"]),
];

/// Debian as an image of several layers, in every form that registries serve.
#[derive(Debug, Clone)]
pub struct Debian {
    /// The host platform's image, with OCI media types.
    pub image: Image,
    /// The same with Docker media types: other manifest, same blobs.
    pub docker: Image,
    /// Another platform's image.
    pub other: Image,
    /// The index over `image` and `other`.
    pub index: Document,
}

impl Debian {
    /// Takes the image from the cache, or makes it there first.
    ///
    /// # Errors
    /// If debootstrap or tar is missing or fails (debootstrap needs root and a Debian mirror), or the cache cannot
    /// be written.
    pub fn get() -> Result<Self> {
        let cache = cache()?;
        // One test process makes it, others wait for it.
        let lock = File::create(cache.join("lock"))?;
        lock.lock().context("cannot lock the image cache")?;
        let root = root_filesystem_in(&cache)?;
        let mut layers = Vec::new();
        for (name, contents) in LAYERS {
            layers.push(layer(&cache, name, &root, contents)?);
        }
        let other = if host_architecture() == "arm64" { "amd64" } else { "arm64" };
        let image = |architecture: &str, dialect| {
            let mut layers = layers.clone();
            layers.push(mark(&cache, architecture)?);
            Image::assemble(&cache, architecture, &layers, dialect)
        };
        let host = image(host_architecture(), Dialect::Oci)?;
        let docker = image(host_architecture(), Dialect::Docker)?;
        let other = image(other, Dialect::Oci)?;
        let index = index(&[&other, &host]);
        Ok(Self { image: host, docker, other, index })
    }
}

/// Debian's root filesystem, unpacked, from the cache; for tests that need a base image.
///
/// # Errors
/// As [`Debian::get`].
pub fn root_filesystem() -> Result<PathBuf> {
    let cache = cache()?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock().context("cannot lock the image cache")?;
    root_filesystem_in(&cache)
}

fn cache() -> Result<PathBuf> {
    let path = env::var_os("SHOAL_TESTS_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/shoal-tests"), PathBuf::from);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

fn root_filesystem_in(cache: &Path) -> Result<PathBuf> {
    let root = cache.join(RELEASE);
    if root.is_dir() {
        return Ok(root);
    }
    tool::need_root("debootstrap")?;
    let making = cache.join(format!("{RELEASE}.making"));
    if making.exists() {
        fs::remove_dir_all(&making)?;
    }
    let mut command = Command::new(tool::DEBOOTSTRAP.path()?);
    // Without the downloaded packages and their lists: a base image has neither.
    output(command.arg("--variant=minbase").arg(RELEASE).arg(&making))?;
    for directory in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        fs::remove_dir_all(making.join(directory)).ok();
        fs::create_dir_all(making.join(directory).join("partial"))?;
    }
    fs::rename(&making, &root)?;
    Ok(root)
}

/// One layer of `root`: the parts that `contents` selects.
pub(super) fn layer(cache: &Path, name: &str, root: &Path, contents: &[&str]) -> Result<Layer> {
    let tar = cache.join(format!("{name}.tar"));
    let packed = cache.join(format!("{name}.tar.gz"));
    if !packed.is_file() {
        let mut command = Command::new(tool::TAR.path()?);
        command.args(["--sort=name", "--mtime=@0", "--numeric-owner", "--one-file-system", "-C"]).arg(root);
        output(command.arg("-cf").arg(&tar).args(contents))?;
        compress(&tar, &packed)?;
    }
    Ok(Layer { diff_id: file_digest(&tar)?.0, blob: Blob::of(&packed)? })
}

/// A small layer that says which platform it is of.
fn mark(cache: &Path, architecture: &str) -> Result<Layer> {
    let directory = cache.join(format!("mark-{architecture}"));
    fs::create_dir_all(directory.join("etc"))?;
    let text = format!("shoal-tests {architecture}\n");
    fs::write(directory.join("etc/shoal-tests"), text)?;
    layer(cache, &format!("mark-{architecture}"), &directory, &["./etc/shoal-tests"])
}

/// Compresses `tar`; the result appears only when it is whole.
fn compress(tar: &Path, packed: &Path) -> Result<()> {
    let making = packed.with_extension("making");
    let status = Command::new(tool::GZIP.path()?)
        .args(["--no-name", "-1", "--stdout"])
        .arg(tar)
        .stdin(Stdio::null())
        .stdout(File::create(&making)?)
        .status()?;
    ensure!(status.success(), "gzip of {} failed: {status}", tar.display());
    fs::rename(&making, packed)?;
    Ok(())
}

/// The digest of one of the image's uncompressed layers, as the config lists it.
///
/// # Errors
/// If the config cannot be read.
pub fn diff_ids(image: &Image) -> Result<Vec<String>> {
    let config: serde_json::Value = serde_json::from_slice(&image.config.bytes()?)?;
    let ids = config["rootfs"]["diff_ids"].as_array().context("the config lists no layers")?;
    ids.iter().map(|id| Ok(id.as_str().context("not a digest")?.to_owned())).collect()
}

/// Whether `bytes` are what `digest` names.
pub fn proves(bytes: &[u8], expected: &str) -> bool {
    digest(bytes) == expected
}
