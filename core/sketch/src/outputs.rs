//! What is counted of a model's answers, beside how long they took. A node has no model, and no room.

use crate::{
    BinCounts, ClassConfidence, ClassCounts, ConfidenceSpec, Error, LinearSums,
    codec::{Reader, Writer},
};

/// Whether a profile counts answers: [`OutputCounts`] or [`NoOutputs`]. No other type can do.
pub trait Outputs: Clone + Default + Eq + private::Sealed {}

/// Without answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoOutputs;

/// The answers of one window. Each part is counted where a model gives it, and takes no bytes where not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputCounts {
    pub(crate) classes: ClassCounts,
    pub(crate) confidence: BinCounts,
    pub(crate) class_confidence: ClassConfidence,
    pub(crate) embedding: LinearSums,
    pub(crate) random_features: LinearSums,
}

impl OutputCounts {
    /// Counts the class of an answer.
    pub fn observe_class(&mut self, class: u32) {
        self.classes.observe(class);
    }

    /// Counts how sure an answer was, and in the table too if its class is given.
    pub fn observe_confidence(
        &mut self,
        spec: &ConfidenceSpec,
        class: Option<u32>,
        confidence: f32,
    ) {
        self.confidence.observe_f32(spec.bins(), confidence);
        if let Some(class) = class {
            self.class_confidence.observe(spec, class, confidence);
        }
    }

    /// Adds a quantised embedding: `[dimension]` codes.
    ///
    /// # Errors
    /// [`Error::Dimension`], as [`LinearSums::observe`].
    pub fn observe_embedding<V: Copy + Into<i32>>(&mut self, embedding: &[V]) -> Result<(), Error> {
        self.embedding.observe(embedding)
    }

    /// Adds the random Fourier features of an embedding, `[dimension]` cosines in fixed point.
    ///
    /// # Errors
    /// [`Error::Dimension`], as [`LinearSums::observe`].
    pub fn observe_random_features<V: Copy + Into<i32>>(
        &mut self,
        features: &[V],
    ) -> Result<(), Error> {
        self.random_features.observe(features)
    }

    /// How often each class was the answer.
    pub const fn classes(&self) -> &ClassCounts {
        &self.classes
    }

    /// How sure the answers were, in the bins of the [`ConfidenceSpec`].
    pub const fn confidence(&self) -> &BinCounts {
        &self.confidence
    }

    /// How sure the answers of each class were.
    pub const fn class_confidence(&self) -> &ClassConfidence {
        &self.class_confidence
    }

    /// The sum of the embeddings.
    pub const fn embedding(&self) -> &LinearSums {
        &self.embedding
    }

    /// The sum of the embeddings' random Fourier features.
    pub const fn random_features(&self) -> &LinearSums {
        &self.random_features
    }

    /// The part that each bit of the sections' byte is for, from bit 1 on; bit 0 is the latency's.
    fn is_kept(&self) -> [bool; 5] {
        [
            !self.classes.is_empty(),
            !self.confidence.is_empty(),
            !self.class_confidence.is_empty(),
            !self.embedding.is_empty(),
            !self.random_features.is_empty(),
        ]
    }
}

impl Outputs for NoOutputs {}
impl Outputs for OutputCounts {}

pub(crate) mod private {
    use super::*;

    /// What a profile does with its outputs.
    pub trait Sealed {
        /// The longest encoded form, in bytes.
        const ENCODED_BYTES_MAX: usize;
        /// Whether the other's vectors are as long.
        fn fits(&self, other: &Self) -> bool;
        /// Adds the other, which fits.
        fn merge(&mut self, other: &Self);
        /// A bit per section that is not empty.
        fn sections(&self) -> u8;
        /// Whether any part is saturated.
        fn saturated(&self) -> bool;
        /// Writes the sections that are not empty.
        fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error>;
        /// Reads the given sections.
        fn decode(sections: u8, reader: &mut Reader<'_>) -> Result<Self, Error>
        where
            Self: Sized;
    }

    impl Sealed for NoOutputs {
        const ENCODED_BYTES_MAX: usize = 0;

        fn fits(&self, _: &Self) -> bool {
            true
        }

        fn merge(&mut self, _: &Self) {}

        fn sections(&self) -> u8 {
            0
        }

        fn saturated(&self) -> bool {
            false
        }

        fn encode(&self, _: &mut Writer<'_>) -> Result<(), Error> {
            Ok(())
        }

        fn decode(sections: u8, _: &mut Reader<'_>) -> Result<Self, Error> {
            if sections == 0 { Ok(Self) } else { Err(Error::OutputsUnexpected) }
        }
    }

    impl Sealed for OutputCounts {
        const ENCODED_BYTES_MAX: usize = ClassCounts::ENCODED_BYTES_MAX
            + BinCounts::ENCODED_BYTES_MAX
            + ClassConfidence::ENCODED_BYTES_MAX
            + 2 * LinearSums::ENCODED_BYTES_MAX;

        fn fits(&self, other: &Self) -> bool {
            self.embedding.fits(&other.embedding)
                && self.random_features.fits(&other.random_features)
        }

        fn merge(&mut self, other: &Self) {
            self.classes.merge(&other.classes);
            self.confidence.merge(&other.confidence);
            self.class_confidence.merge(&other.class_confidence);
            let sums = self.embedding.merge(&other.embedding);
            sums.and(self.random_features.merge(&other.random_features))
                .expect("whoever merges has asked whether they fit");
        }

        fn sections(&self) -> u8 {
            let bits = (1..).zip(self.is_kept());
            bits.fold(0, |sections, (bit, is_kept)| sections | u8::from(is_kept) << bit)
        }

        fn saturated(&self) -> bool {
            self.classes.saturated()
                || self.confidence.saturated()
                || self.class_confidence.saturated()
                || self.embedding.saturated()
                || self.random_features.saturated()
        }

        fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
            let [classes, confidence, class_confidence, embedding, random_features] =
                self.is_kept();
            if classes {
                self.classes.encode(writer)?;
            }
            if confidence {
                self.confidence.encode(writer)?;
            }
            if class_confidence {
                self.class_confidence.encode(writer)?;
            }
            if embedding {
                self.embedding.encode(writer)?;
            }
            if random_features {
                self.random_features.encode(writer)?;
            }
            Ok(())
        }

        fn decode(sections: u8, reader: &mut Reader<'_>) -> Result<Self, Error> {
            let is_kept = |bit: u8| sections >> bit & 1 == 1;
            let mut read = Self::default();
            if is_kept(1) {
                read.classes = ClassCounts::decode(reader)?;
            }
            if is_kept(2) {
                read.confidence = BinCounts::decode(reader)?;
            }
            if is_kept(3) {
                read.class_confidence = ClassConfidence::decode(reader)?;
            }
            if is_kept(4) {
                read.embedding = LinearSums::decode(reader)?;
            }
            if is_kept(5) {
                read.random_features = LinearSums::decode(reader)?;
            }
            // A section that is there has something in it, and there are no others.
            if read.sections() == sections { Ok(read) } else { Err(Error::Malformed) }
        }
    }
}
