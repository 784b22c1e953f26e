//! One swarm, as its home or standby keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fixedbitset::FixedBitSet;
use libp2p_identity::PeerId;

use super::passers::Passers;
use super::repair::{Former, Repair};
use super::{Action, Options, QuestionId};
use crate::chunk::ChunkLayout;
use crate::swarm::lease::Leases;
use crate::swarm::message::{Claim, MAX_FETCHERS, MAX_NAMED, MAX_NUMBER, Membership, Report, Standing};
use crate::transfer::Availability;

/// How often members report.
pub(super) const REPORT: Duration = Duration::from_secs(1);
/// A member that says nothing for so long is gone.
const SILENT: Duration = Duration::from_secs(4);
/// While the first lease has not proven itself, those who could take the next one ask again this soon.
const SOON: Duration = Duration::from_millis(100);
/// How many of them do.
const EAGER: usize = 8;
/// Holders of the whole blob that are known by their records, at the most: any one is enough.
const MAX_PROVIDERS: usize = 256;
/// For so long a holder that a member found gone is not counted on, whatever its record says: records live for hours.
const GONE: Duration = Duration::from_secs(30);
/// For how long a home that gave way sends askers on, before it looks again.
const CEDED: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) question: QuestionId,
    pub(super) from: PeerId,
    pub(super) report: Report,
}

#[derive(Debug)]
pub(super) enum Role {
    /// It asks its standbys whether it may be the home; reports wait.
    Claiming { since: Duration, pending: BTreeSet<PeerId>, waiting: Vec<Waiting> },
    /// It is the home.
    Home { confirmed: Duration, renewed: Duration, pending: BTreeSet<PeerId> },
    /// It mirrors the leases of the home.
    Standby { home: PeerId, heard: Duration },
    /// It found that another is the home.
    Ceded { home: PeerId, until: Duration },
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) have: Availability,
    pub(super) can_fetch: bool,
    pub(super) seen: Duration,
}

#[derive(Debug)]
pub(super) struct Swarm {
    pub(super) layout: ChunkLayout,
    pub(super) epoch: u64,
    pub(super) role: Role,
    pub(super) members: BTreeMap<PeerId, Member>,
    /// Holders of the whole blob that take no part: by their records, until somebody finds them gone.
    pub(super) providers: BTreeSet<PeerId>,
    /// Holders that a member found gone, and until when they are not counted on.
    gone: BTreeMap<PeerId, Duration>,
    /// Those who take part and of whom no track is kept.
    passers: Passers,
    pub(super) leases: Leases,
    /// In a round after the first.
    repair: Option<Repair>,
    /// When somebody last spoke of it.
    pub(super) used: Duration,
    /// Where the sample of members begins: each asker gets others.
    pub(super) turn: usize,
}

impl Swarm {
    pub(super) fn new(layout: ChunkLayout, leases: usize, now: Duration) -> Self {
        Self {
            layout,
            epoch: 1,
            // Replaced at once by whoever makes it: a claim begins, or a home is followed.
            role: Role::Claiming { since: now, pending: BTreeSet::new(), waiting: Vec::new() },
            members: BTreeMap::new(),
            providers: BTreeSet::new(),
            gone: BTreeMap::new(),
            passers: Passers::default(),
            leases: Leases::new(layout, leases),
            repair: None,
            used: now,
            turn: 0,
        }
    }

    /// One whose members fetch the blob once more.
    pub(super) fn begun_again(layout: ChunkLayout, repair: Repair, now: Duration) -> Self {
        let leases = Leases::of_the_whole(layout);
        Self { leases, repair: Some(repair), ..Self::new(layout, 1, now) }
    }

    /// Everyone who brought something from upstream, in this round and those before.
    pub(super) fn fetchers(&self) -> Former {
        let sent = self.leases.holders();
        let Some(repair) = &self.repair else {
            return Former { first: sent.clone(), repairs: BTreeSet::new() };
        };
        let mut former = repair.former().clone();
        former.repairs.extend(sent);
        former
    }

    /// Notes who holds the whole blob: some of those who are named, and no more of them in all than help anybody.
    pub(super) fn note_providers(&mut self, named: impl IntoIterator<Item = PeerId>) {
        let room = MAX_PROVIDERS.saturating_sub(self.providers.len());
        let named = named.into_iter().filter(|peer| !self.gone.contains_key(peer));
        self.providers.extend(named.take(MAX_NAMED.min(room)));
    }

