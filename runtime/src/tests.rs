//! What a manifest and a graph must agree on, and what steps make of samples, on graphs of one node.

use selvedge_bundle::{Golden, Manifest, NamedTensor, TensorData, read_npy, write_npy};
use serde_json::{Value, json};
use tract_onnx::pb::tensor_proto::DataType;

use crate::onnx_builder::OnnxBuilder;
use crate::{Answer, Error, ErrorKind, Limits, LoadOptions, Model, Sample, desk};

/// `y = relu(x)` over `[batch, 4]`.
fn relu() -> Vec<u8> {
    OnnxBuilder::new(("x", DataType::Float, &[-1, 4]), ("y", DataType::Float, &[-1, 4]))
        .node("Relu", &["x"], "y")
        .bytes()
}

fn manifest() -> Value {
    let tensor = |name: &str| json!({"name": name, "axes": ["batch", "f"], "shape": [-1, 4], "dtype": "f32"});
    json!({
        "name": "relu", "version": "1.0.0", "task": "tabular-classification", "description": "Relu.",
        "license": "MIT",
        "sample": {"kind": "row", "columns": [{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]},
        "inputs": [tensor("x")], "outputs": [tensor("y")],
        "golden": {"origin": "user", "framework": "by hand", "tolerance": {"y": 0.0}},
    })
}

/// Loads `onnx` with golden vectors of zeros, which every graph here maps to zeros.
fn load(manifest: &Value, onnx: &[u8]) -> Result<Model, Error> {
    let manifest = Manifest::from_json(manifest.to_string().as_bytes()).expect("keeps every rule");
    let zeros = |spec: &selvedge_bundle::TensorSpec| {
        let shape = [vec![1], spec.sample_shape()].concat();
        let count = shape.iter().product();
        let data = match spec.dtype {
            selvedge_bundle::DType::F32 => TensorData::F32(vec![0.0; count]),
            selvedge_bundle::DType::I8 => TensorData::I8(vec![0; count]),
            selvedge_bundle::DType::U8 => TensorData::U8(vec![0; count]),
            selvedge_bundle::DType::I32 => TensorData::I32(vec![0; count]),
            selvedge_bundle::DType::I64 => TensorData::I64(vec![0; count]),
        };
        NamedTensor::new(spec.name.clone(), shape, data).expect("as many as the shape says")
    };
    let golden = Golden::new(
        &manifest,
        manifest.inputs.iter().map(zeros).collect(),
        manifest.outputs.iter().map(zeros).collect(),
    );
    Model::from_parts(&manifest, onnx, &golden.expect("zeros fit"), &LoadOptions::default())
}

fn answer(manifest: &Value, onnx: &[u8], sample: &Sample) -> Answer {
    let model = load(manifest, onnx).unwrap_or_else(|error| panic!("{error}"));
    model.answer(sample).expect("the sample fits")
}

fn with(changes: &[(&str, Value)]) -> Value {
    let mut manifest = manifest();
    for (key, value) in changes {
        manifest[*key] = value.clone();
    }
    manifest
}

fn tensor(name: &str, axes: &[&str], shape: &[i64], dtype: &str) -> Value {
    json!([{"name": name, "axes": axes, "shape": shape, "dtype": dtype}])
}

#[test]
fn golden_vectors_of_no_sample_are_refused_and_a_batch_of_none_has_no_answers() {
    let manifest = manifest();
    let parsed = Manifest::from_json(manifest.to_string().as_bytes()).expect("keeps every rule");
    let error = desk::self_made_golden(&parsed, &relu(), &[], &Limits::default())
        .expect_err("there is nothing to compute from");
    assert_eq!(error.kind(), ErrorKind::Sample, "{error}");
    let model = load(&manifest, &relu()).expect("the manifest fits");
    assert_eq!(model.answer_batch(&[]).expect("nothing was asked").len(), 0);
}

#[test]
fn a_manifest_that_differs_from_its_graph_is_refused_with_both_sides() {
    let columns = |count: usize| {
        let columns: Vec<Value> = (0..count).map(|i| json!({"name": format!("c{i}")})).collect();
        json!({"kind": "row", "columns": columns})
    };
    let golden = json!({"origin": "user", "framework": "by hand", "tolerance": {"z": 0.0}});
    let cases: Vec<(Value, &[&str])> = vec![
        (
            with(&[("inputs", tensor("in", &["batch", "f"], &[-1, 4], "f32"))]),
            &["inputs are \"in\"", "are \"x\""],
        ),
        (
            with(&[("outputs", tensor("z", &["batch", "f"], &[-1, 4], "f32")), ("golden", golden)]),
            &["outputs are \"z\"", "are \"y\""],
        ),
        (
            with(&[
                ("inputs", tensor("x", &["batch", "f"], &[-1, 5], "f32")),
                ("sample", columns(5)),
            ]),
            &["input \"x\"", "f32 [-1, 5]", "f32 [?, 4]"],
        ),
        (
            with(&[("inputs", tensor("x", &["batch", "f", "g"], &[-1, 2, 2], "f32"))]),
            &["input \"x\"", "[-1, 2, 2]", "[?, 4]"],
        ),
        (
            with(&[("inputs", tensor("x", &["batch", "f"], &[-1, 4], "i8"))]),
            &["i8 [-1, 4]", "f32 [?, 4]"],
        ),
        (
            with(&[("outputs", tensor("y", &["batch", "f"], &[-1, 3], "f32"))]),
            &["output \"y\"", "[-1, 3]", "[?, 4]"],
        ),
        (
            with(&[("outputs", tensor("y", &["batch", "f"], &[-1, 4], "i64"))]),
            &["output \"y\"", "i64", "f32"],
        ),
    ];
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|(manifest, words)| match load(manifest, &relu()) {
            Ok(_) => Some(format!("accepted: {manifest}")),
            Err(error) if error.kind() != ErrorKind::Bundle => Some(format!("wrong kind: {error}")),
            Err(error) => {
                let text = error.to_string();
                words
                    .iter()
                    .find(|word| !text.contains(**word))
                    .map(|word| format!("{word:?} is not in {text:?}"))
            }
        })
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_free_batch_in_the_manifest_needs_a_free_batch_in_the_graph() {
    let fixed = OnnxBuilder::new(("x", DataType::Float, &[1, 4]), ("y", DataType::Float, &[1, 4]))
        .node("Relu", &["x"], "y")
        .bytes();
    let error = load(&manifest(), &fixed).expect_err("the graph takes one sample");
    assert!(error.to_string().contains("[1, 4]"), "{error}");
    let one = with(&[
        ("inputs", tensor("x", &["batch", "f"], &[1, 4], "f32")),
        ("outputs", tensor("y", &["batch", "f"], &[1, 4], "f32")),
    ]);
    for onnx in [&fixed, &relu()] {
        let model = load(&one, onnx).expect("one sample at a time");
        let samples = vec![Sample::Row(vec![1.0, -1.0, 2.0, 0.0]); 3];
        assert_eq!(model.answer_batch(&samples).expect("one by one").len(), 3);
    }
}

#[test]
fn an_output_whose_inferred_shape_differs_is_refused_although_the_file_declares_another() {
    let lying =
        OnnxBuilder::new(("x", DataType::Float, &[-1, 4]), ("y", DataType::Float, &[-1, 3]))
            .node("Relu", &["x"], "y")
            .bytes();
    let three = with(&[("outputs", tensor("y", &["batch", "f"], &[-1, 3], "f32"))]);
    let error = load(&three, &lying).expect_err("four is not three");
    assert!(
        error.to_string().contains("[1, 3]") && error.to_string().contains("[1, 4]"),
        "{error}"
    );
}

#[test]
fn post_steps_conclude_class_label_and_score() {
    let labels = json!(["n", "e", "s", "w"]);
    let argmax = json!({"op": "argmax", "output": "y"});
    let sample = Sample::Row(vec![0.0, 1.0, 3.0, 1.0]);
    let raw =
        answer(&with(&[("labels", labels.clone()), ("post", json!([argmax]))]), &relu(), &sample);
    let class = raw.class.expect("there is an argmax");
    assert_eq!((class.index, class.label.as_deref(), class.score), (2, Some("s"), 3.0));
    let post = json!([{"op": "softmax", "output": "y"}, argmax]);
    let soft = answer(&with(&[("labels", labels), ("post", post)]), &relu(), &sample);
    let probabilities = soft.probabilities.expect("there is a softmax");
    assert!(
        (soft.class.expect("there is an argmax").score - probabilities[2]).abs() < f32::EPSILON
    );
    let expected = 3f32.exp() / (1.0 + 2.0 * 1f32.exp() + 3f32.exp());
    assert!((probabilities[2] - expected).abs() < 1e-6);
    assert_eq!(answer(&manifest(), &relu(), &sample).class, None);
}

#[test]
fn a_threshold_is_reached_by_the_value_itself() {
    let onnx = OnnxBuilder::new(("x", DataType::Float, &[-1, 1]), ("y", DataType::Float, &[-1, 1]))
        .node("Relu", &["x"], "y")
        .bytes();
    let manifest = with(&[
        ("sample", json!({"kind": "row", "columns": [{"name": "a"}]})),
        ("inputs", tensor("x", &["batch", "f"], &[-1, 1], "f32")),
        ("outputs", tensor("y", &["batch", "f"], &[-1, 1], "f32")),
        ("labels", json!(["below", "above"])),
        ("post", json!([{"op": "threshold", "output": "y", "at": 0.5}])),
    ]);
    for (value, label) in [(0.4, "below"), (0.5, "above"), (7.0, "above")] {
        let class = answer(&manifest, &onnx, &Sample::Row(vec![value]))
            .class
            .expect("there is a threshold");
        assert_eq!(class.label.as_deref(), Some(label), "{value}");
    }
}

#[test]
fn pre_steps_bring_an_image_into_the_tensors_layout_and_type() {
    let onnx = OnnxBuilder::new(
        ("x", DataType::Int8, &[-1, 2, 1, 2]),
        ("y", DataType::Int8, &[-1, 2, 1, 2]),
    )
    .node("Identity", &["x"], "y")
    .bytes();
    let mut manifest = with(&[
        (
            "sample",
            json!({"kind": "image", "axes": ["height", "width", "channel"], "shape": [1, 2, 2], "dtype": "u8", "min": 0, "max": 255}),
        ),
        ("inputs", tensor("x", &["batch", "channel", "height", "width"], &[-1, 2, 1, 2], "i8")),
        ("outputs", tensor("y", &["batch", "channel", "height", "width"], &[-1, 2, 1, 2], "i8")),
        (
            "pre",
            json!([
                {"op": "normalize", "mean": [10.0, 100.0], "std": [1.0, 2.0]},
                {"op": "layout", "to": ["channel", "height", "width"]},
            ]),
        ),
    ]);
    manifest["inputs"][0]["scale"] = json!(0.5);
    manifest["inputs"][0]["zero_point"] = json!(-1);
    let image = Sample::Image { shape: vec![1, 2, 2], data: vec![10, 100, 200, 101] };
    // Normalised [0, 0], [190, 0.5]; by channel [0, 190], [0, 0.5]; divided by 0.5, less one, at most 127.
    let outputs = answer(&manifest, &onnx, &image).outputs;
    assert_eq!(outputs[0].data(), &TensorData::I8(vec![-1, 127, -1, 0]));
    assert_eq!(outputs[0].shape(), [2, 1, 2]);
}

#[test]
fn an_output_that_is_not_a_number_is_an_error_of_the_engine() {
    let onnx = OnnxBuilder::new(("x", DataType::Float, &[-1, 4]), ("y", DataType::Float, &[-1, 4]))
        .node("Sqrt", &["x"], "y")
        .bytes();
    let manifest = with(&[("post", json!([{"op": "argmax", "output": "y"}]))]);
    let model = load(&manifest, &onnx).expect("loads");
    let error = model.answer(&Sample::Row(vec![-1.0; 4])).expect_err("the root of -1");
    assert_eq!(
        (error.kind(), error.to_string().contains("\"y\"")),
        (ErrorKind::Engine, true),
        "{error}"
    );
}

#[test]
fn a_layer_of_golden_vectors_that_is_one_step_off_is_refused_with_its_place() {
    let manifest =
        Manifest::from_json(manifest().to_string().as_bytes()).expect("keeps every rule");
    let tensor = |name: &str, values: Vec<f32>| {
        let tensor =
            NamedTensor::new(name, vec![2, 4], TensorData::F32(values)).expect("two samples");
        read_npy(name, &write_npy(&tensor)).expect("our own file")
    };
    let inputs = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let mut outputs = inputs.clone();
    outputs[6] = 7.5;
    let golden = Golden::new(&manifest, vec![tensor("x", inputs)], vec![tensor("y", outputs)])
        .expect("fits");
    let error = Model::from_parts(&manifest, &relu(), &golden, &LoadOptions::default())
        .expect_err("7 is not 7.5");
    let words = "output \"y\" of sample 1, element 2, is 7 instead of 7.5: off by 0.5, tolerance 0";
    assert!(error.to_string().contains(words), "{error}");
}
