//! How sure a model was: confidence in at most 16 bins, and the same per class.

use serde::{Deserialize, Serialize};

use crate::{
    BIN_COUNT_MAX, BinSpec, CLASS_COUNT_MAX, Error, Values,
    codec::{Reader, Writer},
    counts::Counts,
    key_from_f32,
};

/// The bins of a model's confidence, from 0 to 1, and the edge that is the threshold of ATC: the share
/// of answers at or above it estimates the accuracy (Garg et al., "Leveraging Unlabeled Data to Predict
/// Out-of-Distribution Performance", 2022).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "ConfidenceForm", try_from = "ConfidenceForm")]
pub struct ConfidenceSpec {
    bins: BinSpec,
    threshold_edge: u8,
}

impl ConfidenceSpec {
    /// A spec whose edge number `threshold_edge`, from 0 on, is the threshold.
    ///
    /// # Errors
    /// [`Error::Confidence`] if there is no such edge, the guard is not from 0 to 1, or the bins are not
    /// those of floats without a grid.
    pub fn new(bins: BinSpec, threshold_edge: u8) -> Result<Self, Error> {
        let spans = (bins.min(), bins.max()) == (key_from_f32(0.0), key_from_f32(1.0));
        let is_edge = usize::from(threshold_edge) < bins.edges().len();
        if bins.values() != Values::Floats || !spans || !is_edge {
            return Err(Error::Confidence);
        }
        Ok(Self { bins, threshold_edge })
    }

    /// The bins.
    pub const fn bins(&self) -> &BinSpec {
        &self.bins
    }

    /// The first bin whose confidences are not below the threshold.
    pub fn threshold_bin(&self) -> usize {
        usize::from(self.threshold_edge) + 1
    }

    /// The bin of a confidence; `None` for what is none (NaN, or not from 0 to 1).
    pub fn bin(&self, confidence: f32) -> Option<usize> {
        self.bins.bin(key_from_f32(confidence))
    }
}

/// A spec as it is written down, before its rules are checked.
#[derive(Serialize, Deserialize)]
#[serde(rename = "ConfidenceSpec", deny_unknown_fields)]
struct ConfidenceForm {
    bins: BinSpec,
    threshold_edge: u8,
}

impl From<ConfidenceSpec> for ConfidenceForm {
    fn from(spec: ConfidenceSpec) -> Self {
        Self { bins: spec.bins, threshold_edge: spec.threshold_edge }
    }
}

impl TryFrom<ConfidenceForm> for ConfidenceSpec {
    type Error = Error;

    fn try_from(form: ConfidenceForm) -> Result<Self, Error> {
        Self::new(form.bins, form.threshold_edge)
    }
}

const SLOT_COUNT: usize = (CLASS_COUNT_MAX + 1) * BIN_COUNT_MAX;

/// Answers per class and bin of confidence; classes from [`CLASS_COUNT_MAX`] on share a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassConfidence(Counts<SLOT_COUNT>);

impl ClassConfidence {
    pub(crate) const ENCODED_BYTES_MAX: usize = Counts::<SLOT_COUNT>::ENCODED_BYTES_MAX;

    /// Nothing counted.
    pub const fn new() -> Self {
        Self(Counts::new())
    }

    /// Counts an answer; one without a valid confidence has no place in the table.
    pub fn observe(&mut self, spec: &ConfidenceSpec, class: u32, confidence: f32) {
        if let Some(bin) = spec.bin(confidence) {
            self.0.increment(row_of(class) * BIN_COUNT_MAX + bin);
        }
    }

    /// Adds what `other` counted with the same spec.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The bins of one class, or from [`CLASS_COUNT_MAX`] on of all those that share a row.
    pub fn class(&self, class: u32) -> &[u32] {
        &self.0.counters()[row_of(class) * BIN_COUNT_MAX..][..BIN_COUNT_MAX]
    }

    /// All answers in the table.
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

impl Default for ClassConfidence {
    fn default() -> Self {
        Self::new()
    }
}

/// The row of a class in tables in which the last row is that of all other classes.
pub(crate) fn row_of(class: u32) -> usize {
    usize::try_from(class).map_or(CLASS_COUNT_MAX, |class| class.min(CLASS_COUNT_MAX))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::vec::Vec;

    use super::*;

    pub(crate) fn confidence_spec() -> ConfidenceSpec {
        let edges: Vec<i32> = (1..16).map(|edge| key_from_f32(edge as f32 / 16.0)).collect();
        let bins = BinSpec::new(&edges, key_from_f32(0.0), key_from_f32(1.0));
        ConfidenceSpec::new(bins.expect("the edges rise"), 12).expect("there is an edge 12")
    }

    #[test]
    fn confidences_at_the_threshold_are_above_it() {
        let spec = confidence_spec();
        let threshold = crate::f32_from_key(spec.bins().edges()[12]);
        assert_eq!(spec.bin(threshold), Some(spec.threshold_bin()));
        assert_eq!(spec.bin(threshold.next_down()), Some(spec.threshold_bin() - 1));
        for (confidence, bin) in
            [(0.0, Some(0)), (-0.0, Some(0)), (1.0, Some(15)), (1.001, None), (f32::NAN, None)]
        {
            assert_eq!(spec.bin(confidence), bin, "{confidence}");
        }
    }

    #[test]
    fn a_spec_without_its_threshold_or_with_another_guard_is_refused() {
        let bins = confidence_spec().bins().clone();
        let half = key_from_f32(0.5);
        let narrow = BinSpec::new(&[half], 0, key_from_f32(0.9)).expect("the guard is sound");
        let integers = BinSpec::integers(&[half], 0, key_from_f32(1.0)).expect("it is sound");
        for (bins, edge) in [(bins, 15), (narrow, 0), (integers, 0)] {
            assert_eq!(ConfidenceSpec::new(bins.clone(), edge), Err(Error::Confidence), "{bins:?}");
            let bytes = postcard::to_allocvec(&(bins, edge)).expect("a tuple encodes");
            assert!(postcard::from_bytes::<ConfidenceSpec>(&bytes).is_err());
        }
        let spec = confidence_spec();
        let bytes = postcard::to_allocvec(&spec).expect("a spec encodes");
        assert_eq!(postcard::from_bytes(&bytes), Ok(spec));
    }

    #[test]
    fn a_table_has_a_row_for_each_class_and_one_for_the_rest() {
        let (spec, mut table) = (confidence_spec(), ClassConfidence::new());
        for (class, confidence) in
            [(0, 0.5), (63, 1.0), (64, 0.99), (u32::MAX, 0.01), (1, f32::NAN), (1, 2.0)]
        {
            table.observe(&spec, class, confidence);
        }
        assert_eq!((table.class(0)[8], table.class(63)[15]), (1, 1));
        assert_eq!((table.class(64)[15], table.class(70)[0]), (1, 1));
        assert_eq!(table.total(), 4);
    }
}
