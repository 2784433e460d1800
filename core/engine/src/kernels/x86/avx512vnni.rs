//! AVX-512 with VNNI: Cascade Lake, Ice Lake, Zen 4 and later.

use alloc::vec::Vec;
use core::ops::Range;

use super::conv::{self, Layer, Pixel, Tiles};
use super::depthwise::{self, Line, Lines};
use super::elementwise;
use super::kernel_set;
use super::vector::Vector;
use super::zmm::Zmm;
use crate::kernels::{KernelSet, Raw};
use crate::op::{Add, AveragePool, Conv, Depthwise, Import};

kernel_set!("avx512vnni", "avx512f,avx512bw,avx512vl,avx512vnni", Zmm, conv, conv::prepare);

unsafe fn conv(op: &Conv, raw: Raw, pixels: Range<usize>) {
    // SAFETY: as the caller's.
    unsafe { conv::conv(op, raw, pixels, &TILES) }
}

static TILES: Tiles = Tiles {
    by_blocks: &[
        &[
            tile::<1, 1>,
            tile::<2, 1>,
            tile::<3, 1>,
            tile::<4, 1>,
            tile::<5, 1>,
            tile::<6, 1>,
            tile::<7, 1>,
            tile::<8, 1>,
            tile::<9, 1>,
            tile::<10, 1>,
            tile::<11, 1>,
            tile::<12, 1>,
            tile::<13, 1>,
            tile::<14, 1>,
        ],
        &[
            tile::<1, 2>,
            tile::<2, 2>,
            tile::<3, 2>,
            tile::<4, 2>,
            tile::<5, 2>,
            tile::<6, 2>,
            tile::<7, 2>,
            tile::<8, 2>,
        ],
        &[
            tile::<1, 3>,
            tile::<2, 3>,
            tile::<3, 3>,
            tile::<4, 3>,
            tile::<5, 3>,
            tile::<6, 3>,
            tile::<7, 3>,
            tile::<8, 3>,
        ],
        &[tile::<1, 4>, tile::<2, 4>, tile::<3, 4>, tile::<4, 4>, tile::<5, 4>, tile::<6, 4>],
    ],
    vector,
};
