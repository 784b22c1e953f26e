//! A transfer's part in its swarm: whose home it reports to, when, and what it may fetch from upstream.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use libp2p_identity::PeerId;

use super::{Action, Availability, Phase, Transfer, UpstreamFailure};
use crate::swarm::lease::{Lease, LeaseEnd};
use crate::swarm::message::{Ended, MAX_UNREACHABLE, Membership, Report, Standing};

/// Numbers a report within its transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportId(pub u64);

/// A home is reported to no more often than this, whatever it says.
const MIN_AGAIN: Duration = Duration::from_millis(50);
/// And at least this often.
const MAX_AGAIN: Duration = Duration::from_secs(5);
/// How long a peer that was not reached is not reported to.
const LOST: Duration = Duration::from_secs(5);
/// For how long the home is told that a peer does not have the blob.
const ABSENT: Duration = Duration::from_secs(30);
/// The wait after none of the homes was reached, for each node of the fleet.
const WAIT_A_NODE: Duration = Duration::from_millis(20);
/// The longest such wait.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// A member that the home keeps no track of reports again after so long without a chunk.
const STARVED: Duration = Duration::from_secs(3);
/// And after so long, if it has never got one.
const HUNGRY: Duration = Duration::from_millis(1500);
/// What is to be said soon waits for so long, for more of it.
const SOON: Duration = Duration::from_millis(100);
/// A home that has put this member off for so long in a row is as good as silent.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many nodes in a row that send on to another, and the next ask waits.
const MAX_HOPS: u32 = 4;
/// The pause then.
const PAUSE: Duration = Duration::from_millis(250);

/// The nodes that could be the blob's home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Homes {
    /// This node.
    pub local: PeerId,
    /// The live nodes closest to the digest, the closest first; this node may be among them.
    pub closest: Vec<PeerId>,
    /// How many nodes are live, this one among them.
    pub fleet: usize,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says one thing that happened or not, in any combination"
)]
pub(super) struct Member {
    pub(super) homes: Homes,
    /// Who is reported to as long as it answers: a live swarm stays with its home.
    home: Option<PeerId>,
    /// Who was not reached, and until when it is not asked.
    lost: BTreeMap<PeerId, Duration>,
    /// Who was said to have the blob and does not, or does not answer: the home must not count on them.
    absent: BTreeMap<PeerId, Duration>,
    outstanding: Option<(ReportId, PeerId)>,
    next_id: u64,
    /// When to report next; `None` for at once.
    next: Option<Duration>,
    hops: u32,
    /// For how long it was told to wait, in a row.
    put_off: Duration,
    /// All homes were lost once, and the wait for a second try is over or running.
    waited: bool,
    lease: Option<Lease>,
    /// A chunk came under this lease.
    lease_moved: bool,
    ended: Option<Ended>,
    whole: bool,
    can_fetch: bool,
    hopeless: Option<LeaseEnd>,
    tracked: bool,
    progress: u64,
    progress_at_report: u64,
    seed: u64,
}

impl Member {
    pub(super) fn new(homes: Homes, seed: u64) -> Self {
        Self {
            homes,
            home: None,
            lost: BTreeMap::new(),
            absent: BTreeMap::new(),
            outstanding: None,
            next_id: 0,
            next: None,
            hops: 0,
            put_off: Duration::ZERO,
            waited: false,
            lease: None,
            lease_moved: false,
            ended: None,
            whole: false,
            can_fetch: true,
            hopeless: None,
            tracked: true,
            progress: 0,
            progress_at_report: 0,
            seed,
        }
    }

    pub(super) fn homes(&mut self, homes: Homes) {
        self.homes = homes;
    }

    /// The chunks that this node may fetch.
    pub(super) fn leased(&self) -> Option<Range<u32>> {
        let lease = self.lease.as_ref()?;
        if self.whole { Some(0..u32::MAX) } else { Some(lease.chunks.clone()) }
    }

    /// Whether a chunk came under the lease.
    pub(super) fn lease_moved(&self) -> bool {
        self.lease.is_some() && self.lease_moved
    }

