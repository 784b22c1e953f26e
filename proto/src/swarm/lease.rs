//! Leases: which ranges of one blob are being fetched from upstream, and by whom.
//!
//! A registry counts requests and an upstream link is one pipe, so ranges are long and few run at once: cut into
//! thin slices nobody has a whole chunk to share for half the time. The first lease of a swarm runs alone until it
//! has brought a chunk, because an upstream that ignores `Range` shows itself there, and costs nothing then.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use libp2p_identity::PeerId;

use super::message::Ended;
use crate::chunk::ChunkLayout;

/// The longest lease is such a part of its blob: one holder alone would have to send each of its chunks first, which
/// halves what the fleet can do.
const PARTS: u64 = 32;
/// But within these limits, in bytes: registries count requests, and what a holder has not shared yet, nobody else can
/// share.
const LONGEST: (u64, u64) = (1024 * 1024, 16 * 1024 * 1024);
/// A lease is as long as its holder brings in this time, if that is known and less: connections share a registry's link
/// unevenly, and the whole fleet's readers wait for what the slowest of them has to bring.
const TERM: Duration = Duration::from_secs(2);
/// Whose speed is not known gets this part of the longest lease.
const FIRST_PART: u32 = 4;
/// A lease without progress for so long goes to another.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// The pause of the whole fleet after upstream's first failure; it doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that upstream's failures alone cause.
const MAX_PAUSE: Duration = Duration::from_secs(4);
/// So many failures in a row without progress, and the blob cannot be had now.
const MAX_TROUBLES: u32 = 4;
/// So many members were refused, and others are not asked to try.
const MAX_REFUSED: usize = 8;
/// The longest pause that upstream can ask the fleet for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);
/// So many holders are remembered: other homes may name any.
const MAX_HOLDERS: usize = 1024;
/// For how long what was learnt of a failing upstream holds.
const REMEMBERED: Duration = Duration::from_secs(3);
/// For how long others are sent instead of one whom upstream failed, while it answers them: that one's own way there may
/// be what is broken, and each try of its costs the fleet's readers seconds.
const AVOIDED: Duration = Duration::from_secs(5);

/// The right to fetch these chunks from upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The home's term: grants of an earlier home are void.
    pub epoch: u64,
    /// Numbers the leases of one term.
    pub id: u64,
    /// Which chunks.
    pub chunks: Range<u32>,
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// Every chunk of it is stored.
    Done,
    /// Upstream refused this member: not found, denied, against its policy. Others may fare better.
    Refused {
        /// Upstream's status, if it was upstream that refused.
        status: Option<u16>,
    },
    /// Upstream failed, and would have failed any member: the fleet backs off as one.
    Trouble {
        /// Upstream's status, if it answered.
        status: Option<u16>,
        /// What upstream's `Retry-After` said.
        retry_after: Option<Duration>,
    },
}

impl LeaseEnd {
    /// Trouble of which nothing more is known.
    pub const TROUBLE: Self = Self::Trouble { status: None, retry_after: None };
}

#[derive(Debug, Clone)]
struct Running {
    lease: Lease,
    holder: PeerId,
    /// When it was granted or taken on.
    since: Duration,
    /// When its first chunks were there, and how many: what came before is connecting, and says nothing of speed.
    first: Option<(Duration, usize)>,
    /// How many chunks of it are there.
    got: usize,
    /// When that last grew.
    moved: Duration,
    /// It was granted here, and not taken on by somebody's word.
    granted: bool,
}

impl Running {
    /// How long its holder took for a chunk, if it was granted here.
    fn pace(&self, now: Duration) -> Option<Duration> {
        let (began, before) = self.first.filter(|&(_, got)| got < self.got).unwrap_or((self.since, 0));
        let chunks = u32::try_from(self.got - before).ok().filter(|&chunks| chunks > 0 && self.granted)?;
        Some(now.saturating_sub(began) / chunks)
    }
}

