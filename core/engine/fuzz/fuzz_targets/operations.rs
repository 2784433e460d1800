//! Operations of any fields, most of them small numbers, so that many are within the rules or just outside.

#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use selvedge_engine::{
    Add, AddChannels, ArgMax, AveragePool, Bilinear, Border, Constant, Conv, Copy, Depthwise,
    Element, Elements, Export, Import, MatMul, MaxPool, Mul, Op, ProgramBuilder, Range, Softmax,
    Strided, Table, View, Window,
};
use selvedge_engine_fuzz::{LIMITS, run};

const ARENA_BYTES: u32 = 4096;

fuzz_target!(|input: &[u8]| {
    if let Ok(Some(bytes)) = program(&mut Unstructured::new(input)) {
        run(&bytes);
    }
});

/// A program; `None` if it was refused.
fn program(u: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
    let mut builder = ProgramBuilder::new();
    builder.constants(&constants());
    for _ in 0..u.int_in_range(1..=4)? {
        builder.push(operation(u)?);
    }
    Ok(builder.finish(ARENA_BYTES, &LIMITS).ok())
}

/// Where constants of each kind begin.
const ONES: u32 = 0;
const EXPONENTIALS: u32 = 4096;
const ZEROS: u32 = 8192;
const BYTES: u32 = 16384;

fn constants() -> Vec<u8> {
    let words = |word: u32, count: usize| std::iter::repeat_n(word.to_le_bytes(), count);
    let kinds = words(1_f32.to_bits(), 1024).chain(words(1 << 24, 1024)).chain(words(0, 2048));
    kinds.flatten().chain((0..8192).map(|at| (at * 37) as u8)).collect()
}

fn operation(u: &mut Unstructured<'_>) -> Result<Op> {
    let kind = u.int_in_range(0..=16)?;
    let input = view(u)?;
    // Often what element-wise operations want: the same extents.
    let output = match u.int_in_range(0..=3)? {
        0 => input,
        1 => View { offset: u.int_in_range(0..=ARENA_BYTES)?, ..input },
        2 => View { channels: input.channels, ..view(u)? },
        _ => view(u)?,
    };
    let inputs = [input, if u.arbitrary()? { input } else { view(u)? }];
    let (range, zero_point) = (range(u)?, u.arbitrary()?);
    let zero_points = [zero_point, u.arbitrary()?];
    let constants = |u: &mut Unstructured<'_>, usual: u32| -> Result<u32> {
        if u.ratio(7, 8)? { Ok(usual) } else { u.int_in_range(0..=32768) }
    };
    let bytes = |u: &mut Unstructured<'_>| constants(u, BYTES);
    Ok(match kind {
        0 => Op::Import(Import { source: elements(u)?, output, scale: real(u)?, range }),
        1 => Op::Export(Export { input, target: elements(u)?, scale: real(u)?, zero_point }),
        2 => Op::Constant(Constant { values: bytes(u)?, output }),
        3 => {
            let extents = [number(u)?, number(u)?, number(u)?, number(u)?];
            Op::Border(Border { view: input, extents, value: zero_point })
        }
        4 => Op::Conv(Conv {
            input,
            output,
            window: window(u)?,
            groups: number(u)?,
            weights: if u.ratio(1, 4)? { bytes(u)? } else { constants(u, ZEROS)? },
            bias: bytes(u)?,
            multipliers: constants(u, ONES)?,
            range,
        }),
        5 => Op::Depthwise(Depthwise {
            input,
            output,
            window: window(u)?,
            weights: bytes(u)?,
            bias: bytes(u)?,
            multipliers: constants(u, ONES)?,
            range,
        }),
        6 => Op::Add(Add { inputs, zero_points, ratios: [real(u)?, real(u)?], output, range }),
        7 => {
            let (ratio, addends) = (real(u)?, constants(u, ONES)?);
            Op::AddChannels(AddChannels { input, zero_point, ratio, addends, output, range })
        }
        8 => Op::Mul(Mul { inputs, zero_points, multiplier: real(u)?, output, range }),
        9 => Op::AveragePool(AveragePool {
            input,
            zero_point,
            output,
            window: window(u)?,
            counted_padding: if u.arbitrary()? { Some([number(u)?, number(u)?]) } else { None },
            ratio: real(u)?,
            range,
        }),
        10 => Op::MaxPool(MaxPool { input, output, window: window(u)? }),
        11 => {
            let (table, steps) = (constants(u, EXPONENTIALS)?, f64::from(real(u)?));
            Op::Softmax(Softmax { input, output, table, steps, range })
        }
        12 => Op::Table(Table { input, output, table: bytes(u)? }),
        13 => Op::Copy(Copy {
            input: strided(u)?,
            output: strided(u)?,
            extents: [number(u)?, number(u)?, number(u)?, number(u)?, number(u)?],
        }),
        14 => Op::Bilinear(Bilinear {
            input,
            zero_point,
            output,
            rows: constants(u, ZEROS)?,
            columns: constants(u, ZEROS)?,
            multiplier: real(u)?,
            range,
        }),
        15 => Op::ArgMax(ArgMax { input, target: elements(u)?, last: u.arbitrary()? }),
        _ => {
            let b = View { width: input.channels, channels: output.channels, ..view(u)? };
            Op::MatMul(MatMul {
                inputs: [input, b],
                zero_points,
                multiplier: real(u)?,
                output,
                range,
            })
        }
    })
}

