//! A database that somebody else wrote into, cut off or took away: the blobs beside it are not lost.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use shoal_proto::digest::{Algorithm, Digest};
use shoal_store::disk::Disk;
use shoal_store::disk::memory::MemoryDisk;
use shoal_store::{Adopted, Health, Store, StoreError};

use crate::support::{closed, content, fetch, file_of, of, open, open_again, ours, whole, write};

const DATABASE: &str = "shoal.redb";
const SIZES: [usize; 4] = [300_000, 500_000, 1_000_000, 5_000_000];

/// A store with blobs in files and in the database, one on its way, and tags' worth of rows.
async fn filled() -> (MemoryDisk, Vec<(Digest, Bytes)>) {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut blobs = Vec::new();
    for (seed, size) in (0..).zip(SIZES) {
        let bytes = content(seed, size);
        let digest = of(Algorithm::Sha256, &bytes);
        fetch(&store, &digest, &bytes).await.unwrap();
        blobs.push((digest, bytes));
    }
    for seed in 10..200 {
        let bytes = content(seed, 5_000);
        store.put(&of(Algorithm::Sha256, &bytes), bytes, ours()).await.unwrap();
    }
    let begun = content(9, 800_000);
    let partial = store.partial(&of(Algorithm::Sha256, &begun), 800_000, ours()).await.unwrap();
    write(&partial, &begun, 1).await.unwrap();
    drop((partial, store));
    closed(&disk).await;
    (disk, blobs)
}

fn overwrite(disk: &MemoryDisk, at: u64, length: usize, seed: u32) {
    let noise: Vec<u8> =
        (1..=length as u32).map(|n| ((n ^ seed).wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    disk.open(Path::new(DATABASE)).unwrap().write_all_at(at, &noise).unwrap();
}

fn aside(disk: &MemoryDisk) -> usize {
    let names = disk.list(Path::new("")).unwrap();
    names.iter().filter(|entry| entry.name.to_string_lossy().starts_with("shoal.redb.damaged-")).count()
}

/// Nothing but whole blobs is given, and all that there are files of are held in the end.
async fn all_there(store: &Store, blobs: &[(Digest, Bytes)]) {
    store.adopt().await.unwrap();
    for (digest, bytes) in blobs {
        assert_eq!(whole(store, digest).await.unwrap(), *bytes);
    }
}

#[tokio::test]
async fn a_damaged_database_is_moved_aside_at_the_start_and_its_blobs_are_taken_over() {
    let (disk, blobs) = filled().await;
    let length = disk.len(Path::new(DATABASE)).unwrap();
    for part in [0, 25, 50, 75, 90] {
        let disk = disk.after_kill();
        disk.open(Path::new(DATABASE)).unwrap().set_len(length * part / 100).unwrap();
        let (store, _) = open(&disk);
        all_there(&store, &blobs).await;
        assert_eq!(aside(&disk), usize::from(part > 0), "cut to {part} %");
    }
    let disk = disk.after_kill();
    overwrite(&disk, 0, 4096, 1);
    let (store, recovery) = open(&disk);
    assert_eq!((recovery.held, recovery.orphans, aside(&disk)), (0, 1, 1));
    let bytes = SIZES.iter().sum::<usize>() as u64;
    assert_eq!(store.adopt().await.unwrap(), Adopted { blobs: 4, bytes, refused: 0 });
    all_there(&store, &blobs).await;
    assert_eq!(aside(&disk), 1);
    // Held for good, and looked for once.
    drop(store);
    let (store, recovery) = open_again(&disk).await;
    assert_eq!(recovery.held, 4);
    assert_eq!(store.adopt().await.unwrap(), Adopted::default());
}

/// Wherever the damage is: at a start, while it is used, or by the next process, it comes right.
#[tokio::test]
async fn pages_overwritten_anywhere_end_in_a_new_database_or_in_none_being_needed() {
    let (disk, blobs) = filled().await;
    let length = disk.len(Path::new(DATABASE)).unwrap();
    for seed in 0..48_u32 {
        let disk = disk.after_kill();
        let at = length * u64::from(seed) / 48;
        overwrite(&disk, at, if seed % 3 == 0 { 40_000 } else { 300 }, seed);
        let mut right = false;
        for _ in 0..3 {
            let (store, _) = open_again(&disk).await;
            store.adopt().await.ok();
            let mut good = true;
            for (digest, bytes) in &blobs {
                let held = store.held(digest).await.unwrap().is_some();
                let read = whole(&store, digest).await.ok();
                assert!(read.as_ref().is_none_or(|read| read == bytes), "seed {seed}: wrong bytes");
                // What is not held may be fetched.
                let again = read.is_some() || (!held && fetch(&store, digest, bytes).await.is_ok());
                good &= again || fetch(&store, digest, bytes).await.is_ok();
            }
            let small = content(201, 900);
            good &= store.put(&of(Algorithm::Sha256, &small), small, ours()).await.is_ok();
            if good && !matches!(store.health(), Health::Lost(_)) {
                right = true;
                break;
            }
            assert!(matches!(store.health(), Health::Lost(_)), "seed {seed}: {:?}", store.health());
        }
        assert!(right, "seed {seed}: damage at {at} does not heal");
    }
}

#[tokio::test]
async fn a_database_overwritten_while_it_is_used_is_lost_and_says_so() {
    let (disk, blobs) = filled().await;
    let (store, _) = open(&disk);
    let length = disk.len(Path::new(DATABASE)).unwrap();
    overwrite(&disk, 0, length as usize, 5);
    let small = content(202, 900);
    let digest = of(Algorithm::Sha256, &small);
    let error = store.put(&digest, small.clone(), ours()).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Damaged(_) | StoreError::Disk(_) | StoreError::Database(_)),
        "{error}"
    );
    let lost = tokio::time::timeout(Duration::from_secs(5), store.lost()).await.unwrap();
    assert_eq!(lost.to_string(), error.to_string());
    // Nothing hangs, and nothing is asked of it any more.
    store.put(&digest, small, ours()).await.unwrap_err();
    assert!(matches!(store.health(), Health::Lost(_)));
    drop(store);
    let (store, _) = open_again(&disk).await;
    assert!(matches!(store.health(), Health::Well));
    all_there(&store, &blobs).await;
}

