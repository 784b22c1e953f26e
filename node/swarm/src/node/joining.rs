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
use crate::bootstrap::{Address, socket_address};
use crate::handle::Shown;
use crate::neighbours::Neighbours;

/// How often a peer that was reached is looked after.
const LOOK: Duration = Duration::from_secs(2);
/// The most addresses of one name that are dialled at a time.
const MAX_DIALS: usize = 32;

struct Place {
    address: Address,
    /// Who was reached there.
    peers: HashSet<PeerId>,
    /// It is this node itself.
    own: bool,
    tried: bool,
    failures: u32,
    next: Instant,
    dials: u32,
    resolving: bool,
}

/// What a name resolved to.
pub(super) struct Resolved {
    place: usize,
    addresses: io::Result<Vec<Multiaddr>>,
}

/// The bootstrap addresses, and how it stands with each.
pub(super) struct Joining {
    places: Vec<Place>,
    dials: HashMap<ConnectionId, usize>,
    resolving: JoinSet<Resolved>,
    joined: JoinedSender,
}

impl Joining {
    pub(super) fn new(addresses: Vec<Address>) -> (Self, watch::Receiver<Joined>) {
        let now = Instant::now();
        let place = |address| Place {
            address,
            peers: HashSet::new(),
            own: false,
            tried: false,
            failures: 0,
            next: now,
            dials: 0,
            resolving: false,
        };
        let places: Vec<Place> = addresses.into_iter().map(place).collect();
        let (joined, watch) = watch::channel(Joined { joined: false, tried: places.is_empty() });
        (Self { places, dials: HashMap::new(), resolving: JoinSet::new(), joined }, watch)
    }

    /// Begins what is due.
    pub(super) fn tick(&mut self, now: Instant, neighbours: &Neighbours) {
        let joined = self.joined.borrow().joined;
        for (index, place) in self.places.iter_mut().enumerate() {
            if place.own || place.resolving || place.dials > 0 || place.next > now {
                continue;
            }
            let reached = place.peers.iter().any(|peer| neighbours.contains(peer));
            if reached && !place.address.stands_for_many() {
                place.next = now + LOOK;
                continue;
            }
            place.resolving = true;
            place.next = now + place.address.again(place.failures, joined);
            let address = place.address.clone();
            self.resolving
                .spawn(async move { Resolved { place: index, addresses: address.resolve().await } });
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

    /// Dials what a name resolved to, except for those who are connected there already.
    pub(super) fn dial(&mut self, found: Resolved, swarm: &mut Swarm<Behaviour>, shown: &Shown) {
        let Some(place) = self.places.get_mut(found.place) else { return };
        place.resolving = false;
        let addresses = match found.addresses {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::info!(bootstrap = %place.address, %error, "the name does not resolve; it is tried again");
                place.failures += 1;
                place.tried = true;
                let joined = self.joined.borrow().joined;
                self.show(joined);
                return;
            }
        };
        let listening = shown.listening.read().unwrap_or_else(PoisonError::into_inner).clone();
        for address in addresses.into_iter().take(MAX_DIALS) {
            let own = socket_address(&address).is_some_and(|address| listening.contains(&address));
            if own || shown.neighbours.at(&address).is_some() {
                place.tried = true;
                place.own |= own && !place.address.stands_for_many();
                continue;
            }
            let opts = DialOpts::from(address);
            let connection = opts.connection_id();
            if swarm.dial(opts).is_ok() {
                place.dials += 1;
                self.dials.insert(connection, found.place);
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
        if let Some(place) = self.ended(connection) {
            place.peers.insert(peer);
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
        let place = self.ended(connection)?;
        let own = match error {
            DialError::LocalPeerId { .. } => true,
            DialError::WrongPeerId { obtained, .. } => *obtained == local,
            _ => false,
        };
        if own {
            place.own = !place.address.stands_for_many();
            return None;
        }
        place.failures += 1;
        Some(place.address.clone())
    }

    fn ended(&mut self, connection: ConnectionId) -> Option<&mut Place> {
        let place = self.places.get_mut(self.dials.remove(&connection)?)?;
        place.dials = place.dials.saturating_sub(1);
        place.tried = true;
        Some(place)
    }

    /// Shows how it stands, to who waits for it.
    pub(super) fn show(&self, joined: bool) {
        let now = Joined { joined, tried: self.places.iter().all(|place| place.tried) };
        self.joined.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}
