//! Which keys are announced on the DHT, and how fast. Pure: the node's task carries it out.
//!
//! Each announcement is a lookup and some twenty messages. Thousands at once lose more than half of them, silently
//! (measured), so only a few are under way at a time. Records last two hours and are repeated each half an hour,
//! and sooner when this node has just met its first peers: what was announced to nobody is announced again.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use shoal_proto::digest::Digest;

/// Announcements under way at a time.
pub(crate) const IN_FLIGHT: usize = 16;
/// How often a key is announced again.
const REPEAT: Duration = Duration::from_mins(30);
/// After so long, all is announced again to peers that came meanwhile.
const NEW_PEERS: Duration = Duration::from_secs(5);
/// With so many peers known before, new ones are not worth announcing all again: repeating is enough.
const FEW_PEERS: usize = 20;

/// The keys of this node.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    /// When each was last announced.
    keys: HashMap<Digest, Option<Instant>>,
    queue: VecDeque<Digest>,
    in_flight: usize,
    announced: u64,
    /// When to announce all again for the sake of new peers.
    again: Option<Instant>,
    looked: Option<Instant>,
}

impl Announcer {
    /// Wants this key announced, now and from time to time.
    pub(crate) fn add(&mut self, key: Digest) {
        if self.keys.insert(key, None).is_none() {
            self.queue.push_back(key);
        }
    }

    /// Wants it no longer announced.
    pub(crate) fn remove(&mut self, key: &Digest) {
        // It may still be in the queue: `next` skips it.
        self.keys.remove(key);
    }

    /// The next key to announce, if one is due and there is room. [`Announcer::ended`] makes room again.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Digest> {
        if self.in_flight >= IN_FLIGHT {
            return None;
        }
        while let Some(key) = self.queue.pop_front() {
            if let Some(last) = self.keys.get_mut(&key) {
                *last = Some(now);
                self.in_flight += 1;
                return Some(key);
            }
        }
        None
    }

    /// An announcement ended.
    pub(crate) fn ended(&mut self, well: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.announced += u64::from(well);
    }

    /// A peer was added to a table that held so many before.
    pub(crate) fn met(&mut self, before: usize, now: Instant) {
        if before < FEW_PEERS {
            self.again.get_or_insert(now + NEW_PEERS);
        }
    }

    /// Puts what is due into the queue.
    pub(crate) fn tick(&mut self, now: Instant) {
        let all = self.again.is_some_and(|again| again <= now);
        if all {
            self.again = None;
        } else if self.looked.is_some_and(|looked| now.duration_since(looked) < REPEAT / 30) {
            return;
        }
        self.looked = Some(now);
        if !self.queue.is_empty() {
            // Still busy with the last round.
            if all {
                self.again = Some(now + NEW_PEERS);
            }
            return;
        }
        let due = |last: &Option<Instant>| all || last.is_none_or(|last| now.duration_since(last) >= REPEAT);
        self.queue.extend(self.keys.iter().filter(|(_, last)| due(last)).map(|(key, _)| *key));
    }

    /// Announcements that were made, repeated ones included.
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

    #[test]
    fn few_at_a_time_each_once_then_again_after_a_while() {
        let mut announcer = Announcer::default();
        let start = Instant::now();
        for n in 0..100 {
            announcer.add(key(n));
            announcer.add(key(n));
        }
        announcer.remove(&key(99));
        let mut seen = std::collections::HashSet::new();
        loop {
            let mut round = 0;
            while let Some(key) = announcer.next(start) {
                assert!(seen.insert(key), "announced twice");
                round += 1;
            }
            assert!(round <= IN_FLIGHT);
            if round == 0 {
                break;
            }
            for _ in 0..round {
                announcer.ended(true);
            }
        }
        assert_eq!((seen.len(), announcer.announced()), (99, 99));
        announcer.tick(start);
        assert_eq!(announcer.next(start), None);
        announcer.tick(start + REPEAT);
        assert!(announcer.next(start + REPEAT).is_some());
    }

    #[test]
    fn first_peers_hear_of_everything() {
        let mut announcer = Announcer::default();
        let start = Instant::now();
        announcer.add(key(1));
        assert!(announcer.next(start).is_some());
        announcer.ended(true);
        announcer.met(0, start);
        announcer.tick(start + Duration::from_secs(1));
        assert_eq!(announcer.next(start), None);
        announcer.tick(start + NEW_PEERS);
        assert_eq!(announcer.next(start), Some(key(1)));
        // A node that knows many need not.
        announcer.ended(true);
        announcer.met(FEW_PEERS, start);
        announcer.tick(start + NEW_PEERS * 2);
        assert_eq!(announcer.next(start), None);
    }
}
