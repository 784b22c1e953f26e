//! The fleet: every node, every layer, and the events between them.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use fixedbitset::FixedBitSet;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::origin::Origin;
use shoal_proto::swarm::message::SwarmKey;

use crate::clock::{At, Clock, Event};
use crate::dice::Dice;
use crate::figures::Figures;
use crate::keeper::Keeper;
use crate::letter::Letters;
use crate::link::Link;
use crate::membership::Membership;
use crate::scenario::{Scenario, millis};
use crate::transfer::Running;
use crate::upload::Uploads;
use crate::upstream::Fetch;

/// The most holders that a DHT record names.
const RECORD: usize = 20;

/// A blob of the image.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) key: SwarmKey,
    pub(crate) layout: ChunkLayout,
    /// How close each node is to it: see [`Membership::places`].
    pub(crate) places: Vec<u32>,
    /// What its provider record says.
    pub(crate) record: Vec<u32>,
}

impl Layer {
    #[expect(clippy::cast_precision_loss, reason = "a chunk's length")]
    pub(crate) fn bytes_of(&self, chunk: u32) -> f64 {
        self.layout.range(chunk).map_or(0.0, |range| range.len() as f64)
    }
}

/// How far a node is with a layer.
#[derive(Debug)]
pub(crate) enum Blob {
    Absent,
    Running(Box<Running>),
    Held,
    Failed,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) alive: bool,
    /// It holds the image from the start.
    pub(crate) seed: bool,
    pub(crate) blobs: Vec<Blob>,
    pub(crate) began: Option<Duration>,
    pub(crate) ended: Option<Duration>,
    pub(crate) uploads: Uploads,
    /// When its downlink has taken what is under way to it.
    pub(crate) down_free: Duration,
    /// When its CPU is done with what came so far.
    pub(crate) cpu_free: Duration,
    pub(crate) keeper: Option<Box<Keeper>>,
}

/// The simulation.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) scenario: Scenario,
    pub(crate) clock: Clock,
    pub(crate) dice: Dice,
    pub(crate) membership: Membership,
    pub(crate) layers: Vec<Layer>,
    pub(crate) nodes: Vec<Node>,
    /// When the cores that all share are done with what came so far.
    pub(crate) machine_free: Duration,
    pub(crate) upstream: Link<Fetch>,
    pub(crate) fetches: HashMap<(u32, u8), Fetch>,
    pub(crate) letters: Letters,
    pub(crate) figures: Figures,
    /// Nodes that are to end and have not.
    pub(crate) left: u32,
}

impl Fleet {
    pub(crate) fn new(scenario: Scenario) -> Result<Self> {
        let mut dice = Dice::new(scenario.seed);
        let membership = Membership::new(&scenario, &mut dice)?;
        let down = Scenario::carries(scenario.links.down_mbit);
        let mut layers = Vec::new();
        for (number, size) in scenario.layer_sizes().into_iter().enumerate() {
            let digest = Digest::sha256_of(format!("layer {number} of seed {}", scenario.seed).as_bytes());
            let key = SwarmKey::first(digest, size, Origin::from_bytes([0; Origin::LEN]));
            let (layout, places) = (ChunkLayout::of(size)?, membership.places(&digest));
            layers.push(Layer { key, layout, places, record: Vec::new() });
        }
        let nodes = (0..scenario.nodes).map(|_| Node {
            alive: true,
            seed: false,
            blobs: layers.iter().map(|_| Blob::Absent).collect(),
            began: None,
            ended: None,
            uploads: Uploads::new(
                Scenario::carries(scenario.links.up_mbit),
                down,
                scenario.node.upload_slots,
            ),
            down_free: Duration::ZERO,
            cpu_free: Duration::ZERO,
            keeper: None,
        });
        let nodes = nodes.collect();
        let upstream = Link::new(Scenario::carries(scenario.links.upstream_mbit), down);
        let mut fleet = Self {
            figures: Figures::new(scenario.nodes),
            left: scenario.nodes - scenario.arrivals.seeds,
            clock: Clock::default(),
            fetches: HashMap::new(),
            machine_free: Duration::ZERO,
            letters: Letters::default(),
            scenario,
            dice,
            membership,
            layers,
            nodes,
            upstream,
        };
        fleet.arrange();
        fleet.doom();
        Ok(fleet)
    }

