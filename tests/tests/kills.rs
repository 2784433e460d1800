//! An agent that is killed (SIGKILL) at any moment of an update neither stays stuck nor loses its bundle.
//!
//! A real agent at a real mosquitto is led from one bundle to the next, always to one that it has to
//! fetch, and killed at a random moment on the way. Each time it must come back, answer a sensor whose
//! sample it may have swallowed, and arrive at the bundle that is desired. Faults that must be
//! survived: the death of the process between any two of its instructions. A power cut, which also takes
//! what was not synced, is the business of the sweep in the agent's own tests.
//!
//! `SELVEDGE_FULL=1` kills 200 times. The seed is printed, and `SELVEDGE_SEED` sets it.

use std::{
    collections::BTreeMap,
    env, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use selvedge_bundle::{Bundle, BundleBuilder, Manifest, PROBATION_CRASHES_MAX};
use selvedge_link::{LinkConfig, Publish};
use selvedge_tests::{
    api::number,
    client::Client,
    mosquitto::Mosquitto,
    shuttle,
    stage::{Stage, runs},
};
use serde_json::{Value, json};

/// The last moment after a new wish at which the agent is killed. What was reported last before each kill
/// is counted and printed.
const KILL_MS_MAX: u64 = 600;

const SAMPLE: &[u8] = b"[46, 2, 83, 0, 46, 3, 37, 36, 0]";

#[test]
fn an_agent_that_is_killed_at_any_moment_of_an_update_comes_back_and_arrives() {
    let (Some(site), Some(mut stage)) = (Mosquitto::open(""), Stage::mosquitto()) else { return };
    let bundles = ["v1", "v2", "slow"].map(patient);
    for bundle in &bundles {
        stage.publish(bundle);
    }
    let tables = format!(
        "[[source]]\nname = \"press\"\nkind = \"mqtt\"\nslot = \"main\"\ntopic = \"press/1\"\n\
         [local_broker]\nurl = \"{}\"\nreconnect_first_ms = 50\nreconnect_ms_max = 500\n",
        site.url()
    );
    stage.add_agent("line-1", &tables);
    let sensor = Client::connect(LinkConfig::new(site.url(), "press"));
    wish(&stage, &bundles[0]);
    assert_confirmed(&stage, &sensor, &bundles[0]);
    let mut random = Random::new();
    let mut phases: BTreeMap<String, u64> = BTreeMap::new();

    for kill in 1..=kills() {
        let next = &bundles[kill % bundles.len()];
        wish(&stage, next);
        // The moment is what is random here: there is no condition to wait for.
        thread::sleep(Duration::from_millis(random.below(KILL_MS_MAX)));
        let seen = stage.api().get("/api/v1/devices/line-1");
        let phase = seen["reported"]["slots"][0]["phase"].as_str().unwrap_or("none");
        *phases.entry(phase.to_owned()).or_default() += 1;
        stage.take_agent("line-1").kill();
        stage.start_agent("line-1");
        assert_answers(&stage, &sensor, number(&seen["boot"]));
        stage.wait_for_device("line-1", &format!("arrival after kill {kill}"), |seen| {
            runs(seen, next.digest())
        });
    }
    println!("{} kills; the phase that was reported last before each: {phases:?}", kills());
    let seen = stage.api().get("/api/v1/devices/line-1");
    assert_eq!(number(&seen["sequence_gaps"]), 0);
    assert_confirmed(&stage, &sensor, &bundles[kills() % bundles.len()]);
}

/// The bundle answers, and stands its probation, for which it needs samples.
fn assert_confirmed(stage: &Stage, sensor: &Client, bundle: &Bundle) {
    stage.wait_for_device("line-1", "a bundle that is confirmed", |seen| {
        sensor.plant(Publish::new("press/1", SAMPLE));
        let slot = &seen["reported"]["slots"][0];
        runs(seen, bundle.digest()) && slot["phase"] == "settled"
    });
}

/// A sensor that got no answer sends its sample again, and gets one of a later run than `killed`.
fn assert_answers(stage: &Stage, sensor: &Client, killed: u64) {
    let path = "/api/v1/devices/line-1/streams";
    stage.wait_for(path, "an answer of the new run", |streams| {
        sensor.plant(Publish::new("press/1", SAMPLE));
        let is = |stream: &Value| {
            stream["stream"] == "results"
                && stream["boot"].as_u64() > Some(killed)
                && stream["records"].as_u64() > Some(0)
        };
        streams.as_array().is_some_and(|streams| streams.iter().any(is))
    });
}

fn wish(stage: &Stage, bundle: &Bundle) {
    let body = json!({ "bundle": bundle.digest(), "allow_downgrade": true });
    let path = "/api/v1/devices/line-1/desired/main";
    match stage.api().call("PUT", path, Some(&body)) {
        Some((200, _)) => {}
        other => panic!("{path}: {other:?}"),
    }
}

/// A version whose probation forgives as many crashes as there may be: the kills are not its fault.
fn patient(version: &str) -> Bundle {
    let parts = shuttle::parts(version);
    let mut draft = parts.manifest.into_draft();
    (draft.update.crashes_max, draft.update.probation_s) = (PROBATION_CRASHES_MAX, 1);
    draft.update.probation_inferences = 1;
    let manifest = Manifest::try_from(draft).expect("the manifest keeps every rule");
    BundleBuilder { manifest, ..parts }.build().expect("it is well formed")
}

fn kills() -> usize {
    match env::var("SELVEDGE_FULL").as_deref() {
        Ok("1") => 200,
        _ => 8,
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        let given = env::var("SELVEDGE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or(now.as_nanos() as u64);
        println!("SELVEDGE_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
