//! One thread per slot that answers samples with the slot's model, one after the other.
//!
//! A model is loaded and warmed elsewhere; the worker takes it over between two samples, so none is
//! lost and none fails because of the change. Only if the new model takes other samples than the one
//! before, those that wait were read for nothing: they are dropped and counted. What it counts goes into
//! a profile per window; what it answers, if wanted, into the stream of results.
//!
//! Beside the model that answers there may be one in its *shadow* ([`shadow`]). A model on *probation*
//! is *watched*: what is counted of it stands beside what was counted lately of the one before.
//!
//! When a window closes, the detectors of the bundle's baseline take it ([`drift`]): what they find is told at
//! once, and what they know is given away to be kept. Nothing is written here. Samples that are odd by
//! themselves are told of, too ([`anomalies`]). Beside what the model does, an inference allocates nothing,
//! unless there is something to tell. The newest answers are remembered for labels that come late ([`answers`]).

mod anomalies;
mod answers;
mod drift;
mod measures;
mod model;
mod shadow;
#[cfg(test)]
mod tests;
mod window;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use selvedge_bundle::{SampleSpec, SiteBaseline};
use selvedge_runtime::{Answer, Sample};
use selvedge_wire::{
    CaptureReason, Comparison, Digest, DriftStatus, Event, EventKind, InferenceResult, Outcome,
    SiteReport, SlotName, Stream,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    capture::{Candidate, CaptureSink},
    clock::SharedClock,
    error::{Error, one_line},
    limits::{OBSERVATION_INTERVAL, RESULT_VALUES_MAX, SAMPLES_WAITING_MAX},
    malformed::shortened,
    record::encode_record,
    updates::Observation,
};

use anomalies::Anomalies;
use answers::Answers;
use drift::{Drift, NotResumed};
use measures::{Measures, Recent};
use shadow::{Answered, Shadow};
use window::Window;

pub use answers::{Answering, RememberedAnswer};
pub use model::{Answerer, Embedding, LoadedModel};

/// Takes the records that a worker makes. It may wait.
pub type RecordSink = Box<dyn Fn(Stream, Vec<u8>) + Send>;

/// Takes what a worker sees of a bundle in the shadow or on probation. It must not wait; what it does not
/// take is told again, with more.
pub type Observer = Box<dyn Fn(Digest, Observation) + Send>;

/// What becomes of what a slot's detectors know. None of it may wait.
pub struct DriftOutlet {
    /// What the run before kept. It is of use only to the bundle that comes first.
    pub kept: Option<Vec<u8>>,
    /// Keeps what the next run goes on from, in place of what was given before.
    pub keep: Box<dyn Fn(Vec<u8>) + Send>,
    /// Takes what is said of a bundle with each window. What it does not take is told again with the next.
    pub told: Box<dyn Fn(Digest, Judged) + Send>,
}

/// What is said of a bundle's windows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Whether they are as the bundle's reference; none before the first window.
    pub drift: Option<DriftStatus>,
    /// Whether they are as is usual at the site; none unless they are judged by that.
    pub site: Option<SiteReport>,
}

/// What is usual at a site, and for which bundle that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSite {
    /// What is usual.
    pub site: Arc<SiteBaseline>,
    /// The bundle that is desired with it. Another one is judged by it only if it has the same baseline.
    pub bundle: Digest,
}

/// What a slot's model takes; nothing while the slot is empty.
pub type SampleShape = Option<Arc<SampleSpec>>;

/// Counters of all slots, since the start.
#[derive(Debug, Default)]
pub struct InferenceCounters {
    /// Inferences that gave an answer.
    pub answered: AtomicU64,
    /// Inferences that gave none.
    pub failed: AtomicU64,
    /// Changes from one running bundle to another.
    pub swaps: AtomicU64,
    /// Samples for a slot without a bundle. They are no inferences.
    pub without_model: AtomicU64,
    /// Samples that were read for the model before, which took others. They are no inferences.
    pub outdated: AtomicU64,
    /// Samples of which a feature was out of the reference's range, not finite, or stuck.
    pub anomalous: AtomicU64,
}

