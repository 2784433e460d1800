//! Attacks on updates by somebody who owns the broker, and in some cases has stolen keys as well.
//!
//! In each case nothing of the attacker's runs, the bundle before goes on answering, the agent's memory
//! stays within [`AGENT_BYTES_MAX`], and an event, the device's report or the fleet's count names what
//! happened. A desired state of another device, and what is tampered with in a bundle, are in
//! `refusals.rs`. Keys of the root are not
//! among the stolen ones.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{SystemTime, UNIX_EPOCH},
};

use selvedge_bundle::{
    Bundle, CHUNK_BYTES_MAX, CHUNK_INDEX_BYTES_MAX, CHUNKS_MAX, ChunkIndex,
    PATCH_CONTENT_BYTES_MAX, chunks_of, compress, digest_of,
};
use selvedge_link::Publish;
use selvedge_tests::{
    api::number,
    client::{Client, Heard},
    keys::{FAR_FUTURE, new_key, target, targets_metadata},
    scene::{Scene, own_chunk, variant},
    shuttle,
    stage::{Stage, id, replay, runs, topic_name},
};
use selvedge_trust::{
    Authority, Blob, BundleTarget, DeviceKey, MessageSigner, PatchTarget, Root, SigningKey,
    SystemRandom, UnixMillis, metadata_chunk, sign_document,
};
use selvedge_wire::{
    Batch, Boot, BundleOffer, Chunk, ChunkCodec, Comparison, Desired, Digest, PAYLOAD_BYTES_MAX,
    ProfileOrigin, ProfileRecord, Record, Reported, Running, Sequence, SlotPhase, SlotReport,
    Stored, StoredThrough, Stream, Topic, TrustReport, WindowRange, encode,
};
use serde_json::{Value, json};

/// The most resident memory of an agent with one small model, whatever a broker sends it: 48 MiB for the
/// program without optimisation and the model, 48 MiB for what one patch may take
/// (`PATCH_MEMORY_BYTES_MAX`).
const AGENT_BYTES_MAX: u64 = 96 << 20;

/// What a bomb expands to.
const BOMB_BYTES: usize = 64 << 20;

/// How many messages of the largest size endless data has here.
const ENDLESS_MESSAGES: u64 = 200;

/// The chunks that an index claims to have.
const CHUNKS_CLAIMED: u64 = 1_000_000;

/// How long a timestamp lives here that the attacker lets nobody renew.
const FROZEN_AFTER_S: u64 = 4;

