//! Counts in bins whose edges were frozen with the reference data, and sums of the values.
//!
//! Bins are half-open: bin `i` holds the keys from edge `i − 1` up to, not including, edge `i`. The
//! first bin begins at the guard's `min`, the last one ends with its `max`, both included. A key
//! outside of the guard, an infinity and a NaN are counted apart, so every key is counted once.
//!
//! Beside the bins stand the sums of the values and of their squares in fixed point; `moments.rs` says
//! in which unit.

use core::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{
    Error, Grid, KEY_INFINITY,
    codec::{Reader, Writer},
    counts::Counts,
    key::{key_from_f32, order_from_bits, order_from_key},
    moments::{FixedPoint, Moments},
};

/// The most edges that a spec has.
pub const EDGE_COUNT_MAX: usize = 15;

/// The most bins that a feature has.
pub const BIN_COUNT_MAX: usize = EDGE_COUNT_MAX + 1;

/// What the keys of a spec stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Values {
    /// Floats, by [`key_from_f32`](crate::key_from_f32).
    Floats,
    /// Floats that a quantised representation of the same feature rounds to a grid.
    FloatsOnGrid(Grid),
    /// Integers: codes, or values in a fixed unit. Each is its own key.
    Integers,
}

/// Where the edges of one feature's bins are, as keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "SpecForm", try_from = "SpecForm")]
pub struct BinSpec {
    edges: heapless::Vec<i32, EDGE_COUNT_MAX>,
    min: i32,
    max: i32,
    values: Values,
    // What follows is derived from the above for the update path. Values are compared by how far they are
    // above the guard's `min`, in the order of `order_from_bits`; unused edges hold `u32::MAX`, which no
    // value of a bin reaches.
    order_edges: [u32; EDGE_COUNT_MAX],
    order_min: i32,
    order_span: u32,
    fixed_point: FixedPoint,
    // The ends of the guard in units, which is what values beyond it enter the sums as.
    units_min: i32,
    units_max: i32,
}

impl BinSpec {
    /// A spec for floats, with `edges.len() + 1` bins inside the guard from `min` to `max`.
    ///
    /// # Errors
    /// [`Error::TooManyEdges`], [`Error::Guard`] if `min` exceeds `max` or one of them is infinite or
    /// NaN, [`Error::EdgesOutOfOrder`].
    pub fn new(edges: &[i32], min: i32, max: i32) -> Result<Self, Error> {
        check(edges, min, max)?;
        let fixed_point = FixedPoint::of_floats(edges, min, max);
        let units = (fixed_point.units(min), fixed_point.units(max));
        Ok(Self::checked(edges, (min, max), Values::Floats, fixed_point, units))
    }

    /// A spec for integers that are their own keys.
    ///
    /// # Errors
    /// As for [`new`](Self::new); an integer from `KEY_INFINITY` on, on either side, is infinite.
    pub fn integers(edges: &[i32], min: i32, max: i32) -> Result<Self, Error> {
        check(edges, min, max)?;
        let fixed_point = FixedPoint::of_integers(edges, min, max);
        let units = (fixed_point.units(min), fixed_point.units(max));
        Ok(Self::checked(edges, (min, max), Values::Integers, fixed_point, units))
    }

