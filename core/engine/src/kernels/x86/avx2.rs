//! AVX2 alone: CPUs since 2013.
//!
//! Without VNNI there are two ways to multiply: [`Narrow`], which is fast and saturates if the weights of a pair of
//! values are too large together, and [`Wide`], which is right for any weights. So when a convolution is prepared, an
//! *order* is chosen for each *quad* (the weights of one vector of channels for four values): one of three ways to
//! pair its four values with which no pair can saturate, or else the wide way. When it runs, the inputs of a few
//! pixels are laid out once in every order, and each vector of channels goes through its quads order by order.
//!
//! Inputs are laid out as they lie in the arena where all quads of all windows begin at multiples of four there, else
//! window by window.

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
use crate::op::{Add, AveragePool, Conv, Depthwise, Import, Segments};

kernel_set!("avx2", "avx2", Ymm<Wide>, conv, prepare_conv);

/// Tiles for kernels that are too large to lay out.
static TILES: Tiles =
    Tiles { by_blocks: &[&[tile::<1, 2>, tile::<2, 2>, tile::<3, 2>, tile::<4, 2>]], vector };

/// Pixels of a tile that is laid out.
const PIXELS: usize = 8;

/// Quads of a plane, of which the last may be written beyond what is laid out.
const PLANE_QUADS: usize = 4800;
const BEYOND_QUADS: usize = 8;

/// Quads of a plane that are laid out if they are more than a tile's: all planes of them stay in the first cache.
const CACHED_QUADS: usize = 1200;

/// The most quads of a kernel that is laid out.
const QUADS_MAX: usize = (PLANE_QUADS - BEYOND_QUADS) / PIXELS;

/// Which two of four values are neighbours: each of the first with each of the others once.
const ORDERS: [[u8; 4]; 3] = [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]];

/// Inputs are laid out in planes: quads in each of the [`ORDERS`], then their even bytes and their odd ones as 16 bits.
const EVEN: usize = ORDERS.len();
const ODD: usize = EVEN + 1;
type Planes = [[MaybeUninit<u32>; PLANE_QUADS]; ODD + 1];

/// Vectors of a block of channels.
const VECTORS: usize = BLOCK / Ymm::<Wide>::LANES;

/// What is prepared for a vector of channels: how many quads there are of each order, and then the indices of all
/// quads, order by order, those without one last.
const fn list_words(quads: usize) -> usize {
    ORDERS.len() + quads
}

/// Biases as [`conv::prepare`] makes them; for each quad of the kernel how many quads it lies behind the window's first,
/// in the arena and window by window, `u32`; and for each vector of each block its list, `u16`.
fn prepare_conv(op: &Conv, constants: &[u8]) -> Vec<u8> {
    let mut prepared = conv::prepare(op, constants);
    let segments = op.segments();
    let block_bytes = segments.block_bytes();
    let quads = block_bytes / QUAD_BYTES;
    if quads > QUADS_MAX {
        return prepared;
    }
    for index in 0..quads {
        let (segment, quad) = (index / segments.quads(), index % segments.quads());
        let (down, right) = (segment / segments.per_row, segment % segments.per_row);
        let bytes = down * segments.row_step_bytes + right * segments.step_bytes;
        prepared.extend(((bytes / 4 + quad) as u32).to_le_bytes());
    }
    prepared.extend((0..quads as u32).flat_map(u32::to_le_bytes));
    let mut by_order: [Vec<u16>; ORDERS.len() + 1] = Default::default();
    for block in 0..op.groups as usize * op.group_blocks() {
        let weights = &constants[op.weights as usize + block * block_bytes..][..block_bytes];
        for vector in 0..VECTORS {
            by_order.iter_mut().for_each(Vec::clear);
            for (index, quad) in weights.as_chunks::<QUAD_BYTES>().0.iter().enumerate() {
                let of_vector = &quad[vector * QUAD_BYTES / VECTORS..][..QUAD_BYTES / VECTORS];
                let order = ORDERS.iter().position(|order| is_exact(of_vector, order));
                by_order[order.unwrap_or(ORDERS.len())].push(index as u16);
            }
            let counts = by_order.iter().take(ORDERS.len()).map(|quads| quads.len() as u16);
            let words = counts.chain(by_order.iter().flatten().copied());
            prepared.extend(words.flat_map(u16::to_le_bytes));
        }
    }
    prepared
}

