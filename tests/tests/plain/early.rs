//! When a body starts: while its chunks still arrive, or with `stream = "proven"` only when its digest is proven.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shoal_tests::client::Download;
use shoal_tests::faulty::{Fault, Faulty, Kind};
use shoal_tests::fleet::Fleet;
use shoal_tests::image::synthetic;
use shoal_tests::node::Settings;
use shoal_tests::process::until;

const REPOSITORY: &str = "registry.test/some/blobs";
/// Large enough that the first range asked of upstream is of several chunks.
const SIZE: u64 = 64 << 20;
/// Half of that range.
const HALF: u64 = 256 << 10;
/// How long something may take that only has to happen.
const SOON: Duration = Duration::from_secs(30);

/// A node with this configuration, and a blob of which upstream sends the second half of what it is asked for only when
/// it is let go.
async fn fleet(config: &str) -> (Fleet<Faulty>, String) {
    let mut fleet = Fleet::with_faulty_upstream(0).await.unwrap();
    let settings = Settings { config: config.to_owned(), ..fleet.settings() };
    fleet.grow_with(settings).await.unwrap();
    let blob = synthetic::blob(fleet.home(), 1, SIZE).unwrap();
    let digest = fleet.registry.hold_blob(Bytes::from(blob.bytes().unwrap()));
    fleet.registry.fail(Kind::Blob, Fault::Held);
    (fleet, digest)
}

/// Pulls the blob whole, noting how many bytes have come.
async fn pull(fleet: &Fleet<Faulty>, digest: &str, came: impl FnMut(u64) + Send) {
    let download = Download { on_progress: Box::new(came) };
    let client = fleet.nodes[0].client().unwrap();
    assert_eq!(client.blob_with(REPOSITORY, digest, download).await.unwrap(), SIZE);
}

fn blob_reads(fleet: &Fleet<Faulty>) -> usize {
    let seen = fleet.registry.seen();
    seen.iter().filter(|seen| seen.method == http::Method::GET && seen.target.contains("/blobs/")).count()
}

#[tokio::test]
async fn a_body_starts_while_upstream_still_sends() {
    let (fleet, digest) = fleet("").await;
    let mut early = None;
    pull(&fleet, &digest, |came| {
        // Upstream sends the rest only now: a body that waited for it would never have begun.
        early.get_or_insert(came);
        fleet.registry.let_go();
    })
    .await;
    let early = early.unwrap();
    assert!(early > 0 && early <= HALF, "{early} bytes came while upstream had sent {HALF}");
}

#[tokio::test]
async fn who_comes_later_joins_the_same_transfer_and_starts_early_too() {
    let (fleet, digest) = fleet("").await;
    let [first, second] = [AtomicU64::new(0), AtomicU64::new(0)];
    let pulls = async {
        let second = async {
            let begun = until("the first body has begun", SOON, async || {
                (first.load(Ordering::Relaxed) > 0).then_some(())
            });
            begun.await.unwrap();
            pull(&fleet, &digest, |came| second.store(came, Ordering::Relaxed)).await;
        };
        tokio::join!(pull(&fleet, &digest, |came| first.store(came, Ordering::Relaxed)), second);
    };
    let release = async {
        let both = until("both bodies have begun", SOON, async || {
            (second.load(Ordering::Relaxed) > 0).then_some(())
        });
        both.await.unwrap();
        assert_eq!(blob_reads(&fleet), 1, "the second client made the node ask upstream again");
        fleet.registry.let_go();
    };
    tokio::join!(pulls, release);
    assert_eq!(fleet.nodes[0].status().await.unwrap().traffic.upstream.bytes, SIZE);
}

#[tokio::test]
async fn with_proven_nothing_comes_before_the_proof() {
    let (fleet, digest) = fleet("stream = \"proven\"\n").await;
    let came = AtomicU64::new(0);
    let release = async {
        let node = &fleet.nodes[0];
        let half = until("upstream has sent half of the first range", SOON, async || {
            (node.status().await.ok()?.traffic.upstream.bytes >= HALF).then_some(())
        });
        half.await.unwrap();
        // That nothing comes can only be waited for. A body that starts early starts within milliseconds.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(came.load(Ordering::Relaxed), 0, "bytes came before the digest was proven");
        fleet.registry.let_go();
    };
    tokio::join!(pull(&fleet, &digest, |bytes| came.store(bytes, Ordering::Relaxed)), release);
    assert_eq!(came.load(Ordering::Relaxed), SIZE);
}
