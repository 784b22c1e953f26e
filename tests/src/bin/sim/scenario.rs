//! What is simulated, as a file says it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use toml::{Table, Value};

const MIB: f64 = 1_048_576.0;
/// Of a link's rate, what the headers of TCP, IP and Ethernet take.
const HEADERS: f64 = 0.05;

/// A fleet, an image, and what befalls them. Every value but the first three has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// How many nodes.
    pub(crate) nodes: u32,
    /// The image's layers, in MiB.
    pub(crate) layers_mib: Vec<f64>,
    /// The network.
    pub(crate) links: Links,
    /// What randomness begins with.
    #[serde(default = "one")]
    pub(crate) seed: u64,
    /// The simulation ends here, whoever is not done, in seconds.
    #[serde(default = "long")]
    pub(crate) limit_s: f64,
    #[serde(default)]
    pub(crate) node: Node,
    #[serde(default)]
    pub(crate) arrivals: Arrivals,
    #[serde(default)]
    pub(crate) failures: Failures,
    #[serde(default)]
    pub(crate) control: Control,
    #[serde(default)]
    pub(crate) core: Core,
}

/// Rates are gross, in Mbit/s; 5 % of them go to headers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Links {
    /// Each node's, towards the others.
    pub(crate) up_mbit: f64,
    /// Each node's, from the others.
    pub(crate) down_mbit: f64,
    /// The registry's, shared by all fetches that run.
    pub(crate) upstream_mbit: f64,
    /// From a range request to its first byte, in ms: connection, token and redirect included.
    #[serde(default = "upstream_ms")]
    pub(crate) upstream_ms: f64,
    /// So many times as much as the slowest connection to the registry the fastest gets: TCP shares a link evenly only
    /// in the long run. A node's share lies anywhere between, evenly on a logarithmic scale.
    #[serde(default = "even")]
    pub(crate) upstream_uneven: f64,
    /// One way between two nodes of a zone, in ms.
    #[serde(default = "latency_ms")]
    pub(crate) latency_ms: f64,
    /// Nodes are dealt to so many zones in turn.
    #[serde(default = "one_zone")]
    pub(crate) zones: u32,
    /// One way between two zones, in ms.
    #[serde(default = "between_zones_ms")]
    pub(crate) between_zones_ms: f64,
}

/// How one node is set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Node {
    /// The most uploads at once; one more is told "busy".
    pub(crate) upload_slots: usize,
    /// Layers that a client fetches at once.
    pub(crate) layers_at_once: usize,
    /// From a layer's last chunk to its proof.
    pub(crate) prove_ms: f64,
}

impl Default for Node {
    fn default() -> Self {
        Self { upload_slots: 32, layers_at_once: 3, prove_ms: 0.0 }
    }
}

/// Who begins when.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Arrivals {
    /// Begins are spread evenly over so long, in random order; 0 for all at once.
    pub(crate) spread_s: f64,
    /// So many nodes hold the image from the start, and do not pull.
    pub(crate) seeds: u32,
}

/// Who dies when.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Failures {
    /// Of all nodes, how many die.
    pub(crate) fraction: f64,
    /// The first death, in seconds.
    pub(crate) from_s: f64,
    /// The last death, in seconds.
    pub(crate) to_s: f64,
    /// Every layer's home is among the dead.
    pub(crate) homes: bool,
    /// They fall silent, as a machine without power does, and are found out by heartbeats; else their connections are
    /// reset at once, as those of a process that was killed.
    pub(crate) silent: bool,
}

/// What control costs. Costs of CPU are those of one core.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Control {
    /// Both ends of a new connection spend this: TLS, and the proof of membership.
    pub(crate) handshake_cpu_us: f64,
    /// Either end of a message spends this.
    pub(crate) message_cpu_us: f64,
    /// Either end of a chunk spends this to plan it, besides its message.
    pub(crate) chunk_cpu_us: f64,
    /// All nodes share so many cores, as a fleet on one machine does; 0 where each has one of its own.
    pub(crate) shared_cores: f64,
    /// So many connections a node has from the start, or to all others if they are fewer.
    pub(crate) connections: u32,
    /// A node takes no more.
    pub(crate) max_connections: u32,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            handshake_cpu_us: 1500.0,
            message_cpu_us: 20.0,
            chunk_cpu_us: 30.0,
            shared_cores: 0.0,
            connections: 1024,
            max_connections: 2048,
        }
    }
}

/// Other values for what the cores and the daemon are tuned by.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Core {
    /// Leases of one swarm at once.
    pub(crate) leases: Option<usize>,
    /// Chunks fetched in order ahead of the client.
    pub(crate) window: Option<u32>,
    /// The most asked of peers and not there yet.
    pub(crate) max_in_flight_mib: Option<f64>,
    /// How often followers are told news.
    pub(crate) tell_ms: Option<f64>,
}

