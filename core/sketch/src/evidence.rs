//! Evidence as fixed-point logarithms, with the same bits on every machine.
//!
//! An *e-value* is a number that is at most 1 on average while nothing has changed; an *e-detector*
//! adds up e-values so that after `t` windows without change it is at most `t` on average (Shin,
//! Ramdas and Rinaldo 2023). Their logarithms fit an `i32`; adding the numbers behind them takes one
//! table, and every rounding goes down, so that what is computed never exceeds what it stands for and
//! the bounds on averages hold for the integers themselves.
//!
//! The tables are computed by the compiler, whose float arithmetic is IEEE 754 on every host.

use serde::{Deserialize, Serialize};

/// Bits behind the point of a [`LogEvidence`].
pub(crate) const FRACTION_BITS: u32 = 16;

/// The natural logarithm of evidence, in units of 2⁻¹⁶ nat, between −16,384 and 16,384 nats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "i32")]
pub struct LogEvidence(i32);

impl LogEvidence {
    /// No evidence: the logarithm of 0, to which nothing is added and which adds nothing.
    pub const NONE: Self = Self(-LIMIT);

    /// The logarithm of 1.
    pub const ONE: Self = Self(0);

    /// From units of 2⁻¹⁶ nat. What lies beyond the range becomes its end.
    pub const fn from_raw(raw: i32) -> Self {
        let raw = if raw > LIMIT { LIMIT } else { raw };
        Self(if raw < -LIMIT { -LIMIT } else { raw })
    }

    /// In units of 2⁻¹⁶ nat.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// For people.
    pub fn nats(self) -> f32 {
        self.0 as f32 / (1u32 << FRACTION_BITS) as f32
    }

    /// The logarithm of `count`, rounded down.
    pub fn of(count: u32) -> Self {
        if count == 0 { Self::NONE } else { Self(ln_down(count)) }
    }

    /// The logarithm of the product.
    #[must_use]
    pub const fn times(self, other: Self) -> Self {
        if self.0 == -LIMIT || other.0 == -LIMIT {
            return Self::NONE;
        }
        Self::from_raw(self.0.saturating_add(other.0))
    }

    /// The logarithm of the sum, rounded down: low by less than 2⁻¹³.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let (low, high) = if self.0 < other.0 { (self.0, other.0) } else { (other.0, self.0) };
        if low == -LIMIT {
            return Self(high);
        }
        let distance = high.abs_diff(low);
        let step = (distance >> SUM_STEP_BITS) as usize;
        if step >= SUM_STEPS {
            return Self(high);
        }
        let (from, to) = (u32::from(SUM[step]), u32::from(SUM[step + 1]));
        let within = distance & ((1 << SUM_STEP_BITS) - 1);
        let fall = ((from - to) * within).div_ceil(1 << SUM_STEP_BITS);
        Self::from_raw(high + (from - fall).cast_signed())
    }

    /// The logarithm of `1 / divisor` of this.
    ///
    /// # Panics
    /// If `divisor` is 0.
    #[must_use]
    pub fn over(self, divisor: u32) -> Self {
        assert!(divisor > 0, "evidence is not divided by nothing");
        self.times(Self(-ln_up(divisor)))
    }

    /// The logarithm of the mean: the evidence of several streams as that of one. The mean of
    /// e-detectors is an e-detector, however they depend on each other.
    pub fn mean(all: impl IntoIterator<Item = Self>) -> Self {
        let (mut sum, mut count) = (Self::NONE, 0);
        for evidence in all {
            sum = sum.plus(evidence);
            count += 1;
        }
        if count == 0 { Self::NONE } else { sum.over(count) }
    }
}

impl From<i32> for LogEvidence {
    fn from(raw: i32) -> Self {
        Self::from_raw(raw)
    }
}

