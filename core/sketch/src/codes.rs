//! An exact histogram of 8-bit codes: one counter for each.
//!
//! Counting is a load, an addition and a store. When a window closes, the histogram is folded into the
//! bins of a spec for codes, and gives the counts and sums that counting each code there would have given.

use crate::{
    BinCounts, BinSpec, Error,
    codec::{Reader, Writer},
    counts::Counts,
};

/// The number of codes.
pub const CODE_COUNT: usize = 256;

/// The place of code 0 of an `i8`.
const SIGN: u8 = 0x80;

/// How often each code came. A histogram holds the codes of `i8` or of `u8`, not of both.
///
/// As bytes, a run of counters like every group of counters in a [`Profile`](crate::Profile), in the
/// order of the codes, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeHistogram(Counts<CODE_COUNT>);

impl CodeHistogram {
    /// A buffer of this many bytes holds every encoded histogram.
    pub const ENCODED_BYTES_MAX: usize = Counts::<CODE_COUNT>::ENCODED_BYTES_MAX;

    /// Nothing counted.
    pub const fn new() -> Self {
        Self(Counts::new())
    }

    /// Counts a code of an `i8` tensor.
    #[inline]
    pub fn observe_i8(&mut self, code: i8) {
        self.observe_u8(code.cast_unsigned() ^ SIGN);
    }

    /// Counts a code of a `u8` tensor.
    #[inline]
    pub fn observe_u8(&mut self, code: u8) {
        self.0.increment(usize::from(code));
    }

    /// Adds what `other` counted of the same type of tensor.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The counts of `i8` codes in the bins of `spec`, whose keys are codes: the bins of a float feature
    /// with a grid have one ([`BinSpec::codes`]).
    pub fn fold_i8(&self, spec: &BinSpec) -> BinCounts {
        self.fold(spec, i32::from(i8::MIN))
    }

    /// As [`fold_i8`](Self::fold_i8), of `u8` codes.
    pub fn fold_u8(&self, spec: &BinSpec) -> BinCounts {
        self.fold(spec, 0)
    }

    fn fold(&self, spec: &BinSpec, code_first: i32) -> BinCounts {
        let mut bins = BinCounts::new();
        for (code, &count) in (code_first..).zip(self.0.counters()) {
            if count > 0 {
                bins.observe_many(spec, code, count);
            }
        }
        if self.0.saturated() {
            bins.mark_saturated();
        }
        bins
    }

    /// The counts, from the lowest code on.
    pub const fn counts(&self) -> &[u32; CODE_COUNT] {
        self.0.counters()
    }

    /// All codes that were counted.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// Whether a counter stands at `u32::MAX` for a higher number.
    pub const fn saturated(&self) -> bool {
        self.0.saturated()
    }

    /// Writes the histogram and returns the part of `buffer` that it takes.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`].
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        let mut writer = Writer::new(buffer);
        self.0.encode(&mut writer)?;
        Ok(writer.finish())
    }

    /// Reads a histogram that takes all of `bytes`.
    ///
    /// # Errors
    /// Those of [`ErrorKind::Peer`](crate::ErrorKind::Peer).
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let counts = Counts::decode(&mut reader)?;
        reader.end()?;
        Ok(Self(counts))
    }
}

impl Default for CodeHistogram {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::{EDGE_COUNT_MAX, Grid, f32_from_key, grid::tests::grid, key_from_f32};

    /// A grid, and a spec on it whose edges and guard lie among the first codes above and below 0.
    fn grid_and_spec(reach: i32) -> impl Strategy<Value = (Grid, BinSpec)> {
        let offsets = prop::collection::btree_set(-reach..=reach, 2..=EDGE_COUNT_MAX + 2);
        (grid(), offsets, 0..1000i32).prop_map(|(grid, offsets, within)| {
            let codes: Vec<i32> =
                offsets.into_iter().map(|code| code + grid.zero_point()).collect();
            // Somewhere in the cell, as quantiles of floats that were never quantised lie.
            let key = |code: i32| {
                let (start, end) = (grid.cell_start(code), grid.cell_start(code + 1) - 1);
                let (start, end) = (i64::from(start), i64::from(end));
                (start + (end - start) * i64::from(within) / 1000) as i32
            };
            let keys: Vec<i32> = codes.into_iter().map(key).collect();
            let (edges, ends) = (&keys[1..keys.len() - 1], (keys[0], keys[keys.len() - 1]));
            (grid, BinSpec::on_grid(edges, ends.0, ends.1, grid).expect("the keys rise"))
        })
    }

    #[test]
    fn edges_in_one_cell_are_one_edge() {
        let grid = Grid::new(1.0, 0).expect("a unit per code");
        let key = key_from_f32;
        let edges = [-9.6, -9.4, 0.1, 0.2, 0.3, 9.6].map(key);
        let spec = BinSpec::on_grid(&edges, key(-9.9), key(9.9), grid).expect("the edges rise");
        let edges: Vec<f32> = spec.edges().iter().map(|&edge| f32_from_key(edge)).collect();
        assert_eq!(edges, [-9.5, 0.5, 9.5]);
        assert_eq!(f32_from_key(spec.min()), -10.5);
        assert_eq!(f32_from_key(spec.max()), 10.5f32.next_down());
        let codes = spec.codes().expect("the spec has a grid");
        assert_eq!((codes.edges(), codes.min(), codes.max()), (&[-9, 1, 10][..], -10, 10));
    }

