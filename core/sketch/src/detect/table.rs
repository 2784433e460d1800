//! What each cell is worth to each guess of how a distribution may change: made at the desk, in
//! floats, and frozen as integers in the baseline.
//!
//! A guess is made where the reference is a standard normal distribution (every cell has its normal
//! score), so it does not depend on the feature's unit or shape: the mean moves, the spread changes,
//! values split into two groups, a part of the samples moves to one end. Scores are rounded so that Σ p_b e^(s_b) ≤ 1 holds exactly
//! for the integers: with it a window's evidence is an e-value.
//!
//! The reference is a sample of `m`: its shares differ from those of the stream that it was drawn
//! from. Each guess therefore pays a *margin* per sample: as much as the stream's true shares may be
//! in its favour, at one and a half standard errors.

use libm::{erfc, exp, log, sqrt};
use serde::{Deserialize, Serialize};

use super::{Calibration, learner::Weights};
use crate::{Error, evidence::FRACTION_BITS, statistics::normal_quantile};

/// The most cells that a stream has: 16 bins, below, above, not finite.
pub const CELL_COUNT_MAX: usize = 19;

/// The most guesses with fixed scores.
pub(crate) const FIXED_COUNT_MAX: usize = 12;

/// Shares are in units of 2⁻¹⁶.
const WEIGHT_SUM: u32 = 1 << 16;

/// How far the mean moves, in standard deviations.
const SHIFTS: [f64; 3] = [0.1, 0.3, 0.7];
/// By how much the standard deviation is multiplied.
const SPREADS: [f64; 3] = [1.2, 1.6, 0.8];
/// The share of the samples that goes to one end, or to one class.
const CONTAMINATION: f64 = 0.03;
/// Where that end is, in standard deviations from the mean.
const END: f64 = 3.0;
/// Two modes that together have the mean and the standard deviation of the reference: how far each is from
/// the mean, and its own deviation.
const MODES: (f64, f64) = (0.8, 0.6);
const CLASS_CONTAMINATION: f64 = 0.05;

/// No cell speaks for a guess more than this, or against it: a cell that the reference hardly has
/// says little about how often it occurs.
const RATIO_MAX: f64 = 8.0;

/// Standard errors of the reference that a guess gives away.
const MARGIN_DEVIATIONS: f64 = 1.5;

const MARGIN_FRACTION_BITS: u32 = 24;

/// Whether the order of the cells means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measurement {
    /// Below, the bins in rising order, above, not finite.
    Ordinal,
    /// Classes, or groups of them.
    Nominal,
}

/// How a distribution may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Values are higher.
    Rises,
    /// Values are lower.
    Falls,
    /// Values spread further.
    Widens,
    /// Values spread less.
    Narrows,
    /// Values fall into two groups, with fewer between.
    Splits,
    /// More values lie at the upper end.
    UpperEnd,
    /// More values lie at the lower end.
    LowerEnd,
    /// The class of this cell is more frequent.
    Class(u8),
    /// In a way that was not foreseen, and was learnt from the windows before.
    Shape,
}

/// The integer scores of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "TableForm", try_from = "TableForm")]
pub struct ScoreTable {
    pub(super) weights: Weights,
    cell_count: usize,
    pub(super) guesses: heapless::Vec<Guess, FIXED_COUNT_MAX>,
    pub(super) native: Temper,
    pub(super) cycle: Temper,
    uncalibrated: bool,
}

