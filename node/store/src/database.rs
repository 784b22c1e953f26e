//! The database, opened again when its disk failed.
//!
//! redb does not go on after a failed call to the disk: whatever is asked of it fails from then on. The disk may be
//! well again a moment later, or have room again: so it is opened anew, and finds what was last committed, before or
//! after the change that failed. Changes give the same when they are made again, so what failed is tried once more.
//!
//! redb trusts its file, and may panic on one that somebody else wrote into. What is still wrong with it when it was
//! opened anew does not pass: then the file is moved aside, and this process is done with it. The next start begins a
//! new one, and looks for whole blobs itself.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database as Redb, ReadTransaction, ReadableDatabase as _, WriteTransaction};

use crate::backend::Backend;
use crate::change::Change;
use crate::disk::{Disk, DiskFile};
use crate::health::Condition;
use crate::{StoreError, layout};

/// See the module. Everything blocks.
#[derive(Debug)]
pub(crate) struct Database {
    disk: Arc<dyn Disk>,
    cache: usize,
    current: RwLock<Current>,
    pub(crate) condition: Condition,
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
        let current = RwLock::new(Current { redb, opened: 1 });
        Ok(Self { disk, cache, current, condition: Condition::default() })
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
        self.condition.check()?;
        let (first, opened) = self.attempt(&work);
        match first {
            Some(Err(error)) if error.is_failure() => {
                tracing::warn!(%error, "the database failed and is opened again");
            }
            Some(done) => return done,
            // It could not be opened the last time.
            None => {}
        }
        self.again(opened, &work).inspect_err(|error| {
            if error.is_failure() && error.is_damage() {
                self.condition.lost(error);
                set_aside(&*self.disk, error);
            } else if error.is_failure() {
                self.condition.failing(error);
            }
        })
    }

    /// Opens it anew, and does the work with that.
    fn again<T>(&self, opened: u64, work: &impl Fn(&Redb) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.reopen(opened)?;
        let (second, opened) = self.attempt(work);
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
            let_go(current.redb.take());
        }
    }

    /// What came of it, if it is open, and how often it had been opened then.
    fn attempt<T>(
        &self,
        work: impl Fn(&Redb) -> Result<T, StoreError>,
    ) -> (Option<Result<T, StoreError>>, u64) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (current.redb.as_ref().map(|redb| caught(|| work(redb))), current.opened)
    }

    /// Opens it again, unless another did so since.
    fn reopen(&self, opened: u64) -> Result<(), StoreError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.opened != opened {
            return Ok(());
        }
        // Closed first: two must not both have the file.
        let_go(current.redb.take());
        current.redb = Some(open(self.disk.open(Path::new(layout::DATABASE))?, self.cache)?);
        current.opened += 1;
        Ok(())
    }
}

fn open(file: Arc<dyn DiskFile>, cache: usize) -> Result<Redb, StoreError> {
    caught(|| Ok(Redb::builder().set_cache_size(cache).create_with_backend(Backend(file))?))
}

/// What panicked once may do so again as it is let go of.
fn let_go(redb: Option<Redb>) {
    let gone = caught(|| {
        drop(redb);
        Ok(())
    });
    if let Err(error) = gone {
        tracing::debug!(%error, "the database failed as it was closed");
    }
}

/// Does what may panic on a damaged file, and says so instead. What the panic leaves behind is not used again.
fn caught<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(StoreError::Damaged(said(&*panic).into())))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("its code panicked")
}

/// Moves a damaged database out of the way, so that the next one to be opened is a new one. Kept for whoever wants to
/// know what happened to it, the newest only.
pub(crate) fn set_aside(disk: &dyn Disk, error: &StoreError) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let aside = PathBuf::from(format!("{}{seconds}", layout::DAMAGED));
    for entry in disk.list(Path::new("")).unwrap_or_default() {
        if entry.name.to_string_lossy().starts_with(layout::DAMAGED) {
            disk.remove(Path::new(&entry.name)).ok();
        }
    }
    match disk.rename(Path::new(layout::DATABASE), &aside) {
        Ok(()) => {
            disk.sync_dir(Path::new("")).ok();
            tracing::error!(
                %error,
                moved_to = %disk.locate(&aside).display(),
                "the database is damaged and was moved aside. Lost with it: manifests and other blobs of up to 16 KiB, \
                 tags, and what was there of blobs on their way; all of it is fetched again. Other blobs are taken over \
                 at a start, each once its digest came out"
            );
        }
        Err(cannot) => tracing::error!(
            %error, %cannot,
            file = %disk.locate(Path::new(layout::DATABASE)).display(),
            "the database is damaged and cannot be moved aside: remove it, and start the node again"
        ),
    }
}
