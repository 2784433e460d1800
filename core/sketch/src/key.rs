//! Integer keys that keep the order of floats.

/// The key of positive infinity; keys beyond it, on either side, stand for NaN.
pub const KEY_INFINITY: i32 = 0x7f80_0000;

/// The key of `value`: keys compare as the values do, and both zeros have the key 0.
///
/// IEEE 754 floats are sign and magnitude; the magnitude's bits rise with it, so negating them for
/// negative values gives two's complement with the same order.
///
/// ```
/// use selvedge_sketch::key_from_f32;
/// assert!(key_from_f32(-1.5) < key_from_f32(0.25));
/// assert_eq!(key_from_f32(-0.0), key_from_f32(0.0));
/// ```
pub const fn key_from_f32(value: f32) -> i32 {
    let bits = value.to_bits().cast_signed();
    if bits < 0 { i32::MIN.wrapping_sub(bits) } else { bits }
}

/// The place of a float in the total order of IEEE 754, in which −0 is just below +0: an instruction less
/// than its key.
#[inline]
pub(crate) const fn order_from_bits(bits: u32) -> i32 {
    let inverted = (bits.cast_signed() >> 31).cast_unsigned() >> 1;
    (bits ^ inverted).cast_signed()
}

/// The lowest place of the values whose key is `key`: for the key 0 that of −0.
pub(crate) const fn order_from_key(key: i32) -> i32 {
    if key > 0 { key } else { key.saturating_sub(1) }
}

/// The value whose key is `key`: for people, never for counting.
pub const fn f32_from_key(key: i32) -> f32 {
    f32::from_bits(bits_from_key(key))
}

/// The bits of the float whose key is `key`; a NaN for the lowest integer, which is no float's key.
pub(crate) const fn bits_from_key(key: i32) -> u32 {
    const LOWEST: i32 = -i32::MAX;
    let key = if key < LOWEST { LOWEST } else { key };
    let bits = if key < 0 { i32::MIN.wrapping_sub(key) } else { key };
    bits.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn infinities_have_the_outermost_keys() {
        assert_eq!(key_from_f32(f32::INFINITY), KEY_INFINITY);
        assert_eq!(key_from_f32(f32::NEG_INFINITY), -KEY_INFINITY);
        assert!(key_from_f32(f32::MAX) < KEY_INFINITY);
        assert!(key_from_f32(f32::NAN) > KEY_INFINITY);
        assert!(key_from_f32(-f32::NAN) < -KEY_INFINITY);
    }

    proptest! {
        #[test]
        fn keys_compare_as_floats_do(a: f32, b: f32) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(a.partial_cmp(&b), Some(key_from_f32(a).cmp(&key_from_f32(b))));
        }

        #[test]
        fn a_key_leads_back_to_its_value(value: f32) {
            prop_assume!(!value.is_nan());
            prop_assert_eq!(f32_from_key(key_from_f32(value)), value);
        }

        #[test]
        fn every_integer_is_a_key_without_a_panic(key: i32) {
            let value = f32_from_key(key);
            prop_assert_eq!(value.is_nan(), key.unsigned_abs() > KEY_INFINITY.unsigned_abs());
        }
    }
}
