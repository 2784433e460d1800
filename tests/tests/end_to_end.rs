//! The main job from end to end, as real processes: one suite, two brokers.
//!
//! Each claim is shown with the broker in the fleet's process, over TLS, and with a mosquitto from
//! `docs/broker` (TLS 1.3, client certificates, its access list).

use std::{collections::BTreeSet, fs};

use selvedge_link::{Delivery, Publish, Refusal};
use selvedge_tests::{
    api::number,
    client::{Client, Heard},
    shuttle,
    stage::{Stage, id, replay, replay_into, runs, topic_name},
};
use selvedge_wire::{
    Boot, Desired, Digest, Health, Reported, Running, SlotPhase, SlotReport, Status, Stored,
    Stream, Topic, TrustReport, VERSION, VERSION_OLDEST, encode,
};
use serde_json::Value;

/// Samples per second of most streams here.
const RATE_HZ: u32 = 50;

macro_rules! on_both_brokers {
    ($($claim:ident),* $(,)?) => {
        mod embedded_broker {
            use selvedge_tests::stage::Stage;
            $(#[test] fn $claim() { super::$claim(Stage::embedded_tls()); })*
        }
        mod mosquitto {
            use selvedge_tests::stage::Stage;
            $(#[test] fn $claim() {
                if let Some(stage) = Stage::mosquitto() {
                    super::$claim(stage);
                }
            })*
        }
    };
}

on_both_brokers! {
    a_second_version_takes_over_while_streams_run_and_nothing_fails_or_is_missing,
    a_device_keeps_to_its_own_name,
    an_agent_that_is_killed_goes_on_without_duplicate_or_gap,
    a_broker_that_restarts_without_its_state_is_survived,
    after_an_hour_offline_counts_are_exact_and_what_was_dropped_is_said,
}

fn a_second_version_takes_over_while_streams_run_and_nothing_fails_or_is_missing(mut stage: Stage) {
    const DEVICES: [&str; 2] = ["line-1", "line-2"];
    let (v1, v2) = (shuttle::bundle("v1"), shuttle::bundle("v2"));
    let (first, second) = (stage.publish(&v1), stage.publish(&v2));
    for device in DEVICES {
        stage.add_agent(device, &replay(&shuttle::replay_file(), RATE_HZ, true));
        stage.assign(device, first);
    }
    for device in DEVICES {
        stage.wait_until_runs(device, first);
        stage.wait_for_results(device, 1, 100);
    }
    for device in DEVICES {
        stage.assign(device, second);
    }
    for device in DEVICES {
        stage.wait_until_runs(device, second);
        let stored = number(&stage.stream(device, 1, "results")["records"]);
        stage.wait_for_results(device, 1, stored + 100);
    }
    for device in DEVICES {
        let seen = stage.wait_for_device(device, "a swap in the counters", |seen| {
            seen["health"]["swaps"].as_u64() == Some(1)
        });
        assert_eq!(seen["health"]["inferences_failed"], 0);
        assert_eq!(seen["online"], true);
        let slot = &seen["reported"]["slots"][0];
        assert_eq!(
            (&slot["running"]["name"], &slot["running"]["version"]),
            (&"shuttle".into(), &"2.0.0".into())
        );
        assert_eq!(seen["reported"]["generation"], 2);
        stage.wait_for_event(device, "swapped", "shuttle 2.0.0");

        let answered = consecutive_results(&stage, device, 1);
        let bundles: Vec<String> = answered.iter().map(bundle_of).collect();
        let mut changes = bundles.clone();
        changes.dedup();
        assert_eq!(changes, [first.to_string(), second.to_string()], "one change, and no way back");
        assert!(bundles.iter().filter(|bundle| **bundle == second.to_string()).count() >= 100);
        assert_keeps(&stage, device, second, first);
    }
    let fleet = stage.api().get("/api/v1/fleet");
    assert_eq!((number(&fleet["sequence_gaps"]), number(&fleet["records_conflicting"])), (0, 0));
    assert_eq!((number(&fleet["settled"]), number(&fleet["refused"])), (2, 0));
    assert_eq!(fleet["malformed"], Value::Array(Vec::new()));
}

