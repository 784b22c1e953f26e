//! What an image's name stands for: its manifests, read here, and the blobs to pull.

use std::collections::{HashSet, VecDeque};

use shoal_proto::digest::Digest;
use shoal_proto::manifest::{self, Descriptor, Listing, is_index};
use shoal_proto::name::Reference;

use super::failure::PullFailure;
use super::gateway::{Gateway, Manifest};
use super::platform::Wanted;

/// The most manifests of one image: images for every platform, with attestations, have about 40.
const MAX_MANIFESTS: usize = 1_000;
/// An index may list indexes; no image does so more than once.
const MAX_DEPTH: usize = 3;

/// What is to be pulled.
#[derive(Debug)]
pub(super) struct Plan {
    /// The digest that the name stands for.
    pub(super) digest: Digest,
    /// How many manifests and indexes were read.
    pub(super) manifests: usize,
    /// Their bytes.
    pub(super) manifest_bytes: u64,
    /// The configuration of an image that no index lists: what it runs on is said there alone.
    pub(super) config: Option<Descriptor>,
    /// Configs and layers, each once.
    pub(super) blobs: Vec<Descriptor>,
    /// Layers that their publisher does not let registries keep; clients fetch them elsewhere.
    pub(super) elsewhere: Vec<Descriptor>,
}

impl Plan {
    /// Reads an image's manifests.
    ///
    /// # Errors
    /// If one cannot be had, is wrong or cannot be followed, or if the platform is not there.
    pub(super) async fn make(
        gateway: &Gateway,
        reference: &Reference,
        wanted: &Wanted,
    ) -> Result<Self, PullFailure> {
        let root = gateway.manifest(reference).await?;
        let mut plan = Self {
            digest: root.digest,
            manifests: 0,
            manifest_bytes: 0,
            config: None,
            blobs: Vec::new(),
            elsewhere: Vec::new(),
        };
        let mut seen = HashSet::from([root.digest]);
        let mut listed = VecDeque::from(plan.read(&root, wanted, 0)?);
        while let Some((entry, depth)) = listed.pop_front() {
            if !seen.insert(entry.digest) {
                continue;
            }
            if seen.len() > MAX_MANIFESTS {
                return Err(PullFailure::Unusual(format!(
                    "the image has more than {MAX_MANIFESTS} manifests"
                )));
            }
            let manifest = gateway.manifest(&Reference::Digest(entry.digest)).await?;
            listed.extend(plan.read(&manifest, wanted, depth)?);
        }
        Ok(plan)
    }

    /// Takes in a manifest: blobs join the plan, what an index lists is returned with its depth.
    fn read(
        &mut self,
        manifest: &Manifest,
        wanted: &Wanted,
        depth: usize,
    ) -> Result<Vec<(Descriptor, usize)>, PullFailure> {
        let what = || format!("the manifest {}", manifest.digest);
        let listing = Listing::parse(&manifest.bytes)
            .map_err(|reason| PullFailure::Manifest { what: what(), reason })?;
        self.manifests += 1;
        self.manifest_bytes += manifest.bytes.len() as u64;
        let media_type = manifest::media_type(&manifest.bytes, manifest.media_type.as_deref());
        if is_index(&media_type) || (listing.blobs.is_empty() && !listing.manifests.is_empty()) {
            if depth == MAX_DEPTH {
                return Err(PullFailure::Unusual(format!("{} lists indexes in indexes too deep", what())));
            }
            let entries = wanted.of(listing.manifests)?;
            return Ok(entries.into_iter().map(|entry| (entry, depth + 1)).collect());
        }
        if depth == 0 {
            self.config = listing.blobs.iter().find(|blob| is_config(&blob.media_type)).cloned();
        }
        for blob in listing.blobs {
            let list = if is_elsewhere(&blob.media_type) { &mut self.elsewhere } else { &mut self.blobs };
            if list.iter().all(|known| known.digest != blob.digest) {
                list.push(blob);
            }
        }
        Ok(Vec::new())
    }
}

fn is_config(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    )
}

/// Layers under terms that forbid spreading them (OCI image spec, layer.md, "Non-Distributable Layers").
fn is_elsewhere(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}
