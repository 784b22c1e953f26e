//! The admin port: metrics, probes, status. It changes nothing but what is remembered of a tag.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use shoal_gateway::server::{Limits, Rule};
use shoal_gateway::upstream::Upstreams;
use shoal_proto::name::{ImageName, Reference};
use shoal_store::{Health, Store};

use crate::access::Access;
use crate::fetch::Fetcher;
use crate::history::History;
use crate::homes::Homes;
use crate::images::Refreshed;
use crate::metrics::{Count, Metrics};
use crate::savings::Ledger;
use crate::source::NodeSource;
use crate::status::{
    AllowanceLine, PeerLine, PullLine, SentPast, Source, Status, StoreLine, SwarmLine, Traffic,
};
use crate::why;

/// What the admin port looks at.
#[derive(Debug, Clone)]
pub struct Views {
    /// What is held.
    pub store: Store,
    /// Who is connected.
    pub peers: shoal_swarm::Handle,
    /// What is being fetched.
    pub fetcher: Fetcher,
    /// The swarms that it keeps.
    pub homes: Homes,
    /// What was counted.
    pub metrics: Metrics,
    /// Who may read what.
    pub access: Access,
    /// What became of what was asked for.
    pub history: History,
    /// The registries.
    pub upstreams: Upstreams,
    /// Asks upstream.
    pub source: NodeSource,
    /// What was saved.
    pub ledger: Ledger,
    /// Where the gateway listens.
    pub gateway: SocketAddr,
    /// This node's zone.
    pub zone: Option<String>,
    /// When the node started.
    pub started: Instant,
    /// Whether the gateway serves; false again when the node shuts down.
    pub serving: Arc<AtomicBool>,
}

impl Views {
    /// Serving with a store that works, and joined or alone after having tried.
    fn ready(&self) -> Result<(), String> {
        if !self.serving.load(Ordering::Relaxed) {
            return Err("the gateway does not serve: the node is starting or shutting down".to_owned());
        }
        match self.store.health() {
            Health::Well => {}
            Health::Failing(error) | Health::Lost(error) => return Err(error.to_string()),
        }
        let joined = *self.peers.joined().borrow();
        if joined.joined || joined.tried {
            Ok(())
        } else {
            Err("no peer is joined yet, and not every bootstrap address was tried".to_owned())
        }
    }

    async fn status(&self) -> Result<Status, shoal_store::StoreError> {
        let usage = self.store.usage().await?;
        let source = |count: Count| Source { requests: count.requests, bytes: count.bytes };
        let peers = self.peers.connected().into_iter().map(|peer| PeerLine {
            peer_id: peer.peer.to_string(),
            address: peer.address.to_string(),
            connected_seconds: peer.since.elapsed().as_secs(),
            zone: peer.zone,
        });
        let pulls = self.fetcher.in_progress().await.into_iter().map(|pull| PullLine {
            digest: pull.digest,
            size: pull.size,
            have_bytes: pull.have_bytes(),
        });
        let swarms = self.homes.kept().await.into_iter().map(|swarm| SwarmLine {
            digest: swarm.digest,
            size: swarm.size,
            home: swarm.is_home,
            members: swarm.members,
            leases: swarm.leases,
        });
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer_id: self.peers.local_peer().to_string(),
            gateway_addr: self.gateway.to_string(),
            peer_addrs: self.peers.listen_addresses().iter().map(ToString::to_string).collect(),
            zone: self.zone.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: self.ready().is_ok(),
            peers: peers.collect(),
            store: StoreLine {
                blobs: usage.blobs,
                bytes: usage.bytes,
                partials: usage.partials,
                partial_bytes: usage.partial_bytes,
            },
            traffic: Traffic {
                store: source(self.metrics.from_store()),
                peer: source(self.metrics.from_peers()),
                upstream: source(self.metrics.from_upstream()),
            },
            savings: self.ledger.sums(),
            sent_past: SentPast {
                no_credentials: self.metrics.sent_past_by(Rule::NoCredentials),
                wrong_credentials: self.metrics.sent_past_by(Rule::WrongCredentials),
                registry: self.metrics.sent_past_by(Rule::Registry),
            },
            allowances: allowances(&self.upstreams),
            uploaded_bytes: self.metrics.uploaded(),
            announced: self.peers.counters().announced,
            pulls: pulls.collect(),
            swarms: swarms.collect(),
        })
    }
}