impl ScoreTable {
    /// The table for a stream whose reference has these counts per cell.
    ///
    /// Ordinal cells are \[below, 1 to 16 bins, above, not finite\]; nominal ones are 2 to 16 classes or
    /// groups of classes.
    ///
    /// # Errors
    /// [`Error::Cells`] if there are too few or too many cells, or nothing was counted.
    pub fn build(
        measurement: Measurement,
        reference: &[u32],
        calibration: &Calibration,
    ) -> Result<Self, Error> {
        let distribution = Distribution::new(measurement, reference, calibration.eta_cycle())?;
        let mut guesses = heapless::Vec::new();
        let mut guess = |change, shares: &[f64; CELL_COUNT_MAX]| {
            let guess = Guess::new(change, shares, &distribution);
            assert!(
                guesses.push(guess).is_ok(),
                "no measurement has more guesses than there is room"
            );
        };
        match measurement {
            Measurement::Ordinal => {
                for shift in SHIFTS {
                    guess(Change::Rises, &distribution.normal(shift, 1.0));
                    guess(Change::Falls, &distribution.normal(-shift, 1.0));
                }
                for spread in SPREADS {
                    let change = if spread > 1.0 { Change::Widens } else { Change::Narrows };
                    guess(change, &distribution.normal(0.0, spread));
                }
                let (lower, upper) =
                    (distribution.normal(-MODES.0, MODES.1), distribution.normal(MODES.0, MODES.1));
                let mut modes = lower;
                modes
                    .iter_mut()
                    .zip(upper)
                    .for_each(|(share, upper)| *share = (*share + upper) / 2.0);
                guess(Change::Splits, &modes);
                for (change, end) in [(Change::UpperEnd, END), (Change::LowerEnd, -END)] {
                    let end = distribution.normal(end, 1.0);
                    guess(change, &distribution.contaminated(CONTAMINATION, &end));
                }
            }
            Measurement::Nominal => {
                let mut by_share: heapless::Vec<usize, CELL_COUNT_MAX> =
                    (0..reference.len()).collect();
                by_share.sort_unstable_by_key(|&cell| (core::cmp::Reverse(reference[cell]), cell));
                for &cell in by_share.iter().take(FIXED_COUNT_MAX) {
                    let mut all = [0.0; CELL_COUNT_MAX];
                    all[cell] = 1.0;
                    let class = u8::try_from(cell).expect("there are at most 16 classes");
                    let shares = distribution.contaminated(CLASS_CONTAMINATION, &all);
                    guess(Change::Class(class), &shares);
                }
            }
        }
        let freedom = reference.len() as f64 - 1.0;
        // What the squared differences between shares and reference sum up to, at three deviations.
        let shape_margin = (freedom + 3.0 * sqrt(2.0 * freedom)) / distribution.rows;
        Ok(Self {
            weights: Weights::new(distribution.weights),
            cell_count: reference.len(),
            guesses,
            native: Temper::new(
                calibration.eta(),
                shape_margin + calibration.shape_gain() * calibration.eta(),
            ),
            cycle: Temper::new(calibration.eta_cycle(), shape_margin),
            uncalibrated: !calibration.is_calibrated(),
        })
    }

    /// How many cells the stream has.
    pub const fn cell_count(&self) -> usize {
        self.cell_count
    }

    /// The power that evidence of single windows is raised to, above 0 and at most 1.
    pub fn eta(&self) -> f32 {
        self.native.eta as f32 / ETA_ONE as f32
    }

    /// The same for whole cycles.
    pub fn eta_cycle(&self) -> f32 {
        self.cycle.eta as f32 / ETA_ONE as f32
    }

    /// Whether η is a guess, because the reference had too few windows or no order in time.
    pub const fn uncalibrated(&self) -> bool {
        self.uncalibrated
    }

    /// The guesses in the order of the components; [`Change::Shape`] comes last.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.guesses.iter().map(|guess| guess.change).chain([Change::Shape])
    }
}

impl From<ScoreTable> for TableForm {
    fn from(table: ScoreTable) -> Self {
        let count = table.cell_count;
        let row = |guess: &Guess| GuessForm {
            change: guess.change,
            fraction_bits: guess.fraction_bits,
            margin: guess.margin.0,
            scores: guess.scores[..count].iter().copied().collect(),
        };
        Self {
            weights: table.weights.weights[..count].iter().copied().collect(),
            guesses: table.guesses.iter().map(row).collect(),
            tempers: [table.native, table.cycle].map(|temper| (temper.eta, temper.shape_margin.0)),
            uncalibrated: table.uncalibrated,
        }
    }
}

