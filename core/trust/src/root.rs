//! Root metadata: which keys hold which role.
//!
//! The document is TUF root metadata with its four roles. What TUF does not know, the director, is a
//! member of its own beside `roles`, so that other TUF clients read the same document.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    DocumentKind, Error, KeyId, PublicKey, UnixMillis,
    envelope::{Envelope, Holders, Signed, check_expiry},
    key::{distinct_ids, known_keys},
};

/// The longest root metadata, in bytes.
pub const ROOT_BYTES_MAX: usize = 512 * 1024;

/// The most keys in root metadata.
pub const KEYS_MAX: usize = 256;

/// A job that keys can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Says which keys hold which role.
    Root,
    /// Says what is current.
    Timestamp,
    /// Says which metadata belongs together.
    Snapshot,
    /// Says what a bundle is.
    Targets,
    /// Says which device runs which bundle.
    Director,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] =
        [Self::Root, Self::Timestamp, Self::Snapshot, Self::Targets, Self::Director];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Timestamp => "timestamp",
            Self::Snapshot => "snapshot",
            Self::Targets => "targets",
            Self::Director => "director",
        })
    }
}

/// Who may sign for a role, and how many of them must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The keys that hold the role.
    pub keys: Vec<PublicKey>,
    /// How many distinct keys must sign; at least 1.
    pub threshold: usize,
}

impl Authority {
    /// One key holds the role alone.
    pub fn one(key: PublicKey) -> Self {
        Self { keys: vec![key], threshold: 1 }
    }
}

/// Root metadata, as it is written; only a [`TrustedRoot`] decides anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    document: RootDocument,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RootDocument {
    #[serde(rename = "_type")]
    kind: String,
    spec_version: String,
    version: u64,
    expires: UnixMillis,
    #[serde(default)]
    consistent_snapshot: bool,
    #[serde(deserialize_with = "known_keys")]
    keys: BTreeMap<KeyId, PublicKey>,
    roles: Roles,
    // Not in the root of a repository that is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    director: Option<RoleKeys>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Roles {
    root: RoleKeys,
    timestamp: RoleKeys,
    snapshot: RoleKeys,
    targets: RoleKeys,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RoleKeys {
    #[serde(deserialize_with = "distinct_ids")]
    keyids: BTreeSet<KeyId>,
    threshold: usize,
}

impl Root {
    /// Root metadata that gives each role to its keys. The director's keys, which are online, also
    /// hold the roles timestamp and snapshot.
    pub fn new(
        version: u64,
        expires: UnixMillis,
        root: &Authority,
        targets: &Authority,
        director: &Authority,
    ) -> Self {
        let keys = [root, targets, director].into_iter().flat_map(|authority| &authority.keys);
        Self {
            document: RootDocument {
                kind: DocumentKind::Root.as_str().into(),
                spec_version: crate::SPEC_VERSION.into(),
                version,
                expires,
                consistent_snapshot: true,
                keys: keys.map(|key| (key.id(), key.clone())).collect(),
                roles: Roles {
                    root: RoleKeys::of(root),
                    timestamp: RoleKeys::of(director),
                    snapshot: RoleKeys::of(director),
                    targets: RoleKeys::of(targets),
                },
                director: Some(RoleKeys::of(director)),
            },
        }
    }

    /// The number of this root in the chain of roots, from 1.
    pub fn version(&self) -> u64 {
        self.document.version
    }

    /// When this root stops being believed.
    pub fn expires(&self) -> UnixMillis {
        self.document.expires
    }

    /// The keys that hold `role`, by id.
    pub fn keys(&self, role: Role) -> impl Iterator<Item = (&KeyId, &PublicKey)> {
        let ids = self.role_keys(role).into_iter().flat_map(|role| &role.keyids);
        ids.filter_map(|id| self.document.keys.get_key_value(id))
    }

