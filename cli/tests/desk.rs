//! The desk commands as people type them: from a recipe, or a bare ONNX file and a table, to answers.

mod support;

use std::fs;
use std::time::SystemTime;

use selvedge_bundle::{Bundle, ChunkIndex, Limits, NamedTensor, TensorData, digest_of, write_npy};
use selvedge_trust::{
    Authority, Blob, BundleTarget, Expiry, Proposal, RepositoryState, Root, SigningKey,
    SystemRandom, TargetsDraft, TargetsEdit, UnixMillis,
};
use serde_json::Value;

use support::{Desk, models, text};

#[test]
fn a_recipe_becomes_a_bundle_that_verifies_and_answers_its_replay_data() {
    for (recipe, replay, floor) in
        [("shuttle", "replay.csv", 0.97), ("meter-digits", "replay.npy", 0.93)]
    {
        let desk = Desk::new();
        let source = models().join(recipe).join("v2");
        let packed = desk.succeeds(&["pack", &text(&source), "--out", "bundle", "--json"]);
        let packed: Value = serde_json::from_str(&packed).expect("one JSON object");
        assert!(packed["accuracy"].as_f64().expect("labelled reference data") > floor, "{packed}");
        assert_eq!(packed["golden"]["origin"], "recipe");

        let verified = desk.succeeds(&["verify", "bundle"]);
        for word in ["ok whole", "ok golden"] {
            assert!(verified.contains(word), "{verified}");
        }
        let lines = desk.succeeds(&[
            "run",
            "bundle",
            &text(&models().join(recipe).join("data").join(replay)),
            "--json",
        ]);
        let last: Value =
            serde_json::from_str(lines.lines().last().expect("a summary")).expect("JSON");
        assert_eq!(last["summary"]["failed"], 0, "{last}");
        assert!(
            last["summary"]["accuracy"].as_f64().expect("labelled replay data") > floor,
            "{last}"
        );
        assert!(desk.succeeds(&["inspect", "bundle"]).contains("golden       recipe"));
        desk.succeeds(&["inspect", "bundle", "--extract", "files"]);
        assert_eq!(
            fs::read(desk.path("files/model.onnx")).ok(),
            fs::read(source.join("model.onnx")).ok()
        );
    }
}

#[test]
fn a_bare_model_and_a_table_become_a_bundle_that_says_its_golden_vectors_are_self_made() {
    let desk = Desk::new();
    let (model, table) =
        (models().join("shuttle/v2/model.onnx"), models().join("shuttle/data/reference.csv"));
    let arguments = [
        "pack",
        &text(&model),
        "--reference",
        &text(&table),
        "--label",
        "label",
        "--normalize",
        "--out",
        "b",
    ];
    let packed = desk.succeeds(&arguments);
    assert!(
        packed.contains("accuracy  9"),
        "normalised by its own data, the model still reads it: {packed}"
    );
    let inspected: Value =
        serde_json::from_str(&desk.succeeds(&["inspect", "b", "--json"])).expect("JSON");
    assert_eq!(inspected["golden"]["origin"], "self-made");
    assert_eq!(inspected["manifest"]["name"], "model");
    assert_eq!(inspected["manifest"]["sample"]["columns"][8]["name"], "f9");
    assert_eq!(inspected["manifest"]["update"]["probation_s"], 60, "the usual policy");
}

