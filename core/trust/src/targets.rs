//! Targets metadata, and the statement about one bundle.

use std::collections::BTreeMap;

use selvedge_wire::Digest;
#[cfg(any(test, feature = "sign"))]
use serde_json::json;
use serde_json::{Map, Value};

use crate::{
    DocumentKind, Error, Role, TrustedRoot, UnixMillis,
    envelope::{Envelope, Signed, check_expiry},
    fields::{Fields, Read},
    hashes::Hashes,
    tuf::Delegations,
};

/// The longest targets metadata, in bytes.
pub const TARGETS_BYTES_MAX: usize = 1024 * 1024;

/// The longest statement, in bytes: it travels in one message with a chunk index.
pub const STATEMENT_BYTES_MAX: usize = 16 * 1024;

/// The most targets in one document.
pub const TARGETS_MAX: usize = 4096;

/// The most hardware classes in one statement.
pub const HARDWARE_CLASSES_MAX: usize = 32;

/// The longest bundle name, bundle version or hardware class, in bytes.
const TEXT_BYTES_MAX: usize = 64;

/// The hardware class that stands for all.
const ANY_HARDWARE: &str = "*";

/// Targets metadata that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Targets {
    /// The version of the metadata.
    pub version: u64,
    /// When the metadata stops being believed.
    pub expires: UnixMillis,
    /// The targets by path.
    pub targets: BTreeMap<String, Target>,
}

/// A file that may be installed.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The file's length and digest.
    pub blob: Blob,
    /// What else the publisher says about it.
    pub custom: Value,
}

/// The identity of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Their SHA-256.
    pub digest: Digest,
    /// Their number.
    pub len_bytes: u64,
}

/// What the publisher says about one bundle.
///
/// In the document: targets metadata with the one target `name/version`. Its length and digest are
/// those of the bundle's OCI manifest; `custom` holds the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleStatement {
    /// The bundle's name.
    pub name: String,
    /// The bundle's semantic version.
    pub version: String,
    /// The bundle's OCI manifest. Its digest is the bundle's identity.
    pub manifest: Blob,
    /// The bundle's chunk index.
    pub chunk_index: Blob,
    /// The classes of hardware that may run the bundle; `*` stands for all.
    pub hardware_classes: Vec<String>,
    /// When the statement stops being believed.
    pub expires: UnixMillis,
}

impl BundleStatement {
    /// The identity of the bundle.
    pub fn bundle(&self) -> Digest {
        self.manifest.digest
    }

    /// Whether the publisher lets hardware of `class` run the bundle.
    pub fn allows_hardware(&self, class: &str) -> bool {
        self.hardware_classes.iter().any(|allowed| allowed == ANY_HARDWARE || allowed == class)
    }

    #[cfg(any(test, feature = "sign"))]
    pub(crate) fn to_value(&self) -> Value {
        let target = json!({
            "length": self.manifest.len_bytes,
            "hashes": { "sha256": self.manifest.digest.hex().to_string() },
            "custom": {
                "bundle": self.manifest.digest,
                "chunk_index": {
                    "length": self.chunk_index.len_bytes,
                    "sha256": self.chunk_index.digest.hex().to_string(),
                },
                "hardware_classes": self.hardware_classes,
            },
        });
        json!({
            "_type": DocumentKind::Targets.as_str(),
            "spec_version": crate::SPEC_VERSION,
            "version": 1,
            "expires": self.expires,
            "targets": { format!("{}/{}", self.name, self.version): target },
        })
    }
}

impl TrustedRoot {
    /// Verifies targets metadata.
    ///
    /// # Errors
    /// [`Error`] if the document is not whole, not signed by the role targets, or expired.
    pub fn verify_targets(&self, bytes: &[u8], now: UnixMillis) -> Result<Targets, Error> {
        self.check_own_expiry(now)?;
        let envelope = Envelope::parse(DocumentKind::Targets, bytes, TARGETS_BYTES_MAX)?;
        let document = TargetsDocument::read(envelope.verify(self.root(), Role::Targets)?)?;
        check_expiry(DocumentKind::Targets, document.expires, now)?;
        let mut targets = BTreeMap::new();
        for (path, target) in &document.targets {
            targets.insert(path.clone(), Target::read(target).map_err(malformed)?);
        }
        Ok(Targets { version: document.version, expires: document.expires, targets })
    }

    /// Verifies targets metadata that speaks of exactly one bundle.
    ///
    /// # Errors
    /// [`Error`] if the document is not whole, not signed by the role targets, expired, or not about
    /// one bundle.
    pub fn verify_statement(
        &self,
        bytes: &[u8],
        now: UnixMillis,
    ) -> Result<BundleStatement, Error> {
        self.check_own_expiry(now)?;
        let envelope = Envelope::parse(DocumentKind::Targets, bytes, STATEMENT_BYTES_MAX)?;
        let document = TargetsDocument::read(envelope.verify(self.root(), Role::Targets)?)?;
        check_expiry(DocumentKind::Targets, document.expires, now)?;
        BundleStatement::read(&document).map_err(malformed)
    }
}

