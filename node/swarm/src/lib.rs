//! The other nodes: identity and membership, connections, the DHT, streams.
//!
//! | module | concept |
//! | --- | --- |
//! | [`identity`] | this node's key, kept in its data directory |
//! | [`cluster_key`] | the secret that admits nodes to a cluster |
//! | [`transport`] | TCP, and on it the upgrade |
//! | `upgrade` | TLS, proof of membership, yamux |
//! | [`bootstrap`] | where the first peers are found |
//! | `behaviour` | what runs on the connections |
//! | `denial` | dead peers are left alone for a while |
//! | `book` | where peers can be reached, as they or other peers told |
//! | `neighbours` | who is connected, and where they say that they can be reached |
//! | `node` | the task that owns it all |
//! | `announce` | which keys are announced, and when |
//! | `records` | the provider records kept for the cluster |
//! | `closeness` | how close peers are to keys |
//! | [`zone`] | what is near |
//! | `rate` | caps on rates |
//! | `seldom` | warnings that are given once in a while |
//! | `streams` | long-lived streams with bounded queues |
//! | [`handle`] | what the rest of the node asks of it |

mod announce;
mod behaviour;
mod book;
pub mod bootstrap;
mod closeness;
pub mod cluster_key;
mod denial;
pub mod handle;
mod heartbeat;
pub mod identity;
mod neighbours;
mod node;
mod rate;
mod records;
mod seldom;
mod streams;
pub mod transport;
mod upgrade;
pub mod zone;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use shoal_proto::attestation::Attestation;
use shoal_proto::digest::Digest;
use shoal_proto::identity::{Keypair, PeerId};
use shoal_proto::name::{Scope, Tag};
use shoal_proto::swarm::message::{Claim, ClaimAnswer, Report, Standing, SwarmKey};
use shoal_proto::swarm::turn::{AskTurn, TurnAnswer, TurnEnded};
use shoal_proto::tag::SignedTagMapping;
use shoal_proto::verdict::{Question, SignedVerdict};
use shoal_proto::wire::{AskBlob, ChunkRequest, Holding, Refusal, Whereabouts};

pub use handle::{Counters, Handle, Joined};
pub use neighbours::PeerSummary;
pub use node::{StartError, start};
pub use rate::RateCap;

/// When a member asks a node again that keeps no swarms.
const LATER: Duration = Duration::from_secs(1);

/// How this node takes part.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this node is.
    pub keypair: Keypair,
    /// What admits it to a cluster; without one it speaks to peers on loopback only.
    pub cluster_key: Option<cluster_key::ClusterKey>,
    /// Where to listen. Port 0 is any free one; an unspecified IPv6 address means IPv4 as well.
    pub listen: SocketAddr,
    /// Where first peers are found.
    pub bootstrap: Vec<bootstrap::Address>,
    /// How their names become addresses.
    pub resolver: bootstrap::Resolver,
    /// How long a provider record lasts that a peer gave this node. They are repeated each half an hour.
    pub provider_ttl: Duration,
    /// The name of what is near, which peers are told.
    pub zone: Option<String>,
    /// How fast chunks are sent to peers, all together.
    pub upload: RateCap,
    /// How fast chunks are taken from peers, all together.
    pub download: RateCap,
    /// Chunks that are sent at once; who asks for more is told that this node is busy.
    pub upload_slots: usize,
    /// Connections at the most.
    pub max_connections: u32,
}

impl Config {
    /// The usual values: no cluster key, nobody to bootstrap from, the system's resolver.
    pub fn new(keypair: Keypair, listen: SocketAddr) -> Self {
        Self {
            keypair,
            cluster_key: None,
            listen,
            bootstrap: Vec::new(),
            resolver: bootstrap::Resolver::default(),
            provider_ttl: Duration::from_hours(2),
            zone: None,
            upload: RateCap::default(),
            download: RateCap::default(),
            // What a slow link bears is found out.
            upload_slots: 32,
            max_connections: 2048,
        }
    }
}

/// What this node gives to peers. Each answer is waited for at most 10 s.
pub trait Serve: Send + Sync + 'static {
    /// Which chunks of a blob can be asked for. One who follows the blob waits for news, a second at most.
    fn holding(&self, from: PeerId, ask: AskBlob) -> BoxFuture<'static, Holding>;

    /// A member of a swarm reports to this node as the swarm's home. By default it is told to ask later, and goes
    /// elsewhere.
    fn report(
        &self,
        from: PeerId,
        key: SwarmKey,
        report: Report,
    ) -> BoxFuture<'static, (Standing, Whereabouts)> {
        let _ = (from, key, report);
        ready((Standing::Wait(LATER), Whereabouts::new())).boxed()
    }

    /// A node wants a turn at something small. By default it may go.
    fn turn(&self, from: PeerId, ask: AskTurn) -> BoxFuture<'static, (TurnAnswer, Whereabouts)> {
        let _ = (from, ask);
        ready((TurnAnswer::Go(1), Whereabouts::new())).boxed()
    }

    /// A turn that this node gave ended.
    fn turn_ended(&self, from: PeerId, ended: TurnEnded) -> BoxFuture<'static, ()> {
        let _ = (from, ended);
        ready(()).boxed()
    }

    /// A node claims to be a swarm's home. By default nothing speaks against it.
    fn claim(
        &self,
        from: PeerId,
        key: SwarmKey,
        claim: Claim,
    ) -> BoxFuture<'static, (ClaimAnswer, Whereabouts)> {
        let _ = (from, key, claim);
        ready((ClaimAnswer::Granted { epoch: 0, providers: Vec::new() }, Whereabouts::new())).boxed()
    }

    /// A chunk of the blob of this size, and who vouches for it.
    fn chunk(
        &self,
        from: PeerId,
        request: ChunkRequest,
    ) -> BoxFuture<'static, Result<(Bytes, Attestation), Refusal>>;

    /// What this tag was last known to name, newest for each media type; or what was said to the very question `asked`.
    fn tag(&self, scope: Scope, tag: Tag, asked: Option<Digest>)
    -> BoxFuture<'static, Vec<SignedTagMapping>>;

    /// Whether upstream let this reader have this, as far as this node knows.
    fn verdict(&self, question: Question) -> BoxFuture<'static, Option<SignedVerdict>> {
        let _ = question;
        ready(None).boxed()
    }
}

/// Why a chunk did not come.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChunkError {
    /// The peer said no.
    #[error(transparent)]
    Refused(Refusal),
    /// Nothing moved for seconds.
    #[error("the peer has stalled")]
    Stalled,
    /// The peer cannot be reached, or the connection ended.
    #[error("the peer is gone")]
    Gone,
    /// The peer breaks the protocol.
    #[error("the peer breaks the protocol: {0}")]
    Protocol(String),
}

/// Why a question was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AskError {
    /// The peer cannot be reached, the connection ended, or the peer broke the protocol.
    #[error("the peer is gone")]
    Gone,
    /// The answer is to another question.
    #[error("the peer answered something else")]
    Answer,
}

impl From<streams::OpenError> for ChunkError {
    fn from(_: streams::OpenError) -> Self {
        Self::Gone
    }
}

impl From<streams::OpenError> for AskError {
    fn from(_: streams::OpenError) -> Self {
        Self::Gone
    }
}
