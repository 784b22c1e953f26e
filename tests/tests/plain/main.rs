//! Tests of the whole that run anywhere: real `shoal` processes, and registries and peers of the tests' own.
//!
//! One program, for linking one takes longer than running most of these.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin;
mod announcing;
mod bad_config;
mod bad_members;
mod bad_peers;
mod bad_requests;
mod bad_upstream;
mod commands;
mod damage;
mod demo;
mod documents;
mod early;
mod environment;
mod keep_alive;
mod lists;
mod lying_peers;
mod once;
mod policy;
mod readme;
mod setup;
mod simulator;
mod zones;
