//! B1: alarms on streams that do not drift.

use fastrand::Rng;
use selvedge_sketch::{Detector, DetectorPolicy, DetectorState};

use super::{
    Effort, Row,
    delays::median,
    streams::{Autoregressive, Wobble, normal},
    windows::{Reference, class_table},
};

const SAMPLES: usize = 250;
const REFERENCE_WINDOWS: usize = 200;
/// References are random too: each has its own part of the windows.
const REFERENCES: usize = 40;
/// Windows of each reference.
const WINDOWS: usize = 2500;
/// Streams with a daily rhythm.
const RHYTHMS: usize = 60;

/// One feature's windows in the order of time, from a stream in its stationary state.
type Windows = Box<dyn FnMut(&mut Rng) -> Vec<f32>>;
type Stream = fn(&mut Rng) -> Windows;

/// False alarms on stationary streams, and a daily rhythm.
pub fn rows(effort: Effort, random: &mut Rng) -> Vec<Row> {
    let streams: [(&str, Stream); 4] = [
        ("iid", |random| autoregressive(0.0, random)),
        ("AR(1) 0.5", |random| autoregressive(0.5, random)),
        ("AR(1) 0.9", |random| autoregressive(0.9, random)),
        ("Dir(1000) wobble", |_| Box::new(wobble)),
    ];
    let mut rows: Vec<Row> = streams
        .iter()
        .map(|(name, stream)| {
            let alarms = per_10k(*stream, REFERENCE_WINDOWS, true, effort, random);
            Row::at_most(format!("B1 false alarms per 10k windows, {name}"), alarms, 1.0)
        })
        .collect();
    let iid = streams[0].1;
    for windows in [8, 20, 40] {
        let rows_of_reference = windows * SAMPLES;
        let alarms = per_10k(iid, windows, true, effort, random);
        let name =
            format!("B1 false alarms per 10k windows, iid, {rows_of_reference} reference rows");
        rows.push(Row::at_most(name, alarms, 1.0));
    }
    let alarms = per_10k(streams[1].1, REFERENCE_WINDOWS, false, effort, random);
    rows.push(Row::at_most(
        "B1 false alarms per 10k windows, AR(1) 0.5, uncalibrated",
        alarms,
        1.0,
    ));
    rows.extend(classes(effort, random));
    let (week, found) = rhythm(effort, random);
    rows.push(Row::at_most("B1 alarms in a week of daily rhythm, 60 streams", week, 0.0));
    rows.push(Row::at_most("B1 windows until +0.3 sd is found in a daily rhythm", found, 48.0));
    rows.extend(ties(effort, random));
    rows
}

/// Streams most of whose values tie, so that their bins have atoms.
fn ties(effort: Effort, random: &mut Rng) -> [Row; 3] {
    let independent: Stream = |random| in_steps(0.0, random);
    let streams: [(&str, Stream, usize); 3] = [
        ("in steps", independent, REFERENCE_WINDOWS),
        ("in steps, 2000 reference rows", independent, 8),
        ("in steps, AR(1) 0.5", |random| in_steps(0.5, random), REFERENCE_WINDOWS),
    ];
    streams.map(|(name, stream, reference_windows)| {
        let alarms = per_10k(stream, reference_windows, true, effort, random);
        Row::at_most(format!("B1 false alarms per 10k windows, {name}"), alarms, 1.0)
    })
}

fn autoregressive(rho: f64, random: &mut Rng) -> Windows {
    let mut stream = Autoregressive::new(rho, random);
    Box::new(move |random| (0..SAMPLES).map(|_| stream.next(random) as f32).collect())
}

/// Whole numbers, nearly half of them 0. One value in 5,000 lies between them: a short reference has no such value.
fn in_steps(rho: f64, random: &mut Rng) -> Windows {
    let mut stream = Autoregressive::new(rho, random);
    Box::new(move |random| {
        let mut next = || {
            let value = 0.8 * stream.next(random);
            (if random.u32(..5000) == 0 { value } else { value.round() }) as f32
        };
        (0..SAMPLES).map(|_| next()).collect()
    })
}

fn wobble(random: &mut Rng) -> Vec<f32> {
    let shares = Wobble::window(random);
    (0..SAMPLES).map(|_| shares.next(random) as f32).collect()
}

