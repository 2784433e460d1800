//! What the kernels ask of a vector register, so that they are written once for all widths.

use crate::requantise::Range;

/// Registers of `LANES · 32` bits and the instructions on them.
///
/// Three orders of values occur. *In order*: as in memory. *By lanes*: the four vectors that [`Vector::quads`] and
/// [`Vector::widen`] make of 4 · `LANES` bytes: lane `l` of vector `v` is byte `16 · (l / 4) + 4 · v + l % 4`, which
/// is how unpacking within 128 bits leaves them; [`Vector::narrow`] packs within 128 bits too, and so brings them
/// back in order. *Vector by vector*: four vectors that are in order each; for these, [`Vector::in_order`] follows
/// `narrow`.
///
/// # Safety of all functions
/// The CPU has the instructions, and pointers stand for as many bytes as are read or written. Functions are to be
/// inlined into one that has the instructions enabled; without that they are slow, but as correct.
pub(super) trait Vector {
    /// Lanes of 32 bits.
    const LANES: usize;
    /// Whether weights that were prepared are `i16`: in each vector the even ones of all lanes, then the odd ones.
    const PREPARES_WIDE: bool;

    /// Bytes, or integers of 32 bits.
    type Int: Copy;
    /// `f32`s.
    type Float: Copy;
    /// Four values for each lane, ready to be multiplied.
    type Values: Copy;
    /// Four weights for each lane, likewise.
    type Weights: Copy;

    /// 4 · `LANES` bytes.
    unsafe fn load(from: *const u8) -> Self::Int;
    /// The same integer in each lane.
    unsafe fn splat(value: i32) -> Self::Int;
    /// Four weights `i8` for each lane: 4 · `LANES` bytes.
    unsafe fn weights(from: *const u8) -> Self::Weights;
    /// Four weights for each lane as they were prepared: 4 · `LANES` bytes, or twice as many.
    unsafe fn prepared_weights(from: *const u8) -> Self::Weights;
    /// Four values `u8`, the same in each lane.
    unsafe fn values(from: *const u8) -> Self::Values;
    /// Bytes of four rows brought together: each lane has one byte of each row; by lanes.
    unsafe fn quads(rows: [Self::Int; 4]) -> [Self::Values; 4];
    /// `sums + Σ values · weights` in each lane, wrapping.
    unsafe fn dot(sums: Self::Int, values: Self::Values, weights: Self::Weights) -> Self::Int;
    /// `a + b` in each lane, wrapping.
    unsafe fn add_integers(a: Self::Int, b: Self::Int) -> Self::Int;

    /// `LANES` floats.
    unsafe fn floats(from: *const f32) -> Self::Float;
    /// The same float in each lane.
    unsafe fn splat_float(value: f32) -> Self::Float;
    /// Integers as floats, rounded half to even.
    unsafe fn to_floats(integers: Self::Int) -> Self::Float;
    /// `byte - zero` for each of 4 · `LANES` bytes, exactly; by lanes. `zero` is within 0..=255.
    unsafe fn widen(bytes: Self::Int, zero: f32) -> [Self::Float; 4];
    /// `a + b`.
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a · b`.
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a / b`.
    unsafe fn div(a: Self::Float, b: Self::Float) -> Self::Float;
    /// The greater one; `b` if `a` is NaN.
    unsafe fn max(a: Self::Float, b: Self::Float) -> Self::Float;

    /// Steps clamped, rounded half to even, and stored as bytes, from by lanes to in order. No step is NaN.
    unsafe fn narrow(steps: [Self::Float; 4], rounding: &Rounding) -> Self::Int;
    /// What [`Vector::narrow`] made of four vectors that were in order each.
    unsafe fn in_order(bytes: Self::Int) -> Self::Int;
    /// Writes the first `count` bytes of a part: part `part` of `PARTS` equal ones. `count` is at least 1.
    unsafe fn store<const PARTS: usize>(bytes: Self::Int, part: usize, to: *mut u8, count: usize);
}

/// A [`Range`] as kernels use it, for bytes stored as `u8`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounding {
    /// The least and the greatest number of steps.
    pub(super) low_steps: f32,
    pub(super) high_steps: f32,
    /// The byte that means zero.
    pub(super) zero: i16,
    /// The least byte.
    pub(super) low: u8,
}

impl Rounding {
    pub(super) fn new(range: Range) -> Rounding {
        let (low_steps, high_steps) = range.bounds();
        Rounding {
            low_steps,
            high_steps,
            zero: i16::from(stored(range.zero_point)),
            low: stored(range.low),
        }
    }
}

/// How a value lies in the arena.
pub(super) const fn stored(value: i8) -> u8 {
    value as u8 ^ 0x80
}
