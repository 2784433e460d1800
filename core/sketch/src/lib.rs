//! Mergeable summaries of samples: counts in frozen bins with sums, codes, classes, confidence, latency,
//! embeddings, and what labels said later.
//!
//! A [`Profile`] holds the counters of one window. Profiles with the same [`SpecId`] form a commutative
//! monoid under [`Profile::merge`]: in any order and any grouping, the same samples give the same
//! counters, and the same counters give the same bytes. Duplicates are *not* absorbed; whoever stores
//! profiles keeps one per origin and window.
//!
//! No allocation, and no float arithmetic per value: a value enters as an integer *key* that keeps its
//! order ([`key_from_f32`] for `f32`; an integer in a fixed unit is its own key), and everything after
//! that is integer arithmetic. [`Detector`] judges counts in integers, too. Floats are calculated with where specs
//! and tables are made, and where people read.
//!
//! Vocabulary: a *spec* says where the edges of the bins are, frozen with the reference data; a
//! *guard* is the range of the reference, and what lies outside of it is counted apart; a *grid* are the
//! values that codes of a quantised feature stand for; *units* are what sums are counted in; a counter
//! that would exceed `u32::MAX` stays there, and its group is marked *saturated*.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod accuracy;
mod auto_range;
mod bins;
mod classes;
mod codec;
mod codes;
mod confidence;
mod counts;
mod detect;
mod error;
mod evidence;
mod grid;
mod hll;
mod key;
mod kll;
mod labels;
mod latency;
mod linear;
mod moments;
mod outputs;
mod profile;
mod projection;
mod space_saving;
mod statistics;

pub use accuracy::{Estimate, Judged, atc, atc_threshold, calibration_error, cbpe};
pub use auto_range::{AUTO_RANGE_BUCKET_COUNT, AutoRangeHistogram};
pub use bins::{BIN_COUNT_MAX, BinCounts, BinSpec, EDGE_COUNT_MAX, Values};
pub use classes::{CLASS_COUNT_MAX, ClassCounts};
pub use codes::{CODE_COUNT, CodeHistogram};
pub use confidence::{ClassConfidence, ConfidenceSpec};
pub use detect::{
    CELL_COUNT_MAX, Calibration, Change, Detector, DetectorPolicy, DetectorState, Finding,
    Measurement, STATE_VERSION, ScoreTable, VarianceInflation, conclude_all,
};
pub use error::{Error, ErrorKind};
pub use evidence::{LogEvidence, e_bh};
pub use grid::Grid;
pub use hll::HyperLogLog;
pub use key::{KEY_INFINITY, f32_from_key, key_from_f32};
pub use kll::{KLL_K_DEFAULT, Kll, Kll64, Kll200};
pub use labels::{ErrorSpec, LABELS_VERSION, LabelCounts};
pub use latency::{LATENCY_BUCKET_COUNT, LatencyHistogram};
pub use linear::{DIMENSION_MAX, LinearSums};
pub use outputs::{NoOutputs, OutputCounts, Outputs};
pub use profile::{
    FEATURE_COUNT_MAX, GatewayProfile, NodeProfile, PROFILE_VERSION, Profile, SpecId,
};
pub use projection::{Projection, VECTOR_WIDTH_MAX, shift_for};
pub use space_saving::{FrequentItem, SPACE_SAVING_ITEMS, SpaceSaving};
pub use statistics::{BinningError, CRITICAL_PROBABILITY, Measures, Statistic};
