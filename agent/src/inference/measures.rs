//! What is counted of a bundle's answers, to compare it with another bundle.

use std::{collections::VecDeque, time::Duration};

use selvedge_bundle::CLASS_SHIFT_ANSWERS_MIN;
use selvedge_runtime::Answer;
use selvedge_sketch::{ClassCounts, LatencyHistogram};

use crate::limits::{BASELINE_PART_SAMPLES, BASELINE_PART_TIME, BASELINE_PARTS_MAX};

/// What 95 % of latencies keep, in thousandths.
const P95_PERMILLE: u32 = 950;

/// What is counted of a bundle's answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Measures {
    pub(super) samples: u64,
    pub(super) failed: u64,
    latency: LatencyHistogram,
    classes: ClassCounts,
}

impl Measures {
    pub(super) fn count(&mut self, answer: Option<&Answer>, latency_us: u32) {
        self.samples += 1;
        self.failed += u64::from(answer.is_none());
        self.latency.observe(latency_us);
        if let Some(class) = answer.and_then(|answer| answer.class.as_ref()) {
            self.classes.observe(u32::try_from(class.index).unwrap_or(u32::MAX));
        }
    }

    fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.failed += other.failed;
        self.latency.merge(&other.latency);
        self.classes.merge(&other.classes);
    }

    /// The fraction of samples that got no answer; 0 before any.
    pub(super) fn failed_fraction(&self) -> f64 {
        self.failed as f64 / self.samples.max(1) as f64
    }

    /// The latency that 95 % of the answers kept, in microseconds; 0 before any.
    pub(super) fn latency_us_p95(&self) -> u32 {
        self.latency.quantile(P95_PERMILLE).unwrap_or(0)
    }

    /// The total variation distance between the classes of the two: half the sum of how much each class's
    /// share differs (Levin, Peres and Wilmer, Markov Chains and Mixing Times, proposition 4.2).
    /// Nothing where one has too few answers with a class.
    pub(super) fn class_shift(&self, other: &Self) -> Option<f64> {
        let (one, other) = (&self.classes, &other.classes);
        if one.total().min(other.total()) < CLASS_SHIFT_ANSWERS_MIN {
            return None;
        }
        let share = |count: u32, of: &ClassCounts| f64::from(count) / of.total() as f64;
        let differ = |a: u32, b: u32| (share(a, one) - share(b, other)).abs();
        let classes = one.classes().iter().zip(other.classes());
        let sum: f64 = classes.map(|(a, b)| differ(*a, *b)).sum();
        Some((sum + differ(one.other(), other.other())) / 2.0)
    }
}

/// What was counted of a bundle lately, in parts of which the oldest goes first. A part is closed when
/// it is long enough, in time and in samples.
#[derive(Debug, Default)]
pub(super) struct Recent {
    closed: VecDeque<Measures>,
    open: Measures,
    opened: Option<Duration>,
}

impl Recent {
    pub(super) fn count(&mut self, answer: Option<&Answer>, latency_us: u32, now: Duration) {
        let opened = *self.opened.get_or_insert(now);
        self.open.count(answer, latency_us);
        let in_time = now >= opened + BASELINE_PART_TIME;
        if in_time && self.open.samples >= BASELINE_PART_SAMPLES {
            self.opened = None;
            self.closed.push_back(std::mem::take(&mut self.open));
            if self.closed.len() > BASELINE_PARTS_MAX {
                self.closed.pop_front();
            }
        }
    }

    /// All parts together.
    pub(super) fn sum(&self) -> Measures {
        let mut sum = self.open.clone();
        self.closed.iter().for_each(|part| sum.merge(part));
        sum
    }
}

#[cfg(test)]
mod tests {
    use selvedge_runtime::ClassAnswer;

    use super::*;

    fn class(index: usize) -> Answer {
        let class = Some(ClassAnswer { index, label: None, score: 1.0 });
        Answer { outputs: Vec::new(), class, probabilities: None }
    }

    fn measures(answers: &[(usize, u64)]) -> Measures {
        let mut measures = Measures::default();
        for (index, count) in answers {
            (0..*count).for_each(|_| measures.count(Some(&class(*index)), 100));
        }
        measures
    }

    #[test]
    fn the_class_shift_is_the_total_variation_distance() {
        let n = CLASS_SHIFT_ANSWERS_MIN;
        let half = measures(&[(0, n), (1, n)]);
        for (other, expected) in [
            (half.clone(), 0.0),
            (measures(&[(0, n)]), 0.5),
            (measures(&[(2, n)]), 1.0),
            (measures(&[(99, n)]), 1.0),
            (measures(&[(0, 3 * n), (1, n)]), 0.25),
        ] {
            let shift = half.class_shift(&other).expect("both have enough answers");
            assert!((shift - expected).abs() < 1e-12, "{shift} is not {expected}");
            assert_eq!(other.class_shift(&half), Some(shift), "it is symmetric");
        }
    }

    #[test]
    fn a_class_shift_of_few_answers_is_none() {
        let enough = measures(&[(0, CLASS_SHIFT_ANSWERS_MIN)]);
        let few = measures(&[(0, CLASS_SHIFT_ANSWERS_MIN - 1)]);
        assert_eq!(enough.class_shift(&few), None);
        assert_eq!(Measures::default().class_shift(&enough), None);
    }

    #[test]
    fn failures_are_a_fraction_of_all_samples() {
        let mut measures = measures(&[(0, 3)]);
        measures.count(None, 900);
        assert_eq!(measures.failed_fraction(), 0.25);
        assert!(measures.latency_us_p95() >= 900);
        assert_eq!(Measures::default().failed_fraction(), 0.0);
        assert_eq!(Measures::default().latency_us_p95(), 0);
    }

    #[test]
    fn what_is_remembered_is_recent_and_bounded() {
        let mut recent = Recent::default();
        let part = BASELINE_PART_SAMPLES;
        let parts = BASELINE_PARTS_MAX as u64;
        for n in 0..(parts + 3) * part {
            let old = n < 2 * part;
            let time = BASELINE_PART_TIME * u32::try_from(n / (part - 1)).expect("it is small");
            recent.count(Some(&class(usize::from(!old))), 100, time);
        }
        let sum = recent.sum();
        assert!((parts * part..(parts + 1) * part).contains(&sum.samples), "{}", sum.samples);
        assert_eq!(sum.classes.classes()[0], 0, "the oldest are forgotten");
    }

    #[test]
    fn many_samples_in_a_short_time_are_one_part() {
        let mut recent = Recent::default();
        for _ in 0..100 * BASELINE_PART_SAMPLES {
            recent.count(Some(&class(0)), 100, Duration::ZERO);
        }
        assert_eq!(recent.sum().samples, 100 * BASELINE_PART_SAMPLES);
    }
}
