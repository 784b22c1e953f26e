//! Blobs: how large, and the bytes or a range of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use http::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use http::{Method, StatusCode};
use reqwest::Response;
use shoal_proto::digest::Digest;
use shoal_proto::range::{ByteRange, Unsatisfiable};

use super::body;
use super::mirrors::Origin;
use super::request::{self, Ask};
use super::site::{At, Site};
use crate::error::PullError;

/// A blob, or a range of one, on its way from a registry. Nothing of it is proven.
pub struct BlobDownload {
    /// The whole blob's size in bytes, if the registry says it.
    pub size: Option<u64>,
    /// Where in the blob `stream` begins: 0 from a registry that ignores ranges.
    pub start: u64,
    /// A range was asked for and the whole blob is sent: this registry ignores ranges.
    pub ignores_ranges: bool,
    /// The bytes. It ends well only after as many as the registry promised; dropping it ends the download.
    pub stream: BoxStream<'static, Result<Bytes, PullError>>,
}

impl fmt::Debug for BlobDownload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobDownload")
            .field("size", &self.size)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// The size, if the registry says it; `None` if it has the blob and does not.
pub(super) async fn size(at: At<'_>, digest: &Digest) -> Result<Option<u64>, PullError> {
    let ask = Ask { method: Method::HEAD, url: endpoint(at, digest), headers: HeaderMap::new() };
    let length = match request::ask(at, ask).await {
        Ok(response) if response.status() == StatusCode::OK => body::content_length(response.headers()),
        // Storage that a registry leads to may be signed for GET alone, and answers 403 to HEAD.
        Ok(_)
        | Err(PullError::Rejected { .. } | PullError::Upstream { status: Some(400..=499 | 501), .. }) => None,
        Err(error) => return Err(error),
    };
    // Proxies that have no body to count say 0; only the digest of nothing has no bytes.
    match length.filter(|&length| length > 0 || digest.same_algorithm_of(b"") == *digest) {
        Some(length) => Ok(Some(length)),
        None => size_by_range(at, digest).await,
    }
}

/// The size, by a range of one byte, where HEAD does not tell it.
async fn size_by_range(at: At<'_>, digest: &Digest) -> Result<Option<u64>, PullError> {
    match blob(at, digest, ByteRange::new(0, 1)).await {
        Ok(download) => Ok(download.size),
        Err(PullError::Unsatisfiable(Unsatisfiable { size: 0 })) => Ok(Some(0)),
        Err(error) => Err(error),
    }
}

pub(super) async fn blob(
    at: At<'_>,
    digest: &Digest,
    range: Option<ByteRange>,
) -> Result<BlobDownload, PullError> {
    let mut headers = HeaderMap::new();
    if let Some(ByteRange { start, end }) = range
        && let Ok(value) = HeaderValue::from_str(&format!("bytes={start}-{}", end - 1))
    {
        headers.insert(RANGE, value);
    }
    let response = request::ask(at, Ask { method: Method::GET, url: endpoint(at, digest), headers }).await?;
    let site = at.site;
    let origin = Origin::of(&response);
    let length = body::content_length(response.headers());
    let malformed = |what: String| {
        if let Some(origin) = &origin {
            origin.failed(&what);
        }
        site.failed(Some(response.status()), format!("{digest}: {what}"))
    };
    let (size, start, promised) = match (response.status(), range) {
        (StatusCode::OK, _) => (length, 0, length),
        (StatusCode::PARTIAL_CONTENT, Some(range)) => {
            let got = read_content_range(response.headers()).ok_or_else(|| {
                malformed("it answered 206 without a Content-Range that says which bytes".to_owned())
            })?;
            check_partial(range, got, length).map_err(malformed)?;
            (got.size, range.start, Some(got.range.len()))
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => {
            return Err(match unsatisfied_size(response.headers()) {
                Some(size) => Unsatisfiable { size }.into(),
                None => malformed("it answered 416, without the blob's size".to_owned()),
            });
        }
        (status, _) => return Err(malformed(format!("it answered {status}"))),
    };
    let ignores_ranges = range.is_some() && response.status() == StatusCode::OK;
    let stream = download(site, *digest, response, promised, at.web.limits.stall);
    Ok(BlobDownload { size, start, ignores_ranges, stream })
}

fn endpoint(at: At<'_>, digest: &Digest) -> url::Url {
    at.endpoint(&format!("blobs/{digest}"))
}

/// `Content-Range: bytes a-b/size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ContentRange {
    range: ByteRange,
    size: Option<u64>,
}

