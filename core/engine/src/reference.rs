//! What every operation means, bit by bit, in plain safe code.
//!
//! Kernels are held against these functions. They also run whatever an instruction set has no kernel for, so their
//! inner loops go over bytes that lie next to each other.

use core::cell::Cell;
use core::ops::Range;

use crate::op::{
    Add, AddChannels, ArgMax, AveragePool, Bilinear, Border, Constant, Conv, Copy, Depthwise,
    Elements, Export, Import, MatMul, MaxPool, Mul, Op, Softmax, Table, View, Window,
};
use crate::program::Element;
use crate::requantise::{quantise, quantise_f64, requantise};

/// The memory of one inference, and how values are stored in it.
///
/// The arena is of cells, so that those who take part in one operation can each have a `Memory` over all of it.
#[derive(Debug)]
pub struct Memory<'a> {
    arena: &'a [Cell<u8>],
    constants: &'a [u8],
    /// What a stored byte differs by from the value: 0, or 0x80 for unsigned storage.
    flip: u8,
}

impl<'a> Memory<'a> {
    /// The arena, the constants, and how values are stored: a byte is the `i8` value with the bits of `flip` turned
    /// over.
    pub fn new(arena: &'a mut [u8], constants: &'a [u8], flip: u8) -> Memory<'a> {
        Memory::of_cells(Cell::from_mut(arena).as_slice_of_cells(), constants, flip)
    }

    pub(crate) fn of_cells(arena: &'a [Cell<u8>], constants: &'a [u8], flip: u8) -> Memory<'a> {
        Memory { arena, constants, flip }
    }

    #[inline]
    fn value(&self, at: usize) -> i8 {
        (self.arena[at].get() ^ self.flip) as i8
    }

    #[inline]
    fn store(&mut self, at: usize, value: i8) {
        self.arena[at].set(value as u8 ^ self.flip);
    }

    /// Bytes of a port, as they are.
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        core::array::from_fn(|byte| self.arena[at + byte].get())
    }

    fn store_bytes(&mut self, at: usize, bytes: &[u8]) {
        self.arena[at..at + bytes.len()].iter().zip(bytes).for_each(|(cell, byte)| cell.set(*byte));
    }

    /// Copies bytes, and turns over the bits of `turned` in them.
    fn copy(&mut self, from: usize, to: usize, count: usize, turned: u8) {
        let (from, to) = (&self.arena[from..from + count], &self.arena[to..to + count]);
        to.iter().zip(from).for_each(|(to, from)| to.set(from.get() ^ turned));
    }

    fn word(&self, offset: u32, index: usize) -> [u8; 4] {
        let at = offset as usize + index * 4;
        self.constants[at..at + 4].try_into().expect("four bytes were asked for")
    }

    fn i32(&self, offset: u32, index: usize) -> i32 {
        i32::from_le_bytes(self.word(offset, index))
    }

    fn u32(&self, offset: u32, index: usize) -> u32 {
        u32::from_le_bytes(self.word(offset, index))
    }

    fn f32(&self, offset: u32, index: usize) -> f32 {
        f32::from_le_bytes(self.word(offset, index))
    }
}

/// Runs one operation of a checked program.
///
/// # Panics
/// If the memory is not the checked program's.
pub fn run(op: &Op, memory: &mut Memory<'_>) {
    run_part(op, memory, 0..op.parts());
}

/// Runs some of the [parts](Op::parts) of an operation.
pub(crate) fn run_part(op: &Op, memory: &mut Memory<'_>, parts: Range<usize>) {
    match op {
        Op::Import(op) => import(op, memory),
        Op::Export(op) => export(op, memory),
        Op::Constant(op) => constant(op, memory),
        Op::Border(op) => border(op, memory),
        Op::Conv(op) => conv(op, memory, parts),
        Op::Depthwise(op) => depthwise(op, memory, parts),
        Op::Add(op) => add(op, memory),
        Op::AddChannels(op) => add_channels(op, memory),
        Op::Mul(op) => mul(op, memory),
        Op::AveragePool(op) => average_pool(op, memory),
        Op::MaxPool(op) => max_pool(op, memory),
        Op::Softmax(op) => softmax(op, memory),
        Op::Table(op) => table(op, memory),
        Op::Copy(op) => copy(op, memory),
        Op::Bilinear(op) => bilinear(op, memory),
        Op::ArgMax(op) => arg_max(op, memory),
        Op::MatMul(op) => mat_mul(op, memory),
    }
}