impl TryFrom<TableForm> for ScoreTable {
    type Error = Error;

    fn try_from(form: TableForm) -> Result<Self, Error> {
        let cell_count = form.weights.len();
        let sum: u32 = form.weights.iter().map(|&weight| u32::from(weight)).sum();
        if cell_count < 2 || sum != WEIGHT_SUM || form.weights.contains(&0) {
            return Err(Error::Cells);
        }
        if form.tempers.iter().any(|(eta, _)| !(1..=ETA_ONE).contains(eta)) {
            return Err(Error::Malformed);
        }
        let mut guesses = heapless::Vec::new();
        for row in &form.guesses {
            let fraction_ok = (FRACTION_BITS_MIN..=FRACTION_BITS_MAX).contains(&row.fraction_bits);
            if row.scores.len() != cell_count || !fraction_ok {
                return Err(Error::Malformed);
            }
            let mut scores = [0; CELL_COUNT_MAX];
            scores[..cell_count].copy_from_slice(&row.scores);
            let (change, fraction_bits) = (row.change, row.fraction_bits);
            let guess = Guess { change, fraction_bits, margin: Margin(row.margin), scores };
            guesses.push(guess).map_err(|_| Error::Malformed)?;
        }
        let mut weights = [0; CELL_COUNT_MAX];
        weights[..cell_count].copy_from_slice(&form.weights);
        let [native, cycle] =
            form.tempers.map(|(eta, margin)| Temper::from_raw(eta, Margin(margin)));
        Ok(Self {
            weights: Weights::new(weights),
            cell_count,
            guesses,
            native,
            cycle,
            uncalibrated: form.uncalibrated,
        })
    }
}

/// How a distribution may change, and what each cell says to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guess {
    change: Change,
    fraction_bits: u8,
    margin: Margin,
    scores: [i16; CELL_COUNT_MAX],
}

impl Guess {
    fn new(change: Change, shares: &[f64; CELL_COUNT_MAX], reference: &Distribution) -> Self {
        let mut ratios = [1.0; CELL_COUNT_MAX];
        let mut sum = 0.0;
        for ((ratio, &share), &p) in ratios.iter_mut().zip(shares).zip(&reference.shares) {
            if p > 0.0 {
                *ratio = (share / p).clamp(1.0 / RATIO_MAX, RATIO_MAX);
                sum += p * *ratio;
            }
        }
        // Shares that were cut off above are not given to other cells: the guess is the weaker for it.
        ratios.iter_mut().for_each(|ratio| *ratio /= sum.max(1.0));
        let (fraction_bits, scores) = rounded_scores(&ratios, reference);
        Self { change, fraction_bits, margin: reference.margin(&ratios), scores }
    }

    /// The logarithm of the tempered evidence of a window, rounded down.
    pub(super) fn evidence(
        &self,
        cells: &[i32; CELL_COUNT_MAX],
        total: u64,
        temper: &Temper,
    ) -> i32 {
        let products = cells.iter().zip(&self.scores);
        let sum: i64 = products.map(|(&count, &score)| i64::from(count) * i64::from(score)).sum();
        let log = (sum << (FRACTION_BITS_MAX - self.fraction_bits)) >> (FRACTION_BITS_MAX - 16);
        let margin = (self.margin.of(total) * u64::from(temper.root)) >> FRACTION_BITS;
        low_word(temper.of(log) - margin.cast_signed() - 1)
    }
}

/// What a guess gives away per sample, in units of 2⁻²⁴ nat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Margin(u32);

impl Margin {
    fn new(nats: f64) -> Self {
        let unit = f64::from(1u32 << MARGIN_FRACTION_BITS);
        Self(libm::ceil((nats * unit).min(unit)) as u32)
    }

