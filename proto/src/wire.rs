//! The messages on a stream, and their framing.
//!
//! `wire/shoal.proto` is the only description of the messages; [`generated`] is made from it. This module turns
//! generated messages into checked values and back: outside this module nobody sees a field that a peer filled
//! in and nobody checked.

use bytes::{Buf, Bytes, BytesMut};
use fixedbitset::FixedBitSet;
use libp2p_identity::PeerId;
use prost::Message;

use crate::attestation::{Attestation, ChunkHash};
use crate::chunk::ChunkLayout;
use crate::digest::Digest;
use crate::name::{Scope, Tag};
use crate::origin::Origin;
use crate::swarm::message::{Claim, ClaimAnswer, Report, Standing, SwarmKey};
use crate::swarm::turn::{AskTurn, TurnAnswer, TurnEnded};
use crate::tag::SignedTagMapping;
use crate::verdict::{Question, SignedVerdict};

mod chunks;
mod swarm;
mod tag;
mod verdict;

pub use chunks::{ChunkReply, ChunkRequest, Refusal, received};

pub use swarm::Whereabouts;
pub use tag::{mapping_from_wire, mapping_to_wire};

/// The messages as prost makes them from `wire/shoal.proto`.
#[allow(missing_docs, clippy::pedantic, unreachable_pub, reason = "generated; documented in shoal.proto")]
pub mod generated {
    include!(concat!(env!("OUT_DIR"), "/shoal.wire.rs"));
}

/// The version of these messages that this build speaks.
pub const VERSION: u32 = 1;
/// Stream protocol of questions and answers.
pub const SESSION_PROTOCOL: &str = "/shoal/session/1";
/// Stream protocol of chunks.
pub const CHUNK_PROTOCOL: &str = "/shoal/chunk/1";
/// The longest message in bytes, without the varint before it. A bitmap of the most chunks a blob can have
/// takes half of it.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most tag mappings in one answer.
pub const MAX_TAG_MAPPINGS: usize = 8;
/// The longest media type accepted (RFC 6838, section 4.2: type and subtype of at most 127 characters each).
const MAX_MEDIA_TYPE: usize = 255;

/// Why a message from a peer is not accepted. The connection's other streams are unaffected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes is longer than the {MAX_MESSAGE} allowed")]
    TooLong(u64),
    /// The length is not a varint.
    #[error("the message's length is malformed")]
    Length,
    /// Not protobuf of the expected message.
    #[error("the message is malformed")]
    Malformed,
    /// A field is missing or out of its bounds.
    #[error("field {0} is missing or invalid")]
    Field(&'static str),
    /// The peer speaks no version that this build knows.
    #[error("the peer speaks version {0} of the protocol, this node speaks {VERSION}")]
    Version(u32),
}

/// Puts a message behind its length.
pub fn encode_frame(message: &impl Message, out: &mut BytesMut) {
    out.reserve(message.encoded_len() + 5);
    prost::encoding::encode_varint(message.encoded_len() as u64, out);
    // Encoding only fails for want of room, and BytesMut grows.
    message.encode_raw(out);
}

/// Takes one whole message off the front of `buffer`, or `None` if more bytes are needed.
///
/// # Errors
/// [`WireError::TooLong`], before anything of that length is awaited or allocated, [`WireError::Length`] and
/// [`WireError::Malformed`].
pub fn decode_frame<M: Message + Default>(buffer: &mut BytesMut) -> Result<Option<M>, WireError> {
    let mut length = 0_u64;
    let mut used = 0;
    loop {
        let Some(&byte) = buffer.get(used) else { return Ok(None) };
        length |= u64::from(byte & 0x7f) << (7 * used);
        used += 1;
        if byte & 0x80 == 0 {
            break;
        }
        // Four bytes hold more than MAX_MESSAGE needs.
        if used == 4 {
            return Err(WireError::Length);
        }
    }
    if length > MAX_MESSAGE as u64 {
        return Err(WireError::TooLong(length));
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most MAX_MESSAGE")]
    let length = length as usize;
    if buffer.len() < used + length {
        return Ok(None);
    }
    buffer.advance(used);
    let message = buffer.split_to(length).freeze();
    M::decode(message).map(Some).map_err(|_| WireError::Malformed)
}

/// The Hello of this build.
pub fn hello() -> generated::Hello {
    generated::Hello { version: VERSION, agent: concat!("shoal/", env!("CARGO_PKG_VERSION")).to_owned() }
}

/// The version both speak, from the other's Hello.
///
/// # Errors
/// [`WireError::Version`] if there is none.
pub fn negotiate(theirs: &generated::Hello) -> Result<u32, WireError> {
    match theirs.version {
        0 => Err(WireError::Version(0)),
        version => Ok(version.min(VERSION)),
    }
}

/// Which of a blob's chunks a peer can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// Nothing of it.
    None,
    /// These chunks of a blob of this size.
    Partial {
        /// In bytes; a hint.
        size: u64,
        /// A bit for each chunk.
        chunks: FixedBitSet,
    },
    /// All of a blob of this size, its digest proven.
    Complete {
        /// In bytes; a hint.
        size: u64,
    },
}

