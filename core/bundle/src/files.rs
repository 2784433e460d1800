//! The few things that are done to a disk. Every error names the path.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
};

use crate::Error;

/// Reads a regular file of at most `max_bytes`. `part` is what errors call it.
pub(crate) fn read_file(path: &Path, part: &str, max_bytes: u64) -> Result<Vec<u8>, Error> {
    let len_bytes = file_len(path, part)?;
    if len_bytes > max_bytes {
        return Err(Error::TooLarge { part: part.to_owned(), len_bytes, max_bytes });
    }
    let file = File::open(path).map_err(failed("open", path))?;
    let mut bytes = Vec::new();
    // The file may grow while it is read.
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    let len_bytes = bytes.len() as u64;
    if len_bytes > max_bytes {
        return Err(Error::TooLarge { part: part.to_owned(), len_bytes, max_bytes });
    }
    Ok(bytes)
}

/// The length of what must be a regular file, no link to one.
pub(crate) fn file_len(path: &Path, part: &str) -> Result<u64, Error> {
    let metadata = metadata(path, part)?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    Err(Error::FileType { part: part.to_owned(), expected: "regular file" })
}

/// The names in what must be a folder, no link to one, in order; at most `max` of them.
pub(crate) fn list_folder(path: &Path, part: &str, max: usize) -> Result<Vec<String>, Error> {
    check_folder(path, part)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed("list", path))? {
        let entry = entry.map_err(failed("list", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
        if names.len() > max {
            let reason = format!("it has more than {max} files");
            return Err(Error::Malformed { part: part.to_owned(), reason });
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether a folder is there, no link to one.
#[cfg(any(test, feature = "signing"))]
pub(crate) fn is_folder(path: &Path) -> Result<bool, Error> {
    Ok(fs::symlink_metadata(path).map_err(failed("look at", path))?.is_dir())
}

/// Refuses what is no folder, or a link to one.
pub(crate) fn check_folder(path: &Path, part: &str) -> Result<(), Error> {
    if metadata(path, part)?.is_dir() {
        return Ok(());
    }
    Err(Error::FileType { part: part.to_owned(), expected: "folder" })
}

/// Creates a folder and those above it.
pub(crate) fn create_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(failed("create", path))
}

/// Whether nothing is there, or an empty folder.
pub(crate) fn is_vacant(path: &Path) -> Result<bool, Error> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(failed("list", path)(error)),
    }
}

/// Writes a file that reaches the disk before this returns.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = File::create(path).map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("sync", path))
}

/// Makes what was written into a file or a folder reach the disk.
pub(crate) fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path))
}

fn metadata(path: &Path, part: &str) -> Result<fs::Metadata, Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::Missing { part: part.to_owned() })
        }
        other => other.map_err(failed("look at", path)),
    }
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { verb, path, source }
}
