//! A disk in memory that loses what was not synced when its power is cut.
//!
//! Faults that it makes: a cut after any operation; a torn or lost tail of unsynced writes, each file's for
//! itself, so that a later write may survive an earlier one; lost creations, renames and removals; a full
//! disk; operations and reads that fail; and, for tests of tests, a sync that does nothing.
//!
//! Of the changes of names that no sync made durable, a prefix survives, as on a file system with a journal;
//! or, where [`SimulatedDisk::set_unordered`] says so, any of them.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard},
};

use super::{Disk, DiskError, parent};

/// A disk in memory.
#[derive(Debug, Default)]
pub struct SimulatedDisk {
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    live: Names,
    durable: Names,
    // What changed in which folder since that folder's last sync, in order.
    unsynced: Vec<NameChange>,
    unordered: bool,
    capacity_bytes: Option<u64>,
    operations_left: Option<usize>,
    operations: usize,
    changes_failing: usize,
    reads_failing: usize,
    // How many more reads of a file fail.
    unreadable: BTreeMap<String, usize>,
    sync_ignored: Option<String>,
}

type Names = BTreeMap<String, usize>;

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, usize),
    Remove(String),
    Rename(String, String),
}

impl SimulatedDisk {
    /// An empty disk without a fault.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another disk with the same content, the same faults to come, and the same that is not durable yet.
    pub fn fork(&self) -> Self {
        Self { state: Mutex::new(self.lock().clone()) }
    }

    /// From now on no more than this many bytes fit; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity_bytes = bytes;
    }

    /// Whether any of the changes of names may be lost in a power cut, not only the last ones.
    pub fn set_unordered(&self, unordered: bool) {
        self.lock().unordered = unordered;
    }

    /// The power fails after this many more operations that change something: all later ones fail.
    pub fn cut_after(&self, operations: usize) {
        self.lock().operations_left = Some(operations);
    }

    /// Whether the power has failed.
    pub fn is_cut(&self) -> bool {
        self.lock().operations_left == Some(0)
    }

    /// The next operations that change something fail, so many of them.
    pub fn fail_changes(&self, operations: usize) {
        self.lock().changes_failing = operations;
    }

    /// The next reads fail, so many of them, of whichever files.
    pub fn fail_any_reads(&self, reads: usize) {
        self.lock().reads_failing = reads;
    }

    /// The next reads of a file fail, so many of them.
    pub fn fail_reads(&self, path: &str, reads: usize) {
        self.lock().unreadable.insert(path.into(), reads);
    }

    /// Syncs of files whose path begins like this do nothing and say that all is well: a planted fault that
    /// tests must find.
    pub fn ignore_sync(&self, path_prefix: &str) {
        self.lock().sync_ignored = Some(path_prefix.into());
    }

    /// How many operations changed something so far.
    pub fn operations(&self) -> usize {
        self.lock().operations
    }

    /// Cuts the power and brings it back. `dice` decides how much of what was not synced survives: it is
    /// given a number of sides, and answers with a number below it.
    pub fn power_cycle(&self, mut dice: impl FnMut(usize) -> usize) {
        let mut state = self.lock();
        let state = &mut *state;
        let unsynced = std::mem::take(&mut state.unsynced);
        let in_order = dice(unsynced.len() + 1);
        for (place, change) in unsynced.into_iter().enumerate() {
            let survives = if state.unordered { dice(2) == 1 } else { place < in_order };
            if survives {
                change.apply(&mut state.durable);
            }
        }
        for inode in &mut state.inodes {
            let common = inode.live.iter().zip(&inode.durable).take_while(|(a, b)| a == b).count();
            let tail = inode.live.len() - common;
            let kept = common + dice(tail + 1);
            // A tail that only grew keeps at least what was durable.
            if kept >= inode.durable.len() || common < inode.durable.len() {
                inode.durable = inode.live[..kept].to_vec();
            }
            let torn = tail > 0 && kept > common && dice(3) == 0;
            if torn {
                inode.durable[kept - 1] ^= 0x5a;
            }
            inode.live.clone_from(&inode.durable);
        }
        state.live.clone_from(&state.durable);
        state.operations_left = None;
    }

    /// Every file with its content.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        state.live.iter().map(|(name, &id)| (name.clone(), state.inodes[id].live.clone())).collect()
    }

    /// Changes a byte of a file, as a failing medium does.
    ///
    /// # Panics
    /// If there is no such file, or no such byte in it.
    pub fn damage(&self, path: &str, offset: usize) {
        let mut state = self.lock();
        let id = state.live[path];
        state.inodes[id].live[offset] ^= 0xff;
        state.inodes[id].durable = state.inodes[id].live.clone();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no operation panics while it holds the lock")
    }

    fn change<T>(
        &self,
        verb: &'static str,
        path: &str,
        operation: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T, DiskError> {
        let mut state = self.lock();
        let result = state.count_operation().and_then(|()| operation(&mut state));
        result.map_err(|source| DiskError { verb, path: path.into(), source })
    }
}

