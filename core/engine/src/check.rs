//! The checker: what must hold of a program before anything of it runs.
//!
//! It proves, for each operation by itself, that every address which its definition or any kernel computes lies
//! inside of the arena (with its slack) or the constants. Kernels rely on that; nothing else stands between a hostile
//! program and memory that is not its own. Results of a hostile program may be nonsense.
//!
//! # What kernels may rely on
//!
//! - Each byte that the definition of an operation reads or writes lies within the arena, or among the constants.
//!   [`ARENA_SLACK_BYTES`] behind each of them may be read as well, and nothing before the first. What lies in the
//!   slack is any value; while several threads compute one operation, none writes there (`share.rs` sees to that).
//! - No two values that an operation writes share a byte, and the addresses of a written view rise from pixel to
//!   pixel, row by row. A kernel writes these values and no gap, border or neighbour, and reads none of them.
//! - Inputs and outputs have no byte in common, except that an element-wise operation may have the same view on both
//!   sides: each value is read before it is written, and not again after that.
//! - All extents are at least 1. Offsets, steps between rows, pixels and elements, and such a step times a stride or
//!   a dilation are at most [`ADDRESS_MAX`], and so is the number of values of a view: each fits an `i32`, and the
//!   sum of two a `u32` and a `usize`. Where an extent is 1, the step along it may have any such value and means
//!   nothing, except that the pixels and rows of an input with a border lie apart wherever a window takes a step.
//! - Every window of a pool covers a pixel of its input, and reaches no further than [`ADDRESS_MAX`] pixels.
//! - Multipliers are positive and normal, or zero; ratios and addends are normal or zero, and so small that no sum or
//!   product of a definition is infinite or not a number. Weights that fill a segment up to four values are zero.
//!   The first exponential of a softmax is not zero, and none is above 2²⁴.
//! - A range of output pixels or rows is within the output, and not empty.
//! - All that a run does is within [`Limits::work_max`], and for a pool this counts every tap of every window.
//!
//! Nothing is known of alignment: the arena begins where the caller likes. An address that stands among the
//! constants (the neighbours of a bilinear resize) was checked, but who lends the bytes may still change them: a
//! kernel compares it again, or takes it from what was prepared.

use core::cell::Cell;

use crate::error::ProgramError;
use crate::limits::{ADDRESS_MAX, ARENA_SLACK_BYTES, Limits};
use crate::op::{
    Add, AddChannels, ArgMax, AveragePool, Bilinear, Border, Constant, Conv, Copy, Depthwise,
    Elements, Export, Import, MatMul, MaxPool, Mul, Op, Segments, Softmax, Strided, Table, View,
    Window,
};
use crate::program::{Element, Port, Program, limit};
use crate::requantise::Range;

/// The greatest size of a ratio or an addend: 255 of the greatest, twice, are far from infinity.
const RATIO_MAX: f32 = (1_u128 << 100) as f32;

/// The greatest exponential of a softmax's table, which stands for 1.
const EXPONENTIAL_MAX: u32 = 1 << 24;

type Rule = Result<(), &'static str>;

/// The bytes from the first to the last that something touches, end excluded.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    fn overlaps(self, other: Span) -> bool {
        self.start < other.end && other.start < self.end
    }
}

pub(crate) struct Checker<'p, 'a> {
    program: &'p Program<'a>,
    limits: &'p Limits,
    arena_bytes: u64,
    constant_bytes: u64,
    /// What the operations so far do in one run.
    work: u64,
    /// The bytes of constants that were looked at so far.
    scanned_bytes: Cell<u64>,
}

impl<'p, 'a> Checker<'p, 'a> {
    pub(crate) fn new(program: &'p Program<'a>, limits: &'p Limits) -> Checker<'p, 'a> {
        Checker {
            program,
            limits,
            arena_bytes: program.named_bytes() as u64,
            constant_bytes: program.constants().len() as u64,
            work: 0,
            scanned_bytes: Cell::new(0),
        }
    }

