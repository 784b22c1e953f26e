//! The thread that commits changes: whatever waits when a commit begins goes into it together, so that many small
//! blobs share one sync.

use std::sync::Arc;

use redb::Database;
use tokio::sync::{mpsc, oneshot};

use crate::StoreError;
use crate::change::Change;

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
    /// Starts the thread.
    pub(crate) fn start(database: Arc<Database>) -> Result<Self, StoreError> {
        let (changes, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("store-writer".into()).spawn(move || run(&database, queue))?;
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
        match commit(database, batch.iter().map(|(change, _)| change)) {
            Ok(()) => answer(batch, &Ok(())),
            // One of them may be to blame: each gets a commit of its own.
            Err(_) if batch.len() > 1 => {
                for (change, reply) in batch {
                    let done = commit(database, std::iter::once(&change));
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

/// Commits changes that are durable when this returns.
pub(crate) fn commit<'a>(
    database: &Database,
    changes: impl Iterator<Item = &'a Change>,
) -> Result<(), StoreError> {
    let mut txn = database.begin_write()?;
    // A start after a crash is then quick, whatever the database's size.
    txn.set_quick_repair(true);
    for change in changes {
        change.apply(&txn)?;
    }
    Ok(txn.commit()?)
}
