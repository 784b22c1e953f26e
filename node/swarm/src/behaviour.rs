//! What runs on the connections.

use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::swarm::NetworkBehaviour;
use libp2p::{StreamProtocol, connection_limits, identify, kad};

use crate::book::{self, Book};
use crate::records::Records;
use crate::{Config, denial, heartbeat, streams, zone};

/// Kademlia, under a name of Shoal's own.
const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/shoal/kad/1");
/// What identify calls the protocol; nothing is negotiated by it.
const IDENTIFY_PROTOCOL: &str = "/shoal/identify/1";
/// Connections that may be in the making at once.
const MAX_PENDING: u32 = 256;

/// Everything that speaks on a connection.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) denial: denial::Behaviour,
    pub(crate) book: book::Behaviour,
    pub(crate) kad: kad::Behaviour<Records>,
    pub(crate) identify: identify::Behaviour,
    pub(crate) heartbeat: heartbeat::Behaviour,
    pub(crate) streams: streams::Behaviour,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour").finish_non_exhaustive()
    }
}

impl Behaviour {
    pub(crate) fn new(config: &Config, streams: streams::Behaviour, book: Book) -> Self {
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_PENDING))
            .with_max_pending_outgoing(Some(MAX_PENDING))
            .with_max_established(Some(config.max_connections))
            // Two, not one: when both dial at once, a limit of one could refuse both.
            .with_max_established_per_peer(Some(2));
        Self {
            limits: connection_limits::Behaviour::new(limits),
            denial: denial::Behaviour::default(),
            book: book::Behaviour(book),
            kad: kademlia(config),
            identify: identify::Behaviour::new(
                identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), config.keypair.public())
                    .with_agent_version(zone::agent_version(config.zone.as_deref()))
                    .with_push_listen_addr_updates(true),
            ),
            heartbeat: heartbeat::Behaviour::default(),
            streams,
        }
    }
}

fn kademlia(config: &Config) -> kad::Behaviour<Records> {
    let peer = config.keypair.public().to_peer_id();
    let mut kademlia = kad::Config::new(KAD_PROTOCOL);
    kademlia
        .set_provider_record_ttl(Some(config.provider_ttl))
        // `announce` repeats them, paced; kad would repeat all at once.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_query_timeout(Duration::from_secs(10))
        .set_substreams_timeout(Duration::from_secs(3))
        .set_kbucket_inserts(kad::BucketInserts::OnConnected)
        // Fleets of thousands fit into the local table: it then is the answer to most lookups.
        .set_kbucket_size(NonZeroUsize::new(1024).unwrap_or(kad::K_VALUE));
    let mut kad = kad::Behaviour::with_config(peer, Records::new(peer), kademlia);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}
