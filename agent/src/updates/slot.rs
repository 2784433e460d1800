//! One slot on its way to the bundle that is desired: a pure state machine.
//!
//! It is told what happened ([`Happening`]) and answers with what to do ([`Action`]); it does no I/O and
//! reads no clock. Whoever drives it does the actions in their order. Every step can be repeated: after
//! a restart the machine begins again from the [`SlotRecord`] and finds on the disk what it had.
//!
//! ```text
//!            target, offer       all pieces          good           passed
//! Settled ─▶ Seeking ─▶ Fetching ─────────▶ Verifying ─▶ Trial ──────────▶ Shadow (where it is wanted)
//!    ▲          │           │                   │ bad      │ failed          │ failed    │ passed
//!    │          └─ no disk ─┴▶ Blocked          ▼          ▼                 ▼           ▼
//!    │                     (tries again)     Refused (the bundle before goes on)     Switching
//!    │                                          ▲                                        │
//!    └────────────── confirmed ◀── Probation ───┴── failed: back to the bundle before    │
//!                                     ▲                                                  │
//!                                     └──────────────────────────────────────────────────┘
//! ```
//!
//! Metadata or an offer that is not to be believed says nothing about a bundle: the slot goes on seeking.
//! Only what is signed and yet must not run here is refused.
//!
//! The record names what is being tried before it is tried, and the new bundle before it answers. So a
//! bundle that takes the whole agent down is known by name at the next start: a run that did not end
//! cleanly is counted against it. Whatever a confirmed bundle replaced is kept as the previous one.
//!
//! A bundle that is desired next interrupts any of these, but for a change of models that is under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use selvedge_bundle::UpdatePolicy;
use selvedge_wire::{Comparison, Digest, SlotPhase};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::limits::{
    CHUNK_OVERDUE_MS, CHUNKS_REQUESTED_MAX, CONFIRMED_NAMES_MAX, DISK_RETRY_MS,
    LATENCY_SAMPLES_MIN, LATENCY_SLACK_US, METADATA_PATIENCE_MS, OFFER_REASONS_TOLD_MAX,
    OFFER_RETRY_MS, PROBATION_MS_MAX, SAMPLES_JUDGED_MIN, SHADOW_MS_MAX, TRIAL_GRACE_MS,
};

use super::Observation;

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
    /// Why `current` or `previous` failed, where it stayed for want of another.
    #[serde(default)]
    pub stays: Option<Refusal>,
    /// The bundle that is being tried; what answers is another.
    pub trial: Option<Attempt>,
    /// That `current` has not been confirmed.
    pub probation: Option<Attempt>,
    /// The bundle that stood its probation last: it can be gone back to without another one.
    #[serde(default)]
    pub proven: Option<Digest>,
    /// The highest confirmed version of each bundle name, the name that was confirmed last at the end.
    #[serde(default)]
    pub confirmed: Vec<ConfirmedVersion>,
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

/// A bundle that has yet to show what it can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// The bundle.
    pub bundle: Digest,
    /// The generation that desired it.
    pub generation: u64,
    /// How many runs of the agent did not end cleanly since the attempt began.
    pub crashes: u32,
    /// How many of them the bundle's manifest allows.
    pub crashes_max: u32,
}

/// A version that stood its probation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmedVersion {
    /// The bundle's name.
    pub name: String,
    /// The version.
    pub version: Version,
}

impl SlotRecord {
    /// The record after a run that did not end cleanly. Nobody knows which bundle is to blame, so it counts
    /// against each that has yet to show what it can do.
    #[must_use]
    pub fn after_crash(mut self) -> Self {
        for attempt in [&mut self.trial, &mut self.probation].into_iter().flatten() {
            attempt.crashes = attempt.crashes.saturating_add(1);
        }
        self
    }

    /// Gives up what took the agent down too often: says what, and whether it was the one that answered.
    pub fn give_up_crashed(&mut self) -> Vec<(Refusal, bool)> {
        let mut given_up = Vec::new();
        if let Some(attempt) = self.probation.take_if(|attempt| attempt.is_over()) {
            let refusal = attempt.refusal("on probation");
            self.current = self.previous.take();
            self.refused = Some(refusal.clone());
            given_up.push((refusal, true));
        }
        if let Some(attempt) = self.trial.take_if(|attempt| attempt.is_over()) {
            let refusal = attempt.refusal("tried");
            self.refused = Some(refusal.clone());
            given_up.push((refusal, false));
        }
        given_up
    }

    /// The highest confirmed version of bundles of this name.
    pub fn confirmed_version(&self, name: &str) -> Option<&Version> {
        let confirmed = self.confirmed.iter().find(|confirmed| confirmed.name == name);
        confirmed.map(|confirmed| &confirmed.version)
    }

    fn confirm(&mut self, candidate: &Candidate) {
        self.probation = None;
        self.proven = Some(candidate.bundle);
        self.stays.take_if(|stays| stays.bundle == candidate.bundle);
        let Candidate { name, version, .. } = candidate;
        let known = self.confirmed_version(name).filter(|known| {
            // Versions that differ in their build alone are of one age.
            known.cmp_precedence(version).is_gt()
        });
        let version = known.unwrap_or(version).clone();
        self.confirmed.retain(|confirmed| confirmed.name != *name);
        self.confirmed.push(ConfirmedVersion { name: name.clone(), version });
        let surplus = self.confirmed.len().saturating_sub(CONFIRMED_NAMES_MAX);
        self.confirmed.drain(..surplus);
    }
}

