//! Which keys are announced on the DHT, and when. Pure: the node's task carries it out.
//!
//! Each announcement is a lookup and some twenty messages. Thousands at once lose more than half of them, silently
//! (measured), so only a few are under way at a time. Records last two hours and are repeated each half an hour;
//! one that failed, sooner. A peer that connects may have been restarted, and then has lost what it was told: the keys
//! that it is to know of, which in a small fleet are all, are announced again a few seconds later. Peers that connect one
//! soon after the other settle together: where a fleet starts, keys are announced again once, and not for each of them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

use shoal_proto::digest::Digest;

use crate::closeness::{Point, is_among_closest};

/// Announcements under way at a time.
pub(crate) const IN_FLIGHT: usize = 16;
/// How often a key is announced again.
const REPEAT: Duration = Duration::from_mins(30);
/// How soon after a failure; twice as long after each further one.
const RETRY: Duration = Duration::from_secs(10);
/// How long a peer that connected may take to be in the tables of others, at the least and at the most. Fleets meet a
/// peer at the same instant, and should not all announce at the same.
pub(crate) const SETTLES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(6));
/// How long keys wait for more peers to be looked at, of thousands that connect at once.
const GATHER: Duration = Duration::from_secs(2);
/// Peers for which the keys are looked through in one tick: for thousands of keys and peers it takes milliseconds.
const MET_AT_A_TIME: usize = 4;

/// When a key's turn is. What was never announced goes before what is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    First(Instant),
    Again(Instant),
}

#[derive(Debug)]
struct Key {
    point: Point,
    /// Its place in the schedule, unless it is under way.
    turn: Option<Turn>,
    under_way: bool,
    /// It is to be announced again as soon as what is under way has ended.
    again: bool,
    failures: u32,
    /// It was announced well at least once.
    announced: bool,
}

/// The keys of this node.
#[derive(Debug)]
pub(crate) struct Announcer<Peer> {
    keys: HashMap<Digest, Key>,
    schedule: BTreeSet<(Turn, Digest)>,
    in_flight: usize,
    announced: u64,
    /// The connected peers.
    peers: HashMap<Peer, Point>,
    /// Those of them that are to settle, and when.
    met: Vec<(Instant, Peer)>,
    /// The keys that those who have settled are to know of, while more are to be looked at, and since when.
    concerned: Option<(Instant, HashSet<Digest>)>,
}

impl<Peer: Copy + Eq + Hash> Announcer<Peer> {
    pub(crate) fn new() -> Self {
        Self {
            keys: HashMap::new(),
            schedule: BTreeSet::new(),
            in_flight: 0,
            announced: 0,
            peers: HashMap::new(),
            met: Vec::new(),
            concerned: None,
        }
    }

    /// Wants this key announced, now and from time to time.
    pub(crate) fn add(&mut self, key: Digest, point: Point, now: Instant) {
        if let Entry::Vacant(entry) = self.keys.entry(key) {
            entry.insert(Key {
                point,
                turn: None,
                under_way: false,
                again: false,
                failures: 0,
                announced: false,
            });
            self.schedule(key, Turn::First(now));
        }
    }

    /// Wants it no longer announced.
    pub(crate) fn remove(&mut self, key: &Digest) {
        let Some(Key { turn, announced, .. }) = self.keys.remove(key) else { return };
        self.announced -= u64::from(announced);
        if let Some(turn) = turn {
            self.schedule.remove(&(turn, *key));
        }
    }

