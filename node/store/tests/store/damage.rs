//! What a disk that changes, fails or fills does to held blobs.

use std::path::Path;

use shoal_proto::digest::Algorithm;
use shoal_store::disk::Disk;
use shoal_store::disk::memory::{Loss, MemoryDisk};
use shoal_store::{FinishError, ReadError, StoreError};

use crate::support::{content, fetch, file_of, of, open, open_again, ours, whole, write};

#[tokio::test]
async fn damage_is_seen_and_only_the_bad_chunks_are_lost() {
    let disk = MemoryDisk::new();
    let bytes = content(1, 1_000_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let path = file_of(&digest);
    let (store, _) = open(&disk);
    fetch(&store, &digest, &bytes).await.unwrap();
    disk.open(&path).unwrap().write_all_at(300_000, b"overwritten").unwrap();
    assert!(store.read_chunk(&digest, 0).await.is_ok());
    let error = store.read_chunk(&digest, 1).await.unwrap_err();
    assert!(matches!(&error, ReadError::Damaged { chunk: 1, .. }), "{error}");
    assert_eq!(store.held(&digest).await.unwrap(), None);
    let partial = store.partial(&digest, 1_000_000, ours()).await.unwrap();
    assert_eq!(partial.have().ones().collect::<Vec<_>>(), [0, 2, 3]);
    write(&partial, &bytes, 1).await.unwrap();
    partial.finish().await.unwrap();
    assert_eq!(whole(&store, &digest).await.unwrap(), bytes);

    // Truncated while nobody looked: found at the start.
    drop((store, partial));
    disk.open(&path).unwrap().set_len(600_000).unwrap();
    let (store, recovery) = open_again(&disk).await;
    assert_eq!((recovery.held, recovery.damaged, recovery.partials), (0, 1, 1));
    let partial = store.partial(&digest, 1_000_000, ours()).await.unwrap();
    assert_eq!(partial.have().ones().collect::<Vec<_>>(), [0, 1]);
    // Gone altogether.
    for chunk in [2, 3] {
        write(&partial, &bytes, chunk).await.unwrap();
    }
    partial.finish().await.unwrap();
    disk.remove(&path).unwrap();
    assert!(matches!(store.read_chunk(&digest, 0).await, Err(ReadError::Damaged { .. })));
    assert_eq!(store.partial(&digest, 1_000_000, ours()).await.unwrap().have().count_ones(..), 0);
}

#[tokio::test]
async fn a_full_disk_loses_nothing_held() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let held = content(1, 500_000);
    let digest = of(Algorithm::Sha256, &held);
    fetch(&store, &digest, &held).await.unwrap();
    disk.set_capacity(Some(disk.allocated() + 300_000));
    let big = content(2, 2_000_000);
    let wanted = of(Algorithm::Sha256, &big);
    let error = fetch(&store, &wanted, &big).await.unwrap_err();
    assert!(matches!(error, FinishError::Store(StoreError::Full)), "{error}");
    assert_eq!(whole(&store, &digest).await.unwrap(), held);
    disk.set_capacity(None);
    fetch(&store, &wanted, &big).await.unwrap();
    assert_eq!(whole(&store, &wanted).await.unwrap(), big);
}

#[tokio::test]
async fn a_blob_that_cannot_fit_is_refused_and_keeps_no_room() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let big = content(2, 2_000_000);
    let digest = of(Algorithm::Sha256, &big);
    let partial = store.partial(&digest, 2_000_000, ours()).await.unwrap();
    write(&partial, &big, 0).await.unwrap();
    write(&partial, &big, 1).await.unwrap();
    disk.set_capacity(Some(disk.allocated() + 1_000_000));
    // Who has it open goes on; who begins, or begins again, is told.
    drop(store.partial(&digest, 2_000_000, ours()).await.unwrap());
    drop((partial, store));
    let (store, _) = open_again(&disk).await;
    let error = store.partial(&digest, 2_000_000, ours()).await.unwrap_err();
    assert!(matches!(error, StoreError::Full), "{error}");
    assert!(disk.len(Path::new(&format!("partial/sha256-{}", digest.hex()))).is_err());
    let fits = content(3, 900_000);
    fetch(&store, &of(Algorithm::Sha256, &fits), &fits).await.unwrap();
}

