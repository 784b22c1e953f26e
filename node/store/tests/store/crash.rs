//! Whatever a node does, and wherever the power goes or a call fails: what is held stays held.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use shoal_proto::digest::{Algorithm, Digest};
use shoal_store::Store;
use shoal_store::disk::memory::{Loss, MemoryDisk};

use crate::support::{content, fetch, of, open, whole, write};

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
