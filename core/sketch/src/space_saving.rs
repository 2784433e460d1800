//! Space-saving: the most frequent items among many, in sixteen counters.
//!
//! Method: Metwally, Agrawal, El Abbadi 2005; the merge is that of Agarwal, Cormode, Huang, Phillips,
//! Wei, Yi, "Mergeable summaries" (2012). An item without a counter takes over the lowest one, and what
//! that one had counted becomes the item's possible error.
//!
//! What is guaranteed, after any updates and merges: an item of count `c` and error `e` occurred at least
//! `c − e` and at most `c` times; any other item occurred at most [`SpaceSaving::untracked_max`] times,
//! which is at most a sixteenth of all. Merging two sketches commutes but is *not* associative: the
//! counters depend on the grouping, the guarantee does not.
//!
//! Encoded as varints: the total; the number of items × 2, + 1 if saturated; then per item, in the order
//! of falling counts, the high and the low half of the item, its count and its error.

use core::cmp::Reverse;

use crate::{
    Error,
    codec::{Reader, VARINT_BYTES_MAX, Writer},
};

/// How many items have a counter.
pub const SPACE_SAVING_ITEMS: usize = 16;

/// An item that may be frequent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrequentItem {
    /// The item, or a hash of it.
    pub item: u64,
    /// At most this often it occurred.
    pub count: u32,
    /// It occurred at least `count − error` times.
    pub error: u32,
}

/// Counters of the most frequent items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceSaving {
    /// By falling count, then rising item; equal contents have equal bytes.
    items: heapless::Vec<FrequentItem, SPACE_SAVING_ITEMS>,
    total: u32,
    saturated: bool,
}

impl SpaceSaving {
    /// The longest encoded form.
    pub const ENCODED_BYTES_MAX: usize = VARINT_BYTES_MAX * (1 + 4 * SPACE_SAVING_ITEMS) + 1;

    /// Nothing counted.
    pub const fn new() -> Self {
        Self { items: heapless::Vec::new(), total: 0, saturated: false }
    }

    /// Counts an occurrence of `item`. After 2³² − 1 of all items nothing more is counted, and the
    /// sketch is marked saturated.
    pub fn observe(&mut self, item: u64) {
        let Some(total) = self.total.checked_add(1) else {
            self.saturated = true;
            return;
        };
        self.total = total;
        let place = match self.items.iter().position(|held| held.item == item) {
            Some(place) => place,
            None => self.place_for(item),
        };
        self.items[place].count += 1;
        self.rise(place);
    }

    fn place_for(&mut self, item: u64) -> usize {
        let fresh = FrequentItem { item, count: 0, error: 0 };
        if self.items.push(fresh).is_err() {
            let lowest = self.untracked_max();
            self.items[SPACE_SAVING_ITEMS - 1] =
                FrequentItem { item, count: lowest, error: lowest };
        }
        self.items.len() - 1
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 && order(&self.items[place]) < order(&self.items[place - 1]) {
            self.items.swap(place, place - 1);
            place -= 1;
        }
    }

    /// Adds what `other` counted. An item that only one of them knows may have occurred in the other as
    /// often as its lowest counter says.
    pub fn merge(&mut self, other: &Self) {
        let (ours_max, others_max) = (self.untracked_max(), other.untracked_max());
        let mut all = heapless::Vec::<FrequentItem, { 2 * SPACE_SAVING_ITEMS }>::new();
        let find =
            |sketch: &Self, item| sketch.items.iter().find(|held| held.item == item).copied();
        let mut add = |item, ours: Option<FrequentItem>, theirs: Option<FrequentItem>| {
            let ours = ours.unwrap_or(FrequentItem { item, count: ours_max, error: ours_max });
            let theirs =
                theirs.unwrap_or(FrequentItem { item, count: others_max, error: others_max });
            let count = ours.count.saturating_add(theirs.count);
            // Saturated, the count is no longer an upper bound, but the lower one stays one.
            let error = ours.error.saturating_add(theirs.error).min(count);
            all.push(FrequentItem { item, count, error }).expect("two sketches have 32 items");
        };
        for &held in &self.items {
            add(held.item, Some(held), find(other, held.item));
        }
        for &held in other.items.iter().filter(|held| find(self, held.item).is_none()) {
            add(held.item, None, Some(held));
        }
        all.sort_unstable_by_key(order);
        all.truncate(SPACE_SAVING_ITEMS);
        self.items = heapless::Vec::from_slice(&all).expect("it was cut to 16 items");
        let (total, exceeded) = self.total.overflowing_add(other.total);
        self.total = if exceeded { u32::MAX } else { total };
        self.saturated |= other.saturated | exceeded;
    }

