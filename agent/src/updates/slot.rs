//! One slot on its way to the bundle that is desired: a pure state machine.
//!
//! It is told what happened ([`Happening`]) and answers with what to do ([`Action`]); it does no I/O and
//! reads no clock. Whoever drives it does the actions in their order. Every step can be repeated: after
//! a restart the machine begins again from the [`SlotRecord`] and finds on the disk what it had.
//!
//! ```text
//! Settled ─desired─▶ Seeking ─offer─▶ Fetching ─all chunks─▶ Verifying ─good─▶ Switching ─▶ Settled
//!                       │                │                       │ bad
//!                       └── disk full ──▶ Blocked                ▼
//!                            (tries again)                    Refused (the bundle before goes on)
//! ```
//!
//! An offer that is not to be believed says nothing about its bundle: the slot goes on seeking. Only what
//! is signed and yet must not run here is refused.
//!
//! A bundle that is desired next interrupts any of these. The record names the new bundle before it
//! answers; whatever it replaced is kept as the previous one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use selvedge_wire::{Digest, SlotPhase};
use serde::{Deserialize, Serialize};

use crate::limits::{
    CHUNK_OVERDUE_MS, CHUNKS_REQUESTED_MAX, DISK_RETRY_MS, OFFER_REASONS_TOLD_MAX, OFFER_RETRY_MS,
};

/// What a slot remembers across restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotRecord {
    /// The bundle that answers.
    pub current: Option<Digest>,
    /// The bundle that answered before, which is kept.
    pub previous: Option<Digest>,
    /// The bundle that was refused last.
    pub refused: Option<Refusal>,
}

/// Why a bundle was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The bundle.
    pub bundle: Digest,
    /// The generation that desired it. A newer one that desires it again is a new try.
    pub generation: u64,
    /// One sentence for people.
    pub reason: String,
}

/// What has happened to a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A desired state was accepted.
    Desired {
        /// Its generation.
        generation: u64,
        /// What it wants in this slot.
        bundle: Option<Digest>,
    },
    /// An offer was found, and its statement and chunk index are good; or the bundle is on the disk.
    Offered {
        /// The bundle.
        bundle: Digest,
        /// Its chunks that are not on the device.
        missing: Vec<Digest>,
        /// How many chunks it has.
        chunks_total: u32,
    },
    /// An offer came that is not to be believed. It may be anybody's.
    Misoffered {
        /// The bundle.
        bundle: Digest,
        /// One sentence for people.
        reason: String,
    },
    /// A chunk was checked and is durable.
    ChunkKept {
        /// The chunk.
        chunk: Digest,
    },
    /// The bundle was checked, and its model is loaded and warm.
    Verified {
        /// The bundle.
        bundle: Digest,
    },
    /// The bundle must not run here.
    Unfit {
        /// The bundle.
        bundle: Digest,
        /// One sentence for people.
        reason: String,
    },
    /// The new record is durable.
    Recorded,
    /// The slot's worker answers with the bundle, or with none.
    Switched {
        /// The bundle.
        bundle: Option<Digest>,
    },
    /// The disk did not take something.
    DiskFailed {
        /// One sentence for people.
        reason: String,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done for a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look on the disk, then on the network, for what is known of a bundle.
    Seek(Digest),
    /// Ask the network once more for what it has offered.
    SeekAgain(Digest),
    /// Stop looking.
    StopSeeking(Digest),
    /// Ask for a chunk.
    Request(Digest),
    /// Stop asking for a chunk.
    StopRequesting(Digest),
    /// Put the bundle together, check it, load and warm its model.
    Verify(Digest),
    /// Make the record durable.
    Record(SlotRecord),
    /// Let the bundle answer, or none.
    Switch(Option<Digest>),
    /// Say that the bundle took over.
    TellSwapped(Digest),
    /// Say that the bundle was refused, and why.
    TellRefused(Refusal),
    /// Say that an offer is not to be believed, and why.
    TellMisoffered {
        /// The bundle.
        bundle: Digest,
        /// One sentence for people.
        reason: String,
    },
    /// Remove what no slot needs any more.
    Tidy,
}

