//! Passwords of devices: made here, shown once, kept as salted hashes.
//!
//! A password has 256 random bits, so one keyed hash is enough: there is nothing to guess that a slow
//! hash would protect.

use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};

const SALT_BYTES: usize = 16;
const PASSWORD_BYTES: usize = 32;

/// What is kept of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordHash {
    /// Random, one per password.
    pub salt: Vec<u8>,
    /// HMAC-SHA-256 of the password's text under the salt.
    pub hash: Vec<u8>,
}

impl PasswordHash {
    /// Whether `password` is the one; takes the same time for each that is not.
    pub fn admits(&self, password: &[u8]) -> bool {
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &self.salt), password, &self.hash).is_ok()
    }
}

/// A new password, and what to keep of it.
pub fn new_password() -> (String, PasswordHash) {
    let password = hex(&random::<PASSWORD_BYTES>());
    let salt = random::<SALT_BYTES>();
    let hash = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salt), password.as_bytes());
    (password, PasswordHash { salt: salt.to_vec(), hash: hash.as_ref().to_vec() })
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_itself_is_admitted() {
        let (password, kept) = new_password();
        let (other, _) = new_password();
        assert!(kept.admits(password.as_bytes()));
        assert_ne!(password, other);
        for wrong in [other.as_str(), "", &password[1..], &password.to_uppercase()] {
            assert!(!kept.admits(wrong.as_bytes()), "{wrong:?}");
        }
    }
}
