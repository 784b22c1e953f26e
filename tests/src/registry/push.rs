//! Pushing to a registry, as any client would.

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{StatusCode, header};
use tokio_util::io::ReaderStream;

use crate::image::debian::Debian;
use crate::image::{Blob, Document, Image};

/// A registry that takes pushes, wherever it runs.
#[derive(Debug, Clone)]
pub struct Target {
    url: String,
}

impl Target {
    /// The registry at `url` (`http://127.0.0.1:5000`).
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// Pushes an image under a tag.
    ///
    /// # Errors
    /// If the registry refuses a part of it.
    pub async fn image(&self, repository: &str, tag: &str, image: &Image) -> Result<()> {
        self.blobs(repository, image).await?;
        self.document(repository, tag, &image.manifest).await
    }

    /// Pushes Debian in all its forms: the host's image as `plain`, with Docker types as `docker`, and the index
    /// as `latest`.
    ///
    /// # Errors
    /// If the registry refuses a part of it.
    pub async fn debian(&self, repository: &str, debian: &Debian) -> Result<()> {
        self.image(repository, "plain", &debian.image).await?;
        self.image(repository, "docker", &debian.docker).await?;
        self.blobs(repository, &debian.other).await?;
        self.document(repository, &debian.other.manifest.digest, &debian.other.manifest).await?;
        self.document(repository, "latest", &debian.index).await
    }

    async fn blobs(&self, repository: &str, image: &Image) -> Result<()> {
        let pushes = image.blobs().map(|blob| self.blob(repository, blob));
        stream::iter(pushes).buffer_unordered(2).try_collect().await
    }

    /// Pushes a blob, unless it is there.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub async fn blob(&self, repository: &str, blob: &Blob) -> Result<()> {
        let http = reqwest::Client::new();
        let base = format!("{}/v2/{repository}/blobs", self.url);
        if http.head(format!("{base}/{}", blob.digest)).send().await?.status() == StatusCode::OK {
            return Ok(());
        }
        let begun = http.post(format!("{base}/uploads/")).send().await?;
        ensure!(begun.status() == StatusCode::ACCEPTED, "an upload was answered {}", begun.status());
        let location = begun.headers().get(header::LOCATION).context("an upload has no location")?;
        let location = location.to_str()?;
        let target =
            if location.starts_with('/') { format!("{}{location}", self.url) } else { location.to_owned() };
        let joint = if target.contains('?') { '&' } else { '?' };
        let file = tokio::fs::File::open(&blob.path).await?;
        let done = http
            .put(format!("{target}{joint}digest={}", blob.digest))
            .header(header::CONTENT_LENGTH, blob.size)
            .body(reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 1 << 20)))
            .send()
            .await?;
        ensure!(
            done.status() == StatusCode::CREATED,
            "the blob {} was answered {}",
            blob.digest,
            done.status()
        );
        Ok(())
    }

    /// Pushes a manifest or index under a tag or its digest.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub async fn document(&self, repository: &str, reference: &str, document: &Document) -> Result<()> {
        let put = reqwest::Client::new()
            .put(format!("{}/v2/{repository}/manifests/{reference}", self.url))
            .header(header::CONTENT_TYPE, document.media_type)
            .body(document.bytes.clone());
        let done = put.send().await?;
        let status = done.status();
        ensure!(status == StatusCode::CREATED, "{reference} was answered {status}: {}", done.text().await?);
        Ok(())
    }
}
