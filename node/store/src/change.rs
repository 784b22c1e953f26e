//! One change of the database. Changes are applied whole or not at all, and again gives the same.

use prost::Message as _;
use redb::{ReadableTable as _, TableDefinition, WriteTransaction};
use shoal_proto::attestation::ChunkHash;
use shoal_proto::digest::Digest;
use shoal_proto::name::Scope;
use shoal_proto::tag::SignedTagMapping;
use shoal_proto::wire::{MAX_TAG_MAPPINGS, generated, mapping_from_wire, mapping_to_wire};

use crate::tables::{
    CHUNKS, EVERYONES, HASHES, HASHES_A_ROW, HELD, INLINE, MEDIA_TYPES, ORIGINS, PARTIAL, PARTIAL_OF,
    PUBLIC_IN, READABLE, REPOSITORIES, Scopes, TAGS, TOTALS, Vouched, key, readable_key, repository_key,
    row_key, rows_of, scope_text, scopes, tag_prefix,
};
use crate::whose::{Place, place};
use crate::{Of, StoreError};

/// The most repositories remembered for one blob.
const MAX_REPOSITORIES: usize = 16;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// The blob is proven and on the disk.
    Hold {
        digest: Digest,
        size: u64,
        hashes: Vec<ChunkHash>,
        inline: Option<bytes::Bytes>,
        /// Whose bytes they are.
        of: Option<Of>,
    },
    /// The blob is no longer held, nor on its way.
    Drop(Digest),
    /// The blob is not on its way; what else is known of it stays.
    DropPartial(Digest),
    /// These chunks of a partial blob are on the disk.
    Chunks { digest: Digest, size: u64, of: Scope, chunks: Vec<(u32, Vouched)> },
    /// These chunks are wrong.
    Forget { digest: Digest, chunks: Vec<u32> },
    /// The blob is held no longer, and these chunks of it are good.
    Demote { digest: Digest, size: u64, good: Vec<(u32, ChunkHash)> },
    /// What a manifest is served as.
    MediaType(Digest, String),
    /// The blob is in a repository, for everyone or for some.
    Repository { digest: Digest, scope: Scope, public: bool },
    /// The blob is in a repository no more.
    NotIn(Digest, Scope),
    /// What a tag named.
    Tag(SignedTagMapping),
    /// Upstream let these read a repository at this time, or does so no more.
    Readable(Scope, &'static str, Option<u64>),
    /// The blob's bytes are of these too.
    Origin(Digest, Of),
    /// How far these were counted.
    Totals(Vec<(&'static str, u64)>),
}

impl Change {
    pub(crate) fn apply(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        match self {
            Self::Hold { digest, size, hashes, inline, of } => {
                hold(txn, digest, *size, hashes)?;
                if let Some(bytes) = inline {
                    txn.open_table(INLINE)?.insert(&*key(digest), bytes.as_ref())?;
                }
                if let Some(of) = of {
                    note_origin(txn, digest, of)?;
                }
                drop_partial(txn, digest)
            }
            Self::Drop(digest) => {
                drop_held(txn, digest)?;
                drop_partial(txn, digest)?;
                txn.open_table(MEDIA_TYPES)?.remove(&*key(digest))?;
                forget(txn, ORIGINS, digest)?;
                txn.open_table(EVERYONES)?.remove(&*key(digest))?;
                forget(txn, REPOSITORIES, digest)?;
                forget(txn, PUBLIC_IN, digest)
            }
            Self::DropPartial(digest) => drop_partial(txn, digest),
            Self::Chunks { digest, size, of, chunks } => {
                // Written late: the blob may be held by now.
                if txn.open_table(HELD)?.get(&*key(digest))?.is_some() {
                    return Ok(());
                }
                txn.open_table(PARTIAL_OF)?.insert(&*key(digest), scope_text(of).as_str())?;
                put_chunks(txn, digest, *size, chunks.iter().map(|(chunk, vouched)| (*chunk, *vouched)))
            }
            Self::Forget { digest, chunks } => {
                let mut table = txn.open_table(CHUNKS)?;
                for &chunk in chunks {
                    table.remove(&*row_key(digest, chunk))?;
                }
                Ok(())
            }
            Self::Demote { digest, size, good } => {
                drop_held(txn, digest)?;
                let vouched =
                    |(chunk, hash): &(u32, ChunkHash)| (*chunk, Vouched { hash: *hash, attestation: None });
                put_chunks(txn, digest, *size, good.iter().map(vouched))
            }
            Self::MediaType(digest, media_type) => {
                txn.open_table(MEDIA_TYPES)?.insert(&*key(digest), media_type.as_str())?;
                Ok(())
            }
            Self::Readable(scope, whom, checked_unix_ms) => readable(txn, scope, whom, *checked_unix_ms),
            Self::Repository { digest, scope, public } => note_repository(txn, digest, scope, *public),
            Self::NotIn(digest, scope) => {
                for table in [REPOSITORIES, PUBLIC_IN] {
                    txn.open_table(table)?.remove(&*repository_key(digest, scope))?;
                }
                Ok(())
            }
            Self::Tag(signed) => put_tag(txn, signed),
            Self::Totals(totals) => put_totals(txn, totals),
            Self::Origin(digest, of) => note_origin(txn, digest, of),
        }
    }
}

fn readable(
    txn: &WriteTransaction,
    scope: &Scope,
    whom: &str,
    checked_unix_ms: Option<u64>,
) -> Result<(), StoreError> {
    let (mut table, key) = (txn.open_table(READABLE)?, readable_key(scope, whom));
    match checked_unix_ms {
        Some(checked_unix_ms) => drop(table.insert(key.as_str(), checked_unix_ms)?),
        None => drop(table.remove(key.as_str())?),
    }
    Ok(())
}

fn put_totals(txn: &WriteTransaction, totals: &[(&str, u64)]) -> Result<(), StoreError> {
    let mut table = txn.open_table(TOTALS)?;
    for (name, total) in totals {
        table.insert(*name, total)?;
    }
    Ok(())
}

fn hold(txn: &WriteTransaction, digest: &Digest, size: u64, hashes: &[ChunkHash]) -> Result<(), StoreError> {
    txn.open_table(HELD)?.insert(&*key(digest), size)?;
    let mut table = txn.open_table(HASHES)?;
    for (row, hashes) in (0..).zip(hashes.chunks(HASHES_A_ROW as usize)) {
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
        table.insert(&*row_key(digest, row), &*bytes)?;
    }
    Ok(())
}

fn drop_held(txn: &WriteTransaction, digest: &Digest) -> Result<(), StoreError> {
    txn.open_table(HELD)?.remove(&*key(digest))?;
    txn.open_table(INLINE)?.remove(&*key(digest))?;
    drop_rows(txn, HASHES, digest)
}

fn drop_partial(txn: &WriteTransaction, digest: &Digest) -> Result<(), StoreError> {
    txn.open_table(PARTIAL)?.remove(&*key(digest))?;
    txn.open_table(PARTIAL_OF)?.remove(&*key(digest))?;
    drop_rows(txn, CHUNKS, digest)
}

fn drop_rows(
    txn: &WriteTransaction,
    table: TableDefinition<'_, &'static [u8], &'static [u8]>,
    digest: &Digest,
) -> Result<(), StoreError> {
    let rows = rows_of(digest);
    txn.open_table(table)?.retain_in(rows.start().as_slice()..=rows.end().as_slice(), |_, _| false)?;
    Ok(())
}

fn note_origin(txn: &WriteTransaction, digest: &Digest, of: &Of) -> Result<(), StoreError> {
    let mut table = txn.open_table(ORIGINS)?;
    let origins = scopes(&table, digest)?;
    let place = place(&origins, &of.scope);
    if let Place::InsteadOf(other) = place {
        table.remove(&*repository_key(digest, other))?;
    }
    if place != Place::None {
        table.insert(&*repository_key(digest, &of.scope), ())?;
    }
    if of.everyones {
        txn.open_table(EVERYONES)?.insert(&*key(digest), ())?;
    }
    Ok(())
}

/// Notes a repository with a blob. Where many are, one of the registry that has most of them makes room: names are made up
/// easily, and the one that is asked for now is the one to know.
fn note_repository(
    txn: &WriteTransaction,
    digest: &Digest,
    scope: &Scope,
    public: bool,
) -> Result<(), StoreError> {
    for table in [Some(REPOSITORIES), public.then_some(PUBLIC_IN)].into_iter().flatten() {
        let mut table = txn.open_table(table)?;
        let known = scopes(&table, digest)?;
        let of = |one: &&Scope| known.iter().filter(|other| other.registry == one.registry).count();
        if known.len() >= MAX_REPOSITORIES
            && !known.contains(scope)
            && let Some(crowded) = known.iter().rev().max_by_key(of)
        {
            table.remove(&*repository_key(digest, crowded))?;
        }
        table.insert(&*repository_key(digest, scope), ())?;
    }
    Ok(())
}

fn forget(txn: &WriteTransaction, table: Scopes, digest: &Digest) -> Result<(), StoreError> {
    let mut table = txn.open_table(table)?;
    let prefix = key(digest);
    let keys: Vec<Vec<u8>> = table
        .range(&*prefix..)?
        .map_while(|row| row.ok().map(|(key, _)| key.value().to_vec()).filter(|key| key.starts_with(&prefix)))
        .collect();
    for key in keys {
        table.remove(&*key)?;
    }
    Ok(())
}

fn put_chunks(
    txn: &WriteTransaction,
    digest: &Digest,
    size: u64,
    chunks: impl Iterator<Item = (u32, Vouched)>,
) -> Result<(), StoreError> {
    txn.open_table(PARTIAL)?.insert(&*key(digest), size)?;
    let mut table = txn.open_table(CHUNKS)?;
    for (chunk, vouched) in chunks {
        table.insert(&*row_key(digest, chunk), &*vouched.encode())?;
    }
    Ok(())
}

/// Newest for each media type, and no more of them than a message carries.
fn put_tag(txn: &WriteTransaction, signed: &SignedTagMapping) -> Result<(), StoreError> {
    let mapping = &signed.mapping;
    let prefix = tag_prefix(&mapping.scope, &mapping.tag);
    let own = format!("{prefix}{}", mapping.media_type);
    let mut table = txn.open_table(TAGS)?;
    let mut known = Vec::new();
    for row in table.range(prefix.as_str()..)? {
        let (key, value) = row?;
        if !key.value().starts_with(&prefix) {
            break;
        }
        known.push((key.value().to_owned(), checked(value.value())?));
    }
    if known.iter().any(|(key, checked)| *key == own && *checked > mapping.checked_unix_ms) {
        return Ok(());
    }
    known.retain(|(key, _)| *key != own);
    while known.len() >= MAX_TAG_MAPPINGS {
        let Some(oldest) = (0..known.len()).min_by_key(|&index| known[index].1) else { break };
        table.remove(known.swap_remove(oldest).0.as_str())?;
    }
    table.insert(own.as_str(), &*mapping_to_wire(signed.clone()).encode_to_vec())?;
    Ok(())
}

fn checked(row: &[u8]) -> Result<u64, StoreError> {
    decode_tag(row).map(|signed| signed.mapping.checked_unix_ms)
}

/// A mapping, from its row.
pub(crate) fn decode_tag(row: &[u8]) -> Result<SignedTagMapping, StoreError> {
    let wire = generated::SignedTagMapping::decode(row).map_err(|_| StoreError::Row("a tag's row"))?;
    mapping_from_wire(wire).map_err(|_| StoreError::Row("a tag's mapping"))
}
