//! A histogram of `f32` values where there is no reference to freeze edges with.
//!
//! Bucket boundaries follow from the bits of the value: each octave from 2⁻¹⁶ to 2¹⁶ is cut into 8
//! buckets of equal width, for either sign. Counting is integer arithmetic and merging is exact. Values
//! nearer to zero than 2⁻¹⁶ share the bucket of zero; those of 2¹⁶ and more are counted apart, as are
//! infinities and NaN.
//!
//! A bucket is at most one eighth as wide as its end that is nearer to zero.

use core::ops::RangeInclusive;

use crate::{
    Error, KEY_INFINITY,
    codec::{Reader, Writer},
    counts::Counts,
    f32_from_key,
};

/// Buckets of the histogram: 256 for either sign, and that of zero.
pub const AUTO_RANGE_BUCKET_COUNT: usize = 2 * SIDE + 1;

/// Buckets of one sign: 32 octaves of 8.
const SIDE: usize = 256;

/// What is left of a magnitude is its exponent and three bits of its mantissa.
const SHIFT: u32 = 20;
const LOWEST: u32 = 2_f32.to_bits() - (17 << 23);
const BEYOND: u32 = LOWEST + ((SIDE as u32) << SHIFT);

const SLOT_INFINITY_NEGATIVE: usize = 0;
const SLOT_BELOW: usize = 1;
const SLOT_ZERO: usize = SLOT_BELOW + SIDE + 1;
const SLOT_ABOVE: usize = SLOT_ZERO + SIDE + 1;
const SLOT_INFINITY: usize = SLOT_ABOVE + 1;
const SLOT_NAN: usize = SLOT_INFINITY + 1;
const SLOT_COUNT: usize = SLOT_NAN + 1;

/// How often values fell into each bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoRangeHistogram(Counts<SLOT_COUNT>);

impl AutoRangeHistogram {
    /// The longest encoded form.
    pub const ENCODED_BYTES_MAX: usize = Counts::<SLOT_COUNT>::ENCODED_BYTES_MAX;

    /// Nothing counted.
    pub const fn new() -> Self {
        Self(Counts::new())
    }

    /// Counts a value by its key, [`key_from_f32`](crate::key_from_f32).
    pub fn observe(&mut self, key: i32) {
        self.0.increment(slot_of(key));
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The middle of the bucket in which the quantile lies: off by at most one sixteenth of the value,
    /// and by 2⁻¹⁶ near zero. See [`quantile_bucket`](Self::quantile_bucket).
    pub fn quantile(&self, permille: u32) -> Option<f32> {
        let keys = slot_keys(self.quantile_slot(permille)?);
        // Inside of a bucket keys are as far apart as values are; both ends have the same sign.
        Some(f32_from_key(keys.start() + (keys.end() - keys.start()) / 2))
    }

    /// The bucket in which the quantile lies: its lowest and its highest value. `None` if no number was
    /// counted. What lies beyond 2¹⁶ has one bucket on either side, and an infinity its own.
    ///
    /// The quantile is the smallest value that at least `permille` thousandths of all numbers do not
    /// exceed (nearest rank); 0 stands for the smallest of all, 1000 and more for the largest.
    pub fn quantile_bucket(&self, permille: u32) -> Option<RangeInclusive<f32>> {
        self.quantile_slot(permille).map(slot_bounds)
    }

    fn quantile_slot(&self, permille: u32) -> Option<usize> {
        let numbers = self.0.total() - u64::from(self.nan());
        let rank = (numbers * u64::from(permille.min(1000))).div_ceil(1000).max(1);
        let mut below = 0;
        self.0.counters()[..SLOT_NAN].iter().position(|&count| {
            below += u64::from(count);
            below >= rank
        })
    }

    /// The buckets that are not empty, without NaN: their bounds, and how many values they hold.
    pub fn buckets(&self) -> impl Iterator<Item = (RangeInclusive<f32>, u32)> + '_ {
        let counters = self.0.counters()[..SLOT_NAN].iter().enumerate();
        counters.filter(|&(_, &count)| count > 0).map(|(slot, &count)| (slot_bounds(slot), count))
    }

    /// Values that were not a number.
    pub const fn nan(&self) -> u32 {
        self.0.counters()[SLOT_NAN]
    }

    /// Values that were counted apart, because they were infinite or their magnitude was 2¹⁶ or more.
    pub fn beyond(&self) -> u64 {
        let slots = [SLOT_INFINITY_NEGATIVE, SLOT_BELOW, SLOT_ABOVE, SLOT_INFINITY];
        slots.iter().map(|&slot| u64::from(self.0.counters()[slot])).sum()
    }

    /// All values that were counted, NaN among them.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// Whether a counter stands at `u32::MAX` for a higher number.
    pub const fn saturated(&self) -> bool {
        self.0.saturated()
    }

    /// Writes the counters in their one form, as runs of those that are not zero.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`]; [`ENCODED_BYTES_MAX`](Self::ENCODED_BYTES_MAX) always suffices.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        let mut writer = Writer::new(buffer);
        self.0.encode(&mut writer)?;
        Ok(writer.finish())
    }

    /// Reads counters.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Malformed`], [`Error::TrailingBytes`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let counts = Counts::decode(&mut reader)?;
        reader.end()?;
        Ok(Self(counts))
    }
}

impl Default for AutoRangeHistogram {
    fn default() -> Self {
        Self::new()
    }
}

