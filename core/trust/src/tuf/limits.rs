//! How much of a repository a client takes.

use crate::{ROOT_BYTES_MAX, TARGETS_BYTES_MAX};

/// The longest timestamp metadata, in bytes.
pub const TIMESTAMP_BYTES_MAX: usize = 16 * 1024;

/// The longest snapshot metadata, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 1024 * 1024;

/// How much of a repository a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest root metadata.
    pub root_bytes: usize,
    /// The longest timestamp metadata.
    pub timestamp_bytes: usize,
    /// The longest snapshot metadata, whatever the timestamp says.
    pub snapshot_bytes: usize,
    /// The longest targets metadata, whatever the snapshot says.
    pub targets_bytes: usize,
    /// The most roots that one refresh goes ahead; the next goes on from there.
    pub root_rotations: usize,
    /// The most roles that a search looks into.
    pub roles_visited: usize,
    /// The most delegations between the top and a role that a search looks into.
    pub delegation_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            root_bytes: ROOT_BYTES_MAX,
            timestamp_bytes: TIMESTAMP_BYTES_MAX,
            snapshot_bytes: SNAPSHOT_BYTES_MAX,
            targets_bytes: TARGETS_BYTES_MAX,
            root_rotations: 256,
            roles_visited: 32,
            delegation_depth: 8,
        }
    }
}