/// What a worker needs beside its slot.
pub struct WorkerSettings {
    /// Where it reads the time.
    pub clock: SharedClock,
    /// The length of a profile's window.
    pub window: Duration,
    /// Whether answers are kept for the fleet.
    pub publish_results: bool,
    /// Where it counts.
    pub counters: Arc<InferenceCounters>,
    /// Where its records go.
    pub sink: RecordSink,
    /// Who is told about a shadow and a probation.
    pub observer: Observer,
    /// Where what the detectors know goes.
    pub drift: DriftOutlet,
    /// A value that comes so often in a row is stuck; 0 for never.
    pub stuck_samples: u32,
    /// How many answers are remembered for labels; 0 for none.
    pub answers_remembered: usize,
    /// Takes samples that are odd or come while their bundle drifts, if they are wanted.
    pub capture: Option<CaptureSink>,
}

/// One sample on its way to a model.
#[derive(Debug)]
pub struct SampleRequest {
    /// The source, as the configuration names it.
    pub source: Arc<str>,
    /// Counts the source's samples, from 0.
    pub number: u64,
    /// The sample.
    pub sample: Sample,
    /// What it was read for: the slot's model may take something else by the time of its turn.
    pub read_for: Arc<SampleSpec>,
    /// Where the outcome is wanted, beside the stream of results.
    pub reply: Option<oneshot::Sender<Outcome>>,
}

enum Request {
    Sample(SampleRequest),
    Swap { model: Option<Box<LoadedModel>>, done: oneshot::Sender<()> },
    Shadow { model: Option<Box<LoadedModel>>, samples_wanted: u64 },
    Watch { on: bool },
    Recall { source: String, number: u64, reply: oneshot::Sender<Option<RememberedAnswer>> },
    Site { site: Option<WantedSite> },
    Tick,
    Stop { done: oneshot::Sender<()> },
}

/// Speaks to a slot's worker.
#[derive(Clone)]
pub struct SlotHandle {
    slot: SlotName,
    requests: mpsc::Sender<Request>,
    shape: watch::Receiver<SampleShape>,
}

/// The worker of a slot has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerEnded;

