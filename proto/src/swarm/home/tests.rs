//! The homes of a small virtual fleet.

use std::collections::BTreeSet;

use super::*;
use crate::chunk::MIN_CHUNK;
use crate::origin::Origin;
use crate::swarm::lease::{Lease, LeaseEnd};
use crate::swarm::message::{Ended, MAX_NAMED, Membership};
use crate::swarm::test_peer;
use crate::transfer::Availability;
use fixedbitset::FixedBitSet;

const CHUNKS: u32 = 256;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn key() -> SwarmKey {
    SwarmKey::first(Digest::sha256_of(b"blob"), u64::from(CHUNKS) * MIN_CHUNK, Origin::from_bytes([7; 16]))
}

fn report(have: std::ops::Range<u32>) -> Report {
    let mut bits = FixedBitSet::with_capacity(CHUNKS as usize);
    bits.insert_range(have.start as usize..have.end as usize);
    silent(if bits.is_full() { Availability::Complete } else { Availability::Partial(bits) })
}

/// A member that has this, could fetch more, and has nothing else to say.
pub(super) fn silent(have: Availability) -> Report {
    Report {
        have,
        wants: None,
        can_fetch: true,
        lease: None,
        ended: None,
        whole: false,
        unreachable: Vec::new(),
        leaving: false,
    }
}

/// Several nodes, each with its homes; messages travel at once.
struct Fleet {
    nodes: BTreeMap<PeerId, Homes>,
    frozen: BTreeSet<PeerId>,
    next: u64,
    now: Duration,
    answers: BTreeMap<QuestionId, Standing>,
}

impl Fleet {
    fn new(count: u8) -> Self {
        let peers: Vec<PeerId> = (1..=count).map(test_peer).collect();
        let homes = |&local: &PeerId| {
            let mut ranking = Ranking::new(local);
            for &peer in &peers {
                ranking.insert(peer);
            }
            (local, Homes::new(ranking, Options::default()))
        };
        let nodes = peers.iter().map(homes).collect();
        Self { nodes, frozen: BTreeSet::new(), next: 0, now: ms(0), answers: BTreeMap::new() }
    }

    /// The nodes, closest to the key first.
    fn ranked(&self) -> Vec<PeerId> {
        let any = self.nodes.values().next().unwrap();
        any.ranking().closest(&key().digest, self.nodes.len())
    }

    fn feed(&mut self, node: PeerId, event: Event) {
        if self.frozen.contains(&node) {
            return;
        }
        let Some(homes) = self.nodes.get_mut(&node) else { return };
        for action in homes.handle(event, self.now) {
            match action {
                Action::Answer(question, standing) => {
                    self.answers.insert(question, standing);
                }
                Action::AnswerClaim(..) | Action::SetTimer(_) => {}
                Action::Claim { key, to, claim } => {
                    let answer = self.claim(node, to, key, claim);
                    self.feed(node, Event::ClaimAnswered { key, by: to, answer });
                }
            }
        }
    }

    fn claim(&mut self, from: PeerId, to: PeerId, key: SwarmKey, claim: Claim) -> Option<ClaimAnswer> {
        if self.frozen.contains(&to) {
            return None;
        }
        let question = QuestionId(u64::MAX);
        let event = Event::Claimed { question, from, key, claim, known: Vec::new() };
        let actions = self.nodes.get_mut(&to)?.handle(event, self.now);
        actions.into_iter().find_map(|action| match action {
            Action::AnswerClaim(_, answer) => Some(answer),
            _ => None,
        })
    }

    fn report(&mut self, from: PeerId, to: PeerId, report: Report) -> Option<Standing> {
        self.report_in(0, from, to, report)
    }

    fn report_in(&mut self, round: u32, from: PeerId, to: PeerId, report: Report) -> Option<Standing> {
        self.report_beside(Vec::new(), round, from, to, report)
    }

    /// While these are known to the home by their records.
    fn report_beside(
        &mut self,
        known: Vec<PeerId>,
        round: u32,
        from: PeerId,
        to: PeerId,
        report: Report,
    ) -> Option<Standing> {
        self.next += 1;
        let question = QuestionId(self.next);
        let key = SwarmKey { round, ..key() };
        self.feed(to, Event::Reported { question, from, key, report, known });
        self.answers.remove(&question)
    }

    fn member_in(&mut self, round: u32, from: PeerId, to: PeerId, said: Report) -> Membership {
        match self.report_in(round, from, to, said) {
            Some(Standing::Member(membership)) => membership,
            other => panic!("{other:?}"),
        }
    }