impl Attempt {
    fn is_over(&self) -> bool {
        self.crashes > self.crashes_max
    }

    fn refusal(&self, while_it_was: &str) -> Refusal {
        let Self { bundle, generation, crashes, crashes_max } = *self;
        let reason = format!(
            "the agent or the machine stopped {crashes} times without a farewell while the bundle was \
             {while_it_was}; {crashes_max} are allowed"
        );
        Refusal { bundle, generation, reason }
    }
}

/// What a slot needs to know of a bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The bundle.
    pub bundle: Digest,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// What a device lets it do before it trusts it.
    pub policy: UpdatePolicy,
    /// The most memory that its trial may take, in bytes.
    pub trial_memory_bytes_max: u64,
}

/// What has happened to a slot.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// A desired state was accepted.
    Desired {
        /// Its generation.
        generation: u64,
        /// What it wants in this slot.
        bundle: Option<Digest>,
        /// How many samples the bundle shall be given in the shadow; 0 for no shadow.
        shadow_samples: u64,
    },
    /// The repository's metadata does not speak for the bundle, or not yet.
    Untargeted {
        /// The bundle.
        bundle: Digest,
        /// One sentence for people.
        reason: String,
    },
    /// The repository's metadata, which spoke for the bundle, does so no more.
    Revoked {
        /// The bundle.
        bundle: Digest,
        /// One sentence for people.
        reason: String,
    },
    /// An offer, or the index of a patch, was found that the metadata speaks for; or the bundle is on the disk.
    Offered {
        /// The bundle.
        bundle: Digest,
        /// The pieces that are not on the device: chunks, or those of a patch.
        missing: Vec<Digest>,
        /// How many pieces there are in all.
        pieces_total: u32,
    },
    /// An offer came that is not to be believed. It may be anybody's.
    Misoffered {
        /// The bundle.
        bundle: Digest,
        /// One sentence for people.
        reason: String,
    },
    /// A piece was checked and is on the disk.
    PieceKept {
        /// The piece.
        piece: Digest,
    },
    /// The pieces did not make the bundle: these are needed as well.
    Lacking {
        /// The bundle.
        bundle: Digest,
        /// The pieces that are not on the device.
        missing: Vec<Digest>,
        /// How many pieces there are in all.
        pieces_total: u32,
    },
    /// The patch did not lead to the bundle: its chunks may.
    Unpatched {
        /// The bundle.
        bundle: Digest,
    },
    /// The metadata does not speak for the bundle at this moment, though it did.
    Unsure {
        /// The bundle.
        bundle: Digest,
        /// One sentence for people.
        reason: String,
    },
    /// The bundle was checked and is on the disk as a whole.
    Verified(Candidate),
    /// The trial has ended.
    Tried {
        /// The bundle.
        bundle: Digest,
        /// Well, or with a reason.
        outcome: Result<(), String>,
    },
    /// The bundle's model is loaded and warm.
    Loaded {
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
    /// The bundle was seen at work.
    Observed {
        /// The bundle.
        bundle: Digest,
        /// What was seen.
        observation: Observation,
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
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "an action is done as soon as it is named")]
pub enum Action {
    /// Look in the metadata, on the disk, then on the network, for what is known of a bundle.
    Seek(Digest),
    /// Ask the network once more for what it has offered.
    SeekAgain(Digest),
    /// Stop looking.
    StopSeeking(Digest),
    /// Ask for a piece.
    Request(Digest),
    /// Ask for a piece once more.
    RequestAgain(Digest),
    /// Stop asking for a piece.
    StopRequesting(Digest),
    /// Put the bundle together, check it, and keep it as a whole.
    Verify(Digest),
    /// Make the record durable.
    Record(SlotRecord),
    /// Run the bundle's golden vectors in a process of its own.
    Try(Digest),
    /// Load and warm the bundle's model.
    Load(Digest),
    /// Forget the model that was loaded.
    Unload,
    /// Let the model that was loaded have so many of the samples, and nobody its answers.
    Shadow(u64),
    /// End that.
    EndShadow,
    /// Compare whatever answers next with what answers now, or stop that.
    Watch(bool),
    /// Let the bundle answer, or none.
    Switch(Option<Digest>),
    /// Say that the bundle took over.
    TellSwapped(Digest),
    /// Say that the bundle was refused, and why.
    TellRefused(Refusal),
    /// Say that the bundle stood its probation.
    TellConfirmed(Digest),
    /// Say that the bundle failed its probation, and why.
    TellRolledBack(Refusal),
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
    shadow_samples: u64,
    // What is known of the record's bundle while it is on probation.
    probationer: Option<Candidate>,
    // The disk may have another record than this one: when to write it again.
    rewrite_at_ms: Option<u64>,
    state: State,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Settled,
    Seeking(Seeking),
    Fetching(Fetching),
    Verifying {
        target: Digest,
    },
    /// The record that names what is tried is being written.
    Arming {
        candidate: Candidate,
        next: SlotRecord,
    },
    Trial {
        candidate: Candidate,
        overdue_at_ms: u64,
    },
    Loading {
        candidate: Candidate,
        shadow: bool,
    },
    Shadow {
        candidate: Candidate,
        begun_ms: u64,
        observation: Observation,
    },
    /// The record that names what shall answer is being written.
    Recording {
        next: SlotRecord,
        then: Then,
    },
    Switching(Then),
    Probation(Probation),
    /// The record that confirms the bundle is being written.
    Confirming {
        probation: Probation,
        next: SlotRecord,
    },
    /// The bundle before is being loaded.
    Returning {
        refusal: Refusal,
        retry_at_ms: u64,
    },
    Blocked {
        reason: String,
        retry_at_ms: u64,
    },
    Refused(Refusal),
}

