//! Patches: how a device that has one bundle makes another from it, with fewer bytes than chunks need.
//!
//! A patch is zstd frames (RFC 8878). Its *source*, which comes before their content as a prefix that
//! matches may reach into, is every blob of the old bundle that the new one does not have. What it makes is
//! every blob of the new bundle that the old one does not have, its OCI manifest first; both are in the order of
//! the OCI manifests. With the codec [`PatchCodec::Prefix`] the content of one frame is these blobs. With
//! [`PatchCodec::Difference`] some ranges of them, the *segments*, are stored as the byte-wise difference
//! from a range of the source, which suits quantised weights that moved a little: the content of the first
//! frame is a table of the segments and all that lies outside of them, that of the second is the
//! differences.
//!
//! A patch travels in pieces as chunks do, uncompressed, and so does the [`PatchIndex`] that names them; its
//! digest stands in the signed target. What comes out is believed only blob by blob, where it has the digest
//! that the OCI manifest says, which the signed target names: a patch is a shorter way to the same bytes, and
//! whatever is wrong with one is an error after which plain chunks lead there. The index names no bundle: the
//! signed target says from which one it leads where. A device with the old bundle
//! needs neither offer nor chunk index.
//!
//! **Memory.** [`apply_patch`] holds at most the source, the content and the patch, then the blobs in the
//! patch's place: [`PatchIndex::memory_bytes`] says how much before anything is fetched, and
//! [`PATCH_MEMORY_BYTES_MAX`](crate::PATCH_MEMORY_BYTES_MAX) bounds it. A bundle that needs more has no patch.
//!
//! | offset | what | meaning |
//! |---|---|---|
//! | 0 | byte | version of the index' encoding, 1 |
//! | 1 | varint | codec: 0 prefix, 1 difference |
//! | | varint | one bit for each blob of the old bundle, from the lowest: whether the new one has it too |
//! | | varint, varint | length of the source, length of the content |
//! | | varint | number of pieces; all but the last have 96 KiB |
//! | per piece | 32 bytes, varint | digest and length of the piece |
//!
//! The table of segments is a varint, their number, and per segment three varints: the gap between the end
//! of the segment before and its begin, its length, and where it begins in the source.

use std::{collections::BTreeSet, ops::Range};

use selvedge_wire::Digest;
use serde::{Deserialize, Serialize};
use zstd::zstd_safe::{CCtx, CParameter, DCtx, get_error_name};

use crate::{
    Bundle, ChunkIndex, ChunkRef, Error,
    chunk::{chunks_of, compress},
    digest_of,
    layout::blob_list,
    limits::{
        BLOBS_MAX, CHUNK_BYTES_MAX, PATCH_BYTES_MAX, PATCH_CONTENT_BYTES_MAX,
        PATCH_INDEX_BYTES_MAX, PATCH_SOURCE_BYTES_MAX,
    },
    onnx::initialisers,
};

#[cfg(test)]
mod tests;

/// The version of the encoding.
const VERSION: u8 = 1;
/// Patches are made once, at the desk, and sent often: what is smaller is kept. The higher level suits
/// differences, the lower one weights that are as good as noise.
const ZSTD_LEVELS: [i32; 2] = [12, 19];
/// For the look at which segments to choose.
const ZSTD_LEVEL_QUICK: i32 = 3;
/// Weights are close to noise: shorter matches cost more than the bytes that they stand for.
const MATCH_BYTES_MIN: u32 = 5;
/// The smallest window of a frame, as a power of two.
const WINDOW_LOG_MIN: u32 = 17;
/// The shortest segment that is worth its entry in the table.
const SEGMENT_BYTES_MIN: usize = 64;
/// The most segments of a patch.
const SEGMENTS_MAX: usize = 4_096;
/// What a message around a piece adds, in bytes.
const MESSAGE_BYTES: usize = 8;
const PART: &str = "the patch index";

/// How the new blobs are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatchCodec {
    /// As they are.
    Prefix,
    /// In part as byte-wise differences from the old blobs.
    Difference,
}

impl PatchCodec {
    /// The codec's name for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::Difference => "difference",
        }
    }
}

