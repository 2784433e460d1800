//! The reference against what ONNX defines, written here once more from the definitions: over tensors as models have
//! them, with sums in `i64` and without packing, borders or steps between rows. A mistake that packing and reference
//! share is seen here.
//!
//! Rounding is the standard library's: `(sum as f32 * multiplier).round_ties_even()`. `PROPTEST_CASES` says how many
//! cases of each kind.

use proptest::prelude::*;
use selvedge_engine::{
    Add, ArgMax, AveragePool, Bilinear, Conv, ConvWeights, Depthwise, Element, Elements, Export,
    Import, Limits, MatMul, MaxPool, Mul, Op, Program, ProgramBuilder, Range, Softmax, View,
    Window,
};

const ARENA_BYTES: u32 = 1 << 18;
const OUTPUT_OFFSET: u32 = 1 << 17;

/// How far a result may be from the exact one, beyond the half step of its own rounding: what `f32` loses on the way.
const LOST_STEPS: f64 = 1e-3;

/// A tensor `[height, width, channels]` of values.
#[derive(Clone, Debug)]
struct Tensor {
    extents: [usize; 3],
    values: Vec<i8>,
}

impl Tensor {
    fn random(extents: [u32; 3], random: &mut fastrand::Rng) -> Tensor {
        let extents = extents.map(|extent| extent as usize);
        let values = (0..extents.iter().product()).map(|_| random.i8(..)).collect();
        Tensor { extents, values }
    }

    fn at(&self, y: usize, x: usize, c: usize) -> i64 {
        let [_, width, channels] = self.extents;
        i64::from(self.values[(y * width + x) * channels + c])
    }

    /// The value at a place that may be outside.
    fn padded(&self, y: i64, x: i64, c: usize) -> Option<i64> {
        let [height, width, _] = self.extents;
        let inside = |at: i64, extent: usize| usize::try_from(at).ok().filter(|at| *at < extent);
        Some(self.at(inside(y, height)?, inside(x, width)?, c))
    }

    fn write(&self, view: &View, arena: &mut [u8]) {
        for ([y, x, c], value) in places(self.extents).zip(&self.values) {
            arena[view.at(y as u32, x as u32) + c] = *value as u8;
        }
    }

    fn read(view: &View, arena: &[u8]) -> Tensor {
        let extents = [view.height, view.width, view.channels].map(|extent| extent as usize);
        let value = |[y, x, c]: [usize; 3]| arena[view.at(y as u32, x as u32) + c] as i8;
        Tensor { extents, values: places(extents).map(value).collect() }
    }
}

fn places([height, width, channels]: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..height * width * channels)
        .map(move |index| [index / channels / width, index / channels % width, index % channels])
}

/// Runs the program on an arena of `fill`, into which `inputs` were written.
fn run(builder: ProgramBuilder, fill: i8, inputs: &[(&View, &Tensor)]) -> Vec<u8> {
    let bytes = builder.finish(ARENA_BYTES, &Limits::new()).expect("the program is sound");
    let program = Program::check(&bytes, &Limits::new()).expect("it was checked");
    let mut arena = vec![fill as u8; program.arena_bytes()];
    inputs.iter().for_each(|(view, tensor)| tensor.write(view, &mut arena));
    program.run(&mut arena).expect("the arena is large enough");
    arena
}

/// Compares the output with `expected`, which says what each value is.
fn same(
    output: &View,
    arena: &[u8],
    expected: impl Fn([usize; 3]) -> i8,
) -> Result<(), TestCaseError> {
    let found = Tensor::read(output, arena);
    for (place, found) in places(found.extents).zip(&found.values) {
        prop_assert_eq!(*found, expected(place), "at {:?}", place);
    }
    Ok(())
}

