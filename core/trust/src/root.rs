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
    envelope::{Envelope, check_expiry},
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
    /// Says what is current (TUF; not used by devices yet).
    Timestamp,
    /// Says which metadata belongs together (TUF; not used by devices yet).
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
    consistent_snapshot: bool,
    keys: BTreeMap<KeyId, PublicKey>,
    roles: Roles,
    director: RoleKeys,
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
                director: RoleKeys::of(director),
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
        let ids = &self.role_keys(role).keyids;
        ids.iter().filter_map(|id| self.document.keys.get_key_value(id))
    }

    /// How many distinct keys must sign for `role`.
    pub fn threshold(&self, role: Role) -> usize {
        self.role_keys(role).threshold
    }

    pub(crate) fn key(&self, role: Role, id: &KeyId) -> Option<&PublicKey> {
        self.role_keys(role).keyids.get(id).and_then(|id| self.document.keys.get(id))
    }

    #[cfg(any(test, feature = "sign"))]
    pub(crate) fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(&self.document).expect("root metadata is plain JSON")
    }

    fn role_keys(&self, role: Role) -> &RoleKeys {
        match role {
            Role::Root => &self.document.roles.root,
            Role::Timestamp => &self.document.roles.timestamp,
            Role::Snapshot => &self.document.roles.snapshot,
            Role::Targets => &self.document.roles.targets,
            Role::Director => &self.document.director,
        }
    }

    fn checked(document: RootDocument) -> Result<Self, Error> {
        let root = Self { document };
        let malformed = |reason| Err(Error::Malformed { document: DocumentKind::Root, reason });
        if root.document.version == 0 {
            return malformed("its version is 0, but versions begin at 1".into());
        }
        if root.document.keys.len() > KEYS_MAX {
            return malformed(format!("it has more than {KEYS_MAX} keys"));
        }
        for role in Role::ALL {
            let distinct: BTreeSet<_> = root.keys(role).map(|(_, key)| key).collect();
            if !(1..=distinct.len()).contains(&root.threshold(role)) {
                return malformed(format!(
                    "the role {role} has {} keys and a threshold of {}",
                    distinct.len(),
                    root.threshold(role)
                ));
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
        let root = Root::checked(envelope.unverified().read()?)?;
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