/// Whether no pair of values can saturate with these weights of a quad, if its values are in this order.
fn is_exact(weights: &[u8], order: &[u8; 4]) -> bool {
    let [a, b, c, d] = order.map(usize::from);
    weights.as_chunks::<4>().0.iter().all(|weights| {
        let weights = weights.map(|weight| weight as i8);
        Narrow::is_exact(weights[a], weights[b]) && Narrow::is_exact(weights[c], weights[d])
    })
}

/// As [`conv::conv`], with inputs laid out where they fit.
unsafe fn conv(op: &Conv, raw: Raw, pixels: Range<usize>) {
    let segments = op.segments();
    let quads = segments.block_bytes() / QUAD_BYTES;
    if quads > QUADS_MAX {
        // SAFETY: as the caller's.
        return unsafe { conv::conv(op, raw, pixels, &TILES) };
    }
    let is_aligned = op.input.pixel_bytes.is_multiple_of(4) && op.input.row_bytes.is_multiple_of(4);
    let pixel_quads = if is_aligned {
        (op.window.stride[1] as usize).saturating_mul(op.input.pixel_bytes as usize) / 4
    } else {
        quads
    };
    let cached = (CACHED_QUADS / pixel_quads.max(1)).clamp(PIXELS, CHUNK_PIXELS);
    let mut chunk = [Pixel::default(); CHUNK_PIXELS];
    let mut planes = MaybeUninit::<Planes>::uninit();
    for range in split(pixels, cached) {
        let pixels = &mut chunk[..range.len()];
        conv::locate(op, range.start, pixels);
        for group in 0..op.groups as usize {
            // SAFETY: as the caller's; tables follow the biases, and tiles run on what was laid out.
            unsafe {
                let layer = Layer::new(op, raw, group);
                let tables = Tables::new(op, raw, quads, group);
                if let ([pixel], 1) = (&*pixels, segments.rows * segments.per_row) {
                    tables.run_vector(&layer, *pixel, planes.as_mut_ptr());
                    continue;
                }
                let planes = planes.as_mut_ptr();
                let region = if is_aligned { lay_out_region(&layer, pixels, planes) } else { None };
                if let Some(firsts) = region {
                    tables.run(&layer, pixels, planes, &firsts, tables.in_arena);
                    continue;
                }
                let together = (CACHED_QUADS / quads).clamp(PIXELS, CHUNK_PIXELS);
                for range in split(0..pixels.len(), together) {
                    let pixels = &pixels[range];
                    let firsts = lay_out_windows(&layer, pixels, planes);
                    tables.run(&layer, pixels, planes, &firsts, tables.in_window);
                }
            }
        }
    }
}

/// What was prepared for a group beside the biases.
struct Tables {
    in_arena: *const u32,
    in_window: *const u32,
    lists: *const u16,
    quads: usize,
}

impl Tables {
    /// # Safety
    /// `raw` has what was prepared for the operation.
    unsafe fn new(op: &Conv, raw: Raw, quads: usize, group: usize) -> Tables {
        let biases_bytes = op.groups as usize * op.group_blocks() * BLOCK * 4;
        // SAFETY: as the caller's.
        unsafe {
            let in_arena = raw.prepared.add(biases_bytes).cast::<u32>();
            let lists = in_arena.add(2 * quads).cast::<u16>();
            let before = group * op.group_blocks() * VECTORS * list_words(quads);
            Tables { in_arena, in_window: in_arena.add(quads), lists: lists.add(before), quads }
        }
    }

