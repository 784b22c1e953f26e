//! How much a connection lets wait in the kernel.
//!
//! Left alone, Linux takes some megabytes that a slow link has not begun to send. Whatever is said meanwhile waits
//! behind them, and a chunk that is not wanted any more is sent all the same. Bounded, a write waits until the link is
//! ready for it (`TCP_NOTSENT_LOWAT`, see tcp(7)); what is sent and not acknowledged is not counted, so that no link is
//! left idle.

use libp2p::tcp::tokio::TcpStream;

/// The bytes that may wait: a few writes, so that a fast link always finds some.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 64 * 1024;

/// Bounds what waits unsent, where the system can.
pub(super) fn bounded(stream: TcpStream) -> TcpStream {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(&stream.0).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "what a connection lets wait is not bounded");
    }
    stream
}
