//! What can be wrong with a bundle, and who is to blame.

use std::{io, path::PathBuf};

use selvedge_sketch::SpecId;
use selvedge_wire::Digest;

use crate::ManifestError;

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// This machine's disk failed.
    Device,
    /// Whoever made or sent the bytes made them wrong.
    Peer,
    /// Whoever called asked for something that cannot be.
    Operator,
}

/// Why a bundle was not written, opened, cut or put together.
///
/// A `part` names a piece of the bundle: a file of the layout, or a blob with its digest and title.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk failed.
    #[error("cannot {verb} {path}", path = path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// A part is not there.
    #[error("{part} is missing")]
    Missing {
        /// The part.
        part: String,
    },
    /// A part is a symbolic link, a folder, or something else that is no regular file or folder.
    #[error("{part} is not a {expected}")]
    FileType {
        /// The part.
        part: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A part has another length than its descriptor says.
    #[error("{part} has {found_bytes} bytes, its descriptor says {expected_bytes}")]
    Length {
        /// The part.
        part: String,
        /// What the descriptor says.
        expected_bytes: u64,
        /// What was found; where reading stopped early, at least this.
        found_bytes: u64,
    },
    /// A part has other bytes than its digest says.
    #[error("{part} has the digest {found}: its bytes were changed")]
    Digest {
        /// The part, which names the digest that was expected.
        part: String,
        /// The digest of what was found.
        found: Digest,
    },
    /// A part is larger than its limit.
    #[error("{part} has {len_bytes} bytes, more than the limit of {max_bytes}")]
    TooLarge {
        /// The part.
        part: String,
        /// Its length.
        len_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// A part cannot be read as what it should be.
    #[error("{part} is malformed: {reason}")]
    Malformed {
        /// The part.
        part: String,
        /// What is wrong.
        reason: String,
    },
    /// The layout has a file that nothing refers to.
    #[error("{part} is not part of the bundle: nothing refers to it")]
    Unlisted {
        /// The file.
        part: String,
    },
    /// A file is there that the model signature does not name.
    #[error("{part} is not signed: the signature does not name it")]
    Unsigned {
        /// The file.
        part: String,
    },
    /// A model signature is not one that the key made.
    #[error("the model signature is not believed: {reason}")]
    Signature {
        /// What is wrong.
        reason: String,
    },
    /// A part is well-formed, but made for another version of this program.
    #[error("{part} is not supported: {reason}")]
    Unsupported {
        /// The part.
        part: String,
        /// What this build supports.
        reason: String,
    },
    /// The manifest breaks a rule.
    #[error("{part}: the manifest breaks a rule")]
    Manifest {
        /// The part that is the manifest.
        part: String,
        /// The field and the rule.
        source: ManifestError,
    },
    /// A chunk is not what its digest says, or nobody asked for it.
    #[error("chunk {digest}: {reason}")]
    Chunk {
        /// The digest that names the chunk.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// A patch does not lead where it says.
    #[error("the patch from {from} to {to}: {reason}")]
    Patch {
        /// The old bundle.
        from: Digest,
        /// The new bundle.
        to: Digest,
        /// What is wrong.
        reason: String,
    },

    /// A tensor does not agree with its shape or with the manifest.
    #[error("tensor {name:?}: {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong; both shapes where shapes differ.
        reason: String,
    },
    /// A profile or a monitor is not of this baseline.
    #[error("what was counted with {profile} cannot be judged with the baseline {baseline}")]
    Drift {
        /// What was counted with.
        profile: SpecId,
        /// The baseline.
        baseline: SpecId,
    },
    /// Reference data gives no baseline.
    #[error("no baseline: {reason}")]
    Reference {
        /// What is wrong.
        reason: String,
    },
    /// What was counted at a site gives no site baseline.
    #[error("no site baseline: {reason}")]
    Site {
        /// What is wrong, and what is needed.
        reason: String,
    },
    /// A key file holds no key that makes or verifies model signatures.
    #[error("this is no key for model signatures: {reason}")]
    Key {
        /// What is wrong.
        reason: String,
    },
    /// A folder that should be new or empty is neither.
    #[error("{path} exists and is not empty; give a new folder", path = path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// Who has to act.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Device,
            Self::Missing { .. }
            | Self::FileType { .. }
            | Self::Length { .. }
            | Self::Digest { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. }
            | Self::Unlisted { .. }
            | Self::Unsigned { .. }
            | Self::Signature { .. }
            | Self::Unsupported { .. }
            | Self::Manifest { .. }
            | Self::Chunk { .. }
            | Self::Patch { .. } => ErrorKind::Peer,
            Self::Tensor { .. }
            | Self::Reference { .. }
            | Self::Drift { .. }
            | Self::Site { .. }
            | Self::Key { .. }
            | Self::Occupied { .. } => ErrorKind::Operator,
        }
    }
}
