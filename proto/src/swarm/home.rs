//! The swarms that this node keeps: as their home, or as a standby of their home.
//!
//! [`Homes`] performs nothing and reads no clock. The driver feeds it [`Event`]s and carries out [`Action`]s. A report
//! is a question that is answered at once or later: before its first grant a home claims the swarm at its two
//! standbys, which is where it learns of a closer home, of one that took over while this one was frozen, and of who
//! is known to hold the blob already.
//!
//! Why a frozen home does no harm: a home grants only while a claim of its own was confirmed within the last
//! two seconds. One that wakes up after a pause has to claim again first, and hears of its successor.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;

use super::message::{Claim, ClaimAnswer, Report, Standing, SwarmKey};
use super::ranking::Ranking;
use crate::chunk::ChunkLayout;
use crate::digest::Digest;

mod claims;
mod doors;
mod passers;
mod repair;
mod swarm;

use claims::Claimed;
use doors::Doors;
use repair::Repair;
use swarm::{REPORT, Role, Swarm, Waiting};

/// How long a claim waits for its answers.
const CLAIM: Duration = Duration::from_millis(300);
/// How often a home renews its claim, which also mirrors its leases.
const RENEW: Duration = Duration::from_millis(500);
/// A home grants on a claim that was confirmed no longer ago than this.
const CONFIRMED: Duration = Duration::from_secs(2);
/// A home that its standby has not heard for so long is followed by it.
const STALE: Duration = Duration::from_millis(1500);
/// How long a member waits while its standby is not sure yet that the home is dead.
const UNSURE: Duration = Duration::from_millis(250);
/// A swarm that nobody reported to for so long is forgotten.
const IDLE: Duration = Duration::from_mins(1);
/// How often time is looked at while there are swarms.
const TICK: Duration = Duration::from_millis(100);
/// Standbys of a home.
const STANDBYS: usize = 2;
/// Reports that may wait for one claim.
const MAX_WAITING: usize = 4096;

/// What the homes of a node are tuned by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Leases of one swarm at once.
    pub leases: usize,
    /// Members that are kept track of in one swarm.
    pub members: usize,
    /// Swarms kept.
    pub swarms: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { leases: 4, members: 256, swarms: 4096 }
    }
}

/// Numbers a question that waits for its answer; chosen by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuestionId(pub u64);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer is connected.
    Up(PeerId),
    /// A peer is not connected any more.
    Down(PeerId),
    /// A member reports. `known` are those who are known here to hold the whole blob: this node itself, or by its
    /// provider records.
    Reported {
        /// Which question this is.
        question: QuestionId,
        /// Who reports.
        from: PeerId,
        /// To which swarm.
        key: SwarmKey,
        /// What it says.
        report: Report,
        /// Holders of the whole blob.
        known: Vec<PeerId>,
    },
    /// A node claims to be the swarm's home. `known` as above.
    Claimed {
        /// Which question this is.
        question: QuestionId,
        /// Who claims.
        from: PeerId,
        /// Which swarm.
        key: SwarmKey,
        /// What it says.
        claim: Claim,
        /// Holders of the whole blob.
        known: Vec<PeerId>,
    },
    /// A standby answered a claim, or did not (`None`).
    ClaimAnswered {
        /// Which swarm.
        key: SwarmKey,
        /// Who.
        by: PeerId,
        /// What it said.
        answer: Option<ClaimAnswer>,
    },
    /// The time that [`Action::SetTimer`] named has come.
    Timer,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer a report.
    Answer(QuestionId, Standing),
    /// Answer a claim.
    AnswerClaim(QuestionId, ClaimAnswer),
    /// Claim a swarm at this standby, and say [`Event::ClaimAnswered`] within 300 ms.
    Claim {
        /// Which swarm.
        key: SwarmKey,
        /// At whom.
        to: PeerId,
        /// What to say.
        claim: Claim,
    },
    /// Say [`Event::Timer`] at this time. Replaces the time set before.
    SetTimer(Duration),
}

