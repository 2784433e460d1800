//! What the fuzz targets share: two versions of a small bundle. Their model is no graph.

use std::sync::LazyLock;

use selvedge_bundle::{
    Baseline, Bundle, BundleBuilder, CHUNK_BYTES_MAX, Error, Golden, Manifest, NamedTensor,
    ReferenceData, TensorData, digest_of,
};
use selvedge_wire::Digest;
use serde_json::json;

/// Files with a signature by PyPI `model-signing`, and the key that verifies it.
pub const SIGNED_FILES: [(&str, &str); 4] = [
    ("README.md", "# Example\n"),
    ("golden/x.npy", "a tensor\n"),
    ("golden.txt", "golden, but no folder\n"),
    ("model.onnx", "a graph\n"),
];
/// The signature.
pub const SIGNATURE: &[u8] = include_bytes!("../../testdata/oms/model.sig");
/// The key.
pub const SIGNER: &str = include_str!("../../testdata/oms/public.pem");

const MODEL_BYTES: usize = 20_000;

/// The bundle that a device has.
pub static OLD: LazyLock<Bundle> = LazyLock::new(|| bundle("1.0.0", model(0)));
/// The bundle that is to come: every weight of its model moved a little.
pub static NEW: LazyLock<Bundle> = LazyLock::new(|| bundle("1.1.0", model(1)));

/// The manifest of a version, in JSON.
pub fn manifest(version: &str) -> Vec<u8> {
    let manifest = json!({
        "name": "example", "version": version, "task": "tabular-classification",
        "description": "An example.", "license": "CC0-1.0",
        "sample": {"kind": "row", "columns": [{"name": "a"}, {"name": "b"}]},
        "inputs": [{"name": "x", "axes": ["batch", "f"], "shape": [-1, 2], "dtype": "f32"}],
        "outputs": [{"name": "y", "axes": ["batch", "class"], "shape": [-1, 1], "dtype": "i8"}],
        "golden": {"origin": "user", "framework": "by hand", "tolerance": {"y": 0}},
    });
    manifest.to_string().into_bytes()
}

/// A bundle around a model.
pub fn bundle(version: &str, model: Vec<u8>) -> Bundle {
    let manifest = Manifest::from_json(&manifest(version)).expect("keeps every rule");
    let tensor = |name, shape, data| NamedTensor::new(name, shape, data).expect("shapes agree");
    let inputs = vec![tensor("x", vec![2, 2], TensorData::F32(vec![0.0, 0.5, 1.0, 1.5]))];
    let outputs = vec![tensor("y", vec![2, 1], TensorData::I8(vec![-3, 4]))];
    let golden = Golden::new(&manifest, inputs, outputs).expect("as the manifest says");
    let features = [("a".to_owned(), vec![1.0, 2.0]), ("b".to_owned(), vec![3.0, 3.0])];
    let reference = ReferenceData { features: &features, ..ReferenceData::default() };
    let baseline = Some(Baseline::build(&reference).expect("finite values"));
    let card = Some("# Example\n".to_owned());
    let bundle = BundleBuilder { manifest, model, program: None, baseline, golden, card }.build();
    bundle.expect("the example is sound")
}

/// A blob of a bundle.
pub fn blob(bundle: &Bundle, digest: Digest) -> Result<Vec<u8>, Error> {
    let found = bundle.blobs().find(|(known, _)| *known == digest);
    found
        .map(|(_, bytes)| bytes.to_vec())
        .ok_or_else(|| Error::Missing { part: format!("blob {digest}") })
}

/// The encoding of a patch index from [`OLD`] to [`NEW`] that says what is given here.
pub fn patch_index(codec: u8, source_bytes: u64, content_bytes: u64, patch: &[u8]) -> Vec<u8> {
    let mut index = vec![1];
    index.push(codec);
    let kept = OLD
        .blobs()
        .zip(0..)
        .map(|((digest, _), place)| u64::from(blob(&NEW, digest).is_ok()) << place);
    write_varint(kept.sum(), &mut index);
    write_varint(source_bytes, &mut index);
    write_varint(content_bytes, &mut index);
    let pieces = patch.chunks(CHUNK_BYTES_MAX);
    write_varint(pieces.len() as u64, &mut index);
    for piece in pieces {
        index.extend(digest_of(piece).0);
        write_varint(piece.len() as u64, &mut index);
    }
    index
}

/// As postcard writes integers.
fn write_varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Bytes without a pattern (xorshift64, Marsaglia 2003), `nudge` added to every second one.
fn model(nudge: u8) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let weight = |i: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 32) as u8).wrapping_add(nudge * (i % 2) as u8)
    };
    (0..MODEL_BYTES).map(weight).collect()
}