    /// A member did not reach this one, or it has nothing.
    fn note_gone(&mut self, lost: PeerId, now: Duration) {
        if self.providers.remove(&lost) && self.gone.len() < MAX_PROVIDERS {
            self.gone.insert(lost, now + GONE);
        }
        self.passers.remove(&lost);
        if self.members.get(&lost).is_some_and(|member| member.have == Availability::Complete) {
            self.members.remove(&lost);
        }
    }

    /// A term of its own begins, later than all it heard of.
    pub(super) fn begin_term(&mut self) {
        self.epoch = self.epoch.saturating_add(1).min(MAX_NUMBER);
    }

    /// What standbys are told.
    pub(super) fn as_claim(&self) -> Claim {
        let leases = self.leases.running().map(|(holder, lease)| (holder, lease.clone())).collect();
        Claim { epoch: self.epoch, leases }
    }

    /// Mirrors the home's leases.
    pub(super) fn follow(&mut self, home: PeerId, claim: Claim, now: Duration) {
        self.epoch = claim.epoch;
        self.role = Role::Standby { home, heard: now };
        self.leases.clear();
        for (holder, lease) in claim.leases {
            self.leases.adopt(holder, lease, now);
        }
    }

    /// Another node is the home: whoever waits here goes there.
    pub(super) fn cede(&mut self, home: PeerId, now: Duration, actions: &mut Vec<Action>) {
        let ceded = Role::Ceded { home, until: now + CEDED };
        if let Role::Claiming { waiting, .. } = std::mem::replace(&mut self.role, ceded) {
            let answers = waiting.into_iter().map(|waiting| waiting.question);
            actions.extend(answers.map(|question| Action::Answer(question, Standing::Elsewhere(home))));
        }
        self.members.clear();
        self.passers.clear();
        self.leases.clear();
    }

    /// Whether all who wait for the claim have lost this home.
    pub(super) fn is_lost(&self, home: &PeerId) -> bool {
        matches!(&self.role, Role::Claiming { waiting, .. }
            if waiting.iter().all(|waiting| waiting.report.unreachable.contains(home)))
    }

    /// A peer is gone.
    pub(super) fn lose(&mut self, peer: &PeerId) {
        self.members.remove(peer);
        self.providers.remove(peer);
        self.passers.remove(peer);
        self.leases.release(peer);
        if self.members.is_empty() {
            // Nobody waits for it any more: whoever comes next has a try of its own.
            self.leases.forgive();
        }
    }

    /// Drops members that have fallen silent. One that has all need not speak.
    pub(super) fn drop_silent(&mut self, now: Duration) {
        let silent = |member: &Member| member.have != Availability::Complete && now >= member.seen + SILENT;
        let gone: Vec<PeerId> =
            self.members.iter().filter(|(_, member)| silent(member)).map(|(&peer, _)| peer).collect();
        for peer in gone {
            self.lose(&peer);
        }
    }

    /// Whether anybody here still wants the blob.
    pub(super) fn is_active(&self) -> bool {
        self.members.values().any(|member| member.have != Availability::Complete)
    }

    /// Takes in what a member says.
    pub(super) fn note(&mut self, from: PeerId, report: &Report, options: Options, now: Duration) {
        self.gone.retain(|_, until| *until > now);
        for &lost in &report.unreachable {
            self.note_gone(lost, now);
        }
        if report.leaving {
            self.lose(&from);
            return;
        }
        let have = match &report.have {
            // A bitmap of another length speaks of another blob.
            Availability::Partial(chunks) if chunks.len() != self.layout.count() as usize => return,
            have => have,
        };
        // In a repair whoever is sent upstream is believed: nobody's own word is enough for that.
        if let Some(lease) = &report.lease
            && lease.epoch != self.epoch
            && self.repair.is_none()
            && self.leases.of(&from).is_none()
        {
            self.leases.adopt(from, lease.clone(), now);
        }
        if report.whole {
            self.leases.give_whole(&from);
        }
        match have {
            Availability::Complete => self.leases.progress(&from, &self.all(), now),
            Availability::Partial(chunks) => self.leases.progress(&from, chunks, now),
        }
        if let Some(ended) = &report.ended {
            self.leases.end(&from, ended, now);
        }
        if self.members.len() < options.members || self.members.contains_key(&from) {
            let member = Member { have: have.clone(), can_fetch: report.can_fetch, seen: now };
            self.members.insert(from, member);
            self.passers.remove(&from);
        } else {
            self.passers.insert(from);
        }
    }

