//! Updates against a small fleet with a retaining broker, with power cuts, damage and a full disk.
//!
//! Survived: a cut after any operation of an update with unsynced writes torn or lost, also while the
//! cut is recovered from; a full disk; messages that come twice, late, or not at all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use ring::rand::SystemRandom;
use selvedge_bundle::{
    BundleBuilder, ChunkIndex, Golden, Manifest, NamedTensor, TensorData, chunks_of, compress,
};
use selvedge_runtime::{Answer, Sample};
use selvedge_sketch::SpecId;
use selvedge_trust::{Authority, Blob, DesiredSlot, Root, SigningKey};
use selvedge_wire::{SlotPhase, encode};

use super::*;
use crate::{
    disk::{Disk, simulated::SimulatedDisk},
    inference::{Answerer, FeatureBins},
    limits::OFFER_RETRY_MS,
};

const NOW_MS: u64 = 1_795_194_480_000;

fn slot() -> SlotName {
    "main".parse().expect("the name is well formed")
}

struct Keys {
    root: SigningKey,
    targets: SigningKey,
    director: SigningKey,
}

impl Keys {
    fn new() -> Self {
        let key =
            || SigningKey::generate(&SystemRandom::new()).expect("the system has random bytes");
        Self { root: key(), targets: key(), director: key() }
    }

    fn trusted(&self) -> TrustedRoot {
        let one = |key: &SigningKey| Authority::one(key.public_key().clone());
        let expires = UnixMillis(NOW_MS).plus_seconds(3600);
        let root =
            Root::new(1, expires, &one(&self.root), &one(&self.targets), &one(&self.director));
        TrustedRoot::pin(&root.sign(&[&self.root])).expect("the root is sound")
    }
}

/// Bytes without a pattern, the same in every run.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A bundle whose model is no graph: the tests' loader does not look into it.
fn bundle(version: &str, model: Vec<u8>) -> Bundle {
    let manifest = serde_json::json!({
        "name": "example", "version": version, "task": "tabular-classification",
        "description": "An example.", "license": "CC0-1.0",
        "sample": {"kind": "row", "columns": [{"name": "a"}]},
        "inputs": [{"name": "x", "axes": ["batch", "f"], "shape": [-1, 1], "dtype": "f32"}],
        "outputs": [{"name": "y", "axes": ["batch", "class"], "shape": [-1, 1], "dtype": "i8"}],
        "golden": {"origin": "user", "framework": "by hand", "tolerance": {"y": 0}},
    });
    let manifest = Manifest::from_json(manifest.to_string().as_bytes()).expect("it is sound");
    let tensor = |name, data| NamedTensor::new(name, vec![1, 1], data).expect("shapes agree");
    let inputs = vec![tensor("x", TensorData::F32(vec![0.5]))];
    let outputs = vec![tensor("y", TensorData::I8(vec![1]))];
    let golden = Golden::new(&manifest, inputs, outputs).expect("as the manifest says");
    let builder = BundleBuilder { manifest, model, baseline: None, golden, card: None };
    builder.build().expect("the example is sound")
}

fn statement(bundle: &Bundle) -> BundleStatement {
    let index = ChunkIndex::of(bundle).expect("the bundle is small").encode();
    let manifest = bundle.manifest();
    BundleStatement {
        name: manifest.name.to_string(),
        version: manifest.version.to_string(),
        manifest: Blob { digest: bundle.digest(), len_bytes: bundle.manifest_len() },
        chunk_index: Blob { digest: digest_of(&index), len_bytes: index.len() as u64 },
        hardware_classes: vec!["*".into()],
        expires: UnixMillis(NOW_MS).plus_seconds(3600),
    }
}

struct Nothing;

impl Answerer for Nothing {
    fn answer(&self, _: &Sample) -> Result<Answer, String> {
        Err("this model is made of noise".into())
    }

    fn features(&self, _: &Sample) -> Option<Vec<f32>> {
        None
    }
}

