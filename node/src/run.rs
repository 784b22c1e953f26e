//! `shoal run`: a node's life, from its lock on the data directory to its last answer.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use shoal_gateway::server;
use shoal_gateway::upstream::Upstreams;
use shoal_proto::identity::Keypair;
use shoal_store::Store;
use shoal_store::disk::real::RealDisk;
use shoal_swarm::RateCap;
use shoal_swarm::bootstrap::Address;
use shoal_swarm::cluster_key::ClusterKey;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, FINGERPRINTS};
use crate::admin::{self, Views};
use crate::config::Config;
use crate::fetch::barred::Barred;
use crate::fetch::{Fetcher, Ports, Rates};
use crate::history::History;
use crate::homes::Homes;
use crate::metrics::Metrics;
use crate::savings::{Ledger, OUTAGE, Pulls};
use crate::serve::NodeServe;
use crate::source::NodeSource;
use crate::tags::{Recent, Trust};
use crate::{announce, descriptors, health, supervisor, watchdog};

/// How long answers that are on their way may take after a signal to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// How long the last write may take.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What a node prints, as one line of JSON on standard output, once it serves: for programs that start it on
/// ephemeral ports.
#[derive(Debug, Serialize)]
struct Serving {
    gateway: SocketAddr,
    peer: SocketAddr,
    admin: SocketAddr,
    peer_id: String,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting: a data directory in use, a port taken, a key that cannot be read.
#[expect(clippy::too_many_lines, reason = "one part of the node after the other")]
pub async fn run(config: Config) -> anyhow::Result<()> {
    let started = Instant::now();
    descriptors::raise();
    let shutdown = CancellationToken::new();
    let mut tasks = Parts::new();
    let metrics = Metrics::default();

    let (store, keypair) = open(&config.data_dir).await?;
    let ledger = Ledger::open(store.clone(), metrics.clone()).await?;
    let keypair = Arc::new(keypair);
    let via = format!("shoal-{}", keypair.public().to_peer_id());
    let upstreams = upstreams(&config, &via)?;

    // Ports are taken before anything is said to anyone, so that a second node fails at once.
    let gateway = listen(config.gateway_addr, "gateway_addr").await?;
    let admin = listen(config.admin_addr, "admin_addr").await?;

    let access = access(&config, &store, &keypair)?;
    let recent = Recent::default();
    let serve =
        NodeServe::new(store.clone(), keypair.clone(), metrics.clone(), access.clone(), recent.clone());
    let rates = Rates { download: cap(config.download_rate), upstream: cap(config.upstream_rate) };
    let swarm = swarm_config(&config, (*keypair).clone(), rates.download.clone())?;
    let (peers, swarm) = shoal_swarm::start(swarm, Arc::new(serve.clone()), shutdown.clone()).await?;
    let history = History::default();
    let barred = Barred::default();
    let homes = Homes::start(store.clone(), peers.clone(), barred.clone(), &mut tasks, shutdown.clone());
    let ports = Ports {
        store: store.clone(),
        peers: peers.clone(),
        homes: homes.clone(),
        upstreams: upstreams.clone(),
        keypair,
        metrics: metrics.clone(),
        barred,
        rates,
        history: history.clone(),
        is_alone: access.is_alone(),
    };
    let fetcher = Fetcher::start(ports.clone(), &mut tasks, shutdown.clone());
    serve.complete(fetcher.clone(), homes.clone(), peers.clone());
    // It ends once all is handed over, and with the node.
    let announcing = tokio::spawn(announce::held(store.clone(), peers.clone(), shutdown.clone()));

    let served = Served {
        said: Serving {
            gateway: gateway.local_addr()?,
            peer: peer_address(&peers, config.peer_addr),
            admin: admin.local_addr()?,
            peer_id: peers.local_peer().to_string(),
        },
        serving: Arc::new(AtomicBool::new(true)),
    };
    tokio::spawn(health::probe(store.clone(), shutdown.clone()));
    let mut rules = config.tags.clone();
    if access.is_alone() {
        // Whatever runs on this machine could say what a tag names.
        rules.trust = Trust::Own;
    }
    let tags = (rules, recent);
    let source = NodeSource::new(ports, fetcher.clone(), access.clone(), tags, config.stream);
    let views = Views {
        store: store.clone(),
        peers,
        fetcher: fetcher.clone(),
        homes,
        metrics: metrics.clone(),
        access: access.clone(),
        history: history.clone(),
        upstreams: upstreams.clone(),
        source: source.clone(),
        ledger: ledger.clone(),
        gateway: served.said.gateway,
        zone: config.zone.clone(),
        started,
        serving: served.serving.clone(),
    };
    tokio::spawn(ledger.clone().keep(shutdown.clone()));
    let settings = server::Settings::new(via, upstreams.known(), observe(metrics, history, upstreams));
    let limits = server::Limits { connections: descriptors::connections(), ..server::Limits::default() };
    let router = server::router(Arc::new(source), settings);
    tasks.spawn(named("the gateway", server::serve_within(gateway, router, shutdown.clone(), limits)));
    let router = admin::router(views);
    tasks.spawn(named(
        "the admin port",
        server::serve_within(admin, router, shutdown.clone(), admin::limits()),
    ));
    tasks.spawn(named("the swarm", outcome_of(swarm)));
    watchdog::start().context("the watchdog's thread did not start")?;
    // Before anybody is told that it runs: who then stops it at once is heard.
    let mut signals = Signals::listen()?;
    say(&served.said)?;
    supervisor::serves();

    // Cancel-safe: what either waited for is only looked at.
    let stopped = tokio::select! {
        reason = signals.told_to_stop(config.exit_with_stdin) => {
            tracing::info!(reason, "stopping");
            Ok(())
        }
        lost = store.lost() => Err(health::ended_by(lost)),
        broken = broken(&mut tasks) => Err(broken),
    };
    supervisor::stops();
    served.serving.store(false, Ordering::Relaxed);
    shutdown.cancel();
    tokio::select! {
        () = end(tasks, announcing) => {}
        // Who asks twice does not want to wait.
        _ = signals.told_to_stop(false) => tracing::warn!("told to stop again: answers on their way are cut off"),
    }
    // A disk that hangs must not hold up the end.
    if tokio::time::timeout(LAST_WORD, ledger.close()).await.is_err() {
        tracing::warn!("what was saved in the last seconds could not be written down in time");
    }
    stopped
}

/// The parts of a node that run as long as it does. Each says its name when it ends.
pub type Parts = JoinSet<&'static str>;

/// A part of the node, by name.
pub async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

/// What becomes of a task that others hold: its panic is this one's.
async fn outcome_of(task: tokio::task::JoinHandle<()>) {
    if let Err(error) = task.await
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Waits for a part that ends though nobody told it to. Half a node that says it is well is worse than none: whoever
/// watches it starts it again, and clients go on to their next host.
async fn broken(parts: &mut Parts) -> anyhow::Error {
    let ended = match parts.join_next().await {
        Some(Ok(name)) => format!("{name} ended by itself"),
        Some(Err(error)) => format!("a part of the node died: {error}"),
        None => "no part of the node is left".to_owned(),
    };
    tracing::error!(reason = ended, "the node cannot go on and stops");
    anyhow::anyhow!("{ended}: the node cannot go on, which is a mistake in Shoal")
}

/// Builds what [`run`] builds of a configuration before it opens or listens on anything: so what starts is what was
/// checked.
///
/// # Errors
/// What [`run`] would fail with.
pub fn check(config: &Config) -> anyhow::Result<()> {
    upstreams(config, "shoal-check")?;
    bootstrap(config)?;
    writable(&config.data_dir)
}

/// Looks whether a data directory can be written to, or be made.
fn writable(data_dir: &Path) -> anyhow::Result<()> {
    let there = data_dir.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("."));
    // Has no name, and is gone at once.
    let tried = tempfile::tempfile_in(there);
    tried.map(drop).with_context(|| {
        format!("data_dir {}: nothing can be written to {}", data_dir.display(), there.display())
    })
}

fn upstreams(config: &Config, via: &str) -> anyhow::Result<Upstreams> {
    let agent = concat!("shoal/", env!("CARGO_PKG_VERSION"));
    Ok(Upstreams::new(config.upstreams.clone(), agent, via)?)
}

fn bootstrap(config: &Config) -> anyhow::Result<Vec<Address>> {
    Ok(config.bootstrap.iter().map(|address| address.parse()).collect::<Result<_, _>>()?)
}

/// What is told of a node that serves.
struct Served {
    said: Serving,
    /// Until it is told to stop.
    serving: Arc<AtomicBool>,
}

/// Lets answers that are on their way finish, for a while.
async fn end(mut tasks: Parts, announcing: tokio::task::JoinHandle<()>) {
    let ended = async {
        while tasks.join_next().await.is_some() {}
        announcing.await.ok();
    };
    if tokio::time::timeout(DRAIN, ended).await.is_err() {
        tracing::warn!(seconds = DRAIN.as_secs(), "answers were still on their way and are cut off");
    }
}

/// Opens the store, which locks the data directory, and reads or makes the identity in it.
async fn open(data_dir: &Path) -> anyhow::Result<(Store, Keypair)> {
    let directory = data_dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let disk = RealDisk::at(&directory)
            .with_context(|| format!("data_dir {} cannot be used", directory.display()))?;
        let (store, recovery) = Store::open(Arc::new(disk), shoal_store::Options::default())
            .with_context(|| format!("the store in {} does not open", directory.display()))?;
        tracing::info!(?recovery, "the store is open");
        let keypair = shoal_swarm::identity::load_or_create(&directory.join("identity.key"))?;
        Ok((store, keypair))
    });
    opened.await?
}

