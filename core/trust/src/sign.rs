//! Making keys and signatures. Devices build without this module.

use std::fmt;

use ring::rand::SecureRandom;
use serde_json::{Value, json};

use crate::{
    DesiredState, Error, PublicKey, Root, canonical::canonical_form, hex, private_key::PrivateKey,
};

/// A private Ed25519 key that signs documents.
pub struct SigningKey(PrivateKey);

impl SigningKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`Error::Random`] if `random` fails.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, Error> {
        PrivateKey::generate(random).map(Self)
    }

    /// Reads a key from PKCS#8 version 2 (RFC 5958), as [`SigningKey::to_pkcs8`] writes it.
    ///
    /// # Errors
    /// [`Error::KeyMalformed`] if the bytes are something else.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, Error> {
        PrivateKey::from_pkcs8(bytes).map(Self)
    }

    /// The key in PKCS#8 version 2, not encrypted: whoever can read it can sign.
    pub fn to_pkcs8(&self) -> &[u8] {
        self.0.to_pkcs8()
    }

    /// The key that verifies what this one signs.
    pub fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    /// The entry among a document's signatures for a document of this canonical form.
    pub(crate) fn sign(&self, message: &[u8]) -> Value {
        json!({ "keyid": self.public_key().id(), "sig": hex::encode(&self.0.sign(message)) })
    }

    pub(crate) fn private(&self) -> &PrivateKey {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.public_key())
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

impl DesiredState {
    /// The signed document.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        sign_document(&self.to_value(), &[key])
    }
}
