//! The KLL quantile sketch of `f32` values, in the compact byte format of Apache DataSketches.
//!
//! For exploring where there is no reference: it answers any quantile, with an error in rank. It is no
//! basis for decisions. Merging is approximate, its outcome depends on order and coin, and a test that
//! compares two sketches as if they were samples raises false alarms; counts in frozen bins do not.
//!
//! Method: Karnin, Lang, Liberty, "Optimal quantile approximation in streams" (2016), with the
//! capacities of Apache's implementations. A *level* holds items that each stand for 2^level values.
//! When the buffer is full, the lowest level that has reached its capacity is sorted and every other
//! item of it, from a coin's choice on, moves one level up.
//!
//! Bytes, little-endian:
//!
//! | offset | width | meaning |
//! |---|---|---|
//! | 0 | 1 | 4-byte words before the levels: 2 if there is at most one value, else 5 |
//! | 1 | 1 | version: 2 for a single value, else 1 |
//! | 2 | 1 | family, 15 |
//! | 3 | 1 | flags: 1 empty, 2 level 0 is sorted, 4 single value |
//! | 4 | 2 | k |
//! | 6 | 1 | m, the least capacity of a level: 8 |
//! | 7 | 1 | 0 |
//! | 8 | 4 | the value, if it is single; nothing follows |
//! | 8 | 8 | n, how many values there were |
//! | 16 | 2 | the least k of all sketches that were merged into this one |
//! | 18 | 1 | number of levels L |
//! | 19 | 1 | 0 |
//! | 20 | 4 L | where each level begins; the last one ends at the capacity of L levels |
//! | 20 + 4 L | 8 | the lowest and the highest value, `f32` |
//! | 28 + 4 L | 4 per item | the items, `f32`, level by level |

use crate::{
    Error, KEY_INFINITY,
    codec::{Reader, Writer},
    f32_from_key, key_from_f32,
};

/// The accuracy that Apache's sketches have by default.
pub const KLL_K_DEFAULT: u16 = 200;

/// The buffer that `k = 200` needs for 24 levels, more than 1.6 · 10⁹ values.
pub type Kll200 = Kll<705, 24>;

/// The buffer that `k = 64` needs for 20 levels, more than 3.3 · 10⁷ values.
pub type Kll64 = Kll<287, 20>;

const K_MIN: u16 = 8;
const LEVEL_CAPACITY_MIN: u32 = 8;

const FAMILY: u8 = 15;
const PREAMBLE_WORDS_SHORT: u8 = 2;
const PREAMBLE_WORDS_FULL: u8 = 5;
const VERSION_FULL: u8 = 1;
const VERSION_SINGLE: u8 = 2;
const FLAG_EMPTY: u8 = 1;
const FLAG_LEVEL_ZERO_SORTED: u8 = 2;
const FLAG_SINGLE: u8 = 4;

/// A sketch that retains at most `ITEMS` values in at most `LEVELS` levels.
///
/// Infinities are values like others, at the ends of the order; both zeros are `0.0`. A NaN has no
/// place in the order: it is counted apart, and the bytes do not carry that count.
#[derive(Clone, Debug)]
pub struct Kll<const ITEMS: usize, const LEVELS: usize> {
    /// Keys, at the end of the buffer: level 0 first, and the others sorted behind it.
    items: [i32; ITEMS],
    /// Where each level begins; it ends where the next one begins.
    starts: [u16; LEVELS],
    level_count: usize,
    level_zero_sorted: bool,
    k: u16,
    k_min: u16,
    count: u64,
    nan: u64,
    saturated: bool,
    min: i32,
    max: i32,
    coin: u32,
}

impl<const ITEMS: usize, const LEVELS: usize> Kll<ITEMS, LEVELS> {
    /// The longest encoded form.
    pub const ENCODED_BYTES_MAX: usize = 28 + 4 * LEVELS + 4 * ITEMS;

