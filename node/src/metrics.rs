//! What this node counts, and how Prometheus reads it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};
use shoal_gateway::server::Rule;

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Origin {
    Store,
    Peer,
    Upstream,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FromOrigin {
    source: Origin,
}

/// Which way content goes between this node and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Direction {
    /// From a peer.
    In,
    /// To a peer.
    Out,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Zone {
    Same,
    Other,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BetweenZones {
    direction: Direction,
    zone: Zone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Control {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SentPast {
    rule: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRegistry {
    registry: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    what: &'static str,
    status: u16,
}

/// Requests and bytes of one origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many requests.
    pub requests: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// The node's counters. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<FromOrigin, Counter>,
    bytes: Family<FromOrigin, Counter>,
    uploaded: Counter,
    zones: Family<BetweenZones, Counter>,
    control: Family<Control, Counter>,
    corrupt_chunks: Counter,
    digest_mismatches: Counter,
    false_attestations: Counter,
    stale_tags: Counter,
    sent_past: Family<SentPast, Counter>,
    answers: Family<Answer, Counter>,
    given: Counter,
    pulls: Counter,
    offline_pulls: Counter,
    allowance: Family<OfRegistry, Gauge>,
    connected_peers: Gauge,
    held_blobs: Gauge,
    held_bytes: Gauge,
    registry: Arc<Registry>,
}

const REQUESTS: &str = "Requests by source: blobs and manifests answered from the store, chunks asked of peers, HTTP \
                        requests to upstream registries";
const BYTES: &str = "Content bytes by source: read from the store for clients, received from peers, received from \
                     upstream registries";
const ZONES: &str = "Content bytes from and to peers by where they say they are: in this node's zone, in another, or \
                     unknown because either does not say";
const CONTROL: &str = "Messages sent to peers that carry no content: questions and answers";
const FALSE_ATTESTATIONS: &str = "Signatures of peers under chunks that proved wrong";
const ALLOWANCE: &str = "Requests that a registry still allows, as it last said (ratelimit-remaining)";

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("shoal");
        let all = &mut registry;
        let metrics = Self {
            requests: register(all, "source_requests", REQUESTS),
            bytes: bytes(all, "source", BYTES),
            uploaded: register(all, "uploaded_bytes", "Content bytes sent to peers"),
            zones: bytes(all, "peer_zone", ZONES),
            control: register(all, "control_messages", CONTROL),
            corrupt_chunks: register(all, "corrupt_chunks", "Chunks from peers that failed their check"),
            digest_mismatches: register(all, "digest_mismatches", "Blobs whose digest did not come out"),
            false_attestations: register(all, "false_attestations", FALSE_ATTESTATIONS),
            stale_tags: register(all, "stale_tags", "Tags answered from memory because upstream was down"),
            sent_past: register(all, "sent_past", "Clients sent to upstream by a rule of this node's"),
            answers: register(all, "gateway_answers", "Answers to clients by status"),
            given: register(all, "given_bytes", "Bytes of manifests and blobs given to clients"),
            pulls: register(all, "pulls", "Images pulled by clients"),
            offline_pulls: register(
                all,
                "offline_pulls",
                "Images pulled by clients while their registry failed",
            ),
            allowance: register(all, "registry_requests_left", ALLOWANCE),
            connected_peers: register(all, "connected_peers", "Peers connected now"),
            held_blobs: register(all, "held_blobs", "Blobs held, their digests proven"),
            held_bytes: register(all, "held_blob_bytes", "Bytes of the blobs held"),
            registry: Arc::new(registry),
        };
        // Every source shows from the start, so that a rate over it has a first value.
        for origin in [Origin::Store, Origin::Peer, Origin::Upstream] {
            drop(metrics.requests.get_or_create(&FromOrigin { source: origin }));
            drop(metrics.bytes.get_or_create(&FromOrigin { source: origin }));
        }
        metrics
    }
}

/// A metric that starts at nothing, registered.
fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// The same, that counts bytes and says so in its name.
fn bytes<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register_with_unit(name, help, Unit::Bytes, metric.clone());
    metric
}

impl Metrics {
    fn request(&self, source: Origin) {
        self.requests.get_or_create(&FromOrigin { source }).inc();
    }

    fn got(&self, source: Origin, bytes: u64) {
        self.bytes.get_or_create(&FromOrigin { source }).inc_by(bytes);
    }

    fn count(&self, source: Origin) -> Count {
        let labels = FromOrigin { source };
        Count {
            requests: self.requests.get_or_create(&labels).get(),
            bytes: self.bytes.get_or_create(&labels).get(),
        }
    }

    /// A blob or manifest is answered from the store.
    pub fn store_request(&self) {
        self.request(Origin::Store);
    }

    /// Bytes read from the store for a client.
    pub fn store_bytes(&self, bytes: u64) {
        self.got(Origin::Store, bytes);
    }

    /// A peer is asked for a chunk.
    pub fn peer_request(&self) {
        self.request(Origin::Peer);
    }

    /// Bytes that a peer sent.
    pub fn peer_bytes(&self, bytes: u64) {
        self.got(Origin::Peer, bytes);
    }

    /// An upstream registry is asked for something.
    pub fn upstream_request(&self) {
        self.request(Origin::Upstream);
    }

    /// Bytes that an upstream registry sent.
    pub fn upstream_bytes(&self, bytes: u64) {
        self.got(Origin::Upstream, bytes);
    }

    /// Bytes sent to a peer.
    pub fn uploaded_bytes(&self, bytes: u64) {
        self.uploaded.inc_by(bytes);
    }

    /// Bytes from or to a peer; `near` is whether it is in this node's zone, if that is known.
    pub fn between_zones(&self, direction: Direction, near: Option<bool>, bytes: u64) {
        let zone = match near {
            Some(true) => Zone::Same,
            Some(false) => Zone::Other,
            None => Zone::Unknown,
        };
        self.zones.get_or_create(&BetweenZones { direction, zone }).inc_by(bytes);
    }

    /// A peer sent a chunk that failed its check.
    pub fn corrupt_chunk(&self) {
        self.corrupt_chunks.inc();
    }

    /// A blob's digest did not come out.
    pub fn digest_mismatch(&self) {
        self.digest_mismatches.inc();
    }

    /// A peer signed for a chunk that proved wrong.
    pub fn false_attestations(&self, chunks: u32) {
        self.false_attestations.inc_by(chunks.into());
    }

    /// A tag was answered from memory because upstream was down.
    pub fn stale_tag(&self) {
        self.stale_tags.inc();
    }

    /// A client was sent to upstream by a rule of this node's.
    pub fn sent_past(&self, rule: Rule) {
        self.sent_past.get_or_create(&SentPast { rule: name_of(rule) }).inc();
    }

    /// How many clients were sent to upstream by this rule.
    pub fn sent_past_by(&self, rule: Rule) -> u64 {
        self.sent_past.get_or_create(&SentPast { rule: name_of(rule) }).get()
    }

    /// A client was answered.
    pub fn answered(&self, what: &'static str, status: u16) {
        self.answers.get_or_create(&Answer { what, status }).inc();
    }

    /// A client was given these bytes of a manifest or blob.
    pub fn gave(&self, bytes: u64) {
        self.given.inc_by(bytes);
    }

    /// A client pulled an image, perhaps while its registry failed.
    pub fn pulled(&self, offline: bool) {
        self.pulls.inc();
        self.offline_pulls.inc_by(offline.into());
    }

    /// Bytes given to clients so far.
    pub fn given(&self) -> u64 {
        self.given.get()
    }

    /// Images pulled so far, and those of them that were while their registry failed.
    pub fn pulls(&self) -> (u64, u64) {
        (self.pulls.get(), self.offline_pulls.get())
    }

    /// What came from the store.
    pub fn from_store(&self) -> Count {
        self.count(Origin::Store)
    }

    /// What came from peers.
    pub fn from_peers(&self) -> Count {
        self.count(Origin::Peer)
    }

    /// What came from upstream registries.
    pub fn from_upstream(&self) -> Count {
        self.count(Origin::Upstream)
    }

    /// Content bytes sent to peers so far.
    pub fn uploaded(&self) -> u64 {
        self.uploaded.get()
    }

    /// Messages sent to peers so far, as the swarm counts them.
    pub fn control_messages(&self, questions: u64, answers: u64) {
        for (kind, count) in [("question", questions), ("answer", answers)] {
            self.control.get_or_create(&Control { kind }).inner().store(count, Ordering::Relaxed);
        }
    }

    /// What registries last said of how many requests they still allow; those that are not named are forgotten.
    pub fn allowances(&self, said: impl Iterator<Item = (String, u64)>) {
        self.allowance.clear();
        for (registry, left) in said {
            let left = i64::try_from(left).unwrap_or(i64::MAX);
            self.allowance.get_or_create(&OfRegistry { registry }).set(left);
        }
    }

    /// Everything in the `OpenMetrics` text format. The gauges are set first, from what the caller saw.
    ///
    /// # Errors
    /// [`std::fmt::Error`] if a value cannot be written as text.
    pub fn render(&self, peers: usize, blobs: u64, bytes: u64) -> Result<String, std::fmt::Error> {
        let value = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.connected_peers.set(value(peers as u64));
        self.held_blobs.set(value(blobs));
        self.held_bytes.set(value(bytes));
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// A rule, as metrics and people name it.
const fn name_of(rule: Rule) -> &'static str {
    match rule {
        Rule::NoCredentials => "no_credentials",
        Rule::WrongCredentials => "wrong_credentials",
        Rule::Registry => "registry",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_read_back_and_rendered() {
        let metrics = Metrics::default();
        metrics.clone().peer_bytes(5);
        metrics.peer_request();
        metrics.upstream_bytes(7);
        assert_eq!(metrics.from_peers(), Count { requests: 1, bytes: 5 });
        assert_eq!(metrics.from_upstream(), Count { requests: 0, bytes: 7 });
        metrics.between_zones(Direction::In, Some(false), 5);
        metrics.control_messages(8, 9);
        let text = metrics.render(3, 1, 2).unwrap();
        assert!(text.contains("shoal_peer_zone_bytes_total{direction=\"In\",zone=\"Other\"} 5"), "{text}");
        assert!(text.contains("shoal_control_messages_total{kind=\"answer\"} 9"), "{text}");
        assert!(text.contains("shoal_source_bytes_total{source=\"Peer\"} 5"), "{text}");
        assert!(text.contains("shoal_source_requests_total{source=\"Store\"} 0"), "{text}");
        assert!(text.contains("shoal_connected_peers 3"), "{text}");
    }
}