fn allowances(upstreams: &Upstreams) -> Vec<AllowanceLine> {
    let said = upstreams.allowances().into_iter();
    said.map(|(registry, said)| AllowanceLine {
        registry: registry.to_string(),
        remaining: said.remaining,
        limit: said.limit,
        window_seconds: said.window.map(|window| window.as_secs()),
    })
    .collect()
}

/// What connections to the admin port may take: its answers are small, and whoever asks for them is quick. A request
/// that never comes is not waited for when the node stops.
pub fn limits() -> Limits {
    Limits {
        connections: 128,
        head: Duration::from_secs(10),
        client_stall: Duration::from_secs(10),
        drain: Duration::from_secs(1),
    }
}

/// The admin routes.
pub fn router(views: Views) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/why", get(why))
        .route("/refresh", post(refresh))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "there is /metrics, /livez, /readyz, /status, /why and /refresh here\n")
        })
        .with_state(views)
}

async fn readyz(State(views): State<Views>) -> Response {
    match views.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn status(State(views): State<Views>) -> Response {
    match views.status().await {
        Ok(status) => Json(status).into_response(),
        Err(error) => failed(&error),
    }
}

async fn why(State(views): State<Views>, Query(asked): Query<Asked>) -> Result<Response, Wrong> {
    let image = asked.image()?;
    Ok(match why::look(&views, &image).await {
        Ok(why) => Json(why).into_response(),
        Err(error) => failed(&error),
    })
}

/// What a page in a browser cannot send to another host without its leave, and `shoal` does.
pub const BY_HAND: &str = "shoal-by-hand";

/// Asks upstream what a tag names now. It costs upstream one request, so it is not for whoever can make a browser send a
/// form here.
async fn refresh(
    State(views): State<Views>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Result<Response, Wrong> {
    if !headers.contains_key(BY_HAND) {
        let text = format!("send the header {BY_HAND}, or use `shoal images refresh`\n");
        return Err((StatusCode::FORBIDDEN, text));
    }
    let image = asked.image()?;
    let Reference::Tag(tag) = &image.reference else {
        return Err((StatusCode::BAD_REQUEST, "a digest always names the same: give a tag\n".to_owned()));
    };
    match views.source.refresh(&image.scope, tag).await {
        Ok((before, now)) => Ok(Json(Refreshed { image: image.to_string(), before, now }).into_response()),
        Err(error) => Err((StatusCode::BAD_GATEWAY, format!("{error}\n"))),
    }
}

/// A status, and what is wrong.
type Wrong = (StatusCode, String);

/// What both questions about an image are asked with.
#[derive(Debug, Deserialize)]
struct Asked {
    image: String,
}

impl Asked {
    fn image(&self) -> Result<ImageName, Wrong> {
        self.image.parse().map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))
    }
}

async fn metrics(State(views): State<Views>) -> Response {
    let usage = match views.store.usage().await {
        Ok(usage) => usage,
        Err(error) => return failed(&error),
    };
    let open_metrics = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    let counters = views.peers.counters();
    let said = views.upstreams.allowances().into_iter();
    views.metrics.allowances(said.map(|(registry, allowance)| (registry.to_string(), allowance.remaining)));
    views.metrics.control_messages(counters.questions, counters.answers);
    match views.metrics.render(views.peers.connected().len(), usage.blobs, usage.bytes) {
        Ok(text) => (open_metrics, text).into_response(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::fmt::Display) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}
