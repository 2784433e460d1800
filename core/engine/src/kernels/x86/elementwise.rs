//! Sums of two views, means, tables, and inputs of the network.

use core::arch::x86_64::*;

use super::conv::split;
use super::vector::{Rounding, Vector, stored};
use crate::kernels::Raw;
use crate::op::{Add, AveragePool, Elements, Import, Table, View};
use crate::program::Element;
use crate::reference::{covered, mean_multiplier};

/// Runs of bytes that lie next to each other in all of some views of the same extents.
#[derive(Clone, Copy)]
struct Runs {
    rows: u32,
    in_row: u32,
    bytes: usize,
}

impl Runs {
    fn new(views: &[&View]) -> Runs {
        let View { height, width, channels, .. } = *views[0];
        let row = width as usize * channels as usize;
        let rows_are_dense = views.iter().all(|view| view.pixel_bytes == channels || width == 1);
        let all_is_dense = views.iter().all(|view| view.row_bytes as usize == row || height == 1);
        match (rows_are_dense, all_is_dense) {
            (true, true) => Runs { rows: 1, in_row: 1, bytes: height as usize * row },
            (true, false) => Runs { rows: height, in_row: 1, bytes: row },
            _ => Runs { rows: height, in_row: width, bytes: channels as usize },
        }
    }

    /// Where runs begin, as `[y, x]`.
    fn positions(self) -> impl Iterator<Item = (u32, u32)> {
        (0..self.rows).flat_map(move |y| (0..self.in_row).map(move |x| (y, x)))
    }
}

/// The sum of two views.
///
/// # Safety
/// The operation was checked, `raw` is the memory that it was checked for, and the CPU has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn add<V: Vector>(op: &Add, raw: Raw) {
    let zeros = op.zero_points.map(|zero| f32::from(stored(zero)));
    let rounding = Rounding::new(op.range);
    let runs = Runs::new(&[&op.output, &op.inputs[0], &op.inputs[1]]);
    for (y, x) in runs.positions() {
        // SAFETY: runs lie within the arena, whole vectors that begin in them within its slack.
        unsafe {
            let left = raw.arena.add(op.inputs[0].at(y, x)).cast_const();
            let right = raw.arena.add(op.inputs[1].at(y, x)).cast_const();
            let output = raw.arena.add(op.output.at(y, x));
            let low = V::splat_float(rounding.low_steps);
            let ratios = [V::splat_float(op.ratios[0]), V::splat_float(op.ratios[1])];
            let mut at = 0;
            while at < runs.bytes {
                let a = V::widen(V::load(left.add(at)), zeros[0]);
                let b = V::widen(V::load(right.add(at)), zeros[1]);
                let mut steps = a;
                for v in 0..4 {
                    let sum = V::add(V::mul(a[v], ratios[0]), V::mul(b[v], ratios[1]));
                    steps[v] = V::max(sum, low);
                }
                let count = (runs.bytes - at).min(4 * V::LANES);
                V::store::<1>(V::narrow(steps, &rounding), 0, output.add(at), count);
                at += 4 * V::LANES;
            }
        }
    }
}

/// Weights that sum up one, two, three or four of four values.
static ONES: [[u8; 64]; 4] = {
    let mut ones = [[0; 64]; 4];
    let mut at = 0;
    while at < 4 * 64 {
        let (count, place) = (at / 64, at % 4);
        ones[count][at % 64] = if place <= count { 1 } else { 0 };
        at += 1;
    }
    ones
};

/// The mean of windows.
///
/// # Safety
/// As of [`add`].
#[inline(always)]
pub(super) unsafe fn average_pool<V: Vector>(op: &AveragePool, raw: Raw) {
    let rounding = Rounding::new(op.range);
    let channels = op.output.channels as usize;
    for y in 0..op.output.height {
        for x in 0..op.output.width {
            let multiplier = mean_multiplier(op, [y, x]);
            let output = op.output.at(y, x);
            let mut channel = 0;
            while channel < channels {
                // SAFETY: the outputs lie within the arena, and so do the windows.
                unsafe {
                    let sums = window_sums::<V>(op, raw, [y, x], channel);
                    let multiplier = V::splat_float(multiplier);
                    let mut steps = [multiplier; 4];
                    for v in 0..4 {
                        steps[v] = V::mul(V::to_floats(sums[v]), multiplier);
                    }
                    let count = (channels - channel).min(4 * V::LANES);
                    let to = raw.arena.add(output + channel);
                    V::store::<1>(V::narrow(steps, &rounding), 0, to, count);
                }
                channel += 4 * V::LANES;
            }
        }
    }
}