/// What follows a change of models.
#[derive(Clone, Debug, PartialEq)]
enum Then {
    Settle,
    Probation(Candidate),
    Refuse(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seeking {
    target: Digest,
    // What the metadata lacks.
    untargeted: Option<String>,
    // From when on that is worth a word: metadata may be on its way.
    patient_until_ms: u64,
    impatient: bool,
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
    pieces_total: u32,
}

#[derive(Clone, Debug, PartialEq)]
struct Probation {
    candidate: Candidate,
    begun_ms: u64,
    observation: Observation,
    // The disk did not take the confirmation: when to try again.
    not_before_ms: u64,
}

impl SlotUpdate {
    /// A slot without a bundle.
    pub fn empty() -> Self {
        Self::with(SlotRecord::default(), None, State::Settled)
    }

    /// A slot as its record has it; `record.current` is what answers, and `current` what is known of it.
    pub fn revived(record: SlotRecord, current: Option<Candidate>, now_ms: u64) -> Self {
        let answering = record.current;
        let mut slot = Self::with(record, answering, State::Settled);
        slot.probationer = current.filter(|_| slot.record.probation.is_some());
        slot.rest(now_ms);
        slot
    }

    /// A slot whose disk did not give `record.current`, and that `answering` stands in for.
    pub fn unread(
        record: SlotRecord,
        answering: Option<Digest>,
        reason: &str,
        now_ms: u64,
    ) -> Self {
        let state = State::blocked(reason, now_ms);
        Self::with(record, answering, state)
    }

    fn with(record: SlotRecord, answering: Option<Digest>, state: State) -> Self {
        Self {
            desired: record.current,
            record,
            answering,
            generation: 0,
            shadow_samples: 0,
            probationer: None,
            rewrite_at_ms: None,
            state,
        }
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
            State::Settled
            | State::Refused(_)
            | State::Probation(_)
            | State::Confirming { .. }
            | State::Returning { .. } => None,
            State::Seeking(seeking) => Some(seeking.target),
            State::Fetching(fetching) => Some(fetching.target),
            State::Verifying { target } => Some(*target),
            State::Arming { candidate, .. }
            | State::Trial { candidate, .. }
            | State::Loading { candidate, .. }
            | State::Shadow { candidate, .. } => Some(candidate.bundle),
            State::Recording { next, .. } => next.current,
            State::Switching(_) => self.record.current,
            State::Blocked { .. } => self.desired,
        }
    }

    /// The bundle that is being sought.
    pub fn sought(&self) -> Option<Digest> {
        match &self.state {
            State::Seeking(seeking) => Some(seeking.target),
            _ => None,
        }
    }

    /// The bundle that has begun to come in, or is on probation: that it is revoked matters.
    pub fn unconfirmed(&self) -> Option<Digest> {
        match &self.state {
            State::Seeking(_) | State::Blocked { .. } => None,
            State::Probation(probation) | State::Confirming { probation, .. } => {
                Some(probation.candidate.bundle)
            }
            _ => self.target(),
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
                let chunks_total = fetching.pieces_total;
                SlotPhase::Fetching {
                    chunks_present: chunks_total.saturating_sub(waiting),
                    chunks_total,
                }
            }
            State::Verifying { .. } | State::Recording { .. } | State::Switching(_) => {
                SlotPhase::Verifying
            }
            State::Arming { .. } | State::Trial { .. } | State::Loading { .. } => SlotPhase::Trial,
            State::Shadow { observation, .. } => SlotPhase::Shadow {
                samples: observation.comparison.samples,
                samples_wanted: self.shadow_samples,
            },
            State::Probation(probation) | State::Confirming { probation, .. } => {
                SlotPhase::Probation {
                    inferences: probation.observation.comparison.samples,
                    inferences_wanted: probation.candidate.policy.probation_inferences,
                }
            }
            State::Returning { .. } | State::Refused(_) => SlotPhase::Refused,
        }
    }

