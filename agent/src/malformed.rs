//! Payloads that cannot be read: counted, told once per sender and minute, dropped.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::limits::{DETAIL_BYTES_MAX, MALFORMED_QUIET_MS, MALFORMED_SENDERS_MAX};

/// Who stands for all senders beyond the limit.
const OTHERS: &str = "others";

/// What is to be told about a sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The sender.
    pub sender: String,
    /// How many of its payloads were dropped since the last notice.
    pub count: u64,
    /// What is wrong with the newest.
    pub problem: String,
}

/// Counts payloads that could not be read.
#[derive(Clone, Default)]
pub struct MalformedLog {
    senders: Arc<Mutex<BTreeMap<String, Sender>>>,
    total: Arc<AtomicU64>,
}

#[derive(Default)]
struct Sender {
    since_notice: u64,
    quiet_until_ms: u64,
}

impl MalformedLog {
    /// Counts one; gives what is to be told, if it is time. `now_ms` is time that passes, not the date.
    pub fn note(&self, sender: &str, problem: &str, now_ms: u64) -> Option<Notice> {
        self.total.fetch_add(1, Ordering::Relaxed);
        let mut senders = self.senders.lock().expect("nothing panics while it holds the lock");
        let known = senders.contains_key(sender) || senders.len() < MALFORMED_SENDERS_MAX;
        let sender = if known { sender } else { OTHERS };
        let entry = senders.entry(sender.to_owned()).or_default();
        entry.since_notice += 1;
        if now_ms < entry.quiet_until_ms {
            return None;
        }
        entry.quiet_until_ms = now_ms + MALFORMED_QUIET_MS;
        let count = std::mem::take(&mut entry.since_notice);
        Some(Notice { sender: sender.to_owned(), count, problem: shortened(problem) })
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// At most [`DETAIL_BYTES_MAX`] bytes of a text, whole characters.
pub(crate) fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(DETAIL_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_told_about_once_a_minute_with_all_that_was_counted() {
        let log = MalformedLog::default();
        let count = |notice: Option<Notice>| notice.map(|notice| notice.count);
        assert_eq!(count(log.note("a", "bad", 0)), Some(1));
        assert_eq!(count(log.note("b", "bad", 1)), Some(1));
        for now_ms in 1..=5 {
            assert_eq!(count(log.note("a", "bad", now_ms)), None);
        }
        assert_eq!(count(log.note("a", "bad", MALFORMED_QUIET_MS)), Some(6));
        assert_eq!(log.total(), 8);
    }

    #[test]
    fn many_senders_share_one_line_and_little_memory() {
        let log = MalformedLog::default();
        let notices = (0..10_000).filter_map(|n| log.note(&n.to_string(), "bad", 0)).count();
        assert_eq!(notices, MALFORMED_SENDERS_MAX + 1);
        assert_eq!(log.total(), 10_000);
    }
}
