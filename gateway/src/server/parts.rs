//! Several ranges of a blob in one answer, as podman asks for the chunks of a layer that it lacks (RFC 9110, section
//! 14.6: `multipart/byteranges`).

use std::collections::VecDeque;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use http::StatusCode;
use shoal_proto::chunk::MIN_CHUNK;
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

/// So many runs are opened at once: the source knows of them all while the first is sent.
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
        let mut opened = stream::iter(runs(ranges))
            .map(move |run| {
                let (source, scope, wanted) = (source.clone(), scope.clone(), run.wanted);
                // A task: what it holds while it asks who may read, it must not hold until the client reads on.
                let open = async move { source.open(&scope, &digest, Some(wanted)).await };
                let opening = AbortOnDropHandle::new(tokio::spawn(open));
                async move {
                    let opened = opened_as(opening.await, run.all, size);
                    (run, opened)
                }
            })
            .buffered(AHEAD);
        let Some((run, first)) = opened.next().await else { return Ok(None) };
        let begun = self.begun(first.map_err(|error| failed(&error))?).await?;

        let first = parts_of(&frame, run, begun);
        let end = Bytes::from(frame.end());
        let rest = opened
            .map(move |(run, opened)| match opened {
                Ok(opened) => parts_of(&frame, run, opened.stream),
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

/// Parts that are read in one go.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    /// What the source is asked for.
    wanted: RangeRequest,
    all: ByteRange,
    /// What the client gets of it, in its order: ascending, none in another.
    parts: VecDeque<ByteRange>,
}

/// Ranges that follow each other so closely that their chunks do too: else each would have its chunk read again.
fn runs(ranges: Vec<(RangeRequest, ByteRange)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (wanted, range) in ranges {
        let gap = |run: &Run| range.start.checked_sub(run.all.end);
        match runs.last_mut() {
            Some(run) if gap(run).is_some_and(|gap| gap < MIN_CHUNK) => {
                run.all.end = range.end;
                run.wanted = RangeRequest::From { first: run.all.start, last: Some(range.end - 1) };
                run.parts.push_back(range);
            }
            _ => runs.push(Run { wanted, all: range, parts: VecDeque::from([range]) }),
        }
    }
    runs
}

/// The parts of a run, each with what stands before it, of the source's bytes; or an error, which is the end: what
/// follows must begin in its place.
fn parts_of(frame: &Frame, run: Run, bytes: Body) -> Body {
    let heads = run.parts.iter().map(|part| Bytes::from(frame.head(*part))).collect();
    let cut = Cut { at: run.all.start, parts: run.parts, heads, bytes, left_over: Bytes::new() };
    stream::unfold(cut, async |mut cut| {
        let piece = cut.next().await?;
        if piece.is_err() {
            cut.parts.clear();
        }
        Some((piece, cut))
    })
    .boxed()
}

/// A run on its way.
struct Cut {
    /// Where in the blob `left_over` begins, and then `bytes`.
    at: u64,
    /// The one that is being given, and those to come.
    parts: VecDeque<ByteRange>,
    /// Of the parts that are not begun.
    heads: VecDeque<Bytes>,
    bytes: Body,
    left_over: Bytes,
}

impl Cut {
    async fn next(&mut self) -> Option<Result<Bytes, PullError>> {
        let part = *self.parts.front()?;
        if self.heads.len() == self.parts.len() {
            return self.heads.pop_front().map(Ok);
        }
        loop {
            if self.left_over.is_empty() {
                match self.bytes.next().await {
                    Some(Ok(bytes)) => self.left_over = bytes,
                    Some(Err(error)) => return Some(Err(error)),
                    None => {
                        let left = part.end - self.at;
                        return Some(Err(PullError::Content(format!("the source ended {left} bytes early"))));
                    }
                }
            }
            let to = if self.at < part.start { part.start } else { part.end };
            let length = usize::try_from(to - self.at).unwrap_or(usize::MAX).min(self.left_over.len());
            let piece = self.left_over.split_to(length);
            let given = self.at >= part.start && !piece.is_empty();
            self.at += piece.len() as u64;
            if self.at == part.end {
                self.parts.pop_front();
            }
            if given {
                return Some(Ok(piece));
            }
        }
    }
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

    fn range(start: u64, end: u64) -> (RangeRequest, ByteRange) {
        (RangeRequest::From { first: start, last: Some(end - 1) }, ByteRange::new(start, end).unwrap())
    }

    #[tokio::test]
    async fn a_run_is_cut_into_its_parts() {
        let frame = Frame::new(&Digest::sha256_of(b"x"), 100);
        let run = || runs(vec![range(2, 4), range(4, 5), range(8, 9)]).pop().unwrap();
        let given = async |pieces: &'static [&'static [u8]]| {
            let pieces = stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece)))).boxed();
            parts_of(&frame, run(), pieces).collect::<Vec<_>>().await
        };
        let head = |start, end| frame.head(ByteRange::new(start, end).unwrap());
        let expected = [head(2, 4), "cd".to_owned(), head(4, 5), "e".to_owned(), head(8, 9), "i".to_owned()];
        let ways: [&[&[u8]]; 2] = [&[b"cdefghijkl"], &[b"c", b"", b"de", b"fg", b"h", b"ij"]];
        for pieces in ways {
            let all: Vec<Bytes> = given(pieces).await.into_iter().map(Result::unwrap).collect();
            assert_eq!(all.concat(), expected.concat().as_bytes());
        }
        // What ends early ends with an error, and nothing after it.
        let mut short = given(&[b"cdef"]).await;
        assert!(matches!(short.pop(), Some(Err(PullError::Content(_)))));
        let all: Vec<Bytes> = short.into_iter().map(Result::unwrap).collect();
        assert_eq!(all.concat(), expected[..5].concat().as_bytes());
    }

    #[test]
    fn what_lies_close_is_read_in_one_go() {
        let far = MIN_CHUNK + 20;
        let ranges = vec![range(0, 10), range(15, 20), range(far, far + 5), range(12, 14), range(13, 20)];
        let parts: Vec<Vec<ByteRange>> =
            runs(ranges.clone()).into_iter().map(|run| run.parts.into()).collect();
        let of = |numbers: &[usize]| numbers.iter().map(|&number| ranges[number].1).collect::<Vec<_>>();
        assert_eq!(parts, [of(&[0, 1]), of(&[2]), of(&[3]), of(&[4])]);
        assert_eq!(runs(ranges)[0].wanted, range(0, 20).0);
    }

    #[test]
    fn ranges_without_end_have_no_length() {
        let frame = Frame::new(&Digest::sha256_of(b"x"), u64::MAX);
        let all = ByteRange::new(0, u64::MAX).unwrap();
        assert_eq!(frame.length([all, all].into_iter()), None);
        assert!(frame.boundary.len() <= MAX_BOUNDARY);
    }
}
