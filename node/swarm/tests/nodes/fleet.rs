//! The nodes that the tests are about.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::identity::{Keypair, PeerId};
use shoal_proto::name::{Scope, Tag};
use shoal_proto::origin::Origin;
use shoal_proto::swarm::turn::{AskTurn, TurnAnswer};
use shoal_proto::tag::SignedTagMapping;
use shoal_proto::wire::{AskBlob, ChunkRequest, Holding, Refusal, Whereabouts};
use shoal_swarm::bootstrap::Resolver;
use shoal_swarm::cluster_key::ClusterKey;
use shoal_swarm::{Config, Handle, Serve};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const SIZE: u64 = 3 * 256 * 1024 + 17;

/// Serves blobs from memory, as a test wants it.
pub(crate) struct Blobs {
    keypair: Keypair,
    held: HashMap<Digest, Bytes>,
    /// So many more chunks never come.
    stalls: AtomicUsize,
    /// Questions for turns are never answered.
    mute: bool,
}

impl Blobs {
    pub(crate) fn none() -> Self {
        let (keypair, held) = (Keypair::generate_ed25519(), HashMap::new());
        Self { keypair, held, stalls: AtomicUsize::new(0), mute: false }
    }
}

impl Serve for Blobs {
    fn holding(&self, _: PeerId, ask: AskBlob) -> BoxFuture<'static, Holding> {
        let digest = ask.digest;
        let size = self.held.get(&digest).map(|blob| blob.len() as u64);
        async move { size.map_or(Holding::None, |size| Holding::Complete { size }) }.boxed()
    }

    fn chunk(
        &self,
        _: PeerId,
        ChunkRequest { digest, size, chunk, .. }: ChunkRequest,
    ) -> BoxFuture<'static, Result<(Bytes, Attestation), Refusal>> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.stalls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
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

    fn turn(&self, _: PeerId, _: AskTurn) -> BoxFuture<'static, (TurnAnswer, Whereabouts)> {
        if self.mute {
            return std::future::pending().boxed();
        }
        async { (TurnAnswer::Go(1), Whereabouts::new()) }.boxed()
    }

    fn tag(&self, _: Scope, _: Tag, _: Option<Digest>) -> BoxFuture<'static, Vec<SignedTagMapping>> {
        async { Vec::new() }.boxed()
    }
}

/// The chunk that is asked for.
pub(crate) fn claim(digest: Digest, chunk: u32) -> Claim {
    Claim { digest, size: SIZE, chunk }
}

/// No registry: these nodes do not mind.
pub(crate) fn nobodys() -> Origin {
    Origin::from_bytes([0; Origin::LEN])
}

/// The question what a peer has of a blob now.
pub(crate) fn at_once(digest: Digest) -> AskBlob {
    AskBlob { digest, following: None, round: 0, origin: nobodys() }
}

pub(crate) struct Node {
    pub(crate) handle: Handle,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn address(&self) -> String {
        self.handle.listen_addresses()[0].to_string()
    }

    /// Ends it, as a process does that stops: its connections are closed, its port is free.
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Default)]
pub(crate) struct Wish {
    pub(crate) keypair: Option<Keypair>,
    pub(crate) key: Option<ClusterKey>,
    pub(crate) bootstrap: Vec<String>,
    pub(crate) blobs: Vec<Bytes>,
    pub(crate) stalls: usize,
    pub(crate) mute: bool,
    pub(crate) slots: Option<usize>,
    pub(crate) listen: Option<String>,
    pub(crate) resolver: Resolver,
    pub(crate) provider_ttl: Option<Duration>,
}

pub(crate) async fn node(wish: Wish) -> Node {
    let keypair = wish.keypair.unwrap_or_else(Keypair::generate_ed25519);
    let listen = wish.listen.as_deref().unwrap_or("127.0.0.1:0").parse().unwrap();
    let mut config = Config::new(keypair.clone(), listen);
    config.cluster_key = wish.key;
    config.bootstrap = wish.bootstrap.iter().map(|address| address.parse().unwrap()).collect();
    config.resolver = wish.resolver;
    config.provider_ttl = wish.provider_ttl.unwrap_or(config.provider_ttl);
    config.upload_slots = wish.slots.unwrap_or(config.upload_slots);
    let held = wish.blobs.into_iter().map(|blob| (Digest::sha256_of(&blob), blob)).collect();
    let serve = Blobs { keypair, held, stalls: AtomicUsize::new(wish.stalls), mute: wish.mute };
    let stop = CancellationToken::new();
    let (handle, task) = shoal_swarm::start(config, Arc::new(serve), stop.clone()).await.unwrap();
    Node { handle, stop, task: Some(task) }
}

pub(crate) fn blob() -> Bytes {
    (0..SIZE).map(|n| (n * 7 % 253) as u8).collect::<Vec<_>>().into()
}

pub(crate) async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(Duration::from_secs(20), what, holds).await;
}

pub(crate) async fn until_within(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn joined(node: &Node) {
    let mut joined = node.handle.joined();
    tokio::time::timeout(Duration::from_secs(20), joined.wait_for(|joined| joined.joined))
        .await
        .unwrap()
        .unwrap();
}