    /// Why the desired bundle does not answer, when that is not a matter of time.
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            State::Seeking(seeking) => match &seeking.problem {
                Some((reason, _)) => Some(reason),
                None => seeking.untargeted.as_deref().filter(|_| seeking.impatient),
            },
            State::Blocked { reason, .. } => Some(reason),
            State::Returning { refusal, .. } | State::Refused(refusal) => Some(&refusal.reason),
            _ => None,
        }
    }

    /// How the desired bundle compares with the one before, while both are watched.
    pub fn comparison(&self) -> Option<Comparison> {
        match &self.state {
            State::Shadow { observation, .. } => Some(observation.comparison),
            State::Probation(probation) | State::Confirming { probation, .. } => {
                Some(probation.observation.comparison)
            }
            _ => None,
        }
    }

    /// What is known of the bundle on trial.
    pub fn on_trial(&self) -> Option<&Candidate> {
        match &self.state {
            State::Trial { candidate, .. } => Some(candidate),
            _ => None,
        }
    }

    /// Goes on after something has happened at `now_ms`; what concerns an abandoned bundle is ignored.
    pub fn handle(&mut self, happening: Happening, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        let todo = &mut actions;
        match happening {
            Happening::Desired { generation, bundle, shadow_samples } => {
                let other_shadow = self.shadow_samples != shadow_samples;
                self.shadow_samples = shadow_samples;
                self.desire(generation, bundle, now_ms, todo);
                if other_shadow && let State::Shadow { candidate, .. } = &self.state {
                    let candidate = candidate.clone();
                    todo.push(Action::EndShadow);
                    self.load(candidate, shadow_samples > 0, todo);
                }
            }
            Happening::Untargeted { bundle, reason } => {
                if let Some(seeking) = self.seeking(bundle) {
                    seeking.untargeted = Some(reason);
                }
            }
            Happening::Revoked { bundle, reason } => self.revoke(bundle, reason, now_ms, todo),
            Happening::Offered { bundle, missing, pieces_total } => {
                if self.seeking(bundle).is_some() {
                    todo.push(Action::StopSeeking(bundle));
                    self.fetch(bundle, missing, pieces_total, now_ms, todo);
                }
            }
            Happening::Misoffered { bundle, reason } => {
                if let Some(seeking) = self.seeking(bundle) {
                    seeking.disbelieve(reason, now_ms, todo);
                }
            }
            Happening::PieceKept { piece } => self.keep(piece, now_ms, todo),
            Happening::Lacking { bundle, missing, pieces_total } => {
                if self.state == (State::Verifying { target: bundle }) {
                    self.fetch(bundle, missing, pieces_total, now_ms, todo);
                }
            }
            Happening::Unpatched { bundle } => {
                if self.state == (State::Verifying { target: bundle }) {
                    self.state = State::Seeking(Seeking::new(bundle, now_ms));
                    todo.push(Action::Seek(bundle));
                }
            }
            Happening::Unsure { bundle, reason } => {
                let waits = matches!(self.state, State::Verifying { .. } | State::Loading { .. });
                if waits && self.target() == Some(bundle) {
                    let seeking = Seeking::new(bundle, now_ms);
                    self.state = State::Seeking(Seeking { untargeted: Some(reason), ..seeking });
                }
            }
            Happening::Verified(candidate) => self.verified(candidate, todo),
            Happening::Tried { bundle, outcome } => self.tried(bundle, outcome, todo),
            Happening::Loaded { bundle } => self.loaded(bundle, now_ms, todo),
            Happening::Unfit { bundle, reason } => self.unfit(bundle, reason, todo),
            Happening::Recorded => self.recorded(now_ms, todo),
            Happening::Switched { bundle } => self.switched(bundle, now_ms, todo),
            Happening::Observed { bundle, observation } => {
                self.observe(bundle, observation, now_ms, todo);
            }
            Happening::DiskFailed { reason } => self.block(reason, now_ms, todo),
            Happening::Tick => self.tick(now_ms, todo),
        }
        actions
    }

    /// Whether the metadata does not speak for what is sought.
    pub fn is_untargeted(&self) -> bool {
        matches!(&self.state, State::Seeking(seeking) if seeking.untargeted.is_some())
    }

    fn seeking(&mut self, bundle: Digest) -> Option<&mut Seeking> {
        match &mut self.state {
            State::Seeking(seeking) if seeking.target == bundle => Some(seeking),
            _ => None,
        }
    }
}

/// Towards what is desired.
impl SlotUpdate {
    fn desire(
        &mut self,
        generation: u64,
        bundle: Option<Digest>,
        now_ms: u64,
        todo: &mut Vec<Action>,
    ) {
        let pursued = match &self.state {
            State::Settled | State::Refused(_) => None,
            State::Probation(_) | State::Confirming { .. } => Some(self.record.current),
            _ => Some(self.target()),
        };
        self.generation = self.generation.max(generation);
        self.desired = bundle;
        if matches!(self.state, State::Switching(_) | State::Returning { .. }) {
            // Models are changing places; what is desired is looked at again when they have.
            return;
        }
        if pursued != Some(bundle) {
            self.stop(todo);
            self.pursue(now_ms, todo);
        }
    }

    /// Begins to bring in what is desired, unless it is there or was refused.
    fn pursue(&mut self, now_ms: u64, todo: &mut Vec<Action>) {
        // What failed and stays, for want of another, has nothing to be tried again.
        let stays = self.record.current.is_some() && self.record.current == self.desired;
        let refused = self.record.refused.as_ref().filter(|refusal| {
            Some(refusal.bundle) == self.desired && (refusal.generation >= self.generation || stays)
        });
        let stayed =
            self.record.stays.as_ref().filter(|it| stays && Some(it.bundle) == self.desired);
        if let Some(refusal) = refused.or(stayed) {
            self.state = State::Refused(refusal.clone());
        } else if self.desired == self.record.current && self.desired == self.answering {
            if self.rewrite_at_ms.is_some() {
                todo.push(Action::Record(self.record.clone()));
            }
            self.rest(now_ms);
            if matches!(self.state, State::Probation(_)) {
                todo.push(Action::Watch(true));
            }
        } else if let Some(target) = self.desired {
            self.state = State::Seeking(Seeking::new(target, now_ms));
            todo.push(Action::Seek(target));
        } else {
            let next = self.record_with(None, None);
            self.write(next, Then::Settle, todo);
        }
    }

