//! What is counted while the simulation runs.

use std::time::Duration;

/// What one node does in each second; the busiest one is kept.
#[derive(Debug, Clone, Default)]
struct Second {
    number: u64,
    messages: u32,
    cpu_us: f64,
    most_messages: u32,
    most_cpu_us: f64,
}

#[derive(Debug, Clone, Default)]
struct Control {
    messages: u64,
    bytes: u64,
    cpu: Duration,
    home: Second,
}

/// What the fleet did in one second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Beat {
    pub(crate) upstream_bytes: f64,
    pub(crate) peer_bytes: f64,
    pub(crate) busy: u64,
}

#[derive(Debug)]
pub(crate) struct Figures {
    /// Second by second.
    pub(crate) beats: Vec<Beat>,
    nodes: Vec<Control>,
    pub(crate) first_bytes: Vec<Duration>,
    /// How long a body that had begun stood still, the longest of all.
    pub(crate) longest_wait: Duration,
    pub(crate) upstream_bytes: f64,
    pub(crate) upstream_requests: u64,
    pub(crate) peer_bytes: f64,
    pub(crate) zone_bytes: f64,
    /// Chunks from peers that came when nobody waited for them any more, in bytes.
    pub(crate) wasted: f64,
    pub(crate) busy: u64,
    pub(crate) blames: u64,
    pub(crate) handshakes: u64,
    pub(crate) refused_connections: u64,
    pub(crate) failed: u32,
    pub(crate) died: u32,
}

impl Figures {
    pub(crate) fn new(nodes: u32) -> Self {
        Self {
            beats: Vec::new(),
            nodes: vec![Control::default(); nodes as usize],
            first_bytes: Vec::new(),
            longest_wait: Duration::ZERO,
            upstream_bytes: 0.0,
            upstream_requests: 0,
            peer_bytes: 0.0,
            zone_bytes: 0.0,
            wasted: 0.0,
            busy: 0,
            blames: 0,
            handshakes: 0,
            refused_connections: 0,
            failed: 0,
            died: 0,
        }
    }

    /// A message from one node to another: both count it.
    pub(crate) fn sent(&mut self, from: u32, to: u32, bytes: usize) {
        for node in [from, to] {
            let control = &mut self.nodes[node as usize];
            control.messages += 1;
            control.bytes += bytes as u64;
        }
    }

    pub(crate) fn worked(&mut self, node: u32, time: Duration) {
        self.nodes[node as usize].cpu += time;
    }

    /// A home has a message to read or write.
    pub(crate) fn home_works(&mut self, node: u32, micros: f64, now: Duration) {
        let home = &mut self.nodes[node as usize].home;
        if home.number != now.as_secs() {
            *home = Second { number: now.as_secs(), messages: 0, cpu_us: 0.0, ..home.clone() };
        }
        home.messages += 1;
        home.cpu_us += micros;
        home.most_messages = home.most_messages.max(home.messages);
        home.most_cpu_us = home.most_cpu_us.max(home.cpu_us);
    }

    fn beat(&mut self, now: Duration) -> &mut Beat {
        let second = usize::try_from(now.as_secs()).unwrap_or(usize::MAX);
        if self.beats.len() <= second {
            self.beats.resize(second + 1, Beat::default());
        }
        &mut self.beats[second]
    }

    pub(crate) fn upstream_sent(&mut self, bytes: f64, now: Duration) {
        self.upstream_bytes += bytes;
        self.beat(now).upstream_bytes += bytes;
    }

    pub(crate) fn was_busy(&mut self, now: Duration) {
        self.busy += 1;
        self.beat(now).busy += 1;
    }

    pub(crate) fn between_peers(&mut self, bytes: f64, same_zone: bool, now: Duration) {
        self.peer_bytes += bytes;
        self.beat(now).peer_bytes += bytes;
        if !same_zone {
            self.zone_bytes += bytes;
        }
    }

    /// Messages and bytes of control of the average node, sent and received.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) fn control_a_node(&self) -> (f64, f64) {
        let nodes = self.nodes.len() as f64;
        let messages: u64 = self.nodes.iter().map(|control| control.messages).sum();
        let bytes: u64 = self.nodes.iter().map(|control| control.bytes).sum();
        (messages as f64 / nodes, bytes as f64 / nodes)
    }

    /// The CPU of the average node and of the busiest one, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) fn cpu(&self) -> (f64, f64) {
        let all = || self.nodes.iter().map(|control| control.cpu.as_secs_f64());
        (all().sum::<f64>() / self.nodes.len() as f64, all().fold(0.0, f64::max))
    }

    /// The most messages of homes' business that one node had in one second, and the most that they took of a core.
    pub(crate) fn busiest_home(&self) -> (u32, f64) {
        let homes = || self.nodes.iter().map(|control| &control.home);
        (
            homes().map(|home| home.most_messages).max().unwrap_or(0),
            homes().map(|home| home.most_cpu_us).fold(0.0, f64::max) / 1e6,
        )
    }
}