fn positions(view: &View) -> impl Iterator<Item = (u32, u32)> + use<> {
    let width = view.width;
    (0..view.height).flat_map(move |y| (0..width).map(move |x| (y, x)))
}

/// Where runs begin of values that lie next to each other both among elements and in a view, and their length.
fn runs(elements: &Elements, view: &View) -> impl Iterator<Item = (u32, u32, u32, usize)> + use<> {
    let View { height, width, channels, pixel_bytes, .. } = *view;
    let (in_row, in_pixel, length) = match elements.channel == 1 || channels == 1 {
        true if elements.pixel == channels && pixel_bytes == channels => (1, 1, width * channels),
        true => (width, 1, channels),
        false => (width, channels, 1),
    };
    (0..height).flat_map(move |y| {
        (0..in_row).flat_map(move |x| (0..in_pixel).map(move |c| (y, x, c, length as usize)))
    })
}

fn import(op: &Import, memory: &mut Memory<'_>) {
    for (y, x, c, length) in runs(&op.source, &op.output) {
        let from = op.source.at(y, x, c);
        let to = op.output.at(y, x) + c as usize;
        match op.source.element {
            Element::I8 => memory.copy(from, to, length, memory.flip),
            Element::U8 => memory.copy(from, to, length, memory.flip ^ 0x80),
            Element::F32 => {
                for index in 0..length {
                    let real = f32::from_le_bytes(memory.bytes(from + index * 4));
                    memory.store(to + index, quantise(real / op.scale, op.range));
                }
            }
            Element::I32 | Element::I64 => (),
        }
    }
}

fn export(op: &Export, memory: &mut Memory<'_>) {
    for (y, x, c, length) in runs(&op.target, &op.input) {
        let from = op.input.at(y, x) + c as usize;
        let to = op.target.at(y, x, c);
        match op.target.element {
            Element::I8 => memory.copy(from, to, length, memory.flip),
            Element::U8 => memory.copy(from, to, length, memory.flip ^ 0x80),
            Element::F32 => {
                for index in 0..length {
                    let steps = less_zero(memory.value(from + index), op.zero_point);
                    let real = steps as f32 * op.scale;
                    memory.store_bytes(to + index * 4, &real.to_le_bytes());
                }
            }
            Element::I32 | Element::I64 => (),
        }
    }
}

fn constant(op: &Constant, memory: &mut Memory<'_>) {
    let channels = op.output.channels as usize;
    for (pixel, (y, x)) in positions(&op.output).enumerate() {
        let from = op.values as usize + pixel * channels;
        let to = op.output.at(y, x);
        for c in 0..channels {
            memory.store(to + c, memory.constants[from + c] as i8);
        }
    }
}

fn border(op: &Border, memory: &mut Memory<'_>) {
    let [top, left, bottom, right] = op.extents.map(|extent| extent as usize);
    let View { height, width, channels, row_bytes, offset, .. } = op.view;
    let (height, row_bytes) = (height as usize, row_bytes as usize);
    let pixel = channels as usize;
    let inner_bytes = width as usize * pixel;
    let mut fill = |from: usize, to: usize| (from..to).for_each(|at| memory.store(at, op.value));
    let start = offset as usize - top * row_bytes - left * pixel;
    let whole = (left + right) * pixel + inner_bytes;
    for row in 0..top + height + bottom {
        let at = start + row * row_bytes;
        if row < top || row >= top + height {
            fill(at, at + whole);
        } else {
            fill(at, at + left * pixel);
            let after = at + left * pixel + inner_bytes;
            fill(after, after + right * pixel);
        }
    }
}

/// Where the first tap of the window of an output lies. The checker has proven that it is within the arena.
pub(crate) fn window_start(input: &View, window: &Window, y: u32, x: u32) -> usize {
    let down = y as usize * window.stride[0] as usize * input.row_bytes as usize;
    let right = x as usize * window.stride[1] as usize * input.pixel_bytes as usize;
    let back = window.padding[0] as usize * input.row_bytes as usize
        + window.padding[1] as usize * input.pixel_bytes as usize;
    input.offset as usize + down + right - back
}

