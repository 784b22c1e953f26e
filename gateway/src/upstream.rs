//! The registry client.

pub mod config;

mod address;
mod circuit;
mod client;
mod policy;
mod settings;

pub use client::Limits;
pub use settings::ConfigError;
