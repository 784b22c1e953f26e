//! Tests of the whole with real registries, engines and clients: they need root and what `tests/run` installs.
//!
//! One program, for linking one takes longer than running most of these.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod clients;
mod compose;
mod credentials;
mod every_client;
mod faults;
mod fleet;
mod harness;
mod laptop;
mod network;
mod package;
mod parallel_ranges;
mod past_a_mirror;
mod podman_in_parts;
mod registries;
mod setup_clients;
mod tags;
mod tokens;
