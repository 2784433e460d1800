//! A bundle on its way onto a disk, chunk by chunk, in any order, over any number of starts.
//!
//! Chunks are written where they belong in the blobs of an image layout that has no `index.json` yet.
//! What is there is known from the bytes alone: a start reads every chunk's place and believes only a
//! matching digest, so a torn or lost write merely means that the chunk is fetched again.
//!
//! ```text
//! staging/blobs/sha256/<digest>   at its full length from the start, holes where chunks are missing
//! staging/oci-layout, index.json  once all chunks are there
//! destination/                    staging under its final name, after everything reached the disk
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use selvedge_wire::{Chunk, Digest};

use crate::{
    Bundle, ChunkIndex, ChunkRef, Error, Limits,
    chunk::{cut, expand},
    digest_of, files,
    layout::{BLOBS_FOLDER, blob_path, marks, write_statement},
    limits::BLOBS_MAX,
};

/// The chunks of one bundle that are on the disk, and those that are not.
#[derive(Debug)]
pub struct Assembly {
    staging: PathBuf,
    index: ChunkIndex,
    /// Where each chunk belongs.
    places: BTreeMap<Digest, Places>,
    /// The chunks that are not on the disk yet.
    missing: BTreeMap<Digest, ChunkRef>,
}

/// A chunk and the blobs and offsets where it belongs.
#[derive(Debug)]
struct Places {
    chunk: ChunkRef,
    at: Vec<(Digest, u64)>,
}

/// How far an assembly is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Chunks that are on the disk.
    pub chunks_present: usize,
    /// Chunks of the bundle, each counted once.
    pub chunks_total: usize,
}

impl Assembly {
    /// Starts, or goes on with what an earlier start left in `staging`.
    ///
    /// The folder belongs to this bundle alone: what the index does not name is removed from it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::FileType`].
    pub fn begin(staging: &Path, index: ChunkIndex) -> Result<Self, Error> {
        files::create_folder(&staging.join(BLOBS_FOLDER))?;
        remove_unlisted(staging, &index)?;
        let places = places(&index);
        let mut missing: BTreeMap<_, _> =
            places.iter().map(|(digest, places)| (*digest, places.chunk)).collect();
        for blob in index.blobs() {
            let path = blob_path(staging, blob.digest);
            let existed = files::make_sized(&path, blob.len_bytes)?;
            let mut offset = 0;
            for chunk in &blob.chunks {
                if existed && is_there(&path, chunk, offset)? {
                    missing.remove(&chunk.digest);
                }
                offset += u64::from(chunk.len_bytes);
            }
        }
        let mut assembly = Self { staging: staging.to_owned(), index, places, missing };
        assembly.complete_repetitions()?;
        Ok(assembly)
    }

    /// The chunks that are still missing, in the order of their digests.
    pub fn missing(&self) -> impl Iterator<Item = &ChunkRef> {
        self.missing.values()
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let chunks_total = self.places.len();
        Progress { chunks_present: chunks_total - self.missing.len(), chunks_total }
    }

    /// The index of the bundle.
    pub fn index(&self) -> &ChunkIndex {
        &self.index
    }

    /// Takes a chunk that was received under the name `digest`. One that is there already is ignored.
    ///
    /// # Errors
    /// [`Error::Chunk`] where the bundle has no such chunk or the content is not what the name says;
    /// [`Error::Io`].
    pub fn put(&mut self, digest: &Digest, chunk: &Chunk) -> Result<(), Error> {
        match (self.missing.get(digest).copied(), self.places.contains_key(digest)) {
            (Some(expected), _) => self.store(&expected, &expand(chunk, &expected)?),
            (None, true) => Ok(()),
            (None, false) => Err(Error::Chunk {
                digest: *digest,
                reason: "the bundle that is fetched has no such chunk".to_owned(),
            }),
        }
    }

