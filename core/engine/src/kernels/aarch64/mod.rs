//! What the sets of 64-bit ARM share: from sums to stored values.
//!
//! A block of 16 channels is four vectors of four `i32` while it is summed, and one vector of 16 `i8` when stored.

mod columns;
mod conv;
mod depthwise;
mod elements;
mod neon;
mod sdot;

use core::arch::aarch64::*;

use crate::kernels::KernelSet;
use crate::requantise::Range;

/// The sets that this CPU can run, the fastest first.
pub(super) fn available() -> impl Iterator<Item = &'static KernelSet> {
    let has_sdot = std::arch::is_aarch64_feature_detected!("dotprod");
    let sets = [(has_sdot, &sdot::SDOT), (true, &neon::NEON)];
    sets.into_iter().filter_map(|(has, set)| has.then_some(set))
}

/// The sums of 16 channels, in order.
type Sums = [int32x4_t; 4];

/// A [`Range`] in registers.
#[derive(Clone, Copy)]
struct Rounding {
    zero_point: int16x8_t,
    low: int8x16_t,
    high: int8x16_t,
}

impl Rounding {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(range: Range) -> Rounding {
        Rounding {
            zero_point: vdupq_n_s16(i16::from(range.zero_point)),
            low: vdupq_n_s8(range.low),
            high: vdupq_n_s8(range.high),
        }
    }

    /// 16 values from 16 sums. FCVTNS rounds half to even and saturates, as does each narrowing: what is beyond `i16`
    /// is beyond the range too.
    #[inline]
    #[target_feature(enable = "neon")]
    fn requantise(&self, sums: Sums, multipliers: [float32x4_t; 4]) -> int8x16_t {
        let rounded = |j: usize| vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums[j]), multipliers[j]));
        let low = vqmovn_high_s32(vqmovn_s32(rounded(0)), rounded(1));
        let high = vqmovn_high_s32(vqmovn_s32(rounded(2)), rounded(3));
        let (low, high) = (vqaddq_s16(low, self.zero_point), vqaddq_s16(high, self.zero_point));
        let values = vqmovn_high_s16(vqmovn_s16(low), high);
        vminq_s8(vmaxq_s8(values, self.low), self.high)
    }
}

/// Four vectors of `i32` next to each other.
///
/// # Safety
/// 64 bytes can be read at `from`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_sums(from: *const u8) -> Sums {
    // SAFETY: the caller's.
    core::array::from_fn(|j| unsafe { vld1q_s32(from.add(j * 16).cast()) })
}

/// Four vectors of `f32` next to each other.
///
/// # Safety
/// 64 bytes can be read at `from`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_multipliers(from: *const u8) -> [float32x4_t; 4] {
    // SAFETY: the caller's.
    core::array::from_fn(|j| unsafe { vld1q_f32(from.add(j * 16).cast()) })
}

/// Stores the first `count` values, at most 16.
///
/// # Safety
/// `count` bytes can be written at `to`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store(to: *mut u8, values: int8x16_t, count: usize) {
    if count >= 16 {
        // SAFETY: the caller's; 16 bytes are written.
        unsafe { vst1q_s8(to.cast(), values) }
    } else {
        // SAFETY: the caller's.
        unsafe { store_part(to, values, count) }
    }
}

/// As [`store`], for less than 16: the bits of `count` say which pieces are stored.
///
/// # Safety
/// As there.
#[target_feature(enable = "neon")]
unsafe fn store_part(mut to: *mut u8, mut values: int8x16_t, count: usize) {
    // SAFETY: the pieces are `count` bytes together, which the caller allows to be written; none needs alignment.
    unsafe {
        if count & 8 != 0 {
            vst1_s8(to.cast(), vget_low_s8(values));
            values = vextq_s8::<8>(values, values);
            to = to.add(8);
        }
        if count & 4 != 0 {
            to.cast::<i32>().write_unaligned(vgetq_lane_s32::<0>(vreinterpretq_s32_s8(values)));
            values = vextq_s8::<4>(values, values);
            to = to.add(4);
        }
        if count & 2 != 0 {
            to.cast::<i16>().write_unaligned(vgetq_lane_s16::<0>(vreinterpretq_s16_s8(values)));
            values = vextq_s8::<2>(values, values);
            to = to.add(2);
        }
        if count & 1 != 0 {
            to.cast::<i8>().write(vgetq_lane_s8::<0>(values));
        }
    }
}