#[test]
fn pack_says_which_class_each_label_is_and_takes_another_order() {
    let desk = Desk::new();
    let model = text(&models().join("shuttle/v2/model.onnx"));
    let numbered = fs::read_to_string(models().join("shuttle/data/reference.csv")).expect("there");
    let table = numbered.replace(",0\n", ",normal\n").replace(",1\n", ",anomaly\n");
    fs::write(desk.path("words.csv"), table).expect("writable");
    let pack = ["pack", &model, "--reference", "words.csv", "--label", "label", "--out"];
    let with = |more: &[&'static str]| [pack.as_slice(), more].concat();
    let sorted = desk.succeeds(&with(&["sorted"]));
    let line = "labels    0=anomaly, 1=normal (in alphabetical order; --labels names another)";
    assert!(sorted.contains(line), "{sorted}");
    let named = desk.succeeds(&with(&["named", "--labels", "normal,anomaly"]));
    assert!(named.contains("labels    0=normal, 1=anomaly (as --labels names them)"), "{named}");
    let wrong = desk.fails(&with(&["wrong", "--labels", "normal,odd"]));
    assert!(wrong.contains("words.csv") && wrong.contains("\"anomaly\""), "{wrong}");
    assert!(desk.fails(&with(&["twice", "--labels", "normal,normal"])).contains("twice"));
}

#[test]
fn packing_the_same_twice_gives_the_same_digest() {
    let desk = Desk::new();
    let source = text(&models().join("meter-digits/v1"));
    let digest = |out: &str| {
        let packed: Value =
            serde_json::from_str(&desk.succeeds(&["pack", &source, "--out", out, "--json"]))
                .expect("JSON");
        packed["digest"].clone()
    };
    assert_eq!(digest("one"), digest("two"));
}

#[test]
fn what_cannot_be_packed_is_refused_with_what_to_do() {
    let desk = Desk::new();
    let (model, table) = (
        text(&models().join("shuttle/v1/model.onnx")),
        text(&models().join("shuttle/data/replay.csv")),
    );
    fs::write(desk.path("text.onnx"), "not a model").expect("writable");
    fs::write(desk.path("narrow.csv"), "a,b\n1,2\n").expect("writable");
    fs::create_dir(desk.path("full")).expect("writable");
    fs::write(desk.path("full/file"), "").expect("writable");
    fs::write(desk.path("nan.csv"), "f1,f2,f3,f4,f5,f6,f7,f8,f9\n50,0,,0,50,1,30,30,0\n")
        .expect("writable");
    let cases: [(&[&str], &[&str]); 7] = [
        (
            &["pack", &model, "--reference", "nan.csv", "--out", "b"],
            &["nan.csv", "golden vectors need one row"],
        ),
        (
            &["pack", "text.onnx", "--reference", &table, "--out", "b"],
            &["text.onnx", "not a usable ONNX file"],
        ),
        (&["pack", &model, "--out", "b"], &["--reference", "--manifest"]),
        (
            &["pack", &model, "--reference", &table, "--out", "b"],
            &["takes 9 values", "10 columns", "--label"],
        ),
        (
            &["pack", &model, "--reference", "narrow.csv", "--out", "b"],
            &["takes 9 values", "2 columns"],
        ),
        (
            &["pack", &model, "--reference", &table, "--label", "class", "--out", "b"],
            &["no column \"class\"", "f1, f2"],
        ),
        (&["pack", &model, "--reference", &table, "--out", "full"], &["full exists", "new folder"]),
    ];
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|(arguments, words)| {
            let said = desk.fails(arguments);
            words
                .iter()
                .find(|word| !said.contains(**word))
                .map(|word| format!("{word:?} is not in {said:?}"))
        })
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    let said = desk.fails(&["inspect", &model]);
    assert!(said.contains("an ONNX file") && said.contains("selvedge pack"), "{said}");
    assert!(said.contains("selvedge bench"), "{said}");
    assert!(!desk.path("b").exists(), "a refused bundle leaves nothing behind");
}

#[test]
fn verify_refuses_a_changed_byte() {
    let desk = Desk::new();
    desk.succeeds(&["pack", &text(&models().join("shuttle/v1")), "--out", "b"]);
    let blobs = fs::read_dir(desk.path("b/blobs/sha256")).expect("a layout").flatten();
    let model =
        blobs.max_by_key(|blob| blob.metadata().expect("there").len()).expect("blobs").path();
    let mut changed = fs::read(&model).expect("there");
    changed[100] ^= 1;
    fs::write(&model, changed).expect("writable");
    let said = desk.fails(&["verify", "b"]);
    assert!(said.contains(&*model.file_name().expect("a digest").to_string_lossy()), "{said}");
}

