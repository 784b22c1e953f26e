//! Where the first peers are found.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// The most addresses of one name.
const MAX_ADDRESSES: usize = 4096;

type Lookup = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// How names become addresses.
#[derive(Clone)]
pub struct Resolver {
    lookup: Arc<Lookup>,
    again: Duration,
}

impl Resolver {
    /// Looks names up with `lookup`, those with many addresses again after `again`.
    pub fn new(
        lookup: impl Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
        again: Duration,
    ) -> Self {
        Self { lookup: Arc::new(lookup), again }
    }
}

impl Default for Resolver {
    /// The system's, and again each minute.
    fn default() -> Self {
        let lookup = |host: String, port| {
            async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }.boxed()
        };
        Self::new(lookup, Duration::from_mins(1))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("again", &self.again).finish_non_exhaustive()
    }
}

/// One place to look for peers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host:port`: a node, whose peer id is learnt in the handshake.
    Host(String, u16),
    /// `/ip4/…/tcp/…`, `/dns/…/tcp/…`, with or without `/p2p/…`.
    Multiaddr(Multiaddr),
    /// `dns:name:port`: a name with an address for each node, looked up again from time to time.
    Name(String, u16),
}

/// A text is none of the forms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a place to find peers: write host:port, [IPv6]:port, a multiaddr as in /ip4/10.0.0.1/tcp/5056, \
     or dns:name:port for a name with many addresses"
)]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(text.chars().take(120).collect());
        if text.starts_with('/') {
            let address: Multiaddr = text.parse().map_err(|_| error())?;
            let parts: Vec<_> = address.iter().collect();
            let reachable = match parts.as_slice() {
                [host, Protocol::Tcp(1..)] | [host, Protocol::Tcp(1..), Protocol::P2p(_)] => match host {
                    Protocol::Ip4(_) | Protocol::Ip6(_) => true,
                    Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => is_host_name(name),
                    _ => false,
                },
                _ => false,
            };
            return if reachable { Ok(Self::Multiaddr(address)) } else { Err(error()) };
        }
        let (rest, many) = text.strip_prefix("dns:").map_or((text, false), |rest| (rest, true));
        let (host, port) = rest.rsplit_once(':').ok_or_else(error)?;
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|&port| port > 0 && digits).ok_or_else(error)?;
        if let Some(literal) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            literal.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
            return if many { Err(error()) } else { Ok(Self::Host(literal.to_owned(), port)) };
        }
        if !is_host_name(host) {
            return Err(error());
        }
        let host = host.to_owned();
        Ok(if many { Self::Name(host, port) } else { Self::Host(host, port) })
    }
}

/// Labels of letters, digits, dashes and underscores, or an IPv4 address.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // Numbers and dots alone would be an IPv4 address, and resolvers read malformed ones in surprising ways.
    if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return name.parse::<std::net::Ipv4Addr>().is_ok();
    }
    // A resolver takes a name with a dot at its end as complete.
    name.len() <= 253 && name.strip_suffix('.').unwrap_or(name).split('.').all(label)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Multiaddr(address) => write!(f, "{address}"),
            Self::Name(name, port) => write!(f, "dns:{name}:{port}"),
        }
    }
}

impl Address {
    /// How long until it is tried again, by how often it failed; a name is looked up again also when all is well.
    pub(crate) fn again(&self, resolver: &Resolver, failures: u32, joined: bool) -> Duration {
        match self {
            Self::Name(..) if joined => resolver.again,
            Self::Name(..) => resolver.again.min(Duration::from_secs(5)),
            _ => Duration::from_secs(1 << failures.min(5)),
        }
    }

    /// What to dial now, each once.
    ///
    /// # Errors
    /// A name that does not resolve, as the resolver says it.
    pub(crate) async fn resolve(&self, resolver: &Resolver) -> io::Result<Vec<Multiaddr>> {
        match self {
            Self::Multiaddr(address) => Ok(vec![address.clone()]),
            Self::Host(host, port) | Self::Name(host, port) => {
                let found: HashSet<SocketAddr> =
                    (resolver.lookup)(host.clone(), *port).await?.into_iter().take(MAX_ADDRESSES).collect();
                Ok(found.into_iter().map(multiaddr).collect())
            }
        }
    }

    /// Whether the addresses it stands for are different nodes, rather than one node's.
    pub(crate) fn stands_for_many(&self) -> bool {
        matches!(self, Self::Name(..))
    }
}

/// A socket address in libp2p's form.
pub(crate) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// The socket address in a multiaddr that begins with one.
pub(crate) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_parses_and_prints_as_written() {
        for text in [
            "node-1:5056",
            "10.0.0.1:5056",
            "[::1]:5056",
            "dns:shoal.svc.cluster.local:5056",
            "/ip4/10.0.0.1/tcp/5056",
            "/dns4/node/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_allowed() {
        for text in [
            "",
            "host",
            "host:0",
            "host:99999",
            ":1",
            "[::1]",
            "dns:[::1]:1",
            "/ip4/1.2.3.4",
            "a b:1",
            "http://x:1",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("host:port") && error.contains(text), "{error}");
        }
    }
}
