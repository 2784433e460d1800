//! The checker: what must hold of a program before anything of it runs.
//!
//! It proves, for each operation by itself, that every address which its definition or any kernel computes lies
//! inside of the arena (with its slack) or the constants. Kernels rely on that; nothing else stands between a hostile
//! program and memory that is not its own. Results of a hostile program may be nonsense.

use crate::error::ProgramError;
use crate::limits::{ARENA_SLACK_BYTES, Limits};
use crate::op::{
    Add, AddChannels, ArgMax, AveragePool, Bilinear, Border, Constant, Conv, Copy, Depthwise,
    Elements, Export, Import, MatMul, MaxPool, Mul, Op, Softmax, Strided, Table, View, Window,
};
use crate::program::{Element, Port, Program};
use crate::requantise::Range;

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
    arena_bytes: u64,
    constant_bytes: u64,
    extent_max: u32,
}

impl<'p, 'a> Checker<'p, 'a> {
    pub(crate) fn new(program: &'p Program<'a>, limits: &Limits) -> Checker<'p, 'a> {
        Checker {
            program,
            arena_bytes: program.named_bytes() as u64,
            constant_bytes: program.constants().len() as u64,
            extent_max: limits.extent_max,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ProgramError> {
        let mut ports = self.program.port_records();
        for (index, port) in ports.by_ref().enumerate() {
            self.port(&port?).map_err(|rule| ProgramError::Port { port: index, rule })?;
        }
        let mut operations = self.program.operation_records();
        for (index, op) in operations.by_ref().enumerate() {
            self.operation(&op?)
                .map_err(|rule| ProgramError::Operation { operation: index, rule })?;
        }
        match operations.rest() {
            [] => Ok(()),
            rest => Err(ProgramError::Limit {
                what: "bytes behind the last operation",
                found: rest.len(),
                limit: 0,
            }),
        }
    }

    fn port(&self, port: &Port<'_>) -> Rule {
        let elements = port.shape.elements().ok_or("its extents do not multiply")? as u64;
        rule(port.shape.extents().len() <= 6, "it has more than six extents")?;
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
        let target = self.elements(&op.target, &op.input)?;
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
            op.extents.iter().all(|extent| *extent <= self.extent_max),
            "an extent is beyond its limit",
        )?;
        let [top, left, bottom, right] = op.extents.map(u64::from);
        let (row, pixel) = (u64::from(view.row_bytes), u64::from(view.channels));
        let width = (left + u64::from(view.width) + right).saturating_mul(pixel);
        rule(
            width <= row || top + bottom + u64::from(view.height) == 1,
            "rows overlap with their borders",
        )?;
        let before = top.saturating_mul(row).saturating_add(left * pixel);
        let start = u64::from(view.offset)
            .checked_sub(before)
            .ok_or("the border begins before the arena")?;
        let rows = (top + u64::from(view.height) + bottom - 1).saturating_mul(row);
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
        let block_bytes = u64::from(op.window.kernel[0])
            .saturating_mul(op.segments().per_row as u64)
            .saturating_mul(op.segments().quads() as u64)
            .saturating_mul(64);
        let blocks = u64::from(op.groups).saturating_mul(op.group_blocks() as u64);
        self.constants(op.weights, blocks.saturating_mul(block_bytes))?;
        self.constants(op.bias, blocks.saturating_mul(64))?;
        self.multipliers(op.multipliers, blocks.saturating_mul(16))?;
        range(op.range)
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
        self.constants(op.weights, channels.saturating_mul(op.window.taps() as u64))?;
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
        self.constants(op.addends, u64::from(op.output.channels).saturating_mul(4))?;
        range(op.range)
    }

    fn mul(&self, op: &Mul) -> Rule {
        self.pair(&op.inputs, &op.output)?;
        finite(op.multiplier)?;
        range(op.range)
    }

    fn average_pool(&self, op: &AveragePool) -> Rule {
        self.pool(&op.input, &op.window, &op.output)?;
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
        self.constants(op.table, 1024)?;
        rule(op.steps.is_finite() && op.steps > 0.0, "the scale is not a positive number")?;
        range(op.range)
    }

    fn table(&self, op: &Table) -> Rule {
        self.element_wise(&op.input, &op.output)?;
        self.constants(op.table, 256)
    }

    fn copy(&self, op: &Copy) -> Rule {
        rule(
            op.extents.iter().all(|extent| (1..=self.extent_max).contains(extent)),
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
        self.constants(table, u64::from(outputs).saturating_mul(8))?;
        let start = table as usize;
        let records = self.program.constants()[start..start + outputs as usize * 8].chunks_exact(8);
        let half =
            |record: &[u8], at: usize| u32::from(u16::from_le_bytes([record[at], record[at + 1]]));
        let fits = |record: &[u8]| {
            half(record, 0) < inputs && half(record, 2) < inputs && half(record, 4) <= 2048
        };
        rule(
            records.into_iter().all(fits),
            "a neighbour is outside of the input, or its weight above one",
        )
    }

    fn arg_max(&self, op: &ArgMax) -> Rule {
        let input = self.view(&op.input)?;
        let one = View { channels: 1, ..op.input };
        let target = self.elements(&op.target, &one)?;
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
        self.window(window)?;
        rule(input.channels == output.channels, "the input and the output differ in channels")?;
        rule(!read.overlaps(written), "the input and the output overlap")?;
        for (axis, extent, outputs) in
            [(0, input.height, output.height), (1, input.width, output.width)]
        {
            let reach = u64::from(window.dilation[axis]) * u64::from(window.kernel[axis] - 1);
            let last = u64::from(outputs - 1) * u64::from(window.stride[axis]);
            let padding = u64::from(window.padding[axis]);
            rule(
                padding <= reach && last < padding + u64::from(extent),
                "a window lies beside the input",
            )?;
            // With dilation, a window can reach over the input without a tap in it.
            rule(
                window.dilation[axis] <= extent || padding == 0,
                "a dilation is wider than the input",
            )?;
        }
        Ok(())
    }

    fn window(&self, window: &Window) -> Rule {
        let sizes = [window.kernel, window.stride, window.dilation];
        let fits = sizes.as_flattened().iter().all(|size| (1..=self.extent_max).contains(size));
        rule(fits, "a kernel, stride or dilation is zero or too large")?;
        rule(window.padding.iter().all(|size| *size <= self.extent_max), "a padding is too large")
    }

    /// What windows touch of an input with a border.
    fn windowed(&self, input: &View, window: &Window, output: &View) -> Result<Span, &'static str> {
        self.view(input)?;
        self.window(window)?;
        let [row, pixel] = [input.row_bytes, input.pixel_bytes].map(u64::from);
        let before =
            u64::from(window.padding[0]).saturating_mul(row) + u64::from(window.padding[1]) * pixel;
        let start = u64::from(input.offset)
            .checked_sub(before)
            .ok_or("the windows begin before the arena")?;
        let reach = |axis: usize, outputs: u32, step: u64| {
            let last = u64::from(outputs - 1) * u64::from(window.stride[axis]);
            let taps = u64::from(window.kernel[axis] - 1) * u64::from(window.dilation[axis]);
            last.saturating_add(taps).saturating_mul(step)
        };
        let end = start
            .saturating_add(reach(0, output.height, row))
            .saturating_add(reach(1, output.width, pixel))
            .saturating_add(u64::from(input.channels));
        let span = Span { start, end };
        self.within_arena(span)?;
        Ok(span)
    }

    /// A view that is written: no two of its values share a byte.
    fn written(&self, view: &View) -> Result<Span, &'static str> {
        let span = self.read(view)?;
        let pixel_fits = view.pixel_bytes >= view.channels || view.width == 1;
        let row_bytes =
            u64::from(view.width - 1) * u64::from(view.pixel_bytes) + u64::from(view.channels);
        let row_fits = u64::from(view.row_bytes) >= row_bytes || view.height == 1;
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
            extents.iter().all(|extent| (1..=self.extent_max).contains(extent)),
            "an extent is zero or too large",
        )?;
        let start = u64::from(view.offset);
        let end = start
            .saturating_add(u64::from(view.height - 1).saturating_mul(u64::from(view.row_bytes)))
            .saturating_add(u64::from(view.width - 1).saturating_mul(u64::from(view.pixel_bytes)))
            .saturating_add(u64::from(view.channels));
        let span = Span { start, end };
        self.within_arena(span)?;
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

    fn multipliers(&self, offset: u32, count: u64) -> Rule {
        self.constants(offset, count.saturating_mul(4))?;
        let start = offset as usize;
        let words = self.program.constants()[start..start + count as usize * 4].chunks_exact(4);
        let all = words.into_iter().all(|word| {
            let value = f32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            value == 0.0 || multiplier(value).is_ok()
        });
        rule(all, "a multiplier is not a positive number")
    }
}

fn same_extents(a: &View, b: &View) -> bool {
    a.height == b.height && a.width == b.width && a.channels == b.channels
}

/// Subnormal numbers are refused: some CPUs take them for zero.
fn multiplier(value: f32) -> Rule {
    rule(value.is_normal() && value > 0.0, "a multiplier is not a positive number")
}

fn finite(value: f32) -> Rule {
    rule(value.is_normal() || value == 0.0, "a ratio is not a finite number")
}

fn range(range: Range) -> Rule {
    rule(range.low <= range.high, "the least value is above the greatest")
}

fn rule(holds: bool, broken: &'static str) -> Rule {
    if holds { Ok(()) } else { Err(broken) }
}
