//! A fleet of real processes that pull one image, each node behind a link of its own, against what physics allows and
//! against the same pulls without Shoal.
//!
//! ```text
//! cargo build --release -p shoal --bin shoal
//! cargo run --release -p shoal-tests --bin fleet-bench -- --nodes 8 --rate 200 --upstream-rate 200 --mib 256 \
//!     --layers 4 --arrival at-once
//! ```
//!
//! It needs root, for network namespaces, and touches nothing of the host's network. Files go below `TMPDIR`: with
//! `TMPDIR=/dev/shm` the disk has no part in the figures. All processes and namespaces end with this one, however it
//! ends.
//!
//! ```text
//!   namespace of node 1 ── link ──┐
//!     shoal run, a client         │
//!   namespace of node N ── link ──┼── switch (a namespace)
//!   namespace of the cache ─ link ┤
//!   namespace of upstream ── link ┘
//! ```
//!
//! | module | concept |
//! | --- | --- |
//! | `options` | the command line |
//! | `arrival` | who is there, who holds the image, and who pulls when |
//! | `bound` | what physics allows |
//! | `upstream` | the registry behind its link, with the image in it |
//! | `round` | one way to pull, measured: clients start in all namespaces, the registry's access log is read |
//! | `shoal`, `cache` | the ways: through the fleet, through one pull-through cache; directly needs nothing more |
//! | `report` | the table |
//! | `inside` | what this same program does as a process inside a namespace |

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use shoal_tests::network::{Host, Network, Shape};
use shoal_tests::tool;
use tokio::signal::unix::{SignalKind, signal};

mod arrival;
mod bound;
mod cache;
mod inside;
mod options;
mod report;
mod round;
mod shoal;
mod upstream;

use options::{Options, Way};
use round::Round;
use upstream::Upstream;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some(inside::COMMAND) {
        inside::main(&arguments.collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse(first.into_iter().chain(arguments))?;
    tool::need_root("the fleet benchmark")?;
    tool::shoal()?;
    let whole = tokio::runtime::Runtime::new()?.block_on(async {
        // What is dropped on the way out takes its processes and namespaces along.
        tokio::select! {
            done = Box::pin(run(&options)) => done,
            stopped = stopped() => bail!("stopped by a signal ({})", stopped?),
        }
    })?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ends when the user or the system wants this process to end.
async fn stopped() -> Result<&'static str> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}

/// What all ways of pulling share. Fields are dropped in order: the directory after all that has files in it.
#[derive(Debug)]
struct Bench<'a> {
    options: &'a Options,
    upstream: Upstream,
    hosts: Vec<Host>,
    network: Network,
    home: tempfile::TempDir,
}

/// Whether every pull of every way came to its end.
async fn run(options: &Options) -> Result<bool> {
    let home = tempfile::Builder::new().prefix("shoal-fleet-bench-").tempdir()?;
    let mut network = Network::new(home.path())?;
    say("upstream: a registry with the image in it");
    let upstream = Upstream::start(options, &mut network, home.path()).await?;
    let hosts: Result<Vec<Host>> = (0..options.nodes)
        .map(|number| network.connect(&format!("host-{number}"), Shape::megabits(options.rate)))
        .collect();
    let mut bench = Bench { options, upstream, hosts: hosts?, network, home };
    let mut rounds = Vec::new();
    for &way in &options.ways {
        say(&format!("pulling {}", way.title()));
        let round = match way {
            Way::Shoal => shoal::measure(&bench).await,
            Way::Direct => direct(&bench).await,
            Way::Cache => cache::measure(&mut bench).await,
        };
        rounds.push((way, round.with_context(|| format!("pulling {}", way.title()))?));
    }
    report::print(&bench, &rounds);
    Ok(rounds.iter().all(|(_, round)| round.failures.is_empty()))
}

/// Every client asks the registry itself.
async fn direct(bench: &Bench<'_>) -> Result<Round> {
    let begin = bench.begin()?;
    Round::measure(bench, begin, bench.pulls(&bench.upstream.url, upstream::REPOSITORY, begin)).await
}

#[expect(clippy::print_stderr, reason = "progress, beside the table")]
fn say(what: &str) {
    eprintln!("{what}");
}
