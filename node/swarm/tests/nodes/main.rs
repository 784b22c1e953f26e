//! Real nodes in one process, on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "a test may")]

mod finding;
mod fleet;
mod joining;
mod streams;
