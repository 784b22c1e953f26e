//! `shoal demo`: a real fleet on this machine, with nothing to install.
//!
//! | module | concept |
//! | --- | --- |
//! | `image` | an image of any size, made up as it is read |
//! | `registry` | the upstream registry that serves it, and counts what it sends |
//! | `fleet` | nodes as processes of their own |
//! | `client` | a pull through a node's gateway, every digest checked |
//! | `table` | how it went |
//! | `next` | what to try with a fleet that is left running |

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{count, explain, print};
use crate::size::{self, ByteSize};

mod client;
mod fleet;
mod image;
mod next;
mod registry;
mod table;

use fleet::Fleet;
use image::Image;
use registry::Registry;
use table::Line;

/// What the demo's registry is called.
const REGISTRY: &str = "demo.local";
/// The image in it.
const REPOSITORY: &str = "demo/app";
/// Its tag.
const TAG: &str = "v1";

/// What kind of demo.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many nodes, from 1 to 64.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: u16,
    /// The image's size in all, as 256MiB or 4GiB; from 4MiB to 64GiB.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size::between(4 << 20, 64 << 30))]
    pub size: ByteSize,
    /// Leave the fleet running until Ctrl-C, and print what to try with it.
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo to its end. Whatever it started is stopped and removed, however it ends.
///
/// # Errors
/// If a node does not start, or a pull fails or brings a wrong byte.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let stop = |kind| signal(kind).context("the signal to stop cannot be waited for");
    let (mut interrupt, mut terminate) = (stop(SignalKind::interrupt())?, stop(SignalKind::terminate())?);
    // Of a terminal that is closed.
    let mut hangup = stop(SignalKind::hangup())?;
    let mut told = std::pin::pin!(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    });
    let shown = tokio::select! {
        shown = show(&options) => shown?,
        () = &mut told => bail!("stopped before its end"),
    };
    if options.keep {
        explain(&next::steps(&shown.program, &shown.fleet, &shown.registry));
        // The end that was announced.
        told.await;
    }
    Ok(())
}

/// What runs once everything was shown.
struct Shown {
    program: PathBuf,
    /// Before the registry: nodes still ask it.
    fleet: Fleet,
    registry: Registry,
}

async fn show(options: &Options) -> anyhow::Result<Shown> {
    let began = Instant::now();
    let bytes = options.size.0;
    let image = Arc::new(tokio::task::spawn_blocking(move || Image::new(bytes)).await??);
    explain(&format!("an image of {} in {} layers is ready", options.size, image.layers().len()));
    let registry = Registry::start(image.clone()).await?;
    let program = std::env::current_exe().context("this program does not know where it is")?;
    let fleet = Fleet::start(&program, options.nodes, registry.address()).await?;
    explain(&format!(
        "a registry and {} are up after {:.1} s; all of them pull the image at once",
        count(options.nodes.into(), "node"),
        began.elapsed().as_secs_f64()
    ));
    let pulls = (1..).zip(fleet.nodes()).map(|(number, node)| async move {
        let line = pull(number, node).await;
        line.with_context(|| format!("node {number} failed; its log ends with:\n{}", node.log_tail()))
    });
    let lines = futures::future::try_join_all(pulls).await?;
    let sent = settled(&registry).await;
    print(&table::render(&lines, sent, image.size()))?;
    Ok(Shown { program, fleet, registry })
}

async fn pull(number: usize, node: &fleet::Node) -> anyhow::Result<Line> {
    let began = Instant::now();
    let digests = client::pull(node.gateway()).await?;
    let seconds = began.elapsed().as_secs_f64();
    let traffic = node.traffic().await?;
    Ok(Line { node: number, upstream: traffic.upstream.bytes, peers: traffic.peer.bytes, seconds, digests })
}

/// What the registry has sent, once it sends no more.
async fn settled(registry: &Registry) -> u64 {
    let mut sent = registry.sent();
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = registry.sent();
        if now == sent {
            return sent;
        }
        sent = now;
    }
}
