//! AVX2 alone: CPUs since 2013.

use alloc::vec::Vec;
use core::ops::Range;

use super::conv::{self, Layer, Pixel, Tiles};
use super::depthwise::{self, Line, Lines};
use super::elementwise;
use super::kernel_set;
use super::vector::Vector;
use super::ymm::{Wide, Ymm};
use crate::kernels::{KernelSet, Raw};
use crate::op::{Add, AveragePool, Conv, Depthwise, Import};

kernel_set!("avx2", "avx2", Ymm<Wide>, TILES);

static TILES: Tiles =
    Tiles { by_blocks: &[&[tile::<1, 2>, tile::<2, 2>, tile::<3, 2>, tile::<4, 2>]], vector };
