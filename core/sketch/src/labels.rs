//! What labels said about answers, which they do later than the window of the answers closes.
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 1 | [`LABELS_VERSION`] |
//! | 1 | 8 | spec id |
//! | 9 | n | labelled answers per bin of confidence, then those without one (17 counters) |
//! | | n | of these the correct ones (17 counters) |
//! | | n | for each bin with a labelled answer: the sum of their confidences (varint) |
//! | | n | answers per predicted class and true class, row by row (65 × 65 counters) |
//! | | n | errors: finite, of these cut off, not finite (3 counters) |
//! | | n | if there are finite errors: their sum (zigzag varint), the sums of their squares and sizes (varints) |
//!
//! Groups of counters are encoded as in a [`Profile`](crate::Profile). Sums of confidences are in units of 2⁻¹⁵,
//! those of errors in units of the [`ErrorSpec`].

use serde::{Deserialize, Serialize};

use crate::{
    BIN_COUNT_MAX, CLASS_COUNT_MAX, ConfidenceSpec, Error, Judged, SpecId,
    accuracy::calibration_error,
    codec::{Reader, VARINT_U64_BYTES_MAX, Writer},
    confidence::row_of,
    counts::Counts,
    moments::{Moments, UNITS_MAX},
};

/// The format version of labels that this build writes and reads.
pub const LABELS_VERSION: u8 = 1;

const CLASS_ROWS: usize = CLASS_COUNT_MAX + 1;
const CONFUSION_COUNT: usize = CLASS_ROWS * CLASS_ROWS;
/// The bins, and one for answers that came without a valid confidence.
const CONFIDENCE_COUNT: usize = BIN_COUNT_MAX + 1;

/// Confidences are summed in 2¹⁵ths: none is above 1.
const CONFIDENCE_UNIT: ErrorSpec = ErrorSpec { unit_exponent: -15 };

const SLOT_FINITE: usize = 0;
const SLOT_CUT: usize = 1;
const SLOT_NOT_FINITE: usize = 2;

/// In which unit a regression's errors are summed: 2 to the power of the exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorSpec {
    unit_exponent: i8,
}

impl ErrorSpec {
    /// A unit that keeps errors up to `bound` in the unit of the answers, and rounds them to less than
    /// 2⁻¹⁵ of it. Errors beyond are cut off there, and counted.
    ///
    /// # Errors
    /// [`Error::Guard`] if the bound is not between 2⁻⁸⁰ and 2¹⁰⁰.
    pub fn for_errors_up_to(bound: f32) -> Result<Self, Error> {
        let exponent = (bound.to_bits() >> 23).cast_signed() - 127;
        if !(-80..100).contains(&exponent) {
            return Err(Error::Guard);
        }
        // The largest unit that is needed: 2^(exponent + 1) are 2¹⁶ of them.
        i8::try_from(exponent - 15)
            .map(|unit_exponent| Self { unit_exponent })
            .map_err(|_| Error::Guard)
    }

    fn unit(self) -> f64 {
        f64::from_bits(((1023 + i64::from(self.unit_exponent)) as u64) << 52)
    }

    /// The units nearest to an error, and whether it had to be cut off; `None` if it is not finite.
    fn units(self, error: f32) -> Option<(i32, bool)> {
        let bits = error.to_bits();
        let exponent = (bits << 1 >> 24).cast_signed();
        if exponent == 255 {
            return None;
        }
        let mantissa = bits & 0x007f_ffff | 0x0080_0000;
        // The value is mantissa · 2^(exponent − 150); one bit more is kept for rounding.
        let shift = 150 - exponent + i32::from(self.unit_exponent) - 1;
        let halves = match u32::try_from(shift) {
            Ok(shift) => mantissa.unbounded_shr(shift),
            Err(_) => u32::MAX,
        };
        let units = halves / 2 + halves % 2;
        let cut = units.min(UNITS_MAX).cast_signed();
        Some((if bits >> 31 == 1 { -cut } else { cut }, units > UNITS_MAX))
    }
}

/// The labelled answers of a model, or of a slice of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelCounts {
    spec_id: SpecId,
    labelled: Counts<CONFIDENCE_COUNT>,
    correct: Counts<CONFIDENCE_COUNT>,
    confidence_sums: [u64; BIN_COUNT_MAX],
    confusion: Counts<CONFUSION_COUNT>,
    errors: Counts<3>,
    error_sums: Moments,
    // Like the other sums it may wrap around beyond 2³² errors; then the counters are full, and nobody reads it.
    error_sizes: u64,
}

