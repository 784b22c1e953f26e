//! What the database holds.
//!
//! Keys are multihashes, and what follows them is big-endian, so that the rows of a blob lie together.

use prost::Message;
use redb::{ReadableTable, TableDefinition};
use shoal_proto::attestation::{Attestation, ChunkHash};
use shoal_proto::digest::Digest;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::wire::{attestation_from_wire, attestation_to_wire, generated};

use crate::StoreError;

type Bytes = &'static [u8];

/// Of the database itself: the format's number, and [`ADOPTING`].
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Held blobs: the size in bytes.
pub(crate) const HELD: TableDefinition<'_, Bytes, u64> = TableDefinition::new("held");
/// The BLAKE3 of each chunk of a held blob, in rows of [`HASHES_A_ROW`].
pub(crate) const HASHES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("hashes");
/// The bytes of small held blobs.
pub(crate) const INLINE: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("inline");
/// Partial blobs: the size in bytes.
pub(crate) const PARTIAL: TableDefinition<'_, Bytes, u64> = TableDefinition::new("partial");
/// The chunks of partial blobs that are on the disk: a [`ChunkRow`] each.
pub(crate) const CHUNKS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("chunks");
/// Media types of manifests.
pub(crate) const MEDIA_TYPES: TableDefinition<'_, Bytes, &str> = TableDefinition::new("media_types");
/// The repositories that a blob is in, as upstream said: its key, then `registry NUL repository`.
pub(crate) const REPOSITORIES: TableDefinition<'_, Bytes, ()> = TableDefinition::new("found_in");
/// Of these, those for which upstream said so to everyone.
pub(crate) const PUBLIC_IN: TableDefinition<'_, Bytes, ()> = TableDefinition::new("found_in_public");
/// The repositories whose registry gave a held blob's bytes: its key, then `registry NUL repository`.
pub(crate) const ORIGINS: TableDefinition<'_, Bytes, ()> = TableDefinition::new("origins");
/// Held blobs that everyone could read where they came from.
pub(crate) const EVERYONES: TableDefinition<'_, Bytes, ()> = TableDefinition::new("everyones");
/// Partial blobs: the repository that it is on its way from, `registry NUL repository`.
pub(crate) const PARTIAL_OF: TableDefinition<'_, Bytes, &str> = TableDefinition::new("partial_of");
/// When upstream last let many read a repository, in milliseconds since the Unix epoch: `registry NUL repository NUL whom`.
pub(crate) const READABLE: TableDefinition<'_, &str, u64> = TableDefinition::new("readable");
/// What tags named: `registry NUL repository NUL tag NUL media type`, to a signed mapping.
pub(crate) const TAGS: TableDefinition<'_, &str, Bytes> = TableDefinition::new("tags");

/// What a node counts for as long as its database lives, by name.
pub(crate) const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("totals");

/// The format's number.
pub(crate) const FORMAT: u64 = 1;

/// There while blob files that the database knows nothing of may be whole: it was begun anew beside them.
pub(crate) const ADOPTING: &str = "adopting";

/// Chunk hashes in one row: reading a chunk reads no more than these.
pub(crate) const HASHES_A_ROW: u32 = 64;

/// A blob's key.
pub(crate) fn key(digest: &Digest) -> Vec<u8> {
    digest.multihash()
}

/// The key of one row of a blob.
pub(crate) fn row_key(digest: &Digest, row: u32) -> Vec<u8> {
    let mut key = digest.multihash();
    key.extend_from_slice(&row.to_be_bytes());
    key
}

/// The range of all rows of a blob.
pub(crate) fn rows_of(digest: &Digest) -> std::ops::RangeInclusive<Vec<u8>> {
    row_key(digest, 0)..=row_key(digest, u32::MAX)
}

/// The row's number, from its key.
pub(crate) fn row_number(key: &[u8]) -> Result<u32, StoreError> {
    let bytes = key.last_chunk::<4>().ok_or(StoreError::Row("a key is too short"))?;
    Ok(u32::from_be_bytes(*bytes))
}

/// The digest, from a blob's key.
pub(crate) fn digest_of(key: &[u8]) -> Result<Digest, StoreError> {
    Digest::from_multihash(key).map_err(|_| StoreError::Row("a key is not a multihash"))
}

/// The key of a repository that a blob was seen in.
pub(crate) fn repository_key(digest: &Digest, scope: &Scope) -> Vec<u8> {
    let mut key = digest.multihash();
    key.extend_from_slice(scope_text(scope).as_bytes());
    key
}

/// A repository, as it stands in keys and rows.
pub(crate) fn scope_text(scope: &Scope) -> String {
    format!("{}\0{}", scope.registry, scope.repository)
}

/// The repository, from that.
pub(crate) fn scope_of(text: &str) -> Option<Scope> {
    let (registry, repository) = text.split_once('\0')?;
    Some(Scope { registry: registry.parse().ok()?, repository: repository.parse().ok()? })
}

/// The repository, from such a key.
fn repository_of(digest: &Digest, key: &[u8]) -> Option<Scope> {
    scope_of(std::str::from_utf8(key.get(digest.multihash().len()..)?).ok()?)
}

/// A table of the repositories of blobs.
pub(crate) type Scopes = TableDefinition<'static, &'static [u8], ()>;

/// The repositories that such a table notes with a blob.
pub(crate) fn scopes(
    table: &impl ReadableTable<&'static [u8], ()>,
    digest: &Digest,
) -> Result<Vec<Scope>, StoreError> {
    let prefix = key(digest);
    let mut scopes = Vec::new();
    for row in table.range(&*prefix..)? {
        let (row, _) = row?;
        if !row.value().starts_with(&prefix) {
            break;
        }
        scopes.extend(repository_of(digest, row.value()));
    }
    Ok(scopes)
}

/// The key of a repository that some can read.
pub(crate) fn readable_key(scope: &Scope, whom: &str) -> String {
    format!("{}\0{whom}", scope_text(scope))
}

/// What the keys of a tag's mappings begin with.
pub(crate) fn tag_prefix(scope: &Scope, tag: &Tag) -> String {
    format!("{}\0{tag}\0", scope_text(scope))
}

/// The tag, from the key of a mapping.
pub(crate) fn tag_of(key: &str) -> Option<(Scope, Tag)> {
    let mut parts = key.split('\0');
    let scope = Scope { registry: parts.next()?.parse().ok()?, repository: parts.next()?.parse().ok()? };
    Some((scope, parts.next()?.parse().ok()?))
}

/// A chunk that is on the disk: what it must hash to, and who vouches for it, if it is not this node by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vouched {
    pub(crate) hash: ChunkHash,
    pub(crate) attestation: Option<Attestation>,
}

/// How a [`Vouched`] is written.
#[derive(Clone, PartialEq, Message)]
struct ChunkRow {
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    attestation: Option<generated::Attestation>,
}

impl Vouched {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let attestation = self.attestation.as_ref().map(attestation_to_wire);
        ChunkRow { hash: self.hash.as_bytes().to_vec(), attestation }.encode_to_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let row = ChunkRow::decode(bytes).map_err(|_| StoreError::Row("a chunk's row"))?;
        let hash = row.hash.try_into().map_err(|_| StoreError::Row("a chunk's hash"))?;
        let attestation = row.attestation.as_ref().map(attestation_from_wire).transpose();
        Ok(Self {
            hash: ChunkHash::from_bytes(hash),
            attestation: attestation.map_err(|_| StoreError::Row("a chunk's attestation"))?,
        })
    }
}
