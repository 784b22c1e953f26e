//! Why a pull fails.
//!
//! One enum for everything between a client's request and its answer: the upstream client, the node and the
//! server all speak it, and the server alone turns it into a status and the OCI error JSON.

use shoal_proto::range::Unsatisfiable;
use std::time::Duration;

/// Why a manifest or blob cannot be had.
///
/// `Clone`, because one failed fetch answers every client that waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    /// Upstream was asked and does not have it.
    #[error("{registry} does not have it")]
    NotFound {
        /// Who was asked.
        registry: String,
    },
    /// Upstream wants other credentials (401) or forbids it (403).
    #[error("{registry} answered {status}: this node's credentials for it, or none, do not allow this pull")]
    Denied {
        /// Who was asked.
        registry: String,
        /// 401 or 403.
        status: u16,
    },
    /// Everyone may not have it, and the client has not shown that it may.
    #[error(
        "{registry} does not give this to everyone, and this client {}: ask {registry} itself, or send its \
         credentials along",
        if *.wrong { "sent credentials that it does not accept" } else { "sent no credentials" }
    )]
    Private {
        /// Who decides.
        registry: String,
        /// Credentials were sent, and upstream refused them.
        wrong: bool,
        /// The operator wants such clients to be asked for their credentials.
        challenge: bool,
    },
    /// Upstream asked to be left alone for a while: 429, or 503 with a `Retry-After`.
    #[error("{registry} answered {status} and wants no requests for now{}", .retry_after.map(|after| format!(", retry after {} s", after.as_secs())).unwrap_or_default())]
    Throttled {
        /// Who was asked.
        registry: String,
        /// 429 or 503.
        status: u16,
        /// What its `Retry-After` said.
        retry_after: Option<Duration>,
    },
    /// Upstream answered with another 4xx: its word on this, as a policy of the registry may have it (451, 410, 412), and
    /// no outage.
    #[error("{registry} does not give this: {reason}")]
    Rejected {
        /// Who was asked.
        registry: String,
        /// The status.
        status: u16,
        /// What it said, as far as is known here.
        reason: String,
    },
    /// A rule of the configuration, or credentials that cannot be had, keep this node from asking. The text says which.
    #[error("{0}")]
    Refused(String),
    /// Upstream did not answer, or with an error of its own, or with something that is not an answer: what it would have
    /// said nobody knows.
    #[error("{registry} failed: {reason}")]
    Upstream {
        /// Who was asked.
        registry: String,
        /// Its status, if it answered with one.
        status: Option<u16>,
        /// What happened.
        reason: String,
    },
    /// Whoever sent the content, it was not what its digest promises, or ended early.
    #[error("the content does not match: {0}")]
    Content(String),
    /// The range is not within the blob.
    #[error(transparent)]
    Unsatisfiable(#[from] Unsatisfiable),
    /// Larger than Shoal carries.
    #[error("{0}")]
    TooLarge(String),
    /// This node itself cannot serve now: its disk failed, or it is shutting down.
    #[error("this node cannot serve now: {0}")]
    Unavailable(String),
}

impl PullError {
    /// Upstream's status, if it was upstream that failed or refused and it answered with one.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::NotFound { .. } => Some(404),
            Self::Denied { status, .. } | Self::Rejected { status, .. } | Self::Throttled { status, .. } => {
                Some(*status)
            }
            Self::Upstream { status, .. } => *status,
            _ => None,
        }
    }
}