/// One swarm that this node keeps, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Which blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Whether this node is its home; else a standby.
    pub is_home: bool,
    /// Members kept track of.
    pub members: usize,
    /// Leases that run.
    pub leases: usize,
}

/// All swarms that this node keeps.
#[derive(Debug)]
pub struct Homes {
    ranking: Ranking,
    options: Options,
    swarms: BTreeMap<SwarmKey, Swarm>,
    doors: Doors,
    timer: Option<Duration>,
}

impl Homes {
    /// None yet. `ranking` is of the nodes connected now.
    pub fn new(ranking: Ranking, options: Options) -> Self {
        Self { ranking, options, swarms: BTreeMap::new(), doors: Doors::default(), timer: None }
    }

    /// The nodes connected, ready to be ranked.
    pub fn ranking(&self) -> &Ranking {
        &self.ranking
    }

    /// What is kept, for people.
    pub fn kept(&self) -> Vec<Kept> {
        let kept = |(key, swarm): (&SwarmKey, &Swarm)| Kept {
            digest: key.digest,
            size: key.size,
            is_home: matches!(swarm.role, Role::Home { .. } | Role::Claiming { .. }),
            members: swarm.members.len(),
            leases: swarm.leases.running().count(),
        };
        self.swarms.iter().map(kept).collect()
    }

