//! Sums of quantised embeddings, and of their random Fourier features: what a multivariate test needs
//! of a window, in a few hundred bytes that add up exactly.
//!
//! The random Fourier features of an embedding `x` are `cos(2π (w·x + b) / 2^(shift + 8))`, one for each
//! row `w` of random weights. Their mean over a window is an estimate of its kernel mean embedding
//! (Rahimi, Recht 2007; Gretton et al. 2012), with a kernel that is nearly Gaussian: it sees changes of
//! shape that leave the mean of the embedding where it was.
//!
//! All of it is integer arithmetic with no rounding that is left open, so a node, a gateway and the desk
//! get the same sums, bit for bit:
//!
//! - *Random numbers* are SplitMix64 (Steele, Lea, Flood 2014) from `seed`; each gives one 32-bit number,
//!   its high half. Row by row they give `width` weights, then the phase.
//! - *Weight*: the sum of the four bytes of a number, minus 510, divided by 4 and rounded down. It is
//!   nearly normal with mean 0 and standard deviation 37.
//! - *Phase* `b`: a number as it is.
//! - *Angle*: `(w·x + b) mod 2³²`, of which 8 bits from bit `shift` on index a table of one turn.
//! - *Feature*: 127 times the cosine of that, rounded to the nearest integer.
//!
//! Two embeddings that differ by a distance `r`, in codes, have angles that differ by about
//! `0.9 r / 2^shift` radians. [`shift_for`] makes that about 1 for the median distance.

use crate::{
    Error,
    codec::{Reader, VARINT_BYTES_MAX, Writer},
};

/// The most components of an embedding, and the most features of a projection.
pub const VECTOR_WIDTH_MAX: usize = 128;

/// A random projection of embeddings with at most `WIDTH` components to at most `FEATURES` features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection<const WIDTH: usize, const FEATURES: usize> {
    weights: [[i8; WIDTH]; FEATURES],
    phases: [u32; FEATURES],
    width: usize,
    feature_count: usize,
    shift: u32,
}

impl<const WIDTH: usize, const FEATURES: usize> Projection<WIDTH, FEATURES> {
    /// The projection that follows from `seed`. In a `static` of a node it lies in flash.
    ///
    /// # Errors
    /// [`Error::Size`] if `width` or `feature_count` is 0 or more than there is room for, or `shift`
    /// exceeds 20.
    pub const fn new(
        seed: u64,
        width: usize,
        feature_count: usize,
        shift: u32,
    ) -> Result<Self, Error> {
        const { assert!(WIDTH <= VECTOR_WIDTH_MAX && FEATURES <= VECTOR_WIDTH_MAX) };
        let fits = 0 < width && width <= WIDTH && 0 < feature_count && feature_count <= FEATURES;
        if !fits || shift > SHIFT_MAX {
            return Err(Error::Size);
        }
        let mut weights = [[0; WIDTH]; FEATURES];
        let mut phases = [0; FEATURES];
        let mut state = seed;
        let mut row = 0;
        while row < feature_count {
            let mut component = 0;
            while component < width {
                let number;
                (number, state) = next_number(state);
                weights[row][component] = weight_of(number);
                component += 1;
            }
            (phases[row], state) = next_number(state);
            row += 1;
        }
        Ok(Self { weights, phases, width, feature_count, shift })
    }

    /// How many features there are.
    pub const fn feature_count(&self) -> usize {
        self.feature_count
    }

    /// Adds the features of one embedding. `codes`: \[feature\] i8, as quantised.
    ///
    /// # Errors
    /// [`Error::Size`] if `codes` or `sums` have another width than the projection.
    pub fn observe(&self, codes: &[i8], sums: &mut VectorSums<FEATURES>) -> Result<(), Error> {
        if codes.len() != self.width || sums.width() != self.feature_count {
            return Err(Error::Size);
        }
        let mut features = [0; FEATURES];
        for (feature, (weights, &phase)) in
            features.iter_mut().zip(self.weights.iter().zip(&self.phases))
        {
            let product = |(&weight, &code): (&i8, &i8)| i32::from(weight) * i32::from(code);
            let projected: i32 = weights.iter().zip(codes).map(product).sum();
            let angle = projected.cast_unsigned().wrapping_add(phase) >> self.shift;
            *feature = COSINES[(angle & 0xff) as usize];
        }
        sums.observe(&features[..self.feature_count])
    }
}

