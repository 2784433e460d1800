//! One device: the agent's own parts, wired as its daemon wires them, with everything around them
//! simulated.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use selvedge_agent::{
    Acknowledged, Answerer, BatchOrder, BundleLimits, DiskError, Dispatch, Effect, Identity,
    LoadModel, LoadedModel, Now, Observation, SharedDisk, SimulatedDisk, Spool, SpoolConfig,
    SpoolQuotas, Updates, begin_run, encode_record, end_run, merge_profile_records, next_boot,
};
use selvedge_runtime::{Answer, Sample};
use selvedge_sketch::{GatewayProfile, SpecId};
use selvedge_trust::{DeviceKey, MessageSigner, TrustedRoot};
use selvedge_wire::{
    Boot, Comparison, Desired, DeviceId, Digest, Event, EventKind, InferenceResult, LabelRecord,
    LabelledAnswer, Outcome, ProfileOrigin, ProfileRecord, Reported, Running, Signed, SlotName,
    SlotPhase, Status, Stored, Stream, Topic, Truth, VERSION, VERSION_OLDEST, WindowRange, decode,
    encode,
};

use crate::{
    broker::{Client, Delivery},
    catalogue::{Catalogue, Nature},
    clock::{DAY_MS, DeviceClock, HOUR_MS, SECOND_MS},
    dice::Dice,
    faults::Fault,
    keys,
    link::{Link, Publish},
    trace::short,
    witness::{Checked, Violation, Witness, must},
    world::Surroundings,
};

/// The most payload that the simulated broker takes.
const PAYLOAD_BYTES_MAX: usize = 120 * 1024;

/// One sample in so many gets a label.
const SAMPLES_PER_LABEL: u64 = 4;

/// How long a profile's window is.
const WINDOW_MS: u64 = 10 * SECOND_MS;

/// How often a worker tells what it observes.
const OBSERVATION_MS: u64 = SECOND_MS;

/// When records that are not stored are sent again.
const RESEND_AFTER: Duration = Duration::from_secs(20);

/// The most records of one message.
const BATCH_RECORDS_MAX: usize = 32;

/// Whose sync does nothing where a bug is planted: a desired state that was believed may be forgotten, and
/// an older one believed after it.
const PLANTED: &str = "desired";

/// What a bundle that is slow takes, and any other, in microseconds.
const LATENCY_US: (u32, u32) = (9_000, 120);

/// A device, with its power on or off.
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// What must hold of it.
    pub witness: Witness,
    client: Client,
    hardware_class: &'static str,
    quotas: SpoolQuotas,
    disk: Arc<SimulatedDisk>,
    signer: DeviceKey,
    clock: DeviceClock,
    // Nobody ever tells it the time.
    without_clock: bool,
    process: Option<Process>,
    starts_ms: u64,
    // How the process ends when its disk stops.
    ending: Fault,
    full_until_ms: u64,
    // Reads or changes may still fail because a fault was armed.
    errors_armed: bool,
    samples: u64,
    dice: Dice,
}

/// A run of the agent.
struct Process {
    boot: Boot,
    updates: Updates,
    spool: Spool,
    dropped_told: [u64; Stream::ALL.len()],
    dispatch: Dispatch,
    link: Link<()>,
    connects_ms: u64,
    root: TrustedRoot,
    // The versions of the timestamps that led to the last two repositories.
    followed: [Option<u64>; 2],
    workers: BTreeMap<SlotName, Worker>,
    trials: BTreeMap<SlotName, Trial>,
    swaps: VecDeque<(SlotName, Option<Box<LoadedModel>>)>,
    reported: Option<Reported>,
    window: u64,
    window_closes_ms: u64,
    observes_ms: u64,
}

/// A trial that is under way.
struct Trial {
    bundle: Digest,
    ends_ms: u64,
}

/// What answers in a slot, and what is counted of it.
#[derive(Default)]
struct Worker {
    answering: Option<Running>,
    answered: u64,
    crashes_after: u64,
    window_samples: u32,
    watch: Option<Watch>,
    shadow: Option<Shadow>,
}

struct Watch {
    // What answered before the last change, if there was one since this run began.
    before: Option<Digest>,
    watched: Option<Digest>,
    samples: u64,
    failed: u64,
}

struct Shadow {
    bundle: Digest,
    wanted: u64,
    samples: u64,
    failed: u64,
}

/// What became of a sample.
enum Answered {
    Nothing,
    By(Digest),
    Crash,
}

/// The model of a simulated bundle: nothing is asked of it but to be there.
struct Silent;

impl Answerer for Silent {
    fn answer(&self, _: &Sample) -> Result<Answer, String> {
        Err("the simulation answers for it".into())
    }

    fn features(&self, _: &Sample, _: &mut Vec<f32>) {}
}