    /// An empty sketch. Its errors shrink with `k`: see [`k_min`](Self::k_min). The coin's
    /// choices follow from `seed`; devices should have different ones.
    ///
    /// # Errors
    /// [`Error::Size`] if `k` is below 8 or needs more than `ITEMS` items for `LEVELS` levels.
    pub fn new(k: u16, seed: u32) -> Result<Self, Error> {
        const { assert!(ITEMS <= u16::MAX as usize && LEVELS >= 1 && LEVELS <= 32) };
        if k < K_MIN || capacity(k, LEVELS) > ITEMS {
            return Err(Error::Size);
        }
        let end = u16::try_from(ITEMS).expect("the buffer's size was checked");
        Ok(Self {
            items: [0; ITEMS],
            starts: [end; LEVELS],
            level_count: 1,
            level_zero_sorted: false,
            k,
            k_min: k,
            count: 0,
            nan: 0,
            saturated: false,
            min: 0,
            max: 0,
            // A xorshift that stands at zero stays there.
            coin: seed ^ 0x9e37_79b9 | 1,
        })
    }

    /// Takes a value.
    pub fn update(&mut self, value: f32) {
        if value.is_nan() {
            self.nan = self.nan.saturating_add(1);
        } else if self.count == self.count_max() {
            self.saturated = true;
        } else {
            let key = key_from_f32(value);
            self.widen(key, key);
            self.insert(0, key);
            self.count += 1;
        }
    }

    /// Takes what `other` has seen, to the accuracy of the coarser of the two.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there were more values than `LEVELS` levels of this sketch can stand for.
    /// It then stays as it was.
    pub fn merge<const I: usize, const L: usize>(
        &mut self,
        other: &Kll<I, L>,
    ) -> Result<(), Error> {
        let count = self.count.checked_add(other.count).ok_or(Error::TooLarge)?;
        if count > self.count_max() || other.level_count > LEVELS {
            return Err(Error::TooLarge);
        }
        self.nan = self.nan.saturating_add(other.nan);
        self.saturated |= other.saturated;
        if other.count == 0 {
            return Ok(());
        }
        self.widen(other.min, other.max);
        while self.level_count < other.level_count {
            self.add_level();
        }
        for level in 0..other.level_count {
            other.level(level).iter().for_each(|&key| self.insert(level, key));
        }
        self.count = count;
        if other.level_count > 1 {
            self.k_min = self.k_min.min(other.k_min);
        }
        Ok(())
    }

    /// The share of values that are not above `value`. `None` if there were none, or for a NaN.
    pub fn rank(&self, value: f32) -> Option<f64> {
        let known = self.count > 0 && !value.is_nan();
        known.then(|| self.weight_up_to(key_from_f32(value)) as f64 / self.count as f64)
    }

