//! Images to pull: of a real Debian root filesystem, or of any size.
//!
//! An [`Image`] is files on disk, named by their digests, and the manifests over them. Digests are computed here
//! with `sha2` alone, not with Shoal's own types: the tests check Shoal against something it has no part in.

pub mod debian;
pub mod synthetic;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The digest of some bytes, as registries write it.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The digest and size of a file.
///
/// # Errors
/// If it cannot be read.
pub fn file_digest(path: &Path) -> Result<(String, u64)> {
    let open = || -> io::Result<(String, u64)> {
        let mut file = File::open(path)?;
        let (mut hash, mut size) = (Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok((format!("sha256:{}", hex::encode(hash.finalize())), size));
            }
            hash.update(&buffer[..read]);
            size += read as u64;
        }
    };
    open().with_context(|| format!("cannot read {}", path.display()))
}

/// A blob in a file.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes are.
    pub path: PathBuf,
}

impl Blob {
    /// The blob that a file holds.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let (digest, size) = file_digest(path)?;
        Ok(Self { digest, size, path: path.to_owned() })
    }

    /// Writes `bytes` into `directory`, under their digest.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(directory: &Path, bytes: &[u8]) -> Result<Self> {
        let digest = digest(bytes);
        let path = directory.join(digest.replace(':', "-"));
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { digest, size: bytes.len() as u64, path })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        std::fs::read(&self.path).with_context(|| format!("cannot read {}", self.path.display()))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.size })
    }
}

/// A manifest or an index.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its media type.
    pub media_type: &'static str,
    /// Its digest.
    pub digest: String,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Document {
    fn new(media_type: &'static str, value: &Value) -> Self {
        // Spread over lines on purpose: who re-serialises a manifest changes its digest, and is caught.
        let bytes = Bytes::from(format!("{value:#}\n"));
        Self { media_type, digest: digest(&bytes), bytes }
    }
}

/// One platform's image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its manifest.
    pub manifest: Document,
    /// Its config.
    pub config: Blob,
    /// Its layers, the lowest first.
    pub layers: Vec<Blob>,
    /// Its platform's architecture, as Go names it.
    pub architecture: String,
}

/// A layer and the digest of its uncompressed tar.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The compressed layer.
    pub blob: Blob,
    /// The digest of what it unpacks to.
    pub diff_id: String,
}

/// Which registry dialect an image's manifest speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OCI media types.
    Oci,
    /// Docker schema 2 media types.
    Docker,
}

impl Image {
    /// Puts an image together from layers; its config goes to `directory`.
    ///
    /// # Errors
    /// If the config cannot be written.
    pub fn assemble(
        directory: &Path,
        architecture: &str,
        layers: &[Layer],
        dialect: Dialect,
    ) -> Result<Self> {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Blob::write(directory, config.to_string().as_bytes())?;
        let (manifest_type, config_type, layer_type) = match dialect {
            Dialect::Oci => (
                OCI_MANIFEST,
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
            Dialect::Docker => (
                DOCKER_MANIFEST,
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
        };
        let layers: Vec<Blob> = layers.iter().map(|layer| layer.blob.clone()).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config.descriptor(config_type),
            "layers": layers.iter().map(|layer| layer.descriptor(layer_type)).collect::<Vec<_>>(),
        });
        let manifest = Document::new(manifest_type, &manifest);
        Ok(Self { manifest, config, layers, architecture: architecture.to_owned() })
    }

    /// Config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// The bytes of all its blobs.
    pub fn size(&self) -> u64 {
        self.blobs().map(|blob| blob.size).sum()
    }
}

/// An index over the images of several platforms.
pub fn index(images: &[&Image]) -> Document {
    index_as(OCI_INDEX, images)
}

/// The same, of this media type.
pub fn index_as(media_type: &'static str, images: &[&Image]) -> Document {
    let manifests: Vec<Value> = images
        .iter()
        .map(|image| {
            json!({
                "mediaType": image.manifest.media_type,
                "digest": image.manifest.digest,
                "size": image.manifest.bytes.len(),
                "platform": { "architecture": image.architecture, "os": "linux" },
            })
        })
        .collect();
    Document::new(media_type, &json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests }))
}

/// This machine's architecture, as Go and so every registry names it.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
