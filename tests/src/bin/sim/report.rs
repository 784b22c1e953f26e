//! How it went, for people and for programs.

use std::time::Duration;

use serde::Serialize;

use crate::figures::Beat;
use crate::fleet::Fleet;
use crate::scenario::Scenario;

/// The result of a run. The same scenario and seed give the same result.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    nodes: u32,
    seed: u64,
    died: u32,
    /// Clients that were told that a layer cannot be had.
    failed: u32,
    /// Live nodes that have not ended.
    unfinished: u32,
    completed: usize,
    /// The whole of it, in seconds.
    took: f64,
    bound: f64,
    /// From each node's own begin.
    p50: f64,
    p99: f64,
    max: f64,
    /// Upstream bytes by the image's.
    upstream_copies: f64,
    upstream_requests: u64,
    /// Bytes that peers sent in vain, by all that they sent.
    wasted: f64,
    /// Bytes between zones, by the image's.
    zone_copies: f64,
    first_byte_p50: f64,
    first_byte_p99: f64,
    first_byte_max: f64,
    /// How long a body that had begun stood still, the longest of all: clients are cut off after 8 s.
    longest_wait: f64,
    control_messages_a_node: f64,
    control_bytes_a_node: f64,
    cpu_a_node: f64,
    cpu_busiest_node: f64,
    busy_answers: u64,
    peers_blamed: u64,
    handshakes: u64,
    connections_refused: u64,
    most_connections: u32,
    home_messages_a_second: u32,
    home_core_share: f64,
    home_askers: usize,
    home_sessions: usize,
    events: u64,
    /// When each node ended, from the first begin, in order: what the plot shows.
    #[serde(skip)]
    pub(crate) ends: Vec<f64>,
}

/// The value that so many of a hundred do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut sorted: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

impl Outcome {
    /// Every node that lives has the image.
    pub(crate) fn is_whole(&self) -> bool {
        self.unfinished == 0 && self.failed == 0
    }

    pub(crate) fn of(fleet: &Fleet) -> Self {
        let figures = &fleet.figures;
        let image = fleet.scenario.image();
        let ends = sorted(fleet.nodes.iter().filter_map(|node| node.ended));
        let times =
            sorted(fleet.nodes.iter().filter_map(|node| Some(node.ended?.saturating_sub(node.began?))));
        let first = sorted(figures.first_bytes.iter().copied());
        let (messages, bytes) = figures.control_a_node();
        let (cpu, busiest) = figures.cpu();
        let (home_messages, home_core_share) = figures.busiest_home();
        let (home_askers, home_sessions) = fleet.fullest_home();
        Self {
            nodes: fleet.scenario.nodes,
            seed: fleet.scenario.seed,
            died: figures.died,
            failed: figures.failed,
            unfinished: fleet.left,
            completed: ends.len(),
            took: ends.last().copied().unwrap_or(f64::NAN),
            bound: fleet.scenario.bound(),
            p50: percentile(&times, 50),
            p99: percentile(&times, 99),
            max: percentile(&times, 100),
            upstream_copies: figures.upstream_bytes / image,
            upstream_requests: figures.upstream_requests,
            wasted: figures.wasted / figures.peer_bytes.max(1.0),
            zone_copies: figures.zone_bytes / image,
            first_byte_p50: percentile(&first, 50),
            first_byte_p99: percentile(&first, 99),
            first_byte_max: percentile(&first, 100),
            longest_wait: figures.longest_wait.as_secs_f64(),
            control_messages_a_node: messages,
            control_bytes_a_node: bytes,
            cpu_a_node: cpu,
            cpu_busiest_node: busiest,
            busy_answers: figures.busy,
            peers_blamed: figures.blames,
            handshakes: figures.handshakes,
            connections_refused: figures.refused_connections,
            most_connections: fleet.membership.most_connections(),
            home_messages_a_second: home_messages,
            home_core_share,
            home_askers,
            home_sessions,
            events: fleet.clock.events(),
            ends,
        }
    }
}

/// What the fleet did in each second, as shares of its links: where time is lost shows here.
pub(crate) fn seconds(fleet: &Fleet) -> String {
    let links = &fleet.scenario.links;
    let upstream = Scenario::carries(links.upstream_mbit);
    let up = Scenario::carries(links.up_mbit) * f64::from(fleet.scenario.nodes);
    let line = |(second, beat): (usize, &Beat)| {
        format!(
            "second {second:>4}: upstream {:>5.1} %, uplinks {:>5.1} %, {} times busy\n",
            beat.upstream_bytes / upstream * 100.0,
            beat.peer_bytes / up * 100.0,
            beat.busy
        )
    };
    fleet.figures.beats.iter().enumerate().map(line).collect()
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ratio = |time: f64| time / self.bound;
        writeln!(f, "nodes              {} (seed {})", self.nodes, self.seed)?;
        writeln!(
            f,
            "ended              {} completed, {} died, {} failed, {} unfinished",
            self.completed, self.died, self.failed, self.unfinished
        )?;
        writeln!(
            f,
            "upstream           {:.4} copies in {} requests",
            self.upstream_copies, self.upstream_requests
        )?;
        writeln!(f, "fluid bound        {:.2} s", self.bound)?;
        for (name, time) in [("p50", self.p50), ("p99", self.p99), ("max", self.max), ("whole", self.took)] {
            writeln!(f, "{name:<18} {time:.2} s = {:.3} of the bound", ratio(time))?;
        }
        writeln!(
            f,
            "first byte         p50 {:.3} s, p99 {:.3} s, max {:.3} s",
            self.first_byte_p50, self.first_byte_p99, self.first_byte_max
        )?;
        writeln!(f, "bodies             stood still for {:.2} s at most", self.longest_wait)?;
        writeln!(
            f,
            "control a node     {:.0} messages, {:.0} KiB, {:.2} s of CPU (busiest node {:.2} s)",
            self.control_messages_a_node,
            self.control_bytes_a_node / 1024.0,
            self.cpu_a_node,
            self.cpu_busiest_node
        )?;
        writeln!(
            f,
            "busiest home       {} messages in a second, {:.1} % of a core, {} askers, {} sessions",
            self.home_messages_a_second,
            self.home_core_share * 100.0,
            self.home_askers,
            self.home_sessions
        )?;
        writeln!(
            f,
            "connections        {} at most, {} handshakes, {} refused",
            self.most_connections, self.handshakes, self.connections_refused
        )?;
        write!(
            f,
            "peers              {} times busy, {} blamed, {:.2} % sent in vain, {:.1} copies between zones",
            self.busy_answers,
            self.peers_blamed,
            self.wasted * 100.0,
            self.zone_copies
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let all: Vec<f64> = (1..=200).map(f64::from).collect();
        let found = [1, 50, 99, 100].map(|percent| percentile(&all, percent));
        assert_eq!(found.map(|value| format!("{value:.0}")), ["2", "100", "198", "200"]);
        assert!(percentile(&[], 50).is_nan());
    }
}
