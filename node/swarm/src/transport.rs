//! How nodes connect: TCP, and on it an upgrade of Shoal's own.

use std::net::IpAddr;
use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OrTransport};
use libp2p::core::{ConnectedPoint, Transport as _};
use libp2p::{PeerId, dns, tcp};
use shoal_proto::identity::Keypair;

use crate::bootstrap::socket_address;
use crate::cluster_key::ClusterKey;
use crate::upgrade::{Upgrade, UpgradeError};

mod drop_on_close;
mod fresh_port;
mod unsent;
mod whole_records;

use drop_on_close::DropOnClose;
use fresh_port::FreshPort;
use whole_records::WholeRecords;

/// How long a connection may take until it can be used: TCP, TLS, and the proof of membership.
const CONNECT: Duration = Duration::from_secs(10);

/// Why no connection can be secured.
#[derive(Debug, thiserror::Error)]
pub enum TransportBuildError {
    /// No certificate can be made for this identity.
    #[error("no certificate can be made for this node's identity: {0}")]
    Certificate(String),
    /// The system's resolver cannot be used.
    #[error("the system's name resolver cannot be used: {0}")]
    Dns(std::io::Error),
}

/// A transport that speaks to members of the cluster only, or without a key to keyless nodes on loopback.
///
/// # Errors
/// [`TransportBuildError`] if this node's identity or the system's resolver cannot be used.
pub fn transport(
    keypair: &Keypair,
    key: Option<ClusterKey>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, TransportBuildError> {
    transport_within(keypair, key, CONNECT)
}

pub(crate) fn transport_within(
    keypair: &Keypair,
    key: Option<ClusterKey>,
    limit: Duration,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, TransportBuildError> {
    let upgrade =
        Upgrade::new(keypair, key).map_err(|error| TransportBuildError::Certificate(error.to_string()))?;
    let tcp = || FreshPort(tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)));
    // Addresses as they are first: a machine without a resolver can still be given addresses.
    let names = dns::tokio::Transport::system(tcp()).map_err(TransportBuildError::Dns)?;
    let tcp = OrTransport::new(tcp(), names)
        .map(|either, _| WholeRecords::new(unsent::bounded(either.into_inner())))
        .map_err(|error| std::io::Error::other(error.to_string()));
    let upgraded = tcp.and_then(move |stream, point| {
        let loopback = is_loopback(&point);
        let upgrade = upgrade.clone();
        async move {
            let (peer, muxer) = match point {
                ConnectedPoint::Dialer { .. } => upgrade.dialer(stream, loopback).await?,
                ConnectedPoint::Listener { .. } => upgrade.listener(stream, loopback).await?,
            };
            Ok::<_, UpgradeError>((peer, StreamMuxerBox::new(DropOnClose(muxer))))
        }
    });
    Ok(libp2p::core::transport::timeout::TransportTimeout::new(upgraded, limit).boxed())
}

/// Whether the other end is on this machine. A name is not taken for loopback: what it resolves to may change.
fn is_loopback(point: &ConnectedPoint) -> bool {
    socket_address(point.get_remote_address()).is_some_and(|address| match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    })
}

#[cfg(test)]
mod tests;
