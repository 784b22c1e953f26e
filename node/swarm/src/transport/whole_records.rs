//! Reads a connection in whole TLS records.
//!
//! On a link that is slow, or shared by many connections, a record of 16 KiB arrives in a dozen packets, and each would
//! wake this node for bytes that nothing can be made of: a record is decrypted when its last byte is here. TLS says how
//! long each is, so Linux is told to wake this node no sooner than that (`SO_RCVLOWAT`, see socket(7)). On a fast link
//! several records are here at once, and are read in one go, where rustls reads 4 KiB at a time.
//!
//! Measured: with eight nodes on links of 200 Mbit/s a third of the reads and an eighth less CPU for the same pulls.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::tcp::tokio::TcpStream;

/// Bytes that are read at once: few where little comes, for a node has thousands of connections, and more where a read
/// has filled what there was.
const LEAST: usize = 4 * 1024;
const MOST: usize = 64 * 1024;
/// After so many small reads in a row little comes.
const CALM: u32 = 16;
/// The bytes before each record: its type, a version, and how many follow (RFC 8446, section 5.1).
const HEADER: usize = 5;

/// A connection that carries TLS. See the module.
#[derive(Debug)]
pub(crate) struct WholeRecords {
    stream: TcpStream,
    /// What was read and not taken yet, within this.
    buffer: Vec<u8>,
    unread: std::ops::Range<usize>,
    /// Reads in a row that brought little.
    small: u32,
    framing: Framing,
    /// With so many bytes the system wakes this node.
    wakes_at: usize,
}

impl WholeRecords {
    pub(super) fn new(stream: TcpStream) -> Self {
        let framing = Framing::default();
        Self { stream, buffer: vec![0; LEAST], unread: 0..0, small: 0, framing, wakes_at: 1 }
    }

    /// Makes the buffer, of which all is taken, what the next read may need after one of so many bytes.
    fn fit(&mut self, read: usize) {
        let size = self.buffer.len();
        self.small = if read < LEAST { self.small.saturating_add(1) } else { 0 };
        if read == size && size < MOST {
            self.buffer = vec![0; size * 2];
        } else if self.small >= CALM && size > LEAST {
            self.buffer = vec![0; LEAST];
        }
    }

    /// Has this node woken when a record is whole.
    fn wake_at_its_end(&mut self) {
        let bytes = self.framing.missing.max(1);
        if bytes == self.wakes_at {
            return;
        }
        match low_water::set(&self.stream, bytes) {
            Ok(()) => self.wakes_at = bytes,
            Err(error) => tracing::debug!(%error, "this node is woken by each packet"),
        }
    }
}

impl AsyncRead for WholeRecords {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.unread.is_empty() {
            let read = Pin::new(&mut this.stream).poll_read(cx, &mut this.buffer);
            if read.is_pending() {
                this.wake_at_its_end();
            }
            this.unread = 0..ready!(read)?;
            // A part of a record is passed on too: one that promises too much is to be found out by its header.
            this.framing.pass(&this.buffer[this.unread.clone()]);
        }
        let unread = &this.buffer[this.unread.clone()];
        let some = unread.len().min(into.len());
        into[..some].copy_from_slice(&unread[..some]);
        this.unread.start += some;
        if this.unread.is_empty() && some > 0 {
            this.fit(this.unread.end);
        }
        Poll::Ready(Ok(some))
    }
}

