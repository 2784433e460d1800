//! Captured samples from end to end, as real processes: what a device kept while its bundle drifted is asked for,
//! comes within the budget and once, and is read from the exports by pyarrow and NumPy as the source had it. A request
//! that is played again or forged does nothing.

use std::{collections::BTreeSet, fs};

use selvedge_bundle::{Bundle, BundleBuilder, Golden, Manifest, ManifestDraft};
use selvedge_link::Publish;
use selvedge_tests::{
    api::number,
    binary::{repository, wait_for},
    client::Client,
    interop::{python, run},
    keys::new_key,
    line::{bundle, shuffled_rows, write},
    shuttle,
    stage::{PATIENCE, Stage, id, replay, topic_name},
};
use selvedge_trust::MessageSigner;
use selvedge_wire::{
    Batch, Boot, CAPTURE_PIECE_BYTES, CaptureFinished, CapturePiece, CaptureReason, CaptureRecord,
    CaptureRequest, Digest, Record, SampleForm, Sequence, Stream, Topic, encode,
};
use serde_json::{Value, json};

/// Samples per second, and so about as many in each window of a second.
const RATE_HZ: u32 = 400;

/// The channel that is shifted, and by how much: about its standard deviation.
const CHANNEL: usize = 2;
const SHIFT: f32 = 8.0;

/// The samples that the device keeps.
const KEPT: usize = 60;

const CAPTURE: &str =
    "[capture]\nsamples_max = 60\nper_hour_max = 10000\n[profile]\nwindow_s = 1\n";

#[test]
fn what_was_kept_while_a_bundle_drifted_is_read_by_others_as_the_source_had_it() {
    let Some(python) = python() else { return };
    let mut stage = Stage::embedded();
    let rows = shuffled_rows();
    let bundle = stage.publish(&bundle(&rows));
    let file = stage.folder().join("rows.csv");
    write(&file, &rows, &[(CHANNEL, SHIFT)]);
    stage.add_agent("line-1", &format!("{}{CAPTURE}", replay(&file, RATE_HZ, true)));
    stage.deploy("line-1", bundle);
    stage.wait_for_event("line-1", "drifted", "f3 is ");
    wait_for_a_new_ring(&stage);
    // From here on nothing new is kept: the source has nothing that the model takes.
    stage.take_agent("line-1").stop();
    fs::write(&file, "nothing\n1\n").expect("the folder of the test can be written");
    stage.start_agent("line-1");

    let asked = ask(&stage, "line-1", &json!({ "slot": "main", "samples_max": 40 }));
    let finished = wait_until_finished(&stage, "line-1", asked);
    assert_eq!((asked, number(&finished["sent"]), number(&finished["left_out"])), (1, 40, 20));
    let listed = captures(&stage, "device=line-1&slot=main");
    assert_eq!(listed.len(), 40);
    let reasons: BTreeSet<&str> =
        listed.iter().filter_map(|capture| capture["reason"].as_str()).collect();
    assert!(reasons.contains("drifting"), "{reasons:?}");
    let newest = listed.iter().map(|capture| number(&capture["sample"])).max();
    stage.wait_for_results("line-1", 1, newest.expect("there are some") + 1);
    let results = stage.api().rows("line-1", "results");
    for capture in &listed {
        let same = |key: &str, result: &Value| capture[key] == result[key];
        let of_it =
            |result: &&Value| ["boot", "source", "sample"].iter().all(|key| same(key, result));
        assert!(results.iter().any(|result| of_it(&result)), "{capture} has its result");
    }

    let late = json!({ "id": listed[3]["result"], "class": "anomaly" });
    assert_eq!(stage.api().call("POST", "/api/v1/labels", Some(&late)).map(|it| it.0), Some(200));
    let read = export(&stage, &python, &format!("bundle={bundle}&device=line-1"));
    let names: Vec<String> = (1..=9).map(|place| format!("f{place}")).collect();
    let own = ["id", "device", "slot", "bundle", "at_ms", "reason", "label", "label_value"];
    let own = own.map(str::to_owned);
    assert_eq!(read["columns"], json!([own.to_vec(), names.clone()].concat()));
    assert_eq!(read["types"][4], "timestamp[ms, tz=UTC]");
    assert_eq!((&read["types"][8], &read["dtype"]), (&json!("float"), &json!("float32")));
    assert_eq!(read["shape"], json!([40, 9]));
    assert_eq!(read["table"]["id"], read["ids"]);
    for (place, capture) in listed.iter().enumerate() {
        assert_eq!(read["ids"][place], capture["result"]);
        assert_eq!(read["table"]["at_ms"][place], capture["at_ms"]);
        assert_eq!(read["table"]["reason"][place], capture["reason"]);
        assert_eq!(read["table"]["bundle"][place], bundle.to_string());
        let label = if place == 3 { json!("anomaly") } else { Value::Null };
        assert_eq!(read["table"]["label"][place], label);
        let row = &rows[number(&capture["sample"]) as usize % rows.len()];
        for (column, name) in names.iter().enumerate() {
            let expected = row[column] + if column == CHANNEL { SHIFT } else { 0.0 };
            for value in [&read["table"][name][place], &read["array"][place][column]] {
                assert_eq!(
                    value.as_f64().map(|it| it as f32),
                    Some(expected),
                    "{name} of {capture}"
                );
            }
        }
    }
    let page = stage.api().get("/devices/line-1/drift");
    let page = page.as_str().expect("it is a page");
    assert!(page.contains("Captured samples") && page.contains("format=parquet"), "{page}");
    let device = stage.api().get("/api/v1/devices/line-1");
    let health = &device["health"];
    assert!(number(&health["inputs_anomalous"]) <= number(&health["inferences"]), "{health}");

    // A request waits for a device that is away, and what came before does not come as another.
    stage.take_agent("line-1").kill();
    let asked = ask(&stage, "line-1", &json!({ "bundle": bundle.to_string() }));
    stage.start_agent("line-1");
    let finished = wait_until_finished(&stage, "line-1", asked);
    assert_eq!((asked, number(&finished["sent"]), number(&finished["gone"])), (2, 60, 0));
    let after = captures(&stage, "device=line-1");
    assert_eq!((after.len(), &after[..40]), (KEPT, &listed[..]));
    assert_eq!(number(&stage.stream("line-1", 3, "captures")["dropped"]), 0);

    assert_eq!(
        stage.api().call("DELETE", "/api/v1/devices/line-1/captures", None).map(|it| it.0),
        Some(204)
    );
    assert_eq!(captures(&stage, "device=line-1"), [] as [Value; 0]);
    assert_eq!(stage.api().get("/api/v1/devices/line-1/captures/requests"), json!([]));
    let path = format!("/api/v1/captures/export?bundle={bundle}&format=npy");
    refused(&stage, "GET", &path, None, 404, "no captured sample");
}