    /// The items, by falling count.
    pub fn items(&self) -> &[FrequentItem] {
        &self.items
    }

    /// An item without a counter occurred at most this often.
    pub fn untracked_max(&self) -> u32 {
        match self.items.last() {
            Some(lowest) if self.items.is_full() => lowest.count,
            _ => 0,
        }
    }

    /// All occurrences.
    pub const fn total(&self) -> u32 {
        self.total
    }

    /// Whether there were more than `u32::MAX` occurrences; the upper bounds then do not hold.
    pub const fn saturated(&self) -> bool {
        self.saturated
    }

    /// Writes the counters in their one form.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`]; [`ENCODED_BYTES_MAX`](Self::ENCODED_BYTES_MAX) always suffices.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        let mut writer = Writer::new(buffer);
        let item_count = u32::try_from(self.items.len()).expect("there are at most 16 items");
        writer.varint(self.total)?;
        writer.varint(item_count << 1 | u32::from(self.saturated))?;
        for held in &self.items {
            writer.varint((held.item >> 32) as u32)?;
            writer.varint(held.item as u32)?;
            writer.varint(held.count)?;
            writer.varint(held.error)?;
        }
        Ok(writer.finish())
    }

    /// Reads counters.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Malformed`], [`Error::TrailingBytes`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let mut sketch = Self::new();
        sketch.total = reader.varint()?;
        let head = reader.varint()?;
        sketch.saturated = head & 1 == 1;
        for _ in 0..head >> 1 {
            let item = u64::from(reader.varint()?) << 32 | u64::from(reader.varint()?);
            let held = FrequentItem { item, count: reader.varint()?, error: reader.varint()? };
            let follows = sketch.items.last().is_none_or(|last| order(last) < order(&held));
            let repeats = sketch.items.iter().any(|other| other.item == item);
            if !follows || repeats || held.count == 0 || held.error > held.count {
                return Err(Error::Malformed);
            }
            sketch.items.push(held).map_err(|_| Error::Malformed)?;
        }
        reader.end()?;
        let sum: u64 = sketch.items.iter().map(|held| u64::from(held.count)).sum();
        let possible = if sketch.saturated {
            sketch.total == u32::MAX
        } else {
            // As long as there is room, every occurrence is counted.
            sum == u64::from(sketch.total)
                || (sum < u64::from(sketch.total) && sketch.items.is_full())
        };
        if possible { Ok(sketch) } else { Err(Error::Malformed) }
    }
}

impl Default for SpaceSaving {
    fn default() -> Self {
        Self::new()
    }
}

