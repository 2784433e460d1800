//! A client of a TUF 1.0 repository, as states that are handed bytes.
//!
//! A [`Refresh`] takes [`TrustedMetadata`] to the state of the repository (TUF 1.0 §5.1–5.6): the chain
//! of roots, timestamp, snapshot, targets. It ends in a [`Repository`], in which a [`Search`] finds what
//! is said about a target (§5.6.7), through delegations. Both name the next file in a [`Request`] and
//! go on with an [`Answer`]; who fetches files, and how, they do not know. After every step the caller
//! stores what [`TrustedMetadata::take_changes`] names, whether or not the step failed.
//!
//! Over HTTP a refresh asks for everything, the next root first. Where timestamps are pushed
//! ([`Refresh::pushed`]), each names the version of the root that it was signed under, its
//! `root_version`. That hint is read before any signature is checked, for who may sign timestamps can stand
//! in the root that it points to. It decides only what is asked for: a lie costs a request that nobody
//! answers, or brings a root that is verified like any other. Once the timestamp is believed, a hint below
//! the trusted root is a rollback. So an unchanged repository costs one message. Who keeps back both the root
//! and the timestamps that name it is noticed when the last timestamp expires.
//!
//! The time is one argument, taken at the start and valid until the end (§5.1). A caller without a clock
//! gives the latest time that it knows to have passed: a timestamp's `issued` is such a time as long as the
//! timestamp is trusted ([`MetadataState`]).
//!
//! What it guarantees beyond the signatures and expiry of each file: no version of any file goes back,
//! no file is missing from a snapshot that was in the one before, and all files are those that one
//! timestamp names. Only root metadata can undo that: where a root takes away a key of the timestamp's
//! or the snapshot's, both files are forgotten, so that versions may begin anew (§5.3.11).

mod delegation;
mod limits;
mod metadata;
mod refresh;
mod role_name;
mod search;
#[cfg(test)]
mod tests;
mod trusted;

pub(crate) use delegation::Delegations;
#[cfg(any(test, feature = "sign"))]
pub(crate) use delegation::{DelegatedRole, TargetSet, matches};
pub use limits::{
    DELEGATION_DEPTH_MAX, DEVICE_METADATA_BYTES_MAX, DEVICE_ROOT_BYTES_MAX, Limits,
    ROLES_VISITED_MAX, ROOT_ROTATIONS_MAX, SNAPSHOT_BYTES_MAX, TIMESTAMP_BYTES_MAX,
};
#[cfg(any(test, feature = "sign"))]
pub(crate) use metadata::next_root;
pub use refresh::{Refresh, Repository};
pub use role_name::{ROLE_NAME_BYTES_MAX, RoleName};
pub use search::{Search, TargetFile};
pub use trusted::{MetadataState, TrustedMetadata};

use crate::Error;

/// A file that the caller shall fetch from the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The file's name in the repository; it needs no quoting in a URL.
    pub file: String,
    /// The most bytes it can have: the caller need not read on behind them.
    pub max_bytes: u64,
}

impl Request {
    fn missing(self) -> Error {
        Error::Missing { file: self.file }
    }

    fn refused(&self, error: Error) -> Error {
        Error::Refused { file: self.file.clone(), source: Box::new(error) }
    }
}

/// What the caller found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The file.
    Found(Vec<u8>),
    /// The repository answered that it has no such file.
    NotFound,
}

/// How it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<State, Outcome> {
    /// With another file.
    Fetch(State),
    /// Not at all: this came out.
    Done(Outcome),
}
