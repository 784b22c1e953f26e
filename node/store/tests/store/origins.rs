//! Whose bytes these are.

use shoal_proto::digest::Algorithm;
use shoal_proto::name::Scope;
use shoal_proto::origin::Origin;
use shoal_store::disk::Disk as _;
use shoal_store::disk::memory::MemoryDisk;
use shoal_store::{FinishError, Of, Store, StoreError};

use crate::support::{content, fetch, file_of, of, open, open_again, ours, write};

const SIZE: usize = 1_000_000;

fn theirs(registry: &str, repository: &str, everyones: bool) -> Of {
    let scope = Scope { registry: registry.parse().unwrap(), repository: repository.parse().unwrap() };
    Of { scope, everyones }
}

fn origin(registry: &str) -> Origin {
    Origin::of(&registry.parse().unwrap())
}

#[tokio::test]
async fn a_blob_on_its_way_is_of_one_registry_and_so_is_what_is_held_then() {
    let disk = MemoryDisk::new();
    let bytes = content(1, SIZE);
    let digest = of(Algorithm::Sha256, &bytes);
    let other = || theirs("other.test", "app", true);
    let (store, _) = open(&disk);
    let partial = store.partial(&digest, SIZE as u64, ours()).await.unwrap();
    let refused = async |store: &Store| {
        let opened = store.partial(&digest, SIZE as u64, other()).await;
        assert!(matches!(opened, Err(StoreError::OfAnother(_))), "{opened:?}");
        let put = store.put(&digest, bytes.clone(), other()).await;
        assert!(matches!(put, Err(StoreError::OfAnother(_))), "{put:?}");
    };
    refused(&store).await;
    write(&partial, &bytes, 0).await.unwrap();
    assert!(store.partial(&digest, SIZE as u64, theirs("registry.test", "x", false)).await.is_ok());
    drop((partial, store));

    // A restart does not make it anybody's: who wants it of another registry begins anew.
    let (store, _) = open_again(&disk).await;
    let sizes = async |name: &str| store.partial_size(&digest, &name.parse().unwrap()).await.unwrap();
    assert_eq!((sizes("registry.test").await, sizes("other.test").await), (Some(SIZE as u64), None));
    let partial = store.partial(&digest, SIZE as u64, other()).await.unwrap();
    assert_eq!(partial.have().count_ones(..), 0);
    drop(partial);
    fetch(&store, &digest, &bytes).await.unwrap();
    let whose = store.whose(&digest).await.unwrap();
    assert_eq!((&whose.origins, whose.everyones), (&vec![ours().scope], false));
    assert!(whose.is_of(origin("registry.test")) && !whose.is_of(origin("other.test")));
    drop(store);

    let (store, _) = open_again(&disk).await;
    assert_eq!(store.whose(&digest).await.unwrap(), whose);
    store.remove(&digest).await.unwrap();
    assert!(!store.whose(&digest).await.unwrap().is_known());
}

#[tokio::test]
async fn what_everyone_may_read_is_shared_while_it_comes_and_then() {
    let (store, _) = open(&MemoryDisk::new());
    let bytes = content(1, SIZE);
    let digest = of(Algorithm::Sha256, &bytes);
    let partial = store.partial(&digest, SIZE as u64, ours()).await.unwrap();
    // Not yet, and never for one registry's private repository.
    assert!(store.partial(&digest, SIZE as u64, theirs("other.test", "app", true)).await.is_err());
    store.partial(&digest, SIZE as u64, theirs("registry.test", "public", true)).await.unwrap();
    assert!(store.partial(&digest, SIZE as u64, theirs("other.test", "app", true)).await.is_ok());
    assert!(store.partial(&digest, SIZE as u64, theirs("other.test", "app", false)).await.is_err());
    for chunk in 0..partial.layout().count() {
        write(&partial, &bytes, chunk).await.unwrap();
    }
    partial.finish().await.unwrap();
    assert!(store.whose(&digest).await.unwrap().is_of(origin("any.test")));
}

#[tokio::test]
async fn a_held_blob_that_is_damaged_is_repaired_by_its_own_registry() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let bytes = content(1, SIZE);
    let digest = of(Algorithm::Sha256, &bytes);
    fetch(&store, &digest, &bytes).await.unwrap();
    disk.open(&file_of(&digest)).unwrap().write_all_at(300_000, b"rot").unwrap();
    store.read_chunk(&digest, 1).await.unwrap_err();
    assert_eq!(store.held(&digest).await.unwrap(), None);
    let opened = store.partial(&digest, SIZE as u64, theirs("other.test", "app", true)).await;
    assert!(matches!(opened, Err(StoreError::OfAnother(_))), "{opened:?}");
    // Nor is its size told.
    let sizes = async |name: &str| store.partial_size(&digest, &name.parse().unwrap()).await.unwrap();
    assert_eq!((sizes("registry.test").await, sizes("other.test").await), (Some(SIZE as u64), None));
    let partial = store.partial(&digest, SIZE as u64, ours()).await.unwrap();
    assert_eq!(partial.missing(), [1]);
    assert!(matches!(partial.finish().await, Err(FinishError::Incomplete { missing: 1 })));
}

#[tokio::test]
async fn many_repositories_of_one_registry_leave_room_for_another() {
    let (store, _) = open(&MemoryDisk::new());
    let bytes = content(1, SIZE);
    let digest = of(Algorithm::Sha256, &bytes);
    fetch(&store, &digest, &bytes).await.unwrap();
    for number in 0..20 {
        let of = theirs("registry.test", &format!("app-{number}"), false);
        store.note_origin(&digest, of).await.unwrap();
    }
    store.note_origin(&digest, theirs("other.test", "app", false)).await.unwrap();
    let whose = store.whose(&digest).await.unwrap();
    assert!(whose.is_of(origin("other.test")) && whose.origins.len() == 5, "{whose:?}");
}

/// A small blob needs no partial one: an attempt that is under way when it is held takes nothing away.
#[tokio::test]
async fn an_attempt_that_fails_after_a_small_blob_is_held_takes_nothing_away() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let bytes = content(1, 5_000);
    let digest = of(Algorithm::Sha256, &bytes);
    let lying = store.partial(&digest, 5_000, theirs("other.test", "app", true)).await.unwrap();
    store.put(&digest, bytes.clone(), ours()).await.unwrap();
    write(&lying, &content(2, 5_000), 0).await.unwrap();
    assert!(matches!(lying.finish().await, Err(FinishError::Mismatch { .. })));
    lying.discard().await.unwrap();
    drop((lying, store));
    let (store, _) = open_again(&disk).await;
    assert_eq!(crate::support::whole(&store, &digest).await.unwrap(), bytes);
    assert_eq!(store.whose(&digest).await.unwrap().origins, [ours().scope]);
}
