//! Whole gates with a control group, looked at again and again: how often they stop what is no worse, how soon they
//! stop what is, and how soon they let pass what is well. `docs/rollouts.md` has the table that [`the_whole_table`]
//! prints.

use super::*;
use crate::rollout::{
    Counts, DeviceEvidence, Finding, Judge, Outcome,
    gate::{Arms, Share, judge},
    replay::Draws,
};

/// The chance of a false stop that the tests ask of one gate, so that there is something to see.
const FALSE_STOP_RATE: f64 = 0.05;

/// Devices of both sides, and what is looked at.
#[derive(Clone, Debug)]
struct Scenario {
    measure: Measure,
    /// The share of bad ones on devices with the new bundle, and on those with the old one.
    shares: [f64; 2],
    /// How far devices of one side are from each other at most.
    spread: f64,
    /// Devices of both sides.
    devices: [usize; 2],
    /// Devices with the new bundle in one group.
    per_group: usize,
    /// Devices with the new bundle of which every sample is bad.
    broken: usize,
    /// The chance that a sample repeats the one before.
    repeats: f64,
    /// Samples of each device from one look to the next.
    samples: u64,
    looks: u64,
    /// How sure it shall be, and how many gates and waves share that.
    judge: Judge,
    share: [usize; 2],
}

/// What became of many runs.
#[derive(Clone, Debug, Default)]
struct Measured {
    runs: usize,
    /// Samples of each device when it stopped, run by run, in order.
    stopped: Vec<u64>,
    /// The same, for *go*.
    went: Vec<u64>,
    found: [usize; 2],
}

impl Scenario {
    /// A gate alone, with a high rate of false stops, on samples that are independent.
    fn alone(measure: Measure, shares: [f64; 2]) -> Self {
        Self {
            measure,
            shares,
            spread: 0.0,
            devices: [8, 8],
            per_group: 1,
            broken: 0,
            repeats: 0.0,
            samples: 50,
            looks: 100,
            judge: Judge { false_stop_rate: FALSE_STOP_RATE, temper: 1.0, ..Judge::default() },
            share: [1, 1],
        }
    }

    /// One gate of four in a policy of three waves, as policies are that say nothing else.
    fn usual(measure: Measure, shares: [f64; 2]) -> Self {
        Self { judge: Judge::default(), share: [3, 4], ..Self::alone(measure, shares) }
    }

    fn run(&self, runs: usize) -> Measured {
        let mut draws = Draws::from_seed(17);
        let mut measured = Measured { runs, ..Measured::default() };
        (0..runs).for_each(|_| self.once(&mut draws, &mut measured));
        measured.stopped.sort_unstable();
        measured.went.sort_unstable();
        measured
    }

    /// Looks until it stops; *go* is noted once and looked beyond, since waves that passed are still watched.
    fn once(&self, draws: &mut Draws, measured: &mut Measured) {
        let mut wave = self.side(draws, 0);
        let mut control = self.side(draws, 1);
        wave.iter_mut().take(self.broken).for_each(|device| device.share = 1.0);
        let mut went = false;
        for look in 1..=self.looks {
            wave.iter_mut().chain(&mut control).for_each(|device| device.answer(self, draws));
            let groups: Vec<_> = wave.chunks(self.per_group).map(evidence_of).collect();
            let arms = Arms { groups: &groups, control: &evidence_of(&control) };
            let share = Share { waves: self.share[0], gates: self.share[1] };
            let bounds = self.measure.bounds();
            let decision = judge(self.measure, bounds, &self.judge, &share, 0, &arms);
            measured.found[0] += usize::from(decision.finding == Some(Finding::WorldChanged));
            measured.found[1] += usize::from(decision.finding == Some(Finding::ModelChanged));
            let samples = look * self.samples;
            match decision.outcome {
                Outcome::Stop => return measured.stopped.push(samples),
                Outcome::Go if !went => measured.went.push(samples),
                Outcome::Go | Outcome::Wait => {}
            }
            went |= decision.outcome == Outcome::Go;
        }
    }

    fn side(&self, draws: &mut Draws, side: usize) -> Vec<Device> {
        let device = |draws: &mut Draws| {
            let share = self.shares[side] + self.spread * (draws.draw() - 0.5);
            Device { share: share.clamp(0.0, 1.0), last: false, evidence: Default::default() }
        };
        (0..self.devices[side]).map(|_| device(draws)).collect()
    }
}

fn evidence_of(devices: &[Device]) -> Vec<&DeviceEvidence> {
    devices.iter().map(|device| &device.evidence).collect()
}

struct Device {
    share: f64,
    last: bool,
    evidence: DeviceEvidence,
}

impl Device {
    fn answer(&mut self, scenario: &Scenario, draws: &mut Draws) {
        let mut events = 0;
        for _ in 0..scenario.samples {
            if scenario.repeats == 0.0 || draws.draw() >= scenario.repeats {
                self.last = draws.draw() < self.share;
            }
            events += u64::from(self.last);
        }
        let counts = self.evidence.measures.entry(scenario.measure).or_default();
        *counts = counts.plus(Counts::of(scenario.samples, events));
    }
}

impl Measured {
    fn median(sorted: &[u64]) -> Option<u64> {
        sorted.get(sorted.len() / 2).copied()
    }
}

