//! `shoal pull`: an image through the node on this machine, so that the node holds it from then on.
//!
//! ```text
//! image name ─► gateway: manifest or index ─► platform ─► manifests ─► plan (config and layers, each once)
//!                                                                        │ 3 at a time
//!                                                         gateway: blob ─┴─► hashed here, compared, forgotten
//! ```
//!
//! The node has proven every digest already; this client proves them again, as any client would, and so shows
//! that what came out of `/v2/` is right.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::BinaryBytes;
use shoal_proto::digest::{Algorithm, Digest, Hasher};
use shoal_proto::manifest::Descriptor;
use shoal_proto::name::ImageName;
use tokio::task::JoinSet;

use crate::cli;
use crate::cli::local::LocalNode;
use crate::config::{self, Environment, Listener};

mod failure;
mod gateway;
mod plan;
mod platform;
mod progress;
#[cfg(test)]
mod tests;

pub use failure::PullFailure;
pub use platform::Wanted;

use gateway::Gateway;
use plan::Plan;
use progress::{Meter, Progress};

/// How many blobs are pulled at once: containerd's default too.
const AT_ONCE: usize = 3;

/// How long an answer may stand still. The gateway says sooner that nothing came, and closes a body without progress.
const SILENCE: Duration = Duration::from_mins(1);

/// What `shoal pull` may be told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The image: debian, debian:12, ghcr.io/owner/name:tag, or any name with @sha256:….
    #[arg(value_name = "IMAGE")]
    pub image: ImageName,
    /// Where the node's gateway listens (or `SHOAL_GATEWAY_ADDR`) [default: 127.0.0.1:5055].
    #[arg(long, value_name = "IP:PORT")]
    pub gateway_addr: Option<String>,
    /// The platform to pull of an image for many, as in linux/arm64 [default: this machine's].
    #[arg(long, value_name = "OS/ARCH", conflicts_with = "all_platforms")]
    pub platform: Option<platform::Platform>,
    /// Pull what the image holds for every platform.
    #[arg(long)]
    pub all_platforms: bool,
}

/// What a pull came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The digest that the image's name stands for.
    pub digest: Digest,
    /// How many manifests and indexes were read.
    pub manifests: usize,
    /// How many blobs were read.
    pub blobs: usize,
    /// The bytes of both.
    pub bytes: u64,
}

/// `shoal pull`.
///
/// # Errors
/// [`PullFailure`], and what is wrong with the gateway's address.
pub async fn run(options: Options, environment: &Environment) -> anyhow::Result<()> {
    let address = config::address_of(Listener::Gateway, options.gateway_addr.as_deref(), environment)?;
    let node = LocalNode::new(address, "--gateway-addr", SILENCE)?;
    let wanted = match (options.all_platforms, options.platform) {
        (true, _) => Wanted::All,
        (false, Some(platform)) => Wanted::One(platform),
        (false, None) => Wanted::Here(platform::Platform::of_this_machine()),
    };
    let mut progress = if std::io::stderr().is_terminal() { Progress::bars() } else { Progress::lines() };
    let start = Instant::now();
    let summary = pull(node, &options.image, &wanted, &mut progress).await?;
    cli::print(&last_line(&options.image, &summary, start.elapsed()))
}

fn last_line(image: &ImageName, summary: &Summary, took: Duration) -> String {
    let Summary { digest, manifests, blobs, bytes } = summary;
    format!(
        "pulled {image}: {} ({bytes} bytes) in {:.1} s, {} and {} proven, {digest}\n",
        BinaryBytes(*bytes),
        took.as_secs_f64(),
        cli::count(*manifests as u64, "manifest"),
        cli::count(*blobs as u64, "blob"),
    )
}

/// Pulls an image through a node's gateway.
///
/// # Errors
/// The first failure of a manifest, or all failures of blobs: one that fails does not stop the others.
async fn pull(
    node: LocalNode,
    image: &ImageName,
    wanted: &Wanted,
    progress: &mut Progress,
) -> Result<Summary, PullFailure> {
    let gateway = Gateway::new(node, image.scope.clone());
    let plan = Plan::make(&gateway, &image.reference, wanted).await?;
    for skipped in &plan.elsewhere {
        progress.note(&format!("{} is not kept by registries ({})", skipped.digest, skipped.media_type));
    }
    if let Some(config) = &plan.config
        && let Some(found) = gateway.platform(&config.digest).await
        && let Some(odd) = wanted.judge(&found)?
    {
        progress.note(&odd);
    }
    blobs(&gateway, &plan.blobs, progress).await?;
    let bytes = plan.blobs.iter().map(|blob| blob.size).fold(plan.manifest_bytes, u64::saturating_add);
    Ok(Summary { digest: plan.digest, manifests: plan.manifests, blobs: plan.blobs.len(), bytes })
}

/// Pulls blobs, some at a time.
async fn blobs(gateway: &Gateway, blobs: &[Descriptor], progress: &mut Progress) -> Result<(), PullFailure> {
    let mut waiting = blobs.iter();
    let mut running = JoinSet::new();
    let mut failures = Vec::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(blob) = waiting.next()
        {
            let meter = progress.start(blob);
            running.spawn(blob_to_its_end(gateway.clone(), blob.clone(), meter));
        }
        match running.join_next().await {
            None => break,
            Some(Ok((meter, Ok(())))) => progress.done(meter),
            Some(Ok((meter, Err(failure)))) => {
                progress.failed(meter, &failure);
                failures.push(failure);
            }
            Some(Err(join)) => failures.push(PullFailure::Task(join.to_string())),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(PullFailure::Blobs { failures, of: blobs.len() }) }
}

async fn blob_to_its_end(
    gateway: Gateway,
    blob: Descriptor,
    meter: Meter,
) -> (Meter, Result<(), PullFailure>) {
    let done = one_blob(&gateway, &blob, &meter).await;
    (meter, done)
}

/// Reads one blob, and compares length and digest with what the manifest promised.
async fn one_blob(gateway: &Gateway, blob: &Descriptor, meter: &Meter) -> Result<(), PullFailure> {
    let mut body = gateway.blob(&blob.digest).await?;
    let mut hasher = Hasher::new(blob.digest.algorithm());
    let mut received = 0_u64;
    loop {
        let bytes = match body.chunk().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(error) => {
                let (digest, size, reason) = (blob.digest, blob.size, Box::new(gateway.failure(&error)));
                let after = gateway.after(&digest).await;
                return Err(PullFailure::CutOff { digest, received, size, reason, after });
            }
        };
        received += bytes.len() as u64;
        if received > blob.size {
            return Err(PullFailure::TooLong { digest: blob.digest, size: blob.size });
        }
        hasher.update(&bytes);
        meter.advance(bytes.len() as u64);
    }
    let actual = hasher.finish();
    if received < blob.size {
        let (digest, size) = (blob.digest, blob.size);
        let after = gateway.after(&digest).await;
        return Err(PullFailure::TooShort { digest, received, size, after });
    }
    if actual != blob.digest {
        return Err(PullFailure::Mismatch { what: "blob", promised: blob.digest, actual: Box::new(actual) });
    }
    Ok(())
}

/// The digest of a manifest's bytes by the algorithm that its promised digest has.
fn digest_of(bytes: &[u8], algorithm: Algorithm) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}
