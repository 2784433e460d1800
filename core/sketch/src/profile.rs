//! The counters of one window, and their bytes.
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 1 | [`PROFILE_VERSION`] |
//! | 1 | 8 | spec id |
//! | 9 | 1 | sections that follow, a bit each: those of them that are not empty |
//! | 10 | n | totals: samples, of these failed (2 counters) |
//! | | n | bit 0: latency, by bucket ([`LATENCY_BUCKET_COUNT`](crate::LATENCY_BUCKET_COUNT) counters) |
//! | | n | bit 1: classes, then other ([`CLASS_COUNT_MAX`](crate::CLASS_COUNT_MAX) + 1 counters) |
//! | | n | bit 2: confidence, as a feature |
//! | | n | bit 3: class × confidence, by class, then other (65 × 16 counters) |
//! | | n | bit 4: embedding, as a sum of vectors |
//! | | n | bit 5: random Fourier features of embeddings, as a sum of vectors |
//! | | 1 | number of features (varint below 128) |
//! | | n | per feature: below, 16 bins, above, NaN, +∞, −∞ (21 counters); then, if one of the first 18 is not zero, Σx (zigzag varint of an `i64`) and Σx² (varint of a `u64`), in units of its spec |
//!
//! Each group of counters is encoded as runs of those that are not zero: one varint with the number of
//! runs × 2, + 1 if saturated; per run the zeros before it, its length, and its counters. A sum of
//! vectors is their length, their number (1 counter), and the sum of each place (zigzag varint of an
//! `i64`). All numbers are LEB128 varints. Every profile has exactly one encoding; the reader refuses
//! any other.

use core::fmt;

use crate::{
    BinCounts, BinSpec, ClassCounts, Error, LatencyHistogram, NoOutputs, OutputCounts, Outputs,
    codec::{Reader, Writer},
    counts::Counts,
};

/// The format version that this build writes and reads.
pub const PROFILE_VERSION: u8 = 2;

/// The most features that a profile has anywhere.
pub const FEATURE_COUNT_MAX: usize = 64;

/// A profile with room for the features of any bundle, and for answers.
pub type GatewayProfile = Profile<FEATURE_COUNT_MAX, OutputCounts>;

/// A profile of a node with one sensor and no model.
pub type NodeProfile = Profile<1>;

const SECTION_LATENCY: u8 = 1 << 0;

const SLOT_SAMPLES: usize = 0;
const SLOT_FAILED: usize = 1;
const TOTAL_COUNT: usize = 2;

/// Names the spec that a profile was counted with: for a bundle the first 8 bytes of the SHA-256 of
/// its encoded baseline, for a node a name burnt in with its bins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpecId(pub [u8; Self::BYTES]);

impl SpecId {
    /// The length of a spec id in bytes.
    pub const BYTES: usize = 8;
}

impl fmt::Display for SpecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The counters of one window, or of several merged, with room for `F` features and for outputs or not.
///
/// The bytes do not depend on the type: what a [`NodeProfile`] writes, a [`GatewayProfile`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile<const F: usize, O = NoOutputs> {
    spec_id: SpecId,
    totals: Counts<TOTAL_COUNT>,
    latency: LatencyHistogram,
    outputs: O,
    features: heapless::Vec<BinCounts, F>,
}

impl<const F: usize> Profile<F, OutputCounts> {
    /// Counts the class of an answer.
    pub fn observe_class(&mut self, class: u32) {
        self.outputs.observe_class(class);
    }

    /// How often each class was the answer.
    pub const fn classes(&self) -> &ClassCounts {
        self.outputs.classes()
    }
}

impl<const F: usize, O: Outputs> Profile<F, O> {
    /// A buffer of this many bytes holds every encoded profile of this type.
    pub const ENCODED_BYTES_MAX: usize = {
        assert!(F <= FEATURE_COUNT_MAX, "the number of features takes one byte");
        let totals = Counts::<TOTAL_COUNT>::ENCODED_BYTES_MAX;
        let outputs = LatencyHistogram::ENCODED_BYTES_MAX + O::ENCODED_BYTES_MAX;
        1 + SpecId::BYTES + 1 + totals + outputs + 1 + F * BinCounts::ENCODED_BYTES_MAX
    };

    /// Nothing counted yet, for a spec with `feature_count` features.
    ///
    /// # Errors
    /// [`Error::TooManyFeatures`] if there is no room for them.
    pub fn new(spec_id: SpecId, feature_count: usize) -> Result<Self, Error> {
        const { assert!(F <= FEATURE_COUNT_MAX) };
        let mut features = heapless::Vec::new();
        features.resize(feature_count, BinCounts::new()).map_err(|_| Error::TooManyFeatures)?;
        let (latency, outputs) = (LatencyHistogram::new(), O::default());
        Ok(Self { spec_id, totals: Counts::new(), latency, outputs, features })
    }

    /// Counts a sample that was answered, or a reading.
    pub fn count_sample(&mut self) {
        self.totals.increment(SLOT_SAMPLES);
    }

    /// Counts a sample that was not answered, or a reading that was not had.
    pub fn count_failed_sample(&mut self) {
        self.totals.increment(SLOT_SAMPLES);
        self.totals.increment(SLOT_FAILED);
    }

    /// Counts the time that an answer took.
    pub fn observe_latency(&mut self, latency_us: u32) {
        self.latency.observe(latency_us);
    }

