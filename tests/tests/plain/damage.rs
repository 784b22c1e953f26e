//! Files that rot, peers that stand still or lie, strangers that send noise: each is healed or shrugged off.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use shoal_tests::client::WHOLE;
use shoal_tests::faulty::Faulty;
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{Blob, Image, synthetic};
use shoal_tests::node::Node;
use shoal_tests::process::until;
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
                assert!(!error.contains(WHOLE), "{error}");
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

/// The database is not needed to know what a blob is: its name says it.
#[tokio::test]
async fn a_database_overwritten_while_serving_ends_the_process_and_the_next_has_the_blobs() {
    let (mut fleet, image) = holding(1, 40).await;
    let file = fleet.nodes[0].data_dir().join("shoal.redb");
    let length = std::fs::metadata(&file).unwrap().len();
    let noise = synthetic::blob(fleet.home(), 41, length).unwrap().bytes().unwrap();
    // Again and again: a database this small is all in memory, and a commit would write its beginning anew.
    let over = tokio::spawn(async move {
        while let Ok(mut file) = File::options().write(true).open(&file) {
            file.write_all(&noise).unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    ended(&mut fleet.nodes[0], "the database is damaged and was moved aside").await;
    over.await.unwrap();
    fleet.nodes[0].restart().await.unwrap();
    taken_over(&fleet.nodes[0], &image).await;
}

#[tokio::test]
async fn a_data_directory_removed_while_serving_ends_the_process() {
    let (mut fleet, image) = holding(1, 43).await;
    std::fs::remove_dir_all(fleet.nodes[0].data_dir()).unwrap();
    ended(&mut fleet.nodes[0], "the data directory was removed").await;
    fleet.nodes[0].restart().await.unwrap();
    healed(&fleet.nodes[0], &image.layers[0]).await;
}

#[tokio::test]
async fn a_database_cut_off_while_stopped_is_begun_anew() {
    let (mut fleet, image) = holding(1, 44).await;
    fleet.nodes[0].stop().unwrap();
    let file = fleet.nodes[0].data_dir().join("shoal.redb");
    let length = std::fs::metadata(&file).unwrap().len();
    File::options().write(true).open(&file).unwrap().set_len(length / 2).unwrap();
    fleet.nodes[0].restart().await.unwrap();
    taken_over(&fleet.nodes[0], &image).await;
}

#[tokio::test]
async fn a_folder_in_place_of_a_blob_is_moved_aside() {
    let (mut fleet, image) = holding(1, 45).await;
    let file = fleet.nodes[0].blob_file(&image.layers[0].digest);
    let replace = || {
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        File::create(file.join("somebody's")).unwrap();
    };
    replace();
    healed(&fleet.nodes[0], &image.layers[0]).await;
    fleet.nodes[0].stop().unwrap();
    replace();
    fleet.nodes[0].restart().await.unwrap();
    healed(&fleet.nodes[0], &image.layers[0]).await;
}

/// The process ends by itself, not well, and says why.
async fn ended(node: &mut Node, why: &str) {
    let over =
        until("the process ends", Duration::from_secs(40), async || (!node.is_running()).then_some(()));
    over.await.unwrap_or_else(|error| panic!("{error:#}; its log:\n{}", node.log().unwrap()));
    assert_eq!(node.stop().unwrap().code(), Some(1));
    let log = node.log().unwrap();
    assert!(log.contains("ERROR") && log.contains(why), "{log}");
}

/// What was held in files is held again, without upstream.
async fn taken_over(node: &Node, image: &Image) {
    let held = until("the blobs are taken over", Duration::from_secs(20), async || {
        (node.status().await.unwrap().store.bytes >= SIZE).then_some(())
    });
    held.await.unwrap_or_else(|error| panic!("{error:#}; its log:\n{}", node.log().unwrap()));
    healed(node, &image.layers[0]).await;
    assert_eq!(node.status().await.unwrap().traffic.upstream.bytes, 0);
}
