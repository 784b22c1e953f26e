//! The transfer core against a small virtual network: every schedule ends, and ends right.

use std::collections::BTreeSet;

use libp2p_identity::Keypair;
use proptest::prelude::*;

use super::neighbours::{MAX_NAMED_NEIGHBOURS, MAX_NEIGHBOURS};
use super::*;

mod readers;
use crate::chunk::MIN_CHUNK;
use crate::digest::Digest;
use crate::origin::Origin;
use crate::swarm::home::{self, QuestionId};
use crate::swarm::lease::{Lease, LeaseEnd};
use crate::swarm::message::{Membership, Report, Standing, SwarmKey};
use crate::swarm::ranking::Ranking;

fn peer(seed: u8) -> PeerId {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap().public().to_peer_id()
}

fn layout(chunks: u32) -> ChunkLayout {
    ChunkLayout::of(u64::from(chunks) * MIN_CHUNK).unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// This node.
fn local() -> PeerId {
    peer(200)
}

fn homes() -> Homes {
    Homes { local: local(), closest: vec![local()], fleet: 1 }
}

fn lease(id: u64, chunks: std::ops::Range<u32>) -> Lease {
    Lease { epoch: 1, id, chunks }
}

fn standing(lease: Option<Lease>, members: Vec<PeerId>) -> Standing {
    Standing::Member(Membership {
        epoch: 1,
        members,
        lease,
        fetchers: vec![],
        hopeless: None,
        again: Some(ms(1000)),
    })
}

fn report(actions: &[Action]) -> Option<(ReportId, PeerId, Report)> {
    actions.iter().find_map(|action| match action {
        Action::Report { id, to, report } => Some((*id, *to, report.clone())),
        _ => None,
    })
}

/// A transfer that may fetch all of its blob.
fn fresh(chunks: u32) -> (Transfer, Vec<Action>) {
    with(chunks, FixedBitSet::new())
}

fn with(chunks: u32, have: FixedBitSet) -> (Transfer, Vec<Action>) {
    let (mut transfer, actions) = Transfer::start(layout(chunks), have, homes(), Options::default(), ms(0));
    let Some((id, to, _)) = report(&actions) else { return (transfer, actions) };
    assert_eq!(to, local());
    let actions =
        transfer.handle(Event::Reported(id, Some(standing(Some(lease(1, 0..chunks)), vec![]))), ms(0));
    (transfer, actions)
}

fn requests(actions: &[Action]) -> Vec<(RequestId, PeerId, u32)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Request { id, peer, chunk } => Some((*id, *peer, *chunk)),
            _ => None,
        })
        .collect()
}

fn upstream_range(actions: &[Action]) -> Option<(FetchId, std::ops::Range<u32>)> {
    actions.iter().find_map(|action| match action {
        Action::FetchUpstream { id, chunks } => Some((*id, chunks.clone())),
        _ => None,
    })
}

#[test]
fn an_empty_blob_only_needs_its_proof() {
    let (_, actions) = fresh(0);
    assert_eq!(actions, [Action::Finish]);
}

#[test]
fn upstream_waits_for_discovery_and_gets_one_range() {
    let (mut transfer, actions) = fresh(10);
    assert_eq!(actions[0], Action::Discover);
    assert_eq!(upstream_range(&actions), None);
    let actions = transfer.handle(Event::DiscoveryEnded, ms(300));
    let (id, range) = upstream_range(&actions).unwrap();
    assert_eq!(range, 0..10);
    for chunk in 0..9 {
        assert!(!transfer.handle(Event::UpstreamChunk(id, chunk), ms(301)).contains(&Action::Finish));
    }
    let actions = transfer.handle(Event::UpstreamChunk(id, 9), ms(302));
    assert!(actions.contains(&Action::Finish), "{actions:?}");
}

#[test]
fn what_is_held_is_not_fetched() {
    let mut have = FixedBitSet::with_capacity(10);
    have.insert_range(0..4);
    have.insert_range(7..10);
    let (mut transfer, _) = with(10, have);
    let actions = transfer.handle(Event::DiscoveryEnded, ms(1));
    assert_eq!(upstream_range(&actions).unwrap().1, 4..7);
}

#[test]
fn a_complete_peer_spares_upstream_and_the_reader_is_served_in_order() {
    let (mut transfer, _) = fresh(100);
    transfer.handle(Event::ReaderAt(ReaderId(1), 50), ms(0));
    let actions = transfer.handle(Event::Provider(peer(1), Availability::Complete), ms(5));
    let asked: Vec<u32> = requests(&actions).iter().map(|&(_, _, chunk)| chunk).collect();
    assert_eq!(asked, [50, 51]);
    let actions = transfer.handle(Event::DiscoveryEnded, ms(300));
    assert_eq!(upstream_range(&actions), None);
}