impl LabelCounts {
    /// A buffer of this many bytes holds every encoded form.
    pub const ENCODED_BYTES_MAX: usize = 1
        + SpecId::BYTES
        + 2 * Counts::<CONFIDENCE_COUNT>::ENCODED_BYTES_MAX
        + (BIN_COUNT_MAX + 1) * VARINT_U64_BYTES_MAX
        + Counts::<CONFUSION_COUNT>::ENCODED_BYTES_MAX
        + Counts::<3>::ENCODED_BYTES_MAX
        + Moments::ENCODED_BYTES_MAX;

    /// No label yet, for answers that are counted with the named spec.
    pub const fn new(spec_id: SpecId) -> Self {
        Self {
            spec_id,
            labelled: Counts::new(),
            correct: Counts::new(),
            confidence_sums: [0; BIN_COUNT_MAX],
            confusion: Counts::new(),
            errors: Counts::new(),
            error_sums: Moments::new(),
            error_sizes: 0,
        }
    }

    /// Counts the label of a classified sample. `confidence` is the answer's, with the spec of its bins.
    pub fn observe_class(
        &mut self,
        predicted: u32,
        truth: u32,
        confidence: Option<(&ConfidenceSpec, f32)>,
    ) {
        let bin = confidence
            .and_then(|(spec, confidence)| spec.bin(confidence).map(|bin| (bin, confidence)));
        if let Some((bin, confidence)) = bin {
            let (units, _) = CONFIDENCE_UNIT.units(confidence).unwrap_or_default();
            let sum = &mut self.confidence_sums[bin];
            *sum = sum.wrapping_add(units.unsigned_abs().into());
        }
        let slot = bin.map_or(BIN_COUNT_MAX, |(bin, _)| bin);
        self.labelled.increment(slot);
        if predicted == truth {
            self.correct.increment(slot);
        }
        self.confusion.increment(row_of(predicted) * CLASS_ROWS + row_of(truth));
    }

    /// Counts the error of an answer that is a number: the answer less the label.
    pub fn observe_error(&mut self, spec: ErrorSpec, error: f32) {
        match spec.units(error) {
            Some((units, is_cut)) => {
                self.errors.increment(SLOT_FINITE);
                self.errors.add(SLOT_CUT, u32::from(is_cut));
                self.error_sums.add(units);
                self.error_sizes = self.error_sizes.wrapping_add(units.unsigned_abs().into());
            }
            None => self.errors.increment(SLOT_NOT_FINITE),
        }
    }

