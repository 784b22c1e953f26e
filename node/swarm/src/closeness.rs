//! How close peers are to keys, as Kademlia sees it. Pure.

use libp2p::PeerId;
use libp2p::kad::KBucketKey;
use shoal_proto::digest::Digest;

/// How many peers closest to a key are told of its providers: Kademlia's `k`.
pub(crate) const REPLICATION: usize = libp2p::kad::K_VALUE.get();

/// Where a key or a peer lies: SHA-256 of its bytes, as Kademlia hashes them.
pub(crate) type Point = [u8; 32];

pub(crate) fn point(bytes: &[u8]) -> Point {
    let key = KBucketKey::new(bytes.to_vec());
    let mut point = [0; 32];
    point.copy_from_slice(key.hashed_bytes());
    point
}

/// Where this peer lies.
pub(crate) fn of_peer(peer: &PeerId) -> Point {
    point(&peer.to_bytes())
}

/// Where the record key of this digest lies.
pub(crate) fn of_key(key: &Digest) -> Point {
    point(&key.multihash())
}

/// Whether `peer` is among the [`REPLICATION`] closest of `peers` to `key`. It may be one of them itself.
///
/// Most peers are far from most keys, and that shows after a few: it seldom looks at all of them.
pub(crate) fn is_among_closest(peer: &Point, key: &Point, peers: &[&Point]) -> bool {
    peers.iter().filter(|other| is_closer(other, peer, key)).nth(REPLICATION - 1).is_none()
}

/// Whether `one` is closer to `key` than `other`, by the XOR metric.
fn is_closer(one: &Point, other: &Point, key: &Point) -> bool {
    // Where they are the same, so are their distances.
    let differs = (0..32).find(|&at| one[at] != other[at]);
    differs.is_some_and(|at| one[at] ^ key[at] < other[at] ^ key[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kademlias_own_order() {
        let digest = Digest::sha256_of(b"key");
        let record = KBucketKey::new(libp2p::kad::RecordKey::from(digest.multihash()).to_vec());
        let mut peers: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
        peers.sort_by_key(|&peer| KBucketKey::from(peer).distance(&record));
        let points: Vec<Point> = peers.iter().map(of_peer).collect();
        let mut shuffled: Vec<&Point> = points.iter().collect();
        shuffled.sort();
        let closest = |point: &Point| is_among_closest(point, &of_key(&digest), &shuffled);
        assert!(points[..REPLICATION].iter().all(closest));
        assert!(!points[REPLICATION..].iter().any(closest));
        // It need not be one of those it is compared with.
        assert!(is_among_closest(&points[19], &of_key(&digest), &points[20..].iter().collect::<Vec<_>>()));
    }
}