    pub(crate) fn check(mut self) -> Result<(), ProgramError> {
        let mut ports = self.program.port_records();
        for (index, port) in ports.by_ref().enumerate() {
            self.port(&port?).map_err(|rule| ProgramError::Port { port: index, rule })?;
        }
        let mut operations = self.program.operation_records();
        for (index, op) in operations.by_ref().enumerate() {
            let op = op?;
            self.operation(&op)
                .map_err(|rule| ProgramError::Operation { operation: index, rule })?;
            self.work = self.work.saturating_add(work(&op));
            limit("steps of one run", self.work, self.limits.work_max)?;
        }
        limit("bytes behind the last operation", operations.rest().len() as u64, 0)
    }

    fn port(&self, port: &Port<'_>) -> Rule {
        rule(port.shape.rank_fits(), "it has more than six extents")?;
        rule(port.shape.ends_in_ones(), "an extent behind its rank is not 1")?;
        let elements = port.shape.elements().ok_or("its extents do not multiply")? as u64;
        rule(port.offset.is_multiple_of(8), "it does not begin at a multiple of 8")?;
        self.within_arena(Span {
            start: u64::from(port.offset),
            end: u64::from(port.offset)
                .saturating_add(elements.saturating_mul(port.element.bytes() as u64)),
        })
    }

    fn operation(&self, op: &Op) -> Rule {
        match op {
            Op::Import(op) => self.import(op),
            Op::Export(op) => self.export(op),
            Op::Constant(op) => self.constant(op),
            Op::Border(op) => self.border(op),
            Op::Conv(op) => self.conv(op),
            Op::Depthwise(op) => self.depthwise(op),
            Op::Add(op) => self.add(op),
            Op::AddChannels(op) => self.add_channels(op),
            Op::Mul(op) => self.mul(op),
            Op::AveragePool(op) => self.average_pool(op),
            Op::MaxPool(op) => self.max_pool(op),
            Op::Softmax(op) => self.softmax(op),
            Op::Table(op) => self.table(op),
            Op::Copy(op) => self.copy(op),
            Op::Bilinear(op) => self.bilinear(op),
            Op::ArgMax(op) => self.arg_max(op),
            Op::MatMul(op) => self.mat_mul(op),
        }
    }

    fn import(&self, op: &Import) -> Rule {
        let output = self.written(&op.output)?;
        let source = self.elements(&op.source, &op.output)?;
        rule(!source.overlaps(output), "the input and the output overlap")?;
        match op.source.element {
            Element::I8 | Element::U8 => Ok(()),
            Element::F32 => multiplier(op.scale).and_then(|()| range(op.range)),
            Element::I32 | Element::I64 => Err("wide integers cannot be imported"),
        }
    }

    fn export(&self, op: &Export) -> Rule {
        let input = self.view(&op.input)?;
        let target = self.written_elements(&op.target, &op.input)?;
        rule(!target.overlaps(input), "the input and the output overlap")?;
        match op.target.element {
            Element::I8 | Element::U8 => Ok(()),
            Element::F32 => multiplier(op.scale),
            Element::I32 | Element::I64 => Err("wide integers cannot be exported"),
        }
    }

    fn constant(&self, op: &Constant) -> Rule {
        self.written(&op.output)?;
        self.constants(op.values, op.output.pixels() as u64 * u64::from(op.output.channels))
    }

    fn border(&self, op: &Border) -> Rule {
        let view = &op.view;
        self.written(view)?;
        rule(view.rows_are_dense(), "a border needs dense rows")?;
        rule(
            op.extents.iter().all(|extent| *extent <= self.limits.extent_max),
            "an extent is beyond its limit",
        )?;
        let [top, left, bottom, right] = op.extents.map(u64::from);
        let (row, pixel) = (u64::from(view.row_bytes), u64::from(view.channels));
        let width = (left + u64::from(view.width) + right).saturating_mul(pixel);
        let rows = top + u64::from(view.height) + bottom;
        rule(width <= row || rows == 1, "rows overlap with their borders")?;
        let before = top.saturating_mul(row).saturating_add(left.saturating_mul(pixel));
        let start = u64::from(view.offset)
            .checked_sub(before)
            .ok_or("the border begins before the arena")?;
        let rows = (rows - 1).saturating_mul(row);
        self.within_arena(Span { start, end: start.saturating_add(rows).saturating_add(width) })
    }