#[test]
fn wrong_requests_are_refused_and_a_device_that_keeps_nothing_says_so() {
    let mut stage = Stage::embedded();
    let bundle = stage.publish(&shuttle::bundle("v1"));
    stage.add_agent("line-1", &replay(&shuttle::replay_file(), 20, true));
    stage.deploy("line-1", bundle);
    let unknown = Digest([9; 32]);
    let path = "/api/v1/devices/line-1/captures/requests";
    for (body, status, named) in [
        (json!({ "slot": "nose" }), 404, "no slot nose; it has main"),
        (json!({ "bundle": unknown.to_string() }), 404, "there is no bundle"),
        (json!({ "samples_max": 0 }), 400, "samples_max is 0"),
        (json!({ "bytes_max": 0 }), 400, "bytes_max is 0"),
        (json!({ "bytes_max": 1_u64 << 40 }), 400, "more than the limit of"),
        (json!({ "from_ms": 6, "to_ms": 5 }), 400, "ends before it begins"),
        (json!({ "from_ms": -1 }), 422, "from_ms"),
        (json!({ "to": 5 }), 422, "unknown field `to`"),
    ] {
        refused(&stage, "POST", path, Some(&body), status, named);
    }
    let path = "/api/v1/devices/line-2/captures/requests";
    refused(&stage, "POST", path, Some(&json!({})), 404, "no device line-2");
    let export = "/api/v1/captures/export";
    for (query, status, named) in [
        (format!("bundle={bundle}&format=xlsx"), 400, "use parquet, npy or ids"),
        (format!("bundle={bundle}"), 400, "format"),
        ("format=npy".to_owned(), 400, "bundle"),
        (format!("bundle={unknown}&format=npy"), 404, "there is no bundle"),
        (format!("bundle={bundle}&format=npy&device=line-2"), 404, "no device line-2"),
        (format!("bundle={bundle}&format=npy&from_ms=6&to_ms=5"), 400, "ends before it begins"),
        (format!("bundle={bundle}&format=npy"), 404, "no captured sample"),
    ] {
        refused(&stage, "GET", &format!("{export}?{query}"), None, status, named);
    }
    let asked = ask(&stage, "line-1", &json!({}));
    let finished = wait_until_finished(&stage, "line-1", asked);
    assert_eq!((number(&finished["sent"]), &finished["capturing"]), (0, &json!(false)));
}

