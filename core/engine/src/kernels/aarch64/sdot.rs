//! 64-bit ARM with SDOT (Armv8.2-DotProd, as a Cortex-A76 has it): four products of bytes added to one `i32`.
//!
//! `SDOT sums.4s, weights.16b, values.4b[lane]` adds to the sums of four channels the products of four weights each
//! with the same four values. For each four values, a block of 16 channels of [`Conv`] is four such vectors of
//! weights, as it lies. Stable Rust has no intrinsic for the instruction, so it is written in assembly.

use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Range;

use super::Sums;
use super::columns;
use super::conv::{self, Products, load_values};
use crate::kernels::{KernelSet, Raw};
use crate::op::{Conv, Segments};

pub(crate) static SDOT: KernelSet = KernelSet {
    name: "sdot",
    conv: Some(convolution),
    depthwise: Some(columns::depthwise),
    prepare_conv: None,
    prepare_depthwise: Some(columns::prepare),
    ..super::neon::NEON
};

/// # Safety
/// `op` was checked against the arena and the constants of `raw`, and the CPU has SDOT.
#[target_feature(enable = "neon")]
unsafe fn convolution(op: &Conv, raw: Raw, range: Range<usize>) {
    // SAFETY: the caller's.
    unsafe { conv::conv::<Dot>(op, raw, range) }
}

struct Dot;

impl Products for Dot {
    /// 20 registers of sums, 5 of values, and the rest for weights.
    const PIXELS: usize = 5;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sums<const M: usize>(
        inputs: [*const i8; M],
        mut weights: *const i8,
        _prepared: *const u8,
        segments: &Segments,
        bias: Sums,
    ) -> [Sums; M] {
        let mut sums = [bias; M];
        let (whole, rest) = (segments.quads() & !3, segments.quads() & 3);
        for row in 0..segments.rows {
            for segment in 0..segments.per_row {
                let mut at = row * segments.row_step_bytes + segment * segments.step_bytes;
                let end = at + whole * 4;
                // SAFETY: the caller's; a vector of values reaches at most 15 bytes beyond the segment.
                unsafe {
                    while at < end {
                        let values = load_values(&inputs, at);
                        add_quad::<M, 0>(&mut sums, weights, &values);
                        add_quad::<M, 1>(&mut sums, weights.add(64), &values);
                        add_quad::<M, 2>(&mut sums, weights.add(128), &values);
                        add_quad::<M, 3>(&mut sums, weights.add(192), &values);
                        weights = weights.add(256);
                        at += 16;
                    }
                    if rest > 0 {
                        let values = load_values(&inputs, at);
                        add_quad::<M, 0>(&mut sums, weights, &values);
                        if rest > 1 {
                            add_quad::<M, 1>(&mut sums, weights.add(64), &values);
                        }
                        if rest > 2 {
                            add_quad::<M, 2>(&mut sums, weights.add(128), &values);
                        }
                        weights = weights.add(rest * 64);
                    }
                }
            }
        }
        sums
    }
}

/// Adds the products with the four values at `LANE` to the sums of 16 channels.
///
/// # Safety
/// 64 weights can be read, and the CPU has SDOT.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_quad<const M: usize, const LANE: usize>(
    sums: &mut [Sums; M],
    weights: *const i8,
    values: &[int8x16_t; M],
) {
    for j in [0, 2] {
        // SAFETY: the caller's.
        unsafe {
            let (first, second) =
                (vld1q_s8(weights.add(j * 16)), vld1q_s8(weights.add(j * 16 + 16)));
            for i in 0..M {
                sums[i][j] = dot::<LANE>(sums[i][j], first, values[i]);
                sums[i][j + 1] = dot::<LANE>(sums[i][j + 1], second, values[i]);
            }
        }
    }
}

/// `sums[c] + Σ weights[c, k] · values[4 · LANE + k]` over four channels and four values.
///
/// # Safety
/// The CPU has SDOT.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot<const LANE: usize>(
    mut sums: int32x4_t,
    weights: int8x16_t,
    values: int8x16_t,
) -> int32x4_t {
    // SAFETY: it reads and writes the registers that it names, and the caller has the instruction.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {weights:v}.16b, {values:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            weights = in(vreg) weights,
            values = in(vreg) values,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}
