//! What is said of each answer once it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use shoal_proto::name::Scope;

/// Told of each answer when it is over, for logs and metrics.
pub type Observe = Arc<dyn Fn(&Answered) + Send + Sync>;

/// The status recorded for a client that left before there was one; never sent. nginx's number for it.
const CLIENT_LEFT: u16 = 499;

/// One request and what became of it.
#[derive(Debug, Clone)]
pub struct Answered {
    /// What was asked for: `base`, `manifest`, `blob`, `tags`, `referrers`, or `none` for what is not an endpoint.
    pub what: &'static str,
    /// Whether it was a HEAD.
    pub head: bool,
    /// The registry and repository, if the request was understood.
    pub scope: Option<Scope>,
    /// The tag or digest, if the request was understood and has one.
    pub reference: Option<String>,
    /// What the answer says that its body is.
    pub media_type: Option<String>,
    /// The status sent; 499 if the client left before there was one.
    pub status: u16,
    /// Body bytes given to the connection. Some of the last may not have reached the client.
    pub bytes: u64,
    /// From the request's head to the body's first byte, or to the status if there is no body.
    pub first_byte: Duration,
    /// From the request's head to the end of its body.
    pub duration: Duration,
    /// How it ended.
    pub ended: Ended,
    /// What the client was told instead of content.
    pub refusal: Option<Refusal>,
}

/// Why a client was not given what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// As the client was told.
    pub message: String,
    /// Which rule of this node's sent it past, if one did.
    pub rule: Option<Rule>,
}

/// A rule by which clients are sent to upstream, though this node could perhaps have served them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Not for everyone, and the client sent no credentials.
    NoCredentials,
    /// Not for everyone, and upstream did not accept the client's credentials.
    WrongCredentials,
    /// A rule of the configuration, or credentials that cannot be had, keep this node from asking the registry.
    Registry,
}

impl Answered {
    /// Why the client did not get what it asked for, or not to its end.
    pub fn reason(&self) -> Option<String> {
        if let Some(refusal) = &self.refusal {
            return Some(refusal.message.clone());
        }
        match &self.ended {
            Ended::Whole => None,
            Ended::ClientLeft => Some("the client left before the end".to_owned()),
            Ended::Stalled => Some("nothing came for too long, and the body was ended".to_owned()),
            Ended::Failed(reason) => Some(reason.clone()),
        }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// All of it was given to the connection.
    Whole,
    /// The connection went away first, or the client stopped reading.
    ClientLeft,
    /// The source gave nothing for too long in the middle of the body.
    Stalled,
    /// The source failed in the middle of the body; the text says how.
    Failed(String),
}

/// Writes one line at debug level: an observer of its own, and a building block for others.
pub fn log(answered: &Answered) {
    let Answered {
        what, head, scope, reference, status, bytes, first_byte, duration, ended, refusal, ..
    } = answered;
    let refusal = refusal.as_ref().map(|refusal| &refusal.message);
    let scope = scope.as_ref().map(tracing::field::display);
    let reference = reference.as_deref();
    tracing::debug!(
        what,
        head,
        scope,
        reference,
        status,
        bytes,
        ?first_byte,
        ?duration,
        ?ended,
        refusal,
        "answered"
    );
}

/// Collects what [`Answered`] holds and reports it when dropped: however a request ends, hyper drops what
/// belongs to it.
pub(super) struct Recorder {
    answered: Answered,
    started: Instant,
    first_byte: Option<Duration>,
    observe: Observe,
}

impl Recorder {
    pub(super) fn start(observe: Observe, head: bool) -> Self {
        let answered = Answered {
            what: "none",
            head,
            scope: None,
            reference: None,
            media_type: None,
            status: CLIENT_LEFT,
            bytes: 0,
            first_byte: Duration::ZERO,
            duration: Duration::ZERO,
            ended: Ended::ClientLeft,
            refusal: None,
        };
        Self { answered, started: Instant::now(), first_byte: None, observe }
    }

    pub(super) fn asked_for(&mut self, what: &'static str, scope: Option<Scope>, reference: Option<String>) {
        self.answered.what = what;
        self.answered.scope = scope;
        self.answered.reference = reference;
    }

    pub(super) fn status(&mut self, status: StatusCode) {
        self.answered.status = status.as_u16();
    }

    pub(super) fn typed(&mut self, media_type: Option<&HeaderValue>) {
        self.answered.media_type = media_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
    }

    pub(super) fn refused(&mut self, refusal: Option<Refusal>) {
        self.answered.refusal = refusal;
    }

    pub(super) fn gave(&mut self, bytes: usize) {
        self.first_byte.get_or_insert_with(|| self.started.elapsed());
        self.answered.bytes += bytes as u64;
    }

    pub(super) fn ended(&mut self, ended: Ended) {
        self.first_byte.get_or_insert_with(|| self.started.elapsed());
        self.answered.ended = ended;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.answered.duration = self.started.elapsed();
        self.answered.first_byte = self.first_byte.unwrap_or(self.answered.duration);
        (self.observe)(&self.answered);
    }
}
