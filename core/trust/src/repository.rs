//! The repository's side: what a fleet holds and serves, how it changes, and who signs what.
//!
//! [`RepositoryState`] is what a repository holds. Publishers and key holders edit documents at their
//! desks ([`RootDraft`], [`TargetsDraft`]), sign them one after the other, and send them in as a
//! [`Proposal`]. [`RepositoryState::propose`] takes all of it or nothing, and only what a client would
//! believe: it runs the client over the result, once as a newcomer and once as a device that has what
//! is held so far. Snapshot and timestamp are made here, with the online keys.
//!
//! What happens when a key is lost or stolen:
//!
//! | Key | New documents | What a device does |
//! |---|---|---|
//! | online (snapshot, timestamp, director) | a root that names another one; snapshot, timestamp and every desired state are signed anew | it forgets timestamp and snapshot, so that versions a thief ran up do not lock it out, and believes no desired state of the old key |
//! | targets | a root that names another one; the targets metadata, looked through and signed anew | it refuses the old targets metadata and keeps what it runs |
//! | a team's | targets metadata that delegates to another key; the team's metadata, signed anew | it finds nothing below the team's paths until both are there |
//! | root | a root that names another one, signed by enough of the others; at or below the threshold of lost keys, devices must be given a root by hand | it follows the chain of roots |
//!
//! A role that nobody delegates to any more stays in the snapshot with its last version: a client
//! refuses a snapshot from which a file is gone.

mod changes;
mod draft;
mod files;
mod propose;
mod state;
#[cfg(test)]
mod tests;

pub use draft::{RootDraft, RootEdit, SignatureStatus, TargetsDraft, TargetsEdit};
pub use files::{DELEGATED_ROLE_BYTES_MAX, metadata_chunk};
pub use propose::{Accepted, Expiry, Proposal};
pub use state::{Delegation, PublishedRole, RepositoryState};