/// What a patch is, and which pieces make it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchIndex {
    codec: PatchCodec,
    // One bit for each blob of the old bundle, in the order of its OCI manifest: whether the new one has it too.
    kept_blobs: u64,
    source_bytes: u64,
    content_bytes: u64,
    pieces: Vec<ChunkRef>,
}

impl PatchIndex {
    /// The encoding: one index has exactly one.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("postcard encodes lists and numbers")
    }

    /// Reads an encoded index.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Unsupported`] or [`Error::Malformed`]; nothing of an index that is
    /// refused is believed.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let malformed =
            |reason: &str| Error::Malformed { part: PART.to_owned(), reason: reason.to_owned() };
        bounded(PART, bytes.len() as u64, PATCH_INDEX_BYTES_MAX as u64)?;
        let (&version, body) = bytes.split_first().ok_or_else(|| malformed("it is empty"))?;
        if version != VERSION {
            let reason = format!("its version is {version}, this build reads {VERSION}");
            return Err(Error::Unsupported { part: PART.to_owned(), reason });
        }
        let index: Self =
            postcard::from_bytes(body).map_err(|_| malformed("its body is cut or garbled"))?;
        index.check()?;
        if index.encode() != bytes {
            return Err(malformed("it is not in the one encoding that an index has"));
        }
        Ok(index)
    }

    /// The digest of the encoding, which the signed target names.
    pub fn digest(&self) -> Digest {
        digest_of(&self.encode())
    }

    /// How the new blobs are stored.
    pub fn codec(&self) -> PatchCodec {
        self.codec
    }

    /// The pieces in order.
    pub fn pieces(&self) -> &[ChunkRef] {
        &self.pieces
    }

    /// The most that the new bundle has in bytes over all blobs, where the old one has `old_bytes`: what stays, and
    /// all of the content.
    pub fn bundle_bytes_max(&self, old_bytes: u64) -> u64 {
        old_bytes.saturating_sub(self.source_bytes).saturating_add(self.content_bytes)
    }

    /// The length of the patch in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.len_bytes)).sum()
    }

    /// The most memory that [`apply_patch`] holds for this patch, but for zstd's own of less than 1 MiB.
    pub fn memory_bytes(&self) -> u64 {
        self.source_bytes + self.content_bytes + self.len_bytes().max(self.content_bytes)
    }

    fn keeps(&self, place: u32) -> bool {
        self.kept_blobs.checked_shr(place).is_some_and(|bits| bits & 1 == 1)
    }

    fn check(&self) -> Result<(), Error> {
        bounded("the source of the patch", self.source_bytes, PATCH_SOURCE_BYTES_MAX)?;
        bounded("the content of the patch", self.content_bytes, PATCH_CONTENT_BYTES_MAX)?;
        let malformed = |reason: String| Err(Error::Malformed { part: PART.to_owned(), reason });
        let Some((last, full)) = self.pieces.split_last() else {
            return malformed("it has no pieces".to_owned());
        };
        if !(1..=CHUNK_BYTES_MAX).contains(&(last.len_bytes as usize)) {
            let len = last.len_bytes;
            return malformed(format!(
                "its last piece has {len} bytes, not 1 to {CHUNK_BYTES_MAX}"
            ));
        }
        if full.iter().any(|piece| piece.len_bytes as usize != CHUNK_BYTES_MAX) {
            return malformed(format!("a piece before the last has not {CHUNK_BYTES_MAX} bytes"));
        }
        bounded("the patch", self.len_bytes(), PATCH_BYTES_MAX)
    }
}

/// A patch with its index, and between which bundles it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    from: Digest,
    to: Digest,
    index: PatchIndex,
    bytes: Vec<u8>,
}