impl AsyncWrite for WholeRecords {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

/// Where in a record what was read ends.
#[derive(Debug, Default)]
struct Framing {
    header: [u8; HEADER],
    /// So much of the next header is here.
    of_header: usize,
    /// So much of the record is not.
    missing: usize,
}

impl Framing {
    /// These bytes were read.
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.missing > 0 {
                let here = self.missing.min(bytes.len());
                self.missing -= here;
                bytes = &bytes[here..];
                continue;
            }
            let here = (HEADER - self.of_header).min(bytes.len());
            self.header[self.of_header..][..here].copy_from_slice(&bytes[..here]);
            self.of_header += here;
            bytes = &bytes[here..];
            if self.of_header == HEADER {
                self.of_header = 0;
                let [_, _, _, high, low] = self.header;
                self.missing = usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod low_water {
    use std::io;
    use std::os::fd::AsRawFd as _;

    use libp2p::tcp::tokio::TcpStream;

    /// Has the system call this connection readable once so many bytes are here, or it ends.
    #[expect(unsafe_code, reason = "no crate has this option; the module above says what it brings")]
    pub(super) fn set(stream: &TcpStream, bytes: usize) -> io::Result<()> {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        // Four bytes, on every system.
        let length = libc::socklen_t::try_from(size_of_val(&bytes)).unwrap_or(4);
        // SAFETY: the descriptor is open for as long as the stream is borrowed, and the system reads `length` bytes from
        // `bytes`, which lives until it returns.
        let set = unsafe {
            libc::setsockopt(
                stream.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                std::ptr::from_ref(&bytes).cast(),
                length,
            )
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(not(target_os = "linux"))]
mod low_water {
    use std::io;

    use libp2p::tcp::tokio::TcpStream;

    /// Elsewhere it is not known what becomes of a connection that ends.
    pub(super) fn set(_: &TcpStream, _: usize) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::AsyncReadExt as _;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn record(length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        [&[23, 3, 3, high, low], vec![7; usize::from(length)].as_slice()].concat()
    }

    proptest! {
        /// However the bytes come, what is missing is what the last record that began lacks.
        #[test]
        fn what_is_missing_is_the_rest_of_the_record(
            lengths in prop::collection::vec(0..20_000_u16, 1..6),
            cuts in prop::collection::vec(1..9000_usize, 1..40),
        ) {
            let all: Vec<u8> = lengths.iter().flat_map(|&length| record(length)).collect();
            let mut framing = Framing::default();
            let mut read = 0;
            for cut in cuts {
                let end = (read + cut).min(all.len());
                framing.pass(&all[read..end]);
                read = end;
                let mut begin = 0;
                let mut expected = 0;
                for &length in &lengths {
                    let records_end = begin + HEADER + usize::from(length);
                    if begin + HEADER <= read && read < records_end {
                        expected = records_end - read;
                    }
                    begin = records_end;
                }
                prop_assert_eq!(framing.missing, expected);
            }
        }
    }

    async fn connection() -> (tokio::net::TcpStream, WholeRecords) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sender = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        sender.set_nodelay(true).unwrap();
        (sender, WholeRecords::new(TcpStream(listener.accept().await.unwrap().0)))
    }

    /// Sends in pieces, far enough apart that each comes by itself.
    async fn send(sender: &mut tokio::net::TcpStream, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece) {
            sender.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_record_wakes_once_it_is_whole() {
        let (mut sender, mut records) = connection().await;
        records.buffer = vec![0; MOST];
        let mut into = vec![0; MOST];
        for length in [16_000, 3, 16_000] {
            let record = record(length);
            let (begin, rest) = record.split_at(6);
            send(&mut sender, begin, 6).await;
            assert_eq!(records.read(&mut into).await.unwrap(), 6, "its header is looked at");
            let (read, ()) = tokio::join!(records.read(&mut into), send(&mut sender, rest, 1500));
            assert_eq!(read.unwrap(), rest.len());
        }
        // What comes next wakes at once, however short.
        let short = record(1);
        let (read, ()) = tokio::join!(records.read(&mut into), send(&mut sender, &short, 100));
        assert_eq!(read.unwrap(), short.len());
    }

    #[tokio::test]
    async fn what_came_at_once_is_taken_as_it_is_wanted() {
        let (mut sender, mut records) = connection().await;
        let all = [record(900), record(0), record(10_000)].concat();
        send(&mut sender, &all, all.len()).await;
        let mut taken = Vec::new();
        let mut into = [0; 4096];
        while taken.len() < all.len() {
            let some = records.read(&mut into).await.unwrap();
            taken.extend_from_slice(&into[..some]);
        }
        assert_eq!(taken, all);
    }

    #[tokio::test]
    async fn much_is_read_at_once_where_much_comes() {
        let (mut sender, mut records) = connection().await;
        let bulk = record(u16::MAX).repeat(4);
        let mut taken = vec![0; bulk.len()];
        for round in 0..2 {
            let (sent, read) = tokio::join!(sender.write_all(&bulk), records.read_exact(&mut taken));
            sent.unwrap();
            read.unwrap();
            assert_eq!((taken == bulk, records.buffer.len()), (true, MOST), "{round}");
            // The end of it may have come by itself.
            records.small = 0;
            for _ in 0..CALM {
                assert_eq!(records.buffer.len(), MOST);
                sender.write_all(&record(60)).await.unwrap();
                records.read_exact(&mut [0; 60 + HEADER]).await.unwrap();
            }
            assert_eq!(records.buffer.len(), LEAST);
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_a_record_ends() {
        let (mut sender, mut records) = connection().await;
        let mut into = [0; 4096];
        send(&mut sender, &record(16_000)[..2000], 2000).await;
        assert_eq!(records.read(&mut into).await.unwrap(), 2000);
        let close = async {
            send(&mut sender, &[7; 100], 100).await;
            drop(sender);
        };
        let (read, ()) = tokio::join!(records.read(&mut into), close);
        assert_eq!(read.unwrap(), 100, "what came is read");
        let end = tokio::time::timeout(Duration::from_secs(5), records.read(&mut into)).await;
        assert_eq!(end.expect("the end wakes").unwrap(), 0);
    }
}