/// Compares the output with real numbers of steps from the zero point, before they are rounded and clamped.
fn near(
    output: &View,
    arena: &[u8],
    range: Range,
    lost: f64,
    steps: impl Fn([usize; 3]) -> f64,
) -> Result<(), TestCaseError> {
    let found = Tensor::read(output, arena);
    for (place, found) in places(found.extents).zip(&found.values) {
        let exact = steps(place) + f64::from(range.zero_point);
        let exact = exact.clamp(f64::from(range.low), f64::from(range.high));
        let off = (f64::from(*found) - exact).abs();
        prop_assert!(off <= 0.5 + lost, "{} for {} at {:?}", found, exact, place);
    }
    Ok(())
}

fn rounded(steps: f32, range: Range) -> i8 {
    let value = f64::from(steps.round_ties_even()) + f64::from(range.zero_point);
    value.clamp(range.low.into(), range.high.into()) as i8
}

fn range() -> impl Strategy<Value = Range> {
    (any::<i8>(), any::<i8>(), any::<i8>(), any::<bool>()).prop_map(|(zero_point, a, b, full)| {
        let (low, high) = if full { (i8::MIN, i8::MAX) } else { (a.min(b), a.max(b)) };
        Range { zero_point, low, high }
    })
}

/// A convolution as ONNX has it: input extents, kernel, strides, dilations, and pads at all four sides.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    input: [u32; 2],
    window: Window,
    pads_end: [u32; 2],
    gaps: [u32; 2],
}

impl Geometry {
    /// `floor((input + pads - dilation · (kernel - 1) - 1) / stride) + 1`, as ONNX has it.
    fn outputs(&self) -> [u32; 2] {
        [0, 1].map(|axis| {
            let Window { kernel, stride, dilation, padding } = self.window;
            let padded = self.input[axis] + padding[axis] + self.pads_end[axis];
            (padded - dilation[axis] * (kernel[axis] - 1) - 1) / stride[axis] + 1
        })
    }

    fn input(&self, channels: u32) -> View {
        let [height, width] = self.input;
        let pixel_bytes = channels + self.gaps[0];
        let padded = self.window.padding[1] + width + self.pads_end[1];
        let row_bytes = padded * pixel_bytes + self.gaps[1];
        let offset = self.window.padding[0] * row_bytes + self.window.padding[1] * pixel_bytes;
        View { offset, height, width, channels, row_bytes, pixel_bytes }
    }

    fn output(&self, channels: u32) -> View {
        let [height, width] = self.outputs();
        let pixel_bytes = channels + self.gaps[1];
        let row_bytes = width * pixel_bytes + self.gaps[0];
        View { offset: OUTPUT_OFFSET, height, width, channels, row_bytes, pixel_bytes }
    }

    /// Where a tap of an output's window lies in the input, which may be outside.
    fn tap(&self, output: [usize; 2], tap: [usize; 2]) -> [i64; 2] {
        [0, 1].map(|axis| {
            let Window { stride, dilation, padding, .. } = self.window;
            output[axis] as i64 * i64::from(stride[axis])
                + tap[axis] as i64 * i64::from(dilation[axis])
                - i64::from(padding[axis])
        })
    }

    /// Whether every window covers something of the input, along both axes, and no dilation steps over all of it:
    /// windows of nothing but padding have no mean and no maximum.
    fn can_pool(&self) -> bool {
        let covers = |axis: usize, at: usize| {
            (0..self.window.kernel[axis] as usize).any(|tap| {
                let place = self.tap([at; 2], [tap; 2])[axis];
                (0..i64::from(self.input[axis])).contains(&place)
            })
        };
        let Window { dilation, padding, .. } = self.window;
        [0, 1].into_iter().all(|axis| {
            (0..self.outputs()[axis] as usize).all(|at| covers(axis, at))
                && (dilation[axis] <= self.input[axis] || padding[axis] == 0)
        })
    }

    fn taps(&self) -> impl Iterator<Item = [usize; 2]> {
        let [height, width] = self.window.kernel.map(|extent| extent as usize);
        (0..height * width).map(move |tap| [tap / width, tap % width])
    }
}