impl Patch {
    /// A patch from `old` to `new`, or none where the chunks that a device with `old` lacks
    /// are fewer bytes, or where a patch would exceed a limit.
    ///
    /// # Errors
    /// [`Error::Patch`] if zstd fails, which only a lack of memory makes it do; those of [`ChunkIndex::of`].
    pub fn make(old: &Bundle, new: &Bundle) -> Result<Option<Self>, Error> {
        let change = Change::between(old, new);
        let (source_bytes, content_bytes) = (change.source.len(), change.content.len());
        if old.digest() == new.digest()
            || source_bytes as u64 > PATCH_SOURCE_BYTES_MAX
            || content_bytes as u64 > PATCH_CONTENT_BYTES_MAX
        {
            return Ok(None);
        }
        let fail = |reason| Error::Patch { from: old.digest(), to: new.digest(), reason };
        let mut best: Option<(usize, Parts)> = None;
        for segments in change.segmentations() {
            let parts = change.parts(&segments);
            let quick = parts.compressed(&change.source, &[ZSTD_LEVEL_QUICK]).map_err(fail)?;
            if best.as_ref().is_none_or(|(best, _)| quick.len() < *best) {
                best = Some((quick.len(), parts));
            }
        }
        let (_, parts) = best.expect("there is always the choice of no segments");
        let bytes = parts.compressed(&change.source, &ZSTD_LEVELS).map_err(fail)?;
        let index = PatchIndex {
            codec: parts.codec(),
            kept_blobs: kept_blobs(old, new),
            source_bytes: source_bytes as u64,
            content_bytes: parts.len() as u64,
            pieces: bytes.chunks(CHUNK_BYTES_MAX).map(ChunkRef::of).collect(),
        };
        let patch = Self { from: old.digest(), to: new.digest(), index, bytes };
        let fits = patch.index.check().is_ok();
        Ok((fits && patch.sent_bytes() < missing_bytes(old, new)?).then_some(patch))
    }

    /// The old bundle: the digest of its OCI manifest.
    pub fn source(&self) -> Digest {
        self.from
    }

    /// The new bundle: the digest of its OCI manifest.
    pub fn target(&self) -> Digest {
        self.to
    }

    /// The index.
    pub fn index(&self) -> &PatchIndex {
        &self.index
    }

    /// The pieces with their content: what a publisher sends, uncompressed.
    pub fn pieces(&self) -> impl Iterator<Item = (ChunkRef, &[u8])> {
        self.index.pieces.iter().copied().zip(self.bytes.chunks(CHUNK_BYTES_MAX))
    }

    /// All of it in one file: the old bundle, 32 bytes, the new one, 32 bytes, the length of the index as a
    /// little-endian `u32`, the index, the patch.
    pub fn encode(&self) -> Vec<u8> {
        let index = self.index.encode();
        let len = u32::try_from(index.len()).expect("an index keeps its limit");
        [&self.from.0, &self.to.0, &len.to_le_bytes()[..], index.as_slice(), &self.bytes].concat()
    }

