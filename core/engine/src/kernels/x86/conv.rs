//! Convolutions and fully connected layers.
//!
//! A tile is a few output pixels by a few vectors of output channels, whose sums stay in registers while the kernel's
//! segments go by: for each four values of a segment, the weights of the tile's channels are loaded once, and each
//! pixel's four values are broadcast and multiplied by them. Pixels of a tile need not be neighbours, so tiles cross
//! the ends of rows. Pixels come in chunks, whose inputs stay in the cache while block after block of channels is
//! computed from them.

use alloc::vec::Vec;
use core::ops::Range;

use super::vector::{Rounding, Vector};
use crate::kernels::Raw;
use crate::op::{Conv, Segments};
use crate::reference::window_start;

/// Channels of a block of packed weights.
pub(super) const BLOCK: usize = 16;

/// Bytes of the weights of a block for four values.
pub(super) const QUAD_BYTES: usize = 4 * BLOCK;

/// Output pixels that are taken through all blocks of channels before the next ones.
pub(super) const CHUNK_PIXELS: usize = 96;

/// Where the window of an output pixel begins in the arena, and where the pixel lies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pixel {
    pub(super) input: u32,
    output: u32,
}

/// A group of a convolution, with all addresses that tiles need.
#[derive(Debug)]
pub(super) struct Layer {
    /// The arena, at the first channel of the group in the input and in the output.
    pub(super) input: *const u8,
    output: *mut u8,
    /// Constants of the group's first block.
    pub(super) weights: *const u8,
    pub(super) bias: *const i32,
    multipliers: *const f32,
    /// Output channels of the group.
    pub(super) channels: usize,
    pub(super) segments: Segments,
    pub(super) block_bytes: usize,
    rounding: Rounding,
}

/// Computes a tile: these pixels, and channels from this block on.
pub(super) type Tile = unsafe fn(&Layer, &[Pixel], usize);

/// The tiles of an instruction set.
pub(super) struct Tiles {
    /// By the number of blocks of channels, then by the number of pixels, each from one on.
    pub(super) by_blocks: &'static [&'static [Tile]],
    /// One pixel through all blocks from one on, if the kernel is one segment.
    pub(super) vector: unsafe fn(&Layer, Pixel),
}

/// Biases for unsigned storage: `i32` for each lane of each block. A value is stored as 128 more than it is, so each
/// sum has 128 times the sum of its weights too much.
pub(super) fn prepare(op: &Conv, constants: &[u8]) -> Vec<u8> {
    let blocks = op.groups as usize * op.group_blocks();
    let block_bytes = op.segments().block_bytes();
    let mut prepared = Vec::with_capacity(blocks * QUAD_BYTES);
    for block in 0..blocks {
        let weights = &constants[op.weights as usize + block * block_bytes..][..block_bytes];
        let biases = &constants[op.bias as usize + block * QUAD_BYTES..][..QUAD_BYTES];
        for (bias, sum) in biases.as_chunks::<4>().0.iter().zip(lane_sums(weights)) {
            let bias = i32::from_le_bytes(*bias).wrapping_sub(sum.wrapping_mul(128));
            prepared.extend(bias.to_le_bytes());
        }
    }
    prepared
}

/// The sum of the weights of each channel of a block.
fn lane_sums(weights: &[u8]) -> [i32; BLOCK] {
    let mut sums = [0_i32; BLOCK];
    for quad in weights.as_chunks::<QUAD_BYTES>().0 {
        for (sum, weights) in sums.iter_mut().zip(quad.as_chunks::<4>().0) {
            *sum += weights.iter().map(|weight| i32::from(*weight as i8)).sum::<i32>();
        }
    }
    sums
}

/// Computes these output pixels.
///
/// # Safety
/// The operation was checked, `raw` is the memory that it was checked for with what [`prepare`] made, and the CPU has
/// the instructions of the tiles.
pub(super) unsafe fn conv(op: &Conv, raw: Raw, pixels: Range<usize>, tiles: &Tiles) {
    let mut chunk = [Pixel::default(); CHUNK_PIXELS];
    let one_segment = op.segments().rows * op.segments().per_row == 1;
    for range in split(pixels, CHUNK_PIXELS) {
        let pixels = &mut chunk[..range.len()];
        locate(op, range.start, pixels);
        for group in 0..op.groups as usize {
            // SAFETY: as this function's.
            unsafe {
                let layer = Layer::new(op, raw, group);
                match pixels {
                    [pixel] if one_segment => (tiles.vector)(&layer, *pixel),
                    _ => tiles.run(&layer, pixels),
                }
            }
        }
    }
}

