//! Yesterday's agent with today's fleet, and the reverse; and both with tomorrow's.
//!
//! The golden payloads of every wire version that was ever shipped are sent over a real broker to a
//! running fleet and a running agent, which understand them. The same in a version that nobody reads
//! yet is refused politely: counted, named, and nothing stops.

use std::{
    fs,
    path::{Path, PathBuf},
};

use selvedge_link::Publish;
use selvedge_tests::{
    api::number,
    client::Client,
    shuttle,
    stage::{Stage, id, replay, topic_name},
};
use selvedge_wire::{Stream, Topic, VERSION, VERSION_OLDEST};
use serde_json::Value;

/// The first version that nobody reads yet.
const NEWER: u8 = VERSION + 1;

/// The device whose agent is an older or a newer one: the golden payloads speak for it.
const ANCIENT: &str = "ancient";

#[test]
fn a_fleet_understands_the_payloads_of_every_version_that_was_shipped() {
    for version in VERSION_OLDEST..=VERSION {
        let stage = Stage::embedded();
        let agent = Client::connect(stage.add_device(ANCIENT));
        for (topic, name) in upward() {
            agent.plant(stage.said_by(ANCIENT, &topic, golden(version, name)));
        }
        let seen = stage.wait_for_device(ANCIENT, "all of it", |seen| {
            !seen["health"].is_null() && seen["records_dropped"] == 43
        });
        // What stands in the golden files: see golden_bytes.rs.
        assert_eq!((&seen["boot"], &seen["online"]), (&3.into(), &true.into()));
        assert_eq!(number(&seen["reported"]["generation"]), 1 << 40);
        assert_eq!(number(&seen["health"]["inferences"]), 1_000_000);
        assert_eq!((number(&seen["malformed"]), number(&seen["sequence_gaps"])), (0, 0));
        let counts: Vec<u64> = ["results", "profiles", "events", "labels", "captures"]
            .iter()
            .map(|stream| number(&stage.wait_for_stream(ANCIENT, 3, stream, |_| true)["records"]))
            .collect();
        assert_eq!(counts, [3, 3, 20, 3, 3]);
        assert_eq!(stage.api().get("/api/v1/fleet")["malformed"], Value::Array(Vec::new()));
    }
}

#[test]
fn a_fleet_counts_and_names_a_newer_version_and_goes_on() {
    let stage = Stage::embedded();
    let agent = Client::connect(stage.add_device(ANCIENT));
    for (topic, name) in upward() {
        agent.plant(Publish::new(topic_name(&topic), newer(name)));
    }
    let sent = upward().len() as u64;
    let fleet = stage.wait_for("/api/v1/fleet", "all of it counted", |fleet| {
        fleet["malformed"][0]["count"].as_u64() == Some(sent)
    });
    let counted = &fleet["malformed"][0];
    assert_eq!((&counted["sender"], number(&counted["versions"])), (&ANCIENT.into(), sent));
    let named = format!("wire version {NEWER}");
    assert!(counted["last_reason"].as_str().is_some_and(|r| r.contains(&named)), "{counted}");
    let seen = stage.api().get(&format!("/api/v1/devices/{ANCIENT}"));
    assert!(
        seen["problems"][0].as_str().is_some_and(|p| p.contains(&named)),
        "{}",
        seen["problems"]
    );
    let page = stage.api().get("/");
    assert!(page.as_str().is_some_and(|page| page.contains(&named)), "{page}");
    assert_eq!((&seen["health"], &seen["reported"]), (&Value::Null, &Value::Null));

    // An agent that went back to a version that is understood is understood.
    agent.plant(stage.said_by(ANCIENT, &Topic::Health(id(ANCIENT)), golden(VERSION, "health")));
    let seen = stage.wait_for_device(ANCIENT, "its health", |seen| !seen["health"].is_null());
    assert_eq!(seen["problems"], Value::Array(Vec::new()));
}