#[test]
fn who_has_lost_all_peers_looks_for_them_when_nodes_come_back() {
    let (mut transfer, _) = fresh(100);
    let (id, range) = upstream_range(&transfer.handle(Event::DiscoveryEnded, ms(300))).unwrap();
    assert_eq!(range, 0..100);
    let fleet = |fleet| Event::Homes(Homes { fleet, ..homes() });
    assert!(!transfer.handle(fleet(1), ms(900)).contains(&Action::Discover));
    assert!(transfer.handle(fleet(2), ms(900)).contains(&Action::Discover));
    // They are looked for once at a time, and who came meanwhile a little later: upstream has its turn.
    assert!(!transfer.handle(fleet(3), ms(1000)).contains(&Action::Discover));
    let actions = transfer.handle(Event::DiscoveryEnded, ms(1200));
    assert!(
        !actions.contains(&Action::Discover) && actions.contains(&Action::SetTimer(ms(1700))),
        "{actions:?}"
    );
    assert!(transfer.handle(Event::Timer, ms(1700)).contains(&Action::Discover));
    // Upstream ends the chunk it is at.
    transfer.handle(Event::Provider(peer(1), Availability::Complete), ms(1800));
    assert!(transfer.handle(Event::UpstreamChunk(id, 0), ms(1900)).contains(&Action::StopUpstream(id)));
    // With somebody who has something, no more is looked for.
    assert!(!transfer.handle(Event::DiscoveryEnded, ms(2000)).contains(&Action::Discover));
    assert!(!transfer.handle(fleet(4), ms(3000)).contains(&Action::Discover));
}

#[test]
fn who_is_near_is_asked_before_others() {
    let (mut transfer, _) =
        Transfer::start(layout(64), FixedBitSet::new(), homes(), Options::default(), ms(0));
    let (far, near) = (peer(1), peer(2));
    transfer.near(near);
    let mut actions = transfer.handle(Event::Provider(near, Availability::Complete), ms(1));
    actions.extend(transfer.handle(Event::Provider(far, Availability::Complete), ms(1)));
    // As one that is fast is found to be: then all fits into what may be in flight at it.
    let mut near_chunks = 0;
    let mut far_chunks = 0;
    let mut now = 1;
    while near_chunks + far_chunks < 64 {
        let asked = requests(&actions);
        actions.clear();
        for (id, of, _) in asked {
            now += 1;
            *(if of == near { &mut near_chunks } else { &mut far_chunks }) += 1;
            actions.extend(transfer.handle(Event::Chunk(id), ms(now)));
        }
    }
    assert!(far_chunks <= 4, "{far_chunks} chunks were asked of one that is far");
}

#[test]
fn a_lost_peer_costs_upstream_only_what_is_missing() {
    let (mut transfer, _) = fresh(8);
    let mut pending = requests(&transfer.handle(Event::Provider(peer(1), Availability::Complete), ms(0)));
    transfer.handle(Event::DiscoveryEnded, ms(1));
    for step in 0..4 {
        let (id, ..) = pending.remove(0);
        pending.extend(requests(&transfer.handle(Event::Chunk(id), ms(10 + step))));
    }
    let (id, ..) = pending[0];
    let actions = transfer.handle(Event::ChunkFailed(id, ChunkFailure::Gone), ms(20));
    assert!(actions.contains(&Action::Blame(peer(1), ChunkFailure::Gone)));
    assert_eq!(upstream_range(&actions).unwrap().1, 4..8);
}

#[test]
fn a_slow_chunk_is_asked_of_a_second_peer() {
    let (mut transfer, _) = fresh(2);
    let first = requests(&transfer.handle(Event::Provider(peer(1), Availability::Complete), ms(0)));
    assert_eq!(first.len(), 2);
    assert!(requests(&transfer.handle(Event::Provider(peer(2), Availability::Complete), ms(1))).is_empty());
    let late = transfer.handle(Event::Timer, ms(2100));
    let hedged = requests(&late);
    assert_eq!(hedged.iter().map(|&(_, peer, _)| peer).collect::<BTreeSet<_>>(), [peer(2)].into());
    // The second answers: the first request is cancelled, and its late answer is ignored.
    let (id, _, chunk) = hedged[0];
    let actions = transfer.handle(Event::Chunk(id), ms(2200));
    let (loser, ..) = *first.iter().find(|&&(_, _, asked)| asked == chunk).unwrap();
    assert!(actions.contains(&Action::Cancel(loser)));
    assert!(transfer.handle(Event::Chunk(loser), ms(2300)).is_empty());
}

/// A transfer of two chunks that came from these peers, whose digest was then another.
fn begun_again(signers: [PeerId; 2]) -> (Transfer, Vec<Action>) {
    let (mut transfer, _) = fresh(2);
    let mut bits = FixedBitSet::with_capacity(2);
    for (chunk, &signer) in signers.iter().enumerate() {
        bits.clear();
        bits.insert(chunk);
        let actions = transfer.handle(Event::Provider(signer, Availability::Partial(bits.clone())), ms(1));
        for (id, ..) in requests(&actions) {
            transfer.handle(Event::Chunk(id), ms(2));
        }
    }
    assert_eq!(transfer.missing(), 0);
    let actions = transfer.handle(Event::Mismatch(signers.to_vec()), ms(3));
    (transfer, actions)
}

