//! The task that owns the libp2p swarm: it turns its events into what the rest of the node sees, and the rest of
//! the node's commands into what libp2p does.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::core::transport::ListenerId;
use libp2p::core::upgrade::Version;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, TransportError, identify, kad, ping};
use shoal_proto::digest::Digest;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod joining;

use crate::announce::Announcer;
use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::bootstrap::{multiaddr, socket_address};
use crate::handle::{Command, Handle, PeerSummary, Shown};
use crate::streams::{self, inbound};
use crate::transport::{self, TransportBuildError};
use crate::{Config, Serve};
use joining::Joining;

/// Commands that may wait for the task.
const COMMANDS: usize = 256;
/// Streams that may wait to be opened, or to be served.
const STREAMS: usize = 1024;
/// How often what is due is looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long a listener may take to say where it listens.
const LISTENING: Duration = Duration::from_secs(5);
/// Lookups that may run at once.
const MAX_LOOKUPS: usize = 512;

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
    let behaviour = Behaviour::new(&config, streams::Behaviour::new(opened, inbound_streams));
    let swarm_config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_hours(24))
        // Without it a stream costs a round trip more, and a frozen peer is found out in 11 s rather than 2.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let swarm = Swarm::new(transport, behaviour, local, swarm_config);
    let shown = Arc::new(Shown::default());
    let (joining, joined) = Joining::new(config.bootstrap.clone());
    let given = shown.given.clone();
    let mut node = Node {
        swarm,
        shown: shown.clone(),
        inbox,
        joining,
        announcer: Announcer::default(),
        announcing: HashSet::new(),
        lookups: HashMap::new(),
        connections: HashMap::new(),
        listeners: HashMap::new(),
        known_peers: 0,
    };
    node.listen(config.listen).await?;
    tracing::info!(peer_id = %local, addresses = ?node.listening(), "listening for peers");
    let serving = inbound::run(to_serve, serve, config.upload_slots, given, shutdown.clone());
    let task = tokio::spawn(async move {
        tokio::join!(node.run(shutdown), serving);
    });
    let handle = Handle { local, commands, opens, shown, joined, links: Arc::default() };
    Ok((handle, task))
}

struct Connection {
    address: Multiaddr,
    since: Instant,
    count: u32,
}

struct Lookup {
    found: mpsc::Sender<PeerId>,
    limit: usize,
    seen: HashSet<PeerId>,
}

