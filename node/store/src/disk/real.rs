//! The operating system's file system.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, DiskFile, DiskLock, Entry};

/// A data directory on the operating system's file system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The data directory at `root`, which is created with its parents if it is missing.
    ///
    /// # Errors
    /// Whatever the operating system says when it cannot be created.
    pub fn at(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&root)?;
        Ok(Self { root })
    }

    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        // Content may come from private repositories.
        options.read(true).write(true).mode(0o640);
        options
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = Self::options().open(self.root.join(path)).map_err(|error| match error.kind() {
            // Whatever it is, the file that is meant is not there.
            io::ErrorKind::IsADirectory => not_regular(),
            _ => error,
        })?;
        if file.metadata()?.is_file() { Ok(Arc::new(RealFile(file))) } else { Err(not_regular()) }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.root.join(path);
        clear_way(&path)?;
        Ok(Arc::new(RealFile(Self::options().create(true).truncate(false).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let to = self.root.join(to);
        clear_way(&to)?;
        std::fs::rename(self.root.join(from), to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(self.root.join(path))
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let metadata = std::fs::symlink_metadata(self.root.join(path))?;
        if metadata.is_file() { Ok(metadata.len()) } else { Err(not_regular()) }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        std::fs::read_dir(self.root.join(folder))?
            .map(|entry| {
                let entry = entry?;
                Ok(Entry { name: entry.file_name(), is_dir: entry.file_type()?.is_dir() })
            })
            .collect()
    }

    fn create_dir(&self, folder: &Path) -> io::Result<()> {
        match std::fs::DirBuilder::new().mode(0o750).create(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn free(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.root).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        File::open(self.root.join(folder))?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let file = Self::options().create(true).truncate(false).open(self.root.join(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn locate(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "not a regular file")
}

/// Moves aside what somebody put where a file belongs: a folder, a pipe, a link. It is not ours to throw away.
fn clear_way(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            let aside = unused(path);
            tracing::warn!(
                path = %path.display(), moved_to = %aside.display(),
                "what is here is no regular file, and a file belongs here: it is moved aside"
            );
            std::fs::rename(path, aside)
        }
        _ => Ok(()),
    }
}

/// A name beside it that nothing has.
fn unused(path: &Path) -> PathBuf {
    let numbered = |number: u64| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".in-the-way-{number}"));
        PathBuf::from(name)
    };
    (1..u64::MAX)
        .map(numbered)
        .find(|path| std::fs::symlink_metadata(path).is_err())
        .unwrap_or_else(|| numbered(0))
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        // Length and data: what fdatasync promises. Times may be lost.
        self.0.sync_data()
    }
}

#[derive(Debug)]
struct RealLock {
    /// The lock is the open file's; the kernel drops it with the last handle.
    _file: File,
}

impl DiskLock for RealLock {}
