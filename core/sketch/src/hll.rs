//! HyperLogLog: how many different items there were, in 256 bytes.
//!
//! For identifiers and other open vocabularies. The merge takes the higher of two registers and is
//! exact: in any order and grouping, and however often the same sketch arrives, the same items give the
//! same registers. The estimate has a standard error of 6.5 % (`1.04 / √256`, Flajolet, Fusy, Gandouet,
//! Meunier 2007).
//!
//! Encoded: how many registers are not zero, as a varint; then, if those are fewer than
//! [`SPARSE_REGISTERS`], for each of them how many zeros precede it and its value, as varints; else all
//! 256 registers, a byte each. The reader refuses every other form.

use crate::{
    Error,
    codec::{Reader, Writer},
};

const INDEX_BITS: u32 = 8;
const REGISTER_COUNT: usize = 1 << INDEX_BITS;
/// The bits behind the index may all be zero.
const RANK_MAX: u8 = (u64::BITS - INDEX_BITS + 1) as u8;
/// From here on the sparse form would be no shorter.
const SPARSE_REGISTERS: usize = REGISTER_COUNT / 2;

/// The registers of a HyperLogLog of precision 8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HyperLogLog {
    registers: [u8; REGISTER_COUNT],
}

impl HyperLogLog {
    /// The longest encoded form.
    pub const ENCODED_BYTES_MAX: usize = REGISTER_COUNT + 2;

    /// Nothing seen.
    pub const fn new() -> Self {
        Self { registers: [0; REGISTER_COUNT] }
    }

    /// Sees an item that is a number. Its hash is the finaliser of MurmurHash3 (`fmix64`).
    pub fn observe(&mut self, item: u64) {
        self.observe_hash(fmix64(item));
    }

    /// Sees an item that is bytes. Its hash is FNV-1a with 64 bits, then `fmix64`: FNV alone leaves the
    /// high bits of short items too alike.
    pub fn observe_bytes(&mut self, item: &[u8]) {
        let fnv1a = item.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        self.observe_hash(fmix64(fnv1a));
    }

    fn observe_hash(&mut self, hash: u64) {
        let index = (hash >> (u64::BITS - INDEX_BITS)) as usize;
        let behind = hash << INDEX_BITS;
        let rank = (behind.leading_zeros() as u8 + 1).min(RANK_MAX);
        self.registers[index] = self.registers[index].max(rank);
    }

    /// Sees what `other` saw.
    pub fn merge(&mut self, other: &Self) {
        for (register, &others) in self.registers.iter_mut().zip(&other.registers) {
            *register = (*register).max(others);
        }
    }

    /// How many different items there were, about.
    ///
    /// While few registers are in use this is linear counting in the form of the coupon collector: how
    /// many different items it takes on average until only so many registers are left at zero.
    pub fn estimate(&self) -> f64 {
        let zeros = self.registers.iter().filter(|&&register| register == 0).count();
        let m = REGISTER_COUNT as f64;
        let sum: f64 = self.registers.iter().map(|&rank| 1.0 / (1_u64 << rank) as f64).sum();
        let raw = ALPHA * m * m / sum;
        if raw <= 2.5 * m && zeros > 0 {
            (zeros + 1..=REGISTER_COUNT).map(|left| m / left as f64).sum()
        } else {
            raw
        }
    }

    /// Writes the registers in their one form.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`]; [`ENCODED_BYTES_MAX`](Self::ENCODED_BYTES_MAX) always suffices.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        let mut writer = Writer::new(buffer);
        let used = self.used();
        writer.varint(u32::try_from(used).expect("there are 256 registers"))?;
        let mut skipped = 0;
        for &register in &self.registers {
            if used >= SPARSE_REGISTERS {
                writer.byte(register)?;
            } else if register == 0 {
                skipped += 1;
            } else {
                writer.varint(skipped)?;
                writer.byte(register)?;
                skipped = 0;
            }
        }
        Ok(writer.finish())
    }

    /// Reads registers.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Malformed`], [`Error::TrailingBytes`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let mut sketch = Self::new();
        let used = reader.varint()? as usize;
        if used >= SPARSE_REGISTERS {
            sketch.registers = reader.array()?;
        } else {
            let mut rest = sketch.registers.iter_mut();
            for _ in 0..used {
                let skipped = reader.varint()? as usize;
                *rest.nth(skipped).ok_or(Error::Malformed)? = reader.byte()?;
            }
        }
        reader.end()?;
        let possible = sketch.registers.iter().all(|&register| register <= RANK_MAX);
        if possible && sketch.used() == used { Ok(sketch) } else { Err(Error::Malformed) }
    }

    fn used(&self) -> usize {
        self.registers.iter().filter(|&&register| register > 0).count()
    }
}

