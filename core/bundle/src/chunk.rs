//! Chunks: the pieces of a bundle that travel, cut by content so that versions share them.
//!
//! Each blob is cut on its own, into chunks of 16 KiB at least (but for a smaller blob), 48 KiB on
//! average and 96 KiB at most. A chunk is named by the SHA-256 of its content. The [`ChunkIndex`] says
//! which chunks make up which blob; its digest stands in the signed target.
//!
//! | offset | what | meaning |
//! |---|---|---|
//! | 0 | byte | version of the encoding, 2 |
//! | 1 | varint | number of blobs; the first is the OCI manifest |
//! | per blob | 32 bytes, varint | digest and length of the blob |
//! | | varint | number of its chunks; 0 where the blob is one chunk, of the same digest and length |
//! | per chunk | 32 bytes, varint | digest and length of the chunk |

use std::collections::{BTreeMap, BTreeSet};

use selvedge_wire::{Chunk, ChunkCodec, Digest};
use serde::{Deserialize, Serialize};

use crate::{
    Bundle, Error,
    cut::cut,
    digest_of,
    limits::{BLOBS_MAX, BUNDLE_BYTES_MAX, CHUNK_BYTES_MAX, CHUNK_INDEX_BYTES_MAX, CHUNKS_MAX},
};

/// The version of the encoding.
const VERSION: u8 = 2;
/// Chunks are compressed once and sent often.
const ZSTD_LEVEL: i32 = 12;
const PART: &str = "the chunk index";

/// Which chunks make up which blob of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkIndex {
    blobs: Vec<BlobChunks>,
}

/// A blob as its chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobChunks {
    /// The blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Its chunks in order.
    pub chunks: Vec<ChunkRef>,
}

/// A chunk by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkRef {
    /// The SHA-256 of the content.
    pub digest: Digest,
    /// The length of the content in bytes.
    pub len_bytes: u32,
}

impl ChunkRef {
    /// The name of some content.
    pub(crate) fn of(content: &[u8]) -> Self {
        let len_bytes = u32::try_from(content.len()).expect("a chunk has at most 96 KiB");
        Self { digest: digest_of(content), len_bytes }
    }
}

impl ChunkIndex {
    /// Cuts a bundle.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where the bundle or the index would exceed its limit.
    pub fn of(bundle: &Bundle) -> Result<Self, Error> {
        let blobs = bundle.blobs().map(|(digest, bytes)| BlobChunks {
            digest,
            len_bytes: bytes.len() as u64,
            chunks: cut(bytes).map(ChunkRef::of).collect(),
        });
        let index = Self { blobs: blobs.collect() };
        check(&index.blobs).map_err(|reason| Error::Malformed { part: PART.to_owned(), reason })?;
        check_len(index.encode().len())?;
        Ok(index)
    }

    /// The encoding: one index has exactly one.
    pub fn encode(&self) -> Vec<u8> {
        let shortened: Vec<BlobChunks> = self.blobs.iter().map(shortened).collect();
        postcard::to_extend(&shortened, vec![VERSION]).expect("postcard encodes lists and numbers")
    }

    /// Reads an encoded index.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Unsupported`] or [`Error::Malformed`]; nothing of an index that is
    /// refused is believed.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let malformed =
            |reason: &str| Error::Malformed { part: PART.to_owned(), reason: reason.to_owned() };
        check_len(bytes.len())?;
        let (&version, body) = bytes.split_first().ok_or_else(|| malformed("it is empty"))?;
        if version != VERSION {
            let reason = format!("its version is {version}, this build reads {VERSION}");
            return Err(Error::Unsupported { part: PART.to_owned(), reason });
        }
        let mut blobs: Vec<BlobChunks> =
            postcard::from_bytes(body).map_err(|_| malformed("its body is cut or garbled"))?;
        blobs.iter_mut().for_each(lengthen);
        check(&blobs).map_err(|reason| malformed(&reason))?;
        let index = Self { blobs };
        if index.encode() != bytes {
            return Err(malformed("it is not in the one encoding that an index has"));
        }
        Ok(index)
    }

    /// The digest of the encoding, which the signed target names.
    pub fn digest(&self) -> Digest {
        digest_of(&self.encode())
    }

    /// The bundle: the digest of its OCI manifest.
    pub fn bundle(&self) -> Digest {
        self.blobs[0].digest
    }

    /// The blobs; the first is the OCI manifest.
    pub fn blobs(&self) -> &[BlobChunks] {
        &self.blobs
    }

    /// The chunks, each once, in the order of their first use.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        let mut seen = BTreeSet::new();
        let all = self.blobs.iter().flat_map(|blob| blob.chunks.iter().copied());
        all.filter(move |chunk| seen.insert(chunk.digest))
    }

    /// How many chunks there are, each counted once.
    pub fn chunk_count(&self) -> usize {
        self.chunks().count()
    }

    /// The length of all blobs in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.len_bytes).sum()
    }
}