    /// A spec for floats whose edges and guard lie between the codes of `grid`, so that a value, and
    /// the code that stands for it in [`codes`](Self::codes), are counted alike.
    ///
    /// The given edges and guard are those of the reference, in rising order. Each edge moves between
    /// two codes; edges that then are one, or leave no code on one side, are left out. The guard widens
    /// to the whole cells of its ends. Where a quantiser cuts off values beyond its last code, that code
    /// stands for all of them: if it is inside of the guard, the values beyond are counted differently.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn on_grid(edges: &[i32], min: i32, max: i32, grid: Grid) -> Result<Self, Error> {
        check(edges, min, max)?;
        let (code_min, code_max) = (grid.code(min), grid.code(max));
        let mut codes = heapless::Vec::<i32, EDGE_COUNT_MAX>::new();
        for &edge in edges {
            let code = grid.first_code_right_of(edge);
            let last = codes.last().copied().unwrap_or(code_min);
            if code > last && code <= code_max {
                codes.push(code).expect("there are no more edges than were given");
            }
        }
        let of_codes = FixedPoint::of_integers(&codes, code_min, code_max);
        let fixed_point = FixedPoint::of_grid(&grid, &of_codes);
        let snapped: heapless::Vec<i32, EDGE_COUNT_MAX> =
            codes.iter().map(|&code| grid.cell_start(code)).collect();
        let guard = (grid.cell_start(code_min), grid.cell_start(code_max + 1) - 1);
        // At the very border of a cell a float may be rounded away from its code.
        let units = (of_codes.units(code_min), of_codes.units(code_max));
        Ok(Self::checked(&snapped, guard, Values::FloatsOnGrid(grid), fixed_point, units))
    }

    /// The spec of the same feature for whoever counts its codes: each code is its own key. `None`
    /// without a grid.
    pub fn codes(&self) -> Option<Self> {
        let Values::FloatsOnGrid(grid) = self.values else { return None };
        let edges: heapless::Vec<i32, EDGE_COUNT_MAX> =
            self.edges().iter().map(|&edge| grid.code(edge)).collect();
        let spec = Self::integers(&edges, grid.code(self.min), grid.code(self.max));
        Some(spec.expect("edges between codes have rising codes on their right"))
    }

    fn checked(
        edges: &[i32],
        (min, max): (i32, i32),
        values: Values,
        fixed_point: FixedPoint,
        (units_min, units_max): (i32, i32),
    ) -> Self {
        let order = |key: i32| match values {
            Values::Integers => key,
            Values::Floats | Values::FloatsOnGrid(_) => order_from_key(key),
        };
        let order_min = order(min);
        let mut order_edges = [u32::MAX; EDGE_COUNT_MAX];
        for (place, &edge) in order_edges.iter_mut().zip(edges) {
            *place = order(edge).wrapping_sub(order_min).cast_unsigned();
        }
        let edges = heapless::Vec::from_slice(edges).expect("there are at most 15 edges");
        // The end of the guard is the last value before the next key.
        let order_span = (order(max + 1) - 1).wrapping_sub(order_min).cast_unsigned();
        Self {
            edges,
            min,
            max,
            values,
            order_edges,
            order_min,
            order_span,
            fixed_point,
            units_min,
            units_max,
        }
    }

    /// The edges, in rising order.
    pub fn edges(&self) -> &[i32] {
        &self.edges
    }

    /// The lowest key of the reference, or of its cell.
    pub const fn min(&self) -> i32 {
        self.min
    }

    /// The highest key of the reference, or of its cell.
    pub const fn max(&self) -> i32 {
        self.max
    }

    /// What the keys stand for.
    pub const fn values(&self) -> Values {
        self.values
    }

    /// How many bins there are.
    pub fn bin_count(&self) -> usize {
        self.edges.len() + 1
    }

    /// The bin of a key; `None` outside of the guard.
    pub(crate) fn bin(&self, key: i32) -> Option<usize> {
        let order = match self.values {
            Values::Integers => key,
            Values::Floats | Values::FloatsOnGrid(_) => order_from_key(key),
        };
        self.bin_in_order(order)
    }

    /// One comparison for both ends of the guard, and a binary search whose four steps do not depend on
    /// the value: the bin is how many edges are not above it.
    #[inline]
    fn bin_in_order(&self, order: i32) -> Option<usize> {
        let above_min = order.wrapping_sub(self.order_min).cast_unsigned();
        if above_min > self.order_span {
            return None;
        }
        // Twice the bin, which spares the compiler an instruction with the last step.
        let mut twice = 0;
        for step in [8, 4, 2, 1] {
            if self.order_edges[twice / 2 + step - 1] <= above_min {
                twice += 2 * step;
            }
        }
        Some(twice / 2)
    }

    fn slot_outside(&self, key: i32) -> usize {
        match key.unsigned_abs().cmp(&KEY_INFINITY.unsigned_abs()) {
            Ordering::Greater => SLOT_NAN,
            Ordering::Equal if key > 0 => SLOT_INFINITY,
            Ordering::Equal => SLOT_INFINITY_NEGATIVE,
            Ordering::Less if key < self.min => SLOT_BELOW,
            Ordering::Less => SLOT_ABOVE,
        }
    }
}

fn check(edges: &[i32], min: i32, max: i32) -> Result<(), Error> {
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
    Ok(())
}

impl From<BinSpec> for SpecForm {
    fn from(spec: BinSpec) -> Self {
        Self { edges: spec.edges, min: spec.min, max: spec.max, values: spec.values }
    }
}

impl TryFrom<SpecForm> for BinSpec {
    type Error = Error;

    fn try_from(form: SpecForm) -> Result<Self, Error> {
        match form.values {
            Values::Floats => Self::new(&form.edges, form.min, form.max),
            Values::Integers => Self::integers(&form.edges, form.min, form.max),
            Values::FloatsOnGrid(grid) => {
                let spec = Self::on_grid(&form.edges, form.min, form.max, grid)?;
                let is_snapped =
                    spec.edges() == &form.edges[..] && (spec.min, spec.max) == (form.min, form.max);
                if is_snapped { Ok(spec) } else { Err(Error::OffGrid) }
            }
        }
    }
}

