//! The sans-IO core of the swarm around each blob: who keeps it, who may ask upstream, who takes part.
//!
//! ```text
//! member: report (what I have, can I fetch?) ──► home ──► standing (members, a lease, or: ask elsewhere)
//!                                                 │
//!                                                 └─ claim (epoch, leases running) ──► two standbys
//! ```
//!
//! The home of a blob is the live node closest to its digest; nobody elects it. It keeps, in memory, who takes part
//! in the blob's swarm and who may fetch which range from upstream, so that upstream sends each byte once. The bytes
//! themselves go from member to member: that is the business of [`crate::transfer`].
//!
//! | module | concept |
//! | --- | --- |
//! | [`ranking`] | how close nodes are to a digest |
//! | [`lease`] | which ranges of one blob are being fetched from upstream, and by whom |
//! | [`home`] | the swarms that a node keeps, as home or as standby |
//! | [`turn`] | one request upstream for the fleet, for tags and manifests |
//! | [`slots`] | how many chunks a node sends at once |
//! | [`message`] | what members, homes and standbys say to each other |

pub mod home;
pub mod lease;
pub mod message;
pub mod ranking;
pub mod slots;
pub mod turn;

/// A peer id for tests.
#[cfg(test)]
pub(crate) fn test_peer(seed: u8) -> libp2p_identity::PeerId {
    let keypair = libp2p_identity::Keypair::ed25519_from_bytes([seed; 32]);
    keypair.map_or_else(|error| unreachable!("{error}"), |keypair| keypair.public().to_peer_id())
}