#[tokio::test]
async fn a_file_whose_digest_does_not_come_out_is_not_taken_over() {
    let (disk, blobs) = filled().await;
    let (digest, _) = &blobs[1];
    let path = file_of(digest);
    disk.open(&path).unwrap().write_all_at(300_000, b"overwritten").unwrap();
    disk.remove(Path::new(DATABASE)).unwrap();
    let (store, _) = open(&disk);
    let adopted = store.adopt().await.unwrap();
    assert_eq!((adopted.blobs, adopted.refused), (3, 1));
    assert_eq!(store.held(digest).await.unwrap(), None);
    assert!(disk.len(&path).is_err());
}

#[tokio::test]
async fn a_disk_that_fails_shows_until_it_is_well_and_a_full_one_does_not() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    store.probe().await;
    assert!(matches!(store.health(), Health::Well));
    disk.fail_every(1);
    store.probe().await;
    assert!(matches!(store.health(), Health::Failing(_)));
    disk.heal();
    store.probe().await;
    assert!(matches!(store.health(), Health::Well));
    disk.set_capacity(Some(disk.allocated()));
    let bytes = content(1, 300_000);
    fetch(&store, &of(Algorithm::Sha256, &bytes), &bytes).await.unwrap_err();
    store.probe().await;
    assert!(matches!(store.health(), Health::Well));
    // Taken away while it is used.
    disk.remove(Path::new(DATABASE)).unwrap();
    store.probe().await;
    assert!(matches!(store.health(), Health::Lost(StoreError::Gone(_))));
}
