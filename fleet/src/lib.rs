//! The fleet manager: it takes what devices send, keeps the bundles, says what each device should run,
//! and shows all of it over a REST API and a page.
//!
//! What it guarantees: each record of a device is stored exactly once, however often and in whatever
//! order it comes, and a device is told to forget a record only after it is on the disk. Nothing is believed
//! of a device that it has not signed. A bundle is assigned only while a target of the repository names
//! it, and no change of the repository is taken that devices would not believe. What the broker should
//! retain is a function of the database, so a broker that lost everything gets it again.
//!
//! What it does not: run a model, decide about waves of a rollout, let anybody in from another machine.
//!
//! Vocabulary: the *uplink* is what devices send, the *downlink* what they find at the broker; a
//! *desired state* is signed by the *director*, whose key is online in this process; the *repository* is
//! that of TUF 1.0.

#![forbid(unsafe_code)]

mod api;
mod broker;
mod captures;
mod command;
mod commissioning;
mod config;
mod dashboard;
mod director;
mod downlink;
pub mod drift;
mod error;
mod fleet;
mod ingest;
mod limits;
mod live;
mod manager;
mod quality;
mod ranges;
mod registry;
mod repository;
pub mod rollout;
mod secret;
#[cfg(feature = "simulation")]
mod simulation;
mod stop;
mod store;
#[cfg(test)]
mod testing;
mod view;

pub use broker::{EmbeddedBroker, MANAGER, ServerTls};
pub use command::main_with;
pub use config::{Broker, Config, FleetArgs, Settings};
pub use error::{Error, ErrorKind, one_line};
pub use fleet::{ADDRESSES_FILE, Addresses, RunningFleet, run};
pub use limits::{Limits, RETAINED_BYTES_MAX_DEFAULT};
#[cfg(feature = "simulation")]
pub use {
    downlink::Outgoing,
    simulation::{Beginning, HeldRecords, Ingested, SimulatedFleet},
    store::{DeviceLabelRow, EventRow, ProfileRow, ResultRow, StreamRow},
    view::{
        AssignmentView, ClassView, ComparisonView, DesiredView, DeviceView, DisbeliefView,
        DriftStatusView, DriftedStreamView, HealthView, PhaseView, ReportedView, RunningView,
        SlotView, TrustView,
    },
};
