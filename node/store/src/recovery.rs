//! What a start finds, and puts right.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use redb::ReadableTable as _;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;

use crate::change::Change;
use crate::damage::{demotion, move_back};
use crate::database::{Database, set_aside};
use crate::disk::{Disk, DiskLock};
use crate::store::remove_if_there;
use crate::tables::{
    ADOPTING, CHUNKS, EVERYONES, FORMAT, HASHES, HELD, INLINE, MEDIA_TYPES, META, ORIGINS, PARTIAL,
    PARTIAL_OF, PUBLIC_IN, READABLE, REPOSITORIES, TAGS, TOTALS, digest_of, row_number, rows_of,
};
use crate::{MAX_INLINE, OpenError, Options, StoreError, adopt, layout};

/// What a start found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Blobs held.
    pub held: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs on their way.
    pub partials: u64,
    /// Blobs whose file was missing or of another length: they are held no longer.
    pub damaged: u64,
    /// Files that belonged to nothing, and were removed.
    pub orphans: u64,
}

pub(crate) struct Opened {
    pub(crate) database: Database,
    pub(crate) index: BTreeMap<Digest, u64>,
    pub(crate) recovery: Recovery,
    /// Whether blob files that the database does not know are to be looked at, not removed.
    pub(crate) adopting: bool,
    pub(crate) lock: Box<dyn DiskLock>,
}

pub(crate) fn open(disk: &Arc<dyn Disk>, options: Options) -> Result<Opened, OpenError> {
    let io = |error: std::io::Error| OpenError::Store(error.into());
    let path = |name: &str| disk.locate(Path::new(name));
    let lock = disk.lock(Path::new(layout::LOCK)).map_err(io)?;
    let lock = lock.ok_or_else(|| OpenError::InUse { path: path(layout::LOCK) })?;
    for folder in [layout::BLOBS, layout::PARTIAL] {
        disk.create_dir(Path::new(folder)).map_err(io)?;
    }
    let found = match examine(disk, options) {
        // All of it can be had again, or found out from the blobs themselves: that is better than no start.
        Err(error) if error.is_damage() => {
            if disk.len(Path::new(layout::DATABASE)).is_ok() {
                set_aside(&**disk, &error);
            }
            examine(disk, options)?
        }
        other => other?,
    };
    let Found { database, format, adopting, mut index } = found;
    if format != FORMAT {
        return Err(OpenError::Format { path: path(layout::DATABASE), found: format, known: FORMAT });
    }
    let disk = &**disk;
    let mut recovery = Recovery { damaged: check_held(disk, &database, &mut index)?, ..Recovery::default() };
    // What was damaged is among them now.
    let partial = partial_digests(&database)?;
    let blobs = if adopting { 0 } else { clear_blobs(disk, &index, &partial)? };
    recovery.orphans = blobs + clear_partials(disk, &partial)?;
    recovery.held = index.len() as u64;
    recovery.bytes = index.values().sum();
    recovery.partials = partial.len() as u64;
    Ok(Opened { database, index, recovery, adopting, lock })
}

/// What the database says.
struct Found {
    database: Database,
    format: u64,
    adopting: bool,
    index: BTreeMap<Digest, u64>,
}

/// Opens the database, and reads what a start needs of it: what is wrong with that shows here.
fn examine(disk: &Arc<dyn Disk>, options: Options) -> Result<Found, StoreError> {
    let database = Database::create(disk.clone(), options.cache)?;
    let (format, mut adopting) = prepare(&database)?;
    if format != FORMAT {
        return Ok(Found { database, format, adopting: false, index: BTreeMap::new() });
    }
    if adopting && blob_files(&**disk)?.is_empty() {
        adopt::done(&database)?;
        adopting = false;
    }
    let index = held(&database)?;
    partial_digests(&database)?;
    Ok(Found { database, format, adopting, index })
}

/// Creates the tables, and says which format this is, and whether there may be blobs that it does not know.
fn prepare(database: &Database) -> Result<(u64, bool), StoreError> {
    database.write(|txn| {
        let mut meta = txn.open_table(META)?;
        let known = meta.get("format")?.map(|row| row.value());
        if known.is_none() {
            meta.insert("format", FORMAT)?;
            meta.insert(ADOPTING, 1)?;
        }
        let adopting = meta.get(ADOPTING)?.is_some();
        let format = known.unwrap_or(FORMAT);
        if format == FORMAT {
            txn.open_table(HELD)?;
            txn.open_table(HASHES)?;
            txn.open_table(INLINE)?;
            txn.open_table(PARTIAL)?;
            txn.open_table(CHUNKS)?;
            txn.open_table(MEDIA_TYPES)?;
            txn.open_table(REPOSITORIES)?;
            txn.open_table(PUBLIC_IN)?;
            txn.open_table(TAGS)?;
            txn.open_table(READABLE)?;
            txn.open_table(TOTALS)?;
            txn.open_table(ORIGINS)?;
            txn.open_table(EVERYONES)?;
            txn.open_table(PARTIAL_OF)?;
        }
        Ok((format, adopting))
    })
}