    /// What is desired answers.
    fn rest(&mut self, now_ms: u64) {
        self.state = match self.probationer.clone().filter(|_| self.record.probation.is_some()) {
            Some(candidate) => State::Probation(Probation::new(candidate, now_ms)),
            None => State::Settled,
        };
    }

    /// Gives up what is under way. What is on the disk stays, until it is tidied up.
    fn stop(&mut self, todo: &mut Vec<Action>) {
        match std::mem::replace(&mut self.state, State::Settled) {
            State::Seeking(seeking) => todo.push(Action::StopSeeking(seeking.target)),
            State::Fetching(fetching) => {
                todo.extend(fetching.requested.into_keys().map(Action::StopRequesting));
            }
            State::Shadow { .. } => todo.push(Action::EndShadow),
            State::Recording { .. } => todo.push(Action::Unload),
            State::Probation(_) | State::Confirming { .. } => todo.push(Action::Watch(false)),
            _ => {}
        }
    }

    fn fetch(
        &mut self,
        target: Digest,
        missing: Vec<Digest>,
        pieces_total: u32,
        now_ms: u64,
        todo: &mut Vec<Action>,
    ) {
        let (missing, requested) = (missing.into(), BTreeMap::new());
        let mut fetching = Fetching { target, missing, requested, pieces_total };
        fetching.request(now_ms, todo);
        self.state = State::Fetching(fetching);
        self.verify_if_complete(todo);
    }

    fn keep(&mut self, piece: Digest, now_ms: u64, todo: &mut Vec<Action>) {
        let State::Fetching(fetching) = &mut self.state else { return };
        if fetching.requested.remove(&piece).is_some() {
            todo.push(Action::StopRequesting(piece));
        }
        // Another slot may have asked for it first.
        fetching.missing.retain(|missing| *missing != piece);
        fetching.request(now_ms, todo);
        self.verify_if_complete(todo);
    }

    fn verify_if_complete(&mut self, todo: &mut Vec<Action>) {
        if let State::Fetching(fetching) = &self.state
            && fetching.missing.is_empty()
            && fetching.requested.is_empty()
        {
            let target = fetching.target;
            self.state = State::Verifying { target };
            todo.push(Action::Verify(target));
        }
    }

    fn verified(&mut self, candidate: Candidate, todo: &mut Vec<Action>) {
        let bundle = candidate.bundle;
        if self.state != (State::Verifying { target: bundle }) {
            return;
        }
        if self.record.current == Some(bundle) {
            // It answered before; the disk gave it late.
            self.load(candidate, false, todo);
            return;
        }
        let before =
            self.record.trial.as_ref().filter(|attempt| {
                attempt.bundle == bundle && attempt.generation == self.generation
            });
        let crashes = before.map_or(0, |attempt| attempt.crashes);
        let crashes_max = candidate.policy.crashes_max;
        let attempt = Attempt { bundle, generation: self.generation, crashes, crashes_max };
        let next = SlotRecord { trial: Some(attempt), ..self.record.clone() };
        todo.push(Action::Record(next.clone()));
        self.state = State::Arming { candidate, next };
    }

    fn tried(&mut self, bundle: Digest, outcome: Result<(), String>, todo: &mut Vec<Action>) {
        let State::Trial { candidate, .. } = &self.state else { return };
        if candidate.bundle != bundle {
            return;
        }
        match outcome {
            Ok(()) => {
                // Without an answer to compare with there is nothing to learn in the shadow.
                let shadow = self.shadow_samples > 0 && self.answering.is_some();
                let candidate = candidate.clone();
                self.load(candidate, shadow, todo);
            }
            Err(reason) => self.refuse(bundle, format!("it failed its trial: {reason}"), todo),
        }
    }

    fn load(&mut self, candidate: Candidate, shadow: bool, todo: &mut Vec<Action>) {
        todo.push(Action::Load(candidate.bundle));
        self.state = State::Loading { candidate, shadow };
    }

    fn loaded(&mut self, bundle: Digest, now_ms: u64, todo: &mut Vec<Action>) {
        match &self.state {
            State::Loading { candidate, shadow } if candidate.bundle == bundle => {
                let candidate = candidate.clone();
                if *shadow {
                    todo.push(Action::Shadow(self.shadow_samples));
                    let observation = Observation::default();
                    self.state = State::Shadow { candidate, begun_ms: now_ms, observation };
                } else {
                    self.take_over(candidate, todo);
                }
            }
            State::Returning { refusal, .. } if self.record.previous == Some(bundle) => {
                let refusal = refusal.clone();
                let next = SlotRecord {
                    current: Some(bundle),
                    previous: None,
                    refused: Some(refusal.clone()),
                    probation: None,
                    ..self.record.clone()
                };
                self.write(next, Then::Refuse(refusal), todo);
            }
            _ => todo.push(Action::Unload),
        }
    }

    fn take_over(&mut self, candidate: Candidate, todo: &mut Vec<Action>) {
        let bundle = candidate.bundle;
        if self.record.current == Some(bundle) {
            let then = match self.record.probation {
                Some(_) => Then::Probation(candidate),
                None => Then::Settle,
            };
            let next = self.record.clone();
            return self.write(next, then, todo);
        }
        // What is proven gets no probation: crashes on it would take away the one that can be gone back to.
        if self.record.proven == Some(bundle) {
            let next = self.record_with(Some(bundle), None);
            return self.write(next, Then::Settle, todo);
        }
        let attempt = Attempt {
            bundle,
            generation: self.generation,
            crashes: self.record.trial.as_ref().map_or(0, |attempt| attempt.crashes),
            crashes_max: candidate.policy.crashes_max,
        };
        let next = self.record_with(Some(bundle), Some(attempt));
        self.write(next, Then::Probation(candidate), todo);
    }