    /// Reads what [`Patch::encode`] wrote.
    ///
    /// # Errors
    /// Those of [`PatchIndex::decode`]; [`Error::Malformed`], [`Error::Chunk`] where the pieces are not those
    /// of the index. Whether the patch leads to its target, only applying it shows.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let cut =
            || Error::Malformed { part: "the patch".to_owned(), reason: "it is cut".to_owned() };
        let (from, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
        let (to, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (len, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let len = u32::from_le_bytes(*len) as usize;
        let (index, rest) = rest.split_at_checked(len).ok_or_else(cut)?;
        let index = PatchIndex::decode(index)?;
        if index.len_bytes() != rest.len() as u64 {
            let (len, found) = (index.len_bytes(), rest.len());
            let reason = format!("it has {found} bytes, its index says {len}");
            return Err(Error::Malformed { part: "the patch".to_owned(), reason });
        }
        for (piece, content) in index.pieces.iter().zip(rest.chunks(CHUNK_BYTES_MAX)) {
            check_piece(piece, content)?;
        }
        Ok(Self { from: Digest(*from), to: Digest(*to), index, bytes: rest.to_vec() })
    }

    /// What reaches a device, in bytes of messages.
    fn sent_bytes(&self) -> usize {
        let messages = 1 + self.index.pieces.len();
        self.index.encode().len() + self.bytes.len() + messages * MESSAGE_BYTES
    }
}

/// Makes the blobs of the new bundle that the old one does not have, each with its digest.
///
/// `source` is the old bundle; `target` is the new one, the digest of its OCI manifest, with the length of that:
/// the signed target has all three. `piece` gives the content of a piece, `old` the bytes of a blob of the old bundle. Nothing of it is
/// believed before its digest was compared.
///
/// # Errors
/// Those of `piece` and `old`; [`Error::Chunk`] for a piece that is not what the index says,
/// [`Error::Digest`] for an old blob or a result that is not; [`Error::Patch`] for what else is wrong.
pub fn apply_patch(
    index: &PatchIndex,
    source: Digest,
    (target, target_bytes): (Digest, u64),
    mut piece: impl FnMut(&ChunkRef) -> Result<Vec<u8>, Error>,
    mut old: impl FnMut(Digest) -> Result<Vec<u8>, Error>,
) -> Result<Vec<(Digest, Vec<u8>)>, Error> {
    let fail = |reason: String| Error::Patch { from: source, to: target, reason };
    let old_blobs = blob_list(source, &old(source)?)?;
    let given: Vec<_> =
        old_blobs.iter().zip(0..).filter(|(_, place)| !index.keeps(*place)).collect();

    let given_bytes = given.iter().fold(0_u64, |sum, ((_, len), _)| sum.saturating_add(*len));
    if given_bytes != index.source_bytes {
        let expected = index.source_bytes;
        return Err(fail(format!("its source has {given_bytes} bytes, its index says {expected}")));
    }
    let mut prefix = Vec::with_capacity(size(index.source_bytes));
    for ((digest, len_bytes), _) in given {
        let bytes = old(*digest)?;
        check_blob(*digest, *len_bytes, &bytes)?;
        prefix.extend(bytes);
    }
    let mut patch = Vec::with_capacity(size(index.len_bytes()));
    for expected in &index.pieces {
        let content = piece(expected)?;
        check_piece(expected, &content)?;
        patch.extend(content);
    }
    let mut content = expand_after(&prefix, &patch, size(index.content_bytes)).map_err(fail)?;
    drop(patch);
    if index.codec == PatchCodec::Difference {
        content = merged(&prefix, &content).map_err(|reason| fail(reason.to_owned()))?;
    }
    drop(prefix);
    let oci_manifest = usize::try_from(target_bytes).ok().and_then(|len| content.get(..len));
    let oci_manifest = oci_manifest.ok_or_else(|| fail("it makes no OCI manifest".to_owned()))?;
    let has = |digest: &Digest| old_blobs.iter().any(|(old, _)| old == digest);
    let wanted = blob_list(target, oci_manifest)?.into_iter();
    let wanted: Vec<(Digest, u64)> = wanted.filter(|(digest, _)| !has(digest)).collect();
    let wanted_bytes = wanted.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(*len));
    if wanted_bytes != content.len() as u64 {
        let found = content.len();
        return Err(fail(format!("its blobs have {found} bytes, not {wanted_bytes}")));
    }
    let mut blobs = Vec::new();
    for (digest, len_bytes) in wanted.into_iter().rev() {
        let blob = content.split_off(content.len() - size(len_bytes));
        check_blob(digest, len_bytes, &blob)?;
        blobs.push((digest, blob));
    }
    blobs.reverse();
    Ok(blobs)
}

/// What changes from one bundle to another.
struct Change {
    source: Vec<u8>,
    content: Vec<u8>,
    /// For each layer that is in both and changed: where it lies in the content and in the source.
    layers: Vec<(Range<usize>, Range<usize>)>,
}

/// A range of the content that is stored as the difference from a range of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    to: usize,
    from: usize,
    len: usize,
}

