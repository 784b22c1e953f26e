//! The provider records that this node keeps for the cluster, in memory.
//!
//! libp2p's own store never forgets a record that nobody asks for, and ignores newcomers once a key has its most
//! providers. This one forgets what has expired, a few keys at a time; of too many providers of a key, the one that
//! announced itself longest ago makes room, and answers name them in an order of chance, so that those who ask spread.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::iter::Empty;
use std::time::Instant;

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use rand::seq::SliceRandom as _;

/// Keys for which providers are kept, this node's own not counted.
const MAX_KEYS: usize = 1 << 20;
/// Providers kept for one key. More learn of each other from the holders.
const MAX_PROVIDERS: usize = 64;
/// Keys looked through in one sweep: at four sweeps a second a full table takes two minutes.
const SWEEP: usize = 2048;

/// See the module.
#[derive(Debug)]
pub(crate) struct Records {
    local: PeerId,
    /// A key stays here, maybe without providers, until it is swept.
    providers: HashMap<RecordKey, Vec<ProviderRecord>>,
    /// The same keys, in the order in which they are swept.
    sweep: VecDeque<RecordKey>,
}

impl Records {
    pub(crate) fn new(local: PeerId) -> Self {
        Self { local, providers: HashMap::new(), sweep: VecDeque::new() }
    }

    /// Forgets what has expired of the next keys: bounded in time.
    pub(crate) fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP.min(self.sweep.len()) {
            let Some(key) = self.sweep.pop_front() else { return };
            let Some(records) = self.providers.get_mut(&key) else { continue };
            records.retain(|record| !record.is_expired(now));
            if records.is_empty() {
                self.providers.remove(&key);
            } else {
                self.sweep.push_back(key);
            }
        }
    }

    /// Keys kept now.
    pub(crate) fn keys(&self) -> usize {
        self.providers.len()
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        // Values are not stored.
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let own = record.provider == self.local;
        if !self.providers.contains_key(&record.key) {
            // This node's own always have room: there are as many as it has blobs.
            if self.providers.len() >= MAX_KEYS && !own {
                return Err(Error::MaxProvidedKeys);
            }
            self.sweep.push_back(record.key.clone());
        }
        let records = self.providers.entry(record.key.clone()).or_default();
        if let Some(known) = records.iter_mut().find(|known| known.provider == record.provider) {
            *known = record;
            return Ok(());
        }
        if records.len() >= MAX_PROVIDERS {
            // This node's own do not expire: they stay.
            let stale =
                records.iter().enumerate().filter_map(|(at, record)| Some((record.expires?, at))).min();
            if let Some((_, at)) = stale {
                records.swap_remove(at);
            }
        }
        records.push(record);
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let mut records = self.providers.get(key).cloned().unwrap_or_default();
        records.shuffle(&mut rand::rng());
        records
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        // It is asked for only to announce them again, which `announce` does, paced.
        std::iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if let Some(records) = self.providers.get_mut(key) {
            records.retain(|record| record.provider != *provider);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    fn record(key: u32, provider: PeerId, expires: Option<Instant>) -> ProviderRecord {
        let key = RecordKey::new(&key.to_be_bytes());
        ProviderRecord { key, provider, expires, addresses: Vec::new() }
    }

    fn providers(records: &Records, key: u32) -> HashSet<PeerId> {
        let key = RecordKey::new(&key.to_be_bytes());
        records.providers(&key).iter().map(|record| record.provider).collect()
    }

    #[test]
    fn what_has_expired_is_forgotten_a_part_at_a_time() {
        let (local, peer) = (PeerId::random(), PeerId::random());
        let mut records = Records::new(local);
        let now = Instant::now();
        let soon = now + Duration::from_secs(1);
        let count = u32::try_from(SWEEP).unwrap() * 2;
        for key in 0..count {
            records.add_provider(record(key, peer, Some(soon))).unwrap();
        }
        records.add_provider(record(0, local, None)).unwrap();
        records.add_provider(record(1, peer, Some(soon + Duration::from_secs(1)))).unwrap();
        records.sweep(now);
        assert_eq!(records.keys(), SWEEP * 2);
        records.sweep(soon);
        assert!(records.keys() <= SWEEP + 2);
        records.sweep(soon);
        records.sweep(soon);
        assert_eq!((records.keys(), records.sweep.len()), (2, 2));
        assert_eq!(providers(&records, 0), HashSet::from([local]));
        assert_eq!(providers(&records, 1), HashSet::from([peer]));
        // What is removed and added again is swept once.
        for _ in 0..5 {
            records.remove_provider(&RecordKey::new(&0_u32.to_be_bytes()), &local);
            records.add_provider(record(0, local, None)).unwrap();
        }
        assert_eq!((records.keys(), records.sweep.len()), (2, 2));
    }

    #[test]
    fn newcomers_take_the_place_of_who_announced_longest_ago() {
        let local = PeerId::random();
        let mut records = Records::new(local);
        let now = Instant::now();
        records.add_provider(record(1, local, None)).unwrap();
        let peers: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
        for (seconds, &peer) in (0..).zip(&peers) {
            records.add_provider(record(1, peer, Some(now + Duration::from_secs(seconds)))).unwrap();
        }
        let mut expected: HashSet<PeerId> = peers[100 - (MAX_PROVIDERS - 1)..].iter().copied().collect();
        expected.insert(local);
        assert_eq!(providers(&records, 1), expected);
    }
}
