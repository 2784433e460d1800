//! A world: a few devices, a broker, a fleet and its operator, with one clock and one seed.

use std::collections::BTreeMap;

use selvedge_wire::{DeviceId, Digest, FleetName, SlotName, Topics};

use crate::{
    broker::{Broker, Client, Restart},
    catalogue::{CRASHES_MAX, Catalogue, Nature, OTHER_HARDWARE, USUAL_HARDWARE},
    clock::{DAY_MS, HOUR_MS, SECOND_MS, START_MS},
    device::Device,
    dice::Dice,
    faults::{Fault, Faults},
    fleet::Fleet,
    publisher::{Edited, Publisher, Rotation, TargetHistory},
    trace::Trace,
    witness::{Checked, Violation, must},
};

/// The devices of a world.
const DEVICES: std::ops::RangeInclusive<u64> = 2..=3;

/// How many rounds go wrong.
const ROUNDS: std::ops::RangeInclusive<u64> = 80..=240;

/// How many rounds the calm may take to settle everything.
const CALM_ROUNDS_MAX: u64 = 400;

/// The slots of every device, and of how many in 1000 the second is used at all.
const SLOTS: [&str; 2] = ["main", "aux"];

/// What every part of the world has around it.
pub struct Surroundings {
    /// The true time, in Unix milliseconds.
    pub now_ms: u64,
    /// The broker.
    pub broker: Broker,
    /// What goes wrong.
    pub faults: Faults,
    /// Where it is said what happens.
    pub trace: Trace,
    /// The topics of the fleet.
    pub topics: Topics,
    /// The name of the fleet.
    pub fleet: FleetName,
    /// The root metadata that every device begins with.
    pub first_root: Vec<u8>,
    /// Which bundles were targets, and when.
    pub targets: TargetHistory,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Rounds, the calm ones too.
    pub rounds: u64,
    /// What went wrong.
    pub faults: crate::FaultCounts,
    /// Bundles that were settled on a device.
    pub updates_confirmed: u64,
    /// Records that the fleet has stored.
    pub records_stored: u64,
}

impl Outcome {
    /// Adds that of another run.
    pub fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.faults.add(&other.faults);
        self.updates_confirmed += other.updates_confirmed;
        self.records_stored += other.records_stored;
    }
}

/// A world.
pub struct World {
    /// What every part has around it.
    pub around: Surroundings,
    fleet: Fleet,
    devices: Vec<Device>,
    publisher: Publisher,
    // What the operator wants, and what the fleet has signed.
    desired: BTreeMap<DeviceId, BTreeMap<SlotName, Wanted>>,
    rounds: u64,
    dice: Dice,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    bundle: Digest,
    allow_downgrade: bool,
}

impl World {
    /// A world that has just begun.
    pub fn new(seed: u64, trace: Trace, planted_bug: bool) -> Result<Self, Violation> {
        let mut dice = Dice::of(seed);
        let publisher = Publisher::new();
        let fleet_name: FleetName = "sim".parse().expect("the name is well formed");
        let queued_max = if dice.chance(250) { 12 } else { 10_000 };
        let mut around = Surroundings {
            now_ms: START_MS,
            broker: Broker::new(queued_max, dice.fork()),
            faults: Faults::by_chance(dice.fork()),
            trace,
            topics: Topics::new(&fleet_name),
            fleet: fleet_name,
            first_root: publisher.root().to_vec(),
            targets: TargetHistory::default(),
        };
        let count = dice.between(*DEVICES.start(), *DEVICES.end());
        let mut devices = Vec::new();
        for client in 1..=count as Client {
            let class = if dice.chance(250) { OTHER_HARDWARE } else { USUAL_HARDWARE };
            let device = Device::new(client, class, dice.fork());
            if planted_bug {
                device.plant_bug();
            }
            devices.push(device);
        }
        let fleet = Fleet::begin(&publisher, &devices, dice.fork(), &mut around)?;
        let desired = BTreeMap::new();
        let mut world = Self { around, fleet, devices, publisher, desired, rounds: 0, dice };
        world.begin()?;
        Ok(world)
    }

