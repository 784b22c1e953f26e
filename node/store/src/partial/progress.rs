//! How far a blob on its way is: what all handles of it share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use shoal_proto::attestation::ChunkHash;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use tokio::sync::Notify;

use super::prefix::Prefix;
use super::resume::Resumed;
use crate::disk::DiskFile;
use crate::held::read_range;
use crate::recent::Recent;
use crate::tables::Vouched;
use crate::whose::Owner;
use crate::{MAX_INLINE, StoreError};

/// What all handles share.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) digest: Digest,
    pub(super) layout: ChunkLayout,
    pub(super) owner: Owner,
    /// Locked for moments, never across an await and never while a disk works.
    progress: Mutex<Progress>,
    /// Tells who waits that the hasher was put back.
    pub(super) hashed: Notify,
    /// Tells who waits that a chunk is no longer being written.
    written: Notify,
    /// Tells who flushes that much is unwritten.
    pub(super) much: Notify,
    pub(super) recent: Arc<Recent>,
}

#[derive(Debug)]
pub(super) struct Progress {
    pub(super) chunks: BTreeMap<u32, Vouched>,
    /// The keys of `chunks`, for who asks often.
    pub(super) have: FixedBitSet,
    /// Chunks that somebody writes.
    writing: BTreeSet<u32>,
    /// The file, once a chunk was written.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// The bytes of a blob too small for a file.
    pub(super) small: Option<Bytes>,
    pub(super) prefix: Prefix,
    /// Chunks that the database does not know of yet.
    pub(super) unwritten: Vec<u32>,
    pub(super) flushing: bool,
    pub(super) phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Chunks come and go.
    Open,
    /// Proven, and on its way among the held ones: nothing of it changes.
    Sealed,
    /// Held or discarded.
    Closed,
}

/// What becomes of a wish to write a chunk.
#[derive(Debug)]
pub(super) enum Claimed {
    /// It is this caller's to write.
    Mine(Claim),
    /// It is there.
    There,
    /// Somebody writes it.
    Busy,
}

/// The right to write a chunk that is not there: one at a time has it, so that a chunk which is there is never
/// written again. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    state: Arc<State>,
    chunk: u32,
}

impl State {
    pub(super) fn new(
        digest: Digest,
        layout: ChunkLayout,
        owner: Owner,
        resumed: Resumed,
        recent: Arc<Recent>,
    ) -> Self {
        let mut have = FixedBitSet::with_capacity(layout.count() as usize);
        have.extend(resumed.chunks.keys().map(|&chunk| chunk as usize));
        let progress = Progress {
            chunks: resumed.chunks,
            have,
            writing: BTreeSet::new(),
            file: resumed.file,
            small: None,
            prefix: Prefix::new(digest.algorithm()),
            unwritten: Vec::new(),
            flushing: false,
            phase: Phase::Open,
        };
        let progress = Mutex::new(progress);
        let (hashed, written, much) = (Notify::new(), Notify::new(), Notify::new());
        Self { digest, layout, owner, progress, hashed, written, much, recent }
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_small(&self) -> bool {
        self.layout.size() <= MAX_INLINE
    }

    /// The bytes of a chunk, if they are still those that were stored. Blocks.
    pub(super) fn read_back(&self, chunk: u32, hash: ChunkHash) -> Result<Bytes, StoreError> {
        if let Some(bytes) = self.recent.get(&self.digest, chunk, hash) {
            return Ok(bytes);
        }
        let bytes = self.bytes(chunk)?;
        if ChunkHash::of(&bytes) == hash { Ok(bytes) } else { Err(StoreError::Row("a chunk's bytes")) }
    }

    /// The bytes of a chunk as the disk gives them.
    fn bytes(&self, chunk: u32) -> Result<Bytes, StoreError> {
        let (file, small) = {
            let progress = self.progress();
            (progress.file.clone(), progress.small.clone())
        };
        if let Some(bytes) = small {
            return Ok(bytes);
        }
        let (file, range) = file.zip(self.layout.range(chunk)).ok_or(StoreError::Closed)?;
        Ok(read_range(&*file, range)?)
    }

    /// Claims a chunk, once nobody else writes it; `None` if it is there by then.
    pub(super) async fn claim(self: &Arc<Self>, chunk: u32) -> Result<Option<Claim>, StoreError> {
        loop {
            let written = self.written.notified();
            tokio::pin!(written);
            // Before the look, so that what happens after the look is heard.
            written.as_mut().enable();
            match self.claim_now(chunk)? {
                Claimed::Mine(claim) => return Ok(Some(claim)),
                Claimed::There => return Ok(None),
                Claimed::Busy => written.await,
            }
        }
    }

    fn claim_now(self: &Arc<Self>, chunk: u32) -> Result<Claimed, StoreError> {
        let mut progress = self.progress();
        if progress.phase == Phase::Closed {
            return Err(StoreError::Closed);
        }
        // A sealed blob has every chunk.
        if progress.have.contains(chunk as usize) {
            return Ok(Claimed::There);
        }
        if progress.writing.insert(chunk) {
            Ok(Claimed::Mine(Claim { state: self.clone(), chunk }))
        } else {
            Ok(Claimed::Busy)
        }
    }

    /// Takes no more, and forgets the file.
    pub(crate) fn close(&self) {
        let mut progress = self.progress();
        progress.phase = Phase::Closed;
        progress.file = None;
        progress.small = None;
        drop(progress);
        self.recent.forget(&self.digest);
        self.hashed.notify_waiters();
    }

    /// Waits until nobody writes. Of use only once it is closed: another may begin at once else.
    pub(crate) async fn quiet(&self) {
        loop {
            let written = self.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if self.progress().writing.is_empty() {
                return;
            }
            written.await;
        }
    }
}

impl Claim {
    /// Notes that the chunk is there; `false` if the blob was closed meanwhile.
    pub(super) fn note(&self, vouched: Vouched, bytes: &Bytes) -> bool {
        let mut progress = self.state.progress();
        if progress.phase != Phase::Open {
            return false;
        }
        progress.have.insert(self.chunk as usize);
        progress.chunks.insert(self.chunk, vouched);
        if self.state.is_small() {
            progress.small = Some(bytes.clone());
        } else {
            progress.unwritten.push(self.chunk);
        }
        true
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.state.progress().writing.remove(&self.chunk);
        self.state.written.notify_waiters();
    }
}

impl Progress {
    /// Takes out a chunk that the disk has changed or does not give back: it is to be fetched again. The database
    /// need not know, because whoever resumes checks what it says.
    pub(super) fn lose(&mut self, chunk: u32, hash: ChunkHash, error: &StoreError) {
        // It may have been replaced since it was read; and what is sealed is seen to when it is held.
        if self.phase == Phase::Open && self.chunks.get(&chunk).is_some_and(|vouched| vouched.hash == hash) {
            tracing::warn!(chunk, %error, "a stored chunk cannot be read back: it is fetched again");
            self.forget(chunk);
        }
    }

    /// Takes a chunk out. What was hashed of it is worth nothing: another may come in its place.
    pub(super) fn forget(&mut self, chunk: u32) {
        if self.chunks.remove(&chunk).is_none() {
            return;
        }
        self.have.set(chunk as usize, false);
        self.unwritten.retain(|&unwritten| unwritten != chunk);
        self.prefix.forget(chunk);
        // A small blob is one chunk.
        self.small = None;
    }
}