/// The sums of `value - zero point` over the window of an output, of 4 · `LANES` channels, by lanes: four pixels are
/// interleaved and multiplied by ones.
///
/// # Safety
/// As of [`add`].
#[inline(always)]
unsafe fn window_sums<V: Vector>(
    op: &AveragePool,
    raw: Raw,
    [y, x]: [u32; 2],
    channel: usize,
) -> [V::Int; 4] {
    let [rows, columns] = covered(&op.input, &op.window, y, x);
    let mut taps = 0_i32;
    // SAFETY: windows lie within the input, whole vectors that begin in it within the arena's slack.
    unsafe {
        let mut sums = [V::splat(0); 4];
        let mut four = [raw.arena.cast_const(); 4];
        let mut waiting = 0;
        for row in rows {
            for column in columns.clone() {
                four[waiting] = raw.arena.add(op.input.at(row, column) + channel);
                waiting += 1;
                if waiting == 4 {
                    add_pixels::<V>(&mut sums, four, 4);
                    waiting = 0;
                }
                taps = taps.wrapping_add(1);
            }
        }
        if waiting > 0 {
            add_pixels::<V>(&mut sums, four, waiting);
        }
        let zeros = V::splat(taps.wrapping_mul(-i32::from(stored(op.zero_point))));
        for sum in &mut sums {
            *sum = V::add_integers(*sum, zeros);
        }
        sums
    }
}

/// Adds the first `count` of four pixels.
#[inline(always)]
unsafe fn add_pixels<V: Vector>(sums: &mut [V::Int; 4], pixels: [*const u8; 4], count: usize) {
    // SAFETY: the caller's pixels are as long as a vector; `ONES` has as many bytes as the widest.
    unsafe {
        let ones = V::weights(ONES[count - 1].as_ptr());
        let rows = [V::load(pixels[0]), V::load(pixels[1]), V::load(pixels[2]), V::load(pixels[3])];
        let quads = V::quads(rows);
        for v in 0..4 {
            sums[v] = V::dot(sums[v], quads[v], ones);
        }
    }
}

/// A function of one value.
///
/// # Safety
/// As of [`add`].
pub(super) unsafe fn table(op: &Table, raw: Raw) {
    // SAFETY: the table lies within the constants.
    let table = unsafe { core::slice::from_raw_parts(raw.constants.add(op.table as usize), 256) };
    // A table for bytes as they are stored.
    let mut of_bytes = [0; 256];
    for (of_byte, value) in of_bytes.iter_mut().zip(table) {
        *of_byte = stored(*value as i8);
    }
    let runs = Runs::new(&[&op.output, &op.input]);
    for (y, x) in runs.positions() {
        // SAFETY: runs lie within the arena; they are the same or do not overlap.
        unsafe {
            let input = raw.arena.add(op.input.at(y, x)).cast_const();
            let output = raw.arena.add(op.output.at(y, x));
            for at in 0..runs.bytes {
                *output.add(at) = of_bytes[usize::from(*input.add(at))];
            }
        }
    }
}

/// Inputs of the network.
///
/// # Safety
/// As of [`add`].
#[inline(always)]
pub(super) unsafe fn import<V: Vector>(op: &Import, raw: Raw) {
    let View { height, width, channels, pixel_bytes, .. } = op.output;
    let Elements { pixel, channel, .. } = op.source;
    let channels_are_dense = channel == 1 || channels == 1;
    let row_is_dense = channels_are_dense && pixel == channels && pixel_bytes == channels;
    for y in 0..height {
        // SAFETY: elements and outputs lie within the arena.
        unsafe {
            if row_is_dense {
                run::<V>(op, raw, [y, 0, 0], (width * channels) as usize);
            } else if channels_are_dense {
                (0..width).for_each(|x| run::<V>(op, raw, [y, x, 0], channels as usize));
            } else if pixel == 1 {
                planes::<V>(op, raw, y);
            } else {
                for x in 0..width {
                    (0..channels).for_each(|c| run::<V>(op, raw, [y, x, c], 1));
                }
            }
        }
    }
}

/// `count` elements that lie next to each other on both sides, from one on.
#[inline(always)]
unsafe fn run<V: Vector>(op: &Import, raw: Raw, [y, x, c]: [u32; 3], count: usize) {
    // SAFETY: as of `import`.
    unsafe {
        let from = raw.arena.add(op.source.at(y, x, c));
        let to = raw.arena.add(op.output.at(y, x) + c as usize);
        store_elements::<V>(op, from, to, count);
    }
}

