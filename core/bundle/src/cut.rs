//! Where a blob is cut: at the large initialisers of an ONNX file, and by content between them.
//!
//! A model that was trained further keeps the shapes of its initialisers, and a model that got a layer
//! keeps the other layers' bytes. With a cut where an initialiser begins and ends, what did not change
//! keeps its pieces, wherever it lies in the file. Between these cuts, and in everything else, FastCDC
//! cuts ("The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems",
//! Xia et al., 2020). The same bytes always have the same cuts.

use std::ops::Range;

use fastcdc::v2020::FastCDC;

use crate::{limits::CHUNK_BYTES_MAX, onnx::initialisers};

/// The shortest piece, but for a blob that is shorter.
const PIECE_BYTES_MIN: usize = 16 << 10;
/// The length that FastCDC aims at.
const PIECE_BYTES_AIM: usize = 48 << 10;
/// Into at most this many parts do initialisers cut a blob, so that a large model of many initialisers
/// keeps the limit on chunks.
const PARTS_MAX: usize = 256;

/// The pieces of a blob: together they are the blob.
pub(crate) fn cut(blob: &[u8]) -> impl Iterator<Item = &[u8]> {
    parts(blob).into_iter().flat_map(|part| pieces(&blob[part])).collect::<Vec<_>>().into_iter()
}

/// The blob between the cuts at initialisers. Small initialisers are no reason for a cut.
fn parts(blob: &[u8]) -> Vec<Range<usize>> {
    let part_bytes_min = (blob.len() / PARTS_MAX).next_power_of_two().max(PIECE_BYTES_MIN);
    let mut parts = Vec::new();
    let mut begin = 0;
    for initialiser in initialisers(blob) {
        if initialiser.data.len() < part_bytes_min {
            continue;
        }
        for at in [initialiser.data.start, initialiser.data.end] {
            if at >= begin + part_bytes_min && blob.len() - at >= PIECE_BYTES_MIN {
                parts.push(begin..at);
                begin = at;
            }
        }
    }
    parts.push(begin..blob.len());
    parts
}

/// The pieces of a part, cut by content. A last piece that is too short is joined with the one before,
/// or takes from it.
fn pieces(part: &[u8]) -> Vec<&[u8]> {
    let cuts = FastCDC::new(part, PIECE_BYTES_MIN, PIECE_BYTES_AIM, CHUNK_BYTES_MAX);
    let mut begins: Vec<usize> = cuts.map(|piece| piece.offset).collect();
    if let [.., before, last] = begins.as_mut_slice()
        && part.len() - *last < PIECE_BYTES_MIN
    {
        if part.len() - *before <= CHUNK_BYTES_MAX {
            begins.pop();
        } else {
            *last = part.len() - PIECE_BYTES_MIN;
        }
    }
    let ends = begins.iter().copied().skip(1).chain([part.len()]);
    begins.iter().zip(ends).map(|(&begin, end)| &part[begin..end]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        example::{cases, noise, onnx_file},
        limits::{BUNDLE_BYTES_MAX, CHUNKS_MAX},
    };

    /// Panics unless the pieces are the blob and have the lengths that they may have.
    fn check(blob: &[u8]) {
        let pieces: Vec<&[u8]> = cut(blob).collect();
        assert_eq!(pieces.concat(), blob);
        let least = PIECE_BYTES_MIN.min(blob.len());
        let lens: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
        assert!(lens.iter().all(|len| (least..=CHUNK_BYTES_MAX).contains(len)), "{lens:?}");
    }

    fn new_bytes(before: &[u8], after: &[u8]) -> usize {
        let before: BTreeSet<&[u8]> = cut(before).collect();
        cut(after).filter(|piece| !before.contains(piece)).map(<[u8]>::len).sum()
    }

    fn layer(kib: usize, seed: u64) -> Vec<u8> {
        noise(kib << 10, seed)
    }

    #[test]
    fn a_model_is_cut_where_its_large_initialisers_begin_and_end() {
        let nodes = noise(20_000, 9);
        let tensors = [("a", layer(20, 1)), ("s", layer(1, 2)), ("b", layer(300, 3))];
        let file = onnx_file(&nodes, &tensors);
        let cuts: BTreeSet<usize> =
            cut(&file).map(|piece| piece.as_ptr() as usize - file.as_ptr() as usize).collect();
        let found = initialisers(&file);
        assert!(cuts.contains(&found[0].data.start) && cuts.contains(&found[0].data.end));
        assert!(!cuts.contains(&found[1].data.start) && !cuts.contains(&found[1].data.end));
        assert!(!cuts.contains(&found[2].data.start), "a small initialiser lies just before");
        check(&file);
    }

    #[test]
    fn a_retrained_layer_costs_little_more_than_itself() {
        let model = |last: u64| {
            onnx_file(b"", &[("a", layer(300, 1)), ("b", layer(200, 2)), ("c", layer(40, last))])
        };
        let new = new_bytes(&model(3), &model(4));
        assert!(new < (40 << 10) + 100, "{new} bytes are new");
    }

    #[test]
    fn an_added_layer_costs_little_more_than_itself() {
        let (a, b, added) = (layer(300, 1), layer(200, 2), layer(30, 3));
        let before = onnx_file(b"", &[("a", a.clone()), ("b", b.clone())]);
        let after = onnx_file(b"", &[("a", a), ("added", added), ("b", b)]);
        let new = new_bytes(&before, &after);
        // The first piece has the length of the graph inside.
        assert!(new < (30 << 10) + CHUNK_BYTES_MAX + 100, "{new} bytes are new");
    }

    #[test]
    fn the_largest_model_of_small_or_large_layers_keeps_the_limit_on_chunks() {
        let len = usize::try_from(BUNDLE_BYTES_MAX).expect("it fits") - (1 << 20);
        let weights = noise(len, 5);
        for kib in [16, 520] {
            let layers = weights.chunks(kib << 10).map(|layer| ("w", layer.to_vec()));
            let pieces = cut(&onnx_file(b"", &layers.collect::<Vec<_>>())).count();
            assert!(pieces <= CHUNKS_MAX, "{pieces} pieces of layers of {kib} KiB");
        }
    }

    proptest! {
        #![proptest_config(cases(64))]

        #[test]
        fn pieces_are_the_blob_and_neither_tiny_nor_too_large(
            lens in prop::collection::vec(prop_oneof![0..200_usize, 0..20_000_usize, 0..200_000_usize], 0..8),
            nodes in 0..40_000_usize,
            seed: u64,
        ) {
            let tensors: Vec<(&str, Vec<u8>)> =
                lens.iter().zip(seed..).map(|(&len, seed)| ("w", noise(len, seed))).collect();
            let file = onnx_file(&noise(nodes, seed), &tensors);
            check(&file);
            check(&file[..file.len() - 1]);
        }
    }
}
