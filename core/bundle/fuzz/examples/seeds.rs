//! Writes the seeds of the fuzz targets, made of a genuine bundle: `cargo run --example seeds`.

use std::{fs, path::Path};

use selvedge_bundle::{
    ChunkIndex, Manifest, ManifestDraft, Patch, chunks_of, compress,
    oms::{Tree, VerifyingKey, verify},
};
use selvedge_bundle_fuzz::{NEW, OLD, SIGNATURE, SIGNED_FILES, SIGNER, blob, bundle, manifest};
use selvedge_wire::ChunkCodec;

/// The models that the repository brings.
const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../models");

fn main() {
    write("manifest", "manifest", &manifest("1.0.0"));
    write("manifest", "oci-manifest", NEW.oci_manifest());
    for model in ["meter-digits", "shuttle"] {
        let folder = Path::new(MODELS).join(model).join("v1");
        let text = fs::read_to_string(folder.join("manifest.toml")).expect("it has a manifest");
        let mut draft: ManifestDraft = toml::from_str(&text).expect("the recipe writes manifests");
        // What only the file says.
        (draft.model, draft.reference, draft.golden.dir) = (None, None, None);
        let manifest = Manifest::try_from(draft).expect("it keeps every rule");
        write("manifest", model, &manifest.to_json());
    }
    let model = fs::read(Path::new(MODELS).join("shuttle/v1/model.onnx")).expect("it has a model");
    write("blobs", "model", &[b"m", &model[..]].concat());

    let small = bundle("1.0.0", b"model".to_vec());
    for (name, bundle) in [("index", &*NEW), ("small-index", &small)] {
        let index = ChunkIndex::of(bundle).expect("the bundle is small");
        write("chunk_index", name, &index.encode());
    }
    let (_, content) = chunks_of(&NEW).find(|(_, content)| content.len() % 4 == 0).expect("some");
    let len = u16::try_from(content.len() / 4).expect("the bundle is small").to_le_bytes();
    for (name, codec, bytes) in [
        ("raw-chunk", ChunkCodec::Raw, content.to_vec()),
        ("zstd-chunk", ChunkCodec::Zstd, compress(content).bytes),
    ] {
        write("chunk_index", name, &[&len[..], &[codec as u8], &bytes].concat());
    }

    let baseline = OLD.baseline().expect("the example has one").encode();
    write("blobs", "baseline", &[b"b", &baseline[..]].concat());
    for (name, content) in OLD.layers().filter(|(name, _)| name.ends_with(".npy")) {
        write("blobs", &name.replace('/', "-"), &[b"n", content].concat());
    }

    let patch = Patch::make(&OLD, &NEW).expect("both are sound").expect("a patch is smaller");
    write("patch", "patch", &patch.encode());
    write("patch", "index", &patch.index().encode());
    let missing = NEW.blobs().filter(|(digest, _)| blob(&OLD, *digest).is_err());
    let content: Vec<u8> = missing.flat_map(|(_, bytes)| bytes.to_vec()).collect();
    write("patch", "content", &[&[2, 0, 0], &content[..]].concat());
    // No segments.
    write("patch", "differences", &[&[3, 0, 0, 0], &content[..]].concat());

    let mut tree = Tree::default();
    for (path, content) in SIGNED_FILES {
        tree.add(path, content.as_bytes()).expect("a path of a file");
    }
    let key = VerifyingKey::from_pem(SIGNER).expect("a key by OpenSSL");
    verify(&tree, SIGNATURE, &key).expect("these files were signed");
    write("model_signature", "signature", SIGNATURE);
    write("model_signature", "key", SIGNER.as_bytes());
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("the corpus can be written");
    fs::write(folder.join(name), bytes).expect("the corpus can be written");
}
