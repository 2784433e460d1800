//! A log-linear histogram of latencies in microseconds, over the whole range of `u32`.
//!
//! Up to 15 µs each value has a bucket of its own; above, each octave is cut into 8 buckets of equal
//! width, as in HdrHistogram with 3 significant bits. A bucket is therefore at most one eighth as wide
//! as its lowest value.

use core::ops::RangeInclusive;

use crate::{
    Error,
    codec::{Reader, Writer},
    counts::Counts,
};

/// Buckets of the histogram: 8 for the values below 8, and 8 for each of the 29 octaves above.
pub const LATENCY_BUCKET_COUNT: usize = 240;

const SUB_BUCKET_BITS: u32 = 3;
const SUB_BUCKETS: u32 = 1 << SUB_BUCKET_BITS;

/// How long things took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyHistogram(Counts<LATENCY_BUCKET_COUNT>);

impl LatencyHistogram {
    pub(crate) const ENCODED_BYTES_MAX: usize = Counts::<LATENCY_BUCKET_COUNT>::ENCODED_BYTES_MAX;

    /// Nothing counted.
    pub const fn new() -> Self {
        Self(Counts::new())
    }

    /// Counts one latency, in microseconds.
    pub fn observe(&mut self, latency_us: u32) {
        self.0.increment(bucket_of(latency_us));
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// An upper bound of the quantile, in microseconds: never below it, and above it by less than one
    /// eighth of it (12.5 %). `None` if nothing was counted.
    ///
    /// The quantile is the smallest latency that at least `permille` thousandths of all latencies do
    /// not exceed (nearest rank); 0 stands for the smallest of all, 1000 and more for the largest.
    pub fn quantile(&self, permille: u32) -> Option<u32> {
        self.quantile_bucket(permille).map(|bucket| *bucket.end())
    }

    /// The bucket in which the quantile lies, in microseconds. See [`quantile`](Self::quantile).
    pub fn quantile_bucket(&self, permille: u32) -> Option<RangeInclusive<u32>> {
        let rank = (self.total() * u64::from(permille.min(1000))).div_ceil(1000).max(1);
        let mut below = 0;
        let bucket = self.0.counters().iter().position(|&count| {
            below += u64::from(count);
            below >= rank
        })?;
        Some(bounds_us(bucket))
    }

    /// The buckets that are not empty: their bounds in microseconds, and how many latencies they hold.
    pub fn buckets(&self) -> impl Iterator<Item = (RangeInclusive<u32>, u32)> + '_ {
        let counters = self.0.counters().iter().enumerate();
        counters.filter(|&(_, &count)| count > 0).map(|(bucket, &count)| (bounds_us(bucket), count))
    }

    /// All latencies that were counted.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// Whether a counter stands at `u32::MAX` for a higher number.
    pub const fn saturated(&self) -> bool {
        self.0.saturated()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        self.0.encode(writer)
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Counts::decode(reader).map(Self)
    }
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

/// The octave counts 8 buckets each; the three bits below the leading one choose among them.
fn bucket_of(latency_us: u32) -> usize {
    let octave = (latency_us | SUB_BUCKETS).ilog2() - SUB_BUCKET_BITS;
    // The leading bit is part of the shifted value, except below 8, where it belongs to no octave.
    (octave * SUB_BUCKETS + (latency_us >> octave)) as usize
}

fn bounds_us(bucket: usize) -> RangeInclusive<u32> {
    let bucket = u32::try_from(bucket).expect("there are 240 buckets");
    let octave = (bucket / SUB_BUCKETS).saturating_sub(1);
    let first_us = (bucket - octave * SUB_BUCKETS) << octave;
    first_us..=first_us + ((1 << octave) - 1)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn histogram(latencies_us: &[u32]) -> LatencyHistogram {
        let mut histogram = LatencyHistogram::new();
        latencies_us.iter().for_each(|&latency_us| histogram.observe(latency_us));
        histogram
    }

    /// Latencies of every magnitude alike.
    fn latency_us() -> impl Strategy<Value = u32> {
        (any::<u32>(), 0..32u32).prop_map(|(bits, shift)| bits >> shift)
    }

    #[test]
    fn buckets_follow_each_other_over_the_whole_range() {
        let mut next_us = Some(0);
        for bucket in 0..LATENCY_BUCKET_COUNT {
            let bounds = bounds_us(bucket);
            assert_eq!(Some(*bounds.start()), next_us, "{bucket}");
            assert_eq!((bucket_of(*bounds.start()), bucket_of(*bounds.end())), (bucket, bucket));
            assert!(bounds.end() - bounds.start() <= bounds.start() / SUB_BUCKETS, "{bucket}");
            next_us = bounds.end().checked_add(1);
        }
        assert_eq!(next_us, None);
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(LatencyHistogram::new().quantile(500), None);
    }

    proptest! {
        #[test]
        fn a_quantile_is_never_low_and_less_than_an_eighth_high(
            mut latencies_us in prop::collection::vec(latency_us(), 1..200),
            permille in 0..=1000u32,
        ) {
            let bound_us = histogram(&latencies_us).quantile(permille).expect("values were counted");
            latencies_us.sort_unstable();
            let rank = (latencies_us.len() * permille as usize).div_ceil(1000).max(1);
            let exact_us = latencies_us[rank - 1];
            prop_assert!(bound_us >= exact_us, "{bound_us} {exact_us}");
            prop_assert!(
                8 * u64::from(bound_us - exact_us) < u64::from(exact_us).max(1),
                "{bound_us} {exact_us}"
            );
        }

        #[test]
        fn a_small_latency_is_exact(latency_us in 0..16u32) {
            prop_assert_eq!(histogram(&[latency_us]).quantile(500), Some(latency_us));
        }

        #[test]
        fn buckets_hold_every_latency(latencies_us in prop::collection::vec(latency_us(), 0..50)) {
            let histogram = histogram(&latencies_us);
            for (bounds, count) in histogram.buckets() {
                let expected: Vec<_> = latencies_us.iter().filter(|us| bounds.contains(us)).collect();
                prop_assert_eq!(count as usize, expected.len());
            }
            prop_assert_eq!(histogram.total(), latencies_us.len() as u64);
        }
    }
}