    /// The lowest retained value that at least this share of all values does not exceed; for 0 and 1
    /// the lowest and the highest value of all. `None` if there were none, or outside of `0.0..=1.0`.
    pub fn quantile(&self, rank: f64) -> Option<f32> {
        if self.count == 0 || !(0.0..=1.0).contains(&rank) {
            return None;
        }
        if rank == 0.0 {
            return Some(f32_from_key(self.min));
        }
        if rank == 1.0 {
            return Some(f32_from_key(self.max));
        }
        // Rounded up: the product is not negative, and a cast cuts what is behind the point.
        let exact = rank * self.count as f64;
        let target = exact as u64 + u64::from(exact > (exact as u64) as f64);
        let (mut low, mut high) = (i64::from(self.min), i64::from(self.max));
        while low < high {
            let middle = low + (high - low) / 2;
            let key = i32::try_from(middle).expect("it lies between two keys");
            if self.weight_up_to(key) >= target {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Some(f32_from_key(i32::try_from(low).expect("it lies between two keys")))
    }

    /// The least `k` of the sketches that values came from. Apache's fit to its simulations says how far
    /// [`rank`](Self::rank) is off in 99 of 100 cases, as a share of all values: at most
    /// `2.296 / k^0.9723` (1.33 % for 200, 4.03 % for 64).
    pub const fn k_min(&self) -> u16 {
        self.k_min
    }

    /// How many values there were, without the NaNs.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How many values were not a number.
    pub const fn nan(&self) -> u64 {
        self.nan
    }

    /// The most values that the levels can stand for: `k · 2^(LEVELS − 1) − 1`.
    pub const fn count_max(&self) -> u64 {
        ((self.k as u64) << (LEVELS - 1)) - 1
    }

    /// Whether values were left out because there were more than [`count_max`](Self::count_max).
    pub const fn saturated(&self) -> bool {
        self.saturated
    }

    /// How many values are retained.
    pub fn retained(&self) -> usize {
        ITEMS - usize::from(self.starts[0])
    }

    /// Writes the sketch in Apache's compact form.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`]; [`ENCODED_BYTES_MAX`](Self::ENCODED_BYTES_MAX) always suffices.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        let mut writer = Writer::new(buffer);
        let mut write = |bytes: &[u8]| bytes.iter().try_for_each(|&byte| writer.byte(byte));
        let value = |key: i32| f32_from_key(key).to_le_bytes();
        let (words, version, flags) = match self.count {
            0 => (PREAMBLE_WORDS_SHORT, VERSION_FULL, FLAG_EMPTY),
            1 => (PREAMBLE_WORDS_SHORT, VERSION_SINGLE, FLAG_SINGLE),
            _ => (PREAMBLE_WORDS_FULL, VERSION_FULL, 0),
        };
        let sorted = if self.level_zero_sorted { FLAG_LEVEL_ZERO_SORTED } else { 0 };
        let [k_low, k_high] = self.k.to_le_bytes();
        let m = LEVEL_CAPACITY_MIN as u8;
        write(&[words, version, FAMILY, flags | sorted, k_low, k_high, m, 0])?;
        if self.count > 1 {
            let levels = u8::try_from(self.level_count).expect("there are at most 32 levels");
            write(&self.count.to_le_bytes())?;
            write(&self.k_min.to_le_bytes())?;
            write(&[levels, 0])?;
            let unused = ITEMS - capacity(self.k, self.level_count);
            for &start in &self.starts[..self.level_count] {
                let start = usize::from(start) - unused;
                write(&u32::try_from(start).expect("a start fits 16 bits").to_le_bytes())?;
            }
            write(&value(self.min))?;
            write(&value(self.max))?;
        }
        if self.count > 0 {
            let items = &self.items[usize::from(self.starts[0])..];
            items.iter().try_for_each(|&key| write(&value(key)))?;
        }
        Ok(writer.finish())
    }

    /// Reads a sketch in Apache's compact form, as other languages write it too. The coin's choices
    /// follow from `seed`.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Version`], [`Error::Malformed`], [`Error::TrailingBytes`];
    /// [`Error::TooLarge`] if it is a sketch that needs more than `ITEMS` items or `LEVELS` levels.
    pub fn decode(bytes: &[u8], seed: u32) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let [words, version, family, flags, k_low, k_high, m, _] = reader.array()?;
        if family != FAMILY || u32::from(m) != LEVEL_CAPACITY_MIN {
            return Err(Error::Malformed);
        }
        let (empty, single) = (flags & FLAG_EMPTY != 0, flags & FLAG_SINGLE != 0);
        let (words_expected, version_expected) = match (empty, single) {
            (true, true) => return Err(Error::Malformed),
            (true, false) => (PREAMBLE_WORDS_SHORT, VERSION_FULL),
            (false, true) => (PREAMBLE_WORDS_SHORT, VERSION_SINGLE),
            (false, false) => (PREAMBLE_WORDS_FULL, VERSION_FULL),
        };
        if version != version_expected {
            return Err(Error::Version);
        }
        let k = u16::from_le_bytes([k_low, k_high]);
        if words != words_expected || k < K_MIN {
            return Err(Error::Malformed);
        }
        let mut sketch = Self::new(k, seed).map_err(|_| Error::TooLarge)?;
        if single {
            sketch.update(read_value(&mut reader)?);
            if sketch.count == 0 {
                return Err(Error::Malformed);
            }
        } else if !empty {
            sketch.level_zero_sorted = flags & FLAG_LEVEL_ZERO_SORTED != 0;
            sketch.read_levels(&mut reader)?;
        }
        reader.end()?;
        Ok(sketch)
    }

