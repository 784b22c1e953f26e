//! Reading bodies: bounded, and never waiting without end.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap};
use reqwest::Response;

use super::client::chain;

/// What a body that is of no use may have for its connection to be kept.
const MAX_DRAINED: u64 = 16 * 1024;
/// How long is waited for the rest of such a body.
const DRAIN: Duration = Duration::from_millis(200);

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    #[error("it made no progress for {0:?}")]
    Stalled(Duration),
    #[error("it ended early: {0}")]
    Broken(String),
}

/// The whole body, of at most `limit` bytes.
pub(super) async fn read(mut response: Response, limit: u64, stall: Duration) -> Result<Bytes, ReadError> {
    if content_length(response.headers()).is_some_and(|length| length > limit) {
        return Err(ReadError::TooLarge(limit));
    }
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(piece) = next(&mut response, stall).await? {
        if first.as_ref().map_or(0, Bytes::len) as u64 + (all.len() + piece.len()) as u64 > limit {
            return Err(ReadError::TooLarge(limit));
        }
        match first.take() {
            None if all.is_empty() => first = Some(piece),
            before => {
                all.extend_from_slice(&before.unwrap_or_default());
                all.extend_from_slice(&piece);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// The next piece of a body.
pub(super) async fn next(response: &mut Response, stall: Duration) -> Result<Option<Bytes>, ReadError> {
    match tokio::time::timeout(stall, response.chunk()).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(error)) => Err(ReadError::Broken(chain(&error.without_url()))),
        Err(_) => Err(ReadError::Stalled(stall)),
    }
}

/// Reads a body that nobody needs, if it is small: its connection can then be used again.
pub(super) async fn drain(response: Response) -> Bytes {
    read(response, MAX_DRAINED, DRAIN).await.unwrap_or_default()
}

/// `Content-Length`, which for HEAD is not the body's.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
