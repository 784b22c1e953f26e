//! Real nodes in one process, on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "a test may")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::identity::Keypair;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::tag::SignedTagMapping;
use shoal_proto::wire::{Holding, Refusal};
use shoal_swarm::cluster_key::ClusterKey;
use shoal_swarm::{ChunkError, Config, Handle, Serve};
use tokio_util::sync::CancellationToken;

const SIZE: u64 = 3 * 256 * 1024 + 17;

/// Serves blobs from memory, as a test wants it.
struct Blobs {
    keypair: Keypair,
    held: HashMap<Digest, Bytes>,
    stalls: bool,
}

impl Serve for Blobs {
    fn holding(&self, digest: Digest) -> BoxFuture<'static, Holding> {
        let size = self.held.get(&digest).map(|blob| blob.len() as u64);
        async move { size.map_or(Holding::None, |size| Holding::Complete { size }) }.boxed()
    }

    fn chunk(
        &self,
        digest: Digest,
        size: u64,
        chunk: u32,
    ) -> BoxFuture<'static, Result<(Bytes, Attestation), Refusal>> {
        if self.stalls {
            return std::future::pending().boxed();
        }
        let given = self.held.get(&digest).map(|blob| {
            let range = ChunkLayout::of(size).unwrap().range(chunk).unwrap();
            let bytes = blob.slice(range.start as usize..range.end as usize);
            let claim = Claim { digest, size, chunk };
            let attestation = Attestation::sign(&self.keypair, &claim, ChunkHash::of(&bytes)).unwrap();
            (bytes, attestation)
        });
        async move { given.ok_or(Refusal::Missing) }.boxed()
    }

    fn tag(&self, _: Scope, _: Tag) -> BoxFuture<'static, Vec<SignedTagMapping>> {
        async { Vec::new() }.boxed()
    }
}

struct Node {
    handle: Handle,
    stop: CancellationToken,
}

impl Node {
    fn address(&self) -> String {
        self.handle.listen_addresses()[0].to_string()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Default)]
struct Wish {
    key: Option<ClusterKey>,
    bootstrap: Vec<String>,
    blobs: Vec<Bytes>,
    stalls: bool,
    listen: Option<&'static str>,
}

async fn node(wish: Wish) -> Node {
    let keypair = Keypair::generate_ed25519();
    let mut config = Config::new(keypair.clone(), wish.listen.unwrap_or("127.0.0.1:0").parse().unwrap());
    config.cluster_key = wish.key;
    config.bootstrap = wish.bootstrap.iter().map(|address| address.parse().unwrap()).collect();
    let held = wish.blobs.into_iter().map(|blob| (Digest::sha256_of(&blob), blob)).collect();
    let serve = Blobs { keypair, held, stalls: wish.stalls };
    let stop = CancellationToken::new();
    let (handle, _) = shoal_swarm::start(config, Arc::new(serve), stop.clone()).await.unwrap();
    Node { handle, stop }
}