    fn member(&mut self, from: PeerId, to: PeerId, said: Report) -> Membership {
        self.member_in(0, from, to, said)
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            let nodes: Vec<PeerId> = self.nodes.keys().copied().collect();
            for node in nodes {
                self.feed(node, Event::Timer);
            }
        }
    }
}

#[test]
fn a_node_alone_is_its_own_home() {
    let mut fleet = Fleet::new(1);
    let me = fleet.ranked()[0];
    let membership = fleet.member(me, me, report(0..0));
    assert_eq!(membership.lease.unwrap().chunks, 0..2);
    assert_eq!(membership.members, []);
}

#[test]
fn whoever_is_asked_knows_the_home_and_leases_do_not_overlap() {
    let mut fleet = Fleet::new(8);
    let ranked = fleet.ranked();
    let (home, far) = (ranked[0], ranked[7]);
    assert_eq!(fleet.report(ranked[5], far, report(0..0)), Some(Standing::Elsewhere(home)));
    let first = fleet.member(ranked[5], home, report(0..0)).lease.unwrap();
    let second = fleet.member(ranked[6], home, report(0..0));
    // It waits for the first to bring something, and asks again soon.
    assert_eq!((second.lease, second.again), (None, Some(ms(100))));
    assert_eq!(second.members, [ranked[5]]);
    let progress = Report { lease: Some(first.clone()), ..report(0..1) };
    assert_eq!(fleet.member(ranked[5], home, progress).lease, Some(first.clone()));
    let second = fleet.member(ranked[6], home, report(0..0)).lease.unwrap();
    assert_eq!((first.chunks, second.chunks), (0..2, 2..4));
}

#[test]
fn a_finished_lease_is_followed_by_the_next_until_all_is_covered() {
    let mut fleet = Fleet::new(3);
    let home = fleet.ranked()[0];
    let mut lease = fleet.member(home, home, report(0..0)).lease;
    let mut upstream = 0;
    while let Some(done) = lease {
        upstream += done.chunks.end - done.chunks.start;
        let ended = Some(Ended { epoch: done.epoch, id: done.id, how: LeaseEnd::Done });
        lease = fleet.member(home, home, Report { ended, ..report(0..done.chunks.end) }).lease;
    }
    assert_eq!(upstream, CHUNKS);
    let other = fleet.member(fleet.ranked()[1], home, report(0..0));
    assert_eq!((other.lease, other.members), (None, vec![home]));
}

#[test]
fn a_standby_goes_on_with_the_leases_of_a_home_that_died() {
    let mut fleet = Fleet::new(6);
    let ranked = fleet.ranked();
    let (home, standby, one, two) = (ranked[0], ranked[1], ranked[4], ranked[5]);
    let lease = fleet.member(one, home, report(0..0)).lease.unwrap();
    fleet.pass(ms(600));
    let have = Report { lease: Some(lease.clone()), ..report(0..1) };
    fleet.member(one, home, have.clone());
    fleet.nodes.remove(&home);
    for &node in &ranked[1..] {
        fleet.feed(node, Event::Down(home));
    }
    let other = fleet.member(two, standby, report(0..0)).lease.unwrap();
    assert_eq!(other.chunks, 2..4);
    assert!(other.epoch > lease.epoch);
    assert_eq!(fleet.member(one, standby, have).lease.unwrap().chunks, lease.chunks);
}

#[test]
fn a_frozen_home_is_followed_and_cedes_when_it_wakes() {
    let mut fleet = Fleet::new(6);
    let ranked = fleet.ranked();
    let (home, standby, one) = (ranked[0], ranked[1], ranked[4]);
    fleet.member(one, home, report(0..0)).lease.unwrap();
    fleet.pass(ms(600));
    fleet.frozen.insert(home);
    let lost = Report { unreachable: vec![home], ..report(0..3) };
    // Not at once: it may be that only the asker has lost it.
    assert_eq!(fleet.report(one, standby, lost.clone()), Some(Standing::Wait(UNSURE)));
    fleet.pass(STALE);
    let lease = fleet.member(one, standby, lost).lease.unwrap();
    fleet.pass(ms(1000));
    fleet.frozen.remove(&home);
    // Whoever asks the old home first has to wait for its claim, and is sent on.
    assert_eq!(fleet.report(ranked[3], home, report(0..0)), Some(Standing::Elsewhere(standby)));
    assert_eq!(
        fleet.member(one, standby, Report { lease: Some(lease.clone()), ..report(0..3) }).lease,
        Some(lease)
    );
}