/// The leases of one blob.
#[derive(Debug, Clone)]
pub struct Leases {
    layout: ChunkLayout,
    at_once: usize,
    /// The longest lease in chunks.
    longest: u32,
    /// That of a holder whose speed is not known: the longest, where one is to bring all.
    first: u32,
    running: Vec<Running>,
    /// Everyone who ever brought anything under a lease here.
    holders: BTreeSet<PeerId>,
    /// How long each takes for a chunk.
    paces: BTreeMap<PeerId, Duration>,
    next: u64,
    /// Whether a lease has ever brought a chunk in this swarm.
    proven: bool,
    /// Upstream ignores `Range`: one member gets all.
    whole: bool,
    paused_until: Duration,
    /// With which status upstream asked for that pause.
    paused_by: Option<u16>,
    troubles: u32,
    /// When upstream last failed whom, or a lease of whom stood still, of those lately.
    failed: BTreeMap<PeerId, Duration>,
    /// Who brought something last, and when.
    brought: Option<(PeerId, Duration)>,
    refused: BTreeSet<PeerId>,
    failed_at: Duration,
    last_failure: Option<LeaseEnd>,
}

impl Leases {
    /// No lease yet; `at_once` of them may run.
    pub fn new(layout: ChunkLayout, at_once: usize) -> Self {
        let longest = (layout.size() / PARTS).clamp(LONGEST.0, LONGEST.1) / layout.chunk_size();
        let longest = u32::try_from(longest).unwrap_or(1).max(1);
        Self {
            layout,
            at_once: at_once.max(1),
            longest,
            first: longest.div_ceil(FIRST_PART),
            running: Vec::new(),
            holders: BTreeSet::new(),
            paces: BTreeMap::new(),
            next: 0,
            proven: false,
            whole: false,
            paused_until: Duration::ZERO,
            paused_by: None,
            troubles: 0,
            failed: BTreeMap::new(),
            brought: None,
            refused: BTreeSet::new(),
            failed_at: Duration::ZERO,
            last_failure: None,
        }
    }

    /// No lease yet; one member at a time gets all there is.
    pub fn of_the_whole(layout: ChunkLayout) -> Self {
        Self { longest: layout.count(), first: layout.count(), ..Self::new(layout, 1) }
    }

    /// Everyone who ever brought anything under a lease here, or was said to have one by an earlier home.
    pub fn holders(&self) -> &BTreeSet<PeerId> {
        &self.holders
    }

    /// The leases that run, for a standby.
    pub fn running(&self) -> impl Iterator<Item = (PeerId, &Lease)> {
        self.running.iter().map(|running| (running.holder, &running.lease))
    }

    /// The lease that a member holds.
    pub fn of(&self, holder: &PeerId) -> Option<&Lease> {
        self.running.iter().find(|running| running.holder == *holder).map(|running| &running.lease)
    }

    /// Whether one more could be granted now or as soon as the first has proven itself.
    pub fn has_room(&self) -> bool {
        !self.whole && self.running.len() < self.at_once
    }

    /// Until when nobody is sent upstream.
    pub fn paused_until(&self) -> Duration {
        self.paused_until
    }

    /// Grants the first range that is neither `covered` by a live member nor leased.
    pub fn grant(
        &mut self,
        holder: PeerId,
        covered: &FixedBitSet,
        epoch: u64,
        now: Duration,
    ) -> Option<Lease> {
        self.grant_at(None, holder, covered, epoch, now)
    }

    /// The same, at or behind the chunk that the holder's readers wait for, if there is one.
    pub fn grant_at(
        &mut self,
        wants: Option<u32>,
        holder: PeerId,
        covered: &FixedBitSet,
        epoch: u64,
        now: Duration,
    ) -> Option<Lease> {
        let first_only = !self.proven && !self.running.is_empty();
        let is_out = self.refused.contains(&holder) || self.fails_alone(&holder, now);
        if now < self.paused_until || !self.has_room() || first_only || is_out {
            return None;
        }
        let chunks = self.first_gap(wants.unwrap_or(0), covered, self.length(&holder))?;
        self.next = self.next.saturating_add(1);
        let lease = Lease { epoch, id: self.next, chunks };
        self.running.push(Running {
            lease: lease.clone(),
            holder,
            since: now,
            first: None,
            got: 0,
            moved: now,
            granted: true,
        });
        Some(lease)
    }