    fn conv(&self, op: &Conv) -> Rule {
        let output = self.written(&op.output)?;
        rule(op.groups >= 1, "there is no group")?;
        rule(
            op.input.channels.is_multiple_of(op.groups)
                && op.output.channels.is_multiple_of(op.groups),
            "the channels are not a multiple of the groups",
        )?;
        let input = self.windowed(&op.input, &op.window, &op.output)?;
        rule(!input.overlaps(output), "the input and the output overlap")?;
        // A segment lies within the arena, as the windows do, so its length fits.
        let segments = op.segments();
        let block_bytes = (segments.rows as u64)
            .saturating_mul(segments.per_row as u64)
            .saturating_mul(segments.quads() as u64)
            .saturating_mul(64);
        let blocks = u64::from(op.groups).saturating_mul(op.group_blocks() as u64);
        self.constants(op.weights, blocks.saturating_mul(block_bytes))?;
        self.filling(op.weights, blocks * block_bytes, &segments)?;
        self.constants(op.bias, blocks.saturating_mul(64))?;
        self.multipliers(op.multipliers, blocks.saturating_mul(16))?;
        range(op.range)
    }

    /// What fills the last four values of a segment up is multiplied by whatever lies behind it.
    fn filling(&self, weights: u32, bytes: u64, segments: &Segments) -> Rule {
        let filled = segments.values % 4;
        if filled == 0 {
            return Ok(());
        }
        let weights = self.scanned(weights, bytes)?;
        let is_zero = |segment: &[u8]| {
            let (_, last) = segment.split_at(segment.len() - 64);
            last.chunks_exact(4).all(|values| values[filled..].iter().all(|value| *value == 0))
        };
        rule(
            weights.chunks_exact(segments.quads() * 64).all(is_zero),
            "the weights behind a segment are not zero",
        )
    }

    fn depthwise(&self, op: &Depthwise) -> Rule {
        let output = self.written(&op.output)?;
        rule(
            op.input.channels == op.output.channels,
            "the input and the output differ in channels",
        )?;
        let input = self.windowed(&op.input, &op.window, &op.output)?;
        rule(!input.overlaps(output), "the input and the output overlap")?;
        let channels = op.padded_channels() as u64;
        self.constants(op.weights, channels.saturating_mul(taps(&op.window)))?;
        self.constants(op.bias, channels.saturating_mul(4))?;
        self.multipliers(op.multipliers, channels)?;
        range(op.range)
    }

    fn add(&self, op: &Add) -> Rule {
        self.pair(&op.inputs, &op.output)?;
        finite(op.ratios[0]).and(finite(op.ratios[1]))?;
        range(op.range)
    }

    fn add_channels(&self, op: &AddChannels) -> Rule {
        self.element_wise(&op.input, &op.output)?;
        finite(op.ratio)?;
        let addends = self.scanned(op.addends, u64::from(op.output.channels).saturating_mul(4))?;
        floats(addends).try_for_each(finite)?;
        range(op.range)
    }

    fn mul(&self, op: &Mul) -> Rule {
        self.pair(&op.inputs, &op.output)?;
        finite(op.multiplier)?;
        range(op.range)
    }

    fn average_pool(&self, op: &AveragePool) -> Rule {
        self.pool(&op.input, &op.window, &op.output)?;
        if let Some(after) = op.counted_padding {
            rule(
                after.iter().all(|size| *size <= self.limits.extent_max),
                "a padding is too large",
            )?;
        }
        multiplier(op.ratio)?;
        range(op.range)
    }

    fn max_pool(&self, op: &MaxPool) -> Rule {
        self.pool(&op.input, &op.window, &op.output)
    }