/// The evidence from which on the e-BH procedure (Wang and Ramdas 2022) rejects, or `None` if it
/// rejects nothing.
///
/// Of `F` streams the `k` with the most evidence are rejected, for the largest `k` whose least one has
/// at least `F · alarm / k`. Then the sum over all streams is at least `F · alarm`, so the mean is at
/// least `alarm`: a rejection implies the alarm of the mean, which is an e-detector of its own.
pub fn e_bh(
    evidence: impl Iterator<Item = LogEvidence> + Clone,
    alarm: LogEvidence,
) -> Option<LogEvidence> {
    let mut rejected = u32::try_from(evidence.clone().count()).ok().filter(|&count| count > 0)?;
    let all = LogEvidence(ln_up(rejected)).times(alarm);
    // Fewer rejections need more evidence, so the count only falls until it is one with itself.
    loop {
        let least = all.times(LogEvidence(-ln_down(rejected)));
        let count = evidence.clone().filter(|&evidence| evidence >= least).count() as u32;
        match count {
            0 => return None,
            count if count == rejected => return Some(least),
            count => rejected = count,
        }
    }
}

/// ln `x`, never above it and less than 4 units below. `x` is at least 1.
pub(crate) fn ln_down(x: u32) -> i32 {
    let exponent = x.ilog2();
    let mantissa = (x << (31 - exponent)) << 1;
    let step = (mantissa >> 24) as usize;
    let (from, to) = (u32::from(LN[step]), LN_END.min(u32::from(LN[step + 1])));
    let within = (mantissa >> 8) & 0xffff;
    let whole = (u64::from(exponent) * LN_2_Q32) >> 16;
    (whole as u32 + from + (((to - from) * within) >> 16)).cast_signed()
}

/// ln `x`, never below it.
pub(crate) fn ln_up(x: u32) -> i32 {
    if x == 1 { 0 } else { ln_down(x) + LN_DOWN_ERROR }
}

/// Beyond this, sums of two logarithms would leave an `i32`.
const LIMIT: i32 = 1 << 30;

/// One nat.
pub(crate) const UNIT: f64 = (1u32 << FRACTION_BITS) as f64;
const LN_2_Q32: u64 = 2_977_044_471;
const LN_DOWN_ERROR: i32 = 4;
const LN_END: u32 = 45_426;

/// ln(1 + e⁻ᵈ) is tabulated at 32 places per nat, up to where it is less than one unit.
const SUM_STEP_BITS: u32 = FRACTION_BITS - 5;
const SUM_STEPS: usize = 12 << 5;

/// The function is convex: a chord lies above it, by at most an eighth of the curvature (¼) times the
/// step squared, which is 2 units.
const SUM_CHORD_ERROR: f64 = 2.0;

static SUM: [u16; SUM_STEPS + 1] = sum_table();
static LN: [u16; 257] = ln_table();

const fn sum_table() -> [u16; SUM_STEPS + 1] {
    // e^(−1/32), as its series gives it.
    let ratio = {
        let (mut sum, mut term, mut n) = (1.0, 1.0, 1.0);
        while n < 20.0 {
            term *= -0.031_25 / n;
            sum += term;
            n += 1.0;
        }
        sum
    };
    let mut table = [0; SUM_STEPS + 1];
    let (mut index, mut power) = (0, 1.0);
    while index < table.len() {
        // A float that is negative becomes 0.
        table[index] = (ln_1p(power) * UNIT - SUM_CHORD_ERROR) as u16;
        power *= ratio;
        index += 1;
    }
    table
}

const fn ln_table() -> [u16; 257] {
    let mut table = [0; 257];
    let mut index = 0;
    while index < table.len() {
        table[index] = (ln_1p(index as f64 / 256.0) * UNIT) as u16;
        index += 1;
    }
    table
}

