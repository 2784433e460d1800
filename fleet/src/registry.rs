//! The bundle registry: folders named by digest, each an OCI image layout that was verified.
//!
//! A bundle enters as a tar of its layout. It is unpacked aside, opened (which checks every blob),
//! its statement is verified, and only then does it get its place. What devices will check, the
//! registry has checked before.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Read},
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use tokio::{io::AsyncWriteExt, sync::Mutex};
use tokio_stream::{Stream, StreamExt};

use selvedge_bundle::{Bundle, ChunkIndex, STATEMENT_FILE, digest_of, write_statement};
use selvedge_trust::{BundleStatement, TrustedRoot, UnixMillis};
use selvedge_wire::Digest;

use crate::{Error, Limits, store::BundleRow};

/// The folders of the registry.
pub struct Registry {
    bundles: PathBuf,
    incoming: PathBuf,
    limits: Limits,
    /// One upload at a time: each may hold a bundle in memory.
    turn: Mutex<()>,
}

/// A bundle with what devices need to fetch it.
pub struct Stock {
    bundle: Bundle,
    index: ChunkIndex,
    /// The blob that holds each chunk, and where.
    places: HashMap<Digest, (Digest, Range<usize>)>,
}

impl Stock {
    fn new(bundle: Bundle) -> Result<Self, Error> {
        let index = ChunkIndex::of(&bundle).map_err(refused)?;
        let mut places = HashMap::new();
        for blob in index.blobs() {
            let mut first = 0;
            for chunk in &blob.chunks {
                let end = first + chunk.len_bytes as usize;
                places.insert(chunk.digest, (blob.digest, first..end));
                first = end;
            }
        }
        Ok(Self { bundle, index, places })
    }

    /// The bundle's identity.
    pub fn digest(&self) -> Digest {
        self.bundle.digest()
    }

    /// Which chunks make up the bundle.
    pub fn index(&self) -> &ChunkIndex {
        &self.index
    }

    /// The content of a chunk, if it is one of the bundle's.
    pub fn chunk(&self, digest: &Digest) -> Option<&[u8]> {
        let (holder, place) = self.places.get(digest)?;
        let (_, blob) = self.bundle.blobs().find(|(blob, _)| blob == holder)?;
        blob.get(place.clone())
    }
}

impl Registry {
    /// Opens the registry below `data`, and removes what an interrupted upload left there.
    pub fn open(data: &Path, limits: Limits) -> Result<Self, Error> {
        let (bundles, incoming) = (data.join("bundles"), data.join("incoming"));
        remove_folder(&incoming)?;
        for folder in [&bundles, &incoming] {
            fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        }
        Ok(Self { bundles, incoming, limits, turn: Mutex::new(()) })
    }

    /// Takes the tar of a bundle's layout, verifies it and gives it its place.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason if it is not what it should be.
    pub async fn take<B: AsRef<[u8]>, E: std::fmt::Display>(
        &self,
        upload: impl Stream<Item = Result<B, E>> + Unpin,
        root: Arc<TrustedRoot>,
        now_ms: u64,
    ) -> Result<BundleRow, Error> {
        let _turn = self.turn.lock().await;
        let archive = self.incoming.join("upload.tar");
        receive(upload, &archive, self.limits.upload_bytes_max).await?;
        let (unpacked, bundles) = (self.incoming.join("unpacked"), self.bundles.clone());
        let limits = self.limits;
        let work = move || {
            remove_folder(&unpacked)?;
            unpack(&archive, &unpacked, &limits)?;
            let row = verify(&unpacked, &root, now_ms)?;
            place(&unpacked, &bundles.join(row.digest.hex().to_string()), &row)?;
            Ok(row)
        };
        tokio::task::spawn_blocking(work).await.expect("checking a bundle does not panic")
    }

    /// Reads a bundle that is in its place.
    pub async fn stock(&self, digest: Digest) -> Result<Stock, Error> {
        let folder = self.bundles.join(digest.hex().to_string());
        let work = move || Stock::new(open_bundle(&folder)?);
        tokio::task::spawn_blocking(work).await.expect("reading a bundle does not panic")
    }
}

async fn receive<B: AsRef<[u8]>, E: std::fmt::Display>(
    mut upload: impl Stream<Item = Result<B, E>> + Unpin,
    archive: &Path,
    bytes_max: usize,
) -> Result<(), Error> {
    let mut file = tokio::fs::File::create(archive).await.map_err(Error::io("create", archive))?;
    let mut received = 0;
    while let Some(part) = upload.next().await {
        let part = part.map_err(|error| Error::Refused(format!("the upload ended: {error}")))?;
        received += part.as_ref().len();
        if received > bytes_max {
            return Err(Error::Refused(format!("the upload has more than {bytes_max} bytes")));
        }
        file.write_all(part.as_ref()).await.map_err(Error::io("write", archive))?;
    }
    file.flush().await.map_err(Error::io("write", archive))
}