    fn softmax(&self, op: &Softmax) -> Rule {
        let (input, output) = (self.view(&op.input)?, self.written(&op.output)?);
        rule(same_extents(&op.input, &op.output), "the input and the output differ in extents")?;
        rule(!input.overlaps(output), "the input and the output overlap")?;
        let mut table = self.scanned(op.table, 1024)?.chunks_exact(4).map(word);
        rule(
            table.clone().all(|value| value <= EXPONENTIAL_MAX),
            "an exponential is greater than one",
        )?;
        rule(table.next() != Some(0), "the first exponential is zero")?;
        rule(op.steps.is_finite() && op.steps > 0.0, "the scale is not a positive number")?;
        range(op.range)
    }

    fn table(&self, op: &Table) -> Rule {
        self.element_wise(&op.input, &op.output)?;
        self.constants(op.table, 256)
    }

    fn copy(&self, op: &Copy) -> Rule {
        rule(
            op.extents.iter().all(|extent| (1..=self.limits.extent_max).contains(extent)),
            "an extent is zero or too large",
        )?;
        let count =
            op.extents.iter().try_fold(1_u64, |all, &extent| all.checked_mul(u64::from(extent)));
        rule(
            count.is_some_and(|count| count <= self.arena_bytes),
            "it copies more than the arena holds",
        )?;
        let span = |side: &Strided| {
            let reach =
                side.strides.iter().zip(op.extents).try_fold(0_u64, |reach, (&stride, extent)| {
                    reach.checked_add(u64::from(stride).checked_mul(u64::from(extent - 1))?)
                });
            let start = u64::from(side.offset);
            reach
                .and_then(|reach| start.checked_add(reach)?.checked_add(1))
                .map(|end| Span { start, end })
                .ok_or("its strides reach too far")
        };
        let (input, output) = (span(&op.input)?, span(&op.output)?);
        self.within_arena(input)?;
        self.within_arena(output)?;
        steps_fit(&op.input.strides)?;
        steps_fit(&op.output.strides)?;
        rule(
            lie_apart(core::array::from_fn::<_, 5, _>(|k| (op.output.strides[k], op.extents[k]))),
            "values of the output overlap",
        )?;
        rule(!input.overlaps(output), "the input and the output overlap")
    }

    fn bilinear(&self, op: &Bilinear) -> Rule {
        let (input, output) = (self.view(&op.input)?, self.written(&op.output)?);
        rule(
            op.input.channels == op.output.channels,
            "the input and the output differ in channels",
        )?;
        rule(!input.overlaps(output), "the input and the output overlap")?;
        self.neighbours(op.rows, op.output.height, op.input.height)?;
        self.neighbours(op.columns, op.output.width, op.input.width)?;
        multiplier(op.multiplier)?;
        range(op.range)
    }

    fn neighbours(&self, table: u32, outputs: u32, inputs: u32) -> Rule {
        let records = self.scanned(table, u64::from(outputs).saturating_mul(8))?.chunks_exact(8);
        let half =
            |record: &[u8], at: usize| u32::from(u16::from_le_bytes([record[at], record[at + 1]]));
        let fits = |record: &[u8]| {
            half(record, 0) < inputs && half(record, 2) < inputs && half(record, 4) <= 2048
        };
        rule(
            records.clone().all(fits),
            "a neighbour is outside of the input, or its weight above one",
        )
    }

    fn arg_max(&self, op: &ArgMax) -> Rule {
        let input = self.view(&op.input)?;
        let one = View { channels: 1, ..op.input };
        let target = self.written_elements(&op.target, &one)?;
        rule(!target.overlaps(input), "the input and the output overlap")?;
        rule(matches!(op.target.element, Element::I32 | Element::I64), "indices go to i32 or i64")
    }

    fn mat_mul(&self, op: &MatMul) -> Rule {
        let [a, b] = &op.inputs;
        let (left, right, output) = (self.read(a)?, self.read(b)?, self.written(&op.output)?);
        rule(!left.overlaps(output) && !right.overlaps(output), "an input and the output overlap")?;
        let fits = a.channels == b.width
            && a.width == op.output.width
            && b.channels == op.output.channels
            && a.height == op.output.height
            && b.height == op.output.height;
        rule(fits, "the extents of the product do not fit")?;
        finite(op.multiplier)?;
        range(op.range)
    }

