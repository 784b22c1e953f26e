//! The sans-IO core of one blob's transfer: which chunk is asked of whom, and when upstream is.
//!
//! ```text
//! gateway: GET blob ─► node: fetch driver ─► Transfer::handle(event, now) ─► actions
//!                        │  ▲                                               │
//!                        │  └── chunk stored / refused / peer found / timer ┘
//!                        └── Request chunk of peer · FetchUpstream range · Discover · SetTimer · Finish
//! ```
//!
//! [`Transfer`] owns what is known of one blob: which chunks are held, who has which, what is in flight, where
//! its readers stand. It performs nothing. The driver feeds it [`Event`]s and carries out [`Action`]s, which
//! hold ids and ranges and never blob bytes. Time is a [`Duration`] since any fixed instant.
//!
//! Its rules:
//! - A chunk is asked of a peer that says it has it, one in this node's zone before others; the window ahead of a
//!   reader comes first (in order where all peers have everything, else the rarest first), then the chunks that fewest
//!   peers have.
//! - What a reader has waited for too long goes before all that, and little else is asked for meanwhile: `starving.rs`.
//! - How many chunks are in flight at a peer follows its measured rate, and all of them together a byte bound.
//! - A peer that stalls, disappears or lies costs the chunks asked of it: they are asked of another. A chunk
//!   that takes much longer than its peer's rate promises is asked of a second peer as well, then of a third.
//! - Upstream is asked only under a lease of the blob's home (see [`crate::swarm`]), for what no usable peer has, and
//!   only once discovery has had its time. What peers bring meanwhile shortens the range.
//! - The home is told once a second how things stand. One that does not answer is followed by the next closest; only
//!   a node that reaches none of them becomes its own home, after a wait that grows with the fleet.
//! - A digest that does not come out has the blob fetched once more, in a round of its own: see `repair.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fixedbitset::FixedBitSet;
use libp2p_identity::PeerId;

use crate::chunk::ChunkLayout;

mod asked;
mod doubt;
mod event;
mod member;
mod neighbours;
mod pick;
mod provider;
mod providers;
mod readers;
mod repair;
mod starving;
mod upstream;

use asked::Asked;
pub use doubt::{Doubt, Verdict};
pub use event::{Action, Availability, ChunkFailure, Event, FetchId, Options, ReaderId, RequestId};
use member::Member;
pub use member::{Homes, ReportId};
use provider::Provider;
use providers::Providers;
use readers::Readers;
use repair::Repair;
use upstream::Upstream;
pub use upstream::UpstreamFailure;