#[test]
fn after_a_false_word_all_is_fetched_again_under_a_lease_of_another_swarm() {
    let (mut transfer, actions) = begun_again([peer(1), peer(2)]);
    assert_eq!(transfer.round(), 1);
    assert_eq!(transfer.missing(), 2);
    assert!(actions.contains(&Action::Forget(vec![0, 1])), "{actions:?}");
    let (id, _, said) = report(&actions).unwrap();
    assert_eq!((said.lease, said.ended), (None, None));
    // Without a lease of that swarm upstream is left alone.
    assert_eq!(upstream_range(&transfer.handle(Event::DiscoveryEnded, ms(300))), None);
    let granted = Event::Reported(id, Some(standing(Some(lease(1, 0..2)), vec![])));
    let (fetch, range) = upstream_range(&transfer.handle(granted, ms(301))).unwrap();
    assert_eq!(range, 0..2);
    transfer.handle(Event::UpstreamChunk(fetch, 0), ms(302));
    assert!(transfer.handle(Event::UpstreamChunk(fetch, 1), ms(303)).contains(&Action::Finish));
    // Nobody else's word is in it: the wrong bytes are upstream's.
    let actions = transfer.handle(Event::Mismatch(vec![]), ms(304));
    assert_eq!(actions, [Action::Fail(Some(UpstreamFailure::WrongBytes))]);
}

#[test]
fn of_those_who_vouched_before_only_who_was_sent_upstream_is_believed() {
    let (mut transfer, actions) = begun_again([peer(1), peer(2)]);
    assert_eq!(
        transfer.disbelieved(),
        [peer(1), peer(2)].into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    );
    // One of them says it has everything: its own word again.
    assert!(requests(&transfer.handle(Event::Provider(peer(1), Availability::Complete), ms(4))).is_empty());
    let (id, ..) = report(&actions).unwrap();
    let mut place = Membership {
        epoch: 1,
        members: vec![],
        lease: None,
        fetchers: vec![peer(2)],
        hopeless: None,
        again: Some(ms(1000)),
    };
    transfer.handle(Event::Reported(id, Some(Standing::Member(place.clone()))), ms(5));
    assert_eq!(transfer.disbelieved(), [peer(1)]);
    let asked = requests(&transfer.handle(Event::Provider(peer(2), Availability::Complete), ms(6)));
    assert_eq!(asked.len(), 2);
    // A chunk on a word that is not believed costs its giver nothing, and the home is asked soon.
    let failed = Event::ChunkFailed(asked[0].0, ChunkFailure::Disbelieved);
    let mut some = FixedBitSet::with_capacity(2);
    some.insert(0);
    transfer.handle(Event::Provider(peer(2), Availability::Partial(some)), ms(7));
    let actions = transfer.handle(failed, ms(8));
    assert!(!actions.iter().any(|action| matches!(action, Action::Blame(..))), "{actions:?}");
    let (id, ..) = report(&transfer.handle(Event::Timer, ms(108))).unwrap();
    place.fetchers = vec![peer(1)];
    transfer.handle(Event::Reported(id, Some(Standing::Member(place))), ms(109));
    assert_eq!(transfer.disbelieved(), []);
}

#[test]
fn rounds_are_bounded() {
    let (mut transfer, _) = begun_again([peer(1), peer(2)]);
    for round in 2..10 {
        let mut actions = Vec::new();
        let giver = peer(10 + round);
        for (id, ..) in requests(&transfer.handle(Event::Provider(giver, Availability::Complete), ms(10))) {
            actions = transfer.handle(Event::Chunk(id), ms(11));
        }
        assert!(actions.contains(&Action::Finish), "{actions:?}");
        let actions = transfer.handle(Event::Mismatch(vec![giver]), ms(12));
        if actions == [Action::Fail(Some(UpstreamFailure::WrongBytes))] {
            assert_eq!(u32::from(round), crate::swarm::message::MAX_ROUND + 1);
            return;
        }
    }
    panic!("it goes on for ever");
}

#[test]
fn a_refused_member_reports_it_and_gives_up_only_when_the_home_says_so() {
    let (mut transfer, _) = fresh(2);
    let (id, _) = upstream_range(&transfer.handle(Event::DiscoveryEnded, ms(1))).unwrap();
    let actions =
        transfer.handle(Event::UpstreamEnded(id, Err(UpstreamFailure::Final { status: None })), ms(2));
    let (id, _, said) = report(&actions).unwrap();
    assert_eq!(said.ended.unwrap().how, LeaseEnd::Refused { status: None });
    assert!(!said.can_fetch);
    let hopeless = Standing::Member(Membership {
        epoch: 1,
        members: vec![],
        lease: None,
        fetchers: vec![],
        hopeless: Some(LeaseEnd::Refused { status: None }),
        again: Some(ms(1000)),
    });
    let actions = transfer.handle(Event::Reported(id, Some(hopeless)), ms(3));
    assert_eq!(actions, [Action::Fail(Some(UpstreamFailure::Final { status: None }))]);
}