/// An attack on one device.
struct Case {
    device: &'static str,
    attack: fn(&mut Scene<'_>),
    named: Named,
    /// What is said of it.
    words: &'static str,
}

/// Where the attack is named.
enum Named {
    /// In an event of this kind.
    Event(&'static str),
    /// In the device's report about its slot, which has refused the bundle.
    Slot,
}

const CASES: &[Case] = &[
    Case {
        device: "old-metadata",
        attack: replay_old_metadata,
        named: Named::Event("metadata-refused"),
        words: "would replace version",
    },
    Case {
        device: "mixed-snapshot",
        attack: |scene| mix_in(scene, "snapshot"),
        named: Named::Event("metadata-refused"),
        words: "metadata says",
    },
    Case {
        device: "mixed-targets",
        attack: |scene| mix_in(scene, "targets"),
        named: Named::Event("metadata-refused"),
        words: "metadata says",
    },
    Case {
        device: "other-hardware",
        attack: publish_for_another_hardware,
        named: Named::Slot,
        words: "it is for the hardware pdp11",
    },
    Case {
        device: "stolen-publisher",
        attack: sign_with_a_key_of_nobodys,
        named: Named::Event("metadata-refused"),
        words: "0 valid signatures of the role targets",
    },
    Case {
        device: "million-chunks",
        attack: |scene| sign_an_index(scene, CHUNKS_CLAIMED, CHUNKS_MAX as u64),
        named: Named::Slot,
        words: "the chunk index is malformed",
    },
    Case {
        device: "tiny-chunks",
        attack: |scene| sign_an_index(scene, CHUNKS_MAX as u64 + 200, CHUNKS_MAX as u64 + 200),
        named: Named::Slot,
        words: "chunks, more than the limit",
    },
    Case {
        device: "timestamp-bomb",
        attack: |scene| scene.replace(&file("timestamp.json"), encode(&bomb())),
        named: Named::Event("metadata-refused"),
        words: "timestamp.json: it does not expand",
    },
    Case {
        device: "snapshot-bomb",
        attack: bomb_the_snapshot,
        named: Named::Event("metadata-refused"),
        words: "snapshot.json: it does not expand",
    },
    Case {
        device: "chunk-bomb",
        attack: bomb_a_chunk,
        named: Named::Event("input-malformed"),
        words: "it does not expand",
    },
    Case {
        device: "patch-bomb",
        attack: bomb_a_patch,
        named: Named::Event("input-malformed"),
        words: "its chunks are fetched",
    },
    Case {
        device: "endless-metadata",
        attack: send_metadata_without_end,
        named: Named::Event("metadata-refused"),
        words: "timestamp.json: it has",
    },
    Case {
        device: "endless-chunks",
        attack: send_chunks_without_end,
        named: Named::Event("input-malformed"),
        words: "another digest",
    },
];

#[test]
fn an_attacker_who_owns_the_broker_gets_nothing_to_run_and_is_named() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let first = stage.publish(&shuttle::bundle("v1"));
    let mut thief = stage.thief();
    let failures: Vec<&str> = CASES
        .iter()
        .filter(|case| {
            let played = || play(case, &mut stage, &mut thief, first);
            // Every case that fails is named, not the first alone.
            catch_unwind(AssertUnwindSafe(played)).is_err()
        })
        .map(|case| case.device)
        .collect();
    assert_eq!(failures, [] as [&str; 0]);
}

fn play(case: &Case, stage: &mut Stage, thief: &mut Client, first: Digest) {
    let mut scene = Scene::set(stage, thief, case.device, first);
    (case.attack)(&mut scene);
    match case.named {
        Named::Event(kind) => drop(scene.stage.wait_for_event(case.device, kind, case.words)),
        Named::Slot => {
            let seen = scene.stage.wait_for_device(case.device, case.words, |seen| {
                let reason = seen["reported"]["slots"][0]["reason"].as_str();
                reason.is_some_and(|reason| reason.contains(case.words))
            });
            assert_eq!(seen["reported"]["slots"][0]["phase"], "refused");
            scene.stage.wait_for_event(case.device, "bundle-refused", case.words);
        }
    }
    scene.assert_goes_on();
    assert_memory_is_bounded(&scene);
    scene.stage.take_agent(case.device).stop();
}

/// The agent's peak since it started, as a report says it that came after the attack.
fn assert_memory_is_bounded(scene: &Scene<'_>) {
    let before = number(&scene.seen()["health"]["uptime_s"]);
    let seen = scene.stage.wait_for_device(scene.device, "a later report", |seen| {
        seen["health"]["uptime_s"].as_u64() > Some(before)
    });
    let peak = number(&seen["health"]["resident_bytes_peak"]);
    println!("{}: the agent took {} KiB at most", scene.device, peak >> 10);
    assert!(peak <= AGENT_BYTES_MAX, "{peak} bytes are more than {AGENT_BYTES_MAX}");
}

/// A timestamp that the device has left behind.
fn replay_old_metadata(scene: &mut Scene<'_>) {
    let timestamp = file("timestamp.json");
    let old = scene.retained(&timestamp);
    let before = number(&scene.seen()["reported"]["trust"]["timestamp_version"]);
    scene.stage.publish(&bundle_for(scene));
    scene.stage.wait_for_device(scene.device, "the new timestamp", |seen| {
        seen["reported"]["trust"]["timestamp_version"].as_u64() > Some(before)
    });
    scene.replace(&timestamp, old);
}

/// A file of the version before under the name of the new one, beside a new timestamp.
fn mix_in(scene: &mut Scene<'_>, role: &str) {
    let version = version_of(scene, role);
    let old = published(scene, &format!("{version}.{role}.json")).to_string();
    instead_of_the_next(scene, role, |name| payload(name, old.as_bytes()));
}

fn bomb_the_snapshot(scene: &mut Scene<'_>) {
    instead_of_the_next(scene, "snapshot", |_| encode(&bomb()));
}

/// Publishes something, and puts another payload in the place of a role's new file before the device
/// fetches it.
fn instead_of_the_next(scene: &mut Scene<'_>, role: &str, payload: impl FnOnce(&str) -> Vec<u8>) {
    scene.stage.agent(scene.device).pause();
    scene.stage.publish(&bundle_for(scene));
    let name = format!("{}.{role}.json", version_of(scene, role));
    let payload = payload(&name);
    scene.replace(&file(&name), payload);
    scene.stage.agent(scene.device).resume();
}

fn publish_for_another_hardware(scene: &mut Scene<'_>) {
    let bundle = bundle_for(scene);
    let (status, answer) = scene.stage.upload_layout(&bundle);
    assert_eq!(status, 201, "{answer}");
    let target = BundleTarget { hardware_classes: vec!["pdp11".into()], ..target(&bundle) };
    let (status, answer) = scene.stage.add_target(&target, &scene.stage.keys().targets);
    assert_eq!(status, 200, "{answer}");
    scene.stage.assign(scene.device, bundle.digest());
}

/// The attacker has the online keys, and signs for the publisher with a key that no root names.
fn sign_with_a_key_of_nobodys(scene: &mut Scene<'_>) {
    let bundle = bundle_for(scene);
    let targets = with_target(scene, &target(&bundle));
    publish_at_the_broker(scene, &targets, &new_key());
    direct_to(scene, &bundle);
}

/// The attacker has the publisher's key and the online ones: what is signed may be believed, but not that
/// there are so many chunks.
fn sign_an_index(scene: &mut Scene<'_>, claimed: u64, present: u64) {
    let bundle = bundle_for(scene);
    let index = index_of_tiny_chunks(bundle.digest(), claimed, present);
    let target = BundleTarget { chunk_index: blob(&index), ..target(&bundle) };
    let targets = with_target(scene, &target);
    publish_with_stolen_keys(scene, &targets);
    let offer = BundleOffer { index };
    scene.add(&Topic::Bundle(bundle.digest()), encode(&offer));
    direct_to(scene, &bundle);
}

/// A chunk index with one blob, by the field table of the bundle crate's `chunk.rs`.
fn index_of_tiny_chunks(bundle: Digest, claimed: u64, present: u64) -> Vec<u8> {
    let head = [vec![2, 1], bundle.0.to_vec(), varint(claimed), varint(claimed)].concat();
    let chunks = (0..present).flat_map(|n| [digest_of(&n.to_le_bytes()).0.to_vec(), vec![1]]);
    let index = [head, chunks.collect::<Vec<_>>().concat()].concat();
    assert!(index.len() <= CHUNK_INDEX_BYTES_MAX, "it would be refused for its length alone");
    index
}

fn bomb_a_chunk(scene: &mut Scene<'_>) {
    let bundle = bundle_for(scene);
    let (chunk, _) = own_chunk(&bundle, scene.device);
    scene.tamper(&bundle, |scene| scene.replace(&Topic::Chunk(chunk), encode(&bomb())));
}

/// The attacker has the publisher's key and the online ones, and adds a patch to a bundle that is good
/// otherwise. Its chunks lead there all the same.
fn bomb_a_patch(scene: &mut Scene<'_>) {
    let (old, bundle) = (shuttle::bundle("v1"), bundle_for(scene));
    let patch = bomb().bytes;
    assert!(patch.len() <= CHUNK_BYTES_MAX, "it is one piece");
    let index = index_of_patch(&old, &bundle, &patch);
    let named =
        PatchTarget { source: old.digest(), index: blob(&index), len_bytes: patch.len() as u64 };
    scene.tamper(&bundle, |scene| {
        let target = BundleTarget { patches: vec![named], ..target(&bundle) };
        let targets = with_target(scene, &target);
        publish_with_stolen_keys(scene, &targets);
        for bytes in [index, patch] {
            let topic = Topic::Chunk(digest_of(&bytes));
            scene.add(&topic, encode(&Chunk { codec: ChunkCodec::Raw, bytes }));
        }
    });
    scene.stage.wait_until_runs(scene.device, bundle.digest());
    scene.answering = bundle.digest();
}

/// The index of a patch in one piece, by the field table of the bundle crate's `patch`.
fn index_of_patch(old: &Bundle, new: &Bundle, patch: &[u8]) -> Vec<u8> {
    let indexes = [old, new].map(|bundle| ChunkIndex::of(bundle).expect("it is not too large"));
    let [old_blobs, new_blobs] = indexes.each_ref().map(ChunkIndex::blobs);
    let is_kept = |digest| new_blobs.iter().any(|blob| blob.digest == digest);
    let kept =
        old_blobs.iter().zip(0..).map(|(blob, place)| u64::from(is_kept(blob.digest)) << place);
    let source = old_blobs.iter().filter(|blob| !is_kept(blob.digest)).map(|blob| blob.len_bytes);
    let source_bytes = source.sum();
    let parts: [Vec<u8>; 8] = [
        vec![1],
        varint(0),
        varint(kept.sum()),
        varint(source_bytes),
        varint(PATCH_CONTENT_BYTES_MAX),
        varint(1),
        digest_of(patch).0.to_vec(),
        varint(patch.len() as u64),
    ];
    parts.concat()
}

fn send_metadata_without_end(scene: &mut Scene<'_>) {
    let topic = file("timestamp.json");
    send_without_end(scene, &topic, PAYLOAD_BYTES_MAX - 16);
}

fn send_chunks_without_end(scene: &mut Scene<'_>) {
    let bundle = bundle_for(scene);
    let (chunk, content) = own_chunk(&bundle, scene.device);
    let topic = Topic::Chunk(chunk);
    // The device waits for it, as long as it is not there.
    scene.tamper(&bundle, |scene| scene.replace(&topic, Vec::new()));
    scene.stage.wait_for_device(scene.device, "a device that waits for one chunk", |seen| {
        let slot = &seen["reported"]["slots"][0];
        let [present, total] = ["chunks_present", "chunks_total"].map(|key| slot[key].as_u64());
        total > Some(0) && present.map(|present| present + 1) == total
    });
    send_without_end(scene, &topic, content.len());
}

/// Sends other content of the same length again and again, all of which the device receives.
fn send_without_end(scene: &Scene<'_>, topic: &Topic, len_bytes: usize) {
    let received = |seen: &Value| number(&seen["health"]["received_bytes"]);
    let before = received(&scene.seen());
    for n in 0..ENDLESS_MESSAGES {
        let bytes = n.to_le_bytes().into_iter().cycle().take(len_bytes).collect();
        let chunk = Chunk { codec: ChunkCodec::Raw, bytes };
        scene.thief.plant(Publish::new(topic_name(topic), encode(&chunk)));
    }
    let sent = ENDLESS_MESSAGES * len_bytes as u64;
    scene.stage.wait_for_device(scene.device, "all of it received", |seen| {
        received(seen) >= before + sent
    });
}

#[test]
fn metadata_that_nobody_renews_freezes_a_device_which_says_so_by_itself() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let [first, second] = ["v1", "v2"].map(|version| stage.publish(&shuttle::bundle(version)));
    let mut thief = stage.thief();
    let scene = Scene::set(&mut stage, &mut thief, "line-1", first);
    // Timestamps of the fleet live for days. The last that the attacker lets through lives for seconds.
    let renewed = |ahead: u64, expires: UnixMillis| {
        let mut signed = published(&scene, "timestamp.json")["signed"].clone();
        signed["version"] = json!(number(&signed["version"]) + ahead);
        signed["expires"] = json!(expires);
        let timestamp = sign_document(&signed, &[&scene.stage.keys().director]);
        scene.plant(&file("timestamp.json"), payload("timestamp.json", &timestamp));
    };
    renewed(1, now().plus_seconds(FROZEN_AFTER_S));
    scene.stage.wait_for_event("line-1", "frozen", "nothing newer came");
    scene.stage.wait_for_device("line-1", "a report that it is frozen", |seen| {
        seen["reported"]["trust"]["frozen"] == true
    });
    scene.stage.assign("line-1", second);
    scene.stage.wait_for_device("line-1", "the reason why it waits", |seen| {
        let reason = seen["reported"]["slots"][0]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("metadata expired at"))
    });
    scene.assert_goes_on();
    assert_memory_is_bounded(&scene);

    renewed(2, FAR_FUTURE);
    scene.stage.wait_for_event("line-1", "thawed", "is good until");
    scene.stage.wait_until_runs("line-1", second);
}

