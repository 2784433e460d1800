//! 32-bit ARM with NEON (Cortex-A7, or a 64-bit board with a 32-bit system).
//!
//! Stable Rust has neither the intrinsics nor the register classes, so the inner loops are assembly in `armv7.s`; here
//! is what goes around them. They multiply as [64-bit ARM without SDOT](super) does: bytes to `i16`, the products of
//! two quads in a chain, and neighbours added to two partial sums for each channel. 16 registers hold a tile of two
//! times eight channels: of two pixels, or of one.

use alloc::vec::Vec;
use core::arch::global_asm;
use core::ops::Range;

use super::pixels::Pixels;
use super::taps::{self, Rows, SCALES_BYTES, TAP_BYTES};
use super::{KernelSet, Raw};
use crate::op::{Add, Conv, Depthwise};
use crate::reference::window_start;
use crate::requantise::{self, SHIFT};

global_asm!(include_str!("armv7.s"), options(raw));

pub(crate) static ARMV7: KernelSet = KernelSet {
    name: "armv7",
    conv: Some(conv),
    depthwise: Some(depthwise),
    add: Some(add),
    prepare_conv: Some(prepare_conv),
    prepare_depthwise: Some(taps::prepare),
    ..super::SCALAR
};

/// Whether the kernel says that there is NEON: bit 12 of the auxiliary vector's entry for capabilities.
pub(super) fn is_available() -> bool {
    const AT_HWCAP: u32 = 16;
    const HWCAP_NEON: u32 = 1 << 12;
    let Ok(vector) = std::fs::read("/proc/self/auxv") else { return false };
    let word = |bytes: &[u8]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let mut entries = vector.chunks_exact(8).map(|entry| (word(entry), word(&entry[4..])));
    entries.any(|(key, value)| key == AT_HWCAP && value & HWCAP_NEON != 0)
}

/// What the assembly is told, and where it leaves its results. The offsets are written there too.
#[repr(C)]
struct Tile {
    inputs: [*const u8; 2],
    weights: [*const u8; 2],
    rows: usize,
    segments: usize,
    quads: usize,
    step_bytes: usize,
    row_step_bytes: usize,
    /// Whether the products of two quads fit into `i16`.
    chained: usize,
    biases: [*const u8; 2],
    multipliers: [*const u8; 2],
    /// What steps are clamped to.
    bounds: [f32; 2],
    /// What rounds them when it is added.
    shift: f32,
    /// What turns the bits of a shifted number into a value when it is subtracted.
    unshift: u32,
    /// For results: 16 of a convolution, 32 of channels by themselves.
    output: *mut u8,
    taps: *const u8,
    taps_end: *const u8,
    /// Vectors of eight values to add up.
    vectors: usize,
    zero_points: [u32; 2],
    ratios: [f32; 2],
}

const _: () = assert!(core::mem::offset_of!(Tile, bounds) == 56);
const _: () = assert!(core::mem::offset_of!(Tile, ratios) == 96);

unsafe extern "C" {
    /// 8 channels of each of two pixels: the weights are the same.
    fn selvedge_armv7_two_pixels(tile: *const Tile);
    /// 16 channels of a pixel: the inputs are the same.
    fn selvedge_armv7_one_pixel(tile: *const Tile);
    /// 16 channels by themselves, two vectors.
    fn selvedge_armv7_depthwise(tile: *const Tile);
    /// Sums of both inputs, eight values at a time.
    fn selvedge_armv7_add(tile: *const Tile);
}

impl Tile {
    fn new(range: requantise::Range, output: *mut u8) -> Tile {
        Tile {
            inputs: [core::ptr::null(); 2],
            weights: [core::ptr::null(); 2],
            rows: 0,
            segments: 0,
            quads: 0,
            step_bytes: 0,
            row_step_bytes: 0,
            chained: 0,
            biases: [core::ptr::null(); 2],
            multipliers: [core::ptr::null(); 2],
            bounds: range.bounds().into(),
            shift: SHIFT,
            unshift: SHIFT.to_bits().wrapping_sub(i32::from(range.zero_point) as u32),
            output,
            taps: core::ptr::null(),
            taps_end: core::ptr::null(),
            vectors: 0,
            zero_points: [0; 2],
            ratios: [0.0; 2],
        }
    }
}

/// One byte: whether no weight is -128, so that two products fit into `i16` whatever the values are.
fn prepare_conv(op: &Conv, constants: &[u8]) -> Vec<u8> {
    let bytes = op.groups as usize * op.group_blocks() * op.segments().block_bytes();
    let weights = &constants[op.weights as usize..][..bytes];
    Vec::from([u8::from(weights.iter().all(|weight| *weight as i8 != i8::MIN))])
}

