//! The database, opened again when its disk failed.
//!
//! redb does not go on after a failed call to the disk: whatever is asked of it fails from then on. The disk may be
//! well again a moment later, or have room again: so it is opened anew, and finds what was last committed, before or
//! after the change that failed. Changes give the same when they are made again, so what failed is tried once more.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database as Redb, ReadTransaction, ReadableDatabase as _, WriteTransaction};

use crate::backend::Backend;
use crate::change::Change;
use crate::disk::{Disk, DiskFile};
use crate::{StoreError, layout};

/// See the module. Everything blocks.
#[derive(Debug)]
pub(crate) struct Database {
    disk: Arc<dyn Disk>,
    cache: usize,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    /// Locked to read by all who use it, and to write by who opens it anew: nobody uses it then.
    redb: Option<Redb>,
    /// How often it was opened.
    opened: u64,
}

impl Database {
    /// Opens the database, which is created if there is none.
    pub(crate) fn create(disk: Arc<dyn Disk>, cache: usize) -> Result<Self, StoreError> {
        let file = disk.create(Path::new(layout::DATABASE))?;
        disk.sync_dir(Path::new(""))?;
        let redb = Some(open(file, cache)?);
        Ok(Self { disk, cache, current: RwLock::new(Current { redb, opened: 1 }) })
    }

    /// Reads from one state of it.
    pub(crate) fn read<T>(
        &self,
        work: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with(|redb| work(&redb.begin_read()?))
    }

    /// Makes changes, all or none. They are durable when this returns; after an error they may be made or not.
    pub(crate) fn commit(&self, changes: &[&Change]) -> Result<(), StoreError> {
        self.write(|txn| changes.iter().try_for_each(|change| change.apply(txn)))
    }

    /// The same, of whatever changes.
    pub(crate) fn write<T>(
        &self,
        work: impl Fn(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with(|redb| {
            let mut txn = redb.begin_write()?;
            // Opening it after a crash is then quick, whatever its size.
            txn.set_quick_repair(true);
            let done = work(&txn)?;
            txn.commit()?;
            Ok(done)
        })
    }

    fn with<T>(&self, work: impl Fn(&Redb) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let (first, opened) = self.attempt(&work);
        match first {
            Some(Err(error)) if error.is_failure() => {
                tracing::warn!(%error, "the database failed and is opened again");
            }
            Some(done) => return done,
            // It could not be opened the last time.
            None => {}
        }
        self.reopen(opened)?;
        let (second, opened) = self.attempt(&work);
        let second = second.unwrap_or(Err(StoreError::ShutDown));
        if second.as_ref().is_err_and(StoreError::is_failure) {
            self.close(opened);
        }
        second
    }

    /// Whoever uses it next opens it first. From its memory it would still give what the failed change may have
    /// replaced on the disk.
    fn close(&self, opened: u64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.opened == opened {
            current.redb = None;
        }
    }

    /// What came of it, if it is open, and how often it had been opened then.
    fn attempt<T>(
        &self,
        work: impl Fn(&Redb) -> Result<T, StoreError>,
    ) -> (Option<Result<T, StoreError>>, u64) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (current.redb.as_ref().map(work), current.opened)
    }

    /// Opens it again, unless another did so since.
    fn reopen(&self, opened: u64) -> Result<(), StoreError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.opened != opened {
            return Ok(());
        }
        // Closed first: two must not both have the file.
        current.redb = None;
        current.redb = Some(open(self.disk.open(Path::new(layout::DATABASE))?, self.cache)?);
        current.opened += 1;
        Ok(())
    }
}

fn open(file: Arc<dyn DiskFile>, cache: usize) -> Result<Redb, StoreError> {
    Ok(Redb::builder().set_cache_size(cache).create_with_backend(Backend(file))?)
}
