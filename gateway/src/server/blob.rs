//! `blobs/<digest>`.

use futures::stream::{self, StreamExt as _};
use http::header::ACCEPT_RANGES;
use http::{HeaderValue, StatusCode};
use shoal_proto::digest::Digest;
use shoal_proto::range::{ByteRange, RangeRequest, Unsatisfiable};

use super::answer::{Ask, Shared};
use super::body::{Content, StreamBody};
use super::failure::{Failure, Sought};
use super::headers;
use super::reply::Reply;
use crate::error::PullError;
use crate::source::{BlobBody, Source};

impl<S: Source> Shared<S> {
    /// A blob, or the parts of it that were asked for.
    pub(super) async fn blob(&self, ask: &Ask<'_>, digest: &Digest) -> Result<Reply, Failure> {
        let request = &ask.request.headers;
        let has = headers::client_has(request, digest);
        if ask.head || has {
            let size = self.source.blob_size(&ask.scope, digest).await.map_err(|error| failed(&error))?;
            let status = if has { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
            return Ok(described(status, size, digest));
        }
        // Only GET knows ranges (RFC 9110, section 14.2).
        let ranges = headers::ranges(request, digest);
        let wanted = match ranges[..] {
            [] => None,
            [one] => Some(one),
            _ => match self.parts(ask, digest, &ranges).await? {
                Some(parts) => return Ok(parts),
                None => None,
            },
        };
        let key = (ask.scope.clone(), *digest);
        if matches!(wanted, Some(RangeRequest::From { first: 1.., .. })) && self.broken.lately(&key) {
            return Err(Failure::broke_here());
        }
        let opened = self.source.open(&ask.scope, digest, wanted).await.map_err(|error| failed(&error))?;
        let (size, range) = (opened.size, promised(&opened, wanted)?);
        let Some(range) = range else {
            return Ok(described(StatusCode::OK, size, digest));
        };
        let status = if wanted.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let mut reply = described(status, range.len(), digest);
        if wanted.is_some() {
            reply = reply.range(&format!("bytes {}-{}/{size}", range.start, range.end - 1));
        }
        let stream = self.begun(opened).await?;
        let whole = range.len() == size;
        let patience = self.settings.body_stall;
        let body = StreamBody::new(stream, range.len(), whole, patience, self.broken.clone(), key);
        reply.content = Content::Stream(body);
        Ok(reply)
    }

    /// Waits for the first bytes, so that a source which has none becomes a status and not an empty body.
    ///
    /// containerd asks again and again where a 200 came without a byte, and never goes on to its next host.
    pub(super) async fn begun(
        &self,
        mut opened: BlobBody,
    ) -> Result<stream::BoxStream<'static, Result<bytes::Bytes, PullError>>, Failure> {
        let patience = self.settings.body_stall;
        match tokio::time::timeout(patience, opened.stream.next()).await {
            Ok(Some(Ok(first))) => Ok(stream::iter([Ok(first)]).chain(opened.stream).boxed()),
            Ok(Some(Err(error))) => Err(failed(&error)),
            Ok(None) => Err(failed(&PullError::Content("the source had no bytes of it".to_owned()))),
            Err(_) => Err(Failure::late(patience)),
        }
    }
}

pub(super) fn failed(error: &PullError) -> Failure {
    Failure::pull(Sought::Blob, error)
}

/// The bytes that the body will have; `None` for a blob of no bytes.
///
/// The source is held to what was asked: another range under a `Content-Range` of ours would put bytes in the
/// wrong place of the client's file.
fn promised(opened: &BlobBody, wanted: Option<RangeRequest>) -> Result<Option<ByteRange>, Failure> {
    let size = opened.size;
    let expected = match wanted {
        Some(wanted) => match wanted.resolve(size) {
            Ok(range) => Some(range),
            Err(Unsatisfiable { size }) => {
                return Err(failed(&PullError::Unsatisfiable(Unsatisfiable { size })));
            }
        },
        None => ByteRange::new(0, size),
    };
    if opened.range == expected {
        return Ok(expected);
    }
    let text = format!("the source gave the bytes {:?} where {expected:?} were asked for", opened.range);
    Err(failed(&PullError::Unavailable(text)))
}

/// All that HEAD says of a blob.
pub(super) fn described(status: StatusCode, length: u64, digest: &Digest) -> Reply {
    Reply::of_length(status, length)
        .typed("application/octet-stream")
        .identified(digest)
        .with(ACCEPT_RANGES, HeaderValue::from_static("bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_gives_another_range_is_not_believed() {
        let opened = |size, start, end| {
            let range = ByteRange::new(start, end);
            BlobBody { size, range, stream: stream::empty().boxed() }
        };
        let wanted = Some(RangeRequest::From { first: 3, last: Some(5) });
        let status =
            |result: Result<Option<ByteRange>, Failure>| result.map_err(|failure| failure.status.as_u16());
        assert_eq!(status(promised(&opened(9, 3, 6), wanted)), Ok(ByteRange::new(3, 6)));
        assert_eq!(status(promised(&opened(9, 0, 9), wanted)), Err(503));
        assert_eq!(status(promised(&opened(9, 3, 6), None)), Err(503));
        assert_eq!(status(promised(&opened(9, 0, 0), None)), Err(503));
        assert_eq!(status(promised(&opened(3, 0, 3), wanted)), Err(416));
        assert_eq!(status(promised(&opened(0, 0, 0), None)), Ok(None));
    }
}
