//! The fleet falls into two halves that both reach upstream, and grows together again.

use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::fleet::{REGISTRY, new_key};
use shoal_tests::image::{Image, synthetic};
use shoal_tests::network::{Host, Network, Shape};
use shoal_tests::node::{Node, Settings};
use shoal_tests::process::{Process, Spec, until};
use shoal_tests::registry::{Kind, Registry, Site};
use tokio::task::spawn_blocking;

use super::rollout::{MIB, PATIENCE, at_most, closest};

const NODES: usize = 6;
/// The layer: nodes notice within some seconds that others are gone, and the rollout has to last longer.
const SIZE: u64 = 64 * MIB;
/// Upstream's link: 4 MiB a second.
const UPSTREAM: Shape = Shape::megabits(35);
const PEER_PORT: u16 = 5056;

/// Nodes on hosts of their own, and the registry on another.
struct Hosts {
    // Before the namespaces that they run in.
    nodes: Vec<Node>,
    _registry: Registry,
    all: Vec<Host>,
    upstream: Host,
    image: Image,
    _network: Network,
    home: tempfile::TempDir,
}

impl Hosts {
    async fn new() -> Self {
        let home = tempfile::Builder::new().prefix("shoal-tests-").tempdir().unwrap();
        let image = synthetic::image(home.path(), 1, &[SIZE]).unwrap();
        // It is pushed to where this process can reach the registry, which then moves.
        let mut registry = Registry::start(Kind::Distribution, home.path(), "registry").await.unwrap();
        registry.push("rollout", "1", &image).await.unwrap();
        registry.stop();
        let mut network = Network::new(home.path()).unwrap();
        let upstream = network.connect("upstream", UPSTREAM).unwrap();
        let site = Site {
            address: Some(SocketAddr::from((upstream.address, 5000))),
            namespace: Some(Arc::clone(&upstream.namespace)),
            caches: None,
            guard: None,
        };
        let registry = Registry::start_at(Kind::Distribution, home.path(), "registry", site).await.unwrap();
        let key = new_key(home.path(), "cluster.key").unwrap();
        let mut hosts: Vec<Host> = Vec::new();
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let host = network.connect(&format!("host-{number}"), Shape::megabits(1000)).unwrap();
            let first = hosts.first().map(|host| format!("{}:{PEER_PORT}", host.address));
            let settings = Settings {
                upstreams: vec![(REGISTRY.to_owned(), registry.url())],
                bootstrap: first.into_iter().collect(),
                cluster_key: Some(key.clone()),
                peer_addr: Some(SocketAddr::from((host.address, PEER_PORT))),
                namespace: Some(Arc::clone(&host.namespace)),
                ..Settings::default()
            };
            nodes.push(Node::start(home.path(), &format!("node-{number}"), settings).await.unwrap());
            hosts.push(host);
        }
        let hosts = Self { nodes, _registry: registry, all: hosts, upstream, image, _network: network, home };
        hosts.connected(NODES - 1).await;
        hosts
    }

    /// What a node says of itself, in full.
    async fn status(&self, number: usize) -> Option<Value> {
        let admin = format!("http://{}", self.nodes[number].serving.admin);
        let answer = inside(&self.all[number], self.home.path(), &["get", &admin, "/status"]).await;
        let status: String = serde_json::from_str(&answer).ok()?;
        serde_json::from_str(&status).ok()
    }

    /// Waits until every node is connected with so many others.
    async fn connected(&self, others: usize) {
        for number in 0..NODES {
            let mut peers = Value::Null;
            let connected = until("every node knows who is there", PATIENCE, async || {
                peers = self.status(number).await?["peers"].take();
                (peers.as_array()?.len() == others).then_some(())
            });
            if let Err(error) = connected.await {
                panic!("node {number} has not {others} peers, but {peers}: {error:#}");
            }
        }
    }

    /// Waits until one of these is the home of the layer's swarm.
    async fn have_a_home(&self, numbers: &[usize]) {
        let found = until("a side has a home of its own", PATIENCE, async || {
            for &number in numbers {
                let status = self.status(number).await?;
                if status["swarms"].as_array()?.iter().any(|swarm| {
                    swarm["digest"] == self.image.layers[0].digest.as_str() && swarm["home"] == true
                }) {
                    return Some(());
                }
            }
            None
        });
        found.await.unwrap();
    }

    /// A client of this node pulls: its process.
    fn pull(&self, number: usize) -> Process {
        let request = json!({
            "base": self.nodes[number].gateway_url(),
            "repository": format!("{REGISTRY}/rollout"),
            "tag": "1",
            "digest": self.image.manifest.digest,
            "begin": Duration::ZERO,
        });
        let words = ["pull", &request.to_string()];
        spec(&self.all[number], &format!("pull-{number}"), self.home.path(), &words).start().unwrap()
    }

    /// Lets these two reach each other, or not.
    fn join(&self, one: usize, other: usize, joined: bool) {
        let (one, other) = (&self.all[one], &self.all[other]);
        one.route(other.address, joined).unwrap();
        other.route(one.address, joined).unwrap();
    }

    /// What upstream sent so far, packets' headers and all.
    fn sent(&self) -> u64 {
        let devices = fs::read_to_string(format!("/proc/{}/net/dev", self.upstream.namespace.id())).unwrap();
        let link = devices.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
        // Eight columns of what was received come first.
        link.split_whitespace().nth(8).unwrap().parse().unwrap()
    }
}