    /// Computes pixels that were laid out from `firsts` on.
    ///
    /// # Safety
    /// As of [`conv::conv`]; `offsets` are of the kind of the pixels' layout.
    unsafe fn run(
        &self,
        layer: &Layer,
        pixels: &[Pixel],
        planes: *const Planes,
        firsts: &[u32; CHUNK_PIXELS],
        offsets: *const u32,
    ) {
        for vector in 0..layer.channels.div_ceil(Ymm::<Wide>::LANES) {
            // The same list for many pixels lets the CPU foresee where its parts end.
            for range in split(0..pixels.len(), PIXELS) {
                let tile = LAID_OUT[range.len() - 1];
                // SAFETY: as the caller's; there is a list for each vector.
                unsafe {
                    let list = self.lists.add(vector * list_words(self.quads));
                    let quads = Quads { planes: planes.cast(), offsets, list, count: self.quads };
                    tile(layer, &pixels[range.clone()], vector, &quads, &firsts[range]);
                }
            }
        }
    }
}

impl Tables {
    /// Computes one pixel with a kernel of one segment: blocks that need no order go without lists.
    ///
    /// # Safety
    /// As of [`conv::conv`].
    unsafe fn run_vector(&self, layer: &Layer, pixel: Pixel, planes: *mut Planes) {
        let words = list_words(self.quads);
        // SAFETY: as the caller's.
        unsafe {
            let mut is_laid_out = false;
            for block in 0..layer.channels.div_ceil(BLOCK) {
                let lists = self.lists.add(block * VECTORS * words);
                let is_plain = |vector| usize::from(*lists.add(vector * words)) == self.quads;
                if (0..VECTORS).all(is_plain) {
                    plain_block(layer, pixel, block);
                    continue;
                }
                if !is_laid_out {
                    lay_out_windows(layer, &[pixel], planes);
                    is_laid_out = true;
                }
                for vector in 0..VECTORS {
                    let list = lists.add(vector * words);
                    let offsets = self.in_window;
                    let quads = Quads { planes: planes.cast(), offsets, list, count: self.quads };
                    laid_out::<1>(layer, &[pixel], block * VECTORS + vector, &quads, &[0]);
                }
            }
        }
    }
}

/// A block of channels of one pixel, none of whose quads can saturate as it is.
///
/// # Safety
/// As of [`conv::conv`].
#[target_feature(enable = "avx2")]
unsafe fn plain_block(layer: &Layer, pixel: Pixel, block: usize) {
    // SAFETY: as the caller's.
    unsafe { conv::vectors_of_pixel::<Ymm<Narrow>, VECTORS, 2>(layer, pixel, block) }
}

/// Quads that were laid out, and a list of them.
struct Quads {
    planes: *const u32,
    /// How far each quad of the kernel lies from the first quad of a window.
    offsets: *const u32,
    list: *const u16,
    count: usize,
}

type LaidOut = unsafe fn(&Layer, &[Pixel], usize, &Quads, &[u32]);

static LAID_OUT: [LaidOut; PIXELS] = [
    laid_out::<1>,
    laid_out::<2>,
    laid_out::<3>,
    laid_out::<4>,
    laid_out::<5>,
    laid_out::<6>,
    laid_out::<7>,
    laid_out::<8>,
];

/// Lays out the part of the arena that the windows of pixels cover, if it fits and is not more than the windows one by
/// one. Returns where each window begins.
///
/// # Safety
/// The windows lie within the arena, and all of their quads at multiples of four bytes from each other.
unsafe fn lay_out_region(
    layer: &Layer,
    pixels: &[Pixel],
    planes: *mut Planes,
) -> Option<[u32; CHUNK_PIXELS]> {
    let Segments { per_row, step_bytes, row_step_bytes, rows, .. } = layer.segments;
    let first = pixels.iter().map(|pixel| pixel.input).min()?;
    let last = pixels.iter().map(|pixel| pixel.input).max()?;
    let window = (rows - 1) * row_step_bytes + (per_row - 1) * step_bytes;
    let quads = ((last - first) as usize + window) / 4 + layer.segments.quads();
    let one_by_one = pixels.len() * rows * per_row * layer.segments.quads();
    if quads > one_by_one.min(PLANE_QUADS - BEYOND_QUADS) {
        return None;
    }
    let mut firsts = [0; CHUNK_PIXELS];
    for (begin, pixel) in firsts.iter_mut().zip(pixels) {
        *begin = (pixel.input - first) / 4;
    }
    // SAFETY: whole vectors that begin in a window end within the arena's slack; the quads fit into a plane.
    unsafe {
        lay_out(layer.input.add(first as usize).cast(), quads, planes);
    }
    Some(firsts)
}

