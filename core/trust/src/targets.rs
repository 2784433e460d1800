//! Targets metadata, and the bundles among its targets.

use selvedge_wire::Digest;
use serde_json::{Map, Value};

use crate::{
    DocumentKind, Error, TargetFile, UnixMillis,
    envelope::Signed,
    fields::{Fields, Read},
    hashes::Hashes,
    tuf::Delegations,
};

/// The longest targets metadata, in bytes.
pub const TARGETS_BYTES_MAX: usize = 1024 * 1024;

/// The most targets in one document.
pub const TARGETS_MAX: usize = 4096;

/// The most hardware classes of one bundle.
pub const HARDWARE_CLASSES_MAX: usize = 32;

/// The most patches to one bundle.
pub const PATCHES_MAX: usize = 16;

/// The longest bundle name, bundle version or hardware class, in bytes.
const TEXT_BYTES_MAX: usize = 64;

/// The hardware class that stands for all.
const ANY_HARDWARE: &str = "*";

/// The identity of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Their SHA-256.
    pub digest: Digest,
    /// Their number.
    pub len_bytes: u64,
}

/// What the repository says about one bundle.
///
/// In targets metadata: the target `name/version`. Its length and digest are those of the bundle's OCI
/// manifest; `custom` holds the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleTarget {
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
    /// Ways to the bundle from others.
    pub patches: Vec<PatchTarget>,
    /// The model signature that was verified when the bundle was published.
    pub signature: Option<Digest>,
}

/// A way from one bundle to another that is shorter than the other's chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchTarget {
    /// The bundle that it starts from.
    pub source: Digest,
    /// The patch's index.
    pub index: Blob,
    /// How many bytes the patch has.
    pub len_bytes: u64,
}

impl BundleTarget {
    /// The target's path: `name/version`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.name, self.version)
    }

    /// The identity of the bundle.
    pub fn bundle(&self) -> Digest {
        self.manifest.digest
    }

    /// Whether the publisher lets hardware of `class` run the bundle.
    pub fn allows_hardware(&self, class: &str) -> bool {
        self.hardware_classes.iter().any(|allowed| allowed == ANY_HARDWARE || allowed == class)
    }

    /// Reads what a search found.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the target is not a bundle, or says so of another path than its own.
    pub fn read(file: &TargetFile) -> Result<Self, Error> {
        Self::read_fields(file)
            .map_err(|reason| Error::Malformed { document: DocumentKind::Targets, reason })
    }

    fn read_fields(file: &TargetFile) -> Read<Self> {
        let (name, version) = split_path(&file.path)?;
        let custom = Fields::of(&file.custom).map_err(|reason| format!("custom: {reason}"))?;
        if (custom.text("name")?, custom.text("version")?) != (name, version) {
            return Err("custom names another bundle than the target's path".into());
        }
        let sha256 = file.hashes.sha256.as_deref().unwrap_or_default();
        let digest = Digest::from_hex(sha256)
            .map_err(|_| "hashes.sha256 is not 64 lower-case hexadecimal digits")?;
        let patches = match custom.optional("patches") {
            Some(_) => read_patches(custom.list("patches")?, digest)?,
            None => Vec::new(),
        };
        Ok(Self {
            name: name.into(),
            version: version.into(),
            manifest: Blob { digest, len_bytes: file.len_bytes },
            chunk_index: Blob::read(custom.fields("chunk_index")?)?,
            hardware_classes: read_hardware_classes(custom.list("hardware_classes")?)?,
            patches,
            signature: match custom.optional("signature") {
                Some(_) => Some(custom.parsed("signature")?),
                None => None,
            },
        })
    }

    /// The value that targets metadata has under the target's path.
    #[cfg(any(test, feature = "sign"))]
    pub fn to_entry(&self) -> Value {
        let mut custom = serde_json::json!({
            "name": self.name,
            "version": self.version,
            "chunk_index": self.chunk_index.to_value(),
            "hardware_classes": self.hardware_classes,
        });
        if !self.patches.is_empty() {
            custom["patches"] = self.patches.iter().map(PatchTarget::to_value).collect();
        }
        if let Some(signature) = self.signature {
            custom["signature"] = serde_json::json!(signature);
        }
        serde_json::json!({
            "length": self.manifest.len_bytes,
            "hashes": { "sha256": self.manifest.digest.hex().to_string() },
            "custom": custom,
        })
    }
}

