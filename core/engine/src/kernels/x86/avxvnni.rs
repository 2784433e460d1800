//! AVX2 with VNNI of 256 bits: Alder Lake, Sierra Forest and their successors.

use alloc::vec::Vec;
use core::ops::Range;

use super::conv::{self, Layer, Pixel, Tiles};
use super::depthwise::{self, Line, Lines};
use super::elementwise;
use super::kernel_set;
use super::vector::Vector;
use super::ymm::{Vnni, Ymm};
use crate::kernels::{KernelSet, Raw};
use crate::op::{Add, AveragePool, Conv, Depthwise, Import};

kernel_set!("avxvnni", "avx2,avxvnni", Ymm<Vnni>, conv, conv::prepare);

unsafe fn conv(op: &Conv, raw: Raw, pixels: Range<usize>) {
    // SAFETY: as the caller's.
    unsafe { conv::conv(op, raw, pixels, &TILES) }
}

static TILES: Tiles = Tiles {
    by_blocks: &[&[
        tile::<1, 2>,
        tile::<2, 2>,
        tile::<3, 2>,
        tile::<4, 2>,
        tile::<5, 2>,
        tile::<6, 2>,
    ]],
    vector,
};