fn a_device_keeps_to_its_own_name(mut stage: Stage) {
    let bundle = stage.publish(&shuttle::bundle("v1"));
    stage.add_agent("line-1", &replay(&shuttle::replay_file(), RATE_HZ, true));
    let mut thief = Client::connect(stage.add_device("line-2"));
    thief.subscribe(&topic_name(&Topic::Desired(id("line-2"))));
    for foreign in ["down/line-1/#", "down/line-1/desired", "down/+/desired", "down/#", "up/#", "#"]
    {
        thief.subscribe(&format!("selvedge/1/demo/{foreign}"));
    }

    let refused = Delivery::Refused { code: Refusal::NotAuthorized };
    for (topic, payload) in written_by_the_thief() {
        let topic = topic_name(&topic);
        assert_eq!(thief.publish(Publish::retained(topic.clone(), payload)), refused, "{topic}");
    }

    // Both get a desired state, the victim first. When the thief has its own, it has all that it gets.
    stage.deploy("line-1", bundle);
    stage.assign("line-2", bundle);
    let own = topic_name(&Topic::Desired(id("line-2")));
    let for_it = |topic: &str| {
        ["selvedge/1/demo/down/line-2/", "selvedge/1/demo/all/"]
            .iter()
            .any(|s| topic.starts_with(s))
    };
    let mut foreign = Vec::new();
    thief.wait_for("its own desired state", |heard| match heard {
        Heard::Message { topic, .. } if topic == own => Some(()),
        Heard::Message { topic, .. } if for_it(&topic) => None,
        Heard::Message { topic, .. } => {
            foreign.push(topic);
            None
        }
        Heard::SubscriptionRefused(_) => None,
    });
    assert_eq!(foreign, [] as [String; 0], "what the thief was given");

    stage.wait_for_results("line-1", 1, 50);
    let victim = stage.api().get("/api/v1/devices/line-1");
    assert_eq!(
        (&victim["boot"], &victim["online"]),
        (&1.into(), &true.into()),
        "no word of the thief"
    );
    assert_eq!((number(&victim["malformed"]), number(&victim["desired"]["generation"])), (0, 1));
    assert_eq!(number(&victim["reported"]["generation"]), 1);
    let refusals = stage.api().rows("line-1", "events");
    assert!(refusals.iter().all(|event| event["kind"] != "desired-refused"), "{refusals:#?}");
}

fn an_agent_that_is_killed_goes_on_without_duplicate_or_gap(mut stage: Stage) {
    let bundle = stage.publish(&shuttle::bundle("v1"));
    stage.add_agent("line-1", &replay(&shuttle::replay_file(), RATE_HZ, true));
    stage.deploy("line-1", bundle);
    for boot in 1..=3 {
        stage.wait_for_results("line-1", boot, 100);
        stage.take_agent("line-1").kill();
        stage.start_agent("line-1");
    }
    stage.wait_for_results("line-1", 4, 100);
    stage.wait_until_runs("line-1", bundle);
    // What is on its way of the runs before comes first; then nothing of them is missing.
    for boot in 1..=4 {
        let stored = consecutive_results(&stage, "line-1", boot);
        assert!(stored.len() >= 100, "boot {boot}: {}", stored.len());
    }
    let seen = stage.api().get("/api/v1/devices/line-1");
    assert_eq!(
        (number(&seen["sequence_gaps"]), number(&seen["health"]["inferences_failed"])),
        (0, 0)
    );
    let fetched = stage.agent_said("line-1").matches("takes over").count();
    assert!(fetched >= 1, "each run answers with the bundle that it had");
    let swaps = stage.api().rows("line-1", "events");
    let swaps = swaps.iter().filter(|event| event["kind"] == "swapped").count();
    assert_eq!(swaps, 1, "the bundle was fetched and took over once");
}

