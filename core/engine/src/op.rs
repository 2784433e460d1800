//! Operations: what a program is made of.
//!
//! Offsets of views and elements are bytes from the beginning of the arena; offsets named after constants are bytes
//! from the beginning of the constants. Values are quantised `i8` in storage order `[height, width, channels]`
//! unless an operation says otherwise. Multi-byte constants are little-endian.
//!
//! New operations are appended to [`Op`], so that the numbers of the old ones stay.

use serde::{Deserialize, Serialize};

use crate::program::Element;
use crate::requantise::Range;

/// A block of quantised values in the arena, `[height, width, channels]`, channels next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Where `[0, 0, 0]` lies. A border lies before it.
    pub offset: u32,
    /// Rows.
    pub height: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Values in a pixel.
    pub channels: u32,
    /// Bytes from one row to the next; 0 repeats the row, where an operation allows broadcasting.
    pub row_bytes: u32,
    /// Bytes from one pixel to the next; 0 repeats the pixel, where an operation allows broadcasting.
    pub pixel_bytes: u32,
}

impl View {
    /// A view without gaps at `offset`.
    pub const fn dense(offset: u32, height: u32, width: u32, channels: u32) -> View {
        View {
            offset,
            height,
            width,
            channels,
            row_bytes: width.wrapping_mul(channels),
            pixel_bytes: channels,
        }
    }

    /// How many pixels it has.
    pub const fn pixels(&self) -> usize {
        self.height as usize * self.width as usize
    }

    /// Where the pixel `[y, x]` lies.
    pub const fn at(&self, y: u32, x: u32) -> usize {
        self.offset as usize
            + y as usize * self.row_bytes as usize
            + x as usize * self.pixel_bytes as usize
    }

    /// Whether a row is one run of bytes.
    pub const fn rows_are_dense(&self) -> bool {
        self.pixel_bytes == self.channels || self.width == 1
    }
}

/// How a kernel moves over its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Extent of the kernel, `[height, width]`.
    pub kernel: [u32; 2],
    /// Steps between outputs, `[down, right]`.
    pub stride: [u32; 2],
    /// Steps between taps, `[down, right]`.
    pub dilation: [u32; 2],
    /// How far the first window begins above and left of the input, `[top, left]`.
    pub padding: [u32; 2],
}

impl Window {
    /// One pixel at a time.
    pub const UNIT: Window =
        Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], padding: [0, 0] };

    /// How many taps the kernel has.
    pub const fn taps(&self) -> usize {
        self.kernel[0] as usize * self.kernel[1] as usize
    }
}

/// Elements outside of the quantised views, most often a port's, and how `[height, width, channels]` lie among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elements {
    /// Where `[0, 0, 0]` lies in the arena, in bytes.
    pub offset: u32,
    /// Their type.
    pub element: Element,
    /// Elements from one row to the next.
    pub row: u32,
    /// Elements from one pixel to the next.
    pub pixel: u32,
    /// Elements from one channel to the next.
    pub channel: u32,
}

impl Elements {
    /// Where an element lies.
    pub(crate) const fn at(&self, y: u32, x: u32, c: u32) -> usize {
        let index = y as usize * self.row as usize
            + x as usize * self.pixel as usize
            + c as usize * self.channel as usize;
        self.offset as usize + index * self.element.bytes()
    }
}

/// A value at `offset` and strides in bytes, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strided {
    /// Where the first value lies.
    pub offset: u32,
    /// Bytes from one to the next along each extent.
    pub strides: [u32; 5],
}

/// From elements into a view. `i8` is taken as it is, `u8` less 128, and `f32` is quantised: `clamp(round_half_even(x /
/// scale) + zero_point)`, NaN as `low`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Import {
    /// The elements.
    pub source: Elements,
    /// Where the values go.
    pub output: View,
    /// The scale, for `f32`.
    pub scale: f32,
    /// The zero point and the clamp, for `f32`.
    pub range: Range,
}

