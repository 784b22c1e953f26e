//! A node's source over its real parts, and a registry in this process.

mod circles;
mod registry;
mod sizes;
mod types;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use shoal_gateway::upstream::Upstreams;
use shoal_gateway::upstream::config::{Settings, UpstreamSettings};
use shoal_proto::identity::Keypair;
use shoal_store::disk::real::RealDisk;
use shoal_store::{Of, Store};
use shoal_swarm::Handle;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::access::Times;
use crate::fetch::barred::Barred;
use crate::homes::Homes;
use crate::metrics::Metrics;
use crate::run::Parts;
use crate::serve::NodeServe;
use registry::Registry;

/// Far above what a busy machine delays.
const SOON: Duration = Duration::from_secs(20);

struct Node {
    source: NodeSource,
    store: Store,
    peers: Handle,
    stop: CancellationToken,
    _tasks: Parts,
    _folder: TempDir,
}

impl Node {
    async fn start(registry: &Registry) -> Self {
        Self::with(registry, Stream::Early, None).await
    }

    async fn with(registry: &Registry, stream: Stream, bootstrap: Option<SocketAddr>) -> Self {
        Self::named("shoal-test", registry.address, stream, bootstrap).await
    }

    /// One whose registries, named or not, are at `registry`.
    async fn named(name: &str, registry: SocketAddr, stream: Stream, bootstrap: Option<SocketAddr>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::at(folder.path()).unwrap();
        let (store, _) = Store::open(Arc::new(disk), shoal_store::Options::default()).unwrap();
        let (keypair, metrics) = (Keypair::generate_ed25519(), Metrics::default());
        let mut swarm = shoal_swarm::Config::new(keypair.clone(), "127.0.0.1:0".parse().unwrap());
        swarm.bootstrap = bootstrap.iter().map(|address| address.to_string().parse().unwrap()).collect();
        let keypair = Arc::new(keypair);
        let access = Access::new(store.clone(), keypair.clone(), Some([0; 32]), Times::default());
        let recent = Recent::default();
        let serve =
            NodeServe::new(store.clone(), keypair.clone(), metrics.clone(), access.clone(), recent.clone());
        let stop = CancellationToken::new();
        let (peers, _) = shoal_swarm::start(swarm, Arc::new(serve.clone()), stop.clone()).await.unwrap();
        let table = UpstreamSettings { url: Some(format!("http://{registry}")), ..Default::default() };
        let tables = ["reg.test", "docker.io"].map(|registry| (registry.to_owned(), table.clone())).into();
        let settings = Settings { upstreams: tables, ..Default::default() };
        let upstreams = Upstreams::new(settings, "test", name).unwrap();
        let mut tasks = Parts::new();
        let homes = Homes::start(store.clone(), peers.clone(), Barred::default(), &mut tasks, stop.clone());
        let ports = Ports {
            store: store.clone(),
            peers: peers.clone(),
            homes: homes.clone(),
            upstreams,
            keypair,
            metrics,
            barred: Barred::default(),
            rates: crate::fetch::Rates::default(),
            history: crate::history::History::default(),
            is_alone: false,
        };
        let fetcher = Fetcher::start(ports.clone(), &mut tasks, stop.clone());
        serve.complete(fetcher.clone(), homes, peers.clone());
        let source = NodeSource::new(ports, fetcher, access, (Rules::default(), recent), stream);
        if bootstrap.is_some() {
            let mut joined = peers.joined();
            tokio::time::timeout(SOON, joined.wait_for(|joined| joined.joined)).await.unwrap().unwrap();
        }
        Self { source, store, peers, stop, _tasks: tasks, _folder: folder }
    }

    /// The body of a blob, or the part of it.
    async fn get(&self, digest: &Digest, range: Option<RangeRequest>) -> Result<Vec<u8>, PullError> {
        let read = async {
            let body = self.source.open(&scope("a"), digest, range).await?;
            let pieces: Vec<bytes::Bytes> = body.stream.try_collect().await?;
            Ok(pieces.concat())
        };
        tokio::time::timeout(SOON, read).await.expect("it hangs")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn scope(repository: &str) -> Scope {
    Scope { registry: "reg.test".parse().unwrap(), repository: repository.parse().unwrap() }
}

/// Whose the blobs of a repository are.
fn of(repository: &str) -> Of {
    Of { scope: scope(repository), everyones: false }
}

/// Bytes of which no two chunks are alike.
fn content(length: usize) -> Vec<u8> {
    (0..length.div_ceil(8) as u64)
        .flat_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
        .take(length)
        .collect()
}
