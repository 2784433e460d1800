//! How much more the windows of a reference vary than independent draws would: what evidence is
//! tempered by.
//!
//! Samples of a sensor follow each other, so the mean of a window varies more than 1/n says. The
//! reference, cut into windows in the order of time, shows by how much: the *variance inflation* of the
//! windows' location and spread (normal scores, or the two largest classes). η is 1 over it.
//!
//! A slow rhythm shows only in windows taken together, so blocks of 2, 4, 8 … windows count too, where
//! they certainly vary more than single ones do.

use libm::{exp, sqrt};

use super::{
    CELL_COUNT_MAX, Measurement,
    learner::{Learner, Weights},
    mixture::Tested,
    table::Distribution,
};
use crate::{
    Error,
    evidence::UNIT,
    statistics::{chi_square_quantile, normal_quantile},
};

/// The most that evidence is worth, however calm the reference was: windows vary a little more than
/// the reference's did.
const ETA_MAX: f64 = 0.9;
/// What it is worth if nothing is known about the order of the reference.
const ETA_UNKNOWN: f64 = 0.2;
const ETA_MIN: f64 = 1.0 / 4096.0;

/// The fewest blocks that can show a slow rhythm.
const BLOCKS_MIN: u32 = 8;

/// Blocks of up to 2¹¹ windows.
const LEVEL_COUNT: usize = 12;
const CONTRAST_COUNT: usize = 2;

/// The powers that evidence is raised to, and whether the reference supports them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    eta: f64,
    eta_cycle: f64,
    shape_gain: f64,
    calibrated: bool,
}

impl Calibration {
    /// The fewest windows in the order of time whose variance counts as known.
    pub const WINDOWS_MIN: u32 = 30;
    /// The fewest cycles of a rhythm likewise.
    pub const CYCLES_MIN: u32 = 8;

    /// For a reference without order in time, or without enough rows to be cut into windows.
    pub const fn unknown() -> Self {
        Self { eta: ETA_UNKNOWN, eta_cycle: ETA_UNKNOWN, shape_gain: 0.0, calibrated: false }
    }

    /// For streams whose samples are known to be independent: the theorem's case.
    pub const fn independent() -> Self {
        Self { eta: 1.0, eta_cycle: 1.0, shape_gain: 0.0, calibrated: true }
    }

    /// The power for single windows, above 0 and at most 1.
    pub const fn eta(&self) -> f64 {
        self.eta
    }

    /// The power for whole cycles, above 0 and at most 1.
    pub const fn eta_cycle(&self) -> f64 {
        self.eta_cycle
    }

    /// What a guess learnt from the windows before gains per sample, in nats: where windows resemble those
    /// before them, as in a slow rhythm, it gains without any drift.
    pub const fn shape_gain(&self) -> f64 {
        self.shape_gain
    }

    /// Whether enough windows in the order of time, and enough cycles where there are cycles, were
    /// measured.
    pub const fn is_calibrated(&self) -> bool {
        self.calibrated
    }
}

/// Measures how much the windows of one stream vary, in the order of time.
#[derive(Clone, Debug)]
pub struct VarianceInflation {
    contrasts: [[f64; CELL_COUNT_MAX]; CONTRAST_COUNT],
    levels: [Blocks; LEVEL_COUNT],
    cycles: Blocks,
    cycle_windows: u32,
    weights: Weights,
    learner: Learner,
    gains: Gains,
}

