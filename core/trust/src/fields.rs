//! The members of a document's objects, read by name.
//!
//! A derived reader for each kind of document would be most of what this crate adds to a device.

use std::str::FromStr;

use serde_json::{Map, Value};

use crate::UnixMillis;

/// What was read, or what is wrong in words.
pub(crate) type Read<T> = Result<T, String>;

/// The members of an object. Those that nobody asks for may be anything.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(crate) fn of(value: &'a Value) -> Read<Self> {
        value.as_object().map(Self).ok_or_else(|| "invalid type: expected an object".into())
    }

    /// The member, unless it is missing or `null`.
    pub(crate) fn optional(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn value(self, name: &str) -> Read<&'a Value> {
        self.0.get(name).ok_or_else(|| format!("missing field `{name}`"))
    }

    pub(crate) fn fields(self, name: &str) -> Read<Self> {
        self.value(name)?.as_object().map(Self).ok_or_else(|| not_a("an object", name))
    }

    pub(crate) fn list(self, name: &str) -> Read<&'a [Value]> {
        let list = self.value(name)?.as_array().ok_or_else(|| not_a("a list", name))?;
        Ok(list)
    }

    pub(crate) fn text(self, name: &str) -> Read<&'a str> {
        self.value(name)?.as_str().ok_or_else(|| not_a("a string", name))
    }

    pub(crate) fn flag(self, name: &str) -> Read<bool> {
        self.value(name)?.as_bool().ok_or_else(|| not_a("true or false", name))
    }

    pub(crate) fn number(self, name: &str) -> Read<u64> {
        let value = self.value(name)?;
        value.as_u64().ok_or_else(|| format!("invalid value: {name} is not a number from 0 on"))
    }

    /// A version, which is at least 1.
    pub(crate) fn version(self) -> Read<u64> {
        match self.number("version")? {
            0 => Err("its version is 0, but versions begin at 1".into()),
            version => Ok(version),
        }
    }

    /// A threshold, which is at least 1.
    pub(crate) fn threshold(self) -> Read<usize> {
        match usize::try_from(self.number("threshold")?) {
            Ok(0) => Err("a role has a threshold of 0".into()),
            threshold => Ok(threshold.unwrap_or(usize::MAX)),
        }
    }

    pub(crate) fn expires(self) -> Read<UnixMillis> {
        self.time("expires")
    }

    pub(crate) fn time(self, name: &str) -> Read<UnixMillis> {
        UnixMillis::from_iso8601(self.text(name)?)
            .ok_or_else(|| format!("{name}: a time is written YYYY-MM-DDTHH:MM:SSZ"))
    }

    pub(crate) fn parsed<T: FromStr<Err: ToString>>(self, name: &str) -> Read<T> {
        self.text(name)?.parse().map_err(|error: T::Err| error.to_string())
    }

    /// What `read` makes of a field, unless it is missing or null.
    pub(crate) fn if_there<T>(
        self,
        name: &str,
        read: impl FnOnce(Self, &str) -> Read<T>,
    ) -> Read<Option<T>> {
        self.optional(name).map(|_| read(self, name)).transpose()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.0.iter()
    }

    pub(crate) fn len(self) -> usize {
        self.0.len()
    }
}

fn not_a(what: &str, name: &str) -> String {
    format!("invalid type: {name} is not {what}")
}
