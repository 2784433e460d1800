//! How far a window's counts are from the reference's, in the measures that people know.
//!
//! They are for people to read; whether a stream has drifted is what the detector says. Each comes with
//! what the bins hide, and with what chance alone gives it: a measure of 250 samples is not 0 without
//! drift, and no fixed threshold fits all numbers of samples.
//!
//! Neighbouring cells are merged until each is expected to hold 5 samples (Cochran 1954), or holds 5.

use libm::{erfc, exp, fabs, lgamma, log, sqrt};

use crate::CELL_COUNT_MAX;

/// The fewest samples in a cell, expected or counted.
const EXPECTED_MIN: f64 = 5.0;

/// The probability with which chance alone exceeds a critical value.
pub const CRITICAL_PROBABILITY: f64 = 1e-3;

/// A measure of distance, and what it does not show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistic {
    /// The distance between the cells.
    pub value: f64,
    /// How the distance between the samples themselves may differ.
    pub binning: BinningError,
    /// What chance alone exceeds once in a thousand windows, where a law for it is known.
    pub critical: Option<f64>,
}

/// How a distance between samples may differ from that between the cells they were counted in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BinningError {
    /// It is no smaller; how much larger, the cells do not say (data processing inequality).
    AtLeast,
    /// It is no smaller, and larger by at most this.
    HigherByAtMost(f64),
    /// It is smaller or larger by at most this.
    OffByAtMost(f64),
}

/// A window beside its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measures {
    /// Cells that were compared, after merging.
    pub cell_count: usize,
    /// Population stability index Σ (q − p) ln(q / p), at least 0. Times n it follows a chi-square law with
    /// one degree of freedom less than there are cells; a finite reference of m samples adds
    /// as much again times n / m.
    pub psi: Statistic,
    /// What chance alone gives the population stability index on average.
    pub psi_expected: f64,
    /// Kullback–Leibler divergence of the window from the reference, Σ q ln(q / p), in nats.
    pub kullback_leibler: Statistic,
    /// Jensen–Shannon divergence in nats, 0 to ln 2.
    pub jensen_shannon: Statistic,
    /// Hellinger distance, 0 to 1.
    pub hellinger: Statistic,
    /// Pearson's X² of the window against the reference, for a reference of m samples divided by
    /// 1 + n / m.
    pub chi_square: Statistic,
    /// The probability that chance alone gives a larger X².
    pub chi_square_p: f64,
    /// Kolmogorov–Smirnov distance, 0 to 1. Means nothing for classes.
    pub kolmogorov_smirnov: Statistic,
    /// Wasserstein-1 distance in the unit of the feature, where edges were given.
    pub wasserstein: Option<Statistic>,
}

impl Measures {
    /// Compares the counts of a window with those of the reference, cell by cell in the same order.
    /// `None` stands for insufficient data: too few samples for two cells that can be compared.
    ///
    /// `edges` has the bounds of the bins in the feature's unit, \[minimum, edges, maximum\], and is given
    /// where the cells are \[below, bins, above, not finite\]; without it there is no Wasserstein distance.
    /// Edges that do not fit the cells, or are not finite, count as none.
    pub fn of(reference: &[u32], window: &[u32], edges: Option<&[f32]>) -> Option<Self> {
        let cells = reference.len().min(window.len()).min(CELL_COUNT_MAX);
        let (reference, window) = (&reference[..cells], &window[..cells]);
        let (m, n) = (total(reference), total(window));
        if m == 0.0 || n == 0.0 {
            return None;
        }
        let pairs = merged(reference, window, n / m);
        if pairs.len() < 2 {
            return None;
        }
        let wasserstein = edges.and_then(|edges| wasserstein(reference, window, edges));
        Some(Self::of_merged(&pairs, m, n, wasserstein))
    }

