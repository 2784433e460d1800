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

/// A desired state that is not to be believed is looked at again after this time: the clock may be right by
/// then.
pub const DESIRED_RETRY_MS: u64 = 60_000;

/// A bundle of which the metadata does not speak is no news for this time: metadata may be on its way.
pub const METADATA_PATIENCE_MS: u64 = 10_000;

/// An offer that is not to be believed is looked at again after this time: the clock may be right by then.
pub const OFFER_RETRY_MS: u64 = 60_000;

/// The most reasons that are told of offers for one bundle which are not to be believed.
pub const OFFER_REASONS_TOLD_MAX: usize = 8;

/// No program of this kind was built before: Unix time in milliseconds. Where the build gives
/// `SOURCE_DATE_EPOCH`, it is that.
pub const BUILD_UNIX_MS: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(seconds) => decimal(seconds) * 1000,
    None => 1_767_225_600_000,
};

/// A clock is behind when it is this far behind a time that is known to have passed: clocks are never quite
/// alike.
pub const CLOCK_SLACK_MS: u64 = 60_000;

/// A file of metadata that has not come in this time is asked for again.
pub const METADATA_OVERDUE_MS: u64 = 30_000;

/// After metadata was refused, the timestamp is asked for again after this time.
pub const METADATA_RETRY_MS: u64 = 60_000;

/// The most reasons that are told, in one run, of metadata which was refused.
pub const METADATA_REASONS_TOLD_MAX: usize = 16;

/// How often the fleet is told how far something is that goes on, when nothing else is new.
pub const PROGRESS_REPORT_MS: u64 = 1_000;

/// How long after its time limit a trial's process is waited for.
pub const TRIAL_GRACE_MS: u64 = 30_000;

/// A shadow that did not get the samples it wants ends after this time, and the bundle goes on.
pub const SHADOW_MS_MAX: u64 = 3_600_000;

/// A probation that did not get the inferences it wants ends after this time, or after the time that the
/// bundle states if that is longer: time alone then decides.
pub const PROBATION_MS_MAX: u64 = 3_600_000;

/// A bundle is judged by what it did from this number of samples on, or from the number that its probation
/// or shadow wants if that is lower.
pub const SAMPLES_JUDGED_MIN: u64 = 20;

/// The latency that 95 % of answers keep is judged from this number of samples on: of fewer, a moment in
/// which the machine was busy could decide.
pub const LATENCY_SAMPLES_MIN: u64 = 100;

/// Latencies that differ by no more than this are the same, whatever their ratio, in microseconds.
pub const LATENCY_SLACK_US: u32 = 1_000;

/// The most bundle names of a slot whose highest confirmed version is remembered; the one that was confirmed
/// longest ago is forgotten first.
pub const CONFIRMED_NAMES_MAX: usize = 32;

/// After a full disk, the next try comes after this time.
pub const DISK_RETRY_MS: u64 = 10_000;

/// Free space that a download leaves to the rest of the machine, in bytes.
pub const DISK_RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// The longest message that a local sensor sends, in bytes.
pub const SAMPLE_PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// The longest label that comes on a local topic, in bytes.
pub const LABEL_BYTES_MAX: usize = 4 * 1024;

/// How many of its newest answers a slot remembers for labels, unless the configuration says otherwise.
pub const ANSWERS_REMEMBERED_DEFAULT: usize = 4096;

/// The most answers that a slot remembers for labels: 64 bytes each.
pub const ANSWERS_REMEMBERED_MAX: usize = 65_536;

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

/// The most windows of a slot whose openings are remembered: a drift is said to have begun within them.
pub const DRIFT_WINDOWS_REMEMBERED_MAX: usize = 1024;

/// So many samples in a row outside of the reference's range are told.
pub const OUT_OF_RANGE_SAMPLES_MIN: u32 = 3;

/// A value that comes so often in a row is stuck, unless the configuration says otherwise.
pub const STUCK_SAMPLES_DEFAULT: u32 = 50;

/// The most samples that wait to be captured; what comes then is left out.
pub const CAPTURES_WAITING_MAX: usize = 16;

/// The most requests for captured samples that wait; what comes then comes again with the next connection.
pub const CAPTURE_REQUESTS_WAITING_MAX: usize = 8;

/// The most bytes of captured samples that are given to the spool at once.
pub const CAPTURE_STEP_BYTES: usize = 96 * 1024;

/// The most captured samples that are looked at before what was decided is written down.
pub const CAPTURE_STEP_FILES: usize = 64;

/// The smallest quota of the stream of captured samples, in bytes: what is given to it at once must fit.
pub const CAPTURES_BYTES_MIN: u64 = 256 * 1024;

/// The least that may be sent of captured samples in a day, in bytes: a piece must fit.
pub const CAPTURE_UPLOAD_BYTES_MIN: u64 = 64 * 1024;

/// The most samples that are captured in an hour.
pub const CAPTURES_PER_HOUR_MAX: usize = 10_000;

/// The most samples that a ring of captured ones has.
pub const CAPTURES_MAX: usize = 100_000;

/// After so many samples that are not odd, a spell of odd ones is over.
pub const ANOMALY_CALM_SAMPLES: u32 = 50;

/// Spells of one kind, source and feature are told once in this time.
pub const ANOMALY_QUIET: Duration = Duration::from_secs(600);

/// The largest file of a device's key, in bytes.
pub const KEY_BYTES_MAX: u64 = 4 * 1024;

const fn decimal(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut value = 0;
    let mut place = 0;
    while place < bytes.len() {
        assert!(bytes[place].is_ascii_digit(), "SOURCE_DATE_EPOCH is no number");
        value = value * 10 + (bytes[place] - b'0') as u64;
        place += 1;
    }
    value
}
