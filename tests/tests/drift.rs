//! Drift from end to end, as real processes: a stream whose channel shifts is found by the device that sees it,
//! told to the fleet, remembered over power cuts, and told to be over. A stream that stays as the reference is
//! not told of.

use selvedge_tests::{
    api::number,
    line::{RATE_HZ, bundle, shuffled_rows, write},
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

/// The details of a device's events of one kind, so far.
fn told(stage: &Stage, kind: &str) -> Vec<String> {
    let events = stage.api().rows("line-1", "events");
    let of_kind = events.iter().filter(|event| event["kind"] == kind);
    of_kind.map(|event| event["detail"].as_str().expect("it has one").to_owned()).collect()
}

fn wait_for_windows(stage: &Stage, boot: u64, count: u64) {
    stage.wait_for_stream("line-1", boot, "profiles", |stream| number(&stream["records"]) >= count);
}
