//! What can go wrong with a store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use shoal_proto::chunk::TooLarge;
use shoal_proto::digest::Digest;

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another shoal process: give each its own data_dir", path.display())]
    InUse {
        /// The data directory's lock.
        path: PathBuf,
    },
    /// Written by a version that this one does not understand.
    #[error("{} was written by another version of shoal (format {found}, this one reads {known})", path.display())]
    Format {
        /// The database.
        path: PathBuf,
        /// What it says.
        found: u64,
        /// What this version reads.
        known: u64,
    },
    /// The disk or the database fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The store cannot do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No room on the disk: nothing that is held is lost.
    #[error("the disk of the data directory is full")]
    Full,
    /// The disk fails.
    #[error("the disk of the data directory fails: {0}")]
    Disk(Arc<io::Error>),
    /// The database fails.
    #[error("the database in the data directory fails: {0}")]
    Database(Arc<redb::Error>),
    /// The database's file is no longer what was written, or the database's own code fails on it.
    #[error(
        "the database in the data directory is damaged ({0}): a start moves it aside, begins a new one, and takes over \
         every blob whose digest still comes out"
    )]
    Damaged(Arc<str>),
    /// The database's file is no longer in the data directory.
    #[error("{} is gone: the data directory was removed or replaced while the node was using it", .0.display())]
    Gone(PathBuf),
    /// What is in the database is not what this version writes.
    #[error("a row of the database is damaged: {0}")]
    Row(&'static str),
    /// The bytes are not of the digest.
    #[error("the bytes do not have the digest {expected}, but {actual}")]
    Mismatch {
        /// What they should be.
        expected: Digest,
        /// What they are.
        actual: Digest,
    },
    /// The blob is being fetched with another size, or chunks of it as another size are there.
    #[error("{digest} is known as a blob of {known} bytes, not {asked}")]
    Size {
        /// Which blob.
        digest: Digest,
        /// The size it is known with, in bytes.
        known: u64,
        /// The size that was asked for, in bytes.
        asked: u64,
    },
    /// The blob is on its way from another registry, or was held for another's clients: see [`crate::Whose`].
    #[error("{0} is being fetched from another registry")]
    OfAnother(Digest),
    /// Larger than any blob.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// A chunk of another length than its layout says, or no chunk of it at all.
    #[error("chunk {chunk} of {digest} was given with {length} bytes, which is not its length")]
    Chunk {
        /// Which blob.
        digest: Digest,
        /// Which chunk.
        chunk: u32,
        /// How many bytes were given.
        length: usize,
    },
    /// The blob is held or discarded meanwhile.
    #[error("the partial blob is closed: it is held or discarded meanwhile")]
    Closed,
    /// The store is shutting down.
    #[error("the store is closed")]
    ShutDown,
}

impl StoreError {
    /// Whether a call to the disk failed, rather than what was asked.
    pub(crate) const fn is_failure(&self) -> bool {
        matches!(self, Self::Full | Self::Disk(_) | Self::Database(_) | Self::Damaged(_))
    }

    /// Whether an answer of the database says that its file is not what was written. A disk that gives no answer says
    /// nothing of the kind.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::Row(_) => true,
            Self::Disk(error) => {
                matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
            }
            Self::Database(error) => matches!(
                **error,
                redb::Error::Corrupted(_)
                    | redb::Error::UpgradeRequired(_)
                    | redb::Error::TableTypeMismatch { .. }
                    | redb::Error::TypeDefinitionChanged { .. }
                    | redb::Error::TableIsMultimap(_)
                    | redb::Error::TableIsNotMultimap(_)
            ),
            _ => false,
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull { Self::Full } else { Self::Disk(Arc::new(error)) }
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => error.into(),
            error => Self::Database(Arc::new(error)),
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}

from_redb!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);

/// A chunk of a held blob cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The blob is not held.
    #[error("the blob is not held")]
    NotHeld,
    /// There is no such chunk.
    #[error("{digest} has no chunk {chunk}")]
    NoChunk {
        /// Which blob.
        digest: Digest,
        /// Which chunk.
        chunk: u32,
    },
    /// The disk gives other bytes than were proven. The blob is no longer held; its good chunks are kept.
    #[error("chunk {chunk} of {digest} is damaged on the disk: {reason}")]
    Damaged {
        /// Which blob.
        digest: Digest,
        /// Which chunk.
        chunk: u32,
        /// What was seen.
        reason: String,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A partial blob does not become a held one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FinishError {
    /// Not every chunk is there, or not as it was stored: [`Partial::missing`](crate::Partial::missing) says which
    /// are to be fetched, again.
    #[error("{missing} chunks are missing")]
    Incomplete {
        /// How many.
        missing: usize,
    },
    /// The chunks are all there, and some are wrong. They stay as they are.
    #[error("the digest of the chunks is {actual}")]
    Mismatch {
        /// What came out.
        actual: Digest,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}
