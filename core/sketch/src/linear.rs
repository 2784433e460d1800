//! Sums of vectors: an embedding's, or those of random Fourier features. Linear, so exactly mergeable.

use crate::{
    Error,
    codec::{Reader, VARINT_BYTES_MAX, VARINT_U64_BYTES_MAX, Writer},
    counts::Counts,
};

/// The most places that a vector has.
pub const DIMENSION_MAX: usize = 128;

/// The sum of vectors of one length, and their number.
///
/// As bytes: the vectors' length (varint), their number (one counter, as in every group of counters),
/// and per place its sum (zigzag varint of an `i64`). Sums of more than 2³² vectors may have wrapped
/// around; the number of vectors is saturated then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearSums {
    // Places from the vectors' length on hold 0.
    sums: [i64; DIMENSION_MAX],
    dimension: usize,
    vectors: Counts<1>,
}

impl LinearSums {
    pub(crate) const ENCODED_BYTES_MAX: usize =
        VARINT_BYTES_MAX + Counts::<1>::ENCODED_BYTES_MAX + DIMENSION_MAX * VARINT_U64_BYTES_MAX;

    /// Nothing summed.
    pub const fn new() -> Self {
        Self { sums: [0; DIMENSION_MAX], dimension: 0, vectors: Counts::new() }
    }

    /// Adds a vector: `[dimension]` codes of `i8` or `i16`, less their zero point, or cosines in fixed
    /// point as `i32`. The first one says how long all are.
    ///
    /// # Errors
    /// [`Error::Dimension`] if it is empty, longer than [`DIMENSION_MAX`] or not as long as the first;
    /// then nothing was added.
    pub fn observe<V: Copy + Into<i32>>(&mut self, vector: &[V]) -> Result<(), Error> {
        let is_first = self.vectors.is_empty();
        if vector.is_empty() || vector.len() > DIMENSION_MAX {
            return Err(Error::Dimension);
        }
        if !is_first && vector.len() != self.dimension {
            return Err(Error::Dimension);
        }
        self.dimension = vector.len();
        for (sum, &place) in self.sums.iter_mut().zip(vector) {
            *sum = sum.wrapping_add(i64::from(place.into()));
        }
        self.vectors.increment(0);
        Ok(())
    }

    pub(crate) fn fits(&self, other: &Self) -> bool {
        self.is_empty() || other.is_empty() || self.dimension == other.dimension
    }

    /// Adds what `other` summed.
    ///
    /// # Errors
    /// [`Error::SpecMismatch`] if its vectors have another length; then nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if !self.fits(other) {
            return Err(Error::SpecMismatch);
        }
        self.dimension = self.dimension.max(other.dimension);
        for (mine, theirs) in self.sums.iter_mut().zip(&other.sums) {
            *mine = mine.wrapping_add(*theirs);
        }
        self.vectors.merge(&other.vectors);
        Ok(())
    }

    /// The sum: one number per place of the vectors.
    pub fn sums(&self) -> &[i64] {
        &self.sums[..self.dimension]
    }

    /// How many vectors it is the sum of.
    pub const fn vectors(&self) -> u32 {
        self.vectors.counters()[0]
    }

    /// Whether there were more vectors than a `u32` counts. Then the sums mean nothing.
    pub const fn saturated(&self) -> bool {
        self.vectors.saturated()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let dimension = u32::try_from(self.dimension).expect("a vector has at most 128 places");
        writer.varint(dimension)?;
        self.vectors.encode(writer)?;
        self.sums().iter().try_for_each(|&sum| writer.signed(sum))
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut read = Self::new();
        read.dimension = reader.varint()? as usize;
        read.vectors = Counts::decode(reader)?;
        if !(1..=DIMENSION_MAX).contains(&read.dimension) || read.vectors() == 0 {
            return Err(Error::Malformed);
        }
        for sum in &mut read.sums[..read.dimension] {
            *sum = reader.signed()?;
        }
        Ok(read)
    }
}

impl Default for LinearSums {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_of_another_length_is_not_added() {
        let mut sums = LinearSums::new();
        assert_eq!(sums.observe::<i8>(&[]), Err(Error::Dimension));
        assert_eq!(sums.observe(&[0i32; DIMENSION_MAX + 1]), Err(Error::Dimension));
        assert_eq!(sums.observe(&[1i8, -2]), Ok(()));
        assert_eq!(sums.observe(&[1i16, -2, 3]), Err(Error::Dimension));
        assert_eq!(sums.observe(&[i32::MIN, i32::MAX]), Ok(()));
        assert_eq!(sums.sums(), [1 + i64::from(i32::MIN), i64::from(i32::MAX) - 2]);
        assert_eq!(sums.vectors(), 2);

        let mut other = LinearSums::new();
        other.observe(&[7i8]).expect("it is the first");
        let before = sums.clone();
        assert_eq!(sums.merge(&other), Err(Error::SpecMismatch));
        assert_eq!(sums, before);
    }
}
