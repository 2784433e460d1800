//! Every limit of the agent that its configuration does not set.

use std::time::Duration;

/// The longest record that a spool takes, in bytes: it must fit one message with its batch.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// A segment of the spool is closed when it has this many bytes.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024;

/// The smallest quota of a stream, in bytes.
pub const STREAM_BYTES_MIN: u64 = 4 * 1024;

/// Records that wait in memory because the disk does not take them, per stream, in bytes.
pub const PENDING_BYTES_MAX: usize = 512 * 1024;

/// The most runs whose records a spool keeps; beyond it the oldest run's are given up.
pub const BOOTS_MAX: usize = 1024;

/// The most batches of a stream that are sent before the fleet has stored the first of them.
pub const BATCHES_UNSTORED_MAX: usize = 16;

/// The most samples that wait for a slot's model. A source that is faster waits.
pub const SAMPLES_WAITING_MAX: usize = 64;

/// The most records and commands that wait for the spool. An actor that is faster waits.
pub const SPOOL_COMMANDS_MAX: usize = 4096;

/// The most senders that malformed payloads are told apart by; the rest share one line.
pub const MALFORMED_SENDERS_MAX: usize = 256;

/// A sender's malformed payloads are logged once in this time.
pub const MALFORMED_QUIET_MS: u64 = 60_000;

/// The most slots of a desired state.
pub const SLOTS_MAX: usize = 16;

/// How many chunks a slot is subscribed to at a time.
pub const CHUNKS_REQUESTED_MAX: usize = 8;

/// A chunk that has not come in this time is asked for again.
pub const CHUNK_OVERDUE_MS: u64 = 30_000;

/// An offer that is not to be believed is looked at again after this time: the clock may be right by then.
pub const OFFER_RETRY_MS: u64 = 60_000;

/// The most reasons that are told of offers for one bundle which are not to be believed.
pub const OFFER_REASONS_TOLD_MAX: usize = 8;

/// After a full disk, the next try comes after this time.
pub const DISK_RETRY_MS: u64 = 10_000;

/// Free space that a download leaves to the rest of the machine, in bytes.
pub const DISK_RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// The longest message that a local sensor sends, in bytes.
pub const SAMPLE_PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// The largest replay file, in bytes.
pub const REPLAY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The most nodes that one line carries.
pub const NODES_MAX: usize = 64;

/// The largest configuration file, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 256 * 1024;

/// The most sources of one agent.
pub const SOURCES_MAX: usize = 32;

/// The first wait before a source opens its line or file again.
pub const SOURCE_RETRY_MS_MIN: u64 = 250;

/// The longest wait before a source opens its line or file again.
pub const SOURCE_RETRY_MS_MAX: u64 = 30_000;

/// The most values of an answer without a class that a result carries.
pub const RESULT_VALUES_MAX: usize = 64;

/// The longest reason or detail that is reported, in bytes.
pub const DETAIL_BYTES_MAX: usize = 1024;

/// How far the process of a trial steps back behind all others: the system's nice value, 0 to 19.
pub const TRIAL_NICENESS: i32 = 10;

/// What is read of the process of a trial, per stream, in bytes.
pub const TRIAL_OUTPUT_BYTES_MAX: u64 = 8 * 1024;

/// How often the process of a trial is started, where the system does not start it at once.
pub const TRIAL_STARTS_MAX: u32 = 3;

/// How long it is until the system is asked for that process again.
pub const TRIAL_RETRY: Duration = Duration::from_secs(5);

/// The least samples of a part of what is remembered of a bundle, for the comparison with the next.
pub const BASELINE_PART_SAMPLES: u64 = 256;

/// The least time of such a part.
pub const BASELINE_PART_TIME: Duration = Duration::from_secs(60);

/// The most closed parts that are remembered.
pub const BASELINE_PARTS_MAX: usize = 8;

/// The largest part of one processor's time that a shadow takes. Above it, samples are left out.
pub const SHADOW_TIME_SHARE_MAX: f64 = 0.25;

/// The most time that a shadow may save up while it has nothing to do.
pub const SHADOW_TIME_SAVED_MAX: Duration = Duration::from_secs(1);

/// The largest difference between values of two bundles that agree, as a part of the largest value.
pub const SHADOW_TOLERANCE: f64 = 0.05;

/// How often a shadow or a probation is told about.
pub const OBSERVATION_INTERVAL: Duration = Duration::from_secs(1);

/// The largest file of a device's key, in bytes.
pub const KEY_BYTES_MAX: u64 = 4 * 1024;
