//! The way to a registry: a TCP proxy that lets through so many bytes a second, counts them, and can be cut or go bad.
//!
//! It counts what it sent on. A registry's own log counts what it gave to the kernel, which for an answer that
//! nobody reads to its end is more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;
use shoal_swarm::RateCap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Pieces in which bytes are sent on.
const PIECE: usize = 16 << 10;
/// Buffers of the kernel's for one connection: what is in them counts, and may never be read.
const BUFFER: u32 = 64 << 10;

/// The link. It is gone when dropped, with every connection over it.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    line: Arc<Line>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Line {
    registry: SocketAddr,
    /// For all connections together.
    rate: RateCap,
    carried: AtomicU64,
    spoils: AtomicBool,
    up: watch::Sender<bool>,
}

impl Link {
    /// A link to the registry at this address, of `rate` bytes a second for all connections together.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start(registry: SocketAddr, rate: u64) -> Result<Self> {
        let listener = listen()?;
        let address = listener.local_addr()?;
        let line = Arc::new(Line {
            registry,
            rate: RateCap::of(rate),
            carried: AtomicU64::new(0),
            spoils: AtomicBool::new(false),
            up: watch::Sender::new(true),
        });
        let task = tokio::spawn(accept(listener, line.clone()));
        Ok(Self { address, line, task })
    }

    /// Where the registry seems to be.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes that came from the registry so far, the few of the answers' headers among them.
    pub fn carried(&self) -> u64 {
        self.line.carried.load(Ordering::Relaxed)
    }

    /// Breaks every connection, and each new one from now on.
    pub fn cut(&self) {
        self.line.up.send_replace(false);
    }

    /// Undoes [`Self::cut`].
    pub fn restore(&self) {
        self.line.up.send_replace(true);
    }

    /// From now on alters bytes here and there. Headers and manifests are too short for it.
    pub fn spoil(&self) {
        self.line.spoils.store(true, Ordering::Relaxed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen() -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Connections have it from the socket that took them.
    socket.set_send_buffer_size(BUFFER)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    Ok(socket.listen(128)?)
}

async fn accept(listener: TcpListener, line: Arc<Line>) {
    // Ends every connection with itself.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let line = line.clone();
        connections.spawn(async move {
            let mut up = line.up.subscribe();
            tokio::select! {
                // One side hung up, which is no matter.
                _ = line.carry(client) => {}
                // It fails only when the link is gone.
                _ = up.wait_for(|up| !up) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Line {
    async fn carry(&self, mut client: TcpStream) -> Result<()> {
        if !*self.up.borrow() {
            return Ok(());
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(BUFFER)?;
        let mut registry = socket.connect(self.registry).await?;
        let (mut asked, mut to_client) = client.split();
        let (mut answered, mut to_registry) = registry.split();
        let back = async {
            let mut piece = vec![0; PIECE];
            loop {
                let length = answered.read(&mut piece).await?;
                if length == 0 {
                    return Ok(());
                }
                if length == PIECE && self.spoils.load(Ordering::Relaxed) {
                    piece[PIECE - 1] ^= 1;
                }
                self.rate.pass(length).await;
                to_client.write_all(&piece[..length]).await?;
                self.carried.fetch_add(length as u64, Ordering::Relaxed);
            }
        };
        tokio::select! {
            copied = tokio::io::copy(&mut asked, &mut to_registry) => copied.map(drop).map_err(Into::into),
            ended = back => ended,
        }
    }
}
