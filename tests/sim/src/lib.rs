//! Devices, a broker and a fleet in one process, driven by one seed.
//!
//! The seed decides the order of everything, the time, the faults of the network and of every disk, and
//! what the operator does meanwhile. After some rounds in which things go wrong comes a calm in which
//! nothing does, and which must lead to what is desired. The same seed gives the same run.
//!
//! | part | is |
//! |---|---|
//! | updates, spool, number of the boot, mark of a clean end, what decides in the outbox | the agent's |
//! | verification of metadata, of desired states and of signed messages | `trust`'s |
//! | repository, director, ingest, store (SQLite, in memory), what is retained at the broker | the fleet's |
//! | assembly and checks of bundles | `bundle`'s |
//! | broker, links, disk, clocks, the wiring of the actors | simulated here |
//! | models, their trials and their measurements | decided by the bundle's nature (`catalogue`) |
//! | threads, sockets, TLS, HTTP, files of the fleet, damage of the fleet's database | left out |
//!
//! Faults, and where they must be survived:
//!
//! | fault | strikes | must be survived |
//! |---|---|---|
//! | power cut: unsynced writes torn or lost, names lost in order or in any | between any two operations of a device's disk, also while it starts | everywhere |
//! | agent killed or crashed by a bundle, disk whole | between any two operations of a device's disk | everywhere |
//! | disk full; operations that fail; reads that fail | any operation, for a while | everywhere; a start may fail and is tried again |
//! | clock jumps, clock never set | at any time; at a start | everywhere; documents may be refused until it is right, or until newer ones raise its floor |
//! | messages lost, twice, overtaken by other topics | every message | everywhere |
//! | connection lost, broker restarted, emptied in part or whole, set back | at any time | everywhere |
//! | fleet restarted | between any two messages, and between a commit and what follows it | everywhere; its store is durable |
//! | bundles that do not load, fail their trial or probation, crash | as assigned | refused with a reason, and the bundle before answers |
//! | roots, keys and targets replaced and revoked, desired states changed | at any time | everywhere |
//!
//! What must hold at every step stands in `witness` and `fleet`; what the calm must lead to in `world`.

#![forbid(unsafe_code)]

mod broker;
mod catalogue;
mod clock;
mod device;
mod dice;
mod faults;
mod fleet;
mod keys;
mod link;
mod publisher;
mod simulator;
mod trace;
mod witness;
mod world;

pub use faults::{Fault, FaultCounts};
pub use simulator::{Failure, Options, Simulator, commit};
pub use world::Outcome;