/// One slot on its way to what is desired.
#[derive(Clone, Debug)]
pub struct SlotUpdate {
    record: SlotRecord,
    // What the worker answers with: not what the record says, while the disk does not give that.
    answering: Option<Digest>,
    generation: u64,
    desired: Option<Digest>,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Settled,
    Seeking(Seeking),
    Fetching(Fetching),
    Verifying {
        target: Digest,
    },
    /// The record that names the target is being written.
    Recording {
        next: SlotRecord,
    },
    Switching,
    Blocked {
        target: Option<Digest>,
        reason: String,
        retry_at_ms: u64,
    },
    Refused(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seeking {
    target: Digest,
    // What is wrong with the newest offer, and when it is looked at again.
    problem: Option<(String, u64)>,
    told: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fetching {
    target: Digest,
    missing: VecDeque<Digest>,
    // With the time when each was asked for.
    requested: BTreeMap<Digest, u64>,
    chunks_total: u32,
}

impl SlotUpdate {
    /// A slot as its record has it; `record.current` is what answers.
    pub fn new(record: SlotRecord) -> Self {
        let (desired, answering) = (record.current, record.current);
        Self { record, answering, generation: 0, desired, state: State::Settled }
    }

    /// A slot whose disk did not give `record.current`, and that `answering` stands in for.
    pub fn unread(
        record: SlotRecord,
        answering: Option<Digest>,
        reason: &str,
        now_ms: u64,
    ) -> Self {
        let (target, desired) = (record.current, record.current);
        let state = State::blocked(target, reason, now_ms);
        Self { record, answering, generation: 0, desired, state }
    }

    /// What the slot remembers.
    pub fn record(&self) -> &SlotRecord {
        &self.record
    }

    /// The bundle that is desired.
    pub fn desired(&self) -> Option<Digest> {
        self.desired
    }

    /// The bundle that is on its way in.
    pub fn target(&self) -> Option<Digest> {
        match &self.state {
            State::Settled | State::Refused(_) => None,
            State::Seeking(seeking) => Some(seeking.target),
            State::Verifying { target } => Some(*target),
            State::Fetching(fetching) => Some(fetching.target),
            State::Recording { next } => next.current,
            State::Switching => self.record.current,
            State::Blocked { target, .. } => *target,
        }
    }

    /// Where the slot is, for people and the fleet.
    pub fn phase(&self) -> SlotPhase {
        match &self.state {
            State::Settled => SlotPhase::Settled,
            State::Seeking(_) | State::Blocked { .. } => {
                SlotPhase::Fetching { chunks_present: 0, chunks_total: 0 }
            }
            State::Fetching(fetching) => {
                let waiting = fetching.missing.len() + fetching.requested.len();
                let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
                let chunks_total = fetching.chunks_total;
                SlotPhase::Fetching {
                    chunks_present: chunks_total.saturating_sub(waiting),
                    chunks_total,
                }
            }
            State::Verifying { .. } | State::Recording { .. } | State::Switching => {
                SlotPhase::Verifying
            }
            State::Refused(_) => SlotPhase::Refused,
        }
    }

    /// Why the desired bundle does not answer, when that is not a matter of time.
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            State::Seeking(seeking) => seeking.problem.as_ref().map(|(reason, _)| reason.as_str()),
            State::Blocked { reason, .. } => Some(reason),
            State::Refused(refusal) => Some(&refusal.reason),
            _ => None,
        }
    }

    /// Goes on after something has happened at `now_ms`; what concerns an abandoned bundle is ignored.
    pub fn handle(&mut self, happening: Happening, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        match happening {
            Happening::Desired { generation, bundle } => {
                self.desire(generation, bundle, &mut actions);
            }
            Happening::Offered { bundle, missing, chunks_total } => {
                if matches!(&self.state, State::Seeking(seeking) if seeking.target == bundle) {
                    actions.push(Action::StopSeeking(bundle));
                    self.fetch(bundle, missing, chunks_total, now_ms, &mut actions);
                }
            }
            Happening::Misoffered { bundle, reason } => {
                if let State::Seeking(seeking) = &mut self.state
                    && seeking.target == bundle
                {
                    seeking.disbelieve(reason, now_ms, &mut actions);
                }
            }
            Happening::ChunkKept { chunk } => self.keep(chunk, now_ms, &mut actions),
            Happening::Verified { bundle } => {
                if self.state == (State::Verifying { target: bundle }) {
                    let next = self.record_with(Some(bundle));
                    self.write(next, &mut actions);
                }
            }
            Happening::Unfit { bundle, reason } => {
                if self.target() == Some(bundle) && !self.is_past_verifying() {
                    self.refuse(bundle, reason, &mut actions);
                }
            }
            Happening::Recorded => self.recorded(&mut actions),
            Happening::Switched { bundle } => self.switched(bundle, &mut actions),
            Happening::DiskFailed { reason } => self.block(reason, now_ms, &mut actions),
            Happening::Tick => self.tick(now_ms, &mut actions),
        }
        actions
    }

    fn desire(&mut self, generation: u64, bundle: Option<Digest>, actions: &mut Vec<Action>) {
        self.generation = self.generation.max(generation);
        let refused_now =
            self.record.refused.as_ref().filter(|refusal| {
                Some(refusal.bundle) == bundle && refusal.generation >= generation
            });
        let refused_now = refused_now.cloned();
        self.desired = bundle;
        if self.is_under_way() && self.target() == bundle {
            return;
        }
        let was_recording = matches!(self.state, State::Recording { .. });
        let answers = bundle == self.record.current && bundle == self.answering;
        self.stop(actions);
        if answers && !was_recording {
            self.state = State::Settled;
        } else if let Some(refusal) = refused_now {
            self.state = State::Refused(refusal);
        } else if answers {
            // The disk may have the other record by now.
            self.write(self.record.clone(), actions);
        } else {
            self.begin(bundle, actions);
        }
    }

    fn begin(&mut self, target: Option<Digest>, actions: &mut Vec<Action>) {
        match target {
            Some(target) => {
                self.state = State::Seeking(Seeking::new(target));
                actions.push(Action::Seek(target));
            }
            None => {
                let next = self.record_with(None);
                self.write(next, actions);
            }
        }
    }

    /// Gives up what is under way. What is on the disk stays, until it is tidied up.
    fn stop(&mut self, actions: &mut Vec<Action>) {
        match std::mem::replace(&mut self.state, State::Settled) {
            State::Seeking(seeking) => actions.push(Action::StopSeeking(seeking.target)),
            State::Fetching(fetching) => {
                actions.extend(fetching.requested.into_keys().map(Action::StopRequesting));
            }
            _ => {}
        }
    }

    fn fetch(
        &mut self,
        target: Digest,
        missing: Vec<Digest>,
        chunks_total: u32,
        now_ms: u64,
        actions: &mut Vec<Action>,
    ) {
        let (missing, requested) = (missing.into(), BTreeMap::new());
        let mut fetching = Fetching { target, missing, requested, chunks_total };
        fetching.request(now_ms, actions);
        self.state = State::Fetching(fetching);
        self.verify_if_complete(actions);
    }

    fn keep(&mut self, chunk: Digest, now_ms: u64, actions: &mut Vec<Action>) {
        let State::Fetching(fetching) = &mut self.state else { return };
        if fetching.requested.remove(&chunk).is_some() {
            actions.push(Action::StopRequesting(chunk));
        }
        // Another slot may have asked for it first.
        fetching.missing.retain(|missing| *missing != chunk);
        fetching.request(now_ms, actions);
        self.verify_if_complete(actions);
    }

    fn verify_if_complete(&mut self, actions: &mut Vec<Action>) {
        if let State::Fetching(fetching) = &self.state
            && fetching.missing.is_empty()
            && fetching.requested.is_empty()
        {
            let target = fetching.target;
            self.state = State::Verifying { target };
            actions.push(Action::Verify(target));
        }
    }

    fn is_under_way(&self) -> bool {
        !matches!(self.state, State::Settled | State::Refused(_))
    }

    fn is_past_verifying(&self) -> bool {
        matches!(self.state, State::Recording { .. } | State::Switching)
    }

    fn record_with(&self, current: Option<Digest>) -> SlotRecord {
        let previous = match self.record.current {
            Some(replaced) if Some(replaced) != current => Some(replaced),
            _ => self.record.previous,
        };
        SlotRecord { current, previous, refused: None }
    }

    fn write(&mut self, next: SlotRecord, actions: &mut Vec<Action>) {
        actions.push(Action::Record(next.clone()));
        self.state = State::Recording { next };
    }

    fn recorded(&mut self, actions: &mut Vec<Action>) {
        let State::Recording { next } = &self.state else { return };
        self.record = next.clone();
        actions.push(Action::Switch(self.record.current));
        self.state = State::Switching;
    }

    fn switched(&mut self, bundle: Option<Digest>, actions: &mut Vec<Action>) {
        self.answering = bundle;
        if self.state != State::Switching || bundle != self.record.current {
            return;
        }
        self.state = State::Settled;
        actions.extend(bundle.map(Action::TellSwapped));
        actions.push(Action::Tidy);
    }

    fn refuse(&mut self, bundle: Digest, reason: String, actions: &mut Vec<Action>) {
        self.stop(actions);
        if self.record.current == Some(bundle) && self.answering != Some(bundle) {
            // It was to answer again; what stands in for it stays.
            self.record.current = self.record.previous.take();
        }
        let refusal = Refusal { bundle, generation: self.generation, reason };
        self.record.refused = Some(refusal.clone());
        self.state = State::Refused(refusal.clone());
        actions.push(Action::Record(self.record.clone()));
        actions.push(Action::TellRefused(refusal));
        actions.push(Action::Tidy);
    }

    fn block(&mut self, reason: String, now_ms: u64, actions: &mut Vec<Action>) {
        if !self.is_under_way() || self.state == State::Switching {
            return;
        }
        let target = self.target();
        self.stop(actions);
        self.state = State::blocked(target, &reason, now_ms);
    }

    fn tick(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Blocked { target, retry_at_ms, .. } if now_ms >= *retry_at_ms => {
                let target = *target;
                self.begin(target, actions);
            }
            State::Seeking(seeking) => seeking.look_again(now_ms, actions),
            State::Fetching(fetching) => fetching.request_overdue_again(now_ms, actions),
            _ => {}
        }
    }
}