impl Device {
    /// A device that was never started.
    pub fn new(client: Client, hardware_class: &'static str, mut dice: Dice) -> Self {
        let number = u8::try_from(client).expect("a world has few devices");
        let quota = |dice: &mut Dice| if dice.chance(300) { 4 * 1024 } else { 256 * 1024 };
        let disk = SimulatedDisk::new();
        disk.set_unordered(dice.chance(500));
        Self {
            id: format!("line-{number}").parse().expect("the name is well formed"),
            witness: Witness::new(hardware_class),
            client,
            hardware_class,
            quotas: SpoolQuotas {
                results_bytes_max: quota(&mut dice),
                profiles_bytes_max: quota(&mut dice),
                events_bytes_max: 256 * 1024,
                labels_bytes_max: 256 * 1024,
                captures_bytes_max: 256 * 1024,
            },
            disk: Arc::new(disk),
            signer: keys::device_key(number),
            clock: DeviceClock::right(),
            without_clock: dice.chance(150),
            process: None,
            starts_ms: 0,
            ending: Fault::PowerCut,
            full_until_ms: 0,
            errors_armed: false,
            samples: 0,
            dice,
        }
    }

    /// Has its disk leave one sync out, which the simulation must find.
    pub fn plant_bug(&self) {
        self.disk.ignore_sync(PLANTED);
    }

    /// Does a few things, in an order by chance.
    pub fn take_turn(&mut self, around: &mut Surroundings) -> Checked {
        self.end_full_disk(around);
        if self.process.is_none() {
            return if around.now_ms >= self.starts_ms { self.start(around) } else { Ok(()) };
        }
        self.suffer(around);
        for _ in 0..self.dice.between(1, 8) {
            if self.process.is_none() {
                return Ok(());
            }
            self.act(around)?;
        }
        Ok(())
    }

    /// Does all that there is to do, and nothing goes wrong.
    pub fn take_calm_turn(&mut self, around: &mut Surroundings, samples: bool) -> Checked {
        if self.process.is_none() {
            self.start(around)?;
        }
        self.connect(around)?;
        self.finish_trials(around)?;
        self.finish_swaps(around, usize::MAX)?;
        if samples {
            self.answer_samples(around, 4)?;
        }
        self.observe(around)?;
        self.tick(around)?;
        self.sync(around)?;
        self.leave(around, usize::MAX);
        while self.process.is_some() && around.broker.waiting(self.client) > 0 {
            self.receive(around)?;
            self.finish_swaps(around, usize::MAX)?;
            self.leave(around, usize::MAX);
        }
        self.send_records(around)?;
        self.leave(around, usize::MAX);
        Ok(())
    }

    /// From now on the disk works and the clock is right, where there is one.
    pub fn calm(&mut self, around: &mut Surroundings) {
        self.disk.set_capacity(None);
        self.disk.cut_after(usize::MAX);
        self.disk.fail_changes(0);
        self.disk.fail_any_reads(0);
        self.errors_armed = false;
        self.starts_ms = around.now_ms;
        match self.without_clock {
            true => self.clock.unset(),
            false => self.clock.jump(0),
        }
    }

    fn now(&self, around: &Surroundings) -> Now {
        let true_ms = around.now_ms;
        let (unix_ms, elapsed_ms) = (self.clock.unix_ms(true_ms), self.clock.elapsed_ms(true_ms));
        Now { unix_ms, elapsed_ms }
    }

    fn say(&self, around: &Surroundings, what: impl FnOnce() -> String) {
        around.trace.say(around.now_ms, self.id.as_str(), what);
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the caller has looked whether the agent runs")
    }
}

/// What goes wrong.
impl Device {
    fn suffer(&mut self, around: &mut Surroundings) {
        if around.faults.happens(Fault::PowerCut) {
            self.stop_disk_soon(Fault::PowerCut);
        } else if around.faults.happens(Fault::Killed) {
            self.stop_disk_soon(Fault::Killed);
        }
        if around.faults.strikes(Fault::DiskFull) {
            let used: usize = self.disk.files().values().map(Vec::len).sum();
            let room = self.dice.below(20_000) as u64;
            self.disk.set_capacity(Some(used as u64 + room));
            self.full_until_ms = around.now_ms + self.dice.between(SECOND_MS, 60 * SECOND_MS);
            self.say(around, || format!("the disk has {room} bytes left"));
        }
        if around.faults.strikes(Fault::DiskError) {
            self.errors_armed = true;
            let count = 1 + self.dice.below(3);
            let of_reads = self.dice.chance(500);
            if of_reads {
                self.disk.fail_any_reads(count)
            } else {
                self.disk.fail_changes(count)
            }
            let what = if of_reads { "reads" } else { "changes" };
            self.say(around, || format!("the next {count} {what} of the disk fail"));
        }
        if around.faults.strikes(Fault::ClockJump) {
            let far = [10 * SECOND_MS, HOUR_MS, DAY_MS, 400 * DAY_MS, 4000 * DAY_MS];
            let far = *self.dice.pick(&far).expect("there are some") as i64;
            let ahead_ms = if self.dice.chance(500) { far } else { -far };
            self.clock.jump(ahead_ms);
            self.say(around, || format!("the clock is off by {} s", ahead_ms / 1000));
        }
        if around.faults.strikes(Fault::ConnectionLost) {
            self.lose_connection(around);
        }
        if around.faults.happens(Fault::Restarted) {
            self.end_in_order(around);
        }
    }

    fn stop_disk_soon(&mut self, ending: Fault) {
        self.ending = ending;
        self.disk.cut_after(1 + self.dice.below(40));
    }

    fn end_full_disk(&mut self, around: &Surroundings) {
        if self.full_until_ms > 0 && around.now_ms >= self.full_until_ms {
            self.full_until_ms = 0;
            self.disk.set_capacity(None);
        }
    }

