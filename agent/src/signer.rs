//! The device's own key: all that goes up is signed with it.
//!
//! A file that others can read is refused: whoever reads it speaks for the device.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};

use selvedge_link::Publish;
use selvedge_trust::{DeviceKey, MessageSigner};
use selvedge_wire::{DeviceId, Message, Topic, Topics, encode};

use crate::{error::Error, limits::KEY_BYTES_MAX};

/// What group and others may do with a file.
const OTHERS_MODE: u32 = 0o077;
/// The bits of a mode that are permissions.
const PERMISSIONS_MODE: u32 = 0o7777;

/// Reads the device's key.
///
/// # Errors
/// [`Error`] names the file, if it cannot be read, others can read it, or it holds no key.
pub(crate) fn device_key(path: &Path) -> Result<DeviceKey, Error> {
    let failed = |source: io::Error| Error::KeyFile { path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & PERMISSIONS_MODE;
    if mode & OTHERS_MODE != 0 {
        return Err(Error::KeyExposed { path: path.into(), mode });
    }
    let mut bytes = Vec::new();
    file.take(KEY_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    DeviceKey::from_pkcs8(&bytes).map_err(|source| Error::Key { path: path.into(), source })
}

/// Makes the messages of one device: named by its topics, signed with its key.
#[derive(Clone)]
pub(crate) struct Signer {
    key: Arc<dyn MessageSigner>,
    topics: Topics,
    device: DeviceId,
}

impl Signer {
    pub(crate) fn new(key: Arc<dyn MessageSigner>, topics: Topics, device: DeviceId) -> Self {
        Self { key, topics, device }
    }

    /// A message that the broker keeps for those who come later.
    pub(crate) fn retained(
        &self,
        topic: impl Fn(DeviceId) -> Topic,
        message: &impl Message,
    ) -> Publish {
        let topic = self.topics.name(&topic(self.device.clone()));
        let payload = self.sign(&topic, encode(message));
        Publish::retained(topic, payload)
    }

    /// A message for those who listen at the time; `body` is the message encoded.
    pub(crate) fn passing(&self, topic: impl Fn(DeviceId) -> Topic, body: Vec<u8>) -> Publish {
        let topic = self.topics.name(&topic(self.device.clone()));
        let payload = self.sign(&topic, body);
        Publish::new(topic, payload)
    }

    fn sign(&self, topic: &str, body: Vec<u8>) -> Vec<u8> {
        encode(&self.key.sign_message(topic, body))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use selvedge_trust::SystemRandom;
    use selvedge_wire::{SIGNED_OVERHEAD_BYTES, Signed, Stream, decode};

    use super::*;
    use crate::error::{ErrorKind, one_line};

    fn key() -> DeviceKey {
        DeviceKey::generate(&SystemRandom::new()).expect("the system has random bytes")
    }

    #[expect(clippy::disallowed_methods, reason = "a test's file needs no durability")]
    fn write(path: &Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).expect("the folder is writable");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the file is ours");
    }

    #[test]
    fn a_key_is_read_only_from_a_file_that_is_the_agents_alone() {
        let folder = tempfile::tempdir().expect("the machine has a temporary folder");
        let path = folder.path().join("device.pk8");
        let key = key();
        for (mode, is_taken) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)]
        {
            write(&path, key.to_pkcs8(), mode);
            match device_key(&path) {
                Ok(read) => {
                    assert!(is_taken, "{mode:o}");
                    assert_eq!(read.public_key(), key.public_key());
                }
                Err(error) => {
                    assert!(!is_taken, "{mode:o}: {error}");
                    let text = one_line(&error);
                    assert!(text.contains("device.pk8") && text.contains("chmod 600"), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_missing_file_and_one_without_a_key_are_named() {
        let folder = tempfile::tempdir().expect("the machine has a temporary folder");
        let path = folder.path().join("device.pk8");
        let missing = device_key(&path).expect_err("there is no file");
        assert!(one_line(&missing).contains("selvedge device add"), "{missing}");
        write(&path, b"no key", 0o600);
        let malformed = device_key(&path).expect_err("it is no key");
        for error in [missing, malformed] {
            assert_eq!(error.kind(), ErrorKind::Operator);
            assert!(error.to_string().contains("device.pk8"), "{error}");
        }
    }

    #[test]
    fn a_message_is_signed_for_its_topic_and_no_longer_than_stated() {
        let key = Arc::new(key());
        let topics = Topics::new(&"demo".parse().expect("the name is well formed"));
        let device: DeviceId = "line-1".parse().expect("the name is well formed");
        let signer = Signer::new(key.clone(), topics.clone(), device.clone());
        for len in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
            let body = vec![7; len];
            let publish =
                signer.passing(|device| Topic::Stream(device, Stream::Events), body.clone());
            let topic = topics.name(&Topic::Stream(device.clone(), Stream::Events));
            assert!(publish.payload.len() <= len + SIGNED_OVERHEAD_BYTES, "{len}");
            let signed: Signed = decode(&publish.payload).expect("our own message");
            assert_eq!((&publish.topic, &signed.body), (&topic, &body));
            assert!(key.public_key().verify_message(&topic, &signed));
        }
    }
}