    /// Takes an event, says what to do about it.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Up(peer) => self.ranking.insert(peer),
            Event::Down(peer) => self.gone(peer, now, &mut actions),
            Event::Reported { question, from, key, report, known } => {
                self.reported(Waiting { question, from, report }, key, known, now, &mut actions);
            }
            Event::Claimed { question, from, key, claim, known } => {
                let answer = self.claimed(Claimed { from, key, claim, known }, now, &mut actions);
                actions.push(Action::AnswerClaim(question, answer));
            }
            Event::ClaimAnswered { key, by, answer } => {
                self.claim_answered(key, by, answer, now, &mut actions);
            }
            Event::Timer => {
                self.timer = None;
                self.tick(now, &mut actions);
            }
        }
        if !(self.swarms.is_empty() && self.doors.is_empty()) && self.timer.is_none() {
            self.timer = Some(now + TICK);
            actions.push(Action::SetTimer(now + TICK));
        }
        actions
    }

    fn gone(&mut self, peer: PeerId, now: Duration, actions: &mut Vec<Action>) {
        self.ranking.remove(&peer);
        self.doors.lose(&peer);
        let keys: Vec<SwarmKey> = self.swarms.keys().copied().collect();
        for key in keys {
            if let Some(swarm) = self.swarms.get_mut(&key) {
                swarm.lose(&peer);
            }
            self.claim_answered(key, peer, None, now, actions);
        }
    }

    fn reported(
        &mut self,
        waiting: Waiting,
        key: SwarmKey,
        known: Vec<PeerId>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Ok(layout) = ChunkLayout::of(key.size) else {
            actions.push(Action::Answer(waiting.question, Standing::Wait(REPORT)));
            return;
        };
        if let Some(elsewhere) = self.elsewhere(&key, &waiting.report, now) {
            let place = match elsewhere {
                Standing::Elsewhere(_) => self.doors.enter(&key, waiting.from, &waiting.report, now),
                _ => None,
            };
            let standing = place.map_or(elsewhere, Standing::Member);
            actions.push(Action::Answer(waiting.question, standing));
            return;
        }
        if !self.swarms.contains_key(&key) {
            self.make_room(actions);
            let swarm = self.fresh(&key, layout, now);
            self.swarms.insert(key, swarm);
            self.claim(key, now, actions);
        }
        let standbys_exist = self.ranking.len() > 1;
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        swarm.used = now;
        swarm.note_providers(known);
        let stale = match &swarm.role {
            Role::Home { confirmed, .. } => standbys_exist && now > *confirmed + CONFIRMED,
            // The home that this node followed is dead, or the asker says so and nobody contradicts.
            Role::Standby { .. } | Role::Ceded { .. } => true,
            Role::Claiming { .. } => false,
        };
        if stale {
            if !matches!(swarm.role, Role::Home { .. }) {
                swarm.begin_term();
            }
            self.claim(key, now, actions);
        }
        let options = self.options;
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        match &mut swarm.role {
            Role::Claiming { waiting: queue, .. } if queue.len() < MAX_WAITING => queue.push(waiting),
            Role::Claiming { .. } => {
                actions.push(Action::Answer(waiting.question, Standing::Wait(UNSURE)));
            }
            _ => {
                let standing = swarm.serve(waiting.from, &waiting.report, options, now);
                actions.push(Action::Answer(waiting.question, Standing::Member(standing)));
            }
        }
    }

    /// Where else the swarm's home is, as far as this node knows.
    fn elsewhere(&self, key: &SwarmKey, report: &Report, now: Duration) -> Option<Standing> {
        let lost = |home: &PeerId| report.unreachable.contains(home);
        match self.swarms.get(key).map(|swarm| &swarm.role) {
            Some(Role::Home { .. } | Role::Claiming { .. }) => None,
            Some(Role::Standby { home, heard }) => {
                let live = self.ranking.contains(home) && now < *heard + STALE;
                match (live, lost(home)) {
                    (true, false) => Some(Standing::Elsewhere(*home)),
                    // It may be that only the asker has lost it.
                    (true, true) => Some(Standing::Wait(UNSURE)),
                    (false, _) => None,
                }
            }
            // It need not be connected here: a node that has just started knows few.
            Some(Role::Ceded { home, until }) => {
                (now < *until && !lost(home)).then_some(Standing::Elsewhere(*home))
            }
            None => {
                let closest = self.ranking.closest(&key.digest, STANDBYS + 1);
                let home = closest.into_iter().find(|peer| !lost(peer))?;
                (home != self.ranking.local()).then_some(Standing::Elsewhere(home))
            }
        }
    }

    /// A swarm that is new here.
    fn fresh(&self, key: &SwarmKey, layout: ChunkLayout, now: Duration) -> Swarm {
        let Some(round) = key.round.checked_sub(1) else {
            return Swarm::new(layout, self.options.leases, now);
        };
        let before = self.swarms.get(&SwarmKey { round, ..*key });
        let former = before.map(Swarm::fetchers).unwrap_or_default();
        Swarm::begun_again(layout, Repair::new(former, self.ranking.local(), now), now)
    }

    /// The swarm used longest ago goes, where there are too many.
    fn make_room(&mut self, actions: &mut Vec<Action>) {
        if self.swarms.len() < self.options.swarms {
            return;
        }
        let oldest = self.swarms.iter().min_by_key(|(_, swarm)| swarm.used).map(|(key, _)| *key);
        if let Some(swarm) = oldest.and_then(|key| self.swarms.remove(&key))
            && let Role::Claiming { waiting, .. } = swarm.role
        {
            let later = |waiting: Waiting| Action::Answer(waiting.question, Standing::Wait(REPORT));
            actions.extend(waiting.into_iter().map(later));
        }
    }

    fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.doors.close_unused(now);
        self.swarms.retain(|_, swarm| {
            now < swarm.used + IDLE
                || matches!(&swarm.role, Role::Claiming { waiting, .. } if !waiting.is_empty())
        });
        let keys: Vec<SwarmKey> = self.swarms.keys().copied().collect();
        for key in keys {
            let standbys = self.standbys(&key);
            let Some(swarm) = self.swarms.get_mut(&key) else { continue };
            swarm.leases.expire(now);
            swarm.drop_silent(now);
            let claim = swarm.as_claim();
            let active = swarm.is_active();
            match &mut swarm.role {
                Role::Claiming { since, .. } if now >= *since + CLAIM => self.open(key, now, actions),
                Role::Home { renewed, pending, .. } if active && now >= *renewed + RENEW => {
                    *renewed = now;
                    *pending = standbys.iter().copied().collect();
                    let claims =
                        standbys.into_iter().map(|to| Action::Claim { key, to, claim: claim.clone() });
                    actions.extend(claims);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