    /// Two inputs, each as large as the output or repeated, and disjoint from it or the same view.
    fn pair(&self, inputs: &[View; 2], output: &View) -> Rule {
        inputs.iter().try_for_each(|input| self.element_wise(input, output))
    }

    fn element_wise(&self, input: &View, output: &View) -> Rule {
        let (read, written) = (self.read(input)?, self.written(output)?);
        rule(same_extents(input, output), "the input and the output differ in extents")?;
        rule(input == output || !read.overlaps(written), "the input and the output overlap in part")
    }

    fn pool(&self, input: &View, window: &Window, output: &View) -> Rule {
        let (read, written) = (self.view(input)?, self.written(output)?);
        self.window(window, input)?;
        rule(input.channels == output.channels, "the input and the output differ in channels")?;
        rule(!read.overlaps(written), "the input and the output overlap")?;
        for (axis, extent, outputs) in
            [(0, input.height, output.height), (1, input.width, output.width)]
        {
            let reach = reach(window, axis);
            let last = u64::from(outputs - 1) * u64::from(window.stride[axis]);
            let padding = u64::from(window.padding[axis]);
            let padded = padding + u64::from(extent);
            rule(padding <= reach && last < padded, "a window lies beside the input")?;
            rule(reach <= ADDRESS_MAX, "a window reaches too far")?;
            // With dilation, a window can reach over the input without a tap in it.
            rule(
                window.dilation[axis] <= extent || padding == 0,
                "a dilation is wider than the input",
            )?;
        }
        Ok(())
    }

    fn window(&self, window: &Window, input: &View) -> Rule {
        let sizes = [window.kernel, window.stride, window.dilation];
        let fits =
            sizes.as_flattened().iter().all(|size| (1..=self.limits.extent_max).contains(size));
        rule(fits, "a kernel, stride or dilation is zero or too large")?;
        rule(
            window.padding.iter().all(|size| *size <= self.limits.extent_max),
            "a padding is too large",
        )?;
        let fits = |axis: usize, step: u32| {
            let widest = window.stride[axis].max(window.dilation[axis]);
            u64::from(widest).saturating_mul(u64::from(step)) <= ADDRESS_MAX
        };
        rule(
            fits(0, input.row_bytes) && fits(1, input.pixel_bytes),
            "a stride or dilation reaches too far",
        )
    }

