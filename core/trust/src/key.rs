//! Public keys and their names.

use std::{fmt, str::FromStr};

use ring::{digest, signature};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};
use serde_json::Value;

#[cfg(any(test, feature = "every-key"))]
use crate::spki;
use crate::{
    KEYS_MAX,
    canonical::canonical_form,
    fields::{Fields, Read},
    hex,
};

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

/// A public key: Ed25519; with the feature `every-key` also ECDSA on P-256 and RSA-PSS, both with SHA-256.
///
/// In documents `{"keytype": …, "keyval": {"public": …}, "scheme": …}`, where an Ed25519 key is written
/// in hexadecimal digits and the others are PEM; an ECDSA key may also be its point in hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(Material);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Material {
    Ed25519([u8; 32]),
    /// The point, uncompressed (SEC 1).
    #[cfg(any(test, feature = "every-key"))]
    Ecdsa([u8; 65]),
    /// SubjectPublicKeyInfo in DER, known to hold an RSA key.
    #[cfg(any(test, feature = "every-key"))]
    Rsa(Vec<u8>),
}

impl PublicKey {
    /// An Ed25519 key (RFC 8032).
    pub const fn ed25519(public: [u8; 32]) -> Self {
        Self(Material::Ed25519(public))
    }

    /// An Ed25519 key of 64 lower-case hexadecimal digits, or nothing.
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text).map(Self::ed25519)
    }

    /// The key's bytes: 32 of an Ed25519 key, the point of an ECDSA key, information in DER about an RSA key.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.0 {
            Material::Ed25519(public) => public.to_vec(),
            #[cfg(any(test, feature = "every-key"))]
            Material::Ecdsa(point) => point.to_vec(),
            #[cfg(any(test, feature = "every-key"))]
            Material::Rsa(info) => info.clone(),
        }
    }

    /// Those bytes as lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(&self.to_bytes())
    }

    /// The SHA-256 of the key's canonical form.
    pub fn id(&self) -> KeyId {
        let object = serde_json::to_value(self).expect("a key is plain JSON");
        let bytes = canonical_form(&object).expect("a key object holds no numbers");
        KeyId(hex::encode(digest::digest(&digest::SHA256, &bytes).as_ref()))
    }

    /// Whether `signature` is this key's signature of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let (algorithm, public): (&dyn signature::VerificationAlgorithm, &[u8]) = match &self.0 {
            Material::Ed25519(public) => (&signature::ED25519, public),
            #[cfg(any(test, feature = "every-key"))]
            Material::Ecdsa(point) => (&signature::ECDSA_P256_SHA256_ASN1, point),
            #[cfg(any(test, feature = "every-key"))]
            Material::Rsa(info) => (
                &signature::RSA_PSS_2048_8192_SHA256,
                spki::rsa_key(info).expect("only information about an RSA key is kept"),
            ),
        };
        signature::UnparsedPublicKey::new(algorithm, public).verify(message, signature).is_ok()
    }

    fn public_text(&self) -> String {
        match &self.0 {
            Material::Ed25519(public) => hex::encode(public),
            #[cfg(any(test, feature = "every-key"))]
            Material::Ecdsa(point) => spki::to_pem(&spki::of_p256_point(point)),
            #[cfg(any(test, feature = "every-key"))]
            Material::Rsa(info) => spki::to_pem(info),
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Material::Ed25519(public) => write!(f, "ed25519:{}", hex::encode(public)),
            #[cfg(any(test, feature = "every-key"))]
            Material::Ecdsa(point) => write!(f, "ecdsa-p256:{}", hex::encode(point)),
            #[cfg(any(test, feature = "every-key"))]
            Material::Rsa(info) => write!(f, "rsa:{}", hex::encode(info)),
        }
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (keytype, scheme) = match &self.0 {
            Material::Ed25519(_) => ("ed25519", "ed25519"),
            #[cfg(any(test, feature = "every-key"))]
            Material::Ecdsa(_) => ("ecdsa", "ecdsa-sha2-nistp256"),
            #[cfg(any(test, feature = "every-key"))]
            Material::Rsa(_) => ("rsa", "rsassa-pss-sha256"),
        };
        let mut object = serializer.serialize_struct("Key", 3)?;
        object.serialize_field("keytype", keytype)?;
        object.serialize_field("keyval", &KeyValue { public: self.public_text() })?;
        object.serialize_field("scheme", scheme)?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let key = Fields::of(&value).and_then(read_key).map_err(de::Error::custom)?;
        key.ok_or_else(|| de::Error::custom("a key of this type and scheme is not supported"))
    }
}