    fn lose_connection(&mut self, around: &mut Surroundings) {
        let wait_ms = self.dice.between(100, 20 * SECOND_MS);
        let Some(process) = &mut self.process else { return };
        if !process.link.is_up() {
            return;
        }
        process.link.disconnect(&mut around.broker, &mut self.dice, false, &mut around.faults);
        process.dispatch.disconnected();
        process.connects_ms = around.now_ms + wait_ms;
        self.say(around, || "loses its connection".into());
    }

    /// The broker has restarted.
    pub fn is_cut_off(&mut self, around: &mut Surroundings) {
        self.lose_connection(around);
    }

    /// Whether the disk has stopped: then the run is over, and nothing of what it was about to do is done.
    fn is_over(&mut self, around: &mut Surroundings) -> bool {
        if !self.disk.is_cut() {
            return self.process.is_none();
        }
        around.faults.count(self.ending);
        let ending = self.ending;
        self.say(around, || format!("{ending}"));
        self.end_abruptly(around);
        let dice = &mut self.dice;
        match ending {
            // The system lives on, with all that was written.
            Fault::Killed => self.disk.power_cycle(|sides| sides.saturating_sub(1)),
            _ => self.disk.power_cycle(|sides| dice.below(sides)),
        }
        true
    }

    fn end_abruptly(&mut self, around: &mut Surroundings) {
        self.witness.crashes();
        if let Some(mut process) = self.process.take() {
            process.link.disconnect(&mut around.broker, &mut self.dice, false, &mut around.faults);
            self.note_drops(&process);
        }
        self.starts_ms = around.now_ms + self.dice.between(100, 30 * SECOND_MS);
    }

    fn end_in_order(&mut self, around: &mut Surroundings) {
        self.commit_all(around);
        if self.is_over(around) {
            return;
        }
        around.faults.count(Fault::Restarted);
        let ended = end_run(self.disk.as_ref());
        if self.is_over(around) {
            return;
        }
        self.say(around, || format!("ends in order: {ended:?}"));
        if ended.is_err() {
            self.witness.crashes();
        }
        if let Some(mut process) = self.process.take() {
            process.link.disconnect(&mut around.broker, &mut self.dice, true, &mut around.faults);
            self.note_drops(&process);
        }
        self.starts_ms = around.now_ms + SECOND_MS;
    }

    fn note_drops(&mut self, process: &Process) {
        for stream in Stream::ALL {
            self.witness.drops(stream, process.spool.dropped(stream));
        }
    }
}

/// The start.
impl Device {
    fn start(&mut self, around: &mut Surroundings) -> Checked {
        let unset = self.without_clock || around.faults.strikes(Fault::ClockUnset);
        self.clock.boot(around.now_ms, !unset);
        if around.faults.happens(Fault::PowerCutInRecovery) {
            self.stop_disk_soon(Fault::PowerCutInRecovery);
        }
        let began = self.begin(around);
        if self.disk.is_cut() {
            self.is_over(around);
            return Ok(());
        }
        let (process, effects) = match began {
            Ok(begun) => begun,
            Err(error) => {
                self.say(around, || format!("does not start: {error}"));
                // To the next start this one is a run that did not end in order.
                self.witness.crashes();
                self.starts_ms = around.now_ms + SECOND_MS;
                return Ok(());
            }
        };
        self.say(around, || format!("starts, boot {}", process.boot.0));
        self.witness.boots(process.boot)?;
        self.process = Some(process);
        self.tell(around, EventKind::Started, "started");
        if self.is_over(around) {
            return Ok(());
        }
        self.check_revived(&effects)?;
        self.apply(effects, around)
    }

    fn begin(&mut self, around: &Surroundings) -> Result<(Process, Vec<Effect>), String> {
        let disk: SharedDisk = self.disk.clone();
        let failed = |error: DiskError| error.to_string();
        let previous_run = begin_run(disk.as_ref()).map_err(failed)?;
        let boot = next_boot(disk.as_ref()).map_err(failed)?;
        let (spool, recovery) =
            Spool::open(disk.clone(), boot, self.quotas, merge_profile_records).map_err(failed)?;
        if recovery.bytes_lost > 0 {
            self.say(around, || format!("{} bytes of the spool are cut off", recovery.bytes_lost));
        }
        let identity = Identity {
            device: self.id.clone(),
            fleet: around.fleet.clone(),
            hardware_class: self.hardware_class.to_owned(),
            root: around.first_root.clone(),
            boot,
        };
        let root = TrustedRoot::pin(&around.first_root).expect("the first root is sound");
        let limits = BundleLimits { bundle_bytes_max: 1 << 20, bundles_bytes_max: 1 << 22 };
        let (updates, effects) =
            Updates::start(identity, disk, limits, loader(), previous_run, self.now(around))
                .map_err(|error| format!("{error:?}"))?;
        let filter = around.topics.down_filter(&self.id);
        let process = Process {
            boot,
            updates,
            dropped_told: Stream::ALL.map(|stream| spool.dropped(stream)),
            spool,
            dispatch: Dispatch::new(SpoolConfig {
                quotas: self.quotas,
                batch_records_max: BATCH_RECORDS_MAX,
                resend_after: RESEND_AFTER,
                sync_interval: Duration::ZERO,
            }),
            link: Link::new(self.client, [filter]),
            connects_ms: around.now_ms,
            root,
            followed: [None; 2],
            workers: BTreeMap::new(),
            trials: BTreeMap::new(),
            swaps: VecDeque::new(),
            reported: None,
            window: 0,
            window_closes_ms: around.now_ms + WINDOW_MS,
            observes_ms: 0,
        };
        Ok((process, effects))
    }