    proptest! {
        #[test]
        fn a_spec_on_a_grid_comes_back_as_it_was_written((_, spec) in grid_and_spec(40_000)) {
            let bytes = postcard::to_allocvec(&spec).expect("a spec encodes");
            prop_assert_eq!(postcard::from_bytes::<BinSpec>(&bytes), Ok(spec));
        }

        /// drift.md, B5: a node that counts codes, one that folds a histogram, a gateway that counts the
        /// dequantised floats, and one that counts floats that were never quantised.
        #[test]
        fn a_sample_is_counted_alike_as_code_and_as_float(
            (grid, spec) in grid_and_spec(120),
            sample in prop::collection::vec((any::<i8>(), -0.484..0.484f64), 0..40),
        ) {
            let codes_spec = spec.codes().expect("the spec has a grid");
            let (mut node, mut gateway, mut raw) =
                (BinCounts::new(), BinCounts::new(), BinCounts::new());
            for &(code, within) in &sample {
                let code = grid.zero_point() + i32::from(code);
                node.observe_integer(&codes_spec, code);
                gateway.observe_f32(&spec, f32_from_key(grid.key(code)));
                let value = f64::from(grid.scale())
                    * (f64::from(code - grid.zero_point()) + within);
                raw.observe_f32(&spec, value as f32);
            }
            prop_assert_eq!(&node, &gateway);
            prop_assert_eq!(&node, &raw);
            prop_assert_eq!(node.mean(&codes_spec).is_some(), raw.mean(&spec).is_some());
        }

        #[test]
        fn wide_codes_are_counted_alike_as_codes_and_as_floats(
            (grid, spec) in grid_and_spec(40_000),
            codes in prop::collection::vec(-32_768..65_536i32, 0..40),
        ) {
            let codes_spec = spec.codes().expect("the spec has a grid");
            let (mut node, mut gateway) = (BinCounts::new(), BinCounts::new());
            for &code in &codes {
                node.observe_integer(&codes_spec, code);
                gateway.observe_f32(&spec, grid.scale() * (code - grid.zero_point()) as f32);
            }
            prop_assert_eq!(&node, &gateway);
            if let (Some(of_codes), Some(of_floats)) = (node.mean(&codes_spec), gateway.mean(&spec)) {
                let value = f64::from(grid.scale()) * (of_codes - f64::from(grid.zero_point()));
                prop_assert_eq!(value, of_floats);
            }
        }

        #[test]
        fn a_folded_histogram_is_what_counting_each_code_gives(
            edges in prop::collection::btree_set(-140..140i32, 2..17),
            signed: Vec<i8>,
            unsigned: Vec<u8>,
        ) {
            let edges: Vec<i32> = edges.into_iter().collect();
            let inner = &edges[1..edges.len() - 1];
            let spec = BinSpec::integers(inner, edges[0], edges[edges.len() - 1]);
            let spec = spec.expect("the edges rise");
            let (mut histogram, mut counts) = (CodeHistogram::new(), BinCounts::new());
            for &code in &signed {
                histogram.observe_i8(code);
                counts.observe(&spec, code.into());
            }
            prop_assert_eq!(histogram.fold_i8(&spec), counts);
            let (mut histogram, mut counts) = (CodeHistogram::new(), BinCounts::new());
            for &code in &unsigned {
                histogram.observe_u8(code);
                counts.observe(&spec, code.into());
            }
            prop_assert_eq!(histogram.fold_u8(&spec), counts);
        }

        #[test]
        fn histograms_merge_and_come_back_as_written(a: Vec<i8>, b: Vec<i8>) {
            let histogram = |codes: &[i8]| {
                let mut histogram = CodeHistogram::new();
                codes.iter().for_each(|&code| histogram.observe_i8(code));
                histogram
            };
            let (mut merged, other) = (histogram(&a), histogram(&b));
            merged.merge(&other);
            prop_assert_eq!(&merged, &histogram(&[&a[..], &b].concat()));
            let mut buffer = [0; CodeHistogram::ENCODED_BYTES_MAX];
            let bytes = merged.encode(&mut buffer).expect("the buffer holds the longest form");
            prop_assert_eq!(CodeHistogram::decode(bytes), Ok(merged));
        }
    }

    #[test]
    fn a_saturated_histogram_says_so_when_it_is_folded() {
        let mut histogram = CodeHistogram::new();
        histogram.observe_i8(-128);
        for _ in 0..32 {
            let twin = histogram.clone();
            histogram.merge(&twin);
        }
        assert!(histogram.saturated());
        let spec = BinSpec::integers(&[0], -128, 127).expect("the spec is sound");
        let folded = histogram.fold_i8(&spec);
        assert!(folded.saturated());
        assert_eq!(folded.mean(&spec), None);
    }
}