#[test]
fn a_bundle_signed_by_a_key_that_the_root_revoked_is_refused_by_the_fleet_and_by_devices() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let first = stage.publish(&shuttle::bundle("v1"));
    let mut thief = stage.thief();
    let mut scene = Scene::set(&mut stage, &mut thief, "line-1", first);
    rotate_the_publisher(&scene, &new_key());
    scene.stage.wait_for_device("line-1", "the new root", |seen| {
        seen["reported"]["trust"]["root_version"].as_u64() == Some(2)
    });

    let bundle = bundle_for(&scene);
    let (status, answer) = scene.stage.add_target(&target(&bundle), &scene.stage.keys().targets);
    assert_eq!(status, 400, "{answer}");
    let targets = with_target(&scene, &target(&bundle));
    publish_with_stolen_keys(&mut scene, &targets);
    for (chunk, content) in chunks_of(&bundle) {
        scene.plant_chunk(chunk.digest, content);
    }
    direct_to(&mut scene, &bundle);
    let reason = "valid signatures of the role targets";
    scene.stage.wait_for_event("line-1", "metadata-refused", reason);
    scene.assert_goes_on();
    assert_memory_is_bounded(&scene);
}

/// Publishes a root that gives the targets role to `key`, and the targets metadata signed by it.
fn rotate_the_publisher(scene: &Scene<'_>, key: &SigningKey) {
    let keys = scene.stage.keys();
    let one = |key: &SigningKey| Authority::one(key.public_key().clone());
    let root = Root::new(2, FAR_FUTURE, &one(&keys.root), &one(key), &one(&keys.director));
    let version = version_of(scene, "targets");
    let mut targets = published(scene, &format!("{version}.targets.json"))["signed"].clone();
    targets["version"] = json!(version + 1);
    let text = |document: Vec<u8>| String::from_utf8(document).expect("JSON is UTF-8");
    let proposal = json!({
        "roots": [text(root.sign(&[&keys.root]))],
        "targets": { "targets": text(sign_document(&targets, &[key])) },
    });
    match scene.stage.api().call("POST", "/api/v1/repository", Some(&proposal)) {
        Some((200, _)) => {}
        other => panic!("the rotation: {other:?}"),
    }
}