#[test]
fn a_request_that_is_played_again_or_forged_gets_nothing() {
    let Some(mut stage) = Stage::mosquitto() else { return };
    let rows = shuffled_rows();
    let bundle = stage.publish(&bundle(&rows));
    let file = stage.folder().join("rows.csv");
    // So far away that every sample is odd.
    write(&file, &rows, &[(CHANNEL, 100.0 * SHIFT)]);
    stage.add_agent("line-1", &format!("{}{CAPTURE}", replay(&file, 50, true)));
    stage.deploy("line-1", bundle);
    wait_for_a_new_ring(&stage);
    let mut thief = stage.thief();
    let topic = topic_name(&Topic::Captures(id("line-1")));
    stage.agent("line-1").pause();
    let first = ask(&stage, "line-1", &json!({ "samples_max": 3 }));
    let replayed = thief.retained(&topic);
    stage.agent("line-1").resume();
    wait_until_finished(&stage, "line-1", first);
    let request = |number| CaptureRequest {
        number,
        slot: None,
        bundle: None,
        from_ms: 0,
        to_ms: u64::MAX,
        samples_max: 60,
        bytes_max: 1 << 20,
    };
    let forged = encode(&new_key().sign_message(&topic, encode(&request(7))));
    let foreign = stage.said_by_fleet(&Topic::Captures(id("line-2")), encode(&request(8))).payload;
    for payload in [replayed, forged, foreign] {
        thief.plant(Publish::retained(topic.clone(), payload));
    }
    stage.wait_for_event(
        "line-1",
        "fleet-disbelieved",
        "a request for captured samples is not signed",
    );
    // What the device answers next is its answer to this: three samples and an end each time.
    let second = ask(&stage, "line-1", &json!({ "samples_max": 3 }));
    wait_until_finished(&stage, "line-1", second);
    assert_eq!(number(&stage.stream("line-1", 1, "captures")["through"]), 8);
}

#[test]
fn images_are_put_together_from_pieces_in_any_order_and_what_nobody_asked_for_is_not_taken() {
    let Some(python) = python() else { return };
    let stage = Stage::embedded();
    let bundle = stage.publish(&digits());
    let device = Client::connect(stage.add_device("eye"));
    let send = |first: u64, records: Vec<CaptureRecord>| {
        let records = records.into_iter().map(Record::One).collect();
        let batch = Batch { boot: Boot(1), first: Sequence(first), records };
        let topic = Topic::Stream(id("eye"), Stream::Captures);
        device.plant(stage.said_by("eye", &topic, encode(&batch)));
        stage.wait_for_stream("eye", 1, "captures", |stream| number(&stream["records"]) >= first);
    };
    let image = |request, sample: u64, height: u32| {
        let form = SampleForm::Image { shape: vec![height, 8] };
        let pixels: Vec<u8> = (0..height * 8).map(|at| at as u8 ^ sample as u8).collect();
        pixels
            .chunks(CAPTURE_PIECE_BYTES)
            .zip(0..)
            .map(|(bytes, index)| CapturePiece {
                request,
                sent_bytes: 64,
                boot: Boot(1),
                source: "camera".into(),
                sample,
                slot: "main".parse().expect("the name is well formed"),
                bundle,
                at_ms: 1_800_000_000_000 + sample,
                reason: CaptureReason::Anomalous,
                form: form.clone(),
                index,
                bytes: bytes.to_vec(),
            })
            .map(CaptureRecord::Piece)
            .collect::<Vec<_>>()
    };
    send(1, image(1, 0, 8));
    assert_eq!(captures(&stage, "device=eye"), [] as [Value; 0], "nobody asked");
    let asked = ask(&stage, "eye", &json!({}));
    let finished = CaptureFinished {
        request: asked,
        sent: 2,
        sent_bytes: 128,
        left_out: 0,
        gone: 0,
        capturing: true,
    };
    // The answer comes before the samples, and one of them twice.
    send(2, vec![CaptureRecord::Finished(finished)]);
    send(3, [image(asked, 2, 8), image(asked, 1, 8), image(asked, 2, 8)].concat());
    assert_eq!(captures(&stage, &format!("bundle={bundle}")).len(), 2);
    let read = export(&stage, &python, &format!("bundle={bundle}"));
    assert_eq!((&read["shape"], &read["dtype"]), (&json!([2, 8, 8]), &json!("uint8")));
    assert_eq!(read["ids"], json!(["eye/1/camera/2", "eye/1/camera/1"]));
    for (place, sample) in [(0, 2), (1, 1)] {
        let pixels: Vec<u8> = (0..64).map(|at| at ^ sample).collect();
        assert_eq!(read["array"][place], json!(pixels));
        assert_eq!(read["table"]["pixels"][place], json!(pixels));
    }
    assert_eq!(read["table"]["height"], json!([8, 8]));
    assert_eq!(read["table"]["channels"], json!([null, null]));

    // One of many pieces, the last first, and of another height: it comes together, and does not go with the rest.
    let mut tall = image(asked, 3, 10_000);
    tall.reverse();
    let last = tall.split_off(1);
    send(6, tall);
    assert_eq!(captures(&stage, "device=eye").len(), 2, "it is not whole");
    send(7, last);
    assert_eq!(captures(&stage, "device=eye").len(), 3);
    let path = format!("/api/v1/captures/export?bundle={bundle}&format=npy");
    refused(&stage, "GET", &path, None, 409, "do not go together");
    let path = format!("{path}&from_ms=1800000000003");
    assert!(stage.api().download(&path).ends_with(&[(10_000_u32 * 8 - 1) as u8 ^ 3]));
}

