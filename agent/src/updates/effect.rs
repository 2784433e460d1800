//! What the updates ask of the rest of the agent, and what they are told of it.

use std::time::Duration;

use selvedge_trust::TrustedRoot;
use selvedge_wire::{Comparison, Digest, Event, Reported, SlotName, Topic};

use crate::inference::{LoadedModel, WantedSite};

/// What is to be done outside.
pub enum Effect {
    /// Listen to a topic; what is retained there shall come.
    Subscribe(Topic),
    /// Listen to it no more.
    Unsubscribe(Topic),
    /// From here on, this root says who speaks for the fleet.
    Trust(Box<TrustedRoot>),
    /// Run the bundle's golden vectors in a process of its own, and call
    /// [`Updates::tried`](super::Updates::tried). A trial of the same slot that is still running is over.
    Try {
        /// The slot.
        slot: SlotName,
        /// The bundle, which is on the disk as a whole.
        bundle: Digest,
        /// What the process may use.
        limits: TrialLimits,
    },
    /// Give a model the same samples as the one that answers, discard its answers, and call
    /// [`Updates::observed`](super::Updates::observed) about every second. No model ends it.
    Shadow {
        /// The slot.
        slot: SlotName,
        /// The model.
        model: Option<Box<LoadedModel>>,
        /// How many samples it shall be given.
        samples_wanted: u64,
    },
    /// Count what answers, compare whatever answers next with what answers now, and call
    /// [`Updates::observed`](super::Updates::observed) about every second; or stop that. It comes before the
    /// [`Effect::Swap`] whose model is to be watched, or when that answers already. What answered before the
    /// start of the agent is not known: then there is nothing to compare with, and errors alone are counted.
    Watch {
        /// The slot.
        slot: SlotName,
        /// Begin or stop.
        on: bool,
    },
    /// Let a model answer in a slot, or none, and call [`Updates::swapped`](super::Updates::swapped).
    Swap {
        /// The slot.
        slot: SlotName,
        /// The model.
        model: Option<Box<LoadedModel>>,
    },
    /// Compare the windows of a slot with what is usual at the site, too, or no more.
    Site {
        /// The slot.
        slot: SlotName,
        /// What is usual.
        site: Option<WantedSite>,
    },
    /// Tell the fleet.
    Tell(Event),
    /// What the device says it runs has changed.
    Report(Reported),
    /// A payload could not be read.
    Malformed {
        /// What is wrong with it.
        problem: String,
    },
}

/// What the process of a trial may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrialLimits {
    /// How long it may take, and how much processor time.
    pub time_max: Duration,
    /// How much memory it may have, in bytes of its address space.
    pub memory_bytes_max: u64,
}

/// What was seen of a bundle in its shadow or on its probation, since that began in this run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observation {
    /// The counts, beside those of the bundle before.
    pub comparison: Comparison,
    /// The total variation distance between the classes that the two gave: a fraction. Nothing where one
    /// of them gives no classes, or too few were counted.
    pub class_shift: Option<f64>,
    /// The samples that the bundle before did not answer: a fraction.
    pub failed_before: f64,
}

/// How the run of the agent before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousRun {
    /// The agent was told to end, and did, or there was no run before. A power cut is no clean end: nothing
    /// tells it from a crash.
    pub ended_cleanly: bool,
}
