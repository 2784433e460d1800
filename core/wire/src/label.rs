//! Labels that come late: which result one is of, and what it says.
//!
//! A label is written as JSON, in the API and on a device's local topic:
//! `{"id": "line-1/7/camera/1234", "class": "digit 4", "slice": "night"}`. In place of `id` may stand `device`,
//! `boot`, `source` and `sample`; in place of `class` (a name or an index) a `value`. The `slice` may be left out.

use alloc::{borrow::Cow, string::String, vec::Vec};
use core::{fmt, num::ParseIntError, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{Batch, Boot, DeviceId, Digest, Message, NameError, Outcome, SlotName, SourceName};

/// The longest [`ShortText`], in bytes: as long as the name of a class may be in a bundle.
pub const SHORT_TEXT_BYTES_MAX: usize = 128;

/// The name of a result in the whole fleet, which no two results share. It is written
/// `DEVICE/BOOT/SOURCE/SAMPLE`: `line-1/7/camera/1234`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultId {
    /// The device that answered.
    pub device: DeviceId,
    /// The run of its agent.
    pub boot: Boot,
    /// The source of the sample.
    pub source: SourceName,
    /// Counts the samples of that source, from 0.
    pub sample: u64,
}

impl fmt::Display for ResultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, boot: Boot(boot), source, sample } = self;
        write!(f, "{device}/{boot}/{source}/{sample}")
    }
}

impl FromStr for ResultId {
    type Err = ResultIdError;

    fn from_str(text: &str) -> Result<Self, ResultIdError> {
        let parts: Vec<&str> = text.splitn(5, '/').collect();
        let &[device, boot, source, sample] = &parts[..] else { return Err(ResultIdError::Parts) };
        Ok(Self {
            device: device.parse().map_err(ResultIdError::Name)?,
            boot: Boot(boot.parse().map_err(ResultIdError::Boot)?),
            source: source.parse().map_err(ResultIdError::Name)?,
            sample: sample.parse().map_err(ResultIdError::Sample)?,
        })
    }
}

impl<'de> Deserialize<'de> for ResultId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for ResultId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text is not the id of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultIdError {
    /// It does not have four parts.
    Parts,
    /// The device or the source is not a name.
    Name(NameError),
    /// The boot is no number of 32 bits.
    Boot(ParseIntError),
    /// The sample is no number of 64 bits.
    Sample(ParseIntError),
}

impl fmt::Display for ResultIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this is not the id of a result, DEVICE/BOOT/SOURCE/SAMPLE: ")?;
        match self {
            Self::Parts => write!(f, "it does not have four parts"),
            Self::Name(error) => write!(f, "{error}"),
            Self::Boot(error) => write!(f, "the boot: {error}"),
            Self::Sample(error) => write!(f, "the sample: {error}"),
        }
    }
}

impl core::error::Error for ResultIdError {}

/// A short text: 1 to 128 bytes, without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ShortText(String);

impl ShortText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShortText {
    type Err = ShortTextError;

    fn from_str(text: &str) -> Result<Self, ShortTextError> {
        let fits = (1..=SHORT_TEXT_BYTES_MAX).contains(&text.len());
        let is_good = fits && !text.contains(char::is_control);
        is_good.then(|| Self(text.into())).ok_or(ShortTextError { len_bytes: text.len() })
    }
}

impl<'de> Deserialize<'de> for ShortText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is too long, empty, or has control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortTextError {
    len_bytes: usize,
}

impl fmt::Display for ShortTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len_bytes = self.len_bytes;
        write!(
            f,
            "a text of {len_bytes} bytes is not possible here: \
             1 to {SHORT_TEXT_BYTES_MAX} bytes without control characters"
        )
    }
}

impl core::error::Error for ShortTextError {}

/// What was right of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Truth {
    /// This class of the bundle that answered.
    Class(u32),
    /// The class that has this name in the bundle that answered.
    Name(ShortText),
    /// This value of the first output.
    Value(f32),
}

