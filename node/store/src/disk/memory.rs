//! A disk in memory that loses what was not synced, fails when told to, and can be full.
//!
//! For tests of this crate and of others. It is as forgetful as a disk may be: after
//! [`MemoryDisk::after_power_loss`] a file's bytes are those of its last sync, and a folder's names are those
//! of its last [`Disk::sync_dir`]; with [`Loss::Some`] any part of what was not synced survives, in any
//! combination.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, DiskLock, Entry};

mod node;

use node::{Dir, Inode, Pending, Survival};

/// What a power loss takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Everything that was not synced.
    All,
    /// Each unsynced write and name survives or not, as this seed decides.
    Some(u64),
}

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Faults {
    #[default]
    None,
    /// Only the call with this number.
    One(u64),
    /// Each call whose number this divides.
    Every(u64),
    /// Every call from this number on, as when the machine is off: nothing is changed any more.
    From(u64),
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    locks: HashSet<PathBuf>,
    calls: u64,
    faults: Faults,
    /// Bytes that may be allocated at most.
    capacity: Option<u64>,
}

/// See the module. A clone is the same disk.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

const ROOT: usize = 0;

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDisk {
    /// An empty disk of unlimited size.
    pub fn new() -> Self {
        let state = State { inodes: vec![Inode::Dir(Dir::default())], ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// How many calls were made.
    pub fn calls(&self) -> u64 {
        self.locked().calls
    }

    /// The `n`-th call from now fails, counted from 1; nothing else does.
    pub fn fail_call(&self, n: u64) {
        let mut state = self.locked();
        state.faults = Faults::One(state.calls + n);
    }

    /// Every `n`-th call fails from now on.
    pub fn fail_every(&self, n: u64) {
        self.locked().faults = Faults::Every(n.max(1));
    }

    /// The power goes at the `n`-th call from now, counted from 1: it and all later ones fail and change
    /// nothing.
    pub fn power_off_at(&self, n: u64) {
        let mut state = self.locked();
        state.faults = Faults::From(state.calls + n);
    }

    /// No call fails any more, except for want of room.
    pub fn heal(&self) {
        self.locked().faults = Faults::None;
    }

    /// Writes into new room fail as [`io::ErrorKind::StorageFull`] once `bytes` are taken; overwriting works on.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.locked().capacity = bytes;
    }

    /// How many bytes are taken.
    pub fn allocated(&self) -> u64 {
        self.locked().allocated()
    }

    /// The disk as the next boot finds it. This one stays as it is.
    #[must_use]
    pub fn after_power_loss(&self, loss: Loss) -> Self {
        let state = self.locked();
        let mut survival = match loss {
            Loss::All => Survival::Nothing,
            Loss::Some(seed) => Survival::Random(seed),
        };
        let inodes = state.inodes.iter().map(|inode| inode.survivor(&mut survival)).collect();
        Self { state: Arc::new(Mutex::new(State { inodes, ..State::default() })) }
    }

    /// The disk as another process finds it after this one was killed: everything written is there.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let inodes = self.locked().inodes.clone();
        Self { state: Arc::new(Mutex::new(State { inodes, ..State::default() })) }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, and fails it if it is to fail.
    fn call(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.locked();
        state.calls += 1;
        let fails = match state.faults {
            Faults::None => false,
            Faults::One(n) => state.calls == n,
            Faults::Every(n) => state.calls.is_multiple_of(n),
            Faults::From(n) => state.calls >= n,
        };
        if fails { Err(io::Error::other("injected disk failure")) } else { Ok(state) }
    }

    fn file(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(MemoryFile { disk: self.clone(), inode })
    }
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl State {
    fn allocated(&self) -> u64 {
        self.inodes.iter().map(Inode::allocated).sum()
    }

    fn dir(&self, path: &Path) -> io::Result<usize> {
        let mut at = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let Inode::Dir(dir) = &self.inodes[at] else { return Err(not_found()) };
            at = *dir.live.get(name).ok_or_else(not_found)?;
        }
        match self.inodes[at] {
            Inode::Dir(_) => Ok(at),
            Inode::File(_) => Err(not_found()),
        }
    }

    /// The names of the folder that `path` lies in, and its last part.
    fn names(&mut self, path: &Path) -> io::Result<(&mut BTreeMap<OsString, usize>, OsString)> {
        let name = path.file_name().ok_or_else(not_found)?.to_owned();
        let folder = self.dir(path.parent().unwrap_or_else(|| Path::new("")))?;
        match &mut self.inodes[folder] {
            Inode::Dir(dir) => Ok((&mut dir.live, name)),
            Inode::File(_) => Err(not_found()),
        }
    }

    fn look_up(&mut self, path: &Path) -> io::Result<usize> {
        let (names, name) = self.names(path)?;
        let inode = *names.get(&name).ok_or_else(not_found)?;
        match self.inodes[inode] {
            Inode::File(_) => Ok(inode),
            Inode::Dir(_) => Err(not_found()),
        }
    }

    fn add(&mut self, path: &Path, inode: Inode) -> io::Result<usize> {
        let number = self.inodes.len();
        let (names, name) = self.names(path)?;
        names.insert(name, number);
        self.inodes.push(inode);
        Ok(number)
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.call()?.look_up(path)?;
        Ok(self.file(inode))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.call()?;
        let inode = match state.look_up(path) {
            Ok(inode) => inode,
            Err(_) => state.add(path, Inode::File(node::File::default()))?,
        };
        Ok(self.file(inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        let inode = state.look_up(from)?;
        let (names, name) = state.names(to)?;
        names.insert(name, inode);
        let (names, name) = state.names(from)?;
        names.remove(&name);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        state.look_up(path)?;
        let (names, name) = state.names(path)?;
        names.remove(&name);
        Ok(())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.call()?;
        let inode = state.look_up(path)?;
        Ok(state.inodes[inode].file()?.live.len() as u64)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let state = self.call()?;
        let Inode::Dir(dir) = &state.inodes[state.dir(folder)?] else { return Err(not_found()) };
        let entry = |(name, inode): (&OsString, &usize)| Entry {
            name: name.clone(),
            is_dir: matches!(state.inodes[*inode], Inode::Dir(_)),
        };
        Ok(dir.live.iter().map(entry).collect())
    }

    fn create_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        if state.dir(folder).is_ok() {
            return Ok(());
        }
        state.add(folder, Inode::Dir(Dir::default())).map(drop)
    }

    fn free(&self) -> Option<u64> {
        let state = self.locked();
        state.capacity.map(|capacity| capacity.saturating_sub(state.allocated()))
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        let folder = state.dir(folder)?;
        if let Inode::Dir(dir) = &mut state.inodes[folder] {
            dir.durable = dir.live.clone();
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut state = self.call()?;
        if !state.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemoryLock { disk: self.clone(), path: path.to_owned() })))
    }

    fn locate(&self, path: &Path) -> PathBuf {
        Path::new("memory:").join(path)
    }
}

#[derive(Debug)]
struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
}

impl DiskLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.locked().locks.remove(&self.path);
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    inode: usize,
}

impl MemoryFile {
    fn change(&self, change: Pending) -> io::Result<()> {
        let mut state = self.disk.call()?;
        let room = state.capacity.map(|capacity| capacity.saturating_sub(state.allocated()));
        state.inodes[self.inode].file_mut()?.change(change, room)
    }
}

impl DiskFile for MemoryFile {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.disk.call()?;
        let live = &state.inodes[self.inode].file()?.live;
        let from = usize::try_from(offset).ok();
        let bytes = from.and_then(|from| live.get(from..from.checked_add(buffer.len())?));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.change(Pending::Write { offset, bytes: bytes.to_vec() })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Pending::SetLen(usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.call()?.inodes[self.inode].file()?.live.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.call()?.inodes[self.inode].file_mut()?.sync();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
