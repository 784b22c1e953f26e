//! Signed tag mappings: what a tag meant when someone last asked its registry.
//!
//! A tag moves, so a mapping never outranks the registry. It serves for the tag's time, and when upstream
//! cannot be reached: then the newest that peers know, signed by the node that asked.

use libp2p_identity::{Keypair, PeerId};

use crate::attestation::{AttestationError, SIGNATURE_LEN, frame, sign, verify};
use crate::digest::Digest;
use crate::name::{Scope, Tag};

/// Separates these signatures from all others made with the same key.
const DOMAIN: &[u8] = b"shoal/tag/1\0";

/// The manifest that a tag named, and when the registry said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagMapping {
    /// Registry and repository.
    pub scope: Scope,
    /// The tag.
    pub tag: Tag,
    /// The manifest it named.
    pub digest: Digest,
    /// The manifest's size in bytes.
    pub size: u64,
    /// The manifest's media type: a registry may name another manifest to clients that accept other types.
    pub media_type: String,
    /// Whether upstream was asked in nobody's name: only then does it tell everyone what the repository holds.
    pub public: bool,
    /// When upstream said so, in milliseconds since the Unix epoch, by the signer's clock.
    pub checked_unix_ms: u64,
}

/// A mapping and who vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTagMapping {
    /// What is said.
    pub mapping: TagMapping,
    /// Who asked upstream.
    pub signer: PeerId,
    /// The signer's signature.
    pub signature: [u8; SIGNATURE_LEN],
}

impl TagMapping {
    /// The key under which holders of a mapping for this tag announce themselves.
    ///
    /// The accepted types are not part of it: when upstream is down, a node that asks with other types than
    /// the fleet did should still find what there is, and picks by media type.
    pub fn key(scope: &Scope, tag: &Tag) -> Digest {
        Digest::sha256_of(format!("shoal/tag/1\n{}\n{}\n{tag}", scope.registry, scope.repository).as_bytes())
    }

    /// Whether it is of this tag.
    pub fn is_of(&self, scope: &Scope, tag: &Tag) -> bool {
        self.scope == *scope && self.tag == *tag
    }

    fn message(&self) -> Vec<u8> {
        let mut message = DOMAIN.to_vec();
        let fields: [&[u8]; 5] = [
            self.scope.registry.as_str().as_bytes(),
            self.scope.repository.as_str().as_bytes(),
            self.tag.as_str().as_bytes(),
            &self.digest.multihash(),
            self.media_type.as_bytes(),
        ];
        frame(&mut message, &fields);
        message.extend_from_slice(&self.size.to_be_bytes());
        message.push(u8::from(self.public));
        message.extend_from_slice(&self.checked_unix_ms.to_be_bytes());
        message
    }

    /// Signs what this node's own upstream check said.
    ///
    /// # Errors
    /// [`AttestationError::Signing`] if the key is not an ed25519 key.
    pub fn sign(self, keypair: &Keypair) -> Result<SignedTagMapping, AttestationError> {
        let signature = sign(keypair, &self.message())?;
        Ok(SignedTagMapping { mapping: self, signer: keypair.public().to_peer_id(), signature })
    }
}

impl SignedTagMapping {
    /// Whether the signer did sign this mapping.
    ///
    /// # Errors
    /// [`AttestationError::Signature`] or [`AttestationError::Signer`].
    pub fn verify(&self) -> Result<(), AttestationError> {
        verify(self.signer, &self.mapping.message(), &self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_cover_every_field() {
        let keypair = Keypair::ed25519_from_bytes([7; 32]).unwrap();
        let mapping = TagMapping {
            scope: Scope { registry: "docker.io".parse().unwrap(), repository: "a/b".parse().unwrap() },
            tag: "1".parse().unwrap(),
            digest: Digest::sha256_of(b"m"),
            size: 1,
            media_type: "t".into(),
            public: true,
            checked_unix_ms: 9,
        };
        let signed = mapping.sign(&keypair).unwrap();
        assert_eq!(signed.verify(), Ok(()));
        let changes: [fn(&mut TagMapping); 7] = [
            |m| m.scope.repository = "a/c".parse().unwrap(),
            |m| m.scope.registry = "ghcr.io".parse().unwrap(),
            |m| m.tag = "2".parse().unwrap(),
            |m| m.digest = Digest::sha256_of(b"n"),
            |m| m.size = 2,
            |m| m.public = false,
            |m| m.checked_unix_ms = 10,
        ];
        for change in changes {
            let mut altered = signed.clone();
            change(&mut altered.mapping);
            assert!(altered.verify().is_err());
        }
    }
}