impl Segments {
    /// The same segments, with those that stand alone in their row taken for a row together.
    fn with_long_rows(self) -> Segments {
        if self.per_row > 1 {
            return self;
        }
        Segments { per_row: self.rows, step_bytes: self.row_step_bytes, rows: 1, ..self }
    }
}

impl Tiles {
    /// # Safety
    /// As of [`conv`].
    unsafe fn run(&self, layer: &Layer, pixels: &[Pixel]) {
        for blocks in split(0..layer.channels.div_ceil(BLOCK), self.by_blocks.len()) {
            let by_pixels = self.by_blocks[blocks.len() - 1];
            for range in split(0..pixels.len(), by_pixels.len()) {
                let tile = by_pixels[range.len() - 1];
                // SAFETY: as the caller's; the tile is for so many pixels and blocks.
                unsafe { tile(layer, &pixels[range], blocks.start) };
            }
        }
    }
}

/// The range in as few parts of at most `most` as will do, as equal as they can be.
pub(super) fn split(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = range.len().div_ceil(most).max(1);
    let (length, longer) = (range.len() / parts, range.len() % parts);
    (0..parts).scan(range.start, move |start, part| {
        let from = *start;
        *start += length + usize::from(part < longer);
        Some(from..*start)
    })
}

/// Where output pixels from the `first` on lie, counted row by row.
pub(super) fn locate(op: &Conv, first: usize, mut pixels: &mut [Pixel]) {
    let width = op.output.width as usize;
    let (mut y, mut x) = (first / width, first % width);
    let input_step = op.window.stride[1].wrapping_mul(op.input.pixel_bytes);
    while !pixels.is_empty() {
        let (row, rest) = pixels.split_at_mut(pixels.len().min(width - x));
        let mut input = window_start(&op.input, &op.window, y as u32, x as u32) as u32;
        let mut output = op.output.at(y as u32, x as u32) as u32;
        for pixel in row {
            *pixel = Pixel { input, output };
            input = input.wrapping_add(input_step);
            output = output.wrapping_add(op.output.pixel_bytes);
        }
        (y, x, pixels) = (y + 1, 0, rest);
    }
}

impl Layer {
    /// # Safety
    /// As of [`conv`].
    pub(super) unsafe fn new(op: &Conv, raw: Raw, group: usize) -> Layer {
        let segments = op.segments();
        let first = group * op.group_blocks();
        let inputs = op.input.channels as usize / op.groups as usize;
        // SAFETY: all of these lie within the arena, the constants and what was prepared.
        unsafe {
            Layer {
                input: raw.arena.add(group * inputs),
                output: raw.arena.add(group * op.group_outputs()),
                weights: raw.constants.add(op.weights as usize + first * segments.block_bytes()),
                bias: raw.prepared.cast::<i32>().add(first * BLOCK),
                multipliers: raw.constants.add(op.multipliers as usize + first * QUAD_BYTES).cast(),
                channels: op.group_outputs(),
                segments: segments.with_long_rows(),
                block_bytes: segments.block_bytes(),
                rounding: Rounding::new(op.range),
            }
        }
    }

    /// Weights, biases and multipliers of a vector of `V`, counted from the group's first.
    #[inline(always)]
    pub(super) unsafe fn vector<V: Vector>(&self, vector: usize) -> VectorConstants {
        let per_block = BLOCK / V::LANES;
        let (block, lane) = (vector / per_block, vector % per_block * V::LANES);
        // SAFETY: the caller asks for a vector that there is.
        unsafe {
            VectorConstants {
                weights: self.weights.add(block * self.block_bytes + lane * 4),
                bias: self.bias.add(block * BLOCK + lane),
                multipliers: self.multipliers.add(block * BLOCK + lane),
            }
        }
    }
}