/// How often the keys of one feature fell into each bin of its spec, and the sums of their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinCounts {
    counts: Counts<SLOT_COUNT>,
    moments: Moments,
}

impl BinCounts {
    pub(crate) const ENCODED_BYTES_MAX: usize =
        Counts::<SLOT_COUNT>::ENCODED_BYTES_MAX + Moments::ENCODED_BYTES_MAX;

    /// Nothing counted.
    pub const fn new() -> Self {
        Self { counts: Counts::new(), moments: Moments::new() }
    }

    /// Counts `key`. The same spec must be used for all keys of the same counts.
    pub fn observe(&mut self, spec: &BinSpec, key: i32) {
        self.observe_many(spec, key, 1);
    }

    /// Counts a float, of a spec for floats, as [`observe`](Self::observe) counts its key.
    #[inline]
    pub fn observe_f32(&mut self, spec: &BinSpec, value: f32) {
        debug_assert!(spec.fixed_point.is_of_floats(), "the spec's keys are those of floats");
        let bits = value.to_bits();
        match spec.bin_in_order(order_from_bits(bits)) {
            Some(bin) => {
                self.counts.increment(SLOT_BINS + bin);
                self.moments.add(spec.fixed_point.units_of_float(bits));
            }
            None => self.observe_outside(spec, key_from_f32(value), 1),
        }
    }

    /// Counts an integer, of a spec for integers, as [`observe`](Self::observe) counts it.
    #[inline]
    pub fn observe_integer(&mut self, spec: &BinSpec, value: i32) {
        debug_assert!(!spec.fixed_point.is_of_floats(), "the spec's keys are integers");
        match spec.bin_in_order(value) {
            Some(bin) => {
                self.counts.increment(SLOT_BINS + bin);
                self.moments.add(spec.fixed_point.units_of_integer(value));
            }
            None => self.observe_outside(spec, value, 1),
        }
    }

    /// Counts `key` as often as `count` says.
    pub fn observe_many(&mut self, spec: &BinSpec, key: i32, count: u32) {
        match spec.bin(key) {
            Some(bin) => {
                self.counts.add(SLOT_BINS + bin, count);
                self.moments.add_many(spec.fixed_point.units(key), count);
            }
            None => self.observe_outside(spec, key, count),
        }
    }

    /// Counts a key outside of the guard. It is a cold function of its own so that the loops around the way of
    /// all other keys keep their registers.
    #[cold]
    #[inline(never)]
    fn observe_outside(&mut self, spec: &BinSpec, key: i32, count: u32) {
        let slot = spec.slot_outside(key);
        self.counts.add(slot, count);
        match slot {
            SLOT_BELOW => self.moments.add_many(spec.units_min, count),
            SLOT_ABOVE => self.moments.add_many(spec.units_max, count),
            // No number, or an infinite one.
            _ => {}
        }
    }

