//! A blob's way from the partial ones to the held ones.

use std::path::{Path, PathBuf};

use shoal_proto::attestation::ChunkHash;

use super::Partial;
use crate::change::Change;
use crate::damage::move_back;
use crate::disk::Disk;
use crate::store::{blocking, remove_if_there};
use crate::{FinishError, StoreError, layout};

impl Partial {
    /// Proves the digest and makes the blob a held one.
    ///
    /// # Errors
    /// [`FinishError::Mismatch`] if the digest does not come out: then everything stays.
    pub async fn finish(&self) -> Result<(), FinishError> {
        let actual = self.whole_digest().await?;
        if actual != self.state.digest {
            return Err(FinishError::Mismatch { actual });
        }
        let (hashes, small) = {
            let progress = self.state.progress();
            let hashes: Vec<ChunkHash> = progress.chunks.values().map(|vouched| vouched.hash).collect();
            (hashes, progress.small.clone())
        };
        let (digest, size) = (self.state.digest, self.state.layout.size());
        let inline = if self.state.is_small() { Some(small.unwrap_or_default()) } else { None };
        if inline.is_none() {
            let this = self.clone();
            blocking(move || this.publish()).await?;
        }
        let published = inline.is_none();
        if let Err(error) = self.store.writer.write(Change::Hold { digest, size, hashes, inline }).await {
            if published {
                // Not held, so not among the held: a later attempt finds it where it was.
                let inner = self.store.clone();
                blocking(move || move_back(&*inner.disk, &digest)).await?;
            }
            return Err(error.into());
        }
        self.store.index_mut().insert(digest, size);
        self.close();
        Ok(())
    }

    /// The file's way among the held ones: bytes, name, folders, each durable before the next. Blocks.
    fn publish(&self) -> Result<(), StoreError> {
        let disk = &*self.store.disk;
        let file = self.state.progress().file.clone().ok_or(StoreError::Closed)?;
        file.sync()?;
        let folder = layout::blob_folder(&self.state.digest);
        make_folders(disk, &folder)?;
        disk.rename(&layout::partial(&self.state.digest), &layout::blob(&self.state.digest))?;
        disk.sync_dir(&folder)?;
        Ok(disk.sync_dir(Path::new(layout::PARTIAL))?)
    }

    fn close(&self) {
        let mut progress = self.state.progress();
        progress.closed = true;
        progress.file = None;
        progress.small = None;
        drop(progress);
        self.store.partials().remove(&self.state.digest);
        self.state.hashed.notify_waiters();
    }

    /// Throws everything away.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn discard(&self) -> Result<(), StoreError> {
        self.close();
        self.store.writer.write(Change::Drop(self.state.digest)).await?;
        let (inner, digest) = (self.store.clone(), self.state.digest);
        blocking(move || Ok(remove_if_there(&*inner.disk, &layout::partial(&digest))?)).await
    }
}

/// Creates a folder and those above it, each durable.
fn make_folders(disk: &dyn Disk, folder: &Path) -> Result<(), StoreError> {
    let mut above = PathBuf::new();
    for part in folder.components() {
        let path = above.join(part);
        disk.create_dir(&path)?;
        disk.sync_dir(&above)?;
        above = path;
    }
    Ok(())
}
