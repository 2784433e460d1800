//! Convolutions of each channel by itself.
//!
//! The instruction that multiplies adds four products of neighbouring bytes; the four taps of a channel that it is to
//! add lie in different pixels. So the bytes of four pixels are interleaved, which gives the *quads* of 4 · `LANES`
//! channels in four vectors, by lanes, and each vector is multiplied by four weights for each lane.
//!
//! Any kernel is taken four taps at a time. A kernel of 3 × 3 without gaps between its columns is taken column by
//! column: three rows (and a fourth that counts for nothing) are interleaved once, and serve all windows which that
//! column is in: three in a row where windows move by one, and if they move by one downwards too, the fourth row
//! makes the same quads serve the next row of outputs, with the weights moved down by one.
//!
//! Where all pixels lie without gaps and windows move by one to the right, a vector need not hold one pixel: a row
//! is one long run of bytes, on which weights repeat every few pixels (`flat` below).

use alloc::vec::Vec;
use core::ops::Range;

use super::vector::{Rounding, Vector};
use crate::kernels::Raw;
use crate::op::{Depthwise, View, Window};
use crate::reference::window_start;

/// Taps of a side of the kernel that has kernels of its own.
const SIDE: usize = 3;

/// Bytes that precede what was prepared are a multiple of this, so that vectors do not straddle cache lines.
const ALIGNMENT: usize = 64;

/// Where the parts of what [`prepare`] makes lie.
///
/// First, for each tap (filled up to a multiple of four), how far from the beginning of a window it lies: `u64`. Then
/// for each block of 4 · `LANES` channels: biases `[4, LANES] i32` for unsigned storage, multipliers `[4, LANES] f32`,
/// and weights `[quads, 4, LANES, 4 taps] i8` (or `i16`, see [`Vector::PREPARES_WIDE`]), for a kernel by columns twice: for the rows of the first row of
/// outputs, and moved down by one tap for those of the second. `[4, LANES]` is by lanes. If a block is wider than the
/// pixel and a multiple of it, channels repeat.
#[derive(Clone, Copy, Debug)]
struct Layout {
    lanes: usize,
    wide: bool,
    channels: usize,
    taps: usize,
    by_columns: bool,
}

impl Layout {
    fn new(op: &Depthwise, lanes: usize, wide: bool) -> Layout {
        let Window { kernel, dilation, .. } = op.window;
        let by_columns = kernel == [SIDE as u32; 2] && dilation[1] == 1;
        let channels = op.output.channels as usize;
        Layout { lanes, wide, channels, taps: op.window.taps(), by_columns }
    }

    /// Channels of a block.
    fn block(&self) -> usize {
        4 * self.lanes
    }

    fn quads(&self) -> usize {
        if self.by_columns { SIDE } else { self.taps.div_ceil(4) }
    }

    fn taps_bytes(&self) -> usize {
        (self.taps.next_multiple_of(4) * 8).next_multiple_of(ALIGNMENT)
    }

    /// Bytes of the weights of a block for one row of outputs.
    fn weights_bytes(&self) -> usize {
        self.quads() * self.block() * if self.wide { 8 } else { 4 }
    }

    fn block_bytes(&self) -> usize {
        let rows = if self.by_columns { 2 } else { 1 };
        2 * self.block() * 4 + rows * self.weights_bytes()
    }

    /// Whether a block holds some whole pixels.
    fn repeats(&self) -> bool {
        self.channels < self.block() && self.block().is_multiple_of(self.channels)
    }

    /// The channel of a lane of a vector of a block, if there is one.
    fn channel(&self, block: usize, vector: usize, lane: usize) -> Option<usize> {
        let channel = block * self.block() + lane / 4 * 16 + vector * 4 + lane % 4;
        if self.repeats() {
            Some(channel % self.channels)
        } else {
            (channel < self.channels).then_some(channel)
        }
    }

    /// The tap at a place of a quad, if there is one.
    fn tap(&self, quad: usize, place: usize, moved_down: usize) -> Option<usize> {
        if self.by_columns {
            let row = place.checked_sub(moved_down)?;
            (row < SIDE).then_some(row * SIDE + quad)
        } else {
            Some(quad * 4 + place).filter(|tap| *tap < self.taps)
        }
    }
}

