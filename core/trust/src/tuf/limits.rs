//! How much of a repository a client takes.

use crate::{ROOT_BYTES_MAX, TARGETS_BYTES_MAX};

/// The longest timestamp metadata, in bytes.
pub const TIMESTAMP_BYTES_MAX: usize = 16 * 1024;

/// The longest snapshot metadata, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 1024 * 1024;

/// The longest root metadata that a device reads, in bytes: nothing vouches for a root before it is read.
pub const DEVICE_ROOT_BYTES_MAX: usize = 128 * 1024;

/// The longest snapshot or targets metadata that a device reads, in bytes.
pub const DEVICE_METADATA_BYTES_MAX: usize = 512 * 1024;

/// The most roots that one refresh goes ahead.
pub const ROOT_ROTATIONS_MAX: usize = 256;

/// The most roles that a search looks into.
pub const ROLES_VISITED_MAX: usize = 32;

/// The most delegations between the top and a role that a search looks into.
pub const DELEGATION_DEPTH_MAX: usize = 8;

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

impl Limits {
    /// What a device takes: a repository that keeps to it can be published to devices.
    pub const DEVICE: Self = Self {
        root_bytes: DEVICE_ROOT_BYTES_MAX,
        timestamp_bytes: TIMESTAMP_BYTES_MAX,
        snapshot_bytes: DEVICE_METADATA_BYTES_MAX,
        targets_bytes: DEVICE_METADATA_BYTES_MAX,
        root_rotations: ROOT_ROTATIONS_MAX,
        roles_visited: ROLES_VISITED_MAX,
        delegation_depth: DELEGATION_DEPTH_MAX,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            root_bytes: ROOT_BYTES_MAX,
            timestamp_bytes: TIMESTAMP_BYTES_MAX,
            snapshot_bytes: SNAPSHOT_BYTES_MAX,
            targets_bytes: TARGETS_BYTES_MAX,
            root_rotations: ROOT_ROTATIONS_MAX,
            roles_visited: ROLES_VISITED_MAX,
            delegation_depth: DELEGATION_DEPTH_MAX,
        }
    }
}
