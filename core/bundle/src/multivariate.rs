//! Whether the vectors of a window, taken together, are still those of the reference.
//!
//! The statistic is Hotelling's T² (1931), the squared Mahalanobis distance between the mean of the
//! window and that of the reference: `dᵀ S⁻¹ d / (1/n + 1/m)`, with `n` vectors in the window and `m` in
//! the reference. On sums of embeddings it sees their mean move; on sums of random Fourier features it
//! sees any change of their distribution, as a kernel two-sample test does (Gretton et al. 2012).
//!
//! Nothing of a window but its sums is needed, so windows of devices and hours add up exactly. The
//! reference needs products of pairs as well, which are taken where the reference data are.
//!
//! The covariance is that of the reference, shrunk towards its diagonal as the oracle approximating
//! shrinkage says (OAS; Chen, Wiesel, Eldar, Hero 2010), on the scale of correlations.
//!
//! **Thresholds come from other sources than the reference.** A *source* is whoever or whatever makes
//! windows alike: a device, a session, a person, a set of images. Windows drawn from the reference itself
//! are nearer to it than any new ones, all the more for a model that was trained on it; thresholds made
//! of those alarm on most clean windows. Hence a [`Reference`] judges nothing. Only a [`Threshold`] does,
//! and [`Reference::threshold`] refuses a window whose source the reference has seen.
//!
//! What is guaranteed: if the calibration windows and a new clean window are exchangeable, the chance that
//! it exceeds the threshold is at most the stated one (split conformal prediction; Vovk, Gammerman, Shafer
//! 2005). Windows that share few sources are not exchangeable with those of a new source, and then the rate
//! is an estimate.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// Whoever or whatever vectors came from, where that may make them alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(pub u64);

/// Exact sums over the vectors of the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceMoments {
    count: u64,
    sums: Vec<i64>,
    /// Of pairs of components: row by row, each up to the diagonal.
    products: Vec<i64>,
}

impl ReferenceMoments {
    /// No vectors, of `width` components each.
    pub fn new(width: usize) -> Self {
        Self { count: 0, sums: vec![0; width], products: vec![0; at(width, 0)] }
    }

    /// Adds a vector. `codes`: \[component\] i8.
    ///
    /// # Panics
    /// If it has another width.
    pub fn observe(&mut self, codes: &[i8]) {
        assert_eq!(codes.len(), self.sums.len(), "all vectors of a reference have one width");
        self.count += 1;
        let pairs = codes
            .iter()
            .enumerate()
            .flat_map(|(row, &a)| codes[..=row].iter().map(move |&b| i64::from(a) * i64::from(b)));
        self.products.iter_mut().zip(pairs).for_each(|(sum, product)| *sum += product);
        self.sums.iter_mut().zip(codes).for_each(|(sum, &code)| *sum += i64::from(code));
    }

    /// How many vectors there were.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether these can be the sums of at most `count_max` vectors with so many components.
    pub(crate) fn fits(&self, width: usize, count_max: u64) -> bool {
        let most = |code_max: u64| self.count.saturating_mul(code_max);
        self.sums.len() == width
            && self.products.len() == at(width, 0)
            && self.count <= count_max.min(u32::MAX.into())
            && self.sums.iter().all(|sum| sum.unsigned_abs() <= most(1 << 7))
            && self.products.iter().all(|sum| sum.unsigned_abs() <= most(1 << 14))
    }
}

/// The sums of one window's vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowSums {
    /// How many vectors there were.
    pub count: u64,
    /// The sum of each component.
    pub sums: Vec<i64>,
}

