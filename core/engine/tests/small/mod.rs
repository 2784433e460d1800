//! Small programs that between them have every operation: what mutations, fuzzing and other tests begin with.
//!
//! They are the same on every day and every machine.

// Where there is no prelude of the standard library, as in the crate's own tests.
use std::vec::Vec;

use selvedge_engine::{
    Add, AddChannels, ArgMax, AveragePool, Bilinear, Border, Constant, Conv, ConvWeights, Copy,
    Depthwise, Element, Elements, Export, Import, Limits, MatMul, MaxPool, Mul, Op, ProgramBuilder,
    Range, Shape, Softmax, Strided, Table, View, Window,
};

/// Bytes of the arena of each program.
pub const ARENA_BYTES: u32 = 8192;

const THREE: Window = Window { kernel: [3, 3], padding: [1, 1], ..Window::UNIT };
const RANGE: Range = Range::full(3);

/// The programs.
pub fn programs() -> Vec<Vec<u8>> {
    [classifier(), image(), products()]
        .into_iter()
        .map(|builder| builder.finish(ARENA_BYTES, &Limits::new()).expect("the program is sound"))
        .collect()
}

/// A convolutional network with a residual sum, from reals `[1, 3, 6, 5]` to probabilities `[1, 10]`.
pub fn classifier() -> ProgramBuilder {
    let mut builder = ProgramBuilder::new();
    let reals = |offset| elements(offset, Element::F32, [5, 1, 30]);
    builder.input("image", Element::F32, shape(&[1, 3, 6, 5]), 0);
    builder.output("probabilities", Element::F32, shape(&[1, 10]), 512);
    let image = bordered(1024, [6, 5, 3]);
    let first = bordered(2048, [6, 5, 7]);
    let second = View::dense(4096, 6, 5, 7);
    let mean = View::dense(5000, 1, 1, 7);
    let scores = View::dense(5200, 1, 1, 10);
    let shares = View::dense(5300, 1, 1, 10);
    builder.push(Op::Import(Import { source: reals(0), output: image, scale: 0.02, range: RANGE }));
    builder.push(Op::Border(Border { view: image, extents: [1; 4], value: 3 }));
    push_conv(&mut builder, image, first, THREE, 1);
    builder.push(Op::Border(Border { view: first, extents: [1; 4], value: 3 }));
    push_depthwise(&mut builder, first, second, THREE);
    builder.push(Op::Add(Add {
        inputs: [first, second],
        zero_points: [3, 3],
        ratios: [0.75, 0.5],
        output: second,
        range: RANGE,
    }));
    builder.push(Op::AveragePool(AveragePool {
        input: second,
        zero_point: 3,
        output: mean,
        window: Window { kernel: [6, 5], ..Window::UNIT },
        counted_padding: None,
        ratio: 1.5,
        range: RANGE,
    }));
    push_conv(&mut builder, mean, scores, Window::UNIT, 1);
    let table = builder.constants(&exponentials(0.1));
    let range = Range::full(-128);
    builder.push(Op::Softmax(Softmax {
        input: scores,
        output: shares,
        table,
        steps: 256.0,
        range,
    }));
    let target = Elements { channel: 1, ..reals(512) };
    builder.push(Op::Export(Export {
        input: shares,
        target,
        scale: 1.0 / 256.0,
        zero_point: -128,
    }));
    builder
}

/// From bytes `[1, 8, 8, 4]`: maximum, table, product, transposition and the greatest channel.
fn image() -> ProgramBuilder {
    let mut builder = ProgramBuilder::new();
    builder.input("image", Element::U8, shape(&[1, 8, 8, 4]), 0);
    builder.output("class", Element::I64, shape(&[1, 4, 4]), 256);
    builder.output("turned", Element::I8, shape(&[1, 4, 4, 4]), 384);
    let image = View::dense(512, 8, 8, 4);
    let half = View::dense(1024, 4, 4, 4);
    let turned = View::dense(1152, 4, 4, 4);
    let source = elements(0, Element::U8, [32, 4, 1]);
    builder.push(Op::Import(Import { source, output: image, scale: 1.0, range: RANGE }));
    let window = Window { stride: [2, 2], ..THREE };
    builder.push(Op::MaxPool(MaxPool { input: image, output: half, window }));
    let table = builder.constants(&bytes(256, 5));
    builder.push(Op::Table(Table { input: half, output: half, table }));
    builder.push(Op::Mul(Mul {
        inputs: [half, View { row_bytes: 0, ..half }],
        zero_points: [1, 1],
        multiplier: 0.01,
        output: turned,
        range: RANGE,
    }));
    builder.push(Op::Copy(Copy {
        input: Strided { offset: turned.offset, strides: [0, 0, 16, 4, 1] },
        output: Strided { offset: half.offset, strides: [0, 0, 1, 16, 4] },
        extents: [1, 1, 4, 4, 4],
    }));
    let target = elements(256, Element::I64, [4, 1, 1]);
    builder.push(Op::ArgMax(ArgMax { input: half, target, last: true }));
    let target = elements(384, Element::I8, [16, 4, 1]);
    builder.push(Op::Export(Export { input: half, target, scale: 1.0, zero_point: 0 }));
    builder
}

