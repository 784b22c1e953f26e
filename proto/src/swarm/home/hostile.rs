//! Whatever members, homes and standbys say, a home neither panics nor grows without end.

use fixedbitset::FixedBitSet;
use proptest::prelude::*;

use super::tests::silent;
use super::*;
use crate::chunk::MIN_CHUNK;
use crate::origin::Origin;
use crate::swarm::lease::{Lease, LeaseEnd};
use crate::swarm::message::{Ended, MAX_ROUND};
use crate::swarm::test_peer;
use crate::transfer::Availability;

const OPTIONS: Options = Options { leases: 4, members: 5, swarms: 3 };

fn peer() -> impl Strategy<Value = PeerId> {
    (1..12_u8).prop_map(test_peer)
}

fn key() -> impl Strategy<Value = SwarmKey> {
    // A size of which there is no blob is among them.
    let size = prop_oneof![1..4_u64, Just(9 * MIN_CHUNK), Just(u64::MAX)];
    (0..3_u8, size, 0..=MAX_ROUND).prop_map(|(blob, size, round)| SwarmKey {
        digest: Digest::sha256_of(&[blob]),
        size,
        round,
        origin: Origin::from_bytes([7; 16]),
    })
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..4_u64, u64::MAX - 3..=u64::MAX, any::<u64>()]
}

fn lease() -> impl Strategy<Value = Lease> {
    let chunk = || prop_oneof![0..12_u32, Just(u32::MAX)];
    (number(), number(), chunk(), chunk()).prop_map(|(epoch, id, start, end)| Lease {
        epoch,
        id,
        chunks: start..end,
    })
}

fn end() -> impl Strategy<Value = LeaseEnd> {
    let time = prop_oneof![Just(None), Just(Some(Duration::MAX)), Just(Some(Duration::from_mins(1)))];
    let trouble = time.prop_map(|retry_after| LeaseEnd::Trouble { status: None, retry_after });
    prop_oneof![Just(LeaseEnd::Done), Just(LeaseEnd::Refused { status: None }), trouble]
}

fn have() -> impl Strategy<Value = Availability> {
    let bits = prop::collection::vec(any::<bool>(), 0..12).prop_map(|set| {
        let mut bits = FixedBitSet::with_capacity(set.len());
        bits.extend(set.iter().enumerate().filter(|(_, set)| **set).map(|(chunk, _)| chunk));
        Availability::Partial(bits)
    });
    prop_oneof![1 => Just(Availability::Complete), 4 => bits]
}

fn report() -> impl Strategy<Value = Report> {
    let ended = (number(), number(), end()).prop_map(|(epoch, id, how)| Ended { epoch, id, how });
    let lost = prop::collection::vec(peer(), 0..4);
    let wants = prop::option::of(any::<u32>());
    (have(), wants, any::<[bool; 3]>(), prop::option::of(lease()), prop::option::of(ended), lost).prop_map(
        |(have, wants, [can_fetch, whole, leaving], lease, ended, unreachable)| Report {
            have,
            wants,
            can_fetch,
            lease,
            ended,
            whole,
            unreachable,
            leaving,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let peers = || prop::collection::vec(peer(), 0..20);
    let reported =
        (any::<u64>(), peer(), key(), report(), peers()).prop_map(|(question, from, key, report, known)| {
            Event::Reported { question: QuestionId(question), from, key, report, known }
        });
    let leases = prop::collection::vec((peer(), lease()), 0..8);
    let claimed = (any::<u64>(), peer(), key(), (number(), leases), peers()).prop_map(
        |(question, from, key, (epoch, leases), known)| {
            let claim = Claim { epoch, leases };
            Event::Claimed { question: QuestionId(question), from, key, claim, known }
        },
    );
    let answer = prop_oneof![
        (number(), peers()).prop_map(|(epoch, providers)| ClaimAnswer::Granted { epoch, providers }),
        (number(), peer()).prop_map(|(epoch, home)| ClaimAnswer::HeldBy { home, epoch }),
    ];
    let answered = (key(), peer(), prop::option::of(answer))
        .prop_map(|(key, by, answer)| Event::ClaimAnswered { key, by, answer });
    prop_oneof![
        4 => reported,
        2 => claimed,
        3 => answered,
        1 => peer().prop_map(Event::Up),
        1 => peer().prop_map(Event::Down),
        2 => Just(Event::Timer),
    ]
}

proptest! {
    #[test]
    fn nothing_that_is_said_breaks_a_home(steps in prop::collection::vec((event(), 0..700_u64), 1..80)) {
        let mut ranking = Ranking::new(test_peer(0));
        (1..4).for_each(|seed| ranking.insert(test_peer(seed)));
        let mut homes = Homes::new(ranking, OPTIONS);
        let mut now = Duration::ZERO;
        for (event, wait) in steps {
            now += Duration::from_millis(wait);
            homes.handle(event, now);
            prop_assert!(homes.swarms.len() <= OPTIONS.swarms);
            for swarm in homes.swarms.values() {
                prop_assert!(swarm.members.len() <= OPTIONS.members);
                prop_assert!(swarm.leases.running().count() <= OPTIONS.leases);
            }
        }
    }
}

/// Whoever names the largest numbers there are does not keep a home from granting.
#[test]
fn a_home_counts_on_from_the_largest_numbers() {
    let (local, liar, member) = (test_peer(0), test_peer(1), test_peer(2));
    let mut homes = Homes::new(Ranking::new(local), OPTIONS);
    let key = SwarmKey::first(Digest::sha256_of(b"blob"), 9 * MIN_CHUNK, Origin::from_bytes([7; 16]));
    let none = Availability::Partial(FixedBitSet::with_capacity(9));
    let largest = Lease { epoch: u64::MAX, id: u64::MAX, chunks: 0..1 };
    let claim = Claim { epoch: u64::MAX, leases: vec![(liar, largest.clone())] };
    let question = QuestionId(1);
    homes.handle(Event::Claimed { question, from: liar, key, claim, known: Vec::new() }, Duration::ZERO);
    let lost = Report { unreachable: vec![liar], lease: Some(largest), ..silent(none) };
    let event = Event::Reported { question, from: member, key, report: lost, known: Vec::new() };
    let actions = homes.handle(event, Duration::from_secs(2));
    let [Action::Answer(_, Standing::Member(place)), ..] = &actions[..] else { panic!("{actions:?}") };
    assert!(place.lease.is_some() && place.epoch <= super::super::message::MAX_NUMBER, "{place:?}");
}

/// A swarm that makes room for another lets nobody wait in vain.
#[test]
fn who_waits_for_a_swarm_that_goes_is_told_to_ask_later() {
    let local = test_peer(0);
    let mut ranking = Ranking::new(local);
    ranking.insert(test_peer(1));
    let mut homes = Homes::new(ranking, Options { swarms: 1, ..OPTIONS });
    let mut answers = Vec::new();
    for blob in 0..2_u64 {
        let key = SwarmKey::first(Digest::sha256_of(b"blob"), MIN_CHUNK + blob, Origin::from_bytes([7; 16]));
        let none = Availability::Partial(FixedBitSet::with_capacity(if blob == 0 { 1 } else { 2 }));
        // Or it would be sent there.
        let report = Report { unreachable: vec![test_peer(1)], ..silent(none) };
        let event = Event::Reported { question: QuestionId(blob), from: local, key, report, known: vec![] };
        answers.extend(homes.handle(event, Duration::from_millis(blob)));
    }
    assert!(answers.contains(&Action::Answer(QuestionId(0), Standing::Wait(REPORT))), "{answers:?}");
}
