use serde_json::{Value, json};

use super::*;

/// A manifest with one of everything, as a person would write it.
fn written() -> Value {
    json!({
        "name": "shuttle", "version": "1.0.0", "task": "tabular-classification",
        "description": "Tells anomalies.", "license": "CC-BY-4.0", "labels": ["normal", "anomaly"],
        "sample": {"kind": "row", "columns": [{"name": "a", "min": 27, "max": 126}, {"name": "b"}]},
        "inputs": [{"name": "x", "axes": ["batch", "feature"], "shape": [-1, 2], "dtype": "f32"}],
        "outputs": [{"name": "y", "axes": ["batch", "class"], "shape": [-1, 2], "dtype": "f32",
                     "scale": 0.27167442440986633, "zero_point": -15}],
        "pre": [{"op": "normalize", "mean": [1.0, 2.0], "std": [1.0, 0.1]}],
        "post": [{"op": "softmax", "output": "y"}, {"op": "argmax", "output": "y"}],
        "golden": {"origin": "recipe", "framework": "onnxruntime 1.31.1", "tolerance": {"y": 0.3}},
        "resources": {"ram_peak_bytes_max": 33554432, "latency_p95_us": {"raspberry-pi-4": 5000}},
        "drift": {"order": "none"},
        "update": {"trial_time_s_max": 10, "trial_memory_bytes_max": 67108864, "probation_s": 2,
                   "probation_inferences": 20, "crashes_max": 0, "failed_fraction_max": 0.1,
                   "latency_ratio_max": 3.5, "class_shift_max": 1},
        "provenance": {"dataset": "Statlog", "dataset_sha256": "ab".repeat(32)},
    })
}

fn written_image() -> Value {
    let mut manifest = written();
    manifest["sample"] = json!({"kind": "image", "axes": ["height", "width"], "shape": [16, 16],
                                "dtype": "u8", "min": 0, "max": 16});
    manifest["inputs"] = json!([{"name": "x", "axes": ["batch", "channel", "height", "width"],
                                 "shape": [-1, 1, 8, 8], "dtype": "f32"}]);
    manifest["pre"] = json!([
        {"op": "resize", "height": 8, "width": 8, "filter": "bilinear"},
        {"op": "scale", "factor": 0.0625},
        {"op": "layout", "to": ["channel", "height", "width"]},
        {"op": "normalize", "mean": [0.5], "std": [0.25]},
    ]);
    manifest
}

fn read(manifest: &Value) -> Result<Manifest, ManifestError> {
    Manifest::from_json(manifest.to_string().as_bytes())
}

#[test]
fn a_manifest_reads_back_from_its_json() {
    for written in [written(), written_image()] {
        let manifest = read(&written).expect("keeps every rule");
        let bytes = manifest.to_json();
        let back = Manifest::from_json(&bytes).expect("our own JSON");
        assert_eq!(back, manifest);
        assert_eq!(back.to_json(), bytes);
    }
}

#[test]
fn the_recipes_of_this_repository_keep_every_rule() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    let mut count = 0;
    for model in ["shuttle", "meter-digits"] {
        for version in ["v1", "v2", "broken", "slow"] {
            let path = format!("{models}/{model}/{version}/manifest.toml");
            let text = std::fs::read_to_string(&path).expect("a manifest of a recipe");
            let mut draft: ManifestDraft = toml::from_str(&text).expect("well-formed");
            assert!(draft.model.take().is_some() && draft.reference.take().is_some(), "{path}");
            assert!(draft.golden.dir.take().is_some(), "{path}");
            let manifest = Manifest::try_from(draft).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(Manifest::from_json(&manifest.to_json()).as_ref(), Ok(&manifest), "{path}");
            count += 1;
        }
    }
    assert_eq!(count, 8);
}