    /// Adds what `other` counted.
    ///
    /// # Errors
    /// [`Error::SpecMismatch`]; then nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if self.spec_id != other.spec_id {
            return Err(Error::SpecMismatch);
        }
        self.labelled.merge(&other.labelled);
        self.correct.merge(&other.correct);
        for (sum, more) in self.confidence_sums.iter_mut().zip(other.confidence_sums) {
            *sum = sum.wrapping_add(more);
        }
        self.confusion.merge(&other.confusion);
        self.errors.merge(&other.errors);
        self.error_sums.merge(&other.error_sums);
        self.error_sizes = self.error_sizes.wrapping_add(other.error_sizes);
        Ok(())
    }

    /// The spec that the answers were counted with.
    pub const fn spec_id(&self) -> SpecId {
        self.spec_id
    }

    /// Labelled answers per bin of confidence, and last those that had none.
    pub const fn labelled(&self) -> &[u32] {
        self.labelled.counters()
    }

    /// Correct answers per bin of confidence, and last those that had none.
    pub const fn correct(&self) -> &[u32] {
        self.correct.counters()
    }

    /// How often `truth` was answered with `predicted`; classes from [`CLASS_COUNT_MAX`] on are one.
    pub fn confusion(&self, predicted: u32, truth: u32) -> u32 {
        self.confusion.counters()[row_of(predicted) * CLASS_ROWS + row_of(truth)]
    }

    /// The share of correct answers, 0 to 1.
    pub fn accuracy(&self) -> Option<f64> {
        share(self.correct.total(), self.labelled.total())
    }

    /// Of the answers `class`, the share that was right.
    ///
    /// Of classes from [`CLASS_COUNT_MAX`] on nothing is known one by one: `None`, here and below.
    pub fn precision(&self, class: u32) -> Option<f64> {
        self.share_of_hits(class, |other| self.confusion(class, other))
    }

    /// Of the samples of `class`, the share that was found.
    pub fn recall(&self, class: u32) -> Option<f64> {
        self.share_of_hits(class, |other| self.confusion(other, class))
    }

    /// The harmonic mean of precision and recall; `None` if the class neither is nor is answered.
    pub fn f1(&self, class: u32) -> Option<f64> {
        let hits = u64::from(self.confusion(class, class));
        let answered = self.sum_of(|other| self.confusion(class, other));
        let there = self.sum_of(|other| self.confusion(other, class));
        self.is_known(class).then(|| share(2 * hits, answered + there)).flatten()
    }

    /// The mean of F1 over the classes that are or were answered; `None` if none is known.
    pub fn macro_f1(&self) -> Option<f64> {
        let classes = (0..CLASS_COUNT_MAX as u32).filter_map(|class| self.f1(class));
        let (sum, count) = classes.fold((0.0, 0.0), |(sum, count), f1| (sum + f1, count + 1.0));
        (count > 0.0).then(|| sum / count)
    }

    /// The expected calibration error of the answers that came with a confidence, 0 to 1: in each bin, how far the
    /// share of right answers is from the mean confidence.
    pub fn calibration_error(&self) -> Option<f64> {
        let mut judged = [Judged::default(); BIN_COUNT_MAX];
        let mut confidences = [0.0; BIN_COUNT_MAX];
        let counts = self.labelled().iter().zip(self.correct()).zip(self.confidence_sums);
        for (bin, ((&total, &correct), sum)) in counts.take(BIN_COUNT_MAX).enumerate() {
            judged[bin] = Judged { total, correct };
            confidences[bin] =
                (sum as f64 * CONFIDENCE_UNIT.unit() / f64::from(total.max(1))) as f32;
        }
        (!self.saturated()).then(|| calibration_error(&judged, &confidences)).flatten()
    }

    /// Errors that are finite numbers.
    pub const fn errors(&self) -> u32 {
        self.errors.counters()[SLOT_FINITE]
    }

    /// Errors that were beyond the spec's bound: the mean squared error is higher than it reads.
    pub const fn errors_cut(&self) -> u32 {
        self.errors.counters()[SLOT_CUT]
    }

    /// Errors that were infinite or no number, and are in no sum.
    pub const fn errors_not_finite(&self) -> u32 {
        self.errors.counters()[SLOT_NOT_FINITE]
    }

    /// The mean error, in the unit of the answers.
    pub fn mean_error(&self, spec: ErrorSpec) -> Option<f64> {
        let mean = self.error_sums.mean(self.errors().into())?;
        (!self.saturated()).then_some(mean * spec.unit())
    }

    /// The mean squared error, in the squared unit of the answers.
    pub fn mean_squared_error(&self, spec: ErrorSpec) -> Option<f64> {
        let squares = self.error_sums.squares as f64 * spec.unit() * spec.unit();
        let is_right = self.errors() > 0 && !self.saturated();
        is_right.then(|| squares / f64::from(self.errors()))
    }

    /// The mean of the errors' sizes, in the unit of the answers.
    pub fn mean_absolute_error(&self, spec: ErrorSpec) -> Option<f64> {
        let is_right = self.errors() > 0 && !self.saturated();
        is_right.then(|| self.error_sizes as f64 * spec.unit() / f64::from(self.errors()))
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.labelled.total() + self.errors.total() == 0
    }

    /// Whether any counter stands at `u32::MAX` for a higher number.
    pub const fn saturated(&self) -> bool {
        self.labelled.saturated()
            || self.correct.saturated()
            || self.confusion.saturated()
            || self.errors.saturated()
    }

    fn is_known(&self, class: u32) -> bool {
        row_of(class) < CLASS_COUNT_MAX
    }

    fn sum_of(&self, count: impl Fn(u32) -> u32) -> u64 {
        (0..=CLASS_COUNT_MAX as u32).map(|class| u64::from(count(class))).sum()
    }

    fn share_of_hits(&self, class: u32, count: impl Fn(u32) -> u32) -> Option<f64> {
        let all = self.sum_of(count);
        let hits = u64::from(self.confusion(class, class));
        self.is_known(class).then(|| share(hits, all)).flatten()
    }

    /// Writes the counts and returns the part of `buffer` that they take.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`]; [`ENCODED_BYTES_MAX`](Self::ENCODED_BYTES_MAX) bytes are always enough.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        let mut writer = Writer::new(buffer);
        writer.byte(LABELS_VERSION)?;
        self.spec_id.0.iter().try_for_each(|&byte| writer.byte(byte))?;
        self.labelled.encode(&mut writer)?;
        self.correct.encode(&mut writer)?;
        for (&sum, &count) in self.confidence_sums.iter().zip(self.labelled()) {
            if count > 0 {
                writer.varint_u64(sum)?;
            }
        }
        self.confusion.encode(&mut writer)?;
        self.errors.encode(&mut writer)?;
        if self.errors() > 0 {
            self.error_sums.encode(&mut writer)?;
            writer.varint_u64(self.error_sizes)?;
        }
        Ok(writer.finish())
    }

    /// Reads counts that take all of `bytes`.
    ///
    /// # Errors
    /// Those of [`ErrorKind::Peer`](crate::ErrorKind::Peer).
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        if reader.byte()? != LABELS_VERSION {
            return Err(Error::Version);
        }
        let mut read = Self::new(SpecId(reader.array()?));
        read.labelled = Counts::decode(&mut reader)?;
        read.correct = Counts::decode(&mut reader)?;
        for (sum, &count) in read.confidence_sums.iter_mut().zip(read.labelled.counters()) {
            if count > 0 {
                *sum = reader.varint_u64()?;
            }
        }
        read.confusion = Counts::decode(&mut reader)?;
        read.errors = Counts::decode(&mut reader)?;
        if read.errors() > 0 {
            read.error_sums = Moments::decode(&mut reader)?;
            read.error_sizes = reader.varint_u64()?;
        }
        reader.end()?;
        Ok(read)
    }
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

