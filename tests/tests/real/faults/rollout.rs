//! One image that a fleet pulls, and what it cost upstream.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoal_proto::digest::Digest;
use shoal_proto::identity::PeerId;
use shoal_proto::swarm::ranking::Ranking;
use shoal_tests::client::WHOLE;
use shoal_tests::fleet::{Fleet, Linked, REGISTRY};
use shoal_tests::image::{Image, synthetic};
use shoal_tests::node::Node;
use shoal_tests::process::until;
use shoal_tests::registry::Kind;
use tokio::task::JoinHandle;

pub(crate) const MIB: u64 = 1 << 20;
/// The layer that is pulled. A lease of it is a sixteenth at the most.
pub(crate) const SIZE: u64 = 16 * MIB;
/// Bytes a second from upstream: a rollout takes four seconds.
pub(crate) const RATE: u64 = 4 << 20;
/// How long anything may take. The machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Rollout {
    pub(crate) fleet: Fleet<Linked>,
    pub(crate) image: Image,
    pulls: BTreeMap<usize, JoinHandle<anyhow::Result<()>>>,
}

impl Rollout {
    /// A fleet of `count` nodes and an image that nobody has yet.
    pub(crate) async fn new(count: usize) -> Self {
        let fleet = Fleet::behind_a_link(Kind::Distribution, RATE, count).await.unwrap();
        Self::of(fleet, SIZE, |_, _| true).await
    }

    /// All of a new fleet pull, and upstream has given a quarter of the image.
    pub(crate) async fn under_way(count: usize) -> Self {
        let mut rollout = Self::new(count).await;
        rollout.begin(rollout.numbers());
        rollout.reaches(0.25).await;
        rollout
    }

    /// An image with a layer of `size` bytes that is `wanted` for these nodes, by its digest.
    pub(crate) async fn of(fleet: Fleet<Linked>, size: u64, wanted: impl Fn(&[Node], &str) -> bool) -> Self {
        let mut images = (1..).map(|seed| synthetic::image(fleet.home(), seed, &[size]).unwrap());
        let image = images.find(|image| wanted(&fleet.nodes, &image.layers[0].digest)).unwrap();
        fleet.registry.registry.push("rollout", "1", &image).await.unwrap();
        Self { fleet, image, pulls: BTreeMap::new() }
    }

    pub(crate) fn node(&self, number: usize) -> &Node {
        &self.fleet.nodes[number]
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.fleet.nodes.len()
    }

    /// The nodes in the order of their closeness to the layer: its home and who follows it.
    pub(crate) fn homes(&self) -> Vec<usize> {
        closest(&self.fleet.nodes, &self.image.layers[0].digest)
    }

    /// A client of each of these nodes begins.
    pub(crate) fn begin(&mut self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            let client = self.fleet.nodes[number].client().unwrap();
            let image = self.image.clone();
            let pull = async move { client.pull(&format!("{REGISTRY}/rollout"), "1", &image).await };
            self.pulls.insert(number, tokio::spawn(pull));
        }
    }

    /// Waits until upstream has given this part of the image.
    pub(crate) async fn reaches(&self, part: f64) {
        let there =
            until("the rollout is on its way", PATIENCE, async || (self.copies() >= part).then_some(()));
        there.await.unwrap();
        assert!(self.pulls.values().all(|pull| !pull.is_finished()), "a pull is over already");
    }

    /// The nodes that get something from upstream just now.
    pub(crate) async fn holders(&self, count: usize) -> Vec<usize> {
        let mut before = self.upstream_bytes().await;
        until("so many nodes fetch", PATIENCE, async || {
            let now = self.upstream_bytes().await;
            let grown = now.iter().zip(&before).enumerate().filter(|(_, (now, before))| now > before);
            let holders: Vec<usize> = grown.map(|(number, _)| number).take(count).collect();
            before = now;
            (holders.len() == count).then_some(holders)
        })
        .await
        .unwrap()
    }

    async fn upstream_bytes(&self) -> Vec<u64> {
        let mut bytes = Vec::new();
        for node in &self.fleet.nodes {
            bytes.push(node.status().await.unwrap().traffic.upstream.bytes);
        }
        bytes
    }

    /// Whether this node's client is not served yet.
    pub(crate) fn waits(&self, number: usize) -> bool {
        !self.pulls[&number].is_finished()
    }

    /// The clients of these nodes get the image, at their first attempt.
    pub(crate) async fn complete(&mut self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            let pull = self.pulls.remove(&number).unwrap();
            let pulled = tokio::time::timeout(PATIENCE, pull).await;
            let pulled = pulled.unwrap_or_else(|_| panic!("the pull of node {number} hangs")).unwrap();
            pulled.unwrap_or_else(|error| panic!("the pull of node {number} failed: {error:#}"));
        }
    }

    /// The clients of these nodes get the image, and try again as engines do, so often at most.
    #[expect(clippy::print_stderr, reason = "how the first attempts failed belongs to a failure")]
    pub(crate) async fn complete_within(&mut self, most: u32, numbers: impl IntoIterator<Item = usize>) {
        let mut attempts: BTreeMap<usize, u32> = BTreeMap::new();
        let end = Instant::now() + PATIENCE;
        let mut waiting: Vec<usize> = numbers.into_iter().collect();
        while !waiting.is_empty() {
            for number in std::mem::take(&mut waiting) {
                *attempts.entry(number).or_default() += 1;
                let pull = self.pulls.remove(&number).unwrap();
                let left = end.saturating_duration_since(Instant::now());
                let pulled = tokio::time::timeout(left, pull).await;
                let pulled =
                    pulled.unwrap_or_else(|_| panic!("the pull of node {number} hangs: {attempts:?}"));
                if let Err(error) = pulled.unwrap() {
                    eprintln!("node {number}: {error:#}");
                    assert!(!format!("{error:#}").contains(WHOLE), "a client was given wrong bytes for good");
                    waiting.push(number);
                }
            }
            let tired = waiting.iter().find(|number| attempts[number] >= most);
            assert_eq!(tired, None, "a client failed too often: {attempts:?}");
            self.begin(waiting.iter().copied());
        }
    }

    /// What upstream gave so far, in images.
    pub(crate) fn copies(&self) -> f64 {
        self.fleet.registry.link.carried() as f64 / self.image.size() as f64
    }

    /// Upstream gave no more than this.
    pub(crate) fn cost_at_most(&self, most: f64) {
        at_most(self.copies(), most);
    }
}

/// So many copies of the image are no more than `most`.
#[expect(clippy::print_stderr, reason = "the figure is what the test is about")]
pub(crate) fn at_most(copies: f64, most: f64) {
    let text = format!("upstream gave {copies:.3} copies, {most} at most");
    eprintln!("{text}");
    assert!(copies <= most, "{text}");
}

/// The nodes in the order of their closeness to a digest.
pub(crate) fn closest(nodes: &[Node], digest: &str) -> Vec<usize> {
    let peers: Vec<PeerId> = nodes.iter().map(id).collect();
    let place = |peer| peers.iter().position(|&one| one == peer).unwrap();
    ranked(&peers, digest).into_iter().map(place).collect()
}

/// A node's identity.
pub(crate) fn id(node: &Node) -> PeerId {
    node.serving.peer_id.parse().unwrap()
}

/// Peers in the order of their closeness to a digest.
pub(crate) fn ranked(peers: &[PeerId], digest: &str) -> Vec<PeerId> {
    let mut ranking = Ranking::new(peers[0]);
    for &peer in peers {
        ranking.insert(peer);
    }
    let digest: Digest = digest.parse().unwrap();
    ranking.closest(&digest, peers.len())
}
