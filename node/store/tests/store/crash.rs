//! Whatever a node does, and wherever the power goes or a call fails: what is held stays held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use shoal_proto::digest::{Algorithm, Digest};
use shoal_store::disk::Disk;
use shoal_store::disk::memory::{Loss, MemoryDisk};
use shoal_store::{ReadError, Store};

use crate::support::{content, fetch, file_of, of, open, ours, whole, write};

/// What a node does to its store, with one of the blobs below; and what a disk does to it.
#[derive(Debug, Clone, Copy)]
enum Step {
    Put(usize),
    Fetch(usize),
    Begin(usize),
    Read(usize),
    Damage(usize),
    Remove(usize),
    Tag(u8),
}

/// Few, so that steps meet the same blob again and again.
const SIZES: [usize; 6] = [0, 100, 16_385, 300_000, 500_000, 800_000];

static BLOBS: LazyLock<Vec<(Digest, Bytes)>> = LazyLock::new(|| {
    let blob = |seed, size| {
        let bytes = content(seed, size);
        (of(Algorithm::Sha256, &bytes), bytes)
    };
    (0..).zip(SIZES).map(|(seed, size)| blob(seed, size)).collect()
});

fn step() -> impl Strategy<Value = Step> {
    let blob = || 0..SIZES.len();
    prop_oneof![
        blob().prop_map(Step::Put),
        blob().prop_map(Step::Fetch),
        blob().prop_map(Step::Begin),
        blob().prop_map(Step::Read),
        blob().prop_map(Step::Damage),
        blob().prop_map(Step::Remove),
        (0..3_u8).prop_map(Step::Tag),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..16)
}

/// What a node may rely on.
#[derive(Debug, Default)]
struct Expected {
    /// Held without a doubt.
    sure: BTreeMap<Digest, Bytes>,
    /// Held, begun, or neither.
    maybe: BTreeMap<Digest, Bytes>,
    /// The disk changed it, and nobody may have noticed.
    damaged: BTreeSet<Digest>,
}

impl Expected {
    /// Does a step; whether it came out.
    async fn step(&mut self, disk: &MemoryDisk, store: &Store, step: Step) -> Result<bool, TestCaseError> {
        let (Step::Put(n)
        | Step::Fetch(n)
        | Step::Begin(n)
        | Step::Read(n)
        | Step::Damage(n)
        | Step::Remove(n)) = step
        else {
            let Step::Tag(n) = step else { return Ok(true) };
            return Ok(store.set_media_type(&Digest::sha256_of(&[n]), "type").await.is_ok());
        };
        let (digest, bytes) = &BLOBS[n];
        let is_held = store.held(digest).await.unwrap().is_some();
        Ok(match step {
            Step::Put(_) => {
                let done = store.put(digest, bytes.clone(), ours()).await.is_ok();
                self.stored(n, done)
            }
            Step::Fetch(_) if !is_held => {
                let done = fetch(store, digest, bytes).await.is_ok();
                self.stored(n, done)
            }
            Step::Begin(_) if !is_held => {
                self.maybe.insert(*digest, bytes.clone());
                match store.partial(digest, bytes.len() as u64, ours()).await {
                    Ok(partial) if partial.layout().count() > 0 => write(&partial, bytes, 0).await.is_ok(),
                    other => other.is_ok(),
                }
            }
            Step::Read(_) if is_held => {
                let read = whole(store, digest).await;
                if self.sure.contains_key(digest) {
                    let lost = matches!(read, Err(ReadError::Damaged { .. } | ReadError::NotHeld));
                    prop_assert!(!lost, "{} is lost: {:?}", digest, read.err());
                }
                read.is_ok()
            }
            Step::Damage(_) if is_held && bytes.len() > 16 * 1024 => self.damage(disk, store, n).await,
            Step::Remove(_) => {
                self.sure.remove(digest);
                store.remove(digest).await.is_ok()
            }
            _ => true,
        })
    }

    fn stored(&mut self, n: usize, done: bool) -> bool {
        let (digest, bytes) = &BLOBS[n];
        self.maybe.insert(*digest, bytes.clone());
        if done && !self.damaged.contains(digest) {
            self.sure.insert(*digest, bytes.clone());
        }
        done
    }