fn a_broker_that_restarts_without_its_state_is_survived(mut stage: Stage) {
    let (first, second) =
        (stage.publish(&shuttle::bundle("v1")), stage.publish(&shuttle::bundle("v2")));
    stage.add_agent("line-1", &replay(&shuttle::replay_file(), RATE_HZ, true));
    stage.deploy("line-1", first);
    stage.wait_for_results("line-1", 1, 50);
    stage.kill_broker(true);
    stage.start_broker();

    // The second broker knows nothing but what the fleet and the agent say again.
    let mut newcomer = Client::connect(stage.add_device("line-2"));
    stage.assign("line-2", first);
    newcomer.subscribe(&topic_name(&Topic::Desired(id("line-2"))));
    newcomer.subscribe(&topic_name(&Topic::Bundle(first)));
    let mut missing = BTreeSet::from([
        topic_name(&Topic::Desired(id("line-2"))),
        topic_name(&Topic::Bundle(first)),
    ]);
    newcomer.wait_for("a desired state and an offer", |heard| {
        if let Heard::Message { topic, .. } = heard {
            missing.remove(&topic);
        }
        missing.is_empty().then_some(())
    });

    stage.deploy("line-1", second);
    let stored = number(&stage.stream("line-1", 1, "results")["records"]);
    stage.wait_for_results("line-1", 1, stored + 100);
    let seen =
        stage.wait_for_device("line-1", "a device that is back", |seen| seen["online"] == true);
    assert!(runs(&seen, second));
    assert_eq!(number(&seen["health"]["inferences_failed"]), 0);
    consecutive_results(&stage, "line-1", 1);
}

/// An hour with windows of a minute has sixty of them per slot. Here windows of a second and two slots
/// make as many in twenty seconds, and quotas are so small that most must merge or go.
fn after_an_hour_offline_counts_are_exact_and_what_was_dropped_is_said(mut stage: Stage) {
    const SAMPLES: usize = 2000;
    const QUOTAS: &str = "[profile]\nwindow_s = 1\n[spool]\nresults_bytes_max = 16384\n\
                          profiles_bytes_max = 8192\nresend_after_s = 2\n";
    let bundle = stage.publish(&shuttle::bundle("v1"));
    let rows = stage.folder().join("rows.csv");
    shuttle::write_rows(&rows, SAMPLES);
    let sources = ["main", "second"].map(|slot| replay_into(slot, &rows, 2 * RATE_HZ, false));
    let tables = format!("{}{}{QUOTAS}", sources[0], sources[1]);
    let uplink = stage.add_agent_behind_uplink("line-1", &tables);
    stage.assign_slots("line-1", &[("main", bundle), ("second", bundle)]);
    stage.wait_for_results("line-1", 1, 100);

    uplink.cut();
    stage.wait_for_agent_to_say("line-1", "the file has ended", 2);
    uplink.mend();

    let total = 2 * SAMPLES as u64;
    let seen = stage.wait_for_device("line-1", "all inferences", |seen| {
        seen["health"]["inferences"].as_u64() == Some(total)
    });
    let health = &seen["health"];
    assert_eq!(number(&health["inferences_failed"]), 0);
    let results = stage.wait_for_stream("line-1", 1, "results", |results| {
        results["through"].as_u64() == Some(total)
    });
    let (stored, dropped) = (number(&results["records"]), number(&results["dropped"]));
    assert!(dropped > 0, "the quota was meant to be too small");
    assert_eq!((stored + dropped, number(&results["missing"])), (total, 0));
    stage.wait_for_event("line-1", "records-dropped", "results");

    // The last windows close after the last samples.
    let counted = |profiles: &[Value]| -> u64 {
        profiles.iter().map(|profile| number(&profile["counters"]["samples"])).sum()
    };
    stage.wait_for(
        "/api/v1/devices/line-1/profiles?limit=1000",
        "every sample in a profile",
        |found| counted(found.as_array().expect("profiles are a list")) >= total,
    );
    let profiles = stage.api().rows("line-1", "profiles");
    let sum = |key: &str| -> u64 {
        profiles.iter().map(|profile| number(&profile["counters"][key])).sum()
    };
    let inferences = number(&health["inferences"]) + number(&health["inferences_failed"]);
    assert_eq!(sum("samples"), inferences, "no count is lost");
    assert_eq!(sum("failed"), number(&health["inferences_failed"]));
    assert!(profiles.iter().any(|profile| number(&profile["covers"]) > 1), "none was merged");
    let streamed = stage.stream("line-1", 1, "profiles");
    assert_eq!((number(&streamed["missing"]), number(&streamed["dropped"])), (0, 0));
    // The device counts also those that the fleet had stored without its hearing of it.
    let seen = stage.wait_for_device("line-1", "the drops in the counters", |seen| {
        number(&seen["health"]["records_dropped"]) >= dropped
    });
    assert_eq!(number(&seen["records_dropped"]), dropped);
}

