//! Memory for chunks, used again.
//!
//! A node moves chunks of a megabyte by the thousand. Memory that is given back to the system for each and asked for
//! again costs page faults and zeroes that are overwritten at once: a tenth of the CPU of a pull.

#![expect(clippy::disallowed_types, reason = "no decision depends on which memory a chunk gets")]

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Bytes that are kept for the next chunk, at the most.
const KEPT: usize = 8 << 20;

static IDLE: Mutex<Idle> = Mutex::new(Idle { buffers: Vec::new(), bytes: 0 });

#[derive(Debug)]
struct Idle {
    buffers: Vec<Box<[u8]>>,
    bytes: usize,
}

impl Idle {
    fn take(&mut self, length: usize) -> Option<Box<[u8]>> {
        let fits = self.buffers.iter().rposition(|buffer| buffer.len() == length);
        // None of this length: the one that waits for longest makes room for those that are in use now.
        let at = fits.or_else(|| (!self.buffers.is_empty()).then_some(0))?;
        let buffer = self.buffers.remove(at);
        self.bytes -= buffer.len();
        fits.map(|_| buffer)
    }

    fn put(&mut self, buffer: Box<[u8]>) {
        if self.bytes + buffer.len() <= KEPT {
            self.bytes += buffer.len();
            self.buffers.push(buffer);
        }
    }
}

/// Memory for one chunk. Whatever was in it before is still there: it is written before it is read.
#[derive(Debug)]
pub struct ChunkBuffer(Box<[u8]>);

impl ChunkBuffer {
    /// Memory of this many bytes.
    pub fn of(length: usize) -> Self {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).take(length);
        Self(idle.unwrap_or_else(|| vec![0; length].into_boxed_slice()))
    }

    /// The bytes, for many owners. The memory is free again with the last of them.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Drop for ChunkBuffer {
    fn drop(&mut self) {
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).put(std::mem::take(&mut self.0));
    }
}

impl AsRef<[u8]> for ChunkBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for ChunkBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for ChunkBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_no_more_is_kept_than_allowed() {
        let mut idle = Idle { buffers: Vec::new(), bytes: 0 };
        for _ in 0..20 {
            idle.put(vec![0; 1 << 20].into_boxed_slice());
        }
        assert_eq!((idle.buffers.len(), idle.bytes), (8, KEPT));
        assert_eq!(idle.take(1 << 20).map(|buffer| buffer.len()), Some(1 << 20));
        // Others are wanted now: these make room.
        assert_eq!(idle.take(4 << 20), None);
        assert_eq!(idle.bytes, 6 << 20);
        for _ in 0..10 {
            idle.take(4 << 20);
        }
        assert_eq!((idle.buffers.len(), idle.bytes), (0, 0));
    }

    #[test]
    fn what_is_frozen_stays_as_it_is_while_anybody_has_it() {
        let mut buffer = ChunkBuffer::of(70_001);
        buffer.fill(7);
        let bytes = buffer.freeze();
        let part = bytes.slice(10..20);
        drop(bytes);
        ChunkBuffer::of(70_001).fill(9);
        assert_eq!(&part[..], &[7; 10]);
    }
}