pub(super) struct VectorConstants {
    pub(super) weights: *const u8,
    pub(super) bias: *const i32,
    multipliers: *const f32,
}

/// A tile of `M` pixels by `N` vectors.
///
/// # Safety
/// As of [`conv`]; `pixels` are `M`, and the layer has so many vectors from `block` on.
#[inline(always)]
pub(super) unsafe fn tile<V: Vector, const M: usize, const N: usize>(
    layer: &Layer,
    pixels: &[Pixel],
    block: usize,
) {
    // SAFETY: windows of pixels lie within the arena, the last four values of a segment within its slack.
    unsafe {
        let mut inputs = [layer.input; M];
        for m in 0..M {
            inputs[m] = layer.input.add(pixels.get_unchecked(m).input as usize);
        }
        let first = block * BLOCK / V::LANES;
        let mut weights = [layer.weights; N];
        let mut sums = [[V::splat(0); N]; M];
        for n in 0..N {
            let constants = layer.vector::<V>(first + n);
            weights[n] = constants.weights;
            let bias = V::load(constants.bias.cast());
            for of_pixel in &mut sums {
                of_pixel[n] = bias;
            }
        }
        let Segments { per_row, step_bytes, row_step_bytes, rows, .. } = layer.segments;
        let quads = layer.segments.quads();
        let mut weights_at = 0;
        for row in 0..rows {
            for segment in 0..per_row {
                let mut at = row * row_step_bytes + segment * step_bytes;
                for _ in 0..quads {
                    let mut of_quad = [V::weights(weights[0].add(weights_at)); N];
                    for n in 1..N {
                        of_quad[n] = V::weights(weights[n].add(weights_at));
                    }
                    for m in 0..M {
                        let values = V::values(inputs[m].add(at));
                        for n in 0..N {
                            sums[m][n] = V::dot(sums[m][n], values, of_quad[n]);
                        }
                    }
                    at += 4;
                    weights_at += QUAD_BYTES;
                }
            }
        }
        store::<V, M, N>(layer, pixels, first, &sums);
    }
}

/// Requantises the sums of a tile and stores them, as many pixels together as four vectors are. Vectors are counted
/// from the group's first.
#[inline(always)]
pub(super) unsafe fn store<V: Vector, const M: usize, const N: usize>(
    layer: &Layer,
    pixels: &[Pixel],
    vector: usize,
    sums: &[[V::Int; N]; M],
) {
    let channel = vector * V::LANES;
    if channel >= layer.channels {
        return;
    }
    let count = (layer.channels - channel).min(N * V::LANES);
    let together = if N > 2 { 1 } else { 4 / N };
    // SAFETY: no more than the channels of a pixel are written.
    unsafe {
        let mut multipliers = [V::splat_float(0.0); N];
        for n in 0..N {
            multipliers[n] = V::floats(layer.vector::<V>(vector + n).multipliers);
        }
        let output = layer.output.add(channel);
        let mut first = 0;
        while first < M {
            let mut steps = [V::splat_float(0.0); 4];
            for k in 0..4 {
                let (m, n) =
                    if N > 2 { (first, k.min(N - 1)) } else { ((first + k / N).min(M - 1), k % N) };
                steps[k] = V::mul(V::to_floats(sums[m][n]), multipliers[n]);
            }
            let bytes = V::in_order(V::narrow(steps, &layer.rounding));
            for part in 0..together {
                if first + part < M {
                    let to = output.add(pixels.get_unchecked(first + part).output as usize);
                    match together {
                        1 => V::store::<1>(bytes, part, to, count),
                        2 => V::store::<2>(bytes, part, to, count),
                        _ => V::store::<4>(bytes, part, to, count),
                    }
                }
            }
            first += together;
        }
    }
}

/// Vectors of channels that a single pixel is multiplied by at once: as many sums as hide their latency.
const VECTORS_AT_ONCE: usize = 8;

