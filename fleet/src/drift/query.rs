//! What somebody asks about drift.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use selvedge_wire::{DeviceId, Digest, SlotName};

use crate::Error;

/// Devices by name and by label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CohortQuery {
    /// These devices; empty for all.
    pub devices: Vec<DeviceId>,
    /// Devices that have all of these labels; empty for all. A name may stand twice, and two values of it are had by
    /// nobody.
    #[serde(with = "labels_as_map")]
    pub labels: Vec<(String, String)>,
}

impl CohortQuery {
    /// Whether the device of that name and with those labels is meant.
    pub fn takes(&self, id: &DeviceId, labels: &BTreeMap<String, String>) -> bool {
        (self.devices.is_empty() || self.devices.contains(id)) && self.missing(labels).is_none()
    }

    /// The first label that is asked for and not there.
    pub fn missing(&self, labels: &BTreeMap<String, String>) -> Option<&(String, String)> {
        self.labels.iter().find(|(name, value)| labels.get(name) != Some(value))
    }
}

/// People write labels as a table.
mod labels_as_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(
        labels: &[(String, String)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(labels.iter().map(|(name, value)| (name, value)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(String, String)>, D::Error> {
        BTreeMap::deserialize(deserializer).map(|labels| labels.into_iter().collect())
    }
}

/// Which bundle, and which of its profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriftQuery {
    /// The bundle.
    pub bundle: Digest,
    /// These devices.
    pub cohort: CohortQuery,
    /// This slot alone.
    pub slot: Option<SlotName>,
    /// Counts from here on are compared, in Unix milliseconds by the devices' clocks. What came before still
    /// leads to the states.
    pub from_ms: Option<u64>,
    /// Nothing after this is seen, as if it were the present.
    pub to_ms: Option<u64>,
}

impl DriftQuery {
    /// Everything about one bundle.
    pub fn of(bundle: Digest) -> Self {
        let cohort = CohortQuery::default();
        Self { bundle, cohort, slot: None, from_ms: None, to_ms: None }
    }

    /// Reads the pairs of a URL's query, in which `device` and `label` may stand several times.
    ///
    /// # Errors
    /// [`Error::Refused`], which names the pair that is wrong.
    pub fn read(pairs: &[(String, String)]) -> Result<Self, Error> {
        let bundle = pairs.iter().find(|(name, _)| name == "bundle").ok_or_else(|| {
            Error::Refused("the query names no bundle: add bundle=sha256:…".into())
        })?;
        let mut query = Self::of(read_value("bundle", &bundle.1)?);
        query.read_filters(pairs)?;
        Ok(query)
    }

    /// Reads all pairs but that of the bundle.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn read_filters(&mut self, pairs: &[(String, String)]) -> Result<(), Error> {
        for (name, value) in pairs {
            match name.as_str() {
                "bundle" => {
                    let bundle: Digest = read_value(name, value)?;
                    if bundle != self.bundle {
                        let first = self.bundle;
                        let both = format!("the query names two bundles, {first} and {bundle}");
                        return Err(Error::Refused(both));
                    }
                }
                "device" => self.cohort.devices.push(read_value(name, value)?),
                "label" => {
                    let label = value.split_once('=').ok_or_else(|| {
                        Error::Refused(format!("label={value} is not label=NAME=VALUE"))
                    })?;
                    self.cohort.labels.push((label.0.to_owned(), label.1.to_owned()));
                }
                "slot" => self.slot = Some(read_value(name, value)?),
                "from_ms" => self.from_ms = Some(read_value(name, value)?),
                "to_ms" => self.to_ms = Some(read_value(name, value)?),
                _ => return Err(Error::Refused(format!("nothing is asked with {name}={value}"))),
            }
        }
        match (self.from_ms, self.to_ms) {
            (Some(from_ms), Some(to_ms)) if from_ms > to_ms => Err(Error::Refused(format!(
                "the range ends before it begins: from_ms={from_ms} is after to_ms={to_ms}"
            ))),
            _ => Ok(()),
        }
    }
}

fn read_value<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    value: &str,
) -> Result<T, Error> {
    value.parse().map_err(|error| Error::Refused(format!("{name}={value} cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<DriftQuery, String> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').expect("the test writes pairs");
            (name.to_owned(), value.to_owned())
        };
        let pairs: Vec<_> = query.split('&').map(pair).collect();
        DriftQuery::read(&pairs).map_err(|error| error.to_string())
    }

    #[test]
    fn filters_add_up_and_what_is_wrong_is_named() {
        let bundle = format!("bundle={}", Digest([7; 32]));
        let good =
            format!("{bundle}&device=a&device=b&label=site=north&slot=main&from_ms=5&to_ms=5");
        let query = read(&good).expect("every pair is known");
        assert_eq!(query.cohort.devices.len(), 2);
        assert_eq!(query.cohort.labels, [("site".to_owned(), "north".to_owned())]);
        assert_eq!((query.from_ms, query.to_ms), (Some(5), Some(5)));
        for (wrong, named) in [
            ("device=a".to_owned(), "names no bundle"),
            ("bundle=x".to_owned(), "bundle=x cannot be read"),
            (format!("{bundle}&bundle={}", Digest([8; 32])), "two bundles"),
            (format!("{bundle}&device=a/b"), "device=a/b cannot be read"),
            (format!("{bundle}&label=north"), "label=north is not"),
            (format!("{bundle}&from_ms=-1"), "from_ms=-1 cannot be read"),
            (format!("{bundle}&from_ms=6&to_ms=5"), "ends before it begins"),
            (format!("{bundle}&window=3"), "nothing is asked with window=3"),
        ] {
            let error = read(&wrong).expect_err(&wrong);
            assert!(error.contains(named), "{wrong}: {error}");
        }
    }
}