    /// Takes all chunks that another bundle has, and says how many those were.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn adopt(&mut self, bundle: &Bundle) -> Result<usize, Error> {
        let before = self.missing.len();
        for (_, blob) in bundle.blobs() {
            for content in cut(blob) {
                if let Some(expected) = self.missing.get(&digest_of(content)).copied() {
                    self.store(&expected, content)?;
                }
            }
        }
        Ok(before - self.missing.len())
    }

    /// Completes the layout with the signed statement, checks the whole as if it came from a stranger
    /// and gives the folder its final name. Everything has reached the disk before it has that name.
    ///
    /// # Errors
    /// [`Error::Incomplete`]; those of [`Bundle::open`]; [`Error::Occupied`] where something else has
    /// the final name; [`Error::Io`]. The staging folder stays as it is.
    pub fn finish(
        self,
        destination: &Path,
        statement: Option<&[u8]>,
        limits: &Limits,
    ) -> Result<Bundle, Error> {
        if !self.missing.is_empty() {
            let (missing, total) = (self.missing.len(), self.places.len());
            return Err(Error::Incomplete { missing, total });
        }
        if !files::is_vacant(destination)? {
            return Err(Error::Occupied { path: destination.to_owned() });
        }
        for blob in self.index.blobs() {
            files::sync(&blob_path(&self.staging, blob.digest))?;
        }
        for folder in [BLOBS_FOLDER, "blobs", ""] {
            files::sync(&self.staging.join(folder))?;
        }
        if let Some(statement) = statement {
            write_statement(&self.staging, statement)?;
        }
        let oci_manifest = &self.index.blobs()[0];
        for (name, bytes) in marks(oci_manifest.digest, oci_manifest.len_bytes) {
            files::write_file(&self.staging.join(name), &bytes)?;
        }
        files::sync(&self.staging)?;
        let bundle = Bundle::open(&self.staging, limits)?;
        files::rename(&self.staging, destination)?;
        Ok(bundle)
    }

    /// Gives the bundle up and frees its place on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard(self) -> Result<(), Error> {
        files::remove_folder(&self.staging)
    }

    /// Writes content that was checked to all its places.
    fn store(&mut self, chunk: &ChunkRef, content: &[u8]) -> Result<(), Error> {
        for (blob, offset) in &self.places[&chunk.digest].at {
            files::write_at(&blob_path(&self.staging, *blob), content, *offset)?;
        }
        self.missing.remove(&chunk.digest);
        Ok(())
    }

    /// Writes chunks that are at one of their places to the others: an earlier run may have ended
    /// between two places.
    fn complete_repetitions(&mut self) -> Result<(), Error> {
        let repeated: Vec<ChunkRef> = self
            .places
            .values()
            .filter(|places| {
                places.at.len() > 1 && !self.missing.contains_key(&places.chunk.digest)
            })
            .map(|places| places.chunk)
            .collect();
        for chunk in repeated {
            if let Some(content) = self.read(&chunk)? {
                self.store(&chunk, &content)?;
            }
        }
        Ok(())
    }

    /// The content of a chunk from any of its places.
    fn read(&self, chunk: &ChunkRef) -> Result<Option<Vec<u8>>, Error> {
        let mut content = vec![0; chunk.len_bytes as usize];
        for (blob, offset) in &self.places[&chunk.digest].at {
            files::read_at(&blob_path(&self.staging, *blob), &mut content, *offset)?;
            if digest_of(&content) == chunk.digest {
                return Ok(Some(content));
            }
        }
        Ok(None)
    }
}

/// Every place of every chunk.
fn places(index: &ChunkIndex) -> BTreeMap<Digest, Places> {
    let mut places = BTreeMap::new();
    for blob in index.blobs() {
        let mut offset = 0;
        for &chunk in &blob.chunks {
            let entry = places.entry(chunk.digest).or_insert(Places { chunk, at: Vec::new() });
            entry.at.push((blob.digest, offset));
            offset += u64::from(chunk.len_bytes);
        }
    }
    places
}

/// Removes blobs that an earlier, other assembly left behind.
fn remove_unlisted(staging: &Path, index: &ChunkIndex) -> Result<(), Error> {
    let folder = staging.join(BLOBS_FOLDER);
    let wanted: Vec<String> =
        index.blobs().iter().map(|blob| blob.digest.hex().to_string()).collect();
    for name in files::list_folder(&folder, BLOBS_FOLDER, 2 * BLOBS_MAX)? {
        if !wanted.contains(&name) {
            files::remove_file(&folder.join(name))?;
        }
    }
    Ok(())
}