    /// What is counted of the answers.
    pub const fn outputs_mut(&mut self) -> &mut O {
        &mut self.outputs
    }

    /// Counts one feature's key in the bins of its `spec`.
    ///
    /// # Panics
    /// If the profile has no feature with that index.
    pub fn observe_feature(&mut self, feature: usize, spec: &BinSpec, key: i32) {
        self.features[feature].observe(spec, key);
    }

    /// Counts one feature's value in the bins of its `spec`, which is one for floats.
    ///
    /// # Panics
    /// If the profile has no feature with that index.
    #[inline]
    pub fn observe_f32(&mut self, feature: usize, spec: &BinSpec, value: f32) {
        self.features[feature].observe_f32(spec, value);
    }

    /// Counts one feature's code or integer in the bins of its `spec`, which is one for integers.
    ///
    /// # Panics
    /// If the profile has no feature with that index.
    #[inline]
    pub fn observe_integer(&mut self, feature: usize, spec: &BinSpec, value: i32) {
        self.features[feature].observe_integer(spec, value);
    }

    /// Adds the counts of one feature that were made apart, as a histogram of codes is folded.
    ///
    /// # Panics
    /// If the profile has no feature with that index.
    pub fn add_feature(&mut self, feature: usize, counts: &BinCounts) {
        self.features[feature].merge(counts);
    }

    /// Adds what `other` counted.
    ///
    /// # Errors
    /// [`Error::SpecMismatch`]; then nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        let same_spec = self.spec_id == other.spec_id;
        let same_count = self.features.len() == other.features.len();
        if !same_spec || !same_count || !self.outputs.fits(&other.outputs) {
            return Err(Error::SpecMismatch);
        }
        self.totals.merge(&other.totals);
        self.latency.merge(&other.latency);
        self.outputs.merge(&other.outputs);
        for (mine, theirs) in self.features.iter_mut().zip(&other.features) {
            mine.merge(theirs);
        }
        Ok(())
    }

    /// The spec that was counted with.
    pub const fn spec_id(&self) -> SpecId {
        self.spec_id
    }

    /// All samples, with and without an answer.
    pub const fn samples(&self) -> u32 {
        self.totals.counters()[SLOT_SAMPLES]
    }

    /// Samples without an answer.
    pub const fn failed(&self) -> u32 {
        self.totals.counters()[SLOT_FAILED]
    }

    /// How long answers took.
    pub const fn latency(&self) -> &LatencyHistogram {
        &self.latency
    }

    /// What was counted of the answers.
    pub const fn outputs(&self) -> &O {
        &self.outputs
    }

    /// The bins of each feature, in the order of the spec.
    pub fn features(&self) -> &[BinCounts] {
        &self.features
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        let nothing = self.totals.is_empty() && self.sections() == 0;
        nothing && self.features.iter().all(BinCounts::is_empty)
    }

    /// Whether any counter stands at `u32::MAX` for a higher number.
    pub fn saturated(&self) -> bool {
        let outputs = self.latency.saturated() || self.outputs.saturated();
        self.totals.saturated() || outputs || self.features.iter().any(BinCounts::saturated)
    }

    fn sections(&self) -> u8 {
        let latency = if self.latency.is_empty() { 0 } else { SECTION_LATENCY };
        self.outputs.sections() | latency
    }

    /// Writes the profile and returns the part of `buffer` that it takes.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`]; [`ENCODED_BYTES_MAX`](Self::ENCODED_BYTES_MAX) bytes are always enough.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        let mut writer = Writer::new(buffer);
        writer.byte(PROFILE_VERSION)?;
        self.spec_id.0.iter().try_for_each(|&byte| writer.byte(byte))?;
        let sections = self.sections();
        writer.byte(sections)?;
        self.totals.encode(&mut writer)?;
        if sections & SECTION_LATENCY != 0 {
            self.latency.encode(&mut writer)?;
        }
        self.outputs.encode(&mut writer)?;
        let feature_count =
            u8::try_from(self.features.len()).expect("there are at most 64 features");
        writer.byte(feature_count)?;
        self.features.iter().try_for_each(|feature| feature.encode(&mut writer))?;
        Ok(writer.finish())
    }

    /// Reads a profile that takes all of `bytes`.
    ///
    /// # Errors
    /// Those of [`ErrorKind::Peer`](crate::ErrorKind::Peer).
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        if reader.byte()? != PROFILE_VERSION {
            return Err(Error::Version);
        }
        let spec_id = SpecId(reader.array()?);
        let sections = reader.byte()?;
        let totals = Counts::decode(&mut reader)?;
        let mut latency = LatencyHistogram::new();
        if sections & SECTION_LATENCY != 0 {
            latency = LatencyHistogram::decode(&mut reader)?;
            if latency.is_empty() {
                return Err(Error::Malformed);
            }
        }
        let outputs = O::decode(sections & !SECTION_LATENCY, &mut reader)?;
        let feature_count = reader.byte()?;
        let mut features = heapless::Vec::new();
        for _ in 0..feature_count {
            let feature = BinCounts::decode(&mut reader)?;
            features.push(feature).map_err(|_| Error::TooManyFeatures)?;
        }
        reader.end()?;
        Ok(Self { spec_id, totals, latency, outputs, features })
    }
}

#[cfg(test)]
mod tests;