fn geometry() -> impl Strategy<Value = Geometry> {
    let pair = |range: std::ops::RangeInclusive<u32>| [range.clone(), range];
    let gaps = prop_oneof![2 => Just([0, 0]), 1 => pair(0..=3)];
    (pair(1..=9), pair(1..=4), pair(1..=3), pair(1..=3), gaps).prop_flat_map(
        move |(input, kernel, stride, dilation, gaps)| {
            let reach = [0, 1].map(|axis| (kernel[axis] - 1) * dilation[axis]);
            (pair(0..=9), pair(0..=9)).prop_filter_map("no window fits", move |(begin, end)| {
                let padding = [0, 1].map(|axis| begin[axis].min(reach[axis]));
                let pads_end = [0, 1].map(|axis| end[axis].min(reach[axis]));
                let fits = |axis: usize| reach[axis] < input[axis] + padding[axis] + pads_end[axis];
                let window = Window { kernel, stride, dilation, padding };
                (fits(0) && fits(1)).then_some(Geometry { input, window, pads_end, gaps })
            })
        },
    )
}

struct Constants {
    weights: Vec<i8>,
    bias: Vec<i32>,
    multipliers: Vec<f32>,
}

impl Constants {
    fn random(outputs: u32, filter: u32, random: &mut fastrand::Rng) -> Constants {
        let spread = 64.0 * (filter as f32).sqrt() * 16.0;
        Constants {
            weights: (0..outputs * filter).map(|_| random.i8(..)).collect(),
            bias: (0..outputs).map(|_| random.i32(-20_000..20_000)).collect(),
            multipliers: (0..outputs).map(|_| (random.f32() + 0.01) * 16.0 / spread).collect(),
        }
    }

