//! Which sequence numbers of one stream are stored.
//!
//! A set of numbers from 1, kept as sorted, disjoint ranges that do not touch. Records may arrive in
//! any order and any number of times; each number is new exactly once.

/// A set of sequence numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceRanges {
    /// Sorted, disjoint, and with at least one number missing between neighbours.
    ranges: Vec<Span>,
}

/// Consecutive sequence numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
}

/// The set would fall into more ranges than [`SequenceRanges::RANGES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRanges;

impl SequenceRanges {
    /// How many ranges one set may have: a sender with more holes than that must fill some first.
    pub const RANGES_MAX: usize = 256;

    /// The set of all numbers in `spans`, which may overlap and come in any order.
    pub fn from_spans(spans: impl IntoIterator<Item = Span>) -> Result<Self, TooManyRanges> {
        let mut set = Self::default();
        spans.into_iter().try_for_each(|span| set.insert(span).map(drop)).map(|()| set)
    }

    /// Adds the numbers of `span` and returns how many of them are new.
    ///
    /// # Errors
    /// [`TooManyRanges`]; then the set is as it was.
    pub fn insert(&mut self, span: Span) -> Result<u64, TooManyRanges> {
        assert!(1 <= span.first && span.first <= span.last, "sequence numbers begin at 1");
        // The ranges that overlap `span` or touch it become one with it.
        let begin = self.ranges.partition_point(|range| range.last < span.first - 1);
        let end = self.ranges.partition_point(|range| range.first <= span.last.saturating_add(1));
        let joined = &self.ranges[begin..end];
        if joined.is_empty() && self.ranges.len() == Self::RANGES_MAX {
            return Err(TooManyRanges);
        }
        let known: u64 = joined.iter().map(|range| overlap(*range, span)).sum();
        let first = joined.first().map_or(span.first, |range| range.first.min(span.first));
        let last = joined.last().map_or(span.last, |range| range.last.max(span.last));
        self.ranges.splice(begin..end, [Span { first, last }]);
        Ok(span.last - span.first + 1 - known)
    }

    /// The largest number up to which all are in the set; 0 if 1 is not.
    pub fn through(&self) -> u64 {
        self.ranges.first().filter(|range| range.first == 1).map_or(0, |range| range.last)
    }

    /// How many numbers below the largest one are not in the set.
    pub fn missing(&self) -> u64 {
        let stored: u64 = self.ranges.iter().map(|range| range.last - range.first + 1).sum();
        self.ranges.last().map_or(0, |range| range.last) - stored
    }

    /// The ranges, in order.
    pub fn spans(&self) -> &[Span] {
        &self.ranges
    }
}

fn overlap(a: Span, b: Span) -> u64 {
    (a.last.min(b.last) + 1).saturating_sub(a.first.max(b.first))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn span(first: u64, len: u64) -> Span {
        Span { first, last: first + len - 1 }
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_plain_set(
            spans in proptest::collection::vec((1u64..200, 1u64..20), 0..60)
        ) {
            let mut ranges = SequenceRanges::default();
            let mut model = BTreeSet::new();
            for (first, len) in spans {
                let fresh = (first..first + len).filter(|number| model.insert(*number)).count();
                prop_assert_eq!(ranges.insert(span(first, len)), Ok(fresh as u64));
                let through = (1..).take_while(|number| model.contains(number)).count() as u64;
                prop_assert_eq!(ranges.through(), through);
                let largest = model.last().copied().unwrap_or(0);
                prop_assert_eq!(ranges.missing(), largest - model.len() as u64);
                prop_assert!(
                    ranges.spans().windows(2).all(|pair| pair[0].last + 1 < pair[1].first),
                    "ranges are sorted and do not touch: {:?}", ranges
                );
            }
            let again = SequenceRanges::from_spans(ranges.spans().iter().rev().copied());
            prop_assert_eq!(again, Ok(ranges));
        }
    }

    #[test]
    fn a_sender_with_too_many_holes_must_fill_some_first() {
        let holes = (0..SequenceRanges::RANGES_MAX as u64).map(|i| span(2 + 2 * i, 1));
        let mut ranges = SequenceRanges::from_spans(holes).expect("the limit is not passed");
        let before = ranges.clone();
        assert_eq!(ranges.insert(span(100_000, 1)), Err(TooManyRanges));
        assert_eq!(ranges, before);
        assert_eq!(ranges.insert(span(1, 5)), Ok(3), "what joins ranges is taken");
        assert_eq!(ranges.insert(span(100_000, 1)), Ok(1));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut ranges = SequenceRanges::default();
        assert_eq!(ranges.insert(Span { first: 2, last: u64::MAX }), Ok(u64::MAX - 1));
        assert_eq!(ranges.missing(), 1);
        assert_eq!(ranges.insert(span(1, 1)), Ok(1));
        assert_eq!(ranges.through(), u64::MAX);
    }
}
