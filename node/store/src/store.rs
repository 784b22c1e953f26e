//! Held blobs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use bytes::Bytes;
use shoal_proto::attestation::ChunkHash;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use tokio::task::spawn_blocking;

use crate::change::Change;
use crate::database::Database;
use crate::disk::{Disk, DiskLock};
use crate::partial::{Partial, State};
use crate::recent::Recent;
use crate::recovery::{self, Opened, Recovery};
use crate::turns::Turns;
use crate::writer::Writer;
use crate::{FinishError, MAX_INLINE, Of, OpenError, Options, StoreError, layout};

/// What is known of a held blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its size in bytes.
    pub size: u64,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Held blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs on their way.
    pub partials: u64,
    /// The bytes of them that are there.
    pub partial_bytes: u64,
}

/// How often a blob is put, when others discard what there is of it meanwhile.
const PUT_ATTEMPTS: u32 = 3;

/// The store. Cheap to clone; it ends when the last clone and the last [`Partial`] are gone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) database: Arc<Database>,
    pub(crate) writer: Writer,
    pub(crate) options: Options,
    pub(crate) recent: Arc<Recent>,
    /// Every held blob and its size: what is asked most.
    index: RwLock<BTreeMap<Digest, u64>>,
    /// Partial blobs that somebody works on. Locked for a map access only.
    pub(crate) partials: Mutex<HashMap<Digest, Weak<State>>>,
    /// One opens, publishes, demotes or removes a blob at a time.
    pub(crate) turns: Turns,
    /// Whether the start found blob files that a new database does not know.
    pub(crate) adopting: bool,
    /// Kept to the end: the last thing to go.
    _lock: Arc<dyn DiskLock>,
}

impl Inner {
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, BTreeMap<Digest, u64>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<Digest, u64>> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn partials(&self) -> MutexGuard<'_, HashMap<Digest, Weak<State>>> {
        self.partials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static, E: From<StoreError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    // It fails if the runtime ends, or the work panics: which is a bug, and told by the panic itself.
    spawn_blocking(work).await.unwrap_or_else(|_| Err(StoreError::ShutDown.into()))
}