/// Nothing is worse in any of these.
fn no_worse() -> Vec<(&'static str, Scenario)> {
    let latency = Scenario::alone(Measure::Latency, [0.05, 0.05]);
    let errors = Scenario::alone(Measure::Errors, [0.05, 0.05]);
    let drift =
        Scenario { samples: 5, looks: 60, ..Scenario::alone(Measure::InputDrift, [0.5, 0.5]) };
    vec![
        ("latency, all alike", latency.clone()),
        ("latency, devices up to 0.02 apart", Scenario { spread: 0.02, ..latency.clone() }),
        ("errors, all alike", errors.clone()),
        ("errors, devices up to 0.01 apart", Scenario { spread: 0.01, ..errors.clone() }),
        ("errors, worse by the tolerance", Scenario { shares: [0.06, 0.05], ..errors.clone() }),
        ("errors, one broken device of 8", Scenario { broken: 1, ..errors.clone() }),
        ("errors, two devices of each side", Scenario { devices: [2, 2], ..errors.clone() }),
        ("errors, 16 against 2", Scenario { devices: [16, 2], ..errors.clone() }),
        (
            "errors, a third of samples repeat, temper 0.5",
            Scenario {
                repeats: 1.0 / 3.0,
                judge: Judge { false_stop_rate: FALSE_STOP_RATE, ..Judge::default() },
                ..errors
            },
        ),
        ("input drift in half of all windows everywhere", drift),
    ]
}

/// Nothing is worse in these either, but devices differ by more than the tolerance, of which no rate is stated.
fn far_apart() -> Vec<(&'static str, Scenario)> {
    let latency = Scenario::alone(Measure::Latency, [0.05, 0.05]);
    vec![
        ("latency, up to 0.1 apart", Scenario { spread: 0.1, ..latency.clone() }),
        ("latency, up to 0.1 apart, 160 against 50 devices", many(latency)),
    ]
}

/// The new bundle is worse in all of these.
fn worse() -> Vec<(&'static str, Scenario)> {
    let canary = |it: Scenario| Scenario { devices: [4, 10], ..it };
    let drift =
        Scenario { samples: 5, looks: 60, ..Scenario::usual(Measure::InputDrift, [0.6, 0.0]) };
    vec![
        ("latency + 30 %", canary(Scenario::usual(Measure::Latency, [SLOWER, 0.05]))),
        ("errors 5 % → 10 %", canary(Scenario::usual(Measure::Errors, [0.10, 0.05]))),
        ("errors 0 → 5 %", canary(Scenario::usual(Measure::Errors, [0.05, 0.0]))),
        ("input drift in 60 % of windows, model only", canary(drift)),
        (
            "latency + 30 %, 160 against 50 devices, up to 0.1 apart",
            many(Scenario::usual(Measure::Latency, [SLOWER, 0.05])),
        ),
        (
            "errors, two broken devices of 8",
            Scenario { broken: 2, ..Scenario::usual(Measure::Errors, [0.05; 2]) },
        ),
    ]
}

/// A late wave, in the groups that it is dealt into.
fn many(scenario: Scenario) -> Scenario {
    Scenario { devices: [160, 50], per_group: 10, spread: 0.1, samples: 10, looks: 50, ..scenario }
}

/// The share of answers beyond the 95 % budget, once all take 30 % longer: 1 − Φ(1.645 − ln 1.3 / 0.25), where latency
/// is lognormal with σ = 0.25.
const SLOWER: f64 = 0.276;

#[test]
fn what_is_no_worse_is_stopped_no_more_often_than_stated() {
    for (name, scenario) in no_worse() {
        let measured = Scenario { looks: scenario.looks.min(20), ..scenario }.run(40);
        let stopped = measured.stopped.len();
        assert!(stopped as f64 <= FALSE_STOP_RATE * measured.runs as f64, "{name}: {stopped}");
    }
}

#[test]
fn what_is_worse_is_stopped_and_never_passes() {
    for (name, scenario) in worse() {
        let measured = scenario.run(5);
        assert_eq!(measured.stopped.len(), measured.runs, "{name}");
        assert!(measured.went.is_empty(), "{name}: {:?}", measured.went);
    }
}

#[test]
fn a_drift_of_the_world_is_named_and_one_of_the_model_stops() {
    let world =
        Scenario { looks: 60, samples: 5, ..Scenario::usual(Measure::InputDrift, [0.6, 0.6]) };
    let measured = world.run(20);
    assert!(measured.stopped.is_empty());
    assert!(measured.found[0] > 0 && measured.found[1] == 0, "{:?}", measured.found);
    let model = Scenario { shares: [0.6, 0.0], ..world };
    let measured = model.run(20);
    assert_eq!(measured.stopped.len(), 20);
    assert_eq!(measured.found, [0, 20]);
}

#[test]
fn what_is_well_passes() {
    for (measure, share) in [(Measure::Errors, 0.0), (Measure::Latency, 0.05)] {
        let well = Scenario { devices: [4, 10], ..Scenario::usual(measure, [share; 2]) };
        let measured = well.run(10);
        assert_eq!(measured.went.len(), 10, "{measure:?}");
    }
}

#[test]
#[ignore = "a measurement"]
fn the_whole_table() {
    let row = |name: &str, measured: &Measured| {
        let per_device = |sorted: &[u64]| {
            Measured::median(sorted).map_or_else(|| "–".into(), |median| median.to_string())
        };
        println!(
            "| {name} | {} | {} | {} | {} | {} |",
            measured.runs,
            measured.stopped.len(),
            per_device(&measured.stopped),
            measured.went.len(),
            per_device(&measured.went),
        );
    };
    for (name, scenario) in no_worse().into_iter().chain(far_apart()) {
        row(name, &scenario.run(2000));
    }
    for (name, scenario) in worse() {
        row(name, &scenario.run(500));
    }
    for (name, measure, share) in
        [("errors 0 → 0", Measure::Errors, 0.0), ("latency as before", Measure::Latency, 0.05)]
    {
        let well = Scenario { devices: [4, 10], ..Scenario::usual(measure, [share; 2]) };
        row(name, &well.run(500));
    }
}
