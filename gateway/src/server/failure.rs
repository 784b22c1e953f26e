//! The one place where a failure becomes a status and the OCI error JSON.
//!
//! A mirror's failure must send its client on to the next host, and clients differ in what does:
//!
//! - 404 is the cleanest miss for all of them. So what upstream refuses (401, 403), throttles (429, 503 with a time) or this
//!   node's rules forbid is a 404 too: the client's own next host is upstream, with the client's own credentials
//!   and quota. The `detail` carries upstream's real status for those that have no next host.
//! - 429 and 408 are never sent: containerd repeats them at the same mirror. 401 is sent only where the operator says
//!   `access = "challenge"`: it makes clients hand their credentials to the mirror.
//! - 5xx is for what is truly broken, upstream (502, 504) or here (503). containerd reports a mirror's 5xx rather
//!   than upstream's later 404, so it is not to be used for a mere miss.

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use shoal_proto::range::Unsatisfiable;

use super::path::PathError;
use super::record::{Refusal, Rule};
use super::reply::Reply;
use crate::error::PullError;

/// The longest message given to a client, in characters: some repeat what the client itself sent.
const MAX_MESSAGE: usize = 600;

/// What kind of thing was asked for, and so which code says that it is not there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sought {
    Manifest,
    Blob,
    Repository,
}

impl Sought {
    const fn unknown(self) -> &'static str {
        match self {
            Self::Manifest => "MANIFEST_UNKNOWN",
            Self::Blob => "BLOB_UNKNOWN",
            Self::Repository => "NAME_UNKNOWN",
        }
    }
}

/// An error answer. The codes are the distribution specification's; `UNAVAILABLE`, which it lacks, is the
/// reference implementation's for 503.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    code: &'static str,
    pub(super) message: String,
    detail: Value,
    header: Header,
    rule: Option<Rule>,
}

/// A header that a status asks for.
#[derive(Debug)]
enum Header {
    None,
    /// 405: which methods there are.
    Allow,
    /// 416: how many bytes there are.
    Size(u64),
    /// 401: whose credentials are wanted.
    Challenge(String),
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        Self { status, code, message, detail: Value::Null, header: Header::None, rule: None }
    }

    fn with_detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    /// The request has been here before. A 404 and not a 508, so that who asked goes on to its next host.
    pub(super) fn looped(via: &str) -> Self {
        let message = format!(
            "loop: this request has already come through {via}, or through too many other nodes; an upstream's url \
             leads back to this gateway"
        );
        Self::new(StatusCode::NOT_FOUND, "DENIED", message).with_detail(json!({ "loop": via }))
    }

    /// Pushes, deletes and anything else but GET and HEAD.
    pub(super) fn method(method: &Method) -> Self {
        let message = format!("this mirror only answers GET and HEAD, not {method}");
        let mut failure = Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message);
        failure.header = Header::Allow;
        failure
    }

    /// `ns` or the name is malformed.
    pub(super) fn name(error: &shoal_proto::name::NameError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", error.to_string())
    }

    /// The path names nothing.
    pub(super) fn path(error: &PathError) -> Self {
        let (status, code) = match error {
            PathError::Unknown => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
            PathError::Upload => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            PathError::Name(_) | PathError::Encoding => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            PathError::Digest(_) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            // The specification has no code for tags; this one was Docker's.
            PathError::Tag(_) => (StatusCode::BAD_REQUEST, "TAG_INVALID"),
        };
        Self::new(status, code, error.to_string())
    }

    /// A body of this blob broke off where this request wants to go on. The client's next host may do better,
    /// and a second truncation would make containerd give up.
    pub(super) fn broke_here() -> Self {
        let message = "a body of this blob has just broken off here; ask the next host, or start again";
        Self::new(StatusCode::NOT_FOUND, Sought::Blob.unknown(), message)
    }

    /// Nothing came in time.
    pub(super) fn late(patience: Duration) -> Self {
        let message = format!("nothing came within {} s from peers or upstream", patience.as_secs_f32());
        Self::new(StatusCode::GATEWAY_TIMEOUT, "UNAVAILABLE", message)
    }

    /// All places for clients are taken.
    pub(super) fn crowded() -> Self {
        let message = "this node has as many connections as it takes; ask the next host, or again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    }

    /// What the source said.
    pub(super) fn pull(sought: Sought, error: &PullError) -> Self {
        let message = error.to_string();
        let unknown =
            |detail| Self::new(StatusCode::NOT_FOUND, sought.unknown(), &message).with_detail(detail);
        match error {
            PullError::NotFound { registry } => unknown(json!({ "upstream": registry, "status": 404 })),
            PullError::Denied { registry, status } => {
                let code = if *status == 401 { "UNAUTHORIZED" } else { "DENIED" };
                unknown(json!({ "upstream": registry, "status": status, "code": code }))
            }
            PullError::Private { registry, wrong, challenge } => {
                let code = if *wrong { "DENIED" } else { "UNAUTHORIZED" };
                let mut failure = unknown(json!({ "upstream": registry, "code": code, "reason": "private" }));
                failure.rule = Some(if *wrong { Rule::WrongCredentials } else { Rule::NoCredentials });
                // Wrong ones are not asked for again: the client's next host is upstream, which knows better.
                if *challenge && !wrong {
                    failure.status = StatusCode::UNAUTHORIZED;
                    failure.code = "UNAUTHORIZED";
                    failure.header = Header::Challenge(registry.clone());
                }
                failure
            }
            PullError::Throttled { registry, status, retry_after } => {
                let seconds = retry_after.map(|after| after.as_secs());
                unknown(
                    json!({ "upstream": registry, "status": status, "code": "TOOMANYREQUESTS", "retryAfterSeconds": seconds }),
                )
            }
            PullError::Rejected { registry, status, .. } => {
                unknown(json!({ "upstream": registry, "status": status }))
            }
            PullError::Refused(_) => {
                let mut failure = unknown(json!({ "code": "DENIED" }));
                failure.rule = Some(Rule::Registry);
                failure
            }
            PullError::Upstream { registry, status, .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "UNAVAILABLE", message)
                    .with_detail(json!({ "upstream": registry, "status": status }))
            }
            PullError::Content(_) => Self::new(StatusCode::BAD_GATEWAY, "UNAVAILABLE", message),
            PullError::Unsatisfiable(Unsatisfiable { size }) => {
                let mut failure = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", message)
                    .with_detail(json!({ "size": size }));
                failure.header = Header::Size(*size);
                failure
            }
            // Every client goes on after a 413, and none repeats it.
            PullError::TooLarge(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message),
            PullError::Unavailable(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message),
        }
    }

    /// The answer.
    pub(super) fn into_reply(self) -> Reply {
        let mut error = json!({ "code": self.code, "message": &self.message });
        if !self.detail.is_null() {
            error["detail"] = self.detail;
        }
        let mut reply = Reply::json(self.status, &json!({ "errors": [error] }));
        reply.refusal = Some(Refusal { message: self.message, rule: self.rule });
        match self.header {
            Header::None => reply,
            Header::Allow => reply.with(header::ALLOW, HeaderValue::from_static("GET, HEAD")),
            Header::Size(size) => reply.range(&format!("bytes */{size}")),
            Header::Challenge(registry) => {
                match HeaderValue::from_str(&format!("Basic realm=\"{registry}\"")) {
                    Ok(challenge) => reply.with(header::WWW_AUTHENTICATE, challenge),
                    // No registry's name has a character that a header cannot carry.
                    Err(_) => reply,
                }
            }
        }
    }
}