    /// What windows touch of an input with a border.
    fn windowed(&self, input: &View, window: &Window, output: &View) -> Result<Span, &'static str> {
        self.view(input)?;
        self.window(window, input)?;
        let [row, pixel] = [input.row_bytes, input.pixel_bytes].map(u64::from);
        let outputs = [output.height, output.width].map(u64::from);
        let moves = |axis: usize| outputs[axis] > 1 || window.kernel[axis] > 1;
        rule(
            (!moves(0) || row >= row_bytes(input))
                && (!moves(1) || input.pixel_bytes >= input.channels),
            "pixels or rows of the input's border overlap",
        )?;
        let before = u64::from(window.padding[0])
            .saturating_mul(row)
            .saturating_add(u64::from(window.padding[1]).saturating_mul(pixel));
        let start = u64::from(input.offset)
            .checked_sub(before)
            .ok_or("the windows begin before the arena")?;
        let last = |axis: usize, step: u64| {
            let last = (outputs[axis] - 1) * u64::from(window.stride[axis]);
            last.saturating_add(reach(window, axis)).saturating_mul(step)
        };
        let end = start
            .saturating_add(last(0, row))
            .saturating_add(last(1, pixel))
            .saturating_add(u64::from(input.channels));
        let span = Span { start, end };
        self.within_arena(span)?;
        Ok(span)
    }

    /// A view that is written: no two of its values share a byte.
    fn written(&self, view: &View) -> Result<Span, &'static str> {
        let span = self.read(view)?;
        let pixel_fits = view.pixel_bytes >= view.channels || view.width == 1;
        let row_fits = u64::from(view.row_bytes) >= row_bytes(view) || view.height == 1;
        rule(pixel_fits && row_fits, "pixels or rows of a view overlap")?;
        Ok(span)
    }

    /// A view whose values do not overlap, read.
    fn view(&self, view: &View) -> Result<Span, &'static str> {
        self.written(view)
    }

    /// A view that may repeat rows and pixels.
    fn read(&self, view: &View) -> Result<Span, &'static str> {
        let extents = [view.height, view.width, view.channels];
        rule(
            extents.iter().all(|extent| (1..=self.limits.extent_max).contains(extent)),
            "an extent is zero or too large",
        )?;
        rule(
            extents.iter().fold(1_u64, |all, &extent| all.saturating_mul(u64::from(extent)))
                <= ADDRESS_MAX,
            "a view has too many values",
        )?;
        steps_fit(&[view.row_bytes, view.pixel_bytes])?;
        let start = u64::from(view.offset);
        let end = start
            .saturating_add(u64::from(view.height - 1).saturating_mul(u64::from(view.row_bytes)))
            .saturating_add(u64::from(view.width - 1).saturating_mul(u64::from(view.pixel_bytes)))
            .saturating_add(u64::from(view.channels));
        let span = Span { start, end };
        self.within_arena(span)?;
        Ok(span)
    }

    fn written_elements(&self, elements: &Elements, view: &View) -> Result<Span, &'static str> {
        let span = self.elements(elements, view)?;
        rule(
            lie_apart([
                (elements.row, view.height),
                (elements.pixel, view.width),
                (elements.channel, view.channels),
            ]),
            "elements of the output overlap",
        )?;
        Ok(span)
    }

    fn elements(&self, elements: &Elements, view: &View) -> Result<Span, &'static str> {
        let steps = [
            (elements.row, view.height),
            (elements.pixel, view.width),
            (elements.channel, view.channels),
        ];
        let last = steps.iter().fold(0_u64, |last, &(step, extent)| {
            last.saturating_add(u64::from(step).saturating_mul(u64::from(extent - 1)))
        });
        let bytes = elements.element.bytes() as u64;
        rule(
            steps.iter().all(|&(step, _)| u64::from(step) * bytes <= ADDRESS_MAX),
            "a step between values is too wide",
        )?;
        rule(
            u64::from(elements.offset).is_multiple_of(bytes),
            "elements do not begin at a multiple of their size",
        )?;
        let end =
            u64::from(elements.offset).saturating_add(last.saturating_add(1).saturating_mul(bytes));
        let span = Span { start: u64::from(elements.offset), end };
        self.within_arena(span)?;
        Ok(span)
    }

    fn within_arena(&self, span: Span) -> Rule {
        rule(span.end <= self.arena_bytes, "it reaches beyond the arena")
    }

    /// Kernels load whole vectors of constants, so none may end in the last bytes.
    fn constants(&self, offset: u32, bytes: u64) -> Rule {
        let end = u64::from(offset).saturating_add(bytes).saturating_add(ARENA_SLACK_BYTES as u64);
        rule(end <= self.constant_bytes, "its constants reach beyond the program's")
    }

    /// Constants that the checker looks at. Many operations may name the same ones, so their sum has a limit too.
    fn scanned(&self, offset: u32, bytes: u64) -> Result<&'a [u8], &'static str> {
        self.constants(offset, bytes)?;
        let all = self.scanned_bytes.get().saturating_add(bytes);
        self.scanned_bytes.set(all);
        rule(
            all <= self.limits.program_bytes_max as u64,
            "constants are named more often than a program is long",
        )?;
        let start = offset as usize;
        self.program
            .constants()
            .get(start..start + bytes as usize)
            .ok_or("its constants reach beyond the program's")
    }

    fn multipliers(&self, offset: u32, count: u64) -> Rule {
        let words = self.scanned(offset, count.saturating_mul(4))?;
        floats(words).try_for_each(|value| if value == 0.0 { Ok(()) } else { multiplier(value) })
    }
}