    /// Reads what follows the first 8 bytes of more than one value.
    fn read_levels(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        self.count = u64::from_le_bytes(reader.array()?);
        self.k_min = u16::from_le_bytes(reader.array()?);
        let [levels, _] = reader.array()?;
        self.level_count = usize::from(levels);
        if self.level_count == 0 || self.k_min < K_MIN || self.k_min > self.k || self.count < 2 {
            return Err(Error::Malformed);
        }
        if self.level_count > LEVELS || self.count > self.count_max() {
            return Err(Error::TooLarge);
        }
        let capacity = capacity(self.k, self.level_count);
        let unused = ITEMS - capacity;
        for level in 0..self.level_count {
            let start = u32::from_le_bytes(reader.array()?) as usize;
            let start = if start > capacity { Err(Error::Malformed) } else { Ok(start + unused) }?;
            self.starts[level] = u16::try_from(start).expect("it lies inside of the buffer");
        }
        self.min = key_from_f32(read_value(reader)?);
        self.max = key_from_f32(read_value(reader)?);
        let rises = self.starts[..self.level_count].is_sorted();
        if !rises || !is_number(self.min) || !is_number(self.max) {
            return Err(Error::Malformed);
        }
        for item in usize::from(self.starts[0])..ITEMS {
            self.items[item] = key_from_f32(read_value(reader)?);
        }
        let mut weight = 0;
        for level in 0..self.level_count {
            let items = self.level(level);
            let must_be_sorted = level > 0 || self.level_zero_sorted;
            let inside = items.iter().all(|key| (self.min..=self.max).contains(key));
            if !inside || (must_be_sorted && !items.is_sorted()) {
                return Err(Error::Malformed);
            }
            weight += (items.len() as u64) << level;
        }
        if weight == self.count { Ok(()) } else { Err(Error::Malformed) }
    }

    fn level(&self, level: usize) -> &[i32] {
        &self.items[usize::from(self.starts[level])..self.end(level)]
    }

    fn end(&self, level: usize) -> usize {
        let above = self.starts[..self.level_count].get(level + 1);
        above.map_or(ITEMS, |&start| usize::from(start))
    }

    fn weight_up_to(&self, key: i32) -> u64 {
        let weight = |level: usize| {
            let items = self.level(level).iter().filter(|&&item| item <= key).count();
            (items as u64) << level
        };
        (0..self.level_count).map(weight).sum()
    }

    fn widen(&mut self, min: i32, max: i32) {
        let first = self.count == 0;
        self.min = if first { min } else { self.min.min(min) };
        self.max = if first { max } else { self.max.max(max) };
    }

    fn insert(&mut self, level: usize, key: i32) {
        if self.retained() == capacity(self.k, self.level_count) {
            self.compact();
        }
        let begin = usize::from(self.starts[0]);
        let below = match level {
            0 => 0,
            _ => self.level(level).partition_point(|&item| item < key),
        };
        self.level_zero_sorted &= level > 0;
        let place = usize::from(self.starts[level]) + below;
        self.items.copy_within(begin..place, begin - 1);
        self.items[place - 1] = key;
        self.starts[..=level].iter_mut().for_each(|start| *start -= 1);
    }

    /// Makes room: halves the lowest level that has reached its capacity. There is one, because all
    /// levels together have.
    fn compact(&mut self) {
        let full = |level: &usize| {
            self.level(*level).len() as u32 >= level_capacity(self.k, self.level_count, *level)
        };
        let level = (0..self.level_count).find(full).expect("a full sketch has a full level");
        if level + 1 == self.level_count {
            self.add_level();
        }
        let (begin, end) = (usize::from(self.starts[level]), self.end(level));
        let above = self.end(level + 1);
        // One of an odd number of items stays where it is.
        let first = begin + (end - begin) % 2;
        let half = (end - first) / 2;
        if level == 0 && !self.level_zero_sorted {
            self.items[first..end].sort_unstable();
        }
        let offset = usize::from(self.toss());
        for item in 0..half {
            self.items[first + item] = self.items[first + offset + 2 * item];
        }
        self.merge_up(first, half, end, above);
        let lowest = usize::from(self.starts[0]);
        self.items.copy_within(lowest..first, lowest + half);
        let half = u16::try_from(half).expect("the buffer has at most 2¹⁶ items");
        self.starts[..=level].iter_mut().for_each(|start| *start += half);
        self.starts[level + 1] = u16::try_from(first).expect("as above") + half;
    }

