//! Drift from end to end, as real processes: a stream whose channel shifts is found by the device that sees it,
//! told to the fleet, remembered over power cuts, and told to be over. A stream that stays as the reference is
//! not told of.

use std::{fs, path::Path};

use selvedge_bundle::{Baseline, Bundle, BundleBuilder, Order, ReferenceData};
use selvedge_sketch::DetectorPolicy;
use selvedge_tests::{
    api::number,
    shuttle,
    stage::{Stage, replay},
};

/// Samples per second, and so about as many in each window of a second.
const RATE_HZ: u32 = 400;

/// The fewest samples of a window that is tested: one that a busy machine thins out waits for the next.
const SAMPLES_MIN: u16 = 100;

/// The channel that drifts, and by how much: about its standard deviation.
const CHANNEL: usize = 2;
const SHIFT: f32 = 8.0;

#[test]
fn a_channel_that_shifts_is_named_through_power_cuts_until_it_stops() {
    let mut stage = Stage::embedded();
    let rows = shuffled_rows();
    let bundle = stage.publish(&bundle(&rows));
    let file = stage.folder().join("rows.csv");
    write(&file, &rows, 0.0);
    stage
        .add_agent("line-1", &format!("{}[profile]\nwindow_s = 1\n", replay(&file, RATE_HZ, true)));
    stage.deploy("line-1", bundle);
    wait_for_windows(&stage, 1, 6);
    assert_eq!(told(&stage, "drifted"), [] as [String; 0], "a clean stream");

    stage.take_agent("line-1").kill();
    write(&file, &rows, SHIFT);
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
    write(&file, &rows, 0.0);
    stage.start_agent("line-1");
    stage.wait_for_event("line-1", "drift-over", "f3 is as the reference again");
    assert_eq!(told(&stage, "drifted"), drifted);
    let damaged = told(&stage, "state-damaged");
    assert_eq!(damaged, [] as [String; 0], "no power cut damages what was kept");
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

/// The rows of the reference in an order of chance, the same in every run: no window is unlike another.
fn shuffled_rows() -> Vec<Vec<f32>> {
    let text = fs::read_to_string(shuttle::reference_file()).expect("the recipe has its files");
    let read = |line: &str| -> Vec<f32> {
        line.split(',').map(|value| value.parse().expect("a number")).collect()
    };
    let mut rows: Vec<Vec<f32>> = text.lines().skip(1).map(read).collect();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for place in (1..rows.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        rows.swap(place, (state % (place as u64 + 1)) as usize);
    }
    rows
}

/// Shuttle with a baseline in the order of time, without what it answers.
fn bundle(rows: &[Vec<f32>]) -> Bundle {
    let column =
        |place: usize| (format!("f{}", place + 1), rows.iter().map(|row| row[place]).collect());
    let features: Vec<(String, Vec<f32>)> = (0..9).map(column).collect();
    let policy = DetectorPolicy::new(10_000, SAMPLES_MIN, 0, 2).expect("it is above the least");
    let reference = ReferenceData {
        features: &features,
        order: Order::Time,
        policy,
        ..ReferenceData::default()
    };
    let baseline = Baseline::build(&reference).expect("the reference has values");
    let parts = BundleBuilder { baseline: Some(baseline), ..shuttle::parts("v1") };
    parts.build().expect("the parts fit")
}

/// Writes rows to be played, in which the channel is higher by `shift`.
fn write(path: &Path, rows: &[Vec<f32>], shift: f32) {
    let mut text = "f1,f2,f3,f4,f5,f6,f7,f8,f9\n".to_owned();
    for row in rows {
        let value = |(place, value): (usize, &f32)| {
            let shift = if place == CHANNEL { shift } else { 0.0 };
            (value + shift).to_string()
        };
        let cells: Vec<String> = row.iter().take(9).enumerate().map(value).collect();
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    fs::write(path, text).expect("the folder of the test can be written");
}
