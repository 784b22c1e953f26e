//! Announcing, and finding what was announced.

use std::time::Duration;

use rand::RngExt as _;
use shoal_proto::digest::Digest;
use shoal_proto::identity::Keypair;
use shoal_proto::wire::Holding;

use crate::fleet::{SIZE, Wish, at_once, blob, claim, joined, nobodys, node, until, until_within};

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_found_through_a_third_node() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let middle = node(Wish::default()).await;
    let holder = node(Wish { bootstrap: vec![middle.address()], blobs: vec![blob], ..Wish::default() }).await;
    // Announced before anyone is known: it is announced again.
    holder.handle.announce(digest).await;
    let asker = node(Wish { bootstrap: vec![middle.address()], ..Wish::default() }).await;
    joined(&holder).await;
    joined(&asker).await;
    let holder_peer = holder.handle.local_peer();
    until("finding the provider", async || {
        let mut found = asker.handle.providers(digest, 10).await;
        while let Ok(Some(peer)) = tokio::time::timeout(Duration::from_secs(1), found.recv()).await {
            if peer == holder_peer {
                return true;
            }
        }
        false
    })
    .await;
    let (bytes, _) = asker.handle.chunk(holder_peer, claim(digest, 0), nobodys()).await.unwrap();
    assert_eq!(bytes.len(), 256 * 1024);
}

/// Announces so many keys on one of six nodes, and checks that the others have all, and find them.
///
/// The failure to look for is silent: too many announcements at once are reported as made, and most are lost.
async fn none_of_many_announcements_is_lost(count: u32, sample: usize, patience: Duration) {
    let key = |n: u32| Digest::sha256_of(&n.to_be_bytes());
    let first = node(Wish::default()).await;
    let others = [0; 5].map(|_| node(Wish { bootstrap: vec![first.address()], ..Wish::default() }));
    let others = futures::future::join_all(others).await;
    until("knowing each other", async || others.iter().all(|node| node.handle.connected().len() == 5)).await;
    // A peer that has just come is told all again: that would make good what was lost.
    tokio::time::sleep(Duration::from_secs(7)).await;
    for n in 0..count {
        first.handle.announce(key(n)).await;
    }
    let announced = async || first.handle.counters().announced >= u64::from(count);
    until_within(patience, "announcing", announced).await;
    for other in &others {
        let kept = async || other.handle.counters().keys_kept == u64::from(count);
        until("keeping each", kept).await;
    }
    assert_eq!(first.handle.counters().announced, u64::from(count));

    let mut rng = rand::rng();
    for _ in 0..sample {
        let n = rng.random_range(0..count);
        let other = &others[rng.random_range(0..others.len())].handle;
        let mut found = other.providers(key(n), 1).await;
        let found = tokio::time::timeout(Duration::from_secs(5), found.recv()).await.unwrap();
        assert_eq!(found, Some(first.handle.local_peer()), "key {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_a_thousand_announcements_is_lost() {
    none_of_many_announcements_is_lost(1000, 100, Duration::from_mins(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: cargo test --release -p shoal-swarm -- --ignored"]
async fn none_of_five_thousand_announcements_is_lost() {
    none_of_many_announcements_is_lost(5000, 500, Duration::from_mins(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_another_told_of_is_reached() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let teller = node(Wish::default()).await;
    let holder = node(Wish { bootstrap: vec![teller.address()], blobs: vec![blob], ..Wish::default() }).await;
    let peer = holder.handle.local_peer();
    assert!(teller.handle.addresses_of(peer).is_empty());
    until("saying where it is", async || !teller.handle.addresses_of(peer).is_empty()).await;
    let told = teller.handle.addresses_of(peer);

    // It knows nobody, and is told.
    let asker = node(Wish::default()).await;
    let mut connections = asker.handle.connections();
    assert!(asker.handle.ask_blob(peer, at_once(digest)).await.is_err());
    asker.handle.add_addresses(peer, &told);
    assert_eq!(asker.handle.ask_blob(peer, at_once(digest)).await.unwrap(), Holding::Complete { size: SIZE });
    assert!(connections.has_changed().unwrap());
    connections.mark_unchanged();
    holder.end().await;
    tokio::time::timeout(Duration::from_secs(10), connections.changed()).await.unwrap().unwrap();
    assert!(asker.handle.connected().is_empty() && asker.handle.addresses_of(peer).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_that_announced_here_are_known_without_asking() {
    let key = Digest::sha256_of(b"key");
    let home = node(Wish::default()).await;
    let nodes = [0; 3].map(|_| node(Wish { bootstrap: vec![home.address()], ..Wish::default() }));
    let nodes = futures::future::join_all(nodes).await;
    assert!(home.handle.local_providers(key).await.is_empty());
    home.handle.announce(key).await;
    for node in &nodes {
        joined(node).await;
        node.handle.announce(key).await;
    }
    let mut expected: Vec<_> = nodes.iter().map(|node| node.handle.local_peer()).collect();
    expected.sort();
    until("being told", async || {
        let mut providers = home.handle.local_providers(key).await;
        providers.sort();
        providers == expected
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_restarts_is_told_again() {
    let key = Digest::sha256_of(b"key");
    let keypair = Keypair::generate_ed25519();
    let seed = node(Wish::default()).await;
    let holder = node(Wish { bootstrap: vec![seed.address()], ..Wish::default() }).await;
    let wish = |listen| Wish {
        keypair: Some(keypair.clone()),
        listen,
        bootstrap: vec![seed.address(), holder.address()],
        ..Wish::default()
    };
    let mut home = node(wish(None)).await;
    let address = home.address();
    holder.handle.announce(key).await;
    for _ in 0..3 {
        joined(&home).await;
        until("being told", async || home.handle.local_providers(key).await == [holder.handle.local_peer()])
            .await;
        home.end().await;
        home = node(wish(Some(address.clone()))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_forgotten_when_their_time_is_over() {
    let ttl = Duration::from_secs(3);
    let home = node(Wish { provider_ttl: Some(ttl), ..Wish::default() }).await;
    let holder = node(Wish { bootstrap: vec![home.address()], ..Wish::default() }).await;
    joined(&holder).await;
    home.handle.announce(Digest::sha256_of(b"own")).await;
    for n in 0..100_u32 {
        holder.handle.announce(Digest::sha256_of(&n.to_be_bytes())).await;
    }
    until("keeping what it is told", async || home.handle.counters().keys_kept == 101).await;
    drop(holder);
    until("forgetting it", async || home.handle.counters().keys_kept == 1).await;
}