    pub(super) fn hopeless(&self) -> Option<UpstreamFailure> {
        Some(match self.hopeless? {
            LeaseEnd::Refused { status } => UpstreamFailure::Final { status },
            LeaseEnd::Trouble { status, retry_after } => UpstreamFailure::Retry { status, retry_after },
            LeaseEnd::Done => UpstreamFailure::RETRY,
        })
    }

    /// A chunk came from a peer: all goes well.
    pub(super) fn fed(&mut self) {
        self.progress += 1;
    }

    /// A chunk of the lease came. The first one is told at once: others may then have leases too.
    pub(super) fn progressed(&mut self) {
        self.progress += 1;
        if self.lease.is_some() && !std::mem::replace(&mut self.lease_moved, true) {
            self.next = None;
        }
    }

    /// Upstream ignores ranges.
    pub(super) fn whole(&mut self) {
        self.whole = true;
        self.next = None;
    }

    pub(super) fn lease_done(&mut self) {
        self.end(LeaseEnd::Done);
    }

    pub(super) fn failed(&mut self, failure: UpstreamFailure) {
        self.can_fetch &= matches!(failure, UpstreamFailure::Retry { .. });
        self.end(failure.into());
    }

    fn end(&mut self, how: LeaseEnd) {
        if let Some(lease) = self.lease.take() {
            self.ended = Some(Ended { epoch: lease.epoch, id: lease.id, how });
            self.whole = false;
            self.next = None;
        }
    }

    /// The blob is fetched once more, in another swarm of which nothing is known yet.
    pub(super) fn begin_round(&mut self) {
        let homes = self.homes.clone();
        let lost = std::mem::take(&mut self.lost);
        let (next_id, can_fetch) = (self.next_id, self.can_fetch);
        *self = Self { lost, next_id, can_fetch, ..Self::new(homes, self.seed) };
    }

    /// The next report is due in a moment, if not before.
    pub(super) fn report_soon(&mut self, now: Duration) {
        self.next = self.next.map(|next| next.min(now + SOON));
    }

    /// When the next report is due, if not before `now`.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        self.next.filter(|&at| at > now && self.outstanding.is_none())
    }

    /// Whom to report to now, if it is time.
    fn whom(&mut self, now: Duration) -> Option<PeerId> {
        if self.outstanding.is_some() || self.next.is_some_and(|next| now < next) {
            return None;
        }
        let is_done = self.lease.is_none() && self.ended.is_none();
        if !self.tracked && is_done && self.progress > self.progress_at_report {
            // All goes well without the home.
            self.progress_at_report = self.progress;
            self.next = Some(now + STARVED);
            return None;
        }
        self.lost.retain(|_, until| *until > now);
        self.absent.retain(|_, until| *until > now);
        if let Some(home) = self.home {
            return Some(home);
        }
        let lost = &self.lost;
        if let Some(&home) = self.homes.closest.iter().find(|home| !lost.contains_key(home)) {
            return Some(home);
        }
        if self.waited {
            // Nobody is left who could know better.
            return Some(self.homes.local);
        }
        self.waited = true;
        self.lost.clear();
        let fleet = u32::try_from(self.homes.fleet).unwrap_or(u32::MAX);
        let most = WAIT_A_NODE.saturating_mul(fleet).min(MAX_WAIT);
        // The seed is random: 1,024 steps spread a fleet well enough.
        self.next = Some(now + most.mul_f64(f64::from((self.seed % 1024) as u16) / 1024.0));
        None
    }

    fn report(&self, have: Availability, wants: Option<u32>) -> Report {
        Report {
            have,
            wants,
            can_fetch: self.can_fetch,
            lease: self.lease.clone(),
            ended: self.ended,
            whole: self.whole,
            unreachable: self.unreachable(),
            leaving: false,
        }
    }

    /// Whom to name as not reached or without the blob: homes first, which decide where the home is; of the others
    /// those whose turn it is, as many as fit.
    fn unreachable(&self) -> Vec<PeerId> {
        let is_home = |peer: &PeerId| self.homes.closest.contains(peer);
        let homes = self.lost.keys().filter(|peer| is_home(peer));
        let others: Vec<&PeerId> =
            self.lost.keys().filter(|peer| !is_home(peer)).chain(self.absent.keys()).collect();
        let turn = usize::try_from(self.next_id).unwrap_or(0).wrapping_mul(MAX_UNREACHABLE);
        let begin = turn.checked_rem(others.len()).unwrap_or(0);
        let others = others[begin..].iter().chain(&others[..begin]).copied();
        homes.chain(others).copied().take(MAX_UNREACHABLE).collect()
    }

    /// A peer does not have the blob, or is not to be asked for it: the home must not count on it.
    pub(super) fn misses(&mut self, peer: PeerId, now: Duration) {
        self.absent.insert(peer, now + ABSENT);
    }

    /// The next report is due at once.
    pub(super) fn report_now(&mut self) {
        self.next = None;
    }

    /// A peer was not reached.
    pub(super) fn lose(&mut self, peer: PeerId, now: Duration) {
        self.lost.insert(peer, now + LOST);
    }
}

