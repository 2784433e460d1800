//! Counts in bins whose edges were frozen with the reference data.
//!
//! Bins are half-open: bin `i` holds the keys from edge `i − 1` up to, not including, edge `i`. The
//! first bin begins at the guard's `min`, the last one ends with its `max`, both included. A key
//! outside of the guard, an infinity and a NaN are counted apart, so every key is counted once.

use core::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{
    Error, KEY_INFINITY,
    codec::{Reader, Writer},
    counts::Counts,
};

/// The most edges that a spec has.
pub const EDGE_COUNT_MAX: usize = 15;

/// The most bins that a feature has.
pub const BIN_COUNT_MAX: usize = EDGE_COUNT_MAX + 1;

/// Where the edges of one feature's bins are, as keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "SpecForm", try_from = "SpecForm")]
pub struct BinSpec {
    // Unused places hold `i32::MAX`, which no key of a bin reaches.
    edges: [i32; EDGE_COUNT_MAX],
    edge_count: u8,
    min: i32,
    max: i32,
}

impl BinSpec {
    /// A spec with `edges.len() + 1` bins inside the guard from `min` to `max`.
    ///
    /// # Errors
    /// [`Error::TooManyEdges`], [`Error::Guard`] if `min` exceeds `max` or one of them is infinite or
    /// NaN, [`Error::EdgesOutOfOrder`].
    pub fn new(edges: &[i32], min: i32, max: i32) -> Result<Self, Error> {
        let is_finite = |key: i32| key.unsigned_abs() < KEY_INFINITY.unsigned_abs();
        if edges.len() > EDGE_COUNT_MAX {
            return Err(Error::TooManyEdges);
        }
        if min > max || !is_finite(min) || !is_finite(max) {
            return Err(Error::Guard);
        }
        let rises = edges.windows(2).all(|pair| pair[0] < pair[1]);
        if !rises || edges.iter().any(|edge| !(min..=max).contains(edge)) {
            return Err(Error::EdgesOutOfOrder);
        }
        let mut padded = [i32::MAX; EDGE_COUNT_MAX];
        padded[..edges.len()].copy_from_slice(edges);
        let edge_count = u8::try_from(edges.len()).expect("there are at most 15 edges");
        Ok(Self { edges: padded, edge_count, min, max })
    }

    /// The edges, in rising order.
    pub fn edges(&self) -> &[i32] {
        &self.edges[..usize::from(self.edge_count)]
    }

    /// The lowest key of the reference.
    pub const fn min(&self) -> i32 {
        self.min
    }

    /// The highest key of the reference.
    pub const fn max(&self) -> i32 {
        self.max
    }

    /// How many bins there are.
    pub fn bin_count(&self) -> usize {
        usize::from(self.edge_count) + 1
    }

    fn slot_of(&self, key: i32) -> usize {
        match key.unsigned_abs().cmp(&KEY_INFINITY.unsigned_abs()) {
            Ordering::Greater => SLOT_NAN,
            Ordering::Equal if key > 0 => SLOT_INFINITY,
            Ordering::Equal => SLOT_INFINITY_NEGATIVE,
            Ordering::Less if key < self.min => SLOT_BELOW,
            Ordering::Less if key > self.max => SLOT_ABOVE,
            Ordering::Less => SLOT_BINS + self.bin_of(key),
        }
    }

    /// How many edges are not above `key`: a binary search whose four steps do not depend on it.
    fn bin_of(&self, key: i32) -> usize {
        let mut bin = 0;
        for step in [8, 4, 2, 1] {
            if self.edges[bin + step - 1] <= key {
                bin += step;
            }
        }
        bin
    }
}

impl From<BinSpec> for SpecForm {
    fn from(spec: BinSpec) -> Self {
        let edges = heapless::Vec::from_slice(spec.edges()).expect("a spec has at most 15 edges");
        Self { edges, min: spec.min, max: spec.max }
    }
}

impl TryFrom<SpecForm> for BinSpec {
    type Error = Error;

    fn try_from(form: SpecForm) -> Result<Self, Error> {
        Self::new(&form.edges, form.min, form.max)
    }
}

/// How often the keys of one feature fell into each bin of its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinCounts(Counts<SLOT_COUNT>);

impl BinCounts {
    pub(crate) const ENCODED_BYTES_MAX: usize = Counts::<SLOT_COUNT>::ENCODED_BYTES_MAX;

    /// Nothing counted.
    pub const fn new() -> Self {
        Self(Counts::new())
    }

    /// Counts `key`. The same spec must be used for all keys of the same counts.
    pub fn observe(&mut self, spec: &BinSpec, key: i32) {
        self.0.increment(spec.slot_of(key));
    }

    /// Adds what `other` counted with the same spec.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The bins. A spec with fewer of them leaves the last ones at zero.
    pub fn bins(&self) -> &[u32] {
        &self.0.counters()[SLOT_BINS..SLOT_ABOVE]
    }

    /// Keys below the guard.
    pub const fn below(&self) -> u32 {
        self.0.counters()[SLOT_BELOW]
    }

    /// Keys above the guard.
    pub const fn above(&self) -> u32 {
        self.0.counters()[SLOT_ABOVE]
    }

    /// Values that were not a number.
    pub const fn nan(&self) -> u32 {
        self.0.counters()[SLOT_NAN]
    }

    /// Values that were positive infinity.
    pub const fn infinity(&self) -> u32 {
        self.0.counters()[SLOT_INFINITY]
    }