#[test]
fn what_others_say_in_a_devices_name_is_counted_and_named_and_changes_nothing() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let [first, second] = ["v1", "v2"].map(|version| stage.publish(&shuttle::bundle(version)));
    let mut thief = stage.thief();
    stage.add_device("line-2");
    let windows = format!("{}[profile]\nwindow_s = 1\n", replay(&shuttle::replay_file(), 20, true));
    stage.add_agent("line-1", &windows);
    stage.deploy("line-1", first);
    let state = topic_name(&Topic::State(id("line-1")));
    let early_state = thief.retained(&state);
    let profiles = topic_name(&Topic::Stream(id("line-1"), Stream::Profiles));
    thief.subscribe(&profiles);
    let early_profiles = thief.wait_for("profiles", |heard| match heard {
        Heard::Message { topic, payload } if topic == profiles => Some(payload),
        _ => None,
    });
    stage.deploy("line-1", second);

    let stranger = DeviceKey::generate(&SystemRandom::new()).expect("the system has random bytes");
    let foreign = stage.device_key("line-2");
    let mut forged = 0;
    for (topic, body) in [(&state, claim()), (&profiles, invented_profiles())] {
        for key in [&stranger, &foreign] {
            let signed = key.sign_message(topic, body.clone());
            thief.plant(Publish::new(topic.clone(), encode(&signed)));
            forged += 1;
        }
        // What the attacker's own device may say under its own name.
        let own = topic.replace("line-1", "line-2");
        let signed = foreign.sign_message(&own, body);
        thief.plant(Publish::new(topic.clone(), encode(&signed)));
        forged += 1;
    }
    thief.plant(Publish::new(state, early_state));
    thief.plant(Publish::new(profiles, early_profiles));

    let count = |seen: &Value, kind: &str| {
        let kinds = seen["disbelieved"].as_array().expect("it is a list");
        let found = kinds.iter().find(|one| one["kind"] == kind);
        found.map_or(0, |found| number(&found["count"]))
    };
    let seen = stage.wait_for_device("line-1", "all of it counted", |seen| {
        count(seen, "forged") == forged && count(seen, "replayed") == 1
    });
    assert!(runs(&seen, second), "{:#}", seen["reported"]);
    assert_eq!(seen["reported"]["slots"][0]["phase"], "settled");
    stage.wait_for_event("line-1", "forged", "is not signed by its key");
    stage.wait_for_event("line-1", "replayed", "changes nothing");
    let fleet = stage.api().get("/api/v1/fleet");
    assert_eq!(number(&fleet["records_conflicting"]), 0);
    let disbelieved = fleet["disbelieved"].as_array().expect("it is a list");
    assert!(disbelieved.iter().all(|one| one["device"] == "line-1"), "{disbelieved:?}");

    let rows = stage.api().rows("line-1", "profiles");
    let mut sequences: Vec<u64> = rows.iter().map(|row| number(&row["sequence"])).collect();
    sequences.sort_unstable();
    let stored = sequences.len();
    sequences.dedup();
    assert_eq!(sequences.len(), stored, "no profile is stored twice");
    assert!(rows.iter().all(|row| row["boot"] == 1), "none is invented");
}