#[test]
fn an_upstream_in_trouble_is_waited_for_while_clients_have_begun_to_read() {
    let hopeless = |status, retry_after| {
        let Standing::Member(place) = standing(None, vec![]) else { unreachable!() };
        let hopeless = Some(LeaseEnd::Trouble { status: Some(status), retry_after });
        Some(Standing::Member(Membership { hopeless, again: Some(ms(1000)), ..place }))
    };
    // In which second it gives up, if the home says so from the first on.
    let gives_up = |chunks: u32, reads: bool, retry_after: Option<u64>| {
        let mut have = FixedBitSet::with_capacity(9);
        have.insert_range(..chunks as usize);
        let (mut transfer, actions) = Transfer::start(layout(9), have, homes(), Options::default(), ms(0));
        let (mut id, ..) = report(&actions).unwrap();
        if reads {
            transfer.handle(Event::ReaderAt(ReaderId(1), 0), ms(0));
        }
        for second in 1.. {
            let said = hopeless(503, retry_after.map(Duration::from_secs));
            let reported_at = ms(second * 1000);
            let mut actions = transfer.handle(Event::Reported(id, said), reported_at);
            actions.extend(transfer.handle(Event::Timer, reported_at + ms(1000)));
            if actions.iter().any(|action| matches!(action, Action::Fail(_))) {
                return second;
            }
            id = report(&actions).unwrap().0;
        }
        unreachable!()
    };
    assert_eq!(gives_up(1, true, None), 6);
    assert_eq!(gives_up(1, true, Some(5)), 6);
    assert_eq!(gives_up(1, true, Some(120)), 1, "it is longer than any client waits");
    assert_eq!(gives_up(1, false, None), 1, "nobody waits");
    assert_eq!(gives_up(0, true, None), 1, "nobody has got anything yet");
}

#[test]
fn without_a_lease_upstream_is_left_alone() {
    let (mut transfer, actions) =
        Transfer::start(layout(9), FixedBitSet::new(), homes(), Options::default(), ms(0));
    let (id, ..) = report(&actions).unwrap();
    let actions = transfer.handle(Event::Reported(id, Some(standing(None, vec![peer(1)]))), ms(1));
    assert!(actions.contains(&Action::Ask { peer: peer(1), known: 0 }), "{actions:?}");
    let mut bits = FixedBitSet::with_capacity(9);
    bits.insert(3);
    let actions = transfer.handle(Event::Provider(peer(1), Availability::Partial(bits)), ms(2));
    assert_eq!(requests(&actions).iter().map(|&(.., chunk)| chunk).collect::<Vec<_>>(), [3]);
    // What it gets meanwhile is heard of.
    assert!(actions.contains(&Action::Ask { peer: peer(1), known: 1 }), "{actions:?}");
    for at in 1..100 {
        assert_eq!(upstream_range(&transfer.handle(Event::Timer, ms(at * 100))), None);
    }
}

#[test]
fn a_home_that_does_not_answer_is_followed_by_the_next() {
    let homes = Homes { local: local(), closest: vec![peer(1), peer(2), peer(3)], fleet: 100 };
    let (mut transfer, actions) = Transfer::start(
        layout(9),
        FixedBitSet::new(),
        homes,
        Options { seed: 512, ..Options::default() },
        ms(0),
    );
    let (id, to, _) = report(&actions).unwrap();
    assert_eq!(to, peer(1));
    let (id, to, said) = report(&transfer.handle(Event::Reported(id, None), ms(10))).unwrap();
    assert_eq!((to, said.unreachable), (peer(2), vec![peer(1)]));
    let (id, to, _) = report(&transfer.handle(Event::Reported(id, None), ms(20))).unwrap();
    assert_eq!(to, peer(3));
    // Nobody is left: it waits, asks them again, and then keeps the swarm itself.
    let actions = transfer.handle(Event::Reported(id, None), ms(30));
    assert_eq!(actions, [Action::SetTimer(ms(1030))]);
    let mut to = Vec::new();
    let mut due = report(&transfer.handle(Event::Timer, ms(1030)));
    while let Some((id, whom, _)) = due {
        to.push(whom);
        due = if whom == local() {
            None
        } else {
            report(&transfer.handle(Event::Reported(id, None), ms(1040)))
        };
    }
    assert_eq!(to, [peer(1), peer(2), peer(3), local()]);
}

#[test]
fn a_home_that_only_puts_off_is_followed_too() {
    let homes = Homes { local: local(), closest: vec![peer(1), peer(2)], fleet: 3 };
    let (mut transfer, actions) =
        Transfer::start(layout(9), FixedBitSet::new(), homes, Options::default(), ms(0));
    let mut due = report(&actions);
    let mut now = ms(0);
    while let Some((id, to, _)) = due {
        if to == peer(2) {
            return;
        }
        assert_eq!(to, peer(1));
        assert!(now < ms(5000), "it never gave up");
        transfer.handle(Event::Reported(id, Some(Standing::Wait(ms(1000)))), now);
        now += ms(1000);
        due = report(&transfer.handle(Event::Timer, now));
    }
    panic!("it does not report any more");
}