    /// Values that were negative infinity.
    pub const fn infinity_negative(&self) -> u32 {
        self.0.counters()[SLOT_INFINITY_NEGATIVE]
    }

    /// All keys that were counted, wherever they fell.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// Whether a counter stands at `u32::MAX` for a higher number.
    pub const fn saturated(&self) -> bool {
        self.0.saturated()
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        self.0.encode(writer)
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Counts::decode(reader).map(Self)
    }
}

impl Default for BinCounts {
    fn default() -> Self {
        Self::new()
    }
}

/// A spec as it is written down, before its rules are checked.
#[derive(Serialize, Deserialize)]
#[serde(rename = "BinSpec", deny_unknown_fields)]
struct SpecForm {
    edges: heapless::Vec<i32, EDGE_COUNT_MAX>,
    min: i32,
    max: i32,
}

// The guard's counters lie beside the bins that they continue: one run when encoded.
const SLOT_BELOW: usize = 0;
const SLOT_BINS: usize = 1;
const SLOT_ABOVE: usize = SLOT_BINS + BIN_COUNT_MAX;
const SLOT_NAN: usize = SLOT_ABOVE + 1;
const SLOT_INFINITY: usize = SLOT_NAN + 1;
const SLOT_INFINITY_NEGATIVE: usize = SLOT_INFINITY + 1;
const SLOT_COUNT: usize = SLOT_INFINITY_NEGATIVE + 1;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::key_from_f32;

    fn spec() -> impl Strategy<Value = BinSpec> {
        prop::collection::btree_set(-1000..1000i32, 1..=EDGE_COUNT_MAX + 2).prop_map(
            |keys: BTreeSet<i32>| {
                let keys: Vec<i32> = keys.into_iter().collect();
                let (min, max) = (keys[0], keys[keys.len() - 1]);
                let inner = keys.get(1..keys.len() - 1).unwrap_or_default();
                BinSpec::new(inner, min, max).expect("sorted distinct keys make a spec")
            },
        )
    }

    /// The definition at the top of this file, word by word.
    fn bin_by_definition(spec: &BinSpec, key: i32) -> usize {
        (0..spec.bin_count())
            .find(|&bin| spec.edges().get(bin).is_none_or(|&edge| key < edge))
            .expect("the last bin has no upper edge")
    }

    #[test]
    fn a_spec_that_contradicts_itself_is_refused() {
        let infinite = key_from_f32(f32::INFINITY);
        for (edges, min, max, expected) in [
            (&[0; 16][..], -1, 1, Error::TooManyEdges),
            (&[], 1, 0, Error::Guard),
            (&[], 0, infinite, Error::Guard),
            (&[], key_from_f32(-f32::NAN), 0, Error::Guard),
            (&[], i32::MIN, 0, Error::Guard),
            (&[2, 1], 0, 3, Error::EdgesOutOfOrder),
            (&[1, 1], 0, 3, Error::EdgesOutOfOrder),
            (&[-1], 0, 3, Error::EdgesOutOfOrder),
            (&[4], 0, 3, Error::EdgesOutOfOrder),
        ] {
            assert_eq!(BinSpec::new(edges, min, max), Err(expected), "{edges:?} {min} {max}");
        }
    }

    #[test]
    fn what_is_no_finite_value_is_counted_apart() {
        let spec = BinSpec::new(&[0], -10, 10).expect("the spec is sound");
        let mut counts = BinCounts::new();
        for value in
            [f32::NAN, -f32::NAN, f32::NAN, f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY]
        {
            counts.observe(&spec, key_from_f32(value));
        }
        for key in [-11, 11, 11, i32::MIN] {
            counts.observe(&spec, key);
        }
        let apart = (counts.nan(), counts.infinity(), counts.infinity_negative());
        assert_eq!(apart, (4, 2, 1));
        assert_eq!((counts.below(), counts.above()), (1, 2));
        assert_eq!(counts.bins(), [0; BIN_COUNT_MAX]);
        assert_eq!(counts.total(), 10);
    }

    #[test]
    fn a_spec_that_breaks_its_rules_is_not_read() {
        let unsorted = (&[2, 1][..], 0, 3);
        let bytes = postcard::to_allocvec(&unsorted).expect("the tuple encodes");
        assert!(postcard::from_bytes::<BinSpec>(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn a_key_falls_into_the_bin_of_the_definition(spec in spec(), key in -1100..1100i32) {
            let mut counts = BinCounts::new();
            counts.observe(&spec, key);
            prop_assert_eq!(counts.total(), 1);
            if key < spec.min() {
                prop_assert_eq!(counts.below(), 1);
            } else if key > spec.max() {
                prop_assert_eq!(counts.above(), 1);
            } else {
                prop_assert_eq!(counts.bins()[bin_by_definition(&spec, key)], 1);
            }
        }

        #[test]
        fn every_key_is_counted_once(spec in spec(), keys: Vec<i32>) {
            let mut counts = BinCounts::new();
            keys.iter().for_each(|&key| counts.observe(&spec, key));
            prop_assert_eq!(counts.total(), keys.len() as u64);
        }

        #[test]
        fn a_spec_comes_back_as_it_was_written(spec in spec()) {
            let bytes = postcard::to_allocvec(&spec).expect("a spec encodes");
            prop_assert_eq!(postcard::from_bytes::<BinSpec>(&bytes), Ok(spec));
        }
    }
}
