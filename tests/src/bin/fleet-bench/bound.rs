//! What physics allows: how soon the last node can have the image if bytes were a fluid.
//!
//! Each bound is the largest of the times that no way of the kind can beat. Rates are those of the links, headers of
//! TCP, IP and Ethernet included, which take 5 % of them: so 1.05 is as near as anyone comes.

use crate::options::{Options, Way};

/// Everything is in bytes and seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fluid {
    /// The image.
    pub(crate) size: f64,
    /// The upstream's rate.
    pub(crate) upstream: f64,
    /// A node's rate, up and down.
    pub(crate) link: f64,
    /// How many nodes hold the image from the start.
    pub(crate) holders: f64,
    /// How many pull.
    pub(crate) pullers: f64,
    /// When the last of them begins.
    pub(crate) last: f64,
}

impl Fluid {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) fn of(options: &Options, size: u64) -> Self {
        let bytes = |megabits: u32| f64::from(megabits) * 1e6 / 8.0;
        Self {
            size: size as f64,
            upstream: bytes(options.upstream_rate),
            link: bytes(options.rate),
            holders: options.holders() as f64,
            pullers: options.pullers().len() as f64,
            last: options.delay(options.nodes - 1).as_secs_f64(),
        }
    }

    /// The least time, from the first pull's beginning to the last one's end, whoever gives to whom.
    pub(crate) fn fleet(self) -> f64 {
        let uploads = (self.holders + self.pullers) * self.link;
        [
            // Each byte leaves whoever has it at the start once.
            self.size / (self.upstream + self.holders * self.link),
            self.last + self.size / self.link,
            self.pullers * self.size / (self.upstream + uploads),
        ]
        .into_iter()
        .fold(0.0, f64::max)
    }

    /// The least time of one way.
    pub(crate) fn of_way(self, way: Way) -> f64 {
        let down = self.last + self.size / self.link;
        let all = self.pullers * self.size;
        match way {
            Way::Shoal => self.fleet(),
            Way::Direct => down.max(all / self.upstream),
            Way::Cache if self.holders > 0.0 => down.max(all / self.link),
            Way::Cache => down.max(all / self.link).max(self.size / self.upstream),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_part_is_the_bound() {
        let fluid = Fluid { size: 100.0, upstream: 10.0, link: 10.0, holders: 0.0, pullers: 8.0, last: 0.0 };
        let is = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
        is(fluid.fleet(), 10.0);
        is(fluid.of_way(Way::Direct), 80.0);
        is(Fluid { upstream: 1.0, ..fluid }.fleet(), 100.0);
        is(Fluid { upstream: 1.0, holders: 1.0, ..fluid }.fleet(), 10.0);
        is(Fluid { last: 3.5, ..fluid }.fleet(), 13.5);
    }
}
