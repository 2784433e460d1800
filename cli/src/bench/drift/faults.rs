//! What goes wrong with sensors: the alarm must come, and name the channel.

use fastrand::Rng;
use selvedge_sketch::{Detector, DetectorPolicy, DetectorState, ScoreTable, conclude_all};

use super::{
    Effort, Row,
    delays::median,
    streams::{Autoregressive, normal},
    windows::Reference,
};

const SAMPLES: usize = 250;
const REFERENCE_WINDOWS: usize = 200;
const TRIALS: usize = 20;
const CALM: usize = 30;
const WINDOWS_MAX: usize = 200;

const CHANNELS: usize = 6;
type Sample = [f64; CHANNELS];

/// A small machine: six channels in units of their own, with steps of their converters, some slow and
/// some that depend on others.
struct Machine {
    slow: [Autoregressive; 3],
}

impl Machine {
    fn new(random: &mut Rng) -> Self {
        Self { slow: [0.95, 0.8, 0.5].map(|rho| Autoregressive::new(rho, random)) }
    }

    fn next(&mut self, random: &mut Rng) -> Sample {
        let [ambient, load, flow] = self.slow.each_mut().map(|stream| stream.next(random));
        let running = load > -0.6;
        let current = if running {
            12.0 + 1.5 * load + 0.3 * normal(random)
        } else {
            0.6 + 0.1 * normal(random).abs()
        };
        let step = |value: f64, step: f64| (value / step).round() * step;
        [
            // Temperature in °C, a twelve-bit sensor.
            step(21.0 + 3.0 * ambient + 0.2 * normal(random), 0.0625),
            // Humidity in %.
            step(48.0 - 6.0 * ambient + 2.0 * normal(random), 0.1),
            // Pressure in bar.
            step(2.4 + 0.15 * flow + 0.03 * normal(random), 0.01),
            // Motor current in A: on or off.
            step(current, 0.02),
            // Vibration in mm/s, which is never negative and has a long tail.
            step((0.4 * load + 0.5 * normal(random)).exp(), 0.001),
            // Flow in l/min.
            step((30.0 + 5.0 * flow + 2.0 * load + normal(random)).max(0.0), 0.05),
        ]
    }
}

struct Fault {
    name: &'static str,
    windows_max: f64,
    /// The channels that are to be named.
    channels: &'static [usize],
    /// Changes a sample, so many windows after the fault began.
    apply: fn(&mut Sample, f64),
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "temperature sticks",
        windows_max: 5.0,
        channels: &[0],
        apply: |sample, _| sample[0] = 21.5,
    },
    Fault {
        name: "pressure saturates",
        windows_max: 4.0,
        channels: &[2],
        apply: |sample, _| sample[2] = sample[2].min(2.5),
    },
    Fault {
        name: "humidity drifts by 0.02 sd per window",
        windows_max: 50.0,
        channels: &[1],
        apply: |sample, windows| sample[1] += 0.02 * 6.3 * windows,
    },
    Fault {
        name: "flow loses a decimal place",
        windows_max: 2.0,
        channels: &[5],
        apply: |sample, _| sample[5] /= 10.0,
    },
    Fault {
        name: "vibration is cut to whole numbers",
        windows_max: 4.0,
        channels: &[4],
        apply: |sample, _| sample[4] = sample[4].trunc(),
    },
    Fault {
        name: "temperature and flow are swapped",
        windows_max: 4.0,
        channels: &[0, 5],
        apply: |sample, _| sample.swap(0, 5),
    },
    Fault {
        name: "temperature comes in °F",
        windows_max: 2.0,
        channels: &[0],
        apply: |sample, _| sample[0] = sample[0] * 1.8 + 32.0,
    },
    Fault {
        name: "current is not a number",
        windows_max: 2.0,
        channels: &[3],
        apply: |sample, _| sample[3] = f64::NAN,
    },
];

/// The delay of each fault, and whether the right channel is named.
pub fn rows(effort: Effort, random: &mut Rng) -> Vec<Row> {
    let trials_of_each = effort.of(TRIALS);
    let mut machine = Machine::new(random);
    let mut past = vec![Vec::new(); CHANNELS];
    for _ in 0..REFERENCE_WINDOWS {
        for (past, window) in past.iter_mut().zip(windows(&mut machine, None, 0.0, random)) {
            past.push(window);
        }
    }
    let references: Vec<_> = past.iter().map(|past| Reference::build(past, 0)).collect();
    let mut rows = Vec::new();
    for fault in FAULTS {
        let trials: Vec<_> =
            (0..trials_of_each).map(|_| trial(&mut machine, &references, fault, random)).collect();
        let mut delays: Vec<f64> = trials.iter().map(|trial| trial.0).collect();
        let right = trials.iter().filter(|trial| trial.1).count() as f64 / trials_of_each as f64;
        rows.push(Row::at_most(
            format!("windows until {}", fault.name),
            median(&mut delays),
            fault.windows_max,
        ));
        rows.push(Row::at_least(
            format!("share that names the channel, {}", fault.name),
            right,
            0.95,
        ));
    }
    rows
}

/// The windows until the last channel of the fault is named, and whether no other was by then.
fn trial(
    machine: &mut Machine,
    references: &[Reference],
    fault: &Fault,
    random: &mut Rng,
) -> (f64, bool) {
    let policy = DetectorPolicy::default();
    let tables: Vec<&ScoreTable> = references.iter().map(|reference| &reference.table).collect();
    let mut detectors =
        vec![Detector::<0>::new(&policy).expect("the policy has no cycle"); CHANNELS];
    for passed in 1..CALM + WINDOWS_MAX {
        let since = passed.checked_sub(CALM + 1);
        let applied = since.map(|_| fault);
        let counted = windows(machine, applied, since.unwrap_or(0) as f64, random);
        for ((detector, reference), window) in detectors.iter_mut().zip(references).zip(counted) {
            detector.update(&reference.table, &policy, &reference.count(window));
        }
        conclude_all(&mut detectors, &tables, &policy);
        let drifted = |channel: &usize| detectors[*channel].state() == DetectorState::Drifted;
        if fault.channels.iter().all(drifted) {
            let named = (0..CHANNELS).filter(drifted).count();
            return (passed.saturating_sub(CALM) as f64, named == fault.channels.len());
        }
    }
    (WINDOWS_MAX as f64, false)
}

fn windows(
    machine: &mut Machine,
    fault: Option<&Fault>,
    since_windows: f64,
    random: &mut Rng,
) -> Vec<Vec<f32>> {
    let mut columns = vec![Vec::new(); CHANNELS];
    for _ in 0..SAMPLES {
        let mut sample = machine.next(random);
        if let Some(fault) = fault {
            (fault.apply)(&mut sample, since_windows);
        }
        columns.iter_mut().zip(sample).for_each(|(column, value)| column.push(value as f32));
    }
    columns
}
