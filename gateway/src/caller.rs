//! Who asks: through which nodes, and with which credentials of its own.

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::hops::Hops;

/// What a request says of who sent it.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The Shoal nodes that it came through.
    pub hops: Hops,
    /// Its `Authorization`, if it has one. It is given to no log.
    pub authorization: Option<HeaderValue>,
    /// It says by `ns` which registry it means: one that mirrors it, and knows whose its credentials are. To others this
    /// gateway is one host, for which they have one login.
    pub names_registry: bool,
}

impl Caller {
    /// Reads a request's headers.
    pub fn read(headers: &HeaderMap) -> Self {
        let authorization = headers.get(AUTHORIZATION).cloned().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Self { hops: Hops::read(headers), authorization, names_registry: false }
    }

    /// Whether it is a client of which nothing more is known.
    pub fn is_anyone(&self) -> bool {
        self.hops.is_empty() && self.authorization.is_none()
    }
}