/// The single multiplications, comparisons and copies of an operation that was checked, as the reference does them.
fn work(op: &Op) -> u64 {
    let values =
        |view: &View| u64::from(view.height) * u64::from(view.width) * u64::from(view.channels);
    match op {
        Op::Import(op) => values(&op.output),
        Op::Export(op) => values(&op.input),
        Op::Constant(op) => values(&op.output),
        Op::Border(op) => {
            let [top, left, bottom, right] = op.extents.map(u64::from);
            (u64::from(op.view.height) + top + bottom)
                .saturating_mul(u64::from(op.view.width) + left + right)
                .saturating_mul(u64::from(op.view.channels))
        }
        Op::Conv(op) => {
            let blocks = u64::from(op.groups) * op.group_blocks() as u64;
            let block = op.segments().block_bytes() as u64;
            (op.output.pixels() as u64).saturating_mul(blocks).saturating_mul(block + 16)
        }
        Op::Depthwise(op) => values(&op.output).saturating_mul(taps(&op.window)),
        Op::Add(op) => values(&op.output),
        Op::AddChannels(op) => values(&op.output),
        Op::Mul(op) => values(&op.output),
        Op::AveragePool(op) => values(&op.output).saturating_mul(taps(&op.window)),
        Op::MaxPool(op) => values(&op.output).saturating_mul(taps(&op.window)),
        Op::Softmax(op) => values(&op.output).saturating_mul(3),
        Op::Table(op) => values(&op.output),
        Op::Copy(op) => op.extents.iter().fold(1, |all: u64, &n| all.saturating_mul(n.into())),
        Op::Bilinear(op) => values(&op.output).saturating_mul(4),
        Op::ArgMax(op) => values(&op.input),
        Op::MatMul(op) => values(&op.output).saturating_mul(op.inputs[0].channels.into()),
    }
}

/// How many taps a window has; [`Window::taps`] is for those that were checked.
fn taps(window: &Window) -> u64 {
    u64::from(window.kernel[0]) * u64::from(window.kernel[1])
}

/// From the first tap of a window to the last.
fn reach(window: &Window, axis: usize) -> u64 {
    u64::from(window.kernel[axis] - 1) * u64::from(window.dilation[axis])
}

/// Bytes from the beginning of a row to the end of its last pixel.
fn row_bytes(view: &View) -> u64 {
    u64::from(view.width - 1) * u64::from(view.pixel_bytes) + u64::from(view.channels)
}

/// Whether no two values with these steps between them, so many along each, lie in one place: each step goes beyond
/// all that the smaller ones reach.
fn lie_apart<const N: usize>(mut steps: [(u32, u32); N]) -> bool {
    steps.sort_unstable();
    let mut reached = 0_u64;
    steps.iter().filter(|(_, extent)| *extent > 1).all(|&(step, extent)| {
        let beyond = u64::from(step) > reached;
        reached = reached.saturating_add(u64::from(step).saturating_mul(u64::from(extent - 1)));
        beyond
    })
}

fn steps_fit(steps: &[u32]) -> Rule {
    rule(
        steps.iter().all(|step| u64::from(*step) <= ADDRESS_MAX),
        "a step between values is too wide",
    )
}

fn same_extents(a: &View, b: &View) -> bool {
    a.height == b.height && a.width == b.width && a.channels == b.channels
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_bits(word(bytes)))
}

/// Subnormal numbers are refused: some CPUs take them for zero.
fn multiplier(value: f32) -> Rule {
    rule(value.is_normal() && value > 0.0, "a multiplier is not a positive number")
}

fn finite(value: f32) -> Rule {
    rule(
        (value.is_normal() || value == 0.0) && value.abs() <= RATIO_MAX,
        "a ratio is not a finite number, or too large",
    )
}

fn range(range: Range) -> Rule {
    rule(range.low <= range.high, "the least value is above the greatest")
}

fn rule(holds: bool, broken: &'static str) -> Rule {
    if holds { Ok(()) } else { Err(broken) }
}

#[cfg(test)]
mod tests;
