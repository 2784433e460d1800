//! Convolutions of channels by themselves with SDOT: windows of three by three, column by column.
//!
//! The three values of a column are brought next to each other, for each of 16 channels (with the last one twice, whose
//! second weight is zero): `[16 channels, 4 values]` in four vectors. One SDOT with the column's weights then adds all
//! of its products. A column serves each window that it is part of, and is read once where the stride is 1 or 2.
//!
//! What is prepared for each block of 16 channels: biases and multipliers as [`taps`](crate::kernels::taps) has them,
//! then for each column of the kernel `[16 channels, 4 values] i8`.

use alloc::vec::Vec;
use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Range;

use super::depthwise::{self, Row, each_row};
use super::{Sums, load_sums};
use crate::kernels::Raw;
use crate::kernels::taps::SCALES_BYTES;
use crate::kernels::taps::{self, Rows, scales};
use crate::op::Depthwise;

const COLUMN_BYTES: usize = 64;
const BLOCK_BYTES: usize = SCALES_BYTES + 3 * COLUMN_BYTES;

/// Whether an operation is computed by columns.
const fn by_columns(op: &Depthwise) -> bool {
    op.window.kernel[0] == 3 && op.window.kernel[1] == 3
}

pub(super) fn prepare(op: &Depthwise, constants: &[u8]) -> Vec<u8> {
    if !by_columns(op) {
        return taps::prepare(op, constants);
    }
    let padded = op.padded_channels();
    let weights = &constants[op.weights as usize..][..9 * padded];
    (0..Rows::new(op).blocks)
        .flat_map(|block| {
            let (mut bytes, lanes) = scales(op, constants, block);
            for column in 0..3 {
                let weight = |row: usize, lane: usize| weights[(row * 3 + column) * padded + lane];
                let of_lane = |lane: usize| [weight(0, lane), weight(1, lane), weight(2, lane), 0];
                bytes.extend(lanes.into_iter().flat_map(of_lane));
            }
            bytes
        })
        .collect()
}

/// # Safety
/// `op` was checked against the arena and the constants of `raw`, prepared by [`prepare`], and the CPU has SDOT.
#[target_feature(enable = "neon")]
pub(super) unsafe fn depthwise(op: &Depthwise, raw: Raw, range: Range<usize>) {
    if !by_columns(op) {
        // SAFETY: the caller's.
        return unsafe { depthwise::depthwise(op, raw, range) };
    }
    let down = op.window.dilation[0] as usize * op.input.row_bytes as usize;
    let right = op.window.dilation[1] as usize * op.input.pixel_bytes as usize;
    // SAFETY: the caller's.
    unsafe {
        each_row(op, raw, range, BLOCK_BYTES, |row| {
            let columns = Columns::new(row, down, right);
            match row.rows.input_step {
                step if step == right => columns.in_steps_of_one(),
                step if step == 2 * right => columns.in_steps_of_two(),
                _ => columns.one_by_one(),
            }
        });
    }
}

/// A row of the output, with the weights in registers.
struct Columns<'a> {
    row: &'a Row,
    weights: [[int8x16_t; 4]; 3],
    /// Bytes from one row of the input to the next.
    down: usize,
    /// Bytes from one column of the window to the next.
    right: usize,
}

impl<'a> Columns<'a> {
    /// # Safety
    /// As for [`depthwise`].
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn new(row: &'a Row, down: usize, right: usize) -> Columns<'a> {
        let load = |column: usize, j: usize| {
            let at = SCALES_BYTES + column * COLUMN_BYTES + j * 16;
            // SAFETY: the caller's: it was prepared.
            unsafe { vld1q_s8(row.prepared.add(at).cast()) }
        };
        let weights = core::array::from_fn(|column| core::array::from_fn(|j| load(column, j)));
        Columns { row, weights, down, right }
    }

    /// A column that begins at `first`.
    ///
    /// # Safety
    /// It is part of a window of the row.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(&self, first: *const i8) -> [int8x16_t; 4] {
        // SAFETY: the caller's.
        let [a, b, c] = unsafe {
            let (second, third) = (first.add(self.down), first.add(2 * self.down));
            [vld1q_s8(first), vld1q_s8(second), vld1q_s8(third)]
        };
        let pair = |a, b| [vzip1q_s8(a, b), vzip2q_s8(a, b)];
        let (first, third) = (pair(a, b), pair(c, c));
        let four = |j: usize| {
            let (first, third) = (vreinterpretq_s16_s8(first[j]), vreinterpretq_s16_s8(third[j]));
            [vzip1q_s16(first, third), vzip2q_s16(first, third)]
        };
        let (low, high) = (four(0), four(1));
        [
            vreinterpretq_s8_s16(low[0]),
            vreinterpretq_s8_s16(low[1]),
            vreinterpretq_s8_s16(high[0]),
            vreinterpretq_s8_s16(high[1]),
        ]
    }

