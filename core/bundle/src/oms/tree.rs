//! The tree of files that a model signature covers.

use std::{collections::BTreeMap, io, path::Path};

use selvedge_wire::Digest;

use crate::{Bundle, Error, digest_of, files, limits::BUNDLE_BYTES_MAX};

/// The most files of a tree.
pub const TREE_FILES_MAX: usize = 1_024;
/// The longest path of a file in a tree, in bytes.
pub const TREE_PATH_BYTES_MAX: usize = 512;
/// How many folders a file of a tree may lie below the tree's own.
const TREE_DEPTH_MAX: usize = 16;

/// Files by their path in a folder, each with the digest of its bytes.
///
/// A path has `/` between its parts and leads downwards only. At most [`TREE_FILES_MAX`] files with
/// [`BUNDLE_BYTES_MAX`] bytes together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// By the parts of the path: the order that model-signing gives the files.
    files: BTreeMap<Vec<String>, Digest>,
    len_bytes: u64,
}

impl Tree {
    /// The files of [`Bundle::tree`].
    ///
    /// # Errors
    /// [`Error::Malformed`] if a layer has a name that cannot be signed.
    pub fn of(bundle: &Bundle) -> Result<Self, Error> {
        let mut tree = Self::default();
        for (path, bytes) in bundle.tree() {
            tree.add(path, bytes)?;
        }
        Ok(tree)
    }

    /// The regular files in `folder`, but not `without`: the signature itself, where it lies there.
    ///
    /// # Errors
    /// [`Error::FileType`] for a symbolic link or a special file, [`Error::TooLarge`],
    /// [`Error::Malformed`] for a tree of too many or too deep files, [`Error::Io`].
    pub fn read(folder: &Path, without: Option<&Path>) -> Result<Self, Error> {
        let real = |path: &Path| {
            let failed = |source| Error::Io { verb: "open", path: path.to_owned(), source };
            path.canonicalize().map_err(failed)
        };
        let root = real(folder)?;
        let without = match without.map(real).transpose() {
            // A signature that is still to be written lies nowhere.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            other => other?,
        };
        let mut tree = Self::default();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let part = if folder.is_empty() { "the tree" } else { &folder };
            for name in files::list_folder(&root.join(&folder), part, TREE_FILES_MAX)? {
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                let place = root.join(&path);
                if without.as_ref() == Some(&place) {
                    continue;
                }
                if files::is_folder(&place)? {
                    check_depth(&path)?;
                    folders.push(path);
                } else {
                    tree.add(&path, &files::read_file(&place, &path, tree.room_bytes())?)?;
                }
            }
        }
        Ok(tree)
    }

    /// Adds a file.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a path that is no path of a tree or is there already, and for one file
    /// too many; [`Error::TooLarge`].
    pub fn add(&mut self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let (len_bytes, max_bytes) = (bytes.len() as u64, self.room_bytes());
        if len_bytes > max_bytes {
            return Err(Error::TooLarge { part: path.to_owned(), len_bytes, max_bytes });
        }
        if self.files.len() == TREE_FILES_MAX {
            return Err(malformed("the tree", &format!("it has more than {TREE_FILES_MAX} files")));
        }
        let parts = parts(path)?;
        if self.files.insert(parts, digest_of(bytes)).is_some() {
            return Err(malformed(path, "it is there twice"));
        }
        self.len_bytes += len_bytes;
        Ok(())
    }

    /// The files with their digests, in the order of the parts of their paths.
    pub fn files(&self) -> impl Iterator<Item = (String, Digest)> {
        self.files.iter().map(|(parts, digest)| (parts.join("/"), *digest))
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The digest of the file at `path`, if it is there.
    pub(super) fn digest(&self, path: &str) -> Result<Option<Digest>, Error> {
        Ok(self.files.get(&parts(path)?).copied())
    }

    fn room_bytes(&self) -> u64 {
        BUNDLE_BYTES_MAX - self.len_bytes
    }
}

/// The parts of a path in a tree.
fn parts(path: &str) -> Result<Vec<String>, Error> {
    if path.len() > TREE_PATH_BYTES_MAX {
        let reason = format!("its path has more than {TREE_PATH_BYTES_MAX} bytes");
        return Err(malformed("a file", &reason));
    }
    let parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    let leads_elsewhere = |part: &String| matches!(part.as_str(), "" | "." | "..");
    if parts.iter().any(leads_elsewhere) || path.contains(['\\', '\0']) {
        return Err(malformed(&format!("{path:?}"), "it is no path of a file inside the tree"));
    }
    Ok(parts)
}

fn check_depth(path: &str) -> Result<(), Error> {
    if path.split('/').count() <= TREE_DEPTH_MAX {
        return Ok(());
    }
    Err(malformed(path, &format!("it lies more than {TREE_DEPTH_MAX} folders deep")))
}

fn malformed(part: &str, reason: &str) -> Error {
    Error::Malformed { part: part.to_owned(), reason: reason.to_owned() }
}
