//! How a blob is cut into chunks.
//!
//! Chunk size is a pure function of the blob's size, so that all nodes agree without talking: the power of two
//! that gives about 2,000 chunks, at least 256 KiB and at most 4 MiB. Smaller chunks let a small blob be spread
//! over many nodes; more chunks cost messages and bookkeeping.

use crate::range::ByteRange;

/// The smallest chunk, in bytes.
pub const MIN_CHUNK: u64 = 256 * 1024;
/// The largest chunk, in bytes: also what bounds a peer's message.
pub const MAX_CHUNK: u64 = 4 * 1024 * 1024;
/// About how many chunks a blob should have.
const TARGET_CHUNKS: u64 = 2_000;

/// The largest blob accepted, in bytes (1 TiB): it bounds every table that has an entry for each chunk.
pub const MAX_BLOB: u64 = 1 << 40;

/// Where a blob's chunks lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkLayout {
    size: u64,
    chunk_size: u64,
}

/// The blob is larger than [`MAX_BLOB`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a blob of {size} bytes is larger than the {MAX_BLOB} that Shoal carries")]
pub struct TooLarge {
    /// The size stated, in bytes.
    pub size: u64,
}

impl ChunkLayout {
    /// The layout of a blob of `size` bytes.
    ///
    /// # Errors
    /// [`TooLarge`] above [`MAX_BLOB`].
    pub const fn of(size: u64) -> Result<Self, TooLarge> {
        if size > MAX_BLOB {
            return Err(TooLarge { size });
        }
        let wanted = (size / TARGET_CHUNKS).next_power_of_two();
        let chunk_size = if wanted < MIN_CHUNK {
            MIN_CHUNK
        } else if wanted > MAX_CHUNK {
            MAX_CHUNK
        } else {
            wanted
        };
        Ok(Self { size, chunk_size })
    }

    /// The blob's size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The size in bytes of every chunk but the last.
    pub const fn chunk_size(&self) -> u64 {
        self.chunk_size
    }

    /// How many chunks there are; none for an empty blob.
    pub const fn count(&self) -> u32 {
        // At most 2^40 / 2^22 = 2^18.
        #[expect(clippy::cast_possible_truncation, reason = "MAX_BLOB / MAX_CHUNK fits")]
        {
            self.size.div_ceil(self.chunk_size) as u32
        }
    }

    /// The bytes of chunk `index`, or `None` behind the last chunk.
    pub fn range(&self, index: u32) -> Option<ByteRange> {
        let start = u64::from(index).checked_mul(self.chunk_size)?;
        ByteRange::new(start, self.size.min(start.checked_add(self.chunk_size)?))
    }

    /// The chunk that byte `offset` lies in; meaningful for offsets below the size.
    pub const fn index_at(&self, offset: u64) -> u32 {
        let index = offset / self.chunk_size;
        let last = self.count().saturating_sub(1);
        if index > last as u64 {
            last
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "at most the last index, a u32")]
            {
                index as u32
            }
        }
    }

    /// The chunks that hold any byte of `range`.
    pub fn covering(&self, range: ByteRange) -> std::ops::Range<u32> {
        self.index_at(range.start)..self.index_at(range.end - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_layouts() {
        const MIB: u64 = 1024 * 1024;
        for (size, chunk, count) in [
            (0, MIN_CHUNK, 0),
            (1, MIN_CHUNK, 1),
            (MIN_CHUNK, MIN_CHUNK, 1),
            (MIN_CHUNK + 1, MIN_CHUNK, 2),
            (64 * MIB, 256 * 1024, 256),
            (1024 * MIB, MIB, 1024),
            (3_000 * MIB, 2 * MIB, 1500),
            (100 * 1024 * MIB, 4 * MIB, 25_600),
            (MAX_BLOB, MAX_CHUNK, 262_144),
        ] {
            let layout = ChunkLayout::of(size).unwrap();
            assert_eq!((layout.chunk_size(), layout.count()), (chunk, count), "{size}");
        }
        assert_eq!(ChunkLayout::of(MAX_BLOB + 1), Err(TooLarge { size: MAX_BLOB + 1 }));
        assert_eq!(ChunkLayout::of(u64::MAX), Err(TooLarge { size: u64::MAX }));
    }

    proptest! {
        #[test]
        fn chunks_tile_the_blob(size in 0..MAX_BLOB) {
            let layout = ChunkLayout::of(size).unwrap();
            let mut next = 0;
            for index in 0..layout.count().min(3000) {
                let range = layout.range(index).unwrap();
                prop_assert_eq!(range.start, next);
                prop_assert_eq!(layout.index_at(range.start), index);
                prop_assert_eq!(layout.index_at(range.end - 1), index);
                next = range.end;
            }
            prop_assert_eq!(layout.range(layout.count()), None);
            if let Some(last) = layout.count().checked_sub(1) {
                prop_assert_eq!(layout.range(last).unwrap().end, size);
            }
        }
    }
}