    /// How many distinct keys must sign for `role`.
    pub fn threshold(&self, role: Role) -> usize {
        self.role_keys(role).map_or(usize::MAX, |role| role.threshold)
    }

    /// Whether the repository keeps old files beside new ones, with their versions and hashes in names.
    pub(crate) fn consistent_snapshot(&self) -> bool {
        self.document.consistent_snapshot
    }

    /// Who holds `role`.
    pub(crate) fn holders(&self, role: Role) -> Holders {
        match self.role_keys(role) {
            Some(role) => Holders::among(&self.document.keys, &role.keyids, role.threshold),
            None => Holders { keys: BTreeMap::new(), threshold: usize::MAX },
        }
    }

    #[cfg(any(test, feature = "sign"))]
    pub(crate) fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(&self.document).expect("root metadata is plain JSON")
    }

    fn role_keys(&self, role: Role) -> Option<&RoleKeys> {
        let roles = &self.document.roles;
        match role {
            Role::Root => Some(&roles.root),
            Role::Timestamp => Some(&roles.timestamp),
            Role::Snapshot => Some(&roles.snapshot),
            Role::Targets => Some(&roles.targets),
            Role::Director => self.document.director.as_ref(),
        }
    }

    /// Reads what a TUF client needs of root metadata. A role that nobody can sign for is let
    /// through: nothing will be believed of it.
    pub(crate) fn read(signed: Signed) -> Result<Self, Error> {
        let root = Self { document: signed.read()? };
        if root.document.version == 0 {
            return Err(malformed("its version is 0, but versions begin at 1"));
        }
        if root.document.keys.len() > KEYS_MAX {
            return Err(malformed(format!("it has more than {KEYS_MAX} keys")));
        }
        if Role::ALL.into_iter().any(|role| root.threshold(role) == 0) {
            return Err(malformed("a role has a threshold of 0"));
        }
        Ok(root)
    }

    /// Reads root metadata in which every role, the director's too, has keys enough to sign.
    fn read_complete(signed: Signed) -> Result<Self, Error> {
        let root = Self::read(signed)?;
        if root.document.director.is_none() {
            return Err(malformed("missing field `director`"));
        }
        for role in Role::ALL {
            let distinct: BTreeSet<_> = root.keys(role).map(|(_, key)| key).collect();
            if distinct.len() < root.threshold(role) {
                return Err(malformed(format!(
                    "the role {role} has {} keys and a threshold of {}",
                    distinct.len(),
                    root.threshold(role)
                )));
            }
        }
        Ok(root)
    }
}

impl RoleKeys {
    fn of(authority: &Authority) -> Self {
        Self {
            keyids: authority.keys.iter().map(PublicKey::id).collect(),
            threshold: authority.threshold,
        }
    }
}

/// Root metadata that a device or a person was given over a way they trust.
///
/// It decides about every other document. The bytes it was pinned from stay the device's to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedRoot {
    root: Root,
}

impl TrustedRoot {
    /// Takes root metadata as the beginning of trust, if it is signed by its own root keys.
    ///
    /// Its expiry is not looked at here but with every document that it decides about.
    ///
    /// # Errors
    /// [`Error`] if the bytes are no root metadata, or not signed by the keys they name.
    pub fn pin(bytes: &[u8]) -> Result<Self, Error> {
        let envelope = Envelope::parse(DocumentKind::Root, bytes, ROOT_BYTES_MAX)?;
        let root = Root::read_complete(envelope.unverified())?;
        envelope.verify(&root, Role::Root)?;
        Ok(Self { root })
    }

    /// The metadata.
    pub fn root(&self) -> &Root {
        &self.root
    }

    pub(crate) fn check_own_expiry(&self, now: UnixMillis) -> Result<(), Error> {
        check_expiry(DocumentKind::Root, self.root.expires(), now)
    }
}

fn malformed(reason: impl Into<String>) -> Error {
    Error::Malformed { document: DocumentKind::Root, reason: reason.into() }
}