/// The shift with which embeddings at `distance` from each other, in codes, differ by an angle of about
/// one radian. `distance` is best the median between images of the reference.
pub const fn shift_for(distance: u32) -> u32 {
    // The angle is 0.9 r / 2^shift: the power of two that is nearest on a logarithmic scale.
    let scaled = distance as u64 * 5 / 4;
    let shift = scaled.checked_ilog2();
    match shift {
        Some(shift) if shift <= SHIFT_MAX => shift,
        Some(_) => SHIFT_MAX,
        None => 0,
    }
}

/// Sums of vectors of i8: a count, and one sum for each of at most `N` components.
///
/// Vectors of the same meaning alone may be added: the codes of one output of one model, or the features
/// of one projection of it. The sums are exact for [`VECTOR_COUNT_MAX`] vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorSums<const N: usize> {
    count: u32,
    width: usize,
    sums: [i32; N],
}

/// The most vectors whose sums surely fit: 2³¹ / 128. Beyond, sums are only known modulo 2³², which the
/// count tells; a sum that stopped at its bound would depend on the order of adding.
pub const VECTOR_COUNT_MAX: u32 = (1 << 24) - 1;

impl<const N: usize> VectorSums<N> {
    /// The longest encoded form.
    pub const ENCODED_BYTES_MAX: usize = VARINT_BYTES_MAX * (N + 2);

    /// No vectors, of `width` components each.
    ///
    /// # Errors
    /// [`Error::Size`] if `width` is 0 or exceeds `N`.
    pub const fn new(width: usize) -> Result<Self, Error> {
        const { assert!(N <= VECTOR_WIDTH_MAX) };
        if width == 0 || width > N {
            return Err(Error::Size);
        }
        Ok(Self { count: 0, width, sums: [0; N] })
    }

    /// Adds a vector. `codes`: \[component\] i8.
    ///
    /// # Errors
    /// [`Error::Size`] if it has another width.
    pub fn observe(&mut self, codes: &[i8]) -> Result<(), Error> {
        if codes.len() != self.width {
            return Err(Error::Size);
        }
        for (sum, &code) in self.sums.iter_mut().zip(codes) {
            *sum = sum.wrapping_add(i32::from(code));
        }
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Adds the vectors of `other`.
    ///
    /// # Errors
    /// [`Error::SpecMismatch`] if they have another width.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if self.width != other.width {
            return Err(Error::SpecMismatch);
        }
        for (sum, &others) in self.sums.iter_mut().zip(&other.sums) {
            *sum = sum.wrapping_add(others);
        }
        self.count = self.count.saturating_add(other.count);
        Ok(())
    }

    /// How many vectors there were.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// How many components a vector has.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// The sum of each component, unless there were too many vectors to know.
    pub fn sums(&self) -> Option<&[i32]> {
        (!self.saturated()).then(|| &self.sums[..self.width])
    }

    /// Whether there were more vectors than [`VECTOR_COUNT_MAX`], so that the sums are lost.
    pub const fn saturated(&self) -> bool {
        self.count > VECTOR_COUNT_MAX
    }

    /// Writes, as varints, the width, the count and the sums, these with their sign in the lowest bit.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`]; [`ENCODED_BYTES_MAX`](Self::ENCODED_BYTES_MAX) always suffices.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        let mut writer = Writer::new(buffer);
        writer.varint(u32::try_from(self.width).expect("there are at most 128 components"))?;
        writer.varint(self.count)?;
        for &sum in &self.sums[..self.width] {
            writer.varint((sum << 1 ^ sum >> 31).cast_unsigned())?;
        }
        Ok(writer.finish())
    }

    /// Reads sums.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::TrailingBytes`]; [`Error::Malformed`] also for sums that so many
    /// vectors cannot have; [`Error::TooLarge`] if a vector has more than `N` components.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let width = reader.varint()? as usize;
        if width == 0 {
            return Err(Error::Malformed);
        }
        let mut read = Self::new(width).map_err(|_| Error::TooLarge)?;
        read.count = reader.varint()?;
        let saturated = read.saturated();
        for sum in &mut read.sums[..width] {
            let folded = reader.varint()?;
            *sum = (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed();
            let possible = -128 * i64::from(read.count)..=127 * i64::from(read.count);
            if !saturated && !possible.contains(&i64::from(*sum)) {
                return Err(Error::Malformed);
            }
        }
        reader.end()?;
        Ok(read)
    }
}

/// The sum of 128 products of codes and weights stays below 2²²; a larger shift leaves of it next to
/// nothing.
const SHIFT_MAX: u32 = 20;

