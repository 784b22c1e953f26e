//! The upgrade of a TCP connection: TLS 1.3 that proves both peer ids, then the proof of membership, then yamux.
//!
//! | module | concept |
//! | --- | --- |
//! | `tls` | libp2p's certificates, with AES-128-GCM first where the CPU has it |
//! | `membership` | the proof that the other end knows the cluster key |
//!
//! Both ends are Shoal's own, so nothing is negotiated: the version is in TLS's ALPN. A write buffer lies between TLS
//! and yamux, because yamux's 12-byte headers and 16 KiB frames would each become a TLS record (measured: half the
//! throughput, a third more CPU time).

use std::io;
use std::sync::Arc;

use futures::io::BufWriter;
use futures::{AsyncRead, AsyncWrite};
use futures_rustls::rustls::pki_types::ServerName;
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::core::upgrade::{InboundConnectionUpgrade as _, OutboundConnectionUpgrade as _};
use libp2p::{PeerId, yamux};
use shoal_proto::identity::Keypair;

use crate::cluster_key::ClusterKey;

mod membership;
mod tls;

pub(crate) use membership::MembershipError;

/// Between TLS and yamux. More brings no more.
const WRITE_BUFFER: usize = 32 * 1024;
/// Streams of one connection. yamux ends a connection that has more than 512.
const MAX_STREAMS: usize = 256;
/// The protocol and its version, as ALPN.
const ALPN: &[u8] = b"shoal/1";

/// Why a connection cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("the peer's certificate: {0}")]
    Certificate(String),
    #[error("the peer does not speak shoal/1")]
    Protocol,
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("yamux failed: {0}")]
    Yamux(io::Error),
}

/// What connections to peers run on.
type Muxer<C> = yamux::Muxer<BufWriter<TlsStream<C>>>;

/// Upgrades connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upgrade {
    local: PeerId,
    key: Option<ClusterKey>,
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl Upgrade {
    pub(crate) fn new(keypair: &Keypair, key: Option<ClusterKey>) -> Result<Self, tls::TlsError> {
        let (client, server) = tls::configs(keypair, ALPN)?;
        Ok(Self {
            local: keypair.public().to_peer_id(),
            key,
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
        })
    }

    /// Upgrades a connection that this node made.
    pub(crate) async fn dialer<C>(self, stream: C, loopback: bool) -> Result<(PeerId, Muxer<C>), UpgradeError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // Nothing is sent of it: SNI is off, and the certificate is judged by its peer id.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let stream = self.connector.connect(name, stream).await.map_err(UpgradeError::Tls)?;
        let mut stream = TlsStream::Client(stream);
        let binding = binding(&stream)?;
        membership::dialer(
            &mut stream,
            self.key.as_ref(),
            &binding.between(self.local, binding.peer),
            loopback,
        )
        .await?;
        let muxer = multiplexing().upgrade_outbound(buffered(stream), YAMUX).await;
        Ok((binding.peer, muxer.map_err(UpgradeError::Yamux)?))
    }

    /// Upgrades a connection that a peer made.
    pub(crate) async fn listener<C>(
        self,
        stream: C,
        loopback: bool,
    ) -> Result<(PeerId, Muxer<C>), UpgradeError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let stream = self.acceptor.accept(stream).await.map_err(UpgradeError::Tls)?;
        let mut stream = TlsStream::Server(stream);
        let binding = binding(&stream)?;
        membership::listener(
            &mut stream,
            self.key.as_ref(),
            &binding.between(binding.peer, self.local),
            loopback,
        )
        .await?;
        let muxer = multiplexing().upgrade_inbound(buffered(stream), YAMUX).await;
        Ok((binding.peer, muxer.map_err(UpgradeError::Yamux)?))
    }
}

/// What the yamux upgrade is called; both ends know, and nobody is told.
const YAMUX: &str = "/yamux/1.0.0";

fn multiplexing() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config
}

fn buffered<C: AsyncRead + AsyncWrite + Unpin>(stream: TlsStream<C>) -> BufWriter<TlsStream<C>> {
    BufWriter::with_capacity(WRITE_BUFFER, stream)
}

/// What a proof is bound to: this TLS session and its other end.
struct Binding {
    peer: PeerId,
    secret: [u8; 32],
}

impl Binding {
    fn between(&self, dialer: PeerId, listener: PeerId) -> membership::Session {
        membership::Session { secret: self.secret, dialer, listener }
    }
}

fn binding<C>(stream: &TlsStream<C>) -> Result<Binding, UpgradeError> {
    let (_, connection) = stream.get_ref();
    // rustls lets a client pass that offers no protocol at all.
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(UpgradeError::Protocol);
    }
    let [certificate] = connection.peer_certificates().unwrap_or_default() else {
        return Err(UpgradeError::Certificate("exactly one is expected".to_owned()));
    };
    let peer = tls::peer_id(certificate).map_err(|error| UpgradeError::Certificate(error.to_string()))?;
    let mut secret = [0; 32];
    let exported = match stream {
        TlsStream::Client(stream) => {
            stream.get_ref().1.export_keying_material(&mut secret, EXPORTER, None).map(|_| ())
        }
        TlsStream::Server(stream) => {
            stream.get_ref().1.export_keying_material(&mut secret, EXPORTER, None).map(|_| ())
        }
    };
    exported.map_err(|error| UpgradeError::Tls(io::Error::other(error)))?;
    Ok(Binding { peer, secret })
}

/// The label of the keying material (RFC 8446, section 7.5).
const EXPORTER: &[u8] = b"EXPERIMENTAL shoal membership 1";
