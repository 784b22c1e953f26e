//! A blob on its way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use shoal_proto::attestation::{Attestation, ChunkHash};
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use crate::change::Change;
use crate::damage::move_back;
use crate::disk::{Disk, DiskFile};
use crate::prefix::{Prefix, Taken};
use crate::store::{Inner, Store, blocking, read_range, remove_if_there};
use crate::tables::Vouched;
use crate::{FinishError, MAX_INLINE, StoreError, layout, recovery};

/// A blob on its way. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Partial {
    store: Arc<Inner>,
    state: Arc<State>,
}

/// What all clones share.
#[derive(Debug)]
pub(crate) struct State {
    digest: Digest,
    layout: ChunkLayout,
    /// Locked for moments, never across an await and never while a disk works.
    progress: Mutex<Progress>,
    /// Tells who waits that the hasher was put back.
    hashed: Notify,
}

#[derive(Debug)]
struct Progress {
    chunks: BTreeMap<u32, Vouched>,
    have: FixedBitSet,
    /// The file, once a chunk was written.
    file: Option<Arc<dyn DiskFile>>,
    /// The bytes of a blob too small for a file.
    small: Option<Bytes>,
    prefix: Prefix,
    /// Chunks that the database does not know of yet.
    unwritten: Vec<u32>,
    flushing: bool,
    closed: bool,
}

impl State {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_small(&self) -> bool {
        self.layout.size() <= MAX_INLINE
    }

    fn bytes(&self, chunk: u32) -> Result<Bytes, StoreError> {
        let (file, small) = {
            let progress = self.progress();
            (progress.file.clone(), progress.small.clone())
        };
        if let Some(bytes) = small {
            return Ok(bytes);
        }
        let (file, range) = file.zip(self.layout.range(chunk)).ok_or(StoreError::Closed)?;
        Ok(read_range(&*file, range)?)
    }
}

impl Partial {
    pub(crate) async fn open(store: &Store, digest: Digest, size: u64) -> Result<Self, StoreError> {
        let layout = ChunkLayout::of(size)?;
        let inner = &store.inner;
        let _turn = inner.opening.lock().await;
        let known = inner.partials().get(&digest).and_then(std::sync::Weak::upgrade);
        if let Some(state) = known
            && !state.progress().closed
        {
            if state.layout.size() == size {
                return Ok(Self { store: inner.clone(), state });
            }
            return Err(StoreError::Size { digest, known: state.layout.size(), asked: size });
        }
        let from = inner.clone();
        let resumed = blocking(move || recovery::resume(&from, &digest, layout)).await?;
        let mut have = FixedBitSet::with_capacity(layout.count() as usize);
        have.extend(resumed.chunks.keys().map(|&chunk| chunk as usize));
        let progress = Progress {
            chunks: resumed.chunks,
            have,
            file: resumed.file,
            small: None,
            prefix: Prefix::new(digest.algorithm()),
            unwritten: Vec::new(),
            flushing: false,
            closed: false,
        };
        let state = Arc::new(State { digest, layout, progress: Mutex::new(progress), hashed: Notify::new() });
        let mut partials = inner.partials();
        partials.retain(|_, state| state.strong_count() > 0);
        partials.insert(digest, Arc::downgrade(&state));
        drop(partials);
        let partial = Self { store: inner.clone(), state };
        partial.hash_on(None);
        Ok(partial)
    }

    /// Which blob.
    pub fn digest(&self) -> Digest {
        self.state.digest
    }

    /// Its size and chunks.
    pub fn layout(&self) -> ChunkLayout {
        self.state.layout
    }

    /// Which chunks are there.
    pub fn have(&self) -> FixedBitSet {
        self.state.progress().have.clone()
    }

    /// Stores a chunk that was checked against this attestation. One that is there already stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Chunk`] if the bytes are not of the chunk's length; [`StoreError::Closed`] if the blob is held
    /// or discarded meanwhile; else whatever the disk says.
    pub async fn write(&self, chunk: u32, bytes: Bytes, attestation: Attestation) -> Result<(), StoreError> {
        self.store_chunk(chunk, bytes, Vouched { hash: attestation.hash, attestation: Some(attestation) })
            .await
    }