/// The chunks of a bundle with their content, each once: what a publisher sends.
pub fn chunks_of(bundle: &Bundle) -> impl Iterator<Item = (ChunkRef, &[u8])> {
    let mut seen = BTreeSet::new();
    let all = bundle.blobs().flat_map(|(_, bytes)| cut(bytes));
    all.map(|content| (ChunkRef::of(content), content))
        .filter(move |(chunk, _)| seen.insert(chunk.digest))
}

/// The message that carries some content: compressed where that makes it smaller.
pub fn compress(content: &[u8]) -> Chunk {
    match zstd::bulk::compress(content, ZSTD_LEVEL) {
        Ok(bytes) if bytes.len() < content.len() => Chunk { codec: ChunkCodec::Zstd, bytes },
        _ => Chunk { codec: ChunkCodec::Raw, bytes: content.to_vec() },
    }
}

/// The content of a chunk, if it is what `expected` names. Never more than the expected length is
/// expanded.
///
/// # Errors
/// [`Error::Chunk`], which names the expected digest.
pub fn expand(chunk: &Chunk, expected: &ChunkRef) -> Result<Vec<u8>, Error> {
    let refuse = |reason: String| Error::Chunk { digest: expected.digest, reason };
    let len = expected.len_bytes as usize;
    if len > CHUNK_BYTES_MAX {
        return Err(refuse(format!("{len} bytes are more than the limit of {CHUNK_BYTES_MAX}")));
    }
    let content = expand_up_to(len, chunk, expected.digest)?;
    if content.len() != len {
        return Err(refuse(format!("it has {} bytes, the index says {len}", content.len())));
    }
    check_content(content, expected.digest)
}

/// The content of a chunk of which only the digest is known. Never more than [`CHUNK_BYTES_MAX`] is expanded.
///
/// # Errors
/// [`Error::Chunk`], which names the digest.
pub fn expand_named(chunk: &Chunk, digest: Digest) -> Result<Vec<u8>, Error> {
    let content = expand_up_to(CHUNK_BYTES_MAX, chunk, digest)?;
    if content.len() > CHUNK_BYTES_MAX {
        let reason =
            format!("{} bytes are more than the limit of {CHUNK_BYTES_MAX}", content.len());
        return Err(Error::Chunk { digest, reason });
    }
    check_content(content, digest)
}

fn expand_up_to(len: usize, chunk: &Chunk, digest: Digest) -> Result<Vec<u8>, Error> {
    let refuse = |reason: String| Error::Chunk { digest, reason };
    match chunk.codec {
        ChunkCodec::Raw => Ok(chunk.bytes.clone()),
        ChunkCodec::Zstd => zstd::bulk::decompress(&chunk.bytes, len)
            .map_err(|error| refuse(format!("it does not expand to {len} bytes: {error}"))),
    }
}

fn check_content(content: Vec<u8>, digest: Digest) -> Result<Vec<u8>, Error> {
    if digest_of(&content) != digest {
        let reason = "its content has another digest".to_owned();
        return Err(Error::Chunk { digest, reason });
    }
    Ok(content)
}

/// The blob as it is encoded: a blob of one chunk names none.
fn shortened(blob: &BlobChunks) -> BlobChunks {
    match blob.chunks.as_slice() {
        [only] if only.digest == blob.digest => BlobChunks { chunks: Vec::new(), ..*blob },
        _ => blob.clone(),
    }
}

/// The opposite of [`shortened`]. A length that no chunk has becomes one that is refused.
fn lengthen(blob: &mut BlobChunks) {
    if blob.chunks.is_empty() {
        let len_bytes = u32::try_from(blob.len_bytes).unwrap_or(u32::MAX);
        blob.chunks = vec![ChunkRef { digest: blob.digest, len_bytes }];
    }
}

