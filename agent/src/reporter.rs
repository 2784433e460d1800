//! What happens on the device, told in the log and to the fleet.

use selvedge_wire::{Digest, Event, EventKind, SlotName, Stream};

use crate::{
    clock::SharedClock,
    malformed::{MalformedLog, shortened},
    record::encode_record,
    spool::SpoolHandle,
};

/// Tells what happens; clones share their counts.
#[derive(Clone)]
pub(crate) struct Reporter {
    clock: SharedClock,
    spool: SpoolHandle,
    malformed: MalformedLog,
    disbelieved: MalformedLog,
}

impl Reporter {
    pub(crate) fn new(clock: SharedClock, spool: SpoolHandle) -> Self {
        let (malformed, disbelieved) = Default::default();
        Self { clock, spool, malformed, disbelieved }
    }

    /// Tells the fleet.
    pub(crate) async fn tell(&self, event: Event) {
        self.spool.push(Stream::Events, encode_record(&event)).await;
    }

    /// Tells the fleet something that concerns the device as a whole, or a slot.
    pub(crate) async fn tell_now(
        &self,
        kind: EventKind,
        slot: Option<SlotName>,
        bundle: Option<Digest>,
        detail: &str,
    ) {
        let (at_ms, detail) = (self.clock.unix_ms(), shortened(detail));
        self.tell(Event { at_ms, kind, slot, bundle, detail }).await;
    }

    /// Counts something that could not be read; tells about its sender once a minute.
    pub(crate) async fn malformed(&self, sender: &str, problem: &str) {
        if let Some(notice) = self.malformed.note(sender, problem, self.now_ms()) {
            let detail =
                format!("{}: {} unreadable: {}", notice.sender, notice.count, notice.problem);
            tracing::warn!("{detail}");
            self.tell_now(EventKind::InputMalformed, None, None, &detail).await;
        }
    }

    /// Counts a message that claims to come from the fleet and does not; tells about it once a minute.
    pub(crate) async fn disbelieved(&self, problem: &str) {
        if let Some(notice) = self.disbelieved.note("fleet", problem, self.now_ms()) {
            let detail = format!("{} disbelieved: {}", notice.count, notice.problem);
            tracing::warn!("{detail}");
            self.tell_now(EventKind::FleetDisbelieved, None, None, &detail).await;
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How much could not be read.
    pub(crate) fn malformed_total(&self) -> u64 {
        self.malformed.total()
    }

    /// The time of day, for records.
    pub(crate) fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    /// Where records go.
    pub(crate) fn spool(&self) -> &SpoolHandle {
        &self.spool
    }
}