    /// Takes in what a member says, and gives it its place.
    pub(super) fn serve(
        &mut self,
        from: PeerId,
        report: &Report,
        options: Options,
        now: Duration,
    ) -> Membership {
        self.note(from, report, options, now);
        let covered = self.covered(&from);
        let mut lease = self.leases.of(&from).cloned();
        let wants = report.can_fetch && report.have != Availability::Complete && !report.leaving;
        let may = self.repair.as_ref().is_none_or(|repair| repair.admits(&from, now));
        if lease.is_none() && wants && may {
            lease = self.leases.grant_at(report.wants, from, &covered, self.epoch, now);
        }
        if lease.is_some() {
            self.keep_track(from, report, now);
        }
        let capable = self.members.iter().any(|(peer, member)| {
            member.can_fetch && member.have != Availability::Complete && !self.leases.was_refused(peer)
        });
        let is_covered = covered.is_full();
        let hopeless = if is_covered { None } else { self.leases.hopeless(capable, now) };
        let again = self.again(&from, report, lease.is_some(), is_covered, now);
        let fetchers = match self.repair {
            Some(_) => self.leases.holders().iter().copied().take(MAX_FETCHERS).collect(),
            None => Vec::new(),
        };
        Membership { epoch: self.epoch, members: self.sample(&from), lease, fetchers, hopeless, again }
    }

    /// Whoever fetches for all is kept track of, instead of one who does not: else it would fall silent.
    fn keep_track(&mut self, from: PeerId, report: &Report, now: Duration) {
        if self.members.contains_key(&from) {
            return;
        }
        let others = || self.members.iter().filter(|(peer, _)| self.leases.of(peer).is_none());
        let partial = others().find(|(_, member)| member.have != Availability::Complete);
        if let Some(&other) = partial.or_else(|| others().next()).map(|(peer, _)| peer) {
            self.members.remove(&other);
            self.passers.insert(other);
        }
        let member = Member { have: report.have.clone(), can_fetch: report.can_fetch, seen: now };
        self.members.insert(from, member);
        self.passers.remove(&from);
    }

    fn again(
        &self,
        from: &PeerId,
        report: &Report,
        has_lease: bool,
        is_covered: bool,
        now: Duration,
    ) -> Option<Duration> {
        let place = self.members.keys().position(|peer| peer == from)?;
        if report.have == Availability::Complete {
            return None;
        }
        let paused = self.leases.paused_until();
        if has_lease || is_covered || !report.can_fetch || place >= EAGER || !self.leases.has_room() {
            Some(REPORT)
        } else if paused > now {
            Some(paused.saturating_sub(now).clamp(SOON, REPORT))
        } else {
            Some(SOON)
        }
    }

    fn all(&self) -> FixedBitSet {
        let mut all = FixedBitSet::with_capacity(self.layout.count() as usize);
        all.insert_range(..);
        all
    }

    /// Which chunks others than `asker` can bring.
    fn covered(&self, asker: &PeerId) -> FixedBitSet {
        let mut covered = FixedBitSet::with_capacity(self.layout.count() as usize);
        if self.providers.iter().any(|peer| peer != asker) {
            return self.all();
        }
        for member in self.members.values() {
            match &member.have {
                Availability::Complete => return self.all(),
                Availability::Partial(chunks) => covered.union_with(chunks),
            }
        }
        covered
    }

    /// Others to talk to. Each asker gets the next ones, so that the members' graph is a random one.
    fn sample(&mut self, asker: &PeerId) -> Vec<PeerId> {
        let known: Vec<PeerId> = self
            .members
            .keys()
            .chain(self.providers.iter().filter(|peer| !self.members.contains_key(peer)))
            .filter(|peer| *peer != asker)
            .copied()
            .collect();
        let total = known.len() + self.passers.len();
        let one = |place: usize| known.get(place).copied().or_else(|| self.passers.get(place - known.len()));
        if total <= MAX_NAMED {
            return (0..total).filter_map(one).filter(|peer| peer != asker).collect();
        }
        // A step without a common divisor with most lengths: neighbours of neighbours are others again.
        self.turn = self.turn.wrapping_add(7919);
        (0..MAX_NAMED)
            .filter_map(|n| one(self.turn.wrapping_add(n * 31) % total))
            .filter(|peer| peer != asker)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}
