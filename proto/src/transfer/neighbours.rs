//! Which peers' holdings a transfer follows: found, named by the home, or asking here themselves.

use std::time::Duration;

use libp2p_identity::PeerId;

use super::{Action, Discovery, MAX_DROPS, Provider, Transfer};

/// The most peers whose holdings are followed at a time.
pub(super) const MAX_NEIGHBOURS: usize = 32;
/// Of these, so many at most are the home's choice: the rest is for those who ask here. Whoever comes late is named to
/// nobody, and its uplink would stand idle.
pub(super) const MAX_NAMED_NEIGHBOURS: usize = 24;
/// Peers that come are looked for no sooner after the last search: upstream is asked meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A neighbour of no use is left no more often than this.
const LEAVE: Duration = Duration::from_millis(500);

impl Transfer {
    /// The home names a peer: asked, if there is room for one more of those.
    pub(super) fn named(&mut self, peer: PeerId, now: Duration, actions: &mut Vec<Action>) {
        if self.is_dropped(&peer) {
            // The home still counts on it.
            self.member.misses(peer, now);
        }
        self.consider(peer, MAX_NAMED_NEIGHBOURS, now, actions);
    }

    /// A peer that was found, or that follows this node: asked, if there is room.
    pub(super) fn candidate(&mut self, peer: PeerId, now: Duration, actions: &mut Vec<Action>) {
        self.consider(peer, MAX_NEIGHBOURS, now, actions);
    }

    /// Whether this peer is not asked for this blob any more.
    pub(super) fn is_dropped(&self, peer: &PeerId) -> bool {
        self.dropped.get(peer).is_some_and(|&times| times >= MAX_DROPS)
    }

    fn consider(&mut self, peer: PeerId, most: usize, now: Duration, actions: &mut Vec<Action>) {
        let known = self.providers.contains(&peer) || self.asking.contains(&peer);
        if known || self.is_dropped(&peer) || peer == self.member.homes.local {
            return;
        }
        let is_full = self.providers.len() + self.asking.len() >= most;
        if is_full && !self.make_room(now) {
            return;
        }
        self.asking.insert(peer);
        actions.push(Action::Ask { peer, known: 0 });
    }

    /// Leaves a neighbour that has nothing of use, if this node has nothing else to do: neighbours that all wait for
    /// the same chunks would wait for ever. One at a time, so that a swarm that waits for upstream keeps its
    /// neighbours.
    fn make_room(&mut self, now: Duration) -> bool {
        if !self.asked.is_empty() || now < self.left_at + LEAVE {
            return false;
        }
        let Some(useless) = self.providers.useless(&self.have) else { return false };
        self.providers.remove(&useless);
        self.left_at = now;
        true
    }

    /// Asks those who do not have everything yet what they have got meanwhile.
    pub(super) fn follow(&mut self, actions: &mut Vec<Action>) {
        self.providers.follow(|peer, known| actions.push(Action::Ask { peer, known }));
    }

    /// Looks for peers once more where none is known and nodes have come: a node that was frozen has lost them all, and
    /// would fetch from upstream what they have.
    pub(super) fn consider_newcomers(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.newcomers_due().is_some_and(|at| at <= now) {
            self.discover(actions);
        }
    }

    /// When peers are looked for once more, if nodes have come and none is known.
    pub(super) fn newcomers_due(&self) -> Option<Duration> {
        let Discovery::Ended(at) = self.discovery else { return None };
        (self.grown && self.providers.is_empty()).then_some(at + LOOK_AGAIN)
    }

    /// Looks for peers.
    pub(super) fn discover(&mut self, actions: &mut Vec<Action>) {
        self.grown = false;
        self.discovery = Discovery::Running;
        actions.push(Action::Discover);
    }

    pub(super) fn has_nothing(&mut self, peer: PeerId, now: Duration) {
        self.member.misses(peer, now);
        if self.providers.is_empty() {
            // Whoever was counted on is not there: the home hears of it at once.
            self.member.report_now();
        }
        self.asking.remove(&peer);
        if self.providers.get(&peer).is_none_or(Provider::is_partial) {
            self.providers.remove(&peer);
            *self.dropped.entry(peer).or_default() += 1;
        }
    }

    /// Says to the home, with the next report, that this peer was lost.
    pub(super) fn note_lost(&mut self, peer: PeerId, now: Duration) {
        self.member.lose(peer, now);
        if self.providers.is_empty() && self.discovery != Discovery::Running {
            self.member.report_now();
        }
    }
}
