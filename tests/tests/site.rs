//! A site that differs from the lab, from end to end, as real processes: the lab's verdict is *drifted* and stays
//! so; what is usual at the site is recorded, looked at and approved; from then on the site's verdict is *steady*,
//! until there is a fault. An alarm that somebody knows of is marked and not counted until the mute ends by itself.

use std::fs;

use selvedge_bundle::Bundle;
use selvedge_tests::{
    api::number,
    line::{RATE_HZ, bundle, shuffled_rows, write},
    stage::{Stage, replay},
};
use serde_json::{Value, json};

const DEVICE: &str = "line-1";
const SITE: &str = "/api/v1/devices/line-1/slots/main/site";

/// The site: its third channel is higher than the lab's by about one standard deviation.
const DIFFERS: (usize, f32) = (2, 8.0);

/// The fault: the first channel is higher by more than one.
const FAULT: (usize, f32) = (0, 15.0);

/// Enough windows for a site baseline that is calibrated.
const WINDOWS: usize = 36;

/// How long the mute of the test holds.
const MUTE_MS: u64 = 10_000;

/// A device at a site that differs, once the lab's detectors have said so.
fn at_the_site() -> (Stage, Bundle, Vec<Vec<f32>>) {
    let mut stage = Stage::embedded();
    let rows = shuffled_rows();
    let bundle = bundle(&rows);
    let file = stage.folder().join("rows.csv");
    write(&file, &rows, &[DIFFERS]);
    stage.add_agent(DEVICE, &format!("{}[profile]\nwindow_s = 1\n", replay(&file, RATE_HZ, true)));
    let digest = stage.publish(&bundle);
    stage.deploy(DEVICE, digest);
    stage.wait_for_event(DEVICE, "drifted", "against the lab: f3 is ");
    (stage, bundle, rows)
}

#[test]
fn a_site_that_differs_is_judged_by_what_is_usual_there_and_a_fault_is_found() {
    let (mut stage, bundle, rows) = at_the_site();
    stage.wait_for("/api/v1/fleet", "an alarm that counts", |fleet| fleet["drifting"] == 1);
    stage.wait_for_stream(DEVICE, 1, "profiles", |stream| {
        number(&stream["records"]) >= WINDOWS as u64 + 2
    });
    let site = record(&stage);
    assert_eq!(
        call(
            &stage,
            "POST",
            &format!("{SITE}/approve"),
            json!({
                "digest": bundle.digest(), "by": "ada",
            })
        )
        .0,
        409,
        "that is not what was looked at"
    );
    let approval = json!({ "digest": site, "by": "ada" });
    let (status, answer) = call(&stage, "POST", &format!("{SITE}/approve"), approval);
    assert_eq!(status, 200, "{answer}");

    let seen = stage.wait_for_device(DEVICE, "both verdicts", |seen| {
        let slot = &seen["reported"]["slots"][0];
        slot["site"]["baseline"] == site && slot["site"]["drift"]["state"] == "steady"
    });
    assert_eq!(seen["reported"]["slots"][0]["drift"]["state"], "drifted", "the lab's stays");
    assert_eq!(seen["desired"]["assignments"]["main"]["site"], site);
    let fleet = stage.api().get("/api/v1/fleet");
    assert_eq!((&fleet["drifting"], &fleet["drifting_muted"]), (&json!(0), &json!(0)));
    let drift = drift(&stage, &bundle);
    assert_eq!(drift["origins"][0]["verdict"]["state"], "drifted");
    assert_eq!(drift["origins"][0]["site"]["verdict"]["state"], "steady", "{drift:#}");
    let approved = stage.api().get(SITE)["approved"].clone();
    assert_eq!((&approved["named"], &approved["in_use"]), (&json!(true), &json!(true)));

    // A real fault, after a power cut.
    stage.take_agent(DEVICE).kill();
    write(&stage.folder().join("rows.csv"), &rows, &[DIFFERS, FAULT]);
    stage.start_agent(DEVICE);
    let event = stage.wait_for_event(DEVICE, "drifted", "against the site: f1 is ");
    let detail = event["detail"].as_str().expect("it has one");
    // Which guess has the most evidence is a matter of chance.
    assert!(!detail.contains(','), "no other channel: {detail}");
    stage.wait_for("/api/v1/fleet", "the fault counts", |fleet| fleet["drifting"] == 1);
    let found = &drift_until(&stage, &bundle)["origins"][0]["site"]["verdict"]["drifted"];
    assert_eq!((found[0]["stream"].as_str(), found[1].as_str()), (Some("f1"), None), "{found:#}");
    let events = stage.api().rows(DEVICE, "events");
    let bad = events
        .iter()
        .find(|event| event["kind"] == "site-refused" || event["kind"] == "state-damaged");
    assert_eq!(bad, None, "what was kept is whole");
    assert!(stage.device_folder(DEVICE).join("state/sites/main").is_file());
    mute_and_wait(&stage);

    // Without it, the device goes on with the lab's reference alone.
    let (status, answer) = call(&stage, "DELETE", SITE, Value::Null);
    assert_eq!(status, 200, "{answer}");
    stage.wait_for_device(DEVICE, "the lab's verdict alone", |seen| {
        let slot = &seen["reported"]["slots"][0];
        slot["site"].is_null() && slot["drift"]["state"] == "drifted"
    });
    assert!(fs::metadata(stage.device_folder(DEVICE).join("state/sites/main")).is_err());
}

