//! The example model `shuttle` as the tests use it: its recipe's files as parts of a bundle, and as
//! many rows of replay data as a test wants.

use std::{
    fs,
    path::{Path, PathBuf},
};

use selvedge_bundle::{
    Baseline, Bundle, BundleBuilder, Golden, LATENCY_RATIO_MAX, Manifest, ManifestDraft,
    ReferenceData, SampleSpec,
};

use crate::binary::repository;

/// The parts of a version (`v1`, `v2`, `broken`, `slow`) of the model.
///
/// # Panics
/// If the recipe's files are not as they should be.
pub fn parts(version: &str) -> BundleBuilder {
    let folder = recipe().join(version);
    let text = read_text(&folder.join("manifest.toml"));
    let mut draft: ManifestDraft = toml::from_str(&text).expect("the recipe writes manifests");
    // What only the file says.
    (draft.model, draft.reference, draft.golden.dir) = (None, None, None);
    // Tests share their machine: what makes an answer late there is seldom the bundle.
    draft.update.latency_ratio_max = LATENCY_RATIO_MAX;
    let manifest = Manifest::try_from(draft).expect("the recipe's manifest keeps every rule");
    let golden = Golden::from_npy(&manifest, |tensor| {
        let path = folder.join(format!("golden/{}.npy", tensor.name));
        Ok(fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    });
    BundleBuilder {
        model: fs::read(folder.join("model.onnx")).expect("the recipe has its files"),
        program: None,
        baseline: Some(baseline(&manifest)),
        golden: golden.expect("the golden vectors fit the manifest"),
        card: None,
        manifest,
    }
}

/// A version of the model as a bundle, unsigned.
///
/// # Panics
/// If the recipe's files are not as they should be.
pub fn bundle(version: &str) -> Bundle {
    parts(version).build().expect("the recipe's files make a bundle")
}

/// Writes a CSV file with `count` rows of replay data, those of the recipe again and again.
///
/// # Panics
/// If the file cannot be written.
pub fn write_rows(path: &Path, count: usize) {
    let text = read_text(&recipe().join("data/replay.csv"));
    let (header, rows) = text.split_once('\n').expect("the file has a header");
    let rows: Vec<&str> = rows.lines().cycle().take(count).collect();
    fs::write(path, format!("{header}\n{}\n", rows.join("\n")))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The replay data of the recipe.
pub fn replay_file() -> PathBuf {
    recipe().join("data/replay.csv")
}

/// The reference data of the recipe.
pub fn reference_file() -> PathBuf {
    recipe().join("data/reference.csv")
}

fn recipe() -> PathBuf {
    repository().join("models/shuttle")
}

fn baseline(manifest: &Manifest) -> Baseline {
    let SampleSpec::Row(row) = &manifest.sample else { panic!("shuttle has rows") };
    let text = read_text(&reference_file());
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().expect("the file has a header").split(',').collect();
    let rows: Vec<Vec<f32>> = lines
        .map(|line| line.split(',').map(|value| value.parse().expect("a number")).collect())
        .collect();
    let features = row.columns.iter().map(|column| {
        let place = header.iter().position(|name| *name == column.name);
        let place = place.expect("the reference has the model's columns");
        (column.name.clone(), rows.iter().map(|row| row[place]).collect())
    });
    let features: Vec<(String, Vec<f32>)> = features.collect();
    let reference = ReferenceData { features: &features, ..ReferenceData::default() };
    Baseline::build(&reference).expect("the reference has values")
}

fn read_text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
