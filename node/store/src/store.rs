//! Held blobs, what is known of them, and tags.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use bytes::{Bytes, BytesMut};
use redb::{Database, ReadableDatabase as _};
use shoal_proto::attestation::ChunkHash;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::range::ByteRange;
use shoal_proto::tag::SignedTagMapping;
use tokio::task::spawn_blocking;

use crate::change::{Change, decode_tag};
use crate::disk::{Disk, DiskLock};
use crate::partial::{Partial, State};
use crate::recovery::{self, Opened, Recovery};
use crate::tables::{
    HASHES, HASHES_A_ROW, INLINE, MEDIA_TYPES, PARTIAL, REPOSITORIES, TAGS, key, repository_of, row_key,
    tag_of, tag_prefix,
};
use crate::writer::Writer;
use crate::{MAX_INLINE, OpenError, Options, ReadError, StoreError, layout};

/// What is known of a held blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its size in bytes.
    pub size: u64,
}

/// A chunk of a held blob, checked against the hash that was noted when its digest was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedChunk {
    /// The bytes.
    pub bytes: Bytes,
    /// Their BLAKE3.
    pub hash: ChunkHash,
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
    /// Every held blob and its size: what is asked most.
    index: RwLock<BTreeMap<Digest, u64>>,
    /// Partial blobs that somebody works on. Locked for a map access only.
    pub(crate) partials: Mutex<HashMap<Digest, Weak<State>>>,
    /// One opens a partial blob at a time: two must not both load it.
    pub(crate) opening: tokio::sync::Mutex<()>,
    /// Kept to the end: the last thing to go.
    _lock: Box<dyn DiskLock>,
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
        let Opened { database, index, recovery, lock } = recovery::open(&*disk, options)?;
        let database = Arc::new(database);
        let inner = Inner {
            disk,
            writer: Writer::start(database.clone())?,
            database,
            options,
            index: RwLock::new(index),
            partials: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
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

    /// Stores a small blob whole.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if the bytes are not of the digest; else whatever the disk says.
    pub async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<(), StoreError> {
        if self.inner.index().contains_key(digest) {
            return Ok(());
        }
        let size = bytes.len() as u64;
        let expected = *digest;
        let (actual, bytes) =
            blocking(move || Ok::<_, StoreError>((expected.same_algorithm_of(&bytes), bytes))).await?;
        if actual != expected {
            return Err(StoreError::Mismatch { expected, actual });
        }
        if size <= MAX_INLINE {
            return self.hold_inline(expected, bytes).await;
        }
        let partial = self.partial(digest, size).await?;
        let layout = partial.layout();
        for chunk in 0..layout.count() {
            if let Some(range) = layout.range(chunk) {
                // A blob in memory: both are within its length.
                let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                partial.write_own(chunk, bytes.slice(index(range.start)..index(range.end))).await?;
            }
        }
        match partial.finish().await {
            Ok(()) => Ok(()),
            Err(crate::FinishError::Store(error)) => Err(error),
            Err(crate::FinishError::Mismatch { actual }) => Err(StoreError::Mismatch { expected, actual }),
            Err(crate::FinishError::Incomplete { .. }) => Err(StoreError::Closed),
        }
    }

    pub(crate) async fn hold_inline(&self, digest: Digest, bytes: Bytes) -> Result<(), StoreError> {
        let size = bytes.len() as u64;
        let layout = ChunkLayout::of(size)?;
        let hashes = (0..layout.count()).map(|_| ChunkHash::of(&bytes)).collect();
        let change = Change::Hold { digest, size, hashes, inline: Some(bytes) };
        self.inner.writer.write(change).await?;
        self.inner.index_mut().insert(digest, size);
        Ok(())
    }

    /// A blob on its way: what is there of it is resumed. All who ask get the same.
    ///
    /// # Errors
    /// [`StoreError::Size`] if it is being fetched with another size; else whatever the disk says.
    pub async fn partial(&self, digest: &Digest, size: u64) -> Result<Partial, StoreError> {
        Partial::open(self, *digest, size).await
    }

    /// The size that a blob of which a part is here is being fetched with.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn partial_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || {
            let table = inner.database.begin_read()?.open_table(PARTIAL)?;
            Ok(table.get(&*key(&digest))?.map(|row| row.value()))
        })
        .await
    }

    /// Takes a blob away, held or partial.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        self.inner.index_mut().remove(digest);
        self.inner.writer.write(Change::Drop(*digest)).await?;
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || {
            for path in [layout::blob(&digest), layout::partial(&digest)] {
                remove_if_there(&*inner.disk, &path)?;
            }
            Ok(())
        })
        .await
    }

    /// Notes what a manifest is served as.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn set_media_type(&self, digest: &Digest, media_type: &str) -> Result<(), StoreError> {
        self.inner.writer.write(Change::MediaType(*digest, media_type.to_owned())).await
    }

    /// What a manifest is served as, if it was noted.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn media_type(&self, digest: &Digest) -> Result<Option<String>, StoreError> {
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || {
            let table = inner.database.begin_read()?.open_table(MEDIA_TYPES)?;
            Ok(table.get(&*key(&digest))?.map(|row| row.value().to_owned()))
        })
        .await
    }

    /// Notes a repository that a blob was seen in; at most 16 are remembered.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn note_repository(&self, digest: &Digest, scope: &Scope) -> Result<(), StoreError> {
        if self.repositories(digest).await?.contains(scope) {
            // Most of the time: it needs no commit.
            return Ok(());
        }
        self.inner.writer.write(Change::Repository(*digest, scope.clone())).await
    }

    /// The repositories that a blob was seen in.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn repositories(&self, digest: &Digest) -> Result<Vec<Scope>, StoreError> {
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || {
            let table = inner.database.begin_read()?.open_table(REPOSITORIES)?;
            let prefix = key(&digest);
            let mut scopes = Vec::new();
            for row in table.range(&*prefix..)? {
                let (row, _) = row?;
                if !row.value().starts_with(&prefix) {
                    break;
                }
                scopes.extend(repository_of(&digest, row.value()));
            }
            Ok(scopes)
        })
        .await
    }

    /// Notes what a tag named. The newest is kept for each media type, eight of them at most.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn put_tag(&self, signed: SignedTagMapping) -> Result<(), StoreError> {
        self.inner.writer.write(Change::Tag(signed)).await
    }

    /// What a tag was last known to name.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn tags(&self, scope: &Scope, tag: &Tag) -> Result<Vec<SignedTagMapping>, StoreError> {
        let (inner, prefix) = (self.inner.clone(), tag_prefix(scope, tag));
        blocking(move || {
            let table = inner.database.begin_read()?.open_table(TAGS)?;
            let mut mappings = Vec::new();
            for row in table.range(prefix.as_str()..)? {
                let (key, value) = row?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                mappings.push(decode_tag(value.value())?);
            }
            Ok(mappings)
        })
        .await
    }

    /// The tags that something is known of, in order: at most `limit` of those that follow `after`.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn tags_page(
        &self,
        after: Option<(Scope, Tag)>,
        limit: usize,
    ) -> Result<Vec<(Scope, Tag)>, StoreError> {
        let inner = self.inner.clone();
        blocking(move || {
            let table = inner.database.begin_read()?.open_table(TAGS)?;
            // A tag's mappings begin with its prefix, and no media type begins with this.
            let start =
                after.map_or_else(String::new, |(scope, tag)| tag_prefix(&scope, &tag) + "\u{10ffff}");
            let mut tags = Vec::new();
            for row in table.range(start.as_str()..)? {
                let tag = tag_of(row?.0.value()).ok_or(StoreError::Row("a tag's key"))?;
                if tags.last() != Some(&tag) {
                    if tags.len() >= limit {
                        break;
                    }
                    tags.push(tag);
                }
            }
            Ok(tags)
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
pub(crate) fn read_range(file: &dyn crate::disk::DiskFile, range: ByteRange) -> std::io::Result<Bytes> {
    // A chunk is at most 4 MiB.
    let length = usize::try_from(range.len()).map_err(std::io::Error::other)?;
    let mut bytes = BytesMut::zeroed(length);
    file.read_exact_at(range.start, &mut bytes)?;
    Ok(bytes.freeze())
}

pub(crate) fn remove_if_there(disk: &dyn Disk, path: &std::path::Path) -> std::io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