    /// After a start, a slot that had a bundle has one, unless the disk did not give any.
    fn check_revived(&mut self, effects: &[Effect]) -> Checked {
        if std::mem::take(&mut self.errors_armed) {
            return Ok(());
        }
        let revived = effects.iter().filter_map(|effect| match effect {
            Effect::Swap { slot, model: Some(_) } => Some(slot.clone()),
            _ => None,
        });
        self.witness.revived(&revived.collect::<BTreeSet<_>>())
    }
}

/// Loads anything but what is made not to load.
fn loader() -> LoadModel {
    Box::new(|bundle| {
        let specimen = Catalogue::shared().find(bundle.digest());
        if specimen.is_none_or(|specimen| specimen.nature == Nature::Unloadable) {
            return Err("the model is not one".into());
        }
        let manifest = bundle.manifest();
        Ok(LoadedModel {
            running: Running {
                bundle: bundle.digest(),
                name: manifest.name.to_string(),
                version: manifest.version.to_string(),
            },
            sample: manifest.sample.clone(),
            classes: Vec::new(),
            baseline: None,
            embedding: None,
            answerer: Box::new(Silent),
        })
    })
}

/// What it does.
impl Device {
    fn act(&mut self, around: &mut Surroundings) -> Checked {
        match self.dice.below(12) {
            0 => self.connect(around),
            1 => {
                let count = 1 + self.dice.below(6);
                self.leave(around, count);
                Ok(())
            }
            2..=5 => self.receive(around),
            6 => self.tick(around),
            7 => self.answer_samples(around, 3),
            8 => self.finish_trials(around),
            9 => self.finish_swaps(around, 1),
            10 => self.observe(around),
            _ => self.sync(around).and_then(|()| self.send_records(around)),
        }
    }

    fn connect(&mut self, around: &mut Surroundings) -> Checked {
        let Some(process) = &self.process else { return Ok(()) };
        if process.link.is_up() || around.now_ms < process.connects_ms {
            return Ok(());
        }
        let topic = around.topics.name(&Topic::Status(self.id.clone()));
        let (birth, will) = (self.status(&topic, true), self.status(&topic, false));
        let elapsed = Duration::from_millis(self.clock.elapsed_ms(around.now_ms));
        self.say(around, || "connects".into());
        let process = self.process();
        process.link.connect(&mut around.broker, Some((topic.clone(), will)));
        process.dispatch.connected(PAYLOAD_BYTES_MAX, elapsed);
        process.link.publish(Publish { topic, payload: birth, retain: true }, ());
        self.publish_reported(around);
        Ok(())
    }

    fn status(&self, topic: &str, online: bool) -> Vec<u8> {
        let status = Status {
            online,
            boot: self.process.as_ref().map_or(Boot(0), |process| process.boot),
            agent_version: "simulated".into(),
            wire_oldest: VERSION_OLDEST,
            wire_newest: VERSION,
            hardware_class: self.hardware_class.to_owned(),
        };
        encode(&self.signer.sign_message(topic, encode(&status)))
    }

    fn publish_reported(&mut self, around: &Surroundings) {
        let topic = around.topics.name(&Topic::State(self.id.clone()));
        let Some(process) = &mut self.process else { return };
        let Some(reported) = process.reported.as_ref().filter(|_| process.link.is_up()) else {
            return;
        };
        let payload = encode(&self.signer.sign_message(&topic, encode(reported)));
        process.link.publish(Publish { topic, payload, retain: true }, ());
    }

    fn leave(&mut self, around: &mut Surroundings, count: usize) {
        if let Some(process) = &mut self.process {
            process.link.leave(&mut around.broker, count, &mut around.faults);
        }
    }

    fn receive(&mut self, around: &mut Surroundings) -> Checked {
        let Some(delivery) = around.broker.receive(self.client, &mut around.faults) else {
            return Ok(());
        };
        let packet = delivery.packet;
        self.take_message(delivery, around)?;
        if self.process.is_some() {
            around.broker.acknowledge(self.client, packet);
        }
        Ok(())
    }

    fn take_message(&mut self, delivery: Delivery, around: &mut Surroundings) -> Checked {
        let Delivery { topic: name, payload, .. } = delivery;
        let topic = around.topics.parse(&name);
        let topic = topic.map_err(|_| Violation(format!("a message came on {name}")))?;
        if payload.is_empty() {
            return Ok(());
        }
        self.say(around, || format!("receives {} bytes on {topic}", payload.len()));
        if matches!(topic, Topic::Stored(_)) {
            return self.take_stored(&name, &payload, around);
        }
        if matches!(topic, Topic::Desired(_)) {
            let desired: Desired =
                decode(&payload).map_err(|error| Violation(format!("a desired state: {error}")))?;
            self.witness.hears_of(&desired.document);
        }
        let now = self.now(around);
        let effects = self.process().updates.receive(&topic, &payload, now);
        self.apply(effects, around)
    }