    /// Whether upstream failed this one lately, and answers others since.
    fn fails_alone(&self, holder: &PeerId, now: Duration) -> bool {
        let answers_others =
            |at| self.brought.is_some_and(|(by, when)| by != *holder && when > at && now < when + REMEMBERED);
        self.failed.get(holder).is_some_and(|&at| now < at + AVOIDED && answers_others(at))
    }

    /// How many chunks this holder is given at once.
    fn length(&self, holder: &PeerId) -> u32 {
        let Some(pace) = self.paces.get(holder).filter(|_| self.first < self.longest) else {
            return self.first;
        };
        let chunks = TERM.as_micros() / pace.as_micros().max(1);
        // Of one chunk alone nobody could tell its speed from the time that connecting took.
        u32::try_from(chunks).unwrap_or(u32::MAX).clamp(2.min(self.longest), self.longest)
    }

    /// Up to so many chunks that nobody has or fetches, from this one on or else before it.
    fn first_gap(&self, from: u32, covered: &FixedBitSet, longest: u32) -> Option<Range<u32>> {
        let free = |chunk: u32| {
            !covered.contains(chunk as usize)
                && !self.running.iter().any(|running| running.lease.chunks.contains(&chunk))
        };
        let count = self.layout.count();
        let from = from.min(count);
        let start = (from..count).chain(0..from).find(|&chunk| free(chunk))?;
        let last = start.saturating_add(longest).min(count);
        let end = (start..last).find(|&chunk| !free(chunk)).unwrap_or(last);
        Some(start..end)
    }

    fn note_failed(&mut self, holder: PeerId, now: Duration) {
        self.failed.retain(|_, at| now < *at + AVOIDED);
        if self.failed.len() < MAX_HOLDERS {
            self.failed.insert(holder, now);
        }
    }

    fn note_holder(&mut self, holder: PeerId) {
        if self.holders.len() < MAX_HOLDERS {
            self.holders.insert(holder);
        }
    }

    /// Takes a lease on, that an earlier home granted: its holder says so, or its mirror. Its number is of that home's
    /// term, and says nothing of those to come.
    pub fn adopt(&mut self, holder: PeerId, lease: Lease, now: Duration) {
        let valid = lease.chunks.start < lease.chunks.end && lease.chunks.end <= self.layout.count();
        let taken = self.running.iter().any(|running| {
            running.holder == holder
                || running.lease.chunks.start < lease.chunks.end
                    && lease.chunks.start < running.lease.chunks.end
        });
        if valid && !taken && self.running.len() < self.at_once {
            self.proven = true;
            self.note_holder(holder);
            self.running.push(Running {
                lease,
                holder,
                since: now,
                first: None,
                got: 0,
                moved: now,
                granted: false,
            });
        }
    }

    /// Notes what a holder has by now.
    pub fn progress(&mut self, holder: &PeerId, have: &FixedBitSet, now: Duration) {
        let mut grew = false;
        for running in self.running.iter_mut().filter(|running| running.holder == *holder) {
            let chunks = running.lease.chunks.start as usize..running.lease.chunks.end as usize;
            let got = have.count_ones(chunks.start.min(have.len())..chunks.end.min(have.len()));
            if got > running.got {
                running.got = got;
                running.first.get_or_insert((now, got));
                grew = true;
                running.moved = now;
                self.proven = true;
                self.troubles = 0;
                self.last_failure = None;
            }
        }
        if grew {
            self.brought = Some((*holder, now));
            self.note_holder(*holder);
        }
    }

