//! Chunk streams: what is asked for, and what comes before its bytes.

use super::{WireError, attestation_from_wire, attestation_to_wire, digest, generated, origin};
use crate::attestation::Attestation;
use crate::chunk::ChunkLayout;
use crate::digest::Digest;
use crate::origin::Origin;

/// A request on a chunk stream, checked: the chunk exists in a blob of that size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRequest {
    /// Echoed in the reply.
    pub id: u64,
    /// Which blob.
    pub digest: Digest,
    /// The blob's size in bytes, as the asker knows it.
    pub size: u64,
    /// Which chunk.
    pub chunk: u32,
    /// The registry that it is asked for, as in [`super::AskBlob`]: what the peer said of the blob may be over.
    pub origin: Origin,
}

impl ChunkRequest {
    /// Reads a generated message: how many chunks have come on its stream, and what it asks for, if it does.
    ///
    /// # Errors
    /// [`WireError::Field`] naming what is wrong.
    pub fn from_wire(request: &generated::ChunkRequest) -> Result<(u64, Option<Self>), WireError> {
        if request.digest.is_empty() && request.received > 0 {
            return Ok((request.received, None));
        }
        let layout = ChunkLayout::of(request.size).map_err(|_| WireError::Field("size"))?;
        if request.chunk >= layout.count() {
            return Err(WireError::Field("chunk"));
        }
        let asked = Self {
            id: request.id,
            digest: digest(&request.digest)?,
            size: request.size,
            chunk: request.chunk,
            origin: origin(&request.origin)?,
        };
        Ok((request.received, Some(asked)))
    }

    /// The generated form. It also says how many chunks have come on its stream.
    pub fn into_wire(self, received: u64) -> generated::ChunkRequest {
        generated::ChunkRequest {
            id: self.id,
            digest: self.digest.multihash().into(),
            size: self.size,
            chunk: self.chunk,
            origin: self.origin.as_bytes().to_vec().into(),
            received,
        }
    }
}

/// Asks for nothing: so many chunks have come on this stream.
pub fn received(received: u64) -> generated::ChunkRequest {
    generated::ChunkRequest { received, ..generated::ChunkRequest::default() }
}

/// Why a peer does not give a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its upload slots are taken.
    #[error("the peer's upload slots are taken")]
    Busy,
    /// It has just sent the chunk to others, who can be asked: its slots are for what nobody else has.
    #[error("the peer has just sent the chunk to others")]
    Sent,
    /// It does not hold the chunk.
    #[error("the peer does not hold the chunk")]
    Missing,
    /// It says that the request makes no sense.
    #[error("the peer calls the request invalid")]
    Invalid,
}

/// What comes before a chunk's bytes, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkReply {
    /// The chunk follows: so many raw bytes, and who vouches for them.
    Chunk {
        /// Signed word on the bytes that follow.
        attestation: Attestation,
        /// How many bytes follow.
        length: u32,
    },
    /// It does not.
    Refused(Refusal),
}

impl ChunkReply {
    /// Reads the reply to a request for a chunk of `expected` bytes.
    ///
    /// # Errors
    /// [`WireError::Field`] naming what is wrong: a length other than the chunk's is refused here, so nothing of
    /// a peer's choosing is ever allocated.
    pub fn from_wire(reply: &generated::ChunkReply, expected: u32) -> Result<(u64, Self), WireError> {
        use generated::ChunkStatus as Status;
        let refused = |refusal| match reply.length {
            0 => Ok((reply.id, Self::Refused(refusal))),
            _ => Err(WireError::Field("length")),
        };
        match Status::try_from(reply.status).map_err(|_| WireError::Field("status"))? {
            Status::Unspecified => Err(WireError::Field("status")),
            Status::Busy => refused(Refusal::Busy),
            Status::Sent => refused(Refusal::Sent),
            Status::Missing => refused(Refusal::Missing),
            Status::Invalid => refused(Refusal::Invalid),
            Status::Ok if reply.length != expected => Err(WireError::Field("length")),
            Status::Ok => {
                let attestation = reply.attestation.as_ref().ok_or(WireError::Field("attestation"))?;
                let attestation = attestation_from_wire(attestation)?;
                Ok((reply.id, Self::Chunk { attestation, length: expected }))
            }
        }
    }

    /// The generated form, in reply to request `id`.
    pub fn into_wire(self, id: u64) -> generated::ChunkReply {
        use generated::ChunkStatus as Status;
        let (status, attestation, length) = match self {
            Self::Chunk { attestation, length } => {
                (Status::Ok, Some(attestation_to_wire(&attestation)), length)
            }
            Self::Refused(Refusal::Busy) => (Status::Busy, None, 0),
            Self::Refused(Refusal::Sent) => (Status::Sent, None, 0),
            Self::Refused(Refusal::Missing) => (Status::Missing, None, 0),
            Self::Refused(Refusal::Invalid) => (Status::Invalid, None, 0),
        };
        generated::ChunkReply { id, status: status.into(), attestation, length }
    }
}
