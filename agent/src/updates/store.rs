//! Bundles on the disk: those that are kept, and the pieces of those that are on their way.
//!
//! ```text
//! offers/<bundle>    the chunk index, as it came
//! patches/<bundle>   the index of the patch that leads to a bundle, while that is on its way
//! chunks/<piece>     chunks and pieces of patches: content that was checked when it came, and is checked again when it is used
//! staging/           layouts that are being written, or removed; emptied on start
//! bundles/<bundle>/  a whole layout: it has this name only once all of it is durable
//! ```
//!
//! A chunk is not synced: one that a power cut tore is fetched again.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use selvedge_bundle::{Bundle, ChunkIndex, ChunkRef, Limits, PatchIndex, apply_patch, digest_of};
use selvedge_trust::Blob;
use selvedge_wire::{BundleOffer, Digest, decode, encode};

use crate::{
    disk::{DiskError, SharedDisk, replace},
    error::one_line,
};

const OFFERS: &str = "offers";
const PATCHES: &str = "patches";
const CHUNKS: &str = "chunks";
const STAGING: &str = "staging";
const BUNDLES: &str = "bundles";
const BLOBS: &str = "blobs/sha256";
const REMOVED_SUFFIX: &str = ".removed";
/// The file of a layout that is written last.
const INDEX_FILE: &str = "index.json";

/// Bundles on the disk.
pub(super) struct BundleStore {
    disk: SharedDisk,
    limits: Limits,
}

/// Why a bundle could not be had from the disk.
#[derive(Debug)]
pub(super) enum StoreError {
    /// The disk failed, or its content is not what it was: what is missing can be fetched again.
    Disk(String),
    /// These chunks are not on the disk, or not as they should be.
    Lacking(Vec<Digest>),
    /// The patch does not lead to the bundle, whose chunks may.
    Unpatched(String),
    /// The bundle itself is wrong.
    Unfit(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(reason) | Self::Unpatched(reason) | Self::Unfit(reason) => {
                f.write_str(reason)
            }
            Self::Lacking(pieces) => write!(f, "{} pieces were lost on the disk", pieces.len()),
        }
    }
}

impl From<DiskError> for StoreError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error.to_string())
    }
}

impl BundleStore {
    pub(super) fn open(disk: SharedDisk, limits: Limits) -> Result<Self, DiskError> {
        for dir in [OFFERS, PATCHES, CHUNKS, BUNDLES] {
            disk.create_dir(dir)?;
        }
        disk.remove_dir(STAGING)?;
        disk.sync_dir("")?;
        Ok(Self { disk, limits })
    }

    /// Whether the whole bundle is there.
    pub(super) fn has(&self, bundle: Digest) -> Result<bool, DiskError> {
        let files = self.disk.list(&dir(BUNDLES, bundle))?;
        Ok(files.iter().any(|name| name == INDEX_FILE))
    }

    /// The offer that was kept for a bundle.
    pub(super) fn offer(&self, bundle: Digest) -> Result<Option<BundleOffer>, DiskError> {
        let bytes = self.disk.read(&dir(OFFERS, bundle))?;
        Ok(bytes.and_then(|bytes| decode(&bytes).ok()))
    }

    pub(super) fn keep_offer(&self, bundle: Digest, offer: &BundleOffer) -> Result<(), DiskError> {
        self.keep(&dir(OFFERS, bundle), &encode(offer))
    }

    /// The index of a patch that was kept for a bundle, as it came.
    pub(super) fn patch_index(&self, bundle: Digest) -> Result<Option<Vec<u8>>, DiskError> {
        self.disk.read(&dir(PATCHES, bundle))
    }

    pub(super) fn keep_patch_index(&self, bundle: Digest, index: &[u8]) -> Result<(), DiskError> {
        self.keep(&dir(PATCHES, bundle), index)
    }

    fn keep(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        if self.disk.read(path)?.as_deref() == Some(bytes) {
            return Ok(());
        }
        replace(self.disk.as_ref(), path, bytes)
    }

    /// The bytes that whole bundles take, but for `except`.
    pub(super) fn kept_bytes(&self, except: Digest) -> Result<u64, DiskError> {
        let mut sum = 0;
        for bundle in self.kept()?.into_iter().filter(|bundle| *bundle != except) {
            let index = self.index_of(bundle)?;
            sum += index.map_or(0, |index| index.len_bytes());
        }
        Ok(sum)
    }

    /// The chunks of `index` that are neither on their way in nor part of a bundle that is kept.
    pub(super) fn missing(&self, index: &ChunkIndex) -> Result<Vec<Digest>, DiskError> {
        let kept = self.chunks_of_kept()?;
        let mut missing = Vec::new();
        for chunk in index.chunks() {
            if self.chunk(&chunk, &kept)?.is_none() {
                missing.push(chunk.digest);
            }
        }
        Ok(missing)
    }

