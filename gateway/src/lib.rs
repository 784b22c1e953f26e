//! Everything that speaks OCI over HTTP.
//!
//! | module | concept |
//! | --- | --- |
//! | [`source`] | what the gateway needs of the node: one small trait |
//! | [`memory`] | a source that holds everything in memory, for tests of what stands on one |
//! | [`error`] | why a pull fails |
//! | [`caller`] | who asks: through which nodes, with which credentials |
//! | [`hops`] | the nodes that a request came through, by which loops end |
//! | [`server`] | the `/v2/` routes, on axum |
//! | [`upstream`] | the registry client |

pub mod caller;
pub mod error;
pub mod hops;
pub mod memory;
pub mod server;
pub mod source;
pub mod upstream;