    /// Adds what `other` counted with the same spec.
    pub fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.moments.merge(&other.moments);
    }

    /// The bins. A spec with fewer of them leaves the last ones at zero.
    pub fn bins(&self) -> &[u32] {
        &self.counts.counters()[SLOT_BINS..SLOT_ABOVE]
    }

    /// Keys below the guard.
    pub const fn below(&self) -> u32 {
        self.counts.counters()[SLOT_BELOW]
    }

    /// Keys above the guard.
    pub const fn above(&self) -> u32 {
        self.counts.counters()[SLOT_ABOVE]
    }

    /// Values that were not a number.
    pub const fn nan(&self) -> u32 {
        self.counts.counters()[SLOT_NAN]
    }

    /// Values that were positive infinity.
    pub const fn infinity(&self) -> u32 {
        self.counts.counters()[SLOT_INFINITY]
    }

    /// Values that were negative infinity.
    pub const fn infinity_negative(&self) -> u32 {
        self.counts.counters()[SLOT_INFINITY_NEGATIVE]
    }

    /// All keys that were counted, wherever they fell.
    pub fn total(&self) -> u64 {
        self.counts.total()
    }

    /// Keys that are finite values, inside and outside of the guard.
    pub fn finite(&self) -> u64 {
        self.counts.counters()[..=SLOT_ABOVE].iter().map(|&count| u64::from(count)).sum()
    }

    /// The sum of the values in the spec's units from its origin. Values outside of the guard are in it
    /// as the guard's ends. It is right for 2³² values at most.
    pub const fn sum_units(&self) -> i64 {
        self.moments.sum
    }

    /// The sum of the squares of what [`sum_units`](Self::sum_units) adds up.
    pub const fn sum_squared_units(&self) -> u64 {
        self.moments.squares
    }

    /// The mean of the finite values, in the unit of the values, with those outside of the guard taken
    /// as its ends. It is within one unit of the fixed point of the exact one. `None` if there is no
    /// value, more than 2³², or a counter is saturated.
    pub fn mean(&self, spec: &BinSpec) -> Option<f64> {
        let units = self.moments.mean(self.summed()?)?;
        Some(match (spec.values, spec.codes()) {
            (Values::FloatsOnGrid(grid), Some(codes)) => {
                let code = codes.fixed_point.value(units);
                f64::from(grid.scale()) * (code - f64::from(grid.zero_point()))
            }
            _ => spec.fixed_point.value(units),
        })
    }

    /// The variance (divided by the number of values, not by one less) of what [`mean`](Self::mean) is
    /// the mean of, in the squared unit of the values.
    pub fn variance(&self, spec: &BinSpec) -> Option<f64> {
        let squared_units = self.moments.variance(self.summed()?)?;
        let unit = match (spec.values, spec.codes()) {
            (Values::FloatsOnGrid(grid), Some(codes)) => {
                f64::from(grid.scale()) * codes.fixed_point.unit()
            }
            _ => spec.fixed_point.unit(),
        };
        Some(squared_units * unit * unit)
    }

    /// How many values the sums have, if that is known.
    fn summed(&self) -> Option<u64> {
        (!self.saturated()).then(|| self.finite())
    }

    /// Whether a counter stands at `u32::MAX` for a higher number.
    pub const fn saturated(&self) -> bool {
        self.counts.saturated()
    }

    pub(crate) const fn mark_saturated(&mut self) {
        self.counts.mark_saturated();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The counters; then the sums, if there is a finite value.
    pub(crate) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        self.counts.encode(writer)?;
        if self.finite() > 0 { self.moments.encode(writer) } else { Ok(()) }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut read = Self { counts: Counts::decode(reader)?, moments: Moments::new() };
        if read.finite() > 0 {
            read.moments = Moments::decode(reader)?;
        }
        Ok(read)
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
    values: Values,
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
    use crate::f32_from_key;

    fn spec() -> impl Strategy<Value = BinSpec> {
        prop::collection::btree_set(-1000..1000i32, 1..=EDGE_COUNT_MAX + 2).prop_map(
            |keys: BTreeSet<i32>| {
                let keys: Vec<i32> = keys.into_iter().collect();
                let (min, max) = (keys[0], keys[keys.len() - 1]);
                let inner = keys.get(1..keys.len() - 1).unwrap_or_default();
                BinSpec::integers(inner, min, max).expect("sorted distinct keys make a spec")
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
        let grid = Grid::new(0.5, 0).expect("half a unit per code");
        for (spec, is_read) in [
            ((&[2, 1][..], 0, 3, Values::Floats), false),
            ((&[1, 2], 0, 3, Values::Floats), true),
            ((&[2, 1], 0, 3, Values::Integers), false),
            ((&[1, 2], 0, 3, Values::Integers), true),
            ((&[1, 2], 0, 3, Values::FloatsOnGrid(grid)), false),
        ] {
            let bytes = postcard::to_allocvec(&spec).expect("the tuple encodes");
            assert_eq!(postcard::from_bytes::<BinSpec>(&bytes).is_ok(), is_read, "{spec:?}");
        }
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
        fn floats_and_integers_are_counted_as_their_keys(
            edges in prop::collection::btree_set(any::<f32>().prop_map(key_from_f32), 2..20),
            value: f32,
            key: i32,
        ) {
            let edges: Vec<i32> = edges.into_iter().collect();
            let inner = &edges[1..edges.len() - 1];
            let (min, max) = (edges[0], edges[edges.len() - 1]);
            if let (Ok(floats), Ok(integers)) =
                (BinSpec::new(inner, min, max), BinSpec::integers(inner, min, max))
            {
                for value in [value, f32_from_key(key), 0.0, -0.0] {
                    let (mut by_value, mut by_key) = (BinCounts::new(), BinCounts::new());
                    by_value.observe_f32(&floats, value);
                    by_key.observe(&floats, key_from_f32(value));
                    prop_assert_eq!(&by_value, &by_key);
                    let mut of_integers = BinCounts::new();
                    of_integers.observe(&integers, key_from_f32(value));
                    prop_assert_eq!(by_value.bins(), of_integers.bins());
                    prop_assert_eq!(by_value.counts, of_integers.counts);
                }
                let (mut by_value, mut by_key) = (BinCounts::new(), BinCounts::new());
                by_value.observe_integer(&integers, key);
                by_key.observe(&integers, key);
                prop_assert_eq!(by_value, by_key);
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
