//! Who is there when it begins, who holds the image already, and who pulls when.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::options::Options;

/// Between one node and the next, staggered.
const APART: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// All nodes run, and all pull in the same instant.
    AtOnce,
    /// All nodes run, and each pulls a moment after the one before.
    Staggered,
    /// All nodes run, one holds the image, and the others pull in the same instant.
    Seeded,
    /// Some nodes run. The others start in the same second in which all pull.
    ScaleUp,
    /// Some nodes run and hold the image. The others start, and pull, in the same second.
    ScaleUpHeld,
}

impl Arrival {
    pub(crate) const ALL: [Self; 5] =
        [Self::AtOnce, Self::Staggered, Self::Seeded, Self::ScaleUp, Self::ScaleUpHeld];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AtOnce => "at-once",
            Self::Staggered => "staggered",
            Self::Seeded => "seeded",
            Self::ScaleUp => "scale-up",
            Self::ScaleUpHeld => "scale-up-held",
        }
    }

    pub(crate) fn parse(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|arrival| arrival.name() == name) {
            Some(arrival) => Ok(arrival),
            None => bail!("no such arrival"),
        }
    }

    /// Whether nodes start while others pull.
    pub(crate) fn starts_nodes(self) -> bool {
        matches!(self, Self::ScaleUp | Self::ScaleUpHeld)
    }
}

impl Options {
    /// The first so many nodes run before anyone pulls.
    pub(crate) fn running(&self) -> usize {
        if self.arrival.starts_nodes() { self.warm } else { self.nodes }
    }

    /// The first so many nodes hold the image before the others pull.
    pub(crate) fn holders(&self) -> usize {
        match self.arrival {
            Arrival::Seeded => 1,
            Arrival::ScaleUpHeld => self.warm,
            Arrival::AtOnce | Arrival::Staggered | Arrival::ScaleUp => 0,
        }
    }

    /// The nodes that pull.
    pub(crate) fn pullers(&self) -> Range<usize> {
        self.holders()..self.nodes
    }

    /// How long after the first this node pulls.
    pub(crate) fn delay(&self, node: usize) -> Duration {
        let before = u32::try_from(node - self.holders()).unwrap_or(u32::MAX);
        if self.arrival == Arrival::Staggered { APART * before } else { Duration::ZERO }
    }
}
