//! The metadata that a client has come to trust, as the bytes that it was received in.

use std::mem;

use crate::RoleName;

/// The metadata that a client has come to trust, as the bytes that it was received in.
///
/// The caller reads it from where it is stored, hands it to every step, and after every step stores
/// what changed. Nothing in it is believed because it is here: each file is verified again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedMetadata {
    files: Vec<(RoleName, Vec<u8>)>,
    changes: Vec<RoleName>,
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
