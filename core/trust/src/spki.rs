//! Public keys as certificates carry them: SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) in PEM (RFC 7468).
//!
//! One key has one form here: lengths are as short as they can be, and the algorithm is spelled in one
//! way. So two keys that differ in bytes differ.

const HEADER: &str = "-----BEGIN PUBLIC KEY-----";
const FOOTER: &str = "-----END PUBLIC KEY-----";
const PEM_LINE_CHARACTERS: usize = 64;
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// All of the information about a P-256 key but the point, which follows (RFC 5480).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The object identifier rsaEncryption and its parameters, NULL (RFC 3279).
const RSA_ALGORITHM: [u8; 13] =
    [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The information about the key whose point is `point`, uncompressed.
pub(crate) fn of_p256_point(point: &[u8; 65]) -> Vec<u8> {
    [&P256_PREFIX[..], point].concat()
}

/// The point of a P-256 key, uncompressed.
pub(crate) fn p256_point(info: &[u8]) -> Option<[u8; 65]> {
    info.strip_prefix(&P256_PREFIX)?.try_into().ok()
}

/// The RSAPublicKey (RFC 8017) of an RSA key.
pub(crate) fn rsa_key(info: &[u8]) -> Option<&[u8]> {
    let (body, []) = element(SEQUENCE, info)? else { return None };
    let (algorithm, rest) = element(SEQUENCE, body)?;
    let ([0, key @ ..], []) = element(BIT_STRING, rest)? else { return None };
    (algorithm == RSA_ALGORITHM).then_some(key)
}

/// What stands between the lines of a PEM public key.
pub(crate) fn from_pem(text: &str) -> Option<Vec<u8>> {
    let body = text.trim_ascii().strip_prefix(HEADER)?.strip_suffix(FOOTER)?;
    let digits: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    from_base64(&digits)
}

/// PEM as OpenSSL writes it.
pub(crate) fn to_pem(info: &[u8]) -> String {
    let mut digits = String::new();
    for group in info.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for at in 0..4 {
            let digit = BASE64[(bits >> (18 - 6 * at)) as usize & 63];
            digits.push(if at > group.len() { '=' } else { char::from(digit) });
        }
    }
    let mut pem = format!("{HEADER}\n");
    for start in (0..digits.len()).step_by(PEM_LINE_CHARACTERS) {
        pem.push_str(&digits[start..digits.len().min(start + PEM_LINE_CHARACTERS)]);
        pem.push('\n');
    }
    pem + FOOTER + "\n"
}

fn from_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let (groups, []) = digits.as_chunks::<4>() else { return None };
    let mut bytes = Vec::with_capacity(3 * groups.len());
    for (i, group) in groups.iter().enumerate() {
        let padding = group.iter().rev().take_while(|&&digit| digit == b'=').count();
        if padding > 2 || (padding > 0 && i + 1 < groups.len()) {
            return None;
        }
        let values = group[..4 - padding].iter().try_fold(0, |bits, digit| {
            Some(bits << 6 | BASE64.iter().position(|known| known == digit)? as u32)
        })?;
        let bits = values << (6 * padding);
        let group_bytes = &bits.to_be_bytes()[1..];
        let (kept, dropped) = group_bytes.split_at(3 - padding);
        if dropped.iter().any(|&byte| byte != 0) {
            return None;
        }
        bytes.extend(kept);
    }
    Some(bytes)
}

/// The content of the DER element with `tag` that `bytes` begin with, and what follows it.
fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [met, first, rest @ ..] = bytes else { return None };
    let (len_bytes, rest) = match (first, rest) {
        (0..=0x7f, _) => (usize::from(*first), rest),
        (0x81, [len, rest @ ..]) if *len >= 0x80 => (usize::from(*len), rest),
        (0x82, [high, low, rest @ ..]) if *high > 0 => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => return None,
    };
    (*met == tag).then(|| rest.split_at_checked(len_bytes))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const P256: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n\
        6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n\
        -----END PUBLIC KEY-----\n";

    #[test]
    fn a_key_in_pem_reads_back_as_it_was_written() {
        let info = from_pem(P256).expect("the key is well formed");
        let point = p256_point(&info).expect("the key is on P-256");
        assert_eq!(point[0], 4, "uncompressed");
        assert_eq!(to_pem(&of_p256_point(&point)), P256);
        assert_eq!(rsa_key(&info), None);
    }

    #[test]
    fn pem_that_is_not_the_one_form_is_refused() {
        for text in [
            "",
            "-----BEGIN PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nA\n-----END PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nAB==CD==\n-----END PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nAB==\n-----END PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nA===\n-----END PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nAA_A\n-----END PUBLIC KEY-----",
            &P256.replace("PUBLIC", "PRIVATE"),
        ] {
            assert_eq!(from_pem(text), None, "{text}");
        }
    }

    #[test]
    fn a_length_that_could_be_shorter_is_refused() {
        for bytes in [
            &[0x30, 0x81, 0x01, 0x00][..],
            &[0x30, 0x82, 0x00, 0x01, 0x00],
            &[0x30, 0x80, 0x00, 0x00],
            &[0x30, 0x02, 0x00],
            &[0x30],
            &[],
        ] {
            assert_eq!(element(SEQUENCE, bytes), None, "{bytes:?}");
        }
        assert_eq!(element(SEQUENCE, &[0x30, 1, 7, 8]), Some((&[7][..], &[8][..])));
        assert_eq!(element(BIT_STRING, &[0x30, 1, 7]), None);
    }

    proptest! {
        #[test]
        fn every_sequence_of_bytes_reads_back_from_pem(info in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(from_pem(&to_pem(&info)), Some(info));
        }

        #[test]
        fn text_of_a_stranger_never_panics(text in ".{0,200}") {
            let _ = from_pem(&format!("{HEADER}{text}{FOOTER}")).map(|info| rsa_key(&info).is_some());
        }
    }
}
