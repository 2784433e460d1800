//! Sequential tests of shares, which hold at every moment at which somebody looks.
//!
//! A device gives `trials` of which `events` were bad; the share of bad ones behind them is *p*. The evidence against
//! *p ≤ q* is
//!
//! ```text
//!     E = ∫ θ^s (1−θ)^f dBeta(½,½)(θ)  /  max over p ≤ q of p^s (1−p)^f        s = events, f = trials − events
//! ```
//!
//! The numerator is the mixture of Robbins (1970) with the prior of Krichevsky and Trofimov (1981); dividing by the
//! best that the hypothesis can say is universal inference (Wasserman, Ramdas and Balakrishnan 2020). The part of the
//! mixture with θ ≤ *q* is never above that best; the part with θ > *q*, divided by the likelihood of *q* instead, is a
//! supermartingale if each trial is bad with a chance of at most *q*, be it the same each time or not. So E is below a
//! supermartingale that begins at 1, and by Ville's inequality (1939) reaches 1/α at *any* moment with a chance of at
//! most α. The same holds for events between 0 and 1, since `x ↦ (θ/q)^x ((1−θ)/(1−q))^(1−x)` is convex (Hoeffding
//! 1963).
//!
//! The *temper* η ≤ 1 takes E to the power η: samples of one device follow each other and count for less. The
//! inequality stays (Jensen).
//!
//! Shares for which E stays below 1/α form a confidence sequence (Howard, Ramdas, McAuliffe and Sekhon 2021); its
//! ends are what is known of the control group.
//!
//! **Devices, not samples.** "At least *r* of *n* groups are worse" is the partial conjunction of Benjamini and Heller
//! (2008). If fewer than *r* are, at least *n − r + 1* groups keep their hypothesis, and the mean of the *n − r + 1*
//! smallest E is at most the mean of theirs, which is an e-value however they depend (Vovk and Wang 2021). So *r − 1*
//! devices may say whatever they like.

use libm::{exp, lgamma, log, log1p};
use serde::{Deserialize, Serialize};

/// Steps of the search for the end of a confidence sequence: each halves the interval.
const BISECTIONS: usize = 50;

/// Trials and those of them that were bad. Both may be fractions, where an event has a weight between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// What was tried.
    pub trials: f64,
    /// The bad ones among them.
    pub events: f64,
}

impl Counts {
    /// Whole numbers of both.
    pub fn of(trials: u64, events: u64) -> Self {
        Self { trials: trials as f64, events: events as f64 }
    }

    /// The share of bad ones; 0 where nothing was tried.
    pub fn share(self) -> f64 {
        if self.trials > 0.0 { self.events / self.trials } else { 0.0 }
    }

    /// The counts together.
    pub fn plus(self, other: Self) -> Self {
        Self { trials: self.trials + other.trials, events: self.events + other.events }
    }

    /// The others are bad.
    pub fn complement(self) -> Self {
        Self { trials: self.trials, events: self.trials - self.events }
    }

    /// Numbers that are no counts (negative, not finite, more events than trials) become the nearest that are.
    pub fn sound(self) -> Self {
        let least = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
        let trials = least(self.trials);
        Self { trials, events: least(self.events).min(trials) }
    }
}

/// Sequential tests with one temper.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tester {
    /// η, above 0 and at most 1.
    pub temper: f64,
}

impl Tester {
    /// The logarithm of the evidence that the share is above `bound`.
    pub fn above(self, counts: Counts, bound: f64) -> f64 {
        let best = counts.share().min(bound);
        self.temper * (log_mixture(counts) - log_likelihood(counts, best))
    }

    /// The logarithm of the evidence that the share is below `bound`.
    pub fn below(self, counts: Counts, bound: f64) -> f64 {
        let best = counts.share().max(bound);
        self.temper * (log_mixture(counts) - log_likelihood(counts, best))
    }

    /// The share is above this at no moment, but for a chance of `alpha`.
    pub fn upper(self, counts: Counts, alpha: f64) -> f64 {
        // A share under which the counts are less likely than this is refuted: there `below` reaches 1/α.
        let least_likely = log_mixture(counts) + log(alpha) / self.temper;
        let (mut inside, mut outside) = (counts.share(), 1.0);
        for _ in 0..BISECTIONS {
            let middle = f64::midpoint(inside, outside);
            let refuted = log_likelihood(counts, middle) <= least_likely;
            *(if refuted { &mut outside } else { &mut inside }) = middle;
        }
        outside
    }

    /// The share is below this at no moment, but for a chance of `alpha`.
    pub fn lower(self, counts: Counts, alpha: f64) -> f64 {
        1.0 - self.upper(counts.complement(), alpha)
    }
}