fn held(database: &Database) -> Result<BTreeMap<Digest, u64>, StoreError> {
    database.read(|txn| {
        let mut index = BTreeMap::new();
        for row in txn.open_table(HELD)?.iter()? {
            let (key, size) = row?;
            index.insert(digest_of(key.value())?, size.value());
        }
        Ok(index)
    })
}

fn partial_digests(database: &Database) -> Result<HashSet<Digest>, StoreError> {
    database.read(|txn| txn.open_table(PARTIAL)?.iter()?.map(|row| digest_of(row?.0.value())).collect())
}

/// Looks at each held blob's file. Whole content is checked when it is read.
fn check_held(
    disk: &dyn Disk,
    database: &Database,
    index: &mut BTreeMap<Digest, u64>,
) -> Result<u64, StoreError> {
    let mut changes = Vec::new();
    for (digest, &size) in &*index {
        if size <= MAX_INLINE {
            continue;
        }
        match check_file(disk, database, digest, size) {
            Ok(change) => changes.extend(change),
            // It proves nothing: what is wrong with it shows when it is read.
            Err(error) => tracing::warn!(%digest, %error, "a held blob's file cannot be looked at"),
        }
    }
    database.commit(&changes.iter().collect::<Vec<_>>())?;
    for change in &changes {
        if let Change::Drop(digest) | Change::Demote { digest, .. } = change {
            index.remove(digest);
            if matches!(change, Change::Demote { .. }) {
                move_back(disk, digest)?;
            }
        }
    }
    Ok(changes.len() as u64)
}

/// What becomes of a held blob, by the length of its file; nothing if that is right.
fn check_file(
    disk: &dyn Disk,
    database: &Database,
    digest: &Digest,
    size: u64,
) -> Result<Option<Change>, StoreError> {
    let length = match disk.len(&layout::blob(digest)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::warn!(%digest, "a held blob's file is gone");
            return Ok(Some(Change::Drop(*digest)));
        }
        other => other?,
    };
    if length == size {
        return Ok(None);
    }
    tracing::warn!(%digest, size, length, "a held blob's file has another length");
    let change = demotion(disk, database, digest, size)?;
    if change.is_none() {
        // All of it is there, and something behind it.
        disk.open(&layout::blob(digest))?.set_len(size)?;
    }
    Ok(change)
}

/// Files among the held ones that are not held: a crash came between their renaming and the database. One that is
/// known as partial goes back there.
fn clear_blobs(
    disk: &dyn Disk,
    index: &BTreeMap<Digest, u64>,
    partial: &HashSet<Digest>,
) -> Result<u64, StoreError> {
    let mut removed = 0;
    each_file(disk, |path, digest| {
        match digest {
            Some(digest) if index.get(&digest).is_some_and(|&size| size > MAX_INLINE) => {}
            Some(digest) if partial.contains(&digest) => move_back(disk, &digest)?,
            _ => {
                remove_if_there(disk, path)?;
                removed += 1;
            }
        }
        Ok(())
    })?;
    Ok(removed)
}

/// The blobs that there are files of among the held ones, held or not.
pub(crate) fn blob_files(disk: &dyn Disk) -> Result<Vec<Digest>, StoreError> {
    let mut digests = Vec::new();
    each_file(disk, |_, digest| {
        digests.extend(digest);
        Ok(())
    })?;
    Ok(digests)
}

/// Shows each file among the held ones, with the blob that it is named for.
fn each_file(
    disk: &dyn Disk,
    mut look: impl FnMut(&Path, Option<Digest>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let root = Path::new(layout::BLOBS);
    for algorithm in disk.list(root)?.into_iter().filter(|entry| entry.is_dir) {
        let above = root.join(&algorithm.name);
        for folder in disk.list(&above)?.into_iter().filter(|entry| entry.is_dir) {
            let path = above.join(&folder.name);
            for entry in disk.list(&path)?.into_iter().filter(|entry| !entry.is_dir) {
                let digest = layout::digest_of_blob(&algorithm.name, &folder.name, &entry.name);
                look(&path.join(&entry.name), digest)?;
            }
        }
    }
    Ok(())
}

fn clear_partials(disk: &dyn Disk, partial: &HashSet<Digest>) -> Result<u64, StoreError> {
    let mut removed = 0;
    let root = Path::new(layout::PARTIAL);
    for entry in disk.list(root)?.into_iter().filter(|entry| !entry.is_dir) {
        if !layout::digest_of_partial(&entry.name).is_some_and(|digest| partial.contains(&digest)) {
            remove_if_there(disk, &root.join(&entry.name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// How many partial blobs there are, and how many bytes of them.
pub(crate) fn partials(database: &Database) -> Result<(u64, u64), StoreError> {
    database.read(|txn| {
        let chunks = txn.open_table(CHUNKS)?;
        let (mut count, mut bytes) = (0, 0);
        for row in txn.open_table(PARTIAL)?.iter()? {
            let (key, size) = row?;
            let layout = ChunkLayout::of(size.value())?;
            let rows = rows_of(&digest_of(key.value())?);
            for row in chunks.range(rows.start().as_slice()..=rows.end().as_slice())? {
                let range = layout.range(row_number(row?.0.value())?);
                bytes += range.map_or(0, shoal_proto::range::ByteRange::len);
            }
            count += 1;
        }
        Ok((count, bytes))
    })
}