/// Lays out windows one after the other. Returns where each begins.
///
/// # Safety
/// The windows lie within the arena, and their quads fit into a plane.
#[target_feature(enable = "avx2")]
unsafe fn lay_out_windows(
    layer: &Layer,
    pixels: &[Pixel],
    planes: *mut Planes,
) -> [u32; CHUNK_PIXELS] {
    let Segments { per_row, step_bytes, row_step_bytes, rows, .. } = layer.segments;
    let quads = layer.segments.quads();
    let values = planes.cast::<u32>();
    let mut firsts = [0; CHUNK_PIXELS];
    let mut written = 0;
    for (begin, pixel) in firsts.iter_mut().zip(pixels) {
        *begin = written as u32;
        for down in 0..rows {
            for right in 0..per_row {
                // SAFETY: whole vectors that begin in a segment end within the arena's slack; what they write beyond
                // a segment is written again, or lies beyond the last one.
                unsafe {
                    let at = down * row_step_bytes + right * step_bytes;
                    let segment = layer.input.add(pixel.input as usize + at);
                    let mut quad = 0;
                    while quad < quads {
                        let bytes = _mm256_loadu_si256(segment.add(quad * 4).cast());
                        _mm256_storeu_si256(values.add(written + quad).cast(), bytes);
                        quad += 8;
                    }
                }
                written += quads;
            }
        }
    }
    // SAFETY: so many were written, and a whole vector more may be read and written.
    unsafe { lay_out(values, written, planes) };
    firsts
}

/// Writes all planes of quads that lie next to each other; they may lie in the first plane.
///
/// # Safety
/// The quads can be read by whole vectors, and they fit into a plane.
#[target_feature(enable = "avx2")]
unsafe fn lay_out(from: *const u32, quads: usize, planes: *mut Planes) {
    let mut quad = 0;
    while quad < quads {
        // SAFETY: as the caller's; a plane has room for a whole vector that begins at its last quad.
        unsafe {
            let bytes = _mm256_loadu_si256(from.add(quad).cast());
            let [even, odd] = Wide::values(bytes);
            let to = planes.cast::<u32>().add(quad);
            _mm256_storeu_si256(to.cast(), bytes);
            _mm256_storeu_si256(to.add(PLANE_QUADS).cast(), ordered::<1>(bytes));
            _mm256_storeu_si256(to.add(2 * PLANE_QUADS).cast(), ordered::<2>(bytes));
            _mm256_storeu_si256(to.add(EVEN * PLANE_QUADS).cast(), even);
            _mm256_storeu_si256(to.add(ODD * PLANE_QUADS).cast(), odd);
        }
        quad += 8;
    }
}

/// Brings four bytes of each lane into an order.
#[inline]
#[target_feature(enable = "avx2")]
fn ordered<const ORDER: usize>(bytes: __m256i) -> __m256i {
    if ORDER == 0 {
        return bytes;
    }
    let [a, b, c, d] = const { ORDERS[ORDER] };
    let first = i32::from_le_bytes([a, b, c, d]);
    let [x, y, z, w] = [first, first + 0x0404_0404, first + 0x0808_0808, first + 0x0c0c_0c0c];
    _mm256_shuffle_epi8(bytes, _mm256_setr_epi32(x, y, z, w, x, y, z, w))
}