/// Output pixels of the range, counted row by row.
fn conv(op: &Conv, memory: &mut Memory<'_>, pixels: Range<usize>) {
    let segments = op.segments();
    let (quads, block_bytes) = (segments.quads(), segments.block_bytes());
    let group_inputs = op.input.channels as usize / op.groups as usize;
    let width = op.output.width as usize;
    for pixel in pixels {
        let (y, x) = ((pixel / width) as u32, (pixel % width) as u32);
        let window = window_start(&op.input, &op.window, y, x);
        let output = op.output.at(y, x);
        for block in 0..op.groups as usize * op.group_blocks() {
            let (group, block_of_group) = (block / op.group_blocks(), block % op.group_blocks());
            let mut sums: [i32; 16] =
                core::array::from_fn(|lane| memory.i32(op.bias, block * 16 + lane));
            let mut weights = op.weights as usize + block * block_bytes;
            for row in 0..segments.rows {
                for segment in 0..segments.per_row {
                    let input = window
                        + row * segments.row_step_bytes
                        + segment * segments.step_bytes
                        + group * group_inputs;
                    for quad in 0..quads {
                        let values = segments.values - quad * 4;
                        for k in 0..values.min(4) {
                            let value = i32::from(memory.value(input + quad * 4 + k));
                            let lanes = &memory.constants[weights + k..weights + 64];
                            for (sum, weight) in sums.iter_mut().zip(lanes.iter().step_by(4)) {
                                *sum = sum.wrapping_add(value * i32::from(*weight as i8));
                            }
                        }
                        weights += 64;
                    }
                }
            }
            let first = block_of_group * 16;
            for (lane, sum) in sums.into_iter().enumerate().take(op.group_outputs() - first) {
                let multiplier = memory.f32(op.multipliers, block * 16 + lane);
                let value = requantise(sum, multiplier, op.range);
                memory.store(output + group * op.group_outputs() + first + lane, value);
            }
        }
    }
}

/// Output rows of the range.
fn depthwise(op: &Depthwise, memory: &mut Memory<'_>, rows: Range<usize>) {
    let [_, kernel_width] = op.window.kernel.map(|extent| extent as usize);
    let padded = op.padded_channels();
    let width = op.output.width;
    let positions = rows.flat_map(|y| (0..width).map(move |x| (y as u32, x)));
    for (y, x) in positions {
        let window = window_start(&op.input, &op.window, y, x);
        let output = op.output.at(y, x);
        for c in 0..op.output.channels as usize {
            let mut sum = memory.i32(op.bias, c);
            for tap in 0..op.window.taps() {
                let down = tap / kernel_width * op.window.dilation[0] as usize;
                let right = tap % kernel_width * op.window.dilation[1] as usize;
                let input = window
                    + down * op.input.row_bytes as usize
                    + right * op.input.pixel_bytes as usize;
                let weight = memory.constants[op.weights as usize + tap * padded + c] as i8;
                sum = sum.wrapping_add(i32::from(memory.value(input + c)) * i32::from(weight));
            }
            let value = requantise(sum, memory.f32(op.multipliers, c), op.range);
            memory.store(output + c, value);
        }
    }
}

fn less_zero(value: i8, zero_point: i8) -> i32 {
    i32::from(value) - i32::from(zero_point)
}

fn add(op: &Add, memory: &mut Memory<'_>) {
    let [a, b] = op.inputs;
    for (y, x) in positions(&op.output) {
        let (a, b, output) = (a.at(y, x), b.at(y, x), op.output.at(y, x));
        for c in 0..op.output.channels as usize {
            let left = less_zero(memory.value(a + c), op.zero_points[0]) as f32 * op.ratios[0];
            let right = less_zero(memory.value(b + c), op.zero_points[1]) as f32 * op.ratios[1];
            memory.store(output + c, quantise(left + right, op.range));
        }
    }
}

fn add_channels(op: &AddChannels, memory: &mut Memory<'_>) {
    for (y, x) in positions(&op.output) {
        let (input, output) = (op.input.at(y, x), op.output.at(y, x));
        for c in 0..op.output.channels as usize {
            let steps = less_zero(memory.value(input + c), op.zero_point) as f32 * op.ratio;
            memory.store(output + c, quantise(steps + memory.f32(op.addends, c), op.range));
        }
    }
}

fn mul(op: &Mul, memory: &mut Memory<'_>) {
    let [a, b] = op.inputs;
    for (y, x) in positions(&op.output) {
        let (a, b, output) = (a.at(y, x), b.at(y, x), op.output.at(y, x));
        for c in 0..op.output.channels as usize {
            let left = less_zero(memory.value(a + c), op.zero_points[0]);
            let right = less_zero(memory.value(b + c), op.zero_points[1]);
            memory.store(output + c, requantise(left * right, op.multiplier, op.range));
        }
    }
}