/// One pixel, one segment: each weight is used once, and how fast they come is what counts.
///
/// # Safety
/// As of [`conv`].
#[inline(always)]
pub(super) unsafe fn vector<V: Vector>(layer: &Layer, pixel: Pixel) {
    let per_block = BLOCK / V::LANES;
    let blocks = layer.channels.div_ceil(BLOCK);
    let mut block = 0;
    // SAFETY: as the caller's; there are so many blocks left.
    unsafe {
        while block < blocks {
            let vectors = (blocks - block) * per_block;
            if vectors >= VECTORS_AT_ONCE {
                vectors_of_pixel::<V, VECTORS_AT_ONCE, 1>(layer, pixel, block);
                block += VECTORS_AT_ONCE / per_block;
            } else if vectors >= 4 {
                vectors_of_pixel::<V, 4, 2>(layer, pixel, block);
                block += 4 / per_block;
            } else if per_block == 2 {
                vectors_of_pixel::<V, 2, 4>(layer, pixel, block);
                block += 1;
            } else {
                vectors_of_pixel::<V, 1, 8>(layer, pixel, block);
                block += 1;
            }
        }
    }
}

/// `N` vectors of channels, each as `S` sums that are added at the end.
#[inline(always)]
pub(super) unsafe fn vectors_of_pixel<V: Vector, const N: usize, const S: usize>(
    layer: &Layer,
    pixel: Pixel,
    block: usize,
) {
    // SAFETY: as of `tile`.
    unsafe {
        let input = layer.input.add(pixel.input as usize);
        let first = block * BLOCK / V::LANES;
        let mut weights = [layer.weights; N];
        let mut sums = [[V::splat(0); N]; S];
        for n in 0..N {
            let constants = layer.vector::<V>(first + n);
            weights[n] = constants.weights;
            sums[0][n] = V::load(constants.bias.cast());
        }
        let quads = layer.segments.quads();
        let mut quad = 0;
        while quad + S <= quads {
            for s in 0..S {
                let values = V::values(input.add((quad + s) * 4));
                for n in 0..N {
                    let of_quad = V::weights(weights[n].add((quad + s) * QUAD_BYTES));
                    sums[s][n] = V::dot(sums[s][n], values, of_quad);
                }
            }
            quad += S;
        }
        while quad < quads {
            let values = V::values(input.add(quad * 4));
            for n in 0..N {
                let of_quad = V::weights(weights[n].add(quad * QUAD_BYTES));
                sums[0][n] = V::dot(sums[0][n], values, of_quad);
            }
            quad += 1;
        }
        let mut total = sums[0];
        for s in 1..S {
            for n in 0..N {
                total[n] = V::add_integers(total[n], sums[s][n]);
            }
        }
        store_vectors::<V, N>(layer, pixel, block, &total);
    }
}

/// Requantises and stores vectors of one pixel, four at a time.
#[inline(always)]
unsafe fn store_vectors<V: Vector, const N: usize>(
    layer: &Layer,
    pixel: Pixel,
    block: usize,
    sums: &[V::Int; N],
) {
    let count = (layer.channels - block * BLOCK).min(N * V::LANES);
    // SAFETY: no more than the channels of a pixel are written.
    unsafe {
        let output = layer.output.add(block * BLOCK + pixel.output as usize);
        let mut first = 0;
        while first * V::LANES < count {
            let mut steps = [V::splat_float(0.0); 4];
            for k in 0..4 {
                let n = (first + k).min(N - 1);
                let constants = layer.vector::<V>(block * BLOCK / V::LANES + n);
                let multipliers = V::floats(constants.multipliers);
                steps[k] = V::mul(V::to_floats(sums[n]), multipliers);
            }
            let bytes = V::in_order(V::narrow(steps, &layer.rounding));
            let to = output.add(first * V::LANES);
            V::store::<1>(bytes, 0, to, (count - first * V::LANES).min(4 * V::LANES));
            first += 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::split;

    #[test]
    fn a_range_is_split_into_equal_parts_without_gaps() {
        for (length, most) in [(0, 3), (1, 3), (3, 3), (4, 3), (49, 8), (125, 96), (7, 1)] {
            let parts: Vec<_> = split(10..10 + length, most).collect();
            assert_eq!(parts[0].start, 10);
            assert_eq!(parts.last().map(|part| part.end), Some(10 + length));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            let lengths = parts.iter().map(|part| part.len());
            let (shortest, longest) = (lengths.clone().min(), lengths.max());
            assert!(longest <= Some(most) && longest <= shortest.map(|shortest| shortest + 1));
        }
    }
}
