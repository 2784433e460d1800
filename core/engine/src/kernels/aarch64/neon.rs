//! Any 64-bit ARM (Cortex-A53, Cortex-A72): bytes are multiplied to `i16`, and neighbours of those added to `i32`.
//!
//! Four values are repeated all over a register. SMULL multiplies them with the weights of two channels, SMLAL adds
//! the products of the next four values, and SADALP adds neighbours to two partial sums for each channel: a block of
//! 16 channels has eight registers of partial sums.
//!
//! How many products fit into `i16` depends on the weights alone, whatever the values are: a value is at least -128, so
//! that weights whose magnitudes sum up to no more than 255 are safe. That is found out when a program is prepared,
//! for each stretch of 16 values of each block, and kept as the stretch's *chain*: 4, 2 or 1 products.

use alloc::vec::Vec;
use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Range;

use super::Sums;
use super::conv::{self, Products, load_values};
use super::depthwise;
use super::elements;
use crate::kernels::taps::{self, MAGNITUDES_MAX};
use crate::kernels::{KernelSet, Raw};
use crate::op::{Conv, Segments};

pub(crate) static NEON: KernelSet = KernelSet {
    name: "neon",
    flip: 0,
    conv: Some(convolution),
    depthwise: Some(depthwise::depthwise),
    add: Some(elements::add),
    average_pool: Some(elements::average_pool),
    import: Some(elements::import),
    table: Some(elements::table),
    prepare_conv: Some(chains),
    prepare_depthwise: Some(taps::prepare),
};

/// Stretches of up to four quads in a segment.
const fn stretches(segments: &Segments) -> usize {
    segments.quads().div_ceil(4)
}

/// The chain of each stretch of each block. A last stretch of less than four quads has no chain of 4.
fn chains(op: &Conv, constants: &[u8]) -> Vec<u8> {
    let segments = op.segments();
    let blocks = op.groups as usize * op.group_blocks();
    let weights = &constants[op.weights as usize..][..blocks * segments.block_bytes()];
    let segment_chains = |segment: &[u8]| segment.chunks(4 * 64).map(chain).collect::<Vec<u8>>();
    weights.chunks(segments.quads() * 64).flat_map(segment_chains).collect()
}

fn chain(stretch: &[u8]) -> u8 {
    let fits = |quads: &[u8]| {
        (0..64).all(|place| {
            let weights = quads[place..].iter().step_by(64);
            weights.map(|weight| u32::from((*weight as i8).unsigned_abs())).sum::<u32>()
                <= MAGNITUDES_MAX
        })
    };
    match stretch.len() {
        256 if fits(stretch) => 4,
        _ if stretch.chunks(2 * 64).all(fits) => 2,
        _ => 1,
    }
}

