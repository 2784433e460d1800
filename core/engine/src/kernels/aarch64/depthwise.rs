//! Convolutions of channels by themselves: how their rows are cut into vectors, and the kernel for any window.
//!
//! A vector is 16 channels of a pixel, or all channels of several pixels where these are few and lie next to each
//! other. Bytes are multiplied to `i16`, and as many products are added there as the weights allow: see
//! [`neon`](super::neon) for why such a *chain* is exact. Taps need no order, so that chains are filled greedily.
//!
//! What is prepared, for each block of 16 channels:
//!
//! | offset | width | meaning |
//! |---|---|---|
//! | 0 | 64 | biases, `[16] i32` |
//! | 64 | 64 | multipliers, `[16] f32` |
//! | 128 | 32 each | taps: `[16] i8` weights, offset in the input (`u32`), whether the next tap continues the chain (`u32`) |

#[cfg(feature = "alloc")]
use alloc::vec::Vec;
use core::arch::aarch64::*;
use core::ops::Range;

#[cfg(feature = "alloc")]
use super::neon::MAGNITUDES_MAX;
use super::{Rounding, Sums, load_multipliers, load_sums, store};
use crate::kernels::Raw;
use crate::op::Depthwise;
use crate::reference::window_start;

/// Biases and multipliers of a block.
pub(super) const SCALES_BYTES: usize = 128;
const TAP_BYTES: usize = 32;

/// How a row of the output is cut into vectors.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// Blocks of 16 channels.
    pub(super) blocks: usize,
    /// Vectors of a block in a row.
    pub(super) vectors: usize,
    /// Bytes from one vector to the next in the input, one step of a window further.
    pub(super) input_step: usize,
    /// Bytes from one vector to the next in the output.
    output_step: usize,
    /// Channels, of which each block takes 16; 16 if a vector is several pixels.
    channels: usize,
    /// Values that the last vector of a row is short of 16 in that case.
    missing: usize,
}

impl Rows {
    pub(super) const fn new(op: &Depthwise) -> Rows {
        let (channels, width) = (op.output.channels as usize, op.output.width as usize);
        let dense = op.input.pixel_bytes == op.output.channels
            && op.output.pixel_bytes == op.output.channels;
        if channels < 16 && 16 % channels == 0 && dense && op.window.stride[1] == 1 {
            let values = width * channels;
            let vectors = values.div_ceil(16);
            let missing = vectors * 16 - values;
            Rows { blocks: 1, vectors, input_step: 16, output_step: 16, channels: 16, missing }
        } else {
            Rows {
                blocks: channels.div_ceil(16),
                vectors: width,
                input_step: op.window.stride[1] as usize * op.input.pixel_bytes as usize,
                output_step: op.output.pixel_bytes as usize,
                channels,
                missing: 0,
            }
        }
    }
}

/// What stands in front of the weights of each block: biases and multipliers, and the channel of each lane.
#[cfg(feature = "alloc")]
pub(super) fn scales(op: &Depthwise, constants: &[u8], block: usize) -> (Vec<u8>, [usize; 16]) {
    let channels = op.output.channels as usize;
    let lanes = core::array::from_fn(|lane| match Rows::new(op) {
        Rows { channels: 16, blocks: 1, .. } => lane % channels,
        _ => block * 16 + lane,
    });
    let words = |offset: u32| {
        lanes.iter().flat_map(move |lane| &constants[offset as usize + lane * 4..][..4]).copied()
    };
    (words(op.bias).chain(words(op.multipliers)).collect(), lanes)
}

/// Prepares an operation: see the table at the top.
#[cfg(feature = "alloc")]
pub(super) fn prepare(op: &Depthwise, constants: &[u8]) -> Vec<u8> {
    (0..Rows::new(op).blocks)
        .flat_map(|block| {
            let (mut bytes, lanes) = scales(op, constants, block);
            let weights: Vec<[i8; 16]> = (0..op.window.taps())
                .map(|tap| {
                    let row = &constants[op.weights as usize + tap * op.padded_channels()..];
                    lanes.map(|lane| row[lane] as i8)
                })
                .collect();
            for chain in chains(&weights) {
                for (index, tap) in chain.iter().enumerate() {
                    let continues = u32::from(index + 1 < chain.len());
                    bytes.extend(weights[*tap].map(|weight| weight as u8));
                    bytes.extend(tap_offset(op, *tap).to_le_bytes());
                    bytes.extend(continues.to_le_bytes());
                    bytes.extend([0; 8]);
                }
            }
            bytes
        })
        .collect()
}

/// Taps that are summed up in `i16` together.
#[cfg(feature = "alloc")]
fn chains(weights: &[[i8; 16]]) -> Vec<Vec<usize>> {
    let mut chains: Vec<(Vec<usize>, [u32; 16])> = Vec::new();
    for (tap, weights) in weights.iter().enumerate() {
        let magnitudes = weights.map(|weight| u32::from(weight.unsigned_abs()));
        let fits = |sums: &[u32; 16]| {
            sums.iter().zip(&magnitudes).all(|(sum, more)| sum + more <= MAGNITUDES_MAX)
        };
        match chains.iter_mut().find(|(_, sums)| fits(sums)) {
            Some((chain, sums)) => {
                chain.push(tap);
                sums.iter_mut().zip(magnitudes).for_each(|(sum, more)| *sum += more);
            }
            None => chains.push((Vec::from([tap]), magnitudes)),
        }
    }
    chains.into_iter().map(|(chain, _)| chain).collect()
}

