//! Chunks from node to node: slots, the sender's uplink, the receiver's downlink.
//!
//! A chunk crosses the sender's uplink, which all its uploads share evenly, and then has its turn at the receiver's
//! downlink. A slot is taken until the sender hears that the chunk is there. Both links work at once: where the downlink
//! is free a chunk costs the time of one link. A full downlink does not slow the uplink down: what is in flight is
//! bounded by the core, as TCP bounds it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use shoal_proto::swarm::slots::{Admission, ChunkKey, Slots, Ticket};
use shoal_proto::transfer::{ChunkFailure, Event as Happens, RequestId};
use shoal_proto::wire::Refusal;

use crate::clock::{Event, Wanted};
use crate::fleet::{Blob, Fleet};
use crate::link::Link;

/// What one peer's requests are served at once: two lanes, each read two ahead.
const OF_ONE_PEER: u32 = 4;
/// A request that brings nothing for so long has stalled.
const STALLED: Duration = Duration::from_secs(4);
/// The word that a chunk is there waits in the asker's own queues, behind chunks that it sends: so long is what the
/// fleet benchmark's links let wait.
const BEHIND: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct Lanes {
    active: u32,
    waiting: VecDeque<Wanted>,
}

/// Numbers an upload: the asker's blob, and its request.
type UploadId = (u32, u8, RequestId);

fn id(wanted: Wanted) -> UploadId {
    (wanted.by.node, wanted.by.layer, wanted.id)
}

#[derive(Debug)]
pub(crate) struct Uploads {
    link: Link<Wanted>,
    slots: Slots,
    lanes: HashMap<u32, Lanes>,
    line: HashMap<Ticket, Wanted>,
    /// Since when slots are taken.
    taken: HashMap<UploadId, Duration>,
    /// Bytes of control that the next chunk waits for.
    control: f64,
}

impl Uploads {
    pub(crate) fn new(rate: f64, cap: f64, slots: usize) -> Self {
        Self {
            link: Link::new(rate, cap),
            slots: Slots::new(slots),
            lanes: HashMap::new(),
            line: HashMap::new(),
            taken: HashMap::new(),
            control: 0.0,
        }
    }

    /// The uplink carries these bytes of control as well.
    pub(crate) fn also(&mut self, bytes: f64) {
        self.control += bytes;
    }
}

impl Fleet {
    pub(crate) fn asked_for_chunk(&mut self, wanted: Wanted) {
        if !self.node(wanted.of).alive {
            self.is_gone(wanted);
            return;
        }
        let lanes = self.node(wanted.of).uploads.lanes.entry(wanted.by.node).or_default();
        if lanes.active >= OF_ONE_PEER {
            lanes.waiting.push_back(wanted);
        } else {
            self.serve(wanted);
        }
    }

    /// Serves a request or refuses it; says whether it takes a slot.
    fn serve(&mut self, wanted: Wanted) -> bool {
        let now = self.clock.now;
        let control = &self.scenario.control;
        let done = self.works(wanted.of, control.message_cpu_us + control.chunk_cpu_us);
        let back = done + self.membership.latency(wanted.of, wanted.by.node);
        let there = crate::clock::At { node: wanted.of, ..wanted.by };
        let has = match self.blob(there) {
            Blob::Held => true,
            Blob::Running(running) => running.transfer.have().contains(wanted.chunk as usize),
            Blob::Absent | Blob::Failed => false,
        };
        if !has {
            self.clock.at(back, Event::Missing(wanted));
            return false;
        }
        let key = self.chunk_key(wanted);
        let uploads = &mut self.node(wanted.of).uploads;
        match uploads.slots.ask(key) {
            Err(refusal) => {
                self.figures.was_busy(now);
                let refused = if refusal == Refusal::Sent { Event::Sent } else { Event::Busy };
                self.clock.at(back, refused(wanted));
                return false;
            }
            Ok(Admission::Wait(ticket)) => {
                uploads.line.insert(ticket, wanted);
            }
            Ok(Admission::Now) => self.upload(wanted),
        }
        self.node(wanted.of).uploads.lanes.entry(wanted.by.node).or_default().active += 1;
        true
    }

    fn chunk_key(&self, wanted: Wanted) -> ChunkKey {
        ChunkKey::of(&self.layer(wanted.by).key.digest, wanted.chunk)
    }

    /// A slot is taken.
    fn upload(&mut self, wanted: Wanted) {
        let now = self.clock.now;
        let bytes = self.layer(wanted.by).bytes_of(wanted.chunk);
        let uploads = &mut self.node(wanted.of).uploads;
        let control = std::mem::take(&mut uploads.control);
        uploads.link.begin(bytes + control, wanted, now);
        uploads.taken.insert(id(wanted), now);
        self.watch_uplink(wanted.of);
    }

    fn watch_uplink(&mut self, node: u32) {
        if let Some(due) = self.node(node).uploads.link.watch() {
            self.clock.at(due, Event::Uplink(node));
        }
    }

