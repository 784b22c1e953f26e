//! A client that believes nothing: it checks every digest and length itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::image::{DOCKER_MANIFEST, Image, OCI_INDEX, OCI_MANIFEST, digest};

/// What a client says that got a body of the promised length with other bytes: a client that checks nothing would not
/// notice.
pub const WHOLE: &str = "got the bytes of";

/// How long a body may stand still before the client gives up, so that a hanging answer fails a test.
const STILL: Duration = Duration::from_mins(1);

/// Speaks to one gateway or registry.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// How long it took, from the request to its last byte.
    pub took: Duration,
}

impl Answer {
    /// A header's text, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The first error code of the OCI error JSON.
    ///
    /// # Errors
    /// If the body is no such JSON.
    pub fn error_code(&self) -> Result<String> {
        let shown = || format!("not the OCI error JSON: {:?}", self.body);
        let body: Value = serde_json::from_slice(&self.body).with_context(shown)?;
        let errors = body["errors"].as_array().with_context(shown)?;
        let first = errors.first().with_context(shown)?;
        ensure!(first["message"].is_string(), "an error without a message: {body}");
        Ok(first["code"].as_str().with_context(shown)?.to_owned())
    }
}

/// How a blob's bytes are taken.
pub struct Download<'a> {
    /// What is called with the number of bytes read so far, after each piece: to slow down, or to break things.
    pub on_progress: Box<dyn FnMut(u64) + Send + 'a>,
}

impl std::fmt::Debug for Download<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").finish_non_exhaustive()
    }
}

impl Client {
    /// A client of `base` (`http://127.0.0.1:5055`).
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub fn new(base: &str) -> Result<Self> {
        // A connection pool of its own, as each container engine has.
        let http = reqwest::Client::builder().read_timeout(STILL).no_proxy().build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned() })
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// If there is no answer, or its body ends early.
    pub async fn send(&self, method: http::Method, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let begun = Instant::now();
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await?;
        Ok(Answer { status, headers, body, took: begun.elapsed() })
    }

    /// GETs a path.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(http::Method::GET, path, &[]).await
    }

    /// GETs a manifest of any known type.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Answer> {
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.send(http::Method::GET, &path, &[("accept", &accept)]).await
    }

    /// Reads a blob and proves its digest and length, keeping no bytes.
    ///
    /// # Errors
    /// If the status is not 200, the body ends early, or the digest is another.
    pub async fn blob(&self, repository: &str, expected: &str) -> Result<u64> {
        self.blob_with(repository, expected, Download { on_progress: Box::new(|_| ()) }).await
    }

    /// As [`Self::blob`], with something to do after each piece of the body.
    ///
    /// # Errors
    /// As [`Self::blob`].
    pub async fn blob_with(
        &self,
        repository: &str,
        expected: &str,
        mut download: Download<'_>,
    ) -> Result<u64> {
        let answer = self.http.get(format!("{}/v2/{repository}/blobs/{expected}", self.base)).send().await?;
        let status = answer.status();
        if status != StatusCode::OK {
            bail!("{expected} was answered {status}: {}", answer.text().await?);
        }
        let promised =
            answer.headers().get(header::CONTENT_LENGTH).context("a blob without Content-Length")?;
        let promised: u64 = promised.to_str()?.parse()?;
        let (mut hash, mut read) = (Sha256::new(), 0);
        let mut body = answer.bytes_stream();
        while let Some(piece) = body.next().await {
            let piece =
                piece.with_context(|| format!("{expected} ended after {read} of {promised} bytes"))?;
            hash.update(&piece);
            read += piece.len() as u64;
            (download.on_progress)(read);
        }
        ensure!(read == promised, "{expected} ended after {read} of {promised} bytes");
        let found = format!("sha256:{}", hex::encode(hash.finalize()));
        ensure!(found == expected, "asked for {expected}, {WHOLE} {found}");
        Ok(read)
    }

    /// Pulls an image as engines do, manifest by `reference` first, then config and all layers in parallel, and
    /// compares everything with what was pushed.
    ///
    /// # Errors
    /// If anything is missing or differs.
    pub async fn pull(&self, repository: &str, reference: &str, image: &Image) -> Result<()> {
        let manifest = self.manifest(repository, reference).await?;
        ensure!(manifest.status == StatusCode::OK, "{reference}: {} {:?}", manifest.status, manifest.body);
        ensure!(manifest.body == image.manifest.bytes, "{reference}: other bytes than were pushed");
        ensure!(manifest.header("content-type") == image.manifest.media_type, "{:?}", manifest.headers);
        ensure!(manifest.header("docker-content-digest") == digest(&manifest.body), "{:?}", manifest.headers);
        let blobs = image.blobs().map(|blob| async {
            let size = self.blob(repository, &blob.digest).await?;
            ensure!(size == blob.size, "{} has {size} bytes, not {}", blob.digest, blob.size);
            Ok(())
        });
        futures::future::try_join_all(blobs).await?;
        Ok(())
    }
}