/// Loads anything but what its list forbids.
fn loader(unfit: Arc<Mutex<BTreeSet<Digest>>>) -> LoadModel {
    Box::new(move |bundle| {
        if unfit.lock().expect("no test panics here").contains(&bundle.digest()) {
            return Err("the golden vectors are not met".into());
        }
        let manifest = bundle.manifest();
        Ok(LoadedModel {
            running: Running {
                bundle: bundle.digest(),
                name: manifest.name.to_string(),
                version: manifest.version.to_string(),
            },
            sample: manifest.sample.clone(),
            features: FeatureBins { spec_id: SpecId([0; 8]), bins: Vec::new() },
            answerer: Box::new(Nothing),
        })
    })
}

/// A device, and a broker that retains what the fleet has published.
struct World {
    keys: Keys,
    disk: Arc<SimulatedDisk>,
    limits: BundleLimits,
    unfit: Arc<Mutex<BTreeSet<Digest>>>,
    updates: Option<Updates>,
    retained: BTreeMap<String, Vec<u8>>,
    subscribed: Vec<Topic>,
    answering: Option<Digest>,
    reported: Option<Reported>,
    events: Vec<Event>,
    malformed: usize,
    requested: Vec<Digest>,
    now: Now,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            keys: Keys::new(),
            disk: Arc::new(SimulatedDisk::new()),
            limits: BundleLimits { bundle_bytes_max: 1 << 20, bundles_bytes_max: 1 << 22 },
            unfit: Arc::default(),
            updates: None,
            retained: BTreeMap::new(),
            subscribed: Vec::new(),
            answering: None,
            reported: None,
            events: Vec::new(),
            malformed: 0,
            requested: Vec::new(),
            now: Now { unix_ms: NOW_MS, elapsed_ms: 0 },
        };
        world.start().expect("the disk works");
        world
    }

    /// A new run on what the disk has.
    fn start(&mut self) -> Result<(), DiskError> {
        self.updates = None;
        self.answering = None;
        self.subscribed.clear();
        self.requested.clear();
        let identity = Identity {
            device: "line-1".parse().expect("the name is well formed"),
            fleet: "demo".parse().expect("the name is well formed"),
            hardware_class: "aarch64".into(),
            root: self.keys.trusted(),
            boot: Boot(1),
        };
        let (disk, load) = (self.disk.clone(), loader(self.unfit.clone()));
        let (updates, effects) = Updates::start(identity, disk, self.limits, load, self.now)?;
        self.updates = Some(updates);
        self.apply(effects);
        Ok(())
    }

    fn updates(&mut self) -> &mut Updates {
        self.updates.as_mut().expect("the device runs")
    }

    /// Does what is asked for, as a broker and a worker would, until nothing more is.
    fn apply(&mut self, effects: Vec<Effect>) {
        let mut waiting = std::collections::VecDeque::from(effects);
        while let Some(effect) = waiting.pop_front() {
            match effect {
                Effect::Subscribe(topic) => {
                    self.subscribed.push(topic.clone());
                    if let Topic::Chunk(chunk) = topic {
                        self.requested.push(chunk);
                    }
                    if let Some(payload) = self.retained.get(&topic.to_string()).cloned() {
                        let now = self.now;
                        waiting.extend(self.updates().receive(&topic, &payload, now));
                    }
                }
                Effect::Unsubscribe(topic) => {
                    let place = self.subscribed.iter().position(|known| *known == topic);
                    self.subscribed.remove(place.expect("it was subscribed to"));
                }
                Effect::Swap { slot, model } => {
                    let running = model.map(|model| model.running);
                    self.answering = running.as_ref().map(|running| running.bundle);
                    let now = self.now;
                    waiting.extend(self.updates().swapped(&slot, running, now));
                }
                Effect::Tell(event) => self.events.push(event),
                Effect::Report(reported) => self.reported = Some(reported),
                Effect::Malformed { .. } => self.malformed += 1,
            }
        }
    }

    fn receive(&mut self, topic: &Topic, payload: &[u8]) {
        let now = self.now;
        let effects = self.updates().receive(topic, payload, now);
        self.apply(effects);
    }

    fn pass(&mut self, ms: u64) {
        self.now.elapsed_ms += ms;
        let now = self.now;
        let effects = self.updates().tick(now);
        self.apply(effects);
    }

    fn publish(&mut self, bundle: &Bundle) {
        let statement = statement(bundle).sign(&self.keys.targets);
        self.publish_with(bundle, statement);
    }

    fn publish_with(&mut self, bundle: &Bundle, statement: Vec<u8>) {
        let index = ChunkIndex::of(bundle).expect("the bundle is small").encode();
        let offer = BundleOffer { statement, index };
        self.retained.insert(Topic::Bundle(bundle.digest()).to_string(), encode(&offer));
        for (chunk, content) in chunks_of(bundle) {
            let topic = Topic::Chunk(chunk.digest).to_string();
            self.retained.insert(topic, encode(&compress(content)));
        }
    }

    fn desired(&self, generation: u64, bundle: Option<Digest>) -> DesiredState {
        let slots = bundle.map(|bundle| (slot(), DesiredSlot { bundle })).into_iter().collect();
        DesiredState {
            device: "line-1".parse().expect("the name is well formed"),
            fleet: "demo".parse().expect("the name is well formed"),
            generation,
            expires: UnixMillis(NOW_MS).plus_seconds(60),
            slots,
        }
    }

    fn desire(&mut self, generation: u64, bundle: Option<Digest>) {
        let document = self.desired(generation, bundle).sign(&self.keys.director);
        self.receive_desired(document);
    }

    fn receive_desired(&mut self, document: Vec<u8>) {
        let topic = Topic::Desired("line-1".parse().expect("the name is well formed"));
        self.receive(&topic, &encode(&Desired { document }));
    }

    fn report(&self) -> &SlotReport {
        let reported = self.reported.as_ref().expect("something was reported");
        reported.slots.first().expect("the slot is reported")
    }

    fn event_kinds(&self) -> Vec<EventKind> {
        self.events.iter().map(|event| event.kind).collect()
    }
}