    /// Stores a chunk that this node vouches for by itself.
    pub(crate) async fn write_own(&self, chunk: u32, bytes: Bytes) -> Result<(), StoreError> {
        let hash = ChunkHash::of(&bytes);
        self.store_chunk(chunk, bytes, Vouched { hash, attestation: None }).await
    }

    async fn store_chunk(&self, chunk: u32, bytes: Bytes, vouched: Vouched) -> Result<(), StoreError> {
        let (digest, length) = (self.state.digest, bytes.len());
        let range = self.state.layout.range(chunk).filter(|range| range.len() == length as u64);
        let range = range.ok_or(StoreError::Chunk { digest, chunk, length })?;
        let this = self.clone();
        let written = bytes.clone();
        let fresh = blocking(move || {
            let file = this.file()?;
            if let Some(file) = file {
                file.write_all_at(range.start, &written)?;
            }
            Ok::<_, StoreError>(this.note(chunk, vouched, &written))
        })
        .await?;
        if fresh {
            self.hash_on(Some((chunk, bytes)));
            self.flush_soon();
        }
        Ok(())
    }

    /// The file, which is created for the first chunk; none for a blob that needs no file.
    fn file(&self) -> Result<Option<Arc<dyn DiskFile>>, StoreError> {
        let progress = self.state.progress();
        if progress.closed {
            return Err(StoreError::Closed);
        }
        if self.state.is_small() {
            return Ok(None);
        }
        if let Some(file) = &progress.file {
            return Ok(Some(file.clone()));
        }
        drop(progress);
        // Two may both create it: it is one file.
        let file = self.store.disk.create(&layout::partial(&self.state.digest))?;
        let mut progress = self.state.progress();
        Ok(Some(progress.file.get_or_insert(file).clone()))
    }

    /// Notes that a chunk is there; whether it was not before.
    fn note(&self, chunk: u32, vouched: Vouched, bytes: &Bytes) -> bool {
        let mut progress = self.state.progress();
        if progress.closed || progress.have.put(chunk as usize) {
            return false;
        }
        progress.chunks.insert(chunk, vouched);
        if self.state.is_small() {
            progress.small = Some(bytes.clone());
        } else {
            progress.unwritten.push(chunk);
        }
        true
    }

    /// Feeds the digest whatever follows its prefix, unless somebody does already. Nobody waits for it but
    /// [`Partial::finish`].
    fn hash_on(&self, fresh: Option<(u32, Bytes)>) {
        let taken = {
            let mut progress = self.state.progress();
            let next = progress.prefix.needs();
            let fed = next.is_some_and(|next| progress.have.contains(next as usize));
            if fed { progress.prefix.take() } else { None }
        };
        let Some(taken) = taken else { return };
        let this = self.clone();
        spawn_blocking(move || this.feed(taken, fresh.as_ref()));
    }

    /// Feeds chunk after chunk, as far as they go. Blocks.
    fn feed(&self, mut taken: Taken, fresh: Option<&(u32, Bytes)>) {
        loop {
            {
                let mut progress = self.state.progress();
                if progress.closed || !progress.have.contains(taken.next as usize) {
                    // Under the lock: a chunk that comes after this finds the hasher here.
                    progress.prefix.put(taken);
                    break;
                }
            }
            let bytes = match fresh {
                Some((chunk, bytes)) if *chunk == taken.next => Ok(bytes.clone()),
                _ => self.state.bytes(taken.next),
            };
            match bytes {
                Ok(bytes) => {
                    taken.hasher.update(&bytes);
                    taken.next += 1;
                }
                Err(error) => {
                    tracing::warn!(digest = %self.state.digest, chunk = taken.next, %error, "cannot be read back");
                    let mut progress = self.state.progress();
                    progress.have.set(taken.next as usize, false);
                    progress.chunks.remove(&taken.next);
                    progress.prefix.put(taken);
                    break;
                }
            }
        }
        self.state.hashed.notify_waiters();
    }

