//! Who may say what a device runs: signed documents in the shape of TUF 1.0, over `ring`.
//!
//! Bytes and the time go in, decisions come out. The crate never touches the network, a disk or a
//! clock. A device builds it without the feature `sign`, and so cannot make a signature.
//!
//! Two ways lead to what a device believes. [`TrustedRoot`] is pinned and decides about single documents:
//! statements and desired states. That is what agent and fleet use. [`Refresh`] and [`Search`] are a client
//! of a whole TUF repository, with a chain of roots and delegations; `selvedge tuf` uses them, agent and
//! fleet do not yet.
//!
//! What it guarantees: a value that is returned was signed, in the canonical form of the bytes that were
//! received, by as many distinct keys as the root, or the role that delegates, demands; it has not expired
//! at the time given; it names this fleet and this device where it names any. What the client adds to that
//! stands with its module's types: no version goes back, and files belong together.
//!
//! Vocabulary (TUF 1.0, Uptane): a *role* is a job that keys can hold. *root* says which keys hold
//! which role, *targets* (the publisher) says what a bundle is, the *director* (online, in the fleet)
//! says which device runs which bundle, its *desired state*. A *statement* is targets metadata about
//! exactly one bundle. *snapshot* says which versions of metadata belong together, *timestamp* which
//! snapshot is current.

#![forbid(unsafe_code)]

mod canonical;
mod desired;
mod envelope;
mod error;
mod fields;
mod hashes;
mod hex;
mod key;
mod message;
mod private_key;
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
    Answer, Limits, Next, ROLE_NAME_BYTES_MAX, Refresh, Repository, Request, RoleName,
    SNAPSHOT_BYTES_MAX, Search, TIMESTAMP_BYTES_MAX, TargetFile, TrustedMetadata,
};

#[cfg(any(test, feature = "sign"))]
pub use sign::{SigningKey, sign_document};

/// The version of the TUF specification that documents name.
pub const SPEC_VERSION: &str = "1.0.31";
