//! Many ranges of one blob at once, while it comes over a slow link: each client gets its bytes long before the whole.
//!
//! What "long before" means is counted in bytes that came over the link, which a busy machine does not change.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::join_all;
use http::Method;
use shoal_tests::containerd::{Containerd, Options, Version};
use shoal_tests::fleet::{Fleet, Linked, REGISTRY};
use shoal_tests::image::{Image, synthetic};
use shoal_tests::registry::Kind;

const REPOSITORY: &str = "some/image";
const MIB: u64 = 1 << 20;

/// A node behind a link of `rate` bytes a second, and an image of one layer.
async fn behind_a_link(rate: u64, size: u64) -> (Fleet<Linked>, Image) {
    let fleet = Fleet::behind_a_link(Kind::Distribution, rate, 1).await.unwrap();
    let image = synthetic::unpackable(fleet.home(), 1, &[size]).unwrap();
    fleet.registry.registry.push(REPOSITORY, "ranges", &image).await.unwrap();
    (fleet, image)
}

/// Lazy pullers read a little here and a little there, and some read on where they began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_range_comes_long_before_the_whole() {
    const RANGES: u64 = 12;
    const LENGTH: u64 = 100_000;
    let (fleet, image) = behind_a_link(4 * MIB, 64 * MIB).await;
    let layer = &image.layers[0];
    let bytes = Arc::new(layer.bytes().unwrap());
    let client = fleet.nodes[0].client().unwrap();
    let path = format!("/v2/{REGISTRY}/{REPOSITORY}/blobs/{}", layer.digest);
    // The whole is wanted too, and its reader was there first.
    let whole = tokio::spawn({
        let (client, digest) = (client.clone(), layer.digest.clone());
        async move { client.blob(&format!("{REGISTRY}/{REPOSITORY}"), &digest).await }
    });
    let carried = || fleet.registry.link.carried();
    while carried() < 2 * MIB {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let before = carried();
    // All over the blob, in no order; the first thing that a lazy puller wants is the index at the end.
    let place = |number: u64| {
        if number == 0 {
            (format!("bytes=-{LENGTH}"), layer.size - LENGTH)
        } else {
            let start = (number * 7 + 3) % RANGES * (layer.size / RANGES);
            (format!("bytes={start}-{}", start + LENGTH - 1), start)
        }
    };
    let read = |number: u64| {
        let (client, path, bytes, (range, start)) = (&client, &path, bytes.clone(), place(number));
        async move {
            let answer = client.send(Method::GET, path, &[("range", &range)]).await.unwrap();
            assert_eq!(answer.status, 206, "{range}");
            let place = usize::try_from(start).unwrap()..usize::try_from(start + LENGTH).unwrap();
            assert!(answer.body == bytes[place], "{range} has other bytes");
            (range, carried() - before)
        }
    };
    let arrived = join_all((0..RANGES).map(read)).await;
    // A turn of one MiB for each, and what the reader of the whole gets in between.
    for (range, came) in &arrived {
        assert!(*came < layer.size / 2, "{range} came after {came} of {} bytes: {arrived:?}", layer.size);
    }
    assert_eq!(whole.await.unwrap().unwrap(), layer.size);
    // Who jumps asks for nothing twice, but for the part of a chunk that a broken-off request brought.
    let total = fleet.registry.link.carried();
    assert!(total < layer.size + layer.size / 4, "{total} bytes of {}", layer.size);
}

/// containerd asks for `bytes=N-` and closes after its part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_range_that_is_closed_fetches_no_tail_for_it() {
    let (fleet, image) = behind_a_link(8 * MIB, 32 * MIB).await;
    let layer = &image.layers[0];
    let bytes = layer.bytes().unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let name = format!("{REGISTRY}/{REPOSITORY}/blobs/{}", layer.digest);
    let url = format!("{}/v2/{name}", fleet.nodes[0].gateway_url());
    let part = |start: u64| {
        let (http, url, bytes) = (&http, &url, &bytes);
        async move {
            let answer = http.get(url).header("range", format!("bytes={start}-")).send().await.unwrap();
            assert_eq!(answer.status(), 206);
            let begin = usize::try_from(start).unwrap();
            let (mut got, mut body) = (0, answer.bytes_stream());
            while got < 300_000 {
                let piece = body.next().await.unwrap().unwrap();
                assert!(piece == bytes[begin + got..begin + got + piece.len()], "other bytes from {start}");
                got += piece.len();
            }
        }
    };
    join_all((0..8).map(|number| part(number * layer.size / 8))).await;
    let came = fleet.registry.link.carried();
    assert!(came < layer.size * 3 / 4, "{came} of {} bytes for 8 short readers", layer.size);
    fleet.nodes[0]
        .client()
        .unwrap()
        .pull(&format!("{REGISTRY}/{REPOSITORY}"), "ranges", &image)
        .await
        .unwrap();
    let total = fleet.registry.link.carried();
    assert!(total < layer.size + layer.size / 4, "{total} bytes of {}", layer.size);
}

/// containerd 2 fetches parts of one layer at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_fetches_a_layer_in_parts() {
    let (fleet, image) = behind_a_link(16 * MIB, 48 * MIB).await;
    let config = "\n[plugins.\"io.containerd.transfer.v1.local\"]\n  max_concurrent_downloads = 4\n  \
                  concurrent_layer_fetch_buffer = 4194304\n";
    let options = Options { config, ..Options::default() };
    let containerd =
        Containerd::start_with(Version::Built, fleet.home(), "containerd", options).await.unwrap();
    containerd.mirror(REGISTRY, &fleet.nodes[0].gateway_url()).unwrap();
    containerd.pull(&format!("{REGISTRY}/{REPOSITORY}:ranges")).unwrap();
    for blob in image.blobs() {
        assert!(
            containerd.content(&blob.digest).unwrap() == blob.bytes().unwrap(),
            "{} differs",
            blob.digest
        );
    }
    // It really came in parts, and each part once.
    let log = fleet.nodes[0].log().unwrap();
    let answers =
        log.lines().filter(|line| line.contains("answered") && line.contains(&image.layers[0].digest));
    let parts = answers.filter(|line| line.contains("status=206")).count();
    assert!(parts > 3, "{parts} parts");
    let came = fleet.registry.link.carried();
    assert!(came < image.size() + image.size() / 4, "{came} bytes of {}", image.size());
}
