//! Model signatures: OpenSSF Model Signing v1.0, with a key of P-256, over a tree of files.
//!
//! A signature is a Sigstore bundle (JSON) around a DSSE envelope around an in-toto statement, whose
//! predicate lists every file of the tree with its SHA-256; the statement's subject is the digest over
//! these digests. What PyPI `model-signing` signs with a key is verified here, and the other way round.
//!
//! Verifying is stricter than the format asks for in two ways: paths that a signature wants to be ignored
//! are not, since every file that is there must be signed; and there is exactly one signature. Files in
//! shards, digests other than SHA-256, and signatures with certificates are not supported, and said to be so.
//!
//! Vocabulary (DSSE, in-toto, Sigstore): the *payload* is the statement's bytes; what is signed is their
//! *pre-authentication encoding*; the *hint* says which key signed; a *resource* is a file with its digest.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{digest, rand::SecureRandom};
use selvedge_wire::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, digest_of};

mod key;
#[cfg(test)]
mod tests;
mod tree;

pub use key::{KEY_FILE_BYTES_MAX, SigningKey, VerifyingKey};
pub use tree::{TREE_FILES_MAX, TREE_PATH_BYTES_MAX, Tree};

/// The largest signature.
pub const SIGNATURE_BYTES_MAX: usize = 1 << 20;

/// What errors call the signature.
const PART: &str = "the model signature";
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";
const METHOD: &str = "files";
const ALGORITHM: &str = "sha256";
/// What `model-signing` leaves out of a tree unless it is told otherwise.
const LEFT_OUT: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// Signs a tree: the bytes of a signature. `name` is what people call the model; `ignore` is the path of
/// the signature itself, where it will lie in the tree.
///
/// # Errors
/// [`Error::Malformed`] for a tree without files, or with files that `model-signing` would leave out;
/// [`Error::TooLarge`]; [`Error::Key`] if `random` fails.
pub fn sign(
    tree: &Tree,
    name: &str,
    ignore: Option<&str>,
    key: &SigningKey,
    random: &dyn SecureRandom,
) -> Result<Vec<u8>, Error> {
    if tree.is_empty() {
        return Err(malformed_part("the tree", "it has no files"));
    }
    let resources: Vec<Resource> = tree.files().map(Resource::of).collect();
    let left_out = |name: &str| LEFT_OUT.contains(&name.split('/').next().unwrap_or_default());
    if let Some(resource) = resources.iter().find(|resource| left_out(&resource.name)) {
        let reason = "signatures of models leave such files out; take it away";
        return Err(malformed_part(&resource.name, reason));
    }
    let sha256 = root_digest(resources.iter().map(|resource| resource.digest.as_str()))?;
    let statement = Statement {
        statement_type: STATEMENT_TYPE.into(),
        subject: vec![Subject { name: name.into(), digest: SubjectDigest { sha256 } }],
        predicate_type: PREDICATE_TYPE.into(),
        predicate: Predicate {
            serialization: Serialization {
                method: METHOD.into(),
                hash_type: ALGORITHM.into(),
                allow_symlinks: false,
                ignore_paths: ignore.into_iter().map(str::to_owned).collect(),
            },
            resources,
        },
    };
    let payload = to_json(&statement);
    let signature = key.sign(&pre_authentication_encoding(&payload), random)?;
    let bundle = to_json(&SigstoreBundle {
        media_type: MEDIA_TYPE.into(),
        verification_material: VerificationMaterial {
            public_key: Some(PublicKeyIdentifier {
                hint: Some(key.public_key().hint().hex().to_string()),
            }),
            tlog_entries: Vec::new(),
        },
        dsse_envelope: Some(Envelope {
            payload: STANDARD.encode(&payload),
            payload_type: PAYLOAD_TYPE.into(),
            signatures: vec![EnvelopeSignature {
                sig: STANDARD.encode(signature),
                keyid: String::new(),
            }],
        }),
    });
    check_len(&bundle)?;
    Ok(bundle)
}

/// Checks that `signature` is one by `key` over exactly the files of `tree`. The digest is that of the
/// signature's bytes.
///
/// # Errors
/// [`Error::Signature`] for another key and for bytes that nobody signed; [`Error::Missing`],
/// [`Error::Unsigned`] and [`Error::Digest`] for a file; [`Error::Malformed`], [`Error::Unsupported`],
/// [`Error::TooLarge`].
pub fn verify(tree: &Tree, signature: &[u8], key: &VerifyingKey) -> Result<Digest, Error> {
    check_len(signature)?;
    let bundle: SigstoreBundle = from_json("", signature)?;
    let payload = authentic_payload(&bundle, key)?;
    let statement: Statement = from_json("its statement: ", &payload)?;
    check_kind("statement", STATEMENT_TYPE, &statement.statement_type)?;
    check_kind("predicate", PREDICATE_TYPE, &statement.predicate_type)?;
    check_kind("serialization", METHOD, &statement.predicate.serialization.method)?;
    check_kind("digest", ALGORITHM, &statement.predicate.serialization.hash_type)?;
    let [subject] = statement.subject.as_slice() else {
        let reason = format!("it has {} subjects instead of one", statement.subject.len());
        return Err(malformed(&reason));
    };
    let resources = statement.predicate.resources;
    let root = root_digest(resources.iter().map(|resource| resource.digest.as_str()))?;
    if root != subject.digest.sha256 {
        return Err(malformed("the digest of its subject is not that of its resources"));
    }
    check_files(tree, &resources)?;
    Ok(digest_of(signature))
}

