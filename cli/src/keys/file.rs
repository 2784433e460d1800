//! Private keys at the desk: where they are kept, and the passphrase that some are kept under.
//!
//! A key is PKCS#8 version 2 (RFC 5958): bare in DER (`.pk8`), or under a passphrase in PEM (`.pem`), encrypted with
//! AES-256 by a key that scrypt derives (PBES2, RFC 8018).

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use pkcs8::der::pem::LineEnding;
use pkcs8::der::{SecretDocument, asn1::OctetString};
use pkcs8::pkcs5::pbes2;
use pkcs8::{EncryptedPrivateKeyInfoOwned, EncryptedPrivateKeyInfoRef};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use selvedge_trust::{PublicKey, SigningKey};

/// What the PEM of an encrypted key is labelled with.
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// The extension of a bare key.
const BARE_EXTENSION: &str = "pk8";
/// The extension of an encrypted key.
const ENCRYPTED_EXTENSION: &str = "pem";
/// The longest key file, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
/// The longest file with a passphrase, in bytes.
const PASSPHRASE_FILE_BYTES_MAX: u64 = 4 * 1024;

/// Where a private key is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In a file, bare or under a passphrase.
    File(PathBuf),
}

impl KeySource {
    /// The key of this name in a folder: `NAME.pk8` or `NAME.pem`.
    pub fn in_folder(folder: &Path, name: &str) -> Self {
        let bare = folder.join(name).with_extension(BARE_EXTENSION);
        let encrypted = folder.join(name).with_extension(ENCRYPTED_EXTENSION);
        Self::File(if !bare.exists() && encrypted.exists() { encrypted } else { bare })
    }

    /// The key, ready to sign.
    ///
    /// # Errors
    /// If it cannot be read, or not with this passphrase.
    pub fn open(&self, passphrase: &PassphraseArgs) -> Result<SigningKey> {
        let Self::File(path) = self;
        let bytes = read_limited(path, KEY_FILE_BYTES_MAX)?;
        let not_a_key = || format!("{} is not a private key", path.display());
        match str::from_utf8(&bytes) {
            Ok(text) if text.contains(ENCRYPTED) => {
                let bare = decrypt(text, &passphrase.read(path)?)
                    .with_context(|| format!("cannot open {}", path.display()))?;
                SigningKey::from_pkcs8(bare.as_bytes()).with_context(not_a_key)
            }
            _ => SigningKey::from_pkcs8(&bytes).with_context(not_a_key),
        }
    }
}

impl FromStr for KeySource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::File(PathBuf::from(text)))
    }
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::File(path) = self;
        path.display().fmt(f)
    }
}

/// The passphrase of keys that are encrypted
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PassphraseArgs {
    /// A file whose first line is the passphrase of an encrypted key; without it, it is asked for
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// The passphrase for the key in the file `key`.
    fn read(&self, key: &Path) -> Result<String> {
        match &self.passphrase_file {
            Some(file) => read_passphrase(file),
            None => ask(&format!("passphrase of {}: ", key.display())),
        }
    }
}

