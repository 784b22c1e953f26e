//! The blob store.

pub mod disk;
