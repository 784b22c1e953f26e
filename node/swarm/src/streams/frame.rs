//! Messages on a stream: length, message, and for chunks the raw bytes that follow.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libp2p::swarm::Stream;
use prost::Message;
use shoal_proto::buffer::ChunkBuffer;
use shoal_proto::wire::{self, WireError, decode_frame, encode_frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::timeout;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};

use crate::RateCap;

/// How long a stream may stand still while something is due on it.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// How much is read at a time, at the least.
const READ: usize = 16 * 1024;

/// Why a stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the peer breaks the protocol: {0}")]
    Wire(#[from] WireError),
    #[error("nothing moved for {} s", PATIENCE.as_secs())]
    Stalled,
    #[error("the peer ended the stream")]
    Ended,
}

/// The reading half.
#[derive(Debug)]
pub(super) struct Reader {
    half: ReadHalf<Compat<Stream>>,
    buffer: BytesMut,
}

/// The writing half.
#[derive(Debug)]
pub(super) struct Writer {
    half: WriteHalf<Compat<Stream>>,
    buffer: BytesMut,
}

/// Splits a stream into halves that speak messages.
pub(super) fn split(stream: Stream) -> (Reader, Writer) {
    let (reader, writer) = tokio::io::split(stream.compat());
    (Reader { half: reader, buffer: BytesMut::new() }, Writer { half: writer, buffer: BytesMut::new() })
}

impl Reader {
    /// The next message; `None` at a clean end. Waits as long as it takes.
    ///
    /// Cancel-safe: what was read stays in the buffer.
    pub(super) async fn message<M: Message + Default>(&mut self) -> Result<Option<M>, StreamError> {
        loop {
            if let Some(message) = decode_frame(&mut self.buffer)? {
                return Ok(Some(message));
            }
            self.buffer.reserve(READ);
            if self.half.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(StreamError::Ended) };
            }
        }
    }

    /// Waits for bytes while nothing is due, and says whether there are any: `false` at a clean end. What comes is
    /// left for [`Reader::message`].
    ///
    /// Cancel-safe: what was read stays in the buffer.
    pub(super) async fn idle(&mut self) -> Result<bool, StreamError> {
        if self.buffer.is_empty() {
            self.buffer.reserve(READ);
            return Ok(self.half.read_buf(&mut self.buffer).await? > 0);
        }
        Ok(true)
    }

    /// The next message, which is due.
    pub(super) async fn due<M: Message + Default>(&mut self) -> Result<M, StreamError> {
        let message = timeout(PATIENCE, self.message()).await.map_err(|_| StreamError::Stalled)?;
        message?.ok_or(StreamError::Ended)
    }

    /// So many raw bytes, no faster than `rate`: whoever sends faster is held up by the stream's window. Each read may
    /// take as long as [`PATIENCE`].
    pub(super) async fn bytes(&mut self, length: usize, rate: &RateCap) -> Result<Bytes, StreamError> {
        let mut bytes = ChunkBuffer::of(length);
        let mut filled = self.buffer.len().min(length);
        bytes[..filled].copy_from_slice(&self.buffer.split_to(filled));
        while filled < length {
            let read = self.half.read(&mut bytes[filled..]);
            match timeout(PATIENCE, read).await.map_err(|_| StreamError::Stalled)?? {
                0 => return Err(StreamError::Ended),
                read => {
                    filled += read;
                    rate.pass(read).await;
                }
            }
        }
        Ok(bytes.freeze())
    }
}

impl Writer {
    /// Puts a message in the buffer, to be sent by [`Writer::flush`].
    pub(super) fn queue(&mut self, message: &impl Message) {
        encode_frame(message, &mut self.buffer);
    }

    /// Puts the Hello in the buffer.
    pub(super) fn hello(&mut self) {
        self.queue(&wire::hello());
    }

    /// Sends what is in the buffer, then `body`.
    pub(super) async fn send(&mut self, body: &[u8]) -> Result<(), StreamError> {
        let head = self.buffer.split();
        self.all(&head).await?;
        self.all(body).await
    }

    /// Sends what is in the buffer, and pushes it out.
    pub(super) async fn flush(&mut self) -> Result<(), StreamError> {
        self.send(&[]).await?;
        timeout(PATIENCE, self.half.flush()).await.map_err(|_| StreamError::Stalled)??;
        Ok(())
    }

    async fn all(&mut self, mut bytes: &[u8]) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let written =
                timeout(PATIENCE, self.half.write(bytes)).await.map_err(|_| StreamError::Stalled)??;
            if written == 0 {
                return Err(StreamError::Ended);
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }
}