/// Why something is not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The reference has too few vectors for a covariance: there must be at least two.
    TooFewVectors,
    /// A window has another number of components than the reference, or no vectors.
    Width,
    /// A calibration window comes from a source that the reference was made of.
    SharedSource(SourceId),
    /// There are too few calibration windows for so small a chance of a false alarm.
    TooFewWindows {
        /// How many it takes.
        needed: usize,
    },
    /// The chance of a false alarm does not lie between 0 and 1.
    Chance,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewVectors => f.write_str("the reference has fewer than two vectors"),
            Self::Width => f.write_str("the window's vectors are not those of the reference"),
            Self::SharedSource(SourceId(source)) => {
                write!(f, "source {source} is part of the reference, so it cannot calibrate it")
            }
            Self::TooFewWindows { needed } => {
                write!(f, "it takes {needed} calibration windows for so small a chance")
            }
            Self::Chance => f.write_str("the chance of a false alarm lies between 0 and 1"),
        }
    }
}

impl std::error::Error for Refusal {}

/// The mean and the covariance that windows are held against. It has no threshold and judges nothing.
#[derive(Clone, Debug)]
pub struct Reference {
    count: u64,
    mean: Vec<f64>,
    sd: Vec<f64>,
    /// The lower triangle L of the shrunk correlations, `L Lᵀ`, row by row, each up to the diagonal.
    factor: Vec<f64>,
}

/// The least standard deviation of a component, in codes. One that never moved in the reference has it, so
/// that a single code of a single window does not weigh without bound.
const SD_MIN: f64 = 1.0;

/// The least share of the diagonal. It keeps components that depend on each other, or never moved
/// together, invertible.
const SHRINKAGE_MIN: f64 = 1e-3;

impl Reference {
    /// The mean and the shrunk covariance of the reference.
    ///
    /// # Errors
    /// [`Refusal::TooFewVectors`], [`Refusal::Width`] if vectors have no components.
    pub fn fit(moments: &ReferenceMoments) -> Result<Self, Refusal> {
        let width = moments.sums.len();
        if width == 0 {
            return Err(Refusal::Width);
        }
        if moments.count < 2 {
            return Err(Refusal::TooFewVectors);
        }
        let m = moments.count as f64;
        let mean: Vec<f64> = moments.sums.iter().map(|&sum| sum as f64 / m).collect();
        let covariance = |row: usize, column: usize| {
            let product = moments.products[at(row, column)];
            // In integers until the last step: the difference is small where the terms are not.
            let centred = i128::from(product) * i128::from(moments.count)
                - i128::from(moments.sums[row]) * i128::from(moments.sums[column]);
            centred as f64 / m / (m - 1.0)
        };
        let sd: Vec<f64> =
            (0..width).map(|row| covariance(row, row).max(0.0).sqrt().max(SD_MIN)).collect();
        let mut correlation = vec![0.0; at(width, 0)];
        for row in 0..width {
            for column in 0..row {
                correlation[at(row, column)] = covariance(row, column) / sd[row] / sd[column];
            }
            correlation[at(row, row)] = 1.0;
        }
        let kept = 1.0 - shrinkage(&correlation, width, m);
        for row in 0..width {
            for column in 0..row {
                correlation[at(row, column)] *= kept;
            }
        }
        Ok(Self { count: moments.count, mean, sd, factor: cholesky(correlation, width) })
    }

    /// How far the window is from the reference: T². Without a threshold it says little.
    ///
    /// # Errors
    /// [`Refusal::Width`].
    pub fn t_squared(&self, window: &WindowSums) -> Result<f64, Refusal> {
        // The length of L⁻¹ d, by forward substitution.
        let mut solved: Vec<f64> = Vec::with_capacity(self.mean.len());
        for (row, deviation) in self.deviations(window)?.into_iter().enumerate() {
            let known = solved.iter().enumerate();
            let below: f64 =
                known.map(|(column, value)| self.factor[at(row, column)] * value).sum();
            solved.push((deviation - below) / self.factor[at(row, row)]);
        }
        Ok(solved.iter().map(|length| length * length).sum())
    }

    /// How far the mean of each component is from the reference's, in standard errors of the difference:
    /// where to look first. With many components some are always far.
    ///
    /// # Errors
    /// [`Refusal::Width`].
    pub fn deviations(&self, window: &WindowSums) -> Result<Vec<f64>, Refusal> {
        if window.sums.len() != self.mean.len() || window.count == 0 {
            return Err(Refusal::Width);
        }
        let n = window.count as f64;
        let scale = (1.0 / n + 1.0 / self.count as f64).sqrt();
        let components = window.sums.iter().zip(self.mean.iter().zip(&self.sd));
        Ok(components.map(|(&sum, (mean, sd))| (sum as f64 / n - mean) / (sd * scale)).collect())
    }

