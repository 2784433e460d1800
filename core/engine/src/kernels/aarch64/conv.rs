//! Convolutions of 64-bit ARM, whatever multiplies: tiles of a few pixels by 16 channels.

use core::arch::aarch64::*;
use core::ops::Range;

use super::{Rounding, Sums, load_multipliers, load_sums, store};
use crate::kernels::Raw;
use crate::kernels::pixels::Pixels;
use crate::op::{Conv, Segments};

/// How an instruction set sums products.
pub(super) trait Products {
    /// The most pixels of a tile, at most 5: with their sums, the registers are full.
    const PIXELS: usize;

    /// Bytes that it prepares for each block of 16 channels.
    fn prepared_bytes(_segments: &Segments) -> usize {
        0
    }

    /// `bias + Σ weight · input` for `M` pixels and 16 channels.
    ///
    /// # Safety
    /// The CPU has the instruction set. The values of the segments can be read from each input on, with
    /// [`ARENA_SLACK_BYTES`](crate::ARENA_SLACK_BYTES) behind them, a block of weights at `weights`, and at `prepared`
    /// what was prepared for it.
    unsafe fn sums<const M: usize>(
        inputs: [*const i8; M],
        weights: *const i8,
        prepared: *const u8,
        segments: &Segments,
        bias: Sums,
    ) -> [Sums; M];
}

/// The constants of 16 channels, and where their values lie.
struct Block<'a> {
    segments: &'a Segments,
    weights: *const i8,
    prepared: *const u8,
    bias: *const u8,
    multipliers: *const u8,
    /// The arena, at the first channel of the group.
    inputs: *const i8,
    /// The arena, at the first of the channels.
    outputs: *mut u8,
    /// How many of the channels there are.
    count: usize,
    rounding: Rounding,
}

/// Pixels of `range` with all of their channels.
///
/// # Safety
/// `op` was checked against the arena and the constants of `raw`, and the CPU has the instruction set.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn conv<P: Products>(op: &Conv, raw: Raw, mut range: Range<usize>) {
    let segments = op.segments();
    let rounding = Rounding::new(op.range);
    let (blocks, block_bytes) = (op.group_blocks(), segments.block_bytes());
    let group_inputs = op.input.channels as usize / op.groups as usize;
    let mut pixels = Pixels::new();
    while pixels.take(op, &mut range) {
        for index in 0..op.groups as usize * blocks {
            let (group, first) = (index / blocks, index % blocks * 16);
            // SAFETY: the offsets are those that the checker has found within the arena and the constants.
            unsafe {
                let block = Block {
                    segments: &segments,
                    weights: raw.constants.add(op.weights as usize + index * block_bytes).cast(),
                    prepared: raw.prepared.add(index * P::prepared_bytes(&segments)),
                    bias: raw.constants.add(op.bias as usize + index * 64),
                    multipliers: raw.constants.add(op.multipliers as usize + index * 64),
                    inputs: raw.arena.add(group * group_inputs).cast_const().cast(),
                    outputs: raw.arena.add(group * op.group_outputs() + first),
                    count: op.group_outputs() - first,
                    rounding,
                };
                block.run::<P>(&pixels);
            }
        }
    }
}

impl Block<'_> {
    /// # Safety
    /// As for [`conv`]; the pixels are those of the operation.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn run<P: Products>(&self, pixels: &Pixels) {
        let mut first = 0;
        while first < pixels.count {
            let left = (pixels.count - first).min(P::PIXELS);
            // SAFETY: the caller's, and that many pixels are left. A set has no code for tiles that it does not make.
            unsafe {
                match left {
                    1 => self.tile::<P, 1>(pixels, first),
                    2 => self.tile::<P, 2>(pixels, first),
                    3 if P::PIXELS >= 3 => self.tile::<P, 3>(pixels, first),
                    4 if P::PIXELS >= 4 => self.tile::<P, 4>(pixels, first),
                    _ if P::PIXELS >= 5 => self.tile::<P, 5>(pixels, first),
                    _ => (),
                }
            }
            first += left;
        }
    }

    /// `M` pixels from the one at `first` on.
    ///
    /// # Safety
    /// As for [`conv`]; there are so many pixels.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn tile<P: Products, const M: usize>(&self, pixels: &Pixels, first: usize) {
        // SAFETY: the caller's: these are windows, constants and outputs of the operation.
        unsafe {
            let at = |offsets: &[usize], i: usize| *offsets.get_unchecked(first + i);
            let inputs: [*const i8; M] =
                core::array::from_fn(|i| self.inputs.add(at(&pixels.inputs, i)));
            let bias = load_sums(self.bias);
            let sums = P::sums(inputs, self.weights, self.prepared, self.segments, bias);
            let multipliers = load_multipliers(self.multipliers);
            for (i, sums) in sums.into_iter().enumerate() {
                let values = self.rounding.requantise(sums, multipliers);
                store(self.outputs.add(at(&pixels.outputs, i)), values, self.count);
            }
        }
    }
}

/// The pixels' values at an offset.
///
/// # Safety
/// 16 bytes can be read there.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load_values<const M: usize>(
    inputs: &[*const i8; M],
    at: usize,
) -> [int8x16_t; M] {
    // SAFETY: the caller's.
    core::array::from_fn(|i| unsafe { vld1q_s8(inputs[i].add(at)) })
}