    /// Merges the sorted `half` items from `first` on and those in `end..above` into one sorted row that
    /// ends at `above`. Writing is `half` places ahead of the first row and never overtakes the second.
    fn merge_up(&mut self, first: usize, half: usize, end: usize, above: usize) {
        let (mut low, mut high) = (first, end);
        for place in first + half..above {
            let from_low =
                low < first + half && (high == above || self.items[low] <= self.items[high]);
            let source = if from_low { &mut low } else { &mut high };
            self.items[place] = self.items[*source];
            *source += 1;
        }
    }

    fn add_level(&mut self) {
        self.starts[self.level_count] = u16::try_from(ITEMS).expect("the size was checked");
        self.level_count += 1;
    }

    /// Marsaglia's xorshift32: its highest bit.
    fn toss(&mut self) -> bool {
        self.coin ^= self.coin << 13;
        self.coin ^= self.coin >> 17;
        self.coin ^= self.coin << 5;
        self.coin >> 31 == 1
    }
}

/// How many items `levels` levels have room for.
const fn capacity(k: u16, levels: usize) -> usize {
    let mut sum = 0;
    let mut level = 0;
    while level < levels {
        sum += level_capacity(k, levels, level) as usize;
        level += 1;
    }
    sum
}

/// `k · (2/3)^depth`, rounded to the nearest and at least 8. The highest level has depth 0.
const fn level_capacity(k: u16, levels: usize, level: usize) -> u32 {
    let depth = (levels - level - 1) as u32;
    // From depth 26 on even the largest k comes below 8, and the powers of 3 soon leave 64 bits.
    if depth > 30 {
        return LEVEL_CAPACITY_MIN;
    }
    let scaled = ((k as u64) << (depth + 1)) / 3_u64.pow(depth);
    let rounded = ((scaled + 1) >> 1) as u32;
    if rounded < LEVEL_CAPACITY_MIN { LEVEL_CAPACITY_MIN } else { rounded }
}

fn is_number(key: i32) -> bool {
    key.unsigned_abs() <= KEY_INFINITY.unsigned_abs()
}