    /// What windows of about one size seldom exceed: made of clean ones, none of which comes from a source that is
    /// `seen`, one of those that the reference was made of.
    ///
    /// # Errors
    /// [`Refusal::SharedSource`], [`Refusal::Width`], [`Refusal::TooFewWindows`] below
    /// [`Threshold::WINDOWS_MIN`].
    pub fn threshold(
        &self,
        seen: &BTreeSet<SourceId>,
        windows: &[(SourceId, WindowSums)],
    ) -> Result<Threshold, Refusal> {
        if let Some(&(source, _)) = windows.iter().find(|(source, _)| seen.contains(source)) {
            return Err(Refusal::SharedSource(source));
        }
        if windows.len() < Threshold::WINDOWS_MIN {
            return Err(Refusal::TooFewWindows { needed: Threshold::WINDOWS_MIN });
        }
        let judged = windows.iter().map(|(_, window)| self.t_squared(window));
        let mut distances = judged.collect::<Result<Vec<f64>, Refusal>>()?;
        let t_squared = conformal_threshold(&mut distances, chance(windows.len()))?;
        let vectors = windows.iter().map(|(_, window)| window.count).min().unwrap_or(0);
        Ok(Threshold {
            vectors,
            windows: u32::try_from(windows.len()).unwrap_or(u32::MAX),
            t_squared_milli: (1000.0 * t_squared).ceil() as u64,
        })
    }
}

/// What clean windows of about one size seldom exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threshold {
    /// The vectors of each window that it was made of.
    pub vectors: u64,
    /// How many windows these were.
    pub windows: u32,
    /// The T², in thousandths.
    pub t_squared_milli: u64,
}

impl Threshold {
    /// The fewest windows that a threshold is made of: they vouch for a chance of 5 %.
    pub const WINDOWS_MIN: usize = 19;

    /// The T².
    pub fn t_squared(&self) -> f64 {
        self.t_squared_milli as f64 / 1000.0
    }

    /// The chance that a clean window exceeds it: at most this, if it is exchangeable with those it was made of.
    pub fn chance(&self) -> f64 {
        chance(self.windows as usize)
    }

    /// Of `thresholds` that for windows of about so many vectors; none if no size is within a factor of two:
    /// differences between sources weigh more in a larger window.
    pub fn for_vectors(thresholds: &[Self], vectors: u64) -> Option<&Self> {
        let ratio = |threshold: &&Self| {
            let (small, large) =
                (threshold.vectors.min(vectors), threshold.vectors.max(vectors).max(1));
            small as f64 / large as f64
        };
        let nearest = thresholds.iter().max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        nearest.filter(|nearest| ratio(nearest) >= 0.5)
    }
}

/// A clean window exceeds its threshold at most so often, where there are enough calibration windows.
const FALSE_ALARM_CHANCE: f64 = 0.01;

/// The least chance that so many calibration windows can vouch for, at least [`FALSE_ALARM_CHANCE`].
fn chance(windows: usize) -> f64 {
    FALSE_ALARM_CHANCE.max(1.0 / (windows as f64 + 1.0))
}

/// The value that a new one exceeds with a chance of `chance` at most, if it is exchangeable with
/// `values`: of `w` sorted values that at place `⌈(w + 1)(1 − chance)⌉`. Sorts them.
///
/// # Errors
/// [`Refusal::Chance`], [`Refusal::TooFewWindows`] if there is no such place.
pub fn conformal_threshold(values: &mut [f64], chance: f64) -> Result<f64, Refusal> {
    if !(0.0 < chance && chance < 1.0) {
        return Err(Refusal::Chance);
    }
    values.sort_by(f64::total_cmp);
    // So many of them may be larger, less one; rounding must not make less of a whole number.
    let larger = ((values.len() + 1) as f64 * chance + 1e-9).floor() as usize;
    let place = values.len().checked_sub(larger.max(1)).filter(|_| larger > 0);
    place.map(|place| values[place]).ok_or_else(|| {
        let needed = (1.0 / chance - 1.0).ceil() as usize;
        Refusal::TooFewWindows { needed }
    })
}

