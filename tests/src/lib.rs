//! The harness of the whole-system tests: real nodes, real registries, real container engines.
//!
//! ```text
//! fleet ──► node       `shoal run` as a process on ephemeral loopback ports
//!   │
//!   ├────► registry   Debian's docker-registry or distribution 3.1 as a process, its access log read back
//!   │        ▲ image  an image of a real Debian root filesystem, or of any size, pushed to it
//!   │        ▲ link   the way to it, of a given rate, that counts bytes and can be cut or alter them
//!   ├────► nginx      what stands before registries: TLS, client certificates, redirects, limits
//!   ├────► faulty     an upstream that lies, refuses, stalls
//!   ├────► token_server   whom a registry sends its clients to for tokens
//!   ├────► guarded    who may read what of a registry, changed while it runs
//!   ├────► peer       a peer that lies, stalls, vanishes; raw: one that says any bytes at all
//!   └────► client     a client of our own that checks every byte
//!          containerd, docker, skopeo: the clients that people use
//!          puller: each of these clients, told of a mirror, with a Docker Hub (hub) to go to without it
//! ```
//!
//! [`network`] gives nodes and registries hosts of their own ([`netns`]) behind links of a given rate, that can be
//! cut; [`usage`] says what processes used. Two programs measure with all this: `bench`, one pull between two nodes
//! against what the machine can do, and `fleet-bench`, a fleet against what its links can do.
//!
//! Everything runs as processes on loopback, each with files of its own in a temporary directory, and is killed
//! when its value is dropped or the test process dies ([`process`]). A tool that is missing is a failure that
//! names the command which installs it ([`tool`]): nothing is skipped silently.

pub mod client;
pub mod containerd;
pub mod docker;
pub mod faulty;
pub mod fleet;
pub mod guarded;
pub mod hub;
pub mod image;
pub mod link;
pub mod netns;
pub mod network;
pub mod nginx;
pub mod node;
pub mod peer;
pub mod process;
pub mod puller;
pub mod raw;
pub mod registry;
pub mod skopeo;
pub mod token_server;
pub mod tool;
pub mod usage;
