//! The hashes that metadata gives of a file, and the check of a file against them.

use ring::digest::{Context, SHA256, SHA512};

use crate::{
    Error,
    fields::{Fields, Read},
    hex,
};

/// The hashes of a file by functions that this build knows, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hashes {
    pub(crate) sha256: Option<String>,
    pub(crate) sha512: Option<String>,
}

impl Hashes {
    pub(crate) fn read(fields: Fields<'_>) -> Read<Self> {
        let named = |name: &str| match fields.optional(name) {
            Some(_) => fields.text(name).map(|hash| Some(hash.into())),
            None => Ok(None),
        };
        Ok(Self { sha256: named("sha256")?, sha512: named("sha512")? })
    }

    /// One of them.
    pub(crate) fn any(&self) -> Option<&str> {
        self.sha256.as_deref().or(self.sha512.as_deref())
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
        let known = [("sha256", &SHA256, &hashes.sha256), ("sha512", &SHA512, &hashes.sha512)];
        let hashes = known.into_iter().filter_map(|(name, algorithm, expected)| {
            let expected = expected.clone()?;
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
