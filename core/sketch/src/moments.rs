//! Sums of values and of their squares, in fixed point, so that they add up exactly in any order.
//!
//! A value enters as a whole number of *units* above or below an *origin*:
//!
//! | keys | unit | value in units |
//! |---|---|---|
//! | integers | 2^shift | ⌊key ÷ unit⌋ − origin |
//! | floats on a grid | scale · 2^shift | ⌊code ÷ 2^shift⌋ − origin, where code is the one in whose cell the value lies |
//! | other floats | 2^exponent | value ÷ unit, rounded to the nearest, − origin |
//!
//! Unit and origin follow from the edges and the guard: the edges span 2⁹ to 2¹⁰ units, so that a
//! standard deviation is some hundred units, unless the guard spans more than 2¹⁵ units or, with
//! floats, a value more than 2²¹; then the unit is as much larger. The origin is the edge in the
//! middle, which is near the median. (A grid's unit is at least its scale, an integer's at least 1.)
//!
//! A value outside of the guard enters as the end of the guard that it is beyond. So no value has more
//! than 2¹⁵ + 1 units, and 2³² of them exceed neither an `i64` nor, squared, a `u64`. Infinities and NaN
//! do not enter.

use crate::{
    Error, Grid,
    codec::{Reader, Writer},
    f32_from_key,
    key::bits_from_key,
};

/// The most values of which the sums are right.
pub(crate) const VALUE_COUNT_MAX: u64 = 1 << 32;

/// The most units whose squares, of that many values, fit a `u64`.
pub(crate) const UNITS_MAX: u32 = u16::MAX as u32;

/// What the edges span is below 2 to this power, in units.
const SPREAD_BITS: u32 = 10;
/// What the guard spans is below 2 to this power, in units.
const SPAN_BITS: u32 = 15;
/// A float is below 2 to this power, in units, before the origin is taken from it.
const WHOLE_BITS: u32 = 21;
/// Below the unit, until a float is rounded. With those above and the sign they fill an `i32`.
const FRACTION_BITS: u32 = 10;
const HALF: i32 = 1 << (FRACTION_BITS - 1);
/// Smaller units would need floats that are subnormal.
const UNIT_EXPONENT_MIN: i32 = -100;

const MANTISSA_BITS: u32 = 23;
const HIDDEN_BIT: u32 = 1 << MANTISSA_BITS;
const EXPONENT_BIAS: i32 = 127;

/// How a key becomes a number of units. Which it is, the multiplier says: no float has 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FixedPoint {
    // The reciprocal of the unit's mantissa, from 2³¹ on; 0 if keys are integers.
    multiplier: u32,
    // For a float the exponent, as it stands in the bits, of a value that is not shifted; for an integer
    // the places that it is shifted.
    shift: u32,
    // For a float what is added before the fraction is cut off; for an integer the origin.
    offset: i32,
}

impl FixedPoint {
    /// For integers. The edges rise between `min` and `max`.
    pub(crate) fn of_integers(edges: &[i32], min: i32, max: i32) -> Self {
        let span = max.abs_diff(min);
        let spread = match edges {
            [first, .., last] => last.abs_diff(*first),
            _ => span,
        };
        let bits = |number: u32| u32::BITS - number.leading_zeros();
        let shift =
            bits(spread).saturating_sub(SPREAD_BITS).max(bits(span).saturating_sub(SPAN_BITS));
        Self { multiplier: 0, shift, offset: middle(edges, min) >> shift }
    }

    /// For floats of which `codes`, the fixed point of their codes, is known.
    pub(crate) fn of_grid(grid: &Grid, codes: &Self) -> Self {
        let (multiplier, shift) = reciprocal(grid.scale_bits());
        // Half a code is added before it is shifted, as far as it is above the fraction's last place.
        let rounding = (2 * grid.zero_point() + 1) << (FRACTION_BITS - 1 - codes.shift);
        let offset = rounding - (codes.offset << FRACTION_BITS);
        Self { multiplier, shift: shift + codes.shift, offset }
    }

