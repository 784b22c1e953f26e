//! Several ranges of a blob in one answer, as podman asks for the chunks of a layer that it lacks (RFC 9110, section
//! 14.6: `multipart/byteranges`).

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use http::StatusCode;
use shoal_proto::digest::Digest;
use shoal_proto::range::{ByteRange, RangeRequest, Unsatisfiable};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{Ask, Shared};
use super::blob::{described, failed};
use super::body::{Content, StreamBody};
use super::failure::Failure;
use super::reply::Reply;
use crate::error::PullError;
use crate::source::{BlobBody, Source};

/// So many ranges are opened at once: the source knows of them all while the first is sent.
const AHEAD: usize = 4;
/// The longest boundary (RFC 2046, section 5.1.1).
const MAX_BOUNDARY: usize = 70;

type Body = BoxStream<'static, Result<Bytes, PullError>>;

impl<S: Source> Shared<S> {
    /// A part for each of the ranges, in the order in which they were asked for; `None` if the whole is the shorter
    /// answer.
    pub(super) async fn parts(
        &self,
        ask: &Ask<'_>,
        digest: &Digest,
        wanted: &[RangeRequest],
    ) -> Result<Option<Reply>, Failure> {
        if self.broken.lately(&(ask.scope.clone(), *digest)) {
            return Err(Failure::broke_here());
        }
        let size = self.source.blob_size(&ask.scope, digest).await.map_err(|error| failed(&error))?;
        let ranges: Vec<_> =
            wanted.iter().filter_map(|wanted| Some((*wanted, wanted.resolve(size).ok()?))).collect();
        if ranges.is_empty() {
            return Err(failed(&PullError::Unsatisfiable(Unsatisfiable { size })));
        }
        let frame = Frame::new(digest, size);
        let Some(length) =
            frame.length(ranges.iter().map(|(_, range)| *range)).filter(|length| *length < size)
        else {
            return Ok(None);
        };

        let mut reply = described(StatusCode::PARTIAL_CONTENT, length, digest)
            .typed(&format!("multipart/byteranges; boundary={}", frame.boundary));
        let (source, key) = (self.source.clone(), (ask.scope.clone(), *digest));
        let (scope, digest) = key.clone();
        let mut opened = stream::iter(ranges)
            .map(move |(wanted, range)| {
                let (source, scope) = (source.clone(), scope.clone());
                // A task: what it holds while it asks who may read, it must not hold until the client reads on.
                let open = async move { source.open(&scope, &digest, Some(wanted)).await };
                let opening = AbortOnDropHandle::new(tokio::spawn(open));
                async move { (range, opened_as(opening.await, range, size)) }
            })
            .buffered(AHEAD);
        let Some((range, first)) = opened.next().await else { return Ok(None) };
        let begun = self.begun(first.map_err(|error| failed(&error))?).await?;

        let first = part(&frame, range, begun);
        let end = Bytes::from(frame.end());
        let rest = opened
            .map(move |(range, opened)| match opened {
                Ok(opened) => part(&frame, range, opened.stream),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            })
            .flatten();
        let all = first.chain(rest).chain(stream::once(async { Ok(end) })).boxed();
        let patience = self.settings.body_stall;
        reply.content =
            Content::Stream(StreamBody::new(all, length, false, patience, self.broken.clone(), key));
        Ok(Some(reply))
    }
}

/// What the source gave, if it is this range of a blob of this size: the parts are of one blob.
fn opened_as(
    opened: Result<Result<BlobBody, PullError>, JoinError>,
    range: ByteRange,
    size: u64,
) -> Result<BlobBody, PullError> {
    let opened = opened.map_err(|error| PullError::Unavailable(error.to_string()))??;
    if opened.size != size || opened.range != Some(range) {
        let (given, of) = (opened.range, opened.size);
        return Err(PullError::Unavailable(format!(
            "the source gave the bytes {given:?} of {of} where {range:?} of {size} were asked for"
        )));
    }
    Ok(opened)
}

/// A part: what stands before it, and its bytes.
fn part(frame: &Frame, range: ByteRange, bytes: Body) -> Body {
    let head = Bytes::from(frame.head(range));
    stream::once(async { Ok(head) }).chain(exactly(bytes, range.len())).boxed()
}

/// So many bytes of a source, or an error: what follows must begin in its place.
fn exactly(body: Body, length: u64) -> Body {
    let step = async |(mut body, left): (Body, u64)| {
        if left == 0 {
            return None;
        }
        let given = match body.next().await {
            Some(Ok(mut bytes)) => {
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                Ok(bytes)
            }
            Some(Err(error)) => Err(error),
            None => Err(PullError::Content(format!("the source ended {left} bytes early"))),
        };
        let left = given.as_ref().map_or(0, |bytes| left - bytes.len() as u64);
        Some((given, (body, left)))
    };
    stream::unfold((body, length), step).boxed()
}

/// What stands between the parts.
struct Frame {
    /// The blob's own digest: no blob holds it, so that no part looks like its end.
    boundary: String,
    size: u64,
}

impl Frame {
    fn new(digest: &Digest, size: u64) -> Self {
        let text = digest.to_string();
        let hex = text.rsplit(':').next().unwrap_or(&text);
        Self { boundary: hex.chars().take(MAX_BOUNDARY).collect(), size }
    }

    fn head(&self, range: ByteRange) -> String {
        let Self { boundary, size } = self;
        let (first, last) = (range.start, range.end - 1);
        format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n"
        )
    }

    fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }

    /// Of all parts together; `None` if no number holds it.
    fn length(&self, mut ranges: impl Iterator<Item = ByteRange>) -> Option<u64> {
        ranges.try_fold(self.end().len() as u64, |sum, range| {
            sum.checked_add(self.head(range).len() as u64)?.checked_add(range.len())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_early_is_an_error_and_one_that_is_long_is_cut() {
        let pieces = |pieces: &'static [&'static [u8]]| {
            stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece)))).boxed()
        };
        let all = async |body: Body| body.collect::<Vec<_>>().await;
        let cut = all(exactly(pieces(&[b"abc", b"def"]), 5)).await;
        assert_eq!(cut.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat(), b"abcde");
        let short = all(exactly(pieces(&[b"abc"]), 5)).await;
        assert!(matches!(short[..], [Ok(_), Err(PullError::Content(_))]), "{short:?}");
    }

    #[test]
    fn ranges_without_end_have_no_length() {
        let frame = Frame::new(&Digest::sha256_of(b"x"), u64::MAX);
        let all = ByteRange::new(0, u64::MAX).unwrap();
        assert_eq!(frame.length([all, all].into_iter()), None);
        assert!(frame.boundary.len() <= MAX_BOUNDARY);
    }
}
