//! Names that stand in topics, file names and URLs, checked where they enter.

use alloc::{borrow::Cow, string::String};
use core::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text, $what).map(|()| Self(text.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

name! {
    /// A gateway's name, unique within its fleet; the same as its MQTT user name.
    DeviceId, "device id"
}
name! {
    /// A fleet's name: the part of a topic that keeps fleets on one broker apart.
    FleetName, "fleet name"
}
name! {
    /// The name of a place for a bundle on a device.
    SlotName, "slot name"
}
name! {
    /// The name of a source of samples on a device.
    SourceName, "source name"
}
name! {
    /// The name of a file of the TUF repository, with its version: `7.targets.json`.
    FileName, "file name"
}

/// A text is not a name: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    what: &'static str,
    text: String,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a {}: 1 to {NAME_BYTES_MAX} of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
            self.text, self.what
        )
    }
}

impl core::error::Error for NameError {}

fn check(text: &str, what: &'static str) -> Result<(), NameError> {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let rest = |byte: u8| alphanumeric(byte) || matches!(byte, b'.' | b'_' | b'-');
    let good = text.len() <= NAME_BYTES_MAX
        && text.bytes().next().is_some_and(alphanumeric)
        && text.bytes().all(rest);
    // What is quoted back is bounded: the text may come from a stranger.
    let quoted = || text.chars().take(NAME_BYTES_MAX).collect();
    if good { Ok(()) } else { Err(NameError { what, text: quoted() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_topic_or_folder_are_refused() {
        for text in ["", ".", "..", "a/b", "a+", "#", "A", "ä", "-a", "a b", "a\0", &"a".repeat(65)]
        {
            assert!(text.parse::<DeviceId>().is_err(), "{text:?}");
        }
        for text in ["a", "0", "line-4.cam_2", &"a".repeat(64)] {
            assert!(text.parse::<DeviceId>().is_ok(), "{text:?}");
        }
    }
}
