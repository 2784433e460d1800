//! SHA-256 digests as the names of things.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits.
///
/// The digest of an OCI manifest names a bundle; the digest of its bytes names a blob or a chunk.
/// This crate does not compute digests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; Self::BYTES]);

impl Digest {
    /// The length of a digest in bytes.
    pub const BYTES: usize = 32;

    /// The digest as 64 lower-case hexadecimal digits, without the algorithm's name.
    pub fn hex(&self) -> impl fmt::Display + '_ {
        Hex(&self.0)
    }

    /// The first 12 hexadecimal digits: enough for people to tell bundles apart.
    pub fn short(&self) -> impl fmt::Display + '_ {
        Hex(&self.0[..6])
    }

    /// Reads exactly 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`DigestError`] for any other text.
    pub fn from_hex(text: &str) -> Result<Self, DigestError> {
        let digits = text.as_bytes();
        if digits.len() != 2 * Self::BYTES {
            return Err(DigestError);
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::from_hex(text.strip_prefix("sha256:").ok_or(DigestError)?)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(TextVisitor)
        } else {
            <[u8; Self::BYTES]>::deserialize(deserializer).map(Self)
        }
    }
}

/// The text is not `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestError;

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a digest is `sha256:` and 64 lower-case hexadecimal digits")
    }
}

impl core::error::Error for DigestError {}

struct TextVisitor;

impl de::Visitor<'_> for TextVisitor {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`sha256:` and 64 lower-case hexadecimal digits")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
        text.parse().map_err(E::custom)
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError),
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_digest_reads_back_from_its_text() {
        let digest = Digest(core::array::from_fn(|i| i as u8 * 7));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(Digest::from_hex(&digest.hex().to_string()), Ok(digest));
    }

    #[test]
    fn text_that_is_no_digest_is_refused() {
        let hex = "ab".repeat(32);
        for text in [
            "",
            "sha256:",
            &hex,
            "sha256:ABCD",
            &std::format!("sha256:{hex}0"),
            &std::format!("md5:{hex}"),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(DigestError), "{text:?}");
        }
        assert_eq!(Digest::from_hex(&"AB".repeat(32)), Err(DigestError), "upper case");
    }
}