async fn listen(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{key} {address} cannot be listened on: choose another, or port 0 for a free one")
    })
}

fn cap(rate: Option<u64>) -> RateCap {
    rate.map_or_else(RateCap::default, RateCap::of)
}

/// Logins are known by fingerprints that all nodes of a cluster compute alike, so that one of them asks upstream for all.
fn access(config: &Config, store: &Store, keypair: &Arc<Keypair>) -> anyhow::Result<Access> {
    let key = match &config.cluster_key_file {
        Some(path) => Some(ClusterKey::read(path)?.derive(FINGERPRINTS)),
        None => None,
    };
    Ok(Access::new(store.clone(), keypair.clone(), key, config.access))
}

fn swarm_config(config: &Config, keypair: Keypair, download: RateCap) -> anyhow::Result<shoal_swarm::Config> {
    let mut swarm = shoal_swarm::Config::new(keypair, config.peer_addr);
    if let Some(path) = &config.cluster_key_file {
        swarm.cluster_key = Some(ClusterKey::read(path)?);
    } else {
        tracing::warn!(
            "no cluster key: this node speaks to peers on loopback only. `shoal key new` makes a key for \
             all nodes of a cluster"
        );
    }
    swarm.bootstrap = bootstrap(config)?;
    swarm.zone.clone_from(&config.zone);
    swarm.upload = cap(config.upload_rate);
    swarm.download = download;
    Ok(swarm)
}

