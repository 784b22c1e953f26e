//! The task that owns the libp2p swarm: it turns its events into what the rest of the node sees, and the rest of
//! the node's commands into what libp2p does.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::core::transport::ListenerId;
use libp2p::core::upgrade::Version;
use libp2p::swarm::{ConnectionError, ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, kad, ping};
use shoal_proto::digest::Digest;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod finding;
mod joining;
mod listening;
mod lost;

use crate::announce::Announcer;
use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::book::Book;
use crate::bootstrap::multiaddr;
use crate::closeness;
use crate::handle::{Command, Handle, Shown};
use crate::seldom::Seldom;
use crate::streams::{self, inbound};
use crate::transport::{self, TransportBuildError};
use crate::{Config, Serve, zone};
use finding::Lookup;
use joining::Joining;
use lost::{Ended, Lost};

/// Commands that may wait for the task.
const COMMANDS: usize = 256;
/// Streams that may wait to be opened, or to be served.
const STREAMS: usize = 1024;
/// How often what is due is looked at.
const TICK: Duration = Duration::from_millis(250);

/// While so many connections are being made, lost peers are not dialled.
const MOST_PENDING: u32 = 64;

/// What is said of a peer with another cluster key, and how often at most.
const MISFIT: &str = "nodes of one cluster need one and the same cluster key";
const MISFIT_PAUSE: Duration = Duration::from_mins(1);

/// Why the swarm does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("peer_addr {address} cannot be listened on: {reason}. Choose another, or port 0 for a free one")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// No connection can be secured.
    #[error(transparent)]
    Transport(#[from] TransportBuildError),
}

/// Starts to take part. Returns once peers are listened for; the task ends with `shutdown`.
///
/// # Errors
/// [`StartError`] if the address cannot be listened on.
pub async fn start(
    config: Config,
    serve: Arc<dyn Serve>,
    shutdown: CancellationToken,
) -> Result<(Handle, JoinHandle<()>), StartError> {
    let local = config.keypair.public().to_peer_id();
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (opens, opened) = mpsc::channel(STREAMS);
    let (inbound_streams, to_serve) = mpsc::channel(STREAMS);
    let transport = transport::transport(&config.keypair, config.cluster_key.clone())?;
    let book = Book::default();
    let behaviour = Behaviour::new(&config, streams::Behaviour::new(opened, inbound_streams), book.clone());
    let swarm_config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_hours(24))
        // Without it a stream costs a round trip more, and a frozen peer is found out after the 10 s that a negotiation may
        // take, rather than by its heartbeats.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let swarm = Swarm::new(transport, behaviour, local, swarm_config);
    let shown = Arc::new(Shown::default());
    let (joining, joined) = Joining::new(config.bootstrap.clone(), config.resolver.clone());
    let given = shown.given.clone();
    let mut node = Node {
        swarm,
        shown: shown.clone(),
        inbox,
        joining,
        lost: Lost::default(),
        misfits: Seldom::every(MISFIT_PAUSE),
        announcer: Announcer::new(),
        announcing: HashMap::new(),
        lookups: HashMap::new(),
        listeners: HashMap::new(),
    };
    node.listen(config.listen).await?;
    tracing::info!(peer_id = %local, addresses = ?node.listening(), "listening for peers");
    let Config { upload_slots, upload, download, zone, .. } = config;
    let serving = inbound::run(to_serve, serve, upload_slots, upload, given, shutdown.clone());
    let task = tokio::spawn(async move {
        // Either ends when it is told to, and neither is of use without the other.
        tokio::select! {
            () = node.run(shutdown) => {}
            () = serving => {}
        }
    });
    let links = Arc::default();
    let handle = Handle { local, zone, download, commands, opens, shown, joined, book, links };
    Ok((handle, task))
}

struct Node {
    swarm: Swarm<Behaviour>,
    shown: Arc<Shown>,
    inbox: mpsc::Receiver<Command>,
    joining: Joining,
    lost: Lost,
    misfits: Seldom,
    announcer: Announcer<PeerId>,
    announcing: HashMap<kad::QueryId, Digest>,
    lookups: HashMap<kad::QueryId, Lookup>,
    listeners: HashMap<ListenerId, HashSet<Multiaddr>>,
}

