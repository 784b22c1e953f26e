//! The form of a bootstrap address: where a node that knows nobody yet finds its first peers.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::problem::Wrong;

/// Checks one bootstrap address and returns it as written.
pub(super) fn address(text: &str) -> Result<String, Wrong> {
    let form = if text.starts_with('/') {
        multiaddr(text)
    } else if let Some(rest) = text.strip_prefix("dns:") {
        rest.rsplit_once(':').is_some_and(|(name, port)| host_name(name) && port_number(port))
    } else {
        host_and_port(text)
    };
    if form {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(
        "is not a peer's address",
        "allowed: host:port, IP:port, [IPv6]:port, a multiaddr as in /ip4/10.0.0.7/tcp/5056 or \
         /dns/node-1/tcp/5056, or dns:name:port for a name that stands for many peers",
    ))
}

/// `host:port`, `1.2.3.4:port`, `[v6]:port`.
fn host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_is_good = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok()),
        None => host_name(host),
    };
    host_is_good && port_number(port)
}

/// `/ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>`, with or without `/p2p/<peer id>`.
fn multiaddr(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').skip(1).collect();
    let (host, rest) = match parts.as_slice() {
        [protocol, host, rest @ ..] => (
            match *protocol {
                "ip4" => host.parse::<Ipv4Addr>().is_ok(),
                "ip6" => host.parse::<Ipv6Addr>().is_ok(),
                "dns" | "dns4" | "dns6" => host_name(host),
                _ => false,
            },
            rest,
        ),
        _ => return false,
    };
    let peer_id = |id: &str| (40..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    host && match rest {
        ["tcp", port] => port_number(port),
        ["tcp", port, "p2p", id] => port_number(port) && peer_id(id),
        _ => false,
    }
}

fn host_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // Numbers and dots alone would be an IPv4 address, and resolvers read malformed ones in surprising ways.
    let numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    // A resolver takes a name with a dot at its end as complete.
    let labels = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && if numeric { name.parse::<Ipv4Addr>().is_ok() } else { labels.split('.').all(label) }
}

fn port_number(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}
