//! Programs that break one rule each, and the rule that refuses them.

use alloc::vec::Vec;
use std::format;

use super::*;
use crate::build::ProgramBuilder;
use crate::program::Shape;

const ARENA_BYTES: u32 = 4096;
/// Where the constants of each kind begin; they are 4 KiB each.
const ONES: u32 = 0;
const EXPONENTIALS: u32 = 4096;
const ZEROS: u32 = 8192;
const SUBNORMALS: u32 = 12288;
const CONSTANT_BYTES: u32 = 16384;

const HUGE: u32 = 1 << 24;
const RANGE: Range = Range::full(0);
const NO_RANGE: Range = Range { zero_point: 0, low: 1, high: 0 };
const INPUT: View = View::dense(512, 8, 8, 4);
const OUTPUT: View = View::dense(1024, 8, 8, 4);
const SMALL: View = View::dense(1024, 4, 4, 4);
const WINDOW: Window = Window { kernel: [3, 3], stride: [1, 1], dilation: [1, 1], padding: [1, 1] };

fn constants() -> Vec<u8> {
    let words = |word: u32| core::iter::repeat_n(word.to_le_bytes(), 1024);
    let (one, subnormal) = (1_f32.to_bits(), 1_u32);
    let kinds = [one, EXPONENTIAL_MAX, 0, subnormal];
    kinds.into_iter().flat_map(words).flatten().collect()
}

fn checked(op: Op, limits: &Limits) -> Result<(), ProgramError> {
    let mut builder = ProgramBuilder::new();
    builder.constants(&constants());
    builder.push(op);
    builder.finish(ARENA_BYTES, limits).map(|_| ())
}

fn elements(offset: u32, element: Element) -> Elements {
    Elements { offset, element, row: 32, pixel: 4, channel: 1 }
}

fn import() -> Import {
    Import { source: elements(2048, Element::F32), output: OUTPUT, scale: 1.0, range: RANGE }
}

fn export() -> Export {
    Export { input: INPUT, target: elements(2048, Element::F32), scale: 1.0, zero_point: 0 }
}

fn conv() -> Conv {
    Conv {
        input: INPUT,
        output: OUTPUT,
        window: WINDOW,
        groups: 1,
        weights: ZEROS,
        bias: ZEROS,
        multipliers: ONES,
        range: RANGE,
    }
}

fn depthwise() -> Depthwise {
    let Conv { input, output, window, weights, bias, multipliers, range, .. } = conv();
    Depthwise { input, output, window, weights, bias, multipliers, range }
}

fn add() -> Add {
    let (inputs, output) = ([INPUT, View { row_bytes: 0, ..INPUT }], OUTPUT);
    Add { inputs, zero_points: [0, 0], ratios: [1.0, -1.0], output, range: RANGE }
}

fn add_channels() -> AddChannels {
    let (input, output) = (INPUT, INPUT);
    AddChannels { input, zero_point: 0, ratio: 1.0, addends: ONES, output, range: RANGE }
}

fn mul() -> Mul {
    let Add { inputs, zero_points, output, range, .. } = add();
    Mul { inputs, zero_points, multiplier: 1.0, output, range }
}

fn average_pool() -> AveragePool {
    AveragePool {
        input: INPUT,
        zero_point: 0,
        output: OUTPUT,
        window: WINDOW,
        counted_padding: Some([1, 1]),
        ratio: 1.0,
        range: RANGE,
    }
}

fn max_pool() -> MaxPool {
    MaxPool { input: INPUT, output: OUTPUT, window: WINDOW }
}

fn softmax() -> Softmax {
    Softmax { input: INPUT, output: OUTPUT, table: EXPONENTIALS, steps: 256.0, range: RANGE }
}

fn table() -> Table {
    Table { input: INPUT, output: INPUT, table: ZEROS }
}