#[cfg(test)]
mod tests {
    use std::{boxed::Box, vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::confidence::tests::confidence_spec;

    const SPEC_ID: SpecId = SpecId(*b"selvedge");

    #[derive(Clone, Debug)]
    enum Label {
        Class { predicted: u32, truth: u32, confidence: Option<f32> },
        Error(f32),
    }

    fn error_spec() -> ErrorSpec {
        ErrorSpec::for_errors_up_to(10.0).expect("the bound is moderate")
    }

    fn label() -> impl Strategy<Value = Label> {
        let confidence = prop::option::of(-0.1..1.1f32);
        let class = prop_oneof![4 => 0..4u32, 1 => any::<u32>()];
        prop_oneof![
            (class.clone(), class, confidence).prop_map(|(predicted, truth, confidence)| {
                Label::Class { predicted, truth, confidence }
            }),
            prop_oneof![-20.0..20.0f32, any::<f32>()].prop_map(Label::Error),
        ]
    }

    fn counts_of(labels: &[Label]) -> Box<LabelCounts> {
        let (spec, mut counts) = (confidence_spec(), Box::new(LabelCounts::new(SPEC_ID)));
        for label in labels {
            match *label {
                Label::Class { predicted, truth, confidence } => {
                    let confidence = confidence.map(|confidence| (&spec, confidence));
                    counts.observe_class(predicted, truth, confidence);
                }
                Label::Error(error) => counts.observe_error(error_spec(), error),
            }
        }
        counts
    }

    fn merged(mut a: Box<LabelCounts>, b: &LabelCounts) -> Box<LabelCounts> {
        a.merge(b).expect("both have the same spec");
        a
    }

    fn encoded(counts: &LabelCounts) -> Vec<u8> {
        let mut buffer = vec![0; LabelCounts::ENCODED_BYTES_MAX];
        counts.encode(&mut buffer).expect("the buffer holds the longest form").to_vec()
    }

    #[test]
    fn accuracy_precision_recall_and_f1_are_those_of_the_confusion() {
        // Class 0: 3 hits, 1 missed, 2 wrongly claimed. Class 200 stands for all that share a row.
        let pairs = [(0, 0), (0, 0), (0, 0), (1, 0), (0, 1), (0, 200), (1, 1), (200, 201)];
        let mut counts = LabelCounts::new(SPEC_ID);
        for (predicted, truth) in pairs {
            counts.observe_class(predicted, truth, None);
        }
        assert_eq!(counts.accuracy(), Some(0.5));
        assert_eq!(counts.precision(0), Some(0.6));
        assert_eq!(counts.recall(0), Some(0.75));
        assert_eq!(counts.f1(0), Some(6.0 / 9.0));
        let known = counts.f1(0).into_iter().chain(counts.f1(1));
        assert_eq!(counts.macro_f1(), Some(known.sum::<f64>() / 2.0));
        assert_eq!((counts.precision(2), counts.recall(2), counts.f1(2)), (None, None, None));
        assert_eq!((counts.precision(200), counts.recall(201), counts.f1(64)), (None, None, None));
        assert_eq!((counts.confusion(200, 201), counts.confusion(64, 65)), (1, 1));
        assert_eq!(counts.labelled()[BIN_COUNT_MAX], 8);
        assert_eq!(LabelCounts::new(SPEC_ID).accuracy(), None);
    }

    #[test]
    fn a_confidence_that_is_too_high_is_a_calibration_error() {
        let (spec, mut counts) = (confidence_spec(), LabelCounts::new(SPEC_ID));
        // Two bins of four answers: mean confidences 0.5 and 0.953125, of which 1 and 4 are right.
        for (number, confidence) in [(0, 0.5), (1, 0.5), (2, 0.5), (3, 0.5)] {
            counts.observe_class(number, 0, Some((&spec, confidence)));
            counts.observe_class(1, 1, Some((&spec, 0.953_125)));
        }
        counts.observe_class(1, 0, None);
        let expected = (f64::abs(1.0 - 2.0) + (4.0 - 4.0 * 0.953_125)) / 8.0;
        assert_eq!(counts.calibration_error(), Some(expected));
        assert_eq!(LabelCounts::new(SPEC_ID).calibration_error(), None);
    }

    #[test]
    fn errors_are_summed_up_to_their_bound() {
        let mut counts = LabelCounts::new(SPEC_ID);
        for error in [3.0, -1.0, 0.0, -0.0, 1e-30, f32::NAN, f32::NEG_INFINITY] {
            counts.observe_error(error_spec(), error);
        }
        assert_eq!(counts.mean_error(error_spec()), Some(0.4));
        assert_eq!(counts.mean_squared_error(error_spec()), Some(2.0));
        assert_eq!(counts.mean_absolute_error(error_spec()), Some(0.8));
        assert_eq!((counts.errors(), counts.errors_cut(), counts.errors_not_finite()), (5, 0, 2));
        counts.observe_error(error_spec(), f32::MAX);
        assert_eq!(counts.errors_cut(), 1);
        for bound in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-30, 1e31] {
            assert_eq!(ErrorSpec::for_errors_up_to(bound), Err(Error::Guard), "{bound}");
        }
    }

