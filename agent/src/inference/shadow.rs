//! A model that is given the same samples as the one that answers; its answers are discarded.
//!
//! It runs on the slot's own thread, after the answer was given, and only while no other sample waits:
//! a caller waits for one inference of the shadow at most. It takes a bounded part of one
//! processor's time. What it is not given for either reason is counted as shed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use selvedge_runtime::{Answer, Sample};
use selvedge_wire::{Comparison, Digest};

use crate::{
    clock::SharedClock,
    limits::{SHADOW_TIME_SAVED_MAX, SHADOW_TIME_SHARE_MAX, SHADOW_TOLERANCE},
    updates::Observation,
};

use super::{LoadedModel, are_read_alike, measures::Measures};

/// A sample that was answered.
pub(super) struct Answered {
    pub(super) sample: Sample,
    pub(super) answer: Result<Answer, String>,
    pub(super) latency_us: u32,
}

/// A model in the shadow of another.
pub(super) struct Shadow {
    model: Box<LoadedModel>,
    samples_wanted: u64,
    allowance: Allowance,
    candidate: Measures,
    // Of the model that answers, on the same samples.
    current: Measures,
    disagreed: u64,
    shed: u64,
}

impl Shadow {
    pub(super) fn new(model: Box<LoadedModel>, samples_wanted: u64, now: Duration) -> Self {
        Self {
            model,
            samples_wanted,
            allowance: Allowance::new(now),
            candidate: Measures::default(),
            current: Measures::default(),
            disagreed: 0,
            shed: 0,
        }
    }

    pub(super) fn bundle(&self) -> Digest {
        self.model.running.bundle
    }

    /// Whether it has had all its samples.
    pub(super) fn is_done(&self) -> bool {
        self.candidate.samples >= self.samples_wanted
    }

    /// Gives the model a sample that `current` has answered; not if others wait.
    pub(super) fn follow(
        &mut self,
        answered: &Answered,
        current: &LoadedModel,
        others_wait: bool,
        clock: &SharedClock,
    ) {
        if self.is_done() {
            return;
        }
        let begun = clock.elapsed();
        let fits = are_read_alike(&current.sample, &self.model.sample);
        if others_wait || !fits || !self.allowance.permits(begun) {
            self.shed += 1;
            return;
        }
        let answerer = &self.model.answerer;
        let answer = catch_unwind(AssertUnwindSafe(|| answerer.answer(&answered.sample)));
        let answer = answer.ok().and_then(Result::ok);
        let taken = clock.elapsed().saturating_sub(begun);
        self.allowance.spend(taken);
        let latency_us = u32::try_from(taken.as_micros()).unwrap_or(u32::MAX);
        self.candidate.count(answer.as_ref(), latency_us);
        self.current.count(answered.answer.as_ref().ok(), answered.latency_us);
        if let (Some(candidate), Ok(current)) = (&answer, &answered.answer) {
            self.disagreed += u64::from(!agree(candidate, current));
        }
    }

    pub(super) fn observation(&self) -> Observation {
        Observation {
            comparison: Comparison {
                samples: self.candidate.samples,
                failed: self.candidate.failed,
                disagreed: self.disagreed,
                shed: self.shed,
                latency_us_p95: self.candidate.latency_us_p95(),
                latency_us_p95_before: self.current.latency_us_p95(),
            },
            class_shift: self.candidate.class_shift(&self.current),
            failed_before: self.current.failed_fraction(),
        }
    }
}

/// The time that a shadow may still take: it grows with the time that passes.
struct Allowance {
    left_s: f64,
    at: Duration,
}

impl Allowance {
    fn new(now: Duration) -> Self {
        Self { left_s: SHADOW_TIME_SAVED_MAX.as_secs_f64(), at: now }
    }

    fn permits(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        let grown = self.left_s + passed * SHADOW_TIME_SHARE_MAX;
        (self.left_s, self.at) = (grown.min(SHADOW_TIME_SAVED_MAX.as_secs_f64()), now);
        self.left_s > 0.0
    }

    fn spend(&mut self, time: Duration) {
        self.left_s -= time.as_secs_f64();
    }
}

/// Whether two models say the same of a sample: the same class, or without classes nearly the same values.
fn agree(one: &Answer, other: &Answer) -> bool {
    match (&one.class, &other.class) {
        (Some(one), Some(other)) => one.index == other.index,
        (None, None) => nearly_equal(&values(one), &values(other)),
        _ => false,
    }
}

fn values(answer: &Answer) -> Vec<f32> {
    answer.outputs.iter().flat_map(|output| output.data().to_f32()).collect()
}

fn nearly_equal(one: &[f32], other: &[f32]) -> bool {
    let values = one.iter().chain(other).map(|value| f64::from(value.abs()));
    let largest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    let is_near = |(a, b): (&f32, &f32)| {
        // Two values that are no numbers are the same answer.
        (a.is_nan() && b.is_nan())
            || a == b
            || f64::from((a - b).abs()) <= SHADOW_TOLERANCE * largest
    };
    one.len() == other.len() && one.iter().zip(other).all(is_near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_agree_within_the_tolerance_of_the_largest() {
        let cases: &[(&[f32], &[f32], bool)] = &[
            (&[], &[], true),
            (&[100.0, 1.0], &[104.0, -1.0], true),
            (&[100.0, 1.0], &[100.0, 7.0], false),
            (&[0.0], &[0.0], true),
            (&[0.0], &[1e-9], false),
            (&[f32::NAN, 1.0], &[f32::NAN, 1.0], true),
            (&[f32::NAN], &[1.0], false),
            (&[f32::INFINITY], &[f32::INFINITY], true),
            (&[f32::INFINITY], &[f32::NEG_INFINITY], false),
            (&[1.0], &[1.0, 1.0], false),
        ];
        let wrong: Vec<_> =
            cases.iter().filter(|(a, b, expected)| nearly_equal(a, b) != *expected).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn an_allowance_is_a_share_of_the_time_that_passes() {
        let second = Duration::from_secs(1);
        let mut allowance = Allowance::new(Duration::ZERO);
        let mut taken = Duration::ZERO;
        let step = second / 100;
        let mut now = Duration::ZERO;
        while now < 100 * second {
            if allowance.permits(now) {
                allowance.spend(step);
                taken += step;
                now += step;
            } else {
                now += second / 1000;
            }
        }
        let share = taken.as_secs_f64() / now.as_secs_f64();
        let saved = SHADOW_TIME_SAVED_MAX.as_secs_f64() / 100.0;
        assert!(share <= SHADOW_TIME_SHARE_MAX + saved + 0.001, "{share}");
        assert!(share > SHADOW_TIME_SHARE_MAX - 0.01, "{share}");
    }
}
