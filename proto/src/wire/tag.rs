//! Tag mappings on the wire.

use bytes::Bytes;

use super::{MAX_MEDIA_TYPE, WireError, digest, generated, peer, scope};
use crate::tag::{SignedTagMapping, TagMapping};

/// The generated form of a tag mapping: also how the store keeps one.
pub fn mapping_to_wire(signed: SignedTagMapping) -> generated::SignedTagMapping {
    let SignedTagMapping { mapping, signer, signature } = signed;
    generated::SignedTagMapping {
        registry: mapping.scope.registry.to_string(),
        repository: mapping.scope.repository.to_string(),
        tag: mapping.tag.to_string(),
        digest: mapping.digest.multihash().into(),
        size: mapping.size,
        media_type: mapping.media_type,
        public: mapping.public,
        checked_unix_ms: mapping.checked_unix_ms,
        signer: signer.to_bytes().into(),
        signature: Bytes::copy_from_slice(&signature),
    }
}

/// Reads a tag mapping; its signature is not yet verified.
///
/// # Errors
/// [`WireError::Field`] naming what is wrong.
pub fn mapping_from_wire(wire: generated::SignedTagMapping) -> Result<SignedTagMapping, WireError> {
    if wire.media_type.len() > MAX_MEDIA_TYPE {
        return Err(WireError::Field("media_type"));
    }
    Ok(SignedTagMapping {
        mapping: TagMapping {
            scope: scope(&wire.registry, &wire.repository)?,
            tag: wire.tag.parse().map_err(|_| WireError::Field("tag"))?,
            digest: digest(&wire.digest)?,
            size: wire.size,
            media_type: wire.media_type,
            public: wire.public,
            checked_unix_ms: wire.checked_unix_ms,
        },
        signer: peer(&wire.signer)?,
        signature: wire.signature.as_ref().try_into().map_err(|_| WireError::Field("signature"))?,
    })
}
