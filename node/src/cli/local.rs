//! Speaking HTTP to the node on this machine, and what to say when none answers.

use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use shoal_proto::name::ImageName;

/// The largest answer of the admin API that is read: the status of a node with 10,000 peers is about 1.5 MiB.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A node on this machine accepts at once or not at all.
const CONNECT: Duration = Duration::from_secs(5);

/// Why the node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Nothing listens there, or nothing that lets us in.
    #[error(
        "no node answers at {address} ({reason}): start one with `shoal run`, or say where it listens with {flag} IP:PORT"
    )]
    Nobody {
        /// Where we asked.
        address: SocketAddr,
        /// The flag that names another address.
        flag: &'static str,
        /// The operating system's reason.
        reason: String,
    },
    /// It answered, and then something broke.
    #[error("the node at {address} was cut off: {reason}")]
    Broken {
        /// Where we asked.
        address: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// This process cannot make requests at all.
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
}

/// One listener of the node on this machine.
#[derive(Debug, Clone)]
pub struct LocalNode {
    client: reqwest::Client,
    address: SocketAddr,
    flag: &'static str,
}

impl LocalNode {
    /// A client for `address`. `flag` is named to people when nothing answers there; `silence` is how long an
    /// answer may stand still.
    ///
    /// # Errors
    /// [`LocalError::Client`] if no client can be made.
    pub fn new(address: SocketAddr, flag: &'static str, silence: Duration) -> Result<Self, LocalError> {
        let client = reqwest::Client::builder()
            // A proxy in the environment is for the world outside.
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(silence)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
            // No TLS is spoken here, so a machine without CA certificates is fine.
            .tls_certs_only([])
            .build()
            .map_err(|error| LocalError::Client(innermost(&error)))?;
        Ok(Self { client, address, flag })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A GET of `path`, which starts with a slash.
    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("http://{}{path}", self.address))
    }

    /// A POST to `path`, which starts with a slash.
    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("http://{}{path}", self.address))
    }

    /// Asks the admin API and reads its answer; `what` names that to people, should it be something else.
    ///
    /// # Errors
    /// If no node answers, or one that refuses, or something that is no node.
    pub async fn admin_answer<T: DeserializeOwned>(
        &self,
        ask: reqwest::RequestBuilder,
        what: &str,
    ) -> anyhow::Result<T> {
        let address = self.address;
        let mut response = ask.send().await.map_err(|error| self.failure(&error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.failure(&error))? {
            anyhow::ensure!(
                body.len() + piece.len() <= MAX_ANSWER,
                "what answers at {address} sends more than {what}"
            );
            body.extend_from_slice(&piece);
        }
        anyhow::ensure!(
            status.is_success(),
            "the node at {address} answered {status}: {}",
            printable(&String::from_utf8_lossy(&body))
        );
        serde_json::from_slice(&body).with_context(|| {
            format!(
                "what answers at {address} is not a node's admin API, or one of another version: say where that listens \
                 with {} IP:PORT",
                self.flag
            )
        })
    }

    /// What a failed request means.
    pub fn failure(&self, error: &reqwest::Error) -> LocalError {
        let reason = innermost(error);
        if error.is_connect() {
            LocalError::Nobody { address: self.address, flag: self.flag, reason }
        } else {
            let reason = if error.is_timeout() { "it stopped answering".to_owned() } else { reason };
            LocalError::Broken { address: self.address, reason }
        }
    }
}

/// The cause at the bottom: "connection refused" says more than the three sentences around it.
fn innermost(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// The path of a question about an image.
pub fn image_path(path: &str, image: &ImageName) -> String {
    format!("{path}?image={}", utf8_percent_encode(&image.to_string(), NON_ALPHANUMERIC))
}

/// A text from elsewhere, made safe for a terminal: no control characters, no endless length.
pub fn printable(text: &str) -> String {
    const MOST: usize = 500;
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut out: String = text.chars().take(MOST).map(clean).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out.trim().to_owned()
}
