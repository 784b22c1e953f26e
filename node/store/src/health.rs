//! Whether the store can do its work, for whoever is asked about the node.
//!
//! A full disk is not a failure: it costs caching, and nothing that is held. One that refuses everything is, for as
//! long as it lasts. A database that is damaged or gone stays so for this process: it is to end, and to be started
//! again.

use std::io::ErrorKind;
use std::path::Path;

use tokio::sync::watch;

use crate::database::set_aside;
use crate::disk::Disk;
use crate::store::{Inner, Store, blocking};
use crate::tables::META;
use crate::{StoreError, layout};

/// What every file of redb begins with.
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// See the module.
#[derive(Debug, Clone, Default)]
pub enum Health {
    /// It does what it is asked.
    #[default]
    Well,
    /// The disk refuses, at the moment.
    Failing(StoreError),
    /// It will not be well again in this process.
    Lost(StoreError),
}

/// The health as it was last seen.
#[derive(Debug, Default)]
pub(crate) struct Condition(watch::Sender<Health>);

impl Condition {
    /// # Errors
    /// Why nothing is to be asked of the database any more.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match &*self.0.borrow() {
            Health::Lost(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    pub(crate) fn failing(&self, error: &StoreError) {
        if !matches!(error, StoreError::Full) {
            self.turn(Health::Failing(error.clone()));
        }
    }

    pub(crate) fn lost(&self, error: &StoreError) {
        self.turn(Health::Lost(error.clone()));
    }

    fn well(&self) {
        self.turn(Health::Well);
    }

    /// What is lost stays lost.
    fn turn(&self, health: Health) {
        self.0.send_if_modified(|now| {
            let differs = !matches!(now, Health::Lost(_))
                && std::mem::discriminant(now) != std::mem::discriminant(&health);
            if differs {
                match &health {
                    Health::Failing(error) => tracing::error!(%error, "the store fails"),
                    Health::Well => tracing::info!("the store is well again"),
                    Health::Lost(_) => {}
                }
                *now = health;
            }
            differs
        });
    }
}

impl Store {
    /// How it is, as far as is known: see [`Store::probe`].
    pub fn health(&self) -> Health {
        self.inner.database.condition.0.borrow().clone()
    }

    /// Waits until the store is lost, and says why.
    pub async fn lost(&self) -> StoreError {
        let mut health = self.inner.database.condition.0.subscribe();
        let lost = health.wait_for(|health| matches!(health, Health::Lost(_))).await;
        // The sender lives as long as the store.
        lost.map_or(StoreError::ShutDown, |health| match &*health {
            Health::Lost(error) => error.clone(),
            _ => StoreError::ShutDown,
        })
    }

    /// Looks whether the data directory is still there and takes what is written to it. To be called now and then: a
    /// store that nobody writes to would not notice otherwise.
    pub async fn probe(&self) {
        let inner = self.inner.clone();
        let probed = blocking(move || {
            inner.probe();
            Ok::<_, StoreError>(())
        });
        // It fails at the end of the process only.
        probed.await.ok();
    }
}

impl Inner {
    fn probe(&self) {
        let condition = &self.database.condition;
        if condition.check().is_err() {
            return;
        }
        match is_database(&*self.disk) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                condition.lost(&StoreError::Gone(self.disk.locate(Path::new(layout::DATABASE))));
                return;
            }
            Ok(false) => {
                let error = StoreError::Damaged("its file was overwritten while it was in use".into());
                condition.lost(&error);
                set_aside(&*self.disk, &error);
                return;
            }
            // Whatever is wrong with the disk shows below.
            Ok(true) | Err(_) => {}
        }
        let failing = matches!(*condition.0.borrow(), Health::Failing(_));
        let asked = write(&*self.disk).and_then(|()| {
            // What failed before may have been the database alone.
            if failing {
                self.database.write(|txn| txn.open_table(META).map(drop).map_err(StoreError::from))
            } else {
                Ok(())
            }
        });
        match asked {
            Ok(()) | Err(StoreError::Full) => condition.well(),
            Err(error) => condition.failing(&error),
        }
    }
}

/// Whether the database's file still begins as one does. While all of it is in memory it would not be looked at, and
/// be more and more wrong.
fn is_database(disk: &dyn Disk) -> std::io::Result<bool> {
    let file = disk.open(Path::new(layout::DATABASE))?;
    let mut begins = [0; MAGIC.len()];
    match file.read_exact_at(0, &mut begins) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| begins == MAGIC),
    }
}

fn write(disk: &dyn Disk) -> Result<(), StoreError> {
    let path = Path::new(layout::PROBE);
    let file = disk.create(path)?;
    file.write_all_at(0, b"probe")?;
    Ok(file.sync()?)
}