    /// The pieces of a patch that are not on the disk.
    pub(super) fn missing_pieces(&self, patch: &PatchIndex) -> Result<Vec<Digest>, DiskError> {
        let mut missing = Vec::new();
        for piece in patch.pieces() {
            if self.chunk(piece, &KeptChunks::new())?.is_none() {
                missing.push(piece.digest);
            }
        }
        Ok(missing)
    }

    /// Keeps the content of a chunk, which the caller has checked.
    pub(super) fn keep_chunk(&self, chunk: Digest, content: &[u8]) -> Result<(), DiskError> {
        self.disk.write(&dir(CHUNKS, chunk), content)
    }

    /// Puts a bundle together from its chunks and checks it as a whole.
    pub(super) fn assemble(&self, index: &ChunkIndex) -> Result<Bundle, StoreError> {
        let kept = self.chunks_of_kept()?;
        let mut blobs = BTreeMap::new();
        let mut lacking = BTreeSet::new();
        for blob in index.blobs() {
            let mut content = Vec::new();
            for chunk in &blob.chunks {
                match self.chunk(chunk, &kept)? {
                    Some(piece) => content.extend(piece),
                    None => {
                        lacking.insert(chunk.digest);
                    }
                }
            }
            blobs.insert(blob.digest, content);
        }
        match lacking.is_empty() {
            true => self.check(index.bundle(), |digest| {
                let part = || format!("blob {digest} of the chunk index");
                blobs
                    .remove(&digest)
                    .ok_or_else(|| selvedge_bundle::Error::Missing { part: part() })
            }),
            false => Err(StoreError::Lacking(lacking.into_iter().collect())),
        }
    }

