//! Files and folders of the disk in memory: what they hold now, and what a power loss leaves of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;

/// The unit in which room is taken, as on most file systems.
const BLOCK: usize = 4096;

/// A change to a file since its last sync.
#[derive(Debug, Clone)]
pub(super) enum Pending {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Pending {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::SetLen(len) => content.resize(*len, 0),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct File {
    pub(super) live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    /// The blocks that take room: a file may have holes.
    blocks: BTreeSet<usize>,
}

impl File {
    /// Applies a change if it needs at most `room` more bytes.
    pub(super) fn change(&mut self, change: Pending, room: Option<u64>) -> io::Result<()> {
        match &change {
            Pending::Write { offset, bytes } => {
                let touched = offset / BLOCK..(offset + bytes.len()).div_ceil(BLOCK);
                let new: Vec<_> = touched.filter(|block| !self.blocks.contains(block)).collect();
                if room.is_some_and(|room| (new.len() * BLOCK) as u64 > room) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.blocks.extend(new);
            }
            Pending::SetLen(len) => {
                self.blocks.split_off(&len.div_ceil(BLOCK));
            }
        }
        change.apply(&mut self.live);
        self.pending.push(change);
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn survivor(&self, survival: &mut Survival) -> Self {
        let mut content = self.durable.clone();
        for change in &self.pending {
            if survival.next() {
                change.apply(&mut content);
            }
        }
        Self { durable: content.clone(), live: content, pending: Vec::new(), blocks: self.blocks.clone() }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Dir {
    pub(super) live: BTreeMap<OsString, usize>,
    pub(super) durable: BTreeMap<OsString, usize>,
}

impl Dir {
    fn survivor(&self, survival: &mut Survival) -> Self {
        let mut names = self.durable.clone();
        let all: BTreeSet<_> = self.live.keys().chain(self.durable.keys()).collect();
        for name in all {
            let (now, then) = (self.live.get(name), self.durable.get(name));
            if now == then || !survival.next() {
                continue;
            }
            match now {
                Some(inode) => names.insert(name.clone(), *inode),
                None => names.remove(name),
            };
        }
        Self { live: names.clone(), durable: names }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Inode {
    Dir(Dir),
    File(File),
}

impl Inode {
    pub(super) fn file(&self) -> io::Result<&File> {
        match self {
            Self::File(file) => Ok(file),
            Self::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn file_mut(&mut self) -> io::Result<&mut File> {
        match self {
            Self::File(file) => Ok(file),
            Self::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn allocated(&self) -> u64 {
        match self {
            Self::File(file) => (file.blocks.len() * BLOCK) as u64,
            Self::Dir(_) => 0,
        }
    }

    pub(super) fn survivor(&self, survival: &mut Survival) -> Self {
        match self {
            Self::File(file) => Self::File(file.survivor(survival)),
            Self::Dir(dir) => Self::Dir(dir.survivor(survival)),
        }
    }
}

/// Decides which of the unsynced changes survive.
#[derive(Debug)]
pub(super) enum Survival {
    Nothing,
    Random(u64),
}

impl Survival {
    fn next(&mut self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Random(state) => {
                // splitmix64: any generator will do, this one needs no crate.
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) & 1 == 1
            }
        }
    }
}