/// The taps of a window along one axis that lie within `0..extent`, where the first tap lies at `start`.
fn inside(
    start: i64,
    kernel: u32,
    dilation: u32,
    extent: u32,
) -> impl Iterator<Item = u32> + Clone {
    let step = i64::from(dilation);
    // Taps before the first one that is not negative.
    let missed = ((-start).max(0) + step - 1) / step;
    let end = start + i64::from(kernel - 1) * step + 1;
    let within = |at: i64| at.clamp(0, i64::from(extent)) as u32;
    (within(start + missed * step)..within(end)).step_by(dilation as usize)
}

/// The rows and the columns of the input that the window of an output covers.
pub(crate) fn covered(
    input: &View,
    window: &Window,
    y: u32,
    x: u32,
) -> [impl Iterator<Item = u32> + Clone + use<>; 2] {
    let axis = |axis: usize, at: u32, extent: u32| {
        let start =
            i64::from(at) * i64::from(window.stride[axis]) - i64::from(window.padding[axis]);
        inside(start, window.kernel[axis], window.dilation[axis], extent)
    };
    [axis(0, y, input.height), axis(1, x, input.width)]
}

/// Channels that are summed up side by side.
const POOLED_CHANNELS: usize = 16;

fn average_pool(op: &AveragePool, memory: &mut Memory<'_>) {
    for (y, x) in positions(&op.output) {
        let [rows, columns] = covered(&op.input, &op.window, y, x);
        let multiplier = mean_multiplier(op, [y, x]);
        let output = op.output.at(y, x);
        let channels = op.output.channels as usize;
        for first in (0..channels).step_by(POOLED_CHANNELS) {
            let mut sums = [0_i32; POOLED_CHANNELS];
            let count = (channels - first).min(POOLED_CHANNELS);
            for row in rows.clone() {
                for column in columns.clone() {
                    let start = op.input.at(row, column) + first;
                    for (sum, byte) in sums.iter_mut().zip(&memory.arena[start..start + count]) {
                        let value = (byte.get() ^ memory.flip) as i8;
                        *sum = sum.wrapping_add(less_zero(value, op.zero_point));
                    }
                }
            }
            for (c, sum) in sums.into_iter().enumerate().take(count) {
                memory.store(output + first + c, requantise(sum, multiplier, op.range));
            }
        }
    }
}

/// What the sum of a window is multiplied by.
pub(crate) fn mean_multiplier(op: &AveragePool, at: [u32; 2]) -> f32 {
    let count = match op.counted_padding {
        None => {
            let [rows, columns] = covered(&op.input, &op.window, at[0], at[1]);
            rows.count() as u64 * columns.count() as u64
        }
        Some(after) => counted(&op.input, &op.window, after, at),
    };
    op.ratio / count as f32
}

/// Taps of a window that lie within the input and its padding.
fn counted(input: &View, window: &Window, after: [u32; 2], at: [u32; 2]) -> u64 {
    let along = |axis: usize, extent: u32| {
        let padded = extent.saturating_add(window.padding[axis]).saturating_add(after[axis]);
        let start = i64::from(at[axis]) * i64::from(window.stride[axis]);
        inside(start, window.kernel[axis], window.dilation[axis], padded).count() as u64
    };
    along(0, input.height) * along(1, input.width)
}

fn max_pool(op: &MaxPool, memory: &mut Memory<'_>) {
    for (y, x) in positions(&op.output) {
        let [rows, columns] = covered(&op.input, &op.window, y, x);
        let output = op.output.at(y, x);
        for c in 0..op.output.channels as usize {
            let values = rows
                .clone()
                .flat_map(|row| columns.clone().map(move |column| op.input.at(row, column) + c));
            let greatest = values.map(|at| memory.value(at)).max().unwrap_or(i8::MIN);
            memory.store(output + c, greatest);
        }
    }
}

fn softmax(op: &Softmax, memory: &mut Memory<'_>) {
    let channels = op.output.channels as usize;
    for (y, x) in positions(&op.output) {
        let (input, output) = (op.input.at(y, x), op.output.at(y, x));
        let greatest = (0..channels).map(|c| memory.value(input + c)).max().unwrap_or(i8::MIN);
        let exponential = |memory: &Memory<'_>, c: usize| {
            let difference = i32::from(greatest) - i32::from(memory.value(input + c));
            memory.u32(op.table, difference as usize)
        };
        let sum: u64 = (0..channels).map(|c| u64::from(exponential(memory, c))).sum();
        for c in 0..channels {
            let share = f64::from(exponential(memory, c)) / sum as f64 * op.steps;
            memory.store(output + c, quantise_f64(share, op.range));
        }
    }
}