impl SlotHandle {
    /// Starts the worker of a slot, which is empty at first.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn spawn(slot: SlotName, settings: WorkerSettings) -> Result<Self, Error> {
        let (requests, inbox) = mpsc::channel(SAMPLES_WAITING_MAX);
        let (shape_sender, shape) = watch::channel(None);
        let window = Window::new(slot.clone(), settings.clock.clone(), settings.window);
        let worker = Worker::new(slot.clone(), settings, window, shape_sender);
        let name = format!("slot {slot}");
        let thread = thread::Builder::new().name(name.clone()).spawn(move || worker.run(inbox));
        thread.map_err(|source| Error::Thread { name, source })?;
        Ok(Self { slot, requests, shape })
    }

    /// The slot.
    pub fn slot(&self) -> &SlotName {
        &self.slot
    }

    /// What the slot's model takes, now and as it changes.
    pub fn shape(&self) -> watch::Receiver<SampleShape> {
        self.shape.clone()
    }

    /// Gives a sample to the model; waits while too many others wait.
    ///
    /// # Errors
    /// [`WorkerEnded`].
    pub async fn answer(&self, request: SampleRequest) -> Result<(), WorkerEnded> {
        self.requests.send(Request::Sample(request)).await.map_err(|_| WorkerEnded)
    }

    /// Lets another model answer, or none, from the next sample on. Resolves when it does.
    ///
    /// # Errors
    /// [`WorkerEnded`].
    pub async fn swap(&self, model: Option<Box<LoadedModel>>) -> Result<(), WorkerEnded> {
        let (done, swapped) = oneshot::channel();
        let sent = self.requests.send(Request::Swap { model, done }).await;
        sent.map_err(|_| WorkerEnded)?;
        swapped.await.map_err(|_| WorkerEnded)
    }

    /// Gives a model the same samples as the one that answers, until it had `samples_wanted` of them; none
    /// ends that.
    ///
    /// # Errors
    /// [`WorkerEnded`].
    pub async fn shadow(
        &self,
        model: Option<Box<LoadedModel>>,
        samples_wanted: u64,
    ) -> Result<(), WorkerEnded> {
        let sent = self.requests.send(Request::Shadow { model, samples_wanted }).await;
        sent.map_err(|_| WorkerEnded)
    }

    /// Counts what the model that answers does, or stops that. One that answers next is counted anew, and
    /// compared with the one that answers now.
    ///
    /// # Errors
    /// [`WorkerEnded`].
    pub async fn watch(&self, on: bool) -> Result<(), WorkerEnded> {
        self.requests.send(Request::Watch { on }).await.map_err(|_| WorkerEnded)
    }

    /// The answer to a sample of a source, after all that were sent before; none if it is not remembered.
    pub async fn recall(&self, source: &str, number: u64) -> Option<RememberedAnswer> {
        let (reply, recalled) = oneshot::channel();
        let source = source.to_owned();
        self.requests.send(Request::Recall { source, number, reply }).await.ok()?;
        recalled.await.ok().flatten()
    }

    /// Compares windows with what is usual at a site, too, or no more.
    ///
    /// # Errors
    /// [`WorkerEnded`].
    pub async fn judge_by_site(&self, site: Option<WantedSite>) -> Result<(), WorkerEnded> {
        self.requests.send(Request::Site { site }).await.map_err(|_| WorkerEnded)
    }

    /// Lets the worker look at the clock. A busy worker does so anyway.
    pub fn tick(&self) {
        let _ = self.requests.try_send(Request::Tick);
    }

    /// Answers what waits, closes the window and ends the worker.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.requests.send(Request::Stop { done }).await.is_ok() {
            let _ = stopped.await;
        }
    }
}

struct Worker {
    slot: SlotName,
    settings: WorkerSettings,
    model: Option<Box<LoadedModel>>,
    window: Window,
    // The features of the newest sample.
    values: Vec<f32>,
    drift: Option<Drift>,
    site: Option<WantedSite>,
    anomalies: Anomalies,
    answers: Answers,
    shape: watch::Sender<SampleShape>,
    recent: Recent,
    shadow: Option<Shadow>,
    watch: Option<Watch>,
    observed_at: Duration,
}

/// The watch over what answers: from when it was asked for, and anew from each change of models.
#[derive(Default)]
struct Watch {
    before: Box<Measures>,
    since: Box<Measures>,
}

impl Worker {
    fn new(
        slot: SlotName,
        settings: WorkerSettings,
        window: Window,
        shape: watch::Sender<SampleShape>,
    ) -> Self {
        Self {
            slot,
            model: None,
            window,
            values: Vec::new(),
            drift: None,
            site: None,
            anomalies: Anomalies::new(None, settings.stuck_samples),
            answers: Answers::new(settings.answers_remembered),
            settings,
            shape,
            recent: Recent::default(),
            shadow: None,
            watch: None,
            observed_at: Duration::ZERO,
        }
    }

    fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        while let Some(request) = inbox.blocking_recv() {
            self.close_window_in_time();
            match request {
                Request::Sample(request) => {
                    if let Some(answered) = self.answer(request) {
                        self.compare(&answered, !inbox.is_empty());
                    }
                }
                Request::Swap { model, done } => {
                    self.swap(model);
                    // Whoever waits for a swap may have ended; the swap stands.
                    let _ = done.send(());
                }
                Request::Shadow { model, samples_wanted } => {
                    self.begin_shadow(model, samples_wanted)
                }
                Request::Watch { on } => self.watch = on.then(Watch::default),
                Request::Recall { source, number, reply } => {
                    // Whoever asked may have been cancelled.
                    let _ = reply.send(self.answers.recall(&source, number));
                }
                Request::Site { site } => self.judge_by_site(site),
                Request::Tick => {}
                Request::Stop { done } => {
                    self.close_window();
                    let _ = done.send(());
                    return;
                }
            }
            self.observe_in_time();
        }
    }

    /// Answers a sample, and gives it back with its answer; not if the model takes others.
    fn answer(&mut self, request: SampleRequest) -> Option<Answered> {
        let counters = &self.settings.counters;
        let Some(model) = &self.model else {
            counters.without_model.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        if !are_read_alike(&request.read_for, &model.sample) {
            counters.outdated.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let begun = self.settings.clock.elapsed();
        let answer = model.answerer.answer(&request.sample);
        let latency = self.settings.clock.elapsed().saturating_sub(begun);
        let latency_us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        let counter = if answer.is_ok() { &counters.answered } else { &counters.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        model.answerer.features(&request.sample, &mut self.values);
        self.window.count(model, &self.values, answer.as_ref().ok(), latency_us);
        let bundle = model.running.bundle;
        self.watch_input(&request, bundle, begun + latency);
        if self.answers.are_wanted() {
            let SampleRequest { source, number, .. } = &request;
            let at_ms = self.settings.clock.unix_ms();
            self.answers.remember(source, *number, at_ms, answer.as_ref());
        }
        let is_wanted = self.settings.publish_results || request.reply.is_some();
        let Some(outcome) = is_wanted.then(|| outcome(&answer)) else {
            return Some(Answered { sample: request.sample, answer, latency_us });
        };
        if self.settings.publish_results {
            self.publish(&request, bundle, latency_us, outcome.clone());
        }
        if let Some(reply) = request.reply {
            let _ = reply.send(outcome);
        }
        Some(Answered { sample: request.sample, answer, latency_us })
    }

    /// Tells of what is odd about the newest sample.
    fn watch_input(&mut self, request: &SampleRequest, bundle: Digest, now: Duration) {
        let (settings, slot) = (&self.settings, &self.slot);
        let is_odd = self.anomalies.observe(&request.source, &self.values, now, |detail| {
            tracing::warn!("slot {slot}: {detail}");
            tell(settings, slot, EventKind::InputAnomalous, bundle, &detail);
        });
        if is_odd {
            settings.counters.anomalous.fetch_add(1, Ordering::Relaxed);
        }
        let Some(capture) = &settings.capture else { return };
        let reason = match (is_odd, &self.drift) {
            (true, _) => CaptureReason::Anomalous,
            (false, Some(drift)) if drift.is_drifted() => CaptureReason::Drifting,
            _ => return,
        };
        let SampleRequest { source, number, sample, .. } = request;
        capture(Candidate { slot, bundle, source, number: *number, reason, sample });
    }

    /// Counts an answer for comparisons, and lets the shadow have the sample.
    fn compare(&mut self, answered: &Answered, others_wait: bool) {
        let Answered { answer, latency_us, .. } = answered;
        let clock = &self.settings.clock;
        self.recent.count(answer.as_ref().ok(), *latency_us, clock.elapsed());
        if let Some(Watch { since, .. }) = &mut self.watch {
            since.count(answer.as_ref().ok(), *latency_us);
        }
        if let (Some(shadow), Some(current)) = (&mut self.shadow, &self.model) {
            let was_done = shadow.is_done();
            shadow.follow(answered, current, others_wait, clock);
            if shadow.is_done() && !was_done {
                self.observe();
            }
        }
    }

    fn begin_shadow(&mut self, model: Option<Box<LoadedModel>>, samples_wanted: u64) {
        let now = self.settings.clock.elapsed();
        self.shadow = model.map(|model| Shadow::new(model, samples_wanted, now));
        self.observed_at = now;
    }

    fn observe_in_time(&mut self) {
        let is_seen = self.shadow.is_some() || self.watch.is_some();
        if is_seen && self.settings.clock.elapsed() >= self.observed_at + OBSERVATION_INTERVAL {
            self.observe();
        }
    }

    fn observe(&mut self) {
        self.observed_at = self.settings.clock.elapsed();
        if let Some(shadow) = &self.shadow {
            (self.settings.observer)(shadow.bundle(), shadow.observation());
        }
        if let (Some(Watch { before, since }), Some(model)) = (&self.watch, &self.model) {
            (self.settings.observer)(model.running.bundle, observation(before, since));
        }
    }

    fn publish(&self, request: &SampleRequest, bundle: Digest, latency_us: u32, outcome: Outcome) {
        let result = InferenceResult {
            at_ms: self.settings.clock.unix_ms(),
            slot: self.slot.clone(),
            bundle,
            source: request.source.as_ref().to_owned(),
            sample: request.number,
            latency_us,
            outcome,
        };
        (self.settings.sink)(Stream::Results, encode_record(&result));
    }

    fn swap(&mut self, model: Option<Box<LoadedModel>>) {
        // A profile counts one bundle.
        self.close_window();
        if self.model.is_some() && model.is_some() {
            self.settings.counters.swaps.fetch_add(1, Ordering::Relaxed);
        }
        // What is counted is of one bundle.
        let before = std::mem::take(&mut self.recent).sum();
        if self.watch.is_some() {
            self.watch = Some(Watch { before: Box::new(before), since: Box::default() });
            self.observed_at = self.settings.clock.elapsed();
        }
        let baseline = model.as_ref().and_then(|model| model.baseline.clone());
        self.anomalies = Anomalies::new(baseline, self.settings.stuck_samples);
        self.drift = model.as_ref().and_then(|model| self.begin_drift(model));
        self.answers.change(model.as_ref().map(|model| Answering {
            bundle: model.running.bundle,
            classes: model.classes.clone(),
        }));
        self.model = model;
        let shape = self.model.as_ref().map(|model| Arc::new(model.sample.clone()));
        self.shape.send_replace(shape);
    }

    fn close_window_in_time(&mut self) {
        if self.window.is_over() {
            self.close_window();
        }
    }

    fn close_window(&mut self) {
        let Some(closed) = self.window.close() else { return };
        (self.settings.sink)(Stream::Profiles, encode_record(&closed.record));
        if let Some(odd) = self.anomalies.close_window() {
            tracing::info!("slot {}: {odd}", self.slot);
        }
        let (Some(drift), Some(model)) = (&mut self.drift, &self.model) else { return };
        let bundle = model.running.bundle;
        for news in drift.observe(&closed.profile, closed.record.opened_ms) {
            tracing::warn!("slot {}: {}: {}", self.slot, news.kind.as_str(), news.detail);
            tell(&self.settings, &self.slot, news.kind, bundle, &news.detail);
        }
        (self.settings.drift.keep)(drift.encode());
        (self.settings.drift.told)(bundle, drift.judged());
    }

    /// A window that is open goes to the detectors that there are when it closes.
    fn judge_by_site(&mut self, site: Option<WantedSite>) {
        self.site = site;
        let Some(model) = &self.model else { return };
        let site = self.site_for(model);
        let Some(drift) = &mut self.drift else { return };
        drift.judge_by_site(site);
        (self.settings.drift.keep)(drift.encode());
        (self.settings.drift.told)(model.running.bundle, drift.judged());
    }

    /// What is usual at the site, if the model counts in the same bins. That it does not is told of the bundle
    /// that it is wanted for; one that answers until then has other bins by right.
    fn site_for(&self, model: &LoadedModel) -> Option<Arc<SiteBaseline>> {
        let WantedSite { site, bundle } = self.site.as_ref()?;
        let unfit = match model.baseline.as_ref().map(|baseline| site.check_fits(baseline)) {
            Some(Ok(())) => return Some(site.clone()),
            Some(Err(error)) => one_line(&error),
            None => "the bundle has no baseline".to_owned(),
        };
        if *bundle == model.running.bundle {
            let detail = format!("the site baseline {} is refused: {unfit}", site.digest());
            tracing::warn!("slot {}: {detail}", self.slot);
            tell(&self.settings, &self.slot, EventKind::SiteRefused, *bundle, &detail);
        }
        None
    }

    /// The detectors for a model that answers next: as the run before left them if it is the first of this
    /// run and the same bundle, else new ones.
    fn begin_drift(&mut self, model: &LoadedModel) -> Option<Drift> {
        let kept = self.settings.drift.kept.take();
        let site = self.site_for(model);
        let baseline = model.baseline.as_ref()?;
        let bundle = model.running.bundle;
        let afresh = || Drift::new(bundle, baseline.clone(), site.clone());
        let resumed = kept.map(|kept| Drift::resume(&kept, bundle, baseline.clone(), site.clone()));
        let drift = match resumed {
            Some(Ok(drift)) => {
                (self.settings.drift.told)(bundle, drift.judged());
                return Some(drift);
            }
            Some(Err(NotResumed::Damaged)) => {
                let detail = "what the detectors of drift knew is damaged: they start afresh";
                tracing::warn!("slot {}: {detail}", self.slot);
                tell(&self.settings, &self.slot, EventKind::StateDamaged, bundle, detail);
                afresh()
            }
            Some(Err(NotResumed::Foreign)) => {
                let slot = &self.slot;
                tracing::info!("slot {slot}: the detectors of drift knew another bundle: afresh");
                afresh()
            }
            None => afresh(),
        };
        (self.settings.drift.keep)(drift.encode());
        Some(drift)
    }
}

/// Tells the fleet something about a slot's bundle.
fn tell(settings: &WorkerSettings, slot: &SlotName, kind: EventKind, bundle: Digest, detail: &str) {
    let (slot, bundle) = (Some(slot.clone()), Some(bundle));
    let at_ms = settings.clock.unix_ms();
    let event = Event { at_ms, kind, slot, bundle, detail: shortened(detail) };
    (settings.sink)(Stream::Events, encode_record(&event));
}

/// Whether a source makes the same samples for both.
fn are_read_alike(one: &SampleSpec, other: &SampleSpec) -> bool {
    match (one, other) {
        (SampleSpec::Row(one), SampleSpec::Row(other)) => {
            let names = one.columns.iter().map(|column| &column.name);
            names.eq(other.columns.iter().map(|column| &column.name))
        }
        (SampleSpec::Image(one), SampleSpec::Image(other)) => {
            (&one.axes, &one.shape, one.dtype) == (&other.axes, &other.shape, other.dtype)
        }
        _ => false,
    }
}

/// What a watched bundle does, beside what the one before did.
fn observation(before: &Measures, since: &Measures) -> Observation {
    Observation {
        comparison: Comparison {
            samples: since.samples,
            failed: since.failed,
            disagreed: 0,
            shed: 0,
            latency_us_p95: since.latency_us_p95(),
            latency_us_p95_before: before.latency_us_p95(),
        },
        class_shift: since.class_shift(before),
        failed_before: before.failed_fraction(),
    }
}

fn outcome(answer: &Result<Answer, String>) -> Outcome {
    match answer {
        Err(reason) => Outcome::Failed(shortened(reason)),
        Ok(Answer { class: Some(class), .. }) => Outcome::Class {
            index: u32::try_from(class.index).unwrap_or(u32::MAX),
            score: class.score,
        },
        Ok(answer) => {
            let mut values = answer.outputs.first().map(|o| o.data().to_f32()).unwrap_or_default();
            values.truncate(RESULT_VALUES_MAX);
            Outcome::Values(values)
        }
    }
}