fn check_len(len: usize) -> Result<(), Error> {
    if len <= CHUNK_INDEX_BYTES_MAX {
        return Ok(());
    }
    let (len_bytes, max_bytes) = (len as u64, CHUNK_INDEX_BYTES_MAX as u64);
    Err(Error::TooLarge { part: PART.to_owned(), len_bytes, max_bytes })
}

fn check(blobs: &[BlobChunks]) -> Result<(), String> {
    if !(1..=BLOBS_MAX).contains(&blobs.len()) {
        return Err(format!("it has {} blobs, not 1 to {BLOBS_MAX}", blobs.len()));
    }
    let count: usize = blobs.iter().map(|blob| blob.chunks.len()).sum();
    if count > CHUNKS_MAX {
        return Err(format!("it has {count} chunks, more than the limit of {CHUNKS_MAX}"));
    }
    let mut names = BTreeSet::new();
    let mut lens = BTreeMap::new();
    let mut total = 0;
    for blob in blobs {
        if !names.insert(blob.digest) {
            return Err(format!("blob {} is there twice", blob.digest));
        }
        check_blob(blob, &mut lens)?;
        total += blob.len_bytes;
    }
    if total > BUNDLE_BYTES_MAX {
        return Err(format!("{total} bytes are more than the limit of {BUNDLE_BYTES_MAX}"));
    }
    Ok(())
}

fn check_blob(blob: &BlobChunks, lens: &mut BTreeMap<Digest, u32>) -> Result<(), String> {
    for chunk in &blob.chunks {
        if !(1..=CHUNK_BYTES_MAX).contains(&(chunk.len_bytes as usize)) {
            let (digest, len) = (chunk.digest, chunk.len_bytes);
            return Err(format!("chunk {digest} has {len} bytes, not 1 to {CHUNK_BYTES_MAX}"));
        }
        if *lens.entry(chunk.digest).or_insert(chunk.len_bytes) != chunk.len_bytes {
            return Err(format!("chunk {} has two lengths", chunk.digest));
        }
    }
    let sum: u64 = blob.chunks.iter().map(|chunk| u64::from(chunk.len_bytes)).sum();
    if sum != blob.len_bytes || sum == 0 {
        let (digest, len) = (blob.digest, blob.len_bytes);
        return Err(format!("the chunks of blob {digest} have {sum} bytes, not {len}"));
    }
    Ok(())
}

