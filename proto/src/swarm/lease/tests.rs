//! What leases do over time, and that they never overlap.

use super::*;
use crate::chunk::MIN_CHUNK;
use crate::swarm::test_peer;
use proptest::prelude::*;

fn layout(chunks: u32) -> ChunkLayout {
    ChunkLayout::of(u64::from(chunks) * MIN_CHUNK).unwrap()
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ended(lease: &Lease, how: LeaseEnd) -> Ended {
    Ended { epoch: lease.epoch, id: lease.id, how }
}

fn bits(chunks: u32, set: impl IntoIterator<Item = u32>) -> FixedBitSet {
    let mut bits = FixedBitSet::with_capacity(chunks as usize);
    bits.extend(set.into_iter().map(|chunk| chunk as usize));
    bits
}

#[test]
fn the_first_lease_runs_alone_until_it_brings_something() {
    let (one, two) = (test_peer(1), test_peer(2));
    let mut leases = Leases::new(layout(256), 8);
    let none = bits(256, []);
    let first = leases.grant(one, &none, 1, at(0)).unwrap();
    assert_eq!(first.chunks, 0..2);
    assert_eq!(leases.grant(two, &none, 1, at(1)), None);
    leases.progress(&one, &bits(256, [0]), at(2));
    assert_eq!(leases.grant(two, &none, 1, at(3)).unwrap().chunks, 2..4);
    // A holder that stands still loses it.
    leases.progress(&one, &bits(256, 0..2), at(4000));
    leases.expire(at(3 + 4000));
    assert_eq!(leases.of(&two), None);
    assert!(leases.of(&one).is_some());
}

#[test]
fn a_lease_is_a_part_of_its_blob_within_limits() {
    let lengths = |mib: u64| {
        let layout = ChunkLayout::of(mib << 20).unwrap();
        let mut leases = Leases::new(layout, 1);
        let mut covered = FixedBitSet::with_capacity(layout.count() as usize);
        // The first one, and that after it has brought all at once.
        [0, 1].map(|step| {
            let lease = leases.grant(test_peer(1), &covered, 1, at(step)).unwrap();
            covered.insert_range(lease.chunks.start as usize..lease.chunks.end as usize);
            leases.progress(&test_peer(1), &covered, at(step));
            leases.end(&test_peer(1), &ended(&lease, LeaseEnd::Done), at(step));
            (lease.chunks.len() as u64 * layout.chunk_size()) >> 10
        })
    };
    assert_eq!(lengths(2), [256, 1024]);
    assert_eq!(lengths(64), [512, 2048]);
    assert_eq!(lengths(3000), [4096, 16384]);
}

#[test]
fn a_slow_holder_gets_what_it_brings_in_two_seconds() {
    let (slow, fast) = (test_peer(1), test_peer(2));
    let mut leases = Leases::new(layout(256), 2);
    let mut covered = bits(256, []);
    let bring = |leases: &mut Leases, covered: &mut FixedBitSet, holder: PeerId, from: u64, to: u64| {
        let lease = leases.grant(holder, covered, 1, at(from)).unwrap();
        covered.insert_range(lease.chunks.start as usize..lease.chunks.end as usize);
        leases.progress(&holder, covered, at(to));
        leases.end(&holder, &ended(&lease, LeaseEnd::Done), at(to));
        lease.chunks.len()
    };
    assert_eq!(bring(&mut leases, &mut covered, slow, 0, 3000), 2);
    assert_eq!(bring(&mut leases, &mut covered, fast, 3000, 3100), 2);
    assert_eq!(
        bring(&mut leases, &mut covered, slow, 3100, 4000),
        2,
        "a chunk took it 1.5 s; no fewer than two"
    );
    assert_eq!(bring(&mut leases, &mut covered, fast, 4000, 4100), 8, "the longest for 64 MiB");
    assert_eq!(bring(&mut leases, &mut covered, slow, 4100, 4200), 4, "the last two took 0.9 s");
}

#[test]
fn who_was_not_sent_upstream_here_cannot_stop_the_fleet_for_long() {
    let (liar, other) = (test_peer(1), test_peer(2));
    let mut leases = Leases::new(layout(64), 4);
    let lease = Lease { epoch: 9, id: 9, chunks: 0..8 };
    leases.adopt(liar, lease.clone(), at(0));
    let how = LeaseEnd::Trouble { status: Some(429), retry_after: Some(Duration::from_mins(5)) };
    leases.end(&liar, &ended(&lease, how), at(0));
    assert!(leases.paused_until() <= at(100));
    assert!(leases.grant(other, &bits(64, []), 1, at(100)).is_some());
}

#[test]
fn an_upstream_without_ranges_has_one_customer() {
    let (one, two) = (test_peer(1), test_peer(2));
    let mut leases = Leases::new(layout(256), 8);
    let none = bits(256, []);
    leases.grant(one, &none, 1, at(0)).unwrap();
    leases.give_whole(&one);
    assert_eq!(leases.of(&one).unwrap().chunks, 0..256);
    leases.progress(&one, &bits(256, 0..100), at(1));
    assert_eq!(leases.grant(two, &none, 1, at(2)), None);
    leases.release(&one);
    assert!(leases.grant(two, &bits(256, 0..100), 1, at(3)).is_some());
}

#[test]
fn the_fleet_backs_off_as_one_and_gives_up_when_all_were_refused() {
    let (one, two) = (test_peer(1), test_peer(2));
    let mut leases = Leases::new(layout(4), 8);
    let none = bits(4, []);
    let lease = leases.grant(one, &none, 1, at(0)).unwrap();
    leases.end(&one, &ended(&lease, LeaseEnd::Trouble { status: None, retry_after: Some(at(2000)) }), at(10));
    assert_eq!(leases.grant(two, &none, 1, at(2009)), None);
    assert_eq!(leases.hopeless(true, at(20)), None);
    let lease = leases.grant(two, &none, 1, at(2010)).unwrap();
    leases.end(&two, &ended(&lease, LeaseEnd::Refused { status: None }), at(2020));
    assert_eq!(leases.grant(two, &none, 1, at(2030)), None);
    assert_eq!(leases.hopeless(false, at(2030)), Some(LeaseEnd::Refused { status: None }));
    // Not for ever.
    leases.expire(at(2020) + REMEMBERED);
    assert!(leases.grant(two, &none, 1, at(9000)).is_some());
}

proptest! {
    /// Whatever members do, no chunk is leased to two at a time, and never more than allowed run.
    #[test]
    fn leases_never_overlap(steps in prop::collection::vec((0..6_usize, 0..5_u8, 0..200_u32), 1..200)) {
        let peers: Vec<PeerId> = (0..6).map(test_peer).collect();
        let mut leases = Leases::new(layout(200), 3);
        let mut covered = bits(200, []);
        for (step, (who, what, chunk)) in steps.into_iter().enumerate() {
            let (now, peer) = (at(step as u64 * 50), peers[who]);
            match what {
                0 | 1 => if leases.of(&peer).is_none() { leases.grant(peer, &covered, 1, now); },
                2 => {
                    if let Some(lease) = leases.of(&peer).cloned() {
                        covered.insert_range(lease.chunks.start as usize..lease.chunks.end as usize);
                        leases.progress(&peer, &covered, now);
                        leases.end(&peer, &ended(&lease, LeaseEnd::Done), now);
                    }
                }
                3 => leases.adopt(peer, Lease { epoch: 1, id: 1, chunks: chunk..chunk + 7 }, now),
                _ => leases.release(&peer),
            }
            let mut seen = bits(200, []);
            let mut count = 0;
            for (_, lease) in leases.running() {
                count += 1;
                for chunk in lease.chunks.clone() {
                    prop_assert!(!seen.put(chunk as usize), "leased twice");
                }
            }
            prop_assert!(count <= 3);
        }
    }
}

/// One node without a way to the registry, whose readers wait for what it was sent to fetch.
#[test]
fn who_fails_while_others_do_well_is_not_sent_again_at_once() {
    let (lost, well) = (test_peer(1), test_peer(2));
    let mut leases = Leases::new(layout(256), 8);
    let mut covered = bits(256, []);
    let first = leases.grant(well, &covered, 1, at(0)).unwrap();
    covered.insert(0);
    leases.progress(&well, &covered, at(10));
    let its = leases.grant(lost, &covered, 1, at(20)).unwrap();
    leases.end(&lost, &ended(&its, LeaseEnd::TROUBLE), at(3000));
    // The pause after a failure is over, and nobody is known to do better.
    assert!(leases.clone().grant(lost, &covered, 1, at(3200)).is_some());
    covered.insert_range(0..2);
    leases.progress(&well, &covered, at(3200));
    assert_eq!(leases.grant(lost, &covered, 1, at(3300)), None);
    leases.end(&well, &ended(&first, LeaseEnd::Done), at(3300));
    let next = leases.clone().grant(well, &covered, 1, at(3300)).unwrap();
    assert_eq!(next.chunks.start, its.chunks.start, "the other is sent for it");
    // Not for longer than others do well, nor for ever.
    assert!(leases.clone().grant(lost, &covered, 1, at(6300)).is_some());
    leases.progress(&well, &covered, at(7900));
    let its = leases.grant(lost, &covered, 1, at(8000)).unwrap();
    // Nor one whom upstream says nothing.
    leases.progress(&well, &covered, at(8000));
    let stood_still = at(8000) + PATIENCE;
    leases.expire(stood_still);
    assert_eq!(leases.of(&lost), None);
    leases.grant(well, &covered, 1, stood_still).unwrap();
    covered.insert(its.chunks.start as usize);
    leases.progress(&well, &covered, stood_still + at(100));
    assert_eq!(leases.grant(lost, &covered, 1, stood_still + at(200)), None);
}

#[test]
fn a_lease_begins_at_what_is_wanted() {
    let mut leases = Leases::new(layout(64), 4);
    let (one, two) = (test_peer(1), test_peer(2));
    let lease = leases.grant_at(Some(40), one, &bits(64, 40..42), 1, at(0)).unwrap();
    assert_eq!(lease.chunks.start, 42);
    leases.progress(&one, &bits(64, 40..43), at(1));
    // Behind it there is nothing, or no such chunk: then what is before.
    for (wants, start) in [(Some(60), 0), (Some(u32::MAX), 0)] {
        let mut leases = leases.clone();
        let covered = bits(64, 42..64);
        assert_eq!(leases.grant_at(wants, two, &covered, 1, at(2)).unwrap().chunks.start, start);
    }
}
