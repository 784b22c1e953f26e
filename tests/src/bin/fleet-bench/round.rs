//! One way to pull, measured.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::{join, join_all};
use shoal_tests::usage::{Busy, Cpu, Machine};

use crate::Bench;
use crate::inside::pull::{Pulled, Request, now};
use crate::inside::{ask, spec};
use crate::upstream::TAG;

/// What one process used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    /// CPU seconds while the clients pulled.
    pub(crate) cpu: f64,
    /// The most memory that it ever had resident.
    pub(crate) peak_mib: f64,
}

/// How one way went.
#[derive(Debug)]
pub(crate) struct Round {
    /// The clients that have the image.
    pub(crate) pulled: Vec<Pulled>,
    /// Why the others have not.
    pub(crate) failures: Vec<String>,
    /// From the first client's beginning to the end of the last one, in seconds.
    pub(crate) last: f64,
    /// Bytes of blobs and manifests that the registry sent, by its access log.
    pub(crate) upstream_bytes: u64,
    /// Requests that the registry answered.
    pub(crate) upstream_requests: usize,
    /// What each process used that stands between clients and registry.
    pub(crate) used: Vec<Used>,
    /// Content bytes that nodes had from each other.
    pub(crate) peer_bytes: Option<u64>,
    /// Control messages that nodes sent, if they count them.
    pub(crate) control_messages: Option<u64>,
    /// CPU seconds of the registry.
    pub(crate) registry_cpu: f64,
    /// What all programs of the machine used meanwhile, those that have no part in this included.
    pub(crate) machine: Busy,
}

impl Round {
    /// Carries out `pulls`, one for each node that pulls, the first of which starts at `begin`.
    pub(crate) async fn measure(
        bench: &Bench<'_>,
        begin: Duration,
        pulls: impl IntoIterator<Item = impl Future<Output = Result<Pulled>>>,
    ) -> Result<Self> {
        let before = bench.upstream.registry.access().await?;
        let registry = bench.upstream.registry.id();
        let at_begin = async {
            until(begin).await?;
            Ok::<_, anyhow::Error>((Machine::now()?, Cpu::of(registry)?))
        };
        let (at_begin, ended) = join(at_begin, join_all(pulls)).await;
        let (machine, registry) = at_begin?;
        let (machine, registry_cpu) = (machine.busy_since()?, registry.since()?);
        let access = bench.upstream.registry.access().await?.since(&before);
        let (mut pulled, mut failures, mut last) = (Vec::new(), Vec::new(), 0.0_f64);
        for (node, end) in bench.options.pullers().zip(ended) {
            match end {
                Ok(end) => {
                    last = last.max(bench.options.delay(node).as_secs_f64() + end.done);
                    pulled.push(end);
                }
                Err(error) => failures.push(format!("node {node}: {error:#}")),
            }
        }
        Ok(Self {
            pulled,
            failures,
            last,
            upstream_bytes: access.content_bytes(),
            upstream_requests: access.0.len(),
            used: Vec::new(),
            peer_bytes: None,
            control_messages: None,
            registry_cpu,
            machine,
        })
    }
}

impl Bench<'_> {
    /// A moment at which every client will have been started and waits for it.
    pub(crate) fn begin(&self) -> Result<Duration> {
        let starting = u32::try_from(self.options.nodes).unwrap_or(u32::MAX);
        Ok(now()? + Duration::from_secs(1) + Duration::from_millis(30) * starting)
    }

    /// A client beside each node that pulls asks `base` for the image.
    pub(crate) fn pulls(
        &self,
        base: &str,
        repository: &str,
        begin: Duration,
    ) -> impl Iterator<Item = impl Future<Output = Result<Pulled>>> {
        self.options.pullers().map(move |node| self.pull(node, base, repository, begin))
    }

    /// A client beside `node` asks `base` for the image. `begin` is when the first client does.
    pub(crate) async fn pull(
        &self,
        node: usize,
        base: &str,
        repository: &str,
        begin: Duration,
    ) -> Result<Pulled> {
        let begin = begin + self.options.delay(node);
        self.client(node, base, repository, begin).await
    }

    /// The same at once, for whoever has the image before the others.
    pub(crate) async fn pull_before(&self, node: usize, base: &str, repository: &str) -> Result<()> {
        let pulled = self.client(node, base, repository, now()?).await;
        pulled.map(drop).with_context(|| format!("node {node} cannot have the image before the others"))
    }

    async fn client(&self, node: usize, base: &str, repository: &str, begin: Duration) -> Result<Pulled> {
        let request = Request {
            base: base.to_owned(),
            repository: repository.to_owned(),
            tag: TAG.to_owned(),
            digest: self.upstream.image.digest.clone(),
            begin,
        };
        let words = ["pull", &serde_json::to_string(&request)?];
        let spec = spec(&self.hosts[node].namespace, &format!("client-{node}"), self.home.path(), &words)?;
        ask(spec, self.options.patience()).await
    }
}

/// Waits for a moment of the day.
pub(crate) async fn until(moment: Duration) -> Result<()> {
    tokio::time::sleep(moment.saturating_sub(now()?)).await;
    Ok(())
}