#[tokio::test]
async fn a_call_that_fails_while_reading_loses_nothing_held() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let bytes = content(1, 1_000_000);
    let digest = of(Algorithm::Sha256, &bytes);
    fetch(&store, &digest, &bytes).await.unwrap();
    // Its rows are in memory then, and only the file is read.
    store.read_chunk(&digest, 1).await.unwrap();
    for call in [1, 2] {
        disk.fail_call(call);
        let error = store.read_chunk(&digest, 1).await.unwrap_err();
        assert!(matches!(error, ReadError::Store(StoreError::Disk(_))), "call {call}: {error}");
        disk.heal();
        assert!(store.held(&digest).await.unwrap().is_some());
        assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
    }
    // Nor while it is looked at what is good in a blob that is damaged.
    let path = file_of(&digest);
    disk.open(&path).unwrap().write_all_at(300_000, b"overwritten").unwrap();
    for call in 3..=10 {
        disk.fail_call(call);
        let error = store.read_chunk(&digest, 1).await.unwrap_err();
        assert!(matches!(error, ReadError::Store(StoreError::Disk(_))), "call {call}: {error}");
        disk.heal();
        assert!(store.held(&digest).await.unwrap().is_some());
        store.read_chunk(&digest, 3).await.unwrap();
    }
    assert!(matches!(store.read_chunk(&digest, 1).await, Err(ReadError::Damaged { .. })));
    let partial = store.partial(&digest, 1_000_000, ours()).await.unwrap();
    assert_eq!(partial.have().ones().collect::<Vec<_>>(), [0, 2, 3]);
}

#[tokio::test]
async fn what_follows_a_whole_blob_in_its_file_is_cut_off() {
    let disk = MemoryDisk::new();
    let bytes = content(1, 600_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let path = file_of(&digest);
    let (store, _) = open(&disk);
    fetch(&store, &digest, &bytes).await.unwrap();
    disk.open(&path).unwrap().write_all_at(600_000, b"more").unwrap();
    let disk = disk.after_kill();
    let (store, recovery) = open(&disk);
    assert_eq!((recovery.held, recovery.damaged), (1, 0));
    assert_eq!(disk.len(&path).unwrap(), 600_000);
    assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_database_call_that_fails_stops_nothing() {
    for call in 1..40 {
        let disk = MemoryDisk::new();
        let (store, _) = open(&disk);
        let held = content(1, 300_000);
        let digest = of(Algorithm::Sha256, &held);
        fetch(&store, &digest, &held).await.unwrap();
        disk.fail_call(call);
        // The change that meets it is made again.
        store.set_media_type(&digest, "application/x").await.unwrap();
        assert_eq!(whole(&store, &digest).await.ok().as_ref().map_or(300_000, Vec::len), 300_000);
        disk.heal();
        assert_eq!(store.media_type(&digest).await.unwrap().as_deref(), Some("application/x"), "call {call}");
        assert_eq!(whole(&store, &digest).await.unwrap(), held, "call {call}");
        let small = content(2, 100);
        let other = of(Algorithm::Sha256, &small);
        store.put(&other, small.clone(), ours()).await.unwrap();
        assert_eq!(whole(&store, &other).await.unwrap(), small, "call {call}");
    }
}

#[tokio::test]
async fn a_disk_that_fails_for_a_while_is_used_again_when_it_is_well() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let held = content(1, 300_000);
    let digest = of(Algorithm::Sha256, &held);
    fetch(&store, &digest, &held).await.unwrap();
    disk.fail_every(1);
    for n in 0..3_u8 {
        let small = content(n, 100);
        store.put(&of(Algorithm::Sha256, &small), small, ours()).await.unwrap_err();
        store.read_chunk(&digest, 0).await.unwrap_err();
        assert!(store.held(&digest).await.unwrap().is_some());
    }
    disk.heal();
    assert_eq!(whole(&store, &digest).await.unwrap(), held);
    let small = content(0, 100);
    let other = of(Algorithm::Sha256, &small);
    store.put(&other, small.clone(), ours()).await.unwrap();
    let (store, _) = open(&disk.after_power_loss(Loss::All));
    assert_eq!(whole(&store, &digest).await.unwrap(), held);
    assert_eq!(whole(&store, &other).await.unwrap(), small);
}

#[tokio::test]
async fn a_full_database_is_read_and_is_written_when_there_is_room_again() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let held = content(1, 300_000);
    let digest = of(Algorithm::Sha256, &held);
    fetch(&store, &digest, &held).await.unwrap();
    disk.set_capacity(Some(disk.allocated() + 100_000));
    // Into the database, until there is no room in it.
    let mut stored = Vec::new();
    let error = loop {
        let small = content(stored.len() as u8, 10_000 + stored.len());
        let other = of(Algorithm::Sha256, &small);
        match store.put(&other, small.clone(), ours()).await {
            Ok(()) => stored.push((other, small)),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full), "{error}");
    assert!(!stored.is_empty());
    for (digest, bytes) in &stored {
        assert_eq!(whole(&store, digest).await.unwrap(), *bytes);
    }
    assert_eq!(whole(&store, &digest).await.unwrap(), held);
    disk.set_capacity(None);
    let small = content(200, 15_000);
    let other = of(Algorithm::Sha256, &small);
    store.put(&other, small.clone(), ours()).await.unwrap();
    let (store, recovery) = open(&disk.after_power_loss(Loss::All));
    assert_eq!(recovery.held, stored.len() as u64 + 2);
    assert_eq!(whole(&store, &other).await.unwrap(), small);
}
