//! All randomness of a run, from its seed: the same seed is the same run, on every machine.

/// `SplitMix64` (Steele, Lea, Flood 2014): nothing here needs more.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        // The high half of the product is below `end`.
        #[expect(clippy::cast_possible_truncation, reason = "below a u32")]
        {
            ((u128::from(self.next()) * u128::from(end)) >> 64) as u32
        }
    }

    /// From 0 to below 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        f64::from(self.below(u32::MAX)) / f64::from(u32::MAX)
    }

    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            let other = self.below(u32::try_from(last + 1).unwrap_or(u32::MAX)) as usize;
            all.swap(last, other);
        }
    }
}