impl State {
    fn count_operation(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.operations_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("the power is cut"))?;
        }
        if let Some(left) = self.changes_failing.checked_sub(1) {
            self.changes_failing = left;
            return Err(failing_medium());
        }
        self.operations += 1;
        Ok(())
    }

    fn count_read(&mut self, path: &str) -> io::Result<()> {
        let left = match self.unreadable.get_mut(path).filter(|left| **left > 0) {
            Some(left) => left,
            None => &mut self.reads_failing,
        };
        match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                Err(failing_medium())
            }
            None => Ok(()),
        }
    }

    fn find(&self, path: &str) -> io::Result<usize> {
        self.live.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn find_or_link(&mut self, path: &str) -> usize {
        if let Ok(id) = self.find(path) {
            return id;
        }
        self.inodes.push(Inode::default());
        let id = self.inodes.len() - 1;
        self.make(NameChange::Link(path.into(), id));
        id
    }

    fn make(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    fn used_bytes(&self) -> u64 {
        self.live.values().map(|&id| self.inodes[id].live.len() as u64).sum()
    }

    fn check_room(&self, more: usize) -> io::Result<()> {
        let full = self.capacity_bytes.is_some_and(|max| self.used_bytes() + more as u64 > max);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Link(path, id) => {
                names.insert(path.clone(), *id);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                let moved: Vec<_> = names
                    .iter()
                    .filter_map(|(path, &id)| Some((path.clone(), moved_name(path, from, to)?, id)))
                    .collect();
                for (old, new, id) in moved {
                    names.remove(&old);
                    names.insert(new, id);
                }
            }
        }
    }

    fn is_in(&self, dir: &str) -> bool {
        match self {
            Self::Link(path, _) | Self::Remove(path) => parent(path) == dir,
            Self::Rename(from, to) => parent(from) == dir || parent(to) == dir,
        }
    }
}

fn failing_medium() -> io::Error {
    io::Error::other("the medium does not answer")
}

fn moved_name(path: &str, from: &str, to: &str) -> Option<String> {
    let rest = path.strip_prefix(from)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| format!("{to}{rest}"))
}

impl Disk for SimulatedDisk {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, DiskError> {
        let mut state = self.lock();
        let counted = state.count_read(path);
        counted.map_err(|source| DiskError { verb: "read", path: path.into(), source })?;
        Ok(state.find(path).ok().map(|id| state.inodes[id].live.clone()))
    }

    fn read_range(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        let content = self.read(path)?;
        let range = offset as usize..offset as usize + len;
        content.and_then(|bytes| bytes.get(range).map(<[u8]>::to_vec)).ok_or_else(|| DiskError {
            verb: "read",
            path: path.into(),
            source: io::ErrorKind::UnexpectedEof.into(),
        })
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.change("write", path, |state| {
            let id = state.find_or_link(path);
            state.inodes[id].live.clear();
            state.check_room(bytes.len())?;
            state.inodes[id].live.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.change("append to", path, |state| {
            let id = state.find_or_link(path);
            // As a real disk does, this one takes what still fits and then fails.
            let room =
                state.capacity_bytes.map_or(u64::MAX, |max| max - max.min(state.used_bytes()));
            let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            state.inodes[id].live.extend_from_slice(&bytes[..fits]);
            if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn truncate(&self, path: &str, len_bytes: u64) -> Result<(), DiskError> {
        self.change("truncate", path, |state| {
            let id = state.find(path)?;
            state.inodes[id].live.truncate(len_bytes as usize);
            Ok(())
        })
    }

    fn sync(&self, path: &str) -> Result<(), DiskError> {
        self.change("sync", path, |state| {
            let id = state.find(path)?;
            if state.sync_ignored.as_ref().is_some_and(|ignored| path.starts_with(ignored)) {
                return Ok(());
            }
            let inode = &mut state.inodes[id];
            inode.durable.clone_from(&inode.live);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.change("sync", dir, |state| {
            let unsynced = std::mem::take(&mut state.unsynced);
            if state.unordered {
                let (through, rest) =
                    unsynced.into_iter().partition::<Vec<_>, _>(|change| change.is_in(dir));
                through.iter().for_each(|change| change.apply(&mut state.durable));
                state.unsynced = rest;
                return Ok(());
            }
            // The journal is ordered: what came before a change in this folder is durable with it.
            let through = unsynced.iter().rposition(|change| change.is_in(dir));
            let (through, rest) = unsynced.split_at(through.map_or(0, |at| at + 1));
            through.iter().for_each(|change| change.apply(&mut state.durable));
            state.unsynced = rest.to_vec();
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.change("rename", from, |state| {
            state.make(NameChange::Rename(from.into(), to.into()));
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.change("remove", path, |state| {
            if state.find(path).is_ok() {
                state.make(NameChange::Remove(path.into()));
            }
            Ok(())
        })
    }

    fn remove_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.change("remove", dir, |state| {
            let inside = format!("{dir}/");
            let paths: Vec<_> =
                state.live.keys().filter(|path| path.starts_with(&inside)).cloned().collect();
            paths.into_iter().for_each(|path| state.make(NameChange::Remove(path)));
            Ok(())
        })
    }

    fn create_dir(&self, _dir: &str) -> Result<(), DiskError> {
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        let inside = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let state = self.lock();
        let names = state.live.keys().filter_map(|path| path.strip_prefix(&inside));
        let mut names: Vec<_> =
            names.map(|rest| rest.split('/').next().unwrap_or(rest).to_owned()).collect();
        names.dedup();
        Ok(names)
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let state = self.lock();
        let capacity = state.capacity_bytes.unwrap_or(1 << 40);
        Ok(capacity.saturating_sub(state.used_bytes()))
    }
}
