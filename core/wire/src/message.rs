//! The messages between devices and the fleet.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{Digest, Message, NodeId, Reading, SlotName};

/// Counts the runs of one device's agent, from 1. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Boot(pub u32);

/// The place of a record in its stream, from 1 in each boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

/// A kind of record with sequence numbers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// [`InferenceResult`]
    Results,
    /// [`ProfileRecord`]
    Profiles,
    /// [`Event`]
    Events,
    /// [`LabelRecord`](crate::LabelRecord)
    Labels,
    /// [`CaptureRecord`](crate::CaptureRecord)
    Captures,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Self; 5] =
        [Self::Results, Self::Profiles, Self::Events, Self::Labels, Self::Captures];

    /// The stream's name in topics, files and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Results => "results",
            Self::Profiles => "profiles",
            Self::Events => "events",
            Self::Labels => "labels",
            Self::Captures => "captures",
        }
    }

    /// The stream of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.as_str() == name)
    }
}

/// Birth, and last will: whether a device's agent is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// False in the last will and in the farewell.
    pub online: bool,
    /// The run that speaks.
    pub boot: Boot,
    /// The agent's version.
    pub agent_version: String,
    /// The oldest wire version that the agent reads.
    pub wire_oldest: u8,
    /// The wire version that the agent writes.
    pub wire_newest: u8,
    /// What bundles are built for: the machine's architecture, for example `aarch64`.
    pub hardware_class: String,
}

/// What a device says it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// The run that speaks.
    pub boot: Boot,
    /// Counts the reports of this boot, from 1: what has a lower one is out of date.
    pub revision: u64,
    /// The generation of the desired state that the device follows; 0 before the first.
    pub generation: u64,
    /// How the device stands with the repository's metadata.
    pub trust: TrustReport,
    /// One report per slot that has or should have a bundle.
    pub slots: Vec<SlotReport>,
}

/// How a device stands with the repository's metadata, and with the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustReport {
    /// The version of the root that the device trusts; 0 before it read one.
    pub root_version: u64,
    /// The version of the timestamp that it followed last; 0 before the first.
    pub timestamp_version: u64,
    /// When that metadata expires: Unix time in milliseconds; 0 before the first.
    pub fresh_until_ms: u64,
    /// The metadata has expired and nothing newer came: the device may be kept from news.
    pub frozen: bool,
    /// The device's clock is behind a time that is known to have passed, which it uses instead.
    pub time_unverified: bool,
}

/// What a device says about one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// The slot.
    pub slot: SlotName,
    /// Where the slot is on its way to what is desired.
    pub phase: SlotPhase,
    /// The bundle that answers now.
    pub running: Option<Running>,
    /// The bundle that is desired.
    pub desired: Option<Digest>,
    /// Why the desired bundle does not answer, when that is not a matter of time.
    pub reason: Option<String>,
    /// How the desired bundle compares with the one before: in the shadow, or on probation.
    pub comparison: Option<Comparison>,
    /// Whether what the bundle that answers sees and says is as its reference; none without a baseline, and
    /// before the first window.
    pub drift: Option<DriftStatus>,
    /// The same against the site's baseline; none unless windows are judged by one.
    pub site: Option<SiteReport>,
}

/// What a device says of a slot's windows, compared with what is usual at its site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteReport {
    /// The site baseline, by the digest of its encoding.
    pub baseline: Digest,
    /// Whether windows are as it says; *insufficient* before the first one.
    pub drift: DriftStatus,
}

/// Whether what a bundle sees and says is as its reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftStatus {
    /// The worst that is said of a stream.
    pub state: DriftState,
    /// How much windows vary was not measured on the reference: it was guessed.
    pub uncalibrated: bool,
    /// The streams that drifted, the one with the most evidence first; at most [`DRIFTED_STREAMS_MAX`].
    pub streams: Vec<DriftedStream>,
}

/// The most drifted streams that a report names.
pub const DRIFTED_STREAMS_MAX: usize = 8;