impl State {
    fn blocked(target: Option<Digest>, reason: &str, now_ms: u64) -> Self {
        let retry_at_ms = now_ms + DISK_RETRY_MS;
        let reason = format!("{reason}; trying again every {} s", DISK_RETRY_MS / 1000);
        Self::Blocked { target, reason, retry_at_ms }
    }
}

impl Seeking {
    fn new(target: Digest) -> Self {
        Self { target, problem: None, told: BTreeSet::new() }
    }

    fn disbelieve(&mut self, reason: String, now_ms: u64, actions: &mut Vec<Action>) {
        let known = self.told.contains(&reason) || self.told.len() == OFFER_REASONS_TOLD_MAX;
        if !known {
            self.told.insert(reason.clone());
            let bundle = self.target;
            actions.push(Action::TellMisoffered { bundle, reason: reason.clone() });
        }
        let reason = format!("{reason}; waiting for an offer to believe");
        self.problem = Some((reason, now_ms + OFFER_RETRY_MS));
    }

    fn look_again(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if let Some((_, again_at_ms)) = &mut self.problem
            && now_ms >= *again_at_ms
        {
            *again_at_ms = now_ms + OFFER_RETRY_MS;
            actions.push(Action::SeekAgain(self.target));
        }
    }
}

impl Fetching {
    fn request(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        while self.requested.len() < CHUNKS_REQUESTED_MAX
            && let Some(chunk) = self.missing.pop_front()
        {
            self.requested.insert(chunk, now_ms);
            actions.push(Action::Request(chunk));
        }
    }

