//! The names of roles, and of the files that hold their metadata.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::Role;

/// The longest name of a role, in bytes: quoted, it still fits into the name of a file.
pub const ROLE_NAME_BYTES_MAX: usize = 80;

const EXTENSION: &str = ".json";

/// The name of a role, as a file of metadata is called after it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RoleName(String);

impl RoleName {
    /// The role that says which keys hold which role.
    pub fn root() -> Self {
        Self(Role::Root.to_string())
    }

    /// The role that says which snapshot is current.
    pub fn timestamp() -> Self {
        Self(Role::Timestamp.to_string())
    }

    /// The role that says which versions of targets metadata belong together.
    pub fn snapshot() -> Self {
        Self(Role::Snapshot.to_string())
    }

    /// The role that says what targets are, or whom to ask.
    pub fn targets() -> Self {
        Self(Role::Targets.to_string())
    }

    /// The name as it is.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a file for the role's metadata, without a version: letters, digits, `-`, `.`, `_` and
    /// `~` stand for themselves, other bytes are `%` and two hexadecimal digits.
    pub fn file_name(&self) -> String {
        quoted(&self.0, |_| false) + EXTENSION
    }

    /// The role whose [`file_name`](Self::file_name) this is.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let mut bytes = Vec::new();
        let mut rest = name.strip_suffix(EXTENSION)?.as_bytes();
        while let [first, tail @ ..] = rest {
            let (byte, tail) = match (first, tail) {
                (b'%', [high, low, tail @ ..]) => (unquoted(*high, *low)?, tail),
                _ => (*first, tail),
            };
            bytes.push(byte);
            rest = tail;
        }
        let role: Self = String::from_utf8(bytes).ok()?.parse().ok()?;
        (role.file_name() == name).then_some(role)
    }

    /// What a snapshot calls the role's metadata.
    pub(crate) fn meta_name(&self) -> String {
        format!("{}{EXTENSION}", self.0)
    }

    /// The name of the file in a repository.
    pub(crate) fn remote_file_name(&self, version: Option<u64>) -> String {
        let file = self.file_name();
        version.map_or(file.clone(), |version| format!("{version}.{file}"))
    }

    pub(crate) fn is_top_level(&self) -> bool {
        [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets]
            .iter()
            .any(|role| role.to_string() == self.0)
    }
}

impl FromStr for RoleName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = (1..=ROLE_NAME_BYTES_MAX).contains(&text.len());
        good.then(|| Self(text.into()))
            .ok_or_else(|| format!("the name of a role has 1 to {ROLE_NAME_BYTES_MAX} bytes"))
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name may come from a stranger and end in a terminal.
        write!(f, "{}", self.0.escape_default())
    }
}

impl fmt::Debug for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for RoleName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `text` with every byte quoted that is neither unreserved (RFC 3986 §2.3) nor `plain`.
pub(crate) fn quoted(text: &str, plain: fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if unreserved || plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unquoted(high: u8, low: u8) -> Option<u8> {
    let digit = |digit| char::from(digit).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}
