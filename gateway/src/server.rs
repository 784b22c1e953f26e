//! The `/v2/` routes, on axum.
//!
//! | module | concept |
//! | --- | --- |
//! | `answer` | one request: what it asks for, whom to ask, what to say |
//! | `path`, `routing`, `headers` | what a request means |
//! | `manifest`, `blob`, `passage` | the endpoints |
//! | `parts` | several ranges of a blob in one answer |
//! | `reply`, `failure`, `link` | what an answer is made of |
//! | `body`, `broken` | a body that may break off, and what its client is told when it comes back |
//! | `record` | what is said of each answer once it is over |
//! | `connection`, `client_io` | HTTP/1.1 connections and their limits |
//!
//! Three promises hold for every request: its status is decided within [`Settings::answer_timeout`], its body
//! waits for the source for [`Settings::body_stall`] at the most, and a failure is the OCI error JSON with a
//! status that sends the client on to its next host.

mod answer;
mod blob;
mod body;
mod broken;
mod client_io;
mod connection;
mod failure;
mod headers;
mod link;
mod manifest;
mod parts;
mod passage;
mod path;
mod record;
mod reply;
mod routing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use shoal_proto::name::Registry;

pub use connection::{Limits, serve, serve_within};
pub use record::{Answered, Ended, Observe, Refusal, Rule, log};
pub use routing::Routing;

use crate::source::Source;
use answer::Shared;
use broken::Broken;

/// How requests are understood and how long they may take.
#[derive(Clone)]
pub struct Settings {
    /// Which registry a request is for.
    pub routing: Routing,
    /// This node's name in `Via`: what its upstream client sends, and what is therefore a loop when it comes back.
    pub via: String,
    /// How long a body may wait for its source before it ends short. Time in which the client takes nothing
    /// does not count.
    pub body_stall: Duration,
    /// How long the source has for a status and a body's first byte. Below the 30 s for which containerd waits
    /// for headers.
    pub answer_timeout: Duration,
    /// For how long a client that wants to go on with a body that broke off here is sent to its next host.
    pub broken_memory: Duration,
    /// Called once for each request, when its answer is over. It must not block.
    pub observe: Observe,
}

impl Settings {
    /// The usual values. `via` is this node's own, as in `shoal-<peer id>`; `known` are the configured upstreams' names,
    /// which then work as the first part of a path even without a dot.
    pub fn new(via: impl Into<String>, known: impl IntoIterator<Item = Registry>, observe: Observe) -> Self {
        Self {
            routing: Routing::new(known),
            via: via.into(),
            body_stall: Duration::from_secs(8),
            answer_timeout: Duration::from_secs(25),
            broken_memory: Duration::from_mins(1),
            observe,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("routing", &self.routing)
            .field("via", &self.via)
            .field("body_stall", &self.body_stall)
            .field("answer_timeout", &self.answer_timeout)
            .field("broken_memory", &self.broken_memory)
            .finish_non_exhaustive()
    }
}

/// The routes. Paths outside `/v2/` get the OCI error JSON too.
///
/// One fallback and no routes: names hold slashes and are read from their end, which no pattern can say.
pub fn router<S: Source>(source: Arc<S>, settings: Settings) -> Router {
    let broken = Arc::new(Broken::new(settings.broken_memory));
    Router::new().fallback(answer::answer::<S>).with_state(Arc::new(Shared { source, settings, broken }))
}