/// Where an element of the lower triangle is.
const fn at(row: usize, column: usize) -> usize {
    row * (row + 1) / 2 + column
}

/// The weight of the diagonal by OAS, equation 23 of the paper, for correlations: their trace is their
/// number.
fn shrinkage(correlation: &[f64], width: usize, m: f64) -> f64 {
    let p = width as f64;
    let off_diagonal: f64 = (0..width)
        .flat_map(|row| (0..row).map(move |column| at(row, column)))
        .map(|place| 2.0 * correlation[place] * correlation[place])
        .sum();
    let trace_of_square = p + off_diagonal;
    let weight = ((1.0 - 2.0 / p) * trace_of_square + p * p) / ((m + 1.0 - 2.0 / p) * off_diagonal);
    // Without any correlation it is infinite or not a number: the diagonal alone.
    if weight < 1.0 { weight.max(SHRINKAGE_MIN) } else { 1.0 }
}

/// The lower triangle whose product with its transpose the matrix is. The matrix is a positive
/// semidefinite one to which a part of the identity was added.
fn cholesky(mut matrix: Vec<f64>, width: usize) -> Vec<f64> {
    for row in 0..width {
        for column in 0..=row {
            let known: f64 = (0..column)
                .map(|before| matrix[at(row, before)] * matrix[at(column, before)])
                .sum();
            let rest = matrix[at(row, column)] - known;
            matrix[at(row, column)] = if row == column {
                // Rounding alone can bring it below the share of the identity.
                rest.max(SHRINKAGE_MIN / 2.0).sqrt()
            } else {
                rest / matrix[at(column, column)]
            };
        }
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small vectors that depend on each other, from a seed; `shift` moves the first component.
    struct Stream(u64);

    impl Stream {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        /// With mean 0 and variance 1.
        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }

        /// The third component is nearly the sum of the others, the fourth never moves.
        fn vector(&mut self, shift: f64) -> [i8; 4] {
            let (a, b, noise) = (20.0 * self.normal(), 20.0 * self.normal(), 5.0 * self.normal());
            [a + shift, b, a + b + noise, 7.0].map(|value| value.round() as i8)
        }

        fn window(&mut self, count: u64, shift: f64) -> WindowSums {
            let mut sums = vec![0; 4];
            for _ in 0..count {
                let vector = self.vector(shift);
                sums.iter_mut().zip(vector).for_each(|(sum, code)| *sum += i64::from(code));
            }
            WindowSums { count, sums }
        }
    }

    fn moments(seed: u64, count: u64) -> ReferenceMoments {
        let mut stream = Stream(seed);
        let mut moments = ReferenceMoments::new(4);
        (0..count).for_each(|_| moments.observe(&stream.vector(0.0)));
        moments
    }

    fn windows(seed: u64, count: usize) -> Vec<(SourceId, WindowSums)> {
        let mut stream = Stream(seed);
        (0..count).map(|index| (SourceId(10 + index as u64 % 5), stream.window(100, 0.0))).collect()
    }

    #[test]
    fn distances_of_clean_windows_have_the_mean_of_a_chi_square() {
        let reference = Reference::fit(&moments(1, 5000)).expect("5,000 vectors suffice");
        let windows = windows(2, 2000);
        let distance = |(_, window): &(SourceId, WindowSums)| {
            reference.t_squared(window).expect("the widths are the same")
        };
        let mean = windows.iter().map(distance).sum::<f64>() / 2000.0;
        // Three components move; the shrinkage takes a little.
        assert!((2.7..3.3).contains(&mean), "{mean}");
    }

    #[test]
    fn clean_windows_exceed_a_threshold_at_the_stated_rate_and_moved_ones_do_most_of_the_time() {
        let reference = Reference::fit(&moments(3, 5000)).expect("5,000 vectors suffice");
        let threshold =
            reference.threshold(&seen(), &windows(4, 999)).expect("the sources are others");
        assert_eq!((threshold.vectors, threshold.windows, threshold.chance()), (100, 999, 0.01));
        let mut stream = Stream(5);
        let mut alarms = |shift| {
            let judged = (0..1000).map(|_| reference.t_squared(&stream.window(100, shift)));
            judged
                .filter(|t_squared| t_squared.expect("of one width") > threshold.t_squared())
                .count()
        };
        let clean = alarms(0.0);
        assert!((2..=22).contains(&clean), "{clean}");
        // Three codes are a seventh of the component's deviation, but six tenths of what the third one
        // leaves open.
        assert!(alarms(3.0) > 900);
        let deviations = reference.deviations(&stream.window(100, 20.0));
        let deviations = deviations.expect("the widths are the same");
        let farthest = (0..4).max_by(|&a, &b| deviations[a].abs().total_cmp(&deviations[b].abs()));
        assert_eq!(farthest, Some(0), "{deviations:?}");
    }

    #[test]
    fn a_component_that_wakes_up_is_seen() {
        let reference = Reference::fit(&moments(1, 5000)).expect("5,000 vectors suffice");
        let threshold =
            reference.threshold(&seen(), &windows(6, 200)).expect("the sources are others");
        let mut window = Stream(8).window(100, 0.0);
        window.sums[3] += 100;
        assert!(reference.t_squared(&window).expect("of one width") > threshold.t_squared());
    }

    #[test]
    fn a_threshold_is_for_windows_within_a_factor_of_two() {
        let of = |vectors| Threshold { vectors, windows: 50, t_squared_milli: 12_345 };
        let thresholds = [of(100), of(200), of(400)];
        let size = |vectors| Threshold::for_vectors(&thresholds, vectors).map(|it| it.vectors);
        for (vectors, expected) in [
            (0, None),
            (49, None),
            (50, Some(100)),
            (130, Some(100)),
            (150, Some(200)),
            (800, Some(400)),
            (801, None),
        ] {
            assert_eq!(size(vectors), expected, "{vectors}");
        }
        assert_eq!(Threshold::for_vectors(&[], 100), None);
        assert_eq!((of(1).t_squared(), of(1).chance()), (12.345, 1.0 / 51.0));
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        let fit = |count| Reference::fit(&moments(1, count));
        assert_eq!(fit(1).err(), Some(Refusal::TooFewVectors));
        assert_eq!(Reference::fit(&ReferenceMoments::new(0)).err(), Some(Refusal::Width));
        let reference = fit(100).expect("100 vectors suffice");
        let mut shared = windows(1, 200);
        shared[150].0 = SourceId(2);
        let refused = reference.threshold(&seen(), &shared).err();
        assert_eq!(refused, Some(Refusal::SharedSource(SourceId(2))));
        assert_eq!(
            reference.threshold(&seen(), &windows(1, 18)).err(),
            Some(Refusal::TooFewWindows { needed: 19 })
        );
        assert_eq!(reference.t_squared(&Stream(1).window(0, 0.0)).err(), Some(Refusal::Width));
        for (windows, chance, expected) in [
            (98, 0.01, Err(Refusal::TooFewWindows { needed: 99 })),
            (99, 0.01, Ok(98.0)),
            (198, 0.01, Ok(197.0)),
            (199, 0.01, Ok(197.0)),
            (19, 1.0 / 20.0, Ok(18.0)),
            (99, 0.0, Err(Refusal::Chance)),
            (99, 1.0, Err(Refusal::Chance)),
            (99, f64::NAN, Err(Refusal::Chance)),
        ] {
            let mut values: Vec<f64> = (0..windows).rev().map(f64::from).collect();
            assert_eq!(conformal_threshold(&mut values, chance), expected, "{windows} {chance}");
        }
    }

    fn seen() -> BTreeSet<SourceId> {
        (0..3).map(SourceId).collect()
    }
}