/// Writes the archive's regular files below `folder`; anything else but a folder is refused.
fn unpack(archive: &Path, folder: &Path, limits: &Limits) -> Result<(), Error> {
    let file = File::open(archive).map_err(Error::io("open", archive))?;
    let broken = |error: io::Error| Error::Refused(format!("the upload is not a tar: {error}"));
    fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
    let mut archive = tar::Archive::new(file);
    let mut paths = BTreeSet::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = safe_path(&entry.path().map_err(broken)?)?;
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        if !kind.is_file() {
            return Err(Error::Refused(format!("{} is not a regular file", path.display())));
        }
        if !paths.insert(path.clone()) {
            return Err(Error::Refused(format!("{} stands twice in the upload", path.display())));
        }
        if paths.len() > limits.upload_files_max {
            let max = limits.upload_files_max;
            return Err(Error::Refused(format!("the upload has more than {max} files")));
        }
        write_file(&mut entry, &folder.join(&path))?;
    }
    Ok(())
}

/// A path of plain names: no root, no `..`.
fn safe_path(path: &Path) -> Result<PathBuf, Error> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => {
                let path = path.display();
                return Err(Error::Refused(format!("{path:?} leaves the bundle's folder")));
            }
        }
    }
    Ok(plain)
}

fn write_file(content: &mut impl Read, path: &Path) -> Result<(), Error> {
    let parent = path.parent().expect("the path lies below a folder");
    fs::create_dir_all(parent).map_err(Error::io("make the folder", parent))?;
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    io::copy(content, &mut file).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("write", path))
}

fn verify(folder: &Path, root: &TrustedRoot, now_ms: u64) -> Result<BundleRow, Error> {
    let bundle = open_bundle(folder)?;
    let document = bundle.statement().ok_or_else(|| {
        Error::Refused(format!(
            "the bundle has no {STATEMENT_FILE}: pack it with --keys, so that it is signed"
        ))
    })?;
    let statement = root
        .verify_statement(document, UnixMillis(now_ms))
        .map_err(|error| Error::Refused(crate::one_line(&error)))?;
    check_statement(&statement, &bundle)?;
    let manifest = String::from_utf8(bundle.manifest().to_json()).expect("JSON is UTF-8");
    Ok(BundleRow {
        digest: bundle.digest(),
        name: statement.name,
        version: statement.version,
        len_bytes: bundle.len_bytes(),
        statement: document.to_vec(),
        manifest,
        registered_ms: now_ms,
    })
}

fn check_statement(statement: &BundleStatement, bundle: &Bundle) -> Result<(), Error> {
    let differs = |what: &str, stated: String, found: String| {
        Error::Refused(format!("the statement's {what} is {stated}, but the bundle's is {found}"))
    };
    let manifest = bundle.manifest();
    if statement.bundle() != bundle.digest() {
        let (stated, found) = (statement.bundle().to_string(), bundle.digest().to_string());
        return Err(differs("digest", stated, found));
    }
    if statement.manifest.len_bytes != bundle.manifest_len() {
        let (stated, found) = (statement.manifest.len_bytes, bundle.manifest_len());
        return Err(differs("length", stated.to_string(), found.to_string()));
    }
    let (name, version) = (manifest.name.to_string(), manifest.version.to_string());
    if (&statement.name, &statement.version) != (&name, &version) {
        let stated = format!("{} {}", statement.name, statement.version);
        return Err(differs("name", stated, format!("{name} {version}")));
    }
    let index = ChunkIndex::of(bundle).map_err(refused)?.encode();
    if statement.chunk_index.digest != digest_of(&index) {
        let (stated, found) = (statement.chunk_index.digest, digest_of(&index));
        return Err(differs("chunk index", stated.to_string(), found.to_string()));
    }
    Ok(())
}

/// Moves a verified layout to its place; a bundle that is there already gets the new statement.
fn place(unpacked: &Path, place: &Path, row: &BundleRow) -> Result<(), Error> {
    if open_bundle(place).is_ok() {
        write_statement(place, &row.statement).map_err(refused)?;
        return remove_folder(unpacked);
    }
    remove_folder(place)?;
    fs::rename(unpacked, place).map_err(Error::io("move the bundle to", place))?;
    let parent = place.parent().expect("the place lies in the folder of all bundles");
    let folder = File::open(parent).map_err(Error::io("open", parent))?;
    folder.sync_all().map_err(Error::io("sync", parent))
}

fn open_bundle(folder: &Path) -> Result<Bundle, Error> {
    Bundle::open(folder, &selvedge_bundle::Limits::default()).map_err(refused)
}

fn refused(error: selvedge_bundle::Error) -> Error {
    Error::Refused(crate::one_line(&error))
}

fn remove_folder(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}
