//! Blobs on their way.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::digest::{Algorithm, Digest};
use shoal_store::disk::Disk;
use shoal_store::disk::memory::{Loss, MemoryDisk};
use shoal_store::{FinishError, Options, Store, StoreError};

use crate::support::{GatedDisk, content, fetch, file_of, keypair, of, open, options, ours, whole, write};

#[tokio::test]
async fn wrong_bytes_are_never_held_and_are_repaired_by_chunk() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let bytes = content(1, 1_000_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let partial = store.partial(&digest, 1_000_000, ours()).await.unwrap();
    let wrong = content(2, 1_000_000);
    for chunk in [3, 1, 0] {
        write(&partial, &bytes, chunk).await.unwrap();
    }
    write(&partial, &wrong, 2).await.unwrap();
    assert!(matches!(partial.finish().await, Err(FinishError::Mismatch { .. })));
    assert_eq!(store.held(&digest).await.unwrap(), None);
    assert_eq!(partial.have().count_ones(..), 4);
    partial.forget(&[2]).await.unwrap();
    assert!(matches!(partial.finish().await, Err(FinishError::Incomplete { missing: 1 })));
    write(&partial, &bytes, 2).await.unwrap();
    partial.finish().await.unwrap();
    assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
    // Closed: nothing more is taken.
    assert!(matches!(write(&partial, &bytes, 0).await, Err(StoreError::Closed)));
    let error = store.put(&digest.same_algorithm_of(b"other"), content(5, 10), ours()).await.unwrap_err();
    assert!(matches!(error, StoreError::Mismatch { .. }));
}