/// Where a tap lies in the input, seen from the first one. The checker has found it to be within the arena.
#[cfg(feature = "alloc")]
fn tap_offset(op: &Depthwise, tap: usize) -> u32 {
    let (down, right) = (tap as u32 / op.window.kernel[1], tap as u32 % op.window.kernel[1]);
    down * op.window.dilation[0] * op.input.row_bytes
        + right * op.window.dilation[1] * op.input.pixel_bytes
}

/// One row of the output, 16 channels of it.
pub(super) struct Row {
    /// The first vector of the input.
    pub(super) input: *const i8,
    pub(super) output: *mut u8,
    pub(super) rows: Rows,
    /// What was prepared for the block.
    pub(super) prepared: *const u8,
    /// Values of a vector, up to 16; the last one of the row may have less.
    count: usize,
    pub(super) rounding: Rounding,
}

/// Calls `row` for each block of the rows of `range`.
///
/// # Safety
/// `op` was checked against the arena of `raw`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn each_row(
    op: &Depthwise,
    raw: Raw,
    range: Range<usize>,
    prepared_bytes: usize,
    row: impl Fn(&Row),
) {
    let (rows, rounding) = (Rows::new(op), Rounding::new(op.range));
    for y in range {
        for block in 0..rows.blocks {
            // SAFETY: the caller's: these are a row of the operation, and what was prepared for the block.
            row(&unsafe {
                let input = window_start(&op.input, &op.window, y as u32, 0) + block * 16;
                Row {
                    input: raw.arena.add(input).cast_const().cast(),
                    output: raw.arena.add(op.output.at(y as u32, 0) + block * 16),
                    rows,
                    prepared: raw.prepared.add(block * prepared_bytes),
                    count: (rows.channels - block * 16).min(16),
                    rounding,
                }
            });
        }
    }
}

impl Row {
    /// Stores the values of a vector.
    ///
    /// # Safety
    /// It is one of the row's.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn finish(&self, vector: usize, sums: Sums) {
        let last = vector + 1 == self.rows.vectors;
        let count = if last { self.count - self.rows.missing } else { self.count };
        // SAFETY: the caller's: the multipliers were prepared, and so many values of the output are there.
        unsafe {
            let multipliers = load_multipliers(self.prepared.add(64));
            let values = self.rounding.requantise(sums, multipliers);
            store(self.output.add(vector * self.rows.output_step), values, count);
        }
    }

    /// # Safety
    /// The row is one of a checked operation with `taps` taps, prepared by [`prepare`].
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn run(&self, taps: usize) {
        let mut vector = 0;
        // SAFETY: the caller's.
        unsafe {
            while vector + 4 <= self.rows.vectors {
                self.tile::<4>(vector, taps);
                vector += 4;
            }
            while vector < self.rows.vectors {
                self.tile::<1>(vector, taps);
                vector += 1;
            }
        }
    }

    /// `M` vectors from the one at `first` on.
    ///
    /// # Safety
    /// As for [`Row::run`]; there are so many.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn tile<const M: usize>(&self, first: usize, taps: usize) {
        // SAFETY: the caller's.
        unsafe {
            let mut sums = [load_sums(self.prepared); M];
            let inputs: [*const i8; M] =
                core::array::from_fn(|i| self.input.add((first + i) * self.rows.input_step));
            let mut tap = self.prepared.add(SCALES_BYTES);
            let end = tap.add(taps * TAP_BYTES);
            while tap < end {
                let (weights, values) = load_tap(tap, &inputs);
                let mut low: [int16x8_t; M] = core::array::from_fn(|i| {
                    vmull_s8(vget_low_s8(values[i]), vget_low_s8(weights))
                });
                let mut high: [int16x8_t; M] =
                    core::array::from_fn(|i| vmull_high_s8(values[i], weights));
                while tap.add(20).cast::<u32>().read() != 0 {
                    tap = tap.add(TAP_BYTES);
                    let (weights, values) = load_tap(tap, &inputs);
                    for i in 0..M {
                        low[i] = vmlal_s8(low[i], vget_low_s8(values[i]), vget_low_s8(weights));
                        high[i] = vmlal_high_s8(high[i], values[i], weights);
                    }
                }
                tap = tap.add(TAP_BYTES);
                for i in 0..M {
                    sums[i][0] = vaddw_s16(sums[i][0], vget_low_s16(low[i]));
                    sums[i][1] = vaddw_high_s16(sums[i][1], low[i]);
                    sums[i][2] = vaddw_s16(sums[i][2], vget_low_s16(high[i]));
                    sums[i][3] = vaddw_high_s16(sums[i][3], high[i]);
                }
            }
            for i in 0..M {
                self.finish(first + i, sums[i]);
            }
        }
    }
}

/// The weights of a tap, and the values that they are for.
///
/// # Safety
/// `tap` was prepared for an operation whose windows begin at `inputs`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_tap<const M: usize>(
    tap: *const u8,
    inputs: &[*const i8; M],
) -> (int8x16_t, [int8x16_t; M]) {
    // SAFETY: the caller's; records are aligned to 32 bytes.
    unsafe {
        let offset = tap.add(16).cast::<u32>().read() as usize;
        (vld1q_s8(tap.cast()), core::array::from_fn(|i| vld1q_s8(inputs[i].add(offset))))
    }
}

/// # Safety
/// `op` was checked against the arena and the constants of `raw`, and prepared by [`prepare`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn depthwise(op: &Depthwise, raw: Raw, range: Range<usize>) {
    let taps = op.window.taps();
    // SAFETY: the caller's.
    unsafe {
        each_row(op, raw, range, SCALES_BYTES + taps * TAP_BYTES, |row| row.run(taps));
    }
}