fn copy() -> Copy {
    let strides = [0, 0, 32, 4, 1];
    let side = |offset| Strided { offset, strides };
    Copy { input: side(512), output: side(1024), extents: [1, 1, 8, 8, 4] }
}

fn bilinear() -> Bilinear {
    Bilinear {
        input: INPUT,
        zero_point: 0,
        output: SMALL,
        rows: ZEROS,
        columns: ZEROS,
        multiplier: 1.0,
        range: RANGE,
    }
}

fn arg_max() -> ArgMax {
    ArgMax { input: INPUT, target: elements(2048, Element::I32), last: false }
}

fn mat_mul() -> MatMul {
    let (left, right) = (View::dense(0, 2, 8, 4), View::dense(512, 2, 4, 6));
    MatMul {
        inputs: [left, View { row_bytes: 0, ..right }],
        zero_points: [0, 0],
        multiplier: 1.0,
        output: View::dense(1024, 2, 8, 6),
        range: RANGE,
    }
}

fn border() -> Border {
    let view = View { row_bytes: 64, ..INPUT };
    Border { view, extents: [1, 2, 1, 2], value: 0 }
}

#[test]
fn each_operation_by_itself_is_sound() {
    let sound = [
        Op::Import(import()),
        Op::Export(export()),
        Op::Constant(Constant { values: ZEROS, output: OUTPUT }),
        Op::Border(border()),
        Op::Conv(conv()),
        Op::Depthwise(depthwise()),
        Op::Add(add()),
        Op::AddChannels(add_channels()),
        Op::Mul(mul()),
        Op::AveragePool(average_pool()),
        Op::MaxPool(max_pool()),
        Op::Softmax(softmax()),
        Op::Table(table()),
        Op::Copy(copy()),
        Op::Bilinear(bilinear()),
        Op::ArgMax(arg_max()),
        Op::MatMul(mat_mul()),
    ];
    let refused = sound.iter().filter_map(|op| Some((op, checked(*op, &Limits::new()).err()?)));
    assert_eq!(refused.collect::<Vec<_>>(), []);
}

