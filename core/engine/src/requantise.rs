//! From a sum of products to a quantised value: the one place where a program rounds.
//!
//! `value = clamp(round_half_even(sum * multiplier) + zero_point)`, with `sum` converted to `f32` (to nearest, ties
//! to even), one multiplication in `f32` and no fused operation. IEEE 754 gives these steps the same bits on every
//! CPU, in hardware or in software; a product below the normal range rounds to zero whether or not it is flushed.
//! ONNX's QuantizeLinear rounds the same way (half to even, then saturate).

use serde::{Deserialize, Serialize};

/// Where quantised results lie: their zero point and the least and greatest that may be stored.
///
/// `low..=high` is the range of the type, or less where an activation (ReLU, ReLU6) is folded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The value that means zero.
    pub zero_point: i8,
    /// The least value.
    pub low: i8,
    /// The greatest value, not less than `low`.
    pub high: i8,
}

impl Range {
    /// The whole of `i8`.
    pub const fn full(zero_point: i8) -> Range {
        Range { zero_point, low: i8::MIN, high: i8::MAX }
    }

    /// `low - zero_point` and `high - zero_point`: what a product is clamped to before it is rounded. Clamping at
    /// integers before rounding is the same as after it.
    pub const fn bounds(self) -> (f32, f32) {
        let zero = self.zero_point as i32;
        ((self.low as i32 - zero) as f32, (self.high as i32 - zero) as f32)
    }
}

/// The quantised value of `sum * multiplier`.
#[inline]
pub fn requantise(sum: i32, multiplier: f32, range: Range) -> i8 {
    quantise(sum as f32 * multiplier, range)
}

/// The quantised value of `steps`, which counts steps of the result's scale from its zero.
#[inline]
pub(crate) fn quantise(steps: f32, range: Range) -> i8 {
    let (low, high) = range.bounds();
    (round_half_even(steps.max(low).min(high)) + i32::from(range.zero_point)) as i8
}

/// [`quantise`] for a quotient in `f64`.
#[inline]
pub(crate) fn quantise_f64(steps: f64, range: Range) -> i8 {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let (low, high) = range.bounds();
    let rounded = (steps.max(f64::from(low)).min(f64::from(high)) + SHIFT) - SHIFT;
    (rounded as i32 + i32::from(range.zero_point)) as i8
}

/// 1.5·2²³: numbers this large have no bits for a fraction.
pub(crate) const SHIFT: f32 = 12_582_912.0;

/// The nearest integer, the even one of two that are as near. `value` must be within ±2²².
///
/// Adding [`SHIFT`] leaves no bit for a fraction, so the addition itself rounds; the integer stands in the low bits.
#[inline]
pub fn round_half_even(value: f32) -> i32 {
    ((value + SHIFT).to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_even_neighbour() {
        for (value, nearest) in [
            (0.5, 0),
            (1.5, 2),
            (2.5, 2),
            (-0.5, 0),
            (-1.5, -2),
            (-2.5, -2),
            (254.5, 254),
            (-255.5, -256),
        ] {
            assert_eq!(round_half_even(value), nearest, "of {value}");
        }
    }

    #[test]
    fn rounding_agrees_with_the_standard_library() {
        for step in -100_000..100_000 {
            let value = step as f32 / 256.0;
            assert_eq!(round_half_even(value), value.round_ties_even() as i32, "of {value}");
        }
    }

    #[test]
    fn what_does_not_fit_ends_at_the_range() {
        let relu = Range { zero_point: -10, low: -10, high: 100 };
        assert_eq!(requantise(i32::MAX, 1.0, relu), 100);
        assert_eq!(requantise(i32::MIN, 1.0, relu), -10);
        assert_eq!(requantise(3, 0.5, relu), -8);
    }
}