/// Stores `count` elements as values, one next to the other.
#[inline(always)]
unsafe fn store_elements<V: Vector>(op: &Import, from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the caller's bytes are so many; whole vectors of floats that begin in them end within the arena's slack.
    unsafe {
        match op.source.element {
            Element::U8 => core::ptr::copy_nonoverlapping(from, to, count),
            Element::F32 => {
                let rounding = Rounding::new(op.range);
                let (scale, low) = (V::splat_float(op.scale), V::splat_float(rounding.low_steps));
                let mut at = 0;
                while at < count {
                    let mut steps = [low; 4];
                    for v in 0..4 {
                        let floats = V::floats(from.cast::<f32>().add(at + v * V::LANES));
                        steps[v] = V::max(V::div(floats, scale), low);
                    }
                    let bytes = V::in_order(V::narrow(steps, &rounding));
                    V::store::<1>(bytes, 0, to.add(at), (count - at).min(4 * V::LANES));
                    at += 4 * V::LANES;
                }
            }
            _ => {
                for at in 0..count {
                    *to.add(at) = *from.add(at) ^ 0x80;
                }
            }
        }
    }
}

/// Pixels whose channels lie apart and are brought together at once.
const PIXELS: usize = 64;

/// A row whose channels lie in a plane each.
#[inline(always)]
unsafe fn planes<V: Vector>(op: &Import, raw: Raw, y: u32) {
    let View { width, channels, pixel_bytes, .. } = op.output;
    for pixels in split(0..width as usize, PIXELS) {
        let x = pixels.start as u32;
        let mut values = [[0_u8; PIXELS]; RGB];
        for first in (0..channels).step_by(RGB) {
            let together = (channels - first).min(RGB as u32);
            // SAFETY: elements and outputs lie within the arena; a chunk of a plane fits into its part of `values`.
            unsafe {
                for c in 0..together {
                    let from = raw.arena.add(op.source.at(y, x, first + c));
                    let to = values[c as usize].as_mut_ptr();
                    store_elements::<V>(op, from, to, pixels.len());
                }
                let to = raw.arena.add(op.output.at(y, x) + first as usize);
                if channels == RGB as u32 && pixel_bytes == channels {
                    interleave_rgb(&values, to, pixels.len());
                } else {
                    for (c, plane) in values.iter().take(together as usize).enumerate() {
                        for (pixel, value) in plane.iter().take(pixels.len()).enumerate() {
                            *to.add(pixel * pixel_bytes as usize + c) = *value;
                        }
                    }
                }
            }
        }
    }
}

/// Channels of an image.
const RGB: usize = 3;

/// For each 16 bytes of 16 pixels, which of the 16 values of each channel stand where; -1 for those of the others.
static RGB_PLACES: [[[i8; 16]; RGB]; RGB] = {
    let mut places = [[[-1; 16]; RGB]; RGB];
    let mut at = 0;
    while at < 16 * RGB {
        places[at / 16][at % RGB][at % 16] = (at / RGB) as i8;
        at += 1;
    }
    places
};

/// Writes pixels of three channels next to each other.
///
/// # Safety
/// The CPU has SSSE3, and `to` stands for all channels of `pixels`.
#[target_feature(enable = "ssse3")]
unsafe fn interleave_rgb(values: &[[u8; PIXELS]; RGB], to: *mut u8, pixels: usize) {
    let whole = pixels - pixels % 16;
    for first in (0..whole).step_by(16) {
        for (part, places) in RGB_PLACES.iter().enumerate() {
            // SAFETY: 16 pixels from `first` on are in `values` and in the output.
            unsafe {
                let mut bytes = _mm_setzero_si128();
                for (plane, places) in values.iter().zip(places) {
                    let of_plane = _mm_loadu_si128(plane.as_ptr().add(first).cast());
                    let places = _mm_loadu_si128(places.as_ptr().cast());
                    bytes = _mm_or_si128(bytes, _mm_shuffle_epi8(of_plane, places));
                }
                _mm_storeu_si128(to.add(first * RGB + part * 16).cast(), bytes);
            }
        }
    }
    for pixel in whole..pixels {
        for (c, plane) in values.iter().enumerate() {
            // SAFETY: the pixel is one of the output's.
            unsafe { *to.add(pixel * RGB + c) = plane[pixel] };
        }
    }
}
