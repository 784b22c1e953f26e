//! The way through Shoal: a node in each namespace, and each client asks the gateway beside it.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use shoal_tests::fleet::{REGISTRY, new_key};
use shoal_tests::node::{Node, Settings, Status};
use shoal_tests::process::until as until_it;
use shoal_tests::usage::{Cpu, peak_mib};

use crate::Bench;
use crate::inside::get_inside;
use crate::round::{Round, Used, until};
use crate::upstream::REPOSITORY;

/// Each node has a loopback of its own: so all have the same ports.
const GATEWAY: &str = "127.0.0.1:5055";
const PEER_PORT: u16 = 5056;
/// How many nodes the others are told of.
const BOOTSTRAPS: usize = 2;
/// How long nodes may take to find each other.
const MEETING: Duration = Duration::from_mins(1);
/// How long those who hold the image from the start have to make it known.
const ANNOUNCING: Duration = Duration::from_secs(2);
/// The metric of control messages sent, with its labels or without.
const CONTROL: &str = "shoal_control_messages_total";

#[derive(Debug)]
struct Fleet<'a> {
    bench: &'a Bench<'a>,
    key: PathBuf,
    nodes: Vec<OnceCell<Node>>,
}

pub(crate) async fn measure(bench: &Bench<'_>) -> Result<Round> {
    let key = new_key(bench.home.path(), "cluster.key")?;
    let fleet = Fleet { bench, key, nodes: (0..bench.options.nodes).map(|_| OnceCell::new()).collect() };
    let round = fleet.measure().await;
    if let Some(logs) = &bench.options.keep_logs {
        fleet.keep_logs(logs)?;
    }
    round
}

impl Fleet<'_> {
    async fn measure(&self) -> Result<Round> {
        let options = self.bench.options;
        let running = options.running();
        try_join_all((0..running).map(|number| self.start(number))).await?;
        self.settled(0..running).await?;
        let (gateway, repository) = (format!("http://{GATEWAY}"), format!("{REGISTRY}/{REPOSITORY}"));
        for holder in 0..options.holders() {
            self.bench.pull_before(holder, &gateway, &repository).await?;
        }
        if options.holders() > 0 {
            tokio::time::sleep(ANNOUNCING).await;
        }
        let cpu: Vec<Cpu> =
            (0..running).map(|number| Cpu::of(self.node(number)?.id())).collect::<Result<_>>()?;
        let begin = self.bench.begin()?;
        let pulls = options.pullers().map(async |number| {
            if number >= running {
                until(begin).await?;
                self.start(number).await?;
            }
            self.bench.pull(number, &gateway, &repository, begin).await
        });
        let mut round = Round::measure(self.bench, begin, pulls).await?;
        for number in 0..options.nodes {
            // A node that did not start is among the failures already.
            let Ok(node) = self.node(number) else { continue };
            let cpu = cpu.get(number).map_or_else(|| Cpu::from_start(node.id()).since(), Cpu::since)?;
            round.used.push(Used { cpu, peak_mib: peak_mib(node.id())? });
            let peers = self.status(number).await?.traffic.peer.bytes;
            *round.peer_bytes.get_or_insert(0) += peers;
            if let Some(sent) = control_messages(&self.ask(number, "/metrics").await?) {
                *round.control_messages.get_or_insert(0) += sent;
            }
        }
        Ok(round)
    }

    fn peer_address(&self, number: usize) -> SocketAddr {
        SocketAddr::from((self.bench.hosts[number].address, PEER_PORT))
    }

    async fn start(&self, number: usize) -> Result<()> {
        let bootstraps = (0..BOOTSTRAPS).filter(|&other| other != number);
        let settings = Settings {
            upstreams: vec![(REGISTRY.to_owned(), self.bench.upstream.url.clone())],
            bootstrap: bootstraps.map(|other| self.peer_address(other).to_string()).collect(),
            cluster_key: Some(self.key.clone()),
            peer_addr: Some(self.peer_address(number)),
            gateway_addr: Some(GATEWAY.parse()?),
            namespace: Some(Arc::clone(&self.bench.hosts[number].namespace)),
            // As operators run it: what is written for a failed test costs CPU.
            log: Some("info".to_owned()),
            ..Settings::default()
        };
        let node = Node::start(self.bench.home.path(), &format!("node-{number}"), settings).await?;
        self.nodes[number].set(node).ok().with_context(|| format!("node {number} was started twice"))
    }

    fn node(&self, number: usize) -> Result<&Node> {
        self.nodes[number].get().with_context(|| format!("node {number} was not started"))
    }

    /// What a node's admin port says.
    async fn ask(&self, number: usize, path: &str) -> Result<String> {
        let base = format!("http://{}", self.node(number)?.serving.admin);
        let namespace = &self.bench.hosts[number].namespace;
        get_inside(namespace, self.bench.home.path(), &base, path).await
    }

    async fn status(&self, number: usize) -> Result<Status> {
        let text = self.ask(number, "/status").await?;
        serde_json::from_str(&text).with_context(|| format!("node {number} says {text}"))
    }

    /// Waits until each of these is connected with all others of them.
    async fn settled(&self, numbers: Range<usize>) -> Result<()> {
        let peers = numbers.len() - 1;
        for number in numbers {
            let joined = until_it("all nodes are connected", MEETING, async || {
                let status = self.status(number).await.ok()?;
                (status.ready && status.peers.len() >= peers).then_some(())
            });
            joined.await.with_context(|| format!("node {number} with {peers} peers"))?;
        }
        Ok(())
    }

    fn keep_logs(&self, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to)?;
        for (number, node) in self.nodes.iter().enumerate() {
            if let Some(node) = node.get() {
                std::fs::write(to.join(format!("node-{number}.log")), node.log()?)?;
            }
        }
        Ok(())
    }
}

/// The control messages that a node has sent, all kinds together, if it counts them.
fn control_messages(metrics: &str) -> Option<u64> {
    let values = metrics.lines().filter(|line| line.starts_with(CONTROL));
    values.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).reduce(|sum: u64, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_are_summed_over_their_kinds() {
        let text = "# TYPE shoal_control_messages counter\nshoal_control_messages_total{kind=\"have\"} 3\n\
                    shoal_control_messages_total{kind=\"want\"} 4\nshoal_stale_tags_total 9\n# EOF\n";
        assert_eq!(control_messages(text), Some(7));
        assert_eq!(control_messages("# EOF\n"), None);
    }
}
