//! Blob files that the database knows nothing of, because it was begun anew beside them: each whose digest still comes
//! out becomes a held blob, and the others go.

use std::io::ErrorKind;

use shoal_proto::attestation::ChunkHash;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::{Digest, Hasher};

use crate::change::Change;
use crate::database::Database;
use crate::held::read_range;
use crate::recovery::blob_files;
use crate::store::{Inner, Store, blocking, remove_if_there};
use crate::tables::{ADOPTING, META};
use crate::{MAX_INLINE, StoreError, layout};

/// What became of the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Blobs that are held now.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files whose digest did not come out: they were removed.
    pub refused: u64,
}

/// What becomes of one file.
enum Verdict {
    Held(u64),
    Refused,
    /// Held already, or being fetched: what comes of that replaces the file.
    Left,
}

impl Store {
    /// Takes over what a start found beside a new database. Nothing to do is done at once; else every file is read, one
    /// after the other, while the store works. What is not reached before the process ends is taken over by the next.
    ///
    /// # Errors
    /// Whatever the database says. A file that cannot be read is left where it is.
    pub async fn adopt(&self) -> Result<Adopted, StoreError> {
        let mut adopted = Adopted::default();
        if !self.inner.adopting {
            return Ok(adopted);
        }
        let inner = self.inner.clone();
        for digest in blocking(move || blob_files(&*inner.disk)).await? {
            let turn = self.inner.turns.take(&digest).await;
            let inner = self.inner.clone();
            let verdict = blocking(move || {
                let _turn = turn;
                inner.adopt(&digest)
            });
            match verdict.await {
                Ok(Verdict::Held(size)) => {
                    adopted.blobs += 1;
                    adopted.bytes += size;
                }
                Ok(Verdict::Refused) => adopted.refused += 1,
                Ok(Verdict::Left) => {}
                Err(error) => tracing::warn!(%digest, %error, "a blob's file cannot be taken over"),
            }
        }
        let inner = self.inner.clone();
        blocking(move || done(&inner.database)).await?;
        Ok(adopted)
    }
}

/// Notes that there are no such files, or no more.
pub(crate) fn done(database: &Database) -> Result<(), StoreError> {
    database.write(|txn| {
        txn.open_table(META)?.remove(ADOPTING)?;
        Ok(())
    })
}

impl Inner {
    fn adopt(&self, digest: &Digest) -> Result<Verdict, StoreError> {
        if self.index().contains_key(digest)
            || self.partials().get(digest).is_some_and(|it| it.strong_count() > 0)
        {
            return Ok(Verdict::Left);
        }
        let path = layout::blob(digest);
        let file = match self.disk.open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Verdict::Left),
            other => other?,
        };
        let size = file.len()?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut hashes = Vec::new();
        // A smaller one would be in the database, and a larger one is nobody's blob.
        if let Some(layout) = ChunkLayout::of(size).ok().filter(|_| size > MAX_INLINE) {
            for range in (0..layout.count()).map_while(|chunk| layout.range(chunk)) {
                let bytes = read_range(&*file, range)?;
                hasher.update(&bytes);
                hashes.push(ChunkHash::of(&bytes));
            }
        }
        if hasher.finish() != *digest || hashes.is_empty() {
            remove_if_there(&*self.disk, &path)?;
            return Ok(Verdict::Refused);
        }
        self.writer.write_blocking(Change::Hold { digest: *digest, size, hashes, inline: None, of: None })?;
        self.index_mut().insert(*digest, size);
        Ok(Verdict::Held(size))
    }
}
