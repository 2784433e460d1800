//! The version byte and the encoding behind it.

#[cfg(feature = "alloc")]
use alloc::vec::Vec;

#[cfg(feature = "alloc")]
use serde::{Serialize, de::DeserializeOwned};

/// The wire version that this build writes.
pub const VERSION: u8 = 2;

/// The oldest wire version that this build reads.
pub const VERSION_OLDEST: u8 = 2;

/// The largest MQTT payload, in bytes: brokers with a limit of 128 KB must be able to carry it.
#[cfg(feature = "alloc")]
pub const PAYLOAD_BYTES_MAX: usize = 120 * 1024;

/// Why bytes were not understood. The peer is to blame for each of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is not even a version byte.
    Empty,
    /// The payload is written in a version that this build does not read.
    Version {
        /// The version that was met.
        met: u8,
    },
    /// The payload is longer than its limit.
    TooLong {
        /// Its length in bytes.
        len_bytes: usize,
        /// The limit in bytes.
        max_bytes: usize,
    },
    /// The bytes do not encode the message that this topic carries.
    Malformed,
    /// The message ends before the payload does.
    TrailingBytes {
        /// How many bytes are left over.
        count: usize,
    },
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Empty => write!(f, "the payload is empty"),
            Self::Version { met } => write!(
                f,
                "wire version {met} is not understood; this build reads {VERSION_OLDEST} to {VERSION}"
            ),
            Self::TooLong { len_bytes, max_bytes } => {
                write!(f, "the payload has {len_bytes} bytes, more than the limit of {max_bytes}")
            }
            Self::Malformed => write!(f, "the payload does not encode this topic's message"),
            Self::TrailingBytes { count } => {
                write!(f, "{count} bytes follow the end of the message")
            }
        }
    }
}

impl core::error::Error for Error {}

/// A value that travels as one MQTT payload.
///
/// Implemented by the messages of this crate alone; [`INTERFACE`](crate::INTERFACE) says on which topic.
#[cfg(feature = "alloc")]
pub trait Message: Serialize + DeserializeOwned {}

/// The payload of `message`: the version byte, then postcard.
#[cfg(feature = "alloc")]
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    let payload = alloc::vec![VERSION];
    postcard::to_extend(message, payload)
        .expect("postcard encodes every message: none has a map or a sequence of unknown length")
}

/// Reads the payload of a message.
///
/// # Errors
/// See [`Error`]; nothing of a payload that is refused is returned.
#[cfg(feature = "alloc")]
pub fn decode<M: Message>(payload: &[u8]) -> Result<M, Error> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Error::TooLong { len_bytes: payload.len(), max_bytes: PAYLOAD_BYTES_MAX });
    }
    let body = strip_version(payload)?;
    let (message, rest) = postcard::take_from_bytes(body).map_err(|_| Error::Malformed)?;
    match rest.len() {
        0 => Ok(message),
        count => Err(Error::TrailingBytes { count }),
    }
}

/// Takes the version byte off, if this build reads that version.
pub(crate) fn strip_version(payload: &[u8]) -> Result<&[u8], Error> {
    match payload.split_first() {
        None => Err(Error::Empty),
        Some((met, body)) if (VERSION_OLDEST..=VERSION).contains(met) => Ok(body),
        Some((&met, _)) => Err(Error::Version { met }),
    }
}
