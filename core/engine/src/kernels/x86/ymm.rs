//! Registers of 256 bits, with three ways to multiply.

use core::arch::x86_64::*;
use core::marker::PhantomData;

use super::vector::{Rounding, Vector};

/// 8 lanes, with AVX2, multiplying as `D` does.
pub(super) struct Ymm<D>(PhantomData<D>);

/// How four values of each lane are multiplied by four weights.
///
/// # Safety of all functions
/// As of [`Vector`].
pub(super) trait Dot {
    type Operand: Copy;
    /// See [`Vector::PREPARES_WIDE`].
    const PREPARES_WIDE: bool;
    /// From bytes `u8`.
    unsafe fn values(bytes: __m256i) -> Self::Operand;
    /// From bytes `i8`.
    unsafe fn weights(bytes: __m256i) -> Self::Operand;
    /// From what was prepared.
    unsafe fn prepared_weights(from: *const u8) -> Self::Operand;
    unsafe fn dot(sums: __m256i, values: Self::Operand, weights: Self::Operand) -> __m256i;
}

/// AVX-VNNI: `vpdpbusd` of 256 bits.
pub(super) struct Vnni;

impl Dot for Vnni {
    type Operand = __m256i;
    const PREPARES_WIDE: bool = false;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn values(bytes: __m256i) -> __m256i {
        bytes
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(bytes: __m256i) -> __m256i {
        bytes
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn prepared_weights(from: *const u8) -> __m256i {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn dot(sums: __m256i, values: __m256i, weights: __m256i) -> __m256i {
        _mm256_dpbusd_avx_epi32(sums, values, weights)
    }
}

/// `vpmaddubsw`, which saturates at 16 bits after two products: right only for weights that cannot reach that.
pub(super) struct Narrow;

impl Narrow {
    /// Whether no bytes can saturate the sum of two products with these neighbouring weights: 255 · 128 fits into 16
    /// bits, and only weights of one sign add up.
    pub(super) const fn is_exact(first: i8, second: i8) -> bool {
        let (first, second) = (first as i32, second as i32);
        let (positive, negative) = (max(first, 0) + max(second, 0), min(first, 0) + min(second, 0));
        positive <= 128 && negative >= -128
    }
}

const fn max(a: i32, b: i32) -> i32 {
    if a > b { a } else { b }
}

const fn min(a: i32, b: i32) -> i32 {
    if a < b { a } else { b }
}

impl Dot for Narrow {
    type Operand = __m256i;
    const PREPARES_WIDE: bool = false;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn values(bytes: __m256i) -> __m256i {
        bytes
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(bytes: __m256i) -> __m256i {
        bytes
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn prepared_weights(from: *const u8) -> __m256i {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot(sums: __m256i, values: __m256i, weights: __m256i) -> __m256i {
        let pairs = _mm256_maddubs_epi16(values, weights);
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// `vpmaddwd` on bytes widened to 16 bits: even bytes of each lane, and odd ones. Right for any weights.
pub(super) struct Wide;

impl Dot for Wide {
    type Operand = [__m256i; 2];
    const PREPARES_WIDE: bool = true;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn values(bytes: __m256i) -> [__m256i; 2] {
        [_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(bytes)]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(bytes: __m256i) -> [__m256i; 2] {
        [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn prepared_weights(from: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot(sums: __m256i, values: [__m256i; 2], weights: [__m256i; 2]) -> __m256i {
        let even = _mm256_madd_epi16(values[0], weights[0]);
        let odd = _mm256_madd_epi16(values[1], weights[1]);
        _mm256_add_epi32(_mm256_add_epi32(sums, even), odd)
    }
}

/// As for 512 bits: dword `l · 4 + v` belongs to vector `v`.
const VECTOR_BY_VECTOR: [i32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl<D: Dot> Vector for Ymm<D> {
    const LANES: usize = 8;
    const PREPARES_WIDE: bool = D::PREPARES_WIDE;

    type Int = __m256i;
    type Float = __m256;
    type Values = D::Operand;
    type Weights = D::Operand;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: *const u8) -> __m256i {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn splat(value: i32) -> __m256i {
        _mm256_set1_epi32(value)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(from: *const u8) -> D::Operand {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { D::weights(_mm256_loadu_si256(from.cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn prepared_weights(from: *const u8) -> D::Operand {
        // SAFETY: as the caller's.
        unsafe { D::prepared_weights(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn values(from: *const u8) -> D::Operand {
        // SAFETY: the caller vouches for four bytes.
        unsafe { D::values(_mm256_set1_epi32(from.cast::<i32>().read_unaligned())) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn quads(rows: [__m256i; 4]) -> [D::Operand; 4] {
        let low = _mm256_unpacklo_epi8(rows[0], rows[1]);
        let high = _mm256_unpackhi_epi8(rows[0], rows[1]);
        let low_after = _mm256_unpacklo_epi8(rows[2], rows[3]);
        let high_after = _mm256_unpackhi_epi8(rows[2], rows[3]);
        // SAFETY: the CPU has the instructions, as the caller says.
        unsafe {
            [
                D::values(_mm256_unpacklo_epi16(low, low_after)),
                D::values(_mm256_unpackhi_epi16(low, low_after)),
                D::values(_mm256_unpacklo_epi16(high, high_after)),
                D::values(_mm256_unpackhi_epi16(high, high_after)),
            ]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot(sums: __m256i, values: D::Operand, weights: D::Operand) -> __m256i {
        // SAFETY: the CPU has the instructions, as the caller says.
        unsafe { D::dot(sums, values, weights) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add_integers(a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn floats(from: *const f32) -> __m256 {
        // SAFETY: the caller vouches for eight floats.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn splat_float(value: f32) -> __m256 {
        _mm256_set1_ps(value)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn to_floats(integers: __m256i) -> __m256 {
        _mm256_cvtepi32_ps(integers)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn widen(bytes: __m256i, zero: f32) -> [__m256; 4] {
        // A byte in the lowest bits of 2²³ as a float is 2²³ + byte; the subtraction is exact.
        let nothing = _mm256_setzero_si256();
        let exponent = _mm256_set1_epi16(0x4b00);
        let less = _mm256_set1_ps(8_388_608.0 + zero);
        let low = _mm256_unpacklo_epi8(bytes, nothing);
        let high = _mm256_unpackhi_epi8(bytes, nothing);
        [
            _mm256_sub_ps(_mm256_castsi256_ps(_mm256_unpacklo_epi16(low, exponent)), less),
            _mm256_sub_ps(_mm256_castsi256_ps(_mm256_unpackhi_epi16(low, exponent)), less),
            _mm256_sub_ps(_mm256_castsi256_ps(_mm256_unpacklo_epi16(high, exponent)), less),
            _mm256_sub_ps(_mm256_castsi256_ps(_mm256_unpackhi_epi16(high, exponent)), less),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        _mm256_div_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        _mm256_max_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn narrow(steps: [__m256; 4], rounding: &Rounding) -> __m256i {
        // Steps too low for an integer convert to the least one and saturate with the others.
        let high = _mm256_set1_ps(rounding.high_steps);
        let zero = _mm256_set1_epi16(rounding.zero);
        let [a, b, c, d] = [
            _mm256_cvtps_epi32(_mm256_min_ps(steps[0], high)),
            _mm256_cvtps_epi32(_mm256_min_ps(steps[1], high)),
            _mm256_cvtps_epi32(_mm256_min_ps(steps[2], high)),
            _mm256_cvtps_epi32(_mm256_min_ps(steps[3], high)),
        ];
        let ab = _mm256_adds_epi16(_mm256_packs_epi32(a, b), zero);
        let cd = _mm256_adds_epi16(_mm256_packs_epi32(c, d), zero);
        _mm256_max_epu8(_mm256_packus_epi16(ab, cd), _mm256_set1_epi8(rounding.low as i8))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn in_order(bytes: __m256i) -> __m256i {
        // SAFETY: the array is 32 bytes.
        let order = unsafe { _mm256_loadu_si256(VECTOR_BY_VECTOR.as_ptr().cast()) };
        _mm256_permutevar8x32_epi32(bytes, order)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store<const PARTS: usize>(bytes: __m256i, part: usize, to: *mut u8, count: usize) {
        let lower = _mm256_castsi256_si128(bytes);
        let upper = _mm256_extracti128_si256::<1>(bytes);
        // SAFETY: the caller vouches for `count` bytes, and no more are written.
        unsafe {
            match (PARTS, part) {
                (1, _) if count >= 32 => _mm256_storeu_si256(to.cast(), bytes),
                (1, _) if count >= 16 => {
                    _mm_storeu_si128(to.cast(), lower);
                    store_first(upper, to.add(16), count - 16);
                }
                (1, _) | (2, 0) => store_first(lower, to, count),
                (2, _) => store_first(upper, to, count),
                (_, 0 | 1) => store_half(lower, part == 1, to, count),
                (_, _) => store_half(upper, part == 3, to, count),
            }
        }
    }
}

/// The first `count` of the lower 8 bytes, or of the upper ones.
///
/// # Safety
/// `to` stands for `count` bytes, at most 8.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_half(bytes: __m128i, is_upper: bool, to: *mut u8, count: usize) {
    // SAFETY: as the caller's.
    unsafe {
        match (is_upper, count >= 8) {
            (false, true) => _mm_storel_epi64(to.cast(), bytes),
            (true, true) => _mm_storeh_pd(to.cast(), _mm_castsi128_pd(bytes)),
            (false, false) => store_first(bytes, to, count),
            (true, false) => store_first(_mm_srli_si128::<8>(bytes), to, count),
        }
    }
}

/// The first `count` of 16 bytes, which may be none.
///
/// # Safety
/// `to` stands for `count` bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_first(bytes: __m128i, to: *mut u8, count: usize) {
    // SAFETY: each piece is as long as the bit of `count` that asks for it.
    unsafe {
        if count >= 16 {
            _mm_storeu_si128(to.cast(), bytes);
            return;
        }
        let (mut bytes, mut to) = (bytes, to);
        if count & 8 != 0 {
            _mm_storeu_si64(to, bytes);
            bytes = _mm_srli_si128::<8>(bytes);
            to = to.add(8);
        }
        if count & 4 != 0 {
            _mm_storeu_si32(to, bytes);
            bytes = _mm_srli_si128::<4>(bytes);
            to = to.add(4);
        }
        if count & 2 != 0 {
            _mm_storeu_si16(to, bytes);
            bytes = _mm_srli_si128::<2>(bytes);
            to = to.add(2);
        }
        if count & 1 != 0 {
            to.write(_mm_extract_epi8::<0>(bytes) as u8);
        }
    }
}
