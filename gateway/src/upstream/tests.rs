//! The client against a fake registry.