impl Node {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Cancel-safe: each branch only receives.
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.swarm.select_next_some() => self.event(event),
                command = self.inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                found = self.joining.resolved() => self.joining.dial(found, &mut self.swarm, &self.shown),
                _ = tick.tick() => self.tick(),
            }
            self.announce();
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.announcer.tick(now);
        self.joining.tick(now, &self.shown.neighbours);
        // Others want to dial too.
        if self.swarm.network_info().connection_counters().num_pending_outgoing() < MOST_PENDING {
            self.dial_lost(now);
        }
        self.end_abandoned();
        self.sweep(now);
    }

    fn dial_lost(&mut self, now: Instant) {
        for peer in self.lost.due(now) {
            self.swarm.behaviour_mut().denial.lift(&peer);
            match self.swarm.dial(peer) {
                Ok(()) => {}
                Err(DialError::Denied { .. }) => self.lost.not_tried(peer, now),
                Err(error) => tracing::debug!(%peer, error = chain(&error), "a lost peer is not dialled"),
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Announce(key) => self.announcer.add(key, closeness::of_key(&key), Instant::now()),
            Command::Withdraw(key) => self.withdraw(&key),
            Command::Providers { key, found, limit } => self.look_up(&key, found, limit),
            // It fails if the asker has gone.
            Command::LocalProviders { key, reply } => drop(reply.send(self.local_providers(&key))),
        }
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.behaviour_event(event),
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.listeners.entry(listener_id).or_default().insert(address);
                self.addresses_changed();
            }
            SwarmEvent::ExpiredListenAddr { listener_id, address } => {
                if let Some(addresses) = self.listeners.get_mut(&listener_id) {
                    addresses.remove(&address);
                }
                self.addresses_changed();
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                tracing::error!(?reason, "a listener for peers ended");
                self.listeners.remove(&listener_id);
                self.addresses_changed();
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.joining.established(connection_id, peer_id);
                let address = endpoint.get_remote_address().clone();
                self.lost.found(&peer_id);
                if self.shown.neighbours.established(peer_id, address) {
                    self.met(peer_id);
                }
                self.joining.show(true);
            }
            SwarmEvent::ConnectionClosed { peer_id, cause, num_established, .. } => {
                if num_established == 0 {
                    self.disconnected(peer_id, cause);
                }
                self.shown.neighbours.closed(peer_id, num_established);
                self.joining.show(!self.shown.neighbours.is_empty());
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, peer_id, .. } => {
                self.dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                let text = chain(&error);
                if self.is_misfit(&text) {
                    tracing::warn!(from = %send_back_addr, error = text, "a peer was refused: {MISFIT}");
                } else {
                    tracing::info!(from = %send_back_addr, error = text, "a connection was refused");
                }
            }
            _ => {}
        }
    }

    /// The last connection to this peer is gone; without a cause, this node closed it.
    fn disconnected(&mut self, peer: PeerId, cause: Option<ConnectionError>) {
        let lasted = self.shown.neighbours.since(&peer).map_or(Duration::ZERO, |since| since.elapsed());
        let ended = if cause.is_none() { Ended::Silent } else { Ended::ByPeer };
        tracing::debug!(%peer, cause = cause.map(|cause| cause.to_string()), "disconnected");
        self.announcer.lost(peer);
        self.lost.note(peer, ended, lasted, Instant::now());
    }

    /// Whether this is about the cluster key, which an operator has to mend, and was not told of lately.
    fn is_misfit(&mut self, error: &str) -> bool {
        error.contains("cluster key") && self.misfits.is_due(Instant::now())
    }

    fn dial_failed(&mut self, connection: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let local = *self.swarm.local_peer_id();
        if let Some(address) = self.joining.failed(connection, error, local) {
            let text = chain(error);
            if self.is_misfit(&text) {
                tracing::warn!(bootstrap = %address, error = text, "refused: {MISFIT}");
            } else {
                tracing::info!(bootstrap = %address, error = text, "not reached; it is tried again");
            }
        } else {
            tracing::debug!(?peer, error = chain(error), "a dial failed");
        }
        self.joining.show(!self.shown.neighbours.is_empty());
    }

    fn behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.learn_addresses(peer_id, &info.listen_addrs);
                self.shown.neighbours.told_zone(peer_id, zone::told(&info.agent_version));
            }
            BehaviourEvent::Heartbeat(ping::Event { peer, connection, result: Err(error) }) => {
                tracing::info!(%peer, %error, "no heartbeat: disconnecting");
                self.heartbeat_missed(peer, connection);
            }
            BehaviourEvent::Kad(event) => self.kad_event(event),
            _ => {}
        }
    }

    fn heartbeat_missed(&mut self, peer: PeerId, connection: ConnectionId) {
        // One that came back has another connection, which is well.
        if self.shown.neighbours.connections_to(&peer) < 2 {
            self.swarm.behaviour_mut().denial.note(peer);
        }
        self.swarm.close_connection(connection);
    }

    /// What a peer says of itself goes into the routing table, as far as it can be dialled from here.
    fn learn_addresses(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        let told: Vec<Multiaddr> =
            self.shown.neighbours.told(peer, addresses).into_iter().map(multiaddr).collect();
        for address in &told {
            self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
        }
        // Kademlia forgets an address where a dial failed, for good; the peer may be back there.
        self.swarm.behaviour_mut().book.0.add(peer, told);
    }
}

/// An error and what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// Shows whether the node has joined.
pub(crate) type JoinedSender = watch::Sender<crate::Joined>;
