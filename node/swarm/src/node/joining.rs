//! Finding the first peers, and again when they are lost.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::JoinedSender;
use crate::Joined;
use crate::behaviour::Behaviour;
use crate::bootstrap::{Address, Resolver, socket_address};
use crate::handle::Shown;
use crate::neighbours::Neighbours;

/// How often a peer that was reached is looked after.
const LOOK: Duration = Duration::from_secs(2);
/// How soon a place is looked at again whose peer may just have connected from there.
const SOON: Duration = Duration::from_secs(1);
/// The most addresses of one name that are dialled at a time.
const MAX_DIALS: usize = 32;

struct Place {
    address: Address,
    /// Who was reached there, at which of its addresses; this node is one of those.
    reached: HashMap<Multiaddr, PeerId>,
    /// It is this node itself.
    own: bool,
    tried: bool,
    failures: u32,
    next: Instant,
    dials: u32,
    resolving: bool,
}

impl Place {
    /// Which of the addresses it stands for now lead to a node that is not connected, as far as is known.
    fn unknown(&mut self, addresses: Vec<Multiaddr>, local: PeerId, shown: &Shown) -> Vec<Multiaddr> {
        let now: HashSet<&Multiaddr> = addresses.iter().collect();
        self.reached.retain(|address, _| now.contains(address));
        let listening = shown.listening.read().unwrap_or_else(PoisonError::into_inner).clone();
        let whereabouts = shown.neighbours.whereabouts();
        let mut unknown = Vec::new();
        for address in addresses {
            let socket = socket_address(&address);
            let own = socket.is_some_and(|socket| listening.contains(&socket));
            let there = socket.and_then(|socket| whereabouts.peers.get(&socket)).copied();
            if let Some(peer) = there.or_else(|| own.then_some(local)) {
                self.reached.insert(address.clone(), peer);
            }
            let reached = self.reached.get(&address);
            if reached.is_some_and(|peer| *peer == local || shown.neighbours.contains(peer)) {
                self.tried = true;
                self.own |= reached == Some(&local) && !self.address.stands_for_many();
            } else if socket.is_some_and(|socket| whereabouts.unsaid.contains(&socket.ip())) {
                // It may be the one that is about to say so.
                self.next = self.next.min(Instant::now() + SOON);
            } else {
                unknown.push(address);
            }
        }
        unknown
    }
}

/// What a name resolved to.
pub(super) struct Resolved {
    place: usize,
    addresses: io::Result<Vec<Multiaddr>>,
}

/// The bootstrap addresses, and how it stands with each.
pub(super) struct Joining {
    places: Vec<Place>,
    dials: HashMap<ConnectionId, (usize, Multiaddr)>,
    resolver: Resolver,
    resolving: JoinSet<Resolved>,
    joined: JoinedSender,
}

impl Joining {
    pub(super) fn new(addresses: Vec<Address>, resolver: Resolver) -> (Self, watch::Receiver<Joined>) {
        let now = Instant::now();
        let place = |address| Place {
            address,
            reached: HashMap::new(),
            own: false,
            tried: false,
            failures: 0,
            next: now,
            dials: 0,
            resolving: false,
        };
        let places: Vec<Place> = addresses.into_iter().map(place).collect();
        let (joined, watch) = watch::channel(Joined { joined: false, tried: places.is_empty() });
        (Self { places, dials: HashMap::new(), resolver, resolving: JoinSet::new(), joined }, watch)
    }

    /// Begins what is due.
    pub(super) fn tick(&mut self, now: Instant, neighbours: &Neighbours) {
        let joined = self.joined.borrow().joined;
        for (index, place) in self.places.iter_mut().enumerate() {
            if place.own || place.resolving || place.dials > 0 || place.next > now {
                continue;
            }
            let reached = place.reached.values().any(|peer| neighbours.contains(peer));
            if reached && !place.address.stands_for_many() {
                place.next = now + LOOK;
                continue;
            }
            place.resolving = true;
            place.next = now + place.address.again(&self.resolver, place.failures, joined);
            let (address, resolver) = (place.address.clone(), self.resolver.clone());
            self.resolving
                .spawn(async move { Resolved { place: index, addresses: address.resolve(&resolver).await } });
        }
    }

    /// The next name that was looked up. Never resolves while none is. Cancel-safe.
    pub(super) async fn resolved(&mut self) -> Resolved {
        loop {
            match self.resolving.join_next().await {
                Some(Ok(resolved)) => return resolved,
                Some(Err(error)) => tracing::error!(%error, "a lookup died"),
                None => std::future::pending().await,
            }
        }
    }

    /// Dials what a name resolved to, except for those who are connected already, whoever dialled whom.
    pub(super) fn dial(&mut self, found: Resolved, swarm: &mut Swarm<Behaviour>, shown: &Shown) {
        let Some(place) = self.places.get_mut(found.place) else { return };
        place.resolving = false;
        let unknown = match found.addresses {
            Ok(addresses) => place.unknown(addresses, *swarm.local_peer_id(), shown),
            Err(error) => {
                tracing::info!(bootstrap = %place.address, %error, "the name does not resolve; it is tried again");
                place.failures += 1;
                place.tried = true;
                Vec::new()
            }
        };
        for address in unknown.into_iter().take(MAX_DIALS) {
            let opts = DialOpts::from(address.clone());
            let connection = opts.connection_id();
            if swarm.dial(opts).is_ok() {
                place.dials += 1;
                self.dials.insert(connection, (found.place, address));
            } else {
                // The peer is connected, dialled, or was dead a moment ago.
                place.tried = true;
            }
        }
        let joined = self.joined.borrow().joined;
        self.show(joined);
    }

    /// A connection stands; it may be one of those dialled here.
    pub(super) fn established(&mut self, connection: ConnectionId, peer: PeerId) {
        if let Some((place, address)) = self.ended(connection) {
            place.reached.insert(address, peer);
            place.failures = 0;
        }
    }

    /// A dial failed; says for which bootstrap address, unless that is this node itself.
    pub(super) fn failed(
        &mut self,
        connection: ConnectionId,
        error: &DialError,
        local: PeerId,
    ) -> Option<Address> {
        let (place, address) = self.ended(connection)?;
        let own = match error {
            DialError::LocalPeerId { .. } => true,
            DialError::WrongPeerId { obtained, .. } => *obtained == local,
            _ => false,
        };
        if own {
            place.own = !place.address.stands_for_many();
            place.reached.insert(address, local);
            return None;
        }
        if matches!(error, DialError::Denied { .. }) {
            // Refused here: there are connections enough.
            return None;
        }
        place.failures += 1;
        Some(place.address.clone())
    }

    fn ended(&mut self, connection: ConnectionId) -> Option<(&mut Place, Multiaddr)> {
        let (place, address) = self.dials.remove(&connection)?;
        let place = self.places.get_mut(place)?;
        place.dials = place.dials.saturating_sub(1);
        place.tried = true;
        Some((place, address))
    }

    /// Shows how it stands, to who waits for it.
    pub(super) fn show(&self, joined: bool) {
        let now = Joined { joined, tried: self.places.iter().all(|place| place.tried) };
        self.joined.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}
