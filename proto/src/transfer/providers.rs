//! All peers that can be asked for chunks, and how many of them have each chunk.
//!
//! The counts are kept, not taken when they are needed: a chunk is picked after every event, and walking all peers for
//! each of a blob's two thousand chunks costs a node more than hashing them does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fixedbitset::FixedBitSet;
use libp2p_identity::PeerId;

use super::provider::Provider;
use super::{Availability, ChunkFailure};

/// A peer that is busy is left alone for about as long as a chunk takes to come, which says how soon a slot is free
/// somewhere; within these limits.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(25));

#[derive(Debug)]
pub(super) struct Providers {
    all: BTreeMap<PeerId, Provider>,
    /// Those in this node's zone, whether they can be asked now or not.
    near: BTreeSet<PeerId>,
    /// Of those that have some chunks only, how many have each.
    holders: Vec<u16>,
    /// How many have everything.
    complete: usize,
    last_arrival: Option<Duration>,
    /// The time from one chunk to the next, whoever brings them, smoothed.
    pace: Duration,
}

impl Providers {
    pub(super) fn new(chunks: u32) -> Self {
        Self {
            all: BTreeMap::new(),
            near: BTreeSet::new(),
            holders: vec![0; chunks as usize],
            complete: 0,
            last_arrival: None,
            pace: PAUSE.1,
        }
    }

    /// A peer says what it has.
    pub(super) fn tell(&mut self, peer: PeerId, availability: Availability) {
        if let Some(provider) = self.all.get_mut(&peer) {
            let before = provider.update(availability);
            count(&mut self.holders, &mut self.complete, Some(&before), Some(provider.availability()));
        } else {
            count(&mut self.holders, &mut self.complete, None, Some(&availability));
            self.all.insert(peer, Provider::new(availability));
        }
    }