fn table(op: &Table, memory: &mut Memory<'_>) {
    for (y, x) in positions(&op.output) {
        let (input, output) = (op.input.at(y, x), op.output.at(y, x));
        for c in 0..op.output.channels as usize {
            let index = (memory.value(input + c) as u8 ^ 0x80) as usize;
            memory.store(output + c, memory.constants[op.table as usize + index] as i8);
        }
    }
}

fn copy(op: &Copy, memory: &mut Memory<'_>) {
    let [a, b, c, d, e] = op.extents.map(|extent| extent as usize);
    let from = op.input.strides.map(|stride| stride as usize);
    let to = op.output.strides.map(|stride| stride as usize);
    for outer in 0..a * b * c {
        let index = [outer / (b * c), outer / c % b, outer % c];
        let start = |offset: u32, strides: &[usize; 5]| {
            offset as usize
                + index.iter().zip(strides).map(|(index, stride)| index * stride).sum::<usize>()
        };
        let (source, target) = (start(op.input.offset, &from), start(op.output.offset, &to));
        for row in 0..d {
            let (source, target) = (source + row * from[3], target + row * to[3]);
            if from[4] == 1 && to[4] == 1 {
                let (from, to) =
                    (&memory.arena[source..source + e], &memory.arena[target..target + e]);
                from.iter().zip(to).for_each(|(from, to)| to.set(from.get()));
            } else {
                for k in 0..e {
                    memory.arena[target + k * to[4]].set(memory.arena[source + k * from[4]].get());
                }
            }
        }
    }
}

fn neighbours(memory: &Memory<'_>, table: u32, index: u32) -> [i32; 3] {
    let half = |k: usize| {
        let at = table as usize + index as usize * 8 + k * 2;
        i32::from(u16::from_le_bytes([memory.constants[at], memory.constants[at + 1]]))
    };
    [half(0), half(1), half(2)]
}

fn bilinear(op: &Bilinear, memory: &mut Memory<'_>) {
    for (y, x) in positions(&op.output) {
        let [top, bottom, down] = neighbours(memory, op.rows, y);
        let [left, right, across] = neighbours(memory, op.columns, x);
        let output = op.output.at(y, x);
        for c in 0..op.output.channels as usize {
            let value = |row: i32, column: i32| {
                less_zero(memory.value(op.input.at(row as u32, column as u32) + c), op.zero_point)
            };
            let upper = value(top, left) * (2048 - across) + value(top, right) * across;
            let lower = value(bottom, left) * (2048 - across) + value(bottom, right) * across;
            let sum = upper * (2048 - down) + lower * down;
            memory.store(output + c, requantise(sum, op.multiplier, op.range));
        }
    }
}

fn arg_max(op: &ArgMax, memory: &mut Memory<'_>) {
    for (y, x) in positions(&op.input) {
        let input = op.input.at(y, x);
        let mut best = (memory.value(input), 0_usize);
        for c in 1..op.input.channels as usize {
            let value = memory.value(input + c);
            if value > best.0 || (op.last && value == best.0) {
                best = (value, c);
            }
        }
        let at = op.target.at(y, x, 0);
        match op.target.element {
            Element::I64 => memory.store_bytes(at, &(best.1 as i64).to_le_bytes()),
            _ => memory.store_bytes(at, &(best.1 as i32).to_le_bytes()),
        }
    }
}

fn mat_mul(op: &MatMul, memory: &mut Memory<'_>) {
    let [a, b] = op.inputs;
    for (pair, row) in positions(&op.output) {
        let (left, output) = (a.at(pair, row), op.output.at(pair, row));
        for column in 0..op.output.channels as usize {
            let mut sum = 0_i32;
            for k in 0..a.channels {
                let left = less_zero(memory.value(left + k as usize), op.zero_points[0]);
                let right = less_zero(memory.value(b.at(pair, k) + column), op.zero_points[1]);
                sum = sum.wrapping_add(left * right);
            }
            memory.store(output + column, requantise(sum, op.multiplier, op.range));
        }
    }
}
