//! The time of day, for documents that expire. Commands read it once and pass it on.

use std::time::SystemTime;

use selvedge_trust::UnixMillis;

/// Now, by this machine's clock.
pub fn now() -> UnixMillis {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
