//! What nodes, devices and the fleet say to each other: messages, framing, topic names and version rules.
//!
//! The crate is pure: bytes in, values out. It knows neither transports nor clocks.
//! [`INTERFACE`] lists every topic with its direction, retention and payload.
//!
//! Every MQTT payload and every node frame begins with one byte, the wire version. A reader accepts
//! exactly the versions from [`VERSION_OLDEST`] to [`VERSION`]; anything else is refused with
//! [`Error::Version`], which names the version that was met. A field is never added to a message
//! within a version: postcard does not describe itself.
//!
//! Vocabulary: a *boot* is one run of the agent's process; a *stream* is a sequence of records of one
//! kind (results, profiles, events, labels, captures); a record's *sequence number* starts at 1 in each boot and
//! stream.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "alloc")]
mod capture;
mod codec;
mod digest;
mod frame;
#[cfg(feature = "alloc")]
mod label;
#[cfg(feature = "alloc")]
mod message;
#[cfg(feature = "alloc")]
mod name;
#[cfg(feature = "alloc")]
mod topic;

pub use codec::{Error, VERSION, VERSION_OLDEST};
pub use digest::{Digest, DigestError};
pub use frame::{
    FRAME_BYTES_MAX, FRAME_ENCODED_BYTES_MAX, FrameDecoder, FrameError, NodeId, NodeMessage,
    Quantity, Reading, encode_frame,
};

#[cfg(feature = "alloc")]
pub use capture::{
    CAPTURE_PIECE_BYTES, CaptureFinished, CapturePiece, CaptureReason, CaptureRecord,
    CaptureRequest, SampleForm,
};
#[cfg(feature = "alloc")]
pub use codec::{Message, PAYLOAD_BYTES_MAX, decode, encode};
#[cfg(feature = "alloc")]
pub use label::{
    Label, LabelForm, LabelFormError, LabelRecord, LabelledAnswer, ResultId, ResultIdError,
    SHORT_TEXT_BYTES_MAX, ShortText, ShortTextError, Truth, UnfitTruth,
};
#[cfg(feature = "alloc")]
pub use message::{
    Batch, Boot, BundleOffer, Chunk, ChunkCodec, Comparison, DRIFTED_STREAMS_MAX, Desired,
    DriftState, DriftStatus, DriftedStream, Event, EventKind, Health, InferenceResult, Outcome,
    ProfileOrigin, ProfileRecord, Record, Reported, Running, SIGNED_OVERHEAD_BYTES, Sequence,
    Signature, Signed, SiteReport, SlotPhase, SlotReport, Status, Stored, StoredThrough, Stream,
    TrustReport, WindowRange, signing_input,
};
#[cfg(feature = "alloc")]
pub use name::{DeviceId, FileName, FleetName, NAME_BYTES_MAX, NameError, SlotName, SourceName};
#[cfg(feature = "alloc")]
pub use topic::{Direction, INTERFACE, InterfaceRow, Topic, TopicError, Topics, topic_root};