    /// The next key to announce, if one is due and there is room. [`Announcer::ended`] makes room again.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Digest> {
        if self.in_flight >= IN_FLIGHT {
            return None;
        }
        let &(turn, key) = self.schedule.first()?;
        if matches!(turn, Turn::Again(due) if due > now) {
            return None;
        }
        self.schedule.remove(&(turn, key));
        if let Some(state) = self.keys.get_mut(&key) {
            state.turn = None;
            state.under_way = true;
        }
        self.in_flight += 1;
        Some(key)
    }

    /// The announcement of this key ended.
    pub(crate) fn ended(&mut self, key: Digest, well: bool, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(state) = self.keys.get_mut(&key).filter(|state| state.under_way) else { return };
        state.under_way = false;
        if well && !std::mem::replace(&mut state.announced, true) {
            self.announced += 1;
        }
        state.failures = if well { 0 } else { state.failures.saturating_add(1) };
        let wait = match state.failures {
            _ if std::mem::take(&mut state.again) => Duration::ZERO,
            0 => REPEAT,
            failures => (RETRY * (1 << (failures - 1).min(10))).min(REPEAT),
        };
        self.schedule(key, Turn::Again(now + wait));
    }

    /// A peer connected that was not connected a moment before. Until it settles it may be gone again, or not be found
    /// by announcements. It settles with others that do so at `soonest` or after, or if there are none, at `settled`.
    pub(crate) fn met(&mut self, peer: Peer, point: Point, soonest: Instant, settled: Instant) {
        self.peers.insert(peer, point);
        self.met.retain(|(_, met)| *met != peer);
        let settled = self.met.iter().map(|&(at, _)| at).filter(|&at| at >= soonest).min().unwrap_or(settled);
        self.met.push((settled, peer));
    }

    /// A peer is connected no longer.
    pub(crate) fn lost(&mut self, peer: Peer) {
        self.peers.remove(&peer);
        self.met.retain(|(_, met)| *met != peer);
    }

    /// Makes due again what the peers that have settled are to know of: the keys to which they are among the closest
    /// of all that are connected.
    pub(crate) fn tick(&mut self, now: Instant) {
        let mut settled = Vec::new();
        self.met.retain(|(at, peer)| {
            let taken = *at <= now && settled.len() < MET_AT_A_TIME;
            if taken {
                settled.extend(self.peers.get(peer));
            }
            !taken
        });
        if !settled.is_empty() {
            let peers: Vec<&Point> = self.peers.values().collect();
            let concerned = |key: &Key| settled.iter().any(|peer| is_among_closest(peer, &key.point, &peers));
            let (_, all) = self.concerned.get_or_insert_with(|| (now, HashSet::new()));
            all.extend(self.keys.iter().filter(|(_, key)| concerned(key)).map(|(&key, _)| key));
        }
        let more_come = self.met.iter().any(|(at, _)| *at <= now);
        if let Some((_, keys)) = self.concerned.take_if(|(since, _)| !more_come || now >= *since + GATHER) {
            for key in keys {
                self.announce_again(key, now);
            }
        }
    }

    fn announce_again(&mut self, key: Digest, now: Instant) {
        match self.keys.get_mut(&key) {
            Some(state) if state.under_way => state.again = true,
            Some(Key { turn: Some(Turn::Again(due)), .. }) if *due > now => {
                self.schedule(key, Turn::Again(now));
            }
            // Its turn is about to come.
            _ => {}
        }
    }

    fn schedule(&mut self, key: Digest, turn: Turn) {
        if let Some(state) = self.keys.get_mut(&key) {
            if let Some(before) = state.turn.replace(turn) {
                self.schedule.remove(&(before, key));
            }
            self.schedule.insert((turn, key));
        }
    }

    /// How many of the keys were announced well, however often.
    pub(crate) fn announced(&self) -> u64 {
        self.announced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Digest {
        Digest::sha256_of(&n.to_be_bytes())
    }

    fn point(n: u32) -> Point {
        crate::closeness::point(&n.to_be_bytes())
    }

    fn announcer(keys: u32) -> Announcer<u32> {
        let mut announcer = Announcer::new();
        let now = Instant::now();
        (0..keys).for_each(|n| announcer.add(key(n), point(n), now));
        announcer
    }

    /// Announces what is due, and says what that was.
    fn round(announcer: &mut Announcer<u32>, now: Instant, well: bool) -> HashSet<Digest> {
        let mut all = HashSet::new();
        loop {
            let under_way: Vec<Digest> = std::iter::from_fn(|| announcer.next(now)).collect();
            assert!(under_way.len() <= IN_FLIGHT);
            if under_way.is_empty() {
                return all;
            }
            for key in under_way {
                assert!(all.insert(key), "announced twice");
                announcer.ended(key, well, now);
            }
        }
    }

    #[test]
    fn few_at_a_time_each_once_then_again_after_a_while() {
        let mut announcer = announcer(100);
        let start = Instant::now();
        announcer.add(key(0), point(0), start);
        announcer.remove(&key(99));
        announcer.remove(&key(98));
        announcer.add(key(98), point(98), start);
        assert_eq!(round(&mut announcer, start, true).len(), 99);
        assert_eq!(announcer.announced(), 99);
        assert_eq!(announcer.next(start + REPEAT / 2), None);
        announcer.remove(&key(1));
        assert_eq!(round(&mut announcer, start + REPEAT, true).len(), 98);
    }

    #[test]
    fn a_failure_is_made_good_soon_and_then_less_soon() {
        let mut announcer = announcer(1);
        let mut now = Instant::now();
        for wait in [RETRY, RETRY * 2, RETRY * 4, RETRY * 8] {
            assert_eq!(round(&mut announcer, now, false).len(), 1);
            assert_eq!(announcer.next(now + wait / 2), None);
            now += wait;
        }
        assert_eq!((round(&mut announcer, now, true).len(), announcer.announced()), (1, 1));
        assert_eq!(announcer.next(now + REPEAT / 2), None);
        for _ in 0..40 {
            now += REPEAT;
            assert_eq!(round(&mut announcer, now, false).len(), 1);
        }
    }

    #[test]
    fn a_peer_that_comes_back_hears_of_what_it_is_to_know() {
        let start = Instant::now();
        let settled = start + SETTLES.0;
        let mut announcer = announcer(500);
        assert_eq!(round(&mut announcer, start, true).len(), 500);
        (0..20).for_each(|peer| announcer.met(peer, point(1000 + peer), start, start));
        while !announcer.met.is_empty() {
            announcer.tick(start);
        }
        assert_eq!(round(&mut announcer, start, true).len(), 500);

        // In a small fleet, of all; whichever peer it is, and each time.
        for peer in [3, 3, 7] {
            announcer.lost(peer);
            announcer.met(peer, point(1000 + peer), settled, settled);
            announcer.tick(start);
            assert_eq!(announcer.next(start), None);
            announcer.tick(settled);
            assert_eq!(round(&mut announcer, settled, true).len(), 500);
        }
        // Not of what is gone meanwhile.
        announcer.met(3, point(1003), settled, settled);
        announcer.lost(3);
        announcer.tick(settled);
        assert_eq!(announcer.next(settled), None);
        // In a large one, of its share.
        (20..200).for_each(|peer| announcer.met(peer, point(1000 + peer), start, start));
        announcer.met.clear();
        announcer.met(3, point(1003), settled, settled);
        announcer.tick(settled);
        let share = round(&mut announcer, settled, true).len();
        assert!((20..100).contains(&share), "{share}");
    }

    #[test]
    fn peers_that_connect_one_soon_after_the_other_hear_of_a_key_together() {
        let start = Instant::now();
        let mut announcer = announcer(50);
        assert_eq!(round(&mut announcer, start, true).len(), 50);
        let (soonest, last) = (start + SETTLES.0, start + SETTLES.1);
        announcer.met(0, point(1000), soonest, last);
        (1..10).for_each(|peer| announcer.met(peer, point(1000 + peer), soonest, soonest));
        announcer.tick(soonest);
        assert_eq!(announcer.next(soonest), None, "they settle with the first of them");
        // However many ticks it takes to look at them.
        let ticks = 10_u32.div_ceil(u32::try_from(MET_AT_A_TIME).unwrap());
        for _ in 1..ticks {
            announcer.tick(last);
            assert_eq!(announcer.next(last), None);
        }
        announcer.tick(last);
        assert_eq!(round(&mut announcer, last, true).len(), 50);
        assert!(announcer.met.is_empty());
        // Whoever of them goes away before it was looked at, and however many more come.
        (0..5).for_each(|peer| announcer.met(peer, point(1000 + peer), soonest, soonest));
        announcer.tick(last);
        assert_eq!(announcer.next(last), None);
        (0..5).for_each(|peer| announcer.lost(peer));
        announcer.tick(last);
        assert_eq!(round(&mut announcer, last, true).len(), 50);
        (0..90).for_each(|peer| announcer.met(peer, point(1000 + peer), soonest, soonest));
        announcer.tick(last);
        assert_eq!(announcer.next(last), None);
        announcer.tick(last + GATHER);
        assert!(!round(&mut announcer, last + GATHER, true).is_empty());
        (0..90).for_each(|peer| announcer.lost(peer));
        // One that comes just before they settle is not yet found then.
        announcer.met(0, point(1000), soonest, last);
        announcer.met(1, point(1001), last + SETTLES.0, last + SETTLES.1);
        assert_eq!(announcer.met.len(), 2);
        announcer.tick(last);
        assert_eq!((round(&mut announcer, last, true).len(), announcer.met.len()), (50, 1));
    }

    #[test]
    fn what_is_under_way_as_a_peer_settles_is_announced_once_more() {
        let start = Instant::now();
        let mut announcer = announcer(1);
        assert_eq!(announcer.next(start), Some(key(0)));
        announcer.met(1, point(1), start, start);
        announcer.tick(start);
        assert_eq!(announcer.next(start), None);
        announcer.ended(key(0), true, start);
        assert_eq!(announcer.next(start), Some(key(0)));
        announcer.ended(key(0), true, start);
        assert_eq!(announcer.next(start), None);
    }

    #[test]
    fn what_is_new_goes_before_what_is_repeated() {
        let mut announcer = announcer(100);
        let start = Instant::now();
        round(&mut announcer, start, true);
        announcer.add(key(100), point(100), start + REPEAT);
        assert_eq!(announcer.next(start + REPEAT), Some(key(100)));
    }
}