impl Change {
    fn between(old: &Bundle, new: &Bundle) -> Self {
        let (source, old_places) = concatenated(old, new);
        let (content, new_places) = concatenated(new, old);
        let place = |places: &[(Digest, Range<usize>)], digest| {
            places.iter().find(|(known, _)| *known == digest).map(|(_, range)| range.clone())
        };
        let mut layers: Vec<_> = new
            .layer_digests()
            .filter_map(|(title, digest)| {
                let (_, before) = old.layer_digests().find(|(known, _)| *known == title)?;
                Some((place(&new_places, digest)?, place(&old_places, before)?))
            })
            .collect();
        layers.sort_by_key(|(to, _)| to.start);
        // Two layers of the same bytes are one blob.
        layers.dedup_by_key(|(to, _)| to.start);
        Self { source, content, layers }
    }

    /// The choices of segments among which the smallest patch is looked for.
    fn segmentations(&self) -> Vec<Vec<Segment>> {
        let all = || self.layers.iter();
        let whole = all().filter(|(to, from)| to.len() == from.len());
        let whole =
            whole.map(|(to, from)| Segment { to: to.start, from: from.start, len: to.len() });
        let mut choices = vec![Vec::new(), whole.collect()];
        choices.push(all().flat_map(|(to, from)| self.tensors(to, from)).collect());
        for segments in &mut choices {
            segments.retain(|segment: &Segment| segment.len >= SEGMENT_BYTES_MIN);
            segments.truncate(SEGMENTS_MAX);
        }
        let paying = choices[2].iter().copied().filter(|segment| self.pays(segment)).collect();
        choices.push(paying);
        // In order: an empty choice stays, once.
        let mut distinct: Vec<Vec<Segment>> = Vec::new();
        for segments in choices {
            if !distinct.contains(&segments) {
                distinct.push(segments);
            }
        }
        distinct
    }

    /// The initialisers that a layer has in common with the old one, by name and length; or the whole
    /// layer, where it has none and the same length.
    fn tensors(&self, to: &Range<usize>, from: &Range<usize>) -> Vec<Segment> {
        let (new, old) = (&self.content[to.clone()], &self.source[from.clone()]);
        let before: std::collections::BTreeMap<_, _> = initialisers(old)
            .into_iter()
            .map(|initialiser| (initialiser.name, initialiser))
            .collect();
        let mut segments: Vec<Segment> = Vec::new();
        for initialiser in initialisers(new) {
            let Some(before) = before.get(initialiser.name) else { continue };
            let (to, from) = (to.start + initialiser.data.start, from.start + before.data.start);
            let forward = segments.last().is_none_or(|last| last.to + last.len <= to);
            if forward && before.data.len() == initialiser.data.len() {
                segments.push(Segment { to, from, len: initialiser.data.len() });
            }
        }
        if segments.is_empty() && to.len() == from.len() {
            segments.push(Segment { to: to.start, from: from.start, len: to.len() });
        }
        segments
    }

    /// Whether the difference has less entropy, byte by byte, than what it stands for. What did not
    /// change at all is found by zstd itself.
    fn pays(&self, segment: &Segment) -> bool {
        let new = &self.content[segment.to..segment.to + segment.len];
        let old = &self.source[segment.from..segment.from + segment.len];
        let difference = new.iter().zip(old).map(|(new, old)| new.wrapping_sub(*old));
        new != old && entropy_bits(difference) < entropy_bits(new.iter().copied())
    }

    /// The content of the frames for this choice of segments.
    fn parts(&self, segments: &[Segment]) -> Parts {
        let mut table = Vec::new();
        let mut parts = Parts::default();
        let mut end = 0;
        let mut outside = Vec::new();
        for Segment { to, from, len } in segments.iter().copied() {
            let (new, old) = (&self.content[to..to + len], &self.source[from..from + len]);
            outside.extend_from_slice(&self.content[end..to]);
            parts.differences.extend(new.iter().zip(old).map(|(new, old)| new.wrapping_sub(*old)));
            table.push([to - end, len, from].map(|number| number as u32));
            end = to + len;
        }
        outside.extend_from_slice(&self.content[end..]);
        if !segments.is_empty() {
            parts.first =
                postcard::to_extend(&table, Vec::new()).expect("postcard encodes lists of numbers");
        }
        parts.first.extend(outside);
        parts
    }
}

/// The content of a patch's frames.
#[derive(Default)]
struct Parts {
    /// The table where there are segments, and what lies outside of them.
    first: Vec<u8>,
    differences: Vec<u8>,
}

