//! A blob on its way.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use shoal_proto::attestation::{Attestation, ChunkHash};
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;

use crate::change::Change;
use crate::disk::DiskFile;
use crate::store::{Inner, Store, blocking};
use crate::tables::Vouched;
use crate::whose::Owner;
use crate::{Of, StoreError, layout};

mod hashing;
mod prefix;
mod progress;
mod publish;
mod resume;

use progress::Phase;
pub(crate) use progress::State;

/// So many bytes are written to the database at once: a fast link brings more in the time that they may wait else than
/// should be fetched again after a kill.
const MUCH: u64 = 8 * 1024 * 1024;

/// A blob on its way. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Partial {
    store: Arc<Inner>,
    state: Arc<State>,
}

impl Partial {
    pub(crate) async fn open(store: &Store, digest: Digest, size: u64, of: Of) -> Result<Self, StoreError> {
        let layout = ChunkLayout::of(size)?;
        let inner = &store.inner;
        let _turn = inner.turns.take(&digest).await;
        let known = inner.partials().get(&digest).and_then(Weak::upgrade);
        if let Some(state) = known {
            if state.progress().phase == Phase::Closed {
                // What is still written would land in the file that is opened now.
                state.quiet().await;
            } else if !state.owner.join(&of) {
                return Err(StoreError::OfAnother(digest));
            } else if state.layout.size() == size {
                return Ok(Self { store: inner.clone(), state });
            } else {
                return Err(StoreError::Size { digest, known: state.layout.size(), asked: size });
            }
        }
        let from = inner.clone();
        let (resumed, of) = blocking(move || {
            from.make_way(&digest, &of)?;
            let resumed = resume::resume(&from, &digest, layout)?;
            from.fits(&digest, layout, &resumed)?;
            Ok::<_, StoreError>((resumed, of))
        })
        .await?;
        let state = Arc::new(State::new(digest, layout, Owner::new(of), resumed, inner.recent.clone()));
        let mut partials = inner.partials();
        partials.retain(|_, state| state.strong_count() > 0);
        partials.insert(digest, Arc::downgrade(&state));
        drop(partials);
        let partial = Self { store: inner.clone(), state };
        partial.hash_on();
        Ok(partial)
    }

    /// Which blob.
    pub fn digest(&self) -> Digest {
        self.state.digest
    }

    /// Whether what comes is for these too: one registry's clients, or everyone if everyone may read it.
    pub fn admits(&self, of: &Of) -> bool {
        self.state.owner.admits(of)
    }

    /// The same, and notes that everyone may read it where it comes from, if these know that.
    pub fn join(&self, of: &Of) -> bool {
        self.state.owner.join(of)
    }

    /// Whether everyone may read it where it comes from.
    pub fn is_everyones(&self) -> bool {
        self.state.owner.is_everyones()
    }

    /// Its size and chunks.
    pub fn layout(&self) -> ChunkLayout {
        self.state.layout
    }

    /// Which chunks are there.
    pub fn have(&self) -> FixedBitSet {
        self.state.progress().have.clone()
    }

    /// Which chunks are missing.
    pub fn missing(&self) -> Vec<u32> {
        let progress = self.state.progress();
        (0..self.state.layout.count()).filter(|&chunk| !progress.have.contains(chunk as usize)).collect()
    }

    /// Stores a chunk that was checked against this attestation. One that is there already stays as it is, and one
    /// that somebody else is just writing is waited for.
    ///
    /// # Errors
    /// [`StoreError::Chunk`] if the bytes are not of the chunk's length; [`StoreError::Closed`] if the blob is held
    /// or discarded meanwhile; else whatever the disk says.
    pub async fn write(&self, chunk: u32, bytes: Bytes, attestation: Attestation) -> Result<(), StoreError> {
        self.store_chunk(chunk, bytes, Vouched { hash: attestation.hash, attestation: Some(attestation) })
            .await
    }

    /// Stores a chunk of a blob that is proven already. Any other bytes in its place are wrong.
    pub(crate) async fn write_own(&self, chunk: u32, bytes: Bytes) -> Result<(), StoreError> {
        let hash = ChunkHash::of(&bytes);
        let known = self.state.progress().chunks.get(&chunk).map(|vouched| vouched.hash);
        if known.is_some_and(|known| known != hash) {
            self.forget(&[chunk]).await?;
        }
        self.store_chunk(chunk, bytes, Vouched { hash, attestation: None }).await
    }

