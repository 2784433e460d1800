use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    Manifest,
    example::{builder, cases, manifest, noise, onnx_file},
    limits::PATCH_MEMORY_BYTES_MAX,
};

/// The example with this version, model and card.
fn bundle(version: &str, model: Vec<u8>, card: &str) -> Bundle {
    let mut draft = manifest().into_draft();
    draft.version = version.parse().expect("semantic");
    let mut builder = builder(model);
    builder.manifest = Manifest::try_from(draft).expect("keeps every rule");
    builder.card = (!card.is_empty()).then(|| card.to_owned());
    builder.build().expect("the example is sound")
}

fn layers(list: &[(&str, Vec<u8>)]) -> Vec<u8> {
    onnx_file(b"nodes", list)
}

/// Weights that look like those of a quantised layer: small values are more frequent.
fn weights(len: usize, seed: u64) -> Vec<u8> {
    noise(4 * len, seed).chunks(4).map(|four| four.iter().map(|byte| byte / 4).sum()).collect()
}

/// Moves each weight by at most 1.
fn nudged(weights: &[u8], seed: u64) -> Vec<u8> {
    let moves = noise(weights.len(), seed);
    weights
        .iter()
        .zip(moves)
        .map(|(weight, by)| weight.wrapping_add(by % 3).wrapping_sub(1))
        .collect()
}

fn first() -> Bundle {
    bundle("1.0.0", layers(&[("a", weights(60_000, 1)), ("b", weights(30_000, 2))]), "# Card\n")
}

fn second() -> Bundle {
    let (a, b) = (nudged(&weights(60_000, 1), 3), nudged(&weights(30_000, 2), 4));
    bundle("1.1.0", layers(&[("a", a), ("b", b)]), "# Card\n")
}

fn made(old: &Bundle, new: &Bundle) -> Patch {
    Patch::make(old, new).expect("zstd has memory").expect("a patch is smaller than chunks")
}

/// What a signed target says of a bundle.
fn named(bundle: &Bundle) -> (Digest, u64) {
    (bundle.digest(), bundle.oci_manifest().len() as u64)
}

/// What a device that has `old` makes of it.
fn apply(
    index: &PatchIndex,
    bytes: &[u8],
    old: &Bundle,
    new: &Bundle,
) -> Result<Vec<(Digest, Vec<u8>)>, Error> {
    let pieces: BTreeMap<Digest, &[u8]> =
        bytes.chunks(CHUNK_BYTES_MAX).map(|piece| (digest_of(piece), piece)).collect();
    let piece = |piece: &ChunkRef| Ok(pieces.get(&piece.digest).map_or(vec![], |p| p.to_vec()));
    let blob = |digest: Digest| {
        let blob = old.blobs().find(|(known, _)| *known == digest);
        blob.map(|(_, bytes)| bytes.to_vec())
            .ok_or_else(|| Error::Missing { part: format!("blob {digest}") })
    };
    apply_patch(index, old.digest(), named(new), piece, blob)
}

/// Panics unless the blobs are exactly those of `new` that `old` does not have.
fn check(blobs: &[(Digest, Vec<u8>)], old: &Bundle, new: &Bundle) {
    let wanted = new.blobs().filter(|(digest, _)| old.blobs().all(|(known, _)| known != *digest));
    let wanted: Vec<(Digest, Vec<u8>)> =
        wanted.map(|(digest, bytes)| (digest, bytes.to_vec())).collect();
    assert!(blobs == wanted, "other blobs than those of the new bundle");
}

/// An index that fits `bytes`, whatever they are.
fn resealed(index: &PatchIndex, bytes: &[u8]) -> PatchIndex {
    let pieces = bytes.chunks(CHUNK_BYTES_MAX).map(ChunkRef::of).collect();
    PatchIndex { pieces, ..index.clone() }
}

