//! Gates: what one wave shows of one measure, held against the control group, and what follows from it.
//!
//! **Who counts.** The devices of a wave are dealt into at most [`GROUPS_MAX`] groups, one device each where there are
//! no more. A group is a vote; one with too few samples has no evidence. A gate stops only on evidence that at least *r*
//! groups are worse, where *r* is a share of them and at least 2 (1 in a wave of a single device): what one bad device
//! says moves one group, and is left out.
//!
//! **Bounds.** With *U* and *L* the ends of the control group's confidence sequence, *m* the second highest share among
//! its devices, as many of them together as are in a group (devices differ, and one of them may be broken), and
//! `allowed`, `tolerance`, `detect` from the policy:
//!
//! ```text
//!     stop when the share of r groups is above   max(allowed, U, m) + tolerance
//!     go   when it is below                      max(allowed, L) + detect      for all but r − 1 groups
//! ```
//!
//! **Error rates.** With `α = false_stop_rate / (waves · gates)`, half for the control group's end and half for the
//! groups, stopping has a chance of at most α per gate and wave, and of `false_stop_rate` in the whole rollout. With
//! `β = false_go_rate`, half for the control group, a group passes at `ln(2r/β)`: if r groups that report are worse by
//! `detect`, at least one of them must have passed falsely, and among *w ≥ r* worse ones at least *w − r + 1*, which
//! has a chance of at most `wβ/(2r(w − r + 1)) ≤ β/2`.
//!
//! **Outputs** are all classes at once, in both directions: evidence to stop is the mean over them, and to go, each
//! must show it.

use libm::log;
use serde::{Deserialize, Serialize};

use super::{
    Counts, DeviceEvidence, GateBounds, Judge, Measure,
    sequential::{Tester, log_mean, partial_conjunction},
};

/// Votes of one wave.
pub const GROUPS_MAX: u32 = 16;

/// Classes that are told apart; the others are one.
const CLASSES_MAX: usize = 16;

/// What a gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The wave is no worse than may be.
    Go,
    /// There is too little evidence.
    Wait,
    /// It is worse.
    Stop,
}

/// What drifted inputs mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The control group drifted too.
    WorldChanged,
    /// Only devices with the new bundle drifted.
    ModelChanged,
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Devices, or groups of them, with enough samples.
    pub reporting: u32,
    /// What they counted together.
    pub counts: Counts,
}

/// The numbers that led to a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GateNumbers {
    /// The devices with the new bundle, by groups.
    pub wave: Side,
    /// The groups that there are.
    pub groups: u32,
    /// How many of them must report.
    pub groups_needed: u32,
    /// The devices with the old bundle.
    pub control: Side,
    /// Where the share of the control group is, for all moments at once.
    pub control_range: [f64; 2],
    /// Stop when groups are above.
    pub stop_above: f64,
    /// Go when groups are below.
    pub go_below: f64,
    /// How many groups must be worse.
    pub worse_min: u32,
    /// The logarithm of the evidence that so many are; 0 for none.
    pub log_evidence: f64,
    /// What it must reach.
    pub log_needed: f64,
    /// Groups that are known to be well.
    pub well: u32,
    /// How many must be.
    pub well_needed: u32,
}

/// A decision of one gate, with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The wave that was judged.
    pub wave: usize,
    /// By what.
    pub measure: Measure,
    /// What was said.
    pub outcome: Outcome,
    /// Whether a wave waits for it.
    pub required: bool,
    /// What drifted inputs mean.
    pub finding: Option<Finding>,
    /// The numbers.
    pub numbers: GateNumbers,
}

impl GateNumbers {
    /// With six decimals: enough for people, and few enough digits for JSON to give back the same number.
    fn rounded(self) -> Self {
        let round = |value: f64| libm::round(value * 1e6) / 1e6;
        let counts = |it: Counts| Counts { trials: round(it.trials), events: round(it.events) };
        let side = |side: Side| Side { counts: counts(side.counts), ..side };
        Self {
            wave: side(self.wave),
            control: side(self.control),
            control_range: self.control_range.map(round),
            stop_above: round(self.stop_above),
            go_below: round(self.go_below),
            log_evidence: round(self.log_evidence),
            log_needed: round(self.log_needed),
            ..self
        }
    }
}

/// What a gate holds against each other.
pub(super) struct Arms<'a> {
    /// The devices of the wave by group.
    pub groups: &'a [Vec<&'a DeviceEvidence>],
    /// The devices of the control group.
    pub control: &'a [&'a DeviceEvidence],
}