    /// Goes through the run: what goes wrong, the calm, and what must hold then.
    pub fn run(&mut self) -> Result<Outcome, Violation> {
        let rounds = self.dice.between(*ROUNDS.start(), *ROUNDS.end());
        for _ in 0..rounds {
            self.round()?;
        }
        self.calm()?;
        let records_stored = self.fleet.check_records(&self.devices)?;
        Ok(Outcome {
            rounds: self.rounds,
            faults: self.around.faults.counts(),
            updates_confirmed: self.devices.iter().map(|d| d.witness.updates_confirmed).sum(),
            records_stored,
        })
    }

    /// Some bundles are there from the beginning.
    fn begin(&mut self) -> Checked {
        self.publish_one()?;
        if self.dice.chance(700) {
            self.publish_one()?;
        }
        for index in 0..self.devices.len() {
            if self.dice.chance(700) {
                self.assign(index)?;
            }
        }
        Ok(())
    }

    fn round(&mut self) -> Checked {
        self.rounds += 1;
        self.pass_time();
        self.trouble_broker();
        self.operate()?;
        let mut turns: Vec<usize> = (0..=self.devices.len()).collect();
        self.dice.shuffle(&mut turns);
        for turn in turns {
            if self.dice.chance(150) {
                continue;
            }
            match turn.checked_sub(1) {
                None => self.fleet.take_turn(&mut self.around)?,
                Some(index) => self.devices[index].take_turn(&mut self.around)?,
            }
        }
        Ok(())
    }

    fn pass_time(&mut self) {
        let passes_ms = match self.dice.below(20) {
            0 | 1 => self.dice.between(5 * SECOND_MS, 90 * SECOND_MS),
            2..=9 => self.dice.between(500, 5 * SECOND_MS),
            _ => self.dice.between(50, 500),
        };
        self.around.now_ms += passes_ms;
        if self.around.faults.strikes(Fault::LongSilence) {
            self.around.now_ms += self.dice.between(HOUR_MS, 15 * DAY_MS);
            self.say(|| "much time passes".into());
        }
    }

    fn trouble_broker(&mut self) {
        if self.dice.chance(100) {
            self.around.broker.save();
        }
        let restart = if self.around.faults.strikes(Fault::BrokerRestarted) {
            Restart::Whole
        } else if self.around.faults.strikes(Fault::BrokerLostState) {
            let ways =
                [Restart::SessionsLost, Restart::AllLost, Restart::PartLost, Restart::OldState];
            *self.dice.pick(&ways).expect("there are some")
        } else {
            return;
        };
        self.say(|| format!("the broker restarts: {restart:?}"));
        self.around.broker.restart(restart);
        self.fleet.is_cut_off(&mut self.around);
        for device in &mut self.devices {
            device.is_cut_off(&mut self.around);
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        self.around.trace.say(self.around.now_ms, "world", what);
    }
}

/// What the operator and the publisher do.
impl World {
    fn operate(&mut self) -> Checked {
        if self.around.faults.happens(Fault::Published) {
            self.publish_one()?;
        }
        if self.around.faults.happens(Fault::Revoked) {
            self.revoke_one()?;
        }
        if self.around.faults.happens(Fault::RootRotated) {
            self.rotate_one()?;
        }
        for index in 0..self.devices.len() {
            if self.around.faults.happens(Fault::Reassigned) {
                self.assign(index)?;
            }
        }
        Ok(())
    }

    fn publish_one(&mut self) -> Checked {
        let targets = &self.around.targets;
        let specimens = Catalogue::shared().specimens();
        let new: Vec<_> = specimens.iter().filter(|it| !targets.is_target(it.digest())).collect();
        // Mostly good ones: a world of failures alone gets nowhere.
        let good: Vec<_> = new.iter().filter(|it| it.nature == Nature::Good).copied().collect();
        let choices = if self.dice.chance(500) && !good.is_empty() { &good } else { &new };
        let Some(specimen) = self.dice.pick(choices).copied() else { return Ok(()) };
        self.fleet.keep_bundle(specimen, &self.around)?;
        let edited = self.publisher.publish(specimen);
        let timestamp = self.propose(edited)?;
        self.around.faults.count(Fault::Published);
        self.around.targets.publish(specimen.digest(), timestamp);
        self.say(|| format!("published {}, {:?}", specimen.path(), specimen.nature));
        Ok(())
    }

