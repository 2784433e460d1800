//! A private Ed25519 key, as devices and the repository keep it.

use ring::{
    rand::SecureRandom,
    signature::{Ed25519KeyPair, KeyPair},
};

use crate::{Error, PublicKey};

/// The length of an Ed25519 signature, in bytes.
const SIGNATURE_BYTES: usize = 64;

pub(crate) struct PrivateKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
    public: PublicKey,
}

impl PrivateKey {
    pub(crate) fn generate(random: &dyn SecureRandom) -> Result<Self, Error> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(random).map_err(|_| Error::Random)?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    /// Reads PKCS#8 version 2 (RFC 5958).
    pub(crate) fn from_pkcs8(bytes: &[u8]) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes)
            .map_err(|error| Error::KeyMalformed { reason: error.to_string() })?;
        let public = pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes");
        Ok(Self { pair, pkcs8: bytes.into(), public: PublicKey::ed25519(public) })
    }

    pub(crate) fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.pair.sign(message);
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}
