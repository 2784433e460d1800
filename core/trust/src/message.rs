//! Signatures of messages between devices and the fleet.
//!
//! A device signs what it sends with a key of its own; the fleet, which was told the public half when
//! the device was enrolled, signs with the director's key. Both sign the topic with the message, so
//! that it cannot be carried to another.

use std::fmt;

use ring::rand::SecureRandom;
use selvedge_wire::{Signature, Signed, signing_input};

use crate::{Error, PublicKey, Role, TrustedRoot, private_key::PrivateKey};

/// Who can sign messages: a key in memory, or one that a chip keeps.
pub trait MessageSigner: Send + Sync {
    /// The key that verifies what this one signs.
    fn public_key(&self) -> &PublicKey;

    /// Signs `body` as a message on `topic`, the topic's full name.
    fn sign_message(&self, topic: &str, body: Vec<u8>) -> Signed;
}

/// The Ed25519 key that a device signs its messages with.
pub struct DeviceKey(PrivateKey);

impl DeviceKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`Error::Random`] if `random` fails.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, Error> {
        PrivateKey::generate(random).map(Self)
    }

    /// Reads a key from PKCS#8 version 2 (RFC 5958), as [`DeviceKey::to_pkcs8`] writes it.
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
}

impl MessageSigner for DeviceKey {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    fn sign_message(&self, topic: &str, body: Vec<u8>) -> Signed {
        signed_message(&self.0, topic, body)
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({:?})", self.public_key())
    }
}

#[cfg(any(test, feature = "sign"))]
impl MessageSigner for crate::SigningKey {
    fn public_key(&self) -> &PublicKey {
        self.private().public_key()
    }

    fn sign_message(&self, topic: &str, body: Vec<u8>) -> Signed {
        signed_message(self.private(), topic, body)
    }
}

impl PublicKey {
    /// Whether `signed` came on `topic`, the topic's full name, signed by this key.
    pub fn verify_message(&self, topic: &str, signed: &Signed) -> bool {
        self.verifies(&signing_input(topic, &signed.body), signed.signature.as_bytes())
    }
}

impl TrustedRoot {
    /// Whether `signed` came on `topic`, the topic's full name, signed by one of the director's keys.
    ///
    /// One key is enough whatever the director's threshold is: such messages order nothing.
    pub fn verify_message(&self, topic: &str, signed: &Signed) -> bool {
        self.root().keys(Role::Director).any(|(_, key)| key.verify_message(topic, signed))
    }
}

fn signed_message(key: &PrivateKey, topic: &str, body: Vec<u8>) -> Signed {
    let signature = Signature::new(key.sign(&signing_input(topic, &body)));
    Signed { body, signature }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, ErrorKind, Root, SigningKey, SystemRandom, UnixMillis};

    const TOPIC: &str = "selvedge/1/demo/up/line-1/state";

    fn device_key() -> DeviceKey {
        DeviceKey::generate(&SystemRandom::new()).expect("the system has random bytes")
    }

    #[test]
    fn a_message_is_believed_of_its_key_on_its_topic_alone() {
        let (key, other) = (device_key(), device_key());
        let signed = key.sign_message(TOPIC, b"body".to_vec());
        assert!(key.public_key().verify_message(TOPIC, &signed));
        assert!(!other.public_key().verify_message(TOPIC, &signed));
        for topic in ["selvedge/1/demo/up/line-2/state", "selvedge/1/demo/up/line-1/health", ""] {
            assert!(!key.public_key().verify_message(topic, &signed), "{topic}");
        }
        let moved = Signed { body: b"ebody".to_vec(), ..signed.clone() };
        assert!(!key.public_key().verify_message(&TOPIC[..TOPIC.len() - 1], &moved));
        let changed = Signed { body: b"bodY".to_vec(), ..signed };
        assert!(!key.public_key().verify_message(TOPIC, &changed));
    }

    #[test]
    fn a_device_key_reads_back_from_its_file() {
        let key = device_key();
        let again = DeviceKey::from_pkcs8(key.to_pkcs8()).expect("the key is well formed");
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(again.sign_message(TOPIC, vec![1]), key.sign_message(TOPIC, vec![1]));
        let error = DeviceKey::from_pkcs8(b"a key").expect_err("it is no key");
        assert_eq!(error.kind(), ErrorKind::Operator);
        assert!(!format!("{key:?}").contains("pkcs8"));
    }

    #[test]
    fn the_fleet_is_believed_by_any_of_the_directors_keys() {
        let new = || SigningKey::generate(&SystemRandom::new()).expect("there are random bytes");
        let (root_key, first, second) = (new(), new(), new());
        let one = |key: &SigningKey| Authority::one(key.public_key().clone());
        let keys = vec![first.public_key().clone(), second.public_key().clone()];
        let director = Authority { keys, threshold: 2 };
        let root = Root::new(1, UnixMillis(1000), &one(&root_key), &one(&root_key), &director);
        let root = TrustedRoot::pin(&root.sign(&[&root_key])).expect("the root is sound");
        for key in [&first, &second] {
            assert!(root.verify_message(TOPIC, &key.sign_message(TOPIC, vec![1])));
        }
        assert!(!root.verify_message(TOPIC, &root_key.sign_message(TOPIC, vec![1])));
    }
}