    /// For other floats. The edges rise between `min` and `max`, which are finite.
    pub(crate) fn of_floats(edges: &[i32], min: i32, max: i32) -> Self {
        let value = |key: i32| f64::from(f32_from_key(key));
        let span = value(max) - value(min);
        let spread = match edges {
            [first, .., last] => value(*last) - value(*first),
            _ => span,
        };
        let longest = value(max).max(-value(min));
        let exponent = [(spread, SPREAD_BITS), (span, SPAN_BITS), (longest, WHOLE_BITS)]
            .map(|(length, bits)| exponent_of(length) + 1 - bits.cast_signed())
            .into_iter()
            .fold(UNIT_EXPONENT_MIN, i32::max);
        let unit = (exponent + EXPONENT_BIAS).cast_unsigned() << MANTISSA_BITS;
        let (multiplier, shift) = reciprocal(unit);
        let about_zero = Self { multiplier, shift, offset: HALF };
        let origin = about_zero.units(middle(edges, min));
        Self { offset: HALF - (origin << FRACTION_BITS), ..about_zero }
    }

    /// How many units above or below the origin a key is that lies inside the guard.
    pub(crate) fn units(&self, key: i32) -> i32 {
        match self.is_of_floats() {
            true => self.units_of_float(bits_from_key(key)),
            false => self.units_of_integer(key),
        }
    }

    #[inline]
    pub(crate) const fn is_of_floats(&self) -> bool {
        self.multiplier != 0
    }

    #[inline]
    pub(crate) const fn units_of_integer(&self, integer: i32) -> i32 {
        (integer >> self.shift) - self.offset
    }

    /// The same from a float's bits. Its mantissa is multiplied by the unit's reciprocal, in 32 of 64
    /// bits, and shifted by what its exponent is below the unit's. A subnormal float is read as a larger
    /// one, which is nothing in any unit all the same.
    #[inline]
    pub(crate) fn units_of_float(&self, bits: u32) -> i32 {
        let mantissa = (bits | HIDDEN_BIT) << 8;
        let scaled = (mantissa as u64 * self.multiplier as u64) >> 32;
        let exponent = bits << 1 >> (MANTISSA_BITS + 1);
        // By 31 places nothing is left but the fraction's last place.
        let shift = (self.shift.cast_signed() - exponent.cast_signed()).clamp(0, 31);
        let fixed = (scaled as u32 >> shift).cast_signed();
        // Below zero the fraction's last place is 1 too low, so that halves are rounded away from zero.
        let fixed = fixed ^ bits.cast_signed() >> 31;
        // The sum may pass the end of `i32` on its way; what is left fits.
        fixed.wrapping_add(self.offset) >> FRACTION_BITS
    }

    /// The unit of a float without a grid, and the origin in it.
    fn float_unit(&self) -> (f64, f64) {
        let exponent = self.shift.cast_signed() - reciprocal_shift_of_one();
        (power_of_two(exponent), f64::from((HALF - self.offset) >> FRACTION_BITS))
    }

    /// The value of a number of units, as a float; `grid` is the one that the fixed point was made for.
    pub(crate) fn value(&self, units: f64) -> f64 {
        if self.multiplier == 0 {
            let unit = power_of_two(self.shift.cast_signed());
            // A unit stands for the integers of which it is the beginning.
            return (units + f64::from(self.offset)) * unit + (unit - 1.0) / 2.0;
        }
        let (unit, origin) = self.float_unit();
        (units + origin) * unit
    }

    /// The length of a unit, in the unit of the keys' values. Not for grids: ask their codes.
    pub(crate) fn unit(&self) -> f64 {
        match self.multiplier {
            0 => power_of_two(self.shift.cast_signed()),
            _ => self.float_unit().0,
        }
    }
}

/// The multiplier and the shift for a unit, from the bits of a positive normal float.
///
/// With mantissas m of the value and M of the unit, both from 2²³ on, and exponents e and E: the
/// quotient is m/M · 2^(e − E), and the upper half of m·2⁸ · 2⁵⁵/M is m/M · 2³¹. The reciprocal of 2²³
/// itself would take 33 bits, so it is half as large.
const fn reciprocal(unit: u32) -> (u32, u32) {
    let mantissa = unit & (HIDDEN_BIT - 1) | HIDDEN_BIT;
    let exponent = unit >> MANTISSA_BITS;
    if mantissa == HIDDEN_BIT {
        return (1 << 31, exponent + 30 - FRACTION_BITS);
    }
    let reciprocal = (1 << 55) / mantissa as u64;
    (reciprocal as u32, exponent + 31 - FRACTION_BITS)
}