    /// Upstream ignores `Range`: this holder gets all there is, and others what it brings.
    pub fn give_whole(&mut self, holder: &PeerId) {
        let Some(at) = self.running.iter().position(|running| running.holder == *holder) else { return };
        self.whole = true;
        self.proven = true;
        self.running.swap(0, at);
        self.running.truncate(1);
        self.running[0].lease.chunks = 0..self.layout.count();
    }

    /// A lease ended. One that is not this holder's any more is not counted.
    pub fn end(&mut self, holder: &PeerId, ended: &Ended, now: Duration) {
        let is_it = |Running { holder: of, lease, .. }: &Running| {
            of == holder && (lease.epoch, lease.id) == (ended.epoch, ended.id)
        };
        let Some(place) = self.running.iter().position(is_it) else { return };
        let running = self.running.remove(place);
        let granted = running.granted;
        self.whole &= !self.running.is_empty();
        match ended.how {
            LeaseEnd::Done => {
                let known = self.paces.contains_key(holder) || self.paces.len() < MAX_HOLDERS;
                if let Some(pace) = running.pace(now).filter(|_| known) {
                    self.paces.insert(*holder, pace);
                }
                return;
            }
            LeaseEnd::Refused { .. } => {
                self.refused.insert(*holder);
            }
            LeaseEnd::Trouble { status, retry_after } => {
                self.note_failed(*holder, now);
                let pause = (FIRST_PAUSE * 2_u32.pow(self.troubles.min(10))).min(MAX_PAUSE);
                self.troubles = self.troubles.saturating_add(1);
                // A long pause stops the fleet: it takes more than a member's word that it was ever sent.
                let said = retry_after.filter(|_| granted).unwrap_or_default();
                let until = now + pause.max(said.min(MAX_RETRY_AFTER));
                if until >= self.paused_until {
                    (self.paused_until, self.paused_by) = (until, status);
                }
            }
        }
        self.failed_at = now;
        self.last_failure = Some(ended.how);
    }

    /// Forgets every lease: another home decides.
    pub fn clear(&mut self) {
        self.running.clear();
        self.whole = false;
    }

    /// A member left: its lease is free.
    pub fn release(&mut self, holder: &PeerId) {
        self.running.retain(|running| running.holder != *holder);
        self.whole &= !self.running.is_empty();
        self.refused.remove(holder);
        self.failed.remove(holder);
    }

    /// Takes leases back that stand still.
    pub fn expire(&mut self, now: Duration) {
        let late: Vec<Running> =
            self.running.extract_if(.., |running| now >= running.moved + PATIENCE).collect();
        for running in late {
            self.note_failed(running.holder, now);
        }
        self.whole &= !self.running.is_empty();
        if now >= self.failed_at + REMEMBERED {
            self.forgive();
        }
    }

    /// Forgets how upstream failed. A pause that it asked for stays.
    pub fn forgive(&mut self) {
        self.refused.clear();
        self.troubles = 0;
        self.last_failure = None;
    }

    /// Why nobody else is to be sent upstream, if that is so. `capable` is whether a live member is left that
    /// was not refused. A pause that no client waits for is a reason, also for those who come while it lasts.
    pub fn hopeless(&self, capable: bool, now: Duration) -> Option<LeaseEnd> {
        if !self.running.is_empty() {
            return None;
        }
        let left = self.paused_until.saturating_sub(now);
        if left > MAX_PAUSE {
            return Some(LeaseEnd::Trouble { status: self.paused_by, retry_after: Some(left) });
        }
        let worn_out = self.troubles >= MAX_TROUBLES || self.refused.len() >= MAX_REFUSED;
        self.last_failure.filter(|_| worn_out || !capable)
    }

    /// Whether upstream has refused this member.
    pub fn was_refused(&self, member: &PeerId) -> bool {
        self.refused.contains(member)
    }
}

#[cfg(test)]
mod tests;
