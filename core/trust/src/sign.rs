//! Making keys and signatures. Devices build without this module.

use std::fmt;

use ring::{
    rand::SecureRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};

use crate::{
    BundleStatement, DesiredState, Error, PublicKey, Root, canonical::canonical_form, hex,
};

/// A private Ed25519 key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
    public: PublicKey,
}

impl SigningKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`Error::Random`] if `random` fails.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, Error> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(random).map_err(|_| Error::Random)?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    /// Reads a key from PKCS#8 version 2 (RFC 5958), as [`SigningKey::to_pkcs8`] writes it.
    ///
    /// # Errors
    /// [`Error::KeyMalformed`] if the bytes are something else.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes)
            .map_err(|error| Error::KeyMalformed { reason: error.to_string() })?;
        let public = pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes");
        Ok(Self { pair, pkcs8: bytes.into(), public: PublicKey::ed25519(public) })
    }

    /// The key in PKCS#8 version 2, not encrypted: whoever can read it can sign.
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key that verifies what this one signs.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Value {
        let signature = self.pair.sign(message);
        json!({ "keyid": self.public.id(), "sig": hex::encode(signature.as_ref()) })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.public)
    }
}

/// Signs `signed` with each of `keys`: the bytes of a document in its envelope.
///
/// # Panics
/// If `signed` holds a number that is not an integer, which has no canonical form.
pub fn sign_document(signed: &Value, keys: &[&SigningKey]) -> Vec<u8> {
    let message = canonical_form(signed).expect("what is signed holds no number but integers");
    let signatures: Vec<Value> = keys.iter().map(|key| key.sign(&message)).collect();
    json!({ "signed": signed, "signatures": signatures }).to_string().into_bytes()
}

impl Root {
    /// The signed document.
    pub fn sign(&self, keys: &[&SigningKey]) -> Vec<u8> {
        sign_document(&self.to_value(), keys)
    }
}

impl BundleStatement {
    /// The signed document.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        sign_document(&self.to_value(), &[key])
    }
}

impl DesiredState {
    /// The signed document.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        sign_document(&self.to_value(), &[key])
    }
}
