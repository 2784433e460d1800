//! The desk commands as people type them: from a recipe, or a bare ONNX file and a table, to answers.

mod support;

use std::fs;
use std::time::SystemTime;

use selvedge_bundle::{Bundle, ChunkIndex, Limits, digest_of};
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