fn v1() -> Bundle {
    bundle("1.0.0", noise(400_000, 1))
}

fn v2() -> Bundle {
    let mut model = noise(400_000, 1);
    model[200_000..200_004].copy_from_slice(&[1, 2, 3, 4]);
    bundle("2.0.0", model)
}

#[test]
fn a_desired_bundle_is_fetched_checked_and_answers() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    world.desire(1, Some(v1.digest()));
    assert_eq!(world.answering, Some(v1.digest()));
    assert!(world.subscribed.is_empty(), "what came is not listened to any more");
    let report = world.report();
    assert_eq!((report.phase, &report.reason), (SlotPhase::Settled, &None));
    assert_eq!(report.running.as_ref().map(|running| running.version.as_str()), Some("1.0.0"));
    assert_eq!(world.event_kinds(), [EventKind::Swapped]);
    let left: Vec<_> =
        world.disk.files().into_keys().filter(|p| p.starts_with("chunks/")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn it_answers_again_after_a_restart_without_a_network() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    world.desire(1, Some(v1.digest()));
    world.retained.clear();
    // Long after every document has expired.
    world.now.unix_ms *= 2;
    world.start().expect("the disk works");
    assert_eq!(world.answering, Some(v1.digest()));
    assert_eq!(world.report().phase, SlotPhase::Settled);
}

#[test]
fn an_update_fetches_only_new_chunks_and_keeps_the_bundle_before() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.publish(&v1);
    world.desire(1, Some(v1.digest()));
    world.requested.clear();
    world.publish(&v2);
    world.desire(2, Some(v2.digest()));
    assert_eq!(world.answering, Some(v2.digest()));
    let total = ChunkIndex::of(&v2).expect("it is small").chunk_count();
    assert!(world.requested.len() <= 4, "{} of {total}", world.requested.len());
    assert!(world.disk.list("bundles").expect("it works").len() == 2);

    // Back without a byte from the network; a third bundle pushes the oldest out.
    world.retained.clear();
    world.requested.clear();
    world.desire(3, Some(v1.digest()));
    assert_eq!((world.answering, world.requested.len()), (Some(v1.digest()), 0));
    let v3 = bundle("3.0.0", noise(50_000, 9));
    world.publish(&v3);
    world.desire(4, Some(v3.digest()));
    let kept = world.disk.list("bundles").expect("it works");
    assert_eq!(kept.len(), 2);
    assert!(!kept.contains(&v2.digest().hex().to_string()));
}

