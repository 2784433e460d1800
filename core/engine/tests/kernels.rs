//! Every kernel set of this CPU against the reference, on random operations and random memory.
//!
//! `PROPTEST_CASES` says how many of each kind.

use proptest::prelude::*;
use selvedge_engine::{
    Add, AddChannels, Arena, AveragePool, Bilinear, Border, Conv, ConvWeights, Copy, Depthwise,
    Element, Elements, Executable, Export, Import, KernelSet, Limits, MatMul, MaxPool, Mul, Op,
    ProgramBuilder, Range, Shape, Softmax, Strided, Table, View, Window,
};

/// Where the output begins in every arena here: behind the largest input.
const OUTPUT_OFFSET: u32 = 1 << 17;
const ARENA_BYTES: u32 = 1 << 18;

/// Runs the builder's program on the same memory with every set, and compares all of the arena that it may write.
///
/// The memory is the same as values: a set that stores unsigned bytes finds them so, except in ports, which hold what
/// callers put there.
fn same_bits_everywhere(builder: ProgramBuilder, seed: u64) -> Result<(), TestCaseError> {
    let bytes =
        Arena::copied(&builder.finish(ARENA_BYTES, &Limits::new()).expect("the program is sound"));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut memory = vec![0_u8; ARENA_BYTES as usize];
    random.fill(&mut memory);
    let result = |set: &'static KernelSet| {
        let executable =
            Executable::prepare(&bytes[..], set, &Limits::new()).expect("it was checked");
        let mut flips = vec![if set.stores_unsigned() { 0x80 } else { 0 }; ARENA_BYTES as usize];
        executable.program().ports().for_each(|port| flips[port.range()].fill(0));
        let stored = |(value, flip): (&u8, &u8)| value ^ flip;
        let mut arena = Arena::zeroed(executable.arena_bytes());
        arena
            .iter_mut()
            .zip(memory.iter().zip(&flips).map(stored))
            .for_each(|(to, value)| *to = value);
        executable.run(&mut arena).expect("the arena is large enough");
        arena.iter().zip(&flips).map(stored).collect::<Vec<u8>>()
    };
    let expected = result(KernelSet::scalar());
    for set in KernelSet::available() {
        let found = result(set);
        let differs = (0..found.len()).find(|at| found[*at] != expected[*at]);
        prop_assert!(
            differs.is_none(),
            "{} differs at byte {}: {} instead of {}",
            set.name(),
            differs.unwrap_or(0),
            found[differs.unwrap_or(0)] as i8,
            expected[differs.unwrap_or(0)] as i8
        );
    }
    Ok(())
}

fn range() -> impl Strategy<Value = Range> {
    (any::<i8>(), any::<i8>(), any::<i8>(), any::<bool>()).prop_map(|(zero_point, a, b, full)| {
        let (low, high) = if full { (i8::MIN, i8::MAX) } else { (a.min(b), a.max(b)) };
        Range { zero_point, low, high }
    })
}

/// A window with its outputs: extents are chosen so that the input stays small.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    window: Window,
    outputs: [u32; 2],
    /// Bytes between pixels and between rows beyond what they hold.
    gaps: [u32; 2],
}