impl VarianceInflation {
    /// For windows that are counted in the cells of `reference`, which repeat after `cycle_windows`
    /// windows (0 or 1 if there is no rhythm).
    ///
    /// # Errors
    /// [`Error::Cells`] as for [`ScoreTable::build`](super::ScoreTable::build).
    pub fn new(
        measurement: Measurement,
        reference: &[u32],
        cycle_windows: u16,
    ) -> Result<Self, Error> {
        let weights = Weights::new(Distribution::new(measurement, reference, 1.0)?.weights);
        let rows: f64 = reference.iter().map(|&count| f64::from(count)).sum();
        let mut shares = [0.0; CELL_COUNT_MAX];
        for (share, &count) in shares.iter_mut().zip(reference) {
            *share = f64::from(count) / rows;
        }
        let mut contrasts = match measurement {
            Measurement::Ordinal => location_and_spread(&shares, reference.len() - 1),
            Measurement::Nominal => two_largest(&shares),
        };
        contrasts.iter_mut().for_each(|contrast| standardize(contrast, &shares));
        let (levels, cycles) = ([Blocks::default(); LEVEL_COUNT], Blocks::default());
        Ok(Self {
            contrasts,
            levels,
            cycles,
            cycle_windows: cycle_windows.into(),
            weights,
            learner: Learner::new(),
            gains: Gains::default(),
        })
    }

    /// Takes the next window's counts per cell. Empty windows are none.
    pub fn observe(&mut self, counts: &[u32]) {
        let samples: f64 = counts.iter().map(|&count| f64::from(count)).sum();
        if samples == 0.0 {
            return;
        }
        let sums = self.contrasts.map(|contrast| {
            counts.iter().zip(contrast).map(|(&count, score)| f64::from(count) * score).sum::<f64>()
        });
        for (level, blocks) in self.levels.iter_mut().enumerate() {
            blocks.add(&sums, samples, 1 << level);
        }
        if self.cycle_windows > 1 {
            self.cycles.add(&sums, samples, self.cycle_windows);
        }
        let mut cells = [0; CELL_COUNT_MAX];
        for (cell, &count) in cells.iter_mut().zip(counts) {
            *cell = i32::try_from(count).unwrap_or(i32::MAX);
        }
        let tested = Tested { cells: &cells, total: samples as u64, windows: 1 };
        self.gains.add(self.learner.evidence(&self.weights, &tested) as f64 / UNIT / samples);
        self.learner.learn(&tested);
    }

    /// What the windows so far say.
    pub fn calibration(&self) -> Calibration {
        let windows = self.levels[0].count;
        let Some(native) = self.levels[0].inflation(0.05) else { return Calibration::unknown() };
        let longest = if self.cycle_windows > 1 { self.cycle_windows } else { u32::MAX };
        let slow = (1..LEVEL_COUNT).filter(|&level| 1 << level <= longest);
        let slow =
            slow.map(|level| &self.levels[level]).filter(|blocks| blocks.count >= BLOCKS_MIN);
        let slow = slow.filter_map(|blocks| blocks.inflation(0.95)).fold(0.0, f64::max);
        let known = |eta: f64, is_known: bool| {
            let highest = if is_known { ETA_MAX } else { ETA_UNKNOWN };
            eta.clamp(ETA_MIN, highest)
        };
        let enough_windows = windows >= Calibration::WINDOWS_MIN;
        let eta = known(1.0 / native.max(slow), enough_windows);
        let shape_gain = self.gains.upper().max(0.0);
        if self.cycle_windows <= 1 {
            return Calibration { eta, eta_cycle: eta, shape_gain, calibrated: enough_windows };
        }
        let enough_cycles = self.cycles.count >= Calibration::CYCLES_MIN;
        let cycle = self.cycles.inflation(0.05).map_or(ETA_UNKNOWN, |inflation| 1.0 / inflation);
        let eta_cycle = known(cycle, enough_cycles);
        Calibration { eta, eta_cycle, shape_gain, calibrated: enough_windows && enough_cycles }
    }
}

/// Blocks of a number of windows.
#[derive(Clone, Copy, Debug, Default)]
struct Blocks {
    sums: [f64; CONTRAST_COUNT],
    samples: f64,
    windows: u32,
    /// Of the standardised sums of the blocks before.
    squares: [f64; CONTRAST_COUNT],
    count: u32,
}

