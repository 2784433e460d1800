//! What the fuzz targets share: one key, which holds every role, and the root that says so.
//!
//! A document that nobody signed is refused before it is read. So that the fuzzer comes further, a
//! document that begins with [`TO_SIGN`] is signed here, with whatever the fuzzer made of its content.

use std::sync::LazyLock;

use selvedge_trust::{Authority, Root, SigningKey, UnixMillis, sign_document};
use serde_json::{Value, json};

/// The time of all targets.
pub const NOW: UnixMillis = UnixMillis(1_795_194_480_000);
/// Marks what is to be signed.
pub const TO_SIGN: u8 = b'+';
/// The path that searches ask for.
pub const TARGET_PATH: &str = "shuttle/1.0.0";

/// The key, in PKCS#8. It protects nothing.
const KEY: &[u8] = include_bytes!("../key.pk8");
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// The key that holds every role.
pub fn key() -> &'static SigningKey {
    static READ: LazyLock<SigningKey> =
        LazyLock::new(|| SigningKey::from_pkcs8(KEY).expect("the file holds a key"));
    &READ
}

/// When documents of the corpus expire.
pub fn expires() -> UnixMillis {
    NOW.plus_seconds(365 * DAY_SECONDS)
}

/// The root that clients begin with, without its signature.
pub fn root() -> Value {
    let authority = Authority::one(key().public_key().clone());
    let signed = Root::new(1, expires(), &authority, &authority, &authority).sign(&[key()]);
    let mut document: Value = serde_json::from_slice(&signed).expect("it was just written");
    document["signed"].take()
}

/// The root that clients begin with.
pub fn signed_root() -> &'static [u8] {
    static SIGNED: LazyLock<Vec<u8>> = LazyLock::new(|| sign_document(&root(), &[key()]));
    &SIGNED
}

/// The bytes of a document of the fuzzer's: signed, if it asks for that and what it says can be.
pub fn document(input: &[u8]) -> Vec<u8> {
    let Some((&TO_SIGN, text)) = input.split_first() else { return input.to_vec() };
    match serde_json::from_slice(text) {
        Ok(signed) if has_canonical_form(&signed) => sign_document(&signed, &[key()]),
        _ => text.to_vec(),
    }
}

/// A document of the corpus, which is signed when it is used.
pub fn to_sign(signed: &Value) -> Vec<u8> {
    format!("{}{signed}", char::from(TO_SIGN)).into_bytes()
}

/// The same time and specification that every document of the corpus names.
pub fn header(kind: &str, version: u64) -> Value {
    json!({
        "_type": kind, "spec_version": selvedge_trust::SPEC_VERSION,
        "version": version, "expires": expires(),
    })
}

fn has_canonical_form(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(values) => values.iter().all(has_canonical_form),
        Value::Object(members) => members.values().all(has_canonical_form),
        _ => true,
    }
}