impl Parts {
    fn codec(&self) -> PatchCodec {
        if self.differences.is_empty() { PatchCodec::Prefix } else { PatchCodec::Difference }
    }

    fn len(&self) -> usize {
        self.first.len() + self.differences.len()
    }

    /// The frames, each at the level that makes it smallest. Differences are unlike the source.
    fn compressed(&self, source: &[u8], levels: &[i32]) -> Result<Vec<u8>, String> {
        let mut frames = smallest(source, &self.first, levels)?;
        if !self.differences.is_empty() {
            frames.extend(smallest(&[], &self.differences, levels)?);
        }
        Ok(frames)
    }
}

/// The blobs of a patch with differences.
fn merged(source: &[u8], content: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (table, rest) = read_table(content)?;
    let table = table.iter().map(|row| row.map(|number| number as usize));
    let segment_bytes = table.clone().fold(0_usize, |sum, [_, len, _]| sum.saturating_add(len));
    let outside_bytes =
        rest.len().checked_sub(segment_bytes).ok_or("its segments are longer than its content")?;
    let (mut outside, mut differences) = rest.split_at(outside_bytes);
    let mut blobs = Vec::with_capacity(rest.len());
    for [gap, len, from] in table {
        let (before, after) = outside.split_at_checked(gap).ok_or("a gap lies outside")?;
        blobs.extend_from_slice(before);
        outside = after;
        let (segment, after) = differences.split_at(len);
        let old =
            source.get(from..).and_then(|old| old.get(..len)).ok_or("a segment lies outside")?;
        blobs.extend(segment.iter().zip(old).map(|(byte, old)| byte.wrapping_add(*old)));
        differences = after;
    }
    blobs.extend_from_slice(outside);
    Ok(blobs)
}

/// The table of segments, and what comes behind it. A row is read only if there may be as many.
fn read_table(content: &[u8]) -> Result<(Vec<[u32; 3]>, &[u8]), &'static str> {
    let garbled = |_| "its table of segments is cut or garbled";
    let (count, mut rest) = postcard::take_from_bytes::<u32>(content).map_err(garbled)?;
    if count as usize > SEGMENTS_MAX {
        return Err("its table has too many segments");
    }
    let mut table = Vec::new();
    for _ in 0..count {
        let (row, after) = postcard::take_from_bytes(rest).map_err(garbled)?;
        table.push(row);
        rest = after;
    }
    Ok((table, rest))
}

/// The blobs of `bundle` that `other` does not have, one after another, and where each lies.
fn concatenated(bundle: &Bundle, other: &Bundle) -> (Vec<u8>, Vec<(Digest, Range<usize>)>) {
    let (mut all, mut places) = (Vec::new(), Vec::new());
    for (digest, bytes) in bundle.blobs().filter(|(digest, _)| !has_blob(other, *digest)) {
        places.push((digest, all.len()..all.len() + bytes.len()));
        all.extend_from_slice(bytes);
    }
    (all, places)
}

fn has_blob(bundle: &Bundle, digest: Digest) -> bool {
    bundle.blobs().any(|(known, _)| known == digest)
}

/// One bit for each blob of `old`: whether `new` has it too.
fn kept_blobs(old: &Bundle, new: &Bundle) -> u64 {
    const { assert!(BLOBS_MAX <= u64::BITS as usize) };
    let bits =
        old.blobs().zip(0..).map(|((digest, _), place)| u64::from(has_blob(new, digest)) << place);
    bits.sum()
}

/// What a device with `old` fetches where there is no patch, in bytes of messages: the offer, and the chunks
/// that it lacks.
fn missing_bytes(old: &Bundle, new: &Bundle) -> Result<usize, Error> {
    let present: BTreeSet<ChunkRef> = chunks_of(old).map(|(chunk, _)| chunk).collect();
    let missing = chunks_of(new).filter(|(chunk, _)| !present.contains(chunk));
    let chunks: usize =
        missing.map(|(_, content)| compress(content).bytes.len() + MESSAGE_BYTES).sum();
    Ok(ChunkIndex::of(new)?.encode().len() + MESSAGE_BYTES + chunks)
}