    pub(crate) fn uplink(&mut self, node: u32) {
        let now = self.clock.now;
        self.node(node).uploads.link.looked(now);
        while let Some(wanted) = self.node(node).uploads.link.ended(now) {
            let bytes = self.layer(wanted.by).bytes_of(wanted.chunk);
            let sent = now + self.membership.latency(node, wanted.by.node);
            let there = self.received(wanted.by.node, bytes, sent);
            let same_zone = self.membership.same_zone(node, wanted.by.node);
            self.figures.between_peers(bytes, same_zone, now);
            let works = self.scenario.control.chunk_cpu_us;
            let backlog = self.works(wanted.by.node, works).saturating_sub(now);
            self.clock.at(there + backlog, Event::Chunk(wanted));
            let uploads = &mut self.node(node).uploads;
            if let Some(lanes) = uploads.lanes.get_mut(&wanted.by.node) {
                lanes.active -= 1;
            }
            self.next_of_peer(node, wanted.by.node);
        }
        self.watch_uplink(node);
    }

    /// The asker has it: its slot is free for who is next in line.
    pub(crate) fn upload_is_over(&mut self, wanted: Wanted) {
        let (now, node, key) = (self.clock.now, wanted.of, self.chunk_key(wanted));
        self.works(node, self.scenario.control.message_cpu_us);
        let uploads = &mut self.node(node).uploads;
        let Some(began) = uploads.taken.remove(&id(wanted)) else { return };
        uploads.slots.release(key, Some(now.saturating_sub(began)));
        while let Some(ticket) = self.node(node).uploads.slots.admit() {
            let next = self.node(node).uploads.line.remove(&ticket);
            if let Some(next) = next {
                self.upload(next);
            }
        }
    }

    /// A peer's next request has its turn, and those after it if it is refused.
    fn next_of_peer(&mut self, node: u32, peer: u32) {
        loop {
            let all = &mut self.node(node).uploads.lanes;
            let Some(lanes) = all.get_mut(&peer) else { return };
            let Some(wanted) = lanes.waiting.pop_front() else {
                if lanes.active == 0 {
                    all.remove(&peer);
                }
                return;
            };
            if self.serve(wanted) {
                return;
            }
        }
    }

    /// The answer to a chunk request is there.
    pub(crate) fn chunk_answered(&mut self, event: Event) {
        let (wanted, failure) = match event {
            Event::Chunk(wanted) => (wanted, None),
            Event::Busy(wanted) => (wanted, Some(ChunkFailure::Busy)),
            Event::Sent(wanted) => (wanted, Some(ChunkFailure::Sent)),
            Event::Missing(wanted) => (wanted, Some(ChunkFailure::Missing)),
            Event::Gone(wanted) => (wanted, Some(ChunkFailure::Gone)),
            _ => return,
        };
        let at = wanted.by;
        let alive = self.node(at.node).alive;
        if failure.is_none() {
            // A dead one says nothing: its sender gives up.
            let after = if alive { self.membership.latency(at.node, wanted.of) + BEHIND } else { STALLED };
            self.clock.at(self.clock.now + after, Event::Received(wanted));
        }
        if !alive {
            return;
        }
        if failure.is_none() {
            self.works(at.node, self.scenario.control.message_cpu_us);
        }
        let bytes = self.layer(at).bytes_of(wanted.chunk);
        let place = self.running(at).and_then(|running| {
            let place = running.asked.iter().position(|&asked| asked == wanted.id)?;
            Some(running.asked.swap_remove(place))
        });
        if place.is_none() {
            // Nobody waits for it any more.
            self.figures.wasted += if failure.is_none() { bytes } else { 0.0 };
            return;
        }
        let Some(failure) = failure else {
            self.feed(at, Happens::Chunk(wanted.id));
            self.after_chunk(at);
            return;
        };
        self.feed(at, Happens::ChunkFailed(wanted.id, failure));
    }

    /// Nobody is there to serve it.
    fn is_gone(&mut self, wanted: Wanted) {
        let latency = self.membership.latency(wanted.of, wanted.by.node);
        let wait = if self.scenario.failures.silent { STALLED } else { latency };
        self.clock.at(self.clock.now + wait, Event::Gone(wanted));
    }

    /// A node died: what it was asked for does not come.
    pub(crate) fn drop_uploads(&mut self, node: u32) {
        let now = self.clock.now;
        let uploads = &mut self.node(node).uploads;
        let mut lost: Vec<Wanted> =
            uploads.link.stop(now, |_| true).into_iter().map(|(_, wanted)| wanted).collect();
        uploads.taken.clear();
        let mut line: Vec<(Ticket, Wanted)> = uploads.line.drain().collect();
        line.sort_unstable_by_key(|(ticket, _)| *ticket);
        lost.extend(line.into_iter().map(|(_, wanted)| wanted));
        let mut waiting: Vec<(u32, Lanes)> = uploads.lanes.drain().collect();
        // A map's order is not the seed's.
        waiting.sort_unstable_by_key(|(peer, _)| *peer);
        lost.extend(waiting.into_iter().flat_map(|(_, lanes)| lanes.waiting));
        for wanted in lost {
            self.is_gone(wanted);
        }
    }
}