/// Counts and logs each answer to a client.
fn observe(metrics: Metrics, history: History, upstreams: Upstreams) -> server::Observe {
    let pulls = Pulls::default();
    Arc::new(move |answered| {
        server::log(answered);
        metrics.answered(answered.what, answered.status);
        if let Some(rule) = answered.refusal.as_ref().and_then(|refusal| refusal.rule) {
            metrics.sent_past(rule);
        }
        pulls.count(&metrics, answered, || {
            answered.scope.as_ref().is_some_and(|scope| upstreams.is_down(&scope.registry, OUTAGE))
        });
        history.answered(answered);
    })
}

/// The port that peers can reach, whichever of the addresses they use.
fn peer_address(peers: &shoal_swarm::Handle, wanted: SocketAddr) -> SocketAddr {
    let port = peers.listen_addresses().first().map_or_else(|| wanted.port(), SocketAddr::port);
    SocketAddr::new(wanted.ip(), port)
}

#[expect(clippy::print_stdout, reason = "this line is what programs that start a node read")]
fn say(serving: &Serving) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(serving)?);
    tracing::info!(gateway = %serving.gateway, peer = %serving.peer, admin = %serving.admin, "serving");
    Ok(())
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on they end the process no more by themselves.
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be waited for")?,
        })
    }

    /// Waits for one of them, or, if asked to, the end of standard input. Cancel-safe.
    async fn told_to_stop(&mut self, exit_with_stdin: bool) -> &'static str {
        let stdin_ends = async {
            if !exit_with_stdin {
                return std::future::pending().await;
            }
            let (ended, end) = tokio::sync::oneshot::channel();
            // A thread of its own, not the runtime's: it may wait for ever, and must not hold up the end.
            std::thread::spawn(move || {
                let read = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                // Ended either way, and whoever waited may be gone.
                drop((read, ended.send(())));
            });
            end.await.ok();
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = stdin_ends => "standard input ended",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_or_dies_is_told_of() {
        let mut parts = Parts::new();
        parts.spawn(named("the gateway", std::future::pending()));
        parts.spawn(named("the desk", async {}));
        assert!(broken(&mut parts).await.to_string().starts_with("the desk ended by itself"));
        let dies = tokio::spawn(async { panic!("on purpose") });
        parts.spawn(named("the swarm", outcome_of(dies)));
        assert!(broken(&mut parts).await.to_string().contains("on purpose"));
    }
}
