//! A production line of nine channels, whose windows are judged: its bundle, its rows, and rows that are off.

use std::{fs, path::Path};

use selvedge_bundle::{Baseline, Bundle, BundleBuilder, Order, ReferenceData};
use selvedge_sketch::DetectorPolicy;

use crate::shuttle;

/// Samples per second, and so about as many in each window of a second.
pub const RATE_HZ: u32 = 400;

/// The fewest samples of a window that is tested: one that a busy machine thins out waits for the next.
pub const SAMPLES_MIN: u16 = 100;

const CHANNELS: usize = 9;

/// The rows of the reference in an order of chance, the same in every run: no window is unlike another.
///
/// # Panics
/// If the recipe has no reference.
pub fn shuffled_rows() -> Vec<Vec<f32>> {
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
///
/// # Panics
/// If the rows are none of the reference.
pub fn bundle(rows: &[Vec<f32>]) -> Bundle {
    let column =
        |place: usize| (format!("f{}", place + 1), rows.iter().map(|row| row[place]).collect());
    let features: Vec<(String, Vec<f32>)> = (0..CHANNELS).map(column).collect();
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

/// Writes rows to be played, in which some channels are higher by so much.
///
/// # Panics
/// If the file cannot be written.
pub fn write(path: &Path, rows: &[Vec<f32>], shifts: &[(usize, f32)]) {
    let mut text = "f1,f2,f3,f4,f5,f6,f7,f8,f9\n".to_owned();
    for row in rows {
        let value = |(place, value): (usize, &f32)| {
            let shift = shifts.iter().find(|(channel, _)| *channel == place);
            (value + shift.map_or(0.0, |(_, shift)| *shift)).to_string()
        };
        let cells: Vec<String> = row.iter().take(CHANNELS).enumerate().map(value).collect();
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    fs::write(path, text).expect("the folder of the test can be written");
}