/// # Safety
/// `op` was checked against the arena and the constants of `raw`, and prepared for this set; the CPU has NEON.
unsafe fn conv(op: &Conv, raw: Raw, mut range: Range<usize>) {
    let segments = op.segments();
    let (blocks, block_bytes) = (op.group_blocks(), segments.block_bytes());
    let group_inputs = op.input.channels as usize / op.groups as usize;
    let mut results = [0_u8; 16];
    let mut tile = Tile {
        rows: segments.rows,
        segments: segments.per_row,
        quads: segments.quads(),
        step_bytes: segments.step_bytes,
        row_step_bytes: segments.row_step_bytes,
        // SAFETY: the caller's: one byte was prepared.
        chained: usize::from(unsafe { *raw.prepared }),
        ..Tile::new(op.range, results.as_mut_ptr())
    };
    let mut pixels = Pixels::new();
    while pixels.take(op, &mut range) {
        for index in 0..op.groups as usize * blocks {
            let (group, first) = (index / blocks, index % blocks * 16);
            let count = (op.group_outputs() - first).min(16);
            // SAFETY: the offsets are those that the checker has found within the arena and the constants. What the
            // assembly reads beyond them is within their slack, and `results` holds what it writes.
            unsafe {
                let inputs = raw.arena.add(group * group_inputs).cast_const();
                let outputs = raw.arena.add(group * op.group_outputs() + first);
                let weights = raw.constants.add(op.weights as usize + index * block_bytes);
                let bias = raw.constants.add(op.bias as usize + index * 64);
                let multipliers = raw.constants.add(op.multipliers as usize + index * 64);
                let mut at = 0;
                while at + 2 <= pixels.count {
                    tile.inputs = [0, 1].map(|i| inputs.add(pixels.inputs[at + i]));
                    for half in 0..count.div_ceil(8) {
                        tile.weights = [weights.add(half * 32); 2];
                        tile.biases = [bias.add(half * 32); 2];
                        tile.multipliers = [multipliers.add(half * 32); 2];
                        selvedge_armv7_two_pixels(&tile);
                        for i in 0..2 {
                            let to = outputs.add(pixels.outputs[at + i] + half * 8);
                            let from = tile.output.add(i * 8);
                            copy_results::<8>(from, to, count - half * 8);
                        }
                    }
                    at += 2;
                }
                if at < pixels.count {
                    tile.inputs = [inputs.add(pixels.inputs[at]); 2];
                    tile.weights = [weights, weights.add(32)];
                    tile.biases = [bias, bias.add(32)];
                    tile.multipliers = [multipliers, multipliers.add(32)];
                    selvedge_armv7_one_pixel(&tile);
                    outputs.add(pixels.outputs[at]).copy_from_nonoverlapping(tile.output, count);
                }
            }
        }
    }
}

/// # Safety
/// `op` was checked against the arena and the constants of `raw`, and prepared for this set; the CPU has NEON.
unsafe fn depthwise(op: &Depthwise, raw: Raw, range: Range<usize>) {
    let rows = Rows::new(op);
    let taps_bytes = op.window.taps() * TAP_BYTES;
    let mut results = [0_u8; 32];
    let mut tile = Tile::new(op.range, results.as_mut_ptr());
    for y in range {
        for block in 0..rows.blocks {
            let input = window_start(&op.input, &op.window, y as u32, 0) + block * 16;
            let output = op.output.at(y as u32, 0) + block * 16;
            // SAFETY: as above; a last vector without a neighbour is computed twice.
            unsafe {
                let prepared = raw.prepared.add(block * (SCALES_BYTES + taps_bytes));
                tile.biases = [prepared; 2];
                tile.multipliers = [prepared.add(64); 2];
                tile.taps = prepared.add(SCALES_BYTES);
                tile.taps_end = tile.taps.add(taps_bytes);
                for vector in (0..rows.vectors).step_by(2) {
                    let pair = [vector, (vector + 1).min(rows.vectors - 1)];
                    tile.inputs = pair
                        .map(|vector| raw.arena.add(input + vector * rows.input_step).cast_const());
                    selvedge_armv7_depthwise(&tile);
                    for (i, vector) in pair.into_iter().enumerate() {
                        let to = raw.arena.add(output + vector * rows.output_step);
                        let from = tile.output.add(i * 16);
                        copy_results::<16>(from, to, rows.count(block, vector));
                    }
                }
            }
        }
    }
}

/// Copies up to `COUNT` results; most often all of them, which takes no call.
///
/// # Safety
/// So many can be read and written.
unsafe fn copy_results<const COUNT: usize>(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the caller's.
    unsafe {
        if count >= COUNT {
            to.copy_from_nonoverlapping(from, COUNT);
        } else {
            to.copy_from_nonoverlapping(from, count);
        }
    }
}

/// # Safety
/// `op` was checked against the arena of `raw`; the CPU has NEON.
unsafe fn add(op: &Add, raw: Raw) {
    let channels = op.output.channels as usize;
    let (whole, rest) = (channels / 8, channels % 8);
    let mut results = [0_u8; 8];
    let mut tile = Tile {
        zero_points: op.zero_points.map(|zero_point| u32::from(zero_point as u8)),
        ratios: op.ratios,
        ..Tile::new(op.range, core::ptr::null_mut())
    };
    for y in 0..op.output.height {
        for x in 0..op.output.width {
            // SAFETY: the caller's: these are pixels of the views, with slack behind them. A last vector of less than
            // eight values goes by way of `results`.
            unsafe {
                let output = raw.arena.add(op.output.at(y, x));
                let inputs = op.inputs.map(|input| raw.arena.add(input.at(y, x)).cast_const());
                if whole > 0 {
                    (tile.inputs, tile.output, tile.vectors) = (inputs, output, whole);
                    selvedge_armv7_add(&tile);
                }
                if rest > 0 {
                    tile.inputs = inputs.map(|input| input.add(whole * 8));
                    (tile.output, tile.vectors) = (results.as_mut_ptr(), 1);
                    selvedge_armv7_add(&tile);
                    output.add(whole * 8).copy_from_nonoverlapping(tile.output, rest);
                }
            }
        }
    }
}
