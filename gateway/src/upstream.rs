//! The registry client.

pub mod config;