    fn revoke_one(&mut self) -> Checked {
        let targets: Vec<Digest> = self.around.targets.targets().into_iter().collect();
        let Some(bundle) = self.dice.pick(&targets).copied() else { return Ok(()) };
        let specimen = Catalogue::shared().find(bundle).expect("only these are published");
        let edited = self.publisher.revoke(specimen);
        let timestamp = self.propose(edited)?;
        self.around.faults.count(Fault::Revoked);
        self.around.targets.revoke(bundle, timestamp);
        self.say(|| format!("revoked {}", specimen.path()));
        Ok(())
    }

    fn rotate_one(&mut self) -> Checked {
        let rotations = [Rotation::Root, Rotation::Targets, Rotation::Director];
        let rotation = *self.dice.pick(&rotations).expect("there are some");
        let Some(edited) = self.publisher.rotate(rotation) else { return Ok(()) };
        self.propose(edited)?;
        self.around.faults.count(Fault::RootRotated);
        self.say(|| format!("a new root replaces the key {rotation:?}"));
        Ok(())
    }

    /// Sends a change in; gives the version of the timestamp that has it.
    fn propose(&mut self, edited: Edited) -> Result<u64, Violation> {
        let timestamp = self.fleet.propose(&edited.proposal, &mut self.around)?;
        self.publisher = edited.after;
        Ok(timestamp)
    }

    /// Wants another bundle in a slot of a device, or none.
    fn assign(&mut self, index: usize) -> Checked {
        let slot = SLOTS[usize::from(self.dice.chance(250))];
        let slot: SlotName = slot.parse().expect("the name is well formed");
        if self.dice.chance(60) {
            return self.assign_bundle(index, slot, None, 0);
        }
        let targets: Vec<Digest> = self.around.targets.targets().into_iter().collect();
        let Some(bundle) = self.dice.pick(&targets).copied() else { return Ok(()) };
        let shadow_samples = if self.dice.chance(300) { self.dice.between(1, 8) } else { 0 };
        let allow_downgrade = self.dice.chance(400);
        let wanted = Wanted { bundle, allow_downgrade };
        self.assign_bundle(index, slot, Some(wanted), shadow_samples)
    }

    fn assign_bundle(
        &mut self,
        index: usize,
        slot: SlotName,
        wanted: Option<Wanted>,
        shadow_samples: u64,
    ) -> Checked {
        let id = self.devices[index].id.clone();
        let assignment =
            wanted.map(|wanted| (wanted.bundle, shadow_samples, wanted.allow_downgrade));
        // Noted first: from the commit on, the device may hear of it.
        if let Some(wanted) = wanted {
            self.devices[index].witness.assigned.insert((slot.clone(), wanted.bundle));
        }
        let generation = self.fleet.assign(&id, &slot, assignment, &self.around)?;
        if wanted.is_none() {
            self.devices[index].witness.is_emptied(&slot, generation);
        }
        self.around.faults.count(Fault::Reassigned);
        if let Some(wanted) = wanted {
            let specimen = Catalogue::shared().find(wanted.bundle).expect("it is a target");
            if self.devices[index].witness.ran_newer(&slot, specimen) {
                self.around.faults.count(match wanted.allow_downgrade {
                    true => Fault::DowngradeAllowed,
                    false => Fault::DowngradeForbidden,
                });
            }
        }
        self.say(|| {
            let path =
                wanted.and_then(|it| Catalogue::shared().find(it.bundle)).map(|it| it.path());
            format!(
                "generation {generation}: {id} {slot} shall have {path:?}, shadow {shadow_samples}"
            )
        });
        let slots = self.desired.entry(id).or_default();
        match wanted {
            Some(wanted) => slots.insert(slot, wanted),
            None => slots.remove(&slot),
        };
        Ok(())
    }
}

/// The end.
impl World {
    fn calm(&mut self) -> Checked {
        self.say(|| "calm".into());
        self.around.faults.calm();
        self.around.broker.calm();
        for device in &mut self.devices {
            device.calm(&mut self.around);
        }
        self.replace_revoked()?;
        for round in 0..CALM_ROUNDS_MAX {
            self.rounds += 1;
            // What waits for something to be overdue needs time; what is at hand does not.
            self.around.now_ms += if round % 4 == 3 { 15 * SECOND_MS } else { SECOND_MS };
            self.fleet.take_calm_turn(&mut self.around)?;
            // Samples keep probations going; records can all be stored only without them.
            let samples = self.unsettled().is_some();
            for device in &mut self.devices {
                device.take_calm_turn(&mut self.around, samples)?;
            }
            if self.unsettled().or_else(|| self.unstored()).is_none() && self.fleet.is_idle() {
                return self.check_refusals();
            }
        }
        let left = self.unsettled().or_else(|| self.unstored());
        let left = left.unwrap_or_else(|| "the fleet has messages to send".into());
        Err(Violation(format!("the calm does not settle everything: {left}")))
    }

