//! The driver of one node's transfer of one layer: the very core that the daemon drives, under virtual time.

use std::time::Duration;

use shoal_proto::transfer::{
    Action, Availability, Event as Happens, Homes, Options, ReaderId, ReportId, RequestId, Transfer,
};

use crate::clock::{At, Event, Wanted};
use crate::fleet::{Blob, Fleet};
use crate::follow::Followers;
use crate::letter::{Message, REPORT};
use crate::scenario::millis;
use crate::search::Search;

/// Candidates for a blob's home that a daemon ranks.
const CANDIDATES: usize = 4;
/// A chunk request on the wire, in bytes, its envelope included.
const REQUEST_BYTES: usize = 120;
/// The last report needs no answer.
const FAREWELL: ReportId = ReportId(u64::MAX);
const READER: ReaderId = ReaderId(0);

#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) transfer: Transfer,
    wake: Option<Duration>,
    /// How many chunks are stored.
    pub(crate) have: u32,
    /// What the client waits for.
    reader: u32,
    /// Since when.
    waiting_since: Duration,
    /// Chunks asked of peers, and still of use.
    pub(crate) asked: Vec<RequestId>,
    pub(crate) followers: Followers,
    pub(crate) search: Search,
    /// Who was ranked the closest.
    homes: Vec<u32>,
}

impl Fleet {
    /// A client wants a layer.
    pub(crate) fn start(&mut self, at: At) {
        let closest = self.membership.closest(at.node, &self.layer(at).places, CANDIDATES);
        let homes = self.homes(at.node, &closest);
        let core = self.scenario.core.clone();
        let usual = Options::default();
        let options = Options {
            window: core.window.unwrap_or(usual.window),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few MiB")]
            max_in_flight: core
                .max_in_flight_mib
                .map_or(usual.max_in_flight, |mib| (mib * 1024.0 * 1024.0) as u64),
            seed: self.dice.next(),
            ..usual
        };
        let (layout, have) = (self.layer(at).layout, self.nothing_of(at));
        let (transfer, actions) = Transfer::start(layout, have, homes, options, self.clock.now);
        *self.blob(at) = Blob::Running(Box::new(Running {
            transfer,
            wake: None,
            have: 0,
            reader: 0,
            waiting_since: self.clock.now,
            asked: Vec::new(),
            followers: Followers::default(),
            search: Search::default(),
            homes: closest,
        }));
        self.perform(at, actions);
        self.feed(at, Happens::ReaderAt(READER, 0));
    }

    fn homes(&self, node: u32, closest: &[u32]) -> Homes {
        let peer = |number: &u32| self.membership.peers[*number as usize];
        Homes {
            local: peer(&node),
            closest: closest.iter().map(peer).collect(),
            fleet: self.membership.fleet(node),
        }
    }

    /// A node is gone: those that had ranked it do so again.
    pub(crate) fn rank_without(&mut self, gone: u32) {
        for node in 0..self.scenario.nodes {
            for layer in 0..u8::try_from(self.layers.len()).unwrap_or(u8::MAX) {
                let at = At { node, layer };
                if !self.nodes[node as usize].alive
                    || !self.running(at).is_some_and(|running| running.homes.contains(&gone))
                {
                    continue;
                }
                let closest = self.membership.closest(node, &self.layer(at).places, CANDIDATES);
                let homes = self.homes(node, &closest);
                if let Some(running) = self.running(at) {
                    running.homes = closest;
                }
                self.feed(at, Happens::Homes(homes));
            }
        }
    }

    /// Has the core decide, and carries it out.
    pub(crate) fn feed(&mut self, at: At, event: Happens) {
        let now = self.clock.now;
        if !self.nodes[at.node as usize].alive {
            return;
        }
        let Some(running) = self.running(at) else { return };
        let actions = running.transfer.handle(event, now);
        self.perform(at, actions);
    }