impl PatchTarget {
    fn read(fields: Fields<'_>) -> Read<Self> {
        Ok(Self {
            source: fields.parsed("source")?,
            index: Blob::read(fields.fields("index")?)?,
            len_bytes: fields.number("len_bytes")?,
        })
    }

    #[cfg(any(test, feature = "sign"))]
    fn to_value(&self) -> Value {
        serde_json::json!({
            "source": self.source,
            "index": self.index.to_value(),
            "len_bytes": self.len_bytes,
        })
    }
}

impl Blob {
    fn read(fields: Fields<'_>) -> Read<Self> {
        Ok(Self { digest: fields.parsed("digest")?, len_bytes: fields.number("len_bytes")? })
    }

    #[cfg(any(test, feature = "sign"))]
    fn to_value(self) -> Value {
        serde_json::json!({ "digest": self.digest, "len_bytes": self.len_bytes })
    }
}

/// The name and the version in the path of a bundle's target.
pub(crate) fn split_path(path: &str) -> Read<(&str, &str)> {
    let (name, version) = path.split_once('/').ok_or("a bundle's target is named name/version")?;
    check_text("the bundle's name", name)?;
    check_text("the bundle's version", version)?;
    Ok((name, version))
}

fn read_patches(list: &[Value], bundle: Digest) -> Read<Vec<PatchTarget>> {
    if list.len() > PATCHES_MAX {
        return Err(format!("it has more than {PATCHES_MAX} patches"));
    }
    let mut patches: Vec<PatchTarget> = Vec::new();
    for patch in list {
        let patch = PatchTarget::read(Fields::of(patch)?)?;
        if patch.source == bundle || patches.iter().any(|other| other.source == patch.source) {
            return Err("it has a patch from itself, or two from one bundle".into());
        }
        patches.push(patch);
    }
    Ok(patches)
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

/// Targets metadata as TUF has it.
pub(crate) struct TargetsDocument {
    pub(crate) version: u64,
    pub(crate) expires: UnixMillis,
    pub(crate) delegations: Option<Delegations>,
    /// Each is a target.
    targets: Map<String, Value>,
}

impl TargetsDocument {
    pub(crate) fn read(mut signed: Signed) -> Result<Self, Error> {
        let read = signed.read(|fields| {
            let targets = fields.fields("targets")?;
            if targets.len() > TARGETS_MAX {
                return Err(format!("it has more than {TARGETS_MAX} targets"));
            }
            targets.iter().try_for_each(|(_, target)| read_target(target).map(drop))?;
            let delegations = match fields.optional("delegations") {
                Some(_) => Some(Delegations::read(fields.fields("delegations")?)?),
                None => None,
            };
            let (version, expires) = (fields.version()?, fields.expires()?);
            Ok(Self { version, expires, delegations, targets: Map::new() })
        });
        Ok(Self { targets: signed.take_object("targets"), ..read? })
    }

    /// Takes all that is said about targets.
    #[cfg(any(test, feature = "sign"))]
    pub(crate) fn take_targets(&mut self) -> impl Iterator<Item = TargetFile> + use<> {
        let targets = std::mem::take(&mut self.targets);
        targets.into_iter().map(|(path, target)| TargetFile::of(path, target))
    }

    /// What is said about the target at `path`.
    pub(crate) fn into_target(mut self, path: &str) -> Result<TargetFile, Self> {
        match self.targets.get_mut(path).map(Value::take) {
            Some(target) => Ok(TargetFile::of(path.into(), target)),
            None => Err(self),
        }
    }
}

impl TargetFile {
    /// What metadata that was read once says in `target`.
    fn of(path: String, mut target: Value) -> Self {
        let (len_bytes, hashes) = read_target(&target).expect("every target was read once");
        let custom = target.get_mut("custom").map(Value::take).unwrap_or_default();
        Self { path, len_bytes, custom, hashes }
    }
}

/// The length and the hashes of a target.
fn read_target(target: &Value) -> Read<(u64, Hashes)> {
    let fields = Fields::of(target)?;
    Ok((fields.number("length")?, Hashes::read(fields.fields("hashes")?)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn blob(byte: u8) -> Blob {
        Blob { digest: Digest([byte; 32]), len_bytes: u64::from(byte) }
    }

    fn target() -> BundleTarget {
        let patch = |byte| PatchTarget { source: Digest([byte; 32]), index: blob(3), len_bytes: 4 };
        BundleTarget {
            name: "shuttle".into(),
            version: "1.0.0-rc.1+build".into(),
            manifest: blob(1),
            chunk_index: blob(2),
            hardware_classes: vec!["aarch64".into()],
            patches: vec![patch(5), patch(6)],
            signature: Some(Digest([7; 32])),
        }
    }

    fn read(path: &str, entry: &Value) -> Result<BundleTarget, Error> {
        BundleTarget::read(&TargetFile::of(path.into(), entry.clone()))
    }

    #[test]
    fn a_bundle_reads_back_from_its_entry() {
        let plain = BundleTarget { patches: Vec::new(), signature: None, ..target() };
        for target in [target(), plain] {
            assert_eq!(read(&target.path(), &target.to_entry()), Ok(target));
        }
        assert!(target().allows_hardware("aarch64") && !target().allows_hardware("x86_64"));
        let any = BundleTarget { hardware_classes: vec!["*".into()], ..target() };
        assert!(any.allows_hardware("x86_64"));
    }

    #[test]
    fn a_target_that_is_not_wholly_a_bundle_is_refused() {
        let path = target().path();
        let patch = target().to_entry()["custom"]["patches"][0].clone();
        let itself =
            json!([{ "source": Digest([1; 32]), "index": patch["index"], "len_bytes": 1 }]);
        let cases: [(&str, Value, &str); 17] = [
            ("/hashes/sha256", json!("AB"), "hashes.sha256"),
            ("/hashes", json!({ "sha512": "ab" }), "hashes.sha256"),
            ("/custom", json!(null), "custom:"),
            ("/custom/name", json!("shuttles"), "another bundle"),
            ("/custom/version", json!("1.0.0"), "another bundle"),
            ("/custom/version", json!(1), "not a string"),
            ("/custom/chunk_index", json!({}), "missing field"),
            ("/custom/chunk_index/digest", json!("ab"), "sha256:"),
            ("/custom/chunk_index/len_bytes", json!(-1), "invalid value"),
            ("/custom/hardware_classes", json!([]), "no hardware class"),
            ("/custom/hardware_classes", json!(vec!["a"; HARDWARE_CLASSES_MAX + 1]), "or over"),
            ("/custom/hardware_classes", json!(["a b"]), "a hardware class"),
            ("/custom/patches", json!(vec![&patch; 2]), "two from one bundle"),
            ("/custom/patches", itself, "from itself"),
            ("/custom/patches", json!(vec![&patch; PATCHES_MAX + 1]), "more than 16 patches"),
            ("/custom/patches/1/source", json!(7), "not a string"),
            ("/custom/signature", json!("sha512:ab"), "sha256:"),
        ];
        for (at, value, reason) in cases {
            let mut entry = target().to_entry();
            *entry.pointer_mut(at).expect("the member is there") = value;
            let error = read(&path, &entry).expect_err(reason);
            assert!(error.to_string().contains(reason), "{at}: {error}");
        }
        for (path, reason) in [
            ("shuttle", "name/version"),
            ("../1.0.0-rc.1+build", "the bundle's name"),
            ("shuttle/1.0.0-rc.1+build/2", "the bundle's version"),
            ("shuttle/2.0.0", "another bundle"),
        ] {
            let error = read(path, &target().to_entry()).expect_err(reason);
            assert!(error.to_string().contains(reason), "{path}: {error}");
        }
    }
}
