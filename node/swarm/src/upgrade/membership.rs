//! The proof that the other end knows the cluster key.
//!
//! The dialer sends its proof, the listener checks it and only then answers with its own: who does not know the key
//! gets nothing to compute with. A proof is keyed BLAKE3, under a key derived from the cluster key, over the role,
//! the TLS session's exported secret and both peer ids: it cannot be replayed, relayed or reflected.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::PeerId;

use crate::cluster_key::ClusterKey;

/// What the proof's key is derived for (BLAKE3 `derive_key` context).
const CONTEXT: &str = "shoal 2026-11-24 cluster membership proof, version 1";
/// First byte of a message: with a key, or without one.
const KEYED: u8 = 1;
const KEYLESS: u8 = 2;
/// Sent in the place of the listener's proof: the reason why the dialer is not admitted.
const REFUSED_NO_KEY: u8 = 0x10;
const REFUSED_NEEDS_KEY: u8 = 0x11;
const REFUSED_OTHER_KEY: u8 = 0x12;
const REFUSED_FAR: u8 = 0x13;
/// A message: its kind, and the proof or zeros.
const MESSAGE: usize = 33;

/// Why the other end is not admitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("the peer has another cluster key")]
    OtherKey,
    #[error("the peer has no cluster key, and this node has one")]
    PeerHasNone,
    #[error("the peer has a cluster key, and this node has none: set cluster_key_file")]
    OwnMissing,
    #[error("neither end has a cluster key, and the peer is not on this machine: set cluster_key_file")]
    NotLoopback,
    #[error("the peer sent no proof of membership that this version understands")]
    Unknown,
    #[error("the proof of membership did not arrive: {0}")]
    Io(#[from] io::Error),
}

/// The TLS session that proofs are made for.
#[derive(Debug)]
pub(super) struct Session {
    /// Exported keying material: both ends of this session know it, and nobody else.
    pub(super) secret: [u8; 32],
    pub(super) dialer: PeerId,
    pub(super) listener: PeerId,
}

impl Session {
    fn proof(&self, key: &ClusterKey, role: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&key.derive(CONTEXT));
        for part in [role, &self.secret, &self.dialer.to_bytes(), &self.listener.to_bytes()] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

const DIALER: &[u8] = b"dialer";
const LISTENER: &[u8] = b"listener";

fn message(kind: u8, proof: Option<blake3::Hash>) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[0] = kind;
    if let Some(proof) = proof {
        message[1..].copy_from_slice(proof.as_bytes());
    }
    message
}

/// Whether the other end may be spoken to, by what it says of itself.
fn admit(
    kind: u8,
    proof: [u8; 32],
    expected: Option<blake3::Hash>,
    loopback: bool,
) -> Result<(), MembershipError> {
    match (kind, expected) {
        // `blake3::Hash` compares in constant time.
        (KEYED, Some(expected)) if expected == blake3::Hash::from_bytes(proof) => Ok(()),
        (KEYLESS, None) if loopback => Ok(()),
        // Second in each line: the other end's view of the same.
        (KEYED, Some(_)) | (REFUSED_OTHER_KEY, _) => Err(MembershipError::OtherKey),
        (KEYED, None) | (REFUSED_NO_KEY, _) => Err(MembershipError::OwnMissing),
        (KEYLESS, Some(_)) | (REFUSED_NEEDS_KEY, _) => Err(MembershipError::PeerHasNone),
        (KEYLESS, None) | (REFUSED_FAR, _) => Err(MembershipError::NotLoopback),
        _ => Err(MembershipError::Unknown),
    }
}

/// Makes a node's own message.
fn own(key: Option<&ClusterKey>, session: &Session, role: &[u8]) -> [u8; MESSAGE] {
    match key {
        Some(key) => message(KEYED, Some(session.proof(key, role))),
        None => message(KEYLESS, None),
    }
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(u8, [u8; 32])> {
    let mut kind = [0];
    let mut proof = [0; 32];
    stream.read_exact(&mut kind).await?;
    stream.read_exact(&mut proof).await?;
    Ok((kind[0], proof))
}

/// The dialer's part.
pub(super) async fn dialer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    key: Option<&ClusterKey>,
    session: &Session,
    loopback: bool,
) -> Result<(), MembershipError> {
    if key.is_none() && !loopback {
        return Err(MembershipError::NotLoopback);
    }
    stream.write_all(&own(key, session, DIALER)).await?;
    stream.flush().await?;
    let (kind, proof) = receive(stream).await?;
    admit(kind, proof, key.map(|key| session.proof(key, LISTENER)), loopback)
}

/// The listener's part.
pub(super) async fn listener<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    key: Option<&ClusterKey>,
    session: &Session,
    loopback: bool,
) -> Result<(), MembershipError> {
    let (kind, proof) = receive(stream).await?;
    let admitted = admit(kind, proof, key.map(|key| session.proof(key, DIALER)), loopback);
    let answer = match &admitted {
        Ok(()) => own(key, session, LISTENER),
        Err(MembershipError::PeerHasNone) => message(REFUSED_NO_KEY, None),
        Err(MembershipError::OwnMissing) => message(REFUSED_NEEDS_KEY, None),
        Err(MembershipError::NotLoopback) => message(REFUSED_FAR, None),
        Err(_) => message(REFUSED_OTHER_KEY, None),
    };
    stream.write_all(&answer).await?;
    stream.flush().await?;
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(secret: u8) -> Session {
        Session { secret: [secret; 32], dialer: PeerId::random(), listener: PeerId::random() }
    }

    #[test]
    fn a_proof_is_good_for_one_role_and_one_session() {
        let key = ClusterKey::generate();
        let this = session(1);
        let proof = this.proof(&key, DIALER);
        assert_eq!(proof, this.proof(&key, DIALER));
        assert_ne!(proof, this.proof(&key, LISTENER));
        assert_ne!(proof, this.proof(&ClusterKey::generate(), DIALER));
        let other = Session { secret: [2; 32], ..this };
        assert_ne!(proof, other.proof(&key, DIALER));
        let swapped = Session { secret: [1; 32], dialer: other.listener, listener: other.dialer };
        assert_ne!(proof, swapped.proof(&key, DIALER));
    }

    #[test]
    fn who_is_admitted() {
        let key = ClusterKey::generate();
        let session = session(1);
        let right = session.proof(&key, DIALER);
        let proof = *right.as_bytes();
        assert!(admit(KEYED, proof, Some(right), false).is_ok());
        assert!(matches!(admit(KEYED, [0; 32], Some(right), true), Err(MembershipError::OtherKey)));
        assert!(matches!(admit(KEYED, proof, None, true), Err(MembershipError::OwnMissing)));
        assert!(matches!(admit(KEYLESS, [0; 32], Some(right), true), Err(MembershipError::PeerHasNone)));
        assert!(admit(KEYLESS, [0; 32], None, true).is_ok());
        assert!(matches!(admit(KEYLESS, [0; 32], None, false), Err(MembershipError::NotLoopback)));
        for kind in [0, 3, 0x0f, 0x14, 0xff] {
            assert!(matches!(admit(kind, proof, Some(right), true), Err(MembershipError::Unknown)));
        }
    }
}