/// Declares periods and looks at them; gives the digest of what can be approved.
fn record(stage: &Stage) -> Value {
    let closed = |profile: &Value| number(&profile["closed_ms"]);
    let profiles = stage.api().rows(DEVICE, "profiles");
    let (first, last) = (closed(&profiles[1]), closed(&profiles[WINDOWS]));
    let propose = |period: Value| call(stage, "POST", SITE, period);

    let (status, waiting) = propose(json!({ "hours": 1, "by": "ada" }));
    assert_eq!((status, &waiting["proposal"]["progress"]), (201, &json!("waiting")));
    let early = json!({ "digest": format!("sha256:{}", "0".repeat(64)), "by": "ada" });
    let (status, answer) = call(stage, "POST", &format!("{SITE}/approve"), early);
    let said = answer["error"].as_str().expect("an error is a sentence");
    assert!(status == 409 && said.contains("is not over"), "{status} {said}");

    let short = closed(&profiles[3]);
    let (_, short) = propose(json!({ "from_ms": first, "to_ms": short, "by": "ada" }));
    let reason = short["proposal"]["reason"].as_str().expect("it says what is missing");
    assert!(reason.contains("has 3 windows") && reason.contains("8 are needed"), "{reason}");

    let (status, ready) = propose(json!({ "from_ms": first, "to_ms": last, "by": "ada" }));
    let proposal = &ready["proposal"];
    assert_eq!((status, &proposal["progress"]), (201, &json!("ready")), "{ready:#}");
    assert_eq!(proposal["site"]["uncalibrated"], false, "{ready:#}");
    assert_eq!(proposal["differs"], json!(["f3"]));
    assert!(proposal["alarms"][0]["from_ms"].is_u64(), "the lab was in alarm: {ready:#}");
    assert_eq!(proposal["lab"]["streams"][2]["state"], "drifted");
    shows(stage, &["What is usual at this site", "ready to be looked at", "differs"]);
    proposal["site"]["digest"].clone()
}

/// Mutes the fault for a while: it is shown, marked and not counted, until that ends.
fn mute_and_wait(stage: &Stage) {
    let now_ms = number(&stage.api().get("/api/v1/devices/line-1")["last_seen_ms"]);
    let mute = json!({
        "scope": { "device": DEVICE, "stream": "f1", "reference": "site" },
        "until_ms": now_ms + MUTE_MS, "by": "ada", "note": "the pump is being replaced",
    });
    let (status, muted) = call(stage, "POST", "/api/v1/drift/mutes", mute);
    assert_eq!(status, 201, "{muted}");
    let seen = stage.api().get("/api/v1/devices/line-1");
    let site = &seen["reported"]["slots"][0]["site"]["drift"];
    assert_eq!((&site["state"], &site["muted"]), (&json!("drifted"), &json!(true)), "{site:#}");
    assert_eq!(site["streams"][0]["mute"]["id"], muted["id"]);
    let fleet = stage.api().get("/api/v1/fleet");
    assert_eq!((&fleet["drifting"], &fleet["drifting_muted"]), (&json!(0), &json!(1)));
    shows(stage, &["Against the site", "muted", "because the pump is being replaced"]);
    stage.wait_for("/api/v1/fleet", "the end of the mute", |fleet| fleet["drifting"] == 1);
    assert_eq!(stage.api().get("/api/v1/drift/mutes"), json!([]));
}

fn call(stage: &Stage, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = Some(body).filter(|body| !body.is_null());
    stage.api().call(method, path, body.as_ref()).expect("the fleet answers")
}

fn drift_path(bundle: &Bundle) -> String {
    format!("/api/v1/drift?bundle={}&device={DEVICE}", bundle.digest())
}

fn drift(stage: &Stage, bundle: &Bundle) -> Value {
    stage.api().get(&drift_path(bundle))
}

/// The fleet's own verdicts, once it has found the fault in the stored profiles.
fn drift_until(stage: &Stage, bundle: &Bundle) -> Value {
    stage.wait_for(&drift_path(bundle), "the fault in the replay", |drift| {
        drift["origins"][0]["site"]["verdict"]["state"] == "drifted"
    })
}

/// Looks for words on the device's page.
fn shows(stage: &Stage, words: &[&str]) {
    let page = stage.api().get("/devices/line-1/drift");
    let page = page.as_str().expect("a page is text");
    let missing: Vec<_> = words.iter().filter(|word| !page.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} is not on the page:\n{page}");
}
