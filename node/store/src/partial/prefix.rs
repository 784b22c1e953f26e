//! The digest of a blob, computed as its prefix grows.

use shoal_proto::digest::{Algorithm, Digest, Hasher};

/// How far the digest is.
///
/// One at a time takes the hasher out, feeds it, and puts it back; `era` tells whether what was fed is still what is
/// there.
#[derive(Debug)]
pub(super) struct Prefix {
    algorithm: Algorithm,
    hasher: Option<Hasher>,
    next: u32,
    era: u64,
}

/// The hasher, while it is being fed.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) hasher: Hasher,
    /// The chunk that it needs next.
    pub(super) next: u32,
    era: u64,
}

impl Prefix {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, hasher: Some(Hasher::new(algorithm)), next: 0, era: 0 }
    }

    /// Takes the hasher, unless somebody has it.
    pub(super) fn take(&mut self) -> Option<Taken> {
        Some(Taken { hasher: self.hasher.take()?, next: self.next, era: self.era })
    }

    /// Puts it back. What was fed in another era is worth nothing.
    pub(super) fn put(&mut self, taken: Taken) {
        if taken.era == self.era {
            self.hasher = Some(taken.hasher);
            self.next = taken.next;
        } else {
            self.hasher = Some(Hasher::new(self.algorithm));
            self.next = 0;
        }
    }

    /// Whether the hasher is here and has been fed so many chunks.
    pub(super) fn is_at(&self, chunk: u32) -> bool {
        self.hasher.is_some() && self.next == chunk
    }

    /// Which chunk it needs next, if it is here.
    pub(super) fn needs(&self) -> Option<u32> {
        self.hasher.as_ref().map(|_| self.next)
    }

    /// A chunk that may have been fed is there no longer.
    pub(super) fn forget(&mut self, chunk: u32) {
        if self.hasher.is_some() && chunk >= self.next {
            return;
        }
        self.era += 1;
        if self.hasher.is_some() {
            self.hasher = Some(Hasher::new(self.algorithm));
            self.next = 0;
        }
    }

    /// The digest of what was fed. It stands at the end afterwards too, for who asks again.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.hasher.clone().map(Hasher::finish)
    }
}
