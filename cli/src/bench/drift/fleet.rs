//! B8: many devices and many features at once.

use fastrand::Rng;
use selvedge_sketch::{
    Detector, DetectorPolicy, DetectorState, LogEvidence, ScoreTable, conclude_all, e_bh,
};

use super::{
    Effort, Row,
    delays::median,
    streams::normal,
    windows::{Reference, sum},
};

const NODES: usize = 20;
/// Inferences of one node in a window.
const SAMPLES: usize = 50;
const TRIALS: usize = 100;
const CALM: usize = 50;
const WINDOWS_MAX: usize = 300;

const FEATURES: usize = 64;
const DRIFTED: usize = 6;
const FEATURE_TRIALS: usize = 40;

/// A cohort, its culprit, and the features of one device.
pub fn rows(effort: Effort, random: &mut Rng) -> Vec<Row> {
    let trials = effort.of(TRIALS);
    let past: Vec<_> = (0..1000).map(|_| window(SAMPLES, 0.0, random)).collect();
    let reference = Reference::build(&past, 0);
    let mut merged: Vec<f64> = (0..trials).map(|_| all_drift(&reference, random)).collect();
    let culprit: Vec<_> = (0..trials).map(|_| one_drifts(&reference, random)).collect();
    let mut delays: Vec<f64> = culprit.iter().map(|found| found.0).collect();
    let wrong = culprit.iter().filter(|found| !found.1).count() as f64 / trials as f64;
    let (false_share, power) = features(effort.of(FEATURE_TRIALS), random);
    vec![
        Row::at_most(
            "B8 windows until found, 20 nodes drift by 0.1 sd, merged",
            median(&mut merged),
            5.0,
        ),
        Row::at_most(
            "B8 windows until the one of 20 nodes that drifts by 0.3 sd is named",
            median(&mut delays),
            9.0,
        ),
        Row::at_most("B8 share of trials that name another node", wrong, 0.05),
        Row::at_most("B8 false discovery rate, 64 features, 6 drift by 0.2 sd", false_share, 0.05),
        Row::at_least("B8 power within 4 windows, 64 features, 6 drift by 0.2 sd", power, 0.9),
    ]
}

fn window(samples: usize, shift: f64, random: &mut Rng) -> Vec<f32> {
    (0..samples).map(|_| (shift + normal(random)) as f32).collect()
}

/// The cohort has a detector of its own on the merged counts.
fn all_drift(reference: &Reference, random: &mut Rng) -> f64 {
    let policy = DetectorPolicy::default();
    let mut cohort = Detector::<0>::new(&policy).expect("the policy has no cycle");
    let mut judge = |shift: f64, random: &mut Rng| {
        let nodes: Vec<_> =
            (0..NODES).map(|_| reference.count(window(SAMPLES, shift, random))).collect();
        cohort.update(&reference.table, &policy, &sum(&nodes));
        cohort.conclude(&reference.table, &policy) == DetectorState::Drifted
    };
    (0..CALM).for_each(|_| {
        judge(0.0, random);
    });
    (1..WINDOWS_MAX).find(|_| judge(0.1, random)).unwrap_or(WINDOWS_MAX) as f64
}

/// Each node has a detector; e-BH over the nodes says which. Returns the delay, and whether the first to
/// be named is the one that drifts.
fn one_drifts(reference: &Reference, random: &mut Rng) -> (f64, bool) {
    let policy = DetectorPolicy::new(10_000, 50, 0, 10).expect("the policy is sound");
    let mut nodes = vec![Detector::<0>::new(&policy).expect("the policy has no cycle"); NODES];
    let culprit = random.usize(..NODES);
    for passed in 1..CALM + WINDOWS_MAX {
        for (node, detector) in nodes.iter_mut().enumerate() {
            let shift = if node == culprit && passed > CALM { 0.3 } else { 0.0 };
            let counts = reference.count(window(SAMPLES, shift, random));
            detector.update(&reference.table, &policy, &counts);
        }
        let evidence: Vec<LogEvidence> = nodes.iter().map(Detector::newest_evidence).collect();
        if let Some(least) = e_bh(evidence.iter().copied(), policy.alarm()) {
            let named: Vec<usize> = (0..NODES).filter(|&node| evidence[node] >= least).collect();
            return (passed.saturating_sub(CALM) as f64, named == [culprit]);
        }
    }
    (WINDOWS_MAX as f64, false)
}

/// A device with 64 features and windows of 1,000. Returns the mean share of false names among those that
/// are named 4 windows after the change, and the share of the drifted that are.
fn features(trials: usize, random: &mut Rng) -> (f64, f64) {
    let policy = DetectorPolicy::default();
    let (mut false_share, mut power) = (0.0, 0.0);
    for _ in 0..trials {
        // A part that all features share makes them depend on each other, with a correlation of ½.
        let sample = |common: f64, random: &mut Rng| (common + normal(random)) * 0.5f64.sqrt();
        let windows = |shift: f64, random: &mut Rng| -> Vec<Vec<f32>> {
            let mut columns = vec![Vec::new(); FEATURES];
            for _ in 0..1000 {
                let common = normal(random);
                for (feature, column) in columns.iter_mut().enumerate() {
                    let shift = if feature < DRIFTED { shift } else { 0.0 };
                    column.push((sample(common, random) + shift) as f32);
                }
            }
            columns
        };
        let mut past = vec![Vec::new(); FEATURES];
        for _ in 0..30 {
            past.iter_mut().zip(windows(0.0, random)).for_each(|(past, window)| past.push(window));
        }
        let references: Vec<_> = past.iter().map(|past| Reference::build(past, 0)).collect();
        let tables: Vec<&ScoreTable> =
            references.iter().map(|reference| &reference.table).collect();
        let mut detectors =
            vec![Detector::<0>::new(&policy).expect("the policy has no cycle"); FEATURES];
        for passed in 1..=20 + 4 {
            let shift = if passed > 20 { 0.2 } else { 0.0 };
            for ((detector, reference), window) in
                detectors.iter_mut().zip(&references).zip(windows(shift, random))
            {
                detector.update(&reference.table, &policy, &reference.count(window));
            }
            conclude_all(&mut detectors, &tables, &policy);
        }
        let named = |detectors: &[Detector<0>]| {
            detectors.iter().filter(|detector| detector.state() == DetectorState::Drifted).count()
                as f64
        };
        let (right, wrong) = (named(&detectors[..DRIFTED]), named(&detectors[DRIFTED..]));
        false_share += wrong / (right + wrong).max(1.0);
        power += right / DRIFTED as f64;
    }
    (false_share / trials as f64, power / trials as f64)
}