    /// Nobody is known to have anything any more; who is near still is.
    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.holders.fill(0);
        self.complete = 0;
    }

    /// A peer is in this node's zone.
    pub(super) fn near(&mut self, peer: PeerId) {
        self.near.insert(peer);
    }

    pub(super) fn is_near(&self, peer: &PeerId) -> bool {
        self.near.contains(peer)
    }

    pub(super) fn remove(&mut self, peer: &PeerId) {
        if let Some(provider) = self.all.remove(peer) {
            count(&mut self.holders, &mut self.complete, Some(provider.availability()), None);
        }
    }

    /// Has everyone asked what it has got meanwhile, who does not have everything and is not being asked.
    pub(super) fn follow(&mut self, mut ask: impl FnMut(PeerId, u32)) {
        for (&peer, provider) in &mut self.all {
            if provider.is_partial() && !std::mem::replace(&mut provider.followed, true) {
                ask(peer, provider.known());
            }
        }
    }

    /// Notes a failure of a peer; says whether the peer is kept, if it is known.
    pub(super) fn failed(
        &mut self,
        peer: &PeerId,
        chunk: u32,
        failure: ChunkFailure,
        now: Duration,
    ) -> Option<bool> {
        let provider = self.all.get_mut(peer)?;
        let had = provider.is_partial() && provider.has(chunk);
        let pause = self.pace.clamp(PAUSE.0, PAUSE.1);
        let keep = provider.failed(chunk, failure, pause, now);
        if had && !provider.has(chunk) {
            self.holders[chunk as usize] -= 1;
        }
        Some(keep)
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&Provider> {
        self.all.get(peer)
    }

    /// A chunk was asked of a peer: says how long it may take before a second peer is asked.
    pub(super) fn asked(&mut self, peer: &PeerId, bytes: u64, at_least: Duration) -> Option<Duration> {
        Some(self.all.get_mut(peer)?.asked(bytes, at_least))
    }

    pub(super) fn arrived(&mut self, peer: &PeerId, bytes: u64, took: Duration, now: Duration) {
        if let Some(provider) = self.all.get_mut(peer) {
            provider.arrived(bytes, took, now);
        }
        if let Some(last) = self.last_arrival.replace(now) {
            self.pace = (self.pace * 7 + now.saturating_sub(last)) / 8;
        }
    }

    pub(super) fn cancelled(&mut self, peer: &PeerId) {
        if let Some(provider) = self.all.get_mut(peer) {
            provider.cancelled();
        }
    }

    /// A peer that has no chunk beyond these.
    pub(super) fn useless(&self, have: &FixedBitSet) -> Option<PeerId> {
        let of_use = |provider: &Provider| untaken(provider, have, 0).next().is_some();
        self.all.iter().find(|(_, provider)| !of_use(provider)).map(|(&peer, _)| peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Provider)> {
        self.all.iter()
    }

    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.all.contains_key(peer)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn any_partial(&self) -> bool {
        self.complete < self.all.len()
    }

    pub(super) fn any_complete(&self) -> bool {
        self.complete > 0
    }

    /// Of the peers that do not have everything, how many have this chunk.
    pub(super) fn holders(&self, chunk: u32) -> u16 {
        self.holders.get(chunk as usize).copied().unwrap_or(0)
    }

    /// Whether any peer has this chunk.
    pub(super) fn anyone_has(&self, chunk: u32) -> bool {
        self.any_complete() || self.holders(chunk) > 0
    }
}

fn blocks(availability: Option<&Availability>) -> &[usize] {
    match availability {
        Some(Availability::Partial(chunks)) => chunks.as_slice(),
        _ => &[],
    }
}

/// Counts what a peer has instead of what it had before: of two bitmaps, only what differs is looked at.
fn count(
    holders: &mut [u16],
    complete: &mut usize,
    before: Option<&Availability>,
    after: Option<&Availability>,
) {
    let is_complete = |one: Option<&Availability>| usize::from(one == Some(&Availability::Complete));
    *complete = *complete + is_complete(after) - is_complete(before);
    let (before, after) = (blocks(before), blocks(after));
    for block in 0..before.len().max(after.len()) {
        let at = |blocks: &[usize]| blocks.get(block).copied().unwrap_or(0);
        let (before, after) = (at(before), at(after));
        let mut changed = before ^ after;
        while changed != 0 {
            let bit = changed.trailing_zeros();
            changed &= changed - 1;
            let holders = &mut holders[block * usize::BITS as usize + bit as usize];
            // As many as peers are followed: far below the type's end.
            *holders = if after >> bit & 1 == 1 { *holders + 1 } else { *holders - 1 };
        }
    }
}

/// The chunks that one peer has, of those that are not in `taken`, from `start` on.
pub(super) fn untaken<'a>(
    provider: &'a Provider,
    taken: &'a FixedBitSet,
    start: u32,
) -> impl Iterator<Item = u32> + 'a {
    let (bits, count) = (usize::BITS as usize, taken.len());
    let first = start as usize / bits;
    let blocks = taken.as_slice().iter().enumerate().skip(first).map(move |(block, &taken)| {
        let has = match provider.availability() {
            Availability::Complete => usize::MAX,
            Availability::Partial(chunks) => chunks.as_slice()[block],
        };
        let behind = if block == first { usize::MAX << (start as usize % bits) } else { usize::MAX };
        (block * bits, has & !taken & behind)
    });
    blocks
        .flat_map(move |(base, mut block)| {
            std::iter::from_fn(move || {
                let bit = block.trailing_zeros() as usize;
                (bit < bits).then(|| {
                    block &= block - 1;
                    base + bit
                })
            })
        })
        .take_while(move |&chunk| chunk < count)
        // At most 2^18 chunks.
        .map(|chunk| u32::try_from(chunk).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::test_peer;
    use proptest::prelude::*;

    fn availability(chunks: u32, have: &[u32]) -> Availability {
        let mut bits = FixedBitSet::with_capacity(chunks as usize);
        bits.extend(have.iter().map(|&chunk| chunk as usize % chunks as usize));
        Availability::Partial(bits)
    }

    proptest! {
        /// The counts are those of a walk, whatever peers say.
        #[test]
        fn counts_are_those_of_a_walk(
            steps in prop::collection::vec((0..5_u8, 0..4_u8, prop::collection::vec(0..150_u32, 0..20)), 1..60),
        ) {
            let mut providers = Providers::new(150);
            for (who, what, have) in steps {
                let peer = test_peer(who);
                match what {
                    0 => providers.remove(&peer),
                    1 => providers.tell(peer, Availability::Complete),
                    2 => { providers.failed(&peer, u32::try_from(have.len()).unwrap(), ChunkFailure::Missing, Duration::ZERO); }
                    _ => providers.tell(peer, availability(150, &have)),
                }
            }
            for chunk in 0..150 {
                let partial = providers.iter().filter(|(_, one)| one.is_partial() && one.has(chunk)).count();
                prop_assert_eq!(usize::from(providers.holders(chunk)), partial);
                let any = providers.iter().any(|(_, one)| one.has(chunk));
                prop_assert_eq!(providers.anyone_has(chunk), any);
            }
        }

        /// What is untaken is what a walk finds.
        #[test]
        fn untaken_chunks_are_those_of_a_walk(
            taken in prop::collection::vec(0..150_u32, 0..150),
            have in prop::collection::vec(0..150_u32, 0..150),
            start in 0..160_u32,
            complete: bool,
        ) {
            let Availability::Partial(taken) = availability(150, &taken) else { unreachable!() };
            let has = if complete { Availability::Complete } else { availability(150, &have) };
            let provider = Provider::new(has);
            let found: Vec<u32> = untaken(&provider, &taken, start).collect();
            let walked: Vec<u32> =
                (start..150).filter(|&chunk| provider.has(chunk) && !taken.contains(chunk as usize)).collect();
            prop_assert_eq!(found, walked);
        }
    }
}