    /// For a window with so many samples, in units of 2⁻¹⁶ nat.
    pub(super) fn of(self, total: u64) -> u64 {
        let total = total.min(1 << 37);
        let margin = (total * u64::from(self.0)) >> (MARGIN_FRACTION_BITS - FRACTION_BITS);
        margin.min(LOG_MAX.cast_unsigned())
    }
}

/// The power that evidence is raised to, and its square root, in units of 2⁻¹⁶.
///
/// If windows vary 1/η times as much as independent draws, the reference does too: its standard error
/// grows by √(1/η), and tempering multiplies what it is worth by η.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Temper {
    eta: u32,
    root: u32,
    /// What the learnt guess gives away per sample.
    shape_margin: Margin,
}

impl Temper {
    fn new(eta: f64, shape_margin: f64) -> Self {
        let eta = ((eta * f64::from(ETA_ONE)) as u32).clamp(1, ETA_ONE);
        Self::from_raw(eta, Margin::new(shape_margin))
    }

    fn from_raw(eta: u32, shape_margin: Margin) -> Self {
        // The root of eta · 2¹⁶ is that of η, in the same unit.
        Self { eta, root: (u64::from(eta) << FRACTION_BITS).isqrt() as u32 + 1, shape_margin }
    }

    /// The logarithm of the tempered evidence of a window for the learnt guess, rounded down.
    pub(super) fn evidence_of_shape(&self, log: i64, total: u64) -> i32 {
        low_word(self.of(log) - self.shape_margin.of(total).cast_signed() - 1)
    }

    fn of(&self, log: i64) -> i64 {
        (log.clamp(-LOG_MAX, LOG_MAX) * i64::from(self.eta)) >> FRACTION_BITS
    }
}

fn low_word(log: i64) -> i32 {
    i32::try_from(log.clamp(-LOG_MAX, LOG_MAX)).expect("the range fits")
}

/// The reference, smoothed and rounded: what a stream is tested against.
pub(super) struct Distribution {
    pub(super) weights: [u16; CELL_COUNT_MAX],
    /// The weights as shares.
    shares: [f64; CELL_COUNT_MAX],
    counts: [f64; CELL_COUNT_MAX],
    rows: f64,
    /// Cells on the number line: all but what is not finite.
    line: usize,
}

impl Distribution {
    /// Bins have half a sample more than was counted (Jeffreys' prior), as classes have. Guards have
    /// what a sample of `m` that is not independent leaves out on either side, 1/η of cycles: on average the
    /// next independent value exceeds the largest of `m` with probability 1 / (m + 1).
    pub(super) fn new(
        measurement: Measurement,
        reference: &[u32],
        eta: f64,
    ) -> Result<Self, Error> {
        let expected = match measurement {
            Measurement::Ordinal => 4..=CELL_COUNT_MAX,
            Measurement::Nominal => 2..=CELL_COUNT_MAX - 3,
        };
        let rows: f64 = reference.iter().map(|&count| f64::from(count)).sum();
        if !expected.contains(&reference.len()) || rows == 0.0 {
            return Err(Error::Cells);
        }
        let mut counts = [0.0; CELL_COUNT_MAX];
        for (smoothed, &count) in counts.iter_mut().zip(reference) {
            *smoothed = f64::from(count) + 0.5;
        }
        let line = match measurement {
            Measurement::Ordinal => reference.len() - 1,
            Measurement::Nominal => reference.len(),
        };
        if measurement == Measurement::Ordinal {
            for guard in [0, line - 1] {
                counts[guard] = counts[guard].max((1.0 / eta).min(rows / 8.0));
            }
        }
        let weights = weights_of(&counts[..reference.len()]);
        let shares = weights.map(|weight| f64::from(weight) / f64::from(WEIGHT_SUM));
        Ok(Self { weights, shares, counts, rows, line })
    }