#[test]
fn verify_compares_a_bundle_with_the_target_of_a_repository() {
    let desk = Desk::new();
    let (v1, v2) = (text(&models().join("shuttle/v1")), text(&models().join("shuttle/v2")));
    desk.succeeds(&["pack", &v1, "--out", "v1"]);
    desk.succeeds(&["pack", &v2, "--out", "v2"]);
    desk.succeeds(&["pack", &v2, "--version", "1.0.0", "--out", "other"]);
    write_repository(&desk, "tuf", "v1");
    write_repository(&desk, "elsewhere", "v1");
    let arguments = |bundle: &'static str, root: &'static str| {
        ["verify", bundle, "--repository", "tuf", "--root", root]
    };
    let said = desk.succeeds(&arguments("v1", "tuf/1.root.json"));
    for word in ["ok whole", "ok golden", "ok a target: shuttle/1.0.0 for *"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    for (bundle, root, word) in [
        ("v2", "tuf/1.root.json", "has no target shuttle/2.0.0"),
        ("other", "tuf/1.root.json", "and this bundle is"),
        ("v1", "elsewhere/1.root.json", "cannot be believed"),
    ] {
        let said = desk.fails(&arguments(bundle, root));
        assert!(said.contains(word), "{word} in {said}");
    }
}

#[test]
fn rows_without_an_answer_are_counted_and_make_the_command_fail() {
    let desk = Desk::new();
    desk.succeeds(&["pack", &text(&models().join("shuttle/v1")), "--out", "b"]);
    fs::write(
        desk.path("rows.csv"),
        "f1,f2,f3,f4,f5,f6,f7,f8,f9\n50,0,80,0,50,1,30,30,0\n50,0,,0,50,1,30,30,0\n",
    )
    .expect("writable");
    let output = desk.output(&["run", "b", "rows.csv"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("\"f3\"") && said.contains("1 answered, 1 failed"), "{said}");

    fs::write(desk.path("text.csv"), "f1,f2,f3,f4,f5,f6,f7,f8,f9\n50,0,high,0,50,1,30,30,0\n")
        .expect("writable");
    let said = desk.fails(&["run", "b", "text.csv"]);
    for word in ["text.csv", "line 2", "\"f3\"", "\"high\"", "a number was expected"] {
        assert!(said.contains(word), "{word} in {said}");
    }
}

#[test]
fn bench_reports_what_peers_report() {
    let desk = Desk::new();
    let model = text(&models().join("shuttle/v1/model.onnx"));
    let report: Value =
        serde_json::from_str(&desk.succeeds(&["bench", &model, "--json", "--seconds", "0.05"]))
            .expect("JSON");
    for key in ["cpu_us_p10", "cpu_us_median", "samples", "load_ms", "peak_rss_mb"] {
        assert!(report[key].as_f64().is_some_and(|value| value > 0.0), "{key} in {report}");
    }
}

#[test]
fn bench_drift_says_of_each_row_whether_it_passes() {
    let desk = Desk::new();
    let arguments = ["bench", "drift", "--quick", "--seed", "3", "--json"];
    let output = desk.output(&[&arguments[..], &["--models", &text(&models())]].concat());
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&said).expect("one JSON object");
    assert_eq!(report["seed"], 3);
    let rows = report["rows"].as_array().expect("rows");
    for part in ["B1", "B2", "B3", "B4", "B5", "B6", "B7 digits", "B7 Shuttle", "B8", "B9"] {
        let of_part =
            |row: &&Value| row["name"].as_str().is_some_and(|name| name.starts_with(part));
        let row = rows.iter().find(of_part).unwrap_or_else(|| panic!("{part} in {report}"));
        assert!(row["value"].is_number() && row["pass"].is_boolean(), "{row}");
    }
    // What depends neither on how much is measured nor on optimisation.
    for part in ["B3", "B5", "B9"] {
        let of_part =
            |row: &&Value| row["name"].as_str().is_some_and(|name| name.starts_with(part));
        assert!(rows.iter().filter(of_part).all(|row| row["pass"] == true), "{part} in {report}");
    }
    let passed = rows.iter().all(|row| row["pass"] == true);
    assert_eq!(output.status.code(), Some(i32::from(!passed)), "{report}");
    let error = desk.fails(&["bench", "drift", "--quick", "--models", "nowhere"]);
    assert!(error.contains("--models DIR"), "{error}");
}

#[test]
fn bench_drift_writes_streams_and_what_was_found_in_them() {
    let desk = Desk::new();
    desk.succeeds(&["bench", "drift", "--quick", "--streams", "streams"]);
    let ours = fs::read(desk.path("streams/ours.json")).expect("it was written");
    let ours: Value = serde_json::from_slice(&ours).expect("JSON");
    assert_eq!(ours["streams"]["shift-0.5"]["delay"], 1.0, "{ours}");
    let name = "shift-0.5.npy";
    let stream = fs::read(desk.path("streams").join(name)).expect("it was written");
    let stream = selvedge_bundle::read_npy(name, &stream).expect("well-formed");
    assert_eq!(stream.shape(), [1, 3, 250]);
    let error = desk.fails(&["bench", "drift", "--quick", "--streams", "streams"]);
    assert!(error.contains("streams exists"), "{error}");
}

/// The Shuttle's reference, of which each row has a session in front: `session` says which.
fn sessions_csv(desk: &Desk, name: &str, session: impl Fn(usize) -> usize) {
    let table = fs::read_to_string(models().join("shuttle/data/reference.csv")).expect("there");
    let mut lines = table.lines();
    let header = format!("day,{}", lines.next().expect("a header"));
    let rows = lines.enumerate().map(|(row, line)| format!("day-{},{line}", session(row)));
    let all: Vec<String> = [header].into_iter().chain(rows).collect();
    fs::write(desk.path(name), all.join("\n")).expect("writable");
}

#[test]
fn a_baseline_is_built_and_shown_without_a_bundle_and_says_what_it_does_not_support() {
    let desk = Desk::new();
    let recipe = text(&models().join("shuttle/v1"));
    let json = |said: String| serde_json::from_str::<Value>(&said).expect("one JSON object");
    let built = json(desk.succeeds(&["baseline", "build", &recipe, "--json"]));
    assert_eq!((&built["rows"], &built["order"]), (&8000.into(), &"none".into()));
    let because = |built: &Value| built["uncalibrated_because"].as_str().map(str::to_owned);
    assert!(because(&built).expect("no order").contains("no order of time"), "{built}");
    let eta = |built: &Value, stream: usize| built["streams"][stream]["eta"].as_f64();
    assert!(eta(&built, 0).is_some_and(|eta| eta < 0.21), "{built}");
    let names = built["streams"].as_array().expect("streams").iter();
    let names: Vec<&str> = names.filter_map(|stream| stream["stream"].as_str()).collect();
    assert_eq!(names[7..], ["f8", "f9", "classes", "confidence"]);

    // Rows of forty sessions that alternate: those of one are taken together.
    sessions_csv(&desk, "days.csv", |row| row % 40 / 2);
    let arguments = ["baseline", "build", &recipe, "--reference", "days.csv"];
    let by = [&arguments[..], &["--by", "day", "--out", "b.postcard", "--json"]].concat();
    let built = json(desk.succeeds(&by));
    assert_eq!(built["order"], "time");
    // 20 sessions of 400 rows have a whole window each.
    assert!(because(&built).expect("20 windows").contains("fewer than 30 whole windows"));
    let shown = desk.succeeds(&["baseline", "show", "b.postcard"]);
    assert!(shown.contains("8000 samples in the order of time"), "{shown}");
    assert!(shown.contains("no: its sessions have fewer than 30"), "{shown}");

    let ordered = [&arguments[..], &["--order", "time", "--json"]].concat();
    let built = json(desk.succeeds(&ordered));
    assert_eq!(because(&built), None, "{built}");
    desk.succeeds(&["pack", &recipe, "--order", "time", "--out", "bundle"]);
    let shown = desk.succeeds(&["baseline", "show", "bundle"]);
    assert!(shown.contains("yes") && !shown.contains("no:"), "{shown}");
    let of_bundle = ["baseline", "build", "bundle", "--reference", "days.csv", "--json"];
    assert_eq!(json(desk.succeeds(&of_bundle))["spec_id"], built["spec_id"]);
}

/// The manifest of the digits with its files named where they are, and with these changes.
fn digits_manifest(desk: &Desk, name: &str, changes: &[(&str, &str)]) -> String {
    let digits = models().join("meter-digits");
    let manifest = fs::read_to_string(digits.join("v1/manifest.toml")).expect("it is there");
    let absolute = |to: &str| format!("\"{}\"", digits.join(to).display());
    let mut manifest = manifest
        .replace("\"model.onnx\"", &absolute("v1/model.onnx"))
        .replace("\"golden\"", &absolute("v1/golden"))
        .replace("\"../data/reference.npy\"", &absolute("data/reference.npy"))
        .replace("\"../data/reference-labels.npy\"", &absolute("data/reference-labels.npy"));
    for (from, to) in changes {
        assert!(manifest.contains(from), "{from} is in the recipe's manifest");
        manifest = manifest.replace(from, to);
    }
    fs::write(desk.path(name), manifest).expect("writable");
    name.to_owned()
}

#[test]
fn images_of_named_sessions_calibrate_their_embedding() {
    let desk = Desk::new();
    let sessions = TensorData::I32((0..900).map(|image| image % 20).collect());
    let sessions = NamedTensor::new("sessions", vec![900], sessions).expect("one per image");
    fs::write(desk.path("sessions.npy"), write_npy(&sessions)).expect("writable");
    let named = "embedding = \"embedding\"";
    let small = format!("{named}\nsamples_min = 20");
    let reference = "[reference]\n";
    let with_sessions = format!("{reference}sessions = \"sessions.npy\"\n");
    let changes = [(named, &small[..]), (reference, &with_sessions[..])];
    let manifest = digits_manifest(&desk, "sessions.toml", &changes);
    let built = desk.succeeds(&["baseline", "build", &manifest, "--json"]);
    let built: Value = serde_json::from_str(&built).expect("one JSON object");
    let embedding = &built["embedding"];
    assert_eq!((&embedding["tensor"], &embedding["width"]), (&"embedding".into(), &32.into()));
    let calibration = &embedding["calibration"];
    assert_eq!(
        (&calibration["reference_sources"], &calibration["sources"]),
        (&10.into(), &10.into())
    );
    let threshold = &calibration["random_features"][0];
    assert_eq!((&threshold["vectors"], &threshold["windows"]), (&20.into(), &20.into()));

    let manifest = digits_manifest(&desk, "plain.toml", &[]);
    let shown = desk.succeeds(&["baseline", "build", &manifest]);
    assert!(shown.contains("embedding, 32 values and 64 random features"), "{shown}");
    let short = digits_manifest(&desk, "short.toml", &[(reference, &with_sessions)]);
    let one = NamedTensor::new("sessions", vec![1], TensorData::I32(vec![0])).expect("one");
    fs::write(desk.path("sessions.npy"), write_npy(&one)).expect("writable");
    let both = with_sessions.clone() + "session_column = \"day\"\n";
    let both = digits_manifest(&desk, "both.toml", &[(reference, &both)]);
    let unknown = digits_manifest(&desk, "unknown.toml", &[(named, "embedding = \"hidden\"")]);
    for (manifest, words) in [
        (&short, "has 1 integers for 900 samples"),
        (&both, "name one of session_column and sessions"),
        (&unknown, "names \"hidden\", which is no output; there are logits, embedding"),
    ] {
        let said = desk.fails(&["baseline", "build", manifest]);
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[test]
fn what_gives_no_baseline_is_refused_with_what_to_do() {
    let desk = Desk::new();
    let recipe = text(&models().join("shuttle/v1"));
    let digits = text(&models().join("meter-digits/v1"));
    desk.succeeds(&["pack", &recipe, "--out", "bundle"]);
    fs::write(desk.path("text"), "no baseline").expect("writable");
    let cases: [(&[&str], &[&str]); 7] = [
        (&["baseline", "build", "bundle"], &["does not hold its reference", "--reference FILE"]),
        (&["baseline", "build", "nowhere"], &["nowhere"]),
        (&["baseline", "build", &recipe, "--by", "day"], &["no column \"day\"", "f1, f2"]),
        (&["baseline", "build", &digits, "--by", "day"], &["images have no column \"day\""]),
        (&["baseline", "build", &recipe, "--out", "text"], &["text exists", "new file"]),
        (&["baseline", "show", "text"], &["text is not a baseline"]),
        (&["baseline", "show", "nowhere"], &["nowhere"]),
    ];
    for (arguments, words) in cases {
        let said = desk.fails(arguments);
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} in {said}");
    }
    let wrong = desk.output(&["baseline", "build", &recipe, "--order", "random"]);
    assert_eq!(wrong.status.code(), Some(2));
}

/// A repository as a mirror has it, with new keys and one bundle.
fn write_repository(desk: &Desk, folder: &str, bundle: &str) {
    let bundle = Bundle::open(&desk.path(bundle), &Limits::default()).expect("it was packed");
    let index = ChunkIndex::of(&bundle).expect("it is small").encode();
    let target = BundleTarget {
        name: bundle.manifest().name.to_string(),
        version: bundle.manifest().version.to_string(),
        manifest: Blob { digest: bundle.digest(), len_bytes: bundle.manifest_len() },
        chunk_index: Blob { digest: digest_of(&index), len_bytes: index.len() as u64 },
        hardware_classes: vec!["*".to_owned()],
        patches: Vec::new(),
        signature: None,
    };
    let random = SystemRandom::new();
    let [root, targets, director] = std::array::from_fn(|_| {
        SigningKey::generate(&random).expect("the system has random bytes")
    });
    let authority = |key: &SigningKey| Authority::one(key.public_key().clone());
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("the clock is right");
    let now = UnixMillis(u64::try_from(since.as_millis()).expect("the clock is right"));
    let expires = now.plus_seconds(24 * 60 * 60);
    let document =
        Root::new(1, expires, &authority(&root), &authority(&targets), &authority(&director));
    let state = RepositoryState::begin(&document.sign(&[&root])).expect("the root is whole");
    let mut draft = TargetsDraft::empty(expires);
    draft.edit(&[TargetsEdit::Add(target)]).expect("a bundle can be added");
    draft.sign(&targets);
    let document = String::from_utf8(draft.to_bytes()).expect("documents are JSON");
    let targets = [("targets".to_owned(), document)].into();
    let proposal = Proposal { roots: Vec::new(), targets };
    let accepted = state.propose(&proposal, &[&director], now, &Expiry::default());
    let state = state.apply(&accepted.expect("it is signed")).expect("it was accepted");
    fs::create_dir(desk.path(folder)).expect("writable");
    for (name, content) in state.files() {
        fs::write(desk.path(folder).join(name), content).expect("writable");
    }
}
