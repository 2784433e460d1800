//! What 64-bit ARM computes value by value, 16 of them in a vector: imports, sums, means, tables.
//!
//! A last vector of less than 16 is loaded whole, which the arena's slack allows, and stored in part.

use core::arch::aarch64::*;

use super::{Rounding, store};
use crate::kernels::Raw;
use crate::op::{Add, AveragePool, Import, Table};
use crate::program::Element;
use crate::reference::{covered, mean_multiplier};
use crate::requantise::{Range, quantise};

/// Bytes that can be added to one `i16` each: `256 · 128` is its least value.
const BYTES_MAX: usize = 255;

/// A [`Range`] for values that are still `f32`.
#[derive(Clone, Copy)]
struct Quantiser {
    low: float32x4_t,
    high: float32x4_t,
    zero_point: int8x16_t,
}

impl Quantiser {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(range: Range) -> Quantiser {
        let (low, high) = range.bounds();
        Quantiser {
            low: vdupq_n_f32(low),
            high: vdupq_n_f32(high),
            zero_point: vdupq_n_s8(range.zero_point),
        }
    }

    /// 16 quantised values. FMAXNM takes the number of two of which one is none, and FCVTNS rounds half to even; in
    /// their lowest bytes, the integers wrap as they do in `i8`.
    #[inline]
    #[target_feature(enable = "neon")]
    fn quantise(&self, steps: [float32x4_t; 4]) -> int8x16_t {
        let rounded = |j: usize| {
            let clamped = vminnmq_f32(vmaxnmq_f32(steps[j], self.low), self.high);
            vreinterpretq_s16_s32(vcvtnq_s32_f32(clamped))
        };
        let low = vreinterpretq_s8_s16(vuzp1q_s16(rounded(0), rounded(1)));
        let high = vreinterpretq_s8_s16(vuzp1q_s16(rounded(2), rounded(3)));
        vaddq_s8(vuzp1q_s8(low, high), self.zero_point)
    }
}

/// # Safety
/// `op` was checked against the arena of `raw`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn add(op: &Add, raw: Raw) {
    let quantiser = Quantiser::new(op.range);
    let [a, b] = op.inputs;
    let channels = op.output.channels as usize;
    for y in 0..op.output.height {
        for x in 0..op.output.width {
            let at = [a.at(y, x), b.at(y, x), op.output.at(y, x)];
            for c in (0..channels).step_by(16) {
                // SAFETY: the caller's: these are pixels of the views, with slack behind them.
                unsafe {
                    let load = |at: usize| vld1q_s8(raw.arena.add(at + c).cast());
                    let left = steps(load(at[0]), op.zero_points[0], op.ratios[0]);
                    let right = steps(load(at[1]), op.zero_points[1], op.ratios[1]);
                    let sums = core::array::from_fn(|j| vaddq_f32(left[j], right[j]));
                    store(raw.arena.add(at[2] + c), quantiser.quantise(sums), channels - c);
                }
            }
        }
    }
}

/// `(value - zero_point) · ratio` of 16 values.
#[inline]
#[target_feature(enable = "neon")]
fn steps(values: int8x16_t, zero_point: i8, ratio: f32) -> [float32x4_t; 4] {
    let low = vsubl_s8(vget_low_s8(values), vdup_n_s8(zero_point));
    let high = vsubl_high_s8(values, vdupq_n_s8(zero_point));
    let scaled = |values: int32x4_t| vmulq_f32(vcvtq_f32_s32(values), vdupq_n_f32(ratio));
    [
        scaled(vmovl_s16(vget_low_s16(low))),
        scaled(vmovl_high_s16(low)),
        scaled(vmovl_s16(vget_low_s16(high))),
        scaled(vmovl_high_s16(high)),
    ]
}

