//! Registers of 512 bits.

use core::arch::x86_64::*;

use super::vector::{Rounding, Vector};

/// 16 lanes, with AVX-512 VNNI: `vpdpbusd` multiplies `u8` by `i8` and adds four products to each lane.
pub(super) struct Zmm;

/// Dword `l · 4 + v` after packing within 128 bits holds bytes of lanes `4 · l..` of vector `v`: this reads them vector
/// by vector.
const VECTOR_BY_VECTOR: [i32; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

impl Vector for Zmm {
    const LANES: usize = 16;
    const PREPARES_WIDE: bool = false;

    type Int = __m512i;
    type Float = __m512;
    type Values = __m512i;
    type Weights = __m512i;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(from: *const u8) -> __m512i {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn splat(value: i32) -> __m512i {
        _mm512_set1_epi32(value)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn weights(from: *const u8) -> __m512i {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn prepared_weights(from: *const u8) -> __m512i {
        // SAFETY: as the caller's.
        unsafe { Zmm::weights(from) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn values(from: *const u8) -> __m512i {
        // SAFETY: the caller vouches for four bytes.
        _mm512_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn quads(rows: [__m512i; 4]) -> [__m512i; 4] {
        let low = _mm512_unpacklo_epi8(rows[0], rows[1]);
        let high = _mm512_unpackhi_epi8(rows[0], rows[1]);
        let low_after = _mm512_unpacklo_epi8(rows[2], rows[3]);
        let high_after = _mm512_unpackhi_epi8(rows[2], rows[3]);
        [
            _mm512_unpacklo_epi16(low, low_after),
            _mm512_unpackhi_epi16(low, low_after),
            _mm512_unpacklo_epi16(high, high_after),
            _mm512_unpackhi_epi16(high, high_after),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn dot(sums: __m512i, values: __m512i, weights: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, values, weights)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn add_integers(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn floats(from: *const f32) -> __m512 {
        // SAFETY: the caller vouches for 16 floats.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn splat_float(value: f32) -> __m512 {
        _mm512_set1_ps(value)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn to_floats(integers: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(integers)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn widen(bytes: __m512i, zero: f32) -> [__m512; 4] {
        // A byte in the lowest bits of 2²³ as a float is 2²³ + byte; the subtraction is exact.
        let nothing = _mm512_setzero_si512();
        let exponent = _mm512_set1_epi16(0x4b00);
        let less = _mm512_set1_ps(8_388_608.0 + zero);
        let low = _mm512_unpacklo_epi8(bytes, nothing);
        let high = _mm512_unpackhi_epi8(bytes, nothing);
        [
            _mm512_sub_ps(_mm512_castsi512_ps(_mm512_unpacklo_epi16(low, exponent)), less),
            _mm512_sub_ps(_mm512_castsi512_ps(_mm512_unpackhi_epi16(low, exponent)), less),
            _mm512_sub_ps(_mm512_castsi512_ps(_mm512_unpacklo_epi16(high, exponent)), less),
            _mm512_sub_ps(_mm512_castsi512_ps(_mm512_unpackhi_epi16(high, exponent)), less),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn narrow(steps: [__m512; 4], rounding: &Rounding) -> __m512i {
        // Steps too low for an integer convert to the least one and saturate with the others.
        let high = _mm512_set1_ps(rounding.high_steps);
        let zero = _mm512_set1_epi16(rounding.zero);
        let [a, b, c, d] = [
            _mm512_cvtps_epi32(_mm512_min_ps(steps[0], high)),
            _mm512_cvtps_epi32(_mm512_min_ps(steps[1], high)),
            _mm512_cvtps_epi32(_mm512_min_ps(steps[2], high)),
            _mm512_cvtps_epi32(_mm512_min_ps(steps[3], high)),
        ];
        let ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
        let cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero);
        _mm512_max_epu8(_mm512_packus_epi16(ab, cd), _mm512_set1_epi8(rounding.low as i8))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn in_order(bytes: __m512i) -> __m512i {
        // SAFETY: the array is 64 bytes.
        let order = unsafe { _mm512_loadu_si512(VECTOR_BY_VECTOR.as_ptr().cast()) };
        _mm512_permutexvar_epi32(order, bytes)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn store<const PARTS: usize>(bytes: __m512i, part: usize, to: *mut u8, count: usize) {
        let mask = u64::MAX >> (64 - count);
        // SAFETY: the caller vouches for `count` bytes; what the mask leaves out is not touched.
        unsafe {
            match PARTS {
                1 => _mm512_mask_storeu_epi8(to.cast(), mask, bytes),
                2 => {
                    let half = match part {
                        0 => _mm512_castsi512_si256(bytes),
                        _ => _mm512_extracti64x4_epi64::<1>(bytes),
                    };
                    _mm256_mask_storeu_epi8(to.cast(), mask as u32, half);
                }
                _ => {
                    let quarter = match part {
                        0 => _mm512_castsi512_si128(bytes),
                        1 => _mm512_extracti32x4_epi32::<1>(bytes),
                        2 => _mm512_extracti32x4_epi32::<2>(bytes),
                        _ => _mm512_extracti32x4_epi32::<3>(bytes),
                    };
                    _mm_mask_storeu_epi8(to.cast(), mask as u16, quarter);
                }
            }
        }
    }
}
