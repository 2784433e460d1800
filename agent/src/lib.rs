//! The daemon on a gateway: runs models, keeps evidence, applies updates.
//!
//! What it guarantees:
//! - Only a bundle that is signed, whole, allowed here and right on its golden vectors answers; while a
//!   new one comes in, the one before goes on, and no sample is lost in between.
//! - It may be killed at any time. What it counted is kept until the fleet has stored it.
//! - Without network, fleet or room on the disk, inference goes on.
//!
//! It never touches model maths, and knows no rollout policy: it does what a signed document says.
//!
//! Reading order: `daemon` (the actors), `updates` and `spool` (pure state machines over a [`Disk`] and
//! the time), `inference`, `sources`, `outbox`.

#![forbid(unsafe_code)]

mod args;
mod boot;
mod capture;
mod clock;
mod config;
mod daemon;
mod disk;
mod error;
mod inference;
mod keeper;
mod labels;
mod limits;
mod malformed;
mod outbox;
mod record;
mod reporter;
mod self_test;
mod signer;
mod sources;
mod spool;
mod trial;
mod updates;

pub use args::{AgentArgs, main_with};
pub use capture::{Candidate as CaptureCandidate, CaptureSink};
pub use clock::{Clock, SharedClock, SystemClock};
pub use config::{
    BrokerConfig, BundleLimits, CaptureConfig, Config, ConfigError, LabelsConfig, NodeLine,
    SourceConfig, SourceKind, SpoolConfig,
};
pub use daemon::run;
#[cfg(any(test, feature = "simulation"))]
pub use disk::simulated::SimulatedDisk;
pub use disk::{Disk, DiskError, SharedDisk, StateDir, replace};
pub use error::{Error, ErrorKind};
pub use inference::{
    Answerer, Answering, DriftOutlet, Embedding, InferenceCounters, Judged, LoadedModel, Observer,
    RecordSink, RememberedAnswer, SampleRequest, SampleShape, SlotHandle, WantedSite, WorkerEnded,
    WorkerSettings,
};
pub use self_test::{Check, TrustedRepository, self_test};
pub use spool::{
    Acknowledged, MergeRecords, Position, RecordTooLong, Recovery, Spool, SpoolQuotas, SpooledBatch,
};
pub use trial::TrialProgram;
pub use updates::{
    Attempt, ConfirmedVersion, Effect, Identity, LoadModel, Now, Observation, PreviousRun, Refusal,
    SlotRecord, StartError, TrialLimits, Updates,
};
#[cfg(feature = "simulation")]
pub use {
    boot::{begin_run, end_run, next_boot},
    outbox::Dispatch,
    record::{encode_record, merge_profile_records},
    spool::BatchOrder,
};