/// What a device would say that runs something else.
fn claim() -> Vec<u8> {
    let digest = Digest([7; Digest::BYTES]);
    let slot = SlotReport {
        slot: "main".parse().expect("the name is well formed"),
        phase: SlotPhase::Settled,
        running: Some(Running { bundle: digest, name: "thief".into(), version: "9.9.9".into() }),
        desired: Some(digest),
        reason: None,
        comparison: Some(Comparison::default()),
        drift: None,
        site: None,
    };
    let trust = TrustReport::default();
    encode(&Reported { boot: Boot(9), revision: 9, generation: 9, trust, slots: vec![slot] })
}

fn invented_profiles() -> Vec<u8> {
    let slot = "main".parse().expect("the name is well formed");
    let record = ProfileRecord {
        origin: ProfileOrigin::Model { slot, bundle: Digest([7; Digest::BYTES]) },
        windows: WindowRange { first: 0, last: 0 },
        opened_ms: 1,
        closed_ms: 2,
        profile: vec![1, 2, 3],
    };
    encode(&Batch { boot: Boot(9), first: Sequence(1), records: vec![Record::One(record)] })
}

#[test]
fn on_a_forged_word_that_all_is_stored_a_device_forgets_nothing() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let first = stage.publish(&shuttle::bundle("v1"));
    let mut thief = stage.thief();
    Scene::set(&mut stage, &mut thief, "line-1", first);
    // Nothing is stored from here on, so whatever is forgotten would be missing.
    stage.kill_fleet();
    let streams = Stream::ALL.map(|stream| StoredThrough {
        boot: Boot(1),
        stream,
        through: Sequence(1_000_000),
    });
    let body = encode(&Stored { streams: streams.to_vec() });
    let [topic, other] = ["line-1", "line-2"].map(|device| Topic::Stored(id(device)));
    let foreign = stage.said_by_fleet(&other, body.clone()).payload;
    let forged = encode(&new_key().sign_message(&topic_name(&topic), body));
    for payload in [forged, foreign] {
        thief.plant(Publish::retained(topic_name(&topic), payload));
    }
    stage.wait_for_agent_to_say("line-1", "is not signed by the director", 1);
    stage.start_fleet();

    stage.wait_for_event("line-1", "fleet-disbelieved", "is not signed by the director");
    let stored = number(&stage.stream("line-1", 1, "results")["records"]);
    stage.wait_for_results("line-1", 1, stored + 50);
    for name in ["results", "events"] {
        let stream = stage.wait_for_stream("line-1", 1, name, |stream| stream["missing"] == 0);
        assert_eq!((number(&stream["dropped"]), number(&stream["conflicting"])), (0, 0));
    }
    assert_eq!(stage.api().get("/api/v1/devices/line-1")["boot"], 1, "no later boot takes over");
}