    fn of_merged(pairs: &[(f64, f64)], m: f64, n: f64, wasserstein: Option<Statistic>) -> Self {
        let count = pairs.len() as f64;
        let (mut psi, mut kl, mut js, mut affinity, mut chi_square) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let (mut below, mut ks, mut widest): (f64, f64, f64) = (0.0, 0.0, 0.0);
        for &(counted_m, counted_n) in pairs {
            // Jeffreys' prior: no share is 0.
            let p = (counted_m + 0.5) / (m + count / 2.0);
            let q = (counted_n + 0.5) / (n + count / 2.0);
            psi += (q - p) * log(q / p);
            kl += q * log(q / p);
            let middle = f64::midpoint(p, q);
            js += (p * log(p / middle) + q * log(q / middle)) / 2.0;
            affinity += sqrt(p * q);
            let expected = n * p;
            chi_square += (counted_n - expected) * (counted_n - expected) / expected;
            below += counted_n / n - counted_m / m;
            ks = ks.max(fabs(below));
            widest = widest.max(counted_m / m).max(counted_n / n);
        }
        let freedom = pairs.len() as u32 - 1;
        let spread = 1.0 / n + 1.0 / m;
        let chi_square = chi_square / (1.0 + n / m);
        let critical = chi_square_quantile(freedom, 1.0 - CRITICAL_PROBABILITY);
        let at_least = |value: f64, critical: Option<f64>| Statistic {
            value: value.max(0.0),
            binning: BinningError::AtLeast,
            critical,
        };
        let squared_hellinger = (1.0 - affinity).max(0.0);
        Self {
            cell_count: pairs.len(),
            psi: at_least(psi, Some(critical * spread)),
            psi_expected: f64::from(freedom) * spread,
            // Near p all of these are multiples of Σ (q − p)² / p, and follow its law.
            kullback_leibler: at_least(kl, Some(critical * spread / 2.0)),
            jensen_shannon: at_least(js, Some(critical * spread / 8.0)),
            hellinger: at_least(sqrt(squared_hellinger), Some(sqrt(critical * spread / 8.0))),
            chi_square: at_least(chi_square, Some(critical)),
            chi_square_p: 1.0 - chi_square_below(chi_square, freedom),
            kolmogorov_smirnov: Statistic {
                value: ks.min(1.0),
                binning: BinningError::HigherByAtMost(widest.min(1.0 - ks).max(0.0)),
                // The law for values without ties; cells only lower the distance (Smirnov 1948).
                critical: Some(sqrt(-log(CRITICAL_PROBABILITY / 2.0) / 2.0 * spread)),
            },
            wasserstein,
        }
    }
}

fn total(counts: &[u32]) -> f64 {
    counts.iter().map(|&count| f64::from(count)).sum()
}

/// Counts of both sides, neighbours merged from the left; what is left over joins the last.
fn merged(
    reference: &[u32],
    window: &[u32],
    window_per_reference: f64,
) -> heapless::Vec<(f64, f64), CELL_COUNT_MAX> {
    let mut pairs: heapless::Vec<(f64, f64), CELL_COUNT_MAX> = heapless::Vec::new();
    let mut open = (0.0, 0.0);
    for (&of_reference, &of_window) in reference.iter().zip(window) {
        open = (open.0 + f64::from(of_reference), open.1 + f64::from(of_window));
        if open.0 * window_per_reference >= EXPECTED_MIN || open.1 >= EXPECTED_MIN {
            assert!(pairs.push(open).is_ok(), "merging makes no more cells than there were");
            open = (0.0, 0.0);
        }
    }
    if let Some(last) = pairs.last_mut() {
        *last = (last.0 + open.0, last.1 + open.1);
    }
    pairs
}

/// The area between the distribution functions of what lies in the bins, each bin's samples spread
/// evenly. The error is what moving them within their bins could do: width × larger share. `None`
/// where samples lie outside of the bins, since no one knows how far.
fn wasserstein(reference: &[u32], window: &[u32], edges: &[f32]) -> Option<Statistic> {
    let bins = edges.len().checked_sub(1).filter(|&bins| bins > 0)?;
    let are_bounds = edges.windows(2).all(|pair| pair[0] <= pair[1]);
    if bins + 3 != reference.len() || !are_bounds || edges.iter().any(|edge| !edge.is_finite()) {
        return None;
    }
    let outside = |counts: &[u32]| [0, bins + 1, bins + 2].iter().any(|&cell| counts[cell] > 0);
    if outside(reference) || outside(window) {
        return None;
    }
    let (m, n) = (total(reference), total(window));
    let (mut area, mut error, mut before): (f64, f64, f64) = (0.0, 0.0, 0.0);
    for bin in 0..bins {
        let width = f64::from(edges[bin + 1]) - f64::from(edges[bin]);
        let (p, q) = (f64::from(reference[bin + 1]) / m, f64::from(window[bin + 1]) / n);
        let after = before + q - p;
        area += width * area_between(before, after);
        error += width * p.max(q);
        before = after;
    }
    Some(Statistic { value: area, binning: BinningError::OffByAtMost(error), critical: None })
}

