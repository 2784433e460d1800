//! B2: how many windows a change takes to be found.

use fastrand::Rng;
use selvedge_sketch::{Detector, DetectorPolicy, DetectorState};

use super::{
    Effort, Row,
    streams::{Autoregressive, normal},
    windows::Reference,
};

const SAMPLES: usize = 250;
const REFERENCE_WINDOWS: usize = 200;
const REFERENCES: usize = 20;
const TRIALS: usize = 20;
/// Windows without change before it.
const CALM: usize = 50;
const WINDOWS_MAX: usize = 500;

/// What becomes of a value.
type Change = fn(f64, &mut Rng) -> f64;

/// The median delay of each change.
pub fn rows(effort: Effort, random: &mut Rng) -> Vec<Row> {
    let changes: [(&str, f64, Change); 11] = [
        ("+0.1 sd", 14.0, |x, _| x + 0.1),
        ("+0.2 sd", 4.0, |x, _| x + 0.2),
        ("+0.3 sd", 2.0, |x, _| x + 0.3),
        ("+0.5 sd", 1.0, |x, _| x + 0.5),
        ("sd x1.2", 3.0, |x, _| x * 1.2),
        (
            "5 % at +3 sd",
            6.0,
            |x, random| if random.f64() < 0.05 { 3.0 + normal(random) } else { x },
        ),
        ("sd x0.8", 3.0, |x, _| x * 0.8),
        (
            "2 % at +3 sd",
            40.0,
            |x, random| if random.f64() < 0.02 { 3.0 + normal(random) } else { x },
        ),
        ("10 % stuck at one value", 4.0, |x, random| if random.f64() < 0.1 { 0.4 } else { x }),
        ("quantised to 0.5 sd", 5.0, |x, _| (x * 2.0).round() / 2.0),
        ("two modes, same mean and sd", 3.0, |x, random| {
            let side = if random.bool() { 0.8 } else { -0.8 };
            side + 0.6 * x
        }),
    ];
    let mut rows: Vec<Row> = changes
        .iter()
        .map(|(name, bound, change)| {
            let delay = median_delay(0.0, *change, effort, random);
            Row::at_most(format!("B2 windows until found, {name}"), delay, *bound)
        })
        .collect();
    for (rho, bound) in [(0.5, 6.0), (0.9, 30.0)] {
        let delay = median_delay(rho, |x, _| x + 0.3, effort, random);
        rows.push(Row::at_most(
            format!("B2 windows until found, +0.3 sd, AR(1) {rho}"),
            delay,
            bound,
        ));
    }
    rows
}

fn median_delay(rho: f64, change: Change, effort: Effort, random: &mut Rng) -> f64 {
    let policy = DetectorPolicy::default();
    let mut delays = Vec::new();
    for _ in 0..effort.of(REFERENCES) {
        let mut stream = Autoregressive::new(rho, random);
        let mut window = |change: Option<Change>, random: &mut Rng| -> Vec<f32> {
            (0..SAMPLES)
                .map(|_| {
                    let value = stream.next(random);
                    change.map_or(value, |change| change(value, random)) as f32
                })
                .collect()
        };
        let past: Vec<_> = (0..REFERENCE_WINDOWS).map(|_| window(None, random)).collect();
        let reference = Reference::build(&past, 0);
        for _ in 0..effort.of(TRIALS) {
            let mut detector = Detector::<0>::new(&policy).expect("the policy has no cycle");
            let mut judge = |window: Vec<f32>| {
                detector.update(&reference.table, &policy, &reference.count(window));
                detector.conclude(&reference.table, &policy) == DetectorState::Drifted
            };
            (0..CALM).for_each(|_| {
                judge(window(None, random));
            });
            let found = (1..WINDOWS_MAX).find(|_| judge(window(Some(change), random)));
            delays.push(found.unwrap_or(WINDOWS_MAX) as f64);
        }
    }
    median(&mut delays)
}

/// The median, the higher one of two; it sorts the values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