impl Geometry {
    /// The extents of the part of the input that windows cover, padding taken off.
    fn input_extents(&self) -> [u32; 2] {
        [0, 1].map(|axis| {
            let Window { kernel, stride, dilation, padding } = self.window;
            let covered =
                (self.outputs[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1;
            covered.saturating_sub(2 * padding[axis]).max(1)
        })
    }

    fn input(&self, channels: u32) -> View {
        let [height, width] = self.input_extents();
        let pixel_bytes = channels + self.gaps[0];
        // Rows have room for the padding, as a border would give it.
        let padded =
            width + 2 * self.window.padding[1] + self.window.kernel[1] * self.window.dilation[1];
        let row_bytes = padded * pixel_bytes + self.gaps[1];
        let offset = self.window.padding[0] * row_bytes + self.window.padding[1] * pixel_bytes + 64;
        View { offset, height, width, channels, row_bytes, pixel_bytes }
    }

    /// Whether the windows end before the outputs begin.
    fn fits(&self, input: &View) -> bool {
        let Window { kernel, stride, dilation, .. } = self.window;
        let rows = (self.outputs[0] - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1;
        64 + rows * input.row_bytes <= OUTPUT_OFFSET
    }

    fn output(&self, channels: u32) -> View {
        let [height, width] = self.outputs;
        let pixel_bytes = channels + self.gaps[0];
        let row_bytes = width * pixel_bytes + self.gaps[1];
        View { offset: OUTPUT_OFFSET, height, width, channels, row_bytes, pixel_bytes }
    }
}

fn geometry() -> impl Strategy<Value = Geometry> {
    let pair = |range: std::ops::RangeInclusive<u32>| [range.clone(), range];
    let usual = prop_oneof![
        Just(Window::UNIT),
        Just(Window { kernel: [3, 3], padding: [1, 1], ..Window::UNIT }),
        Just(Window { kernel: [3, 3], stride: [2, 2], padding: [0, 0], ..Window::UNIT }),
        Just(Window { kernel: [10, 4], stride: [2, 2], padding: [4, 1], ..Window::UNIT }),
        (pair(1..=5), pair(1..=3), pair(1..=3)).prop_flat_map(|(kernel, stride, dilation)| {
            let reach = [0, 1].map(|axis| (kernel[axis] - 1) * dilation[axis]);
            (0..=reach[0], 0..=reach[1]).prop_map(move |(top, left)| Window {
                kernel,
                stride,
                dilation,
                padding: [top, left],
            })
        }),
    ];
    let gaps = prop_oneof![3 => Just([0, 0]), 1 => pair(0..=5)];
    (usual, pair(1..=9), gaps).prop_map(|(window, outputs, gaps)| Geometry {
        window,
        outputs,
        gaps,
    })
}

fn channels() -> impl Strategy<Value = u32> {
    prop_oneof![1..=9_u32, 1..=70_u32, Just(16), Just(32), Just(64)]
}

/// Constants of a convolution: with weights of any size, with the extremes more often than chance would have them, or
/// with small ones, whose products no instruction saturates.
fn conv_constants(outputs: u32, filter: u32, seed: u64) -> (Vec<i8>, Vec<i32>, Vec<f32>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (extreme, small) = (random.bool(), random.bool());
    let weight = |random: &mut fastrand::Rng| match random.u8(..) {
        _ if small => random.i8(-64..64),
        0..64 if extreme => i8::MIN,
        64..128 if extreme => i8::MAX,
        _ => random.i8(..),
    };
    let weights = (0..outputs * filter).map(|_| weight(&mut random)).collect();
    let scale = (16_f32 * filter as f32).sqrt() * 64.0;
    let bias = (0..outputs).map(|_| random.i32(-20_000..20_000)).collect();
    let multipliers = (0..outputs).map(|_| (random.f32() + 0.01) * 64.0 / scale).collect();
    (weights, bias, multipliers)
}

fn dense_pair() -> impl Strategy<Value = (View, View)> {
    (1..=6_u32, 1..=9_u32, channels(), 0..=4_u32, 0..=4_u32).prop_map(
        |(height, width, channels, gap, row_gap)| {
            let view = |offset, gap: u32, row_gap: u32| {
                let pixel_bytes = channels + gap;
                View {
                    offset,
                    height,
                    width,
                    channels,
                    row_bytes: width * pixel_bytes + row_gap,
                    pixel_bytes,
                }
            };
            (view(96, gap, row_gap), view(OUTPUT_OFFSET, row_gap, gap))
        },
    )
}

/// The view with its rows or its pixels repeated.
fn repeated(view: View, rows: bool, pixels: bool) -> View {
    View {
        row_bytes: if rows { 0 } else { view.row_bytes },
        pixel_bytes: if pixels { 0 } else { view.pixel_bytes },
        ..view
    }
}

fn ratio() -> impl Strategy<Value = f32> {
    prop_oneof![Just(1.0_f32), Just(0.5), 0.001..4.0_f32, -4.0..-0.001_f32]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions(
        geometry in geometry(),
        (inputs, outputs) in (channels(), channels()),
        groups in prop_oneof![4 => Just(1_u32), 1 => 2..=3_u32],
        input_zero_point in any::<i8>(),
        range in range(),
        seed in any::<u64>(),
    ) {
        let (input, output) = (geometry.input(inputs * groups), geometry.output(outputs * groups));
        prop_assume!(geometry.fits(&input));
        let filter = inputs * geometry.window.taps() as u32;
        let (weights, bias, multipliers) = conv_constants(output.channels, filter, seed);
        let mut builder = ProgramBuilder::new();
        let op = Conv { input, output, window: geometry.window, groups, weights: 0, bias: 0, multipliers: 0, range };
        let constants =
            ConvWeights { weights: &weights, bias: &bias, multipliers: &multipliers, input_zero_point };
        builder.push_conv(op, &constants);
        same_bits_everywhere(builder, seed)?;
    }

    #[test]
    fn fully_connected_layers(
        (inputs, outputs, pixels) in (1..=2500_u32, 1..=150_u32, 1..=3_u32),
        input_zero_point in any::<i8>(),
        range in range(),
        seed in any::<u64>(),
    ) {
        let (weights, bias, multipliers) = conv_constants(outputs, inputs, seed);
        let input = View::dense(64, 1, pixels, inputs);
        let output = View::dense(OUTPUT_OFFSET, 1, pixels, outputs);
        let mut builder = ProgramBuilder::new();
        let op = Conv { input, output, window: Window::UNIT, groups: 1, weights: 0, bias: 0, multipliers: 0, range };
        let constants =
            ConvWeights { weights: &weights, bias: &bias, multipliers: &multipliers, input_zero_point };
        builder.push_conv(op, &constants);
        same_bits_everywhere(builder, seed)?;
    }

    #[test]
    fn depthwise_convolutions(
        geometry in geometry(),
        channels in channels(),
        input_zero_point in any::<i8>(),
        range in range(),
        seed in any::<u64>(),
    ) {
        let (input, output) = (geometry.input(channels), geometry.output(channels));
        let (weights, bias, multipliers) = conv_constants(channels, geometry.window.taps() as u32, seed);
        let mut builder = ProgramBuilder::new();
        let op = Depthwise { input, output, window: geometry.window, weights: 0, bias: 0, multipliers: 0, range };
        let constants =
            ConvWeights { weights: &weights, bias: &bias, multipliers: &multipliers, input_zero_point };
        builder.push_depthwise(op, &constants);
        same_bits_everywhere(builder, seed)?;
    }

    #[test]
    fn sums_and_products(
        (input, output) in dense_pair(),
        (rows, pixels) in (any::<bool>(), any::<bool>()),
        zero_points in any::<[i8; 2]>(),
        ratios in [ratio(), ratio()],
        (range, seed, in_place) in (range(), any::<u64>(), any::<bool>()),
    ) {
        let other = repeated(View { offset: input.offset + 40_000, ..input }, rows, pixels);
        let output = if in_place { input } else { output };
        let inputs = [input, other];
        let mut builder = ProgramBuilder::new();
        builder.push(Op::Add(Add { inputs, zero_points, ratios, output, range }));
        same_bits_everywhere(builder, seed)?;
        let mut builder = ProgramBuilder::new();
        builder.push(Op::Mul(Mul { inputs, zero_points, multiplier: ratios[0].abs() / 64.0, output, range }));
        same_bits_everywhere(builder, seed)?;
        let mut builder = ProgramBuilder::new();
        let addends: Vec<u8> =
            (0..output.channels).flat_map(|c| (ratios[1] * c as f32).to_le_bytes()).collect();
        let addends = builder.constants(&addends);
        builder.push(Op::AddChannels(AddChannels {
            input, zero_point: zero_points[0], ratio: ratios[0], addends, output, range,
        }));
        same_bits_everywhere(builder, seed)?;
    }

    #[test]
    fn pools(
        geometry in geometry(),
        channels in channels(),
        (zero_point, ratio) in (any::<i8>(), 0.01..4.0_f32),
        counted in proptest::option::of([0..3_u32, 0..3_u32]),
        (range, seed) in (range(), any::<u64>()),
    ) {
        let input = geometry.input(channels);
        let fits = |axis: usize, extent: u32| {
            (geometry.outputs[axis] - 1) * geometry.window.stride[axis] < geometry.window.padding[axis] + extent
                && (geometry.window.dilation[axis] <= extent || geometry.window.padding[axis] == 0)
        };
        prop_assume!(fits(0, input.height) && fits(1, input.width));
        let (output, window) = (geometry.output(channels), geometry.window);
        let mut builder = ProgramBuilder::new();
        builder.push(Op::AveragePool(AveragePool {
            input, zero_point, output, window, counted_padding: counted, ratio, range,
        }));
        same_bits_everywhere(builder, seed)?;
        let mut builder = ProgramBuilder::new();
        builder.push(Op::MaxPool(MaxPool { input, output, window }));
        same_bits_everywhere(builder, seed)?;
    }

    #[test]
    fn global_means(
        (input, output) in dense_pair(),
        (zero_point, ratio) in (any::<i8>(), 0.01..4.0_f32),
        (range, seed) in (range(), any::<u64>()),
    ) {
        let window = Window { kernel: [input.height, input.width], ..Window::UNIT };
        let output = View { height: 1, width: 1, ..output };
        let mut builder = ProgramBuilder::new();
        builder.push(Op::AveragePool(AveragePool {
            input, zero_point, output, window, counted_padding: None, ratio, range,
        }));
        same_bits_everywhere(builder, seed)?;
    }

    #[test]
    fn tables_softmaxes_borders_and_copies(
        (input, output) in dense_pair(),
        (scale, in_place, range, seed) in (0.01..0.3_f64, any::<bool>(), range(), any::<u64>()),
        extents in [0..3_u32, 0..3_u32, 0..3_u32, 0..3_u32],
        value in any::<i8>(),
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut builder = ProgramBuilder::new();
        let values: Vec<u8> = (0..256).map(|_| random.u8(..)).collect();
        let table = builder.constants(&values);
        builder.push(Op::Table(Table { input, output: if in_place { input } else { output }, table }));
        let exponentials: Vec<u8> = (0..256)
            .flat_map(|difference| {
                let value = ((f64::from(difference) * -scale).exp() * f64::from(1 << 24)).round_ties_even() as u32;
                value.to_le_bytes()
            })
            .collect();
        let table = builder.constants(&exponentials);
        builder.push(Op::Softmax(Softmax { input, output, table, steps: 256.0, range }));
        let [top, left, _, right] = extents;
        let row_bytes = (left + output.width + right) * output.channels;
        let offset = OUTPUT_OFFSET + top * row_bytes + left * output.channels + 40_000;
        let view = View { offset, row_bytes, pixel_bytes: output.channels, ..output };
        builder.push(Op::Border(Border { view, extents, value }));
        builder.push(Op::Copy(Copy {
            input: Strided { offset: input.offset, strides: [0, 0, input.row_bytes, input.pixel_bytes, 1] },
            output: Strided {
                offset: OUTPUT_OFFSET + 80_000,
                strides: [0, 0, 1, input.height, input.height * input.width],
            },
            extents: [1, 1, input.height, input.width, input.channels],
        }));
        same_bits_everywhere(builder, seed)?;
    }

    #[test]
    fn imports_and_exports(
        (output, _) in dense_pair(),
        (channels_first, range, seed) in (any::<bool>(), range(), any::<u64>()),
        (scale, element) in (0.01..3.0_f32, prop_oneof![Just(Element::I8), Just(Element::U8), Just(Element::F32)]),
    ) {
        let View { height, width, channels, .. } = output;
        let (row, pixel, channel) =
            if channels_first { (width, 1, height * width) } else { (width * channels, channels, 1) };
        let elements = |offset| Elements { offset, element, row, pixel, channel };
        let (from, to) = (OUTPUT_OFFSET, OUTPUT_OFFSET + (1 << 16));
        let shape = Shape::new(&[height, width, channels]).expect("three extents");
        let mut builder = ProgramBuilder::new();
        builder.input("in", element, shape, from);
        builder.output("out", element, shape, to);
        builder.push(Op::Import(Import { source: elements(from), output, scale, range }));
        builder.push(Op::Export(Export { input: output, target: elements(to), scale, zero_point: range.zero_point }));
        same_bits_everywhere(builder, seed)?;
    }

    #[test]
    fn resizes_and_products_of_two_inputs(
        (input, output) in dense_pair(),
        (inner, zero_points, range, seed) in (1..=20_u32, any::<[i8; 2]>(), range(), any::<u64>()),
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut neighbours = |outputs: u32, inputs: u32| -> Vec<u8> {
            (0..outputs)
                .flat_map(|_| [random.u32(0..inputs) as u16, random.u32(0..inputs) as u16, random.u16(0..=2048), 0])
                .flat_map(u16::to_le_bytes)
                .collect()
        };
        let mut builder = ProgramBuilder::new();
        let rows = neighbours(output.height, input.height);
        let columns = neighbours(output.width, input.width);
        let (rows, columns) = (builder.constants(&rows), builder.constants(&columns));
        let multiplier = 1.1 / f32::powi(2.0, 22);
        builder.push(Op::Bilinear(Bilinear {
            input, zero_point: zero_points[0], output, rows, columns, multiplier, range,
        }));
        same_bits_everywhere(builder, seed)?;
        let mut builder = ProgramBuilder::new();
        let left = View::dense(128, output.height, output.width, inner);
        let right = View::dense(60_000, output.height, inner, output.channels);
        builder.push(Op::MatMul(MatMul { inputs: [left, right], zero_points, multiplier: 0.01, output, range }));
        same_bits_everywhere(builder, seed)?;
    }
}