/// A feature, the classes or the confidence of the answers, which drifted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftedStream {
    /// What drifted: a feature by name, or `class` or `confidence` of the answers.
    pub name: String,
    /// How it changed, in one or two words.
    pub change: String,
    /// When the change most likely began: Unix time in milliseconds, by the device's clock.
    pub since_ms: u64,
}

/// What is said of a stream of counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DriftState {
    /// There are not enough samples yet to say anything.
    Insufficient,
    /// It is as the reference.
    Steady,
    /// There is evidence for a change, not enough for an alarm.
    Suspect,
    /// There was an alarm, and it is not over.
    Drifted,
}

impl DriftState {
    /// The state's name in the API and on pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insufficient => "insufficient",
            Self::Steady => "steady",
            Self::Suspect => "suspect",
            Self::Drifted => "drifted",
        }
    }
}

/// How a new bundle compares with the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Samples that the new bundle was given.
    pub samples: u64,
    /// Those of them that it did not answer.
    pub failed: u64,
    /// Those of them to which the two gave different classes; counted in the shadow alone.
    pub disagreed: u64,
    /// Samples that the shadow left out because the processor was short.
    pub shed: u64,
    /// The latency that 95 % of the new bundle's answers kept, in microseconds; 0 before any.
    pub latency_us_p95: u32,
    /// The same of the bundle before.
    pub latency_us_p95_before: u32,
}

/// A bundle that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The bundle.
    pub bundle: Digest,
    /// Its name, as its manifest has it.
    pub name: String,
    /// Its semantic version.
    pub version: String,
}

/// Where a slot is on its way to what is desired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotPhase {
    /// The desired bundle (or none, as desired) is in place.
    Settled,
    /// Chunks are missing.
    Fetching {
        /// How many chunks are on the device.
        chunks_present: u32,
        /// How many chunks the bundle has.
        chunks_total: u32,
    },
    /// All chunks are there; the bundle is checked.
    Verifying,
    /// A process of its own, with limits, runs the bundle's golden vectors.
    Trial,
    /// The bundle gets the same samples as the one that answers; its answers are discarded.
    Shadow {
        /// Samples that it was given.
        samples: u64,
        /// How many it shall be given.
        samples_wanted: u64,
    },
    /// The bundle answers, and is watched; the one before can come back at once.
    Probation {
        /// Inferences on probation so far.
        inferences: u64,
        /// How many it shall do.
        inferences_wanted: u64,
    },
    /// The desired bundle was refused; the one before goes on.
    Refused,
}

/// Counters of one run of the agent, since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The run that is counted.
    pub boot: Boot,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// Inferences that gave an answer.
    pub inferences: u64,
    /// Inferences that gave none: the sample did not fit, or the model failed.
    pub inferences_failed: u64,
    /// Payloads, frames and rows that could not be read.
    pub inputs_malformed: u64,
    /// Samples of which a feature was out of the reference's range, not finite, or stuck.
    pub inputs_anomalous: u64,
    /// Changes from one running bundle to another.
    pub swaps: u64,
    /// MQTT payload bytes that were sent.
    pub sent_bytes: u64,
    /// MQTT payload bytes that were received.
    pub received_bytes: u64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// The highest resident memory.
    pub resident_bytes_peak: u64,
    /// Bytes that wait in the spool.
    pub spool_bytes: u64,
    /// Records that quotas made the spool drop.
    pub records_dropped: u64,
}

/// Consecutive records of one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch<T> {
    /// The run that made the records, which need not be the one that sends them.
    pub boot: Boot,
    /// The sequence number of the first record; the others follow without a gap.
    pub first: Sequence,
    /// The records.
    pub records: Vec<Record<T>>,
}

/// What stands at one sequence number, or at several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record<T> {
    /// One record.
    One(T),
    /// Records that were merged before any of them was sent.
    Merged {
        /// How many sequence numbers it stands for.
        covers: u64,
        /// The merged record.
        value: T,
    },
    /// Records that a quota made the spool drop.
    Dropped {
        /// How many sequence numbers it stands for, and how many records are lost.
        covers: u64,
    },
}