/// How many decisions share the rate of false stops.
pub(super) struct Share {
    pub waves: usize,
    pub gates: usize,
}

/// One yes-or-no question about every device.
struct Term {
    groups: Vec<Counts>,
    /// The most devices of a group.
    group_devices: usize,
    control: Vec<Counts>,
}

struct Bounds {
    range: [f64; 2],
    stop_above: f64,
    go_below: f64,
}

/// Judges one measure of one wave.
pub(super) fn judge(
    measure: Measure,
    bounds: GateBounds,
    settings: &Judge,
    share: &Share,
    wave: usize,
    arms: &Arms<'_>,
) -> Decision {
    let tester = Tester { temper: settings.temper };
    let alpha = settings.false_stop_rate / (share.waves * share.gates).max(1) as f64;
    let terms = terms(measure, arms);
    let limits: Vec<Bounds> = terms
        .iter()
        .map(|term| limits(tester, term, bounds, [alpha, settings.false_go_rate], terms.len()))
        .collect();
    let samples_min = f64::from(bounds.samples_min);
    let reports = |term: &Term, group: usize| term.groups[group].trials >= samples_min;
    let first = terms.first();
    let reporting: Vec<usize> = (0..arms.groups.len())
        .filter(|&group| first.is_some_and(|term| reports(term, group)))
        .collect();
    let mut numbers = numbers(settings, arms.groups.len(), reporting.len());
    numbers.log_needed = log(2.0 / alpha);
    let stop: Vec<f64> = (0..arms.groups.len())
        .map(|group| {
            let reports = reporting.contains(&group);
            if reports { worse(tester, &terms, &limits, group) } else { f64::NEG_INFINITY }
        })
        .collect();
    numbers.log_evidence = partial_conjunction(&stop, numbers.worse_min as usize).max(0.0);
    let well_at = log(2.0 * f64::from(numbers.worse_min) / settings.false_go_rate);
    let well = reporting.iter().filter(|&&group| well(tester, &terms, &limits, group) >= well_at);
    numbers.well = well.count() as u32;
    show_worst(&mut numbers, &terms, &limits, samples_min);
    let control_lacks = measure.has_control()
        && (!arms.control.is_empty() || measure.needs_control())
        && numbers.control.counts.trials < samples_min;
    let outcome = match numbers {
        _ if control_lacks || numbers.wave.reporting < numbers.groups_needed.max(1) => {
            Outcome::Wait
        }
        _ if numbers.log_evidence >= numbers.log_needed => Outcome::Stop,
        _ if numbers.well >= numbers.well_needed => Outcome::Go,
        _ => Outcome::Wait,
    };
    let finding = (measure == Measure::InputDrift).then(|| find(outcome, bounds, &numbers));
    let required = bounds.required;
    let numbers = numbers.rounded();
    Decision { wave, measure, outcome, required, finding: finding.flatten(), numbers }
}

fn find(outcome: Outcome, bounds: GateBounds, numbers: &GateNumbers) -> Option<Finding> {
    match outcome {
        Outcome::Stop => Some(Finding::ModelChanged),
        _ if numbers.control_range[0] > bounds.allowed + bounds.tolerance => {
            Some(Finding::WorldChanged)
        }
        _ => None,
    }
}

fn numbers(settings: &Judge, groups: usize, reporting: usize) -> GateNumbers {
    let (groups, reporting) = (groups as u32, reporting as u32);
    let share = (settings.bad_percent / 100.0 * f64::from(groups)).ceil() as u32;
    let worse_min = if groups <= 1 { 1 } else { share.max(2) };
    GateNumbers {
        wave: Side { reporting, counts: Counts::default() },
        groups,
        groups_needed: settings.devices_min.min(groups).max(groups.div_ceil(2)),
        worse_min,
        well_needed: (reporting + 1).saturating_sub(worse_min).max(1),
        ..GateNumbers::default()
    }
}

fn terms(measure: Measure, arms: &Arms<'_>) -> Vec<Term> {
    if measure != Measure::Outputs {
        let of = |device: &DeviceEvidence| {
            device.measures.get(&measure).copied().unwrap_or_default().sound()
        };
        return vec![term(arms, of)];
    }
    let everybody = arms.groups.iter().flatten().chain(arms.control);
    let classes = everybody.map(|device| device.classes.len()).max().unwrap_or(0).min(CLASSES_MAX);
    let both = |class: usize| {
        let of = move |device: &DeviceEvidence| class_counts(device, class);
        [term(arms, of), term(arms, move |device| of(device).complement())]
    };
    (0..classes).flat_map(both).collect()
}

