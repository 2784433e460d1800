//! Where samples come from: replay files, local MQTT topics, nodes on a line.
//!
//! A source outlives what it reads from: it opens its file or line again, ever more patiently, and says
//! once that it has failed. What cannot be read is counted against its sender and dropped.

mod mqtt;
mod node;
mod replay;

use std::{sync::Arc, time::Duration};

use selvedge_bundle::SampleSpec;
use selvedge_runtime::Sample;
use selvedge_wire::EventKind;

use crate::{
    inference::{SampleRequest, SlotHandle, WorkerEnded},
    limits::{SOURCE_RETRY_MS_MAX, SOURCE_RETRY_MS_MIN},
    reporter::Reporter,
};

pub(crate) use mqtt::{LocalTopic, serve_local_broker};
pub(crate) use node::run_node;
pub(crate) use replay::{Replay, run_replay};

/// Feeds a slot under the name of a source, and counts its samples.
pub(crate) struct Feed {
    source: Arc<str>,
    slot: SlotHandle,
    number: u64,
}

impl Feed {
    pub(crate) fn new(source: &str, slot: SlotHandle) -> Self {
        Self { source: source.into(), slot, number: 0 }
    }

    pub(crate) fn slot(&self) -> &SlotHandle {
        &self.slot
    }

    async fn answer(
        &mut self,
        sample: Sample,
        read_for: &Arc<SampleSpec>,
    ) -> Result<(), WorkerEnded> {
        let (source, number) = (self.source.clone(), self.number);
        self.number += 1;
        let read_for = read_for.clone();
        self.slot.answer(SampleRequest { source, number, sample, read_for, reply: None }).await
    }
}

/// Waits between tries, and tells the first failure after a success.
struct Patience {
    wait_ms: u64,
    told: bool,
}

impl Patience {
    fn new() -> Self {
        Self { wait_ms: SOURCE_RETRY_MS_MIN, told: false }
    }

    fn succeeded(&mut self) {
        *self = Self::new();
    }

    async fn failed(&mut self, source: &str, problem: &str, reporter: &Reporter) {
        if !std::mem::replace(&mut self.told, true) {
            let detail = format!("source {source}: {problem}; trying again");
            tracing::warn!("{detail}");
            reporter.tell_now(EventKind::SourceFailed, None, None, &detail).await;
        }
        tokio::time::sleep(Duration::from_millis(self.wait_ms)).await;
        self.wait_ms = (2 * self.wait_ms).min(SOURCE_RETRY_MS_MAX);
    }
}
