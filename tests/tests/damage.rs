//! Files that rot, peers that stand still or lie, strangers that send noise: each is healed or shrugged off.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use shoal_tests::faulty::Faulty;
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{Blob, Image, synthetic};
use shoal_tests::node::Node;
use tokio::io::AsyncWriteExt as _;

const REPOSITORY: &str = "registry.test/some/image";
const SIZE: u64 = 6_000_000;

/// Nodes of which the first holds an image.
async fn holding(count: usize, seed: u64) -> (Fleet<Faulty>, Image) {
    assert!(REPOSITORY.starts_with(REGISTRY));
    let fleet = Fleet::with_faulty_upstream(count).await.unwrap();
    let image = synthetic::image(fleet.home(), seed, &[SIZE]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    fleet.nodes[0].client().unwrap().pull(REPOSITORY, "1", &image).await.unwrap();
    (fleet, image)
}

fn overwrite(path: &Path, at: u64) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[0x55; 1000]).unwrap();
    file.sync_all().unwrap();
}

fn truncate(path: &Path) {
    File::options().write(true).open(path).unwrap().set_len(SIZE / 3).unwrap();
}

/// The blob is got right; at most some attempts before end early, none with wrong bytes.
async fn healed(node: &Node, blob: &Blob) {
    let client = node.client().unwrap();
    for _ in 0..3 {
        match client.blob(REPOSITORY, &blob.digest).await {
            Ok(size) => {
                assert_eq!(size, blob.size);
                return;
            }
            Err(error) => {
                let error = format!("{error:#}");
                assert!(!error.contains("got the bytes of"), "{error}");
            }
        }
    }
    panic!("the blob is not healed");
}

#[tokio::test]
async fn a_truncated_blob_found_at_start_is_healed() {
    let (mut fleet, image) = holding(1, 31).await;
    fleet.nodes[0].stop().unwrap();
    truncate(&fleet.nodes[0].blob_file(&image.layers[0].digest));
    fleet.nodes[0].restart().await.unwrap();
    healed(&fleet.nodes[0], &image.layers[0]).await;
}

#[tokio::test]
async fn a_missing_blob_found_at_start_is_healed() {
    let (mut fleet, image) = holding(1, 32).await;
    fleet.nodes[0].stop().unwrap();
    std::fs::remove_file(fleet.nodes[0].blob_file(&image.layers[0].digest)).unwrap();
    fleet.nodes[0].restart().await.unwrap();
    healed(&fleet.nodes[0], &image.layers[0]).await;
}

#[tokio::test]
async fn an_overwritten_blob_found_at_start_is_healed() {
    let (mut fleet, image) = holding(1, 33).await;
    fleet.nodes[0].stop().unwrap();
    overwrite(&fleet.nodes[0].blob_file(&image.layers[0].digest), SIZE / 2);
    fleet.nodes[0].restart().await.unwrap();
    healed(&fleet.nodes[0], &image.layers[0]).await;
}

#[tokio::test]
async fn a_truncated_blob_found_while_serving_is_healed() {
    let (fleet, image) = holding(1, 34).await;
    truncate(&fleet.nodes[0].blob_file(&image.layers[0].digest));
    healed(&fleet.nodes[0], &image.layers[0]).await;
}

#[tokio::test]
async fn an_overwritten_blob_found_while_serving_is_healed() {
    let (fleet, image) = holding(1, 35).await;
    overwrite(&fleet.nodes[0].blob_file(&image.layers[0].digest), SIZE - 1500);
    healed(&fleet.nodes[0], &image.layers[0]).await;
}

/// What is wrong on one node's disk reaches no other node.
#[tokio::test]
async fn a_peer_with_wrong_bytes_costs_only_those_chunks() {
    let (fleet, image) = holding(2, 36).await;
    let blob = &image.layers[0];
    overwrite(&fleet.nodes[0].blob_file(&blob.digest), SIZE / 2);
    healed(&fleet.nodes[1], blob).await;
    let traffic = fleet.nodes[1].status().await.unwrap().traffic;
    assert!(traffic.upstream.bytes < blob.size, "everything was fetched again: {traffic:?}");
    healed(&fleet.nodes[0], blob).await;
}

#[tokio::test]
async fn a_peer_that_stands_still_is_left_alone() {
    let (fleet, image) = holding(2, 37).await;
    fleet.nodes[0].freeze().unwrap();
    let begun = Instant::now();
    fleet.nodes[1].client().unwrap().pull(REPOSITORY, "1", &image).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "the pull took {:?}", begun.elapsed());
    fleet.nodes[0].thaw().unwrap();
    // And is a peer again afterwards.
    fleet.nodes[0].joined(1).await.unwrap();
}

/// Noise on every port, and connections that say nothing.
#[tokio::test]
async fn noise_on_its_ports_does_not_disturb_a_node() {
    let (mut fleet, image) = holding(2, 38).await;
    let serving = fleet.nodes[0].serving.clone();
    let noise = synthetic::blob(fleet.home(), 39, 1 << 20).unwrap().bytes().unwrap();
    let mut silent = Vec::new();
    for address in [serving.peer, serving.gateway, serving.admin] {
        for _ in 0..8 {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            // It may be cut off in the middle.
            stream.write_all(&noise).await.ok();
            silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
    }
    fleet.nodes[1].client().unwrap().pull(REPOSITORY, "1", &image).await.unwrap();
    fleet.nodes[0].client().unwrap().pull(REPOSITORY, "1", &image).await.unwrap();
    assert!(fleet.nodes[0].is_running());
    assert_eq!(fleet.nodes[0].status().await.unwrap().peers.len(), 1);
}
