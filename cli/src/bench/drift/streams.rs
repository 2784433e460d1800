//! Streams of values whose law is known, and files of them for other programs.

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use fastrand::Rng;
use selvedge_bundle::{NamedTensor, TensorData, write_npy};
use selvedge_sketch::{Detector, DetectorPolicy, DetectorState};
use serde_json::{Map, Value, json};

use super::{Effort, costs, delays::median, windows::Reference};

/// A standard normal value (Box and Muller 1958).
pub fn normal(random: &mut Rng) -> f64 {
    (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (TAU * random.f64()).cos()
}

/// A stream of standard normal values, each correlated with the one before: an autoregressive process
/// of order 1. With `rho` 0 they are independent.
pub struct Autoregressive {
    rho: f64,
    last: f64,
}

impl Autoregressive {
    /// In its stationary state.
    pub fn new(rho: f64, random: &mut Rng) -> Self {
        Self { rho, last: normal(random) }
    }

    /// The next value.
    pub fn next(&mut self, random: &mut Rng) -> f64 {
        self.last = self.rho * self.last + (1.0 - self.rho * self.rho).sqrt() * normal(random);
        self.last
    }
}

/// Values from 0 to 1 whose sixteenths have other shares in each window, drawn from a Dirichlet law with
/// a concentration of 1,000 around equal ones: a benign wobble.
pub struct Wobble {
    /// Cumulated shares.
    ends: [f64; Self::PARTS],
}

impl Wobble {
    const PARTS: usize = 16;
    const CONCENTRATION: f64 = 1000.0;

    /// The shares of one window.
    pub fn window(random: &mut Rng) -> Self {
        let mut sum = 0.0;
        let shape = Self::CONCENTRATION / Self::PARTS as f64;
        let ends = [(); Self::PARTS].map(|()| {
            sum += gamma(shape, random);
            sum
        });
        Self { ends: ends.map(|end| end / sum) }
    }

    /// A value of that window.
    pub fn next(&self, random: &mut Rng) -> f64 {
        let drawn = random.f64();
        let part = self.ends.partition_point(|&end| end <= drawn).min(Self::PARTS - 1);
        (part as f64 + random.f64()) / Self::PARTS as f64
    }
}

/// A gamma variable with a shape of at least 1 (Marsaglia and Tsang 2000).
fn gamma(shape: f64, random: &mut Rng) -> f64 {
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(random);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - random.f64()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

/// Samples of a window that is exported.
const SAMPLES: usize = 250;
/// Windows of a reference, and of a stream without a change.
const REFERENCE_WINDOWS: usize = 200;
const CALM_WINDOWS: usize = 2000;
/// Streams with a change, and windows of each.
const TRIALS: usize = 20;
const CHANGED_WINDOWS: usize = 60;

type Change = fn(f64) -> f64;

/// Writes streams for other programs to search for drift, and what our detector finds in the same ones.
///
/// `<stream>-reference.npy` is \[sample\] f32, `<stream>.npy` \[trial, window, sample\] f32. Streams that begin with
/// `calm` have no change, others one in all of their windows. `ours.json` has the outcomes.
pub fn export(folder: &Path, seed: u64, effort: Effort) -> anyhow::Result<()> {
    ensure!(!folder.exists(), "{} exists; give a new folder", folder.display());
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let changes: [(&str, Change); 4] = [
        ("shift-0.1", |x| x + 0.1),
        ("shift-0.2", |x| x + 0.2),
        ("shift-0.5", |x| x + 0.5),
        ("spread-1.2", |x| x * 1.2),
    ];
    let calm: [(&str, f64); 2] = [("calm-iid", 0.0), ("calm-ar0.9", 0.9)];
    let calm = calm.map(|(name, rho)| (name, rho, None, 1, effort.of(CALM_WINDOWS)));
    let changed = changes.map(|(name, change)| {
        (name, 0.0, Some(change), effort.of(TRIALS), effort.of(CHANGED_WINDOWS))
    });
    let mut random = Rng::with_seed(seed);
    let mut outcomes = Map::new();
    for (name, rho, change, trials, windows) in calm.into_iter().chain(changed) {
        let mut stream = Autoregressive::new(rho, &mut random);
        let mut window = |change: Option<Change>| -> Vec<f32> {
            let mut next = || stream.next(&mut random);
            let changed = |value: f64| change.map_or(value, |change| change(value)) as f32;
            (0..SAMPLES).map(|_| changed(next())).collect()
        };
        let past: Vec<Vec<f32>> = (0..REFERENCE_WINDOWS).map(|_| window(None)).collect();
        let trials: Vec<Vec<Vec<f32>>> =
            (0..trials).map(|_| (0..windows).map(|_| window(change)).collect()).collect();
        write(
            folder,
            &format!("{name}-reference"),
            vec![REFERENCE_WINDOWS * SAMPLES],
            past.concat(),
        )?;
        let shape = vec![trials.len(), windows, SAMPLES];
        write(folder, name, shape, trials.iter().flatten().flatten().copied().collect())?;
        let outcome = find(&Reference::build(&past, 0), &trials, change.is_some());
        outcomes.insert(name.to_owned(), outcome);
    }
    let rows = costs::rows(effort, &mut random);
    let cost = |part: &str| rows.iter().find(|row| row.name == part).map(|row| row.value);
    let ours = json!({
        "seed": seed, "samples": SAMPLES, "streams": outcomes,
        "ns_per_value": cost(costs::NS_PER_FLOAT), "bytes_per_feature": cost(costs::BYTES_PER_FEATURE),
    });
    let path = folder.join("ours.json");
    fs::write(&path, ours.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

fn write(folder: &Path, name: &str, shape: Vec<usize>, values: Vec<f32>) -> anyhow::Result<()> {
    let tensor = NamedTensor::new(name, shape, TensorData::F32(values))
        .context("as many values as the shape says")?;
    let path = folder.join(format!("{name}.npy"));
    fs::write(&path, write_npy(&tensor)).with_context(|| format!("cannot write {}", path.display()))
}

/// Alarms of a stream without a change; the median of the windows until it is found with one.
fn find(reference: &Reference, trials: &[Vec<Vec<f32>>], is_changed: bool) -> Value {
    let policy = DetectorPolicy::default();
    let fresh = || Detector::<0>::new(&policy).expect("the policy has no cycle");
    let (mut alarms, mut delays) = (0, Vec::new());
    for windows in trials {
        let mut detector = fresh();
        let mut found = None;
        for (passed, window) in windows.iter().enumerate() {
            detector.update(&reference.table, &policy, &reference.count(window.iter().copied()));
            if detector.conclude(&reference.table, &policy) == DetectorState::Drifted {
                alarms += 1;
                found = found.or(Some(passed + 1));
                detector = fresh();
            }
        }
        delays.push(found.unwrap_or(windows.len() + 1) as f64);
    }
    if is_changed { json!({"delay": median(&mut delays)}) } else { json!({"alarms": alarms}) }
}
