//! Why a document or a key is not believed.

use std::fmt;

use selvedge_wire::{DeviceId, FleetName};

use crate::{Role, RoleName, UnixMillis};

/// Who is to blame for an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Whoever sent the document.
    Peer,
    /// Whoever installed the root metadata or the key file.
    Operator,
    /// The machine: it gave no random bytes.
    Device,
}

/// What a document is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DocumentKind {
    /// Root metadata: which keys hold which role.
    Root,
    /// Timestamp metadata: which snapshot is current.
    Timestamp,
    /// Snapshot metadata: which versions of targets metadata belong together.
    Snapshot,
    /// Targets metadata: what a bundle is.
    Targets,
    /// The desired state of one device.
    Desired,
}

impl DocumentKind {
    /// The document's `_type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Timestamp => "timestamp",
            Self::Snapshot => "snapshot",
            Self::Targets => "targets",
            Self::Desired => "desired",
        }
    }
}

impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root metadata",
            Self::Timestamp => "timestamp metadata",
            Self::Snapshot => "snapshot metadata",
            Self::Targets => "targets metadata",
            Self::Desired => "desired state",
        })
    }
}

/// Why a document or a key is not believed.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The document is longer than its limit.
    #[error("the {document} has {len_bytes} bytes, more than the limit of {max_bytes}")]
    TooLong {
        /// What was read.
        document: DocumentKind,
        /// Its length in bytes.
        len_bytes: usize,
        /// The limit in bytes.
        max_bytes: usize,
    },
    /// The document is not what its kind must look like.
    #[error("the {document} is malformed: {reason}")]
    Malformed {
        /// What was read.
        document: DocumentKind,
        /// What is wrong with it.
        reason: String,
    },
    /// The document is of another kind.
    #[error("expected a {expected}, but the document's type is {met:?}")]
    OtherType {
        /// What was expected.
        expected: DocumentKind,
        /// The document's `_type`.
        met: String,
    },
    /// The document follows a version of the specification that this build does not read.
    #[error("the {document} follows version {met} of the specification; this build reads 1.x")]
    SpecVersion {
        /// What was read.
        document: DocumentKind,
        /// The document's `spec_version`.
        met: String,
    },
    /// The document is signed only by keys that hold other roles.
    #[error(
        "the {document} is signed by a key of the role {signed_by}, but only {needed} may sign it"
    )]
    WrongRole {
        /// What was read.
        document: DocumentKind,
        /// A role that the signing key holds.
        signed_by: Role,
        /// The role whose keys may sign it.
        needed: Role,
    },
    /// Too few keys of the role have signed the document as it is.
    #[error(
        "the {document} has {valid} valid signatures of the role {role}; {threshold} are needed"
    )]
    Threshold {
        /// What was read.
        document: DocumentKind,
        /// The role whose keys may sign it.
        role: Role,
        /// How many distinct keys of the role have signed it.
        valid: usize,
        /// How many must.
        threshold: usize,
    },
    /// The document's time is over.
    #[error("the {document} expired at {expires}; it is {now}")]
    Expired {
        /// What was read.
        document: DocumentKind,
        /// When it expired.
        expires: UnixMillis,
        /// The time that was given.
        now: UnixMillis,
    },
    /// The desired state is meant for another device.
    #[error("the desired state is for the device {named}, not for {device}")]
    ForeignDevice {
        /// The device in the document.
        named: DeviceId,
        /// This device.
        device: DeviceId,
    },
    /// The desired state is meant for another fleet.
    #[error("the desired state is for the fleet {named}, not for {fleet}")]
    ForeignFleet {
        /// The fleet in the document.
        named: FleetName,
        /// This device's fleet.
        fleet: FleetName,
    },
    /// The desired state is older than one that was already seen.
    #[error("the desired state has generation {generation}, older than {floor}")]
    OlderGeneration {
        /// The generation in the document.
        generation: u64,
        /// The oldest generation that is still believed.
        floor: u64,
    },
    /// There is no root metadata to begin with.
    #[error("there is no trusted root metadata")]
    NoRoot,
    /// A file of a repository is not believed.
    #[error("the repository's {file} is refused")]
    Refused {
        /// The file's name in the repository.
        file: String,
        /// Why.
        source: Box<Error>,
    },
    /// The repository does not have a file that it must have.
    #[error("the repository does not have {file}")]
    Missing {
        /// The file's name in the repository.
        file: String,
    },
    /// The document has another version than it must have.
    #[error("the {document} has version {version}, not {expected}")]
    OtherVersion {
        /// What was read.
        document: DocumentKind,
        /// Its version.
        version: u64,
        /// The version that follows, or that other metadata names.
        expected: u64,
    },
    /// A file is older than the one that was believed before, or would be.
    #[error("{file} of version {version} would replace version {trusted}")]
    Rollback {
        /// What metadata calls the file.
        file: String,
        /// The version that is offered.
        version: u64,
        /// The version that was believed before.
        trusted: u64,
    },
    /// A file that snapshot metadata named before is gone from it.
    #[error("the snapshot no longer names {file}")]
    FileVanished {
        /// What metadata calls the file.
        file: String,
    },
    /// Snapshot metadata does not name a role that is delegated to.
    #[error("the snapshot does not name the role {role}")]
    RoleUnlisted {
        /// The role.
        role: RoleName,
    },
    /// A file has another length than metadata says.
    #[error("the file has {len_bytes} bytes; metadata says {expected_bytes}")]
    FileLength {
        /// How many bytes there are, or how many were read before it was clear that there are more.
        len_bytes: u64,
        /// How many metadata says.
        expected_bytes: u64,
    },
    /// A file has another hash than metadata says.
    #[error("the {algorithm} of the file is not what metadata says")]
    FileHash {
        /// The hash function.
        algorithm: &'static str,
    },
    /// Metadata gives hashes of a file, but none by a function that this build knows.
    #[error("metadata gives neither the SHA-256 nor the SHA-512 of the file")]
    NoKnownHash,
    /// The repository is more roots ahead than one refresh goes; the next goes on from there.
    #[error("the repository's root is more than {max} versions ahead")]
    TooManyRoots {
        /// The limit.
        max: usize,
    },
    /// A search went through as many roles as it may.
    #[error("the search for a target ended after {max} roles")]
    TooManyRoles {
        /// The limit.
        max: usize,
    },
    /// A delegation is further from the top than a search goes.
    #[error("the role {role} is more than {max} delegations away from the top")]
    TooDeep {
        /// The role.
        role: RoleName,
        /// The limit.
        max: usize,
    },
    /// A proposal to a repository would not do.
    #[error("the proposal is refused: {reason}")]
    Proposal {
        /// Why.
        reason: String,
    },
    /// A document cannot be changed as was asked.
    #[error("the document cannot be changed so: {reason}")]
    Edit {
        /// Why.
        reason: String,
    },
    /// Too few of the online keys that root metadata names are there to sign.
    #[error(
        "{held} of the online keys hold the role {role}, and {threshold} are needed; the root names {named}"
    )]
    OnlineKeys {
        /// The role.
        role: Role,
        /// How many are there.
        held: usize,
        /// How many must sign.
        threshold: usize,
        /// The ids of the keys that hold the role.
        named: String,
    },
    /// A file of metadata does not fit into one message.
    #[error(
        "{file} has {len_bytes} bytes compressed, and a message takes {max_bytes}: delegate a family of \
         targets to a role of its own"
    )]
    FileTooLong {
        /// The file's name.
        file: String,
        /// Its length as a message.
        len_bytes: usize,
        /// The longest message.
        max_bytes: usize,
    },
    /// No topic can be called after a file.
    #[error("{file:?} cannot stand in the name of a topic")]
    FileNamed {
        /// The file's name.
        file: String,
    },
    /// A key file does not hold an Ed25519 key in PKCS#8.
    #[error("not an Ed25519 private key in PKCS#8 version 2: {reason}")]
    KeyMalformed {
        /// What `ring` says about it.
        reason: String,
    },
    /// The source of random bytes failed.
    #[error("no random bytes for a new key")]
    Random,
}

