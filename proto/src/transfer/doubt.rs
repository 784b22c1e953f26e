//! Whether what this node itself gets from upstream is right, when a blob is fetched once more.
//!
//! Somebody's bytes were wrong in the round before, and it may be this node's: its way to upstream may spoil what it
//! carries. What others vouched for then tells: a chunk that two have fetched alike is right. One signer that had other
//! bytes is perhaps the one who lied; two are not. So a chunk that nobody else had the same is kept back until the rest
//! is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p_identity::PeerId;

use crate::attestation::{Attestation, ChunkHash};

/// So many chunks are kept back at most: a lease without progress is given to another.
const MOST_WITHHELD: usize = 64;
/// And for so long: well below the time after which such a lease is lost.
const LONGEST_WITHHELD: Duration = Duration::from_secs(2);

/// What came from upstream, held against what others vouched for.
#[derive(Debug, Default)]
pub struct Doubt {
    said: BTreeMap<u32, Vec<Attestation>>,
    contradicted: BTreeSet<PeerId>,
    withheld: Vec<u32>,
    /// When the first of them came.
    since: Duration,
}

/// What to do with a chunk that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// These can be told of.
    Tell(Vec<u32>),
    /// Not yet.
    Withhold,
    /// What comes here is wrong: these are to be forgotten.
    Wrong(Vec<u32>),
}

impl Doubt {
    /// Notes what others vouched for, by chunk.
    pub fn note(&mut self, vouched: &[(u32, Attestation)]) {
        for (chunk, attestation) in vouched {
            self.said.entry(*chunk).or_default().push(*attestation);
        }
    }

    /// All that others vouched for, by chunk.
    pub fn vouched(&self) -> impl Iterator<Item = (u32, &[Attestation])> {
        self.said.iter().map(|(&chunk, said)| (chunk, said.as_slice()))
    }

    /// A chunk came from upstream.
    pub fn came(&mut self, chunk: u32, hash: ChunkHash, now: Duration) -> Verdict {
        let said = self.said.get(&chunk).map_or(&[][..], Vec::as_slice);
        if said.iter().any(|other| other.hash == hash) {
            return Verdict::Tell(vec![chunk]);
        }
        self.contradicted.extend(said.iter().map(|other| other.signer));
        if self.withheld.is_empty() {
            self.since = now;
        }
        self.withheld.push(chunk);
        if self.contradicted.len() > 1 {
            Verdict::Wrong(self.rest())
        } else if self.withheld.len() > MOST_WITHHELD || now >= self.since + LONGEST_WITHHELD {
            Verdict::Tell(self.rest())
        } else {
            Verdict::Withhold
        }
    }

    /// What was kept back, and is not from now on: to be told of if all came and only one had other bytes, else to be
    /// forgotten.
    pub fn rest(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.withheld)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attestation::Claim;
    use crate::digest::Digest;
    use libp2p_identity::Keypair;

    fn vouched(seed: u8, chunk: u32, bytes: &[u8]) -> (u32, Attestation) {
        let keypair = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        let claim = Claim { digest: Digest::sha256_of(b"blob"), size: 1 << 30, chunk };
        (chunk, Attestation::sign(&keypair, &claim, ChunkHash::of(bytes)).unwrap())
    }

    fn good() -> ChunkHash {
        ChunkHash::of(b"good")
    }

    #[test]
    fn what_others_had_the_same_is_told_and_the_rest_kept_back() {
        let mut doubt = Doubt::default();
        doubt.note(&[vouched(1, 0, b"bad"), vouched(2, 1, b"good"), vouched(1, 2, b"good")]);
        assert_eq!(doubt.came(0, good(), Duration::ZERO), Verdict::Withhold);
        assert_eq!(doubt.came(1, good(), Duration::ZERO), Verdict::Tell(vec![1]));
        assert_eq!(doubt.came(2, good(), Duration::ZERO), Verdict::Tell(vec![2]));
        // Of this one nobody said anything.
        assert_eq!(doubt.came(3, good(), Duration::ZERO), Verdict::Withhold);
        assert_eq!(doubt.rest(), [0, 3]);
        assert!(doubt.rest().is_empty());
    }

    #[test]
    fn two_who_had_other_bytes_are_believed() {
        let mut doubt = Doubt::default();
        doubt.note(&[vouched(1, 0, b"good"), vouched(2, 1, b"good"), vouched(2, 2, b"good")]);
        let bad = ChunkHash::of(b"bad");
        assert_eq!(doubt.came(0, bad, Duration::ZERO), Verdict::Withhold);
        assert_eq!(doubt.came(1, good(), Duration::ZERO), Verdict::Tell(vec![1]));
        assert_eq!(doubt.came(2, bad, Duration::ZERO), Verdict::Wrong(vec![0, 2]));
    }

    #[test]
    fn so_much_is_kept_back_and_no_more() {
        let mut doubt = Doubt::default();
        let mut withheld = 0;
        for chunk in 0..1000 {
            withheld += 1;
            match doubt.came(chunk, good(), Duration::ZERO) {
                Verdict::Tell(chunks) => withheld -= chunks.len(),
                verdict => assert_eq!(verdict, Verdict::Withhold),
            }
            assert!(withheld <= MOST_WITHHELD, "{withheld}");
        }
    }

    #[test]
    fn nothing_is_kept_back_until_the_lease_is_lost() {
        let mut doubt = Doubt::default();
        let at = |ms: u64| Duration::from_millis(ms);
        assert_eq!(doubt.came(0, good(), at(5000)), Verdict::Withhold);
        assert_eq!(doubt.came(1, good(), at(6500)), Verdict::Withhold);
        assert_eq!(doubt.came(2, good(), at(7500)), Verdict::Tell(vec![0, 1, 2]));
        assert_eq!(doubt.came(3, good(), at(8000)), Verdict::Withhold);
    }
}