impl Default for HyperLogLog {
    fn default() -> Self {
        Self::new()
    }
}

/// `0.7213 / (1 + 1.079 / m)`, the constant of the paper for 128 registers and more.
const ALPHA: f64 = 0.7213 / (1.0 + 1.079 / REGISTER_COUNT as f64);

/// Each input bit changes each output bit with a chance of about one half (Appleby, MurmurHash3).
fn fmix64(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn sketch(items: impl IntoIterator<Item = u64>) -> HyperLogLog {
        let mut sketch = HyperLogLog::new();
        items.into_iter().for_each(|item| sketch.observe(item));
        sketch
    }

    fn encoded(sketch: &HyperLogLog) -> Vec<u8> {
        let mut buffer = [0; HyperLogLog::ENCODED_BYTES_MAX];
        sketch.encode(&mut buffer).expect("the buffer holds the longest form").to_vec()
    }

    #[test]
    fn the_hashes_are_the_published_ones() {
        // MurmurHash3's finaliser of 1, and FNV-1a of "a" through it.
        assert_eq!(fmix64(1), 0xb456_bcfc_34c2_cb2c);
        let mut bytes = HyperLogLog::new();
        bytes.observe_bytes(b"a");
        let mut hash = HyperLogLog::new();
        hash.observe(0xaf63_dc4c_8601_ec8c);
        assert_eq!(bytes, hash);
    }

    #[test]
    fn an_estimate_is_off_by_less_than_four_standard_errors() {
        for count in [0_u64, 1, 10, 100, 400, 600, 800, 1000, 10_000, 1_000_000] {
            let estimate = sketch(count << 32..(count << 32) + count).estimate();
            let bound = 4.0 * 0.065 * count as f64;
            assert!((estimate - count as f64).abs() <= bound, "{count} {estimate}");
        }
    }

    #[test]
    fn estimates_have_the_stated_error_on_average() {
        for count in [300_u64, 640, 5_000] {
            let relative = |round: u64| {
                let first = (round << 40) + 1;
                sketch(first..first + count).estimate() / count as f64 - 1.0
            };
            let errors: Vec<f64> = (0..400).map(relative).collect();
            let mean = errors.iter().sum::<f64>() / 400.0;
            let rms = (errors.iter().map(|error| error * error).sum::<f64>() / 400.0).sqrt();
            assert!(mean.abs() < 0.02 && rms < 0.075, "{count}: mean {mean}, rms {rms}");
        }
    }

    proptest! {
        #[test]
        fn merging_parts_in_any_order_and_twice_is_seeing_all_at_once(
            mut parts in prop::collection::vec(prop::collection::vec(any::<u64>(), 0..300), 1..5),
        ) {
            let expected = sketch(parts.concat());
            parts.reverse();
            let mut merged = HyperLogLog::new();
            parts.iter().chain(&parts).for_each(|part| merged.merge(&sketch(part.iter().copied())));
            prop_assert_eq!(merged, expected);
        }

        #[test]
        fn registers_come_back_as_they_were_written(items in prop::collection::vec(any::<u64>(), 0..600)) {
            let sketch = sketch(items);
            let bytes = encoded(&sketch);
            prop_assert_eq!(HyperLogLog::decode(&bytes), Ok(sketch));
        }

        #[test]
        fn whatever_is_read_has_only_the_bytes_it_was_read_from(
            bytes in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..12),
            dense in prop::collection::vec(0..2u8, 256),
        ) {
            let with_all = [&[128, 1][..], &dense].concat();
            for bytes in [bytes, with_all] {
                if let Ok(sketch) = HyperLogLog::decode(&bytes) {
                    prop_assert_eq!(bytes, encoded(&sketch));
                }
            }
        }
    }
}
