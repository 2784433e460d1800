//! A device, and a broker that retains what a small fleet has published.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

use selvedge_bundle::{
    BundleBuilder, ChunkIndex, Golden, Manifest, NamedTensor, Patch, TensorData, chunks_of,
    compress,
};
use selvedge_runtime::{Answer, Sample};
use selvedge_trust::{
    Authority, Expiry, PatchTarget, Proposal, RepositoryState, Role, RoleName, Root, RootDraft,
    RootEdit, SigningKey, SystemRandom, TargetsDraft, TargetsEdit, metadata_chunk,
};
use selvedge_wire::{ChunkCodec, Comparison, DriftState, DriftStatus, encode};

use super::super::*;
use crate::{disk::simulated::SimulatedDisk, inference::Answerer};

pub(super) const NOW_MS: u64 = 1_795_194_480_000;
/// The probation of the tests' bundles.
pub(super) const PROBATION_MS: u64 = 10_000;
pub(super) const PROBATION_INFERENCES: u64 = 10;

pub(super) fn slot() -> SlotName {
    "main".parse().expect("the name is well formed")
}

pub(super) fn device() -> DeviceId {
    "line-1".parse().expect("the name is well formed")
}

pub(super) fn new_key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).expect("the system has random bytes")
}

/// Bytes without a pattern, the same in every run.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
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
pub(super) fn bundle(version: &str, model: Vec<u8>) -> Bundle {
    let manifest = serde_json::json!({
        "name": "example", "version": version, "task": "tabular-classification",
        "description": "An example.", "license": "CC0-1.0",
        "sample": {"kind": "row", "columns": [{"name": "a"}]},
        "inputs": [{"name": "x", "axes": ["batch", "f"], "shape": [-1, 1], "dtype": "f32"}],
        "outputs": [{"name": "y", "axes": ["batch", "class"], "shape": [-1, 1], "dtype": "i8"}],
        "golden": {"origin": "user", "framework": "by hand", "tolerance": {"y": 0}},
        "update": {
            "probation_s": PROBATION_MS / 1000, "probation_inferences": PROBATION_INFERENCES,
        },
    });
    let manifest = Manifest::from_json(manifest.to_string().as_bytes()).expect("it is sound");
    let tensor = |name, data| NamedTensor::new(name, vec![1, 1], data).expect("shapes agree");
    let inputs = vec![tensor("x", TensorData::F32(vec![0.5]))];
    let outputs = vec![tensor("y", TensorData::I8(vec![1]))];
    let golden = Golden::new(&manifest, inputs, outputs).expect("as the manifest says");
    let builder =
        BundleBuilder { manifest, model, program: None, baseline: None, golden, card: None };
    builder.build().expect("the example is sound")
}

pub(super) fn v1() -> Bundle {
    bundle("1.0.0", noise(400_000, 1))
}

pub(super) fn v2() -> Bundle {
    let mut model = noise(400_000, 1);
    model[200_000..200_004].copy_from_slice(&[1, 2, 3, 4]);
    bundle("2.0.0", model)
}

pub(super) fn path_of(bundle: &Bundle) -> String {
    format!("{}/{}", bundle.manifest().name, bundle.manifest().version)
}

pub(super) fn target_of(bundle: &Bundle) -> BundleTarget {
    target_with(bundle, &ChunkIndex::of(bundle).expect("the bundle is small"))
}

pub(super) fn target_with(bundle: &Bundle, index: &ChunkIndex) -> BundleTarget {
    let index = index.encode();
    let manifest = bundle.manifest();
    BundleTarget {
        name: manifest.name.to_string(),
        version: manifest.version.to_string(),
        manifest: Blob { digest: bundle.digest(), len_bytes: bundle.manifest_len() },
        chunk_index: Blob { digest: digest_of(&index), len_bytes: index.len() as u64 },
        hardware_classes: vec!["*".into()],
        patches: Vec::new(),
        signature: None,
    }
}

pub(super) struct Keys {
    pub(super) root: SigningKey,
    pub(super) targets: SigningKey,
    pub(super) director: SigningKey,
}

struct Nothing;

