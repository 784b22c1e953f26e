//! Who follows a transfer: asks what it has, and is answered once it has something else, or after a second.

use std::time::Duration;

use shoal_proto::transfer::{Availability, Event as Happens};

use crate::clock::{At, Event};
use crate::fleet::{Blob, Fleet};
use crate::letter::Message;
use crate::scenario::millis;

/// How long one who follows waits for news.
const NEWS: Duration = Duration::from_secs(1);
/// A daemon tells news so often: what it has got of all layers since the last time.
const TELL_MS: f64 = 80.0;

#[derive(Debug)]
struct Waiting {
    follower: u32,
    asked: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Followers {
    waiting: Vec<Waiting>,
    /// When those who waited too long are looked for.
    due: Option<Duration>,
}

impl Followers {
    pub(crate) fn into_waiting(self) -> impl Iterator<Item = u32> {
        self.waiting.into_iter().map(|waiting| waiting.follower)
    }
}

impl Fleet {
    /// A peer asks what this node has.
    pub(crate) fn asked_what(&mut self, at: At, from: u32, known: Option<u32>) {
        let Some(known) = known else {
            let holding = self.holding(at);
            self.send(at, from, Message::Holding(holding, false));
            return;
        };
        if !matches!(self.blob(at), Blob::Running(_)) {
            let holding = self.holding(at);
            self.send(at, from, Message::Holding(holding, true));
            return;
        }
        let peer = self.membership.peers[from as usize];
        self.feed(at, Happens::Candidate(peer));
        let now = self.clock.now;
        let Some(running) = self.running(at) else { return };
        if running.have != known {
            self.tell_next_time(at, from);
            return;
        }
        running.followers.waiting.push(Waiting { follower: from, asked: now });
        if running.followers.due.is_none() {
            running.followers.due = Some(now + NEWS);
            self.clock.at(now + NEWS, Event::NewsDue(at));
        }
    }

    /// The follower is told the next time.
    pub(crate) fn tell_next_time(&mut self, at: At, follower: u32) {
        let every = self.scenario.core.tell_ms.unwrap_or(TELL_MS).max(1.0) / 1e3;
        // Nodes do not all tell in the same instant.
        let own = every * f64::from(at.node % 16) / 16.0;
        let ticks = ((self.clock.now.as_secs_f64() - own) / every).floor() + 1.0;
        self.clock.at(millis((ticks * every + own) * 1e3).max(self.clock.now), Event::News(at, follower));
    }

    pub(crate) fn tell_news(&mut self, at: At, follower: u32) {
        if self.node(at.node).alive {
            let holding = self.holding(at);
            self.send(at, follower, Message::Holding(holding, true));
        } else {
            let now = self.clock.now;
            self.follower_of_dead(At { node: follower, layer: at.layer }, at.node, now);
        }
    }

    /// Something new is stored.
    pub(crate) fn news(&mut self, at: At) {
        let Some(running) = self.running(at) else { return };
        for waiting in std::mem::take(&mut running.followers.waiting) {
            self.tell_next_time(at, waiting.follower);
        }
    }

    pub(crate) fn news_due(&mut self, at: At) {
        let now = self.clock.now;
        if !self.node(at.node).alive {
            return;
        }
        let Some(running) = self.running(at) else { return };
        let followers = &mut running.followers;
        let late: Vec<Waiting> =
            followers.waiting.extract_if(.., |waiting| waiting.asked + NEWS <= now).collect();
        followers.due = followers.waiting.iter().map(|waiting| waiting.asked + NEWS).min();
        if let Some(due) = followers.due {
            self.clock.at(due, Event::NewsDue(at));
        }
        for waiting in late {
            let holding = self.holding(at);
            self.send(at, waiting.follower, Message::Holding(holding, true));
        }
    }

    /// A peer said what it has, or nothing.
    pub(crate) fn told_what(&mut self, at: At, peer: u32, holding: Option<Availability>) {
        let peer = self.membership.peers[peer as usize];
        let event =
            holding.map_or(Happens::HasNothing(peer), |availability| Happens::Provider(peer, availability));
        self.feed(at, event);
    }

    /// A node died: those who followed it wait in vain.
    pub(crate) fn leave_followers(&mut self, at: At) {
        let Some(running) = self.running(at) else { return };
        for waiting in std::mem::take(&mut running.followers.waiting) {
            self.follower_of_dead(At { node: waiting.follower, layer: at.layer }, at.node, waiting.asked);
        }
    }
}