    /// The shares of the cells if the reference, as a standard normal distribution, became one with
    /// this mean and standard deviation. What is not finite keeps its share.
    fn normal(&self, mean: f64, deviation: f64) -> [f64; CELL_COUNT_MAX] {
        let mut shares = self.shares;
        let on_line: f64 = self.shares[..self.line].iter().sum();
        let (mut below, mut cut) = (0.0, 0.0);
        for (cell, share) in shares[..self.line].iter_mut().enumerate() {
            below += *share / on_line;
            let z = if cell + 1 == self.line { f64::INFINITY } else { normal_quantile(below) };
            let next = normal_below((z - mean) / deviation);
            *share = (next - cut) * on_line;
            cut = next;
        }
        shares
    }

    fn contaminated(&self, part: f64, by: &[f64; CELL_COUNT_MAX]) -> [f64; CELL_COUNT_MAX] {
        let mut shares = self.shares;
        for (share, other) in shares.iter_mut().zip(by) {
            *share += part * (other - *share);
        }
        shares
    }

    /// The standard error of Σ p_b r_b, times the deviations, with one sample more in each cell than was counted: a cell
    /// without a sample is uncertain too.
    fn margin(&self, ratios: &[f64; CELL_COUNT_MAX]) -> Margin {
        let cells = self.counts.iter().zip(ratios).filter(|&(&count, _)| count > 0.0);
        let variance: f64 =
            cells.map(|(count, ratio)| (count + 0.5) * (ratio - 1.0) * (ratio - 1.0)).sum();
        Margin::new(MARGIN_DEVIATIONS * sqrt(variance) / self.rows)
    }
}

