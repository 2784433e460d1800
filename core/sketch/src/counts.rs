//! A row of counters that saturate and add: what every summary of this crate is made of.
//!
//! Encoded as runs of counters that are not zero, all numbers as LEB128 varints:
//!
//! | part | repeated | meaning |
//! |---|---|---|
//! | head | once | number of runs × 2, + 1 if saturated |
//! | skip | per run | zeros before the run; 0 in the first run alone |
//! | length | per run | counters in the run, at least 1 |
//! | counter | `length` times | its value, at least 1 |
//!
//! The reader refuses every other form, so equal counters have equal bytes.

use crate::{
    Error,
    codec::{Reader, VARINT_BYTES_MAX, Writer},
};

/// `N` counters. The field says whether any of them would have exceeded `u32::MAX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts<const N: usize> {
    counters: [u32; N],
    saturated: bool,
}

impl<const N: usize> Counts<N> {
    /// The longest encoded form. A run costs at most 4 bytes and the zero that ends it saves 5, so
    /// one run of all counters is the longest, with 2 bytes for the head.
    pub(crate) const ENCODED_BYTES_MAX: usize = VARINT_BYTES_MAX * N + 6;

    pub(crate) const fn new() -> Self {
        // Skip, length and head take at most two bytes each up to here.
        const { assert!(N < 1 << 13) };
        Self { counters: [0; N], saturated: false }
    }

    #[inline]
    pub(crate) fn increment(&mut self, index: usize) {
        self.add(index, 1);
    }

    /// Adding unsigned numbers with saturation is associative and commutative, and so is the mark:
    /// it is set if and only if the exact sum exceeds `u32::MAX`, whatever the order.
    #[inline]
    pub(crate) fn add(&mut self, index: usize, count: u32) {
        match self.counters[index].checked_add(count) {
            Some(sum) => self.counters[index] = sum,
            None => self.saturate(index),
        }
    }

    #[cold]
    fn saturate(&mut self, index: usize) {
        self.counters[index] = u32::MAX;
        self.saturated = true;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (index, &count) in other.counters.iter().enumerate() {
            self.add(index, count);
        }
        self.saturated |= other.saturated;
    }

    pub(crate) const fn counters(&self) -> &[u32; N] {
        &self.counters
    }

    pub(crate) const fn mark_saturated(&mut self) {
        self.saturated = true;
    }

    pub(crate) const fn saturated(&self) -> bool {
        self.saturated
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.saturated && self.counters.iter().all(|&count| count == 0)
    }

    pub(crate) fn total(&self) -> u64 {
        self.counters.iter().map(|&count| u64::from(count)).sum()
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let is_same_run = |a: &u32, b: &u32| (*a == 0) == (*b == 0);
        let run_count = self.counters.chunk_by(is_same_run).filter(|run| run[0] != 0).count();
        writer.varint(short(run_count) << 1 | u32::from(self.saturated))?;
        let mut skip = 0;
        for run in self.counters.chunk_by(is_same_run) {
            if run[0] == 0 {
                skip = run.len();
                continue;
            }
            writer.varint(short(skip))?;
            writer.varint(short(run.len()))?;
            run.iter().try_for_each(|&count| writer.varint(count))?;
        }
        Ok(())
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut counts = Self::new();
        let head = reader.varint()?;
        counts.saturated = head & 1 == 1;
        let mut rest = &mut counts.counters[..];
        for run in 0..head >> 1 {
            let skip = reader.varint()? as usize;
            let len = reader.varint()? as usize;
            if len == 0 || (skip == 0 && run > 0) {
                return Err(Error::Malformed);
            }
            let (counters, behind) = rest
                .get_mut(skip..)
                .and_then(|at_run| at_run.split_at_mut_checked(len))
                .ok_or(Error::Malformed)?;
            for counter in counters {
                *counter = reader.varint()?;
                if *counter == 0 {
                    return Err(Error::Malformed);
                }
            }
            rest = behind;
        }
        Ok(counts)
    }
}

/// A number of counters: `new` has checked that they are few.
fn short(count: usize) -> u32 {
    u32::try_from(count).expect("there are fewer than 2¹³ counters")
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const N: usize = 9;
    type Few = Counts<N>;

    /// Counters around zero and around saturation.
    fn few() -> impl Strategy<Value = Few> {
        let counter = prop_oneof![3 => Just(0), 3 => 1..300u32, 1 => u32::MAX - 5..];
        (prop::array::uniform9(counter), prop::bool::weighted(0.1))
            .prop_map(|(counters, saturated)| Few { counters, saturated })
    }

    fn sum<'a>(parts: impl IntoIterator<Item = &'a Few>) -> Few {
        let mut sum = Few::new();
        parts.into_iter().for_each(|part| sum.merge(part));
        sum
    }

    fn encoded(counts: &Few) -> Vec<u8> {
        let mut buffer = [0; Few::ENCODED_BYTES_MAX];
        let mut writer = Writer::new(&mut buffer);
        counts.encode(&mut writer).expect("the buffer holds the longest form");
        writer.finish().to_vec()
    }

    #[test]
    fn the_longest_form_fits_its_bound_and_a_shorter_buffer_is_refused() {
        let full = Few { counters: [u32::MAX; N], saturated: true };
        let len_bytes = encoded(&full).len();
        assert!(len_bytes <= Few::ENCODED_BYTES_MAX, "{len_bytes}");
        for shorter in 0..len_bytes {
            let mut buffer = [0; Few::ENCODED_BYTES_MAX];
            let outcome = full.encode(&mut Writer::new(&mut buffer[..shorter]));
            assert_eq!(outcome, Err(Error::BufferTooShort), "{shorter}");
        }
    }

    proptest! {
        #[test]
        fn merging_is_associative(a in few(), b in few(), c in few()) {
            prop_assert_eq!(sum([&sum([&a, &b]), &c]), sum([&a, &sum([&b, &c])]));
        }

        #[test]
        fn merging_is_commutative(a in few(), b in few()) {
            prop_assert_eq!(sum([&a, &b]), sum([&b, &a]));
        }

        #[test]
        fn nothing_counted_is_the_identity(a in few()) {
            prop_assert_eq!(&sum([&a, &Few::new()]), &a);
            prop_assert_eq!(&sum([&Few::new(), &a]), &a);
        }

        #[test]
        fn counters_agree_with_wide_sums(parts in prop::collection::vec(few(), 0..8)) {
            let merged = sum(&parts);
            let mut exceeded = parts.iter().any(|part| part.saturated);
            for index in 0..N {
                let exact: u64 = parts.iter().map(|part| u64::from(part.counters[index])).sum();
                exceeded |= exact > u64::from(u32::MAX);
                prop_assert_eq!(u64::from(merged.counters[index]), exact.min(u32::MAX.into()));
            }
            prop_assert_eq!(merged.saturated, exceeded);
        }

        #[test]
        fn counters_come_back_as_they_were_written(counts in few()) {
            let bytes = encoded(&counts);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(Few::decode(&mut reader), Ok(counts));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn whatever_is_read_has_only_the_bytes_it_was_read_from(
            bytes in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..24)
        ) {
            let mut reader = Reader::new(&bytes);
            if let Ok(counts) = Few::decode(&mut reader) {
                prop_assert!(bytes.starts_with(&encoded(&counts)));
            }
        }
    }
}
