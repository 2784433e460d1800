//! An exact histogram of 8-bit codes: one counter for each.
//!
//! Counting is a load, an addition and a store. When a window closes, the histogram is folded into the
//! bins of a spec for codes, and gives the counts and sums that counting each code there would have given.

use crate::{
    BinCounts, BinSpec, Error,
    codec::{Reader, Writer},
    counts::Counts,
};

/// The number of codes.
pub const CODE_COUNT: usize = 256;

/// The place of code 0 of an `i8`.
const SIGN: u8 = 0x80;

/// How often each code came. A histogram holds the codes of `i8` or of `u8`, not of both.
///
/// As bytes, a run of counters like every group of counters in a [`Profile`](crate::Profile), in the
/// order of the codes, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeHistogram(Counts<CODE_COUNT>);

impl CodeHistogram {
    /// A buffer of this many bytes holds every encoded histogram.
    pub const ENCODED_BYTES_MAX: usize = Counts::<CODE_COUNT>::ENCODED_BYTES_MAX;

    /// Nothing counted.
    pub const fn new() -> Self {
        Self(Counts::new())
    }

    /// Counts a code of an `i8` tensor.
    #[inline]
    pub fn observe_i8(&mut self, code: i8) {
        self.observe_u8(code.cast_unsigned() ^ SIGN);
    }

    /// Counts a code of a `u8` tensor.
    #[inline]
    pub fn observe_u8(&mut self, code: u8) {
        self.0.increment(usize::from(code));
    }

    /// Adds what `other` counted of the same type of tensor.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The counts of `i8` codes in the bins of `spec`, whose keys are codes: the bins of a float feature
    /// with a grid have one ([`BinSpec::codes`]).
    pub fn fold_i8(&self, spec: &BinSpec) -> BinCounts {
        self.fold(spec, i32::from(i8::MIN))
    }

    /// As [`fold_i8`](Self::fold_i8), of `u8` codes.
    pub fn fold_u8(&self, spec: &BinSpec) -> BinCounts {
        self.fold(spec, 0)
    }

    fn fold(&self, spec: &BinSpec, code_first: i32) -> BinCounts {
        let mut bins = BinCounts::new();
        for (code, &count) in (code_first..).zip(self.0.counters()) {
            if count > 0 {
                bins.observe_many(spec, code, count);
            }
        }
        if self.0.saturated() {
            bins.mark_saturated();
        }
        bins
    }

    /// The counts, from the lowest code on.
    pub const fn counts(&self) -> &[u32; CODE_COUNT] {
        self.0.counters()
    }

    /// All codes that were counted.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// Whether a counter stands at `u32::MAX` for a higher number.
    pub const fn saturated(&self) -> bool {
        self.0.saturated()
    }

    /// Writes the histogram and returns the part of `buffer` that it takes.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`].
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        let mut writer = Writer::new(buffer);
        self.0.encode(&mut writer)?;
        Ok(writer.finish())
    }

    /// Reads a histogram that takes all of `bytes`.
    ///
    /// # Errors
    /// Those of [`ErrorKind::Peer`](crate::ErrorKind::Peer).
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let counts = Counts::decode(&mut reader)?;
        reader.end()?;
        Ok(Self(counts))
    }
}

impl Default for CodeHistogram {
    fn default() -> Self {
        Self::new()
    }
}
