//! The models of this repository load, reproduce the golden vectors that another framework computed, and read their
//! replay data as well as their cards say.

use std::fs;
use std::path::{Path, PathBuf};

use selvedge_bundle::{Golden, IMAGE_FEATURES, Manifest, ManifestDraft, SampleSpec, read_npy};
use selvedge_runtime::{Answer, Limits, LoadOptions, Model, Sample};

const VERSIONS: [&str; 4] = ["v1", "v2", "broken", "slow"];

#[test]
fn every_version_reproduces_its_golden_vectors_alone_and_in_batches() {
    for (name, version) in versions() {
        let model = load(name, version);
        let report = model.golden();
        assert!(report.samples >= 8, "{name}/{version}: {report:?}");
        assert!(
            report.outputs.iter().all(|output| output.largest <= output.tolerance * 1.001),
            "{report:?}"
        );
    }
}

#[test]
fn one_by_one_and_in_batches_answers_agree_within_one_quantisation_step() {
    for (name, version) in versions() {
        let (manifest, _) = manifest_of(&folder(name, version));
        let model = load(name, version);
        let samples = &replay(name, &manifest).0[..100];
        let together = model.answer_batch(samples).expect("replay data is well-formed");
        for (sample, together) in samples.iter().zip(&together) {
            let alone = model.answer(sample).expect("replay data is well-formed");
            for ((alone, together), spec) in
                alone.outputs.iter().zip(&together.outputs).zip(&manifest.outputs)
            {
                let step = spec.scale.expect("recipes state the scale of their outputs") as f32;
                let pairs = alone.data().to_f32().into_iter().zip(together.data().to_f32());
                let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(
                    apart <= step * 1.001,
                    "{name}/{version}: {} apart by {apart}, step {step}",
                    spec.name
                );
            }
        }
    }
}

#[test]
fn good_versions_read_their_replay_data_and_the_broken_one_does_not() {
    let floors = [
        ("shuttle", "v1", 0.95),
        ("shuttle", "v2", 0.97),
        ("meter-digits", "v1", 0.85),
        ("meter-digits", "v2", 0.93),
    ];
    for (name, version, floor) in floors {
        let accuracy = accuracy(name, version);
        assert!(accuracy >= floor, "{name}/{version} reads {accuracy} rightly");
        assert!(accuracy > accuracy_of_broken(name), "{name}/{version}");
    }
}

#[test]
fn a_model_above_a_limit_is_refused_by_the_name_of_the_limit() {
    let limits = [
        (Limits { model_bytes_max: 1000, ..Limits::default() }, "the ONNX file's size in bytes"),
        (Limits { nodes_max: 3, ..Limits::default() }, "nodes in the graph"),
        (Limits { tensor_bytes_max: 64, ..Limits::default() }, "the size in bytes of a tensor"),
    ];
    let (manifest, golden) = manifest_of(&folder("shuttle", "v1"));
    let onnx =
        fs::read(folder("shuttle", "v1").join("model.onnx")).expect("the recipe has a model");
    for (limits, words) in limits {
        let options = LoadOptions { limits, batched: false };
        let error =
            Model::from_parts(&manifest, &onnx, &golden, &options).expect_err("above a limit");
        assert!(error.to_string().contains(words), "{error}");
    }
    let limits = Limits { batch_samples_max: 2, ..Limits::default() };
    let model =
        Model::from_parts(&manifest, &onnx, &golden, &LoadOptions { limits, batched: true })
            .expect("fits");
    let error = model.answer_batch(&vec![Sample::Row(vec![0.0; 9]); 3]).expect_err("three samples");
    assert!(error.to_string().contains("samples in one batch: 3"), "{error}");
}