impl<T> Record<T> {
    /// How many sequence numbers the record stands for.
    pub fn covers(&self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Merged { covers, .. } | Self::Dropped { covers } => *covers,
        }
    }
}

/// One answer of a model.
///
/// Its name in the whole fleet, a [`ResultId`](crate::ResultId), is the device, the boot of its batch, the source
/// and the number of the sample: no two results share all four, and a sample that was captured carries the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferenceResult {
    /// Unix time in milliseconds, by the device's clock.
    pub at_ms: u64,
    /// The slot that answered.
    pub slot: SlotName,
    /// The bundle that answered.
    pub bundle: Digest,
    /// The source of the sample, as the agent's configuration names it.
    pub source: String,
    /// Counts the samples of that source, from 0.
    pub sample: u64,
    /// From the sample's arrival at the model to the answer, in microseconds.
    pub latency_us: u32,
    /// The answer.
    pub outcome: Outcome,
}

/// What a model said of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// A class, with its score: a probability where the bundle asks for softmax, else the raw value.
    Class {
        /// The index of the class among the bundle's labels.
        index: u32,
        /// The score of that class.
        score: f32,
    },
    /// The first values of the first output, where the bundle names no class.
    Values(Vec<f32>),
    /// No answer, and why.
    Failed(String),
}

/// A range of windows, both ends included. Windows of a boot count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WindowRange {
    /// The first window.
    pub first: u64,
    /// The last window.
    pub last: u64,
}

/// The counters of one window, or of adjacent windows that were merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRecord {
    /// What was counted.
    pub origin: ProfileOrigin,
    /// The windows that are covered.
    pub windows: WindowRange,
    /// When the first window opened: Unix time in milliseconds, by the device's clock.
    pub opened_ms: u64,
    /// When the last window closed.
    pub closed_ms: u64,
    /// The encoded profile, as the sketch crate reads it.
    pub profile: Vec<u8>,
}

/// What a profile counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProfileOrigin {
    /// The samples and answers of a bundle.
    Model {
        /// The slot.
        slot: SlotName,
        /// The bundle in it.
        bundle: Digest,
    },
    /// The readings of a node, counted on the node.
    Node {
        /// The node.
        node: NodeId,
        /// Its newest reading when the window closed.
        latest: Reading,
    },
}

/// Something that happened on a device and is worth telling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Unix time in milliseconds, by the device's clock.
    pub at_ms: u64,
    /// What happened.
    pub kind: EventKind,
    /// The slot that it concerns.
    pub slot: Option<SlotName>,
    /// The bundle that it concerns.
    pub bundle: Option<Digest>,
    /// One sentence for people.
    pub detail: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// The agent started.
    Started,
    /// A bundle took over a slot.
    Swapped,
    /// A bundle was refused.
    BundleRefused,
    /// A desired state was refused.
    DesiredRefused,
    /// A sender's payloads could not be read.
    InputMalformed,
    /// A source ended or failed.
    SourceFailed,
    /// A node was heard for the first time in this boot.
    NodeSeen,
    /// A quota made the spool drop records.
    RecordsDropped,
    /// Part of the agent's own state could not be read and was set aside.
    StateDamaged,
    /// Metadata of the repository was refused.
    MetadataRefused,
    /// The repository's metadata has expired and nothing newer came.
    Frozen,
    /// Newer metadata came after that.
    Thawed,
    /// The clock is behind a time that is known to have passed.
    TimeUnverified,
    /// A bundle stood its probation.
    Confirmed,
    /// A bundle failed its probation; the one before answers again.
    RolledBack,
    /// A message that claims to come from the fleet is not signed by its director.
    FleetDisbelieved,
    /// What a bundle sees or says is not as its reference any more.
    Drifted,
    /// It is again.
    DriftOver,
    /// Samples of a source are odd: out of the reference's range, not finite, or stuck.
    InputAnomalous,
    /// A site baseline was refused; windows are compared with the bundle's reference alone.
    SiteRefused,
}