#[test]
fn what_is_watched_is_something_that_samples_have() {
    let features = |manifest: Value, features: Value| {
        let mut manifest = manifest;
        set(&mut manifest, "/drift/features", features);
        read(&manifest).map(|manifest| manifest.drift.features.clone())
    };
    let named = features(written(), json!(["b"])).expect("a column");
    assert_eq!(named, ["b"]);
    assert!(features(written_image(), json!(["edge_energy", "pixel_sd"])).is_ok());
    for (manifest, wrong, words) in [
        (written(), json!(["c"]), "names \"c\"; there are a, b"),
        (written(), json!(["a", "a"]), "twice"),
        (written_image(), json!(["a"]), "there are pixel_mean, pixel_sd, edge_energy"),
    ] {
        let error = features(manifest, wrong).expect_err("refused").to_string();
        assert!(error.contains("drift.features") && error.contains(words), "{error}");
    }
}

#[test]
fn a_manifest_without_an_update_policy_has_the_usual_one() {
    let mut manifest = written();
    set(&mut manifest, "/update", Value::Null);
    let read = read(&manifest).expect("the policy is optional");
    assert_eq!(read.update, UpdatePolicy::default());
    let usual = read.resources.ram_peak_bytes_max + TRIAL_MEMORY_BASE_BYTES;
    assert_eq!(read.trial_memory_bytes_max(), usual);
}

#[test]
fn an_update_policy_has_only_finite_numbers() {
    let good = read(&written()).expect("keeps every rule");
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for field in ["failed_fraction_max", "latency_ratio_max", "class_shift_max"] {
            let mut draft = good.clone().into_draft();
            match field {
                "failed_fraction_max" => draft.update.failed_fraction_max = value,
                "latency_ratio_max" => draft.update.latency_ratio_max = value,
                _ => draft.update.class_shift_max = value,
            }
            let error = Manifest::try_from(draft).expect_err("not finite");
            assert_eq!(error.field, format!("update.{field}"));
        }
    }
}

