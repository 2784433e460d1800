//! Root metadata: which keys hold which role.
//!
//! The document is TUF root metadata with its four roles. What TUF does not know, the director, is a
//! member of its own beside `roles`, so that other TUF clients read the same document.

use std::fmt;

use crate::{
    DocumentKind, Error, KeyId, PublicKey, UnixMillis,
    envelope::{Envelope, Holders, Signed, check_expiry},
    fields::{Fields, Read},
    key::{Keys, read_key_ids, read_keys},
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
    version: u64,
    expires: UnixMillis,
    consistent_snapshot: bool,
    keys: Keys,
    root: RoleKeys,
    timestamp: RoleKeys,
    snapshot: RoleKeys,
    targets: RoleKeys,
    // Not in the root of a repository that is not ours.
    director: Option<RoleKeys>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RoleKeys {
    ids: Vec<KeyId>,
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
        let all = [root, targets, director].into_iter().flat_map(|authority| &authority.keys);
        let mut keys: Keys = all.map(|key| (key.id(), key.clone())).collect();
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        keys.dedup();
        Self {
            version,
            expires,
            consistent_snapshot: true,
            keys,
            root: RoleKeys::of(root),
            timestamp: RoleKeys::of(director),
            snapshot: RoleKeys::of(director),
            targets: RoleKeys::of(targets),
            director: Some(RoleKeys::of(director)),
        }
    }

    /// The number of this root in the chain of roots, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// When this root stops being believed.
    pub fn expires(&self) -> UnixMillis {
        self.expires
    }

    /// The keys that hold `role`, by id.
    pub fn keys(&self, role: Role) -> impl Iterator<Item = (&KeyId, &PublicKey)> {
        let ids = self.role_keys(role).map_or(&[][..], |role| &role.ids);
        self.keys.iter().filter(|(id, _)| ids.contains(id)).map(|(id, key)| (id, key))
    }

    /// How many distinct keys must sign for `role`.
    pub fn threshold(&self, role: Role) -> usize {
        self.role_keys(role).map_or(usize::MAX, |role| role.threshold)
    }

    /// Whether the repository keeps old files beside new ones, with their versions and hashes in names.
    pub(crate) fn consistent_snapshot(&self) -> bool {
        self.consistent_snapshot
    }

    /// Who holds `role`.
    pub(crate) fn holders(&self, role: Role) -> Holders {
        match self.role_keys(role) {
            Some(role) => Holders::among(&self.keys, &role.ids, role.threshold),
            None => Holders { keys: Keys::new(), threshold: usize::MAX },
        }
    }

    #[cfg(any(test, feature = "sign"))]
    pub(crate) fn to_value(&self) -> serde_json::Value {
        let keys: serde_json::Map<_, _> =
            self.keys.iter().map(|(id, key)| (id.to_string(), serde_json::json!(key))).collect();
        let mut document = serde_json::json!({
            "_type": DocumentKind::Root.as_str(),
            "spec_version": crate::SPEC_VERSION,
            "version": self.version,
            "expires": self.expires,
            "consistent_snapshot": self.consistent_snapshot,
            "keys": keys,
            "roles": {},
        });
        for role in Role::ALL {
            let Some(RoleKeys { ids, threshold }) = self.role_keys(role) else { continue };
            let place = match role {
                Role::Director => &mut document,
                _ => &mut document["roles"],
            };
            place[role.to_string()] = serde_json::json!({ "keyids": ids, "threshold": threshold });
        }
        document
    }

    fn role_keys(&self, role: Role) -> Option<&RoleKeys> {
        match role {
            Role::Root => Some(&self.root),
            Role::Timestamp => Some(&self.timestamp),
            Role::Snapshot => Some(&self.snapshot),
            Role::Targets => Some(&self.targets),
            Role::Director => self.director.as_ref(),
        }
    }

    /// Reads what a TUF client needs of root metadata. A role that nobody can sign for is let
    /// through: nothing will be believed of it.
    pub(crate) fn read(signed: &Signed) -> Result<Self, Error> {
        signed.read(|fields| {
            let roles = fields.fields("roles")?;
            let role = |name: &str| roles.fields(name).and_then(RoleKeys::read);
            Ok(Self {
                version: fields.version()?,
                expires: fields.expires()?,
                consistent_snapshot: match fields.optional("consistent_snapshot") {
                    Some(_) => fields.flag("consistent_snapshot")?,
                    None => false,
                },
                keys: read_keys(fields.fields("keys")?)?,
                root: role("root")?,
                timestamp: role("timestamp")?,
                snapshot: role("snapshot")?,
                targets: role("targets")?,
                director: match fields.optional("director") {
                    Some(_) => Some(RoleKeys::read(fields.fields("director")?)?),
                    None => None,
                },
            })
        })
    }

    /// Reads root metadata in which every role, the director's too, has keys enough to sign.
    pub(crate) fn read_complete(signed: &Signed) -> Result<Self, Error> {
        let root = Self::read(signed)?;
        if root.director.is_none() {
            return Err(malformed("missing field `director`"));
        }
        for role in Role::ALL {
            let (count, threshold) = (root.distinct_keys(role), root.threshold(role));
            if count < threshold {
                return Err(malformed(format!(
                    "the role {role} has {count} keys and a threshold of {threshold}"
                )));
            }
        }
        Ok(root)
    }

    fn distinct_keys(&self, role: Role) -> usize {
        let mut distinct: Vec<&PublicKey> = Vec::new();
        for (_, key) in self.keys(role) {
            if !distinct.contains(&key) {
                distinct.push(key);
            }
        }
        distinct.len()
    }
}

impl RoleKeys {
    fn of(authority: &Authority) -> Self {
        let mut ids: Vec<_> = authority.keys.iter().map(PublicKey::id).collect();
        ids.sort_unstable();
        ids.dedup();
        Self { ids, threshold: authority.threshold }
    }

    fn read(fields: Fields<'_>) -> Read<Self> {
        Ok(Self { ids: read_key_ids(fields.list("keyids")?)?, threshold: fields.threshold()? })
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
