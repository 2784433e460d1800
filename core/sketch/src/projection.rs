//! Random Fourier features of quantised embeddings: summed up over a window, they are what a multivariate test
//! needs of it, in a few hundred bytes that add up exactly.
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

use crate::Error;

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

    /// The features of one embedding, as [`LinearSums`](crate::LinearSums) take them. `codes`: \[feature\] i8, as
    /// quantised. Features from [`feature_count`](Self::feature_count) on are 0.
    ///
    /// # Errors
    /// [`Error::Size`] if `codes` has another width than the projection.
    pub fn features(&self, codes: &[i8]) -> Result<[i8; FEATURES], Error> {
        if codes.len() != self.width {
            return Err(Error::Size);
        }
        let mut features = [0; FEATURES];
        for (feature, (weights, &phase)) in
            features.iter_mut().zip(self.weights.iter().zip(&self.phases)).take(self.feature_count)
        {
            let product = |(&weight, &code): (&i8, &i8)| i32::from(weight) * i32::from(code);
            let projected: i32 = weights.iter().zip(codes).map(product).sum();
            let angle = projected.cast_unsigned().wrapping_add(phase) >> self.shift;
            *feature = COSINES[(angle & 0xff) as usize];
        }
        Ok(features)
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
    use std::f64::consts::TAU;

    use super::*;
    use crate::LinearSums;

    const WIDTH: usize = 5;
    const FEATURES: usize = 6;
    type Small = Projection<WIDTH, FEATURES>;

    static IN_FLASH: Small = match Small::new(42, WIDTH, FEATURES, 8) {
        Ok(projection) => projection,
        Err(_) => panic!("the sizes fit"),
    };

    const GOLDEN_WEIGHTS: [i8; WIDTH] = [-5, 11, -42, 21, -34];
    const GOLDEN_PHASE: u32 = 3_729_011_194;
    const GOLDEN_SUMS: [i64; FEATURES] = [160, -259, 340, -322, -271, 142];

    /// Computed by another program, after the description at the top of this file.
    #[test]
    fn features_of_a_seed_are_the_same_everywhere() {
        assert_eq!(IN_FLASH.weights[0], GOLDEN_WEIGHTS);
        assert_eq!(IN_FLASH.phases[0], GOLDEN_PHASE);
        let mut sums = LinearSums::new();
        for codes in [[-128, 127, 0, 5, -7], [1, 2, 3, 4, 5], [100, -100, 50, -50, 25]] {
            let features = IN_FLASH.features(&codes).expect("the width fits");
            sums.observe(&features).expect("all are as long");
        }
        assert_eq!(sums.sums(), GOLDEN_SUMS);
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
        assert_eq!(IN_FLASH.features(&[0; WIDTH + 1]), Err(Error::Size));
        let three = Small::new(42, WIDTH, 3, 8).expect("the sizes fit");
        let features = three.features(&[1; WIDTH]).expect("the width fits");
        assert_eq!(features[3..], [0; FEATURES - 3]);
    }
}
