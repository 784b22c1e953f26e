//! A blob's way from the partial ones to the held ones, or to nothing.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use shoal_proto::attestation::ChunkHash;

use super::Partial;
use super::progress::Phase;
use crate::change::Change;
use crate::damage::move_back;
use crate::disk::{Disk, DiskFile};
use crate::store::{blocking, remove_if_there};
use crate::{FinishError, StoreError, layout};

/// What a proven blob consists of. Nothing of it changes any more.
#[derive(Debug)]
struct Sealed {
    hashes: Vec<ChunkHash>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Inline(Bytes),
    File(Arc<dyn DiskFile>),
}

/// What is found when a blob is to be sealed.
#[derive(Debug)]
enum Seal {
    Done(Sealed),
    /// A chunk was taken out since the digest came out.
    Unproven,
    /// Somebody else was first.
    Held,
}

impl Partial {
    /// Proves the digest, if [`Partial::prove`] did not, and makes the blob a held one: synced, moved, and in the
    /// database. Fine if somebody else does it first.
    ///
    /// # Errors
    /// [`FinishError::Mismatch`] if the digest does not come out: then everything stays. After any other error it
    /// may be tried again.
    pub async fn finish(&self) -> Result<(), FinishError> {
        loop {
            self.prove().await?;
            let turn = self.store.turns.take(&self.state.digest).await;
            let this = self.clone();
            let held = blocking(move || {
                // Here and not with the caller, who may leave before it is done.
                let _turn = turn;
                this.hold()
            });
            if held.await? {
                return Ok(());
            }
        }
    }

    /// Proves the digest, and nothing more: whoever waits for the last byte may have it after this. It is not held,
    /// and may be lost with the power, before [`Partial::finish`] has synced it.
    ///
    /// # Errors
    /// As [`Partial::finish`], without those of the disk that it is published on.
    pub async fn prove(&self) -> Result<(), FinishError> {
        match self.whole_digest().await {
            Ok(actual) if actual == self.state.digest => Ok(()),
            Ok(actual) => Err(FinishError::Mismatch { actual }),
            Err(FinishError::Store(StoreError::Closed)) if self.is_held() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn is_held(&self) -> bool {
        self.store.index().contains_key(&self.state.digest)
    }

    /// Makes a proven blob a held one; `false` if it is no longer proven. Blocks.
    fn hold(&self) -> Result<bool, StoreError> {
        let sealed = match self.seal()? {
            Seal::Done(sealed) => sealed,
            Seal::Unproven => return Ok(false),
            Seal::Held => return Ok(true),
        };
        if let Err(error) = self.publish(sealed) {
            // Not held, so not among the held: a later attempt, or a later process, finds it where it was.
            if let Err(error) = move_back(&*self.store.disk, &self.state.digest) {
                tracing::warn!(digest = %self.state.digest, %error, "a file that is not held stays among the held");
            }
            self.state.progress().phase = Phase::Open;
            return Err(error);
        }
        self.store.index_mut().insert(self.state.digest, self.state.layout.size());
        self.state.close();
        Ok(true)
    }

    fn seal(&self) -> Result<Seal, StoreError> {
        let mut progress = self.state.progress();
        if progress.phase == Phase::Closed {
            return if self.is_held() { Ok(Seal::Held) } else { Err(StoreError::Closed) };
        }
        let digest = progress.prefix.digest().filter(|_| progress.prefix.is_at(self.state.layout.count()));
        if digest != Some(self.state.digest) || !progress.have.is_full() {
            return Ok(Seal::Unproven);
        }
        let content = if self.state.is_small() {
            Content::Inline(progress.small.clone().unwrap_or_default())
        } else {
            Content::File(progress.file.clone().ok_or(StoreError::Closed)?)
        };
        progress.phase = Phase::Sealed;
        let hashes = progress.chunks.values().map(|vouched| vouched.hash).collect();
        Ok(Seal::Done(Sealed { hashes, content }))
    }

    /// Bytes, name, folders, row: each durable before the next. Blocks.
    fn publish(&self, sealed: Sealed) -> Result<(), StoreError> {
        let (digest, size) = (self.state.digest, self.state.layout.size());
        let inline = match sealed.content {
            Content::Inline(bytes) => Some(bytes),
            Content::File(file) => {
                if file.len()? != size {
                    // Of an earlier attempt with another size, whose removal failed.
                    file.set_len(size)?;
                }
                file.sync()?;
                let disk = &*self.store.disk;
                let folder = layout::blob_folder(&digest);
                make_folders(disk, &folder)?;
                match disk.rename(&layout::partial(&digest), &layout::blob(&digest)) {
                    // An earlier attempt failed later than this, and its way back failed too.
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        disk.len(&layout::blob(&digest))?;
                    }
                    other => other?,
                }
                disk.sync_dir(&folder)?;
                disk.sync_dir(Path::new(layout::PARTIAL))?;
                None
            }
        };
        let of = Some(self.state.owner.now());
        self.store.writer.write_blocking(Change::Hold { digest, size, hashes: sealed.hashes, inline, of })
    }

    /// Throws everything away, unless it is held by now.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn discard(&self) -> Result<(), StoreError> {
        let turn = self.store.turns.take(&self.state.digest).await;
        if self.state.progress().phase == Phase::Closed {
            // The file and the rows may be another's now.
            return Ok(());
        }
        self.state.close();
        self.state.quiet().await;
        let (inner, digest) = (self.store.clone(), self.state.digest);
        blocking(move || {
            let _turn = turn;
            // Held by another way: a small blob needs no partial one.
            let is_held = inner.index().contains_key(&digest);
            let change = if is_held { Change::DropPartial(digest) } else { Change::Drop(digest) };
            inner.writer.write_blocking(change)?;
            Ok(remove_if_there(&*inner.disk, &layout::partial(&digest))?)
        })
        .await
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
