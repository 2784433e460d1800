//! From values to cells: the only place that names bins and keys.

use selvedge_bundle::frozen_bins;
use selvedge_sketch::{
    BinCounts, BinSpec, Calibration, Measurement, ScoreTable, VarianceInflation, key_from_f32,
};

/// Classes: the scores that follow from how often each was answered in windows in the order of time.
pub fn class_table(windows: &[Vec<u32>]) -> ScoreTable {
    let cells = sum(windows);
    let mut inflation =
        VarianceInflation::new(Measurement::Nominal, &cells, 0).expect("the reference has answers");
    windows.iter().for_each(|window| inflation.observe(window));
    ScoreTable::build(Measurement::Nominal, &cells, &inflation.calibration())
        .expect("the reference has answers")
}

/// The bins of a feature, frozen with its reference, and the scores that follow from it.
pub struct Reference {
    spec: BinSpec,
    cells: Vec<u32>,
    /// What a detector judges by.
    pub table: ScoreTable,
}

impl Reference {
    /// From windows in the order of time, which repeat after `cycle_windows` windows (0 for none).
    pub fn build(windows: &[Vec<f32>], cycle_windows: u16) -> Self {
        let spec = frozen_bins(&windows.concat()).expect("the reference has values");
        let count = |window: &Vec<f32>| count(&spec, window.iter().copied());
        let counted: Vec<Vec<u32>> = windows.iter().map(count).collect();
        let cells = sum(&counted);
        let mut inflation = VarianceInflation::new(Measurement::Ordinal, &cells, cycle_windows)
            .expect("the reference has values");
        counted.iter().for_each(|window| inflation.observe(window));
        let table = ScoreTable::build(Measurement::Ordinal, &cells, &inflation.calibration())
            .expect("the reference has values");
        Self { spec, cells, table }
    }

    /// The same reference as if it had no order in time.
    pub fn unordered(windows: &[Vec<f32>]) -> Self {
        let reference = Self::build(windows, 0);
        let table =
            ScoreTable::build(Measurement::Ordinal, &reference.cells, &Calibration::unknown())
                .expect("the reference has values");
        Self { table, ..reference }
    }

    /// The bins.
    pub fn spec(&self) -> &BinSpec {
        &self.spec
    }

    /// A window's counts per cell.
    pub fn count(&self, values: impl IntoIterator<Item = f32>) -> Vec<u32> {
        count(&self.spec, values)
    }
}

/// Adds counts cell by cell.
pub fn sum(windows: &[Vec<u32>]) -> Vec<u32> {
    let mut sum = vec![0; windows.first().map_or(0, Vec::len)];
    for window in windows {
        sum.iter_mut().zip(window).for_each(|(sum, count)| *sum += count);
    }
    sum
}

fn count(spec: &BinSpec, values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    let mut counts = BinCounts::new();
    values.into_iter().for_each(|value| counts.observe(spec, key_from_f32(value)));
    let not_finite = counts.nan() + counts.infinity() + counts.infinity_negative();
    let bins = &counts.bins()[..spec.bin_count()];
    [&[counts.below()], bins, &[counts.above(), not_finite]].concat()
}