    fn take_stored(&mut self, name: &str, payload: &[u8], around: &mut Surroundings) -> Checked {
        let wrong = |error: selvedge_wire::Error| Violation(format!("stored: {error}"));
        let signed: Signed = decode(payload).map_err(wrong)?;
        // A root that was rotated may speak for a key that the device does not know yet.
        if !self.process().root.verify_message(name, &signed) {
            let now = self.now(around);
            let effects = self.process().updates.disbelieved(now);
            return self.apply(effects, around);
        }
        let stored: Stored = decode(&signed.body).map_err(wrong)?;
        let elapsed = Duration::from_millis(self.clock.elapsed_ms(around.now_ms));
        let process = self.process();
        let mut progress = Vec::new();
        for through in &stored.streams {
            match process.spool.acknowledge(through) {
                Ok(Acknowledged::Known) | Err(_) => {}
                Ok(Acknowledged::Progress) => progress.push(through.stream),
                Ok(Acknowledged::Ahead) => {
                    return Err(Violation(format!(
                        "the fleet has {through:?}, never numbered here"
                    )));
                }
            }
        }
        process.dispatch.stored(&stored, &progress, elapsed);
        self.is_over(around);
        Ok(())
    }

    fn tick(&mut self, around: &mut Surroundings) -> Checked {
        if self.process.is_none() {
            return Ok(());
        }
        let now = self.now(around);
        let effects = self.process().updates.tick(now);
        self.apply(effects, around)
    }

    fn finish_trials(&mut self, around: &mut Surroundings) -> Checked {
        let Some(process) = &mut self.process else { return Ok(()) };
        let ended = process.trials.iter().find(|(_, trial)| trial.ends_ms <= around.now_ms);
        let Some((slot, _)) = ended else { return Ok(()) };
        let slot = slot.clone();
        let Some(trial) = process.trials.remove(&slot) else { return Ok(()) };
        let specimen = Catalogue::shared().find(trial.bundle);
        let passes = specimen.is_some_and(|specimen| specimen.nature != Nature::FailsTrial);
        let outcome = if passes { Ok(()) } else { Err("a golden vector is not met".to_owned()) };
        if passes {
            self.witness.passes_trial(trial.bundle);
        } else {
            around.faults.count(Fault::BundleUnfit);
        }
        self.say(around, || format!("tried {} in {slot}: {outcome:?}", short(trial.bundle)));
        let now = self.now(around);
        let effects = self.process().updates.tried(&slot, trial.bundle, outcome, now);
        self.apply(effects, around)
    }

    fn finish_swaps(&mut self, around: &mut Surroundings, count: usize) -> Checked {
        for _ in 0..count {
            let Some(process) = &mut self.process else { return Ok(()) };
            let Some((slot, model)) = process.swaps.pop_front() else { return Ok(()) };
            let running = model.map(|model| model.running);
            if let Some(running) = &running {
                self.witness.answers(&slot, running.bundle)?;
            }
            let what =
                running.as_ref().map(|running| format!("{} {}", running.name, running.version));
            self.say(around, || format!("{what:?} answers in {slot}"));
            let crashes_after = self.dice.between(1, 5);
            let worker = self.process().workers.entry(slot.clone()).or_default();
            worker.take_over(running.clone(), crashes_after);
            let now = self.now(around);
            let effects = self.process().updates.swapped(&slot, running, now);
            self.apply(effects, around)?;
        }
        Ok(())
    }

    fn observe(&mut self, around: &mut Surroundings) -> Checked {
        let Some(process) = &mut self.process else { return Ok(()) };
        if around.now_ms < process.observes_ms {
            return Ok(());
        }
        process.observes_ms = around.now_ms + OBSERVATION_MS;
        let seen: Vec<_> = process
            .workers
            .iter()
            .flat_map(|(slot, worker)| worker.observations().map(|(b, o)| (slot.clone(), b, o)))
            .collect();
        for (slot, bundle, observation) in seen {
            if self.process.is_none() {
                return Ok(());
            }
            let now = self.now(around);
            let effects = self.process().updates.observed(&slot, bundle, observation, now);
            self.apply(effects, around)?;
        }
        Ok(())
    }

