//! Convolutions of channels by themselves, for any window: tap by tap, in chains as [`taps`](crate::kernels::taps) has
//! them.

use core::arch::aarch64::*;
use core::ops::Range;

use super::{Rounding, Sums, load_multipliers, load_sums, store};
use crate::kernels::Raw;
use crate::kernels::taps::{Rows, SCALES_BYTES, TAP_BYTES, TAP_CONTINUES, TAP_OFFSET};
use crate::op::Depthwise;
use crate::reference::window_start;

/// One row of the output, 16 channels of it.
pub(super) struct Row {
    /// The first vector of the input.
    pub(super) input: *const i8,
    pub(super) output: *mut u8,
    pub(super) rows: Rows,
    /// What was prepared for the block.
    pub(super) prepared: *const u8,
    block: usize,
    /// Vectors of 16 values; those behind them have less.
    whole: usize,
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
                    block,
                    whole: rows.whole(block),
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
        // SAFETY: the caller's: the multipliers were prepared, and so many values of the output are there.
        unsafe {
            let multipliers = load_multipliers(self.prepared.add(64));
            let values = self.rounding.requantise(sums, multipliers);
            let to = self.output.add(vector * self.rows.output_step);
            if vector < self.whole {
                vst1q_s8(to.cast(), values);
            } else {
                store(to, values, self.rows.count(self.block, vector));
            }
        }
    }

    /// # Safety
    /// The row is one of a checked operation with `taps` taps, prepared as [`taps`](crate::kernels::taps) has it.
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
                while tap.add(TAP_CONTINUES).cast::<u32>().read() != 0 {
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
            for (i, sums) in sums.into_iter().enumerate() {
                self.finish(first + i, sums);
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
        let offset = tap.add(TAP_OFFSET).cast::<u32>().read() as usize;
        (vld1q_s8(tap.cast()), core::array::from_fn(|i| vld1q_s8(inputs[i].add(offset))))
    }
}

/// # Safety
/// `op` was checked against the arena and the constants of `raw`, and prepared as [`taps`](crate::kernels::taps) has it.
#[target_feature(enable = "neon")]
pub(super) unsafe fn depthwise(op: &Depthwise, raw: Raw, range: Range<usize>) {
    let taps = op.window.taps();
    // SAFETY: the caller's.
    unsafe {
        each_row(op, raw, range, SCALES_BYTES + taps * TAP_BYTES, |row| row.run(taps));
    }
}