/// The logarithm of the evidence that at least `worse_min` of the groups are worse, from that of each of them.
pub(super) fn partial_conjunction(log_evidence: &[f64], worse_min: usize) -> f64 {
    let mut sorted = log_evidence.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.truncate((sorted.len() + 1).saturating_sub(worse_min.max(1)));
    log_mean(&sorted)
}

/// The logarithm of the mean of the numbers behind logarithms; that of 0 for none.
pub(super) fn log_mean(logs: &[f64]) -> f64 {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return largest;
    }
    let sum: f64 = logs.iter().map(|value| exp(value - largest)).sum();
    largest + log(sum / logs.len() as f64)
}

/// `ln B(½ + s, ½ + f) − ln B(½, ½)`, where `B(½, ½)` is π.
fn log_mixture(counts: Counts) -> f64 {
    let (s, f) = (counts.events, counts.trials - counts.events);
    lgamma(s + 0.5) + lgamma(f + 0.5) - lgamma(s + f + 1.0) - log(std::f64::consts::PI)
}

/// `s ln p + f ln(1 − p)`, where `0 ln 0` is 0.
fn log_likelihood(counts: Counts, p: f64) -> f64 {
    let (s, f) = (counts.events, counts.trials - counts.events);
    let of_events = if s > 0.0 { s * log(p) } else { 0.0 };
    let of_others = if f > 0.0 { f * log1p(-p) } else { 0.0 };
    of_events + of_others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::replay::Draws;

    const RAW: Tester = Tester { temper: 1.0 };

    #[test]
    fn evidence_without_trials_is_one_and_a_bound_is_everything() {
        assert!(RAW.above(Counts::default(), 0.1).abs() < 1e-12);
        assert_eq!(RAW.upper(Counts::default(), 0.01), 1.0);
        assert_eq!(RAW.lower(Counts::default(), 0.01), 0.0);
    }

    #[test]
    fn evidence_is_the_mixture_over_the_best_of_the_hypothesis() {
        // B(3.5, 0.5) / B(0.5, 0.5) is 5/16.
        let all_bad = RAW.above(Counts::of(3, 3), 0.05);
        assert!((all_bad - log(0.3125 / 0.05_f64.powi(3))).abs() < 1e-9, "{all_bad}");
        assert!(RAW.above(Counts::of(100, 1), 0.05) < 0.0, "a share below the bound speaks for it");
    }

    #[test]
    fn looking_after_every_trial_refutes_a_true_bound_no_more_often_than_stated() {
        let (runs, alpha) = (4000, 0.05);
        let mut draws = Draws::from_seed(1);
        let mut refuted = 0;
        for _ in 0..runs {
            let mut counts = Counts::default();
            refuted += usize::from((0..400).any(|_| {
                let event = f64::from(draws.draw() < 0.1);
                counts = counts.plus(Counts { trials: 1.0, events: event });
                RAW.above(counts, 0.1) >= -log(alpha)
            }));
        }
        let rate = refuted as f64 / f64::from(runs);
        assert!(rate <= alpha, "{rate}");
    }

    #[test]
    fn confidence_sequences_cover_at_every_moment_at_once() {
        let (runs, alpha) = (1000, 0.1);
        let mut draws = Draws::from_seed(2);
        let mut left = 0;
        for _ in 0..runs {
            let mut counts = Counts::default();
            left += usize::from((0..200).any(|_| {
                let event = f64::from(draws.draw() < 0.3);
                counts = counts.plus(Counts { trials: 1.0, events: event });
                RAW.upper(counts, alpha / 2.0) < 0.3 || RAW.lower(counts, alpha / 2.0) > 0.3
            }));
        }
        let rate = left as f64 / f64::from(runs);
        assert!(rate <= alpha, "{rate}");
    }

    #[test]
    fn a_real_difference_is_found_in_a_few_hundred_trials() {
        let mut draws = Draws::from_seed(3);
        for _ in 0..200 {
            let mut counts = Counts::default();
            let found = (0..600).find(|_| {
                let event = f64::from(draws.draw() < 0.2);
                counts = counts.plus(Counts { trials: 1.0, events: event });
                RAW.above(counts, 0.05) >= log(1000.0)
            });
            assert!(found.is_some(), "{counts:?}");
        }
    }

    #[test]
    fn as_many_liars_as_are_allowed_prove_nothing() {
        assert!(partial_conjunction(&[900.0, 0.0, 0.0, 0.0], 2) <= 0.0);
        assert!(partial_conjunction(&[900.0, 900.0, 0.0, 0.0], 2) > 800.0);
        assert!((partial_conjunction(&[3.0], 1) - 3.0).abs() < 1e-12);
        assert_eq!(partial_conjunction(&[3.0], 2), f64::NEG_INFINITY, "one group is never two");
    }
}