/// A question for what a peer has of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskBlob {
    /// Which blob.
    pub digest: Digest,
    /// The asker takes part in the blob's swarm and knows of so many chunks: the answer comes once there are others,
    /// or after a second. `None`: the answer comes at once.
    pub following: Option<u32>,
    /// Which time the asker fetches it, from 0: what came in an earlier round is of no use to it.
    pub round: u32,
    /// The registry that it is asked for: what is not known to be there is not given.
    pub origin: Origin,
}

/// A question or an answer on a session stream, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionMessage {
    /// Which of this blob do you have?
    AskBlob(AskBlob),
    /// The answer to that.
    Blob(Holding),
    /// What did this tag mean, to exactly this question if one is named?
    AskTag(Scope, Tag, Option<Digest>),
    /// The answer to that: signatures are checked by who uses them.
    Tag(Vec<SignedTagMapping>),
    /// Did upstream let this reader have this?
    AskVerdict(Question),
    /// The answer to that, if it is yes: the signature is checked by who uses it.
    Verdict(Option<SignedVerdict>),
    /// A member's report to the home of a swarm.
    Report(SwarmKey, Report),
    /// The answer to that, and where the peers it names can be reached.
    Standing(Standing, Whereabouts),
    /// A home's claim at a standby.
    Claim(SwarmKey, Claim),
    /// The answer to that, and where the peers it names can be reached.
    ClaimAnswer(ClaimAnswer, Whereabouts),
    /// A question for a turn.
    AskTurn(AskTurn),
    /// The answer to that, and where the peer it names can be reached.
    TurnAnswer(TurnAnswer, Whereabouts),
    /// A turn ended.
    TurnEnded(TurnEnded),
    /// The answer to that.
    Heard,
}

impl SessionMessage {
    /// Reads a generated message.
    ///
    /// # Errors
    /// [`WireError::Field`] naming what is wrong.
    pub fn from_wire(message: generated::SessionMessage) -> Result<(u64, Self), WireError> {
        use generated::session_message::Body;
        let body = match message.body.ok_or(WireError::Field("body"))? {
            Body::AskBlob(ask) => Self::AskBlob(AskBlob {
                digest: digest(&ask.digest)?,
                following: ask.taking_part.then_some(ask.known),
                round: ask.round,
                origin: origin(&ask.origin)?,
            }),
            Body::Report(report) => swarm::report(&report)?,
            Body::Standing(standing) => swarm::standing(standing)?,
            Body::Claim(claim) => swarm::claim(claim)?,
            Body::ClaimAnswer(answer) => swarm::claim_answer(answer)?,
            Body::AskTurn(ask) => swarm::ask_turn(&ask)?,
            Body::TurnAnswer(answer) => swarm::turn_answer(answer)?,
            Body::TurnEnded(ended) => swarm::turn_ended(&ended)?,
            Body::Heard(_) => Self::Heard,
            Body::BlobAnswer(answer) => Self::Blob(holding(&answer)?),
            Body::AskVerdict(ask) => Self::AskVerdict(verdict::question(&ask)?),
            Body::VerdictAnswer(answer) => {
                Self::Verdict(answer.verdict.as_ref().map(verdict::signed).transpose()?)
            }
            Body::AskTag(ask) => {
                let scope = scope(&ask.registry, &ask.repository)?;
                let asked = if ask.asked.is_empty() { None } else { Some(digest(&ask.asked)?) };
                Self::AskTag(scope, ask.tag.parse().map_err(|_| WireError::Field("tag"))?, asked)
            }
            Body::TagAnswer(answer) if answer.mappings.len() > MAX_TAG_MAPPINGS => {
                return Err(WireError::Field("mappings"));
            }
            Body::TagAnswer(answer) => {
                Self::Tag(answer.mappings.into_iter().map(mapping_from_wire).collect::<Result<_, _>>()?)
            }
        };
        Ok((message.id, body))
    }