    async fn store_chunk(&self, chunk: u32, bytes: Bytes, vouched: Vouched) -> Result<(), StoreError> {
        let (digest, length) = (self.state.digest, bytes.len());
        let range = self.state.layout.range(chunk).filter(|range| range.len() == length as u64);
        let range = range.ok_or(StoreError::Chunk { digest, chunk, length })?;
        let Some(claim) = self.state.claim(chunk).await? else { return Ok(()) };
        let this = self.clone();
        blocking(move || {
            if let Some(file) = this.file()? {
                file.write_all_at(range.start, &bytes)?;
            }
            // Here and not with the caller, who may leave before it is done.
            if claim.note(vouched, &bytes) {
                if !this.state.is_small() {
                    this.state.recent.put(digest, chunk, vouched.hash, bytes);
                }
                this.hash_on();
                this.flush_soon();
            }
            Ok(())
        })
        .await
    }

    /// The file, which is created for the first chunk; none for a blob that needs no file. Blocks.
    fn file(&self) -> Result<Option<Arc<dyn DiskFile>>, StoreError> {
        let progress = self.state.progress();
        if progress.phase == Phase::Closed {
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

    /// Writes to the database what it does not know yet: in a while, or at once where it is much.
    fn flush_soon(&self) {
        {
            let mut progress = self.state.progress();
            let unwritten = progress.unwritten.len() as u64 * self.state.layout.chunk_size();
            if unwritten >= MUCH {
                self.state.much.notify_one();
            }
            if progress.flushing || unwritten == 0 {
                return;
            }
            progress.flushing = true;
        }
        let this = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(this.store.options.flush) => {}
                () = this.state.much.notified() => {}
            }
            match this.flush().await {
                Ok(()) => this.flush_soon(),
                Err(error) => {
                    tracing::warn!(digest = %this.state.digest, %error, "a partial blob would not be resumed after a crash");
                }
            }
        });
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let chunks: Vec<(u32, Vouched)> = {
            let mut progress = self.state.progress();
            progress.flushing = false;
            if progress.phase == Phase::Closed {
                // Nothing of it is ever written again: a list that stayed would keep this going for ever.
                progress.unwritten.clear();
                return Ok(());
            }
            let unwritten = std::mem::take(&mut progress.unwritten);
            let vouched = |chunk: u32| progress.chunks.get(&chunk).map(|vouched| (chunk, *vouched));
            unwritten.into_iter().filter_map(vouched).collect()
        };
        let numbers: Vec<u32> = chunks.iter().map(|(chunk, _)| *chunk).collect();
        // The bytes may be on the disk later than this: whoever resumes checks each chunk against its hash, and
        // fetches again what a power loss took. A process that is killed loses none.
        let (digest, size, of) =
            (self.state.digest, self.state.layout.size(), self.state.owner.scope.clone());
        let change = Change::Chunks { digest, size, of, chunks };
        self.store.writer.write(change).await.inspect_err(|_| {
            // The next chunk that comes has them written with it.
            self.state.progress().unwritten.extend(numbers);
        })
    }

    /// A chunk that is there, and who vouches for it; no attestation for one that was found good in a damaged blob.
    ///
    /// # Errors
    /// [`StoreError::Closed`] if it is not there, or the blob is held or discarded meanwhile. A chunk that the disk
    /// does not give back as it was is there no longer.
    pub async fn read(&self, chunk: u32) -> Result<(Bytes, Option<Attestation>), StoreError> {
        let vouched = {
            let progress = self.state.progress();
            let vouched = progress.chunks.get(&chunk).copied().filter(|_| progress.phase != Phase::Closed);
            vouched.ok_or(StoreError::Closed)?
        };
        let state = self.state.clone();
        let bytes = blocking(move || {
            // The disk is not trusted here either.
            state.read_back(chunk, vouched.hash).inspect_err(|error| {
                state.progress().lose(chunk, vouched.hash, error);
            })
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
    /// [`StoreError::Closed`] if the blob is held or discarded meanwhile; else whatever the disk says.
    pub async fn forget(&self, chunks: &[u32]) -> Result<(), StoreError> {
        {
            let mut progress = self.state.progress();
            if progress.phase != Phase::Open {
                return Err(StoreError::Closed);
            }
            for &chunk in chunks {
                progress.forget(chunk);
            }
        }
        let change = Change::Forget { digest: self.state.digest, chunks: chunks.to_vec() };
        self.store.writer.write(change).await?;
        // A prefix that is still there is fed again.
        self.hash_on();
        Ok(())
    }
}