fn per_10k(
    stream: Stream,
    reference_windows: usize,
    ordered: bool,
    effort: Effort,
    random: &mut Rng,
) -> f64 {
    let (references, judged) = (effort.of(REFERENCES), effort.of(WINDOWS));
    let policy = DetectorPolicy::default();
    let mut alarms = 0;
    for _ in 0..references {
        let mut windows = stream(random);
        let past: Vec<_> = (0..reference_windows).map(|_| windows(random)).collect();
        let reference =
            if ordered { Reference::build(&past, 0) } else { Reference::unordered(&past) };
        let mut detector = fresh(&policy);
        for _ in 0..judged {
            let counts = reference.count(windows(random));
            detector.update(&reference.table, &policy, &counts);
            if detector.conclude(&reference.table, &policy) == DetectorState::Drifted {
                alarms += 1;
                detector = fresh(&policy);
            }
        }
    }
    f64::from(alarms) * 10_000.0 / (references * judged) as f64
}

/// Ten classes with shares from 24 % down to 4 %, and then one of them answered for a twentieth of all
/// samples that belong to others.
fn classes(effort: Effort, random: &mut Rng) -> [Row; 2] {
    let (references, judged) = (effort.of(REFERENCES), effort.of(WINDOWS));
    let policy = DetectorPolicy::default();
    let window = |taken: Option<usize>, random: &mut Rng| {
        let mut counts = vec![0; 10];
        for _ in 0..SAMPLES {
            // The smaller of two draws: classes fall linearly.
            let class = random.usize(..10).min(random.usize(..10));
            let taken = taken.filter(|_| random.f64() < 0.05);
            counts[taken.unwrap_or(class)] += 1;
        }
        counts
    };
    let (mut alarms, mut delays) = (0, Vec::new());
    for _ in 0..references {
        let past: Vec<_> = (0..REFERENCE_WINDOWS).map(|_| window(None, random)).collect();
        let table = class_table(&past);
        let mut detector = fresh(&policy);
        let judge = |detector: &mut Detector<0>, window: Vec<u32>| {
            detector.update(&table, &policy, &window);
            detector.conclude(&table, &policy) == DetectorState::Drifted
        };
        for _ in 0..judged {
            if judge(&mut detector, window(None, random)) {
                alarms += 1;
                detector = fresh(&policy);
            }
        }
        for class in 0..10 {
            let mut detector = detector.clone();
            let found = (1..100).find(|_| judge(&mut detector, window(Some(class), random)));
            delays.push(found.map_or(100.0, f64::from));
        }
    }
    let alarms = f64::from(alarms) * 10_000.0 / (references * judged) as f64;
    [
        Row::at_most("B1 false alarms per 10k windows, ten classes", alarms, 1.0),
        Row::at_most(
            "B2 windows until found, 5 % of the answers become one class",
            median(&mut delays),
            10.0,
        ),
    ]
}

/// A day of 24 windows, whose mean goes up and down by one standard deviation in some streams, by a fifth
/// in others. The reference has two weeks. Returns the alarms of a week, and then the
/// median of the windows until a step is found.
fn rhythm(effort: Effort, random: &mut Rng) -> (f64, f64) {
    const DAY: u16 = 24;
    let policy = DetectorPolicy::new(10_000, 250, DAY, 10).expect("the policy is sound");
    let window = |hour: usize, amplitude: f64, step: f64, random: &mut Rng| -> Vec<f32> {
        let phase = std::f64::consts::TAU * hour as f64 / f64::from(DAY);
        let mean = amplitude * phase.sin() + step;
        (0..SAMPLES).map(|_| (mean + normal(random)) as f32).collect()
    };
    let day = usize::from(DAY);
    let (mut alarms, mut delays) = (0.0, Vec::new());
    for stream in 0..effort.of(RHYTHMS) {
        let amplitude = if stream % 2 == 0 { 0.2 } else { 1.0 };
        let past: Vec<_> = (0..14 * day).map(|hour| window(hour, amplitude, 0.0, random)).collect();
        let reference = Reference::build(&past, DAY);
        let mut detector = Detector::<1>::new(&policy).expect("there is room for cycles");
        let mut judge = |hour: usize, step: f64, random: &mut Rng| {
            let counts = reference.count(window(hour, amplitude, step, random));
            detector.update(&reference.table, &policy, &counts);
            detector.conclude(&reference.table, &policy) == DetectorState::Drifted
        };
        if (0..7 * day).any(|hour| judge(hour, 0.0, random)) {
            alarms += 1.0;
            continue;
        }
        let step_sd = 0.3 * (1.0 + amplitude * amplitude / 2.0).sqrt();
        let found = (0..400).find(|&hour| judge(hour, step_sd, random));
        delays.push(found.map_or(400.0, |hour| hour as f64 + 1.0));
    }
    (alarms, median(&mut delays))
}

fn fresh(policy: &DetectorPolicy) -> Detector<0> {
    Detector::new(policy).expect("the policy has no cycle")
}
