//! Reading what is held: every chunk is checked against what was noted when the digest was proven.

use std::fmt::Display;
use std::io::ErrorKind;

use bytes::Bytes;
use shoal_proto::attestation::ChunkHash;
use shoal_proto::buffer::ChunkBuffer;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::range::ByteRange;

use crate::database::Database;
use crate::disk::{Disk, DiskFile};
use crate::store::{Store, blocking};
use crate::tables::{HASHES, HASHES_A_ROW, INLINE, key, row_key};
use crate::{MAX_INLINE, ReadError, StoreError, layout};

/// A chunk of a held blob, checked against the hash that was noted when its digest was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedChunk {
    /// The bytes.
    pub bytes: Bytes,
    /// Their BLAKE3.
    pub hash: ChunkHash,
}

impl Store {
    /// A chunk of a held blob. What is not what was proven is told, and the blob is held no longer: its good chunks
    /// become a partial blob, to be completed again.
    ///
    /// # Errors
    /// [`ReadError`]. Only [`ReadError::Damaged`] says that the blob is held no longer.
    pub async fn read_chunk(&self, digest: &Digest, chunk: u32) -> Result<CheckedChunk, ReadError> {
        let size = *self.inner.index().get(digest).ok_or(ReadError::NotHeld)?;
        let range = ChunkLayout::of(size).map_err(StoreError::from)?.range(chunk);
        let range = range.ok_or(ReadError::NoChunk { digest: *digest, chunk })?;
        let (inner, digest) = (self.inner.clone(), *digest);
        let again = inner.clone();
        let read = move || read_checked(&*inner.disk, &inner.database, &digest, size, chunk, range);
        match blocking(read).await {
            // Somebody may have put it right since the read began: then it is read again.
            Err(ReadError::Damaged { .. }) if !self.demote(&digest, size).await? => {
                blocking(move || read_checked(&*again.disk, &again.database, &digest, size, chunk, range))
                    .await
            }
            other => other,
        }
    }
}

/// Reads a chunk, and checks it. Blocks.
///
/// Damage is what proves that the bytes are not there any more: other bytes, an end too early, no file. A disk that
/// gives no answer, or a process that may open no more files, proves nothing, and is an error like any other.
pub(crate) fn read_checked(
    disk: &dyn Disk,
    database: &Database,
    digest: &Digest,
    size: u64,
    chunk: u32,
    range: ByteRange,
) -> Result<CheckedChunk, ReadError> {
    let damaged =
        |reason: &dyn Display| ReadError::Damaged { digest: *digest, chunk, reason: reason.to_string() };
    let (hash, inline) = noted(database, digest, size, chunk)?;
    let hash = hash.ok_or_else(|| damaged(&"its hash is not noted"))?;
    let bytes = if size <= MAX_INLINE {
        inline.ok_or_else(|| damaged(&"its bytes are gone"))?
    } else {
        let read = disk.open(&layout::blob(digest)).and_then(|file| read_range(&*file, range));
        read.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::UnexpectedEof => damaged(&error),
            _ => StoreError::from(error).into(),
        })?
    };
    if ChunkHash::of(&bytes) == hash {
        Ok(CheckedChunk { bytes, hash })
    } else {
        Err(damaged(&"its bytes have changed"))
    }
}

/// What a chunk must hash to, and the bytes of a small blob: of one state of the database.
fn noted(
    database: &Database,
    digest: &Digest,
    size: u64,
    chunk: u32,
) -> Result<(Option<ChunkHash>, Option<Bytes>), StoreError> {
    database.read(|txn| {
        let row = txn.open_table(HASHES)?.get(&*row_key(digest, chunk / HASHES_A_ROW))?;
        let hash = row.and_then(|row| {
            let (hashes, _) = row.value().as_chunks::<32>();
            hashes.get((chunk % HASHES_A_ROW) as usize).map(|hash| ChunkHash::from_bytes(*hash))
        });
        if size > MAX_INLINE {
            return Ok((hash, None));
        }
        let row = txn.open_table(INLINE)?.get(&*key(digest))?;
        Ok((hash, row.map(|row| Bytes::copy_from_slice(row.value()))))
    })
}

/// Bytes of a file, in memory of their own.
pub(crate) fn read_range(file: &dyn DiskFile, range: ByteRange) -> std::io::Result<Bytes> {
    // A chunk is at most 4 MiB.
    let length = usize::try_from(range.len()).map_err(std::io::Error::other)?;
    let mut bytes = ChunkBuffer::of(length);
    file.read_exact_at(range.start, &mut bytes)?;
    Ok(bytes.freeze())
}
