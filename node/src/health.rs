//! Looks after the store: whether its disk still works, and what is to be done when it is lost.

use std::time::Duration;

use shoal_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

/// How often the disk is tried.
const PROBE: Duration = Duration::from_secs(5);

/// Tries the disk now and then, so that `/readyz` tells of one that fails though nobody pulls.
pub async fn probe(store: Store, shutdown: CancellationToken) {
    let tries = async {
        loop {
            tokio::time::sleep(PROBE).await;
            store.probe().await;
        }
    };
    shutdown.run_until_cancelled(tries).await;
}

/// Why the process ends when its store is lost. Only a new one can begin with a new database: so whoever watches this
/// one is to start it again.
pub fn ended_by(lost: StoreError) -> anyhow::Error {
    let error = anyhow::Error::new(lost)
        .context("the node cannot go on without its store, and ends to be started again");
    tracing::error!(reason = format!("{error:#}"), "stopping");
    error
}