/// A table as it is written down.
#[derive(Serialize, Deserialize)]
#[serde(rename = "ScoreTable", deny_unknown_fields)]
struct TableForm {
    weights: heapless::Vec<u16, CELL_COUNT_MAX>,
    guesses: heapless::Vec<GuessForm, FIXED_COUNT_MAX>,
    tempers: [(u32, u32); 2],
    uncalibrated: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Guess", deny_unknown_fields)]
struct GuessForm {
    change: Change,
    fraction_bits: u8,
    margin: u32,
    scores: heapless::Vec<i16, CELL_COUNT_MAX>,
}

const ETA_ONE: u32 = 1 << FRACTION_BITS;
/// Scores of ln 64 fit an `i16` with this many bits behind the point.
const FRACTION_BITS_MIN: u8 = 12;
const FRACTION_BITS_MAX: u8 = 20;
/// Half of what a [`LogEvidence`](crate::LogEvidence) holds.
const LOG_MAX: i64 = 1 << 29;

/// Shares in units of 2⁻¹⁶ that sum up to one, each at least one unit.
fn weights_of(counts: &[f64]) -> [u16; CELL_COUNT_MAX] {
    let total: f64 = counts.iter().sum();
    let mut weights = [0u16; CELL_COUNT_MAX];
    let mut left = WEIGHT_SUM as i32;
    for (weight, count) in weights.iter_mut().zip(counts) {
        let highest = f64::from(WEIGHT_SUM) - counts.len() as f64;
        *weight = libm::round(count / total * f64::from(WEIGHT_SUM)).clamp(1.0, highest) as u16;
        left -= i32::from(*weight);
    }
    // Rounding leaves a unit per cell at most, and the largest cell has enough to give.
    let largest = weights.iter_mut().max().expect("there are cells");
    *largest = u16::try_from(i32::from(*largest) + left).expect("other cells have a unit each");
    weights
}

/// The logarithms of the ratios as integers, with as many bits behind the point as fit, rounded to the
/// nearest; then those that were rounded up furthest are lowered until Σ p_b e^(s_b) ≤ 1.
fn rounded_scores(
    ratios: &[f64; CELL_COUNT_MAX],
    reference: &Distribution,
) -> (u8, [i16; CELL_COUNT_MAX]) {
    let logs = ratios.map(log);
    let largest = logs.iter().fold(0.0, |largest: f64, log| largest.max(log.abs()));
    let fits = |bits: &u8| largest * f64::from(1u32 << bits) < f64::from(i16::MAX);
    let bits =
        (FRACTION_BITS_MIN..=FRACTION_BITS_MAX).rev().find(fits).expect("ratios are at most 64");
    let unit = f64::from(1u32 << bits);
    let mut scores = [0; CELL_COUNT_MAX];
    for cell in (0..CELL_COUNT_MAX).filter(|&cell| reference.weights[cell] > 0) {
        scores[cell] = libm::round(logs[cell] * unit) as i16;
    }
    let mean = |scores: &[i16; CELL_COUNT_MAX]| {
        let cells = scores.iter().zip(&reference.shares);
        cells.map(|(&score, share)| share * exp(f64::from(score) / unit)).sum::<f64>()
    };
    // The sum itself is off by some 10⁻¹⁵.
    while mean(&scores) > 1.0 - 1e-14 {
        let excess =
            |cell: usize| (f64::from(scores[cell]) - logs[cell] * unit, reference.shares[cell]);
        let used = (0..CELL_COUNT_MAX).filter(|&cell| reference.weights[cell] > 0);
        let highest =
            used.max_by(|&a, &b| excess(a).partial_cmp(&excess(b)).expect("no ratio is 0"));
        scores[highest.expect("there are cells")] -= 1;
    }
    (bits, scores)
}

fn normal_below(z: f64) -> f64 {
    0.5 * erfc(-z * core::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::detect) fn mean_of_evidence(
        guess: &Guess,
        weights: &[u16; CELL_COUNT_MAX],
    ) -> f64 {
        let unit = f64::from(1u32 << guess.fraction_bits);
        let cells = weights.iter().zip(&guess.scores);
        cells
            .map(|(&weight, &score)| f64::from(weight) * (f64::from(score) / unit).exp())
            .sum::<f64>()
            / f64::from(WEIGHT_SUM)
    }

    proptest! {
        #[test]
        fn one_sample_is_an_e_value_for_every_guess(
            reference in prop::collection::vec(prop_oneof![Just(0), 0..50u32, 0..20_000u32], 4..=16),
            nominal: bool,
        ) {
            let measurement = if nominal { Measurement::Nominal } else { Measurement::Ordinal };
            let table = ScoreTable::build(measurement, &reference, &Calibration::unknown());
            prop_assume!(reference.iter().any(|&count| count > 0));
            let table = table.expect("the cells are sound");
            for guess in &table.guesses {
                let mean = mean_of_evidence(guess, &table.weights.weights);
                prop_assert!(mean <= 1.0, "{:?}: {mean}", guess.change);
            }
        }

        #[test]
        fn a_table_comes_back_as_it_was_written(reference in prop::collection::vec(0..9000u32, 4..=19)) {
            prop_assume!(reference.iter().any(|&count| count > 0));
            let table = ScoreTable::build(Measurement::Ordinal, &reference, &Calibration::unknown());
            let table = table.expect("the cells are sound");
            let bytes = postcard::to_allocvec(&table).expect("a table encodes");
            prop_assert_eq!(postcard::from_bytes::<ScoreTable>(&bytes), Ok(table));
        }
    }

    #[test]
    fn cells_that_are_no_distribution_are_refused() {
        for (measurement, reference) in [
            (Measurement::Ordinal, &[1, 1, 1][..]),
            (Measurement::Ordinal, &[1; CELL_COUNT_MAX + 1]),
            (Measurement::Ordinal, &[0; 5]),
            (Measurement::Nominal, &[1]),
            (Measurement::Nominal, &[1; 17]),
        ] {
            let table = ScoreTable::build(measurement, reference, &Calibration::unknown());
            assert_eq!(table, Err(Error::Cells), "{reference:?}");
        }
    }
}