    fn record_with(&self, current: Option<Digest>, probation: Option<Attempt>) -> SlotRecord {
        let SlotRecord { current: replaced, previous, .. } = self.record;
        let kept = match self.record.probation {
            // What was never confirmed is nothing to go back to.
            Some(_) => previous,
            None => replaced.or(previous),
        };
        let previous = kept.filter(|kept| Some(*kept) != current);
        let is_kept = |stays: &Refusal| [current, previous].contains(&Some(stays.bundle));
        SlotRecord {
            current,
            previous,
            refused: None,
            stays: self.record.stays.clone().filter(is_kept),
            trial: None,
            probation,
            proven: self.record.proven,
            confirmed: self.record.confirmed.clone(),
        }
    }

    fn write(&mut self, next: SlotRecord, then: Then, todo: &mut Vec<Action>) {
        todo.push(Action::Record(next.clone()));
        self.state = State::Recording { next, then };
    }

    fn recorded(&mut self, now_ms: u64, todo: &mut Vec<Action>) {
        self.rewrite_at_ms = None;
        match std::mem::replace(&mut self.state, State::Settled) {
            State::Arming { candidate, next } => {
                self.record = next;
                todo.push(Action::Try(candidate.bundle));
                let time_max_ms = u64::from(candidate.policy.trial_time_s_max) * 1000;
                let overdue_at_ms = now_ms + time_max_ms + TRIAL_GRACE_MS;
                self.state = State::Trial { candidate, overdue_at_ms };
            }
            State::Recording { next, then } => {
                self.record = next;
                if matches!(then, Then::Probation(_)) {
                    todo.push(Action::Watch(true));
                }
                todo.push(Action::Switch(self.record.current));
                self.state = State::Switching(then);
            }
            State::Confirming { probation, next } => {
                self.record = next;
                self.probationer = None;
                let bundle = probation.candidate.bundle;
                todo.extend([Action::Watch(false), Action::TellConfirmed(bundle), Action::Tidy]);
            }
            other => self.state = other,
        }
    }

    fn switched(&mut self, bundle: Option<Digest>, now_ms: u64, todo: &mut Vec<Action>) {
        self.answering = bundle;
        if bundle != self.record.current {
            return;
        }
        let State::Switching(then) = &self.state else { return };
        let then = then.clone();
        match then {
            Then::Settle => {
                self.probationer = None;
                self.state = State::Settled;
                todo.extend(bundle.map(Action::TellSwapped));
            }
            Then::Probation(candidate) => {
                todo.extend(bundle.map(Action::TellSwapped));
                self.probationer = Some(candidate.clone());
                self.state = State::Probation(Probation::new(candidate, now_ms));
            }
            Then::Refuse(refusal) => {
                self.probationer = None;
                self.state = State::Refused(refusal.clone());
                todo.push(Action::TellRolledBack(refusal));
            }
        }
        todo.push(Action::Tidy);
        // Something else may have been desired while models changed places.
        let is_refused = |refusal: &Refusal| {
            Some(refusal.bundle) == self.desired && refusal.generation >= self.generation
        };
        let at_rest = match &self.state {
            State::Refused(refusal) => is_refused(refusal),
            _ => self.desired == self.record.current,
        };
        if at_rest {
            self.confirm_if_over(now_ms, todo);
        } else {
            self.stop(todo);
            self.pursue(now_ms, todo);
        }
    }
}

/// Where it goes wrong.
impl SlotUpdate {
    fn unfit(&mut self, bundle: Digest, reason: String, todo: &mut Vec<Action>) {
        if let State::Returning { refusal, .. } = &self.state
            && self.record.previous == Some(bundle)
        {
            let why = format!("the one before cannot answer either: {reason}");
            let refusal = Refusal { reason: format!("{}; {why}", refusal.reason), ..*refusal };
            return self.stay(refusal, todo);
        }
        let is_checked = matches!(
            self.state,
            State::Seeking(_)
                | State::Fetching(_)
                | State::Verifying { .. }
                | State::Loading { .. }
                | State::Blocked { .. }
        );
        if is_checked && self.target() == Some(bundle) {
            self.refuse(bundle, reason, todo);
        }
    }

    fn refuse(&mut self, bundle: Digest, reason: String, todo: &mut Vec<Action>) {
        self.stop(todo);
        if self.record.current == Some(bundle) && self.answering != Some(bundle) {
            // It was to answer again; what stands in for it stays.
            self.record.current = self.record.previous.take();
            self.record.probation = None;
        }
        let refusal = Refusal { bundle, generation: self.generation, reason };
        self.record.trial = None;
        self.record.refused = Some(refusal.clone());
        self.state = State::Refused(refusal.clone());
        todo.push(Action::Record(self.record.clone()));
        todo.extend([Action::Unload, Action::TellRefused(refusal), Action::Tidy]);
    }

