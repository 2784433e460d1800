//! ECDSA keys on P-256 for model signatures, in PEM as OpenSSL writes it.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SecureRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};
use selvedge_wire::Digest;

use crate::{Error, digest_of};

/// The largest key file.
pub const KEY_FILE_BYTES_MAX: u64 = 16 << 10;

const PEM_LINE_CHARACTERS: usize = 64;
const PUBLIC_LABEL: &str = "PUBLIC KEY";
const PRIVATE_LABEL: &str = "PRIVATE KEY";
/// All of the SubjectPublicKeyInfo of a P-256 key but the point, which follows uncompressed (RFC 5480).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The length of an uncompressed point (SEC 1).
const POINT_BYTES: usize = 65;

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    point: [u8; POINT_BYTES],
}

impl VerifyingKey {
    /// Reads SubjectPublicKeyInfo in PEM, as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let info = from_pem(text, PUBLIC_LABEL)?;
        let point = info.strip_prefix(&P256_PREFIX).and_then(|point| point.try_into().ok());
        point.map(|point| Self { point }).ok_or_else(|| {
            key_error("it is a public key, but not of the curve P-256 with an uncompressed point")
        })
    }

    /// The key in PEM.
    pub fn to_pem(&self) -> String {
        let digits = STANDARD.encode([&P256_PREFIX[..], &self.point].concat());
        let mut pem = format!("-----BEGIN {PUBLIC_LABEL}-----\n");
        for start in (0..digits.len()).step_by(PEM_LINE_CHARACTERS) {
            let end = digits.len().min(start + PEM_LINE_CHARACTERS);
            pem.push_str(&digits[start..end]);
            pem.push('\n');
        }
        pem + &format!("-----END {PUBLIC_LABEL}-----\n")
    }

    /// What a signature calls the key: the digest of its PEM.
    pub(super) fn hint(&self) -> Digest {
        digest_of(self.to_pem().as_bytes())
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.point)
            .verify(message, signature)
            .is_ok()
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.hint().hex())
    }
}

/// A private key.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: VerifyingKey,
}

impl SigningKey {
    /// Reads PKCS#8 in PEM, not encrypted, as `openssl genpkey -algorithm EC -pkeyopt
    /// ec_paramgen_curve:P-256` writes it. `random` is for reading alone.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn from_pem(text: &str, random: &dyn SecureRandom) -> Result<Self, Error> {
        let pkcs8 = from_pem(text, PRIVATE_LABEL)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, random)
            .map_err(|error| key_error(&format!("it is not a private key on P-256: {error}")))?;
        let point = pair.public_key().as_ref().try_into();
        let public = VerifyingKey { point: point.expect("a point of P-256 has 65 bytes") };
        Ok(Self { pair, public })
    }

    /// The key that verifies what this one signs.
    pub fn public_key(&self) -> &VerifyingKey {
        &self.public
    }

    pub(super) fn sign(&self, message: &[u8], random: &dyn SecureRandom) -> Result<Vec<u8>, Error> {
        let signature = self.pair.sign(random, message);
        let signature = signature.map_err(|_| key_error("the system gave no random bytes"))?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.public)
    }
}

/// What stands between the lines of the one PEM block `text` is (RFC 7468).
fn from_pem(text: &str, label: &str) -> Result<Vec<u8>, Error> {
    let body = text
        .trim_ascii()
        .strip_prefix(&format!("-----BEGIN {label}-----"))
        .and_then(|rest| rest.strip_suffix(&format!("-----END {label}-----")));
    let Some(body) = body else { return Err(wrong_block(text, label)) };
    let digits: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(digits).map_err(|error| key_error(&format!("its PEM is malformed: {error}")))
}

/// Says what is there instead of a block of PEM, and what to do about it.
fn wrong_block(text: &str, label: &str) -> Error {
    let advice = if text.contains("BEGIN EC PRIVATE KEY") {
        "; `openssl pkcs8 -topk8 -nocrypt` converts this one"
    } else if text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
        "; this one is encrypted, `openssl pkcs8` with its passphrase decrypts it"
    } else {
        ""
    };
    key_error(&format!("it is not one PEM block `{label}`{advice}"))
}

fn key_error(reason: &str) -> Error {
    Error::Key { reason: reason.to_owned() }
}