fn view(u: &mut Unstructured<'_>) -> Result<View> {
    let offset = u.int_in_range(0..=ARENA_BYTES)?;
    let dense = View::dense(offset, number(u)?, number(u)?, number(u)?);
    Ok(match u.int_in_range(0..=3)? {
        0 => View { row_bytes: number(u)?, pixel_bytes: number(u)?, ..dense },
        1 => {
            let pixel_bytes = dense.channels.wrapping_add(number(u)?);
            let row_bytes = dense.width.wrapping_mul(pixel_bytes).wrapping_add(number(u)?);
            View { row_bytes, pixel_bytes, ..dense }
        }
        _ => dense,
    })
}

fn window(u: &mut Unstructured<'_>) -> Result<Window> {
    Ok(match u.int_in_range(0..=2)? {
        0 => Window::UNIT,
        1 => Window {
            kernel: [number(u)?, number(u)?],
            padding: [number(u)?, number(u)?],
            ..Window::UNIT
        },
        _ => Window {
            kernel: [number(u)?, number(u)?],
            stride: [number(u)?, number(u)?],
            dilation: [number(u)?, number(u)?],
            padding: [number(u)?, number(u)?],
        },
    })
}

fn elements(u: &mut Unstructured<'_>) -> Result<Elements> {
    let element =
        *u.choose(&[Element::I8, Element::U8, Element::F32, Element::I32, Element::I64])?;
    let offset = u.int_in_range(0..=ARENA_BYTES / 8)? * 8;
    Ok(Elements { offset, element, row: number(u)?, pixel: number(u)?, channel: number(u)? })
}

fn strided(u: &mut Unstructured<'_>) -> Result<Strided> {
    let strides = [number(u)?, number(u)?, number(u)?, number(u)?, number(u)?];
    Ok(Strided { offset: u.int_in_range(0..=ARENA_BYTES)?, strides })
}

fn range(u: &mut Unstructured<'_>) -> Result<Range> {
    Ok(Range { zero_point: u.arbitrary()?, low: u.arbitrary()?, high: u.arbitrary()? })
}

fn real(u: &mut Unstructured<'_>) -> Result<f32> {
    Ok(if u.ratio(7, 8)? { f32::from(u.int_in_range(1..=255_u8)?) / 64.0 } else { u.arbitrary()? })
}

/// Most often a small number.
fn number(u: &mut Unstructured<'_>) -> Result<u32> {
    match u.int_in_range(0..=15)? {
        0..=4 => Ok(1),
        5..=12 => u.int_in_range(0..=16),
        13 | 14 => u.int_in_range(0..=1024),
        _ => u.arbitrary(),
    }
}
