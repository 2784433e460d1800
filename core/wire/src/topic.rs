//! Topic names, and the whole interface as one table.

use alloc::{format, string::String};
use core::fmt;

use crate::{DeviceId, Digest, FileName, FleetName, Stream};

/// Which way a topic's messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From one device to the fleet.
    Up,
    /// From the fleet to one device.
    Down,
    /// From the fleet to all devices.
    All,
}

/// One row of the interface.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceRow {
    /// The topic, with `{device}`, `{digest}` and `{file}` for what varies.
    pub topic: &'static str,
    /// Which way its messages go.
    pub direction: Direction,
    /// Whether the broker keeps the last message for those who come later.
    pub retained: bool,
    /// The type of this crate that the payload encodes.
    pub message: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

/// Every topic that Selvedge uses between devices and the fleet. All are sent with QoS 1.
pub const INTERFACE: &[InterfaceRow] = &[
    row("up/{device}/status", Direction::Up, true, "Signed: Status", "birth and last will"),
    row(
        "up/{device}/state",
        Direction::Up,
        true,
        "Signed: Reported",
        "what the device says it runs",
    ),
    row("up/{device}/health", Direction::Up, false, "Signed: Health", "counters of one process"),
    row("up/{device}/results", Direction::Up, false, "Signed: Batch<InferenceResult>", "answers"),
    row(
        "up/{device}/profiles",
        Direction::Up,
        false,
        "Signed: Batch<ProfileRecord>",
        "counters of windows",
    ),
    row("up/{device}/events", Direction::Up, false, "Signed: Batch<Event>", "what happened"),
    row(
        "up/{device}/labels",
        Direction::Up,
        false,
        "Signed: Batch<LabelRecord>",
        "what was right, told later",
    ),
    row(
        "up/{device}/captures",
        Direction::Up,
        false,
        "Signed: Batch<CaptureRecord>",
        "samples that were kept, as far as they were asked for",
    ),
    row(
        "down/{device}/desired",
        Direction::Down,
        true,
        "Desired",
        "what the device should run, signed",
    ),
    row(
        "down/{device}/stored",
        Direction::Down,
        true,
        "Signed: Stored",
        "how far each stream is in the store",
    ),
    row(
        "down/{device}/captures",
        Direction::Down,
        true,
        "Signed: CaptureRequest",
        "which kept samples are asked for",
    ),
    row(
        "all/bundles/{digest}",
        Direction::All,
        true,
        "BundleOffer",
        "a bundle's chunk index, and those of patches to it",
    ),
    row(
        "all/chunks/{digest}",
        Direction::All,
        true,
        "Chunk",
        "a piece of a bundle or patch, or a site baseline",
    ),
    row("all/metadata/{file}", Direction::All, true, "Chunk", "a file of the TUF repository"),
];

const fn row(
    topic: &'static str,
    direction: Direction,
    retained: bool,
    message: &'static str,
    purpose: &'static str,
) -> InterfaceRow {
    InterfaceRow { topic, direction, retained, message, purpose }
}

/// A topic of one fleet, below its [`topic_root`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// `up/{device}/status`
    Status(DeviceId),
    /// `up/{device}/state`
    State(DeviceId),
    /// `up/{device}/health`
    Health(DeviceId),
    /// `up/{device}/results`, `profiles`, `events`, `labels` or `captures`
    Stream(DeviceId, Stream),
    /// `down/{device}/desired`
    Desired(DeviceId),
    /// `down/{device}/stored`
    Stored(DeviceId),
    /// `down/{device}/captures`
    Captures(DeviceId),
    /// `all/bundles/{digest}`
    Bundle(Digest),
    /// `all/chunks/{digest}`
    Chunk(Digest),
    /// `all/metadata/{file}`
    Metadata(FileName),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(device) => write!(f, "up/{device}/status"),
            Self::State(device) => write!(f, "up/{device}/state"),
            Self::Health(device) => write!(f, "up/{device}/health"),
            Self::Stream(device, stream) => write!(f, "up/{device}/{}", stream.as_str()),
            Self::Desired(device) => write!(f, "down/{device}/desired"),
            Self::Stored(device) => write!(f, "down/{device}/stored"),
            Self::Captures(device) => write!(f, "down/{device}/captures"),
            Self::Bundle(digest) => write!(f, "all/bundles/{}", digest.hex()),
            Self::Chunk(digest) => write!(f, "all/chunks/{}", digest.hex()),
            Self::Metadata(file) => write!(f, "all/metadata/{file}"),
        }
    }
}

/// The topic names of one fleet.
#[derive(Clone, Debug)]
pub struct Topics {
    root: String,
}