impl Error {
    /// Who is to blame.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::KeyMalformed { .. }
            | Self::NoRoot
            | Self::Edit { .. }
            | Self::OnlineKeys { .. } => ErrorKind::Operator,
            Self::Random => ErrorKind::Device,
            Self::TooLong { document, .. }
            | Self::Malformed { document, .. }
            | Self::SpecVersion { document, .. }
            | Self::WrongRole { document, .. }
            | Self::Threshold { document, .. }
            | Self::Expired { document, .. }
            | Self::OtherType { expected: document, .. } => match document {
                DocumentKind::Root => ErrorKind::Operator,
                DocumentKind::Timestamp
                | DocumentKind::Snapshot
                | DocumentKind::Targets
                | DocumentKind::Desired => ErrorKind::Peer,
            },
            Self::ForeignDevice { .. }
            | Self::ForeignFleet { .. }
            | Self::OlderGeneration { .. }
            | Self::Refused { .. }
            | Self::Missing { .. }
            | Self::OtherVersion { .. }
            | Self::Rollback { .. }
            | Self::FileVanished { .. }
            | Self::RoleUnlisted { .. }
            | Self::FileLength { .. }
            | Self::FileHash { .. }
            | Self::NoKnownHash
            | Self::TooManyRoots { .. }
            | Self::TooManyRoles { .. }
            | Self::Proposal { .. }
            | Self::FileTooLong { .. }
            | Self::FileNamed { .. }
            | Self::TooDeep { .. } => ErrorKind::Peer,
        }
    }
}

// In words: what a derive writes would be one of the longest functions on a device.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { source, .. } => write!(f, "{self}: {source:?}"),
            _ => fmt::Display::fmt(self, f),
        }
    }
}