    fn perform(&mut self, at: At, actions: Vec<Action>) {
        let now = self.clock.now;
        for action in actions {
            match action {
                Action::Discover => self.discover(at),
                Action::Report { id, to, report } => {
                    self.clock.at(now + REPORT, Event::ReportDue(at, id));
                    self.send(at, number(&to), Message::Report(id, report));
                }
                Action::Ask { peer, known } => self.send(at, number(&peer), Message::Ask(Some(known))),
                Action::Request { id, peer, chunk } => self.request(at, id, number(&peer), chunk),
                Action::Cancel(id) => {
                    if let Some(running) = self.running(at) {
                        running.asked.retain(|&asked| asked != id);
                    }
                }
                Action::FetchUpstream { id, chunks } => self.fetch_upstream(at, id, chunks),
                Action::StopUpstream(id) => self.stop_upstream(at, id),
                Action::SetTimer(due) => {
                    if let Some(running) = self.running(at) {
                        running.wake = Some(due.max(now));
                        self.clock.at(due, Event::Wake(at));
                    }
                }
                Action::Blame(..) => self.figures.blames += 1,
                // Disks and peers are sound here.
                Action::Forget(_) => {}
                Action::Finish => self.clock.at(now + millis(self.scenario.node.prove_ms), Event::Proven(at)),
                Action::Fail(_) => self.failed(at),
            }
        }
    }

    fn request(&mut self, at: At, id: RequestId, of: u32, chunk: u32) {
        let wanted = Wanted { by: at, of, chunk, id };
        if let Some(running) = self.running(at) {
            running.asked.push(id);
        }
        self.figures.sent(at.node, of, REQUEST_BYTES);
        match self.route(at.node, of, self.scenario.control.message_cpu_us) {
            Ok(there) => self.clock.at(there, Event::Serve(wanted)),
            Err(found_out) => self.clock.at(found_out, Event::Gone(wanted)),
        }
    }

    pub(crate) fn wakes(&mut self, at: At) {
        let now = self.clock.now;
        let due = self.running(at).and_then(|running| running.wake.take_if(|wake| *wake == now)).is_some();
        if due {
            self.feed(at, Happens::Timer);
        }
    }

    /// A chunk may have been stored: the client and those who follow learn of it.
    pub(crate) fn after_chunk(&mut self, at: At) {
        let now = self.clock.now;
        let Some(running) = self.running(at) else { return };
        let count = running.transfer.have().len();
        // At most 2^18 chunks.
        let have = u32::try_from(count - running.transfer.missing()).unwrap_or(u32::MAX);
        if have == running.have {
            return;
        }
        running.have = have;
        let before = running.reader;
        while running.transfer.have().contains(running.reader as usize) {
            running.reader += 1;
        }
        let reader = running.reader;
        if reader > before {
            let waited = now.saturating_sub(std::mem::replace(&mut running.waiting_since, now));
            // Before its first byte a client waits for longer.
            if before > 0 {
                self.figures.longest_wait = self.figures.longest_wait.max(waited);
            } else if at.layer == 0 {
                self.figures
                    .first_bytes
                    .extend(self.nodes[at.node as usize].began.map(|began| now.saturating_sub(began)));
            }
            if (reader as usize) < count {
                self.feed(at, Happens::ReaderAt(READER, reader));
            }
        }
        self.news(at);
    }

    pub(crate) fn proven(&mut self, at: At) {
        if !self.nodes[at.node as usize].alive {
            return;
        }
        let Blob::Running(running) = std::mem::replace(self.blob(at), Blob::Held) else { return };
        if let Some((home, report)) = running.transfer.farewell(true) {
            self.send(at, number(&home), Message::Report(FAREWELL, report));
        }
        for follower in running.followers.into_waiting() {
            self.tell_next_time(at, follower);
        }
        self.recorded(at);
        self.held(at.node);
    }

    /// What is stored of a layer here.
    pub(crate) fn holding(&mut self, at: At) -> Option<Availability> {
        match self.blob(at) {
            Blob::Held => Some(Availability::Complete),
            Blob::Running(running) => Some(Availability::Partial(running.transfer.have().clone())),
            Blob::Absent | Blob::Failed => None,
        }
    }
}

/// Which node this is.
pub(crate) fn number(peer: &shoal_proto::identity::PeerId) -> u32 {
    crate::membership::Membership::number(peer)
}