/// Whatever time a home names: a member does not forget to report, nor does nothing else.
#[test]
fn a_home_is_reported_to_within_bounds() {
    for (again, due) in [(ms(0), ms(50)), (ms(700), ms(700)), (Duration::MAX, ms(5000))] {
        let (mut transfer, actions) =
            Transfer::start(layout(9), FixedBitSet::new(), homes(), Options::default(), ms(0));
        let (id, ..) = report(&actions).unwrap();
        let Standing::Member(place) = standing(None, vec![]) else { unreachable!() };
        let place = Standing::Member(Membership { again: Some(again), ..place });
        let actions = transfer.handle(Event::Reported(id, Some(place)), ms(0));
        assert_eq!(actions, [Action::SetTimer(due)]);
        assert!(report(&transfer.handle(Event::Timer, due.saturating_sub(ms(1)))).is_none());
        assert!(report(&transfer.handle(Event::Timer, due)).is_some());
    }
}

#[test]
fn a_member_is_sent_on_and_stays_with_its_home() {
    let homes = Homes { local: local(), closest: vec![peer(1), peer(2)], fleet: 3 };
    let (mut transfer, actions) =
        Transfer::start(layout(9), FixedBitSet::new(), homes, Options::default(), ms(0));
    let (id, ..) = report(&actions).unwrap();
    let actions = transfer.handle(Event::Reported(id, Some(Standing::Elsewhere(peer(2)))), ms(1));
    let (id, to, _) = report(&actions).unwrap();
    assert_eq!(to, peer(2));
    transfer.handle(Event::Reported(id, Some(standing(None, vec![]))), ms(2));
    let (_, to, _) = report(&transfer.handle(Event::Timer, ms(1002))).unwrap();
    assert_eq!(to, peer(2));
    assert_eq!(transfer.farewell(true).unwrap().0, peer(2));
}

#[test]
fn an_upstream_without_ranges_is_told_to_the_home() {
    let (mut transfer, _) =
        Transfer::start(layout(90), FixedBitSet::new(), homes(), Options::default(), ms(0));
    let granted = Some(standing(Some(lease(1, 0..64)), vec![]));
    transfer.handle(Event::Reported(ReportId(0), granted), ms(1));
    let (id, _) = upstream_range(&transfer.handle(Event::DiscoveryEnded, ms(2))).unwrap();
    let (_, _, said) = report(&transfer.handle(Event::UpstreamWhole(id), ms(3))).unwrap();
    assert!(said.whole);
    for chunk in 0..90 {
        let actions = transfer.handle(Event::UpstreamChunk(id, chunk), ms(4));
        assert_eq!(actions.contains(&Action::Finish), chunk == 89);
    }
}

#[test]
fn there_is_room_for_neighbours_who_ask_beside_those_who_are_named() {
    let (mut transfer, actions) =
        Transfer::start(layout(10), FixedBitSet::new(), homes(), Options::default(), ms(0));
    let (id, _, _) = report(&actions).unwrap();
    let mut some = FixedBitSet::with_capacity(10);
    some.insert(9);
    let mut asked = BTreeSet::new();
    let mut follow = |transfer: &mut Transfer, actions: &[Action]| {
        for action in actions {
            let &Action::Ask { peer, known: 0 } = action else { continue };
            if asked.insert(peer) {
                // One that has something is asked again at once: it still counts as one.
                transfer.handle(Event::Provider(peer, Availability::Partial(some.clone())), ms(1));
            }
        }
        asked.len()
    };
    let named = (1..=40).map(peer).collect();
    let actions = transfer.handle(Event::Reported(id, Some(standing(None, named))), ms(1));
    assert_eq!(follow(&mut transfer, &actions), MAX_NAMED_NEIGHBOURS);
    for seed in 41..=80 {
        let actions = transfer.handle(Event::Candidate(peer(seed)), ms(1));
        follow(&mut transfer, &actions);
    }
    assert_eq!(follow(&mut transfer, &[]), MAX_NEIGHBOURS);
}

#[test]
fn neighbours_of_no_use_make_room_one_at_a_time() {
    let (mut transfer, _) = fresh(10);
    let nothing = FixedBitSet::with_capacity(10);
    for seed in 1..=32 {
        transfer.handle(Event::Candidate(peer(seed)), ms(1));
        transfer.handle(Event::Provider(peer(seed), Availability::Partial(nothing.clone())), ms(1));
    }
    let is_asked = |transfer: &mut Transfer, seed: u8, now: u64| {
        let actions = transfer.handle(Event::Candidate(peer(seed)), ms(now));
        actions.contains(&Action::Ask { peer: peer(seed), known: 0 })
    };
    assert!(!is_asked(&mut transfer, 40, 100), "too soon");
    assert!(is_asked(&mut transfer, 40, 600));
    assert!(!is_asked(&mut transfer, 41, 700), "one at a time");
    // Who is of use stays.
    let mut some = nothing;
    some.insert(3);
    let others = (1..=32).chain([40]);
    for seed in others {
        transfer.handle(Event::Provider(peer(seed), Availability::Partial(some.clone())), ms(800));
    }
    assert!(!is_asked(&mut transfer, 42, 2000));
}

