//! Labels that come late, from end to end, as real processes: on a local topic of a device whose answers are not
//! sent, and over the API for one whose answers are. Both must end in the same scores.

use std::fs;

use selvedge_link::{LinkConfig, Publish};
use selvedge_tests::{
    api::number,
    client::Client,
    mosquitto::Mosquitto,
    shuttle,
    stage::{Stage, runs},
};
use serde_json::{Value, json};

/// How many samples each device answers.
const SAMPLES: u64 = 40;

/// Every so many samples are of the slice `night`.
const NIGHTS: u64 = 4;

#[test]
fn labels_on_a_local_topic_and_over_the_api_end_in_the_same_scores() {
    let Some(site) = Mosquitto::open("") else { return };
    let mut stage = Stage::embedded();
    let bundle = stage.publish(&shuttle::bundle("v1"));
    let tables = |device: &str, publish: bool| {
        format!(
            "[[source]]\nname = \"press\"\nkind = \"mqtt\"\nslot = \"main\"\n\
             topic = \"{device}/press\"\n[labels]\ntopic = \"{device}/labels\"\n\
             [results]\npublish = {publish}\n[local_broker]\nurl = \"{}\"\n",
            site.url()
        )
    };
    let visitor = Client::connect(LinkConfig::new(site.url(), "visitor"));
    for (device, publish) in [("line-1", false), ("line-2", true)] {
        stage.add_agent(device, &tables(device, publish));
        // Its probation goes on until there are samples.
        stage.assign(device, bundle);
        stage.wait_for_device(device, "a bundle that answers", |seen| runs(seen, bundle));
        stage.wait_for_agent_to_say(device, "the local broker is connected", 1);
        for row in rows() {
            visitor.plant(Publish::new(format!("{device}/press"), row));
        }
        stage.wait_for_device(device, "every sample answered", |seen| {
            seen["health"]["inferences"].as_u64() == Some(SAMPLES)
        });
    }

    // What is wrong is named, and costs nothing else.
    let say = |device: &str, label: &str| {
        visitor.plant(Publish::new(format!("{device}/labels"), label.as_bytes()));
    };
    say("line-1", r#"{"source": "press", "sample": 0, "class": "warm"}"#);
    stage.wait_for_event("line-1", "input-malformed", "no class \"warm\"");
    let long = format!(
        r#"{{"source": "press", "sample": 0, "class": 0, "slice": "{}"}}"#,
        "x".repeat(129)
    );
    let wrong = ["normal", r#"{"source": "oven", "sample": 0, "class": 0}"#, &long];
    wrong.iter().for_each(|label| say("line-1", label));
    stage.wait_for_device("line-1", "wrong labels counted", |seen| {
        seen["health"]["inputs_malformed"].as_u64() == Some(1 + wrong.len() as u64)
    });

    for sample in 0..SAMPLES {
        let label = json!({ "source": "press", "sample": sample, "class": "normal", "slice": slice(sample) });
        say("line-1", &label.to_string());
    }
    stage.wait_for_stream("line-1", 1, "labels", |stream| number(&stream["through"]) == SAMPLES);
    assert!(stage.api().rows("line-1", "results").is_empty(), "its answers are not sent");

    stage.wait_for_results("line-2", 1, SAMPLES);
    let results = stage.api().rows("line-2", "results");
    let label = |result: &Value| json!({ "id": result["result_id"], "class": "normal", "slice": slice(number(&result["sample"])) });
    let labels: Vec<Value> = results.iter().map(label).collect();
    let (status, taken) =
        stage.api().call("POST", "/api/v1/labels", Some(&labels.into())).expect("an answer");
    assert_eq!((status, &taken["matched"]), (200, &json!(SAMPLES)), "{taken}");

    let quality = |query: &str| stage.api().get(&format!("/api/v1/quality?bundle={bundle}{query}"));
    let right = results.iter().filter(|result| result["label"] == "normal").count();
    assert!((1..SAMPLES as usize).contains(&right), "the rows are of both classes");
    let one = quality("&device=line-1&by=slice");
    assert_eq!((number(&one["matched"]), number(&one["unmatched"])), (SAMPLES, 0));
    assert_eq!(one["all"]["classes"]["accuracy"], right as f64 / SAMPLES as f64);
    let other = quality("&device=line-2&by=slice");
    assert_eq!(one["all"], other["all"]);
    assert_eq!(one["groups"], other["groups"]);
    assert_eq!(one["groups"][1]["name"], "night");
    assert_eq!(number(&one["groups"][1]["scores"]["classes"]["labels"]), SAMPLES / NIGHTS);
    let both = quality("&by=device");
    assert_eq!(number(&both["matched"]), 2 * SAMPLES);
    assert_eq!(both["groups"][0]["scores"], both["groups"][1]["scores"]);

    labels_of_an_earlier_run(&mut stage, &say);
    let quality = |query: &str| stage.api().get(&format!("/api/v1/quality?bundle={bundle}{query}"));
    let one = quality("&device=line-1");
    assert_eq!(
        (number(&one["matched"]), number(&one["unmatched"])),
        (SAMPLES, 1),
        "nobody knows its answer"
    );
    let other = quality("&device=line-2");
    assert_eq!((number(&other["matched"]), number(&other["unmatched"])), (SAMPLES, 0));
    let named = &other["all"]["classes"]["by_class"][1];
    assert_eq!(
        (&named["name"], number(&named["labelled"])),
        (&json!("anomaly"), 1),
        "the last label counts"
    );
}

/// Both devices are given a label of an answer of their first run, which they have forgotten.
fn labels_of_an_earlier_run(stage: &mut Stage, say: &dyn Fn(&str, &str)) {
    for (device, sample) in [("line-1", SAMPLES), ("line-2", 0)] {
        stage.take_agent(device).kill();
        stage.start_agent(device);
        stage.wait_for_agent_to_say(device, "the local broker is connected", 2);
        say(
            device,
            &json!({ "id": format!("{device}/1/press/{sample}"), "class": "anomaly" }).to_string(),
        );
        stage.wait_for_stream(device, 2, "labels", |stream| number(&stream["through"]) == 1);
    }
}

fn slice(sample: u64) -> &'static str {
    if sample.is_multiple_of(NIGHTS) { "night" } else { "day" }
}

/// Samples of both classes, as JSON.
fn rows() -> Vec<String> {
    let text = fs::read_to_string(shuttle::replay_file()).expect("the recipe has its files");
    let rows = text.lines().skip(1).take(SAMPLES as usize);
    rows.map(|row| format!("[{}]", row.split(',').take(9).collect::<Vec<_>>().join(","))).collect()
}