    /// The sums with the products of a column added, which is the window's column `K`.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add<const K: usize>(&self, sums: Sums, column: &[int8x16_t; 4]) -> Sums {
        // SAFETY: the caller's: the CPU has SDOT.
        core::array::from_fn(|j| unsafe { dot(sums[j], self.weights[K][j], column[j]) })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn bias(&self) -> Sums {
        // SAFETY: the caller's: it was prepared.
        unsafe { load_sums(self.row.prepared) }
    }

    /// Each column is part of three windows, one as its last, one as its second, and one as its first column.
    ///
    /// # Safety
    /// As for [`depthwise`]; the windows are one column apart.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn in_steps_of_one(&self) {
        let vectors = self.row.rows.vectors;
        // SAFETY: the caller's; the last column is that of the last window.
        unsafe {
            let mut at = self.row.input;
            let (first, second) = (self.load(at), self.load(at.add(self.right)));
            let mut a = self.add::<1>(self.add::<0>(self.bias(), &first), &second);
            let mut b = self.add::<0>(self.bias(), &second);
            let mut vector = 0;
            at = at.add(2 * self.right);
            // Windows come in threes, so that sums need not change registers.
            while vector + 3 <= vectors {
                for next in 0..3 {
                    [a, b] = self.step([a, b], at, vector + next);
                    at = at.add(self.right);
                }
                vector += 3;
            }
            while vector < vectors {
                [a, b] = self.step([a, b], at, vector);
                at = at.add(self.right);
                vector += 1;
            }
        }
    }

    /// One window further: its last column is at `at`. Sums are those of the window, and of the next one; returned are
    /// those of the next two.
    ///
    /// # Safety
    /// As for [`Columns::in_steps_of_one`]; the vector is one of the row's.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn step(&self, sums: [Sums; 2], at: *const i8, vector: usize) -> [Sums; 2] {
        // SAFETY: the caller's.
        unsafe {
            let column = self.load(at);
            self.row.finish(vector, self.add::<2>(sums[0], &column));
            [self.add::<1>(sums[1], &column), self.add::<0>(self.bias(), &column)]
        }
    }

    /// Each second column is part of two windows.
    ///
    /// # Safety
    /// As for [`depthwise`]; the windows are two columns apart.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn in_steps_of_two(&self) {
        // SAFETY: the caller's; the last column is that of the last window.
        unsafe {
            let mut at = self.row.input;
            let mut sums = self.add::<0>(self.bias(), &self.load(at));
            for vector in 0..self.row.rows.vectors {
                let (second, third) = (at.add(self.right), at.add(2 * self.right));
                let (second, next) = (self.load(second), self.load(third));
                let finished = self.add::<2>(self.add::<1>(sums, &second), &next);
                sums = self.add::<0>(self.bias(), &next);
                self.row.finish(vector, finished);
                at = third;
            }
        }
    }

    /// Each window by itself.
    ///
    /// # Safety
    /// As for [`depthwise`].
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn one_by_one(&self) {
        for vector in 0..self.row.rows.vectors {
            // SAFETY: the caller's.
            unsafe {
                let first = self.row.input.add(vector * self.row.rows.input_step);
                let (second, third) = (first.add(self.right), first.add(2 * self.right));
                let sums = self.add::<0>(self.bias(), &self.load(first));
                let sums = self.add::<1>(sums, &self.load(second));
                self.row.finish(vector, self.add::<2>(sums, &self.load(third)));
            }
        }
    }
}

/// `sums[c] + Σ weights[c, k] · values[c, k]` over four channels with four values each.
///
/// # Safety
/// The CPU has SDOT.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot(mut sums: int32x4_t, weights: int8x16_t, values: int8x16_t) -> int32x4_t {
    // SAFETY: it reads and writes the registers that it names, and the caller has the instruction.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {weights:v}.16b, {values:v}.16b",
            sums = inout(vreg) sums,
            weights = in(vreg) weights,
            values = in(vreg) values,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}
