//! Signed verdicts: upstream let a reader have something of a repository.
//!
//! What a node holds is not thereby readable by all who reach it: it was perhaps fetched with credentials that they do
//! not have. A verdict says that upstream itself, asked in the reader's name, gave the object. One node of the fleet
//! asks, the others take its signed word for a while. There is no verdict of "no": whoever may not read asks upstream
//! itself.

use std::fmt;
use std::str::FromStr;

use libp2p_identity::{Keypair, PeerId};

use crate::attestation::{AttestationError, SIGNATURE_LEN, frame, sign, verify};
use crate::digest::Digest;
use crate::name::{Reference, Scope};

/// Separates these signatures from all others made with the same key.
const DOMAIN: &[u8] = b"shoal/verdict/1\0";
/// What the text of a blob begins with.
const BLOB: &str = "blob/";

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reader {
    /// Everyone: upstream was asked in nobody's name.
    Everyone,
    /// Whoever reaches a node whose operator lets everyone profit of its credentials: those were used. Other nodes of the
    /// same cluster may be told otherwise, so it is not the same as [`Reader::Everyone`].
    Cluster,
    /// A client, by the fingerprint of its login under a key that only the cluster has.
    Client([u8; 32]),
}

/// What of a repository was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A manifest, by tag or digest.
    Manifest(Reference),
    /// A blob.
    Blob(Digest),
}

impl Object {
    /// The digest, if it is named by one.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Manifest(Reference::Digest(digest)) | Self::Blob(digest) => Some(*digest),
            Self::Manifest(Reference::Tag(_)) => None,
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(reference) => reference.fmt(f),
            Self::Blob(digest) => write!(f, "{BLOB}{digest}"),
        }
    }
}

/// Neither a tag nor a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither a tag nor a digest")]
pub struct ObjectError;

impl FromStr for Object {
    type Err = ObjectError;

    fn from_str(text: &str) -> Result<Self, ObjectError> {
        if let Some(digest) = text.strip_prefix(BLOB) {
            return digest.parse().map(Self::Blob).map_err(|_| ObjectError);
        }
        text.parse().map(Self::Manifest).map_err(|_| ObjectError)
    }
}

/// May this reader have this?
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question {
    /// Registry and repository.
    pub scope: Scope,
    /// What of it.
    pub object: Object,
    /// Who.
    pub reader: Reader,
}

impl Question {
    /// The key under which one node of the fleet has the turn to ask upstream.
    pub fn key(&self) -> Digest {
        Digest::sha256_of(&self.message())
    }

    fn message(&self) -> Vec<u8> {
        let mut message = DOMAIN.to_vec();
        let object = self.object.to_string();
        let reader: &[u8] = match &self.reader {
            Reader::Everyone => &[],
            Reader::Cluster => &[1],
            Reader::Client(fingerprint) => fingerprint,
        };
        let fields: [&[u8]; 4] = [
            self.scope.registry.as_str().as_bytes(),
            self.scope.repository.as_str().as_bytes(),
            object.as_bytes(),
            reader,
        ];
        frame(&mut message, &fields);
        message
    }
}

/// A question that upstream answered with yes, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What was asked.
    pub question: Question,
    /// When upstream said so, in milliseconds since the Unix epoch, by the signer's clock.
    pub checked_unix_ms: u64,
}

/// A verdict and who vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedVerdict {
    /// What is said.
    pub verdict: Verdict,
    /// Who asked upstream.
    pub signer: PeerId,
    /// The signer's signature.
    pub signature: [u8; SIGNATURE_LEN],
}

impl Verdict {
    fn message(&self) -> Vec<u8> {
        let mut message = self.question.message();
        message.extend_from_slice(&self.checked_unix_ms.to_be_bytes());
        message
    }

    /// Signs what upstream said to this node.
    ///
    /// # Errors
    /// [`AttestationError::Signing`] if the key is not an ed25519 key.
    pub fn sign(self, keypair: &Keypair) -> Result<SignedVerdict, AttestationError> {
        let signature = sign(keypair, &self.message())?;
        Ok(SignedVerdict { verdict: self, signer: keypair.public().to_peer_id(), signature })
    }
}

impl SignedVerdict {
    /// Whether the signer did sign this verdict.
    ///
    /// # Errors
    /// [`AttestationError::Signature`] or [`AttestationError::Signer`].
    pub fn verify(&self) -> Result<(), AttestationError> {
        verify(self.signer, &self.verdict.message(), &self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_as_they_are_written() {
        let digest = Digest::sha256_of(b"x");
        for object in [
            Object::Blob(digest),
            Object::Manifest(Reference::Digest(digest)),
            Object::Manifest(Reference::Tag("v1".parse().unwrap())),
        ] {
            assert_eq!(object.to_string().parse(), Ok(object));
        }
        for bad in ["", "blob/", "blob/v1", "a b", "sha256:1"] {
            assert_eq!(bad.parse::<Object>(), Err(ObjectError), "{bad}");
        }
    }

    #[test]
    fn signatures_cover_every_field() {
        let keypair = Keypair::ed25519_from_bytes([7; 32]).unwrap();
        let question = Question {
            scope: Scope { registry: "docker.io".parse().unwrap(), repository: "a/b".parse().unwrap() },
            object: "v1".parse().unwrap(),
            reader: Reader::Everyone,
        };
        let signed = Verdict { question, checked_unix_ms: 9 }.sign(&keypair).unwrap();
        assert_eq!(signed.verify(), Ok(()));
        let changes: [fn(&mut Verdict); 5] = [
            |v| v.question.scope.repository = "a/c".parse().unwrap(),
            |v| v.question.scope.registry = "ghcr.io".parse().unwrap(),
            |v| v.question.object = "v2".parse().unwrap(),
            |v| v.question.reader = Reader::Cluster,
            |v| v.checked_unix_ms = 10,
        ];
        for change in changes {
            let mut altered = signed.clone();
            change(&mut altered.verdict);
            assert!(altered.verify().is_err());
        }
    }
}
