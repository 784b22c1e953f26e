//! What is still there of a blob that was on its way.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use redb::ReadTransaction;
use shoal_proto::attestation::ChunkHash;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;

use crate::change::Change;
use crate::damage::move_back;
use crate::disk::{Disk, DiskFile};
use crate::held::read_range;
use crate::store::{Inner, remove_if_there};
use crate::tables::{CHUNKS, PARTIAL, Vouched, key, row_number, rows_of};
use crate::{MAX_INLINE, StoreError, layout};

/// What is there of a partial blob.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    pub(super) chunks: BTreeMap<u32, Vouched>,
    pub(super) file: Option<Arc<dyn DiskFile>>,
}

/// Finds what is there of a partial blob: each chunk is checked again, because a crash may have come before its
/// bytes were on the disk. Blocks.
pub(super) fn resume(store: &Inner, digest: &Digest, layout: ChunkLayout) -> Result<Resumed, StoreError> {
    let Some(noted) = store.database.read(|txn| noted(txn, digest))? else {
        return Ok(Resumed::default());
    };
    let known = ChunkLayout::of(noted.size)?;
    let known_chunks = noted.chunks.len();
    let (resumed, wrong) = match find(&*store.disk, digest)? {
        Some(file) => check(digest, known, noted, file),
        None => (Resumed::default(), noted.chunks.into_keys().collect()),
    };
    if wrong.len() == known_chunks {
        // Nothing is lost with it: neither a file of another length nor another size is to stay.
        store.writer.write_blocking(Change::DropPartial(*digest))?;
        remove_if_there(&*store.disk, &layout::partial(digest))?;
        return Ok(Resumed::default());
    }
    if known.size() != layout.size() {
        // One of the two is made up. Who knows which may discard what is there; asking alone does not.
        return Err(StoreError::Size { digest: *digest, known: known.size(), asked: layout.size() });
    }
    if !wrong.is_empty() {
        let good = resumed.chunks.len();
        tracing::info!(%digest, wrong = wrong.len(), good, "chunks were lost: they are fetched again");
        store.writer.write_blocking(Change::Forget { digest: *digest, chunks: wrong })?;
    }
    Ok(resumed)
}

impl Inner {
    /// Refuses a blob whose rest does not fit onto the disk, before anybody is given a part of it. What is there of it
    /// goes too: it would take the room of all others. Blocks.
    pub(super) fn fits(
        &self,
        digest: &Digest,
        layout: ChunkLayout,
        resumed: &Resumed,
    ) -> Result<(), StoreError> {
        let have = resumed.chunks.keys().filter_map(|&chunk| layout.range(chunk));
        let missing = layout.size().saturating_sub(have.map(shoal_proto::range::ByteRange::len).sum());
        let free = if layout.size() > MAX_INLINE { self.disk.free() } else { None };
        let Some(free) = free.filter(|&free| missing > free) else { return Ok(()) };
        tracing::warn!(%digest, missing, free, "there is no room for a blob: it is not kept here");
        if !resumed.chunks.is_empty() {
            self.writer.write_blocking(Change::DropPartial(*digest))?;
            remove_if_there(&*self.disk, &layout::partial(digest))?;
        }
        Err(StoreError::Full)
    }
}

/// Reads every chunk that the database knows of. Says what is there, and which chunks are not what was stored; one
/// that the disk does not give at all is neither.
fn check(digest: &Digest, layout: ChunkLayout, noted: Noted, file: Arc<dyn DiskFile>) -> (Resumed, Vec<u32>) {
    let mut chunks = BTreeMap::new();
    let mut wrong = Vec::new();
    for (chunk, vouched) in noted.chunks {
        match layout.range(chunk).map(|range| read_range(&*file, range)) {
            Some(Ok(bytes)) if ChunkHash::of(&bytes) == vouched.hash => drop(chunks.insert(chunk, vouched)),
            Some(Err(error)) if error.kind() != ErrorKind::UnexpectedEof => {
                tracing::warn!(%digest, chunk, %error, "a stored chunk cannot be read: it is fetched again");
            }
            _ => wrong.push(chunk),
        }
    }
    (Resumed { chunks, file: Some(file) }, wrong)
}

/// What the database knows of a partial blob.
#[derive(Debug)]
struct Noted {
    size: u64,
    chunks: BTreeMap<u32, Vouched>,
}

fn noted(txn: &ReadTransaction, digest: &Digest) -> Result<Option<Noted>, StoreError> {
    let Some(size) = txn.open_table(PARTIAL)?.get(&*key(digest))?.map(|row| row.value()) else {
        return Ok(None);
    };
    let rows = rows_of(digest);
    let mut chunks = BTreeMap::new();
    for row in txn.open_table(CHUNKS)?.range(rows.start().as_slice()..=rows.end().as_slice())? {
        let (key, row) = row?;
        chunks.insert(row_number(key.value())?, Vouched::decode(row.value())?);
    }
    Ok(Some(Noted { size, chunks }))
}

/// The file of a partial blob, also if a failing disk left it among the held ones.
fn find(disk: &dyn Disk, digest: &Digest) -> Result<Option<Arc<dyn DiskFile>>, StoreError> {
    let path = layout::partial(digest);
    let found = match disk.open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            move_back(disk, digest)?;
            disk.open(&path)
        }
        other => other,
    };
    match found {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