impl Answerer for Nothing {
    fn answer(&self, _: &Sample) -> Result<Answer, String> {
        Err("this model is made of noise".into())
    }

    fn features(&self, _: &Sample, _: &mut Vec<f32>) {}
}

type Digests = Arc<Mutex<BTreeSet<Digest>>>;

/// Loads anything but what its list forbids.
fn loader(unfit: Digests) -> LoadModel {
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
            classes: Vec::new(),
            baseline: None,
            embedding: None,
            answerer: Box::new(Nothing),
        })
    })
}

pub(super) struct World {
    pub(super) keys: Arc<Keys>,
    pub(super) configured_root: Vec<u8>,
    pub(super) repository: RepositoryState,
    pub(super) disk: Arc<SimulatedDisk>,
    pub(super) limits: BundleLimits,
    pub(super) unfit: Digests,
    /// Why a trial fails.
    pub(super) trials: BTreeMap<Digest, String>,
    pub(super) updates: Option<Updates>,
    pub(super) retained: BTreeMap<String, Vec<u8>>,
    pub(super) subscribed: Vec<Topic>,
    pub(super) answering: Option<Digest>,
    /// What answered before anything else could happen.
    pub(super) answering_at_start: Option<Digest>,
    pub(super) in_shadow: Option<Digest>,
    pub(super) watching: bool,
    /// What windows are compared with, beside the bundle's reference.
    pub(super) site: Option<Digest>,
    pub(super) trusted: Option<u64>,
    pub(super) reported: Option<Reported>,
    pub(super) reports: usize,
    pub(super) events: Vec<Event>,
    pub(super) malformed: usize,
    pub(super) requested: Vec<Digest>,
    pub(super) subscriptions: usize,
    pub(super) tried: Vec<Digest>,
    pub(super) ended_cleanly: bool,
    pub(super) now: Now,
    /// The fleet's clock.
    pub(super) fleet_ms: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let keys = Keys { root: new_key(), targets: new_key(), director: new_key() };
        let one = |key: &SigningKey| Authority::one(key.public_key().clone());
        let expires = UnixMillis(NOW_MS).plus_seconds(365 * 86_400);
        let root =
            Root::new(1, expires, &one(&keys.root), &one(&keys.targets), &one(&keys.director));
        let root = root.sign(&[&keys.root]);
        let mut world = Self {
            repository: RepositoryState::begin(&root).expect("the root is sound"),
            configured_root: root,
            keys: Arc::new(keys),
            disk: Arc::new(SimulatedDisk::new()),
            limits: BundleLimits { bundle_bytes_max: 1 << 20, bundles_bytes_max: 1 << 22 },
            unfit: Arc::default(),
            trials: BTreeMap::new(),
            updates: None,
            retained: BTreeMap::new(),
            subscribed: Vec::new(),
            answering: None,
            answering_at_start: None,
            in_shadow: None,
            watching: false,
            site: None,
            trusted: None,
            reported: None,
            reports: 0,
            events: Vec::new(),
            malformed: 0,
            requested: Vec::new(),
            subscriptions: 0,
            tried: Vec::new(),
            ended_cleanly: true,
            now: Now { unix_ms: NOW_MS, elapsed_ms: 0 },
            fleet_ms: NOW_MS,
        };
        let mut targets = TargetsDraft::empty(UnixMillis(NOW_MS).plus_seconds(30 * 86_400));
        targets.sign(&world.keys.targets);
        world.propose_targets("targets", targets);
        world.start().expect("the disk works");
        world
    }

    /// The same world beside this one, with a device that has yet to start.
    pub(super) fn fork(&self) -> Self {
        Self {
            keys: self.keys.clone(),
            configured_root: self.configured_root.clone(),
            repository: self.repository.clone(),
            disk: Arc::new(self.disk.fork()),
            unfit: self.unfit.clone(),
            trials: self.trials.clone(),
            updates: None,
            retained: self.retained.clone(),
            subscribed: Vec::new(),
            reported: None,
            events: Vec::new(),
            requested: Vec::new(),
            tried: Vec::new(),
            ..*self
        }
    }

    /// A new run on what the disk has.
    pub(super) fn start(&mut self) -> Result<(), StartError> {
        self.updates = None;
        self.answering = None;
        self.in_shadow = None;
        self.watching = false;
        self.site = None;
        self.subscribed.clear();
        self.requested.clear();
        let identity = Identity {
            device: device(),
            fleet: "demo".parse().expect("the name is well formed"),
            hardware_class: "aarch64".into(),
            root: self.configured_root.clone(),
            boot: Boot(1),
        };
        let (disk, load) = (self.disk.clone(), loader(self.unfit.clone()));
        let previous_run = PreviousRun { ended_cleanly: self.ended_cleanly };
        let (updates, effects) =
            Updates::start(identity, disk, self.limits, load, previous_run, self.now)?;
        self.updates = Some(updates);
        self.answering_at_start = effects.iter().find_map(|effect| match effect {
            Effect::Swap { model: Some(model), .. } => Some(model.running.bundle),
            _ => None,
        });
        self.apply(effects);
        Ok(())
    }

    pub(super) fn updates(&mut self) -> &mut Updates {
        self.updates.as_mut().expect("the device runs")
    }

    /// Does what is asked for, as a broker, a worker and a trial would, until nothing more is.
    pub(super) fn apply(&mut self, effects: Vec<Effect>) {
        let now = self.now;
        let mut waiting = VecDeque::from(effects);
        while let Some(effect) = waiting.pop_front() {
            match effect {
                Effect::Subscribe(topic) => {
                    self.subscriptions += 1;
                    self.subscribed.push(topic.clone());
                    if let Topic::Chunk(chunk) = topic {
                        self.requested.push(chunk);
                    }
                    if let Some(payload) = self.retained.get(&topic.to_string()).cloned() {
                        waiting.extend(self.updates().receive(&topic, &payload, now));
                    }
                }
                Effect::Unsubscribe(topic) => {
                    let place = self.subscribed.iter().position(|known| *known == topic);
                    self.subscribed.remove(place.expect("it was subscribed to"));
                }
                Effect::Trust(root) => self.trusted = Some(root.root().version()),
                Effect::Try { slot, bundle, .. } => {
                    self.tried.push(bundle);
                    let outcome = self.trials.get(&bundle).map_or(Ok(()), |it| Err(it.clone()));
                    waiting.extend(self.updates().tried(&slot, bundle, outcome, now));
                }
                Effect::Shadow { model, .. } => {
                    self.in_shadow = model.map(|model| model.running.bundle);
                }
                Effect::Watch { on, .. } => self.watching = on,
                Effect::Swap { slot, model } => {
                    let running = model.map(|model| model.running);
                    self.answering = running.as_ref().map(|running| running.bundle);
                    waiting.extend(self.updates().swapped(&slot, running, now));
                }
                Effect::Site { site, .. } => {
                    self.site = site.map(|wanted| wanted.site.digest());
                }
                Effect::Tell(event) => self.events.push(event),
                Effect::Report(reported) => {
                    self.reports += 1;
                    self.reported = Some(reported);
                }
                Effect::Malformed { .. } => self.malformed += 1,
            }
        }
    }

    pub(super) fn receive(&mut self, topic: &Topic, payload: &[u8]) {
        let now = self.now;
        let effects = self.updates().receive(topic, payload, now);
        self.apply(effects);
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now.elapsed_ms += ms;
        let now = self.now;
        let effects = self.updates().tick(now);
        self.apply(effects);
    }

    pub(super) fn observe(&mut self, bundle: &Bundle, observation: Observation) {
        let now = self.now;
        let effects = self.updates().observed(&slot(), bundle.digest(), observation, now);
        self.apply(effects);
    }

    /// The detectors of a bundle say something.
    pub(super) fn judge(&mut self, bundle: &Bundle, state: DriftState) {
        let drift = DriftStatus { state, uncalibrated: false, streams: Vec::new() };
        let judged = Judged { drift: Some(drift), site: None };
        let now = self.now;
        let effects = self.updates().judged(&slot(), bundle.digest(), judged, now);
        self.apply(effects);
    }

    /// A bundle that answers well stands its probation.
    pub(super) fn confirm(&mut self, bundle: &Bundle) {
        self.pass(PROBATION_MS);
        self.observe(bundle, seen(PROBATION_INFERENCES, 0));
    }

    /// Lets the device know of the newest timestamp.
    pub(super) fn deliver_timestamp(&mut self) {
        let topic = Topic::Metadata("timestamp.json".parse().expect("the name is well formed"));
        let payload = self.retained[&topic.to_string()].clone();
        self.receive(&topic, &payload);
    }

    pub(super) fn propose(&mut self, proposal: &Proposal) {
        let now = UnixMillis(self.fleet_ms);
        let online = [&self.keys.director];
        let accepted = self.repository.propose(proposal, &online, now, &Expiry::default());
        let accepted = accepted.expect("the proposal is sound");
        self.publish_files(&accepted);
    }

    pub(super) fn publish_files(&mut self, accepted: &selvedge_trust::Accepted) {
        self.repository = self.repository.apply(accepted).expect("it was accepted");
        for (name, bytes) in &accepted.files {
            let file = name.parse().expect("the name is well formed");
            let chunk = metadata_chunk(name, bytes).expect("the file is small");
            self.retained.insert(Topic::Metadata(file).to_string(), encode(&chunk));
        }
    }

    /// Signs the timestamp anew, as the fleet does every day.
    pub(super) fn resign(&mut self) {
        let now = UnixMillis(self.fleet_ms);
        let resigned = self.repository.resign(&[&self.keys.director], now, &Expiry::default());
        let accepted = resigned.expect("the key is the right one").expect("it is due");
        self.publish_files(&accepted);
    }

    pub(super) fn propose_targets(&mut self, role: &str, draft: TargetsDraft) {
        let document = String::from_utf8(draft.to_bytes()).expect("JSON is text");
        let targets = BTreeMap::from([(role.to_owned(), document)]);
        self.propose(&Proposal { roots: Vec::new(), targets });
    }

    pub(super) fn edit_targets(&mut self, edits: &[TargetsEdit]) {
        let current = self.repository.document(&RoleName::targets()).expect("there are targets");
        let mut draft = TargetsDraft::after(current, edits).expect("the edits fit");
        draft.sign(&self.keys.targets);
        self.propose_targets("targets", draft);
    }

    /// A new root; its signers are the old root key and whoever else is given.
    pub(super) fn edit_root(&mut self, edits: &[RootEdit], more: &[&SigningKey]) {
        let current = self.repository.document(&RoleName::root()).expect("there is a root");
        let mut draft = RootDraft::after(current, edits).expect("the edits fit");
        draft.sign(&self.keys.root);
        more.iter().for_each(|key| draft.sign(key));
        let roots = vec![String::from_utf8(draft.to_bytes()).expect("JSON is text")];
        self.propose(&Proposal { roots, targets: BTreeMap::new() });
    }

    /// Another director, who also holds snapshot and timestamp, takes the place of the one before.
    pub(super) fn replace_director(&mut self) {
        let director = new_key();
        let edits = [
            RootEdit::Add(Role::Director, director.public_key().clone()),
            RootEdit::Revoke(Role::Director, self.keys.director.public_key().id()),
        ];
        let copy = |key: &SigningKey| {
            SigningKey::from_pkcs8(key.to_pkcs8()).expect("it was written by the key")
        };
        let (root, targets) = (copy(&self.keys.root), copy(&self.keys.targets));
        self.keys = Arc::new(Keys { root, targets, director });
        self.edit_root(&edits, &[]);
    }

    /// Publishes a bundle that is whole and right, and lets the device know.
    pub(super) fn publish(&mut self, bundle: &Bundle) {
        self.publish_as(bundle, target_of(bundle));
    }

    pub(super) fn publish_as(&mut self, bundle: &Bundle, target: BundleTarget) {
        self.publish_bytes(bundle);
        self.edit_targets(&[TargetsEdit::Add(target)]);
        self.deliver_timestamp();
    }

    /// Publishes the content of a bundle, of which the repository says nothing yet.
    pub(super) fn publish_bytes(&mut self, bundle: &Bundle) {
        let index = ChunkIndex::of(bundle).expect("the bundle is small").encode();
        self.publish_offer(bundle, BundleOffer { index });
        for (chunk, content) in chunks_of(bundle) {
            let topic = Topic::Chunk(chunk.digest).to_string();
            self.retained.insert(topic, encode(&compress(content)));
        }
    }

    pub(super) fn publish_offer(&mut self, bundle: &Bundle, offer: BundleOffer) {
        self.retained.insert(Topic::Bundle(bundle.digest()).to_string(), encode(&offer));
    }

    /// Publishes a bundle with a patch from another, and lets the device know.
    pub(super) fn publish_patched(&mut self, old: &Bundle, new: &Bundle) -> Patch {
        let patch = self.put_patched(old, new);
        self.deliver_timestamp();
        patch
    }

    /// The same, of which the device does not know yet.
    pub(super) fn put_patched(&mut self, old: &Bundle, new: &Bundle) -> Patch {
        let patch = Patch::make(old, new).expect("zstd works").expect("a patch is shorter");
        let index = patch.index().encode();
        self.publish_bytes(new);
        for content in patch.pieces().map(|(_, content)| content).chain([index.as_slice()]) {
            let chunk = Chunk { codec: ChunkCodec::Raw, bytes: content.to_vec() };
            self.retained.insert(Topic::Chunk(digest_of(content)).to_string(), encode(&chunk));
        }
        let target = PatchTarget {
            source: old.digest(),
            index: Blob { digest: digest_of(&index), len_bytes: index.len() as u64 },
            len_bytes: patch.index().len_bytes(),
        };
        let target = BundleTarget { patches: vec![target], ..target_of(new) };
        self.edit_targets(&[TargetsEdit::Add(target)]);
        patch
    }

    pub(super) fn desired_slot(bundle: &Bundle) -> DesiredSlot {
        DesiredSlot {
            target: path_of(bundle),
            bundle: bundle.digest(),
            shadow_samples: 0,
            allow_downgrade: false,
            site: None,
        }
    }

    pub(super) fn desired(&self, generation: u64, wanted: Option<DesiredSlot>) -> DesiredState {
        DesiredState {
            device: device(),
            fleet: "demo".parse().expect("the name is well formed"),
            generation,
            issued: UnixMillis(self.fleet_ms),
            expires: UnixMillis(self.fleet_ms).plus_seconds(3600),
            slots: wanted.map(|wanted| (slot(), wanted)).into_iter().collect(),
        }
    }

    pub(super) fn desire(&mut self, generation: u64, bundle: &Bundle) {
        self.desire_slot(generation, Self::desired_slot(bundle));
    }

    pub(super) fn desire_slot(&mut self, generation: u64, wanted: DesiredSlot) {
        let document = self.desired(generation, Some(wanted)).sign(&self.keys.director);
        self.receive_desired(document);
    }

    pub(super) fn receive_desired(&mut self, document: Vec<u8>) {
        self.receive(&Topic::Desired(device()), &encode(&Desired { document }));
    }

    /// Publishes, desires and confirms a bundle.
    pub(super) fn install(&mut self, generation: u64, bundle: &Bundle) {
        self.publish(bundle);
        self.desire(generation, bundle);
        self.confirm(bundle);
        assert_eq!(self.report().phase, SlotPhase::Settled, "{:?}", self.report());
        assert_eq!(self.answering, Some(bundle.digest()));
    }

    pub(super) fn report(&self) -> &SlotReport {
        let reported = self.reported.as_ref().expect("something was reported");
        reported.slots.first().expect("the slot is reported")
    }

    pub(super) fn trust(&self) -> TrustReport {
        self.reported.as_ref().expect("something was reported").trust
    }

    pub(super) fn reason(&self) -> String {
        self.report().reason.clone().unwrap_or_default()
    }

    pub(super) fn event_kinds(&self) -> Vec<EventKind> {
        self.events.iter().map(|event| event.kind).collect()
    }
}

pub(super) fn seen(samples: u64, failed: u64) -> Observation {
    let comparison = Comparison { samples, failed, ..Comparison::default() };
    Observation { comparison, ..Observation::default() }
}