    /// Writes to the database what it does not know yet, in a while.
    fn flush_soon(&self) {
        {
            let mut progress = self.state.progress();
            if progress.flushing || progress.unwritten.is_empty() {
                return;
            }
            progress.flushing = true;
        }
        let this = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(this.store.options.flush).await;
            if let Err(error) = this.flush().await {
                tracing::warn!(digest = %this.state.digest, %error, "a partial blob would not be resumed after a crash");
            }
            this.flush_soon();
        });
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let chunks: Vec<(u32, Vouched)> = {
            let mut progress = self.state.progress();
            progress.flushing = false;
            if progress.closed {
                return Ok(());
            }
            let unwritten = std::mem::take(&mut progress.unwritten);
            let vouched = |chunk: u32| progress.chunks.get(&chunk).map(|vouched| (chunk, *vouched));
            unwritten.into_iter().filter_map(vouched).collect()
        };
        // The bytes may be on the disk later than this: whoever resumes checks each chunk against its hash, and
        // fetches again what a power loss took. A process that is killed loses none.
        let change = Change::Chunks { digest: self.state.digest, size: self.state.layout.size(), chunks };
        self.store.writer.write(change).await
    }

    /// A chunk that is there, and who vouches for it; no attestation for one that was found good in a damaged blob.
    ///
    /// # Errors
    /// [`StoreError::Closed`] if it is not there, or the blob is held or discarded meanwhile.
    pub async fn read(&self, chunk: u32) -> Result<(Bytes, Option<Attestation>), StoreError> {
        let vouched = {
            let progress = self.state.progress();
            let vouched = progress.chunks.get(&chunk).copied().filter(|_| !progress.closed);
            vouched.ok_or(StoreError::Closed)?
        };
        let state = self.state.clone();
        let bytes = blocking(move || {
            let bytes = state.bytes(chunk)?;
            // The disk is not trusted here either.
            if ChunkHash::of(&bytes) == vouched.hash {
                Ok(bytes)
            } else {
                Err(StoreError::Row("a chunk's bytes"))
            }
        });
        Ok((bytes.await?, vouched.attestation))
    }

    /// Who vouches for which chunk.
    pub fn attestations(&self) -> Vec<(u32, Attestation)> {
        let progress = self.state.progress();
        progress.chunks.iter().filter_map(|(&chunk, vouched)| Some((chunk, vouched.attestation?))).collect()
    }

    /// Takes chunks out again: they are wrong.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn forget(&self, chunks: &[u32]) -> Result<(), StoreError> {
        {
            let mut progress = self.state.progress();
            for &chunk in chunks {
                if (chunk as usize) < progress.have.len() {
                    progress.have.set(chunk as usize, false);
                }
                progress.chunks.remove(&chunk);
                progress.unwritten.retain(|&unwritten| unwritten != chunk);
                progress.prefix.forget(chunk);
                progress.small = None;
            }
        }
        let change = Change::Forget { digest: self.state.digest, chunks: chunks.to_vec() };
        self.store.writer.write(change).await?;
        // A prefix that is still there is fed again.
        self.hash_on(None);
        Ok(())
    }

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

    /// The digest of all chunks, once the last of them is fed.
    async fn whole_digest(&self) -> Result<Digest, FinishError> {
        let count = self.state.layout.count();
        loop {
            let hashed = self.state.hashed.notified();
            tokio::pin!(hashed);
            // Before the look, so that what happens after the look is heard.
            hashed.as_mut().enable();
            {
                let progress = self.state.progress();
                if progress.closed {
                    return Err(StoreError::Closed.into());
                }
                let missing = count as usize - progress.have.count_ones(..);
                if missing > 0 {
                    return Err(FinishError::Incomplete { missing });
                }
                if progress.prefix.is_at(count)
                    && let Some(digest) = progress.prefix.digest()
                {
                    return Ok(digest);
                }
            }
            self.hash_on(None);
            hashed.await;
        }
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
pub(crate) fn make_folders(disk: &dyn Disk, folder: &Path) -> Result<(), StoreError> {
    let mut above = std::path::PathBuf::new();
    for part in folder.components() {
        let path = above.join(part);
        disk.create_dir(&path)?;
        disk.sync_dir(&above)?;
        above = path;
    }
    Ok(())
}