// An index of the most chunks, at 35 bytes each, with the most blobs keeps its own limit.
const _: () = assert!(CHUNKS_MAX * 35 + BLOBS_MAX * 40 + 8 <= CHUNK_INDEX_BYTES_MAX);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::example::{bundle, cases, noise};

    #[test]
    fn a_chunk_expands_to_what_was_compressed() {
        for content in [vec![], vec![7; 1], vec![0; CHUNK_BYTES_MAX], noise(CHUNK_BYTES_MAX, 3)] {
            let chunk = compress(&content);
            assert!(chunk.bytes.len() <= content.len(), "{}", content.len());
            assert_eq!(expand(&chunk, &ChunkRef::of(&content)).expect("our own"), content);
        }
    }

    #[test]
    fn every_chunk_fits_its_message() {
        let chunk = compress(&noise(CHUNK_BYTES_MAX, 3));
        assert_eq!(chunk.codec, ChunkCodec::Raw);
        assert!(selvedge_wire::encode(&chunk).len() <= selvedge_wire::PAYLOAD_BYTES_MAX);
    }

    #[test]
    fn a_chunk_that_is_not_what_was_asked_for_is_refused_by_its_digest() {
        let content = vec![5; 1000];
        let expected = ChunkRef::of(&content);
        let raw = |bytes: &[u8]| Chunk { codec: ChunkCodec::Raw, bytes: bytes.to_vec() };
        let zstd = |bytes: &[u8]| Chunk { codec: ChunkCodec::Zstd, bytes: bytes.to_vec() };
        let bomb = zstd::bulk::compress(&vec![0; 1 << 28], 3).expect("zeros compress");
        assert!(bomb.len() < selvedge_wire::PAYLOAD_BYTES_MAX, "the bomb would be delivered");
        let huge = ChunkRef { len_bytes: u32::MAX, ..expected };
        let packed = compress(&content).bytes;
        let cases = [
            ("truncated", raw(&content[..999]), expected, "999 bytes"),
            ("extended", raw(&[&content[..], &[5]].concat()), expected, "1001 bytes"),
            ("another", raw(&[6; 1000]), expected, "another digest"),
            ("empty", raw(&[]), expected, "0 bytes"),
            ("bomb", zstd(&bomb), expected, "does not expand to 1000"),
            ("bomb with a huge promise", zstd(&bomb), huge, "limit of 98304"),
            ("no frame", zstd(&content), expected, "does not expand"),
            ("cut frame", zstd(&packed[..packed.len() - 1]), expected, "does not expand"),
            ("two frames", zstd(&packed.repeat(2)), expected, "does not expand"),
            ("too short", compress(&content[..10]), expected, "10 bytes"),
        ];
        let failures: Vec<String> = cases
            .iter()
            .filter_map(|(what, chunk, expected, reason)| {
                let text = expand(chunk, expected).err().map(|error| error.to_string());
                let named = |text: &String| {
                    text.contains(reason) && text.contains(&expected.digest.to_string())
                };
                (!text.as_ref().is_some_and(named)).then(|| format!("{what}: {text:?}"))
            })
            .collect();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn an_index_reads_back_and_leads_to_every_byte() {
        let bundle = bundle(noise(300_000, 1));
        let index = ChunkIndex::of(&bundle).expect("a small bundle");
        assert_eq!(ChunkIndex::decode(&index.encode()).expect("our own"), index);
        assert_eq!(index.bundle(), bundle.digest());
        assert_eq!(index.len_bytes(), bundle.len_bytes());
        let content: BTreeMap<Digest, &[u8]> =
            chunks_of(&bundle).map(|(chunk, content)| (chunk.digest, content)).collect();
        assert_eq!(content.len(), index.chunk_count());
        for (blob, (digest, bytes)) in index.blobs().iter().zip(bundle.blobs()) {
            assert_eq!(blob.digest, digest);
            let pieces: Vec<&[u8]> =
                blob.chunks.iter().map(|chunk| content[&chunk.digest]).collect();
            assert_eq!(pieces.concat(), bytes);
        }
    }

    #[test]
    fn the_largest_bundle_has_an_index() {
        let len = usize::try_from(BUNDLE_BYTES_MAX).expect("it fits") - 10_000;
        let index = ChunkIndex::of(&bundle(noise(len, 2))).expect("within every limit");
        assert!(index.chunk_count() <= CHUNKS_MAX, "{}", index.chunk_count());
    }

    #[test]
    fn a_small_change_of_the_model_keeps_most_chunks() {
        let model = noise(2 << 20, 4);
        let mut nudged = model.clone();
        nudged[1_000_000..1_000_004].copy_from_slice(&[1, 2, 3, 4]);
        let mut longer = model.clone();
        longer.splice(500_000..500_000, [9; 7]);
        let before: BTreeSet<_> = ChunkIndex::of(&bundle(model)).expect("small").chunks().collect();
        for changed in [nudged, longer] {
            let after: BTreeSet<_> =
                ChunkIndex::of(&bundle(changed)).expect("small").chunks().collect();
            let new: Vec<_> = after.difference(&before).collect();
            let new_bytes: u32 = new.iter().map(|chunk| chunk.len_bytes).sum();
            // The OCI manifest, and at most the pieces on both sides of a moved cut.
            assert!(new.len() <= 4, "{} of {} are new", new.len(), after.len());
            assert!(new_bytes < 4 * 96 * 1024, "{new_bytes} bytes are new");
        }
    }

    /// Encodes blobs without the checks.
    fn encoded(blobs: &[BlobChunks]) -> Vec<u8> {
        postcard::to_extend(blobs, vec![VERSION]).expect("lists and numbers")
    }

    #[test]
    fn an_index_that_contradicts_itself_is_refused() {
        let chunk = |byte, len_bytes| ChunkRef { digest: Digest([byte; 32]), len_bytes };
        let blob = |byte, len_bytes, chunks: &[ChunkRef]| BlobChunks {
            digest: Digest([byte; 32]),
            len_bytes,
            chunks: chunks.to_vec(),
        };
        let good = encoded(&[blob(1, 5, &[chunk(2, 2), chunk(3, 3)])]);
        assert!(ChunkIndex::decode(&good).is_ok());
        let tiny = vec![chunk(1, 1); CHUNKS_MAX + 1];
        let full = vec![chunk(1, CHUNK_BYTES_MAX as u32); 1366];
        let many: Vec<BlobChunks> = (0..65).map(|i| blob(i, 1, &[chunk(i, 1)])).collect();
        // The number of blobs, 1, as a varint of two bytes.
        let padded = [&[VERSION, 0x81, 0][..], &good[2..]].concat();
        let cases = [
            ("empty", vec![], "empty"),
            ("version", [&[1], &good[1..]].concat(), "version is 1"),
            ("no blobs", encoded(&[]), "0 blobs"),
            ("too many blobs", encoded(&many), "65 blobs"),
            ("sum", encoded(&[blob(1, 6, &[chunk(2, 5)])]), "5 bytes, not 6"),
            ("sum overflow", encoded(&[blob(1, u64::MAX, &[chunk(2, 5)])]), "5 bytes, not"),
            ("empty chunk", encoded(&[blob(1, 0, &[chunk(2, 0)])]), "0 bytes, not 1"),
            ("large chunk", encoded(&[blob(1, 98_305, &[chunk(2, 98_305)])]), "98305 bytes"),
            ("two lengths", encoded(&[blob(1, 3, &[chunk(2, 1), chunk(2, 2)])]), "two lengths"),
            (
                "blob twice",
                encoded(&[blob(1, 1, &[chunk(2, 1)]), blob(1, 1, &[chunk(2, 1)])]),
                "twice",
            ),
            ("many tiny chunks", encoded(&[blob(1, tiny.len() as u64, &tiny)]), "limit of 2800"),
            ("large bundle", encoded(&[blob(1, 1366 * 98_304, &full)]), "limit of 134217728"),
            ("blob of one chunk, named", encoded(&[blob(1, 5, &[chunk(1, 5)])]), "one encoding"),
            ("empty blob", encoded(&[blob(1, 0, &[])]), "0 bytes, not 1"),
            ("huge blob of one chunk", encoded(&[blob(1, u64::MAX, &[])]), "4294967295 bytes"),
            ("trailing byte", [&good[..], &[0]].concat(), "one encoding"),
            ("padded varint", padded, "one encoding"),
            ("too long", vec![VERSION; CHUNK_INDEX_BYTES_MAX + 1], "limit of 106496"),
        ];
        let failures: Vec<String> = cases
            .iter()
            .filter_map(|(what, bytes, reason)| match ChunkIndex::decode(bytes) {
                Err(error) if error.to_string().contains(reason) => None,
                other => Some(format!("{what}: {other:?}")),
            })
            .collect();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    proptest! {
        #![proptest_config(cases(512))]

        #[test]
        fn hostile_index_bytes_never_panic_and_what_is_read_keeps_every_limit(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            if let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            if let Ok(index) = ChunkIndex::decode(&bytes) {
                prop_assert_eq!(index.encode(), bytes);
                prop_assert!(index.len_bytes() <= BUNDLE_BYTES_MAX);
            }
        }

        #[test]
        fn a_spoilt_index_is_another_index_or_none(
            at in any::<prop::sample::Index>(), flip in 1..=255u8, cut in any::<bool>(),
        ) {
            let mut bytes = ChunkIndex::of(&bundle(noise(100_000, 1))).expect("small").encode();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
                prop_assert!(ChunkIndex::decode(&bytes).is_err());
            } else {
                bytes[at] ^= flip;
                if let Ok(index) = ChunkIndex::decode(&bytes) {
                    prop_assert_eq!(index.encode(), bytes);
                }
            }
        }

        #[test]
        fn hostile_chunks_never_expand_beyond_what_was_asked_for(
            bytes in prop::collection::vec(any::<u8>(), 0..200), len_bytes: u32, magic: bool,
        ) {
            let frame = if magic { [&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat() } else { bytes };
            let expected = ChunkRef { digest: Digest([0; 32]), len_bytes };
            let chunk = Chunk { codec: ChunkCodec::Zstd, bytes: frame };
            prop_assert!(expand(&chunk, &expected).is_err());
        }
    }
}