/// # Safety
/// `op` was checked against the arena of `raw`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn average_pool(op: &AveragePool, raw: Raw) {
    let rounding = Rounding::new(op.range);
    let channels = op.output.channels as usize;
    for y in 0..op.output.height {
        for x in 0..op.output.width {
            let [mut rows, mut columns] = covered(&op.input, &op.window, y, x);
            let taps = [rows.clone().count(), columns.clone().count()];
            let (Some(row), Some(column)) = (rows.next(), columns.next()) else { continue };
            let first = op.input.at(row, column);
            let multipliers = [vdupq_n_f32(mean_multiplier(op, [y, x])); 4];
            let zeros = (taps[0] as i32).wrapping_mul(taps[1] as i32);
            let zeros = vdupq_n_s32(zeros.wrapping_mul(-i32::from(op.zero_point)));
            for c in (0..channels).step_by(16) {
                // SAFETY: the caller's: these are taps within the input, with slack behind them.
                unsafe {
                    let sums = sum_window(op, raw.arena.add(first + c), taps);
                    let sums = core::array::from_fn(|j| vaddq_s32(sums[j], zeros));
                    let values = rounding.requantise(sums, multipliers);
                    store(raw.arena.add(op.output.at(y, x) + c), values, channels - c);
                }
            }
        }
    }
}

/// The sums of 16 channels over `taps`, `[down, right]`.
///
/// # Safety
/// All taps lie in the arena, with slack behind them.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn sum_window(op: &AveragePool, first: *const u8, taps: [usize; 2]) -> [int32x4_t; 4] {
    let down = op.window.dilation[0] as usize * op.input.row_bytes as usize;
    let right = op.window.dilation[1] as usize * op.input.pixel_bytes as usize;
    let mut sums = [vdupq_n_s32(0); 4];
    let (mut low, mut high) = (vdupq_n_s16(0), vdupq_n_s16(0));
    let mut room = BYTES_MAX;
    for row in 0..taps[0] {
        let mut done = 0;
        while done < taps[1] {
            let run = (taps[1] - done).min(room);
            for column in done..done + run {
                // SAFETY: the caller's.
                let values = unsafe { vld1q_s8(first.add(row * down + column * right).cast()) };
                low = vaddw_s8(low, vget_low_s8(values));
                high = vaddw_high_s8(high, values);
            }
            (done, room) = (done + run, room - run);
            if room == 0 {
                sums = widen(sums, low, high);
                (low, high, room) = (vdupq_n_s16(0), vdupq_n_s16(0), BYTES_MAX);
            }
        }
    }
    widen(sums, low, high)
}

#[inline]
#[target_feature(enable = "neon")]
fn widen(sums: [int32x4_t; 4], low: int16x8_t, high: int16x8_t) -> [int32x4_t; 4] {
    [
        vaddw_s16(sums[0], vget_low_s16(low)),
        vaddw_high_s16(sums[1], low),
        vaddw_s16(sums[2], vget_low_s16(high)),
        vaddw_high_s16(sums[3], high),
    ]
}

/// # Safety
/// `op` was checked against the arena and the constants of `raw`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn table(op: &Table, raw: Raw) {
    // SAFETY: the caller's: 256 bytes of the constants.
    let quarters: [int8x16x4_t; 4] = core::array::from_fn(|quarter| unsafe {
        vld1q_s8_x4(raw.constants.add(op.table as usize + quarter * 64).cast())
    });
    let channels = op.output.channels as usize;
    for y in 0..op.output.height {
        for x in 0..op.output.width {
            let (input, output) = (op.input.at(y, x), op.output.at(y, x));
            for c in (0..channels).step_by(16) {
                // SAFETY: the caller's: these are pixels of the views, with slack behind them.
                unsafe {
                    let values = vld1q_u8(raw.arena.add(input + c));
                    store(raw.arena.add(output + c), look_up(&quarters, values), channels - c);
                }
            }
        }
    }
}

/// The table's entries for 16 values. TBL gives 0 for an index beyond its 64 entries, and TBX what was there.
#[inline]
#[target_feature(enable = "neon")]
fn look_up(quarters: &[int8x16x4_t; 4], values: uint8x16_t) -> int8x16_t {
    let index =
        |quarter: u8| vsubq_u8(veorq_u8(values, vdupq_n_u8(0x80)), vdupq_n_u8(64 * quarter));
    let found = vqtbl4q_s8(quarters[0], index(0));
    let found = vqtbx4q_s8(found, quarters[1], index(1));
    let found = vqtbx4q_s8(found, quarters[2], index(2));
    vqtbx4q_s8(found, quarters[3], index(3))
}

