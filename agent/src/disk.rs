//! The state directory, as an argument.
//!
//! [`Disk`] has the operations that matter when the power fails, one by one: what was written is
//! durable after [`Disk::sync`], what was created, renamed or removed after [`Disk::sync_dir`].
//! [`replace`] is the one helper for state that is written as a whole; the spool alone appends.
//!
//! Paths are relative to the state directory and use `/`.

#[cfg(any(test, feature = "simulation"))]
pub(crate) mod simulated;

use std::{
    fmt, fs,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// What the agent asks of its state directory.
pub trait Disk: Send + Sync {
    /// The whole file, or nothing if there is none.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, DiskError>;

    /// `len` bytes of a file from `offset` on; fewer are an error.
    fn read_range(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, DiskError>;

    /// Creates a file, or empties the one that is there, and writes it.
    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError>;

    /// Writes at the end of a file, which is created if there is none.
    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError>;

    /// Cuts a file to `len_bytes`.
    fn truncate(&self, path: &str, len_bytes: u64) -> Result<(), DiskError>;

    /// Makes a file's content durable.
    fn sync(&self, path: &str) -> Result<(), DiskError>;

    /// Makes durable which files a folder has.
    fn sync_dir(&self, dir: &str) -> Result<(), DiskError>;

    /// Gives a file or folder another name; a file of that name is replaced.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file, if it is there.
    fn remove(&self, path: &str) -> Result<(), DiskError>;

    /// Removes a folder with all in it, if it is there.
    fn remove_dir(&self, dir: &str) -> Result<(), DiskError>;

    /// Creates a folder and those above it, unless they are there.
    fn create_dir(&self, dir: &str) -> Result<(), DiskError>;

    /// The names in a folder, sorted; none if there is no such folder.
    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError>;

    /// How many bytes are free.
    fn free_bytes(&self) -> Result<u64, DiskError>;
}

/// A disk that several actors share.
pub type SharedDisk = Arc<dyn Disk>;

/// Replaces a file as a whole: after a power cut it has the old content or the new, and once this
/// returns, the new.
///
/// # Errors
/// [`DiskError`]; the old content is then still there, unless only the last step failed.
pub fn replace(disk: &dyn Disk, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
    let fresh = format!("{path}{FRESH_SUFFIX}");
    disk.write(&fresh, bytes)?;
    disk.sync(&fresh)?;
    disk.rename(&fresh, path)?;
    disk.sync_dir(parent(path))
}

/// What an interrupted [`replace`] leaves behind ends like this.
pub(crate) const FRESH_SUFFIX: &str = ".new";

/// The folder that holds `path`; empty for the state directory itself.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// An operation on the state directory failed. The device is to blame.
#[derive(Debug)]
pub struct DiskError {
    /// What was tried, as a verb.
    pub verb: &'static str,
    /// With which file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl DiskError {
    /// Whether space is what is missing: then a retry may succeed later.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.verb, self.path.display(), self.source)
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A folder of the machine's file system.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Opens the folder, which is created if it is missing.
    ///
    /// # Errors
    /// [`DiskError`] if it cannot be created.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        let dir = Self { root: root.to_path_buf() };
        dir.create_dir("")?;
        Ok(dir)
    }

    /// Where `path` is in the machine's file system.
    pub fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn named(&self, verb: &'static str, path: &str) -> impl FnOnce(io::Error) -> DiskError {
        let path = self.path(path);
        move |source| DiskError { verb, path, source }
    }
}

impl Disk for StateDir {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, DiskError> {
        match fs::read(self.path(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.named("read", path)(error)),
        }
    }

    fn read_range(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        let read = || {
            let mut file = fs::File::open(self.path(path))?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = vec![0; len];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(self.named("read", path))
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let write = || fs::File::create(self.path(path))?.write_all(bytes);
        write().map_err(self.named("write", path))
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let open = || fs::OpenOptions::new().append(true).create(true).open(self.path(path));
        open().and_then(|mut file| file.write_all(bytes)).map_err(self.named("append to", path))
    }

    fn truncate(&self, path: &str, len_bytes: u64) -> Result<(), DiskError> {
        let open = || fs::OpenOptions::new().write(true).open(self.path(path));
        open().and_then(|file| file.set_len(len_bytes)).map_err(self.named("truncate", path))
    }

    fn sync(&self, path: &str) -> Result<(), DiskError> {
        let open = || fs::File::open(self.path(path));
        open().and_then(|file| file.sync_data()).map_err(self.named("sync", path))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        let open = || fs::File::open(self.path(dir));
        open().and_then(|file| file.sync_all()).map_err(self.named("sync", dir))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the disk")]
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        fs::rename(self.path(from), self.path(to)).map_err(self.named("rename", from))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the disk")]
    fn remove(&self, path: &str) -> Result<(), DiskError> {
        absent_is_fine(fs::remove_file(self.path(path))).map_err(self.named("remove", path))
    }

    fn remove_dir(&self, dir: &str) -> Result<(), DiskError> {
        absent_is_fine(fs::remove_dir_all(self.path(dir))).map_err(self.named("remove", dir))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the disk")]
    fn create_dir(&self, dir: &str) -> Result<(), DiskError> {
        fs::create_dir_all(self.path(dir)).map_err(self.named("create", dir))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        let entries = match fs::read_dir(self.path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(self.named("list", dir))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(self.named("list", dir))?.file_name();
            // No name that the agent gives is anything but ASCII.
            names.extend(name.into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let usage = rustix::fs::statvfs(self.path("").as_path());
        let usage = usage.map_err(|error| self.named("measure", "")(error.into()))?;
        Ok(usage.f_bavail.saturating_mul(usage.f_frsize))
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_dir() -> (tempfile::TempDir, StateDir) {
        let temp = tempfile::tempdir().expect("the machine has a temporary folder");
        let dir = StateDir::open(&temp.path().join("state")).expect("the folder can be made");
        (temp, dir)
    }

    #[test]
    fn replace_leaves_the_new_content_and_nothing_else() {
        let (_temp, disk) = state_dir();
        for content in [b"old".as_slice(), b"new"] {
            replace(&disk, "boot", content).expect("the disk works");
            assert_eq!(disk.read("boot").expect("the disk works"), Some(content.to_vec()));
        }
        assert_eq!(disk.list("").expect("the disk works"), ["boot"]);
    }

    #[test]
    fn what_is_absent_reads_as_nothing_and_may_be_removed() {
        let (_temp, disk) = state_dir();
        assert_eq!(disk.read("none").expect("absence is no error"), None);
        assert!(disk.list("none").expect("absence is no error").is_empty());
        disk.remove("none").expect("absence is no error");
        disk.remove_dir("none").expect("absence is no error");
        assert!(disk.free_bytes().expect("the disk works") > 0);
    }

    #[test]
    fn an_error_names_the_verb_and_the_path() {
        let (_temp, disk) = state_dir();
        let error = disk.read_range("absent", 0, 1).expect_err("there is no such file");
        let text = error.to_string();
        assert!(text.starts_with("cannot read ") && text.contains("state/absent"), "{text}");
    }

    #[test]
    fn bytes_are_appended_and_cut() {
        let (_temp, disk) = state_dir();
        disk.append("log", b"abc").expect("the disk works");
        disk.append("log", b"def").expect("the disk works");
        disk.truncate("log", 4).expect("the disk works");
        disk.sync("log").expect("the disk works");
        assert_eq!(disk.read_range("log", 1, 3).expect("the disk works"), b"bcd");
    }
}