    /// What was revoked before a device had it can never be had: the operator wants something else.
    fn replace_revoked(&mut self) -> Checked {
        for index in 0..self.devices.len() {
            let id = self.devices[index].id.clone();
            let wanted = self.desired.get(&id).cloned().unwrap_or_default();
            for (slot, wanted) in wanted {
                if self.around.targets.is_target(wanted.bundle) {
                    continue;
                }
                let class = self.devices[index].hardware_class();
                let fits = |bundle: &Digest| {
                    let specimen = Catalogue::shared().find(*bundle);
                    specimen.is_some_and(|it| {
                        it.nature == Nature::Good && it.target.allows_hardware(class)
                    })
                };
                let bundle = self.around.targets.targets().into_iter().find(fits);
                let other = bundle.map(|bundle| Wanted { bundle, allow_downgrade: true });
                self.assign_bundle(index, slot, other, 0)?;
            }
        }
        Ok(())
    }

    fn unsettled(&self) -> Option<String> {
        self.devices.iter().find_map(|device| {
            let desired = self.desired.get(&device.id).into_iter().flatten();
            let desired = desired.map(|(slot, wanted)| (slot.clone(), wanted.bundle)).collect();
            device.unsettled(&desired).map(|left| format!("{}: {left}", device.id))
        })
    }

    fn unstored(&self) -> Option<String> {
        self.devices.iter().find_map(|device| {
            let bytes = device.spool_bytes();
            (bytes > 0).then(|| format!("{}: the spool holds {bytes} bytes", device.id))
        })
    }

    /// What was refused was refused for a reason that is true, and what is settled deserves it.
    fn check_refusals(&self) -> Checked {
        for device in &self.devices {
            for (slot, desired, running, reason) in device.refusals() {
                let who = format!("{} {slot}", device.id);
                let bundle = desired.ok_or_else(|| Violation(format!("{who} refuses nothing")))?;
                let specimen = Catalogue::shared().find(bundle).expect("only these are assigned");
                let crashes = device.witness.crashes.get(&bundle).copied();
                let allowed = self.desired[&device.id].get(&slot).map(|it| it.allow_downgrade);
                let is_true = specimen.nature != Nature::Good
                    || self.around.targets.was_revoked(bundle)
                    || !specimen.target.allows_hardware(device.hardware_class())
                    || crashes.is_some_and(|crashes| crashes > CRASHES_MAX)
                    || allowed == Some(false) && device.witness.ran_newer(&slot, specimen);
                let path = specimen.path();
                must(is_true, || format!("{who} refuses {path} for {reason:?}, runs {running:?}"))?;
            }
            for (slot, wanted) in self.desired.get(&device.id).into_iter().flatten() {
                let specimen = Catalogue::shared().find(wanted.bundle).expect("it was assigned");
                let refused = device.refusals().iter().any(|(of, ..)| of == slot);
                let settled = device.runs(slot) == Some(wanted.bundle) && !refused;
                // Who fails as many samples as the one before is not the worse for it.
                let before = device.witness.before(slot);
                let before = before.and_then(|before| Catalogue::shared().find(before));
                let bad = match specimen.nature {
                    Nature::FailsSamples => before.map(|it| it.nature) != Some(specimen.nature),
                    nature => nature == Nature::Crashes,
                };
                // A probation ends at some time, even if there was little to see.
                let watched = self.around.faults.counts().of(Fault::LongSilence) == 0;
                must(!(settled && bad && watched), || {
                    format!("{} {slot} settled for {}", device.id, specimen.path())
                })?;
            }
        }
        Ok(())
    }
}
