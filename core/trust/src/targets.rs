//! Targets metadata, and the statement about one bundle.

use std::collections::BTreeMap;

use selvedge_wire::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    DocumentKind, Error, Role, TrustedRoot, UnixMillis,
    envelope::{Envelope, Signed, check_expiry},
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
        let target = TargetDocument {
            length: self.manifest.len_bytes,
            hashes: Hashes::sha256(&self.manifest.digest),
            custom: serde_json::to_value(CustomDocument {
                bundle: self.manifest.digest,
                chunk_index: ChunkIndexDocument {
                    length: self.chunk_index.len_bytes,
                    sha256: self.chunk_index.digest.hex().to_string(),
                },
                hardware_classes: self.hardware_classes.clone(),
            })
            .expect("a statement is plain JSON"),
        };
        let document = TargetsDocument {
            kind: DocumentKind::Targets.as_str().into(),
            spec_version: crate::SPEC_VERSION.into(),
            version: 1,
            expires: self.expires,
            targets: BTreeMap::from([(format!("{}/{}", self.name, self.version), target)]),
            delegations: None,
        };
        serde_json::to_value(document).expect("a statement is plain JSON")
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
        Targets::with_sha256(document)
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
        if bytes.len() > STATEMENT_BYTES_MAX {
            return Err(Error::TooLong {
                document: DocumentKind::Targets,
                len_bytes: bytes.len(),
                max_bytes: STATEMENT_BYTES_MAX,
            });
        }
        statement(self.verify_targets(bytes, now)?)
    }
}

impl Targets {
    fn with_sha256(document: TargetsDocument) -> Result<Self, Error> {
        let targets = document.targets.into_iter().map(|(path, target)| {
            let sha256 = target.hashes.named("sha256").unwrap_or_default();
            let digest = digest_from_hex(sha256, "hashes.sha256")?;
            let blob = Blob { digest, len_bytes: target.length };
            Ok((path, Target { blob, custom: target.custom }))
        });
        Ok(Self {
            version: document.version,
            expires: document.expires,
            targets: targets.collect::<Result<_, _>>()?,
        })
    }
}

fn statement(targets: Targets) -> Result<BundleStatement, Error> {
    let mut entries = targets.targets.into_iter();
    let (Some((path, target)), None) = (entries.next(), entries.next()) else {
        return Err(malformed("a statement is about exactly one bundle"));
    };
    let (name, version) =
        path.split_once('/').ok_or_else(|| malformed("its target is not named name/version"))?;
    check_text("the bundle's name", name)?;
    check_text("the bundle's version", version)?;
    let custom = CustomDocument::deserialize(target.custom)
        .map_err(|error| malformed(format!("custom: {error}")))?;
    if custom.bundle != target.blob.digest {
        return Err(malformed("custom.bundle is not the digest of the target"));
    }
    if !(1..=HARDWARE_CLASSES_MAX).contains(&custom.hardware_classes.len()) {
        return Err(malformed(format!("it has no hardware class or over {HARDWARE_CLASSES_MAX}")));
    }
    for class in custom.hardware_classes.iter().filter(|class| *class != ANY_HARDWARE) {
        check_text("a hardware class", class)?;
    }
    Ok(BundleStatement {
        name: name.into(),
        version: version.into(),
        manifest: target.blob,
        chunk_index: Blob {
            digest: digest_from_hex(&custom.chunk_index.sha256, "custom.chunk_index.sha256")?,
            len_bytes: custom.chunk_index.length,
        },
        hardware_classes: custom.hardware_classes,
        expires: targets.expires,
    })
}

fn check_text(what: &str, text: &str) -> Result<(), Error> {
    let good = (1..=TEXT_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+'))
        && !text.starts_with('.');
    if good {
        return Ok(());
    }
    Err(malformed(format!(
        "{what} is not 1 to {TEXT_BYTES_MAX} letters, digits, '.', '_', '-' and '+'"
    )))
}

fn digest_from_hex(text: &str, what: &str) -> Result<Digest, Error> {
    Digest::from_hex(text)
        .map_err(|_| malformed(format!("{what} is not 64 lower-case hexadecimal digits")))
}

fn malformed(reason: impl Into<String>) -> Error {
    Error::Malformed { document: DocumentKind::Targets, reason: reason.into() }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct TargetsDocument {
    #[serde(rename = "_type")]
    kind: String,
    spec_version: String,
    pub(crate) version: u64,
    pub(crate) expires: UnixMillis,
    pub(crate) targets: BTreeMap<String, TargetDocument>,
    #[serde(default, skip_serializing)]
    pub(crate) delegations: Option<Delegations>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct TargetDocument {
    pub(crate) length: u64,
    pub(crate) hashes: Hashes,
    #[serde(default)]
    pub(crate) custom: Value,
}

impl TargetsDocument {
    pub(crate) fn read(signed: Signed) -> Result<Self, Error> {
        let document: Self = signed.read()?;
        if document.version == 0 {
            return Err(malformed("its version is 0, but versions begin at 1"));
        }
        if document.targets.len() > TARGETS_MAX {
            return Err(malformed(format!("it has more than {TARGETS_MAX} targets")));
        }
        Ok(document)
    }
}

#[derive(Serialize, Deserialize)]
struct CustomDocument {
    bundle: Digest,
    chunk_index: ChunkIndexDocument,
    hardware_classes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct ChunkIndexDocument {
    length: u64,
    sha256: String,
}
