//! Nodes that die in the middle of it.

use std::time::Duration;

use crate::clock::{At, Event};
use crate::fleet::{Blob, Fleet};
use crate::scenario::millis;

/// So late an answer to a heartbeat may be. A machine that fell silent is found out after two of these and the interval
/// between two heartbeats at the soonest, and that interval later at the latest.
const LIMIT: Duration = Duration::from_millis(1500);
/// A daemon's connections beyond so many have fewer heartbeats, within these limits in seconds.
const QUICK: f64 = 64.0;
const INTERVAL: (f64, f64) = (1.0, 15.0);

impl Fleet {
    /// Says who dies, and when.
    pub(crate) fn doom(&mut self) {
        let failures = self.scenario.failures.clone();
        let mut order: Vec<u32> = (0..self.scenario.nodes).collect();
        self.dice.shuffle(&mut order);
        if failures.homes {
            let layers = &self.layers;
            order.sort_by_key(|&node| !layers.iter().any(|layer| layer.places[node as usize] == 0));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "below the number of nodes"
        )]
        let count = (f64::from(self.scenario.nodes) * failures.fraction).round() as usize;
        for node in order.into_iter().take(count) {
            let at = failures.from_s + (failures.to_s - failures.from_s) * self.dice.fraction();
            self.clock.at(millis(at * 1e3), Event::Dies(node));
        }
    }

    pub(crate) fn dies(&mut self, dead: u32) {
        let node = self.node(dead);
        node.alive = false;
        let failed = node.blobs.iter().any(|blob| matches!(blob, Blob::Failed));
        if !node.seed && node.ended.is_none() && !failed {
            self.left -= 1;
        }
        self.figures.died += 1;
        for layer in 0..u8::try_from(self.layers.len()).unwrap_or(u8::MAX) {
            self.leave_followers(At { node: dead, layer });
        }
        self.drop_uploads(dead);
        self.drop_fetches(dead);
        let wait = if self.scenario.failures.silent {
            let connections = self.scenario.nodes.min(self.scenario.control.connections);
            let interval = (f64::from(connections) / QUICK).clamp(INTERVAL.0, INTERVAL.1);
            LIMIT * 2 + millis(1e3 * interval * (1.0 + self.dice.fraction()))
        } else {
            millis(self.scenario.links.latency_ms)
        };
        self.clock.at(self.clock.now + wait, Event::Known(dead));
    }

    /// Everybody connected to a dead node knows by now.
    pub(crate) fn known_dead(&mut self, dead: u32) {
        self.membership.forget(dead);
        for node in 0..self.scenario.nodes {
            if self.node(node).alive {
                self.home_hears_down(node, dead);
            }
        }
        self.rank_without(dead);
    }
}