/// A bundle that only this case has.
fn bundle_for(scene: &Scene<'_>) -> Bundle {
    variant(scene.device).build().expect("it is well formed")
}

/// The director's key is stolen: the device is told to run something that the fleet does not know of.
fn direct_to(scene: &mut Scene<'_>, bundle: &Bundle) {
    let document = scene.stage.keys().desired(scene.device, 2, bundle);
    scene.plant_desired(encode(&Desired { document }));
}

/// The targets metadata that comes next, with a target more.
fn with_target(scene: &Scene<'_>, target: &BundleTarget) -> Value {
    let version = version_of(scene, "targets");
    let document = published(scene, &format!("{version}.targets.json"));
    let entries = document["signed"]["targets"].clone();
    let mut entries: std::collections::BTreeMap<String, Value> =
        serde_json::from_value(entries).expect("they are a map");
    entries.insert(target.path(), target.to_entry());
    targets_metadata(version + 1, &entries)
}

/// The keys of the publisher, which the fleet of the tests began with, and of the director are stolen.
fn publish_with_stolen_keys(scene: &mut Scene<'_>, targets: &Value) {
    let key = SigningKey::from_pkcs8(scene.stage.keys().targets.to_pkcs8()).expect("it is a key");
    publish_at_the_broker(scene, targets, &key);
}