/// Products of two inputs, a resize, a grouped and dilated convolution, a mean that counts its padding.
fn products() -> ProgramBuilder {
    let mut builder = ProgramBuilder::new();
    builder.input("left", Element::I8, shape(&[2, 5, 6]), 0);
    builder.output("mean", Element::U8, shape(&[1, 4, 4, 4]), 128);
    let left = View::dense(512, 2, 5, 6);
    let right = View::dense(640, 2, 6, 4);
    let product = View::dense(768, 2, 5, 4);
    let resized = View { offset: 1600, row_bytes: 64, pixel_bytes: 5, ..View::dense(0, 6, 6, 4) };
    let grouped = View::dense(2560, 6, 6, 4);
    let mean = View::dense(3072, 4, 4, 4);
    let source = elements(0, Element::I8, [30, 6, 1]);
    builder.push(Op::Import(Import { source, output: left, scale: 1.0, range: RANGE }));
    let values = builder.constants(&bytes(48, 9));
    builder.push(Op::Constant(Constant { values, output: right }));
    builder.push(Op::MatMul(MatMul {
        inputs: [left, right],
        zero_points: [2, -2],
        multiplier: 0.004,
        output: product,
        range: RANGE,
    }));
    let rows = builder.constants(&neighbours(6, 2));
    let columns = builder.constants(&neighbours(6, 5));
    builder.push(Op::Border(Border {
        view: View { pixel_bytes: 4, ..resized },
        extents: [2, 2, 2, 2],
        value: 3,
    }));
    builder.push(Op::Bilinear(Bilinear {
        input: product,
        zero_point: 3,
        output: resized,
        rows,
        columns,
        multiplier: 1.0 / f32::powi(2.0, 22),
        range: RANGE,
    }));
    let addends: Vec<u8> =
        [0.5_f32, -1.5, 0.0, 7.25].into_iter().flat_map(f32::to_le_bytes).collect();
    let addends = builder.constants(&addends);
    builder.push(Op::AddChannels(AddChannels {
        input: resized,
        zero_point: 3,
        ratio: -1.25,
        addends,
        output: resized,
        range: RANGE,
    }));
    let window = Window { dilation: [2, 2], padding: [2, 2], ..THREE };
    push_conv(&mut builder, resized, grouped, window, 2);
    builder.push(Op::AveragePool(AveragePool {
        input: grouped,
        zero_point: 3,
        output: mean,
        window: Window { stride: [2, 2], padding: [1, 1], ..THREE },
        counted_padding: Some([2, 2]),
        ratio: 1.0,
        range: RANGE,
    }));
    let target = elements(128, Element::U8, [16, 4, 1]);
    builder.push(Op::Export(Export { input: mean, target, scale: 1.0, zero_point: 0 }));
    builder
}

/// A view `[height, width, channels]` with room for a border of one pixel, which begins at `offset`.
fn bordered(offset: u32, [height, width, channels]: [u32; 3]) -> View {
    let row_bytes = (width + 2) * channels;
    let dense = View::dense(offset + row_bytes + channels, height, width, channels);
    View { row_bytes, ..dense }
}

fn shape(extents: &[u32]) -> Shape {
    Shape::new(extents).expect("at most six extents")
}

fn elements(offset: u32, element: Element, [row, pixel, channel]: [u32; 3]) -> Elements {
    Elements { offset, element, row, pixel, channel }
}

fn push_conv(builder: &mut ProgramBuilder, input: View, output: View, window: Window, groups: u32) {
    let filter = window.taps() * (input.channels / groups) as usize;
    let outputs = output.channels as usize;
    with_weights(outputs, filter, |constants| {
        let (weights, bias, multipliers, range) = (0, 0, 0, RANGE);
        let op = Conv { input, output, window, groups, weights, bias, multipliers, range };
        builder.push_conv(op, constants);
    });
}

fn push_depthwise(builder: &mut ProgramBuilder, input: View, output: View, window: Window) {
    with_weights(output.channels as usize, window.taps(), |constants| {
        let (weights, bias, multipliers, range) = (0, 0, 0, RANGE);
        let op = Depthwise { input, output, window, weights, bias, multipliers, range };
        builder.push_depthwise(op, constants);
    });
}

fn with_weights(outputs: usize, filter: usize, push: impl FnOnce(&ConvWeights<'_>)) {
    let weights: Vec<i8> =
        bytes(outputs * filter, filter as u32).into_iter().map(|byte| byte as i8).collect();
    let bias: Vec<i32> = (0..outputs as i32).map(|channel| channel * 37 - 100).collect();
    let multipliers: Vec<f32> =
        (0..outputs).map(|channel| (1.0 + channel as f32 / 8.0) / (64.0 * filter as f32)).collect();
    push(&ConvWeights {
        weights: &weights,
        bias: &bias,
        multipliers: &multipliers,
        input_zero_point: RANGE.zero_point,
    });
}

fn bytes(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (state >> 22) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Without `exp`, whose last bit depends on the machine: each is a little less than the one before.
fn exponentials(step: f64) -> Vec<u8> {
    let mut value = f64::from(1 << 24);
    let mut next = || {
        let rounded = value.round_ties_even() as u32;
        value *= 1.0 - step;
        rounded
    };
    (0..256).flat_map(|_| next().to_le_bytes()).collect()
}

fn neighbours(outputs: u16, inputs: u16) -> Vec<u8> {
    let neighbour = |index: u16| {
        let first = index * inputs / outputs;
        let second = (first + 1).min(inputs - 1);
        [first, second, index * 341, 0]
    };
    (0..outputs).flat_map(neighbour).flat_map(u16::to_le_bytes).collect()
}
