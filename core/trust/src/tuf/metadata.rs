//! The roles' metadata, verified: how bytes become what the states work with.

use serde_json::{Map, Value};

use crate::{
    DocumentKind, Error, FileCheck, Limits, Role, RoleName, Root, UnixMillis,
    envelope::{Envelope, Holders, check_expiry},
    fields::{Fields, Read},
    hashes::Hashes,
    targets::TargetsDocument,
};

/// Says which snapshot is current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timestamp {
    pub(crate) version: u64,
    pub(crate) expires: UnixMillis,
    pub(crate) snapshot: FileMeta,
    /// When it was signed; unknown of repositories that are not ours.
    pub(crate) issued: Option<UnixMillis>,
    /// The version of the root that it was signed under; unknown of repositories that are not ours.
    pub(crate) root_version: Option<u64>,
}

/// Says which versions of targets metadata belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) expires: UnixMillis,
    /// Each is a [`FileMeta`].
    files: Map<String, Value>,
}

/// What metadata says about a file of other metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileMeta {
    pub(crate) version: u64,
    length: Option<u64>,
    hashes: Option<Hashes>,
}

/// Reads the root that is trusted: it vouches for itself.
pub(crate) fn trusted_root(bytes: &[u8], limits: &Limits) -> Result<Root, Error> {
    let envelope = Envelope::parse(DocumentKind::Root, bytes, limits.root_bytes)?;
    let root = Root::read(envelope.unverified())?;
    envelope.check(&root, Role::Root)?;
    Ok(root)
}

/// Reads the root that follows `root` (TUF 1.0 §5.3.4–5.3.5): both vouch for it.
pub(crate) fn next_root(bytes: &[u8], root: &Root, limits: &Limits) -> Result<Root, Error> {
    let envelope = Envelope::parse(DocumentKind::Root, bytes, limits.root_bytes)?;
    envelope.check(root, Role::Root)?;
    let next = Root::read(envelope.unverified())?;
    envelope.check(&next, Role::Root)?;
    check_version(DocumentKind::Root, next.version(), root.version().saturating_add(1))?;
    Ok(next)
}

impl Timestamp {
    pub(crate) fn read(bytes: &[u8], root: &Root, limits: &Limits) -> Result<Self, Error> {
        let envelope = Envelope::parse(DocumentKind::Timestamp, bytes, limits.timestamp_bytes)?;
        envelope.verify(root, Role::Timestamp)?.read(|fields| {
            let snapshot = fields.fields("meta")?.value("snapshot.json")?;
            let expires = fields.expires()?;
            let issued = match fields.optional("issued") {
                Some(_) => Some(fields.time("issued")?),
                None => None,
            };
            if issued.is_some_and(|issued| issued >= expires) {
                return Err("it was issued when it had expired already".into());
            }
            Ok(Self {
                version: fields.version()?,
                expires,
                snapshot: FileMeta::read(snapshot)?,
                issued,
                root_version: match fields.optional("root_version") {
                    Some(_) => Some(fields.number("root_version")?),
                    None => None,
                },
            })
        })
    }

    /// The version of the root that the timestamp in `bytes` claims to be signed under, 0 where it claims
    /// none. Nobody vouches for it.
    pub(crate) fn root_hint(bytes: &[u8], limits: &Limits) -> Result<u64, Error> {
        let envelope = Envelope::parse(DocumentKind::Timestamp, bytes, limits.timestamp_bytes)?;
        let hint = |fields: Fields<'_>| match fields.optional("root_version") {
            Some(_) => fields.number("root_version"),
            None => Ok(0),
        };
        envelope.unverified().read(hint)
    }
}

