//! What is near: the zone that a node says it is in, as a product in the agent version that libp2p's identify protocol
//! carries. Members tell it once a connection; nobody else hears it.

/// The longest zone name: cloud zones are about 20 characters, a host name is at most 63.
pub const LONGEST: usize = 63;
const PRODUCT: &str = "zone/";

/// Whether this can be the name of a zone: letters, digits, dots, dashes and underscores, [`LONGEST`] at the most.
pub fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(plain)
}

/// What this node calls itself to peers.
pub(crate) fn agent_version(zone: Option<&str>) -> String {
    let shoal = concat!("shoal/", env!("CARGO_PKG_VERSION"));
    zone.map_or_else(|| shoal.to_owned(), |zone| format!("{shoal} {PRODUCT}{zone}"))
}

/// The zone that a peer's agent version names. What is no name of a zone counts as none.
pub(crate) fn told(agent: &str) -> Option<String> {
    let zone = agent.split(' ').find_map(|product| product.strip_prefix(PRODUCT))?;
    is_name(zone).then(|| zone.to_owned())
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
