//! B7 on sensors: the Shuttle's nine channels, each in turn stuck, shifted, scaled and swapped with the next.
//!
//! The recipe's rows were shuffled, so they come in the order in which they are replayed, and are independent: the
//! baseline is built from the reference as if in the order of time.

use std::path::Path;

use anyhow::Context;
use fastrand::Rng;
use selvedge_bundle::{Baseline, DriftMonitor, Order, ReferenceData, Stream};
use selvedge_sketch::GatewayProfile;

use super::{Effort, Row, corruptions::ChannelFault, delays::median};
use crate::data::Table;

const CHANNELS: [&str; 9] = ["f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9"];
const SAMPLES: usize = 250;
const TRIALS: usize = 20;
/// Windows without a fault before it.
const CALM: usize = 10;
const WINDOWS_MAX: usize = 30;

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
    let scales: Vec<(f32, f32)> = features.iter().map(|(_, values)| mean_and_sd(values)).collect();
    let mut rows = Vec::new();
    let mut false_alarms = 0;
    for fault in ChannelFault::ALL {
        for (channel, (mean, sd)) in scales.iter().enumerate() {
            let mut expected = vec![CHANNELS[channel]];
            if fault == ChannelFault::Swapped {
                expected.push(CHANNELS[(channel + 1) % CHANNELS.len()]);
            }
            let mut delays = Vec::new();
            let mut named = 0;
            let trials = effort.of(TRIALS);
            for _ in 0..trials {
                let apply = |rows: &mut [Vec<f32>]| fault.apply(rows, channel, *mean, *sd);
                let trial = trial(&baseline, &replay, &apply, &expected, random)?;
                false_alarms += usize::from(trial.false_alarm);
                delays.push(trial.delay as f64);
                named += usize::from(trial.named);
            }
            let share = named as f64 / trials as f64;
            let of = format!("{} {}", CHANNELS[channel], fault.name());
            rows.push(Row::at_most(
                format!("B7 Shuttle, windows until found, {of}"),
                median(&mut delays),
                4.0,
            ));
            rows.push(Row::at_least(format!("B7 Shuttle, share rightly named, {of}"), share, 0.9));
        }
    }
    let trials = effort.of(TRIALS) * ChannelFault::ALL.len() * CHANNELS.len();
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
    apply: &dyn Fn(&mut [Vec<f32>]),
    expected: &[&str],
    random: &mut Rng,
) -> anyhow::Result<Trial> {
    let draw = |random: &mut Rng| replay[random.usize(..replay.len())].clone();
    let mut rows: Vec<Vec<f32>> =
        (0..(CALM + WINDOWS_MAX) * SAMPLES).map(|_| draw(random)).collect();
    apply(&mut rows[CALM * SAMPLES..]);
    let mut monitor = DriftMonitor::new(baseline);
    for (passed, window) in (1..).zip(rows.chunks(SAMPLES)) {
        let features = baseline.features();
        let mut profile = GatewayProfile::new(baseline.spec_id(), features.len())
            .context("nine channels fit a profile")?;
        for row in window {
            for (index, (feature, value)) in features.iter().zip(row).enumerate() {
                profile.observe_f32(index, &feature.spec, *value);
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

fn mean_and_sd(values: &[f32]) -> (f32, f32) {
    let count = values.len() as f64;
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let squares = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>();
    (mean as f32, (squares / count).sqrt() as f32)
}
