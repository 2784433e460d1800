//! The one error type of the crate.

use core::fmt;

/// Why a spec, a merge or bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Error {
    /// The bytes end before the profile does.
    Truncated = 1,
    /// The profile is written in a format version that this build does not read.
    Version = 2,
    /// The bytes are no profile, or not in the one form that its counters have.
    Malformed = 3,
    /// Bytes follow the end of the profile.
    TrailingBytes = 4,
    /// There are more features than this type of profile holds.
    TooManyFeatures = 5,
    /// The profiles count different things: their specs or their numbers of features differ.
    SpecMismatch = 6,
    /// A spec has more edges than [`EDGE_COUNT_MAX`](crate::EDGE_COUNT_MAX).
    TooManyEdges = 7,
    /// The edges of a spec do not rise strictly, or lie outside of its guard.
    EdgesOutOfOrder = 8,
    /// The guard of a spec is empty or infinite.
    Guard = 9,
    /// The buffer is too short for the encoded profile.
    BufferTooShort = 10,
    /// A grid's scale or zero point is out of range.
    Grid = 11,
    /// The edges or the guard of a spec do not lie between the codes of its grid.
    OffGrid = 12,
    /// The profile counts outputs, and this type of profile does not.
    OutputsUnexpected = 13,
    /// A vector has another length than those that were added before it, or too many places.
    Dimension = 14,
    /// The threshold of a confidence spec is not one of its edges, or its guard is not from 0 to 1.
    Confidence = 15,
}

/// Who is to blame for an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Whoever wrote the bytes or the other profile.
    Peer,
    /// Whoever made the spec.
    Spec,
    /// The calling code.
    Caller,
}

impl Error {
    /// Who is to blame.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Truncated
            | Self::Version
            | Self::Malformed
            | Self::TrailingBytes
            | Self::TooManyFeatures
            | Self::OutputsUnexpected
            | Self::SpecMismatch => ErrorKind::Peer,
            Self::TooManyEdges
            | Self::EdgesOutOfOrder
            | Self::Guard
            | Self::Grid
            | Self::OffGrid
            | Self::Confidence => ErrorKind::Spec,
            Self::BufferTooShort | Self::Dimension => ErrorKind::Caller,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the profile ends too early",
            Self::Version => "the profile's format version is not understood",
            Self::Malformed => "the bytes are not a profile in its canonical form",
            Self::TrailingBytes => "bytes follow the end of the profile",
            Self::TooManyFeatures => "the profile has too many features",
            Self::SpecMismatch => "the profiles were counted with different specs",
            Self::TooManyEdges => "the spec has too many edges",
            Self::EdgesOutOfOrder => "the spec's edges do not rise strictly inside its guard",
            Self::Guard => "the spec's guard is empty or infinite",
            Self::BufferTooShort => "the buffer is too short for the profile",
            Self::Grid => "the grid's scale or zero point is out of range",
            Self::OffGrid => "the spec's edges or guard do not lie between the codes of its grid",
            Self::OutputsUnexpected => "the profile counts outputs where none are kept",
            Self::Dimension => "the vector does not have the length of those before it",
            Self::Confidence => {
                "the confidence bins do not span 0 to 1 with the threshold as an edge"
            }
        })
    }
}

impl core::error::Error for Error {}
