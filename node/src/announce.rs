//! Tells the fleet, after a start, what this node already holds.
//!
//! What is fetched later is announced as it becomes held. The swarm paces and repeats announcements; this task
//! only hands it the keys, page by page, so that a store of any size takes bounded memory. What a start found beside a
//! new database is taken over first.

use shoal_proto::tag::TagMapping;
use shoal_store::{Adopted, Store, StoreError};
use shoal_swarm::Handle;
use tokio_util::sync::CancellationToken;

/// Keys handed over at a time.
const PAGE: usize = 256;

/// Announces every held blob and known tag once, then ends.
pub async fn held(store: Store, peers: Handle, shutdown: CancellationToken) {
    let all = async {
        let adopted = store.adopt().await?;
        if adopted != Adopted::default() {
            tracing::info!(?adopted, "blobs that a new database did not know were taken over");
        }
        let blobs = blobs(&store, &peers).await?;
        let tags = tags(&store, &peers).await?;
        tracing::debug!(blobs, tags, "handed over what is held, to be announced");
        Ok::<(), StoreError>(())
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        result = all => if let Err(error) = result {
            tracing::warn!(%error, "could not read all that is held: peers will not find the rest here");
        },
    }
}

async fn blobs(store: &Store, peers: &Handle) -> Result<u64, StoreError> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = store.held_page(after, PAGE).await?;
        let Some(&(last, _)) = page.last() else { return Ok(count) };
        for (digest, _) in page {
            peers.announce(digest).await;
            count += 1;
        }
        after = Some(last);
    }
}

async fn tags(store: &Store, peers: &Handle) -> Result<u64, StoreError> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = store.tags_page(after, PAGE).await?;
        let Some(last) = page.last().cloned() else { return Ok(count) };
        for (scope, tag) in page {
            peers.announce(TagMapping::key(&scope, &tag)).await;
            count += 1;
        }
        after = Some(last);
    }
}