/// Whether new keys are encrypted
#[derive(Clone, Debug, Default, clap::Args)]
pub struct NewPassphraseArgs {
    /// Encrypt new keys with a passphrase, which is asked for
    #[arg(long, conflicts_with = "passphrase_file")]
    pub passphrase: bool,
    /// Encrypt new keys with the passphrase in the first line of this file
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl NewPassphraseArgs {
    /// The passphrase that new keys get, if they get one.
    pub fn read(&self) -> Result<Option<String>> {
        match &self.passphrase_file {
            Some(file) => read_passphrase(file).map(Some),
            None if self.passphrase => {
                let first = ask("new passphrase: ")?;
                ensure!(!first.is_empty(), "an empty passphrase protects nothing");
                ensure!(first == ask("once more: ")?, "the two passphrases differ");
                Ok(Some(first))
            }
            None => Ok(None),
        }
    }
}

/// Writes a new key that its owner alone can read; returns the file's name with its extension.
pub fn write_key(
    folder: &Path,
    name: &str,
    key: &SigningKey,
    passphrase: Option<&str>,
) -> Result<PathBuf> {
    let extension = if passphrase.is_some() { ENCRYPTED_EXTENSION } else { BARE_EXTENSION };
    let path = folder.join(format!("{name}.{extension}"));
    write_key_file(&path, key, passphrase)?;
    Ok(path)
}

/// Writes a new key into a file of any name.
pub fn write_key_file(path: &Path, key: &SigningKey, passphrase: Option<&str>) -> Result<()> {
    match passphrase {
        Some(passphrase) => {
            let pem = encrypt(key.to_pkcs8(), passphrase)
                .with_context(|| format!("cannot encrypt {}", path.display()))?;
            write_new(path, pem.as_bytes(), 0o600)
        }
        None => write_new(path, key.to_pkcs8(), 0o600),
    }
}

/// Writes a file that is not there yet.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a public key: 64 hexadecimal digits, a file that holds them, or a private key's file that is not encrypted.
pub fn read_public_key(text: &str) -> Result<PublicKey> {
    if let Some(key) = PublicKey::from_hex(text) {
        return Ok(key);
    }
    let path = Path::new(text);
    ensure!(
        path.exists(),
        "{text} is neither 64 hexadecimal digits nor a file; `selvedge keys show KEY` prints a public key"
    );
    let bytes = read_limited(path, KEY_FILE_BYTES_MAX)?;
    if let Ok(key) = SigningKey::from_pkcs8(&bytes) {
        return Ok(key.public_key().clone());
    }
    let text = String::from_utf8_lossy(&bytes);
    ensure!(
        !text.contains(ENCRYPTED),
        "{} is encrypted; give its public key, which `selvedge keys show {0}` prints",
        path.display()
    );
    PublicKey::from_hex(text.trim()).with_context(|| format!("{} holds no key", path.display()))
}

fn encrypt(pkcs8: &[u8], passphrase: &str) -> Result<String> {
    let parameters = pbes2::Parameters::generate();
    let info = EncryptedPrivateKeyInfoOwned {
        encrypted_data: OctetString::new(parameters.encrypt(passphrase, pkcs8)?)?,
        encryption_algorithm: parameters.into(),
    };
    let pem = SecretDocument::encode_msg(&info)?.to_pem(ENCRYPTED, LineEnding::LF)?;
    Ok(pem.to_string())
}

fn decrypt(pem: &str, passphrase: &str) -> Result<SecretDocument> {
    let (label, der) = SecretDocument::from_pem(pem).context("it is not PEM")?;
    ensure!(label == ENCRYPTED, "it is a {label}, not an {ENCRYPTED}");
    let info = EncryptedPrivateKeyInfoRef::try_from(der.as_bytes()).context("it is not PKCS#8")?;
    info.decrypt(passphrase).map_err(|_| anyhow::anyhow!("the passphrase is wrong"))
}

fn read_passphrase(file: &Path) -> Result<String> {
    let text = String::from_utf8(read_limited(file, PASSPHRASE_FILE_BYTES_MAX)?)
        .with_context(|| format!("{} is not text", file.display()))?;
    let line = text.lines().next().unwrap_or_default();
    ensure!(!line.is_empty(), "{} begins with an empty line, not a passphrase", file.display());
    Ok(line.to_owned())
}

/// Asks at the terminal, without showing what is typed.
fn ask(question: &str) -> Result<String> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    let Ok(mut terminal) = terminal else {
        bail!("a passphrase is needed, and there is no terminal to ask at; give --passphrase-file");
    };
    let shown = tcgetattr(&terminal).context("cannot read the terminal's settings")?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    write!(terminal, "{question}").context("cannot write to the terminal")?;
    tcsetattr(&terminal, OptionalActions::Flush, &hidden).context("cannot hide what is typed")?;
    let mut line = String::new();
    let read = BufReader::new(&terminal).read_line(&mut line);
    tcsetattr(&terminal, OptionalActions::Flush, &shown).context("cannot show what is typed")?;
    writeln!(terminal).context("cannot write to the terminal")?;
    read.context("cannot read from the terminal")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Reads a file that is not longer than it may be.
pub fn read_limited(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let len_bytes = fs::metadata(path).with_context(cannot)?.len();
    ensure!(len_bytes <= bytes_max, "{} has more than {bytes_max} bytes", path.display());
    fs::read(path).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use selvedge_trust::SystemRandom;

    use super::*;

    fn new_key() -> SigningKey {
        SigningKey::generate(&SystemRandom::new()).expect("the system has random bytes")
    }

    fn passphrase_in(file: PathBuf, text: &str) -> PassphraseArgs {
        fs::write(&file, text).expect("the folder can be written");
        PassphraseArgs { passphrase_file: Some(file) }
    }

    #[test]
    fn a_key_under_a_passphrase_opens_with_that_one_only() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let key = new_key();
        let path =
            write_key(folder.path(), "root", &key, Some("correct horse")).expect("it is new");
        let text = fs::read_to_string(&path).expect("PEM is text");
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "{text}");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let source = KeySource::in_folder(folder.path(), "root");
        assert_eq!(source, KeySource::File(path.clone()));
        let right = passphrase_in(folder.path().join("right"), "correct horse\n");
        let opened = source.open(&right).expect("the passphrase is right");
        assert_eq!(opened.public_key(), key.public_key());
        let wrong = passphrase_in(folder.path().join("wrong"), "battery staple\n");
        let error = format!("{:#}", source.open(&wrong).expect_err("the passphrase is wrong"));
        assert!(error.contains("root.pem") && error.contains("the passphrase is wrong"), "{error}");
        let empty = passphrase_in(folder.path().join("empty"), "\n");
        let error = source.open(&empty).expect_err("there is none").to_string();
        assert!(error.contains("an empty line"), "{error}");
        let error = read_public_key(&path.display().to_string()).expect_err("it is encrypted");
        assert!(error.to_string().contains("is encrypted"), "{error}");
    }

    #[test]
    fn a_public_key_is_digits_a_file_of_them_or_a_bare_private_key() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let key = new_key();
        let path = write_key(folder.path(), "a", &key, None).expect("it is new");
        let digits = folder.path().join("a.pub");
        let hex = key.public_key().to_hex();
        fs::write(&digits, format!("{hex}\n")).expect("the folder can be written");
        for text in [hex, path.display().to_string(), digits.display().to_string()] {
            assert_eq!(&read_public_key(&text).expect(&text), key.public_key(), "{text}");
        }
        let error = read_public_key("abc").expect_err("it is nothing").to_string();
        assert!(error.contains("neither 64 hexadecimal digits nor a file"), "{error}");
    }
}