fn blob() -> Bytes {
    (0..SIZE).map(|n| (n * 7 % 253) as u8).collect::<Vec<_>>().into()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn joined(node: &Node) {
    let mut joined = node.handle.joined();
    tokio::time::timeout(Duration::from_secs(20), joined.wait_for(|joined| joined.joined))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_over_and_check() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let holder = node(Wish { blobs: vec![blob.clone()], ..Wish::default() }).await;
    let asker = node(Wish { bootstrap: vec![holder.address()], ..Wish::default() }).await;
    joined(&asker).await;
    let peer = holder.handle.local_peer();
    assert_eq!(asker.handle.ask_blob(peer, &digest).await.unwrap(), Holding::Complete { size: SIZE });
    let nothing = Digest::sha256_of(b"nothing");
    assert_eq!(asker.handle.ask_blob(peer, &nothing).await.unwrap(), Holding::None);

    let layout = ChunkLayout::of(SIZE).unwrap();
    // Many at once, more than the pipeline holds: each comes right.
    let mut tasks = tokio::task::JoinSet::new();
    for round in 0..25 {
        let chunk = round % layout.count();
        let asker = asker.handle.clone();
        tasks.spawn(async move { (chunk, asker.chunk(peer, &digest, SIZE, chunk).await) });
    }
    while let Some(done) = tasks.join_next().await {
        let (chunk, given) = done.unwrap();
        let (bytes, attestation) = given.unwrap();
        let range = layout.range(chunk).unwrap();
        assert_eq!(bytes, blob.slice(range.start as usize..range.end as usize));
        attestation.check(&Claim { digest, size: SIZE, chunk }, &bytes).unwrap();
    }
    let missing = asker.handle.chunk(peer, &nothing, SIZE, 0).await;
    assert!(matches!(missing, Err(ChunkError::Refused(Refusal::Missing))), "{missing:?}");
}

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
    let (bytes, _) = asker.handle.chunk(holder_peer, &digest, SIZE, 0).await.unwrap();
    assert_eq!(bytes.len(), 256 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stalls_costs_seconds_and_its_questions_are_still_answered() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let holder = node(Wish { blobs: vec![blob], stalls: true, ..Wish::default() }).await;
    let asker = node(Wish { bootstrap: vec![holder.address()], ..Wish::default() }).await;
    joined(&asker).await;
    let peer = holder.handle.local_peer();
    let began = Instant::now();
    let stalled = asker.handle.chunk(peer, &digest, SIZE, 0).await;
    assert!(matches!(stalled, Err(ChunkError::Stalled)), "{stalled:?}");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(asker.handle.ask_blob(peer, &digest).await.unwrap(), Holding::Complete { size: SIZE });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_goes_is_gone_at_once() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let holder = node(Wish { blobs: vec![blob], stalls: true, ..Wish::default() }).await;
    let asker = node(Wish { bootstrap: vec![holder.address()], ..Wish::default() }).await;
    joined(&asker).await;
    let peer = holder.handle.local_peer();
    let handle = asker.handle.clone();
    let waiting = tokio::spawn(async move { handle.chunk(peer, &digest, SIZE, 0).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    drop(holder);
    let gone = waiting.await.unwrap();
    assert!(matches!(gone, Err(ChunkError::Gone | ChunkError::Stalled)), "{gone:?}");
    assert!(began.elapsed() < Duration::from_secs(8));
    until("noticing that it is gone", async || asker.handle.connected().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_the_key_finds_nobody() {
    let key = ClusterKey::generate();
    let member = node(Wish { key: Some(key.clone()), ..Wish::default() }).await;
    let friend = node(Wish { key: Some(key), bootstrap: vec![member.address()], ..Wish::default() }).await;
    joined(&friend).await;
    for key in [None, Some(ClusterKey::generate())] {
        let stranger = node(Wish { key, bootstrap: vec![member.address()], ..Wish::default() }).await;
        let mut joined = stranger.handle.joined();
        let tried = joined.wait_for(|joined| joined.tried);
        let seen = *tokio::time::timeout(Duration::from_secs(20), tried).await.unwrap().unwrap();
        assert!(!seen.joined);
        assert!(stranger.handle.connected().is_empty());
        let asked = stranger.handle.ask_blob(member.handle.local_peer(), &Digest::sha256_of(b"x")).await;
        assert!(asked.is_err());
    }
    assert_eq!(member.handle.connected().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_node_that_comes_late_is_found() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let early = node(Wish { bootstrap: vec![format!("127.0.0.1:{port}")], ..Wish::default() }).await;
    let mut tried = early.handle.joined();
    tried.wait_for(|joined| joined.tried && !joined.joined).await.unwrap();
    let listen: &'static str = format!("127.0.0.1:{port}").leak();
    let late = node(Wish { listen: Some(listen), ..Wish::default() }).await;
    joined(&early).await;
    drop(late);
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_and_its_own_address_among_the_bootstraps() {
    let first = node(Wish { listen: Some("[::1]:0"), ..Wish::default() }).await;
    let port = std::net::TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    let own: &'static str = format!("[::1]:{port}").leak();
    let second = node(Wish {
        listen: Some(own),
        bootstrap: vec![own.to_owned(), first.address(), format!("localhost:{port}")],
        ..Wish::default()
    })
    .await;
    joined(&second).await;
    assert_eq!(second.handle.connected().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_keys_are_announced() {
    let first = node(Wish::default()).await;
    let second = node(Wish { bootstrap: vec![first.address()], ..Wish::default() }).await;
    joined(&second).await;
    for n in 0..5000_u32 {
        second.handle.announce(Digest::sha256_of(&n.to_be_bytes())).await;
    }
    until("announcing", async || second.handle.counters().announced >= 5000).await;
    // A few of them at the other end, the last among them.
    for n in [0_u32, 2500, 4999] {
        let mut found = first.handle.providers(Digest::sha256_of(&n.to_be_bytes()), 1).await;
        let found = tokio::time::timeout(Duration::from_secs(5), found.recv()).await.unwrap();
        assert_eq!(found, Some(second.handle.local_peer()), "key {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_said() {
    let taken = node(Wish::default()).await;
    let config = Config::new(Keypair::generate_ed25519(), taken.address().parse().unwrap());
    let serve = Blobs { keypair: Keypair::generate_ed25519(), held: HashMap::new(), stalls: false };
    let error = shoal_swarm::start(config, Arc::new(serve), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("port 0"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pipeline_does_not_wait_for_itself() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let holder = node(Wish { blobs: vec![blob], ..Wish::default() }).await;
    let asker = node(Wish { bootstrap: vec![holder.address()], ..Wish::default() }).await;
    joined(&asker).await;
    let peer = holder.handle.local_peer();
    let began = Instant::now();
    for _ in 0..20 {
        let all = (0..64).map(|n| {
            let asker = asker.handle.clone();
            async move { asker.chunk(peer, &digest, SIZE, n % 4).await }
        });
        for given in futures::future::join_all(all).await {
            assert!(given.is_ok(), "{:?}", given.err());
        }
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
