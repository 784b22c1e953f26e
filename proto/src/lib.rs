//! Shoal's protocol, pure.
//!
//! Everything here is a value or a decision: what a digest, a name and a chunk are, what peers say to each
//! other, and which chunk is asked of whom. Nothing here performs IO, reads a clock or rolls a die of its own;
//! `clippy.toml` beside this crate bans that by name. The daemon drives it with sockets and a simulator can
//! drive it with a virtual clock: one code, both uses.
//!
//! | module | concept |
//! | --- | --- |
//! | [`digest`] | `sha256:…` and `sha512:…`, and hashing towards them |
//! | [`name`] | registries, repositories, tags, references, whole image names |
//! | [`manifest`] | media types, and what a manifest lists |
//! | [`origin`] | for which registry's sake a blob is asked for |
//! | [`range`] | byte ranges and HTTP's `Range` header |
//! | [`chunk`] | how a blob is cut |
//! | [`buffer`] | memory for chunks |
//! | [`attestation`] | who vouches for a chunk |
//! | [`wire`] | the messages on a stream, and their framing |
//! | [`tag`] | signed tag mappings |
//! | [`verdict`] | signed answers to who may read what |
//! | [`swarm`] | the sans-IO core of the swarm around each blob: its home, leases, turns |
//! | [`transfer`] | the sans-IO core of one blob's transfer |

pub mod attestation;
pub mod buffer;
pub mod chunk;
pub mod digest;
pub mod manifest;
pub mod name;
pub mod origin;
pub mod range;
pub mod swarm;
pub mod tag;
pub mod transfer;
pub mod verdict;
pub mod wire;

pub use libp2p_identity as identity;
