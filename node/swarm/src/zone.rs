//! What is near: the zone that a node says it is in, as a product in the agent version that libp2p's identify protocol
//! carries. Members tell it once a connection; nobody else hears it.

/// The longest zone taken from a peer.
const LONGEST: usize = 63;
const PRODUCT: &str = "zone/";

/// What this node calls itself to peers.
pub(crate) fn agent_version(zone: Option<&str>) -> String {
    let shoal = concat!("shoal/", env!("CARGO_PKG_VERSION"));
    zone.map_or_else(|| shoal.to_owned(), |zone| format!("{shoal} {PRODUCT}{zone}"))
}

/// The zone that a peer's agent version names. What is no name of a zone counts as none.
pub(crate) fn told(agent: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let zone = agent.split(' ').find_map(|product| product.strip_prefix(PRODUCT))?;
    let valid = !zone.is_empty() && zone.len() <= LONGEST && zone.bytes().all(plain);
    valid.then(|| zone.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_told_and_nonsense_is_none() {
        assert_eq!(told(&agent_version(Some("eu-west-1a"))).as_deref(), Some("eu-west-1a"));
        assert_eq!(told(&agent_version(None)), None);
        for agent in ["", "zone/", "x zone/a\u{1b}b", &format!("zone/{}", "z".repeat(64)), "shoal/1 izone/a"]
        {
            assert_eq!(told(agent), None, "{agent:?}");
        }
    }
}