/// The shift for the unit 1.
const fn reciprocal_shift_of_one() -> i32 {
    reciprocal(1.0f32.to_bits()).1.cast_signed()
}

/// The edge in the middle, or where there is none the lower end of the guard.
fn middle(edges: &[i32], min: i32) -> i32 {
    edges.get(edges.len() / 2).copied().unwrap_or(min)
}

/// The exponent of 2 that a length reaches but not the next one; far below all others for 0.
fn exponent_of(length: f64) -> i32 {
    let bits = (length.to_bits() >> 52) as u16;
    i32::from(bits) - 1023
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(u64::from((exponent + 1023).cast_unsigned()) << 52)
}

/// Both sums, in units and their squares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moments {
    pub(crate) sum: i64,
    pub(crate) squares: u64,
}

// Sums of more than 2³² values may wrap around. That is still associative, and no one reads them.
impl Moments {
    pub(crate) const ENCODED_BYTES_MAX: usize = 2 * crate::codec::VARINT_U64_BYTES_MAX;

    pub(crate) const fn new() -> Self {
        Self { sum: 0, squares: 0 }
    }

    #[inline]
    pub(crate) fn add(&mut self, units: i32) {
        let units = i64::from(units);
        self.sum = self.sum.wrapping_add(units);
        self.squares = self.squares.wrapping_add((units * units).cast_unsigned());
    }

    pub(crate) fn add_many(&mut self, units: i32, count: u32) {
        let (units, count) = (i64::from(units), i64::from(count));
        self.sum = self.sum.wrapping_add(units * count);
        let squares = (units * units).cast_unsigned().wrapping_mul(count.cast_unsigned());
        self.squares = self.squares.wrapping_add(squares);
    }

    pub(crate) const fn merge(&mut self, other: &Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.squares = self.squares.wrapping_add(other.squares);
    }

    /// The mean in units; `None` where the sums are not right.
    pub(crate) fn mean(&self, count: u64) -> Option<f64> {
        is_counted(count).then(|| self.sum as f64 / count as f64)
    }

    /// The variance in squared units, of the values themselves (divided by their number).
    pub(crate) fn variance(&self, count: u64) -> Option<f64> {
        let squared = u128::from(self.sum.unsigned_abs()).pow(2);
        // It is negative only in bytes that no one counted.
        let scaled = (u128::from(count) * u128::from(self.squares)).saturating_sub(squared);
        is_counted(count).then(|| scaled as f64 / (count as f64 * count as f64))
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        writer.signed(self.sum)?;
        writer.varint_u64(self.squares)
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { sum: reader.signed()?, squares: reader.varint_u64()? })
    }
}