    async fn damage(&mut self, disk: &MemoryDisk, store: &Store, n: usize) -> bool {
        let digest = &BLOBS[n].0;
        let path = file_of(digest);
        self.sure.remove(digest);
        self.damaged.insert(*digest);
        let written = disk.open(&path).and_then(|file| file.write_all_at(20, b"overwritten by somebody"));
        if written.is_err() {
            return false;
        }
        let noticed = matches!(store.read_chunk(digest, 0).await, Err(ReadError::Damaged { .. }));
        if noticed {
            self.damaged.remove(digest);
        }
        noticed
    }

    /// What must be true of a store whose disk is well.
    async fn check(&self, store: &Store) -> Result<(), TestCaseError> {
        for (digest, bytes) in &self.sure {
            let read = whole(store, digest).await;
            prop_assert!(
                read.as_ref().is_ok_and(|read| read == bytes),
                "{} is lost: {:?}",
                digest,
                read.err()
            );
        }
        for (digest, _) in store.held_page(None, 1000).await.unwrap() {
            match whole(store, &digest).await {
                Ok(bytes) => prop_assert_eq!(digest.same_algorithm_of(&bytes), digest, "held and not proven"),
                Err(error) => prop_assert!(self.damaged.contains(&digest), "{}: {}", digest, error),
            }
        }
        // And whatever was begun can be completed.
        for (digest, bytes) in &self.maybe {
            if store.held(digest).await.unwrap().is_none() {
                let done = fetch(store, digest, bytes).await;
                prop_assert!(done.is_ok(), "{:?}", done);
            }
            prop_assert_eq!(&whole(store, digest).await.unwrap(), bytes);
        }
        Ok(())
    }
}

/// Does steps until the first that fails.
async fn run(disk: &MemoryDisk, store: &Store, steps: &[Step]) -> Result<Expected, TestCaseError> {
    let mut expected = Expected::default();
    for &step in steps {
        if !expected.step(disk, store, step).await? {
            break;
        }
    }
    Ok(expected)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// The power goes at any call to the disk.
    #[test]
    fn held_is_held_after_a_power_loss(
        steps in steps(),
        at in 0..500_u64,
        survival in proptest::option::of(any::<u64>()),
    ) {
        runtime().block_on(async {
            let disk = MemoryDisk::new();
            let (store, _) = open(&disk);
            disk.power_off_at(at + 1);
            let expected = run(&disk, &store, &steps).await?;
            let loss = survival.map_or(Loss::All, Loss::Some);
            expected.check(&open(&disk.after_power_loss(loss)).0).await
        })?;
    }

    /// The process is killed at any call.
    #[test]
    fn held_is_held_after_a_kill(steps in steps(), at in 0..500_u64) {
        runtime().block_on(async {
            let disk = MemoryDisk::new();
            let (store, _) = open(&disk);
            disk.power_off_at(at + 1);
            let expected = run(&disk, &store, &steps).await?;
            expected.check(&open(&disk.after_kill()).0).await
        })?;
    }

    /// One call fails, and the process goes on as if nothing had been: it loses nothing that it called held, and can
    /// complete what failed; so can the next process, and the one after a power loss.
    #[test]
    fn a_process_goes_on_after_a_failing_call(
        steps in steps(),
        at in 0..400_u64,
        survival in proptest::option::of(any::<u64>()),
    ) {
        runtime().block_on(async {
            let disk = MemoryDisk::new();
            let (store, _) = open(&disk);
            disk.fail_call(at + 1);
            let mut expected = Expected::default();
            for &step in &steps {
                expected.step(&disk, &store, step).await?;
            }
            disk.heal();
            let loss = survival.map_or(Loss::All, Loss::Some);
            let (killed, unpowered) = (disk.after_kill(), disk.after_power_loss(loss));
            expected.check(&store).await?;
            expected.check(&open(&killed).0).await?;
            expected.check(&open(&unpowered).0).await
        })?;
    }

    /// A disk that fails again and again, and a process that goes on all the same.
    #[test]
    fn a_process_goes_on_while_calls_fail(steps in steps(), every in 2..40_u64) {
        runtime().block_on(async {
            let disk = MemoryDisk::new();
            let (store, _) = open(&disk);
            disk.fail_every(every);
            let mut expected = Expected::default();
            for &step in &steps {
                expected.step(&disk, &store, step).await?;
            }
            disk.heal();
            let killed = disk.after_kill();
            expected.check(&store).await?;
            drop(store);
            tokio::time::sleep(Duration::from_millis(5)).await;
            expected.check(&open(&killed).0).await
        })?;
    }
}
