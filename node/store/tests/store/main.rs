//! The store on a disk that forgets, fails and fills, and on the real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "a test may")]

mod blobs;
mod crash;
mod damage;
mod database;
mod origins;
mod partials;
mod support;
