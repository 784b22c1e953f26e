//! The Shoal nodes that a request came through, by which loops end.
//!
//! Each node names itself in the `Via` of what it asks of upstream (RFC 9110, section 7.6.3), behind the nodes that
//! the request which made it ask had come through. So a circle of any length closes at a node that reads its own
//! name. One node behind another is a proper use; a chain of many is not, and is refused too, because a request that
//! several clients share carries the names that one of them brought.

use http::header::{HeaderMap, HeaderValue, VIA};

/// The most nodes that a request may have come through.
pub const MAX_HOPS: usize = 4;

/// What the name of each node begins with.
const NODE: &str = "shoal-";
/// Longer than any node's name.
const MAX_NAME: usize = 80;

/// The nodes that a request came through, the first first. Other proxies are not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hops(Vec<String>);

impl Hops {
    /// Reads a request's `Via`. One more than allowed is read, to see that it is too many.
    pub fn read(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(VIA).into_iter().filter_map(|line| line.to_str().ok());
        let names = lines.flat_map(|line| line.split(',')).filter_map(|hop| {
            let name = hop.split_ascii_whitespace().nth(1)?;
            (name.starts_with(NODE) && name.len() <= MAX_NAME).then(|| name.to_owned())
        });
        Self(names.take(MAX_HOPS + 1).collect())
    }

    /// Whether it came from a client, through no other node.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it must end here, at the node of this name: it was here before, or has come too far.
    pub fn end_at(&self, name: &str) -> bool {
        self.0.len() > MAX_HOPS || self.0.iter().any(|hop| hop == name)
    }

    /// The `Via` of what the node of this name asks for such a request.
    pub fn via(&self, name: &str) -> Option<HeaderValue> {
        let all = self.0.iter().map(String::as_str).chain([name]);
        let text: Vec<String> = all.map(|hop| format!("1.1 {hop}")).collect();
        HeaderValue::from_str(&text.join(", ")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(lines: &[&str]) -> Hops {
        Hops::read(&lines.iter().map(|line| (VIA, line.parse().unwrap())).collect())
    }

    #[test]
    fn a_node_knows_its_own_name() {
        for (lines, ends) in [
            (&["1.1 shoal-1"][..], true),
            (&["1.0 fred, 1.1 shoal-1 (Shoal)"], true),
            (&["1.1 shoal-2", "1.1 shoal-1"], true),
            (&["1.1 shoal-10"], false),
            (&["shoal-1"], false),
            (&[], false),
        ] {
            assert_eq!(hops(lines).end_at("shoal-1"), ends, "{lines:?}");
        }
    }

    #[test]
    fn a_chain_is_carried_on_and_bounded() {
        assert!(hops(&["1.1 squid, 1.1 cache"]).is_empty());
        let chain = hops(&["1.1 shoal-a, 1.1 squid", "1.1 shoal-b"]);
        assert_eq!(chain.via("shoal-c").unwrap(), "1.1 shoal-a, 1.1 shoal-b, 1.1 shoal-c");
        let four = "1.1 shoal-a, 1.1 shoal-b, 1.1 shoal-c, 1.1 shoal-d";
        assert!(!hops(&[four]).end_at("shoal-x"));
        assert!(hops(&[four, "1.1 shoal-e"]).end_at("shoal-x"));
        let flood = vec!["1.1 shoal-a"; 1000].join(", ");
        assert_eq!(hops(&[&flood]).0.len(), MAX_HOPS + 1);
    }
}
