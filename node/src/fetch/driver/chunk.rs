//! One chunk from a peer: asked for, checked, stored.

use bytes::Bytes;
use shoal_gateway::error::PullError;
use shoal_proto::attestation::{Attestation, AttestationError, Claim};
use shoal_proto::identity::PeerId;
use shoal_proto::origin::Origin;
use shoal_proto::transfer::ChunkFailure;
use shoal_proto::wire::Refusal;
use shoal_store::Partial;
use shoal_swarm::ChunkError;

use crate::fetch::Ports;
use crate::metrics::Direction;

/// Why no chunk came.
pub(super) enum RequestError {
    /// The peer's doing.
    Peer(ChunkFailure),
    /// This node's own disk failed.
    Disk(PullError),
}

/// Gets a chunk of a peer, checks it off the reactor, stores it. What the `disbelieved` vouch for is not taken.
pub(super) async fn request(
    ports: &Ports,
    partial: &Partial,
    peer: PeerId,
    (claim, origin): (Claim, Origin),
    disbelieved: &[PeerId],
) -> Result<Bytes, RequestError> {
    ports.metrics.peer_request();
    let (bytes, attestation) =
        ports.peers.chunk(peer, claim, origin).await.map_err(|error| RequestError::Peer(failure(&error)))?;
    ports.metrics.peer_bytes(bytes.len() as u64);
    ports.metrics.between_zones(Direction::In, ports.peers.is_near(&peer), bytes.len() as u64);
    if disbelieved.contains(&attestation.signer) {
        return Err(RequestError::Peer(ChunkFailure::Disbelieved));
    }
    let checked = check(attestation, claim, bytes.clone()).await?;
    if let Err(error) = checked {
        tracing::debug!(%peer, %error, "a chunk failed its check");
        return Err(RequestError::Peer(ChunkFailure::Corrupt));
    }
    partial
        .write(claim.chunk, bytes.clone(), attestation)
        .await
        .map_err(|error| RequestError::Disk(PullError::Unavailable(error.to_string())))?;
    Ok(bytes)
}

async fn check(
    attestation: Attestation,
    claim: Claim,
    bytes: Bytes,
) -> Result<Result<(), AttestationError>, RequestError> {
    tokio::task::spawn_blocking(move || attestation.check(&claim, &bytes))
        .await
        .map_err(|error| RequestError::Disk(PullError::Unavailable(error.to_string())))
}

fn failure(error: &ChunkError) -> ChunkFailure {
    match error {
        ChunkError::Refused(Refusal::Busy) => ChunkFailure::Busy,
        ChunkError::Refused(Refusal::Sent) => ChunkFailure::Sent,
        ChunkError::Refused(Refusal::Missing | Refusal::Invalid) => ChunkFailure::Missing,
        ChunkError::Stalled => ChunkFailure::Stalled,
        ChunkError::Protocol(_) => ChunkFailure::Corrupt,
        _ => ChunkFailure::Gone,
    }
}
