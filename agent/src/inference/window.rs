//! The window that is open in a slot, and its profile.
//!
//! Windows count from 0 in each slot and boot; one ends after its time, or when another bundle takes
//! over. A window without a sample leaves no profile and no number.

use std::time::Duration;

use selvedge_runtime::Answer;
use selvedge_sketch::GatewayProfile;
use selvedge_wire::{Digest, ProfileOrigin, ProfileRecord, SlotName, WindowRange};

use crate::{clock::SharedClock, record::encode_profile};

use super::LoadedModel;

pub(super) struct Window {
    slot: SlotName,
    clock: SharedClock,
    length: Duration,
    number: u64,
    open: Option<Open>,
}

struct Open {
    bundle: Digest,
    since: Duration,
    opened_ms: u64,
    profile: GatewayProfile,
}

/// A window that was closed.
pub(super) struct Closed {
    pub(super) record: ProfileRecord,
    pub(super) profile: GatewayProfile,
}

impl Window {
    pub(super) fn new(slot: SlotName, clock: SharedClock, length: Duration) -> Self {
        Self { slot, clock, length, number: 0, open: None }
    }

    /// Counts one sample, of which `values` are the features; the first one opens the window.
    pub(super) fn count(
        &mut self,
        model: &LoadedModel,
        values: &[f32],
        answer: Option<&Answer>,
        latency_us: u32,
    ) {
        let clock = &self.clock;
        let open = self.open.get_or_insert_with(|| Open {
            bundle: model.running.bundle,
            since: clock.elapsed(),
            opened_ms: clock.unix_ms(),
            profile: model.profile(),
        });
        model.count(&mut open.profile, values, answer);
        open.profile.observe_latency(latency_us);
    }

    pub(super) fn is_over(&self) -> bool {
        self.open.as_ref().is_some_and(|open| self.clock.elapsed() >= open.since + self.length)
    }

    /// What the open window has counted; it is closed by that.
    pub(super) fn close(&mut self) -> Option<Closed> {
        let open = self.open.take()?;
        let windows = WindowRange { first: self.number, last: self.number };
        self.number += 1;
        let record = ProfileRecord {
            origin: ProfileOrigin::Model { slot: self.slot.clone(), bundle: open.bundle },
            windows,
            opened_ms: open.opened_ms,
            closed_ms: self.clock.unix_ms(),
            profile: encode_profile(&open.profile),
        };
        Some(Closed { record, profile: open.profile })
    }
}
