//! What is done about a held blob that is no longer what it was: its good chunks become a partial blob, to be
//! completed again.

use shoal_proto::attestation::ChunkHash;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;

use crate::change::Change;
use crate::disk::Disk;
use crate::held::read_range;
use crate::store::{Inner, Store, blocking};
use crate::{MAX_INLINE, StoreError, layout};

impl Store {
    /// Holds the blob no longer.
    pub(crate) async fn demote(&self, digest: &Digest, size: u64) -> Result<(), StoreError> {
        // One at a time, and not while it is opened as a partial blob.
        let _turn = self.inner.opening.lock().await;
        if self.inner.index_mut().remove(digest).is_none() {
            return Ok(());
        }
        let (inner, digest) = (self.inner.clone(), *digest);
        let good = blocking(move || inner.good_chunks(&digest, size)).await?;
        tracing::warn!(%digest, good = good.len(), "a held blob is damaged: its good chunks are kept");
        let change =
            if good.is_empty() { Change::Drop(digest) } else { Change::Demote { digest, size, good } };
        self.inner.writer.write(change).await?;
        let inner = self.inner.clone();
        blocking(move || move_back(&*inner.disk, &digest)).await
    }
}

impl Inner {
    fn good_chunks(&self, digest: &Digest, size: u64) -> Result<Vec<(u32, ChunkHash)>, StoreError> {
        if size <= MAX_INLINE {
            return Ok(Vec::new());
        }
        let Ok(file) = self.disk.open(&layout::blob(digest)) else { return Ok(Vec::new()) };
        let chunks = ChunkLayout::of(size)?;
        let mut good = Vec::new();
        for chunk in 0..chunks.count() {
            let noted = self.noted_hash(digest, chunk)?;
            let bytes = chunks.range(chunk).and_then(|range| read_range(&*file, range).ok());
            if let (Some(noted), Some(bytes)) = (noted, bytes)
                && ChunkHash::of(&bytes) == noted
            {
                good.push((chunk, noted));
            }
        }
        Ok(good)
    }
}

/// Moves a blob's file back among the partial ones, after the database says that it is held no longer.
pub(crate) fn move_back(disk: &dyn Disk, digest: &Digest) -> Result<(), StoreError> {
    match disk.rename(&layout::blob(digest), &layout::partial(digest)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => {
            disk.sync_dir(std::path::Path::new(layout::PARTIAL))?;
            Ok(disk.sync_dir(&layout::blob_folder(digest))?)
        }
    }
}
