//! Where blobs are kept: proven ones, and those on their way.
//!
//! ```text
//! blobs/<algorithm>/<first two hex digits>/<hex>   a held blob, whole and proven
//! partial/<algorithm>-<hex>                        a blob on its way: what of it is there, the database knows
//! shoal.redb                                       everything else, and blobs of up to 16 KiB
//! shoal.redb.damaged-<Unix time>                   a database that was moved aside because it was damaged
//! probe                                            written now and then, to learn whether the disk takes anything
//! lock                                             one process at a time
//! ```
//!
//! | module | concept |
//! | --- | --- |
//! | [`disk`] | the narrow door to the disk |
//! | `backend` | redb through that door |
//! | `database` | redb, opened again when its disk failed |
//! | `layout` | which file is where |
//! | `tables` | what the database holds |
//! | `change` | one change of it, and its effect |
//! | `writer` | the thread that commits changes, many at once |
//! | [`Store`] | held blobs |
//! | `held` | reading them |
//! | `metadata` | media types, repositories, tags |
//! | [`Whose`] | whose the bytes are |
//! | `totals` | what is counted from one start to the next |
//! | [`Partial`] | a blob on its way: what all handles share, hashing, publishing, resuming |
//! | `recent` | chunks that were just stored |
//! | `damage` | what is done about a held blob that is no longer what it was |
//! | `turns` | one at a time for each blob |
//! | `recovery` | what a start finds and puts right |
//! | `adopt` | taking over the blobs that a damaged database knew |
//! | [`Health`] | whether the store can do its work |
//!
//! The order of things: a blob's file is synced, then renamed, then the folders are synced, and only then does the
//! database say *held*. A node killed at any instant finds at its next start either the old state or the new.

mod adopt;
mod backend;
mod change;
mod damage;
mod database;
pub mod disk;
mod error;
mod health;
mod held;
mod layout;
mod metadata;
mod partial;
mod recent;
mod recovery;
mod store;
mod tables;
mod totals;
mod turns;
mod whose;
mod writer;

pub use adopt::Adopted;
pub use error::{FinishError, OpenError, ReadError, StoreError};
pub use health::Health;
pub use held::CheckedChunk;
pub use partial::Partial;
pub use recovery::Recovery;
pub use store::{Held, Store, Usage};
pub use whose::{Of, Whose};

use std::time::Duration;

/// How the store is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Memory for the database's pages, in bytes.
    pub cache: usize,
    /// How long what is known of a partial blob may be unwritten, unless it is much: so much is fetched again after a
    /// crash.
    pub flush: Duration,
    /// Memory for chunks that were just stored, in bytes: they need not be read back for who asks for them next.
    pub recent: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache: 4 * 1024 * 1024, flush: Duration::from_millis(100), recent: 16 * 1024 * 1024 }
    }
}

/// Blobs of at most this many bytes live in the database: a file for each would cost more than it holds.
pub const MAX_INLINE: u64 = 16 * 1024;