fn is_counted(count: u64) -> bool {
    (1..=VALUE_COUNT_MAX).contains(&count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{BinCounts, BinSpec, f32_from_key, key_from_f32};

    fn floats(edges: &[f32], min: f32, max: f32) -> BinSpec {
        let edges: std::vec::Vec<i32> = edges.iter().map(|&edge| key_from_f32(edge)).collect();
        BinSpec::new(&edges, key_from_f32(min), key_from_f32(max)).expect("the spec is sound")
    }

    /// Two edges between the ends of a guard, all of them any finite floats.
    fn any_floats() -> impl Strategy<Value = BinSpec> {
        prop::array::uniform4(
            prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL,
        )
        .prop_filter_map("four values", |mut values| {
            values.sort_unstable_by(f32::total_cmp);
            let keys = values.map(key_from_f32);
            BinSpec::new(&keys[1..3], keys[0], keys[3]).ok()
        })
    }

    fn units_of(spec: &BinSpec, key: i32) -> i64 {
        let mut counts = BinCounts::new();
        counts.observe(spec, key);
        counts.sum_units()
    }

    #[test]
    fn mean_and_variance_are_those_of_the_values() {
        let spec = floats(&[19.0, 20.0, 21.0], 10.0, 30.0);
        let mut counts = BinCounts::new();
        for value in [18.0, 19.5, 20.0, 20.5, 22.0, f32::NAN, f32::INFINITY] {
            counts.observe_f32(&spec, value);
        }
        assert_eq!(counts.mean(&spec), Some(20.0));
        assert_eq!(counts.variance(&spec), Some((4.0 + 0.25 + 0.25 + 4.0) / 5.0));
        // Beyond the guard a value is taken as the guard's end.
        counts.observe_f32(&spec, 1e9);
        assert_eq!(counts.mean(&spec), Some(130.0 / 6.0));
        assert_eq!(BinCounts::new().mean(&spec), None);
        assert_eq!(BinCounts::new().variance(&spec), None);
    }

    #[test]
    fn integers_are_their_own_fixed_point_and_long_ranges_are_coarser() {
        let spec = BinSpec::integers(&[-5, 0, 5], -100, 100).expect("the spec is sound");
        let mut counts = BinCounts::new();
        [-100, 7, 9, 1000].into_iter().for_each(|value| counts.observe_integer(&spec, value));
        assert_eq!((counts.sum_units(), counts.sum_squared_units()), (16, 2 * 10_000 + 49 + 81));
        assert_eq!(counts.mean(&spec), Some(4.0));

        let wide = BinSpec::integers(&[0], -0x7f00_0000, 0x7f00_0000).expect("the spec is sound");
        let mut counts = BinCounts::new();
        [i32::MIN / 2, i32::MAX / 2].into_iter().for_each(|value| counts.observe(&wide, value));
        let mean = counts.mean(&wide).expect("two values");
        assert!(mean.abs() < f64::from(1 << 17), "{mean}");
    }

    #[test]
    fn the_sums_of_the_most_values_do_not_overflow() {
        let most = i64::from(UNITS_MAX);
        let count = i64::try_from(VALUE_COUNT_MAX).expect("it is 2³²");
        assert!(most.checked_mul(count).is_some());
        assert!((most * most).cast_unsigned().checked_mul(VALUE_COUNT_MAX).is_some());
        const { assert!(1 << SPAN_BITS < UNITS_MAX) };
        let mut moments = Moments::new();
        for _ in 0..2 {
            moments.add_many(-UNITS_MAX.cast_signed(), u32::MAX);
        }
        assert_eq!(moments.mean(2 * u64::from(u32::MAX)), None, "more values than 2³²");
    }

    proptest! {
        #[test]
        fn a_float_is_within_a_unit_of_its_fixed_point(spec in any_floats(), value: f32) {
            prop_assume!(!value.is_nan());
            let cut = key_from_f32(value).clamp(spec.min(), spec.max());
            let mut counts = BinCounts::new();
            counts.observe_f32(&spec, f32_from_key(cut));
            let unit = FixedPoint::of_floats(spec.edges(), spec.min(), spec.max()).unit();
            let read = counts.mean(&spec).expect("it is finite");
            prop_assert!((read - f64::from(f32_from_key(cut))).abs() <= unit * 0.502, "{read} {unit}");
            prop_assert!(counts.sum_units().unsigned_abs() <= 1 + (1 << SPAN_BITS));
            prop_assert_eq!(counts.sum_squared_units(), counts.sum_units().pow(2).cast_unsigned());
        }

        #[test]
        fn a_larger_value_has_no_fewer_units(spec in any_floats(), a: i32, b: i32) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assume!(low > -crate::KEY_INFINITY && high < crate::KEY_INFINITY);
            prop_assert!(units_of(&spec, low) <= units_of(&spec, high));
        }

        #[test]
        fn integers_have_few_units_wherever_they_lie(
            bounds in prop::array::uniform4(-0x7f00_0000..0x7f00_0000i32),
            value: i32,
        ) {
            let mut bounds = bounds;
            bounds.sort_unstable();
            if let Ok(spec) = BinSpec::integers(&bounds[1..3], bounds[0], bounds[3]) {
                prop_assume!(value.unsigned_abs() < crate::KEY_INFINITY.unsigned_abs());
                prop_assert!(units_of(&spec, value).unsigned_abs() <= 1 + (1 << SPAN_BITS));
            }
        }

        #[test]
        fn many_of_a_value_are_as_many_times_one(units in -32_769..=32_769i32, count in 0..50u32) {
            let (mut many, mut one_by_one) = (Moments::new(), Moments::new());
            many.add_many(units, count);
            (0..count).for_each(|_| one_by_one.add(units));
            prop_assert_eq!(many, one_by_one);
        }

        #[test]
        fn the_variance_is_never_negative_whatever_was_read(sum: i64, squares: u64, count: u64) {
            let variance = Moments { sum, squares }.variance(count);
            prop_assert!(variance.is_none_or(|variance| variance >= 0.0));
        }
    }
}
