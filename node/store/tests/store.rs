//! The store on a disk that forgets, fails and fills, and on the real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "a test may")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::{Algorithm, Digest, Hasher};
use shoal_proto::identity::Keypair;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::tag::TagMapping;
use shoal_store::disk::Disk;
use shoal_store::disk::memory::{Loss, MemoryDisk};
use shoal_store::disk::real::RealDisk;
use shoal_store::{FinishError, OpenError, Options, Partial, ReadError, Recovery, Store, StoreError};

fn options() -> Options {
    Options { flush: Duration::from_millis(5), ..Options::default() }
}

fn open(disk: &MemoryDisk) -> (Store, Recovery) {
    Store::open(Arc::new(disk.clone()), options()).unwrap()
}

fn content(seed: u8, size: usize) -> Bytes {
    (0..size)
        .map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed)
        .collect::<Vec<_>>()
        .into()
}

fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

fn keypair() -> Keypair {
    Keypair::ed25519_from_bytes([3; 32]).unwrap()
}

fn chunk_of(bytes: &Bytes, layout: ChunkLayout, chunk: u32) -> Bytes {
    let range = layout.range(chunk).unwrap();
    bytes.slice(range.start as usize..range.end as usize)
}

async fn write(partial: &Partial, bytes: &Bytes, chunk: u32) -> Result<(), StoreError> {
    let piece = chunk_of(bytes, partial.layout(), chunk);
    let claim = Claim { digest: partial.digest(), size: partial.layout().size(), chunk };
    let attestation = Attestation::sign(&keypair(), &claim, ChunkHash::of(&piece)).unwrap();
    partial.write(chunk, piece, attestation).await
}

async fn fetch(store: &Store, digest: &Digest, bytes: &Bytes) -> Result<(), FinishError> {
    let partial = store.partial(digest, bytes.len() as u64).await?;
    for chunk in 0..partial.layout().count() {
        write(&partial, bytes, chunk).await?;
    }
    partial.finish().await
}

async fn whole(store: &Store, digest: &Digest) -> Result<Vec<u8>, ReadError> {
    let size = store.held(digest).await?.ok_or(ReadError::NotHeld)?.size;
    let mut bytes = Vec::new();
    for chunk in 0..ChunkLayout::of(size).unwrap().count() {
        bytes.extend_from_slice(&store.read_chunk(digest, chunk).await?.bytes);
    }
    Ok(bytes)
}

#[tokio::test]
async fn blobs_of_every_size_and_algorithm_are_held_and_found_again() {
    let disk = MemoryDisk::new();
    let mut expected = BTreeMap::new();
    {
        let (store, _) = open(&disk);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for size in [0, 1, 16 * 1024, 16 * 1024 + 1, 256 * 1024, 256 * 1024 + 1, 900_000] {
                let bytes = content(7, size);
                let digest = of(algorithm, &bytes);
                fetch(&store, &digest, &bytes).await.unwrap();
                expected.insert(digest, bytes);
            }
        }
        let bytes = content(9, 700_000);
        let digest = of(Algorithm::Sha256, &bytes);
        store.put(&digest, bytes.clone()).await.unwrap();
        expected.insert(digest, bytes);
    }
    let (store, recovery) = open(&disk.after_kill());
    assert_eq!(recovery.held, expected.len() as u64);
    assert_eq!((recovery.damaged, recovery.orphans, recovery.partials), (0, 0, 0));
    let mut listed = Vec::new();
    loop {
        let page = store.held_page(listed.last().copied(), 4).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|(digest, _)| digest));
    }
    assert!(listed.iter().eq(expected.keys()));
    for (digest, bytes) in &expected {
        assert_eq!(whole(&store, digest).await.unwrap(), *bytes);
    }
    assert_eq!(
        store.usage().await.unwrap().bytes,
        expected.values().map(|bytes| bytes.len() as u64).sum::<u64>()
    );
}

