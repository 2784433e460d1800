//! What an update costs on the wire: two bundles around two ONNX files, and the bytes between them.
//!
//! usage: `transfer OLD.onnx NEW.onnx FOLDER`
//!
//! Prints one JSON object with the bytes of MQTT payloads, and writes what other tools are measured with into
//! the folder: `old` and `new`, the blobs of each bundle one after another. `tests/transfer_bytes` runs it.
//!
//! Beside the model, what changes with every version changes: the version in the manifest, the expected
//! outputs, the class counts of the baseline.

use std::{
    collections::BTreeSet, env, error::Error, fs, path::Path, process::ExitCode, time::Instant,
};

use selvedge_bundle::{
    Baseline, Bundle, BundleBuilder, ChunkIndex, Golden, Manifest, NamedTensor, Patch,
    ReferenceAnswer, ReferenceData, TensorData, apply_patch, chunks_of, compress,
};
use selvedge_wire::{BundleOffer, Chunk, ChunkCodec, Message, encode};
use serde_json::json;

const COLUMNS: usize = 16;
const CLASSES: usize = 10;
const GOLDEN_ROWS: usize = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [old, new, folder] = arguments.as_slice() else {
        eprintln!("usage: transfer OLD.onnx NEW.onnx FOLDER");
        return ExitCode::from(2);
    };
    match compare(Path::new(old), Path::new(new), Path::new(folder)) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(old: &Path, new: &Path, folder: &Path) -> Result<serde_json::Value, Box<dyn Error>> {
    let old = bundle("1.0.0", fs::read(old)?, 1)?;
    let new = bundle("1.1.0", fs::read(new)?, 2)?;
    for (name, bundle) in [("old", &old), ("new", &new)] {
        let blobs: Vec<u8> = bundle.blobs().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        fs::write(folder.join(name), blobs)?;
    }

    let index = ChunkIndex::of(&new)?;
    let present: BTreeSet<_> = ChunkIndex::of(&old)?.chunks().collect();
    let missing = chunks_of(&new).filter(|(chunk, _)| !present.contains(chunk));
    let missing: Vec<usize> = missing.map(|(_, content)| sent(&compress(content))).collect();
    let offer = sent(&BundleOffer { index: index.encode() });
    let plain = offer + missing.iter().sum::<usize>();
    let all = offer + chunks_of(&new).map(|(_, c)| sent(&compress(c))).sum::<usize>();
    let mut report = json!({
        "bundle_bytes": new.len_bytes(), "chunks": index.chunk_count(), "chunks_new": missing.len(),
        "offer_bytes": offer, "first_install_bytes": all, "chunks_bytes": plain,
        "ours_bytes": plain, "way": "chunks",
    });

    let started = Instant::now();
    let patch = Patch::make(&old, &new)?;
    report["make_ms"] = json!(started.elapsed().as_millis());
    let Some(patch) = patch else { return Ok(report) };
    let piece = |bytes: &[u8]| sent(&Chunk { codec: ChunkCodec::Raw, bytes: bytes.to_vec() });
    let encoded = patch.index().encode();
    let pieces = patch.pieces().map(|(_, content)| content).chain([encoded.as_slice()]);
    let bytes: usize = pieces.map(piece).sum();

    let started = Instant::now();
    let blobs = apply_patch(
        patch.index(),
        old.digest(),
        (new.digest(), new.oci_manifest().len() as u64),
        |wanted| {
            let found = patch.pieces().find(|(piece, _)| piece == wanted);
            Ok(found.expect("the patch has its pieces").1.to_vec())
        },
        |digest| {
            let found = old.blobs().find(|(known, _)| *known == digest);
            Ok(found.expect("only blobs of the old bundle are asked for").1.to_vec())
        },
    )?;
    report["apply_ms"] = json!(started.elapsed().as_millis());
    let whole = |(digest, bytes): &(_, Vec<u8>)| {
        new.blobs().any(|blob| blob == (*digest, bytes.as_slice()))
    };
    assert!(blobs.iter().all(whole), "a patch gives the blobs of the new bundle");
    report["patch_bytes"] = json!(patch.index().len_bytes());
    report["memory_bytes"] = json!(patch.index().memory_bytes());
    if bytes < plain {
        report["ours_bytes"] = json!(bytes);
        report["way"] = json!(patch.index().codec().as_str());
    }
    Ok(report)
}

/// The length of the payload that carries a message.
fn sent<M: Message>(message: &M) -> usize {
    encode(message).len()
}

/// A bundle of the usual parts around a model.
fn bundle(version: &str, model: Vec<u8>, seed: u64) -> Result<Bundle, Box<dyn Error>> {
    let columns: Vec<_> = (0..COLUMNS).map(|i| json!({"name": format!("f{i}")})).collect();
    let manifest = json!({
        "name": "transfer", "version": version, "task": "tabular-classification",
        "description": "A bundle to measure transfers with.", "license": "CC0-1.0",
        "sample": {"kind": "row", "columns": columns},
        "inputs": [{"name": "x", "axes": ["batch", "f"], "shape": [-1, COLUMNS], "dtype": "f32"}],
        "outputs": [{"name": "y", "axes": ["batch", "c"], "shape": [-1, CLASSES], "dtype": "f32"}],
        "post": [{"op": "argmax", "output": "y"}],
        "golden": {"origin": "user", "framework": "onnxruntime", "tolerance": {"y": 0.1}},
    });
    let manifest = Manifest::from_json(manifest.to_string().as_bytes())?;
    let mut values = Values(7);
    let inputs = values.take(GOLDEN_ROWS * COLUMNS);
    let features: Vec<(String, Vec<f32>)> =
        (0..COLUMNS).map(|i| (format!("f{i}"), values.take(1_000))).collect();
    let outputs = Values(seed).take(GOLDEN_ROWS * CLASSES);
    // Other shares of the classes with each version.
    let answer = |row: u64| ReferenceAnswer {
        class: Some((row * (2 + seed) / 3 % CLASSES as u64) as u32),
        ..ReferenceAnswer::default()
    };
    let answers: Vec<_> = (0..1_000).map(answer).collect();
    let tensor =
        |name, width, data| NamedTensor::new(name, vec![GOLDEN_ROWS, width], TensorData::F32(data));
    let inputs = vec![tensor("x", COLUMNS, inputs)?];
    let outputs = vec![tensor("y", CLASSES, outputs)?];
    let golden = Golden::new(&manifest, inputs, outputs)?;
    let reference = ReferenceData {
        features: &features,
        answers: &answers,
        class_count: CLASSES,
        ..ReferenceData::default()
    };
    let baseline = Some(Baseline::build(&reference)?);
    let card = Some("---\nlicense: cc0-1.0\n---\n# Transfer\n".to_owned());
    Ok(BundleBuilder { manifest, model, program: None, baseline, golden, card }.build()?)
}

/// Numbers between 0 and 1 without a pattern, the same in every run: SplitMix64 (Steele, Lea, Flood 2014).
struct Values(u64);

impl Values {
    fn take(&mut self, count: usize) -> Vec<f32> {
        let mut next = || {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed >> 40) as f32 / (1 << 24) as f32
        };
        (0..count).map(|_| next()).collect()
    }
}