impl Store {
    /// Opens the store in a data directory, and puts right what a crash or a failing disk left. Blocks.
    ///
    /// # Errors
    /// [`OpenError`] if another process has it, another version wrote it, or the disk fails.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Recovery), OpenError> {
        let Opened { database, index, recovery, adopting, lock } = recovery::open(&disk, options)?;
        let (database, lock) = (Arc::new(database), Arc::<dyn DiskLock>::from(lock));
        let inner = Inner {
            disk,
            writer: Writer::start(database.clone(), lock.clone())?,
            database,
            options,
            recent: Arc::new(Recent::new(options.recent)),
            index: RwLock::new(index),
            partials: Mutex::default(),
            turns: Turns::default(),
            adopting,
            _lock: lock,
        };
        Ok((Self { inner: Arc::new(inner) }, recovery))
    }

    /// Whether a blob is held.
    ///
    /// # Errors
    /// None yet: what is held is known in memory.
    #[expect(clippy::unused_async, reason = "whether it is looked up on the disk is the store's own affair")]
    pub async fn held(&self, digest: &Digest) -> Result<Option<Held>, StoreError> {
        Ok(self.inner.index().get(digest).map(|&size| Held { size }))
    }

    /// Held blobs and their sizes in order, at most `limit` of those that follow `after`.
    ///
    /// # Errors
    /// As [`Store::held`].
    #[expect(clippy::unused_async, reason = "as `held`")]
    pub async fn held_page(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let index = self.inner.index();
        Ok(index
            .range((start, Bound::Unbounded))
            .take(limit)
            .map(|(&digest, &size)| (digest, size))
            .collect())
    }

    /// Stores a small blob whole. Fine if others do the same meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if the bytes are not of the digest; [`StoreError::OfAnother`] if it is just being fetched
    /// from another registry; else whatever the disk says.
    pub async fn put(&self, digest: &Digest, bytes: Bytes, of: Of) -> Result<(), StoreError> {
        if self.inner.index().contains_key(digest) {
            return self.note_origin(digest, of).await;
        }
        let size = bytes.len() as u64;
        let expected = *digest;
        let (actual, bytes) =
            blocking(move || Ok::<_, StoreError>((expected.same_algorithm_of(&bytes), bytes))).await?;
        if actual != expected {
            return Err(StoreError::Mismatch { expected, actual });
        }
        if size <= MAX_INLINE {
            return self.hold_inline(expected, bytes, of).await;
        }
        let mut left = PUT_ATTEMPTS;
        loop {
            left -= 1;
            return match self.put_file(digest, &bytes, of.clone()).await {
                // Somebody else finished it.
                Err(FinishError::Store(StoreError::Closed)) if self.inner.index().contains_key(digest) => {
                    self.note_origin(digest, of).await
                }
                // Somebody else discarded it, or took chunks out.
                Err(FinishError::Store(StoreError::Closed) | FinishError::Incomplete { .. }) if left > 0 => {
                    continue;
                }
                Err(FinishError::Incomplete { .. }) => Err(StoreError::Closed),
                Err(FinishError::Mismatch { actual }) => Err(StoreError::Mismatch { expected, actual }),
                Err(FinishError::Store(error)) => Err(error),
                Ok(()) => Ok(()),
            };
        }
    }

    /// Stores a proven blob by way of a partial one.
    async fn put_file(&self, digest: &Digest, bytes: &Bytes, of: Of) -> Result<(), FinishError> {
        let partial = self.partial(digest, bytes.len() as u64, of).await?;
        let layout = partial.layout();
        for chunk in 0..layout.count() {
            if let Some(range) = layout.range(chunk) {
                // A blob in memory: both are within its length.
                let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                partial.write_own(chunk, bytes.slice(index(range.start)..index(range.end))).await?;
            }
        }
        partial.finish().await
    }

    pub(crate) async fn hold_inline(&self, digest: Digest, bytes: Bytes, of: Of) -> Result<(), StoreError> {
        let size = bytes.len() as u64;
        let layout = ChunkLayout::of(size)?;
        let hashes = (0..layout.count()).map(|_| ChunkHash::of(&bytes)).collect();
        let change = Change::Hold { digest, size, hashes, inline: Some(bytes), of: Some(of) };
        self.inner.writer.write(change).await?;
        self.inner.index_mut().insert(digest, size);
        Ok(())
    }

    /// A blob on its way: what is there of it is resumed. All who ask get the same.
    ///
    /// # Errors
    /// [`StoreError::Size`] if it is being fetched with another size, or chunks of it as another size are there: to
    /// give those up, open it with that size and discard it. [`StoreError::OfAnother`] if it is on its way for another
    /// registry's clients. Else whatever the disk says.
    pub async fn partial(&self, digest: &Digest, size: u64, of: Of) -> Result<Partial, StoreError> {
        Partial::open(self, *digest, size, of).await
    }

    /// Takes a blob away, held or partial.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let turn = self.inner.turns.take(digest).await;
        let partial = self.inner.partials().get(digest).and_then(Weak::upgrade);
        if let Some(partial) = partial {
            partial.close();
            partial.quiet().await;
        }
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || {
            let _turn = turn;
            inner.hold_no_longer(Change::Drop(digest), &digest)?;
            for path in [layout::blob(&digest), layout::partial(&digest)] {
                remove_if_there(&*inner.disk, &path)?;
            }
            Ok(())
        })
        .await
    }

    /// How much there is.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        let (blobs, bytes) = {
            let index = self.inner.index();
            (index.len() as u64, index.values().sum())
        };
        let inner = self.inner.clone();
        let (partials, partial_bytes) = blocking(move || recovery::partials(&inner.database)).await?;
        Ok(Usage { blobs, bytes, partials, partial_bytes })
    }
}

pub(crate) fn remove_if_there(disk: &dyn Disk, path: &std::path::Path) -> std::io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