#[test]
fn a_busy_peer_is_left_alone_for_about_a_chunks_time() {
    // Chunks that come each so many milliseconds, and then a "busy": when is it asked again?
    let pause = |each: u64| {
        let (mut transfer, _) = fresh(100);
        let mut actions = transfer.handle(Event::Provider(peer(1), Availability::Complete), ms(0));
        let mut queue = std::collections::VecDeque::from(requests(&actions));
        for step in 1..60 {
            let (id, ..) = queue.pop_front().unwrap();
            actions = transfer.handle(Event::Chunk(id), ms(step * each));
            queue.extend(requests(&actions));
        }
        let now = ms(59 * each);
        while let Some((id, ..)) = queue.pop_front() {
            actions = transfer.handle(Event::ChunkFailed(id, ChunkFailure::Busy), now);
            if requests(&actions).is_empty() {
                break;
            }
        }
        let timer = actions.iter().find_map(|action| match action {
            Action::SetTimer(at) => Some(at.saturating_sub(now)),
            _ => None,
        });
        timer.unwrap()
    };
    assert!((ms(2)..ms(6)).contains(&pause(3)), "{:?}", pause(3));
    assert_eq!(pause(100), ms(25));
}

#[test]
fn a_bitmap_of_another_size_is_not_believed() {
    let (mut transfer, _) = fresh(9);
    let bits = FixedBitSet::with_capacity(1_000_000);
    assert!(
        requests(&transfer.handle(Event::Provider(peer(1), Availability::Partial(bits)), ms(0))).is_empty()
    );
}

/// How a simulated peer behaves.
#[derive(Debug, Clone)]
enum Manner {
    Honest { delay: u64 },
    Partial { delay: u64, every: usize },
    BusyAtFirst { times: u32, delay: u64 },
    DiesAfter { chunks: u32 },
    Stalls,
    Corrupts,
    ClaimsTooMuch,
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        (1..200_u64).prop_map(|delay| Manner::Honest { delay }),
        (1..200_u64, 2..5_usize).prop_map(|(delay, every)| Manner::Partial { delay, every }),
        (1..6_u32, 1..50_u64).prop_map(|(times, delay)| Manner::BusyAtFirst { times, delay }),
        (0..10_u32).prop_map(|chunks| Manner::DiesAfter { chunks }),
        Just(Manner::Stalls),
        Just(Manner::Corrupts),
        Just(Manner::ClaimsTooMuch),
    ]
}

/// What happens at some time.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few of them at a time")]
enum Due {
    Here(Event),
    /// At this node's own home.
    Home(home::Event),
}

/// A virtual network: peers of given manners and an upstream that breaks now and then.
struct Network {
    transfer: Transfer,
    home: home::Homes,
    layout: ChunkLayout,
    manners: BTreeMap<PeerId, (Manner, u32)>,
    /// How many chunks upstream gives before each break; the last entry holds for ever.
    upstream_breaks: Vec<u32>,
    queue: BTreeMap<(Duration, u64), Due>,
    stopped: BTreeSet<FetchId>,
    in_flight: BTreeMap<RequestId, u32>,
    sequence: u64,
    upstream_chunks: Vec<u32>,
    outcome: Option<Action>,
    most_in_flight: usize,
    /// Where each reader stands.
    readers: Vec<u32>,
}

impl Network {
    fn new(chunks: u32, manners: Vec<Manner>, upstream_breaks: Vec<u32>) -> Self {
        let layout = layout(chunks);
        let (transfer, actions) =
            Transfer::start(layout, FixedBitSet::new(), homes(), Options::default(), Duration::ZERO);
        let manners = manners
            .into_iter()
            .enumerate()
            .map(|(index, manner)| (peer(u8::try_from(index).unwrap() + 1), (manner, 0)))
            .collect();
        let mut network = Self {
            transfer,
            home: home::Homes::new(Ranking::new(local()), home::Options::default()),
            layout,
            manners,
            upstream_breaks,
            queue: BTreeMap::new(),
            stopped: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            sequence: 0,
            upstream_chunks: vec![0; chunks as usize],
            outcome: None,
            most_in_flight: 0,
            readers: Vec::new(),
        };
        network.perform(actions, Duration::ZERO);
        network
    }

    /// Readers who begin at these chunks.
    fn read_by(mut self, readers: Vec<u32>) -> Self {
        self.readers = readers;
        for (id, &chunk) in (0..).zip(&self.readers.clone()) {
            self.at(Duration::ZERO, Event::ReaderAt(ReaderId(id), chunk));
        }
        self
    }

    /// Readers go on to what is not there yet, and leave at the end.
    fn read(&mut self, now: Duration) {
        for (id, mut chunk) in (0..).zip(self.readers.clone()) {
            while self.transfer.have().contains(chunk as usize) {
                chunk += 1;
            }
            if chunk != self.readers[usize::try_from(id).unwrap()] {
                self.readers[usize::try_from(id).unwrap()] = chunk;
                let ended = chunk >= self.layout.count();
                let reader = ReaderId(id);
                self.at(now, if ended { Event::ReaderGone(reader) } else { Event::ReaderAt(reader, chunk) });
            }
        }
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((when, self.sequence), Due::Here(event));
    }

