//! An answer before it is a response: status, headers, content.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, WARNING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use shoal_proto::digest::Digest;

use super::body::{Content, ReplyBody};
use super::headers;
use super::record::{Ended, Recorder, Refusal};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A status, headers and content; `Content-Length` is already among the headers.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
    /// Why it is none of what was asked for.
    pub(super) refusal: Option<Refusal>,
}

impl Reply {
    /// An answer that announces `length` bytes: all of it for HEAD and 304, otherwise content is to follow.
    pub(super) fn of_length(status: StatusCode, length: u64) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        Self { status, headers, content: Content::Nothing, refusal: None }
    }

    pub(super) fn bytes(status: StatusCode, bytes: Bytes) -> Self {
        let reply = Self::of_length(status, bytes.len() as u64);
        Self { content: Content::Bytes(bytes), ..reply }
    }

    pub(super) fn json(status: StatusCode, value: &Value) -> Self {
        Self::bytes(status, Bytes::from(value.to_string())).typed("application/json")
    }

    /// Sets the content type; one that no header can carry becomes the type of unknown bytes.
    #[must_use]
    pub(super) fn typed(mut self, media_type: &str) -> Self {
        let value = HeaderValue::from_str(media_type)
            .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
        self.headers.insert(CONTENT_TYPE, value);
        self
    }

    /// Says which content this is.
    #[must_use]
    pub(super) fn identified(mut self, digest: &Digest) -> Self {
        // Both texts are ASCII hex and punctuation, so neither conversion fails.
        if let (Ok(plain), Ok(tag)) =
            (HeaderValue::from_str(&digest.to_string()), HeaderValue::from_str(&headers::etag(digest)))
        {
            self.headers.insert(CONTENT_DIGEST, plain);
            self.headers.insert(ETAG, tag);
        }
        self
    }

    /// Warns the client, in the form of the distribution spec ("Warnings"): code 299, no agent, a quoted text.
    #[must_use]
    pub(super) fn warned(self, warning: Option<String>) -> Self {
        const MOST: usize = 1000;
        let Some(text) = warning else { return self };
        let plain = |c: char| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { ' ' };
        let text: String = text.chars().take(MOST).map(plain).collect();
        match HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            Ok(value) => self.with(WARNING, value),
            Err(_) => self,
        }
    }

    /// Sets `Content-Range`.
    #[must_use]
    pub(super) fn range(self, text: &str) -> Self {
        // Digits and punctuation, so the conversion does not fail.
        match HeaderValue::from_str(text) {
            Ok(value) => self.with(CONTENT_RANGE, value),
            Err(_) => self,
        }
    }

    #[must_use]
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The response, whose body reports to `recorder`.
    pub(super) fn into_response(self, head: bool, mut recorder: Recorder) -> Response {
        recorder.status(self.status);
        recorder.typed(self.headers.get(CONTENT_TYPE));
        recorder.refused(self.refusal);
        let content = if head { Content::Nothing } else { self.content };
        if matches!(content, Content::Nothing) {
            recorder.ended(Ended::Whole);
        }
        let mut response = Response::new(Body::new(ReplyBody::new(content, recorder)));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
