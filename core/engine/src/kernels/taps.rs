//! Convolutions of channels by themselves: how their rows are cut into vectors of 16 values, and their taps.
//!
//! A vector is 16 channels of a pixel, or all channels of several pixels where these are few and lie next to each
//! other. Bytes are multiplied to `i16`, and as many products are added there as the weights allow, whatever the
//! values are: a value is at least -128, so that weights whose magnitudes sum up to no more than 255 are safe. Such taps
//! are a *chain*; taps need no order, so that chains are filled greedily.
//!
//! What is prepared, for each block of 16 channels:
//!
//! | offset | width | meaning |
//! |---|---|---|
//! | 0 | 64 | biases, `[16] i32` |
//! | 64 | 64 | multipliers, `[16] f32` |
//! | 128 | 32 each | taps: `[16] i8` weights, offset in the input (`u32`), whether the next tap continues the chain (`u32`) |

use alloc::vec::Vec;

use crate::op::Depthwise;

/// Magnitudes of weights whose products sum up in `i16`: `255 · 128 < 2¹⁵`.
pub(super) const MAGNITUDES_MAX: u32 = 255;

/// Biases and multipliers of a block.
pub(super) const SCALES_BYTES: usize = 128;
/// The record of a tap.
pub(super) const TAP_BYTES: usize = 32;
/// Where in it the offset lies.
#[cfg(target_arch = "aarch64")]
pub(super) const TAP_OFFSET: usize = 16;
/// Where in it lies whether the next one continues the chain.
#[cfg(target_arch = "aarch64")]
pub(super) const TAP_CONTINUES: usize = 20;

/// How a row of the output is cut into vectors.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// Blocks of 16 channels.
    pub(super) blocks: usize,
    /// Vectors of a block in a row.
    pub(super) vectors: usize,
    /// Bytes from one vector to the next in the input, one step of a window further.
    pub(super) input_step: usize,
    /// Bytes from one vector to the next in the output.
    pub(super) output_step: usize,
    /// Channels, of which each block takes 16; 16 if a vector is several pixels.
    channels: usize,
    /// Values that the last vector of a row is short of 16 in that case.
    missing: usize,
}

impl Rows {
    pub(super) const fn new(op: &Depthwise) -> Rows {
        let (channels, width) = (op.output.channels as usize, op.output.width as usize);
        let dense = op.input.pixel_bytes == op.output.channels
            && op.output.pixel_bytes == op.output.channels;
        if channels < 16 && 16 % channels == 0 && dense && op.window.stride[1] == 1 {
            let values = width * channels;
            let vectors = values.div_ceil(16);
            let missing = vectors * 16 - values;
            Rows { blocks: 1, vectors, input_step: 16, output_step: 16, channels: 16, missing }
        } else {
            Rows {
                blocks: channels.div_ceil(16),
                vectors: width,
                // A step that does not fit is that of a row with one vector.
                input_step: (op.window.stride[1] as usize)
                    .wrapping_mul(op.input.pixel_bytes as usize),
                output_step: op.output.pixel_bytes as usize,
                channels,
                missing: 0,
            }
        }
    }

    /// Vectors of a block that have 16 values; those behind them have less.
    #[cfg(target_arch = "aarch64")]
    pub(super) const fn whole(&self, block: usize) -> usize {
        match self.channels - block * 16 {
            0..16 => 0,
            _ if self.missing > 0 => self.vectors - 1,
            _ => self.vectors,
        }
    }

    /// Values of a vector of a block.
    pub(super) const fn count(&self, block: usize, vector: usize) -> usize {
        let of_block =
            if self.channels - block * 16 < 16 { self.channels - block * 16 } else { 16 };
        if vector + 1 == self.vectors { of_block - self.missing } else { of_block }
    }
}

/// What stands in front of the weights of each block: biases and multipliers, and the channel of each lane.
pub(super) fn scales(op: &Depthwise, constants: &[u8], block: usize) -> (Vec<u8>, [usize; 16]) {
    let channels = op.output.channels as usize;
    let lanes = core::array::from_fn(|lane| match Rows::new(op) {
        Rows { channels: 16, blocks: 1, .. } => lane % channels,
        _ => block * 16 + lane,
    });
    let words = |offset: u32| {
        lanes.iter().flat_map(move |lane| &constants[offset as usize + lane * 4..][..4]).copied()
    };
    (words(op.bias).chain(words(op.multipliers)).collect(), lanes)
}

/// Prepares an operation: see the table at the top.
pub(super) fn prepare(op: &Depthwise, constants: &[u8]) -> Vec<u8> {
    (0..Rows::new(op).blocks)
        .flat_map(|block| {
            let (mut bytes, lanes) = scales(op, constants, block);
            let weights: Vec<[i8; 16]> = (0..op.window.taps())
                .map(|tap| {
                    let row = &constants[op.weights as usize + tap * op.padded_channels()..];
                    lanes.map(|lane| row[lane] as i8)
                })
                .collect();
            for chain in chains(&weights) {
                for (index, tap) in chain.iter().enumerate() {
                    let continues = u32::from(index + 1 < chain.len());
                    bytes.extend(weights[*tap].map(|weight| weight as u8));
                    bytes.extend(tap_offset(op, *tap).to_le_bytes());
                    bytes.extend(continues.to_le_bytes());
                    bytes.extend([0; 8]);
                }
            }
            bytes
        })
        .collect()
}

/// Taps that are summed up in `i16` together.
fn chains(weights: &[[i8; 16]]) -> Vec<Vec<usize>> {
    let mut chains: Vec<(Vec<usize>, [u32; 16])> = Vec::new();
    for (tap, weights) in weights.iter().enumerate() {
        let magnitudes = weights.map(|weight| u32::from(weight.unsigned_abs()));
        let fits = |sums: &[u32; 16]| {
            sums.iter().zip(&magnitudes).all(|(sum, more)| sum + more <= MAGNITUDES_MAX)
        };
        match chains.iter_mut().find(|(_, sums)| fits(sums)) {
            Some((chain, sums)) => {
                chain.push(tap);
                sums.iter_mut().zip(magnitudes).for_each(|(sum, more)| *sum += more);
            }
            None => chains.push((Vec::from([tap]), magnitudes)),
        }
    }
    chains.into_iter().map(|(chain, _)| chain).collect()
}

/// Where a tap lies in the input, seen from the first one. The checker has found it to be within the arena; what may
/// not fit on the way there is multiplied by zero.
fn tap_offset(op: &Depthwise, tap: usize) -> u32 {
    let (down, right) = (tap as u32 / op.window.kernel[1], tap as u32 % op.window.kernel[1]);
    let [rows, columns] = op.window.dilation;
    down.wrapping_mul(rows)
        .wrapping_mul(op.input.row_bytes)
        .wrapping_add(right.wrapping_mul(columns).wrapping_mul(op.input.pixel_bytes))
}