/// Where to write, what to write there (null: take it away), and what the error must say.
type Case = (&'static str, Value, &'static [&'static str]);

fn refused_rows() -> Vec<Case> {
    let tensor =
        |shape: Value| json!({"name": "x", "axes": ["batch", "f"], "shape": shape, "dtype": "f32"});
    vec![
        ("/colour", json!("red"), &["unknown field `colour`"]),
        ("/name", json!("../x"), &["name", "beginning with a letter"]),
        ("/name", Value::Null, &["missing field `name`"]),
        ("/version", json!("1.0"), &["version"]),
        ("/task", json!(""), &["`task`", "not empty"]),
        ("/task", json!(["a"]), &["`task`", "invalid type"]),
        ("/description", json!("two\nlines"), &["`description`", "control"]),
        ("/labels", json!(["a"]), &["`labels`", "1 names for the 2 classes"]),
        ("/labels", json!(["a", "a"]), &["`labels`", "\"a\" twice"]),
        ("/model", json!("model.onnx"), &["`model`", "manifest.toml only"]),
        ("/reference", json!({"data": "x.csv"}), &["`reference`", "manifest.toml only"]),
        ("/golden/dir", json!("golden"), &["`golden.dir`", "manifest.toml only"]),
        ("/sample/kind", json!("sound"), &["sample", "sound"]),
        ("/sample/rows", json!(1), &["sample", "unknown field `rows`"]),
        ("/sample/columns", json!([]), &["sample.columns", "1 to 1024"]),
        ("/sample/columns/1/name", json!("a"), &["sample.columns", "twice"]),
        ("/sample/columns/0/mim", json!(1), &["sample", "unknown field `mim`"]),
        ("/sample/columns/0/min", json!(1000), &["sample.columns[0].min", "not above max"]),
        ("/inputs", json!([]), &["`inputs`", "1 to 16"]),
        ("/inputs/0", tensor(json!([-1])), &["inputs[0].shape", "1 extents for 2 axes"]),
        ("/inputs/0", tensor(json!([-1, 0])), &["inputs[0].shape[1]", "positive"]),
        ("/inputs/0", tensor(json!([-1, -1])), &["inputs[0].shape", "batch axis alone"]),
        ("/inputs/0", tensor(json!([2, 2])), &["inputs[0].shape", "begins with -1"]),
        ("/inputs/0", tensor(json!([-1, 4_000_000_000_u32])), &["inputs[0].shape", "16777216"]),
        ("/inputs/0", tensor(json!([-1, 3])), &["inputs[0].shape", "[3]", "[2]"]),
        ("/inputs/0/axes/0", json!("n"), &["inputs[0].axes", "begins with batch"]),
        ("/inputs/0/dtype", json!("f64"), &["inputs[0].dtype", "f64"]),
        ("/inputs/0/name", json!("y"), &["\"y\" twice"]),
        ("/outputs/0/name", json!("%".repeat(100)), &["outputs[0].name", "file name"]),
        ("/outputs/0/scale", json!(0.0), &["outputs[0].scale", "positive"]),
        ("/outputs/0/scale", Value::Null, &["outputs[0].zero_point", "needs a scale"]),
        ("/outputs/0/units", json!("K"), &["outputs[0].units", "unknown field `units`"]),
        ("/pre/0/mean", json!([1.0]), &["pre[0].mean", "1 numbers for 2"]),
        ("/pre/0/std", json!([1.0, 0.0]), &["pre[0].std", "positive"]),
        ("/pre/0/op", json!("blur"), &["pre[0]", "blur"]),
        ("/pre/0/eps", json!(0.1), &["pre[0]", "unknown field `eps`"]),
        ("/pre/0", json!({"op": "layout", "to": ["height"]}), &["pre[0]", "is a row"]),
        ("/post/0/output", json!("z"), &["post[0].output", "no output \"z\""]),
        ("/post/0", json!({"op": "argmax", "output": "y"}), &["post[1]", "second step"]),
        (
            "/post/1",
            json!({"op": "threshold", "output": "y", "at": 0.5}),
            &["post[1]", "one value"],
        ),
        ("/golden", Value::Null, &["golden.framework", "not empty"]),
        ("/golden/tolerance/y", Value::Null, &["golden.tolerance", "no entry", "\"y\""]),
        ("/golden/tolerance/z", json!(1.0), &["golden.tolerance", "\"z\"", "no output"]),
        ("/golden/tolerance/y", json!(-1.0), &["golden.tolerance.y", "not negative"]),
        ("/golden/origin", json!("oracle"), &["golden.origin", "oracle"]),
        ("/resources/ram_peak_bytes_max", json!(0), &["resources.ram_peak_bytes_max", "positive"]),
        ("/resources/ram", json!(0), &["resources.ram", "unknown field `ram`"]),
        ("/drift/order", json!("space"), &["drift.order", "space"]),
        ("/update/probation", json!(1), &["update.probation", "unknown field"]),
        ("/update/trial_time_s_max", json!(0), &["update.trial_time_s_max", "1 to 600"]),
        ("/update/trial_time_s_max", json!(601), &["update.trial_time_s_max", "1 to 600"]),
        (
            "/update/trial_memory_bytes_max",
            json!(33554431),
            &["trial_memory_bytes_max", "at least"],
        ),
        ("/update/probation_s", json!(604_801), &["update.probation_s", "604800"]),
        ("/update/probation_s", json!(-1), &["update.probation_s", "invalid value"]),
        ("/update/probation_inferences", json!(1e9), &["update.probation_inferences"]),
        ("/update/probation_inferences", json!(10_000_001), &["probation_inferences", "10000000"]),
        ("/update/crashes_max", json!(101), &["update.crashes_max", "at most 100"]),
        ("/update/failed_fraction_max", json!(1.01), &["update.failed_fraction_max", "0 to 1"]),
        ("/update/failed_fraction_max", json!(-0.1), &["update.failed_fraction_max", "0 to 1"]),
        ("/update/latency_ratio_max", json!(0.9), &["update.latency_ratio_max", "1 to 1000"]),
        ("/update/latency_ratio_max", json!(1e300), &["update.latency_ratio_max", "1 to 1000"]),
        ("/update/class_shift_max", json!(2), &["update.class_shift_max", "0 to 1"]),
        ("/provenance/dataset_sha256", json!("AB"), &["provenance.dataset_sha256", "hexadecimal"]),
    ]
}

fn refused_images() -> Vec<Case> {
    vec![
        ("/sample/axes", json!(["width", "height"]), &["sample.axes", "height, width"]),
        ("/sample/shape", json!([8]), &["sample.shape", "per axis"]),
        ("/sample/shape", json!([60000, 60000]), &["sample.shape", "16777216"]),
        ("/sample/dtype", json!("f32"), &["sample.dtype", "u8"]),
        ("/sample/max", json!(300), &["sample.max", "u8"]),
        ("/pre/0/height", json!(0), &["pre[0]", "16777216"]),
        ("/pre/0/filter", json!("lanczos"), &["pre[0]", "lanczos"]),
        ("/pre/0/height", json!(9), &["inputs[0].shape", "[1, 8, 8]", "[1, 9, 8]"]),
        ("/pre/2/to", json!(["channel", "height", "height"]), &["pre[2].to", "once"]),
        ("/pre/2/to", json!(["channel", "height"]), &["pre[2].to", "each axis"]),
        ("/pre/3/mean", json!([0.5, 0.5, 0.5]), &["pre[3].mean", "3 numbers for 1"]),
    ]
}

#[test]
fn a_manifest_that_breaks_a_rule_is_refused_with_the_fields_name() {
    let rows = refused_rows().into_iter().map(|case| (written(), case));
    let images = refused_images().into_iter().map(|case| (written_image(), case));
    let failures: Vec<String> = rows
        .chain(images)
        .filter_map(|(mut manifest, (pointer, value, words))| {
            set(&mut manifest, pointer, value.clone());
            let what = format!("{pointer} = {value}");
            match read(&manifest) {
                Ok(_) => Some(format!("{what} was accepted")),
                Err(error) => {
                    let text = error.to_string();
                    let missing = words.iter().find(|word| !text.contains(**word))?;
                    Some(format!("{what}: {missing:?} is not in {text:?}"))
                }
            }
        })
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn text_that_is_no_manifest_is_refused() {
    for bytes in [&b""[..], b"{", b"[]", b"null", b"\xff", b"{} {}"] {
        assert!(Manifest::from_json(bytes).is_err(), "{bytes:?}");
    }
    let twice = written().to_string() + "{}";
    assert!(Manifest::from_json(twice.as_bytes()).is_err(), "trailing JSON");
    let twice = written().to_string().replacen("{", "{\"name\":\"a\",", 1);
    let error = Manifest::from_json(twice.as_bytes()).expect_err("two names");
    assert!(error.to_string().contains("duplicate field `name`"), "{error}");
}

/// Writes `value` at the JSON pointer; null takes the key away.
fn set(manifest: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let parent = manifest.pointer_mut(parent).expect("the parent is there");
    match (parent, value) {
        (Value::Object(object), Value::Null) => {
            object.remove(key);
        }
        (Value::Object(object), value) => {
            object.insert(key.to_owned(), value);
        }
        (Value::Array(array), value) => {
            array[key.parse::<usize>().expect("an index")] = value;
        }
        (other, _) => panic!("{other} has no keys"),
    }
}

#[test]
fn an_embedding_is_an_output_that_can_be_summed_up() {
    let named = |change: &[(&str, Value)]| {
        let mut manifest = written();
        set(&mut manifest, "/drift/embedding", json!("y"));
        change.iter().for_each(|(place, value)| set(&mut manifest, place, value.clone()));
        read(&manifest)
    };
    let manifest = named(&[]).expect("logits will do");
    assert_eq!((manifest.drift.embedding.as_deref(), manifest.embedding()), (Some("y"), Some(0)));
    assert_eq!(read(&written()).expect("none is named").embedding(), None);
    let without_post = ("/post", json!([]));
    let without_labels = ("/labels", json!([]));
    for (change, words) in [
        (vec![("/drift/embedding", json!("z"))], "names \"z\", which is no output; there are y"),
        (
            vec![without_post.clone(), without_labels, ("/outputs/0/shape", json!([-1, 129]))],
            "has 129 values for a sample; 1 to 128",
        ),
        (vec![without_post, ("/outputs/0/dtype", json!("u8"))], "which is u8; f32 or i8"),
    ] {
        let error = named(&change).expect_err(words).to_string();
        assert!(error.contains("drift.embedding") && error.contains(words), "{error}");
    }
}
