//! The envelope of every document: `{"signed": …, "signatures": [{"keyid": …, "sig": …}]}`.

use serde_json::{Map, Value};

use crate::{
    DocumentKind, Error, KeyId, PublicKey, Role, Root, SPEC_VERSION, UnixMillis,
    canonical::canonical_form,
    fields::{Fields, Read},
    hex,
    json::parse_strict,
    key::Keys,
};

/// The most signatures on one document.
pub const SIGNATURES_MAX: usize = 64;

/// A document as it was received: nothing in it is believed yet.
pub(crate) struct Envelope {
    signed: Signed,
    signed_bytes: Vec<u8>,
    signatures: Vec<Signature>,
}

struct Signature {
    keyid: KeyId,
    sig: String,
}

impl Envelope {
    pub(crate) fn parse(
        document: DocumentKind,
        bytes: &[u8],
        max_bytes: usize,
    ) -> Result<Self, Error> {
        if bytes.len() > max_bytes {
            return Err(Error::TooLong { document, len_bytes: bytes.len(), max_bytes });
        }
        let malformed = |reason: String| Error::Malformed { document, reason };
        let missing = |name: &str| malformed(format!("the member {name:?} is missing"));
        let mut value = parse_strict(bytes).map_err(malformed)?;
        let members = value.as_object_mut().ok_or_else(|| {
            malformed("it is not an object of \"signed\" and \"signatures\"".into())
        })?;
        let value = members.get_mut("signed").map(Value::take).ok_or_else(|| missing("signed"))?;
        let signatures = members.get("signatures").ok_or_else(|| missing("signatures"))?;
        let signatures = read_signatures(signatures).map_err(malformed)?;
        let signed_bytes =
            canonical_form(&value).expect("strict parsing lets only integers through");
        Ok(Self { signed: Signed { document, value }, signed_bytes, signatures })
    }

    /// Believes the document if enough distinct keys of `role` have signed it.
    pub(crate) fn verify(self, root: &Root, role: Role) -> Result<Signed, Error> {
        self.check(root, role)?;
        Ok(self.signed)
    }

    /// Believes the document if enough distinct keys of those that a role is delegated to signed it.
    pub(crate) fn verify_delegated(self, holders: &Holders) -> Result<Signed, Error> {
        let valid = self.signers(holders);
        if valid < holders.threshold {
            return Err(self.below_threshold(Role::Targets, valid, holders.threshold));
        }
        Ok(self.signed)
    }

    /// Whether enough distinct keys of `role` have signed the document.
    pub(crate) fn check(&self, root: &Root, role: Role) -> Result<(), Error> {
        let holders = root.holders(role);
        let valid = self.signers(&holders);
        if valid >= holders.threshold {
            return Ok(());
        }
        let elsewhere = Role::ALL
            .into_iter()
            .find(|&other| other != role && self.signers(&root.holders(other)) > 0);
        Err(match elsewhere {
            Some(signed_by) if valid == 0 => {
                Error::WrongRole { document: self.signed.document, signed_by, needed: role }
            }
            _ => self.below_threshold(role, valid, holders.threshold),
        })
    }

    /// The document's content before any signature is checked: only a root vouches for itself.
    pub(crate) fn unverified(&self) -> &Signed {
        &self.signed
    }

    /// The document's content and its signatures, to be edited.
    #[cfg(any(test, feature = "sign"))]
    pub(crate) fn into_parts(self) -> (Value, Vec<Value>) {
        let entry = |it: Signature| serde_json::json!({ "keyid": it.keyid, "sig": it.sig });
        (self.signed.value, self.signatures.into_iter().map(entry).collect())
    }

    fn below_threshold(&self, role: Role, valid: usize, threshold: usize) -> Error {
        Error::Threshold { document: self.signed.document, role, valid, threshold }
    }

