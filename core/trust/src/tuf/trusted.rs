//! The metadata that a client has come to trust, as the bytes that it was received in.

use std::mem;

use crate::{
    Error, Limits, RoleName, TrustedRoot, UnixMillis,
    tuf::metadata::{Snapshot, Timestamp, trusted_root},
};

/// The metadata that a client has come to trust, as the bytes that it was received in.
///
/// The caller reads it from where it is stored, hands it to every step, and after every step stores
/// what changed. Nothing in it is believed because it is here: each file is verified again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedMetadata {
    files: Vec<(RoleName, Vec<u8>)>,
    changes: Vec<RoleName>,
}

/// Where a client stands, as far as its metadata verifies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetadataState {
    /// The version of the root; 0 if there is none.
    pub root_version: u64,
    /// The version of the timestamp; 0 if there is none.
    pub timestamp_version: u64,
    /// When root, timestamp or snapshot expires; 0 if one is missing. Who hears nothing until then may
    /// be kept from news, and should say so.
    pub fresh_until: UnixMillis,
    /// When the timestamp itself expires; 0 if there is none. Until then it may lead to a newer snapshot.
    pub timestamp_fresh_until: UnixMillis,
    /// When the timestamp was signed; 0 if that is unknown. This time has passed.
    ///
    /// It is a floor of the time for who has no clock, and not to be stored apart from the metadata: a stolen
    /// key can sign a time that has not come, which must be forgotten with all else that the key signed.
    pub issued: UnixMillis,
}

impl TrustedMetadata {
    /// The metadata that was stored, by role. Root metadata must be there.
    pub fn new(files: impl IntoIterator<Item = (RoleName, Vec<u8>)>) -> Self {
        Self { files: files.into_iter().collect(), changes: Vec::new() }
    }

    /// The metadata of `role`, if there is some.
    pub fn file(&self, role: &RoleName) -> Option<&[u8]> {
        self.files.iter().find_map(|(held, bytes)| (held == role).then_some(&bytes[..]))
    }

    /// All metadata, to be stored as a whole.
    pub fn files(&self) -> impl Iterator<Item = (&RoleName, &[u8])> {
        self.files.iter().map(|(role, bytes)| (role, &bytes[..]))
    }

    /// The root that is trusted, to decide about desired states and messages.
    ///
    /// # Errors
    /// [`Error`] if there is no root, or one without a director, or some that its own keys did not sign.
    pub fn root(&self) -> Result<TrustedRoot, Error> {
        TrustedRoot::pin(self.file(&RoleName::root()).ok_or(Error::NoRoot)?)
    }

    /// Where the client stands.
    pub fn state(&self) -> MetadataState {
        let limits = Limits::default();
        let file = |role| self.file(&role);
        let root = file(RoleName::root()).and_then(|bytes| trusted_root(bytes, &limits).ok());
        let Some(root) = root else { return MetadataState::default() };
        let root_version = root.version();
        let timestamp = file(RoleName::timestamp())
            .and_then(|bytes| Timestamp::read(bytes, &root, &limits).ok());
        let Some(timestamp) = timestamp else {
            return MetadataState { root_version, ..MetadataState::default() };
        };
        let snapshot =
            file(RoleName::snapshot()).and_then(|bytes| Snapshot::read(bytes, &root, &limits).ok());
        let fresh_until =
            snapshot.map(|snapshot| root.expires().min(timestamp.expires).min(snapshot.expires));
        MetadataState {
            root_version,
            timestamp_version: timestamp.version,
            fresh_until: fresh_until.unwrap_or_default(),
            timestamp_fresh_until: timestamp.expires,
            issued: timestamp.issued.unwrap_or_default(),
        }
    }

    /// The roles whose metadata changed since the last call, in the order to store it in. That of a role
    /// without a [`file`](Self::file) is to be removed.
    ///
    /// Stored file by file, a crash in between leaves nothing that could not have been on the way.
    /// Stored as a whole, also a root's forgetting of other files is never half done.
    pub fn take_changes(&mut self) -> Vec<RoleName> {
        mem::take(&mut self.changes)
    }

    pub(crate) fn keep(&mut self, role: RoleName, bytes: Vec<u8>) {
        self.changes.push(role.clone());
        self.files.retain(|(held, _)| *held != role);
        self.files.push((role, bytes));
    }

    pub(crate) fn forget(&mut self, role: RoleName) {
        if self.file(&role).is_some() {
            self.files.retain(|(held, _)| *held != role);
            self.changes.push(role);
        }
    }

    /// Forgets delegated roles that are not `listed`.
    pub(crate) fn forget_delegated_unless(&mut self, listed: impl Fn(&RoleName) -> bool) {
        let stays = |role: &RoleName| role.is_top_level() || listed(role);
        let gone = self.files.iter().map(|(role, _)| role).filter(|role| !stays(role));
        self.changes.extend(gone.cloned());
        self.files.retain(|(role, _)| stays(role));
    }
}