/// From a view to elements: the reverse of [`Import`]. `f32` becomes `(value - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// The values.
    pub input: View,
    /// Where they go.
    pub target: Elements,
    /// The scale, for `f32`.
    pub scale: f32,
    /// The zero point, for `f32`.
    pub zero_point: i8,
}

/// Constant values into a view: `height · width · channels` bytes `i8`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    /// The offset of the values among the constants.
    pub values: u32,
    /// Where they go.
    pub output: View,
}

/// Fills the pixels around a view.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Border {
    /// The view; its rows are dense.
    pub view: View,
    /// Pixels above, left, below, right.
    pub extents: [u32; 4],
    /// What is put there: the zero point, or the least value in front of a maximum.
    pub value: i8,
}

/// A convolution, a fully connected layer (one pixel, kernel 1 × 1), or a product with constant weights (each row of
/// the left side is a pixel): `requantise(bias[c] + Σ weight[c] · input)`.
///
/// The input needs a border as wide as the windows reach out of it; the zero point of the input is folded into the
/// bias. For each group, weights lie in blocks of 16 output channels; in a block, for each segment and each four
/// values of it: `[16 channels, 4 values] i8`. A *segment* is a run of values that lie next to each other: a row of
/// the kernel where its pixels do (one group, no dilation to the right, no gaps between pixels), else one pixel's
/// channels of the group. What fills a segment up to four values, or a block up to 16 channels, is zero. Biases are
/// `i32` and multipliers `f32`, 16 for each block of each group.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// The input.
    pub input: View,
    /// The output.
    pub output: View,
    /// The kernel and its steps.
    pub window: Window,
    /// Groups of channels, which do not see each other.
    pub groups: u32,
    /// The offset of the weights.
    pub weights: u32,
    /// The offset of the biases.
    pub bias: u32,
    /// The offset of the multipliers, `input scale · weight scale / output scale` for each channel.
    pub multipliers: u32,
    /// The results' range.
    pub range: Range,
}

/// The segments of a [`Conv`]'s kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segments {
    /// Segments in a row of the kernel.
    pub(crate) per_row: usize,
    /// Values of one segment.
    pub(crate) values: usize,
    /// Bytes from one segment of a row to the next.
    pub(crate) step_bytes: usize,
    /// Bytes from one row of the kernel to the next.
    pub(crate) row_step_bytes: usize,
    /// Rows of the kernel.
    pub(crate) rows: usize,
}

impl Segments {
    /// Groups of four values that one segment is padded to.
    pub(crate) const fn quads(&self) -> usize {
        self.values.div_ceil(4)
    }

    /// Bytes of weights of a block of 16 channels.
    pub(crate) const fn block_bytes(&self) -> usize {
        self.rows * self.per_row * self.quads() * 64
    }
}

impl Conv {
    /// Output channels of a group.
    pub(crate) const fn group_outputs(&self) -> usize {
        self.output.channels as usize / self.groups as usize
    }

    /// Blocks of 16 output channels of a group.
    pub(crate) const fn group_blocks(&self) -> usize {
        self.group_outputs().div_ceil(16)
    }

    pub(crate) const fn segments(&self) -> Segments {
        let Window { kernel, dilation, .. } = self.window;
        let channels = self.input.channels as usize;
        let row_step_bytes = dilation[0] as usize * self.input.row_bytes as usize;
        let rows = kernel[0] as usize;
        let dense =
            self.groups == 1 && dilation[1] == 1 && self.input.pixel_bytes == self.input.channels;
        if dense {
            let values = kernel[1] as usize * channels;
            Segments { per_row: 1, values, step_bytes: 0, row_step_bytes, rows }
        } else {
            Segments {
                per_row: kernel[1] as usize,
                values: channels / self.groups as usize,
                step_bytes: dilation[1] as usize * self.input.pixel_bytes as usize,
                row_step_bytes,
                rows,
            }
        }
    }
}