    fn request_overdue_again(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        for (chunk, requested_ms) in &mut self.requested {
            if now_ms >= *requested_ms + CHUNK_OVERDUE_MS {
                *requested_ms = now_ms;
                actions.extend([Action::StopRequesting(*chunk), Action::Request(*chunk)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Digest = Digest([1; 32]);
    const NEW: Digest = Digest([2; 32]);
    const NEXT: Digest = Digest([3; 32]);

    fn chunk(number: u8) -> Digest {
        Digest([100 + number; 32])
    }

    fn running_old() -> SlotUpdate {
        SlotUpdate::new(SlotRecord { current: Some(OLD), ..SlotRecord::default() })
    }

    fn desired(generation: u64, bundle: Digest) -> Happening {
        Happening::Desired { generation, bundle: Some(bundle) }
    }

    fn offered(bundle: Digest, chunks: u8) -> Happening {
        let missing = (0..chunks).map(chunk).collect();
        Happening::Offered { bundle, missing, chunks_total: chunks.into() }
    }

    fn fetch_all(slot: &mut SlotUpdate, chunks: u8) -> Vec<Action> {
        (0..chunks).flat_map(|n| slot.handle(Happening::ChunkKept { chunk: chunk(n) }, 0)).collect()
    }

    fn verifying_new() -> SlotUpdate {
        let mut slot = running_old();
        slot.handle(desired(1, NEW), 0);
        slot.handle(offered(NEW, 2), 0);
        assert_eq!(fetch_all(&mut slot, 2).last(), Some(&Action::Verify(NEW)));
        slot
    }

    #[test]
    fn a_new_bundle_is_recorded_before_it_answers_and_the_old_is_kept() {
        let mut slot = verifying_new();
        let record = SlotRecord { current: Some(NEW), previous: Some(OLD), refused: None };
        let verified = slot.handle(Happening::Verified { bundle: NEW }, 0);
        assert_eq!(verified, [Action::Record(record.clone())]);
        assert_eq!(slot.record().current, Some(OLD), "the record is not durable yet");
        assert_eq!(slot.handle(Happening::Recorded, 0), [Action::Switch(Some(NEW))]);
        assert_eq!(slot.phase(), SlotPhase::Verifying);
        let switched = slot.handle(Happening::Switched { bundle: Some(NEW) }, 0);
        assert_eq!(switched, [Action::TellSwapped(NEW), Action::Tidy]);
        assert_eq!((slot.record(), slot.phase()), (&record, SlotPhase::Settled));
    }

    #[test]
    fn chunks_are_asked_for_a_window_at_a_time() {
        let mut slot = running_old();
        slot.handle(desired(1, NEW), 0);
        let first = slot.handle(offered(NEW, 20), 0);
        let requests = |actions: &[Action]| {
            actions.iter().filter(|action| matches!(action, Action::Request(_))).count()
        };
        assert_eq!(requests(&first), CHUNKS_REQUESTED_MAX);
        let kept = slot.handle(Happening::ChunkKept { chunk: chunk(0) }, 0);
        assert_eq!(kept[0], Action::StopRequesting(chunk(0)));
        assert_eq!(requests(&kept), 1);
        assert_eq!(slot.phase(), SlotPhase::Fetching { chunks_present: 1, chunks_total: 20 });
        let repeated = slot.handle(Happening::ChunkKept { chunk: chunk(0) }, 0);
        assert!(repeated.is_empty(), "a duplicate changes nothing");
    }

    #[test]
    fn a_chunk_that_does_not_come_is_asked_for_again() {
        let mut slot = running_old();
        slot.handle(desired(1, NEW), 0);
        slot.handle(offered(NEW, 1), 0);
        assert!(slot.handle(Happening::Tick, CHUNK_OVERDUE_MS - 1).is_empty());
        let again = [Action::StopRequesting(chunk(0)), Action::Request(chunk(0))];
        assert_eq!(slot.handle(Happening::Tick, CHUNK_OVERDUE_MS), again);
        assert!(slot.handle(Happening::Tick, CHUNK_OVERDUE_MS + 1).is_empty());
    }

    #[test]
    fn a_refused_bundle_leaves_the_old_one_and_its_reason_stays() {
        let mut slot = verifying_new();
        let reason = "output logits differs".to_owned();
        let actions = slot.handle(Happening::Unfit { bundle: NEW, reason: reason.clone() }, 0);
        let refusal = Refusal { bundle: NEW, generation: 1, reason: reason.clone() };
        let record =
            SlotRecord { current: Some(OLD), previous: None, refused: Some(refusal.clone()) };
        let expected = [Action::Record(record.clone()), Action::TellRefused(refusal), Action::Tidy];
        assert_eq!(actions, expected);
        assert_eq!((slot.phase(), slot.reason()), (SlotPhase::Refused, Some(reason.as_str())));

        // After a restart the same generation does not try again, a newer one does.
        let mut slot = SlotUpdate::new(record);
        assert!(slot.handle(desired(1, NEW), 0).is_empty());
        assert_eq!((slot.phase(), slot.reason()), (SlotPhase::Refused, Some(reason.as_str())));
        assert_eq!(slot.handle(desired(2, NEW), 0), [Action::Seek(NEW)]);
    }

    #[test]
    fn offers_that_are_not_to_be_believed_are_told_once_each_and_a_good_one_is_taken() {
        let mut slot = running_old();
        slot.handle(desired(1, NEW), 0);
        let misoffered = |number: usize| {
            let reason = format!("signature {number} is not valid");
            Happening::Misoffered { bundle: NEW, reason }
        };
        let told = |actions: Vec<Action>| {
            actions.iter().filter(|action| matches!(action, Action::TellMisoffered { .. })).count()
        };
        for number in 0..2 * OFFER_REASONS_TOLD_MAX {
            let expected = usize::from(number < OFFER_REASONS_TOLD_MAX);
            assert_eq!(told(slot.handle(misoffered(number), 0)), expected, "{number}");
            assert_eq!(told(slot.handle(misoffered(0), 0)), 0);
        }
        slot.handle(misoffered(3), 5);
        assert!(slot.reason().is_some_and(|reason| reason.contains("signature 3")));
        assert_eq!(slot.phase(), SlotPhase::Fetching { chunks_present: 0, chunks_total: 0 });
        assert!(slot.handle(Happening::Tick, 4 + OFFER_RETRY_MS).is_empty());
        assert_eq!(slot.handle(Happening::Tick, 5 + OFFER_RETRY_MS), [Action::SeekAgain(NEW)]);
        assert!(slot.handle(Happening::Tick, 6 + OFFER_RETRY_MS).is_empty());
        let taken = slot.handle(offered(NEW, 1), 0);
        assert_eq!(taken, [Action::StopSeeking(NEW), Action::Request(chunk(0))]);
        assert_eq!(slot.reason(), None);
        assert!(slot.handle(misoffered(4), 0).is_empty(), "it comes too late");
    }

    #[test]
    fn going_back_to_what_runs_ends_a_refusal() {
        let mut slot = verifying_new();
        slot.handle(Happening::Unfit { bundle: NEW, reason: "bad".into() }, 0);
        assert!(slot.handle(desired(2, OLD), 0).is_empty());
        assert_eq!((slot.phase(), slot.reason()), (SlotPhase::Settled, None));
    }

    #[test]
    fn the_next_bundle_interrupts_a_download_and_stale_answers_change_nothing() {
        let mut slot = running_old();
        slot.handle(desired(1, NEW), 0);
        slot.handle(offered(NEW, 1), 0);
        let interrupted = slot.handle(desired(2, NEXT), 0);
        assert_eq!(interrupted, [Action::StopRequesting(chunk(0)), Action::Seek(NEXT)]);
        for stale in [
            offered(NEW, 1),
            Happening::ChunkKept { chunk: chunk(0) },
            Happening::Verified { bundle: NEW },
            Happening::Unfit { bundle: NEW, reason: "late".into() },
            Happening::Recorded,
            Happening::Switched { bundle: Some(NEW) },
        ] {
            assert!(slot.handle(stale.clone(), 0).is_empty(), "{stale:?}");
        }
        assert_eq!(slot.target(), Some(NEXT));
    }

    #[test]
    fn a_desired_state_that_is_met_changes_nothing() {
        let mut slot = running_old();
        for generation in [1, 1, 2] {
            assert!(slot.handle(desired(generation, OLD), 0).is_empty());
            assert_eq!(slot.phase(), SlotPhase::Settled);
        }
    }

    #[test]
    fn the_same_desired_state_again_changes_nothing() {
        let mut slot = running_old();
        slot.handle(desired(1, NEW), 0);
        for generation in [1, 2] {
            assert!(slot.handle(desired(generation, NEW), 0).is_empty());
        }
    }

    #[test]
    fn a_full_disk_is_a_state_that_tries_again() {
        let mut slot = running_old();
        slot.handle(desired(1, NEW), 0);
        slot.handle(offered(NEW, 1), 0);
        let blocked = slot.handle(Happening::DiskFailed { reason: "no space".into() }, 0);
        assert_eq!(blocked, [Action::StopRequesting(chunk(0))]);
        assert!(slot.reason().is_some_and(|reason| reason.contains("trying again")));
        assert!(slot.handle(Happening::Tick, DISK_RETRY_MS - 1).is_empty());
        assert_eq!(slot.handle(Happening::Tick, DISK_RETRY_MS), [Action::Seek(NEW)]);
    }

    #[test]
    fn a_record_that_cannot_be_written_is_tried_again() {
        let mut slot = verifying_new();
        slot.handle(Happening::Verified { bundle: NEW }, 0);
        slot.handle(Happening::DiskFailed { reason: "no space".into() }, 0);
        assert_eq!(slot.record().current, Some(OLD));
        assert_eq!(slot.handle(Happening::Tick, DISK_RETRY_MS), [Action::Seek(NEW)]);
    }

    #[test]
    fn a_bundle_that_the_disk_does_not_give_is_tried_again_and_its_stand_in_is_not_taken_for_it() {
        let record = SlotRecord { current: Some(NEW), previous: Some(OLD), refused: None };
        let unread = || SlotUpdate::unread(record.clone(), Some(OLD), "it does not answer", 0);
        let mut slot = unread();
        assert!(slot.handle(desired(1, NEW), 0).is_empty());
        assert!(slot.reason().is_some_and(|reason| reason.contains("does not answer")));
        assert_eq!(slot.handle(Happening::Tick, DISK_RETRY_MS), [Action::Seek(NEW)]);
        slot.handle(offered(NEW, 0), 0);
        assert_eq!(
            slot.handle(Happening::Verified { bundle: NEW }, 0),
            [Action::Record(record.clone())]
        );

        // Away to another bundle and back: the record's does not answer yet.
        let mut slot = unread();
        slot.handle(desired(1, NEXT), 0);
        let back = [Action::StopSeeking(NEXT), Action::Seek(NEW)];
        assert_eq!(slot.handle(desired(2, NEW), 0), back);

        // If it turns out to be bad, the record follows what answers.
        slot.handle(offered(NEW, 0), 0);
        slot.handle(Happening::Unfit { bundle: NEW, reason: "bad".into() }, 0);
        assert_eq!((slot.record().current, slot.phase()), (Some(OLD), SlotPhase::Refused));
        assert_eq!(slot.handle(desired(3, NEW), 0), [Action::Seek(NEW)]);
    }

    #[test]
    fn an_empty_slot_is_wanted_and_had() {
        let mut slot = running_old();
        let actions = slot.handle(Happening::Desired { generation: 1, bundle: None }, 0);
        let record = SlotRecord { current: None, previous: Some(OLD), refused: None };
        assert_eq!(actions, [Action::Record(record)]);
        assert_eq!(slot.handle(Happening::Recorded, 0), [Action::Switch(None)]);
        assert_eq!(slot.handle(Happening::Switched { bundle: None }, 0), [Action::Tidy]);
        assert_eq!(slot.phase(), SlotPhase::Settled);
    }

    #[test]
    fn the_bundle_before_can_come_back_without_a_download() {
        let record = SlotRecord { current: Some(NEW), previous: Some(OLD), refused: None };
        let mut slot = SlotUpdate::new(record);
        assert_eq!(slot.handle(desired(2, OLD), 0), [Action::Seek(OLD)]);
        let on_disk = slot.handle(offered(OLD, 0), 0);
        assert_eq!(on_disk, [Action::StopSeeking(OLD), Action::Verify(OLD)]);
        slot.handle(Happening::Verified { bundle: OLD }, 0);
        slot.handle(Happening::Recorded, 0);
        slot.handle(Happening::Switched { bundle: Some(OLD) }, 0);
        let record = SlotRecord { current: Some(OLD), previous: Some(NEW), refused: None };
        assert_eq!(slot.record(), &record);
    }
}