    fn revoke(&mut self, bundle: Digest, reason: String, now_ms: u64, todo: &mut Vec<Action>) {
        if self.unconfirmed() != Some(bundle) {
            return;
        }
        match &self.state {
            State::Probation(_) => self.fail_probation(&reason, now_ms, todo),
            // Models are changing places; it is looked at again when they have.
            State::Switching(_) => {}
            _ => {
                self.stop(todo);
                let seeking = Seeking::new(bundle, now_ms);
                let seeking = Seeking { untargeted: Some(reason), impatient: true, ..seeking };
                self.state = State::Seeking(seeking);
            }
        }
    }

    fn fail_probation(&mut self, fault: &str, now_ms: u64, todo: &mut Vec<Action>) {
        let State::Probation(probation) = &self.state else { return };
        let attempt = self.record.probation.as_ref();
        let refusal = Refusal {
            bundle: probation.candidate.bundle,
            generation: attempt.map_or(self.generation, |attempt| attempt.generation),
            reason: format!("it failed its probation: {fault}"),
        };
        self.stop(todo);
        match self.record.previous {
            Some(previous) => {
                self.state = State::Returning { refusal, retry_at_ms: now_ms + DISK_RETRY_MS };
                todo.push(Action::Load(previous));
            }
            None => {
                let reason =
                    format!("{}; there is none to go back to, so it stays", refusal.reason);
                self.stay(Refusal { reason, ..refusal }, todo);
            }
        }
    }

    /// Nothing else can answer in the place of a bundle that failed: it goes on, and the reason is known.
    fn stay(&mut self, refusal: Refusal, todo: &mut Vec<Action>) {
        self.record.probation = None;
        self.record.refused = Some(refusal.clone());
        self.record.stays = Some(refusal.clone());
        self.probationer = None;
        self.state = State::Refused(refusal.clone());
        todo.push(Action::Record(self.record.clone()));
        todo.extend([Action::TellRefused(refusal), Action::Tidy]);
    }

    fn block(&mut self, reason: String, now_ms: u64, todo: &mut Vec<Action>) {
        match &mut self.state {
            State::Seeking(_) | State::Fetching(_) | State::Verifying { .. } => {}
            State::Loading { .. } => {}
            State::Arming { .. } | State::Recording { .. } => {
                self.rewrite_at_ms = Some(now_ms + DISK_RETRY_MS);
            }
            State::Confirming { probation, .. } => {
                self.rewrite_at_ms = Some(now_ms + DISK_RETRY_MS);
                probation.not_before_ms = now_ms + DISK_RETRY_MS;
                self.state = State::Probation(probation.clone());
                return;
            }
            State::Returning { retry_at_ms, .. } => {
                *retry_at_ms = now_ms + DISK_RETRY_MS;
                return;
            }
            _ => {
                self.rewrite_at_ms = Some(now_ms + DISK_RETRY_MS);
                return;
            }
        }
        if let State::Recording { then: Then::Refuse(refusal), .. } = &self.state {
            let refusal = refusal.clone();
            todo.push(Action::Unload);
            self.state = State::Returning { refusal, retry_at_ms: now_ms + DISK_RETRY_MS };
            return;
        }
        self.stop(todo);
        self.state = State::blocked(&reason, now_ms);
    }
}

/// Watching.
impl SlotUpdate {
    fn observe(&mut self, bundle: Digest, seen: Observation, now_ms: u64, todo: &mut Vec<Action>) {
        match &mut self.state {
            State::Shadow { candidate, observation, .. } if candidate.bundle == bundle => {
                *observation = seen;
                match fault(&candidate.policy, self.shadow_samples, &seen) {
                    Some(fault) => {
                        self.refuse(bundle, format!("it failed in the shadow: {fault}"), todo);
                    }
                    None => self.leave_shadow_if_over(now_ms, todo),
                }
            }
            State::Probation(probation) if probation.candidate.bundle == bundle => {
                probation.observation = seen;
                let policy = &probation.candidate.policy;
                match fault(policy, policy.probation_inferences, &seen) {
                    Some(fault) => self.fail_probation(&fault, now_ms, todo),
                    None => self.confirm_if_over(now_ms, todo),
                }
            }
            _ => {}
        }
    }

    fn leave_shadow_if_over(&mut self, now_ms: u64, todo: &mut Vec<Action>) {
        let State::Shadow { candidate, begun_ms, observation } = &self.state else { return };
        let seen_enough = observation.comparison.samples >= self.shadow_samples;
        if seen_enough || now_ms >= begun_ms + SHADOW_MS_MAX {
            let candidate = candidate.clone();
            todo.push(Action::EndShadow);
            self.load(candidate, false, todo);
        }
    }

    fn confirm_if_over(&mut self, now_ms: u64, todo: &mut Vec<Action>) {
        let State::Probation(probation) = &self.state else { return };
        if now_ms < probation.not_before_ms || !probation.is_over(now_ms) {
            return;
        }
        let mut next = self.record.clone();
        next.confirm(&probation.candidate);
        todo.push(Action::Record(next.clone()));
        self.state = State::Confirming { probation: probation.clone(), next };
    }