    /// Does what the updates ask for. What they ask of a device that has lost its power is not done.
    fn apply(&mut self, effects: Vec<Effect>, around: &mut Surroundings) -> Checked {
        if self.is_over(around) {
            return Ok(());
        }
        let process = self.process();
        let followed = process.updates.followed_timestamp();
        let version = followed.and_then(|digest| around.targets.timestamp_version(digest));
        if version.is_some() && version != process.followed[1] {
            process.followed = [process.followed[1], version];
        }
        for effect in effects {
            match effect {
                Effect::Subscribe(topic) => {
                    self.process().link.subscribe(around.topics.name(&topic));
                }
                Effect::Unsubscribe(topic) => {
                    self.process().link.unsubscribe(around.topics.name(&topic));
                }
                Effect::Trust(root) => self.process().root = *root,
                Effect::Try { slot, bundle, .. } => self.begin_trial(slot, bundle, around)?,
                Effect::Shadow { slot, model, samples_wanted } => {
                    let shadow = model.map(|model| Shadow {
                        bundle: model.running.bundle,
                        wanted: samples_wanted,
                        samples: 0,
                        failed: 0,
                    });
                    self.process().workers.entry(slot).or_default().shadow = shadow;
                }
                Effect::Watch { slot, on } => {
                    self.process().workers.entry(slot).or_default().watch(on);
                }
                Effect::Swap { slot, model } => self.process().swaps.push_back((slot, model)),
                // No window is judged here.
                Effect::Site { .. } => {}
                Effect::Tell(event) => {
                    self.say(around, || format!("tells {:?}: {}", event.kind, event.detail));
                    if event.kind == EventKind::RolledBack {
                        around.faults.count(Fault::BundleWorse);
                    }
                    self.push(Stream::Events, encode_record(&event));
                    self.commit(Stream::Events, around);
                    if self.is_over(around) {
                        return Ok(());
                    }
                }
                Effect::Report(reported) => self.report(reported, around)?,
                Effect::Malformed { problem } => {
                    return Err(Violation(format!("what came is malformed: {problem}")));
                }
            }
        }
        Ok(())
    }

    fn begin_trial(&mut self, slot: SlotName, bundle: Digest, around: &Surroundings) -> Checked {
        let path = Catalogue::shared().find(bundle).map(|specimen| specimen.path());
        // What a newer repository says of the bundle may still be on its way.
        let followed = self.process().followed;
        let mut known = followed.iter().flatten();
        must(known.any(|version| around.targets.was_target(bundle, *version)), || {
            format!("{path:?} is tried, which the timestamps {followed:?} do not lead to")
        })?;
        self.say(around, || format!("tries {path:?} in {slot}"));
        let ends_ms = around.now_ms + self.dice.between(0, 5 * SECOND_MS);
        self.process().trials.insert(slot, Trial { bundle, ends_ms });
        Ok(())
    }

    fn report(&mut self, reported: Reported, around: &mut Surroundings) -> Checked {
        self.say(around, || {
            let slots: Vec<_> = reported
                .slots
                .iter()
                .map(|slot| {
                    let running = slot.running.as_ref().map(|running| short(running.bundle));
                    let desired = slot.desired.map(short);
                    format!(
                        "{} {:?}, runs {running:?}, wants {desired:?} {:?}",
                        slot.slot, slot.phase, slot.reason
                    )
                })
                .collect();
            let (generation, trust) = (reported.generation, reported.trust);
            format!("reports generation {generation}, {trust:?}: {}", slots.join("; "))
        });
        self.witness.reports(&reported)?;
        let process = self.process();
        let (used_ms, kept_ms) = process.updates.time_floors_ms();
        let used = (used_ms, process.root.root().version());
        self.witness.knows_time(used, (kept_ms, reported.trust.root_version))?;
        self.process().reported = Some(reported);
        self.publish_reported(around);
        Ok(())
    }
}

/// Records.
impl Device {
    fn tell(&mut self, around: &mut Surroundings, kind: EventKind, detail: &str) {
        let at_ms = self.clock.unix_ms(around.now_ms);
        let event = Event { at_ms, kind, slot: None, bundle: None, detail: detail.to_owned() };
        self.push(Stream::Events, encode_record(&event));
        self.commit(Stream::Events, around);
    }

    fn push(&mut self, stream: Stream, record: Vec<u8>) {
        let process = self.process.as_mut().expect("only an agent that runs makes records");
        process.spool.push(stream, record.clone()).expect("the simulation's records are short");
        let records = self.witness.records.entry((process.boot, stream)).or_default();
        records.pushed.push(record);
    }

    fn commit(&mut self, stream: Stream, around: &Surroundings) {
        let Some(process) = &mut self.process else { return };
        match process.spool.commit(stream) {
            Ok(()) if !self.disk.is_cut() => {
                let records = self.witness.records.entry((process.boot, stream)).or_default();
                records.committed = records.pushed.len();
            }
            Ok(()) => {}
            Err(error) => self.say(around, || format!("the spool waits: {error}")),
        }
    }

    fn commit_all(&mut self, around: &Surroundings) {
        Stream::ALL.into_iter().for_each(|stream| self.commit(stream, around));
    }

    /// Makes what was counted durable, and tells of drops.
    fn sync(&mut self, around: &mut Surroundings) -> Checked {
        if self.process.is_none() {
            return Ok(());
        }
        self.close_window(around);
        self.commit_all(around);
        if self.is_over(around) {
            return Ok(());
        }
        let process = self.process();
        let dropped = Stream::ALL.map(|stream| process.spool.dropped(stream));
        if dropped != std::mem::replace(&mut process.dropped_told, dropped) {
            self.tell(around, EventKind::RecordsDropped, "the spool dropped its oldest");
            self.is_over(around);
        }
        Ok(())
    }

