//! The envelope of every document: `{"signed": …, "signatures": [{"keyid": …, "sig": …}]}`.

use std::collections::BTreeSet;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    DocumentKind, Error, KeyId, PublicKey, Role, Root, SPEC_VERSION, UnixMillis,
    canonical::{canonical_form, parse_strict},
    hex,
};

/// The most signatures on one document.
pub const SIGNATURES_MAX: usize = 64;

/// A document as it was received: nothing in it is believed yet.
pub(crate) struct Envelope {
    document: DocumentKind,
    signed: Value,
    signed_bytes: Vec<u8>,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
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
        let signed = members.remove("signed").ok_or_else(|| missing("signed"))?;
        let signatures = members.remove("signatures").ok_or_else(|| missing("signatures"))?;
        let signatures = Vec::<Signature>::deserialize(signatures)
            .map_err(|error| malformed(format!("signatures: {error}")))?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(malformed(format!("it has more than {SIGNATURES_MAX} signatures")));
        }
        let signed_bytes =
            canonical_form(&signed).expect("strict parsing lets only integers through");
        Ok(Self { document, signed, signed_bytes, signatures })
    }

    /// Believes the document if enough distinct keys of `role` have signed it.
    pub(crate) fn verify(self, root: &Root, role: Role) -> Result<Signed, Error> {
        let threshold = root.threshold(role);
        let signers: BTreeSet<&PublicKey> = self
            .signatures
            .iter()
            .filter_map(|signature| self.signer(signature, root, role))
            .collect();
        if signers.len() >= threshold {
            return Ok(self.believed());
        }
        let elsewhere = Role::ALL.into_iter().find(|&other| {
            other != role
                && self
                    .signatures
                    .iter()
                    .any(|signature| self.signer(signature, root, other).is_some())
        });
        Err(match elsewhere {
            Some(signed_by) if signers.is_empty() => {
                Error::WrongRole { document: self.document, signed_by, needed: role }
            }
            _ => {
                Error::Threshold { document: self.document, role, valid: signers.len(), threshold }
            }
        })
    }

    /// The document's content before any signature is checked: only a root vouches for itself.
    pub(crate) fn unverified(&self) -> Signed {
        Signed { document: self.document, value: self.signed.clone() }
    }

    fn believed(self) -> Signed {
        Signed { document: self.document, value: self.signed }
    }

    fn signer<'a>(
        &self,
        signature: &Signature,
        root: &'a Root,
        role: Role,
    ) -> Option<&'a PublicKey> {
        let key = root.key(role, &signature.keyid)?;
        let bytes: [u8; 64] = hex::decode(&signature.sig)?;
        key.verifies(&self.signed_bytes, &bytes).then_some(key)
    }
}

/// The content of a document whose signatures were checked.
pub(crate) struct Signed {
    document: DocumentKind,
    value: Value,
}

impl Signed {
    /// Reads the content, after its type and the version of the specification.
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T, Error> {
        let document = self.document;
        let text = |name: &str| self.value.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("_type") != document.as_str() {
            return Err(Error::OtherType { expected: document, met: quoted(text("_type")) });
        }
        let met = text("spec_version");
        if major(met) != major(SPEC_VERSION) {
            return Err(Error::SpecVersion { document, met: quoted(met) });
        }
        T::deserialize(self.value)
            .map_err(|error| Error::Malformed { document, reason: error.to_string() })
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