impl Blocks {
    fn add(&mut self, sums: &[f64; CONTRAST_COUNT], samples: f64, windows: u32) {
        for (sum, added) in self.sums.iter_mut().zip(sums) {
            *sum += added;
        }
        self.samples += samples;
        self.windows += 1;
        if self.windows == windows {
            for (square, sum) in self.squares.iter_mut().zip(self.sums) {
                *square += sum * sum / self.samples;
            }
            (self.sums, self.samples, self.windows) = ([0.0; CONTRAST_COUNT], 0.0, 0);
            self.count += 1;
        }
    }

    /// The variance of the blocks over that of independent draws, which is exceeded with probability
    /// 1 − `level`: for normal sums a chi-square quantile. `None` below three blocks.
    fn inflation(&self, level: f64) -> Option<f64> {
        let freedom = self.count.checked_sub(1).filter(|&freedom| freedom >= 2)?;
        let largest = self.squares[0].max(self.squares[1]);
        Some(largest / chi_square_quantile(freedom, level))
    }
}

/// What the learnt guess gained in each window.
#[derive(Clone, Copy, Debug, Default)]
struct Gains {
    sum: f64,
    squares: f64,
    count: f64,
}

impl Gains {
    fn add(&mut self, gain: f64) {
        self.sum += gain;
        self.squares += gain * gain;
        self.count += 1.0;
    }

    /// Two standard errors above the mean.
    fn upper(&self) -> f64 {
        let mean = self.sum / self.count.max(1.0);
        let variance = (self.squares / self.count.max(1.0) - mean * mean).max(0.0);
        mean + 2.0 * sqrt(variance / self.count.max(1.0))
    }
}

/// The mean of the normal score and of its square in each cell on the number line.
fn location_and_spread(
    shares: &[f64; CELL_COUNT_MAX],
    line: usize,
) -> [[f64; CELL_COUNT_MAX]; CONTRAST_COUNT] {
    let on_line: f64 = shares[..line].iter().sum();
    let density = |z: f64| exp(-z * z / 2.0) / sqrt(core::f64::consts::TAU);
    let mut contrasts = [[0.0; CELL_COUNT_MAX]; CONTRAST_COUNT];
    let (mut below, mut from) = (0.0, -Z_MAX);
    for cell in 0..line {
        below += shares[cell] / on_line;
        let to = normal_quantile(below).clamp(-Z_MAX, Z_MAX);
        let share = shares[cell] / on_line;
        if share > 0.0 {
            contrasts[0][cell] = (density(from) - density(to)) / share;
            contrasts[1][cell] = 1.0 + (from * density(from) - to * density(to)) / share;
        } else {
            (contrasts[0][cell], contrasts[1][cell]) = (to, to * to);
        }
        from = to;
    }
    contrasts
}

/// The end of the number line: beyond it there are 3 values in 100,000, and a single one outside of the
/// reference must not count for many.
const Z_MAX: f64 = 4.0;

fn two_largest(shares: &[f64; CELL_COUNT_MAX]) -> [[f64; CELL_COUNT_MAX]; CONTRAST_COUNT] {
    let mut contrasts = [[0.0; CELL_COUNT_MAX]; CONTRAST_COUNT];
    let mut taken = CELL_COUNT_MAX;
    for contrast in &mut contrasts {
        let rest = (0..CELL_COUNT_MAX).filter(|&cell| cell != taken);
        let largest = rest.max_by(|&a, &b| shares[a].total_cmp(&shares[b]));
        taken = largest.expect("there are cells");
        contrast[taken] = 1.0;
    }
    contrasts
}

/// To mean 0 and variance 1; a contrast without variance becomes 0 everywhere.
fn standardize(contrast: &mut [f64; CELL_COUNT_MAX], shares: &[f64; CELL_COUNT_MAX]) {
    let mean: f64 = contrast.iter().zip(shares).map(|(score, share)| score * share).sum();
    contrast.iter_mut().for_each(|score| *score -= mean);
    let variance: f64 =
        contrast.iter().zip(shares).map(|(score, share)| score * score * share).sum();
    let deviation = sqrt(variance);
    contrast
        .iter_mut()
        .for_each(|score| *score = if deviation < 1e-9 { 0.0 } else { *score / deviation });
}