/// # Safety
/// `op` was checked against the arena and the constants of `raw`, and prepared for this set.
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

    fn prepared_bytes(segments: &Segments) -> usize {
        segments.rows * segments.per_row * stretches(segments)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sums<const M: usize>(
        inputs: [*const i8; M],
        mut weights: *const i8,
        mut chains: *const u8,
        segments: &Segments,
        bias: Sums,
    ) -> [Sums; M] {
        let mut partial = [spread(bias); M];
        let (whole, rest) = (segments.quads() & !3, segments.quads() & 3);
        for row in 0..segments.rows {
            for segment in 0..segments.per_row {
                let mut at = row * segments.row_step_bytes + segment * segments.step_bytes;
                let end = at + whole * 4;
                // SAFETY: the caller's.
                unsafe {
                    while at < end {
                        add_stretch(&mut partial, weights, &load_values(&inputs, at), *chains);
                        weights = weights.add(256);
                        chains = chains.add(1);
                        at += 16;
                    }
                    if rest > 0 {
                        add_rest(&mut partial, weights, &load_values(&inputs, at), rest, *chains);
                        weights = weights.add(rest * 64);
                        chains = chains.add(1);
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

/// Adds the products with 16 values.
///
/// # Safety
/// 256 weights can be read, and this is their chain.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_stretch<const M: usize>(
    partial: &mut [Partial; M],
    weights: *const i8,
    values: &[int8x16_t; M],
    chain: u8,
) {
    // SAFETY: the caller's.
    unsafe {
        match chain {
            4 => add_four_quads(partial, weights, values),
            2 => {
                add_two_quads::<M, 0, 1>(partial, weights, values);
                add_two_quads::<M, 2, 3>(partial, weights.add(128), values);
            }
            _ => {
                add_quad::<M, 0>(partial, weights, values);
                add_quad::<M, 1>(partial, weights.add(64), values);
                add_quad::<M, 2>(partial, weights.add(128), values);
                add_quad::<M, 3>(partial, weights.add(192), values);
            }
        }
    }
}

/// Adds the products with the one to three quads at the end of a segment.
///
/// # Safety
/// 64 weights can be read for each quad, and this is their chain.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_rest<const M: usize>(
    partial: &mut [Partial; M],
    weights: *const i8,
    values: &[int8x16_t; M],
    quads: usize,
    chain: u8,
) {
    // SAFETY: the caller's.
    unsafe {
        if quads > 1 && chain == 2 {
            add_two_quads::<M, 0, 1>(partial, weights, values);
        } else {
            add_quad::<M, 0>(partial, weights, values);
            if quads > 1 {
                add_quad::<M, 1>(partial, weights.add(64), values);
            }
        }
        if quads > 2 {
            add_quad::<M, 2>(partial, weights.add(128), values);
        }
    }
}

/// The four values at `LANE` of each pixel's 16, over and over.
#[inline]
#[target_feature(enable = "neon")]
fn repeated<const M: usize, const LANE: i32>(values: &[int8x16_t; M]) -> [int8x16_t; M] {
    values.map(|values| vreinterpretq_s8_s32(vdupq_laneq_s32::<LANE>(vreinterpretq_s32_s8(values))))
}

/// The 16 weights of four channels and a quad of values: channels `4 · j` to `4 · j + 3` of the block.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_weights(weights: *const i8, quad: usize, j: usize) -> int8x16_t {
    // SAFETY: the caller's.
    unsafe { vld1q_s8(weights.add(quad * 64 + j * 16)) }
}

/// Adds the products with the four values at `A`.
///
/// # Safety
/// 64 weights can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_quad<const M: usize, const A: i32>(
    partial: &mut [Partial; M],
    weights: *const i8,
    values: &[int8x16_t; M],
) {
    let values = repeated::<M, A>(values);
    for j in 0..4 {
        // SAFETY: the caller's.
        let weights = unsafe { load_weights(weights, 0, j) };
        for i in 0..M {
            multiply_one(&mut partial[i], j, weights, values[i]);
        }
    }
}

/// Adds the products with the four values at `A` and those at `B`, in chains of 2.
///
/// # Safety
/// 128 weights can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_two_quads<const M: usize, const A: i32, const B: i32>(
    partial: &mut [Partial; M],
    weights: *const i8,
    values: &[int8x16_t; M],
) {
    let values = [repeated::<M, A>(values), repeated::<M, B>(values)];
    for j in 0..4 {
        // SAFETY: the caller's.
        let weights = unsafe { [load_weights(weights, 0, j), load_weights(weights, 1, j)] };
        for i in 0..M {
            multiply_two(&mut partial[i], j, weights, [values[0][i], values[1][i]]);
        }
    }
}

/// Adds the products with 16 values, in chains of 4.
///
/// # Safety
/// 256 weights can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_four_quads<const M: usize>(
    partial: &mut [Partial; M],
    weights: *const i8,
    values: &[int8x16_t; M],
) {
    let quads = [
        repeated::<M, 0>(values),
        repeated::<M, 1>(values),
        repeated::<M, 2>(values),
        repeated::<M, 3>(values),
    ];
    // SAFETY: the caller's.
    unsafe {
        multiply_four::<M, 0>(partial, weights, quads);
        multiply_four::<M, 1>(partial, weights, quads);
        multiply_four::<M, 2>(partial, weights, quads);
        multiply_four::<M, 3>(partial, weights, quads);
    }
}

