//! Chunk indexes, which have one encoding each, and a chunk that a peer says is one of an index.
//!
//! As a chunk, the input is its expected length (in four bytes, little-endian `u16`), a codec and content.

#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_bundle::{
    BUNDLE_BYTES_MAX, CHUNK_BYTES_MAX, CHUNKS_MAX, ChunkIndex, ChunkRef, digest_of, expand,
};
use selvedge_wire::{Chunk, ChunkCodec};

fuzz_target!(|input: &[u8]| {
    if let Ok(index) = ChunkIndex::decode(input) {
        assert_eq!(index.encode(), input);
        assert_eq!(index.digest(), digest_of(input));
        assert!(index.chunk_count() <= CHUNKS_MAX && index.len_bytes() <= BUNDLE_BYTES_MAX);
        for blob in index.blobs() {
            let chunks = blob.chunks.iter().map(|chunk| u64::from(chunk.len_bytes));
            assert_eq!(chunks.sum::<u64>(), blob.len_bytes);
        }
    }
    expand_as_chunk(input);
});

/// Expands to no more than is asked for.
fn expand_as_chunk(input: &[u8]) {
    let Some((&[low, high, codec], bytes)) = input.split_first_chunk() else { return };
    let codec = if codec == 0 { ChunkCodec::Raw } else { ChunkCodec::Zstd };
    let chunk = Chunk { codec, bytes: bytes.to_vec() };
    let len_bytes = 4 * u32::from(u16::from_le_bytes([low, high]));
    let expected = ChunkRef { digest: digest_of(bytes), len_bytes };
    if let Ok(content) = expand(&chunk, &expected) {
        assert_eq!(content.len(), len_bytes as usize);
        assert!(content.len() <= CHUNK_BYTES_MAX);
        assert_eq!(digest_of(&content), expected.digest);
    }
}
