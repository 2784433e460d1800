//! The bundle registry: folders named by digest, each an OCI image layout that was verified.
//!
//! A bundle enters as a tar of its layout. It is unpacked aside, opened (which checks every blob), and
//! only then does it get its place. Whether it may be assigned is said by the repository's targets.
//! Patches lie beside, each a file named by the digest of its index.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Read, Write},
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use tokio::{
    io::AsyncWriteExt,
    sync::{Mutex, mpsc},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};

use selvedge_bundle::{
    Baseline, Bundle, ChunkIndex, ChunkRef, Patch, SampleSpec, apply_patch, compress,
};
use selvedge_wire::{Chunk, ChunkCodec, Digest, encode};

use crate::{
    Error, Limits,
    store::{BundleRow, PatchRow, Stocked},
};

/// Parts of an archive that may wait for a slow reader.
const ARCHIVE_PARTS_WAITING_MAX: usize = 4;

/// Bytes of one part of an archive.
const ARCHIVE_PART_BYTES: usize = 64 * 1024;

/// The folders of the registry.
pub struct Registry {
    bundles: PathBuf,
    patches: PathBuf,
    incoming: PathBuf,
    limits: Limits,
    /// One upload at a time: each may hold a bundle in memory.
    turn: Mutex<()>,
    /// Bundles that lie in no folder.
    #[cfg(any(test, feature = "simulation"))]
    in_memory: std::sync::Mutex<HashMap<Digest, Arc<Stock>>>,
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

    /// The bundle as the database knows it.
    pub fn row(&self, now_ms: u64) -> BundleRow {
        let manifest = self.bundle.manifest();
        BundleRow {
            digest: self.bundle.digest(),
            name: manifest.name.to_string(),
            version: manifest.version.to_string(),
            len_bytes: self.bundle.len_bytes(),
            manifest: String::from_utf8(manifest.to_json()).expect("JSON is UTF-8"),
            registered_ms: now_ms,
            target: None,
            role: None,
            revoked: false,
            retained_bytes: 0,
        }
    }

    /// Its index, and what its chunks take at the broker.
    pub fn stocked(&self) -> Stocked {
        let pieces = self.index.chunks().map(|chunk| {
            let content = self.chunk(&chunk.digest).expect("every chunk of the index has a place");
            (chunk.digest, encode(&compress(content)).len() as u64)
        });
        let spec = self.baseline().map(Baseline::spec_id);
        Stocked { index: self.index.encode(), pieces: pieces.collect(), spec }
    }

    /// The reference that its windows are compared with, if it has one.
    pub fn baseline(&self) -> Option<&Baseline> {
        self.bundle.baseline()
    }

    /// The names of a sample's columns; none where samples are images.
    pub fn columns(&self) -> Vec<String> {
        match &self.bundle.manifest().sample {
            SampleSpec::Row(row) => row.columns.iter().map(|it| it.name.clone()).collect(),
            SampleSpec::Image(_) => Vec::new(),
        }
    }

    /// The names of its classes.
    pub fn labels(&self) -> &[String] {
        &self.bundle.manifest().labels
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
        let [bundles, patches, incoming] =
            ["bundles", "patches", "incoming"].map(|folder| data.join(folder));
        remove_folder(&incoming)?;
        for folder in [&bundles, &patches, &incoming] {
            fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        }
        Ok(Self {
            bundles,
            patches,
            incoming,
            limits,
            turn: Mutex::new(()),
            #[cfg(any(test, feature = "simulation"))]
            in_memory: std::sync::Mutex::default(),
        })
    }

    /// A registry that holds its bundles in memory.
    #[cfg(feature = "simulation")]
    pub fn in_memory(limits: Limits) -> Self {
        Self {
            bundles: PathBuf::new(),
            patches: PathBuf::new(),
            incoming: PathBuf::new(),
            limits,
            turn: Mutex::new(()),
            in_memory: std::sync::Mutex::default(),
        }
    }

