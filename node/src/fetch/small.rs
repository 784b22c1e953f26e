//! Small things whole, from a peer: manifests, whose size nobody here knows yet.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use shoal_proto::attestation::Claim;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::identity::PeerId;
use shoal_proto::origin::Origin;
use tokio::time::timeout;

use super::Ports;
use super::discovery::{self, Found, Search};

/// How long one peer may take to give all of it.
const ONE_PEER: Duration = Duration::from_secs(1);
/// So many peers are tried before upstream is asked.
const MAX_TRIED: usize = 3;

/// The bytes from this peer, if it gives the right ones.
pub async fn from_peer(
    ports: &Ports,
    peer: PeerId,
    digest: Digest,
    origin: Origin,
    most: u64,
) -> Option<Bytes> {
    let found = discovery::all_of_it_at(ports, peer, digest, origin).await?;
    first_good(ports, digest, origin, most, vec![found]).await
}

/// The bytes from a connected peer that has them: one round trip, for what the fleet is thought not to have.
pub async fn from_connected(ports: &Ports, digest: Digest, origin: Origin, most: u64) -> Option<Bytes> {
    let mut found = Vec::new();
    Search::begin(ports.clone(), digest, origin, 0).connected(|one| found.push(one)).await;
    first_good(ports, digest, origin, most, found).await
}

/// The bytes from the first peer that gives the right ones; `None` if none does. `most` bounds the size in
/// bytes, which a peer says and the digest proves.
pub async fn from_peers(ports: &Ports, digest: Digest, origin: Origin, most: u64) -> Option<Bytes> {
    let found = discovery::search(ports, digest, origin).await;
    first_good(ports, digest, origin, most, found).await
}

async fn first_good(
    ports: &Ports,
    digest: Digest,
    origin: Origin,
    most: u64,
    found: Vec<Found>,
) -> Option<Bytes> {
    let complete = |found: &Found| found.is_complete() && found.size <= most;
    for found in found.into_iter().filter(complete).take(MAX_TRIED) {
        match timeout(ONE_PEER, whole(ports, digest, origin, &found)).await {
            Ok(Given::Bytes(bytes)) if digest.same_algorithm_of(&bytes) == digest => return Some(bytes),
            Ok(Given::Bytes(_) | Given::Corrupt) => {
                let time = ports.barred.bar(found.peer);
                ports.metrics.corrupt_chunk();
                tracing::warn!(
                    peer = %found.peer, seconds = time.as_secs(), %digest,
                    "a peer sent other bytes than the digest promises and is not asked for a while"
                );
            }
            Ok(Given::Nothing) | Err(_) => {
                tracing::debug!(peer = %found.peer, %digest, "a peer did not give it");
            }
        }
    }
    None
}

/// What a peer gave.
enum Given {
    /// As many bytes as it promised, each chunk as its signer vouched for it.
    Bytes(Bytes),
    /// Other bytes than somebody vouched for: it altered them.
    Corrupt,
    /// Not all of it.
    Nothing,
}

async fn whole(ports: &Ports, digest: Digest, origin: Origin, found: &Found) -> Given {
    let Ok(layout) = ChunkLayout::of(found.size) else { return Given::Nothing };
    let mut whole = BytesMut::new();
    for chunk in 0..layout.count() {
        ports.metrics.peer_request();
        let claim = Claim { digest, size: found.size, chunk };
        let given = ports.peers.chunk(found.peer, claim, origin).await;
        let Ok((bytes, attestation)) = given else { return Given::Nothing };
        ports.metrics.peer_bytes(bytes.len() as u64);
        if let Err(error) = attestation.check(&claim, &bytes) {
            tracing::debug!(peer = %found.peer, %error, "a chunk failed its check");
            return Given::Corrupt;
        }
        whole.extend_from_slice(&bytes);
    }
    Given::Bytes(whole.freeze())
}