    /// Samples come, and what answers answers them.
    fn answer_samples(&mut self, around: &mut Surroundings, samples_max: u64) -> Checked {
        if self.process.is_none() {
            return Ok(());
        }
        let at_ms = self.clock.unix_ms(around.now_ms);
        let slots: Vec<SlotName> = self.process().workers.keys().cloned().collect();
        for slot in slots {
            for _ in 0..self.dice.between(1, samples_max) {
                self.samples += 1;
                let sample = self.samples;
                let worker = self.process().workers.get_mut(&slot).expect("it was listed");
                let bundle = match worker.answer() {
                    Answered::Nothing => break,
                    Answered::Crash => {
                        self.crash(around);
                        return Ok(());
                    }
                    Answered::By(bundle) => bundle,
                };
                let result = InferenceResult {
                    at_ms,
                    slot: slot.clone(),
                    bundle,
                    source: "simulated".into(),
                    sample,
                    latency_us: latency_us(Some(bundle)),
                    outcome: Outcome::Class { index: 0, score: 1.0 },
                };
                self.push(Stream::Results, encode_record(&result));
                if sample.is_multiple_of(SAMPLES_PER_LABEL) {
                    self.label(result);
                }
            }
        }
        Ok(())
    }

    /// Somebody says that an answer was right.
    fn label(&mut self, result: InferenceResult) {
        let InferenceResult { at_ms, slot, bundle, source, sample, outcome, .. } = result;
        let label = LabelRecord {
            at_ms,
            boot: self.process().boot,
            source: source.parse().expect("the name is well formed"),
            sample,
            truth: Truth::Class(0),
            slice: None,
            answer: Some(LabelledAnswer { at_ms, slot, bundle, outcome }),
        };
        self.push(Stream::Labels, encode_record(&label));
    }

    /// The bundle that answers has brought the process down; the system lives on.
    fn crash(&mut self, around: &mut Surroundings) {
        around.faults.count(Fault::BundleCrashed);
        self.say(around, || "a bundle crashes the agent".into());
        self.end_abruptly(around);
        self.disk.power_cycle(|sides| sides.saturating_sub(1));
    }

    /// Counts what was answered in a window, as the windows of a worker do.
    fn close_window(&mut self, around: &Surroundings) {
        let closed_ms = self.clock.unix_ms(around.now_ms);
        let Some(process) = self.process.as_mut() else { return };
        if around.now_ms < process.window_closes_ms {
            return;
        }
        process.window_closes_ms = around.now_ms + WINDOW_MS;
        let window = process.window;
        process.window += 1;
        let mut profiles = Vec::new();
        for (slot, worker) in &mut process.workers {
            let samples = std::mem::take(&mut worker.window_samples);
            if let Some(running) = worker.answering.as_ref().filter(|_| samples > 0) {
                let origin = ProfileOrigin::Model { slot: slot.clone(), bundle: running.bundle };
                profiles.push(profile_record(origin, window, closed_ms, samples));
            }
        }
        for profile in profiles {
            self.push(Stream::Profiles, encode_record(&profile));
        }
    }

