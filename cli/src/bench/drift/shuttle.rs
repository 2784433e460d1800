//! B7 on sensors: the Shuttle's nine channels, each in turn stuck, shifted, scaled and swapped with the next.
//!
//! The recipe's rows were shuffled, so they come in the order in which they are replayed, and are independent: the
//! baseline is built from the reference as if in the order of time.

use std::path::Path;

use anyhow::Context;
use fastrand::Rng;
use selvedge_bundle::{Baseline, DriftMonitor, Order, ReferenceData, Stream};
use selvedge_sketch::GatewayProfile;

use super::{Effort, Row, delays::median};
use crate::data::Table;

const CHANNELS: [&str; 9] = ["f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9"];
const SAMPLES: usize = 250;
const TRIALS: usize = 20;
/// Windows without a fault before it.
const CALM: usize = 10;
const WINDOWS_MAX: usize = 50;

/// What happens to a channel whose standard deviation is given.
type Fault = fn(row: &mut [f32], channel: usize, sd: f32, stuck_at: f32);

const FAULTS: [(&str, Fault); 4] = [
    ("stuck", |row, channel, _, stuck_at| row[channel] = stuck_at),
    ("shifted by 0.5 sd", |row, channel, sd, _| row[channel] += 0.5 * sd),
    ("scaled by 1.2", |row, channel, _, _| row[channel] *= 1.2),
    ("swapped with the next", |row, channel, _, _| row.swap(channel, (channel + 1) % 9)),
];

/// For each fault and channel the windows until it is found, and whether the right channels are named.
pub fn rows(models: &Path, effort: Effort, random: &mut Rng) -> anyhow::Result<Vec<Row>> {
    let data = models.join("shuttle/data");
    let read = |name: &str| Table::read(&data.join(name))?.rows(&CHANNELS);
    let (reference, replay) = (read("reference.csv")?, read("replay.csv")?);
    let column = |channel: usize| reference.iter().map(move |row| row[channel]).collect();
    let features: Vec<(String, Vec<f32>)> = CHANNELS
        .iter()
        .enumerate()
        .map(|(channel, name)| ((*name).to_owned(), column(channel)))
        .collect();
    let reference =
        ReferenceData { features: &features, order: Order::Time, ..ReferenceData::default() };
    let baseline = Baseline::build(&reference).context("the Shuttle's reference")?;
    let deviations: Vec<f32> = features.iter().map(|(_, values)| deviation(values)).collect();
    let mut rows = Vec::new();
    let mut false_alarms = 0;
    for (name, fault) in FAULTS {
        for channel in 0..CHANNELS.len() {
            let mut expected = vec![CHANNELS[channel]];
            if name.starts_with("swapped") {
                expected.push(CHANNELS[(channel + 1) % 9]);
            }
            let mut delays = Vec::new();
            let mut named = 0;
            let trials = effort.of(TRIALS);
            for _ in 0..trials {
                let stuck_at = replay[random.usize(..replay.len())][channel];
                let apply = |row: &mut [f32]| fault(row, channel, deviations[channel], stuck_at);
                let trial = trial(&baseline, &replay, &apply, &expected, random)?;
                false_alarms += usize::from(trial.false_alarm);
                delays.push(trial.delay as f64);
                named += usize::from(trial.named);
            }
            let share = named as f64 / trials as f64;
            let of = format!("{} {name}", CHANNELS[channel]);
            rows.push(Row::at_most(
                format!("B7 Shuttle, windows until found, {of}"),
                median(&mut delays),
                4.0,
            ));
            rows.push(Row::at_least(format!("B7 Shuttle, share rightly named, {of}"), share, 0.9));
        }
    }
    let trials = effort.of(TRIALS) * FAULTS.len() * CHANNELS.len();
    rows.push(Row::at_most(
        "B7 Shuttle, share of trials with an alarm before the fault",
        false_alarms as f64 / trials as f64,
        0.01,
    ));
    Ok(rows)
}

struct Trial {
    /// Windows of the fault until a channel of it is found.
    delay: usize,
    /// Whether what is named first is one of the fault's channels, and no other.
    named: bool,
    false_alarm: bool,
}

/// Windows are drawn from rows that the reference does not have.
fn trial(
    baseline: &Baseline,
    replay: &[Vec<f32>],
    apply: &dyn Fn(&mut [f32]),
    expected: &[&str],
    random: &mut Rng,
) -> anyhow::Result<Trial> {
    let mut monitor = DriftMonitor::new(baseline);
    for passed in 1..=CALM + WINDOWS_MAX {
        let features = baseline.features();
        let mut profile = GatewayProfile::new(baseline.spec_id(), features.len())
            .context("nine channels fit a profile")?;
        for _ in 0..SAMPLES {
            let mut row = replay[random.usize(..replay.len())].clone();
            if passed > CALM {
                apply(&mut row);
            }
            for (index, (feature, value)) in features.iter().zip(row).enumerate() {
                profile.observe_f32(index, &feature.spec, value);
            }
            profile.count_sample();
        }
        monitor.observe(baseline, &profile).context("it was counted in the baseline's bins")?;
        let report = monitor.report(baseline);
        let drifted = report.drifted();
        if !drifted.is_empty() {
            let is_expected = |stream: Stream<'_>| matches!(stream, Stream::Feature(name) if expected.contains(&name));
            let named = drifted.iter().all(|report| is_expected(report.stream));
            let false_alarm = passed <= CALM;
            let delay = if false_alarm { WINDOWS_MAX } else { passed - CALM };
            return Ok(Trial { delay, named: named && !false_alarm, false_alarm });
        }
    }
    Ok(Trial { delay: WINDOWS_MAX, named: false, false_alarm: false })
}

fn deviation(values: &[f32]) -> f32 {
    let count = values.len() as f64;
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let squares = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>();
    (squares / count).sqrt() as f32
}
