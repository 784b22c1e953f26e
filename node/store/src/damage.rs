//! What is done about a held blob that is no longer what it was: its good chunks become a partial blob, to be
//! completed again.

use std::io::ErrorKind;

use redb::ReadTransaction;
use shoal_proto::attestation::ChunkHash;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;

use crate::change::Change;
use crate::database::Database;
use crate::disk::Disk;
use crate::held::read_checked;
use crate::store::{Inner, Store, blocking};
use crate::tables::{HELD, key};
use crate::{ReadError, StoreError, layout};

impl Store {
    /// Holds a damaged blob no longer. `false` if there is nothing wrong with it, or no more.
    ///
    /// An error leaves it held as it was.
    pub(crate) async fn demote(&self, digest: &Digest, size: u64) -> Result<bool, StoreError> {
        let turn = self.inner.turns.take(digest).await;
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || {
            // Here and not with the caller, who may leave before it is done.
            let _turn = turn;
            inner.demote(&digest, size)
        })
        .await
    }
}

impl Inner {
    fn demote(&self, digest: &Digest, size: u64) -> Result<bool, StoreError> {
        if self.index().get(digest) != Some(&size) {
            return Ok(true);
        }
        let Some(change) = demotion(&*self.disk, &self.database, digest, size)? else { return Ok(false) };
        tracing::warn!(%digest, "a held blob is damaged: its good chunks are kept");
        self.hold_no_longer(change, digest)?;
        if let Err(error) = move_back(&*self.disk, digest) {
            // Whoever resumes it looks in both places.
            tracing::warn!(%digest, %error, "a damaged blob's file stays where it was");
        }
        Ok(true)
    }

    /// Makes a change after which a blob is not held. Blocks.
    ///
    /// A change that failed may be made all the same: so the database is asked, and if it does not answer, the blob is
    /// not held as far as this process goes. The other way round somebody would be told that it is safe here.
    pub(crate) fn hold_no_longer(&self, change: Change, digest: &Digest) -> Result<(), StoreError> {
        // Before the rows go: nobody is to begin with it now.
        let was_held = self.index_mut().remove(digest).is_some();
        self.writer.write_blocking(change).inspect_err(|_| {
            let row =
                |txn: &ReadTransaction| Ok(txn.open_table(HELD)?.get(&*key(digest))?.map(|row| row.value()));
            if was_held && let Ok(Some(size)) = self.database.read(row) {
                self.index_mut().insert(*digest, size);
            }
        })
    }
}

/// What becomes of a held blob, if it is damaged: a partial one of its good chunks, or nothing. Blocks.
pub(crate) fn demotion(
    disk: &dyn Disk,
    database: &Database,
    digest: &Digest,
    size: u64,
) -> Result<Option<Change>, StoreError> {
    let chunks = ChunkLayout::of(size)?;
    let mut good: Vec<(u32, ChunkHash)> = Vec::new();
    for chunk in 0..chunks.count() {
        let Some(range) = chunks.range(chunk) else { break };
        match read_checked(disk, database, digest, size, chunk, range) {
            Ok(checked) => good.push((chunk, checked.hash)),
            Err(ReadError::Store(error)) => return Err(error),
            Err(_) => {}
        }
    }
    if good.len() == chunks.count() as usize {
        return Ok(None);
    }
    // A blob without a file has one chunk.
    Ok(Some(if good.is_empty() {
        Change::Drop(*digest)
    } else {
        Change::Demote { digest: *digest, size, good }
    }))
}

/// Moves a blob's file back among the partial ones, after the database says that it is held no longer.
pub(crate) fn move_back(disk: &dyn Disk, digest: &Digest) -> Result<(), StoreError> {
    match disk.rename(&layout::blob(digest), &layout::partial(digest)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => {
            disk.sync_dir(std::path::Path::new(layout::PARTIAL))?;
            Ok(disk.sync_dir(&layout::blob_folder(digest))?)
        }
    }
}