#[test]
fn an_agent_understands_the_payloads_of_every_version_that_was_shipped() {
    for version in VERSION_OLDEST..=VERSION {
        let Some(mut stage) = Stage::mosquitto() else { return };
        let first = stage.publish(&shuttle::bundle("v1"));
        stage.add_agent("line-1", &replay(&shuttle::replay_file(), 20, true));
        stage.deploy("line-1", first);
        let mut thief = stage.thief();
        let desired = topic_name(&Topic::Desired(id("line-1")));

        // The document inside is not signed: that it is refused for that says that it was read.
        thief.plant(Publish::new(desired.clone(), golden(version, "desired")));
        stage.wait_for_event("line-1", "desired-refused", "malformed");

        // The chunk inside is no part of any bundle: that it does not fit says that it was read.
        let second = shuttle::bundle("v2");
        stage.publish(&second);
        send_wrong_chunk(&stage, &mut thief, &second, golden(version, "chunk"));
        let problem = stage.wait_for_event("line-1", "input-malformed", "chunk");
        assert!(!problem["detail"].as_str().is_some_and(|d| d.contains("encode")), "{problem}");

        // The chunk index inside is not the one that the target names.
        let third = shuttle::bundle("slow");
        stage.publish(&third);
        stage.agent("line-1").pause();
        stage.assign("line-1", third.digest());
        let offer = topic_name(&Topic::Bundle(third.digest()));
        thief.retained(&offer);
        thief.plant(Publish::retained(offer, golden(version, "offer")));
        stage.agent("line-1").resume();
        stage.wait_for_event("line-1", "bundle-refused", "chunk index");

        // The fleet has numbers of a boot that this device never had: a later boot takes over.
        thief.plant(stage.said_by_fleet(&Topic::Stored(id("line-1")), golden(version, "stored")));
        let seen = stage.wait_for_device("line-1", "a later boot", |seen| {
            seen["boot"].as_u64().is_some_and(|boot| boot > 1)
        });
        let stored = number(&seen["records_stored"]);
        stage.wait_for_device("line-1", "more records", |seen| {
            number(&seen["records_stored"]) > stored + 50
        });
    }
}

#[test]
fn an_agent_counts_and_names_a_newer_version_and_goes_on() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let first = stage.publish(&shuttle::bundle("v1"));
    stage.add_agent("line-1", &replay(&shuttle::replay_file(), 20, true));
    stage.deploy("line-1", first);
    let mut thief = stage.thief();
    let malformed = |stage: &Stage, count: u64| {
        stage.wait_for_device("line-1", &format!("{count} counted"), |seen| {
            seen["health"]["inputs_malformed"].as_u64() >= Some(count)
        });
    };
    thief.plant(Publish::new(topic_name(&Topic::Desired(id("line-1"))), newer("desired")));
    let event = stage.wait_for_event("line-1", "input-malformed", &format!("wire version {NEWER}"));
    assert!(
        event["detail"].as_str().is_some_and(|detail| detail.contains("desired state")),
        "{event}"
    );
    thief.plant(Publish::new(topic_name(&Topic::Stored(id("line-1"))), newer("stored")));
    malformed(&stage, 2);

    let second = shuttle::bundle("v2");
    stage.publish(&second);
    send_wrong_chunk(&stage, &mut thief, &second, newer("chunk"));
    malformed(&stage, 3);
    let offer = thief.retained(&topic_name(&Topic::Bundle(second.digest())));
    stage.agent("line-1").pause();
    let third = shuttle::bundle("slow");
    stage.publish(&third);
    stage.assign("line-1", third.digest());
    let topic = topic_name(&Topic::Bundle(third.digest()));
    let offer_of_third = thief.retained(&topic);
    assert_ne!(offer, offer_of_third);
    thief.plant(Publish::retained(topic.clone(), newer("offer")));
    stage.agent("line-1").resume();
    malformed(&stage, 4);

    // What is said in a version that is understood is done.
    thief.plant(Publish::retained(topic, offer_of_third));
    stage.wait_until_runs("line-1", third.digest());
    let said = stage.agent_said("line-1");
    assert_eq!(said.matches("unreadable").count(), 1, "one line per sender and minute:\n{said}");
}

/// Lets the fleet send out a bundle, and puts something else where one of its new chunks should be.
fn send_wrong_chunk(
    stage: &Stage,
    thief: &mut Client,
    bundle: &selvedge_bundle::Bundle,
    payload: Vec<u8>,
) {
    stage.agent("line-1").pause();
    stage.assign("line-1", bundle.digest());
    // The bundle's own manifest is in no other bundle.
    let chunks = selvedge_bundle::chunks_of(bundle);
    let own = chunks.map(|(chunk, _)| topic_name(&Topic::Chunk(chunk.digest))).next();
    let own = own.expect("a bundle has chunks");
    thief.retained(&own);
    thief.plant(Publish::retained(own, payload));
    stage.agent("line-1").resume();
}

/// What an agent says, with the names of the golden files.
fn upward() -> Vec<(Topic, &'static str)> {
    let stream = |stream| Topic::Stream(id(ANCIENT), stream);
    vec![
        (Topic::Status(id(ANCIENT)), "status"),
        (Topic::State(id(ANCIENT)), "reported"),
        (Topic::Health(id(ANCIENT)), "health"),
        (stream(Stream::Results), "results"),
        (stream(Stream::Profiles), "profiles"),
        (stream(Stream::Events), "events"),
        (stream(Stream::Labels), "labels"),
        (stream(Stream::Captures), "captures"),
    ]
}

fn golden(version: u8, name: &str) -> Vec<u8> {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/v{version}/{name}.bin"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A payload as a version would begin it that nobody reads yet.
fn newer(name: &str) -> Vec<u8> {
    let mut payload = golden(VERSION, name);
    payload[0] = NEWER;
    payload
}