#[test]
fn every_kind_of_change_leads_to_the_new_bundle() {
    let (a, b) = (weights(60_000, 1), weights(30_000, 2));
    let with = |list: &[(&str, Vec<u8>)]| bundle("1.1.0", layers(list), "# Card\n");
    let both = |b: Vec<u8>| with(&[("a", a.clone()), ("b", b)]);
    let prefix = PatchCodec::Prefix;
    let difference = PatchCodec::Difference;
    let cases = [
        ("last layer retrained", both(weights(30_000, 9)), prefix, 33_000),
        ("last layer larger", both(weights(40_000, 9)), prefix, 44_000),
        ("all nudged", second(), difference, 25_000),
        (
            "nudged, and a layer added",
            with(&[("a", nudged(&a, 3)), ("c", weights(5_000, 9)), ("b", nudged(&b, 4))]),
            difference,
            31_000,
        ),
        (
            "a layer added",
            with(&[("c", weights(5_000, 9)), ("a", a.clone()), ("b", b.clone())]),
            prefix,
            7_000,
        ),
        ("a layer removed", with(&[("b", b.clone())]), prefix, 1_000),
        ("layers in another order", with(&[("b", b.clone()), ("a", a.clone())]), prefix, 1_000),
        ("the card alone", bundle("1.1.0", first().model().to_vec(), "# Another\n"), prefix, 1_000),
    ];
    let old = first();
    for (what, new, codec, most) in cases {
        let patch = made(&old, &new);
        let index = patch.index();
        assert_eq!((patch.source(), patch.target()), (old.digest(), new.digest()));
        assert!(index.codec() == codec, "{what}: {}", index.codec().as_str());
        assert!(index.len_bytes() < most, "{what}: {} bytes", index.len_bytes());
        assert_eq!(PatchIndex::decode(&index.encode()).as_ref().ok(), Some(index), "{what}");
        assert_eq!(Patch::decode(&patch.encode()).as_ref().ok(), Some(&patch), "{what}");
        let pieces: Vec<u8> = patch.pieces().flat_map(|(_, content)| content.to_vec()).collect();
        check(&apply(index, &pieces, &old, &new).expect("our own"), &old, &new);
    }
}

#[test]
fn a_patch_that_saves_nothing_is_not_made() {
    let old = first();
    assert_eq!(Patch::make(&old, &old).expect("zstd has memory"), None);
    // Noise has no difference from other noise that would be shorter than itself.
    let strange = bundle("1.1.0", noise(90_000, 77), "");
    if let Some(patch) = Patch::make(&old, &strange).expect("zstd has memory") {
        let saved = missing_bytes(&old, &strange).expect("small") - patch.sent_bytes();
        assert!(saved < 2_000, "only the small blobs can be shorter, not by {saved} bytes");
    }
}

#[test]
fn a_bundle_beyond_the_limits_has_no_patch() {
    let len = usize::try_from(PATCH_CONTENT_BYTES_MAX).expect("it fits");
    let large = bundle("1.0.0", vec![7; len], "");
    assert_eq!(Patch::make(&first(), &large).expect("zstd has memory"), None);
    assert_eq!(Patch::make(&large, &first()).expect("zstd has memory"), None);
}

#[test]
fn the_memory_is_stated_and_bounded() {
    let piece = |len| ChunkRef { digest: Digest([1; 32]), len_bytes: len };
    let full = PATCH_BYTES_MAX as usize / CHUNK_BYTES_MAX;
    let mut pieces = vec![piece(CHUNK_BYTES_MAX as u32); full];
    pieces.push(piece((PATCH_BYTES_MAX as usize - full * CHUNK_BYTES_MAX) as u32));
    let largest = PatchIndex {
        source_bytes: PATCH_SOURCE_BYTES_MAX,
        content_bytes: PATCH_CONTENT_BYTES_MAX,
        pieces,
        ..made(&first(), &second()).index().clone()
    };
    assert_eq!(PatchIndex::decode(&largest.encode()).as_ref().ok(), Some(&largest));
    assert_eq!(largest.memory_bytes(), PATCH_MEMORY_BYTES_MAX);
    assert!(largest.encode().len() < CHUNK_BYTES_MAX, "it travels as a piece does");
}

