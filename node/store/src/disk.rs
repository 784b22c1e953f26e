//! The narrow door to the disk.
//!
//! Blob files and redb both go through [`Disk`], so that a test can drop unsynced writes, fail any call or fill
//! the disk ([`memory::MemoryDisk`]) and thereby test all of the store at once. Paths are relative to the data
//! directory. Everything blocks: callers are on threads that may.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub mod memory;
pub mod real;

/// A data directory.
///
/// What is written is durable only once it was synced: a file's bytes by [`DiskFile::sync`], and the names in a
/// folder (of files created, renamed or removed, and of folders) by [`Disk::sync_dir`] of that folder.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens an existing file to read and write.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file to read and write, and creates it first if need be.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Moves a file; one already there is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// A file's length in bytes.
    fn len(&self, path: &Path) -> io::Result<u64>;

    /// What a folder holds, in no order.
    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>>;

    /// Creates a folder whose parent exists; one already there is fine.
    fn create_dir(&self, folder: &Path) -> io::Result<()>;

    /// How many more bytes there is room for, if that is known.
    fn free(&self) -> Option<u64> {
        None
    }

    /// Makes the names in a folder durable.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;

    /// Locks a file, which it creates, against every other process and every other lock of this process.
    /// `None` if another has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;

    /// The path as a person finds it, for messages.
    fn locate(&self, path: &Path) -> PathBuf;
}

/// An open file. Its handle stays good when the file is renamed or removed.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`; the file grows if need be.
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts or extends the file; new bytes read as zero and take no room yet.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file holds no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes the file's bytes and length durable.
    fn sync(&self) -> io::Result<()>;
}

/// A lock that ends when it is dropped, or with the process.
pub trait DiskLock: Debug + Send + Sync + 'static {}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, without the folder.
    pub name: OsString,
    /// Whether it is a folder itself.
    pub is_dir: bool,
}