/// Signs targets metadata with `key`, and a snapshot and a timestamp over it with the director's, and
/// puts them all at the broker, behind the fleet's back.
fn publish_at_the_broker(scene: &mut Scene<'_>, targets: &Value, key: &SigningKey) {
    let version = version_of(scene, "snapshot");
    let mut snapshot = published(scene, &format!("{version}.snapshot.json"))["signed"].clone();
    let mut timestamp = published(scene, "timestamp.json")["signed"].clone();
    let targets_version = number(&targets["version"]);
    let targets = sign_document(targets, &[key]);
    let director = &scene.stage.keys().director;
    snapshot["version"] = json!(version + 1);
    snapshot["meta"]["targets.json"] = described(targets_version, &targets);
    let snapshot = sign_document(&snapshot, &[director]);
    timestamp["version"] = json!(number(&timestamp["version"]) + 1);
    timestamp["meta"]["snapshot.json"] = described(version + 1, &snapshot);
    let timestamp = sign_document(&timestamp, &[director]);
    let names =
        [format!("{targets_version}.targets.json"), format!("{}.snapshot.json", version + 1)];
    for (name, document) in names.iter().zip([targets, snapshot]) {
        scene.add(&file(name), payload(name, &document));
    }
    scene.replace(&file("timestamp.json"), payload("timestamp.json", &timestamp));
}

fn described(version: u64, bytes: &[u8]) -> Value {
    let sha256 = digest_of(bytes).hex().to_string();
    json!({ "version": version, "length": bytes.len(), "hashes": { "sha256": sha256 } })
}

/// A file of the repository as the fleet has it.
fn published(scene: &Scene<'_>, name: &str) -> Value {
    scene.stage.api().get(&format!("/tuf/{name}"))
}

/// The version of `targets` or `snapshot` that the fleet has.
fn version_of(scene: &Scene<'_>, role: &str) -> u64 {
    let repository = scene.stage.api().get("/api/v1/repository");
    if role == "snapshot" {
        return number(&repository["snapshot_version"]);
    }
    let roles = repository["targets"].as_array().expect("it lists roles");
    let found = roles.iter().find(|one| one["role"] == role).expect("there is the role");
    number(&found["version"])
}

fn file(name: &str) -> Topic {
    Topic::Metadata(name.parse().expect("the name is well formed"))
}

/// A file of the repository as the broker keeps it.
fn payload(name: &str, bytes: &[u8]) -> Vec<u8> {
    encode(&metadata_chunk(name, bytes).expect("it fits into a message"))
}

fn blob(bytes: &[u8]) -> Blob {
    Blob { digest: digest_of(bytes), len_bytes: bytes.len() as u64 }
}

/// A message that expands to far more than fits anywhere.
fn bomb() -> Chunk {
    let bomb = compress(&vec![0; BOMB_BYTES]);
    assert_eq!(bomb.codec, ChunkCodec::Zstd);
    assert!(encode(&bomb).len() < PAYLOAD_BYTES_MAX, "it would be delivered");
    bomb
}

/// LEB128, as postcard writes numbers.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn now() -> UnixMillis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    UnixMillis(now.as_millis() as u64)
}
