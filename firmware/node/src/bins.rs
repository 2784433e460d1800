//! The bins in which a node counts temperatures.
//!
//! They are fixed, because a node has no bundle and so no reference data. Keys are thousandths of a
//! degree Celsius, not the keys of floats.

use selvedge_sketch::{BinSpec, EDGE_COUNT_MAX, SpecId};

/// Names [`temperature_bins`] in a node's profiles. Other bins need another name.
pub const TEMPERATURE_SPEC_ID: SpecId = SpecId(*b"mCelsius");

const EDGE_FIRST_MCELSIUS: i32 = -20_000;
const EDGE_STEP_MCELSIUS: i32 = 5_000;
// What sensors of the LM75 family can measure.
const MIN_MCELSIUS: i32 = -55_000;
const MAX_MCELSIUS: i32 = 128_000;

/// Bins of 5 °C from −20 °C to 50 °C, and one for each end of the sensor's range.
pub fn temperature_bins() -> BinSpec {
    let mut edges = [EDGE_FIRST_MCELSIUS; EDGE_COUNT_MAX];
    for place in 1..edges.len() {
        edges[place] = edges[place - 1] + EDGE_STEP_MCELSIUS;
    }
    BinSpec::integers(&edges, MIN_MCELSIUS, MAX_MCELSIUS).expect("the edges rise inside the range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_reach_from_frost_to_heat() {
        let bins = temperature_bins();
        assert_eq!(bins.edges().first(), Some(&-20_000));
        assert_eq!(bins.edges().last(), Some(&50_000));
        assert_eq!(bins.bin_count(), 16);
    }
}