impl Snapshot {
    pub(crate) fn read(bytes: &[u8], root: &Root, limits: &Limits) -> Result<Self, Error> {
        let envelope = Envelope::parse(DocumentKind::Snapshot, bytes, limits.snapshot_bytes)?;
        let mut signed = envelope.verify(root, Role::Snapshot)?;
        let (version, expires) = signed.read(|fields| {
            let mut files = fields.fields("meta")?.iter();
            files.try_for_each(|(_, file)| FileMeta::read(file).map(drop))?;
            Ok((fields.version()?, fields.expires()?))
        })?;
        Ok(Self { version, expires, files: signed.take_object("meta") })
    }

    /// What is said about the metadata of `role`.
    pub(crate) fn file(&self, role: &RoleName) -> Option<FileMeta> {
        self.named(&role.meta_name())
    }

    /// Whether everything that `older` names is named here, in no older version (§5.5.5).
    pub(crate) fn check_follows(&self, older: &Self) -> Result<(), Error> {
        for (name, old) in &older.files {
            let new = self
                .named(name)
                .ok_or_else(|| Error::FileVanished { file: name.escape_default().to_string() })?;
            check_rollback(name, new.version, known(old).version)?;
        }
        Ok(())
    }

    fn named(&self, name: &str) -> Option<FileMeta> {
        self.files.get(name).map(known)
    }
}

fn known(file: &Value) -> FileMeta {
    FileMeta::read(file).expect("every file of a snapshot was read once")
}

impl FileMeta {
    fn read(file: &Value) -> Read<Self> {
        let fields = Fields::of(file)?;
        Ok(Self {
            version: fields.version()?,
            length: match fields.optional("length") {
                Some(_) => Some(fields.number("length")?),
                None => None,
            },
            hashes: match fields.optional("hashes") {
                Some(_) => Some(Hashes::read(fields.fields("hashes")?)?),
                None => None,
            },
        })
    }

    /// The most bytes that the file can have.
    pub(crate) fn max_bytes(
        &self,
        document: DocumentKind,
        limit_bytes: usize,
    ) -> Result<u64, Error> {
        let limit = limit_bytes as u64;
        let length = self.length.unwrap_or(limit);
        if length > limit {
            let len_bytes = usize::try_from(length).unwrap_or(usize::MAX);
            return Err(Error::TooLong { document, len_bytes, max_bytes: limit_bytes });
        }
        Ok(length)
    }

    /// Checks the length and the hashes that are given of the file.
    pub(crate) fn check_bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        let expected_bytes = self.length.unwrap_or(bytes.len() as u64);
        match &self.hashes {
            Some(hashes) => {
                let mut check = FileCheck::new(expected_bytes, hashes);
                check.update(bytes)?;
                check.finish()
            }
            None if bytes.len() as u64 == expected_bytes => Ok(()),
            None => Err(Error::FileLength { len_bytes: bytes.len() as u64, expected_bytes }),
        }
    }
}

/// Reads targets metadata that `holders` vouch for and a snapshot names as `meta` (§5.6.2–5.6.5).
pub(crate) fn read_targets(
    bytes: &[u8],
    meta: &FileMeta,
    holders: &Holders,
    now: UnixMillis,
    limits: &Limits,
) -> Result<TargetsDocument, Error> {
    meta.check_bytes(bytes)?;
    let envelope = Envelope::parse(DocumentKind::Targets, bytes, limits.targets_bytes)?;
    let targets = TargetsDocument::read(envelope.verify_delegated(holders)?)?;
    check_version(DocumentKind::Targets, targets.version, meta.version)?;
    check_expiry(DocumentKind::Targets, targets.expires, now)?;
    Ok(targets)
}

/// Whether the file called `name` has not gone back.
pub(crate) fn check_rollback(name: &str, version: u64, trusted: u64) -> Result<(), Error> {
    if version < trusted {
        return Err(Error::Rollback { file: name.escape_default().to_string(), version, trusted });
    }
    Ok(())
}

pub(crate) fn check_version(
    document: DocumentKind,
    version: u64,
    expected: u64,
) -> Result<(), Error> {
    if version == expected {
        Ok(())
    } else {
        Err(Error::OtherVersion { document, version, expected })
    }
}
