//! A fleet in the middle of a rollout, and something in it breaks. Every client that can gets the right bytes, and
//! upstream is not asked for them again.
//!
//! Everyone pulls at once, from a registry behind a link that is slow enough for something to happen meanwhile and
//! that counts what it carries. Bounds on bytes are strict; nothing depends on how fast the machine is.
//!
//! | module | what breaks |
//! | --- | --- |
//! | `nodes` | nodes of the fleet: killed, frozen |
//! | `upstream` | the way to upstream: cut, frozen, for all or for one, or altering bytes |
//! | `peers` | what a member of the fleet gives |
//! | `partition` | the network between the nodes |
//! | `rollout` | nothing: what the others have in common |

#![expect(clippy::cast_precision_loss, reason = "copies of an image, to a hundredth")]

mod nodes;
mod partition;
mod peers;
mod rollout;
mod upstream;
