//! The thread that commits changes: whatever waits when a commit begins goes into it together, so that many small
//! blobs share one sync.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::StoreError;
use crate::change::Change;
use crate::database::Database;
use crate::disk::DiskLock;

/// Changes that may wait.
const QUEUE: usize = 1024;
/// Changes in one commit.
const MAX_BATCH: usize = 512;

type Reply = oneshot::Sender<Result<(), StoreError>>;

/// Sends changes to the thread. The thread ends when all of these are gone.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    changes: mpsc::Sender<(Change, Reply)>,
}

impl Writer {
    /// Starts the thread. It keeps the data directory's lock until it has let go of the database: it may be the last to
    /// have it, and closing it takes a while and cuts the file short.
    pub(crate) fn start(database: Arc<Database>, lock: Arc<dyn DiskLock>) -> Result<Self, StoreError> {
        let (changes, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("store-writer".into()).spawn(move || {
            run(&database, queue);
            drop(database);
            drop(lock);
        })?;
        Ok(Self { changes })
    }

    /// Makes a change durable. Made all the same if the caller stops waiting.
    pub(crate) async fn write(&self, change: Change) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        self.changes.send((change, reply)).await.map_err(|_| StoreError::ShutDown)?;
        done.await.map_err(|_| StoreError::ShutDown)?
    }

    /// The same, where one may block.
    pub(crate) fn write_blocking(&self, change: Change) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        self.changes.blocking_send((change, reply)).map_err(|_| StoreError::ShutDown)?;
        done.blocking_recv().map_err(|_| StoreError::ShutDown)?
    }
}

fn run(database: &Database, mut queue: mpsc::Receiver<(Change, Reply)>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let changes: Vec<_> = batch.iter().map(|(change, _)| change).collect();
        match database.commit(&changes) {
            Ok(()) => answer(batch, &Ok(())),
            // One of them may be to blame, unless it is the disk: each gets a commit of its own.
            Err(error) if batch.len() > 1 && !error.is_failure() => {
                for (change, reply) in batch {
                    let done = database.commit(&[&change]);
                    answer(vec![(change, reply)], &done);
                }
            }
            Err(error) => answer(batch, &Err(error)),
        }
    }
}

fn answer(batch: Vec<(Change, Reply)>, done: &Result<(), StoreError>) {
    for (_, reply) in batch {
        // Who asked may have left: the change is made all the same.
        drop(reply.send(done.clone()));
    }
}
