//! Readers of several places of a blob that upstream alone can bring, and readers that starve.

use super::*;

fn reader(number: u64, chunk: u32) -> Event {
    Event::ReaderAt(ReaderId(number), chunk)
}

/// One that fetches, with this lease of a blob of so many chunks.
fn fetching(chunks: u32, leased: std::ops::Range<u32>) -> (Transfer, FetchId) {
    let (mut transfer, actions) =
        Transfer::start(layout(chunks), FixedBitSet::new(), homes(), Options::default(), ms(0));
    let (id, _, _) = report(&actions).unwrap();
    transfer.handle(Event::Reported(id, Some(standing(Some(lease(1, leased)), vec![]))), ms(0));
    let actions = transfer.handle(Event::DiscoveryEnded, ms(300));
    let (fetch, _) = upstream_range(&actions).unwrap();
    (transfer, fetch)
}

#[test]
fn who_waits_is_served_before_what_nobody_waits_for() {
    let (mut transfer, fetch) = fetching(64, 0..64);
    transfer.handle(reader(1, 40), ms(301));
    transfer.handle(reader(2, 20), ms(302));
    // The chunk that is on its way is taken.
    let actions = transfer.handle(Event::UpstreamChunk(fetch, 0), ms(310));
    assert!(actions.contains(&Action::StopUpstream(fetch)), "{actions:?}");
    let (fetch, range) = upstream_range(&actions).unwrap();
    assert_eq!(range, 40..44, "no more than a turn, as another waits");
    // The first one reads on; the other one has its turn all the same.
    let mut turns = 0;
    let mut next = 40;
    let (_, range) = loop {
        transfer.handle(reader(1, next), ms(320 + u64::from(next)));
        let actions = transfer.handle(Event::UpstreamChunk(fetch, next), ms(320 + u64::from(next)));
        (next, turns) = (next + 1, turns + 1);
        if let Some(begun) = upstream_range(&actions) {
            break begun;
        }
        assert!(turns < 8, "the second one waits until the first has all");
    };
    assert_eq!((range, turns), (20..40, 4));
}

#[test]
fn one_reader_in_order_is_never_interrupted() {
    let (mut transfer, fetch) = fetching(64, 0..64);
    for chunk in 0..64 {
        transfer.handle(reader(1, chunk), ms(301));
        let actions = transfer.handle(Event::UpstreamChunk(fetch, chunk), ms(302));
        assert_eq!(upstream_range(&actions), None, "{chunk}");
    }
}

#[test]
fn a_lease_is_left_for_what_readers_wait_for_once_it_brought_something() {
    let (mut transfer, fetch) = fetching(64, 0..16);
    let actions = transfer.handle(reader(1, 40), ms(301));
    assert_eq!(report(&actions), None, "{actions:?}");
    let actions = transfer.handle(Event::UpstreamChunk(fetch, 0), ms(310));
    let (id, _, said) = report(&actions).unwrap();
    assert_eq!((said.wants, said.ended), (Some(40), None), "that it moved is told at once");
    transfer.handle(Event::Reported(id, Some(standing(Some(lease(1, 0..16)), vec![]))), ms(311));
    // What is on its way is taken.
    let actions = transfer.handle(Event::UpstreamChunk(fetch, 1), ms(320));
    assert!(actions.contains(&Action::StopUpstream(fetch)), "{actions:?}");
    let (_, _, said) = report(&actions).unwrap_or_else(|| panic!("{actions:?}"));
    assert_eq!(said.wants, Some(40));
    assert!(said.ended.is_some(), "{said:?}");
}

#[test]
fn among_others_a_lease_is_kept() {
    let (mut transfer, fetch) = fetching(64, 0..16);
    let nothing = Availability::Partial(FixedBitSet::with_capacity(64));
    transfer.handle(Event::Provider(peer(1), nothing), ms(301));
    transfer.handle(reader(1, 40), ms(302));
    let actions = transfer.handle(Event::UpstreamChunk(fetch, 0), ms(310));
    assert!(!actions.contains(&Action::StopUpstream(fetch)), "{actions:?}");
    assert_eq!(report(&actions).and_then(|(_, _, said)| said.ended), None);
}

fn with_only(chunks: std::ops::Range<usize>) -> Availability {
    let mut have = FixedBitSet::with_capacity(64);
    have.insert_range(chunks);
    Availability::Partial(have)
}

/// A blob of 64 chunks that others fetch, and that this node may not.
fn beside_others() -> Transfer {
    let (mut transfer, actions) =
        Transfer::start(layout(64), FixedBitSet::new(), homes(), Options::default(), ms(0));
    let (id, _, _) = report(&actions).unwrap();
    transfer.handle(Event::Reported(id, Some(standing(None, vec![]))), ms(0));
    transfer
}

#[test]
fn who_starves_is_fed_first_and_little_else_is_asked() {
    let mut transfer = beside_others();
    transfer.handle(reader(1, 20), ms(0));
    let actions = transfer.handle(Event::Provider(peer(1), with_only(20..21)), ms(0));
    let (wanted, _, _) = requests(&actions)[0];
    transfer.handle(Event::ChunkFailed(wanted, ChunkFailure::Busy), ms(1));
    let mut others = Vec::new();
    for other in 2..10 {
        let actions = transfer.handle(Event::Provider(peer(other), with_only(32..64)), ms(2));
        others.extend(requests(&actions).into_iter().map(|(id, _, _)| id));
    }
    assert_eq!(others.len(), 16, "as much as may be on its way");
    assert_eq!(requests(&transfer.handle(Event::Timer, ms(999))), []);
    let asked = requests(&transfer.handle(Event::Timer, ms(1000)));
    assert_eq!(asked.iter().map(|&(_, from, chunk)| (from, chunk)).collect::<Vec<_>>(), [(peer(1), 20)]);
    // What is on its way comes, and little more is asked for until the reader has its chunk.
    for (left, &other) in (0..16_usize).rev().zip(&others) {
        let more = requests(&transfer.handle(Event::Chunk(other), ms(1001)));
        // The reader's own, which is on its way too, does not count.
        assert_eq!(more.len(), usize::from(left < starving::MOST_OTHERS), "{left} left");
        if !more.is_empty() {
            break;
        }
    }
    let more = requests(&transfer.handle(Event::Chunk(asked[0].0), ms(1002)));
    assert_eq!(more.len(), 12, "as much as may be on its way again");
}

#[test]
fn for_who_starves_a_second_peer_is_asked_sooner() {
    let second_asked_at = |waits: bool| {
        let mut transfer = beside_others();
        if waits {
            transfer.handle(reader(1, 20), ms(0));
        }
        let asked = requests(&transfer.handle(Event::Provider(peer(1), with_only(20..21)), ms(0)));
        assert_eq!(asked.len(), 1);
        transfer.handle(Event::Provider(peer(2), with_only(20..21)), ms(1));
        (2..5000).find(|&at| !requests(&transfer.handle(Event::Timer, ms(at))).is_empty())
    };
    assert_eq!([second_asked_at(true), second_asked_at(false)], [Some(1000), Some(2000)]);
}
