//! Chunks that were just stored, in memory for a while.
//!
//! Whoever waits for a chunk asks for it right after it is stored: the digest that follows the prefix, the client, and
//! peers. Of a pull in which chunks come out of order more than the whole blob was read back and checked again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use shoal_proto::attestation::ChunkHash;
use shoal_proto::digest::Digest;

/// The chunks stored last of all partial blobs, as many as fit.
#[derive(Debug)]
pub(crate) struct Recent {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The oldest first. So few that a search from end to end costs nothing beside the chunk.
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

#[derive(Debug)]
struct Chunk {
    digest: Digest,
    number: u32,
    hash: ChunkHash,
    bytes: Bytes,
}

impl Recent {
    /// Keeps up to `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a chunk whose bytes have this hash; the oldest make room.
    pub(crate) fn put(&self, digest: Digest, number: u32, hash: ChunkHash, bytes: Bytes) {
        if bytes.len() > self.most {
            return;
        }
        let mut kept = self.kept();
        kept.bytes += bytes.len();
        kept.chunks.push_back(Chunk { digest, number, hash, bytes });
        while kept.bytes > self.most
            && let Some(oldest) = kept.chunks.pop_front()
        {
            kept.bytes -= oldest.bytes.len();
        }
    }

    /// The bytes of a chunk that has this hash, if they are still here.
    pub(crate) fn get(&self, digest: &Digest, number: u32, hash: ChunkHash) -> Option<Bytes> {
        let kept = self.kept();
        let is_it = |chunk: &&Chunk| chunk.number == number && chunk.hash == hash && chunk.digest == *digest;
        kept.chunks.iter().find(is_it).map(|chunk| chunk.bytes.clone())
    }

    /// Forgets all chunks of a blob.
    pub(crate) fn forget(&self, digest: &Digest) {
        let mut kept = self.kept();
        kept.chunks.retain(|chunk| chunk.digest != *digest);
        kept.bytes = kept.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room_and_others_are_not_mistaken() {
        let recent = Recent::new(10);
        let (one, other) = (Digest::sha256_of(b"1"), Digest::sha256_of(b"2"));
        let put = |digest, number, bytes: &'static [u8]| {
            recent.put(digest, number, ChunkHash::of(bytes), Bytes::from_static(bytes));
        };
        put(one, 0, b"aaaa");
        put(one, 1, b"bbbb");
        assert_eq!(recent.get(&one, 0, ChunkHash::of(b"aaaa")).as_deref(), Some(&b"aaaa"[..]));
        for (digest, number, bytes) in [(other, 0, b"aaaa"), (one, 1, b"aaaa"), (one, 0, b"bbbb")] {
            assert_eq!(recent.get(&digest, number, ChunkHash::of(bytes)), None);
        }
        put(other, 0, b"cccc");
        assert_eq!(recent.get(&one, 0, ChunkHash::of(b"aaaa")), None, "the oldest");
        put(other, 1, b"larger than all");
        assert!(recent.get(&one, 1, ChunkHash::of(b"bbbb")).is_some(), "what does not fit pushes nobody out");
        recent.forget(&one);
        assert_eq!(recent.get(&one, 1, ChunkHash::of(b"bbbb")), None);
        assert_eq!(recent.kept().bytes, 4);
    }
}