/// A tile of `M` pixels by a vector of channels.
///
/// # Safety
/// As of [`conv::tile`]; the quads are those of the vector, and those of the pixels' windows begin at `firsts`.
#[target_feature(enable = "avx2")]
unsafe fn laid_out<const M: usize>(
    layer: &Layer,
    pixels: &[Pixel],
    vector: usize,
    quads: &Quads,
    firsts: &[u32],
) {
    // SAFETY: as the caller's; a list begins with numbers that add up to no more than that of the quads.
    unsafe {
        let constants = layer.vector::<Ymm<Wide>>(vector);
        let weights = constants.weights;
        let mut sums = [[_mm256_loadu_si256(constants.bias.cast())]; M];
        let mut windows = [quads.planes; M];
        for m in 0..M {
            windows[m] = quads.planes.add(*firsts.get_unchecked(m) as usize);
        }
        let counts = [*quads.list, *quads.list.add(1), *quads.list.add(2)].map(usize::from);
        let [first, second] = [counts[0], counts[0] + counts[1]];
        let third = second + counts[2];
        add_exact::<M, 0>(&mut sums, weights, quads, 0..first, &windows);
        add_exact::<M, 1>(&mut sums, weights, quads, first..second, &windows);
        add_exact::<M, 2>(&mut sums, weights, quads, second..third, &windows);
        add_others(&mut sums, weights, quads, third..quads.count, &windows);
        conv::store::<Ymm<Wide>, M, 1>(layer, pixels, vector, &sums);
    }
}

impl Quads {
    /// The index of an entry of the list, and how far the quad lies from the first of a window.
    ///
    /// # Safety
    /// There is such an entry.
    #[inline(always)]
    unsafe fn entry(&self, at: usize) -> (usize, usize) {
        // SAFETY: as the caller's; lists name quads of the kernel.
        unsafe {
            let index = usize::from(*self.list.add(ORDERS.len() + at));
            (index, *self.offsets.add(index) as usize)
        }
    }
}

/// Adds the products of quads that are exact in an order.
///
/// # Safety
/// As of [`laid_out`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_exact<const M: usize, const ORDER: usize>(
    sums: &mut [[__m256i; 1]; M],
    weights: *const u8,
    quads: &Quads,
    range: Range<usize>,
    windows: &[*const u32; M],
) {
    for at in range {
        // SAFETY: as the caller's.
        unsafe {
            let (index, offset) = quads.entry(at);
            let of_quad = _mm256_loadu_si256(weights.add(index * QUAD_BYTES).cast());
            let of_quad = ordered::<ORDER>(of_quad);
            for m in 0..M {
                let values = in_all_lanes(windows[m].add(ORDER * PLANE_QUADS + offset));
                sums[m][0] = Narrow::dot(sums[m][0], values, of_quad);
            }
        }
    }
}

/// Adds the products of quads that are exact in no order.
///
/// # Safety
/// As of [`laid_out`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_others<const M: usize>(
    sums: &mut [[__m256i; 1]; M],
    weights: *const u8,
    quads: &Quads,
    range: Range<usize>,
    windows: &[*const u32; M],
) {
    for at in range {
        // SAFETY: as the caller's.
        unsafe {
            let (index, offset) = quads.entry(at);
            let of_quad = _mm256_loadu_si256(weights.add(index * QUAD_BYTES).cast());
            let of_quad = Wide::weights(of_quad);
            for m in 0..M {
                let even = in_all_lanes(windows[m].add(EVEN * PLANE_QUADS + offset));
                let odd = in_all_lanes(windows[m].add(ODD * PLANE_QUADS + offset));
                sums[m][0] = Wide::dot(sums[m][0], [even, odd], of_quad);
            }
        }
    }
}

/// The same quad in all lanes.
///
/// # Safety
/// It was written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn in_all_lanes(quad: *const u32) -> __m256i {
    // SAFETY: as the caller's.
    _mm256_set1_epi32(unsafe { quad.read_unaligned() } as i32)
}