/// A convolution of each channel by itself: `requantise(bias[c] + Σ weight[tap, c] · input[tap, c])`.
///
/// Weights are `[taps, channels] i8`, taps row by row; biases `i32` and multipliers `f32`, each `[channels]`; in all
/// three, channels are filled up with zeros to a multiple of 16. Border and zero point as for [`Conv`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Depthwise {
    /// The input.
    pub input: View,
    /// The output, with as many channels.
    pub output: View,
    /// The kernel and its steps.
    pub window: Window,
    /// The offset of the weights.
    pub weights: u32,
    /// The offset of the biases.
    pub bias: u32,
    /// The offset of the multipliers.
    pub multipliers: u32,
    /// The results' range.
    pub range: Range,
}

impl Depthwise {
    /// Channels, filled up to whole blocks of 16.
    pub(crate) const fn padded_channels(&self) -> usize {
        (self.output.channels as usize).next_multiple_of(16)
    }
}

/// `quantise((a - zero_a) · ratio_a + (b - zero_b) · ratio_b)`: two products and one sum in `f32`, in this order.
///
/// Either side may repeat rows or pixels. A negative ratio subtracts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// The inputs.
    pub inputs: [View; 2],
    /// Their zero points.
    pub zero_points: [i8; 2],
    /// Their scales, divided by the output's.
    pub ratios: [f32; 2],
    /// The output. It may be one of the inputs.
    pub output: View,
    /// The results' range.
    pub range: Range,
}

/// `quantise((value - zero_point) · ratio + addend[c])`: one product and one sum in `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddChannels {
    /// The input.
    pub input: View,
    /// Its zero point.
    pub zero_point: i8,
    /// Its scale, divided by the output's.
    pub ratio: f32,
    /// The offset of the addends, `[channels] f32`, in steps of the output.
    pub addends: u32,
    /// The output. It may be the input.
    pub output: View,
    /// The results' range.
    pub range: Range,
}

/// `requantise((a - zero_a) · (b - zero_b))`. Either side may repeat rows or pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mul {
    /// The inputs.
    pub inputs: [View; 2],
    /// Their zero points.
    pub zero_points: [i8; 2],
    /// The product of their scales, divided by the output's.
    pub multiplier: f32,
    /// The output. It may be one of the inputs.
    pub output: View,
    /// The results' range.
    pub range: Range,
}

/// The mean of the values of a window: `requantise(Σ (value - zero_point))` with the multiplier `ratio / count`, one
/// division in `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AveragePool {
    /// The input.
    pub input: View,
    /// Its zero point.
    pub zero_point: i8,
    /// The output.
    pub output: View,
    /// The window. It needs no border: what lies outside of the input is left out.
    pub window: Window,
    /// Whether what lies outside counts as zeros, as long as it is within `bottom` and `right` pixels of the input.
    pub counted_padding: Option<[u32; 2]>,
    /// The input's scale, divided by the output's.
    pub ratio: f32,
    /// The results' range.
    pub range: Range,
}

/// The greatest value of a window. Scales and zero points of both sides are the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool {
    /// The input.
    pub input: View,
    /// The output.
    pub output: View,
    /// The window. It needs no border: what lies outside of the input is left out.
    pub window: Window,
}

/// The softmax over the channels of each pixel: `quantise(e[max - value] / Σ e · steps)`.
///
/// `e` is a table `[256] u32` that holds `2²⁴ · exp(-scale · difference)`, rounded; the sum is exact in `u64`. The
/// quotient and its product with `steps` (1 / output scale) are in `f64`, rounded half to even.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// The input.
    pub input: View,
    /// The output.
    pub output: View,
    /// The offset of the table.
    pub table: u32,
    /// 1 / output scale.
    pub steps: f64,
    /// The results' range.
    pub range: Range,
}

/// Any function of one value: `table[value + 128]`, `[256] i8`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// The input.
    pub input: View,
    /// The output. It may be the input.
    pub output: View,
    /// The offset of the table.
    pub table: u32,
}

/// Values from one place to another: transpositions, slices, concatenations, repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    /// Where they are. A stride of 0 repeats.
    pub input: Strided,
    /// Where they go.
    pub output: Strided,
    /// How many along each stride.
    pub extents: [u32; 5],
}