#[test]
fn a_download_goes_on_after_a_restart_with_what_is_missing() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    let chunks: Vec<_> = ChunkIndex::of(&v1).expect("it is small").chunks().collect();
    let late: Vec<_> = chunks[chunks.len() / 2..]
        .iter()
        .map(|chunk| Topic::Chunk(chunk.digest).to_string())
        .map(|topic| (topic.clone(), world.retained.remove(&topic).expect("it was published")))
        .collect();
    world.desire(1, Some(v1.digest()));
    let SlotPhase::Fetching { chunks_present, chunks_total } = world.report().phase else {
        panic!("half of it lacks: {:?}", world.report());
    };
    assert_eq!((chunks_present as usize, chunks_total as usize), (chunks.len() / 2, chunks.len()));
    world.start().expect("the disk works");
    let again: BTreeSet<_> = world.requested.iter().copied().collect();
    assert!(chunks[..chunks.len() / 2].iter().all(|chunk| !again.contains(&chunk.digest)));
    for (topic, payload) in late {
        world.retained.insert(topic.clone(), payload.clone());
        let topic = world.subscribed.iter().find(|known| known.to_string() == topic).cloned();
        if let Some(topic) = topic {
            world.receive(&topic, &payload);
        }
    }
    assert_eq!(world.answering, Some(v1.digest()));
}

type Spoil = fn(&mut World, &Bundle);