    /// Sends what the spool holds, as far as the outbox decides.
    fn send_records(&mut self, around: &mut Surroundings) -> Checked {
        if self.process.is_none() {
            return Ok(());
        }
        let elapsed = Duration::from_millis(self.clock.elapsed_ms(around.now_ms));
        self.process().dispatch.resend_overdue(elapsed);
        for stream in Stream::ALL {
            let topic = around.topics.name(&Topic::Stream(self.id.clone(), stream));
            let Some(process) = &mut self.process else { return Ok(()) };
            while let Some(order) = process.dispatch.next_order(stream) {
                let BatchOrder { after, bytes_max, records_max, .. } = order;
                let batch = process.spool.next_batch(stream, after, bytes_max, records_max);
                // A disk that does not give records now is asked again.
                let Ok(Some(batch)) = batch else { break };
                let end = batch.end();
                let body = process.dispatch.body(stream, batch);
                let payload = encode(&self.signer.sign_message(&topic, body));
                process.link.publish(Publish { topic: topic.clone(), payload, retain: false }, ());
                process.dispatch.sent(stream, end, elapsed);
            }
            if self.is_over(around) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// What the calm must lead to.
impl Device {
    /// Whether nothing is left to be done, for a bundle that is desired or was refused with reason; else
    /// what is left.
    pub fn unsettled(&self, desired: &BTreeMap<SlotName, Digest>) -> Option<String> {
        let Some(process) = &self.process else { return Some("the agent does not run".into()) };
        let Some(reported) = &process.reported else { return Some("nothing was reported".into()) };
        for (slot, bundle) in desired {
            let found = reported.slots.iter().find(|report| report.slot == *slot);
            let Some(report) = found else { return Some(format!("{slot} is not reported")) };
            let running = report.running.as_ref().map(|running| running.bundle);
            let is_right = match report.phase {
                SlotPhase::Settled => running == Some(*bundle),
                SlotPhase::Refused => report.desired == Some(*bundle) && report.reason.is_some(),
                _ => false,
            };
            if !is_right {
                return Some(format!("{slot}: {report:?}"));
            }
        }
        for report in reported.slots.iter().filter(|report| !desired.contains_key(&report.slot)) {
            if report.running.is_some() || report.phase != SlotPhase::Settled {
                return Some(format!("{}: {report:?}", report.slot));
            }
        }
        None
    }

    /// How many records quotas dropped.
    pub fn dropped(&self, stream: Stream) -> u64 {
        let in_this_run = self.process.as_ref().map_or(0, |process| process.spool.dropped(stream));
        self.witness.dropped(stream) + in_this_run
    }

    /// How many bytes of records the fleet has not stored.
    pub fn spool_bytes(&self) -> u64 {
        self.process.as_ref().map_or(0, |process| process.spool.len_bytes())
    }

    /// The slots whose desired bundle was refused, with what runs there and why.
    pub fn refusals(&self) -> Vec<(SlotName, Option<Digest>, Option<Digest>, String)> {
        let reported = self.process.as_ref().and_then(|process| process.reported.as_ref());
        let slots = reported.map_or(&[][..], |reported| &reported.slots);
        slots
            .iter()
            .filter(|report| report.phase == SlotPhase::Refused)
            .map(|report| {
                let running = report.running.as_ref().map(|running| running.bundle);
                let reason = report.reason.clone().unwrap_or_default();
                (report.slot.clone(), report.desired, running, reason)
            })
            .collect()
    }

    /// The key that verifies what it sends.
    pub fn public_key(&self) -> [u8; 32] {
        let bytes = self.signer.public_key().to_bytes();
        bytes.try_into().expect("an Ed25519 key has 32 bytes")
    }

    /// What answers in a slot.
    pub fn runs(&self, slot: &SlotName) -> Option<Digest> {
        let worker = self.process.as_ref()?.workers.get(slot)?;
        worker.answering.as_ref().map(|running| running.bundle)
    }

    /// Its hardware.
    pub fn hardware_class(&self) -> &str {
        self.hardware_class
    }
}

impl Worker {
    fn take_over(&mut self, running: Option<Running>, crashes_after: u64) {
        let before = self.answering.as_ref().map(|running| running.bundle);
        let now = running.as_ref().map(|running| running.bundle);
        (self.answering, self.answered, self.crashes_after) = (running, 0, crashes_after);
        if self.watch.is_some() {
            self.watch = Some(Watch { before, watched: now, samples: 0, failed: 0 });
        }
    }

    fn watch(&mut self, on: bool) {
        let watched = self.answering.as_ref().map(|running| running.bundle);
        self.watch = on.then_some(Watch { before: None, watched, samples: 0, failed: 0 });
    }

    /// What becomes of one sample.
    fn answer(&mut self) -> Answered {
        let Some(running) = &self.answering else { return Answered::Nothing };
        let bundle = running.bundle;
        self.answered += 1;
        self.window_samples += 1;
        if let Some(shadow) = self.shadow.as_mut().filter(|shadow| shadow.samples < shadow.wanted) {
            shadow.samples += 1;
            shadow.failed += u64::from(fails(shadow.bundle, shadow.samples));
        }
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.watched == Some(bundle)) {
            watch.samples += 1;
            watch.failed += u64::from(fails(bundle, watch.samples));
        }
        let crashes = nature(bundle) == Nature::Crashes && self.answered >= self.crashes_after;
        if crashes { Answered::Crash } else { Answered::By(bundle) }
    }

    fn observations(&self) -> impl Iterator<Item = (Digest, Observation)> {
        let answering = self.answering.as_ref().map(|running| running.bundle);
        let shadow = self.shadow.as_ref().map(|shadow| {
            let counts = (shadow.samples, shadow.failed);
            (shadow.bundle, observation(shadow.bundle, answering, counts))
        });
        let watch = self.watch.as_ref().and_then(|watch| {
            let bundle = watch.watched?;
            Some((bundle, observation(bundle, watch.before, (watch.samples, watch.failed))))
        });
        shadow.into_iter().chain(watch)
    }
}

fn nature(bundle: Digest) -> Nature {
    Catalogue::shared().find(bundle).map_or(Nature::Good, |specimen| specimen.nature)
}

/// A bundle that fails samples fails every other one.
fn fails(bundle: Digest, sample: u64) -> bool {
    nature(bundle) == Nature::FailsSamples && sample % 2 == 1
}

fn latency_us(bundle: Option<Digest>) -> u32 {
    let (slow, usual) = LATENCY_US;
    bundle.map_or(0, |bundle| if nature(bundle) == Nature::Slow { slow } else { usual })
}

fn observation(bundle: Digest, before: Option<Digest>, counts: (u64, u64)) -> Observation {
    let (samples, failed) = counts;
    let comparison = Comparison {
        samples,
        failed,
        disagreed: 0,
        shed: 0,
        latency_us_p95: if samples > 0 { latency_us(Some(bundle)) } else { 0 },
        latency_us_p95_before: latency_us(before),
    };
    let fails_too = before.is_some_and(|before| nature(before) == Nature::FailsSamples);
    Observation { comparison, class_shift: None, failed_before: if fails_too { 0.5 } else { 0.0 } }
}

fn profile_record(
    origin: ProfileOrigin,
    window: u64,
    closed_ms: u64,
    samples: u32,
) -> ProfileRecord {
    let mut profile = GatewayProfile::new(SpecId([0; 8]), 0).expect("no feature always fits");
    (0..samples).for_each(|_| profile.count_sample());
    let mut buffer = vec![0; GatewayProfile::ENCODED_BYTES_MAX];
    let len = profile.encode(&mut buffer).expect("the buffer has the length of the longest").len();
    buffer.truncate(len);
    ProfileRecord {
        origin,
        windows: WindowRange { first: window, last: window },
        opened_ms: closed_ms.saturating_sub(WINDOW_MS),
        closed_ms,
        profile: buffer,
    }
}