/// The mean of |d| where d goes straight from `from` to `to`.
fn area_between(from: f64, to: f64) -> f64 {
    if from * to >= 0.0 {
        fabs(from + to) / 2.0
    } else {
        (from * from + to * to) / (2.0 * fabs(to - from))
    }
}

/// The probability that a chi-square variable is below `x`: the regularised incomplete gamma function,
/// by its series or its continued fraction (Lentz), as in Numerical Recipes §6.2.
pub(crate) fn chi_square_below(x: f64, freedom: u32) -> f64 {
    let (a, x) = (f64::from(freedom) / 2.0, x / 2.0);
    if x <= 0.0 {
        return 0.0;
    }
    let front = exp(a * log(x) - x - lgamma(a));
    if x < a + 1.0 {
        let (mut sum, mut term, mut n) = (1.0 / a, 1.0 / a, a);
        while term > sum * 1e-15 {
            n += 1.0;
            term *= x / n;
            sum += term;
        }
        return (sum * front).min(1.0);
    }
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1e300, 1.0 / b);
    let (mut fraction, mut i) = (d, 1.0);
    loop {
        let step = -i * (i - a);
        b += 2.0;
        d = 1.0 / (step * d + b);
        c = b + step / c;
        fraction *= d * c;
        if fabs(d * c - 1.0) < 1e-15 || i > 10_000.0 {
            return (1.0 - front * fraction).clamp(0.0, 1.0);
        }
        i += 1.0;
    }
}