fn one() -> u64 {
    1
}

fn one_zone() -> u32 {
    1
}

fn long() -> f64 {
    3600.0
}

fn upstream_ms() -> f64 {
    20.0
}

fn even() -> f64 {
    1.0
}

fn latency_ms() -> f64 {
    0.25
}

fn between_zones_ms() -> f64 {
    1.0
}

/// A time from a file.
pub(crate) fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms.max(0.0) / 1e3)
}

impl Scenario {
    /// Reads a file; `set` are values that replace those in it, by keys such as `core.leases`.
    pub(crate) fn read(path: &Path, set: &[(String, String)]) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let mut table: Table = text.parse().with_context(|| format!("in {}", path.display()))?;
        for (key, value) in set {
            replace(&mut table, key, value).with_context(|| format!("{key}={value}"))?;
        }
        table.try_into().with_context(|| format!("in {}", path.display()))
    }

    /// Says what makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!((2..=100_000).contains(&self.nodes), "nodes: from 2 to 100,000");
        ensure!((1..=64).contains(&self.layers_mib.len()), "layers_mib: from 1 to 64 layers");
        ensure!(self.layers_mib.iter().all(|&mib| mib > 0.0 && mib <= 1e6), "layers_mib: a layer has bytes");
        let rates = [self.links.up_mbit, self.links.down_mbit, self.links.upstream_mbit];
        ensure!(rates.into_iter().all(|rate| rate > 0.0), "links: rates are above 0");
        ensure!(self.links.upstream_uneven >= 1.0, "links.upstream_uneven: 1 or more");
        ensure!((1..=self.nodes).contains(&self.links.zones), "links.zones: from 1 to as many as nodes");
        ensure!(self.arrivals.seeds < self.nodes, "arrivals.seeds: fewer than nodes");
        ensure!((0.0..1.0).contains(&self.failures.fraction), "failures.fraction: from 0 to below 1");
        ensure!(self.failures.from_s <= self.failures.to_s, "failures: from_s is not after to_s");
        ensure!(self.node.upload_slots > 0 && self.node.layers_at_once > 0, "node: values are above 0");
        Ok(())
    }

    /// Each layer's size in bytes.
    pub(crate) fn layer_sizes(&self) -> Vec<u64> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be small")]
        self.layers_mib.iter().map(|mib| (mib * MIB) as u64).collect()
    }

    /// The image's size in bytes.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) fn image(&self) -> f64 {
        self.layer_sizes().into_iter().sum::<u64>() as f64
    }

    /// What a link of this rate carries, in bytes a second.
    pub(crate) fn carries(mbit: f64) -> f64 {
        mbit * 1e6 / 8.0 * (1.0 - HEADERS)
    }

    /// The least time from the first begin to the last end, if bytes were a fluid and headers nothing, in seconds.
    pub(crate) fn bound(&self) -> f64 {
        let bytes = |mbit: f64| mbit * 1e6 / 8.0;
        let (up, upstream) = (bytes(self.links.up_mbit), bytes(self.links.upstream_mbit));
        let seeds = f64::from(self.arrivals.seeds);
        let pullers = f64::from(self.nodes) - seeds;
        let image = self.image();
        [
            image / (upstream + seeds * up),
            self.arrivals.spread_s + image / bytes(self.links.down_mbit),
            pullers * image / (upstream + f64::from(self.nodes) * up),
        ]
        .into_iter()
        .fold(0.0, f64::max)
    }
}

fn replace(table: &mut Table, key: &str, value: &str) -> Result<()> {
    if let Some((first, rest)) = key.split_once('.') {
        let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
        return replace(inner.as_table_mut().context("not a table")?, rest, value);
    }
    // One line of TOML: the value as a file would have it.
    let line: Table = format!("value = {value}").parse()?;
    for (_, value) in line {
        table.insert(key.to_owned(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_mistakes_are_named() {
        let file = "nodes = 8\nlayers_mib = [1.0]\n[links]\nup_mbit = 8\ndown_mbit = 8\nupstream_mbit = 4";
        let mut scenario: Scenario = toml::from_str(file).unwrap();
        scenario.check().unwrap();
        assert!((scenario.bound() - 1_048_576.0 / 5e5).abs() < 1e-9);
        scenario.arrivals.seeds = 8;
        assert!(scenario.check().unwrap_err().to_string().contains("seeds"));
        assert!(toml::from_str::<Scenario>(&file.replace("nodes", "nods")).is_err());
        let mut table: Table = file.parse().unwrap();
        replace(&mut table, "nodes", "9").unwrap();
        replace(&mut table, "core.leases", "2").unwrap();
        let scenario: Scenario = table.try_into().unwrap();
        assert_eq!((scenario.nodes, scenario.core.leases), (9, Some(2)));
    }
}