    #[test]
    fn labels_of_another_spec_or_version_are_refused() {
        let mut counts = counts_of(&[Label::Error(1.0)]);
        let before = counts.clone();
        let other = LabelCounts::new(SpecId(*b"another1"));
        assert_eq!(counts.merge(&other), Err(Error::SpecMismatch));
        assert_eq!(counts, before);
        let mut bytes = encoded(&counts);
        bytes[0] = LABELS_VERSION + 1;
        assert_eq!(LabelCounts::decode(&bytes), Err(Error::Version));
    }

    proptest! {
        #[test]
        fn an_error_is_within_half_a_unit_of_its_fixed_point(error in -10.0..10.0f32) {
            let mut counts = LabelCounts::new(SPEC_ID);
            counts.observe_error(error_spec(), error);
            let read = counts.mean_error(error_spec()).expect("one error");
            prop_assert!((read - f64::from(error)).abs() <= error_spec().unit() / 2.0, "{read}");
            prop_assert_eq!(counts.errors_cut(), 0);
        }

        #[test]
        fn merging_labels_is_a_commutative_monoid(
            parts in prop::array::uniform3(prop::collection::vec(label(), 0..12)),
        ) {
            let [a, b, c] = parts.clone().map(|part| counts_of(&part));
            prop_assert_eq!(
                merged(merged(a.clone(), &b), &c),
                merged(a.clone(), &merged(b.clone(), &c))
            );
            prop_assert_eq!(merged(a.clone(), &b), merged(b, &a));
            prop_assert_eq!(merged(a.clone(), &LabelCounts::new(SPEC_ID)), a);
            let whole = counts_of(&parts.concat());
            let received = parts.iter().map(|part| LabelCounts::decode(&encoded(&counts_of(part))));
            let sum = received.fold(Box::new(LabelCounts::new(SPEC_ID)), |sum, part| {
                merged(sum, &part.expect("it was just encoded"))
            });
            prop_assert_eq!(encoded(&sum), encoded(&whole));
        }

        #[test]
        fn labels_come_back_as_they_were_written(labels in prop::collection::vec(label(), 0..20)) {
            let counts = counts_of(&labels);
            let bytes = encoded(&counts);
            prop_assert_eq!(LabelCounts::decode(&bytes).map(Box::new), Ok(counts.clone()));
            for len_bytes in 0..bytes.len() {
                prop_assert_eq!(LabelCounts::decode(&bytes[..len_bytes]), Err(Error::Truncated));
            }
            prop_assert_eq!(counts.is_empty(), labels.is_empty());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let bytes = [&[LABELS_VERSION], &bytes[..]].concat();
            if let Ok(counts) = LabelCounts::decode(&bytes) {
                prop_assert_eq!(encoded(&counts), bytes);
            }
        }
    }
}