const fn next_number(state: u64) -> (u32, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (((mixed ^ (mixed >> 31)) >> 32) as u32, state)
}

const fn weight_of(number: u32) -> i8 {
    let [a, b, c, d] = number.to_le_bytes();
    ((a as i32 + b as i32 + c as i32 + d as i32 - 510) >> 2) as i8
}

/// One turn of 127 · cos.
#[rustfmt::skip]
const COSINES: [i8; 256] = [
    127, 127, 127, 127, 126, 126, 126, 125, 125, 124, 123, 122, 122, 121, 120, 118,
    117, 116, 115, 113, 112, 111, 109, 107, 106, 104, 102, 100, 98, 96, 94, 92,
    90, 88, 85, 83, 81, 78, 76, 73, 71, 68, 65, 63, 60, 57, 54, 51,
    49, 46, 43, 40, 37, 34, 31, 28, 25, 22, 19, 16, 12, 9, 6, 3,
    0, -3, -6, -9, -12, -16, -19, -22, -25, -28, -31, -34, -37, -40, -43, -46,
    -49, -51, -54, -57, -60, -63, -65, -68, -71, -73, -76, -78, -81, -83, -85, -88,
    -90, -92, -94, -96, -98, -100, -102, -104, -106, -107, -109, -111, -112, -113, -115, -116,
    -117, -118, -120, -121, -122, -122, -123, -124, -125, -125, -126, -126, -126, -127, -127, -127,
    -127, -127, -127, -127, -126, -126, -126, -125, -125, -124, -123, -122, -122, -121, -120, -118,
    -117, -116, -115, -113, -112, -111, -109, -107, -106, -104, -102, -100, -98, -96, -94, -92,
    -90, -88, -85, -83, -81, -78, -76, -73, -71, -68, -65, -63, -60, -57, -54, -51,
    -49, -46, -43, -40, -37, -34, -31, -28, -25, -22, -19, -16, -12, -9, -6, -3,
    0, 3, 6, 9, 12, 16, 19, 22, 25, 28, 31, 34, 37, 40, 43, 46,
    49, 51, 54, 57, 60, 63, 65, 68, 71, 73, 76, 78, 81, 83, 85, 88,
    90, 92, 94, 96, 98, 100, 102, 104, 106, 107, 109, 111, 112, 113, 115, 116,
    117, 118, 120, 121, 122, 122, 123, 124, 125, 125, 126, 126, 126, 127, 127, 127,
];

