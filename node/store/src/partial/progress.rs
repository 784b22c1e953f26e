//! How far a blob on its way is: what all handles of it share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use tokio::sync::Notify;

use super::prefix::Prefix;
use crate::disk::DiskFile;
use crate::held::read_range;
use crate::tables::Vouched;
use crate::{MAX_INLINE, StoreError};

/// What all clones share.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) digest: Digest,
    pub(super) layout: ChunkLayout,
    /// Locked for moments, never across an await and never while a disk works.
    pub(super) progress: Mutex<Progress>,
    /// Tells who waits that the hasher was put back.
    pub(super) hashed: Notify,
}

#[derive(Debug)]
pub(super) struct Progress {
    pub(super) chunks: BTreeMap<u32, Vouched>,
    pub(super) have: FixedBitSet,
    /// The file, once a chunk was written.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// The bytes of a blob too small for a file.
    pub(super) small: Option<Bytes>,
    pub(super) prefix: Prefix,
    /// Chunks that the database does not know of yet.
    pub(super) unwritten: Vec<u32>,
    pub(super) flushing: bool,
    pub(super) closed: bool,
}

impl State {
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_small(&self) -> bool {
        self.layout.size() <= MAX_INLINE
    }

    pub(super) fn bytes(&self, chunk: u32) -> Result<Bytes, StoreError> {
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
}