    fn tick(&mut self, now_ms: u64, todo: &mut Vec<Action>) {
        match &mut self.state {
            State::Blocked { retry_at_ms, .. } if now_ms >= *retry_at_ms => {
                self.pursue(now_ms, todo);
            }
            State::Seeking(seeking) => seeking.look_again(now_ms, todo),
            State::Fetching(fetching) => fetching.request_overdue_again(now_ms, todo),
            State::Trial { overdue_at_ms, .. } if now_ms >= *overdue_at_ms => {
                self.state = State::blocked("the trial's process gave no result", now_ms);
            }
            State::Shadow { .. } => self.leave_shadow_if_over(now_ms, todo),
            State::Probation(_) => self.confirm_if_over(now_ms, todo),
            State::Returning { retry_at_ms, .. } if now_ms >= *retry_at_ms => {
                *retry_at_ms = now_ms + DISK_RETRY_MS;
                todo.extend(self.record.previous.map(Action::Load));
            }
            // Something else was desired while it could not be looked at.
            State::Refused(refusal)
                if self.desired != Some(refusal.bundle) || self.generation > refusal.generation =>
            {
                self.pursue(now_ms, todo);
            }
            State::Settled | State::Refused(_)
                if self.rewrite_at_ms.is_some_and(|at_ms| now_ms >= at_ms) =>
            {
                todo.push(Action::Record(self.record.clone()));
            }
            _ => {}
        }
    }
}

impl State {
    fn blocked(reason: &str, now_ms: u64) -> Self {
        let retry_at_ms = now_ms + DISK_RETRY_MS;
        let reason = format!("{reason}; trying again every {} s", DISK_RETRY_MS / 1000);
        Self::Blocked { reason, retry_at_ms }
    }
}

impl Seeking {
    fn new(target: Digest, now_ms: u64) -> Self {
        Self {
            target,
            untargeted: None,
            patient_until_ms: now_ms + METADATA_PATIENCE_MS,
            impatient: false,
            problem: None,
            told: BTreeSet::new(),
        }
    }

    fn disbelieve(&mut self, reason: String, now_ms: u64, todo: &mut Vec<Action>) {
        let known = self.told.contains(&reason) || self.told.len() == OFFER_REASONS_TOLD_MAX;
        if !known {
            self.told.insert(reason.clone());
            let bundle = self.target;
            todo.push(Action::TellMisoffered { bundle, reason: reason.clone() });
        }
        let reason = format!("{reason}; waiting for an offer to believe");
        self.problem = Some((reason, now_ms + OFFER_RETRY_MS));
    }

    fn look_again(&mut self, now_ms: u64, todo: &mut Vec<Action>) {
        self.impatient |= now_ms >= self.patient_until_ms;
        if let Some((_, again_at_ms)) = &mut self.problem
            && now_ms >= *again_at_ms
        {
            *again_at_ms = now_ms + OFFER_RETRY_MS;
            todo.push(Action::SeekAgain(self.target));
        }
    }
}

impl Fetching {
    fn request(&mut self, now_ms: u64, todo: &mut Vec<Action>) {
        while self.requested.len() < CHUNKS_REQUESTED_MAX
            && let Some(piece) = self.missing.pop_front()
        {
            self.requested.insert(piece, now_ms);
            todo.push(Action::Request(piece));
        }
    }

    fn request_overdue_again(&mut self, now_ms: u64, todo: &mut Vec<Action>) {
        for (piece, requested_ms) in &mut self.requested {
            if now_ms >= *requested_ms + CHUNK_OVERDUE_MS {
                *requested_ms = now_ms;
                todo.push(Action::RequestAgain(*piece));
            }
        }
    }
}

impl Probation {
    fn new(candidate: Candidate, begun_ms: u64) -> Self {
        Self { candidate, begun_ms, observation: Observation::default(), not_before_ms: 0 }
    }

    /// It has had its time and its inferences, or no inferences came for so long that time alone decides.
    fn is_over(&self, now_ms: u64) -> bool {
        let policy = &self.candidate.policy;
        let passed_ms = now_ms.saturating_sub(self.begun_ms);
        let time_ms = u64::from(policy.probation_s) * 1000;
        let seen_enough = self.observation.comparison.samples >= policy.probation_inferences;
        passed_ms >= time_ms && (seen_enough || passed_ms >= time_ms.max(PROBATION_MS_MAX))
    }
}

/// What is wrong with a bundle that was seen at work, if anything is.
fn fault(policy: &UpdatePolicy, samples_wanted: u64, seen: &Observation) -> Option<String> {
    let counts = &seen.comparison;
    if counts.samples < samples_wanted.clamp(1, SAMPLES_JUDGED_MIN) {
        return None;
    }
    let failed = counts.failed as f64 / counts.samples as f64;
    let allowed = seen.failed_before + policy.failed_fraction_max;
    if failed > allowed {
        let (failed, allowed) = (failed * 100.0, allowed * 100.0);
        return Some(format!(
            "{failed:.1} % of {} samples got no answer; {allowed:.1} % are allowed",
            counts.samples
        ));
    }
    let (latency_us, before_us) = (counts.latency_us_p95, counts.latency_us_p95_before);
    let ratio = f64::from(latency_us) / f64::from(before_us);
    let is_slow =
        ratio > policy.latency_ratio_max && latency_us.saturating_sub(before_us) > LATENCY_SLACK_US;
    if before_us > 0 && counts.samples >= LATENCY_SAMPLES_MIN && is_slow {
        return Some(format!(
            "95 % of its answers took up to {latency_us} µs, those of the bundle before {before_us} µs; \
             {} times that is allowed",
            policy.latency_ratio_max
        ));
    }
    let shift = seen.class_shift.filter(|shift| *shift > policy.class_shift_max)?;
    Some(format!(
        "the share of classes differs by {shift:.2} from the bundle before; {:.2} is allowed",
        policy.class_shift_max
    ))
}

#[cfg(test)]
mod tests;