/// # Safety
/// `op` was checked against the arena of `raw`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn import(op: &Import, raw: Raw) {
    let importer = Importer {
        op,
        arena: raw.arena,
        quantiser: Quantiser::new(op.range),
        scale: vdupq_n_f32(op.scale),
        flip: vdupq_n_s8(if op.source.element == Element::U8 { i8::MIN } else { 0 }),
    };
    let (source, output) = (&op.source, &op.output);
    let (width, channels) = (output.width as usize, output.channels as usize);
    let dense = output.pixel_bytes == output.channels;
    for y in 0..output.height {
        // SAFETY: the caller's; the runs are within the rows of both sides.
        unsafe {
            if (source.channel == 1 || channels == 1) && source.pixel == output.channels && dense {
                importer.run(source.at(y, 0, 0), output.at(y, 0), width * channels);
            } else if source.channel == 1 {
                (0..output.width).for_each(|x| {
                    importer.run(source.at(y, x, 0), output.at(y, x), channels);
                });
            } else if source.pixel == 1 && channels == 3 && dense {
                importer.three_planes(y);
            } else {
                (0..output.width).for_each(|x| importer.pixel(y, x));
            }
        }
    }
}

struct Importer<'a> {
    op: &'a Import,
    arena: *mut u8,
    quantiser: Quantiser,
    scale: float32x4_t,
    /// What elements of a byte differ by from the values.
    flip: int8x16_t,
}

impl Importer<'_> {
    /// The values of 16 elements next to each other.
    ///
    /// # Safety
    /// They can be read.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(&self, from: usize) -> int8x16_t {
        // SAFETY: the caller's.
        unsafe {
            let from = self.arena.add(from).cast_const();
            if self.op.source.element == Element::F32 {
                self.quantiser.quantise(core::array::from_fn(|j| {
                    vdivq_f32(vld1q_f32(from.add(j * 16).cast()), self.scale)
                }))
            } else {
                veorq_s8(vld1q_s8(from.cast()), self.flip)
            }
        }
    }

    /// # Safety
    /// So many elements can be read, with slack behind them, and so many values written.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn run(&self, from: usize, to: usize, count: usize) {
        let element_bytes = self.op.source.element.bytes();
        for done in (0..count).step_by(16) {
            // SAFETY: the caller's.
            unsafe {
                let values = self.load(from + done * element_bytes);
                store(self.arena.add(to + done), values, count - done);
            }
        }
    }

    /// A row of three channels, each of which lies by itself.
    ///
    /// # Safety
    /// It is a row of a checked operation whose output is dense.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn three_planes(&self, y: u32) {
        let (source, output) = (&self.op.source, &self.op.output);
        let mut x = 0;
        while x + 16 <= output.width {
            // SAFETY: the caller's: 16 elements of each plane, and 16 pixels.
            unsafe {
                let planes = [0, 1, 2].map(|c| source.at(y, x, c));
                let [red, green, blue] = [planes[0], planes[1], planes[2]];
                let values = int8x16x3_t(self.load(red), self.load(green), self.load(blue));
                vst3q_s8(self.arena.add(output.at(y, x)).cast(), values);
            }
            x += 16;
        }
        // SAFETY: the caller's.
        (x..output.width).for_each(|x| unsafe { self.pixel(y, x) });
    }

    /// One pixel, value by value.
    ///
    /// # Safety
    /// It is a pixel of a checked operation.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pixel(&self, y: u32, x: u32) {
        let (source, output) = (&self.op.source, &self.op.output);
        for c in 0..output.channels {
            // SAFETY: the caller's; elements need not be aligned here.
            unsafe {
                let from = self.arena.add(source.at(y, x, c));
                let value = match source.element {
                    Element::F32 => {
                        let real = from.cast::<f32>().read_unaligned();
                        quantise(real / self.op.scale, self.op.range) as u8
                    }
                    Element::U8 => from.read() ^ 0x80,
                    _ => from.read(),
                };
                self.arena.add(output.at(y, x) + c as usize).write(value);
            }
        }
    }
}