#[test]
fn golden_vectors_of_another_version_are_refused_with_output_sample_and_distance() {
    let (manifest, _) = manifest_of(&folder("meter-digits", "v2"));
    let (_, other) = manifest_of(&folder("meter-digits", "broken"));
    let onnx =
        fs::read(folder("meter-digits", "v2").join("model.onnx")).expect("the recipe has a model");
    let error = Model::from_parts(&manifest, &onnx, &other, &LoadOptions::default())
        .expect_err("other answers");
    for words in ["golden vectors: output \"logits\" of sample 0", "tolerance"] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_sample_that_does_not_fit_is_refused_with_both_shapes_or_its_column() {
    let shuttle = load("shuttle", "v1");
    let digits = load("meter-digits", "v1");
    let mut with_nan = vec![0.0; 9];
    with_nan[3] = f32::NAN;
    let image = |shape: Vec<usize>, pixels| Sample::Image { shape, data: vec![0; pixels] };
    let cases: [(&Model, Sample, &[&str]); 6] = [
        (&shuttle, Sample::Row(vec![0.0; 8]), &["a row of 8 values", "a row of 9 values"]),
        (&shuttle, Sample::Row(with_nan), &["\"f4\"", "NaN"]),
        (&shuttle, Sample::Row([vec![f32::INFINITY], vec![0.0; 8]].concat()), &["\"f1\"", "inf"]),
        (&shuttle, image(vec![8, 8], 64), &["an image [8, 8]", "a row of 9 values"]),
        (&digits, image(vec![8, 9], 72), &["[8, 9]", "[8, 8]"]),
        (&digits, image(vec![8, 8], 63), &["63 pixel values", "[8, 8]"]),
    ];
    for (model, sample, words) in cases {
        let error = model.answer(&sample).expect_err("does not fit");
        assert_eq!(error.kind(), selvedge_runtime::ErrorKind::Sample);
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    }
}

#[test]
fn features_are_columns_or_pixel_statistics_and_take_nan() {
    let shuttle = load("shuttle", "v1");
    let mut row = vec![1.0; 9];
    row[8] = f32::NAN;
    let features = shuttle.features(&Sample::Row(row)).expect("nine columns");
    assert_eq!(shuttle.feature_names().len(), features.len());
    assert!(features[8].is_nan() && features[0] == 1.0);
    let digits = load("meter-digits", "v1");
    let half = Sample::Image { shape: vec![8, 8], data: [0, 16].repeat(32) };
    assert_eq!(digits.features(&half).expect("eight by eight"), [8.0, 8.0, 128.0, 1.0]);
    assert_eq!(digits.feature_names(), IMAGE_FEATURES);
}

fn accuracy_of_broken(name: &str) -> f64 {
    accuracy(name, "broken")
}

fn accuracy(name: &str, version: &str) -> f64 {
    let (manifest, _) = manifest_of(&folder(name, version));
    let (samples, labels) = replay(name, &manifest);
    let model = load(name, version);
    let answers: Vec<Answer> = samples
        .chunks(256)
        .flat_map(|chunk| model.answer_batch(chunk).expect("replay data is well-formed"))
        .collect();
    let class = |answer: &Answer| answer.class.as_ref().map(|class| class.index);
    let right = answers
        .iter()
        .zip(&labels)
        .filter(|(answer, label)| class(answer) == Some(**label))
        .count();
    right as f64 / labels.len() as f64
}

fn versions() -> impl Iterator<Item = (&'static str, &'static str)> {
    ["shuttle", "meter-digits"].into_iter().flat_map(|name| VERSIONS.map(|version| (name, version)))
}

fn folder(name: &str, version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name).join(version)
}

fn load(name: &str, version: &str) -> Model {
    let folder = folder(name, version);
    let (manifest, golden) = manifest_of(&folder);
    let onnx = fs::read(folder.join("model.onnx")).expect("the recipe has a model");
    let options = LoadOptions { batched: true, ..LoadOptions::default() };
    Model::from_parts(&manifest, &onnx, &golden, &options)
        .unwrap_or_else(|e| panic!("{name}/{version}: {e}"))
}

fn manifest_of(folder: &Path) -> (Manifest, Golden) {
    let text = fs::read_to_string(folder.join("manifest.toml")).expect("the recipe has a manifest");
    let mut draft: ManifestDraft = toml::from_str(&text).expect("the manifest is well-formed");
    (draft.model, draft.reference, draft.golden.dir) = (None, None, None);
    let manifest = Manifest::try_from(draft).expect("the manifest keeps every rule");
    let golden = Golden::from_npy(&manifest, |tensor| {
        Ok(fs::read(folder.join("golden").join(format!("{}.npy", tensor.name)))
            .expect("the recipe has golden vectors"))
    });
    (manifest, golden.expect("the golden vectors fit the manifest"))
}

/// Samples and their classes.
fn replay(name: &str, manifest: &Manifest) -> (Vec<Sample>, Vec<usize>) {
    let data = folder(name, "data");
    match &manifest.sample {
        SampleSpec::Row(row) => {
            let text =
                fs::read_to_string(data.join("replay.csv")).expect("the recipe has replay data");
            let line = |line: &str| {
                let cells: Vec<&str> = line.split(',').collect();
                let (label, values) = cells.split_last().expect("a line has a label");
                assert_eq!(values.len(), row.columns.len(), "the label is the last column");
                let values = values.iter().map(|cell| cell.parse().expect("a number")).collect();
                let class = manifest.labels.iter().position(|known| known == label);
                (Sample::Row(values), class.or_else(|| label.parse().ok()).expect("a known label"))
            };
            text.lines().skip(1).map(line).unzip()
        }
        SampleSpec::Image(_) => {
            let read = |file: &str| {
                let bytes = fs::read(data.join(file)).expect("the recipe has replay data");
                read_npy(file, &bytes).expect("a .npy file")
            };
            let (images, labels) = (read("replay.npy"), read("replay-labels.npy"));
            let selvedge_bundle::TensorData::U8(pixels) = images.data() else {
                panic!("images are u8")
            };
            let shape = images.shape()[1..].to_vec();
            let image = |data: &[u8]| Sample::Image { shape: shape.clone(), data: data.to_vec() };
            let samples = pixels.chunks(shape.iter().product()).map(image).collect();
            (samples, labels.data().to_f32().into_iter().map(|label| label as usize).collect())
        }
    }
}
