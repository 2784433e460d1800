//! AVX2 alone: CPUs since 2013.
//!
//! Without VNNI there are two ways to multiply ([`Narrow`], [`Wide`]): one that is fast and saturates, and one that is
//! right for any weights. Which quads of weights (four values of a segment, for a block of channels) cannot saturate
//! is known when a convolution is prepared; most can be multiplied the fast way. The inputs of a tile are laid out
//! once for both ways, and each block goes first through its quads of one kind, then through those of the other.

use alloc::vec::Vec;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;

use super::conv::{self, BLOCK, CHUNK_PIXELS, Layer, Pixel, QUAD_BYTES, Tiles, split};
use super::depthwise::{self, Line, Lines};
use super::elementwise;
use super::kernel_set;
use super::vector::Vector;
use super::ymm::{Dot, Narrow, Wide, Ymm};
use crate::kernels::{KernelSet, Raw};
use crate::op::{Add, AveragePool, Conv, Depthwise, Import};

kernel_set!("avx2", "avx2", Ymm<Wide>, conv, prepare_conv);

/// Tiles for kernels that are too large to lay out.
static TILES: Tiles =
    Tiles { by_blocks: &[&[tile::<1, 2>, tile::<2, 2>, tile::<3, 2>, tile::<4, 2>]], vector };

/// Pixels of a tile that is laid out.
const PIXELS: usize = 6;

/// Quads of a kernel that can be laid out, with those that a whole vector writes beyond the last one. As bytes, not a
/// multiple of 4096: rows that are read together must not meet in the same lines of the cache.
const ROW_QUADS: usize = 1040;

/// The most quads of a kernel that is laid out.
const QUADS_MAX: usize = ROW_QUADS - 8;

/// The inputs of a pixel: its values, four by four as in the window; its even values in 16 bits each; its odd ones.
type Row = [[MaybeUninit<u32>; ROW_QUADS]; 3];

/// Biases as [`conv::prepare`] makes them, then for each block: how many of its quads cannot saturate (`u16`), the
/// indices of these, and the indices of the others.
fn prepare_conv(op: &Conv, constants: &[u8]) -> Vec<u8> {
    let mut prepared = conv::prepare(op, constants);
    let block_bytes = op.segments().block_bytes();
    let quads = block_bytes / QUAD_BYTES;
    if quads > QUADS_MAX {
        return prepared;
    }
    for block in 0..op.groups as usize * op.group_blocks() {
        let weights = &constants[op.weights as usize + block * block_bytes..][..block_bytes];
        let is_exact = |quad: &&u16| {
            let weights = &weights[usize::from(**quad) * QUAD_BYTES..][..QUAD_BYTES];
            weights.as_chunks::<2>().0.iter().all(|[a, b]| Narrow::is_exact(*a as i8, *b as i8))
        };
        let all: Vec<u16> = (0..quads as u16).collect();
        let (exact, others): (Vec<u16>, Vec<u16>) = all.iter().partition(is_exact);
        prepared.extend((exact.len() as u16).to_le_bytes());
        prepared.extend(exact.iter().chain(&others).flat_map(|quad| quad.to_le_bytes()));
    }
    prepared
}

/// As [`conv::conv`], with inputs laid out where they fit.
unsafe fn conv(op: &Conv, raw: Raw, pixels: Range<usize>) {
    let quads = op.segments().block_bytes() / QUAD_BYTES;
    if quads > QUADS_MAX {
        // SAFETY: as the caller's.
        return unsafe { conv::conv(op, raw, pixels, &TILES) };
    }
    let lists = op.groups as usize * op.group_blocks() * BLOCK * 4;
    let mut chunk = [Pixel::default(); CHUNK_PIXELS];
    let mut rows: [MaybeUninit<Row>; PIXELS] = [const { MaybeUninit::uninit() }; PIXELS];
    for range in split(pixels, CHUNK_PIXELS) {
        let pixels = &mut chunk[..range.len()];
        conv::locate(op, range.start, pixels);
        for group in 0..op.groups as usize {
            // SAFETY: as the caller's; each row is written before a tile reads it, and the lists follow the biases.
            unsafe {
                let layer = Layer::new(op, raw, group);
                let lists = raw.prepared.add(lists).cast::<u16>();
                let lists = lists.add(group * op.group_blocks() * (quads + 1));
                for range in split(0..pixels.len(), PIXELS) {
                    let pixels = &pixels[range];
                    for (row, pixel) in rows.iter_mut().zip(pixels) {
                        lay_out(&layer, *pixel, row.as_mut_ptr());
                    }
                    let tile = LAID_OUT[pixels.len() - 1];
                    for block in 0..op.group_blocks() {
                        tile(
                            &layer,
                            pixels,
                            block,
                            rows.as_ptr().cast(),
                            lists.add(block * (quads + 1)),
                        );
                    }
                }
            }
        }
    }
}

type LaidOut = unsafe fn(&Layer, &[Pixel], usize, *const Row, *const u16);

