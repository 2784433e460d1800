//! Public keys and their names.

use std::{fmt, str::FromStr};

use ring::{digest, signature};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};
use serde_json::json;

use crate::{canonical::canonical_form, hex};

/// The longest key id, in bytes.
pub const KEY_ID_BYTES_MAX: usize = 128;

/// What a document calls a key.
///
/// Ours are the SHA-256 of the key's canonical form, in hexadecimal digits. A root may choose others
/// (TUF 1.0 §4.2), so signatures are counted by key, never by id alone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = (1..=KEY_ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        good.then(|| Self(text.into()))
            .ok_or_else(|| format!("a key id is 1 to {KEY_ID_BYTES_MAX} visible ASCII characters"))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A public key, in documents `{"keytype": "ed25519", "keyval": {"public": hex}, "scheme": "ed25519"}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(Material);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Material {
    Ed25519([u8; 32]),
}

impl PublicKey {
    /// An Ed25519 key (RFC 8032).
    pub const fn ed25519(public: [u8; 32]) -> Self {
        Self(Material::Ed25519(public))
    }

    /// The SHA-256 of the key's canonical form.
    pub fn id(&self) -> KeyId {
        let Material::Ed25519(public) = &self.0;
        let object = json!({
            "keytype": "ed25519",
            "keyval": { "public": hex::encode(public) },
            "scheme": "ed25519",
        });
        let bytes = canonical_form(&object).expect("a key object holds no numbers");
        KeyId(hex::encode(digest::digest(&digest::SHA256, &bytes).as_ref()))
    }

    /// Whether `signature` is this key's signature of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Material::Ed25519(public) = &self.0;
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, public);
        key.verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Material::Ed25519(public) = &self.0;
        write!(f, "ed25519:{}", hex::encode(public))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Material::Ed25519(public) = &self.0;
        let mut object = serializer.serialize_struct("Key", 3)?;
        object.serialize_field("keytype", "ed25519")?;
        object.serialize_field("keyval", &KeyValue { public: hex::encode(public) })?;
        object.serialize_field("scheme", "ed25519")?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let KeyObject { keytype, scheme, keyval } = KeyObject::deserialize(deserializer)?;
        if (keytype.as_str(), scheme.as_str()) != ("ed25519", "ed25519") {
            return Err(de::Error::custom(format_args!(
                "a key of type {keytype:?} and scheme {scheme:?} is not supported; ed25519 is"
            )));
        }
        hex::decode(&keyval.public)
            .map(Self::ed25519)
            .ok_or_else(|| de::Error::custom("an Ed25519 key is 64 lower-case hexadecimal digits"))
    }
}

#[derive(Deserialize)]
struct KeyObject {
    keytype: String,
    scheme: String,
    keyval: KeyValue,
}

#[derive(Serialize, Deserialize)]
struct KeyValue {
    public: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "edcd0a32a07dce33f7c7873aaffbff36d20ea30787574ead335eefd337e4dacd";

    fn parse(json: &str) -> Result<PublicKey, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_id_is_the_one_securesystemslib_computes() {
        let key = parse(&format!(
            r#"{{"scheme":"ed25519","keyval":{{"public":"{PUBLIC}"}},"keytype":"ed25519"}}"#
        ))
        .expect("the key is well formed");
        assert_eq!(
            key.id().as_str(),
            "2345a90ad8d76f3677f9ad6695b0ba0b5c7b7fbf27fb0ed35fbdf7b71264a679"
        );
    }

    #[test]
    fn a_key_of_another_kind_or_length_is_refused() {
        for (keytype, scheme, public, reason) in [
            ("rsa", "rsassa-pss-sha256", PUBLIC, "not supported"),
            ("ed25519", "ed448", PUBLIC, "not supported"),
            ("ed25519", "ed25519", &PUBLIC[2..], "64 lower-case"),
            ("ed25519", "ed25519", &PUBLIC.to_uppercase(), "64 lower-case"),
        ] {
            let json = format!(
                r#"{{"keytype":"{keytype}","scheme":"{scheme}","keyval":{{"public":"{public}"}}}}"#
            );
            let error = parse(&json).expect_err(&json);
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_first_test_vector_of_rfc_8032_verifies() {
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let signature = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";
        let key = PublicKey::ed25519(hex::decode(public).expect("the vector is hexadecimal"));
        let signature: [u8; 64] = hex::decode(signature).expect("the vector is hexadecimal");
        assert!(key.verifies(b"", &signature));
        assert!(!key.verifies(b"x", &signature));
        assert!(!key.verifies(b"", &signature[..63]));
    }
}