impl Transfer {
    /// Reports to the home when it is time.
    pub(super) fn consider_report(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.phase != Phase::Fetching {
            return;
        }
        let Some(to) = self.member.whom(now) else { return };
        let id = ReportId(self.member.next_id);
        self.member.next_id += 1;
        self.member.outstanding = Some((id, to));
        self.member.progress_at_report = self.member.progress;
        let report = self.member.report(Availability::Partial(self.have.clone()), self.wanted());
        actions.push(Action::Report { id, to, report });
    }

    /// What to tell the home at the end, if there is one that knows this node: that it has all, or leaves.
    pub fn farewell(&self, complete: bool) -> Option<(PeerId, Report)> {
        let home = self.member.home?;
        let have = if complete { Availability::Complete } else { Availability::Partial(self.have.clone()) };
        Some((home, Report { leaving: !complete, lease: None, ..self.member.report(have, None) }))
    }

    pub(super) fn reported(
        &mut self,
        id: ReportId,
        standing: Option<Standing>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some((_, home)) = self.member.outstanding.take_if(|(outstanding, _)| *outstanding == id) else {
            return;
        };
        let member = &mut self.member;
        match standing {
            None => {
                member.home = None;
                member.next = None;
                member.hops = 0;
                member.lose(home, now);
            }
            Some(Standing::Wait(time)) => {
                member.put_off = member.put_off.saturating_add(time.max(MIN_AGAIN));
                member.next = Some(now + time.clamp(MIN_AGAIN, PATIENCE));
                if member.put_off > PATIENCE {
                    member.put_off = Duration::ZERO;
                    member.home = None;
                    member.lose(home, now);
                }
            }
            Some(Standing::Elsewhere(other)) => {
                member.hops += 1;
                let turn_back = member.hops > MAX_HOPS || member.lost.contains_key(&other);
                member.home = (!turn_back).then_some(other);
                member.hops %= MAX_HOPS + 1;
                member.next = turn_back.then_some(now + PAUSE);
            }
            Some(Standing::Member(membership)) => {
                member.home = Some(home);
                member.hops = 0;
                member.put_off = Duration::ZERO;
                member.waited = false;
                member.ended = None;
                self.take_place(membership, now, actions);
            }
        }
    }

    fn take_place(&mut self, membership: Membership, now: Duration, actions: &mut Vec<Action>) {
        let Membership { members, lease, hopeless, again, fetchers, .. } = membership;
        self.repair.sent(fetchers);
        let member = &mut self.member;
        member.tracked = again.is_some();
        // What happened while the report was under way is told at once.
        let news = member.ended.is_some();
        // Whoever has got nothing yet may have been named nobody who has.
        let starved = if member.progress == 0 { HUNGRY } else { STARVED };
        member.next = (!news).then_some(now + again.unwrap_or(starved).clamp(MIN_AGAIN, MAX_AGAIN));
        member.hopeless = hopeless;
        let same = |one: &Lease, other: &Lease| one.epoch == other.epoch && one.id == other.id;
        match (member.lease.take(), lease) {
            (Some(old), Some(new)) if same(&old, &new) => member.lease = Some(new),
            (old, new) => {
                member.whole = false;
                member.lease_moved = false;
                if new.is_some() {
                    self.upstream.revive();
                }
                member.lease = new;
                if old.is_some()
                    && let Some(fetch) = self.upstream.running()
                {
                    self.upstream.stop(fetch);
                    actions.push(Action::StopUpstream(fetch));
                }
            }
        }
        for peer in members {
            self.named(peer, now, actions);
        }
    }
}