#[test]
fn a_rule_that_is_broken_is_named() {
    let over = "the input and the output overlap";
    let part = "the input and the output overlap in part";
    let extents = "the input and the output differ in extents";
    let channels = "the input and the output differ in channels";
    let zero = "an extent is zero or too large";
    let beyond = "it reaches beyond the arena";
    let constants = "its constants reach beyond the program's";
    let multiplier = "a multiplier is not a positive number";
    let ratio = "a ratio is not a finite number, or too large";
    let range = "the least value is above the greatest";
    let overlap = "pixels or rows of a view overlap";
    let border_overlap = "pixels or rows of the input's border overlap";
    let wide = "a step between values is too wide";
    let size = "a kernel, stride or dilation is zero or too large";
    let beside = "a window lies beside the input";
    let far = "a stride or dilation reaches too far";
    let view = |view: View| Op::Constant(Constant { values: ZEROS, output: view });
    let with = |window: Window| Op::Conv(Conv { window, ..conv() });
    let tap = Window { kernel: [1, 1], padding: [0, 0], ..WINDOW };
    let pixel = View::dense(512, 1, 1, 4);
    let pool = |window: Window| Op::MaxPool(MaxPool { window, ..max_pool() });
    let source = |source: Elements| Op::Import(Import { source, ..import() });
    let target = |target: Elements| Op::Export(Export { target, ..export() });
    let reals = elements(2048, Element::F32);
    let outputs = |strides| Strided { offset: 1024, strides };
    let table = [
        // Views.
        (view(View { height: 0, ..OUTPUT }), zero),
        (view(View { width: 0, ..OUTPUT }), zero),
        (view(View { channels: 0, ..OUTPUT }), zero),
        (view(View { channels: HUGE + 1, ..OUTPUT }), zero),
        (view(View { height: HUGE, width: HUGE, ..OUTPUT }), "a view has too many values"),
        (view(View { row_bytes: u32::MAX, ..OUTPUT }), wide),
        (view(View { height: 1, row_bytes: u32::MAX, ..OUTPUT }), wide),
        (view(View { width: 1, pixel_bytes: 1 << 31, ..OUTPUT }), wide),
        (view(View { offset: ARENA_BYTES - 255, ..OUTPUT }), beyond),
        (view(View { offset: u32::MAX, ..OUTPUT }), beyond),
        (view(View { row_bytes: 31, ..OUTPUT }), overlap),
        (view(View { pixel_bytes: 3, ..OUTPUT }), overlap),
        (view(View { row_bytes: 0, ..OUTPUT }), overlap),
        // Elements.
        (source(elements(ARENA_BYTES - 1020, Element::F32)), beyond),
        (source(elements(u32::MAX - 3, Element::F32)), beyond),
        (source(elements(1026, Element::F32)), "elements do not begin at a multiple of their size"),
        (source(Elements { row: 1 << 30, ..reals }), wide),
        (source(elements(1024, Element::I8)), over),
        (source(elements(2048, Element::I32)), "wide integers cannot be imported"),
        (Op::Import(Import { scale: 0.0, ..import() }), multiplier),
        (Op::Import(Import { scale: f32::NAN, ..import() }), multiplier),
        (Op::Import(Import { range: NO_RANGE, ..import() }), range),
        (target(elements(512, Element::I8)), over),
        (target(elements(2048, Element::I64)), "wide integers cannot be exported"),
        (target(Elements { channel: 0, ..reals }), "elements of the output overlap"),
        (target(Elements { pixel: 3, ..reals }), "elements of the output overlap"),
        (target(Elements { row: 31, ..reals }), "elements of the output overlap"),
        (Op::Export(Export { scale: f32::MIN_POSITIVE / 2.0, ..export() }), multiplier),
        // Constants.
        (Op::Constant(Constant { values: CONSTANT_BYTES - 255, output: OUTPUT }), constants),
        (Op::Constant(Constant { values: u32::MAX, output: OUTPUT }), constants),
        // Borders.
        (
            Op::Border(Border { view: View { pixel_bytes: 5, ..border().view }, ..border() }),
            "a border needs dense rows",
        ),
        (
            Op::Border(Border { extents: [HUGE + 1, 0, 0, 0], ..border() }),
            "an extent is beyond its limit",
        ),
        (
            Op::Border(Border { extents: [0, 5, 0, 4], ..border() }),
            "rows overlap with their borders",
        ),
        (
            Op::Border(Border { extents: [9, 0, 0, 0], ..border() }),
            "the border begins before the arena",
        ),
        (Op::Border(Border { extents: [0, 0, 60, 0], ..border() }), beyond),
        // Convolutions.
        (Op::Conv(Conv { groups: 0, ..conv() }), "there is no group"),
        (Op::Conv(Conv { groups: 3, ..conv() }), "the channels are not a multiple of the groups"),
        (with(Window { kernel: [0, 3], ..WINDOW }), size),
        (with(Window { kernel: [3, HUGE + 1], ..WINDOW }), size),
        (with(Window { stride: [1, 0], ..WINDOW }), size),
        (with(Window { dilation: [0, 1], ..WINDOW }), size),
        (with(Window { padding: [HUGE + 1, 1], ..WINDOW }), "a padding is too large"),
        (with(Window { stride: [HUGE, 1], ..WINDOW }), beyond),
        (with(Window { kernel: [HUGE, 1], ..WINDOW }), beyond),
        (with(Window { padding: [17, 0], ..WINDOW }), "the windows begin before the arena"),
        (
            Op::Conv(Conv {
                input: View { row_bytes: 256, ..pixel },
                output: View { height: 1, width: 1, ..OUTPUT },
                window: Window { dilation: [HUGE, 1], ..tap },
                ..conv()
            }),
            far,
        ),
        // One pixel with a step of nothing: its row would be as long as the kernel likes.
        (
            Op::Conv(Conv {
                input: View { pixel_bytes: 0, ..pixel },
                output: View { height: 1, width: 1, ..OUTPUT },
                window: Window { kernel: [1, HUGE], padding: [0, 0], ..WINDOW },
                ..conv()
            }),
            border_overlap,
        ),
        // One row with a step of nothing: any number of windows would fit.
        (
            Op::Depthwise(Depthwise {
                input: View { row_bytes: 0, ..View::dense(512, 1, 8, 4) },
                window: tap,
                ..depthwise()
            }),
            border_overlap,
        ),
        (Op::Conv(Conv { output: View { offset: 544, ..OUTPUT }, ..conv() }), over),
        // The view ends where the output begins; its border does not.
        (Op::Conv(Conv { output: View { offset: 768, ..OUTPUT }, ..conv() }), over),
        (Op::Conv(Conv { weights: CONSTANT_BYTES - 575, ..conv() }), constants),
        (Op::Conv(Conv { bias: CONSTANT_BYTES - 63, ..conv() }), constants),
        (Op::Conv(Conv { multipliers: CONSTANT_BYTES - 63, ..conv() }), constants),
        (Op::Conv(Conv { multipliers: SUBNORMALS, ..conv() }), multiplier),
        (Op::Conv(Conv { range: NO_RANGE, ..conv() }), range),
        (
            Op::Conv(Conv {
                input: View { channels: 3, pixel_bytes: 3, row_bytes: 24, ..INPUT },
                weights: ONES,
                ..conv()
            }),
            "the weights behind a segment are not zero",
        ),
        (
            Op::Depthwise(Depthwise { output: View { channels: 3, ..OUTPUT }, ..depthwise() }),
            channels,
        ),
        (Op::Depthwise(Depthwise { output: View { offset: 768, ..OUTPUT }, ..depthwise() }), over),
        (Op::Depthwise(Depthwise { weights: CONSTANT_BYTES - 143, ..depthwise() }), constants),
        (Op::Depthwise(Depthwise { bias: CONSTANT_BYTES - 63, ..depthwise() }), constants),
        (Op::Depthwise(Depthwise { multipliers: SUBNORMALS, ..depthwise() }), multiplier),
        (Op::Depthwise(Depthwise { range: NO_RANGE, ..depthwise() }), range),
        // Element-wise operations.
        (Op::Add(Add { inputs: [INPUT, SMALL], ..add() }), extents),
        (Op::Add(Add { inputs: [INPUT, View { offset: 1028, ..OUTPUT }], ..add() }), part),
        (Op::Add(Add { inputs: [INPUT, View { row_bytes: 0, ..OUTPUT }], ..add() }), part),
        (Op::Add(Add { output: View { row_bytes: 0, ..OUTPUT }, ..add() }), overlap),
        (Op::Add(Add { ratios: [1.0, f32::INFINITY], ..add() }), ratio),
        (Op::Add(Add { ratios: [f32::MAX, 1.0], ..add() }), ratio),
        (Op::Add(Add { range: NO_RANGE, ..add() }), range),
        (Op::AddChannels(AddChannels { output: SMALL, ..add_channels() }), extents),
        (Op::AddChannels(AddChannels { ratio: 1e-40, ..add_channels() }), ratio),
        (Op::AddChannels(AddChannels { addends: SUBNORMALS, ..add_channels() }), ratio),
        (Op::AddChannels(AddChannels { addends: CONSTANT_BYTES, ..add_channels() }), constants),
        (Op::AddChannels(AddChannels { range: NO_RANGE, ..add_channels() }), range),
        (Op::Mul(Mul { inputs: [View { offset: 1000, ..INPUT }, INPUT], ..mul() }), part),
        (Op::Mul(Mul { multiplier: f32::NEG_INFINITY, ..mul() }), ratio),
        (Op::Mul(Mul { range: NO_RANGE, ..mul() }), range),
        (Op::Table(Table { output: SMALL, ..self::table() }), extents),
        (Op::Table(Table { table: CONSTANT_BYTES - 255, ..self::table() }), constants),
        // Pools.
        (pool(Window { kernel: [0, 1], ..WINDOW }), size),
        (
            pool(Window { kernel: [HUGE, 1], dilation: [HUGE / 2, 1], ..tap }),
            "a window reaches too far",
        ),
        (pool(Window { padding: [3, 0], ..WINDOW }), beside),
        (pool(Window { stride: [2, 1], ..WINDOW }), beside),
        (pool(Window { dilation: [9, 1], ..WINDOW }), "a dilation is wider than the input"),
        (
            Op::MaxPool(MaxPool {
                input: View { row_bytes: 4096, ..View::dense(0, 1, 8, 4) },
                output: View { height: 1, ..OUTPUT },
                window: Window { stride: [HUGE, 1], ..WINDOW },
            }),
            far,
        ),
        (Op::MaxPool(MaxPool { output: View { channels: 3, ..OUTPUT }, ..max_pool() }), channels),
        (Op::MaxPool(MaxPool { output: View { offset: 700, ..OUTPUT }, ..max_pool() }), over),
        (
            Op::AveragePool(AveragePool { counted_padding: Some([0, HUGE + 1]), ..average_pool() }),
            "a padding is too large",
        ),
        (Op::AveragePool(AveragePool { ratio: -1.0, ..average_pool() }), multiplier),
        (Op::AveragePool(AveragePool { range: NO_RANGE, ..average_pool() }), range),
        // Softmax.
        (Op::Softmax(Softmax { output: SMALL, ..softmax() }), extents),
        (Op::Softmax(Softmax { output: INPUT, ..softmax() }), over),
        (Op::Softmax(Softmax { table: ONES, ..softmax() }), "an exponential is greater than one"),
        (Op::Softmax(Softmax { table: ZEROS, ..softmax() }), "the first exponential is zero"),
        (Op::Softmax(Softmax { table: CONSTANT_BYTES - 1023, ..softmax() }), constants),
        (
            Op::Softmax(Softmax { steps: f64::NAN, ..softmax() }),
            "the scale is not a positive number",
        ),
        (Op::Softmax(Softmax { range: NO_RANGE, ..softmax() }), range),
        // Copies.
        (Op::Copy(Copy { extents: [1, 1, 0, 8, 4], ..copy() }), zero),
        (Op::Copy(Copy { extents: [HUGE; 5], ..copy() }), "it copies more than the arena holds"),
        (
            Op::Copy(Copy { extents: [1, 1, 8, 8, 128], ..copy() }),
            "it copies more than the arena holds",
        ),
        (
            Op::Copy(Copy { output: outputs([0, 0, 32, 4, 0]), ..copy() }),
            "values of the output overlap",
        ),
        (
            Op::Copy(Copy { output: outputs([0, 0, 31, 4, 1]), ..copy() }),
            "values of the output overlap",
        ),
        (Op::Copy(Copy { output: outputs([0, 0, 512, 4, 1]), ..copy() }), beyond),
        (Op::Copy(Copy { output: outputs([u32::MAX, 0, 32, 4, 1]), ..copy() }), wide),
        (Op::Copy(Copy { output: copy().input, ..copy() }), over),
        // Resizes.
        (Op::Bilinear(Bilinear { output: View { channels: 3, ..SMALL }, ..bilinear() }), channels),
        (Op::Bilinear(Bilinear { output: View { offset: 512, ..SMALL }, ..bilinear() }), over),
        (
            Op::Bilinear(Bilinear { rows: ONES, ..bilinear() }),
            "a neighbour is outside of the input, or its weight above one",
        ),
        (Op::Bilinear(Bilinear { columns: CONSTANT_BYTES - 31, ..bilinear() }), constants),
        (Op::Bilinear(Bilinear { multiplier: 0.0, ..bilinear() }), multiplier),
        (Op::Bilinear(Bilinear { range: NO_RANGE, ..bilinear() }), range),
        // Indices.
        (Op::ArgMax(ArgMax { target: reals, ..arg_max() }), "indices go to i32 or i64"),
        (Op::ArgMax(ArgMax { target: elements(512, Element::I32), ..arg_max() }), over),
        (
            Op::ArgMax(ArgMax {
                target: Elements { pixel: 0, ..elements(2048, Element::I32) },
                ..arg_max()
            }),
            "elements of the output overlap",
        ),
        // Products.
        (
            Op::MatMul(MatMul { output: View { width: 7, ..mat_mul().output }, ..mat_mul() }),
            "the extents of the product do not fit",
        ),
        (
            Op::MatMul(MatMul { output: View { offset: 512, ..mat_mul().output }, ..mat_mul() }),
            "an input and the output overlap",
        ),
        (Op::MatMul(MatMul { multiplier: f32::NAN, ..mat_mul() }), ratio),
        (Op::MatMul(MatMul { range: NO_RANGE, ..mat_mul() }), range),
    ];
    let faults = table.iter().enumerate().filter_map(|(row, (op, rule))| {
        match checked(*op, &Limits::new()) {
            Err(ProgramError::Operation { operation: 0, rule: found }) if found == *rule => None,
            found => Some(format!("row {row}, {}: {rule}: {found:?}", op.name())),
        }
    });
    assert_eq!(faults.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn limits_that_say_nothing_do_not_open_the_format() {
    let limits = Limits { extent_max: u32::MAX, work_max: u64::MAX, ..Limits::new() };
    let all = [u32::MAX, u32::MAX];
    let window = Window { kernel: all, stride: all, dilation: all, padding: all };
    let view = View {
        offset: u32::MAX,
        height: u32::MAX,
        width: u32::MAX,
        channels: u32::MAX,
        row_bytes: u32::MAX,
        pixel_bytes: u32::MAX,
    };
    for input in [view, INPUT, View { row_bytes: u32::MAX, ..View::dense(0, 1, 1, 1) }] {
        for window in [window, Window { padding: all, ..WINDOW }, Window { kernel: all, ..WINDOW }]
        {
            let output = View::dense(1024, 1, 1, input.channels);
            assert!(checked(Op::Conv(Conv { input, window, output, ..conv() }), &limits).is_err());
            assert!(
                checked(Op::Depthwise(Depthwise { input, window, output, ..depthwise() }), &limits)
                    .is_err()
            );
            assert!(checked(Op::MaxPool(MaxPool { input, window, output }), &limits).is_err());
        }
        let extents = [u32::MAX; 4];
        assert!(checked(Op::Border(Border { view: input, extents, value: 0 }), &limits).is_err());
    }
    let strides = [u32::MAX; 5];
    let side = Strided { offset: u32::MAX, strides };
    let extents = [u32::MAX; 5];
    assert!(checked(Op::Copy(Copy { input: side, output: side, extents }), &limits).is_err());
}

#[test]
fn a_run_may_not_be_longer_than_its_limit() {
    // 64 windows of 3 · 3 pixels, 4 channels, on a block of 16, and its 16 roundings.
    let steps = 64 * (3 * 3 * 64 + 16);
    let at = |work_max| checked(Op::Conv(conv()), &Limits { work_max, ..Limits::new() });
    assert_eq!(at(steps), Ok(()));
    let too_long = ProgramError::Limit { what: "steps of one run", found: steps, limit: steps - 1 };
    assert_eq!(at(steps - 1), Err(too_long));
}

#[test]
fn constants_are_not_looked_at_again_and_again() {
    let repeated = |count: usize| {
        let mut builder = ProgramBuilder::new();
        builder.constants(&constants());
        (0..count).for_each(|_| builder.push(Op::Softmax(softmax())));
        let limits = Limits { program_bytes_max: 64 << 10, ..Limits::new() };
        builder.finish(ARENA_BYTES, &limits).map(|_| ())
    };
    assert_eq!(repeated(64), Ok(()));
    let rule = "constants are named more often than a program is long";
    assert_eq!(repeated(65), Err(ProgramError::Operation { operation: 64, rule }));
}

#[test]
fn ports_lie_within_the_arena() {
    let checked = |extents: &[u32], element, offset| {
        let mut builder = ProgramBuilder::new();
        let shape = Shape::new(extents).expect("at most six extents");
        builder.input("x", element, shape, offset);
        builder.finish(ARENA_BYTES, &Limits::new()).map(|_| ())
    };
    let broken = |rule| Err(ProgramError::Port { port: 0, rule });
    assert_eq!(checked(&[4, 256], Element::F32, 0), Ok(()));
    assert_eq!(checked(&[4, 256], Element::F32, 8), broken("it reaches beyond the arena"));
    assert_eq!(checked(&[1], Element::I8, 4), broken("it does not begin at a multiple of 8"));
    assert_eq!(checked(&[1], Element::I8, u32::MAX - 7), broken("it reaches beyond the arena"));
    assert_eq!(checked(&[u32::MAX; 6], Element::I8, 0), broken("its extents do not multiply"));
}

#[test]
fn a_program_of_other_bytes_is_none() {
    let mut builder = ProgramBuilder::new();
    builder.constants(&constants());
    builder.input("x", Element::I8, Shape::new(&[7]).expect("one extent"), 0);
    builder.push(Op::Table(table()));
    let good = builder.finish(ARENA_BYTES, &Limits::new()).expect("the program is sound");
    let plan = usize::from(good[8]);
    let constants_at = good.len() - CONSTANT_BYTES as usize - ARENA_SLACK_BYTES;
    let checked = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Program::check(&bytes, &Limits::new()).err()
    };
    let set = |at: usize, value: u8| move |bytes: &mut Vec<u8>| bytes[at] = value;
    assert_eq!(checked(&|_| ()), None);
    assert_eq!(checked(&set(0, b's')), Some(ProgramError::NotAProgram));
    assert_eq!(checked(&set(4, 2)), Some(ProgramError::Version(2)));
    assert_eq!(checked(&set(6, 1)), Some(ProgramError::NotAProgram));
    assert_eq!(checked(&set(constants_at - 1, 1)), Some(ProgramError::NotAProgram));
    assert_eq!(checked(&set(11, 255)), Some(ProgramError::Truncated));
    assert_eq!(checked(&set(15, 255)), Some(ProgramError::Truncated));
    for len_bytes in (0..good.len()).step_by(if cfg!(miri) { 997 } else { 1 }) {
        assert!(Program::check(&good[..len_bytes], &Limits::new()).is_err(), "cut to {len_bytes}");
    }
    let limit = |what, found, limit| Some(ProgramError::Limit { what, found, limit });
    assert_eq!(checked(&|bytes| bytes.push(0)), limit("bytes behind the constants", 1, 0));
    let longer_plan = |bytes: &mut Vec<u8>| bytes[8] += 1;
    assert_eq!(checked(&longer_plan), limit("bytes behind the last operation", 1, 0));
    // Within the plan: the header takes five bytes; then a port's name, element, rank, extents.
    assert_eq!(&good[16 + 5..][..5], &[1, b'x', 0, 1, 7]);
    let port = |rule| Some(ProgramError::Port { port: 0, rule });
    assert_eq!(checked(&set(16 + 8, 7)), port("it has more than six extents"));
    assert_eq!(checked(&set(16 + 8, 0)), port("an extent behind its rank is not 1"));
    assert_eq!(checked(&set(16 + 4, 2)), Some(ProgramError::Malformed { byte: plan }));
}
