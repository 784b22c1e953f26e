//! The command line.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use shoal_tests::registry::Kind;

use crate::arrival::Arrival;

pub(crate) const MIB: u64 = 1 << 20;

const USAGE: &str = "\
fleet-bench: a fleet of real nodes behind shaped links pulls one image at once (as root, on Linux)

  --nodes N           how many nodes (8)
  --rate MBIT         each node's link, and the cache's, in Mbit/s each way (200)
  --upstream-rate M   the registry's link (200)
  --mib N             the image's size (128)
  --layers N          in so many layers of the same size (4)
  --arrival WHAT      at-once: all pull in the same instant (the default)
                      staggered: each 0.5 s after the one before
                      seeded: at once, but one node already holds the image
                      scale-up: --warm nodes run; the others start, and all pull, in the same second
                      scale-up-held: as scale-up, and the warm nodes hold the image and do not pull
  --warm N            how many nodes scale-up begins with (8)
  --no-range          the upstream ignores Range
  --registry WHICH    debian (docker-registry 2.8, the default) or distribution (3.1)
  --only WAYS         of shoal,direct,cache, separated by commas: leave the others out
  --keep-logs DIR     copy the nodes' logs there before everything is removed";

/// A way of pulling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through the gateway of each client's own node.
    Shoal,
    /// From the registry.
    Direct,
    /// Through one pull-through cache.
    Cache,
}

impl Way {
    const ALL: [Self; 3] = [Self::Shoal, Self::Direct, Self::Cache];

    fn name(self) -> &'static str {
        match self {
            Self::Shoal => "shoal",
            Self::Direct => "direct",
            Self::Cache => "cache",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Shoal => "through Shoal",
            Self::Direct => "directly",
            Self::Cache => "through one cache",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) nodes: usize,
    pub(crate) rate: u32,
    pub(crate) upstream_rate: u32,
    pub(crate) mib: u64,
    pub(crate) layers: u64,
    pub(crate) arrival: Arrival,
    pub(crate) warm: usize,
    pub(crate) range: bool,
    pub(crate) registry: Kind,
    pub(crate) ways: Vec<Way>,
    pub(crate) keep_logs: Option<std::path::PathBuf>,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            nodes: 8,
            rate: 200,
            upstream_rate: 200,
            mib: 128,
            layers: 4,
            arrival: Arrival::AtOnce,
            warm: 8,
            range: true,
            registry: Kind::Debian,
            ways: Way::ALL.to_vec(),
            keep_logs: None,
        };
        while let Some(argument) = arguments.next() {
            if argument == "--no-range" {
                options.range = false;
                continue;
            }
            if ["--help", "-h"].contains(&argument.as_str()) {
                bail!("{USAGE}");
            }
            let value = arguments.next();
            let set = value.context("a value is missing").and_then(|value| options.set(&argument, &value));
            set.with_context(|| format!("{argument}\n\n{USAGE}\n"))?;
        }
        options.check()?;
        Ok(options)
    }

    fn set(&mut self, argument: &str, value: &str) -> Result<()> {
        match argument {
            "--nodes" => self.nodes = value.parse()?,
            "--rate" => self.rate = value.parse()?,
            "--upstream-rate" => self.upstream_rate = value.parse()?,
            "--mib" => self.mib = value.parse()?,
            "--layers" => self.layers = value.parse()?,
            "--arrival" => self.arrival = Arrival::parse(value)?,
            "--warm" => self.warm = value.parse()?,
            "--registry" => {
                self.registry = match value {
                    "debian" => Kind::Debian,
                    "distribution" => Kind::Distribution,
                    _ => bail!("no such registry"),
                }
            }
            "--only" => {
                let way = |name| Way::ALL.into_iter().find(|way| way.name() == name);
                let ways = value.split(',').map(|name| way(name).with_context(|| format!("no way {name}")));
                self.ways = ways.collect::<Result<_>>()?;
            }
            "--keep-logs" => self.keep_logs = Some(value.into()),
            _ => bail!("not known"),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        ensure!((2..=200).contains(&self.nodes), "--nodes is from 2 to 200");
        ensure!(self.rate > 0 && self.upstream_rate > 0, "rates are above 0");
        ensure!(self.mib > 0 && (1..=100).contains(&self.layers), "an image has bytes, in 1 to 100 layers");
        ensure!(
            (1..self.nodes).contains(&self.warm) || !self.arrival.starts_nodes(),
            "--warm is below --nodes"
        );
        Ok(())
    }

    /// How long one way may take: three times what all copies take over the slowest link, and a minute.
    pub(crate) fn patience(&self) -> Duration {
        let bits = (self.nodes as u64).saturating_mul(self.mib * MIB * 8);
        let slowest = u64::from(self.rate.min(self.upstream_rate)) * 1_000_000;
        Duration::from_mins(1) + Duration::from_secs(3 * bits / slowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_line_is_read_and_mistakes_are_named() {
        let options = parse("--nodes 16 --no-range --only shoal,direct --arrival seeded").unwrap();
        assert_eq!((options.nodes, options.range), (16, false));
        assert_eq!(options.ways, [Way::Shoal, Way::Direct]);
        for (line, said) in [("--nods 3", "--nods"), ("--nodes", "missing"), ("--nodes 1", "--nodes is")] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