impl Truth {
    /// The same with the index of a class in place of its name, if it can be held against `answer`. `classes` are
    /// the names of the bundle's classes; empty if it has none.
    ///
    /// # Errors
    /// [`UnfitTruth`].
    pub fn resolve(&self, classes: &[String], answer: &Outcome) -> Result<Self, UnfitTruth> {
        match (self, answer) {
            (Self::Value(_), Outcome::Class { .. }) => return Err(UnfitTruth::ValueOfClass),
            (Self::Class(_) | Self::Name(_), Outcome::Values(_)) => {
                return Err(UnfitTruth::ClassOfValue);
            }
            _ => {}
        }
        match self {
            Self::Name(name) => {
                let index = classes.iter().position(|class| class == name.as_str());
                let index = index.and_then(|index| u32::try_from(index).ok());
                index.map(Self::Class).ok_or_else(|| UnfitTruth::UnknownName(name.clone()))
            }
            &Self::Class(index) if !classes.is_empty() && index as usize >= classes.len() => {
                Err(UnfitTruth::UnknownIndex { index, count: classes.len() })
            }
            other => Ok(other.clone()),
        }
    }
}

/// A label cannot be held against the answer that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnfitTruth {
    /// The bundle has no class of this name.
    UnknownName(ShortText),
    /// The bundle has fewer classes.
    UnknownIndex {
        /// The class of the label.
        index: u32,
        /// How many the bundle has.
        count: usize,
    },
    /// The label is a value, the answer a class.
    ValueOfClass,
    /// The label is a class, the answer a value.
    ClassOfValue,
}

impl fmt::Display for UnfitTruth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName(name) => {
                write!(f, "the bundle that answered has no class {:?}", name.as_str())
            }
            Self::UnknownIndex { index, count } => write!(
                f,
                "the bundle that answered has no class {index}: it has {count}, from 0 on"
            ),
            Self::ValueOfClass => write!(f, "the label is a value, the answer was a class"),
            Self::ClassOfValue => write!(f, "the label is a class, the answer was a value"),
        }
    }
}

impl core::error::Error for UnfitTruth {}

/// A label that a device was given, with the answer that it is of if the device still knew it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelRecord {
    /// When it came: Unix time in milliseconds, by the device's clock.
    pub at_ms: u64,
    /// The run that answered, which need not be the one that was given the label.
    pub boot: Boot,
    /// The source of the sample.
    pub source: SourceName,
    /// Counts the samples of that source, from 0.
    pub sample: u64,
    /// What was right.
    pub truth: Truth,
    /// To which part of the samples this one belongs.
    pub slice: Option<ShortText>,
    /// The answer; none if it was forgotten.
    pub answer: Option<LabelledAnswer>,
}

impl Message for Batch<LabelRecord> {}

/// An answer that a label came for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelledAnswer {
    /// When it was given: Unix time in milliseconds, by the device's clock.
    pub at_ms: u64,
    /// The slot that answered.
    pub slot: SlotName,
    /// The bundle that answered.
    pub bundle: Digest,
    /// What it said. Of values the first alone.
    pub outcome: Outcome,
}

/// A label as somebody gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// The result that it is of.
    pub id: ResultId,
    /// What was right.
    pub truth: Truth,
    /// To which part of the samples this one belongs.
    pub slice: Option<ShortText>,
}

/// The JSON form of a label, before its parts are put together.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelForm {
    id: Option<ResultId>,
    device: Option<DeviceId>,
    boot: Option<Boot>,
    source: Option<SourceName>,
    sample: Option<u64>,
    class: Option<ClassForm>,
    value: Option<f32>,
    slice: Option<ShortText>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "class: a name of 1 to 128 bytes or an index was expected")]
enum ClassForm {
    Index(u32),
    Name(ShortText),
}

impl LabelForm {
    /// The label. A form that names no device or boot means those of `here`, if there are some.
    ///
    /// # Errors
    /// [`LabelFormError`].
    pub fn read(self, here: Option<(&DeviceId, Boot)>) -> Result<Label, LabelFormError> {
        let Self { id, device, boot, source, sample, class, value, slice } = self;
        let has_parts = device.is_some() || boot.is_some() || source.is_some() || sample.is_some();
        let id = match id {
            Some(_) if has_parts => return Err(LabelFormError::TwoIds),
            Some(id) => id,
            None => {
                let lacks = LabelFormError::Lacks;
                let device = device.or_else(|| here.map(|(device, _)| device.clone()));
                ResultId {
                    device: device.ok_or(lacks("id, or device"))?,
                    boot: boot.or(here.map(|(_, boot)| boot)).ok_or(lacks("boot"))?,
                    source: source.ok_or(lacks("source"))?,
                    sample: sample.ok_or(lacks("sample"))?,
                }
            }
        };
        let truth = match (class, value) {
            (Some(ClassForm::Index(index)), None) => Truth::Class(index),
            (Some(ClassForm::Name(name)), None) => Truth::Name(name),
            (None, Some(value)) if value.is_finite() => Truth::Value(value),
            (None, Some(_)) => return Err(LabelFormError::NotFinite),
            (None, None) => return Err(LabelFormError::Lacks("class, or value")),
            (Some(_), Some(_)) => return Err(LabelFormError::TwoTruths),
        };
        Ok(Label { id, truth, slice })
    }
}

