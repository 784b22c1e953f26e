//! A body that may break off.
//!
//! Once a status is sent, the only honest way to say that the rest will not come is a connection that ends
//! early and cleanly: containerd resumes after that, elsewhere, while a reset fails its pull and a silence costs
//! it minutes.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::broken::{Broken, Key};
use super::record::{Ended, Recorder};
use crate::error::PullError;

/// Between a failure and the end of its body: hyper writes what it was given before it looks again, so that
/// the client keeps what it had a right to.
const FLUSH: Duration = Duration::from_millis(50);

/// What a reply's body is made of.
pub(super) enum Content {
    Nothing,
    Bytes(Bytes),
    Stream(StreamBody),
}

impl Content {
    /// The bytes of an answer that is not streamed.
    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Nothing | Self::Stream(_) => Bytes::new(),
        }
    }
}

/// The tail of a body that is still to come.
pub(super) struct StreamBody {
    stream: BoxStream<'static, Result<Bytes, PullError>>,
    /// How many bytes were promised and not yet given.
    left: u64,
    patience: Duration,
    /// Runs while the source owes the next bytes, and only then.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Set once the body has broken off.
    broke: Option<(Ended, Pin<Box<Sleep>>)>,
    broken: Arc<Broken>,
    key: Key,
    /// Whether these are all of the blob's bytes.
    whole: bool,
}

/// Why hyper ends the connection; it reaches only the log.
#[derive(Debug)]
pub(super) struct BrokeOff(Ended);

impl fmt::Display for BrokeOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body broke off: {:?}", self.0)
    }
}

impl std::error::Error for BrokeOff {}

impl StreamBody {
    /// `length` bytes from `stream`, each awaited for `patience` at the most. A break is noted in `broken`.
    pub(super) fn new(
        stream: BoxStream<'static, Result<Bytes, PullError>>,
        length: u64,
        whole: bool,
        patience: Duration,
        broken: Arc<Broken>,
        key: Key,
    ) -> Self {
        Self { stream, left: length, patience, waiting: None, broke: None, broken, key, whole }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokeOff>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.broke.is_none() {
            match ready!(self.poll_source(cx)) {
                Ok(bytes) => return Poll::Ready(Some(Ok(bytes))),
                Err(ended) => self.break_off(ended),
            }
        }
        if let Some((ended, flush)) = &mut self.broke {
            ready!(flush.as_mut().poll(cx));
            return Poll::Ready(Some(Err(BrokeOff(ended.clone()))));
        }
        Poll::Ready(None)
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Ended>> {
        match self.stream.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(mut bytes))) if !bytes.is_empty() => {
                self.waiting = None;
                // More than was promised would be taken for the next answer's head.
                bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= bytes.len() as u64;
                if self.left == 0 && self.whole {
                    self.broken.forget(&self.key);
                }
                return Poll::Ready(Ok(bytes));
            }
            // No bytes are no progress, and a source that yields only such must not hold the task.
            Poll::Ready(Some(Ok(_))) => cx.waker().wake_by_ref(),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Ended::Failed(error.to_string()))),
            Poll::Ready(None) => {
                let text = format!("the source ended {} bytes early", self.left);
                return Poll::Ready(Err(Ended::Failed(text)));
            }
            Poll::Pending => {}
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        waiting.as_mut().poll(cx).map(|()| Err(Ended::Stalled))
    }

    fn break_off(&mut self, ended: Ended) {
        let (scope, digest) = &self.key;
        tracing::warn!(%scope, %digest, missing = self.left, ?ended, "a blob's body broke off");
        self.broken.note(self.key.clone());
        self.broke = Some((ended, Box::pin(tokio::time::sleep(FLUSH))));
        // Whatever the source holds for this body is free to go.
        self.stream = futures::stream::empty().boxed();
    }
}

/// A response's body, which reports how it went.
pub(super) struct ReplyBody {
    content: Content,
    recorder: Recorder,
}

impl ReplyBody {
    pub(super) fn new(content: Content, recorder: Recorder) -> Self {
        Self { content, recorder }
    }

    fn left(&self) -> u64 {
        match &self.content {
            Content::Nothing => 0,
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Stream(stream) => stream.left,
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let this = &mut *self;
        let polled = match &mut this.content {
            Content::Nothing => None,
            Content::Bytes(bytes) if bytes.is_empty() => None,
            Content::Bytes(bytes) => Some(Ok(std::mem::take(bytes))),
            Content::Stream(stream) => ready!(stream.poll(cx)),
        };
        match &polled {
            Some(Ok(bytes)) => {
                this.recorder.gave(bytes.len());
                if this.left() == 0 {
                    this.recorder.ended(Ended::Whole);
                }
            }
            Some(Err(BrokeOff(ended))) => this.recorder.ended(ended.clone()),
            None => {}
        }
        Poll::Ready(polled.map(|frame| frame.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use shoal_proto::digest::Digest;
    use shoal_proto::name::Scope;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(8);

    fn body(stream: BoxStream<'static, Result<Bytes, PullError>>, length: u64) -> ReplyBody {
        let scope = Scope { registry: "ghcr.io".parse().unwrap(), repository: "a".parse().unwrap() };
        let key = (scope, Digest::sha256_of(b""));
        let broken = Arc::new(Broken::new(PATIENCE));
        let content = Content::Stream(StreamBody::new(stream, length, true, PATIENCE, broken, key));
        ReplyBody::new(content, Recorder::start(Arc::new(|_| {}), false))
    }

    #[tokio::test]
    async fn never_more_than_was_promised() {
        let pieces = [&b"abc"[..], b"", b"defg", b"h"].map(|piece| Ok(Bytes::from_static(piece)));
        let body = body(futures::stream::iter(pieces).boxed(), 5);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcde");
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_of_no_bytes_are_no_progress() {
        let mut body = body(futures::stream::repeat_with(|| Ok(Bytes::new())).boxed(), 5);
        let began = tokio::time::Instant::now();
        // Paused time stands still while a task is ready, so it is moved on beside the body.
        let tick = async {
            loop {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            biased;
            frame = body.frame() => assert!(frame.unwrap().is_err()),
            () = tick => {}
        }
        assert!(began.elapsed() >= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn each_piece_has_the_whole_of_the_patience() {
        let slow = futures::stream::unfold((), |()| async {
            tokio::time::sleep(PATIENCE * 7 / 8).await;
            Some((Ok(Bytes::from_static(b"x")), ()))
        });
        assert_eq!(body(slow.boxed(), 20).collect().await.unwrap().to_bytes().len(), 20);

        let mut slower = body(futures::stream::pending().boxed(), 20);
        let began = tokio::time::Instant::now();
        assert!(slower.frame().await.unwrap().is_err());
        let waited = began.elapsed();
        assert!(waited >= PATIENCE && waited < PATIENCE + Duration::from_secs(1), "{waited:?}");
    }
}
