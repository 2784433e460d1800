//! The grid that a quantised representation of a feature lies on, and edges that suit both.
//!
//! A code `q` stands for the value `scale · (q − zero_point)`, as in ONNX `QuantizeLinear`. Its *cell*
//! are the values that are nearer to it than to another code. Where edges lie between cells, a value
//! and the code that it is rounded to fall into the same bin, so a node that counts codes and a gateway
//! that counts floats count the same. Only closer than 1/64 of a code to the border of a cell it is the
//! quantiser's rounding that decides.
//!
//! Everything here is for making specs, so it may calculate in floats; nothing here runs per value.

use serde::{Deserialize, Serialize};

use crate::{Error, key_from_f32};

/// The lowest code: that of `i16`.
const CODE_MIN: i32 = i16::MIN as i32;
/// The highest code: that of `u16`.
const CODE_MAX: i32 = u16::MAX as i32;

const SCALE_EXPONENT_MAX: i32 = 100;
const EXPONENT_BIAS: i32 = 127;
const MANTISSA_BITS: u32 = 23;

/// Scale and zero point of codes in 8 or 16 bits, signed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "GridForm", try_from = "GridForm")]
pub struct Grid {
    // Kept as bits, so that grids can be compared as they are written.
    scale: u32,
    zero_point: i32,
}

impl Grid {
    /// The grid of codes that are `scale` apart, where `zero_point` stands for 0.
    ///
    /// # Errors
    /// [`Error::Grid`] if the scale is not between 2⁻¹⁰⁰ and 2¹⁰⁰, or the zero point is neither an `i16`
    /// nor a `u16`.
    pub fn new(scale: f32, zero_point: i32) -> Result<Self, Error> {
        let exponent = (scale.to_bits() >> MANTISSA_BITS).cast_signed() - EXPONENT_BIAS;
        let is_scale = (-SCALE_EXPONENT_MAX..SCALE_EXPONENT_MAX).contains(&exponent);
        if !is_scale || !(CODE_MIN..=CODE_MAX).contains(&zero_point) {
            return Err(Error::Grid);
        }
        Ok(Self { scale: scale.to_bits(), zero_point })
    }

    /// How far apart the values of neighbouring codes are.
    pub const fn scale(&self) -> f32 {
        f32::from_bits(self.scale)
    }

    /// The code of the value 0.
    pub const fn zero_point(&self) -> i32 {
        self.zero_point
    }

    /// The key of the value that `code` stands for.
    pub fn key(&self, code: i32) -> i32 {
        self.key_of_halves(2 * (code - self.zero_point))
    }

    /// The code in whose cell `key` lies; beyond the last code that one.
    pub fn code(&self, key: i32) -> i32 {
        // The first code whose cell ends behind the key.
        let (mut first, mut last) = (CODE_MIN, CODE_MAX);
        while first < last {
            let middle = first + (last - first) / 2;
            if key < self.cell_start(middle + 1) { last = middle } else { first = middle + 1 }
        }
        first
    }

    /// The lowest key of the cell of `code`: in the middle between its value and that of the code below.
    pub fn cell_start(&self, code: i32) -> i32 {
        self.key_of_halves(2 * (code - self.zero_point) - 1)
    }

    /// Moves an edge into the middle between two neighbouring codes. No code's value changes sides.
    ///
    /// ```
    /// use selvedge_sketch::{Grid, f32_from_key, key_from_f32};
    /// let grid = Grid::new(0.5, 0).expect("half a unit per code");
    /// assert_eq!(f32_from_key(grid.snap(key_from_f32(1.1))), 1.25);
    /// ```
    pub fn snap(&self, edge: i32) -> i32 {
        self.cell_start(self.first_code_right_of(edge))
    }

    /// The lowest code whose value is not left of the edge.
    pub(crate) fn first_code_right_of(&self, edge: i32) -> i32 {
        let code = self.code(edge);
        code + i32::from(self.key(code) < edge)
    }

    pub(crate) const fn scale_bits(&self) -> u32 {
        self.scale
    }

    /// The product has at most 24 + 18 bits: exact in a double, so it is rounded once, as the product
    /// of floats is when a tensor is dequantised.
    fn key_of_halves(&self, halves: i32) -> i32 {
        key_from_f32((f64::from(self.scale()) * f64::from(halves) / 2.0) as f32)
    }
}

/// A grid as it is written down, before its rules are checked.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Grid", deny_unknown_fields)]
struct GridForm {
    scale: f32,
    zero_point: i32,
}

impl From<Grid> for GridForm {
    fn from(grid: Grid) -> Self {
        Self { scale: grid.scale(), zero_point: grid.zero_point }
    }
}

impl TryFrom<GridForm> for Grid {
    type Error = Error;

    fn try_from(form: GridForm) -> Result<Self, Error> {
        Self::new(form.scale, form.zero_point)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn grid() -> impl Strategy<Value = Grid> {
        let scale = (any::<u32>(), -20..20i32).prop_map(|(mantissa, exponent)| {
            let exponent = (exponent + EXPONENT_BIAS).cast_unsigned();
            f32::from_bits(exponent << MANTISSA_BITS | mantissa >> (32 - MANTISSA_BITS))
        });
        (scale, prop_oneof![-128..256i32, -32_768..65_536i32])
            .prop_map(|(scale, zero)| Grid::new(scale, zero).expect("scale and zero are in range"))
    }

    #[test]
    fn a_grid_that_no_tensor_has_is_refused() {
        for (scale, zero_point) in [
            (0.0, 0),
            (-1.0, 0),
            (f32::NAN, 0),
            (f32::INFINITY, 0),
            (1e-40, 0),
            (1.0, -32_769),
            (1.0, 65_536),
        ] {
            assert_eq!(Grid::new(scale, zero_point), Err(Error::Grid), "{scale} {zero_point}");
        }
    }

    proptest! {
        #[test]
        fn cells_follow_each_other_with_their_code_inside(grid in grid(), code in -32_768..65_535i32) {
            prop_assert!(grid.cell_start(code) <= grid.key(code));
            prop_assert!(grid.key(code) < grid.cell_start(code + 1));
            prop_assert_eq!(grid.code(grid.key(code)), code);
            prop_assert_eq!(grid.code(grid.cell_start(code)), code);
            prop_assert_eq!(grid.code(grid.cell_start(code + 1) - 1), code);
        }

        #[test]
        fn a_key_is_that_of_the_dequantised_float(grid in grid(), code in -32_768..65_536i32) {
            let value = grid.scale() * (code - grid.zero_point()) as f32;
            prop_assert_eq!(grid.key(code), key_from_f32(value));
        }

        #[test]
        fn snapping_moves_no_code_to_the_other_side(grid in grid(), edge: f32, code in -300..300i32) {
            prop_assume!(!edge.is_nan());
            let edge = key_from_f32(edge);
            let snapped = grid.snap(edge);
            prop_assert_eq!(grid.key(code) < edge, grid.key(code) < snapped);
            prop_assert_eq!(grid.snap(snapped), snapped, "once is enough");
        }
    }
}