    fn at_home(&mut self, when: Duration, event: home::Event) {
        self.sequence += 1;
        self.queue.insert((when, self.sequence), Due::Home(event));
    }

    fn home(&mut self, event: home::Event, now: Duration) {
        for action in self.home.handle(event, now) {
            match action {
                home::Action::Answer(QuestionId(id), standing) => {
                    self.at(now + ms(1), Event::Reported(ReportId(id), Some(standing)));
                }
                home::Action::SetTimer(at) => self.at_home(at, home::Event::Timer),
                other => panic!("a node alone has no standbys: {other:?}"),
            }
        }
    }

    fn perform(&mut self, actions: Vec<Action>, now: Duration) {
        for action in actions {
            match action {
                Action::Discover => self.discover(now),
                Action::Report { id, to, report } => {
                    assert_eq!(to, local());
                    let key = SwarmKey::first(
                        Digest::sha256_of(b"blob"),
                        self.layout.size(),
                        Origin::from_bytes([7; 16]),
                    );
                    let (question, known) = (QuestionId(id.0), Vec::new());
                    self.at_home(now, home::Event::Reported { question, from: local(), key, report, known });
                }
                Action::Ask { peer, .. } => {
                    // It gets nothing new: the answer comes when the second is over.
                    let availability = self.availability(&self.manners[&peer].0);
                    self.at(now + ms(1000), Event::Provider(peer, availability));
                }
                Action::Request { id, peer, chunk } => self.request(id, peer, chunk, now),
                Action::Cancel(id) => {
                    self.in_flight.remove(&id);
                }
                Action::FetchUpstream { id, chunks } => self.fetch(id, chunks, now),
                Action::StopUpstream(id) => {
                    self.stopped.insert(id);
                }
                Action::SetTimer(at) => self.at(at, Event::Timer),
                Action::Finish | Action::Fail(_) => self.outcome = Some(action),
                Action::Blame(..) | Action::Forget(_) => {}
            }
        }
        self.most_in_flight = self.most_in_flight.max(self.in_flight.len());
    }

    fn discover(&mut self, now: Duration) {
        for (index, (&peer, (manner, _))) in self.manners.clone().iter().enumerate() {
            let availability = self.availability(manner);
            self.at(now + ms(index as u64 * 20), Event::Provider(peer, availability));
        }
        self.at(now + ms(300), Event::DiscoveryEnded);
    }

    fn availability(&self, manner: &Manner) -> Availability {
        let count = self.layout.count() as usize;
        match manner {
            Manner::Partial { every, .. } => {
                let mut bits = FixedBitSet::with_capacity(count);
                (0..count).step_by(*every).for_each(|chunk| bits.insert(chunk));
                Availability::Partial(bits)
            }
            _ => Availability::Complete,
        }
    }

    fn request(&mut self, id: RequestId, peer: PeerId, chunk: u32, now: Duration) {
        assert!(self.in_flight.insert(id, chunk).is_none());
        let (manner, seen) = self.manners.get_mut(&peer).unwrap();
        *seen += 1;
        let failed = |failure| Event::ChunkFailed(id, failure);
        let (delay, event) = match *manner {
            Manner::BusyAtFirst { times, .. } if *seen <= times => (1, failed(ChunkFailure::Busy)),
            Manner::Honest { delay } | Manner::Partial { delay, .. } | Manner::BusyAtFirst { delay, .. } => {
                (delay, Event::Chunk(id))
            }
            Manner::DiesAfter { chunks } if *seen > chunks => (5, failed(ChunkFailure::Gone)),
            Manner::DiesAfter { .. } => (5, Event::Chunk(id)),
            Manner::Stalls => (3000, failed(ChunkFailure::Stalled)),
            Manner::Corrupts => (5, failed(ChunkFailure::Corrupt)),
            Manner::ClaimsTooMuch => (5, failed(ChunkFailure::Missing)),
        };
        self.at(now + ms(delay), event);
    }

    fn fetch(&mut self, id: FetchId, chunks: std::ops::Range<u32>, now: Duration) {
        let gives = if self.upstream_breaks.len() > 1 {
            self.upstream_breaks.remove(0)
        } else {
            self.upstream_breaks[0]
        };
        let mut when = now;
        for chunk in chunks.clone().take(gives as usize) {
            when += ms(10);
            self.at(when, Event::UpstreamChunk(id, chunk));
        }
        let result = if chunks.len() <= gives as usize { Ok(()) } else { Err(UpstreamFailure::RETRY) };
        self.at(when + ms(1), Event::UpstreamEnded(id, result));
    }

