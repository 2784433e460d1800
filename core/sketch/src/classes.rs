//! How often a model gave each class.

use crate::{
    Error,
    codec::{Reader, Writer},
    confidence::row_of,
    counts::Counts,
};

/// The classes that have a counter of their own; the rest share one.
pub const CLASS_COUNT_MAX: usize = 64;

const SLOT_OTHER: usize = CLASS_COUNT_MAX;
const SLOT_COUNT: usize = SLOT_OTHER + 1;

/// Answers per class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassCounts(Counts<SLOT_COUNT>);

impl ClassCounts {
    pub(crate) const ENCODED_BYTES_MAX: usize = Counts::<SLOT_COUNT>::ENCODED_BYTES_MAX;

    /// Nothing counted.
    pub const fn new() -> Self {
        Self(Counts::new())
    }

    /// Counts an answer.
    pub fn observe(&mut self, class: u32) {
        self.0.increment(row_of(class));
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The answers per class, by the index of the class.
    pub fn classes(&self) -> &[u32] {
        &self.0.counters()[..CLASS_COUNT_MAX]
    }

    /// The answers of classes from [`CLASS_COUNT_MAX`] on.
    pub const fn other(&self) -> u32 {
        self.0.counters()[SLOT_OTHER]
    }

    /// All answers.
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

impl Default for ClassCounts {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_beyond_the_last_counter_share_one() {
        let mut counts = ClassCounts::new();
        for class in [0, 63, 63, 64, 65, u32::MAX] {
            counts.observe(class);
        }
        assert_eq!((counts.classes()[0], counts.classes()[63], counts.other()), (1, 2, 3));
        assert_eq!(counts.total(), 6);
    }
}