#[tokio::test]
async fn five_thousand_small_blobs_share_their_commits() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let before = disk.calls();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..5000_u32 {
        let store = store.clone();
        tasks.spawn(async move {
            let bytes = Bytes::copy_from_slice(&n.to_be_bytes());
            store.put(&Digest::sha256_of(&bytes), bytes).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let calls = disk.calls() - before;
    assert!(calls < 50_000, "{calls} disk calls: commits are not shared");
    drop(store);
    // The writer's thread lets go of the database a moment after the last handle.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (store, recovery) = open(&disk);
    assert_eq!(recovery.held, 5000);
    assert_eq!(whole(&store, &Digest::sha256_of(&77_u32.to_be_bytes())).await.unwrap(), 77_u32.to_be_bytes());
}

#[tokio::test]
async fn wrong_bytes_are_never_held_and_are_repaired_by_chunk() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let bytes = content(1, 1_000_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let partial = store.partial(&digest, 1_000_000).await.unwrap();
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
    let error = store.put(&digest.same_algorithm_of(b"other"), content(5, 10)).await.unwrap_err();
    assert!(matches!(error, StoreError::Mismatch { .. }));
}

#[tokio::test]
async fn a_kill_costs_at_most_what_was_not_flushed() {
    let disk = MemoryDisk::new();
    let bytes = content(1, 3_000_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let (store, _) = open(&disk);
    let partial = store.partial(&digest, 3_000_000).await.unwrap();
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
    let rest = unpowered.partial(&digest, 3_000_000).await.unwrap();
    assert_eq!(rest.have().count_ones(..), 0);
    let (resumed, recovery) = open(&disk.after_kill());
    assert_eq!(recovery.partials, 1);
    let again = resumed.partial(&digest, 3_000_000).await.unwrap();
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
async fn damage_is_seen_and_only_the_bad_chunks_are_lost() {
    let disk = MemoryDisk::new();
    let bytes = content(1, 1_000_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let path = format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex());
    let (store, _) = open(&disk);
    fetch(&store, &digest, &bytes).await.unwrap();
    disk.open(Path::new(&path)).unwrap().write_all_at(300_000, b"overwritten").unwrap();
    assert!(store.read_chunk(&digest, 0).await.is_ok());
    let error = store.read_chunk(&digest, 1).await.unwrap_err();
    assert!(matches!(&error, ReadError::Damaged { chunk: 1, .. }), "{error}");
    assert_eq!(store.held(&digest).await.unwrap(), None);
    let partial = store.partial(&digest, 1_000_000).await.unwrap();
    assert_eq!(partial.have().ones().collect::<Vec<_>>(), [0, 2, 3]);
    write(&partial, &bytes, 1).await.unwrap();
    partial.finish().await.unwrap();
    assert_eq!(whole(&store, &digest).await.unwrap(), bytes);

    // Truncated while nobody looked: found at the start.
    drop((store, partial));
    tokio::time::sleep(Duration::from_millis(100)).await;
    disk.open(Path::new(&path)).unwrap().set_len(600_000).unwrap();
    let (store, recovery) = open(&disk);
    assert_eq!((recovery.held, recovery.damaged, recovery.partials), (0, 1, 1));
    let partial = store.partial(&digest, 1_000_000).await.unwrap();
    assert_eq!(partial.have().ones().collect::<Vec<_>>(), [0, 1]);
    // Gone altogether.
    for chunk in [2, 3] {
        write(&partial, &bytes, chunk).await.unwrap();
    }
    partial.finish().await.unwrap();
    disk.remove(Path::new(&path)).unwrap();
    assert!(matches!(store.read_chunk(&digest, 0).await, Err(ReadError::Damaged { .. })));
    assert_eq!(store.partial(&digest, 1_000_000).await.unwrap().have().count_ones(..), 0);
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
async fn sizes_that_disagree() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let bytes = content(1, 600_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let lie = store.partial(&digest, 700_000).await.unwrap();
    let error = store.partial(&digest, 600_000).await.unwrap_err();
    assert!(matches!(error, StoreError::Size { known: 700_000, asked: 600_000, .. }));
    let error = lie.write(0, Bytes::new(), attestation(&digest)).await.unwrap_err();
    assert!(matches!(error, StoreError::Chunk { length: 0, .. }));
    assert!(lie.write(99, Bytes::new(), attestation(&digest)).await.is_err());
    lie.discard().await.unwrap();
    fetch(&store, &digest, &bytes).await.unwrap();
    assert!(store.partial(&digest, u64::MAX).await.is_err());
}

fn attestation(digest: &Digest) -> Attestation {
    Attestation::sign(&keypair(), &Claim { digest: *digest, size: 1, chunk: 0 }, ChunkHash::of(b"")).unwrap()
}

#[tokio::test]
async fn tags_types_and_repositories() {
    let disk = MemoryDisk::new();
    let scope =
        |name: &str| Scope { registry: "reg.local:5000".parse().unwrap(), repository: name.parse().unwrap() };
    let tag = |text: &str| text.parse::<Tag>().unwrap();
    let mapping = |name: &str, text: &str, media_type: &str, checked_unix_ms| {
        let digest = Digest::sha256_of(format!("{text}{checked_unix_ms}").as_bytes());
        let mapping = TagMapping {
            scope: scope(name),
            tag: tag(text),
            digest,
            size: 1,
            media_type: media_type.into(),
            checked_unix_ms,
        };
        mapping.sign(&keypair()).unwrap()
    };
    let digest = Digest::sha256_of(b"x");
    {
        let (store, _) = open(&disk);
        for checked in [5, 9, 7] {
            store.put_tag(mapping("a/b", "v1", "index", checked)).await.unwrap();
        }
        for n in 0..20 {
            store.put_tag(mapping("a/b", "v1", &format!("t{n}"), 10 + n)).await.unwrap();
        }
        store.put_tag(mapping("a/b", "v10", "index", 1)).await.unwrap();
        store.put_tag(mapping("a/bc", "v1", "index", 1)).await.unwrap();
        store.set_media_type(&digest, "application/x").await.unwrap();
        for n in 0..40 {
            store.note_repository(&digest, &scope(&format!("r{n}"))).await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (store, _) = open(&disk);
    let known = store.tags(&scope("a/b"), &tag("v1")).await.unwrap();
    assert_eq!(known.len(), 8);
    assert!(known.iter().all(|signed| signed.verify().is_ok() && signed.mapping.checked_unix_ms >= 22));
    assert_eq!(store.tags(&scope("a/b"), &tag("v")).await.unwrap(), []);
    let first = store.tags_page(None, 2).await.unwrap();
    assert_eq!(first, [(scope("a/b"), tag("v1")), (scope("a/b"), tag("v10"))]);
    assert_eq!(store.tags_page(first.last().cloned(), 2).await.unwrap(), [(scope("a/bc"), tag("v1"))]);
    assert_eq!(store.media_type(&digest).await.unwrap().as_deref(), Some("application/x"));
    assert_eq!(store.media_type(&Digest::sha256_of(b"y")).await.unwrap(), None);
    assert_eq!(store.repositories(&digest).await.unwrap().len(), 16);
    store.remove(&digest).await.unwrap();
    assert_eq!(store.repositories(&digest).await.unwrap(), []);
}

#[tokio::test]
async fn on_the_real_disk_one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(Arc::new(RealDisk::at(folder.path()).unwrap()), options());
    let bytes = content(1, 600_000);
    let digest = of(Algorithm::Sha512, &bytes);
    let (store, _) = open().unwrap();
    fetch(&store, &digest, &bytes).await.unwrap();
    let error = open().unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }) && error.to_string().contains("data_dir"), "{error}");
    let path = folder.path().join(format!("blobs/sha512/{}/{}", &digest.hex()[..2], digest.hex()));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::write(folder.path().join("partial/sha256-junk"), b"x").unwrap();
    std::fs::write(path.with_file_name("junk"), b"x").unwrap();
    drop(store);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (store, recovery) = open().unwrap();
    assert_eq!((recovery.held, recovery.orphans), (1, 2));
    assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
}

/// What a node does to its store.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, usize),
    Fetch(u8, usize),
    Begin(u8, usize),
    Remove(u8, usize),
    Tag(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![Just(0_usize), Just(100), Just(16_385), Just(300_000), Just(800_000)];
    prop_oneof![
        (0..3_u8, size.clone()).prop_map(|(seed, size)| Step::Put(seed, size)),
        (0..3_u8, size.clone()).prop_map(|(seed, size)| Step::Fetch(seed, size)),
        (0..3_u8, size.clone()).prop_map(|(seed, size)| Step::Begin(seed, size)),
        (0..3_u8, size).prop_map(|(seed, size)| Step::Remove(seed, size)),
        (0..3_u8).prop_map(Step::Tag),
    ]
}

/// Runs steps until the first that fails, and says what was held by then: held without a doubt, and maybe.
async fn run(store: &Store, steps: &[Step]) -> (BTreeMap<Digest, Bytes>, BTreeMap<Digest, Bytes>) {
    let (mut sure, mut maybe) = (BTreeMap::new(), BTreeMap::new());
    for step in steps {
        let done = match step {
            Step::Put(seed, size) | Step::Fetch(seed, size) => {
                let bytes = content(*seed, *size);
                let digest = of(Algorithm::Sha256, &bytes);
                maybe.insert(digest, bytes.clone());
                let done = if matches!(step, Step::Put(..)) {
                    store.put(&digest, bytes.clone()).await.is_ok()
                } else if sure.contains_key(&digest) {
                    true
                } else {
                    fetch(store, &digest, &bytes).await.is_ok()
                };
                if done {
                    sure.insert(digest, bytes);
                }
                done
            }
            Step::Begin(seed, size) => {
                let bytes = content(*seed, *size);
                let digest = of(Algorithm::Sha256, &bytes);
                if sure.contains_key(&digest) {
                    continue;
                }
                maybe.insert(digest, bytes.clone());
                match store.partial(&digest, *size as u64).await {
                    Ok(partial) if partial.layout().count() > 0 => write(&partial, &bytes, 0).await.is_ok(),
                    other => other.is_ok(),
                }
            }
            Step::Remove(seed, size) => {
                let digest = of(Algorithm::Sha256, &content(*seed, *size));
                sure.remove(&digest);
                store.remove(&digest).await.is_ok()
            }
            Step::Tag(n) => {
                let digest = Digest::sha256_of(&[*n]);
                store.set_media_type(&digest, "type").await.is_ok()
            }
        };
        if !done {
            break;
        }
    }
    (sure, maybe)
}

/// What a start after a crash must find.
async fn check(
    disk: &MemoryDisk,
    sure: &BTreeMap<Digest, Bytes>,
    maybe: &BTreeMap<Digest, Bytes>,
) -> Result<(), TestCaseError> {
    let (store, _) = open(disk);
    for (digest, bytes) in sure {
        let read = whole(&store, digest).await;
        prop_assert!(read.as_ref().is_ok_and(|read| read == bytes), "{} is lost: {:?}", digest, read.err());
    }
    for (digest, _) in store.held_page(None, 1000).await.unwrap() {
        let bytes = whole(&store, &digest).await;
        prop_assert_eq!(digest.same_algorithm_of(&bytes.unwrap()), digest, "held and not proven");
    }
    // And whatever was begun can be completed.
    for (digest, bytes) in maybe {
        if store.held(digest).await.unwrap().is_none() {
            let done = fetch(&store, digest, bytes).await;
            prop_assert!(done.is_ok(), "{:?}", done);
        }
        prop_assert_eq!(&whole(&store, digest).await.unwrap(), bytes);
    }
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// The power goes at any call to the disk.
    #[test]
    fn held_is_held_after_a_power_loss(
        steps in proptest::collection::vec(step(), 1..8),
        at in 0..400_u64,
        survival in proptest::option::of(any::<u64>()),
    ) {
        runtime().block_on(async {
            let disk = MemoryDisk::new();
            let (store, _) = open(&disk);
            disk.power_off_at(at + 1);
            let (sure, maybe) = run(&store, &steps).await;
            let loss = survival.map_or(Loss::All, Loss::Some);
            check(&disk.after_power_loss(loss), &sure, &maybe).await
        })?;
    }

    /// The process is killed at any call.
    #[test]
    fn held_is_held_after_a_kill(steps in proptest::collection::vec(step(), 1..8), at in 0..400_u64) {
        runtime().block_on(async {
            let disk = MemoryDisk::new();
            let (store, _) = open(&disk);
            disk.power_off_at(at + 1);
            let (sure, maybe) = run(&store, &steps).await;
            check(&disk.after_kill(), &sure, &maybe).await
        })?;
    }

    /// One call fails, and the process goes on: nothing that it called held is lost.
    #[test]
    fn one_failing_call_loses_nothing(steps in proptest::collection::vec(step(), 1..8), at in 0..300_u64) {
        runtime().block_on(async {
            let disk = MemoryDisk::new();
            let (store, _) = open(&disk);
            disk.fail_call(at + 1);
            let (sure, _) = run(&store, &steps).await;
            disk.heal();
            drop(store);
            tokio::time::sleep(Duration::from_millis(20)).await;
            check(&disk.after_kill(), &sure, &BTreeMap::new()).await
        })?;
    }
}