    /// Runs until the transfer says how it ended.
    fn run(&mut self) -> (Duration, Action) {
        let mut now = Duration::ZERO;
        for _ in 0..100_000 {
            if let Some(outcome) = self.outcome.clone() {
                return (now, outcome);
            }
            let Some(((when, _), event)) = self.queue.pop_first() else {
                panic!("nothing is due and the transfer has not ended: {:?}", self.transfer);
            };
            now = now.max(when);
            let event = match event {
                Due::Here(event) => event,
                Due::Home(event) => {
                    self.home(event, now);
                    continue;
                }
            };
            match &event {
                Event::UpstreamChunk(id, _) | Event::UpstreamEnded(id, _) if self.stopped.contains(id) => {
                    continue;
                }
                Event::UpstreamChunk(_, chunk) => self.upstream_chunks[*chunk as usize] += 1,
                // A cancelled request answers nothing.
                Event::Chunk(id) | Event::ChunkFailed(id, _) if self.in_flight.remove(id).is_none() => {
                    continue;
                }
                _ => {}
            }
            let actions = self.transfer.handle(event, now);
            self.perform(actions, now);
            self.read(now);
        }
        panic!("no end after 100,000 events");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// With an upstream that works in the end, every mix of peers ends with every chunk stored, the bound on
    /// what is in flight holds, and upstream gives no chunk that an unfailing fetch gave before.
    #[test]
    fn every_chunk_is_fetched(
        chunks in 0..60_u32,
        manners in proptest::collection::vec(manner(), 0..6),
        breaks in proptest::collection::vec(1..20_u32, 0..2),
        readers in proptest::collection::vec(0..60_u32, 0..8),
    ) {
        let mut breaks = breaks;
        breaks.push(u32::MAX);
        let readers = readers.into_iter().filter(|&chunk| chunk < chunks).collect();
        let mut network = Network::new(chunks, manners, breaks).read_by(readers);
        let (_, outcome) = network.run();
        prop_assert_eq!(outcome, Action::Finish);
        prop_assert_eq!(network.transfer.missing(), 0);
        let most = 16 + starving::MOST_FEEDING + starving::MOST_ASKED;
        prop_assert!(network.most_in_flight <= most, "{}", network.most_in_flight);
        prop_assert!(network.upstream_chunks.iter().all(|&times| times <= 1), "{:?}", network.upstream_chunks);
    }

    /// Without an upstream, one honest peer is enough.
    #[test]
    fn one_honest_peer_is_enough(
        chunks in 1..60_u32,
        manners in proptest::collection::vec(manner(), 0..5),
        delay in 1..100_u64,
    ) {
        let mut manners = manners;
        manners.push(Manner::Honest { delay });
        let mut network = Network::new(chunks, manners, vec![0]);
        let (_, outcome) = network.run();
        prop_assert_eq!(outcome, Action::Finish);
        prop_assert!(network.upstream_chunks.iter().all(|&times| times == 0));
    }

    /// Without upstream and without honest peers it fails, and says so in bounded time.
    #[test]
    fn hopeless_transfers_end(
        chunks in 1..40_u32,
        bad in proptest::collection::vec(
            prop_oneof![Just(Manner::Stalls), Just(Manner::Corrupts), Just(Manner::ClaimsTooMuch)], 0..5),
    ) {
        let mut network = Network::new(chunks, bad, vec![0]);
        let (when, outcome) = network.run();
        prop_assert!(matches!(outcome, Action::Fail(_)), "{:?}", outcome);
        prop_assert!(when < Duration::from_secs(30), "{when:?}");
    }
}

#[test]
fn all_who_are_gone_are_named_in_turn_and_again_while_the_home_counts_on_them() {
    let (mut transfer, actions) =
        Transfer::start(layout(10), FixedBitSet::new(), homes(), Options::default(), ms(0));
    let (mut id, ..) = report(&actions).unwrap();
    let dead: Vec<PeerId> = (1..=20).map(peer).collect();
    let mut now = 0;
    let mut round = |transfer: &mut Transfer| {
        let mut actions = Vec::new();
        for &peer in &dead {
            actions.extend(transfer.handle(Event::HasNothing(peer), ms(now)));
        }
        let mut named = BTreeSet::new();
        for _ in 0..4 {
            let place = Some(standing(None, dead.clone()));
            actions.extend(transfer.handle(Event::Reported(id, place), ms(now)));
            while report(&actions).is_none() {
                now += 250;
                actions = transfer.handle(Event::Timer, ms(now));
            }
            let (next, _, said) = report(&actions).unwrap();
            assert!(said.unreachable.len() <= 8);
            named.extend(said.unreachable);
            id = next;
            actions.clear();
        }
        named
    };
    // At first they are asked again now and then; in the end they are only named.
    for _ in 0..6 {
        assert_eq!(round(&mut transfer).len(), dead.len());
    }
}

#[test]
fn what_upstream_sends_whole_is_not_stopped_where_something_is_held() {
    let mut have = FixedBitSet::with_capacity(10);
    have.insert_range(4..6);
    let (mut transfer, _) = with(10, have);
    let (id, _) = upstream_range(&transfer.handle(Event::DiscoveryEnded, ms(1))).unwrap();
    transfer.handle(Event::UpstreamWhole(id), ms(2));
    for chunk in 0..9 {
        let actions = transfer.handle(Event::UpstreamChunk(id, chunk), ms(3));
        assert!(!actions.contains(&Action::StopUpstream(id)), "at chunk {chunk}");
    }
    assert!(transfer.handle(Event::UpstreamChunk(id, 9), ms(4)).contains(&Action::Finish));
}
