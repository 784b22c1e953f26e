//! Announcing on the DHT, and finding there.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use libp2p::kad::store::RecordStore as _;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{PeerId, kad};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use shoal_proto::digest::Digest;
use tokio::sync::mpsc;

use super::Node;
use crate::announce::SETTLES;
use crate::closeness;

/// Lookups that may run at once.
const MAX_LOOKUPS: usize = 512;
/// Providers named of those that announced a key to this node.
const MAX_LOCAL: usize = 20;

/// A search for providers that runs.
pub(super) struct Lookup {
    found: mpsc::Sender<PeerId>,
    limit: usize,
    seen: HashSet<PeerId>,
}

impl Node {
    pub(super) fn announce(&mut self) {
        let now = Instant::now();
        while let Some(key) = self.announcer.next(now) {
            match self.swarm.behaviour_mut().kad.start_providing(record_key(&key)) {
                Ok(id) => {
                    self.announcing.insert(id, key);
                }
                Err(error) => {
                    tracing::warn!(%key, %error, "cannot be announced");
                    self.announcer.ended(key, false, now);
                }
            }
        }
    }

    /// A peer has connected that was not: what it was told before may be lost, or it was told nothing yet.
    pub(super) fn met(&mut self, peer: PeerId) {
        let (least, most) = SETTLES;
        let settles = rand::rng().random_range(least..most);
        let now = Instant::now();
        self.announcer.met(peer, closeness::of_peer(&peer), now + least, now + settles);
    }

    pub(super) fn look_up(&mut self, key: &Digest, found: mpsc::Sender<PeerId>, limit: usize) {
        if self.lookups.len() >= MAX_LOOKUPS {
            // Dropping `found` says that nobody was found: the DHT is only one of the ways.
            tracing::debug!(%key, "too many lookups at once: one is not made");
            return;
        }
        let id = self.swarm.behaviour_mut().kad.get_providers(record_key(key));
        self.lookups.insert(id, Lookup { found, limit, seen: HashSet::new() });
    }

    /// Ends lookups whose asker has gone.
    pub(super) fn end_abandoned(&mut self) {
        let abandoned: Vec<_> =
            self.lookups.iter().filter(|(_, lookup)| lookup.found.is_closed()).map(|(&id, _)| id).collect();
        for id in abandoned {
            self.end_lookup(id);
        }
    }

    /// Who announced `key` to this node, some of them if they are many.
    pub(super) fn local_providers(&mut self, key: &Digest) -> Vec<PeerId> {
        let local = *self.swarm.local_peer_id();
        let now = Instant::now();
        let records = self.swarm.behaviour_mut().kad.store_mut().providers(&record_key(key));
        let mut providers: Vec<PeerId> = records
            .into_iter()
            .filter(|record| record.provider != local && !record.is_expired(now))
            .map(|record| record.provider)
            .collect();
        let (some, _) = providers.partial_shuffle(&mut rand::rng(), MAX_LOCAL);
        some.to_vec()
    }

    /// Forgets records that have expired.
    pub(super) fn sweep(&mut self, now: Instant) {
        let records = self.swarm.behaviour_mut().kad.store_mut();
        records.sweep(now);
        self.shown.keys_kept.store(records.keys() as u64, Ordering::Relaxed);
    }

    pub(super) fn withdraw(&mut self, key: &Digest) {
        self.announcer.remove(key);
        self.swarm.behaviour_mut().kad.stop_providing(&record_key(key));
    }

    pub(super) fn kad_event(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed { id, result, step, .. } = event else { return };
        match result {
            kad::QueryResult::StartProviding(result) => {
                let Some(key) = self.announcing.remove(&id) else { return };
                self.announcer.ended(key, result.is_ok(), Instant::now());
                self.shown.announced.store(self.announcer.announced(), Ordering::Relaxed);
            }
            kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })) => {
                self.found(id, providers);
            }
            _ => {}
        }
        if step.last {
            self.lookups.remove(&id);
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
            if !self.shown.neighbours.contains(&peer) {
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

    pub(super) fn end_lookup(&mut self, id: kad::QueryId) {
        self.lookups.remove(&id);
        if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
            query.finish();
        }
    }
}

fn record_key(key: &Digest) -> kad::RecordKey {
    kad::RecordKey::from(key.multihash())
}
