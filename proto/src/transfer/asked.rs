//! A chunk that was asked of a peer.

use std::time::Duration;

use libp2p_identity::PeerId;

use super::{RequestId, Transfer};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) peer: PeerId,
    pub(super) chunk: u32,
    pub(super) at: Duration,
    /// When this is later than its peer's rate promises.
    pub(super) overdue: Duration,
}

impl Asked {
    /// Halfway to overdue: for a reader that starves another peer is asked then.
    pub(super) fn half_overdue(&self) -> Duration {
        self.at + self.overdue.saturating_sub(self.at) / 2
    }
}

impl Transfer {
    /// What these requests are, of those that are under way.
    pub(super) fn under_way<'a>(&'a self, requests: &'a [RequestId]) -> impl Iterator<Item = &'a Asked> {
        requests.iter().filter_map(|request| self.asked.get(request))
    }
}