/// A signature, an index or a time that is not right says nothing about the bundle: whoever holds the
/// broker can send such offers, and the clock may be wrong.
#[test]
fn offers_that_are_not_to_be_believed_delay_an_update_and_do_not_end_it() {
    let cases: [(&str, Spoil); 5] = [
        ("needed", |world, bundle| {
            let statement = statement(bundle)
                .sign(&SigningKey::generate(&SystemRandom::new()).expect("random"));
            world.publish_with(bundle, statement);
        }),
        ("only targets may sign it", |world, bundle| {
            let statement = statement(bundle).sign(&world.keys.director);
            world.publish_with(bundle, statement);
        }),
        ("about the bundle", |world, bundle| {
            let statement = statement(&v1()).sign(&world.keys.targets);
            world.publish_with(bundle, statement);
        }),
        ("expired", |world, bundle| {
            let expires = UnixMillis(NOW_MS - 1000);
            let statement = BundleStatement { expires, ..statement(bundle) };
            world.publish_with(bundle, statement.sign(&world.keys.targets));
        }),
        ("not the one that the statement names", |world, bundle| {
            let mut named = statement(bundle);
            named.chunk_index.digest = Digest([7; 32]);
            world.publish_with(bundle, named.sign(&world.keys.targets));
        }),
    ];
    let mut failures = Vec::new();
    for (part, spoil) in cases {
        let mut world = World::new();
        let (v1, v2) = (v1(), v2());
        world.publish(&v1);
        world.desire(1, Some(v1.digest()));
        spoil(&mut world, &v2);
        world.desire(2, Some(v2.digest()));
        let offer = world.retained[&Topic::Bundle(v2.digest()).to_string()].clone();
        world.receive(&Topic::Bundle(v2.digest()), &offer);
        let reason = world.report().reason.clone().unwrap_or_default();
        if world.report().phase == SlotPhase::Refused || !reason.contains(part) {
            failures.push(format!("{part}: {:?}", world.report()));
        }
        if world.event_kinds() != [EventKind::Swapped, EventKind::BundleRefused] {
            failures.push(format!("{part}: told {:?}", world.events));
        }
        if world.answering != Some(v1.digest()) {
            failures.push(format!("{part}: {:?} answers", world.answering));
        }
        // The good offer comes where the bad one was.
        world.publish(&v2);
        world.pass(OFFER_RETRY_MS);
        if world.answering != Some(v2.digest()) || world.report().reason.is_some() {
            failures.push(format!("{part}: for good: {:?}", world.report()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn an_offer_that_a_wrong_clock_disbelieved_is_taken_when_the_clock_is_right() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    world.desire(1, Some(v1.digest()));
    let v2 = v2();
    world.desire(2, Some(v2.digest()));
    world.publish(&v2);
    world.now.unix_ms = 2 * NOW_MS;
    let topic = Topic::Bundle(v2.digest());
    let offer = world.retained[&topic.to_string()].clone();
    world.receive(&topic, &offer);
    assert!(
        world.report().reason.as_ref().is_some_and(|reason| reason.contains("expired")),
        "{:?}",
        world.report()
    );
    world.now.unix_ms = NOW_MS;
    world.pass(OFFER_RETRY_MS);
    assert_eq!(world.answering, Some(v2.digest()));
    assert!(world.subscribed.is_empty());
}

#[test]
fn what_is_not_right_is_refused_and_the_bundle_before_goes_on() {
    let cases: [(&str, Spoil); 4] = [
        ("hardware armv7, riscv64; this device is aarch64", |world, bundle| {
            let hardware_classes = vec!["armv7".into(), "riscv64".into()];
            let statement = BundleStatement { hardware_classes, ..statement(bundle) };
            world.publish_with(bundle, statement.sign(&world.keys.targets));
        }),
        ("its manifest says example 2.0.0, the statement example 9.0.0", |world, bundle| {
            let statement = BundleStatement { version: "9.0.0".into(), ..statement(bundle) };
            world.publish_with(bundle, statement.sign(&world.keys.targets));
        }),
        ("this device takes 100000", |world, bundle| {
            world.limits.bundle_bytes_max = 100_000;
            world.updates().limits.bundle_bytes_max = 100_000;
            world.publish(bundle);
        }),
        ("golden vectors are not met", |world, bundle| {
            world.unfit.lock().expect("no test panics here").insert(bundle.digest());
            world.publish(bundle);
        }),
    ];
    let mut failures = Vec::new();
    for (part, spoil) in cases {
        let mut world = World::new();
        let (v1, v2) = (v1(), v2());
        world.publish(&v1);
        world.desire(1, Some(v1.digest()));
        spoil(&mut world, &v2);
        world.desire(2, Some(v2.digest()));
        let report = world.report().clone();
        let reason = report.reason.clone().unwrap_or_default();
        let refused = report.phase == SlotPhase::Refused && reason.contains(part);
        let stays = world.answering == Some(v1.digest())
            && report.running.map(|running| running.bundle) == Some(v1.digest());
        let told = world.event_kinds().last() == Some(&EventKind::BundleRefused);
        if !(refused && stays && told) {
            failures.push(format!("{part}: {:?}, {reason}, {:?}", report.phase, world.answering));
            continue;
        }
        // The reason survives a restart, and the next update is not blocked.
        let good = bundle("3.0.0", noise(60_000, 3));
        world.limits.bundle_bytes_max = 1 << 20;
        if let Err(error) = world.start() {
            failures.push(format!("{part}: {error}"));
        }
        if world.report().reason.as_deref() != Some(&reason) {
            failures.push(format!("{part}: forgotten: {:?}", world.report()));
        }
        world.publish(&good);
        world.desire(3, Some(good.digest()));
        if world.answering != Some(good.digest()) {
            failures.push(format!("{part}: the next update is blocked: {:?}", world.report()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn chunks_that_are_not_what_they_are_called_are_counted_and_waited_for() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    let good = world.retained.clone();
    for (topic, payload) in &mut world.retained {
        if topic.contains("chunks") {
            let last = payload.len() - 1;
            payload[last] ^= 1;
        }
    }
    world.desire(1, Some(v1.digest()));
    assert!(world.malformed > 0);
    assert_eq!(world.answering, None);
    assert!(matches!(world.report().phase, SlotPhase::Fetching { chunks_present: 0, .. }));
    // The broker's content is repaired; overdue chunks are asked for again.
    world.retained = good;
    for _ in 0..20 {
        world.pass(60_000);
    }
    assert_eq!(world.answering, Some(v1.digest()));
}

#[test]
fn desired_states_that_are_not_to_be_believed_change_nothing_and_are_told_once() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    world.desire(5, Some(v1.digest()));
    world.events.clear();
    let good = world.desired(6, None);
    let foreign_key = SigningKey::generate(&SystemRandom::new()).expect("random");
    let documents = [
        ("older", DesiredState { generation: 4, ..good.clone() }.sign(&world.keys.director)),
        ("seen before", DesiredState { generation: 5, ..good.clone() }.sign(&world.keys.director)),
        (
            "device line-2",
            DesiredState { device: "line-2".parse().expect("a name"), ..good.clone() }
                .sign(&world.keys.director),
        ),
        (
            "fleet other",
            DesiredState { fleet: "other".parse().expect("a name"), ..good.clone() }
                .sign(&world.keys.director),
        ),
        (
            "expired",
            DesiredState { expires: UnixMillis(NOW_MS - 1000), ..good.clone() }
                .sign(&world.keys.director),
        ),
        ("role targets", good.sign(&world.keys.targets)),
        ("signatures", good.sign(&foreign_key)),
        ("malformed", b"{}".to_vec()),
    ];
    for (part, document) in documents {
        for _ in 0..3 {
            world.receive_desired(document.clone());
        }
        let told: Vec<_> = world.events.drain(..).collect();
        assert_eq!(told.len(), 1, "{part}: {told:?}");
        assert_eq!(told[0].kind, EventKind::DesiredRefused);
        assert!(told[0].detail.contains(part), "{part}: {}", told[0].detail);
        assert_eq!(world.answering, Some(v1.digest()));
    }
    let topic = Topic::Desired("line-1".parse().expect("a name"));
    world.receive(&topic, b"\x01garbage that is no message");
    world.receive(&topic, b"\x63");
    assert_eq!(world.malformed, 2);
}

#[test]
fn the_same_desired_state_again_costs_nothing() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    world.desire(1, Some(v1.digest()));
    world.events.clear();
    let operations = world.disk.operations();
    world.desire(1, Some(v1.digest()));
    assert_eq!(world.disk.operations(), operations);
    assert!(world.events.is_empty());
}

#[test]
fn a_bundle_that_went_bad_on_the_disk_gives_way_to_the_one_before() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    for (generation, bundle) in [(1, &v1), (2, &v2)] {
        world.publish(bundle);
        world.desire(generation, Some(bundle.digest()));
    }
    let path =
        format!("bundles/{}/blobs/sha256/{}", v2.digest().hex(), digest_of(v2.model()).hex());
    world.disk.damage(&path, 1000);
    world.start().expect("the disk works");
    assert_eq!(world.answering, Some(v1.digest()));
    assert_eq!(world.report().phase, SlotPhase::Refused);
    assert!(world.report().reason.is_some());
    world.desire(3, Some(v2.digest()));
    assert_eq!(world.answering, Some(v2.digest()), "it can be fetched again");
}

#[test]
fn a_read_that_fails_on_start_costs_no_bundle() {
    // Which of the two bundles cannot be read at first.
    for unread in [&[1][..], &[0, 1]] {
        let mut world = World::new();
        let bundles = [v1(), v2()];
        for (generation, bundle) in [(1, &bundles[0]), (2, &bundles[1])] {
            world.publish(bundle);
            world.desire(generation, Some(bundle.digest()));
        }
        world.retained.clear();
        world.events.clear();
        let files = world.disk.files();
        for bundle in unread.iter().map(|place| &bundles[*place]) {
            let (bundle, model) = (bundle.digest(), digest_of(bundle.model()));
            let path = format!("bundles/{}/blobs/sha256/{}", bundle.hex(), model.hex());
            world.disk.fail_reads(&path, 1);
        }
        world.start().expect("the disk takes writes");
        let stands_in = (unread.len() == 1).then(|| bundles[0].digest());
        assert_eq!(world.answering, stands_in);
        let reason = world.report().reason.clone().unwrap_or_default();
        assert!(reason.contains("does not answer") && reason.contains("trying again"), "{reason}");
        assert!(files == world.disk.files(), "records and bundles stay");
        assert!(world.events.is_empty(), "nothing was refused: {:?}", world.events);
        world.pass(DISK_RETRY_MS);
        assert_eq!(world.answering, Some(bundles[1].digest()), "{:?}", world.report());
        assert_eq!((world.report().phase, &world.report().reason), (SlotPhase::Settled, &None));
        assert!(files == world.disk.files(), "nothing was fetched or lost");
    }
}

#[test]
fn a_full_disk_is_reported_and_the_update_goes_on_when_there_is_room() {
    let mut world = World::new();
    let (v1, v2) = (v1(), v2());
    world.publish(&v1);
    world.desire(1, Some(v1.digest()));
    world.publish(&v2);
    let used: usize = world.disk.files().values().map(Vec::len).sum();
    world.disk.set_capacity(Some(used as u64 + 10_000));
    world.desire(2, Some(v2.digest()));
    assert_eq!(world.answering, Some(v1.digest()));
    let reason = world.report().reason.clone().unwrap_or_default();
    assert!(reason.contains("bytes free") && reason.contains("trying again"), "{reason}");
    world.disk.set_capacity(None);
    world.pass(DISK_RETRY_MS);
    assert_eq!(world.answering, Some(v2.digest()));
    assert_eq!(world.report().reason, None);
}

#[test]
fn a_desired_state_that_the_disk_did_not_take_is_tried_again() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    world.disk.set_capacity(Some(0));
    world.desire(1, Some(v1.digest()));
    assert_eq!(world.answering, None);
    world.disk.set_capacity(None);
    world.pass(DISK_RETRY_MS);
    assert_eq!(world.answering, Some(v1.digest()));
}

#[test]
fn two_slots_may_want_the_same_bundle() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    let mut desired = world.desired(1, Some(v1.digest()));
    let other: SlotName = "other".parse().expect("a name");
    desired.slots.insert(other, DesiredSlot { bundle: v1.digest() });
    world.receive_desired(desired.sign(&world.keys.director));
    let reported = world.reported.as_ref().expect("something was reported");
    assert_eq!(reported.slots.len(), 2);
    assert!(reported.slots.iter().all(|report| report.phase == SlotPhase::Settled), "{reported:?}");
}

#[test]
fn an_unwanted_bundle_leaves_its_slot() {
    let mut world = World::new();
    let v1 = v1();
    world.publish(&v1);
    world.desire(1, Some(v1.digest()));
    world.desire(2, None);
    assert_eq!(world.answering, None);
    assert!(world.reported.as_ref().is_some_and(|reported| reported.slots.is_empty()));
}

/// Cuts the power after every single operation of an update, in several ways.
#[test]
fn wherever_the_power_fails_the_old_bundle_or_the_new_answers_and_the_update_ends() {
    let (v1, v2) = (v1(), v2());
    let updated = |world: &mut World| {
        world.publish(&v1);
        world.desire(1, Some(v1.digest()));
        world.publish(&v2);
    };
    let operations = {
        let mut world = World::new();
        updated(&mut world);
        let before = world.disk.operations();
        world.desire(2, Some(v2.digest()));
        assert_eq!(world.answering, Some(v2.digest()));
        world.disk.operations() - before
    };
    let mut points = 0;
    for cut in 0..operations {
        for survival in 0..4 {
            let mut world = World::new();
            updated(&mut world);
            world.disk.cut_after(cut);
            world.desire(2, Some(v2.digest()));
            cycle(&world, cut + survival);
            // And once more while that is recovered from.
            world.disk.cut_after(survival * 3);
            let _ = world.start();
            cycle(&world, survival);
            world.start().expect("the power is back");
            let answering = world.answering;
            let place = format!("cut {cut}, survival {survival}");
            assert!([Some(v1.digest()), Some(v2.digest())].contains(&answering), "{place}");
            world.desire(2, Some(v2.digest()));
            for _ in 0..5 {
                world.pass(60_000);
            }
            assert_eq!(world.answering, Some(v2.digest()), "{place}: {:?}", world.report());
            points += 1;
        }
    }
    println!("{points} power cuts, each recovered from");
}

fn cycle(world: &World, survival: usize) {
    match survival % 4 {
        0 => world.disk.power_cycle(|_| 0),
        1 => world.disk.power_cycle(|sides| sides - 1),
        2 => world.disk.power_cycle(|sides| sides / 2),
        _ => world.disk.power_cycle(|sides| 1 % sides),
    }
}