/// A bilinear resize: `requantise(Σ weight · (value - zero_point))` over four neighbours, with weights in 1/2048.
///
/// For each output row and column stands `[first: u16, second: u16, weight of the second: u16, 0: u16]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bilinear {
    /// The input.
    pub input: View,
    /// Its zero point.
    pub zero_point: i8,
    /// The output.
    pub output: View,
    /// The offset of the rows' table.
    pub rows: u32,
    /// The offset of the columns' table.
    pub columns: u32,
    /// The input's scale, divided by the output's and by 2²².
    pub multiplier: f32,
    /// The results' range.
    pub range: Range,
}

/// The index of the greatest channel of each pixel, into elements of `i64` or `i32`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArgMax {
    /// The input.
    pub input: View,
    /// Where the indices go; the channel is 0.
    pub target: Elements,
    /// Whether the last of equal values is taken instead of the first.
    pub last: bool,
}

/// Products of two inputs: `requantise(Σ (a[m, k] - zero_a) · (b[k, n] - zero_b))` for each of `height` pairs.
///
/// `a` is `[pairs, m, k]`, `b` is `[pairs, k, n]`, the output `[pairs, m, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatMul {
    /// The inputs. A row step of 0 repeats one side for all pairs.
    pub inputs: [View; 2],
    /// Their zero points.
    pub zero_points: [i8; 2],
    /// The product of their scales, divided by the output's.
    pub multiplier: f32,
    /// The output.
    pub output: View,
    /// The results' range.
    pub range: Range,
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // Each variant is the struct of its name.
pub enum Op {
    Import(Import),
    Export(Export),
    Constant(Constant),
    Border(Border),
    Conv(Conv),
    Depthwise(Depthwise),
    Add(Add),
    AddChannels(AddChannels),
    Mul(Mul),
    AveragePool(AveragePool),
    MaxPool(MaxPool),
    Softmax(Softmax),
    Table(Table),
    Copy(Copy),
    Bilinear(Bilinear),
    ArgMax(ArgMax),
    MatMul(MatMul),
}

impl Op {
    /// Its name, as `inspect` prints it.
    pub const fn name(&self) -> &'static str {
        match self {
            Op::Import(_) => "import",
            Op::Export(_) => "export",
            Op::Constant(_) => "constant",
            Op::Border(_) => "border",
            Op::Conv(_) => "conv",
            Op::Depthwise(_) => "depthwise",
            Op::Add(_) => "add",
            Op::AddChannels(_) => "add_channels",
            Op::Mul(_) => "mul",
            Op::AveragePool(_) => "average_pool",
            Op::MaxPool(_) => "max_pool",
            Op::Softmax(_) => "softmax",
            Op::Table(_) => "table",
            Op::Copy(_) => "copy",
            Op::Bilinear(_) => "bilinear",
            Op::ArgMax(_) => "arg_max",
            Op::MatMul(_) => "mat_mul",
        }
    }

    /// The parts that several can do at once, each writing values of its own: a convolution's output pixels, row by
    /// row, or a depthwise convolution's output rows; other operations are one part.
    pub(crate) const fn parts(&self) -> usize {
        match self {
            Op::Conv(op) => op.output.pixels(),
            Op::Depthwise(op) => op.output.height as usize,
            _ => 1,
        }
    }

    /// Multiplications of the operation that a convolution or product consists of; 0 for others.
    pub const fn macs(&self) -> u64 {
        match self {
            Op::Conv(op) => {
                let inputs = op.input.channels as u64 / op.groups as u64;
                op.output.pixels() as u64
                    * op.output.channels as u64
                    * op.window.taps() as u64
                    * inputs
            }
            Op::Depthwise(op) => {
                op.output.pixels() as u64 * op.output.channels as u64 * op.window.taps() as u64
            }
            Op::MatMul(op) => {
                op.output.pixels() as u64 * op.output.channels as u64 * op.inputs[0].channels as u64
            }
            _ => 0,
        }
    }
}