// The products are written in assembly: from intrinsics, the compiler takes the halves of each register apart before it
// multiplies them. Products of the lower half belong to the first two of four channels, those of the upper half to
// the others.

#[inline]
#[target_feature(enable = "neon")]
fn multiply_one(partial: &mut Partial, j: usize, weights: int8x16_t, values: int8x16_t) {
    // SAFETY: it reads and writes the registers that it names.
    unsafe {
        asm!(
            "smull {t:v}.8h, {w:v}.8b, {x:v}.8b",
            "smull2 {u:v}.8h, {w:v}.16b, {x:v}.16b",
            "sadalp {low:v}.4s, {t:v}.8h",
            "sadalp {high:v}.4s, {u:v}.8h",
            t = out(vreg) _,
            u = out(vreg) _,
            low = inout(vreg) partial[2 * j],
            high = inout(vreg) partial[2 * j + 1],
            w = in(vreg) weights,
            x = in(vreg) values,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply_two(partial: &mut Partial, j: usize, weights: [int8x16_t; 2], values: [int8x16_t; 2]) {
    // SAFETY: it reads and writes the registers that it names.
    unsafe {
        asm!(
            "smull {t:v}.8h, {w0:v}.8b, {x0:v}.8b",
            "smull2 {u:v}.8h, {w0:v}.16b, {x0:v}.16b",
            "smlal {t:v}.8h, {w1:v}.8b, {x1:v}.8b",
            "smlal2 {u:v}.8h, {w1:v}.16b, {x1:v}.16b",
            "sadalp {low:v}.4s, {t:v}.8h",
            "sadalp {high:v}.4s, {u:v}.8h",
            t = out(vreg) _,
            u = out(vreg) _,
            low = inout(vreg) partial[2 * j],
            high = inout(vreg) partial[2 * j + 1],
            w0 = in(vreg) weights[0],
            w1 = in(vreg) weights[1],
            x0 = in(vreg) values[0],
            x1 = in(vreg) values[1],
            options(pure, nomem, nostack, preserves_flags)
        );
    }
}

/// The weights are loaded here, one register ahead: with two pixels, all registers are taken.
///
/// # Safety
/// 256 weights can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn multiply_four<const M: usize, const J: usize>(
    partial: &mut [Partial; M],
    weights: *const i8,
    quads: [[int8x16_t; M]; 4],
) {
    // SAFETY: the caller's.
    unsafe {
        if M == 1 {
            multiply_four_1::<M, J>(partial, weights, &quads);
        } else {
            multiply_four_2::<M, J>(partial, weights, &quads);
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn multiply_four_1<const M: usize, const J: usize>(
    partial: &mut [Partial; M],
    weights: *const i8,
    quads: &[[int8x16_t; M]; 4],
) {
    // SAFETY: it reads the caller's weights, and reads and writes the registers that it names.
    unsafe {
        asm!(
            "ldr {v:q}, [{weights}, {w0}]",
            "ldr {w:q}, [{weights}, {w1}]",
            "smull {t:v}.8h, {v:v}.8b, {x0:v}.8b",
            "smull2 {u:v}.8h, {v:v}.16b, {x0:v}.16b",
            "ldr {v:q}, [{weights}, {w2}]",
            "smlal {t:v}.8h, {w:v}.8b, {x1:v}.8b",
            "smlal2 {u:v}.8h, {w:v}.16b, {x1:v}.16b",
            "ldr {w:q}, [{weights}, {w3}]",
            "smlal {t:v}.8h, {v:v}.8b, {x2:v}.8b",
            "smlal2 {u:v}.8h, {v:v}.16b, {x2:v}.16b",
            "smlal {t:v}.8h, {w:v}.8b, {x3:v}.8b",
            "smlal2 {u:v}.8h, {w:v}.16b, {x3:v}.16b",
            "sadalp {low:v}.4s, {t:v}.8h",
            "sadalp {high:v}.4s, {u:v}.8h",
            v = out(vreg) _,
            w = out(vreg) _,
            t = out(vreg) _,
            u = out(vreg) _,
            low = inout(vreg) partial[0][2 * J],
            high = inout(vreg) partial[0][2 * J + 1],
            weights = in(reg) weights,
            w0 = const J * 16,
            w1 = const J * 16 + 64,
            w2 = const J * 16 + 128,
            w3 = const J * 16 + 192,
            x0 = in(vreg) quads[0][0],
            x1 = in(vreg) quads[1][0],
            x2 = in(vreg) quads[2][0],
            x3 = in(vreg) quads[3][0],
            options(pure, readonly, nostack, preserves_flags)
        );
    }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn multiply_four_2<const M: usize, const J: usize>(
    partial: &mut [Partial; M],
    weights: *const i8,
    quads: &[[int8x16_t; M]; 4],
) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "ldr {v:q}, [{weights}, {w0}]",
            "ldr {w:q}, [{weights}, {w1}]",
            "smull {t:v}.8h, {v:v}.8b, {x0:v}.8b",
            "smull2 {u:v}.8h, {v:v}.16b, {x0:v}.16b",
            "smull {r:v}.8h, {v:v}.8b, {y0:v}.8b",
            "smull2 {s:v}.8h, {v:v}.16b, {y0:v}.16b",
            "ldr {v:q}, [{weights}, {w2}]",
            "smlal {t:v}.8h, {w:v}.8b, {x1:v}.8b",
            "smlal2 {u:v}.8h, {w:v}.16b, {x1:v}.16b",
            "smlal {r:v}.8h, {w:v}.8b, {y1:v}.8b",
            "smlal2 {s:v}.8h, {w:v}.16b, {y1:v}.16b",
            "ldr {w:q}, [{weights}, {w3}]",
            "smlal {t:v}.8h, {v:v}.8b, {x2:v}.8b",
            "smlal2 {u:v}.8h, {v:v}.16b, {x2:v}.16b",
            "smlal {r:v}.8h, {v:v}.8b, {y2:v}.8b",
            "smlal2 {s:v}.8h, {v:v}.16b, {y2:v}.16b",
            "smlal {t:v}.8h, {w:v}.8b, {x3:v}.8b",
            "smlal2 {u:v}.8h, {w:v}.16b, {x3:v}.16b",
            "smlal {r:v}.8h, {w:v}.8b, {y3:v}.8b",
            "smlal2 {s:v}.8h, {w:v}.16b, {y3:v}.16b",
            "sadalp {x_low:v}.4s, {t:v}.8h",
            "sadalp {x_high:v}.4s, {u:v}.8h",
            "sadalp {y_low:v}.4s, {r:v}.8h",
            "sadalp {y_high:v}.4s, {s:v}.8h",
            v = out(vreg) _,
            w = out(vreg) _,
            t = out(vreg) _,
            u = out(vreg) _,
            r = out(vreg) _,
            s = out(vreg) _,
            x_low = inout(vreg) partial[0][2 * J],
            x_high = inout(vreg) partial[0][2 * J + 1],
            y_low = inout(vreg) partial[M - 1][2 * J],
            y_high = inout(vreg) partial[M - 1][2 * J + 1],
            weights = in(reg) weights,
            w0 = const J * 16,
            w1 = const J * 16 + 64,
            w2 = const J * 16 + 128,
            w3 = const J * 16 + 192,
            x0 = in(vreg) quads[0][0],
            x1 = in(vreg) quads[1][0],
            x2 = in(vreg) quads[2][0],
            x3 = in(vreg) quads[3][0],
            y0 = in(vreg) quads[0][M - 1],
            y1 = in(vreg) quads[1][M - 1],
            y2 = in(vreg) quads[2][M - 1],
            y3 = in(vreg) quads[3][M - 1],
            options(pure, readonly, nostack, preserves_flags)
        );
    }
}
