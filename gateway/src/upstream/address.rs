//! Which addresses are public.
//!
//! A client names the registry (`ns`), so whatever it names would be asked from inside the operator's network.
//! Registries without configuration are therefore reached on public addresses only. The check is on the
//! address that is connected to: names are looked up by [`PublicOnly`], which drops every other address, so
//! that a name cannot point elsewhere between check and connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::LazyLock;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;
use url::{Host, Url};

/// Not reachable from the public internet, or not one host: IANA's special-purpose registry, with multicast.
static SPECIAL_V4: LazyLock<Vec<Ipv4Net>> = LazyLock::new(|| {
    networks(&[
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    ])
});

/// Within the global unicast space `2000::/3`: protocol assignments (Teredo, ORCHID), documentation, segment
/// routing. 6to4 is judged by the IPv4 address inside.
static SPECIAL_V6: LazyLock<Vec<Ipv6Net>> =
    LazyLock::new(|| networks(&["2001::/23", "2001:db8::/32", "3fff::/20"]));

static GLOBAL_UNICAST: LazyLock<Vec<Ipv6Net>> = LazyLock::new(|| networks(&["2000::/3"]));

fn networks<N: std::str::FromStr>(texts: &[&str]) -> Vec<N> {
    // The tests count them: none of these literals fails to parse.
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Whether this is an address of the public internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|network| network.contains(&address))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        // NAT64 (RFC 6052), how a network without IPv4 reaches it, and 6to4 (RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => is_public_v4(embedded(high, low)),
        // Everything outside global unicast is special: loopback, mapped and compatible IPv4, unique local,
        // link-local, multicast.
        _ => {
            GLOBAL_UNICAST.iter().any(|network| network.contains(&address))
                && !SPECIAL_V6.iter().any(|network| network.contains(&address))
        }
    }
}

/// A host that was to be public and is not.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{host} is at {address}, which is no public address")]
pub(super) struct NotPublic {
    /// As named.
    pub(super) host: String,
    /// Its (first) address.
    pub(super) address: IpAddr,
}

/// Refuses a URL whose host is written as an address that is not public; names are left to [`PublicOnly`].
pub(super) fn check_literal(url: &Url) -> Result<(), NotPublic> {
    let address = match url.host() {
        Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
        Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
        Some(Host::Domain(_)) | None => return Ok(()),
    };
    if is_public(address) { Ok(()) } else { Err(NotPublic { host: address.to_string(), address }) }
}

/// Names that are looked up at a time: far fewer than there are threads for what blocks.
const MOST_LOOKUPS: usize = 64;
static LOOKUPS: Semaphore = Semaphore::const_new(MOST_LOOKUPS);
/// How long a name waits for its turn: less than a connection may take, so that this is the reason that is told.
const PATIENCE: Duration = Duration::from_secs(2);

/// The system's name lookup, less every address that is not public.
#[derive(Debug, Clone, Copy)]
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = look_up(&LOOKUPS, host.clone()).await?;
            let public: Vec<SocketAddr> =
                found.iter().copied().filter(|address| is_public(address.ip())).collect();
            match (public.is_empty(), found.first()) {
                (false, _) => Ok(Box::new(public.into_iter()) as Addrs),
                (true, Some(first)) => Err(NotPublic { host, address: first.ip() }.into()),
                (true, None) => {
                    Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")).into())
                }
            }
        })
    }
}

/// Asks the system for a host's addresses.
///
/// That takes a thread which the store needs as well, for as long as the system's name server likes, and goes on when
/// nobody waits for it any more: so only some are asked for at a time.
async fn look_up(lookups: &'static Semaphore, host: String) -> io::Result<Vec<SocketAddr>> {
    let Ok(turn) = tokio::time::timeout(PATIENCE, lookups.acquire()).await else {
        let text = format!("{host} was not looked up: too many names are being looked up at the moment");
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    };
    let turn = turn.map_err(io::Error::other)?;
    let asked = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        // The port is the connector's business; 0 tells it so.
        Ok((host.as_str(), 0).to_socket_addrs()?.collect())
    });
    asked.await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_some_names_are_looked_up_at_a_time() {
        static FEW: Semaphore = Semaphore::const_new(2);
        let taken = FEW.acquire_many(2).await.unwrap();
        let error = look_up(&FEW, "127.0.0.1".to_owned()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("too many names"), "{error}");
        drop(taken);
        assert_eq!(look_up(&FEW, "127.0.0.1".to_owned()).await.unwrap().len(), 1);
        assert_eq!(FEW.available_permits(), 2);
    }

    #[test]
    fn the_tables_are_whole() {
        assert_eq!((SPECIAL_V4.len(), SPECIAL_V6.len(), GLOBAL_UNICAST.len()), (15, 3, 1));
    }

    #[test]
    fn public_and_not() {
        for public in [
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "172.15.0.1",
            "192.169.0.1",
            "1.1.1.1",
            "2606:4700::1",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a00:1",
            "100::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001:0:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "3fff::1",
            "5f00::1",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn literals_are_judged_however_they_are_written() {
        for private in
            ["https://127.0.0.1:5000/", "https://2130706433/", "https://0x7f.1/", "https://[::ffff:a00:1]/"]
        {
            assert!(check_literal(&private.parse().unwrap()).is_err(), "{private}");
        }
        for fine in ["https://8.8.8.8/", "https://example.com/", "https://[2606:4700::1]/"] {
            assert!(check_literal(&fine.parse().unwrap()).is_ok(), "{fine}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_loopback_has_no_public_address() {
        let error = PublicOnly.resolve("localhost".parse().unwrap()).await.err().unwrap();
        let error = error.downcast::<NotPublic>().unwrap();
        assert!(error.address.is_loopback());
        assert_eq!(error.host, "localhost");
    }
}