#[test]
fn a_piece_that_is_not_what_the_index_says_is_refused_by_its_digest() {
    let (old, new) = (first(), second());
    let patch = made(&old, &new);
    let expected = patch.index().pieces()[0].digest.to_string();
    let target = named(&new);
    let blob =
        |digest| Ok(old.blobs().find(|(known, _)| *known == digest).expect("old").1.to_vec());
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut bytes = patch.bytes.clone();
        change(&mut bytes);
        bytes
    };
    for bytes in [
        changed(|bytes| bytes[500] ^= 1),
        changed(|bytes| bytes.truncate(500)),
        changed(|bytes| bytes.push(0)),
        changed(Vec::clear),
    ] {
        let piece = |_: &ChunkRef| Ok(bytes.clone());
        let error = apply_patch(patch.index(), old.digest(), target, piece, blob)
            .expect_err("not the piece");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn another_source_or_target_is_refused() {
    let (old, new) = (first(), second());
    let patch = made(&old, &new);
    let refused = |index: &PatchIndex, old: &Bundle, new: &Bundle| {
        apply(index, &patch.bytes, old, new).expect_err("it does not fit").to_string()
    };
    let other = bundle("1.0.1", old.model().to_vec(), "# Card\n");
    assert!(!refused(patch.index(), &other, &new).is_empty());
    assert!(refused(patch.index(), &old, &other).contains("OCI manifest"));

    // A disk that lost a bit of the old model.
    let spoilt = |digest: Digest| {
        let (_, bytes) = old.blobs().find(|(known, _)| *known == digest).expect("old");
        let mut bytes = bytes.to_vec();
        if bytes == old.model() {
            bytes[77] ^= 4;
        }
        Ok(bytes)
    };
    let piece = |_: &ChunkRef| Ok(patch.bytes.clone());
    let error = apply_patch(patch.index(), old.digest(), named(&new), piece, spoilt);
    assert!(matches!(error, Err(Error::Digest { .. })), "{error:?}");
}

#[test]
fn an_index_that_lies_about_the_patch_is_refused() {
    let (old, new) = (first(), second());
    let patch = made(&old, &new);
    let good = patch.index().clone();
    let bytes = &patch.bytes;
    let bomb = compress_after(b"", &vec![0; 1 << 28], 3).expect("zeros compress");
    assert!(bomb.len() < 100_000, "the bomb would be delivered");
    let table = |rows: &[[u32; 3]]| {
        let mut content = postcard::to_extend(rows, Vec::new()).expect("numbers");
        content.extend(vec![0; good.content_bytes as usize]);
        compress_after(b"", &content, 3).expect("zeros compress")
    };
    let many = [[0; 3]; SEGMENTS_MAX + 1];
    let with = |content_bytes, bytes: &[u8]| {
        (PatchIndex { content_bytes, ..resealed(&good, bytes) }, bytes.to_vec())
    };
    let rows =
        |rows: &[[u32; 3]], row_bytes: u64| with(good.content_bytes + row_bytes, &table(rows));
    let longer = good.content_bytes + 1;
    let cases = [
        ("source", (PatchIndex { source_bytes: 7, ..good.clone() }, bytes.clone()), "says 7"),
        ("longer", with(longer, bytes), "it expands to"),
        ("shorter", with(good.content_bytes - 1, bytes), "does not expand"),
        ("nothing", with(0, bytes), "does not expand"),
        (
            "codec",
            (PatchIndex { codec: PatchCodec::Prefix, ..good.clone() }, bytes.clone()),
            "(OCI manifest)",
        ),
        ("kept", (PatchIndex { kept_blobs: 0, ..good.clone() }, bytes.clone()), "its source has"),
        ("bomb", with(good.content_bytes, &bomb), "does not expand"),
        ("no frame", with(good.content_bytes, b"no frame"), "does not expand"),
        ("cut frame", with(good.content_bytes, &bytes[..bytes.len() - 1]), "does not expand"),
        ("two frames", with(good.content_bytes, &bytes.repeat(2)), "does not expand"),
        ("gap outside", rows(&[[u32::MAX, 1, 0]], 8), "a gap lies outside"),
        ("too long", rows(&[[0, u32::MAX, 0]], 8), "longer than its content"),
        ("too long together", rows(&[[0, 1 << 31, 0]; 4], 29), "longer than its content"),
        ("source outside", rows(&[[0, 1, u32::MAX]], 8), "a segment lies outside"),
        ("too many segments", rows(&many, 12_293), "too many segments"),
        ("zeros", with(good.content_bytes, &table(&[])[..]), "does not expand"),
        ("zeros of the right length", rows(&[], 1), "(OCI manifest)"),
    ];
    let failures: Vec<String> = cases
        .into_iter()
        .filter_map(|(what, (index, bytes), reason)| match apply(&index, &bytes, &old, &new) {
            Err(error) if error.to_string().contains(reason) => None,
            other => Some(format!("{what}: {:?}", other.map(|blobs| blobs.len()))),
        })
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn an_index_that_breaks_a_limit_or_contradicts_itself_is_refused() {
    let good = made(&first(), &second()).index().clone();
    let piece = |len_bytes| ChunkRef { digest: Digest([1; 32]), len_bytes };
    let with = |pieces| PatchIndex { pieces, ..good.clone() }.encode();
    let full = piece(CHUNK_BYTES_MAX as u32);
    let bytes = good.encode();
    let cases = [
        ("empty", vec![], "empty"),
        ("version", [&[9], &bytes[1..]].concat(), "version is 9"),
        ("cut", bytes[..bytes.len() - 1].to_vec(), "cut or garbled"),
        ("trailing byte", [&bytes[..], &[0]].concat(), "one encoding"),
        ("no pieces", with(vec![]), "no pieces"),
        ("an empty piece", with(vec![piece(0)]), "0 bytes, not 1"),
        ("a large piece", with(vec![piece(98_305)]), "98305 bytes"),
        ("tiny pieces", with(vec![piece(1); 100]), "a piece before the last"),
        ("a long patch", with(vec![full; 87]), "limit of 8388608"),
        ("a million pieces", with(vec![full; 1_000_000]), "limit of 4096"),
        (
            "a large source",
            PatchIndex { source_bytes: u64::MAX, ..good.clone() }.encode(),
            "limit of 16777216",
        ),
        (
            "a large content",
            PatchIndex { content_bytes: (16 << 20) + 1, ..good.clone() }.encode(),
            "limit of 16777216",
        ),
    ];
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|(what, bytes, reason)| match PatchIndex::decode(bytes) {
            Err(error) if error.to_string().contains(reason) => None,
            other => Some(format!("{what}: {other:?}")),
        })
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_spoilt_file_of_a_patch_is_refused() {
    let patch = made(&first(), &second());
    let file = patch.encode();
    for end in [0, 3, 4, 50, file.len() - 1] {
        assert!(Patch::decode(&file[..end]).is_err(), "{end}");
    }
    for at in [0, 3, 10, 200, file.len() - 1] {
        let mut spoilt = file.clone();
        spoilt[at] ^= 0x40;
        assert!(Patch::decode(&spoilt).ok().as_ref() != Some(&patch), "{at}");
    }
    assert!(Patch::decode(&[&file[..], &[0]].concat()).is_err());
}

/// A model made of these layers: the seed of the weights, how far they are nudged, how long they are.
fn model() -> impl Strategy<Value = Vec<(u8, u8, usize)>> {
    prop::collection::vec((0..4_u8, 0..3_u8, 0..3_usize), 0..5)
}

fn model_of(list: &[(u8, u8, usize)]) -> Vec<u8> {
    let names = ["a", "b", "c", "d", "e"];
    let layer = |&(seed, nudge, size): &(u8, u8, usize)| {
        let base = weights([50, 3_000, 20_000][size], u64::from(seed));
        if nudge == 0 { base } else { nudged(&base, u64::from(nudge)) }
    };
    let list: Vec<_> = list.iter().zip(names).map(|(is, name)| (name, layer(is))).collect();
    layers(&list)
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn what_is_made_leads_to_the_new_bundle(old in model(), new in model(), card in "[a-c]{0,3}") {
        let old = bundle("1.0.0", model_of(&old), "a");
        let new = bundle("1.0.1", model_of(&new), &card);
        if let Some(patch) = Patch::make(&old, &new).expect("zstd has memory") {
            check(&apply(patch.index(), &patch.bytes, &old, &new).expect("our own"), &old, &new);
            prop_assert!(patch.sent_bytes() < missing_bytes(&old, &new).expect("small"));
        }
    }
}

proptest! {
    #![proptest_config(cases(256))]

    /// The pieces have the digests that the index says, as a forger would make them.
    #[test]
    fn a_forged_patch_leads_to_the_new_bundle_or_nowhere(
        spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        codec in prop::option::of(prop::sample::select(vec![PatchCodec::Prefix, PatchCodec::Difference])),
        content in prop::option::of(0..200_000_u64),
    ) {
        static MADE: std::sync::LazyLock<(Bundle, Bundle, Patch)> = std::sync::LazyLock::new(|| {
            let (old, new) = (first(), second());
            let patch = made(&old, &new);
            (old, new, patch)
        });
        let (old, new, patch) = &*MADE;
        let mut bytes = patch.bytes.clone();
        for (at, byte) in spoil {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()).max(1));
        }
        let mut index = resealed(patch.index(), &bytes);
        index.codec = codec.unwrap_or(index.codec);
        index.content_bytes = content.unwrap_or(index.content_bytes);
        if let Ok(made) = apply(&index, &bytes, old, new) {
            check(&made, old, new);
        }
    }

    #[test]
    fn hostile_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = merged(&[1; 100], &bytes);
        let _ = Patch::decode(&bytes);
        if let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        if let Ok(index) = PatchIndex::decode(&bytes) {
            prop_assert_eq!(index.encode(), bytes);
            prop_assert!(index.memory_bytes() <= PATCH_MEMORY_BYTES_MAX);
        }
    }
}