fn content_range(headers: &HeaderMap) -> Option<(&str, &str)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim();
    let (unit, rest) = text.split_once(' ')?;
    let (range, size) = rest.trim().split_once('/')?;
    unit.eq_ignore_ascii_case("bytes").then_some((range, size))
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn read_content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let (range, size) = content_range(headers)?;
    let (first, last) = range.split_once('-')?;
    let range = ByteRange::new(number(first)?, number(last)?.checked_add(1)?)?;
    let size = if size == "*" { None } else { Some(number(size)?) };
    if size.is_some_and(|size| range.end > size) {
        return None;
    }
    Some(ContentRange { range, size })
}

/// `Content-Range: bytes */size`, of a 416.
fn unsatisfied_size(headers: &HeaderMap) -> Option<u64> {
    content_range(headers).filter(|(range, _)| *range == "*").and_then(|(_, size)| number(size))
}

/// Whether the answer is the range that was asked for, as far as the blob goes.
fn check_partial(asked: ByteRange, got: ContentRange, length: Option<u64>) -> Result<(), String> {
    let end = got.size.map_or(asked.end, |size| asked.end.min(size));
    if got.range.start != asked.start || got.range.end != end {
        return Err(format!(
            "it was asked for bytes {}-{} and answers with {}-{}",
            asked.start,
            asked.end - 1,
            got.range.start,
            got.range.end - 1
        ));
    }
    if length.is_some_and(|length| length != got.range.len()) {
        return Err("its Content-Length contradicts its Content-Range".to_owned());
    }
    Ok(())
}

/// A body as it arrives.
struct Arriving {
    response: Response,
    site: Arc<str>,
    /// The mirror that it comes from, if it does.
    origin: Option<Origin>,
    digest: Digest,
    got: u64,
    promised: Option<u64>,
    stall: Duration,
}

impl Arriving {
    /// The next piece, or the error that ends the body.
    async fn next(&mut self) -> Option<Result<Bytes, PullError>> {
        let piece = match body::next(&mut self.response, self.stall).await {
            Ok(Some(piece)) => piece,
            Ok(None) if self.promised.is_none_or(|promised| promised == self.got) => return None,
            Ok(None) => return Some(Err(self.failed("the body ended early"))),
            Err(error) => return Some(Err(self.failed(&error.to_string()))),
        };
        self.got += piece.len() as u64;
        if self.promised.is_some_and(|promised| self.got > promised) {
            return Some(Err(self.failed("the body is longer than promised")));
        }
        Some(Ok(piece))
    }

    fn failed(&self, what: &str) -> PullError {
        let promised = self.promised.map(|promised| format!(" of {promised}")).unwrap_or_default();
        if let Some(origin) = &self.origin {
            origin.failed(what);
        }
        PullError::Upstream {
            registry: self.site.to_string(),
            status: None,
            reason: format!("{}: {what} after {} bytes{promised}", self.digest, self.got),
        }
    }
}

fn download(
    site: &Site,
    digest: Digest,
    response: Response,
    promised: Option<u64>,
    stall: Duration,
) -> BoxStream<'static, Result<Bytes, PullError>> {
    let site = Arc::from(site.registry.as_str());
    let origin = Origin::of(&response);
    let arriving = Arriving { response, site, origin, digest, got: 0, promised, stall };
    stream::unfold(Some(arriving), |state| async {
        let mut arriving = state?;
        let piece = arriving.next().await?;
        // Nothing comes after an error.
        let state = piece.is_ok().then_some(arriving);
        Some((piece, state))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(content_range: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, content_range.parse().unwrap());
        headers
    }

    #[test]
    fn content_ranges() {
        let read = |text: &str| {
            read_content_range(&headers(text)).map(|got| (got.range.start, got.range.end, got.size))
        };
        assert_eq!(read("bytes 0-0/1"), Some((0, 1, Some(1))));
        assert_eq!(read("Bytes 5-9/*"), Some((5, 10, None)));
        for bad in [
            "",
            "bytes",
            "bytes 5-9",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes a-b/c",
            "bytes */10",
            "0-1/2",
            "bytes 0-18446744073709551615/*",
            "bytes +1-2/3",
            "items 0-1/2",
            "bytes -/",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(unsatisfied_size(&headers("bytes */10")), Some(10));
        assert_eq!(unsatisfied_size(&headers("bytes 0-1/10")), None);
    }

    #[test]
    fn partial_answers_are_what_was_asked() {
        let asked = ByteRange::new(10, 20).unwrap();
        let check = |start, end, size, length| {
            check_partial(asked, ContentRange { range: ByteRange::new(start, end).unwrap(), size }, length)
                .is_ok()
        };
        assert!(check(10, 20, Some(100), Some(10)));
        assert!(check(10, 20, None, None));
        assert!(check(10, 15, Some(15), Some(5)), "the blob ends there");
        assert!(!check(10, 15, Some(100), None), "fewer than there are");
        assert!(!check(10, 15, None, None));
        assert!(!check(9, 20, None, None));
        assert!(!check(10, 21, None, None));
        assert!(!check(10, 20, Some(100), Some(9)));
    }
}