    /// Keeps a bundle in memory.
    #[cfg(any(test, feature = "simulation"))]
    pub fn keep_in_memory(
        &self,
        bundle: Bundle,
        now_ms: u64,
    ) -> Result<(BundleRow, Stocked), Error> {
        let stock = Stock::new(bundle)?;
        let (row, stocked) = (stock.row(now_ms), stock.stocked());
        self.memory().insert(row.digest, Arc::new(stock));
        Ok((row, stocked))
    }

    #[cfg(any(test, feature = "simulation"))]
    fn memory(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Stock>>> {
        self.in_memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes the tar of a bundle's layout, checks it and gives it its place.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason if it is not what it should be.
    pub async fn take<B: AsRef<[u8]>, E: std::fmt::Display>(
        &self,
        upload: impl Stream<Item = Result<B, E>> + Unpin,
        now_ms: u64,
    ) -> Result<(BundleRow, Stocked), Error> {
        let _turn = self.turn.lock().await;
        let archive = self.incoming.join("upload.tar");
        receive(upload, &archive, self.limits.upload_bytes_max).await?;
        let (unpacked, bundles) = (self.incoming.join("unpacked"), self.bundles.clone());
        let limits = self.limits;
        let work = move || {
            remove_folder(&unpacked)?;
            unpack(&archive, &unpacked, &limits)?;
            let stock = Stock::new(open_bundle(&unpacked)?)?;
            let (row, stocked) = (stock.row(now_ms), stock.stocked());
            place(&unpacked, &bundles.join(row.digest.hex().to_string()))?;
            Ok((row, stocked))
        };
        tokio::task::spawn_blocking(work).await.expect("checking a bundle does not panic")
    }

    /// Reads a bundle that is in its place.
    pub async fn stock(&self, digest: Digest) -> Result<Arc<Stock>, Error> {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(stock) = self.memory().get(&digest) {
            return Ok(stock.clone());
        }
        let folder = self.bundles.join(digest.hex().to_string());
        let work = move || Stock::new(open_bundle(&folder)?).map(Arc::new);
        tokio::task::spawn_blocking(work).await.expect("reading a bundle does not panic")
    }

    /// Takes a patch from the bundle `source` to the bundle `target`, applies it once, and gives it its place.
    ///
    /// # Errors
    /// [`Error::NotFound`] if one of the bundles is not here; [`Error::Refused`] with the reason if the patch
    /// does not lead from one to the other.
    pub async fn take_patch<B: AsRef<[u8]>, E: std::fmt::Display>(
        &self,
        upload: impl Stream<Item = Result<B, E>> + Unpin,
        source: Digest,
        target: Digest,
    ) -> Result<(PatchRow, Stocked), Error> {
        let _turn = self.turn.lock().await;
        let incoming = self.incoming.join("upload.patch");
        receive(upload, &incoming, self.limits.upload_bytes_max).await?;
        let (old, new) = (self.stock(source).await?, self.stock(target).await?);
        let patches = self.patches.clone();
        let work = move || {
            let bytes = fs::read(&incoming).map_err(Error::io("read", &incoming))?;
            let patch = Patch::decode(&bytes).map_err(refused)?;
            check_patch(&patch, &old, &new)?;
            let index_digest = patch.index().digest();
            let place = patches.join(index_digest.hex().to_string());
            let file = File::open(&incoming).map_err(Error::io("open", &incoming))?;
            file.sync_all().map_err(Error::io("sync", &incoming))?;
            fs::rename(&incoming, &place).map_err(Error::io("move the patch to", &place))?;
            sync_folder(&patches)?;
            Ok(patch_rows(&patch, index_digest))
        };
        tokio::task::spawn_blocking(work).await.expect("checking a patch does not panic")
    }

    /// Reads a patch that is in its place, by the digest of its index.
    pub async fn patch(&self, index: Digest) -> Result<Patch, Error> {
        let path = self.patches.join(index.hex().to_string());
        let work = move || {
            let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
            Patch::decode(&bytes).map_err(refused)
        };
        tokio::task::spawn_blocking(work).await.expect("reading a patch does not panic")
    }

    /// The tar of the layout of a bundle that is in its place, part by part.
    pub fn archive(&self, digest: &Digest) -> impl Stream<Item = io::Result<Vec<u8>>> + use<> {
        let folder = self.bundles.join(digest.hex().to_string());
        let (parts, waiting) = mpsc::channel(ARCHIVE_PARTS_WAITING_MAX);
        tokio::task::spawn_blocking(move || {
            let packed = pack(&folder, ArchiveWriter(parts.clone()));
            if let Err(error) = packed {
                tracing::warn!("an archive of {} ended early: {error}", folder.display());
                // The reader is told that what it has is not the whole; it may be gone.
                let _ = parts.blocking_send(Err(error));
            }
        });
        ReceiverStream::new(waiting)
    }
}

/// Sends what is written to whoever reads the archive.
struct ArchiveWriter(mpsc::Sender<io::Result<Vec<u8>>>);

impl Write for ArchiveWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader is gone");
        self.0.blocking_send(Ok(bytes.to_vec())).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pack(folder: &Path, writer: ArchiveWriter) -> io::Result<()> {
    let buffered = io::BufWriter::with_capacity(ARCHIVE_PART_BYTES, writer);
    let mut archive = tar::Builder::new(buffered);
    archive.append_dir_all("", folder)?;
    archive.into_inner()?.flush()
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

/// Does what a device does with the patch.
fn check_patch(patch: &Patch, old: &Stock, new: &Stock) -> Result<(), Error> {
    let (source, target) = (patch.source(), patch.target());
    if (source, target) != (old.digest(), new.digest()) {
        return Err(Error::Refused(format!("the patch leads from {source} to {target}")));
    }
    let piece = |wanted: &ChunkRef| {
        let mut pieces = patch.pieces();
        let (_, content) = pieces
            .find(|(piece, _)| piece == wanted)
            .expect("a patch has the pieces that its index names");
        Ok(content.to_vec())
    };
    let blob = |digest: Digest| {
        let found = old.bundle.blobs().find(|(blob, _)| *blob == digest);
        Ok(found.map(|(_, bytes)| bytes.to_vec()).unwrap_or_default())
    };
    let target = (new.digest(), new.bundle.oci_manifest().len() as u64);
    apply_patch(patch.index(), old.digest(), target, piece, blob).map(drop).map_err(refused)
}

fn patch_rows(patch: &Patch, index_digest: Digest) -> (PatchRow, Stocked) {
    let index = patch.index();
    let encoded = index.encode();
    let pieces = patch.pieces().map(|(piece, content)| (piece.digest, content));
    let pieces = pieces.chain([(index_digest, encoded.as_slice())]);
    let pieces = pieces.map(|(digest, content)| (digest, encode(&raw_chunk(content)).len() as u64));
    let stocked = Stocked { pieces: pieces.collect(), index: encoded.clone(), spec: None };
    let row = PatchRow {
        source: patch.source(),
        target: patch.target(),
        index_digest,
        index: stocked.index.clone(),
        len_bytes: index.len_bytes(),
        signed: false,
    };
    (row, stocked)
}

/// A piece of a patch, or its index, as it travels: it is as short as it gets.
pub fn raw_chunk(content: &[u8]) -> Chunk {
    Chunk { codec: ChunkCodec::Raw, bytes: content.to_vec() }
}

/// Moves a layout that was checked to its place, if it is not there already.
fn place(unpacked: &Path, place: &Path) -> Result<(), Error> {
    if open_bundle(place).is_ok() {
        return remove_folder(unpacked);
    }
    remove_folder(place)?;
    fs::rename(unpacked, place).map_err(Error::io("move the bundle to", place))?;
    let parent = place.parent().expect("the place lies in the folder of all bundles");
    sync_folder(parent)
}

fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = File::open(path).map_err(Error::io("open", path))?;
    folder.sync_all().map_err(Error::io("sync", path))
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