/// Asks a device for samples; the number of the request.
fn ask(stage: &Stage, device: &str, body: &Value) -> u64 {
    let path = format!("/api/v1/devices/{device}/captures/requests");
    match stage.api().call("POST", &path, Some(body)) {
        Some((201, answer)) => number(&answer["number"]),
        other => panic!("{path}: {other:?}"),
    }
}

/// Waits until a device has done with a request, and gives what it said then.
fn wait_until_finished(stage: &Stage, device: &str, request: u64) -> Value {
    let path = format!("/api/v1/devices/{device}/captures/requests");
    let newest =
        |requests: &Value| requests[0]["number"] == request && requests[0]["state"] == "finished";
    let requests = stage.wait_for(&path, &format!("the end of request {request}"), newest);
    requests[0]["finished"].clone()
}

/// The captured samples that a query takes.
fn captures(stage: &Stage, query: &str) -> Vec<Value> {
    let path = format!("/api/v1/captures?{query}&limit=1000");
    let Value::Array(captures) = stage.api().get(&path) else { panic!("{path} is a list") };
    captures
}

/// Waits until all that the device keeps was kept after this moment.
fn wait_for_a_new_ring(stage: &Stage) {
    let folder = stage.device_folder("line-1").join("state/capture");
    let newest = || -> usize {
        let names = fs::read_dir(&folder).into_iter().flatten().flatten();
        let numbers = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.max().unwrap_or(0)
    };
    let end = newest() + KEPT;
    wait_for("new samples in the ring", PATIENCE, || (newest() >= end).then_some(()));
}

/// What Python reads from the exports of the same samples.
fn export(stage: &Stage, python: &std::path::Path, query: &str) -> Value {
    let folder = stage.folder().join("exports");
    fs::create_dir_all(&folder).expect("the folder of the test can be written");
    for (format, file) in
        [("parquet", "samples.parquet"), ("npy", "samples.npy"), ("ids", "samples.csv")]
    {
        let bytes =
            stage.api().download(&format!("/api/v1/captures/export?{query}&format={format}"));
        fs::write(folder.join(file), bytes).expect("the folder of the test can be written");
    }
    let script = repository().join("tests/interop/captures_reader.py");
    let said = run(python, [script.as_path(), folder.as_path()]);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// A request must be refused with this status and these words.
fn refused(
    stage: &Stage,
    method: &str,
    path: &str,
    body: Option<&Value>,
    status: u16,
    named: &str,
) {
    let (met, answer) = stage.api().call(method, path, body).expect("the fleet answers");
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(met == status && error.contains(named), "{path} {body:?}: {met} {answer}");
}

/// The example model whose samples are images.
fn digits() -> Bundle {
    let folder = repository().join("models/meter-digits/v1");
    let text = fs::read_to_string(folder.join("manifest.toml")).expect("the recipe has its files");
    let mut draft: ManifestDraft = toml::from_str(&text).expect("the recipe writes manifests");
    (draft.model, draft.reference, draft.golden.dir) = (None, None, None);
    let manifest = Manifest::try_from(draft).expect("the recipe's manifest keeps every rule");
    let golden = Golden::from_npy(&manifest, |tensor| {
        Ok(fs::read(folder.join(format!("golden/{}.npy", tensor.name))).expect("it is there"))
    });
    let builder = BundleBuilder {
        model: fs::read(folder.join("model.onnx")).expect("the recipe has its files"),
        program: None,
        baseline: None,
        golden: golden.expect("the golden vectors fit the manifest"),
        card: None,
        manifest,
    };
    builder.build().expect("the recipe's files make a bundle")
}