/// What is wrong with a label as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelFormError {
    /// It lacks a field.
    Lacks(&'static str),
    /// It has an id, and parts of one beside it.
    TwoIds,
    /// It has a class and a value.
    TwoTruths,
    /// Its value is beyond what a float of 32 bits holds.
    NotFinite,
}

impl fmt::Display for LabelFormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lacks(field) => write!(f, "the label lacks {field}"),
            Self::TwoIds => {
                write!(f, "the label has an id, and device, boot, source or sample beside it")
            }
            Self::TwoTruths => write!(f, "the label has a class and a value, expected one of them"),
            Self::NotFinite => write!(f, "the label's value is beyond what 32 bits hold"),
        }
    }
}

impl core::error::Error for LabelFormError {}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec};

    use super::*;

    fn id(text: &str) -> Result<ResultId, String> {
        text.parse().map_err(|error: ResultIdError| error.to_string())
    }

    #[test]
    fn an_id_reads_back_and_what_is_none_is_named() {
        let text = "line-1/7/camera/1234";
        let read = id(text).expect("it is well formed");
        assert_eq!((read.device.as_str(), read.boot, read.sample), ("line-1", Boot(7), 1234));
        assert_eq!(read.to_string(), text);
        for (text, named) in [
            ("", "four parts"),
            ("line-1/7/camera", "four parts"),
            ("line-1/7/camera/1/2", "four parts"),
            ("Line 1/7/camera/1", "device id"),
            ("line-1/x/camera/1", "the boot"),
            ("line-1/-1/camera/1", "the boot"),
            ("line-1/7/+/1", "source name"),
            ("line-1/7/camera/", "the sample"),
            ("line-1/7/camera/99999999999999999999", "the sample"),
        ] {
            let error = id(text).expect_err(text);
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn short_texts_are_short_and_plain() {
        for text in ["", "a\nb", "\u{7f}", &"x".repeat(129)] {
            assert!(text.parse::<ShortText>().is_err(), "{text:?}");
        }
        for text in ["a", "Schicht 2, Halle ä", &"x".repeat(128)] {
            assert!(text.parse::<ShortText>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_truth_is_held_against_an_answer_of_its_kind_and_bundle() {
        let classes = ["low".to_string(), "high".to_string()];
        let class = Outcome::Class { index: 0, score: 0.5 };
        let values = Outcome::Values(vec![1.5]);
        let name = |name: &str| Truth::Name(name.parse().expect("it is short"));
        let cases = [
            (name("high"), &class, &classes[..], Ok(Truth::Class(1))),
            (Truth::Class(1), &class, &classes, Ok(Truth::Class(1))),
            (Truth::Class(7), &class, &[], Ok(Truth::Class(7))),
            (Truth::Value(2.0), &values, &[], Ok(Truth::Value(2.0))),
            (name("High"), &class, &classes, Err("no class \"High\"")),
            (Truth::Class(2), &class, &classes, Err("no class 2: it has 2")),
            (Truth::Value(1.0), &class, &classes, Err("the answer was a class")),
            (Truth::Class(1), &values, &[], Err("the answer was a value")),
        ];
        for (truth, answer, classes, expected) in cases {
            let resolved = truth.resolve(classes, answer).map_err(|error| error.to_string());
            match (&resolved, expected) {
                (Ok(resolved), Ok(expected)) => assert_eq!(*resolved, expected),
                (Err(error), Err(named)) => assert!(error.contains(named), "{error}"),
                (resolved, expected) => panic!("{truth:?}: {resolved:?}, not {expected:?}"),
            }
        }
    }
}
