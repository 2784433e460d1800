//! Drift from end to end, as real processes: a stream whose channel shifts is found by the device that sees it,
//! told to the fleet, remembered over power cuts, and told to be over. A stream that stays as the reference is
//! not told of. Where an embedding is declared, its sums come up with the profiles, and the fleet says how far they
//! are from the reference.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use selvedge_bundle::{Bundle, Limits};
use selvedge_tests::{
    api::number,
    binary::{repository, selvedge},
    line::{RATE_HZ, SAMPLES_MIN, bundle, shuffled_rows, write},
    stage::{Stage, replay},
};

/// The channel that drifts, and by how much: about its standard deviation.
const SHIFT: (usize, f32) = (2, 8.0);

#[test]
fn a_channel_that_shifts_is_named_through_power_cuts_until_it_stops() {
    let mut stage = Stage::embedded();
    let rows = shuffled_rows();
    let bundle = stage.publish(&bundle(&rows));
    let file = stage.folder().join("rows.csv");
    write(&file, &rows, &[]);
    stage
        .add_agent("line-1", &format!("{}[profile]\nwindow_s = 1\n", replay(&file, RATE_HZ, true)));
    stage.deploy("line-1", bundle);
    wait_for_windows(&stage, 1, 6);
    assert_eq!(told(&stage, "drifted"), [] as [String; 0], "a clean stream");

    stage.take_agent("line-1").kill();
    write(&file, &rows, &[SHIFT]);
    stage.start_agent("line-1");
    let event = stage.wait_for_event("line-1", "drifted", "f3 is ");
    // Which of the guesses at a rise has the most evidence is a matter of chance: higher, or more often high.
    assert!(event["detail"].as_str().is_some_and(|detail| detail.contains("high")), "{event}");
    let windows = stage.api().rows("line-1", "profiles");
    let before = windows.iter().filter(|window| {
        window["boot"] == 2 && number(&window["closed_ms"]) <= number(&event["at_ms"])
    });
    let windows = before.count();
    assert!((1..=4).contains(&windows), "found after {windows} windows");
    let drifted = told(&stage, "drifted");
    assert_eq!(drifted.len(), 1);
    assert!(!drifted[0].contains(','), "no other channel: {drifted:?}");

    // What is known to drift is not news to the next run.
    stage.take_agent("line-1").kill();
    stage.start_agent("line-1");
    wait_for_windows(&stage, 3, 4);
    assert_eq!(told(&stage, "drifted"), drifted);
    assert_eq!(told(&stage, "drift-over"), [] as [String; 0]);

    stage.take_agent("line-1").kill();
    write(&file, &rows, &[]);
    stage.start_agent("line-1");
    stage.wait_for_event("line-1", "drift-over", "f3 is as the reference again");
    assert_eq!(told(&stage, "drifted"), drifted);
    let damaged = told(&stage, "state-damaged");
    assert_eq!(damaged, [] as [String; 0], "no power cut damages what was kept");
}

/// Samples per second, and so about as many vectors in each window: between the sizes that are calibrated.
const EMBEDDED_RATE_HZ: u32 = 150;

/// The rows of a session of the reference.
const SESSION_ROWS: usize = 800;

#[test]
fn embeddings_that_a_pack_calibrated_are_summed_up_on_the_device_and_beyond_after_a_shift() {
    let mut stage = Stage::embedded();
    let rows = shuffled_rows();
    let bundle = stage.publish(&packed_with_embedding(stage.folder(), &rows));
    let file = stage.folder().join("rows.csv");
    write(&file, &rows, &[]);
    let source = replay(&file, EMBEDDED_RATE_HZ, true);
    stage.add_agent("line-1", &format!("{source}[profile]\nwindow_s = 1\n"));
    stage.deploy("line-1", bundle);
    let path = format!("/api/v1/drift?bundle={bundle}");
    let points = |drift: &Value| drift["multivariate"]["cohort"]["points"].as_array().cloned();
    let clean = stage.wait_for(&path, "four distances", |drift| {
        points(drift).is_some_and(|points| points.len() >= 4)
    });
    let told = &clean["multivariate"];
    assert_eq!((&told["tensor"], number(&told["width"])), (&"logits".into(), 2));
    assert_eq!((&told["reference_sources"], &told["calibration_sources"]), (&5.into(), &5.into()));
    let within = points(&clean).expect("there are four");
    let within = within.iter().filter(|point| point["embedding"]["finding"] == "within");
    assert!(within.count() >= 3, "{told:#}");

    stage.take_agent("line-1").kill();
    write(&file, &rows, &[(SHIFT.0, 3.0 * SHIFT.1)]);
    stage.start_agent("line-1");
    stage.wait_for(&path, "a distance beyond the thresholds", |drift| {
        let newest = points(drift).and_then(|points| points.last().cloned()).unwrap_or_default();
        newest["embedding"]["finding"] == "beyond"
            && newest["random_features"]["finding"] == "beyond"
    });
}

/// Shuttle as `selvedge pack` makes it of rows from sessions, with its logits as the embedding.
fn packed_with_embedding(folder: &Path, rows: &[Vec<f32>]) -> Bundle {
    let recipe = repository().join("models/shuttle/v1");
    let manifest = fs::read_to_string(recipe.join("manifest.toml")).expect("the recipe has one");
    let mut table: toml::Table = manifest.parse().expect("it is a table");
    let mut set = |path: &[&str], value: toml::Value| {
        let (last, folders) = path.split_last().expect("a path has a last part");
        let inner = folders.iter().fold(&mut table, |table, name| {
            table[*name].as_table_mut().expect("the manifest has such a table")
        });
        inner.insert((*last).to_owned(), value);
    };
    let file = |path: std::path::PathBuf| toml::Value::from(path.display().to_string());
    set(&["model"], file(recipe.join("model.onnx")));
    set(&["golden", "dir"], file(recipe.join("golden")));
    let reference =
        toml::toml! { data = "reference.csv" session_column = "session" order = "time" };
    set(&["reference"], reference.into());
    let drift = toml::toml! { order = "time" embedding = "logits" };
    set(&["drift"], drift.into());
    set(&["drift", "samples_min"], toml::Value::from(i64::from(SAMPLES_MIN)));
    let source = folder.join("recipe");
    fs::create_dir(&source).expect("the folder of the test can be written");
    fs::write(source.join("manifest.toml"), table.to_string()).expect("likewise");
    let mut text = "f1,f2,f3,f4,f5,f6,f7,f8,f9,session\n".to_owned();
    for (place, row) in rows.iter().take(10 * SESSION_ROWS).enumerate() {
        let cells: Vec<String> = row.iter().take(9).map(f32::to_string).collect();
        text.push_str(&format!("{},run {}\n", cells.join(","), place / SESSION_ROWS));
    }
    fs::write(source.join("reference.csv"), text).expect("likewise");
    let out = folder.join("packed");
    let packed = Command::new(selvedge()).arg("pack").arg(&source).arg("--out").arg(&out).output();
    let packed = packed.expect("the binary runs");
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    Bundle::open(&out, &Limits::default()).expect("what was packed is whole")
}

/// The details of a device's events of one kind, so far.
fn told(stage: &Stage, kind: &str) -> Vec<String> {
    let events = stage.api().rows("line-1", "events");
    let of_kind = events.iter().filter(|event| event["kind"] == kind);
    of_kind.map(|event| event["detail"].as_str().expect("it has one").to_owned()).collect()
}

fn wait_for_windows(stage: &Stage, boot: u64, count: u64) {
    stage.wait_for_stream("line-1", boot, "profiles", |stream| number(&stream["records"]) >= count);
}