/// How often a peer may go away and come back within one transfer.
const MAX_DROPS: u32 = 3;
/// How often chunks that a disk damaged are fetched again.
const MAX_LOSSES: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Discovery {
    /// Not needed so far: the home knows who takes part.
    Idle,
    Running,
    Ended(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fetching,
    /// [`Action::Finish`] was given.
    Proving,
    /// [`Action::Fail`] was given.
    Failed,
}

/// One blob's transfer.
#[derive(Debug)]
pub struct Transfer {
    layout: ChunkLayout,
    options: Options,
    have: FixedBitSet,
    providers: Providers,
    /// How often each peer was dropped: who stalled, lied or claimed too much is not asked for this blob again,
    /// who went away may come back a few times.
    dropped: BTreeMap<PeerId, u32>,
    asked: BTreeMap<RequestId, Asked>,
    /// The requests for each chunk in flight.
    flights: BTreeMap<u32, Vec<RequestId>>,
    /// The chunks that are stored or in flight, for the picker.
    taken: FixedBitSet,
    upstream: Upstream,
    member: Member,
    /// Peers not known yet that were asked what they have and have not answered.
    asking: BTreeSet<PeerId>,
    /// When a neighbour was left for another.
    left_at: Duration,
    readers: Readers,
    discovery: Discovery,
    /// More nodes are live than when peers were last looked for.
    grown: bool,
    repair: Repair,
    /// How often the disk has lost chunks.
    losses: u32,
    phase: Phase,
    next_request: u64,
    /// No chunk below this is missing.
    first_missing: u32,
    timer: Option<Duration>,
}

impl Transfer {
    /// A transfer of a blob of which `have` is already stored, and its first actions.
    pub fn start(
        layout: ChunkLayout,
        have: FixedBitSet,
        homes: Homes,
        options: Options,
        now: Duration,
    ) -> (Self, Vec<Action>) {
        let mut have = have;
        have.grow(layout.count() as usize);
        let taken = have.clone();
        let mut transfer = Self {
            layout,
            options,
            have,
            providers: Providers::new(layout.count()),
            dropped: BTreeMap::new(),
            asked: BTreeMap::new(),
            flights: BTreeMap::new(),
            taken,
            upstream: Upstream::default(),
            member: Member::new(homes, options.seed),
            asking: BTreeSet::new(),
            left_at: now,
            readers: Readers::default(),
            discovery: Discovery::Idle,
            grown: false,
            repair: Repair::default(),
            losses: 0,
            phase: Phase::Fetching,
            next_request: 0,
            first_missing: 0,
            timer: None,
        };
        let mut actions = Vec::new();
        transfer.plan(now, &mut actions);
        (transfer, actions)
    }

    /// Takes an event, says what to do about it. What is said of requests and fetches that are over does no harm:
    /// the driver need not keep order between what it cancels and what still arrives. A chunk that a stopped fetch
    /// has stored counts.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Provider(peer, availability) => {
                self.asking.remove(&peer);
                self.provider_found(peer, availability, now);
            }
            Event::Candidate(peer) => self.candidate(peer, now, &mut actions),
            Event::HasNothing(peer) => self.has_nothing(peer, now),
            Event::Homes(homes) => {
                self.grown |= homes.fleet > self.member.homes.fleet;
                self.member.homes(homes);
            }
            Event::Reported(id, standing) => self.reported(id, standing, now, &mut actions),
            Event::UpstreamWhole(fetch) => {
                if self.upstream.is_running(fetch) {
                    self.upstream.extend(self.layout.count());
                    self.member.whole();
                }
            }
            Event::DiscoveryEnded => self.discovery = Discovery::Ended(now),
            Event::Chunk(request) => self.chunk_arrived(request, now, &mut actions),
            Event::ChunkFailed(request, failure) => self.chunk_failed(request, failure, now, &mut actions),
            Event::UpstreamChunk(fetch, chunk) => self.upstream_chunk(fetch, chunk, &mut actions),
            Event::UpstreamEnded(fetch, result) => {
                if let Some(failure) = self.upstream.ended(fetch, result) {
                    self.member.failed(failure);
                }
            }
            Event::ReaderAt(reader, chunk) => {
                self.readers.at(reader, chunk, now);
            }
            Event::ReaderGone(reader) => {
                self.readers.gone(reader);
            }
            Event::Lost(chunks) => self.lost(&chunks, &mut actions),
            Event::Mismatch(signers) => self.mismatch(signers, &mut actions),
            Event::Timer => self.timer = None,
        }
        self.plan(now, &mut actions);
        actions
    }

    /// A peer is in this node's zone: from its next event on, what it has is asked of it before others.
    pub fn near(&mut self, peer: PeerId) {
        self.providers.near(peer);
    }

    /// Which chunks are stored.
    pub fn have(&self) -> &FixedBitSet {
        &self.have
    }

    /// How many chunks are not stored.
    pub fn missing(&self) -> usize {
        self.layout.count() as usize - self.have.count_ones(..)
    }

    fn has(&self, chunk: u32) -> bool {
        self.have.contains(chunk as usize)
    }

    fn provider_found(&mut self, peer: PeerId, availability: Availability, now: Duration) {
        if self.is_dropped(&peer) {
            return;
        }
        let availability = match availability {
            // A bitmap of another length speaks of a blob of another size.
            Availability::Partial(chunks) if chunks.len() != self.layout.count() as usize => return,
            availability => availability,
        };
        if availability == Availability::Complete {
            if !self.repair.is_believed(&peer) {
                // What it gives would be on its own word.
                self.has_nothing(peer, now);
                return;
            }
            // From here on this peer can bring everything: upstream finishes the chunk it is at.
            self.upstream.yield_rest();
        }
        self.providers.tell(peer, availability);
    }

    fn store(&mut self, chunk: u32, actions: &mut Vec<Action>) {
        self.have.insert(chunk as usize);
        self.taken.insert(chunk as usize);
        // Whoever else was asked for it need not answer.
        for request in self.flights.remove(&chunk).unwrap_or_default() {
            if let Some(asked) = self.asked.remove(&request) {
                self.providers.cancelled(&asked.peer);
                actions.push(Action::Cancel(request));
            }
        }
    }

    /// Takes a request out of the books.
    fn settle(&mut self, request: RequestId) -> Option<Asked> {
        let asked = self.asked.remove(&request)?;
        if let Some(requests) = self.flights.get_mut(&asked.chunk) {
            requests.retain(|&other| other != request);
            if requests.is_empty() {
                self.flights.remove(&asked.chunk);
                self.taken.set(asked.chunk as usize, self.has(asked.chunk));
            }
        }
        Some(asked)
    }

    fn chunk_arrived(&mut self, request: RequestId, now: Duration, actions: &mut Vec<Action>) {
        let Some(asked) = self.settle(request) else { return };
        let bytes = self.layout.range(asked.chunk).map_or(0, crate::range::ByteRange::len);
        self.providers.arrived(&asked.peer, bytes, now.saturating_sub(asked.at), now);
        self.member.fed();
        self.store(asked.chunk, actions);
    }

    fn chunk_failed(
        &mut self,
        request: RequestId,
        failure: ChunkFailure,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(asked) = self.settle(request) else { return };
        let Some(keep) = self.providers.failed(&asked.peer, asked.chunk, failure, now) else { return };
        if failure == ChunkFailure::Disbelieved {
            // The home may have sent somebody upstream of whom this node has not heard yet.
            self.member.report_soon(now);
        }
        if !failure.is_innocent() {
            actions.push(Action::Blame(asked.peer, failure));
        }
        if !keep {
            self.providers.remove(&asked.peer);
            self.note_lost(asked.peer, now);
            let weight = if failure == ChunkFailure::Gone { 1 } else { MAX_DROPS };
            *self.dropped.entry(asked.peer).or_default() += weight;
            // What else it was asked for will not come either.
            let lost: Vec<_> =
                self.asked.iter().filter(|(_, other)| other.peer == asked.peer).map(|(&id, _)| id).collect();
            for id in lost {
                self.settle(id);
                actions.push(Action::Cancel(id));
            }
        }
    }

    fn lost(&mut self, chunks: &[u32], actions: &mut Vec<Action>) {
        if self.losses >= MAX_LOSSES || chunks.is_empty() {
            // A disk that damages what was just repaired.
            self.phase = Phase::Failed;
            actions.push(Action::Fail(None));
            return;
        }
        self.losses += 1;
        self.phase = Phase::Fetching;
        self.first_missing = 0;
        for &chunk in chunks.iter().filter(|&&chunk| chunk < self.layout.count()) {
            self.have.set(chunk as usize, false);
            self.taken.set(chunk as usize, self.flights.contains_key(&chunk));
        }
    }

    /// Decides everything that follows from the state: called after every event.
    fn plan(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.phase != Phase::Fetching {
            return;
        }
        while self.first_missing < self.layout.count() && self.has(self.first_missing) {
            self.first_missing += 1;
        }
        if self.missing() == 0 {
            self.phase = Phase::Proving;
            if let Some(fetch) = self.upstream.running() {
                self.upstream.stop(fetch);
                actions.push(Action::StopUpstream(fetch));
            }
            actions.push(Action::Finish);
            return;
        }
        self.assign(now, actions);
        self.follow(actions);
        self.consider_newcomers(now, actions);
        self.consider_upstream(now, actions);
        self.consider_report(now, actions);
        self.set_timer(now, actions);
    }

    fn ask(&mut self, peer: PeerId, chunk: u32, now: Duration, actions: &mut Vec<Action>) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let bytes = self.layout.range(chunk).map_or(0, crate::range::ByteRange::len);
        let Some(patience) = self.providers.asked(&peer, bytes, self.options.hedge_after) else { return };
        self.asked.insert(id, Asked { peer, chunk, at: now, overdue: now + patience });
        self.flights.entry(chunk).or_default().push(id);
        self.taken.insert(chunk as usize);
        // Upstream need not bring what a peer was asked for at the end of its range.
        self.upstream.yield_from(chunk);
        actions.push(Action::Request { id, peer, chunk });
    }

    /// The earliest time at which something is due that no event will announce.
    fn set_timer(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.phase != Phase::Fetching {
            return;
        }
        let overdue = self.asked.values().map(|asked| asked.overdue).filter(|&at| at > now);
        let paused = self.providers.iter().filter_map(|(_, provider)| provider.due(now));
        let gives_up = self.gives_up_at().filter(|&at| at > now);
        let newcomers = self.newcomers_due().filter(|&at| at > now);
        let earliest = overdue
            .chain(paused)
            .chain(gives_up)
            .chain(self.member.due(now))
            .chain(self.starving_due(now))
            .chain(newcomers)
            .min();
        if earliest != self.timer {
            self.timer = earliest;
            actions.extend(earliest.map(Action::SetTimer));
        }
    }
}

#[cfg(test)]
mod tests;
