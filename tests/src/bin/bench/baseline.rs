//! What the machine can do: raw TCP, and one raw stream on Shoal's own transport. Both ends run in this process.

use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::core::Endpoint;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Transport as _, transport::Boxed};
use libp2p::{PeerId, identity::Keypair};
use shoal_swarm::cluster_key::ClusterKey;
use shoal_tests::usage::Cpu;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Figure;

/// Written and read at a time.
const PIECE: usize = 1 << 20;

/// So many bytes over a TCP connection on loopback.
pub(crate) async fn tcp(size: u64) -> Result<Figure> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (cpu, began) = (Cpu::of_self()?, Instant::now());
    let sender = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let piece = vec![7; PIECE];
        let mut left = size;
        while left > 0 {
            let length = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
            tokio::io::AsyncWriteExt::write_all(&mut stream, &piece[..length]).await?;
            left -= length as u64;
        }
        stream.shutdown().await
    });
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let mut piece = vec![0; PIECE];
    let mut got = 0;
    while got < size {
        let read = stream.read(&mut piece).await?;
        anyhow::ensure!(read > 0, "the connection ended early");
        got += read as u64;
    }
    sender.await??;
    Ok(Figure::new(size, began.elapsed(), cpu.since()?))
}

/// So many bytes over one stream on the transport that nodes use: TLS, membership, yamux.
pub(crate) async fn stream(size: u64) -> Result<Figure> {
    let key = ClusterKey::generate();
    let transport = |key: &ClusterKey| -> Result<Boxed<(PeerId, StreamMuxerBox)>> {
        Ok(shoal_swarm::transport::transport(&Keypair::generate_ed25519(), Some(key.clone()))?)
    };
    let (mut listener, mut dialer) = (transport(&key)?, transport(&key)?);
    listener.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse()?)?;
    let address = loop {
        if let Some(TransportEvent::NewAddress { listen_addr, .. }) = listener.next().await {
            break listen_addr;
        }
    };
    let accepted = tokio::spawn(async move {
        loop {
            if let Some(TransportEvent::Incoming { upgrade, .. }) = listener.next().await {
                return upgrade.await;
            }
        }
    });
    let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let (_, dialled) = dialer.dial(address, opts).context("cannot be dialled")?.await?;
    let (_, accepted) = accepted.await??;
    let (cpu, began) = (Cpu::of_self()?, Instant::now());
    let sender = tokio::spawn(async move {
        let mut stream = inbound(accepted).await?;
        let piece = vec![7; PIECE];
        let mut left = size;
        // The other end speaks first: a stream is only there once something was sent on it.
        stream.read_exact(&mut [0]).await?;
        while left > 0 {
            let length = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
            stream.write_all(&piece[..length]).await?;
            left -= length as u64;
        }
        stream.close().await
    });
    let mut stream = outbound(dialled).await?;
    stream.write_all(&[1]).await?;
    stream.flush().await?;
    let mut piece = vec![0; PIECE];
    let mut got = 0;
    while got < size {
        let read = stream.read(&mut piece).await?;
        anyhow::ensure!(read > 0, "the stream ended early");
        got += read as u64;
    }
    sender.await??;
    Ok(Figure::new(size, began.elapsed(), cpu.since()?))
}

async fn outbound(mut muxer: StreamMuxerBox) -> std::io::Result<SubstreamBox> {
    let stream = std::future::poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await?;
    drive(muxer);
    Ok(stream)
}

async fn inbound(mut muxer: StreamMuxerBox) -> std::io::Result<SubstreamBox> {
    let stream = std::future::poll_fn(|cx| {
        // Inbound streams come only while the connection is driven.
        drop(muxer.poll_unpin(cx));
        muxer.poll_inbound_unpin(cx)
    });
    let stream = stream.await?;
    drive(muxer);
    Ok(stream)
}

/// Keeps a connection going until it ends.
fn drive(mut muxer: StreamMuxerBox) {
    tokio::spawn(async move {
        // Inbound polling is what drives yamux; no further stream is expected.
        while std::future::poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await.is_ok() {}
    });
}
