//! Kernels for x86-64. Activations are stored as `u8`, since these CPUs multiply `u8` by `i8`.
//!
//! Each kernel is written once, over a trait of vectors; the files named after instruction sets make it for theirs.

#![allow(clippy::needless_range_loop)] // Indices name registers, several arrays at a time.

mod avx2;
mod avx512vnni;
mod avxvnni;
mod conv;
mod depthwise;
mod elementwise;
mod vector;
mod ymm;
mod zmm;

use alloc::vec::Vec;
use std::is_x86_feature_detected;

use super::KernelSet;

/// The sets that this CPU can run, the fastest first.
pub(super) fn available() -> Vec<&'static KernelSet> {
    let mut sets = Vec::new();
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
    {
        sets.push(&avx512vnni::SET);
    }
    if is_x86_feature_detected!("avx2") {
        if is_x86_feature_detected!("avxvnni") {
            sets.push(&avxvnni::SET);
        }
        sets.push(&avx2::SET);
    }
    sets
}

/// Makes a set of kernels over the vectors `$vector`, for the instructions `$features`, beside those for convolutions.
macro_rules! kernel_set {
    ($name:literal, $features:literal, $vector:ty, $conv:expr, $prepare_conv:expr) => {
        /// The set.
        pub(super) static SET: KernelSet = KernelSet {
            name: $name,
            flip: 0x80,
            conv: Some($conv),
            depthwise: Some(depthwise),
            add: Some(add),
            average_pool: Some(average_pool),
            import: Some(import),
            table: Some(elementwise::table),
            prepare_conv: Some($prepare_conv),
            prepare_depthwise: Some(prepare_depthwise),
        };

        fn prepare_depthwise(op: &Depthwise, constants: &[u8]) -> Vec<u8> {
            depthwise::prepare(op, constants, <$vector>::LANES, <$vector>::PREPARES_WIDE)
        }

        unsafe fn depthwise(op: &Depthwise, raw: Raw, rows: Range<usize>) {
            // SAFETY: as the caller's.
            unsafe { depthwise::depthwise(op, raw, rows, &LINES) }
        }

        static LINES: Lines = Lines {
            lanes: <$vector>::LANES,
            wide: <$vector>::PREPARES_WIDE,
            by_taps,
            by_columns: [
                [by_columns::<1, 1>, by_columns::<1, 2>, by_columns::<1, 3>],
                [by_columns::<2, 1>, by_columns::<2, 2>, by_columns::<2, 3>],
            ],
        };

        #[target_feature(enable = $features)]
        unsafe fn tile<const M: usize, const N: usize>(
            layer: &Layer,
            pixels: &[Pixel],
            block: usize,
        ) {
            // SAFETY: as the caller's.
            unsafe { conv::tile::<$vector, M, N>(layer, pixels, block) }
        }

        #[target_feature(enable = $features)]
        unsafe fn vector(layer: &Layer, pixel: Pixel) {
            // SAFETY: as the caller's.
            unsafe { conv::vector::<$vector>(layer, pixel) }
        }

        #[target_feature(enable = $features)]
        unsafe fn by_taps(line: &Line<'_>) {
            // SAFETY: as the caller's.
            unsafe { depthwise::by_taps::<$vector>(line) }
        }

        #[target_feature(enable = $features)]
        unsafe fn by_columns<const ROWS: usize, const NEW: usize>(line: &Line<'_>) {
            // SAFETY: as the caller's.
            unsafe { depthwise::by_columns::<$vector, ROWS, NEW>(line) }
        }

        #[target_feature(enable = $features)]
        unsafe fn add(op: &Add, raw: Raw) {
            // SAFETY: as the caller's.
            unsafe { elementwise::add::<$vector>(op, raw) }
        }

        #[target_feature(enable = $features)]
        unsafe fn average_pool(op: &AveragePool, raw: Raw) {
            // SAFETY: as the caller's.
            unsafe { elementwise::average_pool::<$vector>(op, raw) }
        }

        #[target_feature(enable = $features)]
        unsafe fn import(op: &Import, raw: Raw) {
            // SAFETY: as the caller's.
            unsafe { elementwise::import::<$vector>(op, raw) }
        }
    };
}

use kernel_set;
