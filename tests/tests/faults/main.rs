//! A fleet in the middle of a rollout, and something in it breaks. Every client that can gets the right bytes, and
//! upstream is not asked for them again.
//!
//! Everyone pulls at once, from a registry behind a link that is slow enough for something to happen meanwhile and
//! that counts what it carries. Bounds on bytes are strict; nothing depends on how fast the machine is.
//!
//! | module | what breaks |
//! | --- | --- |
//! | `nodes` | nodes of the fleet: killed, frozen, without a route |
//! | `rollout` | nothing: what the others have in common |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod nodes;
mod rollout;