    /// How many distinct keys of `holders` have signed the document.
    pub(crate) fn signers(&self, holders: &Holders) -> usize {
        let mut signers: Vec<&PublicKey> = Vec::new();
        for signature in &self.signatures {
            if let Some(key) = self.signer(signature, holders)
                && !signers.contains(&key)
            {
                signers.push(key);
            }
        }
        signers.len()
    }

    fn signer<'a>(&self, signature: &Signature, holders: &'a Holders) -> Option<&'a PublicKey> {
        let key = holders.key(&signature.keyid)?;
        let bytes = hex::decode_any(&signature.sig)?;
        key.verifies(&self.signed_bytes, &bytes).then_some(key)
    }
}

fn read_signatures(value: &Value) -> Read<Vec<Signature>> {
    let list = value.as_array().ok_or("signatures: invalid type: they are not a list")?;
    if list.len() > SIGNATURES_MAX {
        return Err(format!("it has more than {SIGNATURES_MAX} signatures"));
    }
    let mut signatures: Vec<Signature> = Vec::new();
    for signature in list {
        let fields = Fields::of(signature)?;
        let keyid: KeyId = fields.parsed("keyid")?;
        if signatures.iter().any(|other| other.keyid == keyid) {
            return Err(format!("it has two signatures by the key {keyid}"));
        }
        signatures.push(Signature { keyid, sig: fields.text("sig")?.into() });
    }
    Ok(signatures)
}

/// The keys that hold a role, and how many of them must sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holders {
    pub(crate) keys: Keys,
    pub(crate) threshold: usize,
}

impl Holders {
    /// Those of `keys` that `ids` name.
    pub(crate) fn among(keys: &Keys, ids: &[KeyId], threshold: usize) -> Self {
        let held = keys.iter().filter(|(id, _)| ids.contains(id));
        Self { keys: held.cloned().collect(), threshold }
    }

    /// Whether one of these keys no longer holds the role according to `next`.
    pub(crate) fn lose_a_key(&self, next: &Self) -> bool {
        self.keys.iter().any(|(_, key)| !next.keys.iter().any(|(_, kept)| kept == key))
    }

    fn key(&self, id: &KeyId) -> Option<&PublicKey> {
        self.keys.iter().find_map(|(held, key)| (held == id).then_some(key))
    }
}

/// The content of a document. Who takes it out of its envelope has checked the signatures.
pub(crate) struct Signed {
    document: DocumentKind,
    value: Value,
}

impl Signed {
    /// Reads the content with `read`, after its type and the version of the specification.
    pub(crate) fn read<T>(&self, read: impl FnOnce(Fields<'_>) -> Read<T>) -> Result<T, Error> {
        let document = self.document;
        let malformed = |reason| Error::Malformed { document, reason };
        self.check_kind()?;
        Fields::of(&self.value).and_then(read).map_err(malformed)
    }

    /// Takes the object that is the member `name` out of the content.
    pub(crate) fn take_object(&mut self, name: &str) -> Map<String, Value> {
        match self.value.get_mut(name).map(Value::take) {
            Some(Value::Object(members)) => members,
            _ => Map::new(),
        }
    }

    fn check_kind(&self) -> Result<(), Error> {
        let document = self.document;
        let text = |name: &str| self.value.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("_type") != document.as_str() {
            return Err(Error::OtherType { expected: document, met: quoted(text("_type")) });
        }
        let met = text("spec_version");
        if major(met) != major(SPEC_VERSION) {
            return Err(Error::SpecVersion { document, met: quoted(met) });
        }
        Ok(())
    }
}

pub(crate) fn check_expiry(
    document: DocumentKind,
    expires: UnixMillis,
    now: UnixMillis,
) -> Result<(), Error> {
    if expires <= now { Err(Error::Expired { document, expires, now }) } else { Ok(()) }
}

fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or_default()
}

// What is quoted back is bounded: the text may come from a stranger.
fn quoted(text: &str) -> String {
    text.chars().take(32).collect()
}