/// The entropy of a sequence of bytes taken one by one, in bits for all of them.
fn entropy_bits(bytes: impl Iterator<Item = u8>) -> f64 {
    let mut counts = [0_u32; 256];
    let mut total = 0_u32;
    for byte in bytes {
        counts[usize::from(byte)] += 1;
        total += 1;
    }
    let bits = |count: u32| f64::from(count) * (f64::from(total) / f64::from(count)).log2();
    counts.into_iter().filter(|count| *count > 0).map(bits).sum()
}

/// The smallest frame of `content` at one of these levels.
fn smallest(prefix: &[u8], content: &[u8], levels: &[i32]) -> Result<Vec<u8>, String> {
    let frames = levels.iter().map(|level| compress_after(prefix, content, *level));
    let frames: Vec<Vec<u8>> = frames.collect::<Result<_, _>>()?;
    Ok(frames.into_iter().min_by_key(Vec::len).expect("there is a level"))
}

/// One frame of `content`, with matches that reach into `prefix`.
fn compress_after(prefix: &[u8], content: &[u8], level: i32) -> Result<Vec<u8>, String> {
    let mut context = CCtx::try_create().ok_or("no memory for zstd")?;
    let reach = (prefix.len() + content.len()).next_power_of_two();
    let failed = |code| get_error_name(code).to_owned();
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(reach.ilog2().max(WINDOW_LOG_MIN)),
        CParameter::MinMatch(MATCH_BYTES_MIN),
        CParameter::EnableLongDistanceMatching(true),
        CParameter::ChecksumFlag(false),
    ] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    context.ref_prefix(prefix).map_err(failed)?;
    let mut bytes = Vec::with_capacity(zstd::zstd_safe::compress_bound(content.len()));
    context.compress2(&mut bytes, content).map_err(failed)?;
    Ok(bytes)
}

/// What the frames of a patch hold, if it has exactly `len` bytes: never more are expanded.
fn expand_after(prefix: &[u8], patch: &[u8], len: usize) -> Result<Vec<u8>, String> {
    let mut context = DCtx::try_create().ok_or("no memory for zstd")?;
    let mut content = vec![0; len];
    let failed = |code| format!("it does not expand to {len} bytes: {}", get_error_name(code));
    context.ref_prefix(prefix).map_err(failed)?;
    match context.decompress(content.as_mut_slice(), patch).map_err(failed)? {
        found if found == len => Ok(content),
        found => Err(format!("it expands to {found} bytes, its index says {len}")),
    }
}

fn check_piece(expected: &ChunkRef, content: &[u8]) -> Result<(), Error> {
    if ChunkRef::of(content) == *expected {
        return Ok(());
    }
    let reason = "a piece of a patch is not what its index says".to_owned();
    Err(Error::Chunk { digest: expected.digest, reason })
}

fn check_blob(digest: Digest, len_bytes: u64, bytes: &[u8]) -> Result<(), Error> {
    let part = format!("blob {digest}");
    let found_bytes = bytes.len() as u64;
    if found_bytes != len_bytes {
        return Err(Error::Length { part, expected_bytes: len_bytes, found_bytes });
    }
    let found = digest_of(bytes);
    if found == digest { Ok(()) } else { Err(Error::Digest { part, found }) }
}

fn bounded(part: &str, len_bytes: u64, max_bytes: u64) -> Result<(), Error> {
    if len_bytes <= max_bytes {
        return Ok(());
    }
    Err(Error::TooLarge { part: part.to_owned(), len_bytes, max_bytes })
}

/// A length that a checked index bounds, for memory.
fn size(len_bytes: u64) -> usize {
    usize::try_from(len_bytes).expect("the limits of an index fit into memory")
}

// The most pieces, at 36 bytes each, keep the limit on the index.
const _: () = assert!(
    (PATCH_BYTES_MAX as usize).div_ceil(CHUNK_BYTES_MAX) * 36 + 32 <= PATCH_INDEX_BYTES_MAX
);