impl Topics {
    /// The topic names of `fleet`.
    pub fn new(fleet: &FleetName) -> Self {
        Self { root: topic_root(fleet) }
    }

    /// The full name of `topic`.
    pub fn name(&self, topic: &Topic) -> String {
        format!("{}/{topic}", self.root)
    }

    /// The filter for all that devices send.
    pub fn up_filter(&self) -> String {
        format!("{}/up/#", self.root)
    }

    /// The filter for all that is addressed to `device`.
    pub fn down_filter(&self, device: &DeviceId) -> String {
        format!("{}/down/{device}/#", self.root)
    }

    /// Reads a full topic name.
    ///
    /// # Errors
    /// [`TopicError`] for a name that is not in [`INTERFACE`] or belongs to another fleet.
    pub fn parse(&self, name: &str) -> Result<Topic, TopicError> {
        let below = name.strip_prefix(self.root.as_str()).and_then(|rest| rest.strip_prefix('/'));
        below.and_then(parse_below_root).ok_or(TopicError)
    }
}

/// The part of the topic that all of a fleet's topics share: `selvedge/1/{fleet}`.
pub fn topic_root(fleet: &FleetName) -> String {
    format!("selvedge/1/{fleet}")
}

/// A topic name is not one of this fleet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicError;

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the topic is not part of this fleet's interface")
    }
}

impl core::error::Error for TopicError {}

fn parse_below_root(text: &str) -> Option<Topic> {
    let mut parts = text.split('/');
    let (direction, name, kind) = (parts.next()?, parts.next()?, parts.next());
    if parts.next().is_some() {
        return None;
    }
    match (direction, kind) {
        ("up", Some(kind)) => {
            let device = name.parse().ok()?;
            match kind {
                "status" => Some(Topic::Status(device)),
                "state" => Some(Topic::State(device)),
                "health" => Some(Topic::Health(device)),
                _ => Stream::from_name(kind).map(|stream| Topic::Stream(device, stream)),
            }
        }
        ("down", Some("desired")) => Some(Topic::Desired(name.parse().ok()?)),
        ("down", Some("stored")) => Some(Topic::Stored(name.parse().ok()?)),
        ("down", Some("captures")) => Some(Topic::Captures(name.parse().ok()?)),
        ("all", Some(item)) => match name {
            "bundles" => Some(Topic::Bundle(Digest::from_hex(item).ok()?)),
            "chunks" => Some(Topic::Chunk(Digest::from_hex(item).ok()?)),
            "metadata" => Some(Topic::Metadata(item.parse().ok()?)),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec::Vec};

    use super::*;

    fn every_topic() -> Vec<Topic> {
        let device: DeviceId = "line-1".parse().expect("the name is well formed");
        let digest = Digest([0xab; 32]);
        let mut topics = Vec::from([
            Topic::Status(device.clone()),
            Topic::State(device.clone()),
            Topic::Health(device.clone()),
            Topic::Desired(device.clone()),
            Topic::Stored(device.clone()),
            Topic::Captures(device.clone()),
            Topic::Bundle(digest),
            Topic::Chunk(digest),
            Topic::Metadata("7.team-a.json".parse().expect("the name is well formed")),
        ]);
        topics.extend(Stream::ALL.map(|stream| Topic::Stream(device.clone(), stream)));
        topics
    }

    #[test]
    fn every_topic_reads_back_and_stands_in_the_interface() {
        let topics = Topics::new(&"demo".parse().expect("the name is well formed"));
        for topic in every_topic() {
            let name = topics.name(&topic);
            assert_eq!(topics.parse(&name), Ok(topic.clone()), "{name}");
            let row = topic
                .to_string()
                .replace("line-1", "{device}")
                .replace(&Digest([0xab; 32]).hex().to_string(), "{digest}")
                .replace("7.team-a.json", "{file}");
            assert!(INTERFACE.iter().any(|known| known.topic == row), "{row}");
        }
        assert_eq!(every_topic().len(), INTERFACE.len());
    }

    #[test]
    fn foreign_and_malformed_topics_are_refused() {
        let topics = Topics::new(&"demo".parse().expect("the name is well formed"));
        for name in [
            "",
            "selvedge/1/demo",
            "selvedge/1/other/up/a/status",
            "selvedge/2/demo/up/a/status",
            "selvedge/1/demo/up/a/status/more",
            "selvedge/1/demo/up//status",
            "selvedge/1/demo/up/a/unknown",
            "selvedge/1/demo/all/chunks/ab",
            "selvedge/1/demo/down/+/desired",
            "selvedge/1/demo/all/metadata/",
            "selvedge/1/demo/all/metadata/a+b",
        ] {
            assert_eq!(topics.parse(name), Err(TopicError), "{name:?}");
        }
    }
}
