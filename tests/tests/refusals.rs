//! What must not run does not, and people see why.
//!
//! The attacker owns the broker: an account that may do all that the fleet's may. One case goes further
//! and holds the director's key too, which still cannot make a bundle answer that the publisher has not
//! signed. In each case the bundle before goes on answering, nothing of the new one is in the slot, and
//! the reason stands in the API and on the dashboard.

use std::panic::{AssertUnwindSafe, catch_unwind};

use selvedge_bundle::{BundleBuilder, ChunkIndex, Golden, NamedTensor, TensorData, chunks_of};
use selvedge_tests::{
    client::Client,
    keys::{new_key, target},
    scene::{Scene, keep, own_chunk, variant},
    shuttle,
    stage::{Stage, id, runs},
};
use selvedge_wire::{BundleOffer, Desired, Digest, Topic, decode, encode};
use serde_json::Value;

/// An attack on one device, and what becomes of it.
struct Case {
    device: &'static str,
    /// What is done, after which the device is to refuse something.
    attack: fn(&mut Scene<'_>),
    shown: Shown,
    /// What the reason says.
    reason: &'static str,
}

/// Where the API shows the reason.
#[derive(Clone, Copy)]
enum Shown {
    /// In the device's report about its slot, which has refused the bundle.
    Slot,
    /// In the device's report about its slot, which waits: anybody at the broker can make such an offer,
    /// and it must not keep the good one out.
    WaitingSlot,
    /// In an event of this kind.
    Event(&'static str),
}

const CASES: &[Case] = &[
    Case {
        device: "tampered-chunk",
        attack: tamper_with_a_chunk,
        shown: Shown::Event("input-malformed"),
        reason: "its content has another digest",
    },
    Case {
        device: "truncated-offer",
        attack: truncate_the_offer,
        shown: Shown::Event("input-malformed"),
        reason: "does not encode",
    },
    Case {
        device: "truncated-index",
        attack: truncate_the_index,
        shown: Shown::WaitingSlot,
        reason: "the chunk index is not the one that the target names",
    },
    Case {
        device: "no-target",
        attack: direct_to_a_bundle_that_is_no_target,
        shown: Shown::WaitingSlot,
        reason: "the repository has no target shuttle/2.0.0-no-target",
    },
    Case {
        device: "wrong-shape",
        attack: publish_a_manifest_with_another_shape,
        shown: Shown::Slot,
        reason: "in the manifest and",
    },
    Case {
        device: "wrong-golden",
        attack: publish_golden_vectors_that_do_not_match,
        shown: Shown::Slot,
        reason: "golden vectors: output",
    },
    Case {
        device: "foreign-desired",
        attack: replay_what_another_device_should_run,
        shown: Shown::Event("desired-refused"),
        reason: "is for the device bystander, not for foreign-desired",
    },
    Case {
        device: "older-desired",
        attack: replay_what_the_device_should_run_before,
        shown: Shown::Event("desired-refused"),
        reason: "has generation 1, older than 2",
    },
];

#[test]
fn what_is_tampered_truncated_wrongly_signed_or_unfit_stays_out_of_the_slot_and_is_explained() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let first = stage.publish(&shuttle::bundle("v1"));
    stage.add_device("bystander");
    stage.assign("bystander", first);
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

#[test]
fn a_chunk_that_was_tampered_with_is_taken_once_it_is_right_again() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let first = stage.publish(&shuttle::bundle("v1"));
    let mut thief = stage.thief();
    let mut scene = Scene::set(&mut stage, &mut thief, "line-1", first);
    let bundle = variant("healed").build().expect("it is well formed");
    let (chunk, content) = own_chunk(&bundle, "healed");
    scene.tamper(&bundle, |scene| scene.plant_chunk(chunk, &tampered(&content)));
    scene.stage.wait_for_event("line-1", "input-malformed", "another digest");
    assert!(runs(&scene.seen(), first));
    scene.plant_chunk(chunk, &content);
    scene.stage.wait_until_runs("line-1", bundle.digest());
}

fn play(case: &Case, stage: &mut Stage, thief: &mut Client, first: Digest) {
    let mut scene = Scene::set(stage, thief, case.device, first);
    (case.attack)(&mut scene);
    let Scene { stage, device, .. } = &scene;
    match case.shown {
        Shown::Slot | Shown::WaitingSlot => {
            let seen = stage.wait_for_device(device, case.reason, |seen| {
                let slot = &seen["reported"]["slots"][0];
                slot["reason"].as_str().is_some_and(|reason| reason.contains(case.reason))
            });
            let waits = matches!(case.shown, Shown::WaitingSlot);
            let phase = if waits { "fetching" } else { "refused" };
            assert_eq!(seen["reported"]["slots"][0]["phase"], phase);
            let problems = seen["problems"].as_array().expect("problems are a list");
            let is = |problem: &Value| problem.as_str().is_some_and(|p| p.contains(case.reason));
            assert!(problems.iter().any(is), "{problems:?}");
        }
        Shown::Event(kind) => drop(stage.wait_for_event(device, kind, case.reason)),
    }
    let page = stage.api().get("/");
    let page = page.as_str().expect("the dashboard is a page");
    assert!(page.contains(case.reason), "{:?} is not on the page:\n{page}", case.reason);
    scene.assert_goes_on();
    scene.stage.take_agent(case.device).stop();
}

fn tamper_with_a_chunk(scene: &mut Scene<'_>) {
    let bundle = variant(scene.device).build().expect("it is well formed");
    let (chunk, content) = own_chunk(&bundle, scene.device);
    scene.tamper(&bundle, |scene| scene.plant_chunk(chunk, &tampered(&content)));
}

fn truncate_the_offer(scene: &mut Scene<'_>) {
    let bundle = variant(scene.device).build().expect("it is well formed");
    scene.tamper(&bundle, |scene| {
        let mut offer = scene.retained(&Topic::Bundle(bundle.digest()));
        offer.truncate(offer.len() / 2);
        scene.plant(&Topic::Bundle(bundle.digest()), offer);
    });
}

fn truncate_the_index(scene: &mut Scene<'_>) {
    let bundle = variant(scene.device).build().expect("it is well formed");
    scene.tamper(&bundle, |scene| {
        let offer = scene.retained(&Topic::Bundle(bundle.digest()));
        let mut offer: BundleOffer = decode(&offer).expect("the fleet speaks well");
        offer.index.truncate(offer.index.len() / 2);
        scene.plant(&Topic::Bundle(bundle.digest()), encode(&offer));
    });
}

/// The fleet takes no such wish. So the attacker, who has the director's key, sends out all of it.
fn direct_to_a_bundle_that_is_no_target(scene: &mut Scene<'_>) {
    let bundle = variant(scene.device).build().expect("it is well formed");
    let (status, answer) = scene.stage.add_target(&target(&bundle), &new_key());
    assert_eq!(status, 400, "{answer}");
    let path = format!("/api/v1/devices/{}/desired", scene.device);
    let body = serde_json::json!({ "slots": { "main": bundle.digest() } });
    let assigned = scene.stage.api().call("PUT", &path, Some(&body)).expect("the fleet answers");
    assert_eq!(assigned.0, 404, "{}", assigned.1);

    for (chunk, content) in chunks_of(&bundle) {
        scene.plant_chunk(chunk.digest, content);
    }
    let index = ChunkIndex::of(&bundle).expect("it is not too large").encode();
    let offer = BundleOffer { index };
    scene.plant(&Topic::Bundle(bundle.digest()), encode(&offer));
    let document = scene.stage.keys().desired(scene.device, 2, &bundle);
    scene.plant_desired(encode(&Desired { document }));
}

fn publish_a_manifest_with_another_shape(scene: &mut Scene<'_>) {
    let parts = variant(scene.device);
    let mut draft = parts.manifest.clone().into_draft();
    let shape = serde_json::json!([-1, 3]);
    draft.outputs[0].shape = serde_json::from_value(shape).expect("a shape is a list of extents");
    draft.labels.push("other".into());
    let manifest = keep(draft);
    let rows = parts.golden.rows();
    let outputs = vec![tensor("logits", vec![rows, 3], vec![0.0; 3 * rows])];
    let golden = Golden::new(&manifest, parts.golden.inputs().to_vec(), outputs);
    let golden = golden.expect("they fit the manifest, though not the model");
    send_out(scene, BundleBuilder { manifest, golden, ..parts });
}

fn publish_golden_vectors_that_do_not_match(scene: &mut Scene<'_>) {
    let parts = variant(scene.device);
    let rows = parts.golden.rows();
    let outputs = vec![tensor("logits", vec![rows, 2], vec![1e6; 2 * rows])];
    let golden = Golden::new(&parts.manifest, parts.golden.inputs().to_vec(), outputs);
    send_out(scene, BundleBuilder { golden: golden.expect("they have the right shape"), ..parts });
}

fn replay_what_another_device_should_run(scene: &mut Scene<'_>) {
    let foreign = scene.retained(&Topic::Desired(id("bystander")));
    scene.plant_desired(foreign);
}

fn replay_what_the_device_should_run_before(scene: &mut Scene<'_>) {
    let before = scene.retained(&Topic::Desired(id(scene.device)));
    let second = variant(scene.device).build().expect("it is well formed");
    scene.stage.publish(&second);
    scene.stage.deploy(scene.device, second.digest());
    scene.answering = second.digest();
    scene.plant_desired(before);
}

/// The fleet cannot run a bundle, so it takes one that is signed and whole; devices do run it.
fn send_out(scene: &mut Scene<'_>, parts: BundleBuilder) {
    let bundle = parts.build().expect("it is well formed");
    scene.stage.publish(&bundle);
    scene.stage.assign(scene.device, bundle.digest());
}

fn tensor(name: &str, shape: Vec<usize>, values: Vec<f32>) -> NamedTensor {
    NamedTensor::new(name, shape, TensorData::F32(values)).expect("the shape has as many values")
}

fn tampered(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    content[0] ^= 1;
    content
}