impl Target {
    fn read(target: &Value) -> Read<Self> {
        let TargetDocument { length, hashes, custom } = TargetDocument::read(target)?;
        let sha256 = hashes.sha256.as_deref().unwrap_or_default();
        let digest = digest_from_hex(sha256, "hashes.sha256")?;
        Ok(Self { blob: Blob { digest, len_bytes: length }, custom })
    }
}

impl BundleStatement {
    fn read(document: &TargetsDocument) -> Read<Self> {
        let mut entries = document.targets.iter();
        let (Some((path, target)), None) = (entries.next(), entries.next()) else {
            return Err("a statement is about exactly one bundle".into());
        };
        let Target { blob: manifest, custom } = Target::read(target)?;
        let (name, version) = path.split_once('/').ok_or("its target is not named name/version")?;
        check_text("the bundle's name", name)?;
        check_text("the bundle's version", version)?;
        let custom = Fields::of(&custom).map_err(|reason| format!("custom: {reason}"))?;
        if custom.parsed::<Digest>("bundle")? != manifest.digest {
            return Err("custom.bundle is not the digest of the target".into());
        }
        let chunk_index = custom.fields("chunk_index")?;
        Ok(Self {
            name: name.into(),
            version: version.into(),
            manifest,
            chunk_index: Blob {
                digest: digest_from_hex(chunk_index.text("sha256")?, "custom.chunk_index.sha256")?,
                len_bytes: chunk_index.number("length")?,
            },
            hardware_classes: read_hardware_classes(custom.list("hardware_classes")?)?,
            expires: document.expires,
        })
    }
}

fn read_hardware_classes(classes: &[Value]) -> Read<Vec<String>> {
    if !(1..=HARDWARE_CLASSES_MAX).contains(&classes.len()) {
        return Err(format!("it has no hardware class or over {HARDWARE_CLASSES_MAX}"));
    }
    let read = |class: &Value| {
        let class = class.as_str().unwrap_or_default();
        if class != ANY_HARDWARE {
            check_text("a hardware class", class)?;
        }
        Ok(class.to_owned())
    };
    classes.iter().map(read).collect()
}

fn check_text(what: &str, text: &str) -> Read<()> {
    let good = (1..=TEXT_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+'))
        && !text.starts_with('.');
    if good {
        return Ok(());
    }
    Err(format!("{what} is not 1 to {TEXT_BYTES_MAX} letters, digits, '.', '_', '-' and '+'"))
}

fn digest_from_hex(text: &str, what: &str) -> Read<Digest> {
    Digest::from_hex(text).map_err(|_| format!("{what} is not 64 lower-case hexadecimal digits"))
}

fn malformed(reason: String) -> Error {
    Error::Malformed { document: DocumentKind::Targets, reason }
}

/// Targets metadata as TUF has it.
pub(crate) struct TargetsDocument {
    pub(crate) version: u64,
    pub(crate) expires: UnixMillis,
    pub(crate) delegations: Option<Delegations>,
    /// Each is a [`TargetDocument`].
    targets: Map<String, Value>,
}

/// What targets metadata says about a file.
pub(crate) struct TargetDocument {
    pub(crate) length: u64,
    pub(crate) hashes: Hashes,
    pub(crate) custom: Value,
}

impl TargetsDocument {
    pub(crate) fn read(mut signed: Signed) -> Result<Self, Error> {
        let read = signed.read(|fields| {
            let targets = fields.fields("targets")?;
            if targets.len() > TARGETS_MAX {
                return Err(format!("it has more than {TARGETS_MAX} targets"));
            }
            targets.iter().try_for_each(|(_, target)| TargetDocument::read(target).map(drop))?;
            let delegations = match fields.optional("delegations") {
                Some(_) => Some(Delegations::read(fields.fields("delegations")?)?),
                None => None,
            };
            let (version, expires) = (fields.version()?, fields.expires()?);
            Ok(Self { version, expires, delegations, targets: Map::new() })
        });
        Ok(Self { targets: signed.take_object("targets"), ..read? })
    }

    /// What is said about the target at `path`.
    pub(crate) fn target(&self, path: &str) -> Option<TargetDocument> {
        let target = TargetDocument::read(self.targets.get(path)?);
        Some(target.expect("every target was read once"))
    }
}

impl TargetDocument {
    fn read(target: &Value) -> Read<Self> {
        let fields = Fields::of(target)?;
        Ok(Self {
            length: fields.number("length")?,
            hashes: Hashes::read(fields.fields("hashes")?)?,
            custom: fields.optional("custom").cloned().unwrap_or_default(),
        })
    }
}