    /// Says who holds the image, and who begins when.
    fn arrange(&mut self) {
        let mut order: Vec<u32> = (0..self.scenario.nodes).collect();
        self.dice.shuffle(&mut order);
        let (seeds, pullers) = order.split_at(self.scenario.arrivals.seeds as usize);
        for &seed in seeds {
            let node = &mut self.nodes[seed as usize];
            node.seed = true;
            node.blobs.fill_with(|| Blob::Held);
        }
        for layer in &mut self.layers {
            layer.record = seeds.iter().copied().take(RECORD).collect();
        }
        let last = f64::from(u32::try_from(pullers.len()).unwrap_or(u32::MAX) - 1).max(1.0);
        for (turn, &node) in (0_u32..).zip(pullers) {
            let at = self.scenario.arrivals.spread_s * f64::from(turn) / last;
            self.clock.at(millis(at * 1e3), Event::Begin(node));
        }
    }

    /// Runs until every live node has the image, or time is up.
    pub(crate) fn run(&mut self) {
        let limit = millis(self.scenario.limit_s * 1e3);
        while self.left > 0 {
            let Some(event) = self.clock.next() else { return };
            if self.clock.now > limit {
                return;
            }
            self.happens(event);
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Begin(node) => self.begins(node),
            Event::Wake(at) => self.wakes(at),
            Event::HomeWake(node) => self.home_wakes(node),
            Event::Letter(letter) => self.arrives(letter),
            Event::Undelivered(letter) => self.undelivered(letter),
            Event::ReportDue(at, id) => self.report_due(at, id),
            Event::News(at, follower) => self.tell_news(at, follower),
            Event::NewsDue(at) => self.news_due(at),
            Event::SearchHalf(at, search) => self.search_half(at, search),
            Event::SearchEnd(at, search) => self.search_ends(at, search),
            Event::Serve(wanted) => self.asked_for_chunk(wanted),
            Event::Uplink(node) => self.uplink(node),
            Event::Received(wanted) => self.upload_is_over(wanted),
            Event::Chunk(_) | Event::Busy(_) | Event::Sent(_) | Event::Missing(_) | Event::Gone(_) => {
                self.chunk_answered(event);
            }
            Event::Upstream => self.upstream_sent(),
            Event::FetchNext(at, id) => self.fetch_next(at, id),
            Event::Fetched(at, id, chunk) => self.fetched(at, id, chunk),
            Event::Proven(at) => self.proven(at),
            Event::Dies(node) => self.dies(node),
            Event::Known(node) => self.known_dead(node),
        }
    }

    pub(crate) fn node(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[node as usize]
    }

    pub(crate) fn layer(&self, at: At) -> &Layer {
        &self.layers[usize::from(at.layer)]
    }

    pub(crate) fn blob(&mut self, at: At) -> &mut Blob {
        &mut self.nodes[at.node as usize].blobs[usize::from(at.layer)]
    }

    pub(crate) fn running(&mut self, at: At) -> Option<&mut Running> {
        match self.blob(at) {
            Blob::Running(running) => Some(running),
            _ => None,
        }
    }

    /// Which chunks a node without any has.
    pub(crate) fn nothing_of(&self, at: At) -> FixedBitSet {
        FixedBitSet::with_capacity(self.layer(at).layout.count() as usize)
    }

    /// A node's CPU works for so long; says when it is done.
    pub(crate) fn works(&mut self, node: u32, micros: f64) -> Duration {
        let now = self.clock.now;
        let time = Duration::from_secs_f64(micros / 1e6);
        self.figures.worked(node, time);
        let shared = self.scenario.control.shared_cores;
        if shared > 0.0 {
            self.machine_free = self.machine_free.max(now) + time.div_f64(shared);
            return self.machine_free;
        }
        let node = self.node(node);
        node.cpu_free = node.cpu_free.max(now) + time;
        node.cpu_free
    }

    /// These bytes cross a node's downlink, after what is under way; says when the last is there, if the first leaves
    /// now and the last leaves at `sent`.
    pub(crate) fn received(&mut self, node: u32, bytes: f64, sent: Duration) -> Duration {
        let takes = Duration::from_secs_f64(bytes / Scenario::carries(self.scenario.links.down_mbit));
        let node = self.node(node);
        node.down_free = sent.max(node.down_free + takes);
        node.down_free
    }

    /// A node holds a layer: its record says so from now on.
    pub(crate) fn recorded(&mut self, at: At) {
        let record = &mut self.layers[usize::from(at.layer)].record;
        if record.len() < RECORD {
            record.push(at.node);
        }
    }
}