    /// The generated form, as question or answer number `id`.
    pub fn into_wire(self, id: u64) -> generated::SessionMessage {
        use generated::session_message::Body;
        let body = match self {
            Self::AskBlob(ask) => Body::AskBlob(generated::AskBlob {
                digest: ask.digest.multihash().into(),
                taking_part: ask.following.is_some(),
                known: ask.following.unwrap_or_default(),
                round: ask.round,
                origin: ask.origin.as_bytes().to_vec().into(),
            }),
            Self::Report(key, report) => Body::Report(swarm::report_to_wire(&key, &report)),
            Self::Standing(standing, whereabouts) => {
                Body::Standing(swarm::standing_to_wire(standing, &whereabouts))
            }
            Self::Claim(key, claim) => Body::Claim(swarm::claim_to_wire(&key, claim)),
            Self::ClaimAnswer(answer, whereabouts) => {
                Body::ClaimAnswer(swarm::claim_answer_to_wire(answer, &whereabouts))
            }
            Self::AskTurn(ask) => Body::AskTurn(swarm::ask_turn_to_wire(&ask)),
            Self::TurnAnswer(answer, whereabouts) => {
                Body::TurnAnswer(swarm::turn_answer_to_wire(answer, &whereabouts))
            }
            Self::TurnEnded(ended) => Body::TurnEnded(swarm::turn_ended_to_wire(&ended)),
            Self::Heard => Body::Heard(generated::Heard {}),
            Self::Blob(holding) => Body::BlobAnswer(holding_to_wire(&holding)),
            Self::AskVerdict(question) => Body::AskVerdict(verdict::question_to_wire(&question)),
            Self::Verdict(signed) => {
                let verdict = signed.as_ref().map(verdict::signed_to_wire);
                Body::VerdictAnswer(generated::VerdictAnswer { verdict })
            }
            Self::AskTag(scope, tag, asked) => Body::AskTag(generated::AskTag {
                asked: asked.map(|asked| asked.multihash().into()).unwrap_or_default(),
                registry: scope.registry.to_string(),
                repository: scope.repository.to_string(),
                tag: tag.to_string(),
            }),
            Self::Tag(mappings) => Body::TagAnswer(generated::TagAnswer {
                mappings: mappings.into_iter().map(mapping_to_wire).collect(),
            }),
        };
        generated::SessionMessage { id, body: Some(body) }
    }
}

fn origin(bytes: &[u8]) -> Result<Origin, WireError> {
    bytes.try_into().map(Origin::from_bytes).map_err(|_| WireError::Field("origin"))
}

fn digest(multihash: &[u8]) -> Result<Digest, WireError> {
    Digest::from_multihash(multihash).map_err(|_| WireError::Field("digest"))
}

fn scope(registry: &str, repository: &str) -> Result<Scope, WireError> {
    Ok(Scope {
        registry: registry.parse().map_err(|_| WireError::Field("registry"))?,
        repository: repository.parse().map_err(|_| WireError::Field("repository"))?,
    })
}

fn peer(bytes: &[u8]) -> Result<PeerId, WireError> {
    PeerId::from_bytes(bytes).map_err(|_| WireError::Field("signer"))
}

/// A bitmap, least significant bit first, of exactly as many bits as the layout has chunks.
fn bits(bytes: &[u8], layout: ChunkLayout) -> Result<FixedBitSet, WireError> {
    let count = layout.count() as usize;
    if bytes.len() != count.div_ceil(8) {
        return Err(WireError::Field("chunks"));
    }
    let mut chunks = FixedBitSet::with_capacity(count);
    for index in 0..count {
        chunks.set(index, bytes[index / 8] >> (index % 8) & 1 == 1);
    }
    Ok(chunks)
}

fn bits_to_wire(chunks: &FixedBitSet) -> Bytes {
    let mut bits = vec![0_u8; chunks.len().div_ceil(8)];
    for index in chunks.ones() {
        bits[index / 8] |= 1 << (index % 8);
    }
    bits.into()
}

fn holding(answer: &generated::BlobAnswer) -> Result<Holding, WireError> {
    use generated::Holding as Wire;
    let size = answer.size;
    let layout = ChunkLayout::of(size).map_err(|_| WireError::Field("size"))?;
    Ok(match Wire::try_from(answer.holding).map_err(|_| WireError::Field("holding"))? {
        Wire::None => Holding::None,
        Wire::Complete => Holding::Complete { size },
        Wire::Partial => Holding::Partial { size, chunks: bits(&answer.chunks, layout)? },
    })
}

fn holding_to_wire(holding: &Holding) -> generated::BlobAnswer {
    use generated::Holding as Wire;
    let (kind, size, chunks) = match holding {
        Holding::None => (Wire::None, 0, Bytes::new()),
        Holding::Complete { size } => (Wire::Complete, *size, Bytes::new()),
        Holding::Partial { size, chunks } => (Wire::Partial, *size, bits_to_wire(chunks)),
    };
    generated::BlobAnswer { holding: kind.into(), size, chunks }
}

/// The generated form of an attestation: also how the store keeps one.
pub fn attestation_to_wire(attestation: &Attestation) -> generated::Attestation {
    generated::Attestation {
        hash: Bytes::copy_from_slice(attestation.hash.as_bytes()),
        signer: attestation.signer.to_bytes().into(),
        signature: Bytes::copy_from_slice(&attestation.signature),
    }
}

/// Reads an attestation; its signature is not yet verified.
///
/// # Errors
/// [`WireError::Field`] naming what is wrong.
pub fn attestation_from_wire(attestation: &generated::Attestation) -> Result<Attestation, WireError> {
    let hash = attestation.hash.as_ref().try_into().map_err(|_| WireError::Field("hash"))?;
    Ok(Attestation {
        hash: ChunkHash::from_bytes(hash),
        signer: peer(&attestation.signer)?,
        signature: attestation.signature.as_ref().try_into().map_err(|_| WireError::Field("signature"))?,
    })
}

#[cfg(test)]
mod tests;
