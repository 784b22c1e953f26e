//! One pull between two nodes, against what the machine can do: every figure is taken in the same run, and the ratios
//! are what counts.
//!
//! ```text
//! cargo run --release -p shoal-tests --bin bench -- [--mib 1024] [--rounds 3]
//! ```
//!
//! | module | concept |
//! | --- | --- |
//! | `baseline` | raw TCP, and one raw libp2p stream on Shoal's transport |
//! | `download` | an HTTP client that only counts bytes |

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{Image, synthetic};
use shoal_tests::node::Node;
use shoal_tests::registry::Kind;
use shoal_tests::usage::{Cpu, peak_mib};

mod baseline;
mod download;

const MIB: u64 = 1 << 20;
/// First bytes that are waited for.
const FIRST_BYTES: usize = 200;

/// How it went: rates are in MiB/s, CPU in seconds a GiB.
#[derive(Debug, Clone, Copy)]
struct Figure {
    rate: f64,
    cpu: f64,
}

impl Figure {
    fn new(bytes: u64, took: Duration, cpu: f64) -> Self {
        let mib = mib(bytes);
        Self { rate: mib / took.as_secs_f64(), cpu: cpu / (mib / 1024.0) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

fn main() -> Result<()> {
    let (mut size, mut rounds) = (1024, 3);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{argument} needs a number"))?;
        match argument.as_str() {
            "--mib" => size = value.parse().context("--mib is a number of MiB")?,
            "--rounds" => rounds = value.parse().context("--rounds is a number")?,
            other => bail!("{other} is not known: there are --mib N and --rounds N"),
        }
    }
    tokio::runtime::Runtime::new()?.block_on(run(size * MIB, rounds))
}

#[derive(Debug, Default)]
struct Table {
    tcp: Vec<Figure>,
    stream: Vec<Figure>,
    upstream: Vec<Figure>,
    pulls: Vec<Figure>,
    asker_cpu: Vec<f64>,
    holder_cpu: Vec<f64>,
    asker_mib: Vec<f64>,
}

async fn run(size: u64, rounds: usize) -> Result<()> {
    let mut fleet = Fleet::start(Kind::Distribution, 1).await?;
    let image = synthetic::image(fleet.home(), 1, &[size / 4; 4])?;
    fleet.registry.push("bench", "1", &image).await?;
    let began = Instant::now();
    layers(&fleet.nodes[0], &image).await?;
    let first = Figure::new(size, began.elapsed(), 0.0);
    let mut table = Table::default();
    for round in 1..=rounds {
        eprint_round(round, rounds);
        table.tcp.push(baseline::tcp(size).await?);
        table.stream.push(baseline::stream(size).await?);
        let before = Cpu::of_self()?;
        let began = Instant::now();
        let paths = paths(&image, "bench", "");
        let got = download::all(fleet.registry.address(), &paths).await?;
        table.upstream.push(Figure::new(got, began.elapsed(), before.since()?));
        pull(&mut fleet, &image, &mut table).await?;
    }
    let first_byte = first_byte(&fleet.nodes[0], &image).await?;
    let holder_mib = peak_mib(fleet.nodes[0].id())?;
    print(&table, first, first_byte, holder_mib, size);
    Ok(())
}

#[expect(clippy::print_stderr, reason = "progress, beside the table")]
fn eprint_round(round: usize, rounds: usize) {
    eprintln!("round {round} of {rounds}");
}

/// A new node pulls all layers from the one that holds them.
async fn pull(fleet: &mut Fleet, image: &Image, table: &mut Table) -> Result<()> {
    let new = fleet.grow().await?;
    fleet.settled().await?;
    let before = fleet.registry.access().await?;
    // The manifest first, as clients do: it says how large the layers are.
    fleet.nodes[new].client()?.manifest(&format!("{REGISTRY}/bench"), "1").await?;
    let (asker, holder) = (Cpu::of(fleet.nodes[new].id())?, Cpu::of(fleet.nodes[0].id())?);
    let began = Instant::now();
    let got = layers(&fleet.nodes[new], image).await?;
    let took = began.elapsed();
    let (asker, holder) = (asker.since()?, holder.since()?);
    table.pulls.push(Figure::new(got, took, asker + holder));
    let gib = mib(got) / 1024.0;
    table.asker_cpu.push(asker / gib);
    table.holder_cpu.push(holder / gib);
    table.asker_mib.push(peak_mib(fleet.nodes[new].id())?);
    let upstream: u64 = {
        let access = fleet.registry.access().await?.since(&before);
        image.layers.iter().map(|layer| access.blob_bytes(&layer.digest)).sum()
    };
    let peers = fleet.nodes[new].status().await?.traffic.peer.bytes;
    if upstream > 0 || peers < got {
        bail!("of {got} bytes upstream gave {upstream} and peers {peers}: this was not a pull from a peer");
    }
    let mut node = fleet.nodes.remove(new);
    node.kill();
    // The next one takes its name, and must not find its blobs.
    std::fs::remove_dir_all(node.data_dir())?;
    Ok(())
}

fn paths(image: &Image, repository: &str, query: &str) -> Vec<String> {
    let path = |digest: &str| format!("/v2/{repository}/blobs/{digest}{query}");
    image.layers.iter().map(|layer| path(&layer.digest)).collect()
}

async fn layers(node: &Node, image: &Image) -> Result<u64> {
    download::all(node.serving.gateway, &paths(image, "bench", &format!("?ns={REGISTRY}"))).await
}

/// The median time to the first byte of a held layer, on connections of their own.
async fn first_byte(node: &Node, image: &Image) -> Result<f64> {
    let paths = paths(image, "bench", &format!("?ns={REGISTRY}"));
    let mut times = Vec::new();
    for number in 0..FIRST_BYTES {
        let took = download::first_byte(node.serving.gateway, &paths[number % paths.len()]).await?;
        times.push(took.as_secs_f64() * 1000.0);
    }
    Ok(median(times))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn rate(figures: &[Figure]) -> f64 {
    median(figures.iter().map(|figure| figure.rate).collect())
}

fn cpu(figures: &[Figure]) -> f64 {
    median(figures.iter().map(|figure| figure.cpu).collect())
}

fn print(table: &Table, first: Figure, first_byte: f64, holder_mib: f64, size: u64) {
    let pull = rate(&table.pulls);
    println!("{} MiB in four layers, medians of {} rounds", size / MIB, table.pulls.len());
    println!();
    println!("| what | MiB/s | CPU s/GiB | the pull is, of it |");
    println!("| --- | ---: | ---: | ---: |");
    let line = |what: &str, rate: f64, cpu: f64| {
        println!("| {what} | {rate:.0} | {cpu:.2} | {:.0} % |", pull / rate * 100.0);
    };
    line("raw TCP on loopback, both ends", rate(&table.tcp), cpu(&table.tcp));
    line("one raw libp2p stream on Shoal's transport, both ends", rate(&table.stream), cpu(&table.stream));
    line("plain download from the registry, the client's end", rate(&table.upstream), cpu(&table.upstream));
    line("a pull from a peer through the gateway, both nodes", pull, cpu(&table.pulls));
    println!();
    println!("| of the pull | |");
    println!("| --- | ---: |");
    println!("| CPU of the node that asks, s/GiB | {:.2} |", median(table.asker_cpu.clone()));
    println!("| CPU of the node that holds, s/GiB | {:.2} |", median(table.holder_cpu.clone()));
    println!("| peak resident memory of the node that asks, MiB | {:.0} |", median(table.asker_mib.clone()));
    println!("| peak resident memory of the node that holds, MiB | {holder_mib:.0} |");
    println!("| first byte of a held layer, ms, median of {FIRST_BYTES} | {first_byte:.2} |");
    println!("| the first pull, from the registry through the gateway, MiB/s | {:.0} |", first.rate);
}
