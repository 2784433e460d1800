//! A model starts no thread of its own. This file has one test, so that no other test's threads are counted.

use std::fs;
use std::path::Path;

use selvedge_bundle::{Golden, Manifest, ManifestDraft};
use selvedge_runtime::{LoadOptions, Model, Sample};

#[test]
fn loading_and_answering_start_no_thread() {
    let Some(before) = thread_count() else {
        eprintln!("skipped: this system has no /proc/self/task");
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shuttle/v1");
    let text = fs::read_to_string(folder.join("manifest.toml")).expect("the recipe has a manifest");
    let mut draft: ManifestDraft = toml::from_str(&text).expect("the manifest is well-formed");
    (draft.model, draft.reference, draft.golden.dir) = (None, None, None);
    let manifest = Manifest::try_from(draft).expect("the manifest keeps every rule");
    let golden = Golden::from_npy(&manifest, |tensor| {
        Ok(fs::read(folder.join("golden").join(format!("{}.npy", tensor.name)))
            .expect("the recipe has golden vectors"))
    });
    let onnx = fs::read(folder.join("model.onnx")).expect("the recipe has a model");
    let options = LoadOptions { batched: true, ..LoadOptions::default() };
    let model =
        Model::from_parts(&manifest, &onnx, &golden.expect("fits"), &options).expect("loads");
    let samples = vec![Sample::Row(vec![1.0; 9]); 64];
    model.answer_batch(&samples).expect("answers");
    assert_eq!(thread_count(), Some(before));
}

fn thread_count() -> Option<usize> {
    fs::read_dir("/proc/self/task").ok().map(Iterator::count)
}
