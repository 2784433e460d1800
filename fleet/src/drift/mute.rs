//! Alarms that somebody knows of: still shown, marked, and not counted until a date.
//!
//! A mute covers what its scope names and always has an end. Acknowledging is the same with one condition more: it
//! holds only for changes that had begun when it was made. Once such a change is over, the next one is news again,
//! and nothing has to be kept about what is over.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use selvedge_wire::{DeviceId, Digest, SlotName};

/// What windows are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reference {
    /// The reference of the bundle.
    Lab,
    /// What is usual at the site.
    Site,
}

impl Reference {
    /// Its name in tables and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lab => "lab",
            Self::Site => "site",
        }
    }

    /// The reference of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Lab, Self::Site].into_iter().find(|reference| reference.as_str() == name)
    }
}

/// Which alarms; what is not named is any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MuteScope {
    /// Those of this bundle.
    #[schema(value_type = Option<String>)]
    pub bundle: Option<Digest>,
    /// Those of this device.
    #[schema(value_type = Option<String>)]
    pub device: Option<DeviceId>,
    /// Those of this slot.
    #[schema(value_type = Option<String>)]
    pub slot: Option<SlotName>,
    /// Those of this stream: a feature by name, `class` or `confidence`.
    pub stream: Option<String>,
    /// Those against the `lab` or the `site` alone.
    pub reference: Option<Reference>,
}

/// A mute as somebody asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMute {
    /// Which alarms.
    pub scope: MuteScope,
    /// Only changes that have begun by now; what begins later is told.
    #[serde(default)]
    pub acknowledges: bool,
    /// When it ends, in Unix milliseconds.
    pub until_ms: u64,
    /// Who asks for it.
    pub by: String,
    /// Why.
    pub note: String,
}

/// A mute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Mute {
    /// Its number.
    pub id: u64,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
    /// What it says.
    #[serde(flatten)]
    pub given: NewMute,
}

/// An alarm, as a mute looks at it. A cohort of several origins has no device and no slot.
#[derive(Clone, Copy, Debug)]
pub struct Alarm<'a> {
    /// The bundle.
    pub bundle: Digest,
    /// The device.
    pub device: Option<&'a DeviceId>,
    /// Its slot.
    pub slot: Option<&'a SlotName>,
    /// The stream.
    pub stream: &'a str,
    /// What it was compared with.
    pub reference: Reference,
    /// When the change most likely began, in Unix milliseconds.
    pub since_ms: Option<u64>,
}

impl Mute {
    /// Whether it covers an alarm.
    pub fn covers(&self, alarm: &Alarm<'_>) -> bool {
        let MuteScope { bundle, device, slot, stream, reference } = &self.given.scope;
        let began = alarm.since_ms.is_some_and(|since_ms| since_ms <= self.created_ms);
        bundle.is_none_or(|bundle| bundle == alarm.bundle)
            && device.as_ref().is_none_or(|device| Some(device) == alarm.device)
            && slot.as_ref().is_none_or(|slot| Some(slot) == alarm.slot)
            && stream.as_ref().is_none_or(|stream| stream == alarm.stream)
            && reference.is_none_or(|reference| reference == alarm.reference)
            && (began || !self.given.acknowledges)
    }
}

/// The first of `mutes` that covers an alarm.
pub fn mute_of(mutes: &[Mute], alarm: &Alarm<'_>) -> Option<Mute> {
    mutes.iter().find(|mute| mute.covers(alarm)).cloned()
}

/// Whether there is something, and all of it is muted: then it is no alarm to be counted.
pub fn are_all_muted(mut muted: impl ExactSizeIterator<Item = bool>) -> bool {
    muted.len() > 0 && muted.all(|is_muted| is_muted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    fn mute(scope: MuteScope, acknowledges: bool) -> Mute {
        let given = NewMute {
            scope,
            acknowledges,
            until_ms: 5000,
            by: "ada".into(),
            note: "the pump is being replaced".into(),
        };
        Mute { id: 1, created_ms: 1000, given }
    }

    #[test]
    fn a_mute_covers_what_its_scope_names_and_nothing_else() {
        let (device, slot) = (name("line-1"), "main".parse().expect("a name"));
        let alarm = Alarm {
            bundle: Digest([1; 32]),
            device: Some(&device),
            slot: Some(&slot),
            stream: "pressure",
            reference: Reference::Site,
            since_ms: Some(900),
        };
        let scope = |change: fn(&mut MuteScope)| {
            let mut scope = MuteScope {
                bundle: Some(Digest([1; 32])),
                device: Some(name("line-1")),
                slot: Some("main".parse().expect("a name")),
                stream: Some("pressure".into()),
                reference: Some(Reference::Site),
            };
            change(&mut scope);
            mute(scope, false)
        };
        for covering in [
            scope(|_| ()),
            scope(|scope| scope.bundle = None),
            scope(|scope| *scope = MuteScope { device: scope.device.take(), ..Default::default() }),
        ] {
            assert!(covering.covers(&alarm), "{covering:?}");
        }
        for other in [
            scope(|scope| scope.bundle = Some(Digest([2; 32]))),
            scope(|scope| scope.device = Some(name("line-2"))),
            scope(|scope| scope.slot = Some("second".parse().expect("a name"))),
            scope(|scope| scope.stream = Some("flow".into())),
            scope(|scope| scope.reference = Some(Reference::Lab)),
        ] {
            assert!(!other.covers(&alarm), "{other:?}");
        }
        let cohort = Alarm { device: None, slot: None, ..alarm };
        assert!(!scope(|_| ()).covers(&cohort), "it is of one device");
        assert!(scope(|scope| (scope.device, scope.slot) = (None, None)).covers(&cohort));
    }

    #[test]
    fn what_begins_after_it_was_acknowledged_is_news() {
        let acknowledged = mute(MuteScope::default(), true);
        for (since_ms, is_covered) in [(Some(1000), true), (Some(1001), false), (None, false)] {
            let alarm = Alarm {
                bundle: Digest([1; 32]),
                device: None,
                slot: None,
                stream: "flow",
                reference: Reference::Lab,
                since_ms,
            };
            assert_eq!(acknowledged.covers(&alarm), is_covered, "{since_ms:?}");
            assert!(mute(MuteScope::default(), false).covers(&alarm));
        }
    }

    #[test]
    fn an_alarm_counts_as_long_as_one_of_its_streams_is_not_muted() {
        assert!(!are_all_muted([].into_iter()));
        assert!(!are_all_muted([true, false].into_iter()));
        assert!(are_all_muted([true, true].into_iter()));
    }
}