/// Brings constants into the [`Layout`] for vectors of so many lanes.
pub(super) fn prepare(op: &Depthwise, constants: &[u8], lanes: usize, wide: bool) -> Vec<u8> {
    let layout = Layout::new(op, lanes, wide);
    let weight = |tap: usize, channel: usize| {
        constants[op.weights as usize + tap * op.padded_channels() + channel]
    };
    let word = |offset: u32, channel: usize| {
        let at = offset as usize + channel * 4;
        [constants[at], constants[at + 1], constants[at + 2], constants[at + 3]]
    };
    let bias = |channel: usize| {
        let sum: i32 = (0..layout.taps).map(|tap| i32::from(weight(tap, channel) as i8)).sum();
        let bias = i32::from_le_bytes(word(op.bias, channel));
        bias.wrapping_sub(sum.wrapping_mul(128)).to_le_bytes()
    };
    let mut prepared = tap_offsets(op, &layout);
    for block in 0..layout.channels.div_ceil(layout.block()) {
        let lanes_of_block = || {
            (0..4).flat_map(move |vector| {
                (0..lanes).map(move |lane| layout.channel(block, vector, lane))
            })
        };
        prepared.extend(lanes_of_block().flat_map(|channel| channel.map_or([0; 4], bias)));
        let multiplier = |channel| word(op.multipliers, channel);
        prepared.extend(lanes_of_block().flat_map(|channel| channel.map_or([0; 4], multiplier)));
        for moved_down in 0..if layout.by_columns { 2 } else { 1 } {
            for quad in 0..layout.quads() {
                for vector in 0..4 {
                    let four = |lane: usize| {
                        let channel = layout.channel(block, vector, lane);
                        [0, 1, 2, 3].map(|place| {
                            let tap = layout.tap(quad, place, moved_down);
                            tap.zip(channel).map_or(0, |(tap, channel)| weight(tap, channel))
                        })
                    };
                    if !wide {
                        prepared.extend((0..lanes).flat_map(four));
                        continue;
                    }
                    for place in 0..2 {
                        let pairs = (0..lanes).flat_map(|lane| {
                            [four(lane)[place], four(lane)[place + 2]]
                                .map(|weight| i16::from(weight as i8).to_le_bytes())
                        });
                        prepared.extend(pairs.flatten());
                    }
                }
            }
        }
    }
    prepared
}

fn tap_offsets(op: &Depthwise, layout: &Layout) -> Vec<u8> {
    let width = op.window.kernel[1] as usize;
    let mut offsets = Vec::with_capacity(layout.taps_bytes());
    for tap in 0..layout.taps.next_multiple_of(4) {
        // What fills up is multiplied by zero, wherever it lies.
        let tap = if tap < layout.taps { tap } else { 0 };
        let down = tap / width * op.window.dilation[0] as usize * op.input.row_bytes as usize;
        let right = tap % width * op.window.dilation[1] as usize * op.input.pixel_bytes as usize;
        offsets.extend(((down + right) as u64).to_le_bytes());
    }
    offsets.resize(layout.taps_bytes(), 0);
    offsets
}

/// A row of outputs, or two, of a block of channels.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// Where the first window begins, and, by columns, its next rows.
    inputs: [*const u8; 4],
    /// The rows of outputs.
    outputs: [*mut u8; 2],
    /// Vectors of outputs, the bytes between them, and how many of their bytes are stored.
    vectors: usize,
    input_step: usize,
    output_step: usize,
    bytes: usize,
    last_bytes: usize,
    /// From one column of the kernel to the next.
    column_step: usize,
    /// How far each tap lies from the beginning of the window.
    taps: &'a [u64],
    /// The block's constants, see [`Layout`], and the length of its weights for one row.
    constants: *const u8,
    weights_bytes: usize,
    rounding: Rounding,
}