struct Node {
    swarm: Swarm<Behaviour>,
    shown: Arc<Shown>,
    inbox: mpsc::Receiver<Command>,
    joining: Joining,
    announcer: Announcer,
    announcing: HashSet<kad::QueryId>,
    lookups: HashMap<kad::QueryId, Lookup>,
    connections: HashMap<PeerId, Connection>,
    listeners: HashMap<ListenerId, HashSet<Multiaddr>>,
    known_peers: usize,
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
        self.joining.tick(now, |peer| self.connections.contains_key(&peer));
        let abandoned: Vec<_> =
            self.lookups.iter().filter(|(_, lookup)| lookup.found.is_closed()).map(|(&id, _)| id).collect();
        for id in abandoned {
            self.end_lookup(id);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Announce(key) => self.announcer.add(key),
            Command::Withdraw(key) => {
                self.announcer.remove(&key);
                self.swarm.behaviour_mut().kad.stop_providing(&record_key(&key));
            }
            Command::Providers { key, found, limit } => {
                if self.lookups.len() >= MAX_LOOKUPS {
                    // Dropping `found` says that nobody was found: the DHT is only one of the ways.
                    tracing::debug!(%key, "too many lookups at once: one is not made");
                    return;
                }
                let id = self.swarm.behaviour_mut().kad.get_providers(record_key(&key));
                self.lookups.insert(id, Lookup { found, limit, seen: HashSet::new() });
            }
        }
    }

    fn announce(&mut self) {
        while let Some(key) = self.announcer.next(Instant::now()) {
            match self.swarm.behaviour_mut().kad.start_providing(record_key(&key)) {
                Ok(id) => {
                    self.announcing.insert(id);
                }
                Err(error) => {
                    tracing::warn!(%key, %error, "cannot be announced");
                    self.announcer.ended(false);
                }
            }
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
                let address = endpoint.get_remote_address().clone();
                self.connections
                    .entry(peer_id)
                    .or_insert_with(|| Connection { address, since: Instant::now(), count: 0 })
                    .count += 1;
                self.joining.established(connection_id, peer_id);
                self.connections_changed();
            }
            SwarmEvent::ConnectionClosed { peer_id, cause, num_established, .. } => {
                if num_established == 0 {
                    tracing::debug!(peer = %peer_id, cause = cause.map(|cause| cause.to_string()), "disconnected");
                    self.connections.remove(&peer_id);
                } else if let Some(connection) = self.connections.get_mut(&peer_id) {
                    connection.count = num_established;
                }
                self.connections_changed();
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, peer_id, .. } => {
                self.dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::info!(from = %send_back_addr, error = chain(&error), "a connection was refused");
            }
            _ => {}
        }
    }

    fn dial_failed(
        &mut self,
        connection: libp2p::swarm::ConnectionId,
        peer: Option<PeerId>,
        error: &DialError,
    ) {
        let local = *self.swarm.local_peer_id();
        if let Some(address) = self.joining.failed(connection, error, local) {
            tracing::info!(bootstrap = %address, error = chain(error), "not reached; it is tried again");
        } else {
            tracing::debug!(?peer, error = chain(error), "a dial failed");
        }
        self.joining.show(!self.connections.is_empty());
    }

    fn behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.learn_addresses(peer_id, info.listen_addrs);
            }
            BehaviourEvent::Ping(ping::Event { peer, connection, result: Err(error) }) => {
                tracing::info!(%peer, %error, "no heartbeat: disconnecting");
                // One that came back has another connection, which is well.
                if self.connections.get(&peer).is_none_or(|connection| connection.count < 2) {
                    self.swarm.behaviour_mut().denial.note(peer);
                }
                self.swarm.close_connection(connection);
            }
            BehaviourEvent::Kad(event) => self.kad_event(event),
            _ => {}
        }
    }

    fn kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::RoutingUpdated { is_new_peer: true, .. } => {
                self.announcer.met(self.known_peers, Instant::now());
                self.known_peers += 1;
            }
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                match result {
                    kad::QueryResult::StartProviding(result) if self.announcing.remove(&id) => {
                        self.announcer.ended(result.is_ok());
                        self.shown.announced.store(self.announcer.announced(), Ordering::Relaxed);
                    }
                    kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders {
                        providers,
                        ..
                    })) => self.found(id, providers),
                    _ => {}
                }
                if step.last {
                    self.lookups.remove(&id);
                }
            }
            _ => {}
        }
    }

    fn found(&mut self, id: kad::QueryId, providers: HashSet<PeerId>) {
        let local = *self.swarm.local_peer_id();
        let Some(lookup) = self.lookups.get_mut(&id) else { return };
        let mut ended = false;
        for peer in providers {
            if peer == local || !lookup.seen.insert(peer) {
                continue;
            }
            if !self.connections.contains_key(&peer) {
                // The address is known only while the lookup runs. It fails if a dial is under way, which is
                // as good.
                self.swarm.dial(DialOpts::peer_id(peer).build()).ok();
            }
            ended |= lookup.found.try_send(peer).is_err() || lookup.seen.len() >= lookup.limit;
        }
        if ended {
            self.end_lookup(id);
        }
    }

    fn end_lookup(&mut self, id: kad::QueryId) {
        self.lookups.remove(&id);
        if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
            query.finish();
        }
    }

    /// What a peer says of itself goes into the routing table, as far as it can be dialled from here.
    fn learn_addresses(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let Some(connection) = self.connections.get(&peer) else { return };
        let from_here = socket_address(&connection.address).is_some_and(|address| address.ip().is_loopback());
        for address in addresses.into_iter().take(16) {
            let Some(socket) = socket_address(&address) else { continue };
            let ip = socket.ip();
            let link_local = match ip {
                std::net::IpAddr::V4(ip) => ip.is_link_local(),
                std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            if !ip.is_unspecified() && !link_local && (from_here || !ip.is_loopback()) {
                self.swarm.behaviour_mut().kad.add_address(&peer, address);
            }
        }
    }

    fn connections_changed(&mut self) {
        let summaries = self.connections.iter().map(|(&peer, connection)| PeerSummary {
            peer,
            address: connection.address.clone(),
            since: connection.since,
        });
        *self.shown.connected.write().unwrap_or_else(PoisonError::into_inner) = summaries.collect();
        self.joining.show(!self.connections.is_empty());
    }

    fn listening(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self
            .listeners
            .values()
            .flatten()
            .filter_map(socket_address)
            .collect::<HashSet<_>>()
            .into_iter()
            .collect();
        addresses.sort();
        addresses
    }

    /// Tells peers where this node is. Loopback only if that is all there is.
    fn addresses_changed(&mut self) {
        let listening = self.listening();
        let only_loopback = listening.iter().all(|address| address.ip().is_loopback());
        let told = listening.iter().filter(|address| only_loopback || !address.ip().is_loopback());
        let told: HashSet<Multiaddr> = told.map(|&address| multiaddr(address)).collect();
        let before: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        for gone in before.iter().filter(|address| !told.contains(address)) {
            self.swarm.remove_external_address(gone);
        }
        for address in told.iter().filter(|address| !before.contains(address)) {
            self.swarm.add_external_address(address.clone());
        }
        *self.shown.listening.write().unwrap_or_else(PoisonError::into_inner) = listening;
    }

    async fn listen(&mut self, wanted: SocketAddr) -> Result<(), StartError> {
        let failed = |reason: String| StartError::Listen { address: wanted, reason };
        // libp2p's listeners share their port (SO_REUSEPORT): two nodes would each get half of the connections. A
        // socket that does not share finds out whether the port is free.
        if let Err(error) = std::net::TcpListener::bind(wanted)
            && error.kind() == std::io::ErrorKind::AddrInUse
        {
            return Err(failed(error.to_string()));
        }
        let first = self.listen_on(wanted).await;
        if wanted.is_ipv4() || !wanted.ip().is_unspecified() {
            return first.map(|_| ()).map_err(failed);
        }
        // libp2p's IPv6 sockets are for IPv6 only: IPv4 is a second listener, on the same port. One of the two is
        // enough: a host may lack either.
        let port = first.as_ref().map_or_else(|_| wanted.port(), SocketAddr::port);
        let second = self.listen_on(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).await;
        match (first, second) {
            (Err(reason), Err(_)) => Err(failed(reason)),
            _ => Ok(()),
        }
    }

    /// Listens, and waits until the system says where.
    async fn listen_on(&mut self, address: SocketAddr) -> Result<SocketAddr, String> {
        let listener = self.swarm.listen_on(multiaddr(address)).map_err(|error| match error {
            TransportError::MultiaddrNotSupported(_) => "not an address that can be listened on".to_owned(),
            TransportError::Other(error) => chain(&error),
        })?;
        let listening = async {
            loop {
                let event = self.swarm.select_next_some().await;
                if let SwarmEvent::ListenerClosed { listener_id, reason, .. } = &event
                    && *listener_id == listener
                {
                    return Err(reason
                        .as_ref()
                        .err()
                        .map_or_else(|| "it closed".to_owned(), |error| chain(error)));
                }
                self.event(event);
                let said = self.listeners.get(&listener).and_then(|addresses| addresses.iter().next());
                if let Some(address) = said.and_then(socket_address) {
                    return Ok(address);
                }
            }
        };
        match tokio::time::timeout(LISTENING, listening).await {
            Ok(result) => result,
            Err(_) => Err(format!("the system did not say where within {} s", LISTENING.as_secs())),
        }
    }
}

fn record_key(key: &Digest) -> kad::RecordKey {
    kad::RecordKey::from(key.multihash())
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
