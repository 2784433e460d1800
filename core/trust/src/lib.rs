//! Who may say what a device runs: signed documents in the shape of TUF 1.0, over `ring`.
//!
//! Bytes and the time go in, decisions come out. The crate never touches the network, a disk or a
//! clock. A device builds it without the feature `sign`, and so cannot make a signature.
//!
//! [`Refresh`] and [`Search`] are a client of a TUF repository: they take [`TrustedMetadata`], which begins
//! with a root that was installed, to what the repository says of a target. [`BundleTarget`] is a target
//! that is a bundle. [`TrustedRoot`], pinned or out of that metadata, decides about single documents and
//! messages: which [`DesiredState`] a device follows, and whether the fleet sent a message. A [`DeviceKey`]
//! signs what a device says itself.
//!
//! What it guarantees: a value that is returned was signed, in the canonical form of the bytes that were
//! received, by as many distinct keys as the root, or the role that delegates, demands; it has not expired
//! at the time given; it names this fleet and this device where it names any. No version of metadata goes
//! back, and files belong together, as the types of the client say.
//!
//! Vocabulary (TUF 1.0, Uptane): a *role* is a job that keys can hold. *root* says which keys hold
//! which role, *targets* (the publisher) says what bundles there are, or *delegates* that to other roles, the
//! *director* (online, in the fleet) says which device runs which bundle, its *desired state*. *snapshot*
//! says which versions of metadata belong together, *timestamp* which snapshot is current.

#![forbid(unsafe_code)]

mod canonical;
mod desired;
mod envelope;
mod error;
mod fields;
mod hashes;
mod hex;
mod json;
mod key;
mod message;
mod private_key;
#[cfg(any(test, feature = "sign"))]
mod repository;
mod root;
#[cfg(any(test, feature = "sign"))]
mod sign;
#[cfg(any(test, feature = "every-key"))]
mod spki;
mod targets;
#[cfg(test)]
mod tests;
mod time;
mod tuf;

pub use desired::{DESIRED_BYTES_MAX, DesiredSlot, DesiredState, SLOTS_MAX};
pub use envelope::SIGNATURES_MAX;
pub use error::{DocumentKind, Error, ErrorKind};
pub use hashes::FileCheck;
pub use key::{KEY_ID_BYTES_MAX, KeyId, PublicKey};
pub use message::{DeviceKey, MessageSigner};
pub use ring::rand::{SecureRandom, SystemRandom};
pub use root::{Authority, KEYS_MAX, ROOT_BYTES_MAX, Role, Root, TrustedRoot};
pub use targets::{
    Blob, BundleTarget, HARDWARE_CLASSES_MAX, PATCHES_MAX, PatchTarget, TARGETS_BYTES_MAX,
    TARGETS_MAX,
};
pub use time::UnixMillis;
pub use tuf::{
    Answer, DELEGATION_DEPTH_MAX, DEVICE_METADATA_BYTES_MAX, DEVICE_ROOT_BYTES_MAX, Limits,
    MetadataState, Next, ROLE_NAME_BYTES_MAX, ROLES_VISITED_MAX, ROOT_ROTATIONS_MAX, Refresh,
    Repository, Request, RoleName, SNAPSHOT_BYTES_MAX, Search, TIMESTAMP_BYTES_MAX, TargetFile,
    TrustedMetadata,
};

#[cfg(any(test, feature = "sign"))]
pub use repository::{
    Accepted, DELEGATED_ROLE_BYTES_MAX, Delegation, Expiry, Proposal, PublishedRole,
    RepositoryState, RootDraft, RootEdit, SignatureStatus, TargetsDraft, TargetsEdit,
    metadata_chunk,
};
#[cfg(any(test, feature = "sign"))]
pub use sign::{SigningKey, sign_document};

/// The version of the TUF specification that documents name.
pub const SPEC_VERSION: &str = "1.0.31";
