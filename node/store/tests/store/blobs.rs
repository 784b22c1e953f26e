//! Held blobs, and what is known of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use shoal_proto::digest::{Algorithm, Digest};
use shoal_proto::name::{Scope, Tag};
use shoal_proto::tag::TagMapping;
use shoal_store::disk::memory::MemoryDisk;
use shoal_store::disk::real::RealDisk;
use shoal_store::{OpenError, Store};

use crate::support::{content, fetch, free, keypair, of, open, open_again, options, ours, whole};

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
        store.put(&digest, bytes.clone(), ours()).await.unwrap();
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
            store.put(&Digest::sha256_of(&bytes), bytes, ours()).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let calls = disk.calls() - before;
    assert!(calls < 50_000, "{calls} disk calls: commits are not shared");
    drop(store);
    let (store, recovery) = open_again(&disk).await;
    assert_eq!(recovery.held, 5000);
    assert_eq!(whole(&store, &Digest::sha256_of(&77_u32.to_be_bytes())).await.unwrap(), 77_u32.to_be_bytes());
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
            public: true,
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
            store.note_repository(&digest, &scope(&format!("r{n}")), n % 2 == 0).await.unwrap();
        }
    }
    let (store, _) = open_again(&disk).await;
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
    assert!(store.is_in(&digest, &scope("r39"), false).await.unwrap(), "the last one is known");
    assert!(!store.is_in(&digest, &scope("r39"), true).await.unwrap(), "not to everyone");
    assert!(store.is_in(&digest, &scope("r38"), true).await.unwrap());
    store.forget_repository(&digest, &scope("r38")).await.unwrap();
    assert!(!store.is_in(&digest, &scope("r38"), true).await.unwrap());
    assert!(!store.is_in(&digest, &scope("r38"), false).await.unwrap());
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
    let (store, recovery) = free(open).await;
    assert_eq!((recovery.held, recovery.orphans), (1, 2));
    assert_eq!(whole(&store, &digest).await.unwrap(), bytes);
}

/// Closing the database writes to its file and cuts it short, on whichever thread has it last.
#[tokio::test]
async fn who_opens_it_in_the_instant_in_which_it_is_free_finds_it_whole() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::at(folder.path()).unwrap());
    let (mut store, _) = Store::open(disk.clone(), options()).unwrap();
    let bytes = content(1, 9_000);
    store.put(&Digest::sha256_of(&bytes), bytes, ours()).await.unwrap();
    for turn in 0..200 {
        drop(store);
        let (opened, recovery) = loop {
            match Store::open(disk.clone(), options()) {
                Err(OpenError::InUse { .. }) => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        assert_eq!(recovery.held, 1, "turn {turn}: the database was set aside");
        store = opened;
    }
}

#[tokio::test]
async fn totals_are_kept() {
    let disk = MemoryDisk::new();
    {
        let (store, _) = open(&disk);
        assert!(store.totals().await.unwrap().is_empty());
        store.set_totals(vec![("bytes", 1), ("pulls", 2)]).await.unwrap();
        store.set_totals(vec![("bytes", 3)]).await.unwrap();
    }
    let (store, _) = open_again(&disk).await;
    let expected = [("bytes".to_owned(), 3), ("pulls".to_owned(), 2)];
    assert_eq!(store.totals().await.unwrap(), expected.into());
}
