//! What the tests share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::{Algorithm, Digest, Hasher};
use shoal_proto::identity::Keypair;
use shoal_proto::name::Scope;
use shoal_store::disk::memory::MemoryDisk;
use shoal_store::disk::{Disk, DiskFile, DiskLock, Entry};
use shoal_store::{FinishError, Of, OpenError, Options, Partial, ReadError, Recovery, Store, StoreError};

pub(crate) fn options() -> Options {
    // Nothing from memory: what these tests do to the disk is to be seen.
    Options { flush: Duration::from_millis(5), recent: 0, ..Options::default() }
}

pub(crate) fn open(disk: &MemoryDisk) -> (Store, Recovery) {
    Store::open(Arc::new(disk.clone()), options()).unwrap()
}

/// As [`open`], of a disk whose store has just been dropped.
pub(crate) async fn open_again(disk: &MemoryDisk) -> (Store, Recovery) {
    free(|| Store::open(Arc::new(disk.clone()), options())).await
}

/// Waits for a store that has just been dropped to be done with its disk.
pub(crate) async fn closed(disk: &MemoryDisk) {
    while disk.lock(Path::new("lock")).unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Opens a store whose last user has just let go of it: what that had under way, on threads of its own, ends a moment
/// later and holds the lock until then.
pub(crate) async fn free(open: impl Fn() -> Result<(Store, Recovery), OpenError>) -> (Store, Recovery) {
    let began = std::time::Instant::now();
    loop {
        match open() {
            Err(OpenError::InUse { .. }) if began.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

pub(crate) fn content(seed: u8, size: usize) -> Bytes {
    (0..size)
        .map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed)
        .collect::<Vec<_>>()
        .into()
}

/// Where a held blob's bytes are.
pub(crate) fn file_of(digest: &Digest) -> PathBuf {
    PathBuf::from(format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()))
}

/// Whose the blobs are where nobody asks.
pub(crate) fn ours() -> Of {
    let scope = Scope { registry: "registry.test".parse().unwrap(), repository: "app".parse().unwrap() };
    Of { scope, everyones: false }
}

pub(crate) fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

pub(crate) fn keypair() -> Keypair {
    Keypair::ed25519_from_bytes([3; 32]).unwrap()
}

pub(crate) fn chunk_of(bytes: &Bytes, layout: ChunkLayout, chunk: u32) -> Bytes {
    let range = layout.range(chunk).unwrap();
    bytes.slice(range.start as usize..range.end as usize)
}

pub(crate) async fn write(partial: &Partial, bytes: &Bytes, chunk: u32) -> Result<(), StoreError> {
    let piece = chunk_of(bytes, partial.layout(), chunk);
    let claim = Claim { digest: partial.digest(), size: partial.layout().size(), chunk };
    let attestation = Attestation::sign(&keypair(), &claim, ChunkHash::of(&piece)).unwrap();
    partial.write(chunk, piece, attestation).await
}

pub(crate) async fn fetch(store: &Store, digest: &Digest, bytes: &Bytes) -> Result<(), FinishError> {
    let partial = store.partial(digest, bytes.len() as u64, ours()).await?;
    for chunk in 0..partial.layout().count() {
        write(&partial, bytes, chunk).await?;
    }
    partial.finish().await
}

pub(crate) async fn whole(store: &Store, digest: &Digest) -> Result<Vec<u8>, ReadError> {
    let size = store.held(digest).await?.ok_or(ReadError::NotHeld)?.size;
    let mut bytes = Vec::new();
    for chunk in 0..ChunkLayout::of(size).unwrap().count() {
        bytes.extend_from_slice(&store.read_chunk(digest, chunk).await?.bytes);
    }
    Ok(bytes)
}

/// A disk on which reading one file waits, until it is let go.
#[derive(Debug)]
pub(crate) struct GatedDisk {
    disk: MemoryDisk,
    gate: Arc<Gate>,
}

/// See [`GatedDisk`].
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// What the name of the file ends with.
    shut_for: Mutex<Option<String>>,
    waiting: AtomicUsize,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn shut(&self, name: String) {
        *self.shut_for.lock().unwrap() = Some(name);
    }

    pub(crate) fn open(&self) {
        *self.shut_for.lock().unwrap() = None;
        self.opened.notify_all();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn pass(&self, path: &Path) {
        let mut shut_for = self.shut_for.lock().unwrap();
        let shut = |name: &Option<String>| {
            name.as_ref().is_some_and(|name| path.to_str().is_some_and(|path| path.ends_with(name)))
        };
        while shut(&shut_for) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            shut_for = self.opened.wait(shut_for).unwrap();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl GatedDisk {
    pub(crate) fn new(disk: &MemoryDisk) -> (Self, Arc<Gate>) {
        let gate = Arc::new(Gate::default());
        (Self { disk: disk.clone(), gate: gate.clone() }, gate)
    }

    fn gated(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(GatedFile { file, path: path.to_owned(), gate: self.gate.clone() })
    }
}

impl Disk for GatedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.gated(path, self.disk.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.gated(path, self.disk.create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.disk.len(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(folder)
    }

    fn create_dir(&self, folder: &Path) -> io::Result<()> {
        self.disk.create_dir(folder)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        self.disk.sync_dir(folder)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock(path)
    }

    fn locate(&self, path: &Path) -> PathBuf {
        self.disk.locate(path)
    }
}

#[derive(Debug)]
struct GatedFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    gate: Arc<Gate>,
}

impl DiskFile for GatedFile {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.gate.pass(&self.path);
        self.file.read_exact_at(offset, buffer)
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}
