//! Makes an image up and pushes it to a registry in the same namespace.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use shoal_tests::image::synthetic;
use shoal_tests::registry::push::Target;

/// What to make, and where to push it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) url: String,
    pub(crate) repository: String,
    pub(crate) tag: String,
    /// Where its files lie until it is pushed.
    pub(crate) directory: PathBuf,
    pub(crate) seed: u64,
    /// Its layers' sizes.
    pub(crate) layers: Vec<u64>,
}

/// What there is now.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Published {
    /// The manifest's digest.
    pub(crate) digest: String,
    /// The bytes of manifest, config and layers.
    pub(crate) bytes: u64,
}

pub(crate) async fn publish(request: &Request) -> Result<Published> {
    std::fs::create_dir_all(&request.directory)?;
    let image = synthetic::image(&request.directory, request.seed, &request.layers)?;
    Target::new(&request.url).image(&request.repository, &request.tag, &image).await?;
    std::fs::remove_dir_all(&request.directory)?;
    let bytes = image.size() + image.manifest.bytes.len() as u64;
    Ok(Published { digest: image.manifest.digest, bytes })
}