    fn given(&self, input_zero_point: i8) -> ConvWeights<'_> {
        let Constants { weights, bias, multipliers } = self;
        ConvWeights { weights, bias, multipliers, input_zero_point }
    }

    fn rounded(&self, channel: usize, products: i64, range: Range) -> i8 {
        let sum = products + i64::from(self.bias[channel]);
        let sum = i32::try_from(sum).expect("the cases are small");
        rounded(sum as f32 * self.multipliers[channel], range)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions(
        geometry in geometry(),
        (inputs, outputs, groups) in (1..=19_u32, 1..=35_u32, 1..=3_u32),
        (zero_point, range, seed) in (any::<i8>(), range(), any::<u64>()),
    ) {
        let random = &mut fastrand::Rng::with_seed(seed);
        let (input, output) = (geometry.input(inputs * groups), geometry.output(outputs * groups));
        let tensor = Tensor::random([input.height, input.width, input.channels], random);
        let constants = Constants::random(outputs * groups, inputs * geometry.window.taps() as u32, random);
        let mut builder = ProgramBuilder::new();
        let op = Conv {
            input, output, window: geometry.window, groups, weights: 0, bias: 0, multipliers: 0, range,
        };
        builder.push_conv(op, &constants.given(zero_point));
        let arena = run(builder, zero_point, &[(&input, &tensor)]);
        let [_, kernel_width] = geometry.window.kernel.map(|extent| extent as usize);
        let (inputs, outputs) = (inputs as usize, outputs as usize);
        same(&output, &arena, |[y, x, c]| {
            let products = geometry.taps().flat_map(|tap| (0..inputs).map(move |k| (tap, k))).map(|(tap, k)| {
                let [row, column] = geometry.tap([y, x], tap);
                let value = tensor.padded(row, column, c / outputs * inputs + k);
                let index = (c * geometry.window.taps() + tap[0] * kernel_width + tap[1]) * inputs + k;
                value.map_or(0, |value| value - i64::from(zero_point)) * i64::from(constants.weights[index])
            });
            constants.rounded(c, products.sum(), range)
        })?;
    }

    #[test]
    fn depthwise_convolutions(
        geometry in geometry(),
        (channels, zero_point, range, seed) in (1..=35_u32, any::<i8>(), range(), any::<u64>()),
    ) {
        let random = &mut fastrand::Rng::with_seed(seed);
        let (input, output) = (geometry.input(channels), geometry.output(channels));
        let tensor = Tensor::random([input.height, input.width, channels], random);
        let constants = Constants::random(channels, geometry.window.taps() as u32, random);
        let mut builder = ProgramBuilder::new();
        let op = Depthwise { input, output, window: geometry.window, weights: 0, bias: 0, multipliers: 0, range };
        builder.push_depthwise(op, &constants.given(zero_point));
        let arena = run(builder, zero_point, &[(&input, &tensor)]);
        let [_, kernel_width] = geometry.window.kernel.map(|extent| extent as usize);
        same(&output, &arena, |[y, x, c]| {
            let products = geometry.taps().map(|tap| {
                let [row, column] = geometry.tap([y, x], tap);
                let index = c * geometry.window.taps() + tap[0] * kernel_width + tap[1];
                tensor.padded(row, column, c).map_or(0, |value| value - i64::from(zero_point))
                    * i64::from(constants.weights[index])
            });
            constants.rounded(c, products.sum(), range)
        })?;
    }

    #[test]
    fn pools(
        geometry in geometry().prop_filter("a window covers nothing", Geometry::can_pool),
        (channels, zero_point, ratio) in (1..=35_u32, any::<i8>(), 0.1..2.0_f32),
        (include_pad, range, seed) in (any::<bool>(), range(), any::<u64>()),
    ) {
        let random = &mut fastrand::Rng::with_seed(seed);
        let (input, output) = (geometry.input(channels), geometry.output(channels));
        let tensor = Tensor::random([input.height, input.width, channels], random);
        let mut builder = ProgramBuilder::new();
        let counted_padding = include_pad.then_some(geometry.pads_end);
        let window = geometry.window;
        builder.push(Op::AveragePool(AveragePool { input, zero_point, output, window, counted_padding, ratio, range }));
        let greatest = View { offset: output.offset + (1 << 16), ..output };
        builder.push(Op::MaxPool(MaxPool { input, output: greatest, window }));
        // What lies around the input is not looked at.
        let arena = run(builder, i8::MAX, &[(&input, &tensor)]);
        let within = |y: usize, x: usize, c: usize| {
            let tensor = &tensor;
            geometry.taps().filter_map(move |tap| {
                let [row, column] = geometry.tap([y, x], tap);
                tensor.padded(row, column, c)
            })
        };
        same(&greatest, &arena, |[y, x, c]| within(y, x, c).max().expect("a window covers something") as i8)?;
        same(&output, &arena, |[y, x, c]| {
            let sum: i64 = within(y, x, c).map(|value| value - i64::from(zero_point)).sum();
            // With floor, all of each window lies within the padded input.
            let count = if include_pad { window.taps() } else { within(y, x, c).count() };
            rounded(sum as f32 * (ratio / count as f32), range)
        })?;
    }

    #[test]
    fn sums_and_products(
        (extents, zero_points, ratios) in ([1..6_u32, 1..6, 1..40], any::<[i8; 2]>(), [-2.0..2.0_f32, -2.0..2.0]),
        (range, seed) in (range(), any::<u64>()),
    ) {
        let random = &mut fastrand::Rng::with_seed(seed);
        let [a, b] = [Tensor::random(extents, random), Tensor::random(extents, random)];
        let [height, width, channels] = extents;
        let [left, right, output, product] = [0, 4096, OUTPUT_OFFSET, OUTPUT_OFFSET + 4096]
            .map(|offset| View::dense(offset, height, width, channels));
        let inputs = [left, right];
        let mut builder = ProgramBuilder::new();
        builder.push(Op::Add(Add { inputs, zero_points, ratios, output, range }));
        let multiplier = ratios[0] / 64.0;
        builder.push(Op::Mul(Mul { inputs, zero_points, multiplier, output: product, range }));
        let arena = run(builder, 0, &[(&left, &a), (&right, &b)]);
        let steps = |[y, x, c]: [usize; 3]| {
            [a.at(y, x, c) - i64::from(zero_points[0]), b.at(y, x, c) - i64::from(zero_points[1])]
        };
        near(&output, &arena, range, LOST_STEPS, |place| {
            let [a, b] = steps(place);
            a as f64 * f64::from(ratios[0]) + b as f64 * f64::from(ratios[1])
        })?;
        near(&product, &arena, range, LOST_STEPS, |place| {
            let [a, b] = steps(place);
            (a * b) as f64 * f64::from(multiplier)
        })?;
    }

    #[test]
    fn softmaxes(
        (extents, scale, steps) in ([1..4_u32, 1..4, 1..200], 0.001..0.5_f64, 1.0..300.0_f64),
        (range, seed) in (range(), any::<u64>()),
    ) {
        let random = &mut fastrand::Rng::with_seed(seed);
        let tensor = Tensor::random(extents, random);
        let [height, width, channels] = extents;
        let [input, output] = [0, OUTPUT_OFFSET].map(|offset| View::dense(offset, height, width, channels));
        let mut builder = ProgramBuilder::new();
        let exponential = |difference: i32| {
            let value = (-scale * f64::from(difference)).exp() * f64::from(1 << 24);
            (value.round_ties_even() as u32).to_le_bytes()
        };
        let table: Vec<u8> = (0..256).flat_map(exponential).collect();
        let table = builder.constants(&table);
        builder.push(Op::Softmax(Softmax { input, output, table, steps, range }));
        let arena = run(builder, 0, &[(&input, &tensor)]);
        near(&output, &arena, range, LOST_STEPS, |[y, x, c]| {
            let exponential = |c: usize| (scale * tensor.at(y, x, c) as f64).exp();
            exponential(c) / (0..channels as usize).map(exponential).sum::<f64>() * steps
        })?;
    }

    #[test]
    fn bilinear_resizes(
        (inputs, outputs, channels) in ([1..9_u32, 1..9], [1..20_u32, 1..20], 1..20_u32),
        (zero_point, ratio, range, seed) in (any::<i8>(), 0.2..1.5_f64, range(), any::<u64>()),
    ) {
        let random = &mut fastrand::Rng::with_seed(seed);
        let tensor = Tensor::random([inputs[0], inputs[1], channels], random);
        let input = View::dense(0, inputs[0], inputs[1], channels);
        let output = View::dense(OUTPUT_OFFSET, outputs[0], outputs[1], channels);
        // `half_pixel`, the transformation that ONNX's Resize has by default, at the edges clamped.
        let place = |axis: usize, at: usize| {
            let place = (at as f64 + 0.5) * f64::from(inputs[axis]) / f64::from(outputs[axis]) - 0.5;
            place.clamp(0.0, f64::from(inputs[axis] - 1))
        };
        let table = |axis: usize| -> Vec<u8> {
            let neighbours = |at: u32| {
                let place = place(axis, at as usize);
                let first = place.floor();
                let second = (first + 1.0).min(f64::from(inputs[axis] - 1));
                [first, second, ((place - first) * 2048.0).round(), 0.0]
            };
            (0..outputs[axis]).flat_map(neighbours).flat_map(|half| (half as u16).to_le_bytes()).collect()
        };
        let mut builder = ProgramBuilder::new();
        let (rows, columns) = (builder.constants(&table(0)), builder.constants(&table(1)));
        let multiplier = (ratio / f64::from(1 << 22)) as f32;
        builder.push(Op::Bilinear(Bilinear { input, zero_point, output, rows, columns, multiplier, range }));
        let arena = run(builder, 0, &[(&input, &tensor)]);
        // Weights in 1/2048 are off by half of that at most, along each axis, of a difference of 255 at most.
        let lost = 2.0 * 255.0 / 4096.0 * ratio + LOST_STEPS;
        near(&output, &arena, range, lost, |[y, x, c]| {
            let (row, column) = (place(0, y), place(1, x));
            let mut mean = 0.0;
            for (neighbour_row, row_weight) in around(row) {
                for (neighbour_column, column_weight) in around(column) {
                    if row_weight * column_weight > 0.0 {
                        let value = tensor.at(neighbour_row, neighbour_column, c) - i64::from(zero_point);
                        mean += row_weight * column_weight * value as f64;
                    }
                }
            }
            mean * ratio
        })?;
    }

    #[test]
    fn greatest_channels_and_products_of_matrices(
        (pairs, m, k, n) in (1..4_u32, 1..9_u32, 1..40_u32, 1..40_u32),
        (zero_points, multiplier, last) in (any::<[i8; 2]>(), 0.0001..0.01_f32, any::<bool>()),
        (range, seed, few) in (range(), any::<u64>(), any::<bool>()),
    ) {
        let random = &mut fastrand::Rng::with_seed(seed);
        let (a, mut b) = (Tensor::random([pairs, m, k], random), Tensor::random([pairs, k, n], random));
        if few {
            // So that the greatest is there more than once.
            b.values.iter_mut().for_each(|value| *value = value.signum());
        }
        let (left, right) = (View::dense(0, pairs, m, k), View::dense(1 << 14, pairs, k, n));
        let output = View::dense(OUTPUT_OFFSET, pairs, m, n);
        let indices = OUTPUT_OFFSET + (1 << 14);
        let target = Elements { offset: indices, element: Element::I32, row: k, pixel: 1, channel: 1 };
        let mut builder = ProgramBuilder::new();
        builder.push(Op::MatMul(MatMul { inputs: [left, right], zero_points, multiplier, output, range }));
        builder.push(Op::ArgMax(ArgMax { input: right, target, last }));
        let arena = run(builder, 0, &[(&left, &a), (&right, &b)]);
        same(&output, &arena, |[pair, row, column]| {
            let products = (0..k as usize).map(|k| {
                (a.at(pair, row, k) - i64::from(zero_points[0])) * (b.at(pair, k, column) - i64::from(zero_points[1]))
            });
            rounded(products.sum::<i64>() as f32 * multiplier, range)
        })?;
        for (index, pixel) in b.values.chunks(n as usize).enumerate() {
            let greatest = pixel.iter().max().expect("a pixel has channels");
            let is_greatest = |value: &i8| value == greatest;
            let expected = if last { pixel.iter().rposition(is_greatest) } else { pixel.iter().position(is_greatest) };
            let at = indices as usize + index * 4;
            let found = i32::from_le_bytes(arena[at..at + 4].try_into().expect("four bytes"));
            prop_assert_eq!(Some(found as usize), expected, "of pixel {}", index);
        }
    }

    #[test]
    fn reals_are_quantised_and_back(
        values in proptest::collection::vec(
            prop_oneof![8 => -40.0..40.0_f32, 1 => any::<f32>(), 1 => (-200..200_i32).prop_map(|n| n as f32 * 0.125)],
            1..60,
        ),
        (scale, range) in (prop_oneof![Just(0.25_f32), 0.01..1.0_f32], range()),
    ) {
        let count = values.len() as u32;
        let view = View::dense(OUTPUT_OFFSET, 1, 1, count);
        let reals = |offset| Elements { offset, element: Element::F32, row: 0, pixel: 0, channel: 1 };
        let mut builder = ProgramBuilder::new();
        builder.push(Op::Import(Import { source: reals(0), output: view, scale, range }));
        builder.push(Op::Export(Export { input: view, target: reals(4096), scale, zero_point: range.zero_point }));
        let bytes: Vec<i8> = values.iter().flat_map(|value| value.to_le_bytes()).map(|byte| byte as i8).collect();
        let tensor = Tensor { extents: [1, 1, bytes.len()], values: bytes };
        let arena = run(builder, 0, &[(&View::dense(0, 1, 1, count * 4), &tensor)]);
        for (index, value) in values.iter().enumerate() {
            let expected = if value.is_nan() { range.low } else { rounded(value / scale, range) };
            prop_assert_eq!(arena[OUTPUT_OFFSET as usize + index] as i8, expected, "of {}", value);
            let real = f32::from_le_bytes(arena[4096 + index * 4..][..4].try_into().expect("four bytes"));
            prop_assert_eq!(real, (i32::from(expected) - i32::from(range.zero_point)) as f32 * scale);
        }
    }
}

/// The whole numbers around a place, with the weight of each.
fn around(place: f64) -> [(usize, f64); 2] {
    let (first, second) = (place.floor(), place - place.floor());
    [(first as usize, 1.0 - second), (first as usize + 1, second)]
}