fn class_counts(device: &DeviceEvidence, class: usize) -> Counts {
    let sum = |counts: &[u64]| counts.iter().map(|count| *count as f64).sum();
    let of_class = match device.classes.get(class..) {
        Some(rest) if class + 1 == CLASSES_MAX => sum(rest),
        Some([count, ..]) => *count as f64,
        _ => 0.0,
    };
    Counts { trials: sum(&device.classes), events: of_class }
}

fn term(arms: &Arms<'_>, of: impl Fn(&DeviceEvidence) -> Counts) -> Term {
    let sum = |group: &Vec<&DeviceEvidence>| {
        group.iter().map(|device| of(device)).fold(Counts::default(), Counts::plus)
    };
    Term {
        groups: arms.groups.iter().map(sum).collect(),
        group_devices: arms.groups.iter().map(Vec::len).max().unwrap_or(0),
        control: arms.control.iter().map(|device| of(device)).collect(),
    }
}

fn limits(
    tester: Tester,
    term: &Term,
    bounds: GateBounds,
    [alpha, beta]: [f64; 2],
    terms: usize,
) -> Bounds {
    let control = sum(&term.control);
    let (mut low, mut high) = (0.0, 0.0);
    if control.trials > 0.0 {
        let parts = 2.0 * terms as f64;
        low = tester.lower(control, beta / parts);
        high = tester.upper(control, alpha / parts);
    }
    let odd = second_highest(term, f64::from(bounds.samples_min));
    Bounds {
        range: [low, high],
        stop_above: bounds.allowed.max(high).max(odd) + bounds.tolerance,
        go_below: bounds.allowed.max(low) + bounds.detect,
    }
}

/// The second highest share in the control group, as many devices together as in a group of the wave.
fn second_highest(term: &Term, samples_min: f64) -> f64 {
    let together = term.control.chunks(term.group_devices.max(1)).map(sum);
    let enough = together.filter(|counts| counts.trials >= samples_min);
    let mut shares: Vec<f64> = enough.map(Counts::share).collect();
    shares.sort_by(|a, b| b.total_cmp(a));
    shares.get(1).copied().unwrap_or(0.0)
}

/// The evidence that a group is worse, in the mean of all terms.
fn worse(tester: Tester, terms: &[Term], limits: &[Bounds], group: usize) -> f64 {
    let of_term = |(term, limits): (&Term, &Bounds)| {
        // No share is above 1.
        if limits.stop_above >= 1.0 {
            return f64::NEG_INFINITY;
        }
        tester.above(term.groups[group], limits.stop_above)
    };
    let logs: Vec<f64> = terms.iter().zip(limits).map(of_term).collect();
    log_mean(&logs)
}

/// The evidence that a group is well, in the worst of all terms.
fn well(tester: Tester, terms: &[Term], limits: &[Bounds], group: usize) -> f64 {
    let of_term = |(term, limits): (&Term, &Bounds)| {
        if limits.go_below >= 1.0 {
            return f64::INFINITY;
        }
        tester.below(term.groups[group], limits.go_below)
    };
    terms.iter().zip(limits).map(of_term).fold(f64::INFINITY, f64::min)
}

/// Shows the term in which the wave is farthest beyond its bound.
fn show_worst(numbers: &mut GateNumbers, terms: &[Term], limits: &[Bounds], samples_min: f64) {
    let beyond = |(term, limits): &(&Term, &Bounds)| sum(&term.groups).share() - limits.stop_above;
    let worst = terms.iter().zip(limits).max_by(|a, b| beyond(a).total_cmp(&beyond(b)));
    let Some((term, limits)) = worst else { return };
    numbers.wave.counts = sum(&term.groups);
    let reporting = term.control.iter().filter(|counts| counts.trials >= samples_min).count();
    numbers.control = Side { reporting: reporting as u32, counts: sum(&term.control) };
    numbers.control_range = limits.range;
    (numbers.stop_above, numbers.go_below) = (limits.stop_above, limits.go_below);
}

fn sum(counts: &[Counts]) -> Counts {
    counts.iter().copied().fold(Counts::default(), Counts::plus)
}