/// Keys by id, in the order of their ids.
pub(crate) type Keys = Vec<(KeyId, PublicKey)>;

/// Reads keys by id. Those of a kind that this build does not know are left out: nothing that they
/// sign is believed.
pub(crate) fn read_keys(fields: Fields<'_>) -> Read<Keys> {
    if fields.len() > KEYS_MAX {
        return Err(format!("it has more than {KEYS_MAX} keys"));
    }
    let mut keys = Keys::new();
    for (id, key) in fields.iter() {
        if let Some(key) = read_key(Fields::of(key)?)? {
            let id = id.parse()?;
            keys.insert(keys.partition_point(|(before, _)| *before < id), (id, key));
        }
    }
    Ok(keys)
}

/// Reads the ids of the keys that hold a role.
pub(crate) fn read_key_ids(ids: &[Value]) -> Read<Vec<KeyId>> {
    if ids.len() > KEYS_MAX {
        return Err(format!("a role has more than {KEYS_MAX} keys"));
    }
    let mut distinct = Vec::new();
    for id in ids {
        let id: KeyId = id.as_str().unwrap_or_default().parse()?;
        if distinct.contains(&id) {
            return Err(format!("the key {id} holds a role twice"));
        }
        distinct.push(id);
    }
    Ok(distinct)
}

/// A key, or nothing if it is of a kind that this build does not know.
fn read_key(object: Fields<'_>) -> Read<Option<PublicKey>> {
    let kind = (object.text("keytype")?, object.text("scheme")?);
    let keyval = object.fields("keyval")?;
    let material = match kind {
        ("ed25519", "ed25519") => hex::decode(keyval.text("public")?)
            .map(Material::Ed25519)
            .ok_or("an Ed25519 key is 64 lower-case hexadecimal digits")?,
        #[cfg(any(test, feature = "every-key"))]
        ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => {
            p256_point(keyval.text("public")?)
                .map(Material::Ecdsa)
                .ok_or("an ECDSA key is a point of P-256, in PEM or uncompressed in hexadecimal")?
        }
        #[cfg(any(test, feature = "every-key"))]
        ("rsa", "rsassa-pss-sha256") => spki::from_pem(keyval.text("public")?)
            .filter(|info| spki::rsa_key(info).is_some())
            .map(Material::Rsa)
            .ok_or("an RSA key is SubjectPublicKeyInfo in PEM")?,
        _ => return Ok(None),
    };
    Ok(Some(PublicKey(material)))
}

#[derive(Serialize)]
struct KeyValue {
    public: String,
}

#[cfg(any(test, feature = "every-key"))]
fn p256_point(text: &str) -> Option<[u8; 65]> {
    hex::decode(text).or_else(|| spki::p256_point(&spki::from_pem(text)?))
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
            ("rsa", "rsa-pkcs1v15-sha256", PUBLIC, "not supported"),
            ("rsa", "rsassa-pss-sha256", PUBLIC, "SubjectPublicKeyInfo"),
            ("ecdsa", "ecdsa-sha2-nistp384", PUBLIC, "not supported"),
            ("ecdsa", "ecdsa-sha2-nistp256", PUBLIC, "a point of P-256"),
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
        assert_eq!(PublicKey::from_hex(&key.to_hex()), Some(key.clone()));
        assert!(key.verifies(b"", &signature));
        assert!(!key.verifies(b"x", &signature));
        assert!(!key.verifies(b"", &signature[..63]));
    }
}