#[tokio::test]
async fn a_kill_costs_at_most_what_was_not_flushed() {
    let disk = MemoryDisk::new();
    let bytes = content(1, 3_000_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let (store, _) = open(&disk);
    let partial = store.partial(&digest, 3_000_000, ours()).await.unwrap();
    for chunk in 0..6 {
        write(&partial, &bytes, chunk).await.unwrap();
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while store.usage().await.unwrap().partial_bytes < 6 * 256 * 1024 {
        assert!(std::time::Instant::now() < deadline, "not flushed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // With the power, unsynced bytes go too: the database then claims chunks that are not there, and is not believed.
    let (unpowered, _) = open(&disk.after_power_loss(Loss::All));
    let rest = unpowered.partial(&digest, 3_000_000, ours()).await.unwrap();
    assert_eq!(rest.have().count_ones(..), 0);
    let (resumed, recovery) = open(&disk.after_kill());
    assert_eq!(recovery.partials, 1);
    let again = resumed.partial(&digest, 3_000_000, ours()).await.unwrap();
    assert_eq!(again.have().ones().collect::<Vec<_>>(), (0..6).collect::<Vec<_>>());
    assert_eq!(again.attestations().len(), 6);
    let (piece, attestation) = again.read(5).await.unwrap();
    let claim = Claim { digest, size: 3_000_000, chunk: 5 };
    attestation.unwrap().check(&claim, &piece).unwrap();
    for chunk in 6..again.layout().count() {
        write(&again, &bytes, chunk).await.unwrap();
    }
    again.finish().await.unwrap();
    assert_eq!(whole(&resumed, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn sizes_that_disagree() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let bytes = content(1, 600_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let lie = store.partial(&digest, 700_000, ours()).await.unwrap();
    let error = store.partial(&digest, 600_000, ours()).await.unwrap_err();
    assert!(matches!(error, StoreError::Size { known: 700_000, asked: 600_000, .. }));
    let error = lie.write(0, Bytes::new(), attestation(&digest)).await.unwrap_err();
    assert!(matches!(error, StoreError::Chunk { length: 0, .. }));
    assert!(lie.write(99, Bytes::new(), attestation(&digest)).await.is_err());
    lie.discard().await.unwrap();
    fetch(&store, &digest, &bytes).await.unwrap();
    assert!(store.partial(&digest, u64::MAX, ours()).await.is_err());
}

fn attestation(digest: &Digest) -> Attestation {
    Attestation::sign(&keypair(), &Claim { digest: *digest, size: 1, chunk: 0 }, ChunkHash::of(b"")).unwrap()
}

/// A store that writes to its database only when it must: disk calls can be counted.
fn open_quiet(disk: &MemoryDisk) -> Store {
    let options = Options { flush: Duration::from_hours(1), recent: 0, ..Options::default() };
    Store::open(Arc::new(disk.clone()), options).unwrap().0
}

#[tokio::test]
async fn a_chunk_that_is_there_is_never_written_again() {
    let disk = MemoryDisk::new();
    let store = open_quiet(&disk);
    let (bytes, wrong) = (content(1, 1_000_000), content(2, 1_000_000));
    let digest = of(Algorithm::Sha256, &bytes);
    let partial = store.partial(&digest, 1_000_000, ours()).await.unwrap();
    let before = disk.calls();
    // Asked of two peers at once: both bring it.
    let writes: Vec<_> = (0..16)
        .map(|_| {
            let (partial, bytes) = (partial.clone(), bytes.clone());
            tokio::spawn(async move { write(&partial, &bytes, 2).await })
        })
        .collect();
    for done in writes {
        done.await.unwrap().unwrap();
    }
    assert_eq!(disk.calls() - before, 2, "the file is created, and written once");
    // Late, and vouched for by somebody who lies.
    write(&partial, &wrong, 2).await.unwrap();
    assert_eq!(disk.calls() - before, 2);
    for chunk in [0, 1, 3] {
        write(&partial, &bytes, chunk).await.unwrap();
    }
    partial.finish().await.unwrap();
    assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn who_waits_for_a_write_that_fails_writes() {
    let disk = MemoryDisk::new();
    let store = open_quiet(&disk);
    let bytes = content(1, 300_000);
    let partial = store.partial(&of(Algorithm::Sha256, &bytes), 300_000, ours()).await.unwrap();
    disk.fail_call(2);
    let (first, second) = tokio::join!(write(&partial, &bytes, 0), write(&partial, &bytes, 0));
    assert!(matches!(first, Err(StoreError::Disk(_))) && second.is_ok(), "{first:?} {second:?}");
    assert_eq!(partial.have().ones().collect::<Vec<_>>(), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_written_while_and_after_it_is_published() {
    let disk = MemoryDisk::new();
    let store = open_quiet(&disk);
    for seed in 0..20 {
        let (bytes, wrong) = (content(seed, 700_000), content(seed + 100, 700_000));
        let digest = of(Algorithm::Sha256, &bytes);
        let partial = store.partial(&digest, 700_000, ours()).await.unwrap();
        for chunk in 0..3 {
            write(&partial, &bytes, chunk).await.unwrap();
        }
        let late = {
            let partial = partial.clone();
            tokio::spawn(async move {
                while write(&partial, &wrong, 1).await.is_ok() {
                    tokio::task::yield_now().await;
                }
            })
        };
        partial.finish().await.unwrap();
        late.await.unwrap();
        assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
        // Held: there is nothing to discard any more.
        partial.discard().await.unwrap();
        assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_stored_by_many_at_once_is_held_for_all_of_them() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    for seed in 0..10 {
        let bytes = content(seed, 600_000);
        let digest = of(Algorithm::Sha256, &bytes);
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let (store, bytes) = (store.clone(), bytes.clone());
                tokio::spawn(async move {
                    if n % 2 == 0 {
                        return store.put(&digest, bytes, ours()).await.map_err(FinishError::from);
                    }
                    let partial = store.partial(&digest, 600_000, ours()).await?;
                    match partial.finish().await {
                        // It was held before this one asked, or is not all there yet.
                        Err(FinishError::Incomplete { .. }) => Ok(()),
                        other => other,
                    }
                })
            })
            .collect();
        for done in tasks {
            done.await.unwrap().unwrap();
        }
        assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_proven_blob_is_put_in_place_of_wrong_chunks() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let (bytes, wrong) = (content(1, 600_000), content(2, 600_000));
    let digest = of(Algorithm::Sha256, &bytes);
    let partial = store.partial(&digest, 600_000, ours()).await.unwrap();
    write(&partial, &wrong, 1).await.unwrap();
    store.put(&digest, bytes.clone(), ours()).await.unwrap();
    assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
    partial.finish().await.unwrap();
}

#[tokio::test]
async fn a_stored_chunk_that_the_disk_changes_is_fetched_again() {
    let disk = MemoryDisk::new();
    let store = open_quiet(&disk);
    let bytes = content(1, 1_000_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let file = Path::new("partial").join(format!("sha256-{}", digest.hex()));
    let partial = store.partial(&digest, 1_000_000, ours()).await.unwrap();
    // Not the prefix: all these are read back before they are hashed.
    for chunk in [1, 2, 3] {
        write(&partial, &bytes, chunk).await.unwrap();
    }
    disk.open(&file).unwrap().write_all_at(600_000, b"overwritten").unwrap();
    write(&partial, &bytes, 0).await.unwrap();
    assert!(matches!(partial.finish().await, Err(FinishError::Incomplete { missing: 1 })));
    assert_eq!(partial.missing(), [2]);
    // A disk that gives nothing back is no better: here when chunk 3 is read, after 2 was written and read. The hasher
    // goes on where it stopped.
    disk.fail_call(3);
    write(&partial, &bytes, 2).await.unwrap();
    assert!(matches!(partial.finish().await, Err(FinishError::Incomplete { missing: 1 })));
    assert_eq!(partial.missing(), [3]);
    write(&partial, &bytes, 3).await.unwrap();
    // Hashed already, and then changed: seen by whoever reads it.
    disk.open(&file).unwrap().write_all_at(5, b"overwritten").unwrap();
    assert!(partial.read(0).await.is_err());
    assert_eq!(partial.missing(), [0]);
    write(&partial, &bytes, 0).await.unwrap();
    partial.finish().await.unwrap();
    assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
}

/// A blob of which `chunks` are stored and written to the database.
async fn begin(store: &Store, bytes: &Bytes, chunks: std::ops::Range<u32>) -> Digest {
    let digest = of(Algorithm::Sha256, bytes);
    let before = store.usage().await.unwrap().partial_bytes;
    let partial = store.partial(&digest, bytes.len() as u64, ours()).await.unwrap();
    for chunk in chunks {
        write(&partial, bytes, chunk).await.unwrap();
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let stored: u64 =
        partial.have().ones().map(|chunk| partial.layout().range(chunk as u32).unwrap().len()).sum();
    while store.usage().await.unwrap().partial_bytes < before + stored {
        assert!(std::time::Instant::now() < deadline, "not flushed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    digest
}

#[tokio::test]
async fn a_blob_that_is_looked_through_keeps_no_other_waiting() {
    let disk = MemoryDisk::new();
    let (begun, damaged, other) = (content(1, 900_000), content(2, 900_000), content(3, 900_000));
    let (partial_digest, held_digest) = {
        let (store, _) = open(&disk);
        let held_digest = of(Algorithm::Sha256, &damaged);
        fetch(&store, &held_digest, &damaged).await.unwrap();
        (begin(&store, &begun, 0..3).await, held_digest)
    };
    let disk = disk.after_kill();
    let path = file_of(&held_digest);
    disk.open(&path).unwrap().write_all_at(0, b"overwritten").unwrap();
    let (gated, gate) = GatedDisk::new(&disk);
    let (store, _) = Store::open(Arc::new(gated), options()).unwrap();
    for digest in [partial_digest, held_digest] {
        gate.shut(digest.hex());
        let slow = {
            let store = store.clone();
            tokio::spawn(async move {
                if digest == held_digest {
                    return store.read_chunk(&digest, 0).await.map(drop).unwrap_err().to_string();
                }
                format!(
                    "{:?}",
                    store.partial(&digest, 900_000, ours()).await.unwrap().have().ones().collect::<Vec<_>>()
                )
            })
        };
        while gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let other = of(Algorithm::Sha512, &[&other[..], digest.raw()].concat()[..]);
        let quick =
            tokio::time::timeout(Duration::from_secs(10), store.partial(&other, 900_064, ours())).await;
        gate.open();
        quick.expect("it waits for another blob").unwrap();
        let said = slow.await.unwrap();
        assert!(said == "[0, 1, 2]" || said.contains("damaged"), "{said}");
    }
}

#[tokio::test]
async fn asking_with_another_size_deletes_nothing() {
    let disk = MemoryDisk::new();
    let bytes = content(1, 1_000_000);
    let digest = {
        let (store, _) = open(&disk);
        begin(&store, &bytes, 0..3).await
    };
    let (store, _) = open(&disk.after_kill());
    let error = store.partial(&digest, 999_999, ours()).await.unwrap_err();
    assert!(matches!(error, StoreError::Size { known: 1_000_000, asked: 999_999, .. }), "{error}");
    let partial = store.partial(&digest, 1_000_000, ours()).await.unwrap();
    assert_eq!(partial.have().count_ones(..), 3);
    // Who knows better discards it.
    partial.discard().await.unwrap();
    store.partial(&digest, 999_999, ours()).await.unwrap();
    // What a power loss left nothing of is in nobody's way.
    let (store, _) = open(&disk.after_power_loss(Loss::All));
    store.partial(&digest, 999_999, ours()).await.unwrap();
}

#[tokio::test]
async fn what_is_proven_is_known_before_it_is_synced() {
    let disk = MemoryDisk::new();
    let store = open_quiet(&disk);
    let (bytes, wrong) = (content(1, 600_000), content(2, 600_000));
    let digest = of(Algorithm::Sha256, &bytes);
    let partial = store.partial(&digest, 600_000, ours()).await.unwrap();
    write(&partial, &wrong, 0).await.unwrap();
    assert!(matches!(partial.prove().await, Err(FinishError::Incomplete { missing: 2 })));
    write(&partial, &bytes, 1).await.unwrap();
    write(&partial, &bytes, 2).await.unwrap();
    assert!(matches!(partial.prove().await, Err(FinishError::Mismatch { .. })));
    partial.forget(&[0]).await.unwrap();
    write(&partial, &bytes, 0).await.unwrap();
    partial.prove().await.unwrap();
    let before = disk.calls();
    partial.prove().await.unwrap();
    assert_eq!(disk.calls(), before, "it is known by now");
    assert_eq!(store.held(&digest).await.unwrap(), None);
    // A proof is of the chunks that are there.
    partial.forget(&[0]).await.unwrap();
    write(&partial, &wrong, 0).await.unwrap();
    assert!(matches!(partial.finish().await, Err(FinishError::Mismatch { .. })));
    partial.forget(&[0]).await.unwrap();
    write(&partial, &bytes, 0).await.unwrap();
    partial.prove().await.unwrap();
    partial.finish().await.unwrap();
    partial.prove().await.unwrap();
    assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
}
