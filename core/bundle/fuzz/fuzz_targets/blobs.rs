//! The blobs that a device reads before it runs anything: a baseline, a tensor, and a model, which is cut
//! where its initialisers begin. The first byte says which.

#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_bundle::{Baseline, ChunkIndex, chunks_of, digest_of, read_npy, write_npy};
use selvedge_bundle_fuzz::bundle;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((b'b', bytes)) => {
            if let Ok(baseline) = Baseline::decode(bytes) {
                assert_eq!(baseline.encode(), bytes);
            }
        }
        Some((b'n', bytes)) => {
            if let Ok(tensor) = read_npy("x", bytes) {
                let again = read_npy("x", &write_npy(&tensor)).expect("what was written is read");
                assert_eq!((again.shape(), again.dtype()), (tensor.shape(), tensor.dtype()));
            }
        }
        Some((b'm', bytes)) if !bytes.is_empty() => check_cuts(bytes),
        _ => {}
    }
});

/// The chunks of a model put together are the model.
fn check_cuts(model: &[u8]) {
    let bundle = bundle("1.0.0", model.to_vec());
    let index = ChunkIndex::of(&bundle).expect("the bundle is small");
    let contents: Vec<_> = chunks_of(&bundle).collect();
    let digest = digest_of(model);
    let blob = index.blobs().iter().find(|blob| blob.digest == digest);
    let blob = blob.expect("the model is a blob");
    let pieces = blob.chunks.iter().map(|chunk| {
        let content = contents.iter().find(|(known, _)| known == chunk);
        content.expect("every chunk has its content").1
    });
    assert_eq!(pieces.collect::<Vec<_>>().concat(), model);
    assert_eq!(ChunkIndex::decode(&index.encode()).expect("what was written is read"), index);
}