fn order(held: &FrequentItem) -> (Reverse<u32>, u64) {
    (Reverse(held.count), held.item)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    fn sketch(items: &[u64]) -> SpaceSaving {
        let mut sketch = SpaceSaving::new();
        items.iter().for_each(|&item| sketch.observe(item));
        sketch
    }

    fn merged(a: &SpaceSaving, b: &SpaceSaving) -> SpaceSaving {
        let mut sum = a.clone();
        sum.merge(b);
        sum
    }

    fn encoded(sketch: &SpaceSaving) -> Vec<u8> {
        let mut buffer = [0; SpaceSaving::ENCODED_BYTES_MAX];
        sketch.encode(&mut buffer).expect("the buffer holds the longest form").to_vec()
    }

    /// Items of which low ones are frequent and high ones rare, more than there are counters.
    fn items() -> impl Strategy<Value = Vec<u64>> {
        let item = (0..60_u64, 0..60_u64).prop_map(|(a, b)| a.min(b));
        prop::collection::vec(item, 0..400)
    }

    /// The guarantee at the top of this file, word by word.
    fn holds(sketch: &SpaceSaving, items: &[u64]) -> Result<(), TestCaseError> {
        let mut exact = BTreeMap::<u64, u32>::new();
        items.iter().for_each(|&item| *exact.entry(item).or_default() += 1);
        prop_assert_eq!(sketch.total() as usize, items.len());
        prop_assert!(sketch.untracked_max() as usize * SPACE_SAVING_ITEMS <= items.len());
        for held in sketch.items() {
            let count = exact.remove(&held.item).unwrap_or(0);
            prop_assert!(
                held.count - held.error <= count && count <= held.count,
                "{held:?} {count}"
            );
        }
        for (item, count) in exact {
            prop_assert!(count <= sketch.untracked_max(), "{item} {count}");
        }
        Ok(())
    }

    #[test]
    fn few_items_are_counted_exactly() {
        let sketch = sketch(&[7, 9, 7, 7, 9, 1]);
        let counts: Vec<_> = sketch.items().iter().map(|held| (held.item, held.count)).collect();
        assert_eq!(counts, [(7, 3), (9, 2), (1, 1)]);
        assert_eq!(sketch.untracked_max(), 0);
    }

    #[test]
    fn a_full_total_stands_still_and_says_so() {
        let full = SpaceSaving {
            items: heapless::Vec::from_slice(&[FrequentItem {
                item: 1,
                count: u32::MAX,
                error: 0,
            }])
            .expect("one item fits"),
            total: u32::MAX,
            saturated: false,
        };
        let mut more = full.clone();
        more.observe(2);
        assert_eq!((more.items(), more.saturated()), (full.items(), true));
        assert!(merged(&full, &full).saturated());
    }

    proptest! {
        #[test]
        fn bounds_hold_after_updates(items in items()) {
            holds(&sketch(&items), &items)?;
        }

        #[test]
        fn bounds_hold_after_merges_in_any_grouping(
            parts in prop::collection::vec(items(), 2..6), more in items(),
        ) {
            let mut sketches: Vec<SpaceSaving> = parts.iter().map(|part| sketch(part)).collect();
            // By pairs, and from left to right.
            let fold = sketches.iter().skip(1).fold(sketches[0].clone(), |sum, part| merged(&sum, part));
            while sketches.len() > 1 {
                sketches = sketches
                    .chunks(2)
                    .map(|pair| pair.get(1).map_or(pair[0].clone(), |second| merged(&pair[0], second)))
                    .collect();
            }
            let all = [parts.concat(), more.clone()].concat();
            for mut sum in [fold, sketches.remove(0)] {
                more.iter().for_each(|&item| sum.observe(item));
                holds(&sum, &all)?;
            }
        }

        #[test]
        fn merging_commutes(a in items(), b in items()) {
            let (a, b) = (sketch(&a), sketch(&b));
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        }

        #[test]
        fn counters_come_back_as_they_were_written(a in items(), b in items()) {
            let sketch = merged(&sketch(&a), &sketch(&b));
            prop_assert_eq!(SpaceSaving::decode(&encoded(&sketch)), Ok(sketch));
        }

        #[test]
        fn whatever_is_read_has_only_the_bytes_it_was_read_from(
            bytes in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..16)
        ) {
            if let Ok(sketch) = SpaceSaving::decode(&bytes) {
                prop_assert_eq!(bytes, encoded(&sketch));
            }
        }
    }
}
