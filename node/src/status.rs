//! What a node says of itself: the admin API's `GET /status`, and `shoal status`, which shows it to people.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_proto::digest::Digest;

use crate::cli;
use crate::cli::local::LocalNode;
use crate::clock;
use crate::config::{self, Environment, Listener};
use crate::savings::Savings;

mod render;
#[cfg(test)]
mod tests;

/// A status is small; one that takes longer comes from a node in trouble.
const SILENCE: Duration = Duration::from_secs(10);

/// What a node says of itself, as JSON on the admin API. Fields may be added, never renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of `shoal` that runs.
    pub version: String,
    /// The node's identity on the peer network.
    pub peer_id: String,
    /// Where its gateway listens, `IP:PORT`.
    pub gateway_addr: String,
    /// Where it listens for peers.
    pub peer_addrs: Vec<String>,
    /// Its zone, if it was given one.
    pub zone: Option<String>,
    /// How long it has been running, in seconds.
    pub uptime_seconds: u64,
    /// Whether it serves and has found its peers, as `/readyz` says.
    pub ready: bool,
    /// The peers that it is connected to.
    pub peers: Vec<PeerLine>,
    /// What it holds.
    pub store: StoreLine,
    /// What it got since it started, by where that came from.
    pub traffic: Traffic,
    /// What it spared its registries since it began to count: a new database begins anew.
    #[serde(default)]
    pub savings: Savings,
    /// Clients that its rules sent to upstream since it started.
    #[serde(default)]
    pub sent_past: SentPast,
    /// How many requests registries still allow, of those that say so.
    #[serde(default)]
    pub allowances: Vec<AllowanceLine>,
    /// Bytes given to peers since it started.
    pub uploaded_bytes: u64,
    /// How many keys it has announced to the peer network, of blobs and of tags, each counted once.
    pub announced: u64,
    /// The blobs that it is fetching now.
    pub pulls: Vec<PullLine>,
    /// The swarms that it keeps: of blobs that several nodes are fetching now.
    #[serde(default)]
    pub swarms: Vec<SwarmLine>,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLine {
    /// Its identity.
    pub peer_id: String,
    /// The address of the connection.
    pub address: String,
    /// For how long, in seconds.
    pub connected_seconds: u64,
    /// Its zone, if it says so.
    #[serde(default)]
    pub zone: Option<String>,
}

/// What a node holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreLine {
    /// Blobs whose digest is proven, manifests among them.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs of which a part is here.
    pub partials: u64,
    /// The bytes of those parts.
    pub partial_bytes: u64,
}

/// What a node got, by where it came from: read from its store for clients, received from peers and registries for
/// clients and for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// From this node's own store.
    pub store: Source,
    /// From other nodes.
    pub peer: Source,
    /// From upstream registries.
    pub upstream: Source,
}

/// One source of what a node got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Requests that it had a part in.
    pub requests: u64,
    /// Bytes from it.
    pub bytes: u64,
}

/// Requests that this node did not serve because of a rule, so that the client asked upstream itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentPast {
    /// Not for everyone, and the client sent no credentials.
    pub no_credentials: u64,
    /// Not for everyone, and upstream did not accept the client's credentials.
    pub wrong_credentials: u64,
    /// A rule, or credentials that cannot be had, keep this node from asking the registry.
    pub registry: u64,
}

/// How many requests a registry still allows, as it last said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowanceLine {
    /// The registry.
    pub registry: String,
    /// How many are left.
    pub remaining: u64,
    /// Of how many, if it says so.
    pub limit: Option<u64>,
    /// Within how many seconds, if it says so.
    pub window_seconds: Option<u64>,
}

/// A blob that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullLine {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How many of them are here.
    pub have_bytes: u64,
}

/// A swarm that the node keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmLine {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// Whether this node is the swarm's home, which says who may ask upstream; else it stands by for it.
    pub home: bool,
    /// The nodes that fetch or hold the blob, as far as they are kept track of.
    pub members: usize,
    /// The ranges that are being fetched from upstream now.
    pub leases: usize,
}

/// What `shoal status` may be told.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Where the node's admin API listens (or `SHOAL_ADMIN_ADDR`) [default: 127.0.0.1:5057].
    #[arg(long, value_name = "IP:PORT")]
    pub admin_addr: Option<String>,
    /// Print the node's answer as JSON.
    #[arg(long)]
    pub json: bool,
    /// Print nothing and exit with 0 if the node is ready, with 1 if it is not or does not answer: for health checks.
    #[arg(long, conflicts_with = "json")]
    pub ready: bool,
}

/// `shoal status`.
///
/// # Errors
/// If no node answers, or something that is no node; with `--ready`, if it is not ready.
pub async fn run(options: Options, environment: &Environment) -> anyhow::Result<()> {
    let address = config::address_of(Listener::Admin, options.admin_addr.as_deref(), environment)?;
    let status = ask(&LocalNode::new(address, "--admin-addr", SILENCE)?).await?;
    if options.ready {
        anyhow::ensure!(
            status.ready,
            "the node at {address} is not ready: its gateway does not serve, or it has neither joined a peer nor tried \
             every bootstrap address yet"
        );
        return Ok(());
    }
    let text = if options.json {
        format!("{}\n", serde_json::to_string_pretty(&status)?)
    } else {
        render::for_people(&status, clock::unix_seconds())
    };
    cli::print(&text)
}

/// Asks a node for its status.
async fn ask(node: &LocalNode) -> anyhow::Result<Status> {
    node.admin_answer(node.get("/status"), "a status").await
}
