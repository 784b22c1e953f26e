//! Attestations: who vouches for a chunk.
//!
//! The node that fetched a chunk from upstream signs (digest, size, chunk, BLAKE3 of the chunk) with its peer
//! key; so does a node that has proven the whole digest. The signature travels with the chunk. Everyone checks
//! BLAKE3 and signature before storing, forwarding or giving the chunk to a client, so a relay that alters
//! bytes is caught at the first hop, and only who fetched or proved can lie, with a signature on the lie.
//!
//! An attestation assigns blame, it does not prove: the digest decides.

use std::fmt;

use libp2p_identity::{Keypair, PeerId, PublicKey};

use crate::digest::Digest;

/// Separates these signatures from all others made with the same key.
const DOMAIN: &[u8] = b"shoal/attestation/1\0";
/// An ed25519 signature's length in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// Which chunk of which blob an attestation speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The blob.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// The chunk's index.
    pub chunk: u32,
}

/// The BLAKE3 hash of a chunk's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkHash([u8; 32]);

impl ChunkHash {
    /// Hashes a chunk.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// A hash read from disk or wire.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", hex::encode(self.0))
    }
}

/// A peer's signed word that a chunk has this hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attestation {
    /// What the chunk hashes to.
    pub hash: ChunkHash,
    /// Who says so.
    pub signer: PeerId,
    /// The signature over claim and hash.
    pub signature: [u8; SIGNATURE_LEN],
}

/// Why an attestation or its chunk is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// The signature is not the signer's over this claim.
    #[error("the signature is not {0}'s over this chunk")]
    Signature(PeerId),
    /// The signer's peer id does not hold an ed25519 key.
    #[error("{0} is not an ed25519 peer id, so it cannot attest")]
    Signer(PeerId),
    /// The bytes are not those attested: who sent them altered them.
    #[error("the chunk's bytes do not have the attested hash")]
    Bytes,
    /// This node could not sign.
    #[error("signing failed")]
    Signing,
}

fn message(claim: &Claim, hash: &ChunkHash) -> Vec<u8> {
    let mut message = Vec::with_capacity(DOMAIN.len() + 66 + 8 + 4 + 32);
    message.extend_from_slice(DOMAIN);
    message.extend_from_slice(&claim.digest.multihash());
    message.extend_from_slice(&claim.size.to_be_bytes());
    message.extend_from_slice(&claim.chunk.to_be_bytes());
    message.extend_from_slice(hash.as_bytes());
    message
}

/// The public key inside an ed25519 peer id (libp2p peer-ids spec: keys of up to 42 bytes are inlined).
pub(crate) fn public_key(peer: &PeerId) -> Option<PublicKey> {
    const IDENTITY: u64 = 0;
    let multihash = peer.as_ref();
    if multihash.code() != IDENTITY {
        return None;
    }
    PublicKey::try_decode_protobuf(multihash.digest()).ok()
}

/// Appends fields to a message that is to be signed, each with its length first, so that no two lists of fields share one.
pub(crate) fn frame(message: &mut Vec<u8>, fields: &[&[u8]]) {
    for field in fields {
        message.extend_from_slice(&(field.len() as u64).to_be_bytes());
        message.extend_from_slice(field);
    }
}

pub(crate) fn sign(keypair: &Keypair, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], AttestationError> {
    let signature = keypair.sign(message).map_err(|_| AttestationError::Signing)?;
    signature.try_into().map_err(|_| AttestationError::Signing)
}

pub(crate) fn verify(
    signer: PeerId,
    message: &[u8],
    signature: &[u8; SIGNATURE_LEN],
) -> Result<(), AttestationError> {
    let key = public_key(&signer).ok_or(AttestationError::Signer(signer))?;
    if key.verify(message, signature) { Ok(()) } else { Err(AttestationError::Signature(signer)) }
}

impl Attestation {
    /// Vouches for a chunk: only for one this node fetched from upstream or whose digest it has proven.
    ///
    /// # Errors
    /// [`AttestationError::Signing`] if the key is not an ed25519 key.
    pub fn sign(keypair: &Keypair, claim: &Claim, hash: ChunkHash) -> Result<Self, AttestationError> {
        let signature = sign(keypair, &message(claim, &hash))?;
        Ok(Self { hash, signer: keypair.public().to_peer_id(), signature })
    }

    /// Whether the signer did sign this hash for this chunk.
    ///
    /// # Errors
    /// [`AttestationError::Signature`] or [`AttestationError::Signer`].
    pub fn verify(&self, claim: &Claim) -> Result<(), AttestationError> {
        verify(self.signer, &message(claim, &self.hash), &self.signature)
    }

    /// The whole check that a received chunk must pass before it is stored, forwarded or given to a client.
    ///
    /// # Errors
    /// [`AttestationError::Bytes`] if the bytes are others, else as [`Attestation::verify`].
    pub fn check(&self, claim: &Claim, bytes: &[u8]) -> Result<(), AttestationError> {
        if ChunkHash::of(bytes) != self.hash {
            return Err(AttestationError::Bytes);
        }
        self.verify(claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keypair(seed: u8) -> Keypair {
        Keypair::ed25519_from_bytes([seed; 32]).unwrap()
    }

    fn claim() -> Claim {
        Claim { digest: Digest::sha256_of(b"blob"), size: 4, chunk: 0 }
    }

    #[test]
    fn a_true_chunk_passes() {
        let attestation = Attestation::sign(&keypair(1), &claim(), ChunkHash::of(b"blob")).unwrap();
        assert_eq!(attestation.check(&claim(), b"blob"), Ok(()));
    }

    #[test]
    fn altered_bytes_other_claims_and_borrowed_names_fail() {
        let attestation = Attestation::sign(&keypair(1), &claim(), ChunkHash::of(b"blob")).unwrap();
        assert_eq!(attestation.check(&claim(), b"blab"), Err(AttestationError::Bytes));

        let signer = keypair(1).public().to_peer_id();
        for other in [
            Claim { size: 5, ..claim() },
            Claim { chunk: 1, ..claim() },
            Claim { digest: Digest::sha256_of(b"x"), ..claim() },
        ] {
            assert_eq!(attestation.check(&other, b"blob"), Err(AttestationError::Signature(signer)));
        }

        let other = keypair(2).public().to_peer_id();
        let borrowed = Attestation { signer: other, ..attestation };
        assert_eq!(borrowed.check(&claim(), b"blob"), Err(AttestationError::Signature(other)));
    }
}