fn slot_of(key: i32) -> usize {
    let magnitude = key.unsigned_abs();
    let infinity = KEY_INFINITY.unsigned_abs();
    let positive = key > 0;
    if magnitude < LOWEST {
        SLOT_ZERO
    } else if magnitude < BEYOND {
        let distance = ((magnitude - LOWEST) >> SHIFT) as usize + 1;
        if positive { SLOT_ZERO + distance } else { SLOT_ZERO - distance }
    } else if magnitude < infinity {
        if positive { SLOT_ABOVE } else { SLOT_BELOW }
    } else if magnitude == infinity {
        if positive { SLOT_INFINITY } else { SLOT_INFINITY_NEGATIVE }
    } else {
        SLOT_NAN
    }
}

/// The keys of a slot, for any but that of NaN.
fn slot_keys(slot: usize) -> RangeInclusive<i32> {
    let distance = slot.abs_diff(SLOT_ZERO);
    let (near, far) = match distance {
        0 => return -(LOWEST.cast_signed() - 1)..=LOWEST.cast_signed() - 1,
        1..=SIDE => {
            let near = LOWEST.cast_signed() + (((distance - 1) as i32) << SHIFT);
            (near, near + ((1 << SHIFT) - 1))
        }
        _ if slot == SLOT_BELOW || slot == SLOT_ABOVE => (BEYOND.cast_signed(), KEY_INFINITY - 1),
        _ => (KEY_INFINITY, KEY_INFINITY),
    };
    if slot > SLOT_ZERO { near..=far } else { -far..=-near }
}

fn slot_bounds(slot: usize) -> RangeInclusive<f32> {
    let keys = slot_keys(slot);
    f32_from_key(*keys.start())..=f32_from_key(*keys.end())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::key_from_f32;

    fn histogram(values: &[f32]) -> AutoRangeHistogram {
        let mut histogram = AutoRangeHistogram::new();
        values.iter().for_each(|&value| histogram.observe(key_from_f32(value)));
        histogram
    }

    fn encoded(histogram: &AutoRangeHistogram) -> Vec<u8> {
        let mut buffer = [0; AutoRangeHistogram::ENCODED_BYTES_MAX];
        histogram.encode(&mut buffer).expect("the buffer holds the longest form").to_vec()
    }

    /// Values inside of the range, of every magnitude alike.
    fn value() -> impl Strategy<Value = f32> {
        (-16..16i32, 1.0..2.0f32, any::<bool>()).prop_map(|(exponent, mantissa, negative)| {
            let value = mantissa * 2_f32.powi(exponent);
            if negative { -value } else { value }
        })
    }

    #[test]
    fn slots_follow_each_other_over_all_keys_of_numbers() {
        let mut next = -KEY_INFINITY;
        for slot in SLOT_INFINITY_NEGATIVE..SLOT_NAN {
            let keys = slot_keys(slot);
            assert_eq!(*keys.start(), next, "{slot}");
            assert_eq!((slot_of(*keys.start()), slot_of(*keys.end())), (slot, slot));
            next = keys.end() + 1;
        }
        assert_eq!(next, KEY_INFINITY + 1);
        assert_eq!((slot_of(next), slot_of(i32::MIN)), (SLOT_NAN, SLOT_NAN));
    }

    #[test]
    fn the_range_is_from_2_to_the_minus_16_to_2_to_the_16() {
        let (lowest, beyond) = (2_f32.powi(-16), 2_f32.powi(16));
        let histogram = histogram(&[-beyond, -lowest, -lowest.next_down(), 0.0, lowest, beyond]);
        assert_eq!((histogram.beyond(), histogram.total()), (2, 6));
        let zeros = histogram.buckets().find(|(bounds, _)| bounds.contains(&0.0));
        assert_eq!(zeros.map(|(_, count)| count), Some(2));
        let first = slot_bounds(SLOT_ZERO + 1);
        assert_eq!(*first.start(), lowest);
        assert!((first.end().next_up() / first.start() - 1.125).abs() < 1e-6);
    }

    #[test]
    fn what_is_no_number_has_no_quantile() {
        assert_eq!(histogram(&[]).quantile(500), None);
        assert_eq!(histogram(&[f32::NAN]).quantile(500), None);
        let infinite = histogram(&[f32::NAN, f32::NEG_INFINITY, 1.0, f32::INFINITY]);
        assert_eq!(infinite.quantile(0), Some(f32::NEG_INFINITY));
        assert_eq!(infinite.quantile(1000), Some(f32::INFINITY));
        assert_eq!(infinite.nan(), 1);
    }

    proptest! {
        #[test]
        fn a_quantile_is_off_by_at_most_a_sixteenth(
            mut values in prop::collection::vec(value(), 1..200), permille in 0..=1000u32,
        ) {
            let histogram = histogram(&values);
            values.sort_unstable_by(f32::total_cmp);
            let rank = (values.len() * permille as usize).div_ceil(1000).max(1);
            let exact = values[rank - 1];
            let bucket = histogram.quantile_bucket(permille).expect("values were counted");
            let middle = histogram.quantile(permille).expect("values were counted");
            prop_assert!(bucket.contains(&exact), "{bucket:?} {exact}");
            prop_assert!((middle - exact).abs() <= exact.abs() / 16.0, "{middle} {exact}");
        }

        #[test]
        fn merging_parts_in_any_order_is_counting_all_at_once(
            mut parts in prop::collection::vec(prop::collection::vec(any::<f32>(), 0..50), 1..5),
        ) {
            let expected = histogram(&parts.concat());
            parts.reverse();
            let mut merged = AutoRangeHistogram::new();
            parts.iter().for_each(|part| merged.merge(&histogram(part)));
            prop_assert_eq!(encoded(&merged), encoded(&expected));
            prop_assert_eq!(merged, expected);
        }

        #[test]
        fn counters_come_back_as_they_were_written(values: Vec<f32>) {
            let histogram = histogram(&values);
            prop_assert_eq!(AutoRangeHistogram::decode(&encoded(&histogram)), Ok(histogram));
        }
    }
}
