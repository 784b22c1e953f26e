//! A client's connection, with an end to patience for clients that stop reading.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// How long a closed connection waits for its client's end.
const LINGER: Duration = Duration::from_millis(500);

/// A TCP stream on which a write that makes no progress for long enough fails.
///
/// The kernel takes bytes for a client that does not read until its buffers are full, so progress is seen late
/// and in steps of some hundred kilobytes; only a client slower than that in a whole `patience` is cut.
pub(super) struct ClientIo {
    stream: TokioIo<TcpStream>,
    patience: Duration,
    /// Runs while the client takes nothing; kept between writes, as it is needed again and again.
    blocked: Option<Pin<Box<Sleep>>>,
    is_blocked: bool,
}

impl ClientIo {
    pub(super) fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream: TokioIo::new(stream), patience, blocked: None, is_blocked: false }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.is_blocked = false;
            return polled;
        }
        let deadline = Instant::now() + self.patience;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if !self.is_blocked {
            self.is_blocked = true;
            blocked.as_mut().reset(deadline);
        }
        ready!(blocked.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes")))
    }

    /// Ends the connection in order: our end first, then what the client still sends is read and dropped, because
    /// closing over unread bytes resets the connection and takes back what was sent.
    pub(super) async fn close(self) {
        let mut stream = self.stream.into_inner();
        let drained = async {
            stream.shutdown().await?;
            let mut scrap = [0; 4096];
            while stream.read(&mut scrap).await? > 0 {}
            io::Result::Ok(())
        };
        // Whichever way it goes, the connection is over.
        drop(tokio::time::timeout(LINGER, drained).await);
    }
}

impl Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, polled)
    }
}