    /// Puts a bundle together from another and a patch, and checks it as a whole. `target` is what the
    /// signed target says of it.
    pub(super) fn patch(
        &self,
        source: Digest,
        target: &Blob,
        patch: &PatchIndex,
    ) -> Result<Bundle, StoreError> {
        let missing = self.missing_pieces(patch)?;
        if !missing.is_empty() {
            return Err(StoreError::Lacking(missing));
        }
        let unread = RefCell::new(None);
        let read = |path: String| match self.disk.read(&path) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(selvedge_bundle::Error::Missing { part: path }),
            Err(error) => {
                *unread.borrow_mut() = Some(error);
                Err(selvedge_bundle::Error::Missing { part: path })
            }
        };
        let old = |blob: Digest| read(blob_path(source, blob));
        let piece = |piece: &ChunkRef| read(dir(CHUNKS, piece.digest));
        let made = apply_patch(patch, source, (target.digest, target.len_bytes), piece, &old);
        if let Some(error) = unread.take() {
            return Err(error.into());
        }
        let made = made.map_err(|error| StoreError::Unpatched(one_line(&error)))?;
        let mut made: BTreeMap<_, _> = made.into_iter().collect();
        let whole = self.check(target.digest, |digest| match made.remove(&digest) {
            Some(bytes) => Ok(bytes),
            None => old(digest),
        });
        if let Some(error) = unread.take() {
            return Err(error.into());
        }
        let whole = whole?;
        // The index that was published may be cut in another way. This one tells what lies where on this disk.
        let index = ChunkIndex::of(&whole).map_err(unfit)?;
        self.keep_offer(target.digest, &BundleOffer { index: index.encode() })?;
        Ok(whole)
    }

    fn check(
        &self,
        bundle: Digest,
        blobs: impl FnMut(Digest) -> Result<Vec<u8>, selvedge_bundle::Error>,
    ) -> Result<Bundle, StoreError> {
        Bundle::from_blobs(bundle, blobs, &self.limits).map_err(unfit)
    }

    /// Keeps a whole bundle.
    pub(super) fn keep_whole(&self, bundle: &Bundle) -> Result<(), DiskError> {
        let disk = self.disk.as_ref();
        let staging = dir(STAGING, bundle.digest());
        disk.remove_dir(&staging)?;
        disk.create_dir(&format!("{staging}/{BLOBS}"))?;
        for (path, bytes) in bundle.files() {
            let path = path.to_str().expect("the files of a layout have ASCII names");
            let path = format!("{staging}/{path}");
            disk.write(&path, &bytes)?;
            disk.sync(&path)?;
        }
        for part in [format!("{staging}/{BLOBS}"), format!("{staging}/blobs"), staging.clone()] {
            disk.sync_dir(&part)?;
        }
        disk.rename(&staging, &dir(BUNDLES, bundle.digest()))?;
        disk.sync_dir(BUNDLES)
    }

    /// Reads a bundle that is kept, and checks it as a whole.
    pub(super) fn read(&self, bundle: Digest) -> Result<Bundle, StoreError> {
        // A disk that does not answer says nothing about the bundle.
        let mut unread = None;
        let read = |blob: Digest| {
            let path = blob_path(bundle, blob);
            let part = format!("blob {blob}");
            match self.disk.read(&path) {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => Err(selvedge_bundle::Error::Missing { part }),
                Err(error) => {
                    unread = Some(error);
                    Err(selvedge_bundle::Error::Missing { part })
                }
            }
        };
        let whole = self.check(bundle, read);
        if let Some(error) = unread {
            return Err(error.into());
        }
        whole
    }

    /// Removes a bundle that cannot be used.
    pub(super) fn discard(&self, bundle: Digest) -> Result<(), DiskError> {
        let name = bundle.hex().to_string();
        let present = self.disk.list(BUNDLES)?.contains(&name);
        if present { self.remove(&name) } else { Ok(()) }
    }

    /// Takes the name away first: a folder that is half removed must not pass for a bundle.
    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let removed = format!("{STAGING}/{name}{REMOVED_SUFFIX}");
        self.disk.create_dir(STAGING)?;
        self.disk.remove_dir(&removed)?;
        self.disk.rename(&format!("{BUNDLES}/{name}"), &removed)?;
        self.disk.sync_dir(BUNDLES)?;
        self.disk.sync_dir(STAGING)?;
        self.disk.remove_dir(&removed)
    }

    /// Removes all but the bundles of `needed`, and all chunks but those of the bundles of `arriving`.
    pub(super) fn tidy(
        &self,
        needed: &BTreeSet<Digest>,
        arriving: &BTreeSet<Digest>,
    ) -> Result<(), DiskError> {
        let mut chunks = BTreeSet::new();
        for bundle in arriving {
            let index = self.index_of(*bundle)?;
            chunks.extend(index.iter().flat_map(ChunkIndex::chunks).map(|chunk| chunk.digest));
            let patch = self.patch_index(*bundle)?;
            let patch = patch.and_then(|patch| PatchIndex::decode(&patch).ok());
            chunks.extend(patch.iter().flat_map(PatchIndex::pieces).map(|piece| piece.digest));
        }
        let is_in = |set: &BTreeSet<Digest>, name: &str| {
            Digest::from_hex(name).is_ok_and(|digest| set.contains(&digest))
        };
        for name in self.disk.list(BUNDLES)? {
            if !is_in(needed, &name) {
                self.remove(&name)?;
            }
        }
        for (folder, kept) in [(OFFERS, needed), (PATCHES, arriving), (CHUNKS, &chunks)] {
            for name in self.disk.list(folder)? {
                if !is_in(kept, &name) {
                    self.disk.remove(&format!("{folder}/{name}"))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn free_bytes(&self) -> Result<u64, DiskError> {
        self.disk.free_bytes()
    }

    fn kept(&self) -> Result<Vec<Digest>, DiskError> {
        let names = self.disk.list(BUNDLES)?;
        Ok(names.iter().filter_map(|name| Digest::from_hex(name).ok()).collect())
    }

    /// The chunk index of a bundle, if it is known.
    pub(super) fn index_of(&self, bundle: Digest) -> Result<Option<ChunkIndex>, DiskError> {
        let offer = self.offer(bundle)?;
        Ok(offer.and_then(|offer| ChunkIndex::decode(&offer.index).ok()))
    }

    /// Where the chunks of kept bundles are.
    fn chunks_of_kept(&self) -> Result<KeptChunks, DiskError> {
        let mut places = KeptChunks::new();
        for bundle in self.kept()? {
            let Some(index) = self.index_of(bundle)? else { continue };
            for blob in index.blobs() {
                let path = blob_path(bundle, blob.digest);
                let mut offset = 0;
                for chunk in &blob.chunks {
                    places.entry(chunk.digest).or_insert_with(|| (path.clone(), offset));
                    offset += u64::from(chunk.len_bytes);
                }
            }
        }
        Ok(places)
    }

    /// The content of a chunk, if it is somewhere on the disk as it should be.
    fn chunk(&self, chunk: &ChunkRef, kept: &KeptChunks) -> Result<Option<Vec<u8>>, DiskError> {
        let is_right = |content: &Vec<u8>| digest_of(content) == chunk.digest;
        let arrived = self.disk.read(&dir(CHUNKS, chunk.digest))?.filter(is_right);
        let Some((path, offset)) = kept.get(&chunk.digest).filter(|_| arrived.is_none()) else {
            return Ok(arrived);
        };
        // A kept blob that is too short is as good as one with other bytes.
        let content = self.disk.read_range(path, *offset, chunk.len_bytes as usize).ok();
        Ok(content.filter(is_right))
    }
}

/// File and offset of each chunk.
type KeptChunks = BTreeMap<Digest, (String, u64)>;

/// Where the layout of a bundle that is kept is, below the state directory.
pub(crate) fn bundle_dir(bundle: Digest) -> String {
    dir(BUNDLES, bundle)
}

fn unfit(error: selvedge_bundle::Error) -> StoreError {
    StoreError::Unfit(one_line(&error))
}

fn blob_path(bundle: Digest, blob: Digest) -> String {
    format!("{}/{BLOBS}/{}", bundle_dir(bundle), blob.hex())
}

fn dir(folder: &str, digest: Digest) -> String {
    format!("{folder}/{}", digest.hex())
}
