//! Writes the seeds of the fuzz targets, made of genuine documents: `cargo run --example seeds`.

use std::{collections::BTreeMap, fs, path::Path};

use selvedge_trust::{
    Blob, BundleTarget, DesiredSlot, DesiredState, MessageSigner, PatchTarget, UnixMillis,
};
use selvedge_trust_fuzz::{NOW, TARGET_PATH, expires, header, key, root, to_sign};
use selvedge_wire::{Digest, encode, topic_root};
use serde_json::{Value, json};

/// The newest wire version's golden bytes.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/golden/v2");
const PYTHON_ROOT: &[u8] = include_bytes!("../../testdata/root_of_all_key_kinds.json");

fn main() {
    metadata();
    desired_state();
    signed_message();
}

fn metadata() {
    let write = |name: &str, documents: &[Vec<u8>]| write("metadata", name, &documents.join(&0));
    let none = Vec::new;
    let (timestamp, snapshot) = (timestamp(1, 1, 1), snapshot(1, json!({})));
    let targets = targets(1, json!({ TARGET_PATH: entry() }));
    let everything = [none(), none(), timestamp.clone(), snapshot.clone(), targets.clone()];
    write("refresh", &everything);
    write("pushed", &[timestamp.clone(), snapshot.clone(), targets.clone()]);
    let second = [
        self::timestamp(2, 2, 1),
        self::snapshot(2, json!({ "targets.json": { "version": 2 } })),
        self::targets(2, json!({})),
    ];
    write("pushed-twice", &[&everything[2..], &second].concat());

    let mut second = root();
    second["version"] = json!(2);
    let rotated = to_sign(&second);
    write(
        "rotation",
        &[self::timestamp(1, 1, 2), rotated.clone(), snapshot.clone(), targets.clone()],
    );
    second["roles"]["timestamp"]["threshold"] = json!(2);
    write("threshold", &[none(), to_sign(&second), none(), timestamp.clone()]);
    write("keys", &[none(), PYTHON_ROOT.to_vec(), none()]);

    for (name, terminating) in [("delegation", false), ("terminating", true)] {
        let key = key();
        let id = key.public_key().id();
        let role = |name: &str, paths: Value| {
            json!({
                "name": name, "keyids": [id], "threshold": 1, "paths": paths, "terminating": terminating
            })
        };
        let mut top = header("targets", 1);
        top["targets"] = json!({});
        top["delegations"] = json!({
            "keys": { id.as_str(): key.public_key() },
            "roles": [role("team", json!(["shuttle/*"])), role("rest", json!(["*/?.*.*", "a/b"]))],
        });
        let named = json!({ "team.json": { "version": 1 }, "rest.json": { "version": 1 } });
        write(
            name,
            &[
                timestamp.clone(),
                self::snapshot(1, named),
                to_sign(&top),
                self::targets(1, json!({})),
                targets.clone(),
            ],
        );
    }
    let bins = json!({
        "keys": {}, "succinct_roles": {
            "keyids": [], "threshold": 1, "bit_length": 2, "name_prefix": "bin"
        }
    });
    let mut top = header("targets", 1);
    top["targets"] = json!({});
    top["delegations"] = bins;
    write("succinct", &[timestamp, snapshot, to_sign(&top)]);
}

fn timestamp(version: u64, snapshot_version: u64, root_version: u64) -> Vec<u8> {
    let mut signed = header("timestamp", version);
    signed["meta"] = json!({ "snapshot.json": { "version": snapshot_version } });
    signed["root_version"] = json!(root_version);
    signed["issued"] = json!(NOW);
    to_sign(&signed)
}

fn snapshot(version: u64, more: Value) -> Vec<u8> {
    let mut named = json!({ "targets.json": { "version": 1 } });
    for (file, meta) in more.as_object().expect("files by name") {
        named[file] = meta.clone();
    }
    let mut signed = header("snapshot", version);
    signed["meta"] = named;
    to_sign(&signed)
}

fn targets(version: u64, targets: Value) -> Vec<u8> {
    let mut signed = header("targets", version);
    signed["targets"] = targets;
    to_sign(&signed)
}

fn entry() -> Value {
    let blob = |byte, len_bytes| Blob { digest: Digest([byte; 32]), len_bytes };
    let (name, version) = TARGET_PATH.split_once('/').expect("a path is name and version");
    let target = BundleTarget {
        name: name.into(),
        version: version.into(),
        manifest: blob(1, 1234),
        chunk_index: blob(2, 77),
        hardware_classes: vec!["aarch64".into(), "armv7".into()],
        patches: vec![PatchTarget { source: Digest([3; 32]), index: blob(4, 78), len_bytes: 79 }],
        signature: Some(Digest([5; 32])),
    };
    target.to_entry()
}

fn desired_state() {
    let slot = DesiredSlot {
        target: TARGET_PATH.into(),
        bundle: Digest([1; 32]),
        shadow_samples: 100,
        allow_downgrade: true,
        site: Some(Digest([4; 32])),
    };
    let mut state = DesiredState {
        device: "line-1".parse().expect("the name is well formed"),
        fleet: "demo".parse().expect("the name is well formed"),
        generation: 7,
        issued: NOW,
        expires: expires(),
        slots: BTreeMap::from([("main".parse().expect("the name is well formed"), slot)]),
    };
    let unsigned = |state: &DesiredState| {
        let mut signed: Value =
            serde_json::from_slice(&state.sign(key())).expect("it was just written");
        to_sign(&signed["signed"].take())
    };
    write("desired_state", "one-slot", &unsigned(&state));
    write("desired_state", "signed", &state.sign(key()));
    state.generation = 6;
    write("desired_state", "older", &unsigned(&state));
    (state.generation, state.expires) = (8, UnixMillis(1));
    state.issued = UnixMillis(0);
    write("desired_state", "expired", &unsigned(&state));
    state.slots.clear();
    (state.device, state.expires) = ("line-2".parse().expect("the name is well formed"), expires());
    write("desired_state", "foreign", &unsigned(&state));
    write("desired_state", "root", &to_sign(&root()));
    write("desired_state", "root-of-all-key-kinds", PYTHON_ROOT);
    write("desired_state", "float", b"+{\"generation\":1.5}");
}

/// The messages that are pinned as golden bytes, each signed on a topic that carries it.
fn signed_message() {
    let fleet = "demo".parse().expect("the name is well formed");
    for (message, topic) in [
        ("status", "up/line-1/status".to_owned()),
        ("reported", "up/line-1/state".to_owned()),
        ("health", "up/line-1/health".to_owned()),
        ("results", "up/line-1/results".to_owned()),
        ("profiles", "up/line-1/profiles".to_owned()),
        ("events", "up/line-1/events".to_owned()),
        ("captures", "up/line-1/captures".to_owned()),
        ("stored", "down/line-1/stored".to_owned()),
        ("request", "down/line-1/captures".to_owned()),
        ("desired", "down/line-1/desired".to_owned()),
        ("offer", format!("all/bundles/{}", Digest([1; 32]).hex())),
        ("chunk", format!("all/chunks/{}", Digest([2; 32]).hex())),
    ] {
        let body = fs::read(Path::new(GOLDEN).join(format!("{message}.bin")));
        let body = body.expect("every message has golden bytes");
        let topic = format!("{}/{topic}", topic_root(&fleet));
        let signed = encode(&key().sign_message(&topic, body));
        write("signed_message", message, &[topic.as_bytes(), &[0], &signed].concat());
    }
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("the corpus can be written");
    fs::write(folder.join(name), bytes).expect("the corpus can be written");
}
