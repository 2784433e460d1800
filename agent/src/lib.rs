//! The daemon on a gateway: runs models, keeps evidence, applies updates.

#![forbid(unsafe_code)]

mod clock;
mod disk;
mod limits;
mod spool;

pub use clock::{Clock, SharedClock, SystemClock};
pub use disk::{Disk, DiskError, SharedDisk, StateDir, replace};
pub use spool::{
    Acknowledged, MergeRecords, Position, RecordTooLong, Recovery, Spool, SpoolQuotas, SpooledBatch,
};
