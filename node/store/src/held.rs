//! Reading what is held: every chunk is checked against what was noted when the digest was proven.

use bytes::{Bytes, BytesMut};
use redb::ReadableDatabase as _;
use shoal_proto::attestation::ChunkHash;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::range::ByteRange;

use crate::disk::DiskFile;
use crate::store::{Inner, Store, blocking};
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
    /// [`ReadError`].
    pub async fn read_chunk(&self, digest: &Digest, chunk: u32) -> Result<CheckedChunk, ReadError> {
        let size = *self.inner.index().get(digest).ok_or(ReadError::NotHeld)?;
        let range = ChunkLayout::of(size).map_err(StoreError::from)?.range(chunk);
        let range = range.ok_or(ReadError::NoChunk { digest: *digest, chunk })?;
        let (inner, digest) = (self.inner.clone(), *digest);
        let read = blocking(move || inner.read_checked(&digest, size, chunk, range)).await;
        match read {
            Err(ReadError::Damaged { digest, chunk, reason }) => {
                self.demote(&digest, size).await?;
                Err(ReadError::Damaged { digest, chunk, reason })
            }
            other => other,
        }
    }
}

impl Inner {
    fn read_checked(
        &self,
        digest: &Digest,
        size: u64,
        chunk: u32,
        range: ByteRange,
    ) -> Result<CheckedChunk, ReadError> {
        let damaged = |reason: String| ReadError::Damaged { digest: *digest, chunk, reason };
        let hash =
            self.noted_hash(digest, chunk)?.ok_or_else(|| damaged("its hash is not noted".to_owned()))?;
        let bytes = if size <= MAX_INLINE {
            let table = self.database.begin_read().map_err(StoreError::from)?;
            let table = table.open_table(INLINE).map_err(StoreError::from)?;
            let row = table.get(&*key(digest)).map_err(StoreError::from)?;
            Bytes::copy_from_slice(row.ok_or_else(|| damaged("its bytes are gone".to_owned()))?.value())
        } else {
            let file = self.disk.open(&layout::blob(digest)).map_err(|error| damaged(error.to_string()))?;
            read_range(&*file, range).map_err(|error| damaged(error.to_string()))?
        };
        if ChunkHash::of(&bytes) == hash {
            Ok(CheckedChunk { bytes, hash })
        } else {
            Err(damaged("its bytes have changed".to_owned()))
        }
    }

    pub(crate) fn noted_hash(&self, digest: &Digest, chunk: u32) -> Result<Option<ChunkHash>, StoreError> {
        let table = self.database.begin_read()?.open_table(HASHES)?;
        let Some(row) = table.get(&*row_key(digest, chunk / HASHES_A_ROW))? else { return Ok(None) };
        let (hashes, _) = row.value().as_chunks::<32>();
        Ok(hashes.get((chunk % HASHES_A_ROW) as usize).map(|hash| ChunkHash::from_bytes(*hash)))
    }
}

/// Bytes of a file, in memory of their own.
pub(crate) fn read_range(file: &dyn DiskFile, range: ByteRange) -> std::io::Result<Bytes> {
    // A chunk is at most 4 MiB.
    let length = usize::try_from(range.len()).map_err(std::io::Error::other)?;
    let mut bytes = BytesMut::zeroed(length);
    file.read_exact_at(range.start, &mut bytes)?;
    Ok(bytes.freeze())
}
