//! The client against registries in this process, each behind a real socket.
//!
//! | module | concept |
//! | --- | --- |
//! | `fake` | a registry that answers as a test says, and notes what it was asked |
//! | `auth` | tokens, passwords, and who is not given them |
//! | `redirects` | where a registry may lead |
//! | `pauses` | registries that want to be left alone |
//! | `refusals` | what is a registry's word, and what only its trouble |
//! | `connections` | reuse, resets, silence, content codings |
//! | `trust` | certificates, and registries of all kinds at once |
//! | `certificates` | the certificate that this node shows, and for whom |
//! | `lookups` | HEAD and ranges where registries differ |
//! | `passing` | tag lists: queries, links, bounds |
//! | `circles` | nodes behind nodes |

mod auth;
mod certificates;
mod circles;
mod connections;
mod fake;
mod lookups;
mod passing;
mod pauses;
mod redirects;
mod refusals;
mod trust;

use std::time::Duration;

use futures::TryStreamExt as _;
use shoal_proto::digest::Digest;
use shoal_proto::name::Scope;

use super::config::{Access, Credentials, LoginFrom, MirrorSettings, Settings, UpstreamSettings};
use super::{BlobDownload, Limits, Upstreams};
use crate::error::PullError;

/// Short where a test waits for it, far above what a busy machine delays elsewhere.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(10),
    head: Duration::from_secs(10),
    stall: Duration::from_secs(10),
};

fn upstreams<const N: usize>(tables: [(&str, UpstreamSettings); N]) -> Upstreams {
    upstreams_within(LIMITS, tables)
}

fn upstreams_within<const N: usize>(limits: Limits, tables: [(&str, UpstreamSettings); N]) -> Upstreams {
    let upstreams = tables.map(|(name, table)| (name.to_owned(), table)).into();
    let settings = Settings { upstreams, ..Default::default() };
    Upstreams::with_limits(settings, "shoal/test", "shoal-self", limits).unwrap()
}

/// A registry at this URL.
fn at(url: impl Into<String>) -> UpstreamSettings {
    UpstreamSettings { url: Some(url.into()), ..Default::default() }
}

/// The same, with a user and password.
fn with_login(table: UpstreamSettings) -> UpstreamSettings {
    let from = LoginFrom::Password { username: "ann".to_owned(), password: "secret".to_owned() };
    with_login_from(from, table)
}

/// The same, with a login from somewhere.
fn with_login_from(from: LoginFrom, table: UpstreamSettings) -> UpstreamSettings {
    let credentials = Credentials { from: Some(from), access: Some(Access::Cluster) };
    UpstreamSettings { credentials: Some(credentials), ..table }
}

fn scope(registry: &str) -> Scope {
    Scope { registry: registry.parse().unwrap(), repository: "team/app".parse().unwrap() }
}

fn digest() -> Digest {
    Digest::sha256_of(b"hello")
}

async fn bytes(download: BlobDownload) -> Result<Vec<u8>, PullError> {
    let pieces: Vec<_> = download.stream.try_collect().await?;
    Ok(pieces.concat())
}

/// Gets the blob of [`digest`] from a registry.
async fn get(upstreams: &Upstreams, registry: &str) -> Result<Vec<u8>, PullError> {
    bytes(upstreams.blob(&scope(registry), &digest(), None).await?).await
}
