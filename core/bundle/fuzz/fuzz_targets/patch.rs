//! Patches from one bundle to another: what comes out of one is the other bundle, or an error.
//!
//! The input is a patch with its index as a publisher sends them; else flags, the length of the content
//! (little-endian `u16`) and a patch. The flags say which codec it has, and whether it is a frame or the
//! content of one, so that the fuzzer also reaches what lies behind the decompression.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use selvedge_bundle::{
    CHUNK_BYTES_MAX, ChunkRef, Error, PATCH_MEMORY_BYTES_MAX, Patch, PatchIndex, apply_patch,
    digest_of,
};
use selvedge_bundle_fuzz::{NEW, OLD, blob, patch_index};

const DIFFERENCE: u8 = 1;
const COMPRESS: u8 = 2;

/// The length of all that the old bundle has and the new one does not.
static SOURCE_BYTES: LazyLock<u64> = LazyLock::new(|| {
    let given = OLD.blobs().filter(|(digest, _)| blob(&NEW, *digest).is_err());
    given.map(|(_, bytes)| bytes.len() as u64).sum()
});

fuzz_target!(|input: &[u8]| {
    if let Ok(patch) = Patch::decode(input) {
        assert_eq!(patch.encode(), input);
        apply(patch.index(), &input[input.len() - patch.index().len_bytes() as usize..]);
    }
    if let Ok(index) = PatchIndex::decode(input) {
        assert_eq!(index.encode(), input);
        assert_eq!(index.digest(), digest_of(input));
        assert!(index.memory_bytes() <= PATCH_MEMORY_BYTES_MAX);
    }
    apply_made(input);
});

fn apply_made(input: &[u8]) {
    let Some((&[flags, low, high], bytes)) = input.split_first_chunk() else { return };
    let compressed = (flags & COMPRESS > 0).then(|| zstd::bulk::compress(bytes, 1));
    let patch = match compressed {
        Some(frame) => frame.expect("the input is small"),
        None => bytes.to_vec(),
    };
    let content_bytes = match flags & COMPRESS {
        0 => u64::from(u16::from_le_bytes([low, high])),
        _ => bytes.len() as u64,
    };
    let index = patch_index(flags & DIFFERENCE, *SOURCE_BYTES, content_bytes, &patch);
    if let Ok(index) = PatchIndex::decode(&index) {
        apply(&index, &patch);
    }
}

fn apply(index: &PatchIndex, patch: &[u8]) {
    let piece = |piece: &ChunkRef| {
        let found = patch.chunks(CHUNK_BYTES_MAX).find(|bytes| digest_of(bytes) == piece.digest);
        found.map(<[u8]>::to_vec).ok_or_else(|| Error::Missing { part: "a piece".to_owned() })
    };
    let target = (NEW.digest(), NEW.oci_manifest().len() as u64);
    let old = |digest| blob(&OLD, digest);
    let Ok(blobs) = apply_patch(index, OLD.digest(), target, piece, old) else { return };
    for (digest, bytes) in blobs {
        assert_eq!(blob(&NEW, digest).expect("it is one of the new bundle's"), bytes);
    }
}
