//! A connection that is closed is over soon.
//!
//! Closing sends what waits, and says goodbye. To a peer that is gone nothing can be sent: with an upload under way the
//! kernel takes no more, and libp2p, which waits for the end of the close, would call the peer connected until TCP gives
//! up, which takes a quarter of an hour. So a close has a limit; what is not said by then is dropped with the socket.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use tokio::time::{Sleep, sleep};

/// How long a close may take.
const LIMIT: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(super) struct BriefClose<M> {
    muxer: M,
    closing: Option<Pin<Box<Sleep>>>,
}

impl<M> BriefClose<M> {
    pub(super) fn new(muxer: M) -> Self {
        Self { muxer, closing: None }
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for BriefClose<M> {
    type Substream = M::Substream;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        Pin::new(&mut self.muxer).poll_inbound(cx)
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        Pin::new(&mut self.muxer).poll_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        let closed = Pin::new(&mut self.muxer).poll_close(cx);
        if closed.is_ready() {
            return closed;
        }
        let limit = self.closing.get_or_insert_with(|| Box::pin(sleep(LIMIT)));
        limit.as_mut().poll(cx).map(Ok)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.muxer).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use libp2p::core::muxing::StreamMuxerExt as _;
    use tokio::time::{Instant, timeout};

    use super::*;

    /// A connection to a peer that is gone.
    struct Stuck;

    impl StreamMuxer for Stuck {
        type Substream = futures::io::Cursor<Vec<u8>>;
        type Error = Infallible;

        fn poll_inbound(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Result<Self::Substream, Infallible>> {
            Poll::Pending
        }

        fn poll_outbound(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Result<Self::Substream, Infallible>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Infallible>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_close_that_cannot_be_said_is_over_all_the_same() {
        let began = Instant::now();
        timeout(LIMIT * 60, BriefClose::new(Stuck).close()).await.unwrap().unwrap();
        assert!(began.elapsed() >= LIMIT, "a peer that is there hears of it first");
    }
}