#[test]
fn a_home_that_was_frozen_before_anybody_asked_is_passed_over() {
    let mut fleet = Fleet::new(8);
    let ranked = fleet.ranked();
    let (home, standby) = (ranked[0], ranked[1]);
    fleet.frozen.insert(home);
    let lost = Report { unreachable: vec![home], ..report(0..0) };
    // The other standby has not lost it, and ranks it closer.
    fleet.report(ranked[5], standby, lost);
    fleet.pass(CLAIM + TICK);
    assert!(fleet.member(ranked[6], standby, report(0..0)).lease.is_none());
    let kept = fleet.nodes[&standby].kept();
    assert!(kept[0].is_home && kept[0].leases == 1, "{kept:?}");
}

#[test]
fn a_holder_known_to_a_standby_spares_upstream() {
    let mut fleet = Fleet::new(4);
    let ranked = fleet.ranked();
    let (home, asker, holder) = (ranked[0], ranked[2], test_peer(99));
    let event = Event::Reported {
        question: QuestionId(7),
        from: asker,
        key: key(),
        report: report(0..0),
        known: vec![holder],
    };
    fleet.feed(home, event);
    let Some(Standing::Member(membership)) = fleet.answers.remove(&QuestionId(7)) else { panic!() };
    assert_eq!((membership.lease, membership.members), (None, vec![holder]));
    // It is gone, says who wanted it: then somebody fetches.
    let lost = Report { unreachable: vec![holder], ..report(0..0) };
    assert!(fleet.member(asker, home, lost).lease.is_some());
}

#[test]
fn when_all_were_refused_it_is_hopeless_and_said_to_all() {
    let mut fleet = Fleet::new(3);
    let ranked = fleet.ranked();
    let (home, one, two) = (ranked[0], ranked[1], ranked[2]);
    fleet.member(two, home, report(0..0));
    let lease = fleet.member(one, home, report(0..0)).lease;
    assert_eq!(lease, None);
    for (member, then) in [(two, None), (one, Some(LeaseEnd::Refused { status: None }))] {
        let lease: Lease = fleet.member(member, home, report(0..0)).lease.unwrap();
        let ended = Some(Ended { epoch: lease.epoch, id: lease.id, how: LeaseEnd::Refused { status: None } });
        let said = Report { ended, can_fetch: false, ..report(0..0) };
        assert_eq!(fleet.member(member, home, said).hopeless, then);
    }
    assert_eq!(
        fleet.member(two, home, Report { can_fetch: false, ..report(0..0) }).hopeless,
        Some(LeaseEnd::Refused { status: None })
    );
}

/// A long pause outlives those who heard of it: whoever comes later is told at once, and does not wait for its end.
#[test]
fn a_pause_that_upstream_asked_for_is_told_to_who_comes_later() {
    let mut fleet = Fleet::new(1);
    let me = fleet.ranked()[0];
    let lease = fleet.member(me, me, report(0..0)).lease.unwrap();
    let how = LeaseEnd::Trouble { status: Some(429), retry_after: Some(ms(60_000)) };
    let ended = Some(Ended { epoch: lease.epoch, id: lease.id, how });
    assert_eq!(fleet.member(me, me, Report { ended, ..report(0..0) }).hopeless, Some(how));
    fleet.member(me, me, Report { leaving: true, ..report(0..0) });
    fleet.pass(ms(10_000));
    let place = fleet.member(me, me, report(0..0));
    let left = LeaseEnd::Trouble { status: Some(429), retry_after: Some(ms(50_000)) };
    assert_eq!((place.lease, place.hopeless), (None, Some(left)));
    // The end of it is waited for.
    fleet.member(me, me, Report { leaving: true, ..report(0..0) });
    fleet.pass(ms(47_000));
    assert_eq!(fleet.member(me, me, report(0..0)).hopeless, None);
    fleet.pass(ms(3000));
    assert!(fleet.member(me, me, report(0..0)).lease.is_some());
}

#[test]
fn only_so_many_are_kept_track_of() {
    let mut fleet = Fleet::new(2);
    let home = fleet.ranked()[0];
    for homes in fleet.nodes.values_mut() {
        homes.options.members = 20;
    }
    let mut tracked = 0;
    let mut named = BTreeSet::new();
    for seed in 10..60 {
        let membership = fleet.member(test_peer(seed), home, report(0..0));
        assert!(membership.members.len() <= MAX_NAMED);
        assert!(!membership.members.contains(&test_peer(seed)));
        named.extend(membership.members);
        tracked += usize::from(membership.again.is_some());
    }
    assert_eq!(tracked, 20);
    // The others are named all the same: their uplinks count as much.
    assert!(named.len() > 40, "{}", named.len());
    // The silent are forgotten.
    fleet.pass(ms(5000));
    assert!(fleet.member(test_peer(200), home, report(0..0)).again.is_some());
}

