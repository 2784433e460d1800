//! A device whose bundle answers, and an attacker who owns the broker.
//!
//! The attacker has an account that may do all that the fleet's may. What it [puts](Scene::replace) in the
//! place of what the fleet has said is put right again when the scene ends, so that scenes can share a
//! stage.

use std::fs;

use selvedge_bundle::{Bundle, BundleBuilder, Manifest, ManifestDraft, chunks_of, compress};
use selvedge_link::Publish;
use selvedge_wire::{Digest, Topic, encode};
use serde_json::Value;

use crate::{
    api::number,
    client::Client,
    shuttle,
    stage::{Stage, id, replay, runs, topic_name},
};

/// Samples per second of the device's stream.
const RATE_HZ: u32 = 20;

/// Results that must come for a bundle to be said to go on.
const RESULTS_AFTER: u64 = 20;

/// A device with a bundle that answers, and an attacker.
#[derive(Debug)]
pub struct Scene<'a> {
    /// All that is not the attacker's.
    pub stage: &'a mut Stage,
    /// The attacker.
    pub thief: &'a mut Client,
    /// The device.
    pub device: &'static str,
    /// The bundle that must go on answering.
    pub answering: Digest,
    // What stood under a topic before; nothing if nothing did.
    replaced: Vec<(String, Vec<u8>)>,
}

impl<'a> Scene<'a> {
    /// A new device on which `first` answers.
    ///
    /// # Panics
    /// If it does not.
    pub fn set(
        stage: &'a mut Stage,
        thief: &'a mut Client,
        device: &'static str,
        first: Digest,
    ) -> Self {
        stage.add_agent(device, &replay(&shuttle::replay_file(), RATE_HZ, true));
        stage.deploy(device, first);
        stage.wait_for_results(device, 1, 10);
        Self { stage, thief, device, answering: first, replaced: Vec::new() }
    }

    /// The device's page.
    pub fn seen(&self) -> Value {
        self.stage.api().get(&format!("/api/v1/devices/{}", self.device))
    }

    /// The bundle before answers, nothing fails, and the disk has no other bundle in its slot.
    ///
    /// # Panics
    /// If one of that is not so.
    pub fn assert_goes_on(&self) {
        let Self { stage, device, answering, .. } = self;
        let stored = number(&stage.stream(device, 1, "results")["records"]);
        stage.wait_for_results(device, 1, stored + RESULTS_AFTER);
        let seen = self.seen();
        assert!(runs(&seen, *answering), "{:#}", seen["reported"]);
        assert_eq!(number(&seen["health"]["inferences_failed"]), 0);
        let newest = stage.api().rows(device, "results").pop().expect("there are results");
        assert_eq!(newest["bundle"], answering.to_string());
        let state = stage.device_folder(device).join("state");
        let record = fs::read(state.join("slots/main.json")).expect("the slot has a record");
        let record: Value = serde_json::from_slice(&record).expect("the record is JSON");
        assert_eq!(record["current"], answering.to_string());
    }
}

/// What the attacker does.
impl Scene<'_> {
    /// What the broker keeps under a topic.
    pub fn retained(&mut self, topic: &Topic) -> Vec<u8> {
        self.thief.retained(&topic_name(topic))
    }

    /// Lets the broker keep something under a topic.
    pub fn plant(&self, topic: &Topic, payload: Vec<u8>) {
        self.thief.plant(Publish::retained(topic_name(topic), payload));
    }

    /// The same for a chunk with this content.
    pub fn plant_chunk(&self, chunk: Digest, content: &[u8]) {
        self.plant(&Topic::Chunk(chunk), encode(&compress(content)));
    }

    /// The same for what the device should run.
    pub fn plant_desired(&self, payload: Vec<u8>) {
        self.plant(&Topic::Desired(id(self.device)), payload);
    }

    /// Puts something in the place of what the broker keeps, until the scene ends.
    pub fn replace(&mut self, topic: &Topic, payload: Vec<u8>) {
        let before = self.retained(topic);
        self.replaced.push((topic_name(topic), before));
        self.plant(topic, payload);
    }

    /// Adds something that the broker has not kept before, until the scene ends.
    pub fn add(&mut self, topic: &Topic, payload: Vec<u8>) {
        self.replaced.push((topic_name(topic), Vec::new()));
        self.plant(topic, payload);
    }

    /// Lets the fleet send out `bundle`, and changes at the broker what the device is about to fetch.
    ///
    /// # Panics
    /// If the fleet does not take the bundle.
    pub fn tamper(&mut self, bundle: &Bundle, change: impl FnOnce(&mut Self)) {
        self.stage.publish(bundle);
        self.stage.agent(self.device).pause();
        self.stage.assign(self.device, bundle.digest());
        self.retained(&Topic::Bundle(bundle.digest()));
        for (chunk, _) in chunks_of(bundle) {
            self.retained(&Topic::Chunk(chunk.digest));
        }
        change(self);
        self.stage.agent(self.device).resume();
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        for (topic, before) in self.replaced.drain(..).rev() {
            self.thief.publish(Publish::retained(topic, before));
        }
    }
}

/// The second version of the model with a version of its own, which has these words: another bundle, and
/// another target.
///
/// # Panics
/// If the words cannot stand in a version.
pub fn variant(words: &str) -> BundleBuilder {
    let parts = shuttle::parts("v2");
    let mut draft = parts.manifest.into_draft();
    draft.version = format!("2.0.0-{words}").parse().expect("the words can stand in a version");
    BundleBuilder { manifest: keep(draft), ..parts }
}

/// The manifest of a draft.
///
/// # Panics
/// If it breaks a rule.
pub fn keep(draft: ManifestDraft) -> Manifest {
    Manifest::try_from(draft).expect("the manifest keeps every rule")
}

/// The chunk of a [`variant`] that no other bundle has, and its content.
///
/// # Panics
/// If there is none.
pub fn own_chunk(bundle: &Bundle, words: &str) -> (Digest, Vec<u8>) {
    let has = |content: &[u8]| content.windows(words.len()).any(|part| part == words.as_bytes());
    let found = chunks_of(bundle).find(|(_, content)| has(content));
    let (chunk, content) = found.expect("the manifest is in a chunk");
    (chunk.digest, content.to_vec())
}
