//! The form of a bootstrap address: where a node that knows nobody yet finds its first peers.

use shoal_swarm::bootstrap::Address;

use super::problem::Wrong;

/// Checks one bootstrap address and returns it as written.
pub(super) fn address(text: &str) -> Result<String, Wrong> {
    if text.parse::<Address>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(
        "is not a peer's address",
        "allowed: host:port, IP:port, [IPv6]:port, a multiaddr as in /ip4/10.0.0.7/tcp/5056 or \
         /dns/node-1/tcp/5056, or dns:name:port for a name that stands for many peers",
    ))
}