#[test]
fn a_repair_sends_one_member_for_the_whole_blob_and_says_whom() {
    let mut fleet = Fleet::new(6);
    let ranked = fleet.ranked();
    let (home, liar, other, idle) = (ranked[0], ranked[3], ranked[4], ranked[5]);
    let first = fleet.member(liar, home, report(0..0)).lease.unwrap();
    let progress = Report { lease: Some(first), ..report(0..1) };
    fleet.member(liar, home, progress.clone());
    assert!(fleet.member(other, home, report(0..0)).lease.is_some());
    // The digest was another. Whoever fetched waits, and is not believed for a lease that it claims to have had.
    let place = fleet.member_in(1, liar, home, Report { lease: progress.lease, ..report(0..0) });
    assert_eq!((place.lease, place.fetchers, place.again), (None, vec![], Some(ms(100))));
    let place = fleet.member_in(1, idle, home, report(0..0));
    assert_eq!((place.lease.unwrap().chunks, place.fetchers), (0..CHUNKS, vec![]));
    fleet.member_in(1, idle, home, report(0..1));
    for member in [liar, other] {
        let place = fleet.member_in(1, member, home, report(0..0));
        assert_eq!((place.lease, place.fetchers), (None, vec![idle]));
    }
    // It came out wrong again: this one is believed last.
    assert_eq!(fleet.member_in(2, idle, home, report(0..0)).lease, None);
    fleet.pass(ms(1000));
    assert_eq!(fleet.member_in(2, idle, home, report(0..0)).lease, None);
    assert_eq!(fleet.member_in(2, other, home, report(0..0)).lease.unwrap().chunks, 0..CHUNKS);
}

#[test]
fn a_home_that_takes_part_in_a_repair_goes_itself() {
    let mut fleet = Fleet::new(3);
    let home = fleet.ranked()[0];
    let other = fleet.ranked()[1];
    fleet.member(other, home, report(0..0)).lease.unwrap();
    fleet.member(other, home, report(0..1));
    assert_eq!(fleet.member_in(1, other, home, report(0..0)).lease, None);
    assert_eq!(fleet.member_in(1, home, home, report(0..0)).lease.unwrap().chunks, 0..CHUNKS);
    // Without it, one that fetched before has to do: after a while.
    let mut fleet = Fleet::new(3);
    let (home, other) = (fleet.ranked()[0], fleet.ranked()[1]);
    fleet.member(other, home, report(0..0)).lease.unwrap();
    fleet.member(other, home, report(0..1));
    assert_eq!(fleet.member_in(1, other, home, report(0..0)).lease, None);
    fleet.pass(ms(1000));
    assert!(fleet.member_in(1, other, home, report(0..0)).lease.is_some());
}

#[test]
fn records_of_holders_that_are_gone_do_not_keep_a_swarm_from_upstream() {
    let mut fleet = Fleet::new(3);
    let home = fleet.ranked()[0];
    let dead: Vec<PeerId> = (100..120).map(test_peer).collect();
    let mut leases = Vec::new();
    for turn in 0..6 {
        let unreachable = dead.iter().cycle().skip(turn * 8).take(8).copied().collect();
        let said = Report { unreachable, ..report(0..0) };
        // The records say the same each time.
        let place = fleet.report_beside(dead.clone(), 0, home, home, said);
        let Some(Standing::Member(place)) = place else { panic!("{place:?}") };
        leases.push(place.lease.is_some());
        fleet.pass(ms(1000));
    }
    assert_eq!(leases, [false, false, true, true, true, true]);
}

fn one_of_many(number: usize) -> PeerId {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    PeerId::from_bytes(&[0, 4, 1, 2, high, low]).unwrap()
}

#[test]
fn whoever_fetches_for_all_is_kept_track_of() {
    let mut fleet = Fleet::new(4);
    let home = fleet.ranked()[0];
    let most = Options::default().members;
    for number in 0..most {
        let refused = Report { can_fetch: false, ..report(0..0) };
        fleet.member(one_of_many(number), home, refused);
    }
    let place = fleet.member(one_of_many(most), home, report(0..0));
    assert!(place.lease.is_some() && place.again.is_some(), "{place:?}");
    let kept: usize = fleet.nodes[&home].kept().iter().map(|kept| kept.members).sum();
    assert_eq!(kept, most);
    let passer = fleet.member(one_of_many(most + 1), home, Report { can_fetch: false, ..report(0..0) });
    assert_eq!(passer.again, None);
}