#[cfg(test)]
mod tests {
    use std::{f64::consts::TAU, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    const WIDTH: usize = 5;
    const FEATURES: usize = 6;
    type Small = Projection<WIDTH, FEATURES>;

    static IN_FLASH: Small = match Small::new(42, WIDTH, FEATURES, 8) {
        Ok(projection) => projection,
        Err(_) => panic!("the sizes fit"),
    };

    const GOLDEN_WEIGHTS: [i8; WIDTH] = [-5, 11, -42, 21, -34];
    const GOLDEN_PHASE: u32 = 3_729_011_194;
    const GOLDEN_SUMS: [i32; FEATURES] = [160, -259, 340, -322, -271, 142];
    const GOLDEN_BYTES: [u8; 14] = [6, 3, 0xc0, 2, 0x85, 4, 0xa8, 5, 0x83, 5, 0x9d, 4, 0x9c, 2];

    fn sums(vectors: &[[i8; WIDTH]]) -> VectorSums<WIDTH> {
        let mut sums = VectorSums::new(WIDTH).expect("the width fits");
        vectors.iter().for_each(|vector| sums.observe(vector).expect("the width is the same"));
        sums
    }

    fn encoded<const N: usize>(sums: &VectorSums<N>) -> Vec<u8> {
        let mut buffer = [0; VECTOR_WIDTH_MAX * VARINT_BYTES_MAX + 10];
        sums.encode(&mut buffer).expect("the buffer holds the longest form").to_vec()
    }

    /// Computed by another program, after the description at the top of this file.
    #[test]
    fn features_of_a_seed_are_the_same_everywhere() {
        assert_eq!(IN_FLASH.weights[0], GOLDEN_WEIGHTS);
        assert_eq!(IN_FLASH.phases[0], GOLDEN_PHASE);
        let mut sums = VectorSums::<FEATURES>::new(FEATURES).expect("the width fits");
        for codes in [[-128, 127, 0, 5, -7], [1, 2, 3, 4, 5], [100, -100, 50, -50, 25]] {
            IN_FLASH.observe(&codes, &mut sums).expect("the widths fit");
        }
        assert_eq!(sums.sums(), Some(&GOLDEN_SUMS[..]));
        assert_eq!(encoded(&sums), GOLDEN_BYTES);
    }

    #[test]
    fn the_table_is_one_turn_of_a_cosine() {
        for (index, &cosine) in COSINES.iter().enumerate() {
            let exact = 127.0 * (TAU * index as f64 / 256.0).cos();
            assert_eq!(f64::from(cosine), exact.round(), "{index}");
        }
    }

    #[test]
    fn weights_are_nearly_normal() {
        let projection = Projection::<128, 128>::new(7, 128, 128, 0).expect("the sizes fit");
        let weights = projection.weights.as_flattened().iter().map(|&weight| f64::from(weight));
        let moment =
            |power| weights.clone().map(|weight| weight.powi(power)).sum::<f64>() / 16384.0;
        let (mean, variance, fourth) = (moment(1), moment(2), moment(4));
        assert!(mean.abs() < 1.5, "{mean}");
        assert!((variance.sqrt() - 37.0).abs() < 1.0, "{variance}");
        // 3 for a normal distribution, 2.7 for a sum of four uniform ones.
        assert!((2.5..3.1).contains(&(fourth / variance / variance)), "{fourth}");
    }

    /// The angles of two embeddings differ by about a radian at the distance that the shift is made for.
    #[test]
    fn the_shift_fits_its_distance() {
        for distance in [1_u32, 40, 150, 1000, 2000] {
            let radians = 0.9 * f64::from(distance) / f64::from(1 << shift_for(distance));
            assert!((0.7..1.5).contains(&radians), "{distance} {radians}");
        }
        assert_eq!((shift_for(0), shift_for(u32::MAX)), (0, SHIFT_MAX));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (width, feature_count, shift) in
            [(0, 1, 0), (1, 0, 0), (6, 1, 0), (1, 7, 0), (1, 1, 21)]
        {
            let outcome = Small::new(1, width, feature_count, shift);
            assert_eq!(outcome, Err(Error::Size), "{width} {feature_count} {shift}");
        }
        let mut three = VectorSums::<FEATURES>::new(3).expect("the width fits");
        assert_eq!(IN_FLASH.observe(&[0; WIDTH], &mut three), Err(Error::Size));
        assert_eq!(three.observe(&[0; 4]), Err(Error::Size));
        let four = VectorSums::new(4).expect("the width fits");
        assert_eq!(three.merge(&four), Err(Error::SpecMismatch));
    }

    #[test]
    fn too_many_vectors_make_the_sums_unknown_in_any_order() {
        let many = VectorSums::<1> { count: VECTOR_COUNT_MAX, width: 1, sums: [i32::MIN + 128] };
        let one = VectorSums::<1> { count: 1, width: 1, sums: [-128] };
        assert!(many.sums().is_some());
        let (mut a, mut b) = (many.clone(), one.clone());
        a.merge(&one).expect("the widths are the same");
        b.merge(&many).expect("the widths are the same");
        assert_eq!((a.sums(), &a), (None, &b));
    }

    proptest! {
        #[test]
        fn merging_parts_in_any_order_is_observing_all_at_once(
            mut parts in prop::collection::vec(prop::collection::vec(any::<[i8; WIDTH]>(), 0..20), 1..5),
        ) {
            let expected = sums(&parts.concat());
            parts.reverse();
            let mut merged = sums(&[]);
            for part in &parts {
                merged.merge(&sums(part)).expect("the widths are the same");
            }
            prop_assert_eq!(encoded(&merged), encoded(&expected));
            prop_assert_eq!(merged, expected);
        }

        #[test]
        fn sums_come_back_as_they_were_written(
            vectors in prop::collection::vec(any::<[i8; WIDTH]>(), 0..20)
        ) {
            let sums = sums(&vectors);
            prop_assert_eq!(VectorSums::decode(&encoded(&sums)), Ok(sums));
        }

        #[test]
        fn whatever_is_read_has_only_the_bytes_it_was_read_from(
            bytes in prop::collection::vec(prop_oneof![0..6u8, any::<u8>()], 0..16)
        ) {
            if let Ok(sums) = VectorSums::<WIDTH>::decode(&bytes) {
                prop_assert_eq!(bytes, encoded(&sums));
            }
        }
    }
}