/// `fleet-bench inside` as a process on a host.
fn spec(host: &Host, name: &str, logs: &Path, words: &[&str]) -> Spec {
    let program = Path::new(env!("CARGO_BIN_EXE_fleet-bench"));
    let mut spec = Spec::within(Some(&host.namespace), program, name, logs);
    spec.command().arg("inside").args(words);
    spec
}

/// What such a process says.
async fn inside(host: &Host, logs: &Path, words: &[&str]) -> String {
    let (_process, mut output) = spec(host, "inside", logs, words).start_with_output().unwrap();
    let read = spawn_blocking(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap().unwrap()
}

fn assert_all_run(pulls: &mut [Process], before: &str) {
    for (number, pull) in pulls.iter_mut().enumerate() {
        assert!(pull.is_running(), "pull {number} is over before {before}: {}", pull.tail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_heals() {
    let hosts = Hosts::new().await;
    let order = closest(&hosts.nodes, &hosts.image.layers[0].digest);
    // The home and its second standby are on one side, the first standby on the other.
    let side = |rest: usize| -> Vec<usize> { order.iter().skip(rest).step_by(2).copied().collect() };
    let (near, far) = (side(0), side(1));
    let pairs: Vec<_> = near.iter().flat_map(|&one| far.iter().map(move |&other| (one, other))).collect();
    let before = hosts.sent();
    let copies = || (hosts.sent() - before) as f64 / SIZE as f64;
    let reaches = async |part: f64| {
        until("the rollout is on its way", PATIENCE, async || (copies() >= part).then_some(()))
            .await
            .unwrap();
    };

    let mut pulls: Vec<Process> = (0..NODES).map(|number| hosts.pull(number)).collect();
    reaches(0.15).await;
    for &(one, other) in &pairs {
        hosts.join(one, other, false);
    }
    assert_all_run(&mut pulls, "the partition");
    hosts.connected(NODES / 2 - 1).await;
    hosts.have_a_home(&near).await;
    hosts.have_a_home(&far).await;
    assert_all_run(&mut pulls, "both sides have a home");
    for &(one, other) in &pairs {
        hosts.join(one, other, true);
    }
    for mut pull in pulls {
        let ended = spawn_blocking(move || (pull.wait(PATIENCE), pull)).await.unwrap();
        assert!(ended.0.unwrap().success(), "{}", ended.1.tail());
    }
    // One for each side, and a twentieth for packets' headers.
    at_most(copies(), 2.1);
    hosts.connected(NODES - 1).await;
}