/// All results of a device's run; every number from 1 on is there once, and so is every sample.
fn consecutive_results(stage: &Stage, device: &str, boot: u64) -> Vec<Value> {
    let stream = stage.wait_for_stream(device, boot, "results", |stream| stream["missing"] == 0);
    assert_eq!(number(&stream["conflicting"]), 0, "{stream}");
    let mut rows = stage.api().rows(device, "results");
    rows.retain(|row| row["boot"] == boot);
    rows.sort_by_key(|row| number(&row["sequence"]));
    for (row, expected) in rows.iter().zip(1..) {
        assert_eq!((number(&row["sequence"]), number(&row["sample"])), (expected, expected - 1));
        assert_eq!(row["failure"], Value::Null);
    }
    rows
}

fn bundle_of(result: &Value) -> String {
    result["bundle"].as_str().expect("a result names its bundle").to_owned()
}

/// Looks at the device's disk: the bundle before is kept whole.
fn assert_keeps(stage: &Stage, device: &str, current: Digest, previous: Digest) {
    let state = stage.device_folder(device).join("state");
    let record = fs::read(state.join("slots/main.json")).expect("the slot has a record");
    let record: Value = serde_json::from_slice(&record).expect("the record is JSON");
    assert_eq!(record["current"], current.to_string());
    assert_eq!(record["previous"], previous.to_string());
    let kept = state.join("bundles").join(previous.hex().to_string());
    assert!(kept.join("index.json").is_file(), "{}", kept.display());
}

/// What a thief says in another's name or in the fleet's, each of it well formed.
fn written_by_the_thief() -> Vec<(Topic, Vec<u8>)> {
    let victim = || id("line-1");
    let digest = Digest([7; Digest::BYTES]);
    let status = Status {
        online: false,
        boot: Boot(9),
        agent_version: "thief".into(),
        wire_oldest: VERSION_OLDEST,
        wire_newest: VERSION,
        hardware_class: "thief".into(),
    };
    let running = Running { bundle: digest, name: "thief".into(), version: "9.9.9".into() };
    let slot = SlotReport {
        slot: "main".parse().expect("the name is well formed"),
        phase: SlotPhase::Settled,
        running: Some(running),
        desired: Some(digest),
        reason: None,
        comparison: None,
        drift: None,
        site: None,
    };
    let reported = Reported {
        boot: Boot(9),
        revision: 9,
        generation: 9,
        trust: TrustReport::default(),
        slots: vec![slot],
    };
    let desired = encode(&Desired { document: b"{}".to_vec() });
    vec![
        (Topic::Status(victim()), encode(&status)),
        (Topic::State(victim()), encode(&reported)),
        (Topic::Health(victim()), encode(&health())),
        (Topic::Stream(victim(), Stream::Results), vec![1, 2, 3]),
        (Topic::Stream(victim(), Stream::Profiles), vec![1, 2, 3]),
        (Topic::Stream(victim(), Stream::Events), vec![1, 2, 3]),
        (Topic::Stream(victim(), Stream::Labels), vec![1, 2, 3]),
        (Topic::Stream(victim(), Stream::Captures), vec![1, 2, 3]),
        (Topic::Desired(victim()), desired.clone()),
        (Topic::Desired(id("line-2")), desired),
        (Topic::Stored(victim()), encode(&Stored { streams: Vec::new() })),
        (Topic::Stored(id("line-2")), encode(&Stored { streams: Vec::new() })),
        (Topic::Captures(victim()), vec![1, 2, 3]),
        (Topic::Captures(id("line-2")), vec![1, 2, 3]),
        (Topic::Bundle(digest), vec![1, 2, 3]),
        (Topic::Chunk(digest), vec![1, 2, 3]),
        (Topic::Metadata("timestamp.json".parse().expect("the name is well formed")), vec![1]),
    ]
}

fn health() -> Health {
    Health {
        boot: Boot(9),
        uptime_s: 1,
        inferences: 1,
        inferences_failed: 1,
        inputs_malformed: 1,
        inputs_anomalous: 1,
        swaps: 1,
        sent_bytes: 1,
        received_bytes: 1,
        resident_bytes: 1,
        resident_bytes_peak: 1,
        spool_bytes: 1,
        records_dropped: 1,
    }
}
