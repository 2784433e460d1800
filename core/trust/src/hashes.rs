//! The hashes that metadata gives of a file, and the check of a file against them.

use std::collections::BTreeMap;

use ring::digest::{Algorithm, Context, SHA256, SHA512};
use serde::{Deserialize, Serialize};

use crate::{Error, hex};

const KNOWN: [(&str, &Algorithm); 2] = [("sha256", &SHA256), ("sha512", &SHA512)];

/// Hashes in hexadecimal digits, by the name of their function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hashes(BTreeMap<String, String>);

impl Hashes {
    #[cfg(any(test, feature = "sign"))]
    pub(crate) fn sha256(digest: &selvedge_wire::Digest) -> Self {
        Self(BTreeMap::from([("sha256".into(), digest.hex().to_string())]))
    }

    /// The hash by the function of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A hash by a function that this build knows, in hexadecimal digits.
    pub(crate) fn known(&self) -> Option<&str> {
        KNOWN.iter().find_map(|(name, _)| self.named(name))
    }
}

/// A check of a file, piece by piece, against the length and the hashes that metadata gives of it.
///
/// Every hash whose function is known must fit, and there must be one.
#[derive(Clone)]
pub struct FileCheck {
    expected_bytes: u64,
    len_bytes: u64,
    hashes: Vec<Running>,
}

#[derive(Clone)]
struct Running {
    name: &'static str,
    context: Context,
    expected: String,
}

impl FileCheck {
    pub(crate) fn new(expected_bytes: u64, hashes: &Hashes) -> Self {
        let hashes = KNOWN.iter().filter_map(|(name, algorithm)| {
            let expected = hashes.named(name)?.into();
            Some(Running { name, context: Context::new(algorithm), expected })
        });
        Self { expected_bytes, len_bytes: 0, hashes: hashes.collect() }
    }

    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// [`Error::FileLength`] if there are more bytes than metadata says.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.len_bytes = self.len_bytes.saturating_add(bytes.len() as u64);
        if self.len_bytes > self.expected_bytes {
            return Err(self.other_length());
        }
        self.hashes.iter_mut().for_each(|hash| hash.context.update(bytes));
        Ok(())
    }

    /// Says whether the bytes taken were the file.
    ///
    /// # Errors
    /// [`Error::FileLength`], [`Error::FileHash`] or [`Error::NoKnownHash`].
    pub fn finish(self) -> Result<(), Error> {
        if self.len_bytes != self.expected_bytes {
            return Err(self.other_length());
        }
        if self.hashes.is_empty() {
            return Err(Error::NoKnownHash);
        }
        for Running { name, context, expected } in self.hashes {
            if hex::encode(context.finish().as_ref()) != expected {
                return Err(Error::FileHash { algorithm: name });
            }
        }
        Ok(())
    }

    fn other_length(&self) -> Error {
        Error::FileLength { len_bytes: self.len_bytes, expected_bytes: self.expected_bytes }
    }
}