/// The value that a chi-square variable is below with this probability, by bisection.
pub(crate) fn chi_square_quantile(freedom: u32, probability: f64) -> f64 {
    let mean = f64::from(freedom);
    let (mut low, mut high) = (0.0, mean + 20.0 * sqrt(2.0 * mean) + 60.0);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if chi_square_below(middle, freedom) < probability { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The value that a standard normal variable is below with this probability, by bisection, between −38
/// and 38.
pub(crate) fn normal_quantile(probability: f64) -> f64 {
    let (mut low, mut high) = (-38.0, 38.0);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        let below = 0.5 * erfc(-middle * core::f64::consts::FRAC_1_SQRT_2);
        if below < probability { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn measured(reference: &[u32], window: &[u32], edges: Option<&[f32]>) -> Measures {
        Measures::of(reference, window, edges).expect("the counts can be compared")
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        // Abramowitz and Stegun, tables 26.8 and 26.2.
        for (freedom, probability, expected) in [
            (1, 0.95, 3.841_459),
            (15, 0.999, 37.697_298),
            (199, 0.05, 167.361_0),
            (4, 0.05, 0.710_723),
        ] {
            let quantile = chi_square_quantile(freedom, probability);
            assert!(
                (quantile - expected).abs() < 1e-4 * expected,
                "{freedom} {probability}: {quantile}"
            );
        }
        for (probability, expected) in [(0.975, 1.959_964), (0.5, 0.0), (0.001, -3.090_232)] {
            assert!((normal_quantile(probability) - expected).abs() < 1e-6, "{probability}");
        }
    }

    #[test]
    fn too_few_samples_are_no_answer() {
        for (reference, window) in [
            (&[0, 0, 0][..], &[10, 10, 10][..]),
            (&[10, 10, 10], &[0, 0, 0]),
            (&[1000, 1000], &[2, 3]),
            (&[1000, 0], &[100, 0]),
            (&[], &[]),
        ] {
            assert_eq!(Measures::of(reference, window, None), None, "{reference:?} {window:?}");
        }
    }

    #[test]
    fn cells_are_merged_until_five_samples_are_expected() {
        let measures = measured(&[10, 10, 10, 970], &[1, 2, 2, 245], None);
        assert_eq!(measures.cell_count, 2);
        let novel = measured(&[0, 500, 500, 0], &[0, 120, 120, 10], None);
        assert_eq!(novel.cell_count, 3);
        assert!(novel.psi.value > novel.psi.critical.expect("it has a law"));
    }

    #[test]
    fn two_equal_halves_apart_by_one_unit_are_one_unit_apart() {
        // All of the reference in the lower bin, all of the window in the upper one.
        let (reference, window) = ([0, 100, 0, 0, 0], [0, 0, 100, 0, 0]);
        let distance =
            wasserstein(&reference, &window, &[0.0, 1.0, 2.0]).expect("nothing is outside");
        assert!((distance.value - 1.0).abs() < 1e-12, "{distance:?}");
        assert_eq!(distance.binning, BinningError::OffByAtMost(2.0));
        let outside = [1, 100, 0, 0, 0];
        assert_eq!(wasserstein(&reference, &outside, &[0.0, 1.0, 2.0]), None);
    }

    /// The textbook distance between two samples.
    fn exact_ks(a: &[u32], b: &[u32]) -> f64 {
        let below = |values: &[u32], x: u32| {
            values.iter().filter(|&&value| value <= x).count() as f64 / values.len() as f64
        };
        a.iter().chain(b).map(|&x| (below(a, x) - below(b, x)).abs()).fold(0.0, f64::max)
    }

    fn exact_wasserstein(a: &[u32], b: &[u32]) -> f64 {
        let below = |values: &[u32], x: f64| {
            values.iter().filter(|&&value| f64::from(value) <= x).count() as f64
                / values.len() as f64
        };
        (0..80).map(|x| (below(a, f64::from(x)) - below(b, f64::from(x))).abs()).sum()
    }

    proptest! {
        #[test]
        fn the_distance_of_the_samples_is_within_what_binning_adds(
            a in prop::collection::vec(0..80u32, 40..200),
            b in prop::collection::vec(20..80u32, 40..200),
        ) {
            let count = |values: &[u32]| {
                let mut cells = [0u32; 11];
                values.iter().for_each(|&value| cells[value as usize / 10 + 1] += 1);
                cells
            };
            let edges: Vec<f32> = (0..=8u8).map(|edge| f32::from(edge) * 10.0).collect();
            let measures = measured(&count(&a), &count(&b), Some(&edges));
            let ks = measures.kolmogorov_smirnov;
            let BinningError::HigherByAtMost(error) = ks.binning else { panic!("{ks:?}") };
            let exact = exact_ks(&a, &b);
            prop_assert!(exact >= ks.value - 1e-9 && exact <= ks.value + error + 1e-9, "{exact} {ks:?}");
            let w1 = measures.wasserstein.expect("nothing is outside");
            let BinningError::OffByAtMost(error) = w1.binning else { panic!("{w1:?}") };
            let exact = exact_wasserstein(&a, &b);
            prop_assert!((exact - w1.value).abs() <= error + 1e-9, "{exact} {w1:?}");
        }

        #[test]
        fn measures_are_in_their_ranges(
            cells in prop::collection::vec((0..5000u32, 0..5000u32), 0..=25)
        ) {
            let (reference, window): (Vec<_>, Vec<_>) = cells.into_iter().unzip();
            if let Some(measures) = Measures::of(&reference, &window, None) {
                prop_assert!(measures.jensen_shannon.value <= core::f64::consts::LN_2);
                prop_assert!((0.0..=1.0).contains(&measures.hellinger.value));
                prop_assert!((0.0..=1.0).contains(&measures.kolmogorov_smirnov.value));
                prop_assert!((0.0..=1.0).contains(&measures.chi_square_p));
                prop_assert!(measures.psi.value.is_finite() && measures.kullback_leibler.value >= 0.0);
            }
        }
    }
}