fn read_value(reader: &mut Reader<'_>) -> Result<f32, Error> {
    reader.array().map(f32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Few items in few levels, so that compaction is never far.
    type Small = Kll<48, 6>;

    fn small(values: &[f32]) -> Small {
        let mut sketch = Small::new(8, 1).expect("48 items suffice for k = 8");
        values.iter().for_each(|&value| sketch.update(value));
        sketch
    }

    fn encoded(sketch: &Small) -> Vec<u8> {
        let mut buffer = [0; Small::ENCODED_BYTES_MAX];
        sketch.encode(&mut buffer).expect("the buffer holds the longest form").to_vec()
    }

    fn weight<const I: usize, const L: usize>(sketch: &Kll<I, L>) -> u64 {
        sketch.weight_up_to(i32::MAX)
    }

    #[test]
    fn the_named_buffers_are_as_large_as_they_must_be() {
        assert_eq!((capacity(200, 24), capacity(64, 20)), (705, 287));
        assert!(Kll200::new(KLL_K_DEFAULT, 0).is_ok() && Kll64::new(64, 0).is_ok());
        assert_eq!(Kll64::new(65, 0).err(), Some(Error::Size));
        assert_eq!(Kll64::new(7, 0).err(), Some(Error::Size));
    }

    #[test]
    fn few_values_are_kept_exactly() {
        let sketch = small(&[3.0, -1.0, f32::INFINITY, f32::NAN, -0.0]);
        assert_eq!((sketch.count(), sketch.nan()), (4, 1));
        let quantiles = [0.0, 0.25, 0.5, 0.51, 1.0].map(|rank| sketch.quantile(rank));
        assert_eq!(quantiles, [-1.0, -1.0, 0.0, 3.0, f32::INFINITY].map(Some));
        assert_eq!(sketch.rank(0.0), Some(0.5));
        assert_eq!(sketch.rank(f32::NAN), None);
        assert_eq!(sketch.quantile(f64::NAN), None);
    }

    #[test]
    fn nothing_seen_has_no_quantile() {
        let empty = small(&[f32::NAN]);
        assert_eq!((empty.quantile(0.5), empty.rank(0.0)), (None, None));
    }

    #[test]
    fn more_values_than_levels_stand_for_are_left_out_and_refused() {
        let mut sketch = small(&[]);
        for value in 0..300_u16 {
            sketch.update(value.into());
        }
        assert_eq!(sketch.count_max(), 255);
        assert_eq!((sketch.count(), weight(&sketch), sketch.saturated()), (255, 255, true));
        let before = encoded(&sketch);
        assert_eq!(sketch.merge(&small(&[1.0])), Err(Error::TooLarge));
        assert_eq!(encoded(&sketch), before);
    }

    #[test]
    fn a_head_that_contradicts_itself_is_refused() {
        let full = encoded(&small(&[1.0, 2.0, 3.0]));
        let single = encoded(&small(&[1.0]));
        let changed = |bytes: &[u8], at: usize, to: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes[at..at + to.len()].copy_from_slice(to);
            Small::decode(&bytes, 0).err()
        };
        let nan = f32::NAN.to_le_bytes();
        for (what, outcome, expected) in [
            ("words", changed(&full, 0, &[2]), Error::Malformed),
            ("version", changed(&full, 1, &[3]), Error::Version),
            ("family", changed(&full, 2, &[7]), Error::Malformed),
            ("empty and single", changed(&full, 3, &[5]), Error::Malformed),
            ("k too small", changed(&full, 4, &[7, 0]), Error::Malformed),
            ("k too large for the buffer", changed(&full, 4, &[200, 0]), Error::TooLarge),
            ("m", changed(&full, 6, &[4]), Error::Malformed),
            ("n", changed(&full, 8, &[4]), Error::Malformed),
            ("n beyond all levels", changed(&full, 8, &[0xff; 8]), Error::TooLarge),
            ("least k above k", changed(&full, 16, &[9]), Error::Malformed),
            ("no levels", changed(&full, 18, &[0]), Error::Malformed),
            ("too many levels", changed(&full, 18, &[61]), Error::TooLarge),
            ("start beyond the end", changed(&full, 20, &[9]), Error::Malformed),
            ("lowest is NaN", changed(&full, 24, &nan), Error::Malformed),
            ("item outside of lowest and highest", changed(&full, 32, &nan), Error::Malformed),
            ("single NaN", changed(&single, 8, &nan), Error::Malformed),
        ] {
            assert_eq!(outcome, Some(expected), "{what}");
        }
    }

    proptest! {
        #[test]
        fn weights_add_up_and_levels_stay_sorted(
            parts in prop::collection::vec(prop::collection::vec(any::<f32>(), 0..60), 1..5)
        ) {
            let mut sum = small(&[]);
            let count = |values: &[f32]| values.iter().filter(|value| !value.is_nan()).count() as u64;
            for part in &parts {
                let sketch = small(part);
                prop_assert_eq!(weight(&sketch), count(part));
                sum.merge(&sketch).expect("240 values fit");
            }
            let expected = count(&parts.concat());
            prop_assert_eq!((sum.count(), weight(&sum)), (expected, expected));
            prop_assert!(sum.retained() <= capacity(8, sum.level_count));
            prop_assert!((1..sum.level_count).all(|level| sum.level(level).is_sorted()));
        }

        #[test]
        fn a_sketch_comes_back_as_it_was_written(values in prop::collection::vec(any::<f32>(), 0..250)) {
            let bytes = encoded(&small(&values));
            let read = Small::decode(&bytes, 9).expect("its own bytes are sound");
            prop_assert_eq!(encoded(&read), bytes);
        }

        #[test]
        fn damaged_bytes_are_refused_or_make_a_sound_sketch(
            values in prop::collection::vec(any::<f32>(), 0..60),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            keep_all in prop::bool::weighted(0.7),
        ) {
            let mut bytes = encoded(&small(&values));
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if !keep_all {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(mut read) = Small::decode(&bytes, 1) {
                prop_assert_eq!(weight(&read), read.count());
                for value in 0..100_u8 {
                    read.update(value.into());
                    prop_assert_eq!(weight(&read), read.count());
                }
                let _ = read.merge(&small(&values));
                prop_assert_eq!(weight(&read), read.count());
            }
        }
    }
}
