//! A connection that is closed is dropped, without a goodbye.
//!
//! Closing as yamux does it sends what waits, and says goodbye. To a peer that is gone nothing can be sent: with an upload
//! under way the kernel takes no more, and libp2p, which waits for the end of the close, would call the peer connected
//! until TCP gives up, which takes a quarter of an hour. And whoever waits for something on one of the streams is not woken
//! by a close (yamux 0.14), but by a drop. This node closes connections to peers that it takes for dead only, and to those
//! the goodbye would be of no use.

use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};

/// See the module.
#[derive(Debug)]
pub(super) struct DropOnClose<M>(pub(super) M);

impl<M: StreamMuxer + Unpin> StreamMuxer for DropOnClose<M> {
    type Substream = M::Substream;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        Pin::new(&mut self.0).poll_inbound(cx)
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        Pin::new(&mut self.0).poll_outbound(cx)
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        // Who closes drops it next.
        Poll::Ready(Ok(()))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}
