//! A client of one gateway, cache or registry: the manifest by its tag, then config and layers, every digest checked.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use shoal_tests::client::{Client, Download};
use shoal_tests::image::digest;
use shoal_tests::usage::Cpu;

/// Blobs at a time, as container engines do.
const AT_A_TIME: usize = 3;

/// What to pull, and when.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Whom to ask.
    pub(crate) base: String,
    /// How the repository is called there.
    pub(crate) repository: String,
    pub(crate) tag: String,
    /// The manifest's digest, which the tag has to lead to.
    pub(crate) digest: String,
    /// When to begin, since 1970. From then on time counts, also if it was over when the process started.
    pub(crate) begin: Duration,
}

/// How it went; times are in seconds since `begin`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Pulled {
    /// When the first request was sent.
    pub(crate) sent: f64,
    /// When the first byte of a layer was there.
    pub(crate) first_byte: f64,
    /// When all was there and proven.
    pub(crate) done: f64,
    /// CPU seconds that the client itself used.
    pub(crate) cpu: f64,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

pub(crate) async fn pull(request: &Request) -> Result<Pulled> {
    let client = Client::new(&request.base)?;
    tokio::time::sleep(request.begin.saturating_sub(now()?)).await;
    let sent = since(request.begin)?;
    let manifest = client.manifest(&request.repository, &request.tag).await?;
    ensure!(manifest.status == 200, "{}: {} {:?}", request.tag, manifest.status, manifest.body);
    ensure!(digest(&manifest.body) == request.digest, "the manifest is another");
    let manifest: Manifest = serde_json::from_slice(&manifest.body)?;
    let first_byte = OnceLock::new();
    let config = std::iter::once((&manifest.config, false));
    let pulls = config.chain(manifest.layers.iter().map(|layer| (layer, true))).map(async |(blob, layer)| {
        let on_progress = |_| {
            if layer {
                first_byte.get_or_init(|| since(request.begin).unwrap_or(f64::NAN));
            }
        };
        let download = Download { on_progress: Box::new(on_progress) };
        let size = client.blob_with(&request.repository, &blob.digest, download).await?;
        ensure!(size == blob.size, "{} has {size} bytes, not {}", blob.digest, blob.size);
        Ok(())
    });
    stream::iter(pulls).buffer_unordered(AT_A_TIME).try_collect::<()>().await?;
    let first_byte = *first_byte.get().context("no layer had a byte")?;
    let done = since(request.begin)?;
    Ok(Pulled { sent, first_byte, done, cpu: Cpu::from_start(std::process::id()).since()? })
}

/// The time of day, which all processes of the machine share.
pub(crate) fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

fn since(begin: Duration) -> Result<f64> {
    Ok(now()?.saturating_sub(begin).as_secs_f64())
}