/// ln(1 + x) for x from 0 to 1: 2 artanh(x / (2 + x)), whose argument is at most ⅓.
const fn ln_1p(x: f64) -> f64 {
    let ratio = x / (2.0 + x);
    let (mut sum, mut power, mut n) = (0.0, ratio, 1.0);
    while n < 60.0 {
        sum += power / n;
        power *= ratio * ratio;
        n += 2.0;
    }
    2.0 * sum
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn exact(evidence: LogEvidence) -> f64 {
        f64::from(evidence.raw()) / UNIT
    }

    #[test]
    fn a_sum_is_never_above_the_exact_one_and_hardly_below() {
        for distance in 0..13 << FRACTION_BITS {
            let sum = exact(LogEvidence::ONE.plus(LogEvidence::from_raw(-distance)));
            let expected = (-f64::from(distance) / UNIT).exp().ln_1p();
            assert!(
                sum <= expected && sum > expected - 1.0 / 8192.0,
                "{distance}: {sum} {expected}"
            );
        }
    }

    #[test]
    fn a_logarithm_lies_between_its_two_roundings() {
        let spread = (0..32u32)
            .flat_map(|shift| (0..2000u32).map(move |x| (x.wrapping_mul(0x9e37_79b9)) >> shift));
        for x in (1..70_000).chain(spread.filter(|&x| x > 0)).chain([u32::MAX]) {
            let expected = f64::from(x).ln() * UNIT;
            let (down, up) = (f64::from(ln_down(x)), f64::from(ln_up(x)));
            assert!(down <= expected && expected <= up, "{x}: {down} {expected} {up}");
        }
    }

    #[test]
    fn the_tables_are_those_of_every_other_build() {
        let hash = |table: &[u16]| {
            let fold =
                |hash: u32, &entry: &u16| (hash ^ u32::from(entry)).wrapping_mul(0x0100_0193);
            table.iter().fold(0x811c_9dc5, fold)
        };
        assert_eq!((hash(&SUM), hash(&LN)), (2_617_471_695, 3_607_939_373));
    }

    #[test]
    fn nothing_adds_nothing() {
        let some = LogEvidence::from_raw(-5);
        assert_eq!(some.plus(LogEvidence::NONE), some);
        assert_eq!(LogEvidence::NONE.plus(LogEvidence::NONE), LogEvidence::NONE);
        assert_eq!(LogEvidence::NONE.times(some), LogEvidence::NONE);
        assert_eq!(LogEvidence::mean([]), LogEvidence::NONE);
    }

    #[test]
    fn e_bh_rejects_more_where_more_streams_agree() {
        let alarm = LogEvidence::of(1000);
        for (evidence, rejected) in [
            (&[3999, 1, 1, 1][..], 0),
            (&[4010, 1, 1, 1], 1),
            (&[2010, 1, 2010, 1], 2),
            (&[1010, 1010, 1010, 1010], 4),
            (&[], 0),
        ] {
            let logs: Vec<_> = evidence.iter().map(|&count| LogEvidence::of(count)).collect();
            let least = e_bh(logs.iter().copied(), alarm);
            let count = logs.iter().filter(|&&log| least.is_some_and(|least| log >= least)).count();
            assert_eq!(count, rejected, "{evidence:?}");
        }
    }

    proptest! {
        #[test]
        fn sums_and_products_stay_in_range(a: i32, b: i32) {
            let (a, b) = (LogEvidence::from_raw(a), LogEvidence::from_raw(b));
            for result in [a.plus(b), a.times(b), LogEvidence::mean([a, b])] {
                prop_assert!((-LIMIT..=LIMIT).contains(&result.raw()));
            }
            prop_assert_eq!(a.plus(b), b.plus(a));
        }

        #[test]
        fn whatever_e_bh_rejects_the_mean_is_an_alarm(raw in prop::collection::vec(0..20i32 << 16, 1..40)) {
            let alarm = LogEvidence::from_raw(9 << 16);
            let logs: Vec<_> = raw.into_iter().map(LogEvidence::from_raw).collect();
            if e_bh(logs.iter().copied(), alarm).is_some() {
                let mean = logs.iter().map(|&log| exact(log).exp()).sum::<f64>() / logs.len() as f64;
                prop_assert!(mean.ln() >= exact(alarm));
            }
        }
    }
}