impl EventKind {
    /// The kind's name in tables, in the API and on pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Swapped => "swapped",
            Self::BundleRefused => "bundle-refused",
            Self::DesiredRefused => "desired-refused",
            Self::InputMalformed => "input-malformed",
            Self::SourceFailed => "source-failed",
            Self::NodeSeen => "node-seen",
            Self::RecordsDropped => "records-dropped",
            Self::StateDamaged => "state-damaged",
            Self::MetadataRefused => "metadata-refused",
            Self::Frozen => "frozen",
            Self::Thawed => "thawed",
            Self::TimeUnverified => "time-unverified",
            Self::Confirmed => "confirmed",
            Self::RolledBack => "rolled-back",
            Self::FleetDisbelieved => "fleet-disbelieved",
            Self::Drifted => "drifted",
            Self::DriftOver => "drift-over",
            Self::InputAnomalous => "input-anomalous",
            Self::SiteRefused => "site-refused",
        }
    }
}

/// What a device should run: a signed document, as the trust crate reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The document's bytes, exactly as they were signed.
    pub document: Vec<u8>,
}

/// How far the streams of a device are in the fleet's store. Only this empties a spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The boots and streams that were written last; those missing are not taken back.
    pub streams: Vec<StoredThrough>,
}

/// How far one stream is in the fleet's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredThrough {
    /// The boot that made the records.
    pub boot: Boot,
    /// The stream.
    pub stream: Stream,
    /// All records up to this one are stored; 0 if none is.
    pub through: Sequence,
}

/// What a device needs to know before it fetches the chunks of a bundle. Nothing of it is believed for itself:
/// its digest stands in the bundle's signed target. A device that can patch what it has needs no offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleOffer {
    /// The chunk index, as the bundle crate reads it.
    pub index: Vec<u8>,
}

/// A piece of a bundle or patch, the index of a patch, a site baseline, or a file of the repository's metadata. The topic
/// names the digest of the content, or the file; not of these bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// How `bytes` are compressed.
    pub codec: ChunkCodec,
    /// The content, compressed.
    pub bytes: Vec<u8>,
}

/// How a chunk is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkCodec {
    /// Not at all.
    Raw,
    /// One zstd frame (RFC 8878).
    Zstd,
}

/// Another message with its sender's signature.
///
/// What is signed is [`signing_input`] of the topic's full name and `body`, so that nothing can be carried
/// from one device, fleet or kind of message to another. A device signs with its own key, the fleet
/// with the director's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The message, encoded with its own version byte.
    pub body: Vec<u8>,
    /// The signature.
    pub signature: Signature,
}

/// The longest that a [`Signed`] is beyond its body, in bytes.
pub const SIGNED_OVERHEAD_BYTES: usize = 1 + 3 + Signature::BYTES;

/// An Ed25519 signature (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signature([[u8; 32]; 2]);

impl Signature {
    /// The length of a signature, in bytes.
    pub const BYTES: usize = 64;

    /// A signature of these bytes.
    pub fn new(bytes: [u8; Self::BYTES]) -> Self {
        let (halves, _) = bytes.as_chunks::<32>();
        Self([halves[0], halves[1]])
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_flattened()
    }
}

impl core::fmt::Debug for Signature {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Signature({}…)", Digest(self.0[0]).hex())
    }
}

/// The bytes whose signature a [`Signed`] on the topic `topic` carries: a fixed prefix, the length of
/// the topic's full name as a little-endian `u32`, the name, and the body.
pub fn signing_input(topic: &str, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(topic.len()).unwrap_or(u32::MAX).to_le_bytes();
    [SIGNING_CONTEXT, &len, topic.as_bytes(), body].concat()
}

/// Keeps these signatures apart from all others that the same key makes.
const SIGNING_CONTEXT: &[u8] = b"selvedge signed message\0";

impl Message for Signed {}
impl Message for Status {}
impl Message for Reported {}
impl Message for Health {}
impl Message for Batch<InferenceResult> {}
impl Message for Batch<ProfileRecord> {}
impl Message for Batch<Event> {}
impl Message for Desired {}
impl Message for Stored {}
impl Message for BundleOffer {}
impl Message for Chunk {}
