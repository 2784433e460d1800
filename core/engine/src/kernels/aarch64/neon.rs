//! Any 64-bit ARM (Cortex-A53, Cortex-A72): bytes are multiplied to `i16`, and pairs of those added to `i32`.
//!
//! Four values are repeated all over a register. SMULL then multiplies them with the weights of two channels, SMLAL
//! adds the products of the next four values, and SADALP adds neighbours to two partial sums for each channel.
//! Two products fit into `i16` together unless all four factors are -128; see [`Prepared`].

use core::arch::aarch64::*;
use core::ops::Range;

use super::Sums;
use super::conv::{self, Products};
use crate::kernels::{KernelSet, Raw};
use crate::op::{Conv, Segments};

pub(crate) static NEON: KernelSet = KernelSet {
    name: "neon",
    flip: 0,
    conv: Some(convolution),
    depthwise: None,
    add: None,
    average_pool: None,
    import: None,
    table: None,
    #[cfg(feature = "alloc")]
    prepare_conv: None,
    #[cfg(feature = "alloc")]
    prepare_depthwise: None,
};

/// # Safety
/// `op` was checked against the arena and the constants of `raw`.
#[target_feature(enable = "neon")]
unsafe fn convolution(op: &Conv, raw: Raw, range: Range<usize>) {
    // SAFETY: the caller's.
    unsafe { conv::conv::<MultiplyLong>(op, raw, range) }
}

struct MultiplyLong;

/// Two partial sums of each of 16 channels, next to each other.
type Partial = [int32x4_t; 8];

impl Products for MultiplyLong {
    /// 16 registers of partial sums, and the rest for values, weights and products.
    const PIXELS: usize = 2;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sums<const M: usize>(
        inputs: [*const i8; M],
        mut weights: *const i8,
        segments: &Segments,
        bias: Sums,
    ) -> [Sums; M] {
        let mut partial = [spread(bias); M];
        let quads = segments.quads();
        for row in 0..segments.rows {
            for segment in 0..segments.per_row {
                let mut at = row * segments.row_step_bytes + segment * segments.step_bytes;
                let end = at + (quads & !1) * 4;
                // SAFETY: the caller's.
                unsafe {
                    while at < end {
                        add_quads::<M>(&mut partial, weights, &inputs, at);
                        weights = weights.add(128);
                        at += 8;
                    }
                    if quads & 1 != 0 {
                        add_quad::<M>(&mut partial, weights, &inputs, at);
                        weights = weights.add(64);
                    }
                }
            }
        }
        core::array::from_fn(|i| {
            core::array::from_fn(|j| vpaddq_s32(partial[i][2 * j], partial[i][2 * j + 1]))
        })
    }
}

/// The sums as the first of two partial sums, the second being zero.
#[inline]
#[target_feature(enable = "neon")]
fn spread(sums: Sums) -> Partial {
    let zero = vdupq_n_s32(0);
    core::array::from_fn(|j| match j % 2 {
        0 => vzip1q_s32(sums[j / 2], zero),
        _ => vzip2q_s32(sums[j / 2], zero),
    })
}

/// Four values, over and over.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn repeated(values: *const i8) -> int8x16_t {
    // SAFETY: the caller's.
    vreinterpretq_s8_s32(vdupq_n_s32(unsafe { values.cast::<i32>().read_unaligned() }))
}

/// Adds the products with four values.
///
/// # Safety
/// They can be read, and 64 weights.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_quad<const M: usize>(
    partial: &mut [Partial; M],
    weights: *const i8,
    inputs: &[*const i8; M],
    at: usize,
) {
    // SAFETY: the caller's.
    let values: [int8x16_t; M] =
        core::array::from_fn(|i| unsafe { repeated(inputs[i].add(at)) });
    for j in 0..4 {
        // SAFETY: the caller's.
        let weights = unsafe { vld1q_s8(weights.add(j * 16)) };
        for i in 0..M {
            let low = vmull_s8(vget_low_s8(weights), vget_low_s8(values[i]));
            let high = vmull_high_s8(weights, values[i]);
            partial[i][2 * j] = vpadalq_s16(partial[i][2 * j], low);
            partial[i][2 * j + 1] = vpadalq_s16(partial[i][2 * j + 1], high);
        }
    }
}

/// Adds the products with eight values, two of which fit into `i16` together.
///
/// # Safety
/// They can be read, and 128 weights.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_quads<const M: usize>(
    partial: &mut [Partial; M],
    weights: *const i8,
    inputs: &[*const i8; M],
    at: usize,
) {
    // SAFETY: the caller's.
    let first: [int8x16_t; M] =
        core::array::from_fn(|i| unsafe { repeated(inputs[i].add(at)) });
    // SAFETY: the caller's.
    let second: [int8x16_t; M] =
        core::array::from_fn(|i| unsafe { repeated(inputs[i].add(at + 4)) });
    for j in 0..4 {
        // SAFETY: the caller's.
        let [a, b] = unsafe { [0, 64].map(|next| vld1q_s8(weights.add(j * 16 + next))) };
        for i in 0..M {
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(first[i]));
            let low = vmlal_s8(low, vget_low_s8(b), vget_low_s8(second[i]));
            let high = vmull_high_s8(a, first[i]);
            let high = vmlal_high_s8(high, b, second[i]);
            partial[i][2 * j] = vpadalq_s16(partial[i][2 * j], low);
            partial[i][2 * j + 1] = vpadalq_s16(partial[i][2 * j + 1], high);
        }
    }
}