/// The kernels of an instruction set, each for a [`Line`].
pub(super) struct Lines {
    pub(super) lanes: usize,
    pub(super) wide: bool,
    /// Any kernel.
    pub(super) by_taps: unsafe fn(&Line<'_>),
    /// 3 × 3: for one row and for two, and for each of these with 1, 2 or 3 new columns from vector to vector.
    pub(super) by_columns: [[unsafe fn(&Line<'_>); SIDE]; 2],
}

/// Computes these rows of outputs.
///
/// # Safety
/// The operation was checked, `raw` is the memory that it was checked for with what [`prepare`] made for as many lanes,
/// and the CPU has the instructions of the lines.
pub(super) unsafe fn depthwise(op: &Depthwise, raw: Raw, rows: Range<usize>, lines: &Lines) {
    let layout = Layout::new(op, lines.lanes, lines.wide);
    let [vertical, horizontal] = op.window.stride;
    let flat = layout.repeats() && horizontal == 1 && is_dense(&op.input) && is_dense(&op.output);
    let new_columns = if flat { SIDE } else { (horizontal as usize).min(SIDE) };
    let in_pairs = layout.by_columns && vertical == op.window.dilation[0];
    // SAFETY: what was prepared begins with an offset for each tap, at a multiple of 64 bytes.
    let taps = unsafe {
        core::slice::from_raw_parts(raw.prepared.cast::<u64>(), layout.taps.next_multiple_of(4))
    };
    let blocks = if flat { 1 } else { layout.channels.div_ceil(layout.block()) };
    let mut row = rows.start;
    while row < rows.end {
        let rows_at_once = if in_pairs && row + 1 < rows.end { 2 } else { 1 };
        let kernel = if layout.by_columns {
            lines.by_columns[rows_at_once - 1][new_columns - 1]
        } else {
            lines.by_taps
        };
        let at = Position { row, rows: rows_at_once, block: 0, flat };
        for block in 0..blocks {
            // SAFETY: as this function's; the rows and the block are the operation's.
            unsafe { kernel(&line(op, raw, &layout, taps, Position { block, ..at })) };
        }
        row += rows_at_once;
    }
}

/// Which outputs a [`Line`] is.
#[derive(Clone, Copy)]
struct Position {
    row: usize,
    /// 1, or 2 where windows of the next row begin one row of the kernel lower.
    rows: usize,
    block: usize,
    flat: bool,
}

/// Whether a row is one run of bytes, whatever its width.
fn is_dense(view: &View) -> bool {
    view.pixel_bytes == view.channels
}

/// # Safety
/// As of [`depthwise`].
unsafe fn line<'a>(
    op: &Depthwise,
    raw: Raw,
    layout: &Layout,
    taps: &'a [u64],
    at: Position,
) -> Line<'a> {
    let width = op.output.width as usize;
    let first = at.block * layout.block();
    let window = window_start(&op.input, &op.window, at.row as u32, 0) + first;
    let output = op.output.at(at.row as u32, 0) + first;
    let down = op.window.dilation[0] as usize * op.input.row_bytes as usize;
    // Without a next row, the fourth row is multiplied by zero: it may be any.
    let (fourth, next_output) =
        if at.rows == 2 { (3 * down, op.output.row_bytes as usize) } else { (2 * down, 0) };
    let pixel_bytes = op.input.pixel_bytes as usize;
    let (vectors, input_step, output_step, bytes, last_bytes) = if at.flat {
        let run = width * layout.channels;
        let vectors = run.div_ceil(layout.block());
        let last = run - (vectors - 1) * layout.block();
        (vectors, layout.block(), layout.block(), layout.block(), last)
    } else {
        let bytes = (layout.channels - first).min(layout.block());
        let step = op.window.stride[1] as usize * pixel_bytes;
        (width, step, op.output.pixel_bytes as usize, bytes, bytes)
    };
    // SAFETY: the window and the outputs lie within the arena, the block's constants within what was prepared.
    unsafe {
        let base = raw.arena.add(window).cast_const();
        let output = raw.arena.add(output);
        Line {
            inputs: if layout.by_columns {
                [base, base.add(down), base.add(2 * down), base.add(fourth)]
            } else {
                [base; 4]
            },
            outputs: [output, output.add(next_output)],
            vectors,
            input_step,
            output_step,
            bytes,
            last_bytes,
            column_step: pixel_bytes,
            taps,
            constants: raw.prepared.add(layout.taps_bytes() + at.block * layout.block_bytes()),
            weights_bytes: layout.weights_bytes(),
            rounding: Rounding::new(op.range),
        }
    }
}

impl Line<'_> {
    fn bytes(&self, vector: usize) -> usize {
        if vector + 1 == self.vectors { self.last_bytes } else { self.bytes }
    }
}

/// Any kernel, four taps at a time.
///
/// # Safety
/// As of [`depthwise`].
#[inline(always)]
pub(super) unsafe fn by_taps<V: Vector>(line: &Line<'_>) {
    let vector_bytes = 4 * V::LANES;
    // SAFETY: windows lie within the arena, whole vectors from their taps on within its slack.
    unsafe {
        let weights = line.constants.add(8 * vector_bytes);
        for index in 0..line.vectors {
            let input = line.inputs[0].add(index * line.input_step);
            let mut sums = biases::<V>(line);
            let mut at = weights;
            for taps in line.taps.as_chunks::<4>().0 {
                let rows = [
                    V::load(input.add(taps[0] as usize)),
                    V::load(input.add(taps[1] as usize)),
                    V::load(input.add(taps[2] as usize)),
                    V::load(input.add(taps[3] as usize)),
                ];
                add_products::<V>(&mut sums, V::quads(rows), at);
                at = at.add(quad_bytes::<V>());
            }
            let to = line.outputs[0].add(index * line.output_step);
            store::<V>(line, &sums, to, line.bytes(index));
        }
    }
}

/// A kernel of 3 × 3, column by column, for `ROWS` rows of outputs, with `NEW` new columns from vector to vector.
///
/// # Safety
/// As of [`depthwise`].
#[inline(always)]
pub(super) unsafe fn by_columns<V: Vector, const ROWS: usize, const NEW: usize>(line: &Line<'_>) {
    // SAFETY: windows lie within the arena, whole vectors from their taps on within its slack.
    unsafe {
        if NEW == 1 {
            return by_columns_in_turn::<V, ROWS>(line);
        }
        let mut first = column::<V>(line, 0);
        for index in 0..line.vectors {
            let at = index * line.input_step;
            let second = column::<V>(line, at + line.column_step);
            let third = column::<V>(line, at + 2 * line.column_step);
            store_window::<V, ROWS>(line, [&first, &second, &third], index);
            first = match NEW {
                2 => third,
                _ if index + 1 < line.vectors => column::<V>(line, at + line.input_step),
                _ => first,
            };
        }
    }
}

/// Each column of quads is the third of a window, then the second, then the first, and stays where it is.
///
/// # Safety
/// As of [`depthwise`].
#[inline(always)]
unsafe fn by_columns_in_turn<V: Vector, const ROWS: usize>(line: &Line<'_>) {
    let step = line.column_step;
    // SAFETY: as of `by_columns`; there are so many windows left.
    unsafe {
        let mut a = column::<V>(line, 0);
        let mut b = column::<V>(line, step);
        let mut index = 0;
        while index < line.vectors {
            let c = column::<V>(line, (index + 2) * step);
            store_window::<V, ROWS>(line, [&a, &b, &c], index);
            if index + 1 == line.vectors {
                return;
            }
            a = column::<V>(line, (index + 3) * step);
            store_window::<V, ROWS>(line, [&b, &c, &a], index + 1);
            if index + 2 == line.vectors {
                return;
            }
            b = column::<V>(line, (index + 4) * step);
            store_window::<V, ROWS>(line, [&c, &a, &b], index + 2);
            index += 3;
        }
    }
}

/// The outputs of a window of three columns.
#[inline(always)]
unsafe fn store_window<V: Vector, const ROWS: usize>(
    line: &Line<'_>,
    columns: [&[V::Values; 4]; SIDE],
    index: usize,
) {
    // SAFETY: as the caller's.
    unsafe {
        let weights = line.constants.add(8 * 4 * V::LANES);
        for row in 0..ROWS {
            let mut sums = biases::<V>(line);
            let of_row = weights.add(row * line.weights_bytes);
            for column in 0..SIDE {
                let of_column = of_row.add(column * quad_bytes::<V>());
                add_products::<V>(&mut sums, *columns[column], of_column);
            }
            let to = line.outputs[row].add(index * line.output_step);
            store::<V>(line, &sums, to, line.bytes(index));
        }
    }
}

/// The quads of a column of all rows.
#[inline(always)]
unsafe fn column<V: Vector>(line: &Line<'_>, at: usize) -> [V::Values; 4] {
    // SAFETY: as the caller's.
    unsafe {
        V::quads([
            V::load(line.inputs[0].add(at)),
            V::load(line.inputs[1].add(at)),
            V::load(line.inputs[2].add(at)),
            V::load(line.inputs[3].add(at)),
        ])
    }
}

#[inline(always)]
unsafe fn biases<V: Vector>(line: &Line<'_>) -> [V::Int; 4] {
    let vector_bytes = 4 * V::LANES;
    // SAFETY: a block's constants begin with its biases.
    unsafe {
        [
            V::load(line.constants),
            V::load(line.constants.add(vector_bytes)),
            V::load(line.constants.add(2 * vector_bytes)),
            V::load(line.constants.add(3 * vector_bytes)),
        ]
    }
}

/// Bytes of the weights of a block for four taps.
const fn quad_bytes<V: Vector>() -> usize {
    4 * V::LANES * if V::PREPARES_WIDE { 8 } else { 4 }
}

#[inline(always)]
unsafe fn add_products<V: Vector>(
    sums: &mut [V::Int; 4],
    quads: [V::Values; 4],
    weights: *const u8,
) {
    for v in 0..4 {
        // SAFETY: the caller's weights are for four vectors.
        unsafe {
            let of_vector = V::prepared_weights(weights.add(v * quad_bytes::<V>() / 4));
            sums[v] = V::dot(sums[v], quads[v], of_vector);
        }
    }
}

#[inline(always)]
unsafe fn store<V: Vector>(line: &Line<'_>, sums: &[V::Int; 4], to: *mut u8, count: usize) {
    // SAFETY: a block's multipliers follow its biases; no more is written than the caller says.
    unsafe {
        let multipliers = line.constants.add(4 * 4 * V::LANES).cast::<f32>();
        let mut steps = [V::splat_float(0.0); 4];
        for v in 0..4 {
            steps[v] = V::mul(V::to_floats(sums[v]), V::floats(multipliers.add(v * V::LANES)));
        }
        V::store::<1>(V::narrow(steps, &line.rounding), 0, to, count);
    }
}