/// The payload, once the one signature of it is known to be by `key`.
fn authentic_payload(bundle: &SigstoreBundle, key: &VerifyingKey) -> Result<Vec<u8>, Error> {
    check_kind("Sigstore bundle", MEDIA_TYPE, &bundle.media_type)?;
    let Some(envelope) = &bundle.dsse_envelope else {
        return Err(unsupported("it signs something other than a DSSE envelope"));
    };
    check_kind("payload", PAYLOAD_TYPE, &envelope.payload_type)?;
    let Some(identifier) = &bundle.verification_material.public_key else {
        return Err(unsupported("it was not made with a plain key"));
    };
    let [signature] = envelope.signatures.as_slice() else {
        let reason = format!("it has {} signatures instead of one", envelope.signatures.len());
        return Err(refused(&reason));
    };
    // Signers before version 1.0 leave no hint.
    let hint = identifier.hint.as_deref().unwrap_or_default();
    if !hint.is_empty() && hint != key.hint().hex().to_string() {
        return Err(refused("another key made it"));
    }
    let payload = from_base64("payload", &envelope.payload)?;
    let signature = from_base64("signature", &signature.sig)?;
    if !key.verifies(&pre_authentication_encoding(&payload), &signature) {
        return Err(refused("the key did not sign these bytes"));
    }
    Ok(payload)
}

/// Every file is a resource, every resource is a file, and their digests are the same.
fn check_files(tree: &Tree, resources: &[Resource]) -> Result<(), Error> {
    let mut signed = BTreeSet::new();
    for Resource { name, algorithm, digest } in resources {
        check_kind("digest", ALGORITHM, algorithm)?;
        let found = tree.digest(name)?.ok_or_else(|| Error::Missing { part: name.clone() })?;
        if resource_digest(digest)? != found {
            return Err(Error::Digest { part: name.clone(), found });
        }
        if !signed.insert(name) {
            return Err(malformed(&format!("it names {name} twice")));
        }
    }
    let unsigned = tree.files().map(|(path, _)| path).find(|path| !signed.contains(path));
    unsigned.map_or(Ok(()), |part| Err(Error::Unsigned { part }))
}

/// The digest over the digests of all resources, in their order.
fn root_digest<'a>(digests: impl Iterator<Item = &'a str>) -> Result<String, Error> {
    let mut hasher = digest::Context::new(&digest::SHA256);
    for digest in digests {
        hasher.update(&resource_digest(digest)?.0);
    }
    let bytes = hasher.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
    Ok(Digest(bytes).hex().to_string())
}

fn resource_digest(hex: &str) -> Result<Digest, Error> {
    Digest::from_hex(hex).map_err(|_| malformed(&format!("{hex:?} is no SHA-256 digest")))
}

/// What is signed in place of the payload (DSSE v1.0).
fn pre_authentication_encoding(payload: &[u8]) -> Vec<u8> {
    let (kind, len_bytes) = (PAYLOAD_TYPE, payload.len());
    let mut message = format!("DSSEv1 {} {kind} {len_bytes} ", kind.len()).into_bytes();
    message.extend(payload);
    message
}

fn check_len(signature: &[u8]) -> Result<(), Error> {
    let (len_bytes, max_bytes) = (signature.len() as u64, SIGNATURE_BYTES_MAX as u64);
    if len_bytes <= max_bytes {
        return Ok(());
    }
    Err(Error::TooLarge { part: PART.into(), len_bytes, max_bytes })
}

fn check_kind(what: &str, supported: &str, found: &str) -> Result<(), Error> {
    if found == supported {
        return Ok(());
    }
    Err(unsupported(&format!("its {what} is {found:?}, only {supported:?} is")))
}

fn from_base64(what: &str, digits: &str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(digits).map_err(|error| malformed(&format!("its {what}: {error}")))
}

fn from_json<T: DeserializeOwned>(place: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| malformed(&format!("{place}{error}")))
}

fn to_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("text and lists of text are JSON")
}

fn malformed(reason: &str) -> Error {
    malformed_part(PART, reason)
}

fn malformed_part(part: &str, reason: &str) -> Error {
    Error::Malformed { part: part.into(), reason: reason.into() }
}

fn unsupported(reason: &str) -> Error {
    Error::Unsupported { part: PART.into(), reason: reason.into() }
}

fn refused(reason: &str) -> Error {
    Error::Signature { reason: reason.into() }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SigstoreBundle {
    media_type: String,
    verification_material: VerificationMaterial,
    dsse_envelope: Option<Envelope>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VerificationMaterial {
    public_key: Option<PublicKeyIdentifier>,
    /// Entries of a transparency log, which a key does not need. Never any here.
    #[serde(default, skip_deserializing)]
    tlog_entries: Vec<()>,
}

#[derive(Serialize, Deserialize)]
struct PublicKeyIdentifier {
    hint: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Serialize, Deserialize)]
struct EnvelopeSignature {
    sig: String,
    #[serde(default)]
    keyid: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    statement_type: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Serialize, Deserialize)]
struct Subject {
    name: String,
    digest: SubjectDigest,
}

#[derive(Serialize, Deserialize)]
struct SubjectDigest {
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Serialize, Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    allow_symlinks: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ignore_paths: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

impl Resource {
    fn of((name, digest): (String, Digest)) -> Self {
        Self { name, algorithm: ALGORITHM.into(), digest: digest.hex().to_string() }
    }
}