/// Whether a chunk's content is in its place.
fn is_there(path: &Path, chunk: &ChunkRef, offset: u64) -> Result<bool, Error> {
    let mut content = vec![0; chunk.len_bytes as usize];
    files::read_at(path, &mut content, offset)?;
    Ok(digest_of(&content) == chunk.digest)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        chunk::{chunks_of, compress},
        example::{bundle, cases, noise},
        limits::CHUNK_BYTES_MAX,
    };

    struct Desk {
        folder: TempDir,
        bundle: Bundle,
        chunks: Vec<(Digest, Chunk)>,
    }

    impl Desk {
        fn new(model: Vec<u8>) -> Self {
            let bundle = bundle(model);
            let chunks =
                chunks_of(&bundle).map(|(chunk, content)| (chunk.digest, compress(content)));
            let chunks = chunks.collect();
            Self { folder: TempDir::new().expect("a temporary folder"), bundle, chunks }
        }

        fn staging(&self) -> PathBuf {
            self.folder.path().join("staging")
        }

        fn begin(&self) -> Assembly {
            let index = ChunkIndex::of(&self.bundle).expect("a small bundle");
            Assembly::begin(&self.staging(), index).expect("the disk works")
        }

        fn finish(&self, assembly: Assembly) -> Result<Bundle, Error> {
            let destination = self.folder.path().join("bundle");
            assembly.finish(&destination, Some(b"{}"), &Limits::default())
        }

        fn check_destination(&self) {
            let destination = self.folder.path().join("bundle");
            let opened = Bundle::open(&destination, &Limits::default()).expect("it was finished");
            assert_eq!(opened.digest(), self.bundle.digest());
            assert!(opened.blobs().eq(self.bundle.blobs()));
            assert_eq!(opened.statement(), Some(&b"{}"[..]));
            assert!(!self.staging().exists());
        }
    }

    #[test]
    fn chunks_in_any_order_and_twice_give_the_bundle() {
        let desk = Desk::new(noise(300_000, 1));
        let mut assembly = desk.begin();
        let total = desk.chunks.len();
        assert_eq!(assembly.progress(), Progress { chunks_present: 0, chunks_total: total });
        for (digest, chunk) in desk.chunks.iter().rev().chain(&desk.chunks) {
            assembly.put(digest, chunk).expect("our own chunk");
        }
        assert_eq!(assembly.missing().count(), 0);
        desk.finish(assembly).expect("all chunks are there");
        desk.check_destination();
    }

    #[test]
    fn what_an_earlier_start_left_is_not_fetched_again() {
        let desk = Desk::new(noise(300_000, 1));
        let mut assembly = desk.begin();
        for (digest, chunk) in desk.chunks.iter().step_by(2) {
            assembly.put(digest, chunk).expect("our own chunk");
        }
        let missing: Vec<ChunkRef> = assembly.missing().copied().collect();
        drop(assembly);

        let stale = desk.staging().join(BLOBS_FOLDER).join("stale");
        fs::write(stale, "of another bundle").expect("the disk works");
        let mut assembly = desk.begin();
        assert_eq!(assembly.missing().copied().collect::<Vec<_>>(), missing);
        for (digest, chunk) in &desk.chunks {
            assembly.put(digest, chunk).expect("our own chunk");
        }
        desk.finish(assembly).expect("all chunks are there");
        desk.check_destination();
    }

    #[test]
    fn a_repeated_chunk_is_written_to_all_its_places() {
        let piece = vec![3; CHUNK_BYTES_MAX];
        let desk = Desk::new(piece.repeat(4));
        let mut assembly = desk.begin();
        for (digest, chunk) in &desk.chunks {
            assembly.put(digest, chunk).expect("our own chunk");
        }
        drop(assembly);
        // A power cut lost all but the last of its places.
        let model = blob_path(&desk.staging(), digest_of(&piece.repeat(4)));
        let mut bytes = fs::read(&model).expect("it was written");
        bytes[..3 * CHUNK_BYTES_MAX].fill(0);
        fs::write(&model, bytes).expect("the disk works");
        desk.finish(desk.begin()).expect("one place is enough to know the chunk");
        desk.check_destination();
    }

    #[test]
    fn an_update_adopts_what_the_old_bundle_has() {
        let model = noise(1 << 20, 5);
        let mut nudged = model.clone();
        nudged[300_000] ^= 1;
        let (old, desk) = (bundle(model), Desk::new(nudged));
        let mut assembly = desk.begin();
        let total = assembly.progress().chunks_total;
        let adopted = assembly.adopt(&old).expect("the disk works");
        assert_eq!(assembly.progress().chunks_present, adopted);
        assert!(total - adopted <= 4, "{adopted} of {total} were adopted");
        for (digest, chunk) in &desk.chunks {
            assembly.put(digest, chunk).expect("our own chunk");
        }
        desk.finish(assembly).expect("all chunks are there");
        desk.check_destination();
    }

    #[test]
    fn foreign_and_damaged_chunks_change_nothing() {
        let desk = Desk::new(noise(100_000, 1));
        let mut assembly = desk.begin();
        let (digest, chunk) = &desk.chunks[1];
        let foreign = assembly.put(&Digest([9; 32]), chunk).expect_err("another bundle's");
        assert!(foreign.to_string().contains("no such chunk"), "{foreign}");
        let damaged = assembly.put(digest, &compress(b"something else")).expect_err("not it");
        assert!(damaged.to_string().contains(&digest.to_string()), "{damaged}");
        assert_eq!(assembly.progress().chunks_present, 0);
        let error = desk.finish(assembly).expect_err("nothing is there");
        assert!(error.to_string().contains("chunks are missing"), "{error}");
        desk.begin().discard().expect("the disk works");
        assert!(!desk.staging().exists());
    }

    #[test]
    fn a_bundle_does_not_take_the_place_of_something_else() {
        let desk = Desk::new(noise(1_000, 1));
        let mut assembly = desk.begin();
        for (digest, chunk) in &desk.chunks {
            assembly.put(digest, chunk).expect("our own chunk");
        }
        let destination = desk.folder.path().join("bundle");
        fs::create_dir(&destination).expect("the disk works");
        fs::write(destination.join("mine"), "").expect("the disk works");
        let error = desk.finish(assembly).expect_err("something is there");
        assert!(error.to_string().contains("not empty"), "{error}");
        assert!(destination.join("mine").exists());
    }

    #[test]
    fn an_index_of_blobs_that_are_no_bundle_is_refused_at_the_end() {
        let desk = Desk::new(noise(1_000, 1));
        let encoded = ChunkIndex::of(&desk.bundle).expect("small").encode();
        // Config and OCI manifest change places, as a confused publisher might have them.
        let mut index = ChunkIndex::decode(&encoded).expect("our own").blobs().to_vec();
        index.swap(0, 1);
        let index = postcard::to_extend(&index, vec![1]).expect("lists and numbers");
        let index = ChunkIndex::decode(&index).expect("any blob may be the first");
        let mut assembly = Assembly::begin(&desk.staging(), index).expect("the disk works");
        for (digest, chunk) in &desk.chunks {
            assembly.put(digest, chunk).expect("our own chunk");
        }
        let error = desk.finish(assembly).expect_err("the first blob is no OCI manifest");
        assert!(error.to_string().contains("(OCI manifest) is malformed"), "{error}");
        assert!(!desk.folder.path().join("bundle").exists());
    }

    proptest! {
        #![proptest_config(cases(24))]

        /// Whatever happens to the staging folder between two starts, the bundle comes out whole.
        #[test]
        fn spoilt_staging_costs_fetches_and_nothing_else(
            kept in prop::collection::vec(any::<bool>(), 16),
            spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let desk = Desk::new(noise(150_000, 1));
            let mut assembly = desk.begin();
            for ((digest, chunk), kept) in desk.chunks.iter().zip(kept) {
                if kept {
                    assembly.put(digest, chunk).expect("our own chunk");
                }
            }
            drop(assembly);
            let model = blob_path(&desk.staging(), digest_of(desk.bundle.model()));
            let mut bytes = fs::read(&model).expect("it has its full length");
            for (at, byte) in spoilt {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            fs::write(&model, bytes).expect("the disk works");

            let mut assembly = desk.begin();
            let missing: Vec<Digest> = assembly.missing().map(|chunk| chunk.digest).collect();
            for (digest, chunk) in desk.chunks.iter().filter(|(digest, _)| missing.contains(digest)) {
                assembly.put(digest, chunk).expect("our own chunk");
            }
            desk.finish(assembly).expect("all chunks are there");
            desk.check_destination();
        }
    }
}