static LAID_OUT: [LaidOut; PIXELS] =
    [laid_out::<1>, laid_out::<2>, laid_out::<3>, laid_out::<4>, laid_out::<5>, laid_out::<6>];

/// Lays out the window of a pixel. Each vector may write beyond the end of its segment, where the next one follows.
///
/// # Safety
/// The window lies within the arena; its kernel has at most [`QUADS_MAX`] quads.
#[target_feature(enable = "avx2")]
unsafe fn lay_out(layer: &Layer, pixel: Pixel, row: *mut Row) {
    let segments = &layer.segments;
    let quads = segments.quads();
    let mut written = 0;
    // SAFETY: whole vectors that begin in a segment end within the arena's slack, and within the row.
    unsafe {
        let window = layer.input.add(pixel.input as usize);
        let [values, even, odd] = [0, 1, 2].map(|plane| (&raw mut (*row)[plane]).cast::<u32>());
        for down in 0..segments.rows {
            for right in 0..segments.per_row {
                let at = down * segments.row_step_bytes + right * segments.step_bytes;
                let segment = window.add(at);
                let mut quad = 0;
                while quad < quads {
                    let bytes = _mm256_loadu_si256(segment.add(quad * 4).cast());
                    let [of_even, of_odd] = Wide::values(bytes);
                    let to = written + quad;
                    _mm256_storeu_si256(values.add(to).cast(), bytes);
                    _mm256_storeu_si256(even.add(to).cast(), of_even);
                    _mm256_storeu_si256(odd.add(to).cast(), of_odd);
                    quad += 8;
                }
                written += quads;
            }
        }
    }
}

/// A tile of `M` pixels by a block of channels.
///
/// # Safety
/// As of [`conv::tile`]; `rows` are the pixels' inputs, and `list` is what was prepared for the block.
#[target_feature(enable = "avx2")]
unsafe fn laid_out<const M: usize>(
    layer: &Layer,
    pixels: &[Pixel],
    block: usize,
    rows: *const Row,
    list: *const u16,
) {
    // SAFETY: as the caller's.
    unsafe {
        let bias = layer.bias.add(block * BLOCK).cast::<u8>();
        let bias = [_mm256_loadu_si256(bias.cast()), _mm256_loadu_si256(bias.add(32).cast())];
        let mut sums = [bias; M];
        let weights = layer.weights.add(block * layer.block_bytes);
        let quads = layer.block_bytes / QUAD_BYTES;
        if M <= 2 {
            add_products::<M, 2>(&mut sums, 0, rows, weights, list, quads);
        } else {
            // Sums of one vector leave room for the other operands in registers.
            add_products::<M, 1>(&mut sums, 0, rows, weights, list, quads);
            add_products::<M, 1>(&mut sums, 1, rows, weights, list, quads);
        }
        conv::store::<Ymm<Wide>, M, 2>(layer, pixels, block, &sums);
    }
}

/// Adds the products of all quads to the sums of `N` vectors of the block, from the `first` on.
///
/// # Safety
/// The list names quads of the weights, and quads of rows that were written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_products<const M: usize, const N: usize>(
    sums: &mut [[__m256i; 2]; M],
    first: usize,
    rows: *const Row,
    weights: *const u8,
    list: *const u16,
    quads: usize,
) {
    // SAFETY: as the caller's; a list begins with a number that is not above that of the quads.
    unsafe {
        let mut totals = [[sums[0][first]; N]; M];
        for n in 1..N {
            for of_pixel in &mut totals {
                of_pixel[n] = sums[0][first + n];
            }
        }
        let weights = weights.add(first * 32);
        let exact = usize::from(*list);
        let list = list.add(1);
        for index in 0..exact {
            let quad = usize::from(*list.add(index));
            for n in 0..N {
                let of_quad = _mm256_loadu_si256(weights.add(quad * QUAD_BYTES + n * 32).cast());
                for m in 0..M {
                    let values = four(rows.add(m), 0, quad);
                    totals[m][n] = Narrow::dot(totals[m][n], values, of_quad);
                }
            }
        }
        for index in exact..quads {
            let quad = usize::from(*list.add(index));
            for n in 0..N {
                let of_quad = _mm256_loadu_si256(weights.add(quad * QUAD_BYTES + n * 32).cast());
                let of_quad = Wide::weights(of_quad);
                for m in 0..M {
                    let values = [four(rows.add(m), 1, quad), four(rows.add(m), 2, quad)];
                    totals[m][n] = Wide::dot(totals[m][n], values, of_quad);
                }
            }
        }
        for m in 0..M {
            for n in 0..N {
                sums[m][first + n] = totals[m][n];
            }
        }
    }
}

/// The same 32 bits of a row in all lanes.
///
/// # Safety
/// The quad was written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn four(row: *const Row, plane: usize, quad: usize) -> __m256i {
    // SAFETY: as the caller's.
    let bits = unsafe { (&raw const (*row)[plane]).cast::<i32>().add(quad).read() };
    _mm256_set1_epi32(bits)
}
