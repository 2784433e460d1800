//! A small bundle for the tests of this crate. Its model is no graph: nothing here looks into it.

use serde_json::json;

use crate::{
    Baseline, Bundle, BundleBuilder, Golden, Manifest, NamedTensor, ReferenceData, TensorData,
};

pub(crate) fn manifest() -> Manifest {
    let manifest = json!({
        "name": "example", "version": "1.0.0", "task": "tabular-classification",
        "description": "An example.", "license": "CC0-1.0",
        "sample": {"kind": "row", "columns": [{"name": "a"}, {"name": "b"}]},
        "inputs": [{"name": "x", "axes": ["batch", "f"], "shape": [-1, 2], "dtype": "f32"}],
        "outputs": [{"name": "y/0", "axes": ["batch", "class"], "shape": [-1, 1], "dtype": "i8"}],
        "golden": {"origin": "user", "framework": "by hand", "tolerance": {"y/0": 0}},
    });
    Manifest::from_json(manifest.to_string().as_bytes()).expect("keeps every rule")
}

pub(crate) fn builder(model: Vec<u8>) -> BundleBuilder {
    let manifest = manifest();
    let tensor = |name, shape, data| NamedTensor::new(name, shape, data).expect("shapes agree");
    let inputs = vec![tensor("x", vec![2, 2], TensorData::F32(vec![0.0, 0.5, 1.0, 1.5]))];
    let outputs = vec![tensor("y/0", vec![2, 1], TensorData::I8(vec![-3, 4]))];
    let golden = Golden::new(&manifest, inputs, outputs).expect("as the manifest says");
    let features = [("a".to_owned(), vec![1.0, 2.0]), ("b".to_owned(), vec![3.0, 3.0])];
    let reference = ReferenceData { features: &features, ..ReferenceData::default() };
    let baseline = Some(Baseline::build(&reference).expect("finite values"));
    let card = Some("# Example\n".to_owned());
    let program = Some(noise(700, 2));
    BundleBuilder { manifest, model, program, baseline, golden, card }
}

pub(crate) fn bundle(model: Vec<u8>) -> Bundle {
    builder(model).build().expect("the example is sound")
}

/// Bytes without a pattern, the same in every run.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// How many cases a property test runs: `usual`, or what `SELVEDGE_CASES` says.
pub(crate) fn cases(usual: u32) -> proptest::test_runner::Config {
    let cases = std::env::var("SELVEDGE_CASES").ok().and_then(|text| text.parse().ok());
    proptest::test_runner::Config::with_cases(cases.unwrap_or(usual))
}

/// An ONNX file as Protocol Buffers have it: a graph with `nodes` (not looked into) and initialisers.
pub(crate) fn onnx_file(nodes: &[u8], initialisers: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let field = |number: u8, value: &[u8]| {
        let mut bytes = vec![number << 3 | 2];
        let mut len = value.len();
        while len > 0x7f {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        [&bytes, value].concat()
    };
    let mut graph = field(1, nodes);
    for (name, data) in initialisers {
        graph.extend(field(5, &[field(8, name.as_bytes()), field(9, data)].concat()));
    }
    [vec![0x08, 10], field(7, &graph)].concat()
}
