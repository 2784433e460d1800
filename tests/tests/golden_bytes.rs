//! Golden bytes of every wire version that was ever shipped, and what is refused politely.
//!
//! The files in `tests/golden/v<N>/` are payloads as version N wrote them. They are added to, never
//! edited: a test that fails here means that devices in the field would no longer be understood.
//! To write the files of a new message: `SELVEDGE_WRITE_GOLDEN=1 cargo test -p selvedge-tests --test golden_bytes`;
//! a file that exists is left as it is.

use std::{fmt::Debug, fs, path::PathBuf};

use selvedge_wire::{
    Batch, Boot, BundleOffer, CaptureFinished, CapturePiece, CaptureReason, CaptureRecord,
    CaptureRequest, Chunk, ChunkCodec, Comparison, Desired, Digest, DriftState, DriftStatus,
    DriftedStream, Error, Event, EventKind, Health, InferenceResult, LabelRecord, LabelledAnswer,
    Message, NodeId, Outcome, ProfileOrigin, ProfileRecord, Quantity, Reading, Record, Reported,
    Running, SIGNED_OVERHEAD_BYTES, SampleForm, Sequence, Signature, Signed, SiteReport, SlotPhase,
    SlotReport, Status, Stored, StoredThrough, Stream, TrustReport, Truth, VERSION, VERSION_OLDEST,
    WindowRange, decode, encode, signing_input,
};

#[test]
fn payloads_of_every_version_are_read_as_they_were_meant() {
    let mut faults = Vec::new();
    check("status", &status(), &mut faults);
    check("reported", &reported(), &mut faults);
    check("health", &health(), &mut faults);
    check("results", &results(), &mut faults);
    check("profiles", &profiles(), &mut faults);
    check("events", &events(), &mut faults);
    check("labels", &labels(), &mut faults);
    check("desired", &Desired { document: b"{}".to_vec() }, &mut faults);
    check("captures", &captures(), &mut faults);
    check("stored", &stored(), &mut faults);
    check("request", &request(), &mut faults);
    check("offer", &BundleOffer { index: vec![1, 2, 3] }, &mut faults);
    check("signed", &signed(), &mut faults);
    check("chunk", &Chunk { codec: ChunkCodec::Zstd, bytes: vec![9; 5] }, &mut faults);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_is_signed_is_the_same_in_every_build() {
    let context = b"selvedge signed message\0".as_slice();
    let expected = [context, &[3, 0, 0, 0], b"a/b", &[2, 7]].concat();
    assert_eq!(signing_input("a/b", &[2, 7]), expected);
    let body = vec![0; 100 * 1024];
    let len = encode(&Signed { body: body.clone(), ..signed() }).len();
    assert!(len <= body.len() + SIGNED_OVERHEAD_BYTES, "{len}");
}

#[test]
fn a_version_that_is_not_known_is_named_and_nothing_of_it_is_read() {
    let mut payload = encode(&status());
    for met in [0, VERSION + 1, u8::MAX] {
        payload[0] = met;
        assert_eq!(decode::<Status>(&payload), Err(Error::Version { met }));
    }
}

#[test]
fn every_cut_of_a_payload_is_refused() {
    let payload = encode(&results());
    for len in 0..payload.len() {
        assert!(decode::<Batch<InferenceResult>>(&payload[..len]).is_err(), "cut to {len} bytes");
    }
    let longer = [payload.as_slice(), &[0]].concat();
    assert_eq!(decode::<Batch<InferenceResult>>(&longer), Err(Error::TrailingBytes { count: 1 }));
}

fn check<M: Message + PartialEq + Debug>(name: &str, message: &M, faults: &mut Vec<String>) {
    for version in VERSION_OLDEST..=VERSION {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/v{version}/{name}.bin"));
        if version == VERSION
            && !path.exists()
            && std::env::var_os("SELVEDGE_WRITE_GOLDEN").is_some()
        {
            fs::write(&path, encode(message)).expect("the golden folder can be written");
        }
        match fs::read(&path) {
            Err(error) => faults.push(format!("{}: {error}", path.display())),
            Ok(payload) => match decode::<M>(&payload) {
                Ok(read) if read == *message => {}
                other => faults.push(format!("{}: read as {other:?}", path.display())),
            },
        }
    }
}

fn status() -> Status {
    Status {
        online: true,
        boot: Boot(3),
        agent_version: "0.1.0".into(),
        wire_oldest: 2,
        wire_newest: 2,
        hardware_class: "aarch64".into(),
    }
}

fn reported() -> Reported {
    let slot = |name: &str, phase, running, reason: Option<&str>| SlotReport {
        slot: name.parse().expect("the name is well formed"),
        phase,
        running,
        desired: Some(digest(2)),
        reason: reason.map(Into::into),
        comparison: None,
        drift: None,
        site: None,
    };
    let comparison = Comparison {
        samples: 200,
        failed: 1,
        disagreed: 7,
        shed: 2,
        latency_us_p95: 900,
        latency_us_p95_before: 1000,
    };
    let drifted =
        DriftedStream { name: "f3".into(), change: "higher".into(), since_ms: 1_800_000_000_000 };
    let drift =
        DriftStatus { state: DriftState::Drifted, uncalibrated: true, streams: vec![drifted] };
    let steady =
        DriftStatus { state: DriftState::Steady, uncalibrated: false, streams: Vec::new() };
    let watched = |name: &str, phase, running| SlotReport {
        comparison: Some(comparison),
        drift: Some(drift.clone()),
        site: Some(SiteReport { baseline: digest(3), drift: steady.clone() }),
        ..slot(name, phase, running, None)
    };
    let running = Running { bundle: digest(1), name: "shuttle".into(), version: "1.0.0".into() };
    let fetching = SlotPhase::Fetching { chunks_present: 1, chunks_total: 300 };
    Reported {
        boot: Boot(3),
        revision: 12,
        generation: 1 << 40,
        trust: TrustReport {
            root_version: 2,
            timestamp_version: 300,
            fresh_until_ms: 1_800_000_000_000,
            frozen: true,
            time_unverified: true,
        },
        slots: vec![
            slot("main", SlotPhase::Settled, Some(running.clone()), None),
            slot("second", fetching, None, None),
            slot("third", SlotPhase::Verifying, Some(running.clone()), None),
            slot("fourth", SlotPhase::Refused, None, Some("blob sha256:00 is truncated")),
            slot("fifth", SlotPhase::Trial, Some(running.clone()), None),
            watched(
                "sixth",
                SlotPhase::Shadow { samples: 200, samples_wanted: 1000 },
                Some(running.clone()),
            ),
            watched(
                "seventh",
                SlotPhase::Probation { inferences: 200, inferences_wanted: 1000 },
                Some(running),
            ),
        ],
    }
}

fn health() -> Health {
    Health {
        boot: Boot(3),
        uptime_s: 86_400,
        inferences: 1_000_000,
        inferences_failed: 1,
        inputs_malformed: 2,
        inputs_anomalous: 8,
        swaps: 3,
        sent_bytes: 4_000_000_000,
        received_bytes: 5,
        resident_bytes: 12 << 20,
        resident_bytes_peak: 13 << 20,
        spool_bytes: 6,
        records_dropped: 7,
    }
}

fn results() -> Batch<InferenceResult> {
    let result = |sample, outcome| InferenceResult {
        at_ms: 1_800_000_000_000,
        slot: "main".parse().expect("the name is well formed"),
        bundle: digest(1),
        source: "replay".into(),
        sample,
        latency_us: 123,
        outcome,
    };
    let records = vec![
        Record::One(result(0, Outcome::Class { index: 1, score: 0.75 })),
        Record::Dropped { covers: 40 },
        Record::One(result(41, Outcome::Values(vec![-1.5, f32::MAX]))),
        Record::One(result(42, Outcome::Failed("column 3 is not a number".into()))),
    ];
    Batch { boot: Boot(3), first: Sequence(1), records }
}

fn profiles() -> Batch<ProfileRecord> {
    let record = |origin, first, last| ProfileRecord {
        origin,
        windows: WindowRange { first, last },
        opened_ms: 1_800_000_000_000,
        closed_ms: 1_800_000_060_000,
        profile: vec![1, 2, 3],
    };
    let slot = "main".parse().expect("the name is well formed");
    let model = ProfileOrigin::Model { slot, bundle: digest(1) };
    let quantity = Quantity::TemperatureMilliCelsius;
    let latest = Reading { count: 9, uptime_ms: 9000, quantity, value: -40_000 };
    let node = ProfileOrigin::Node { node: NodeId(0x5e1f), latest };
    let records = vec![
        Record::One(record(model.clone(), 0, 0)),
        Record::Merged { covers: 2, value: record(model, 1, 2) },
        Record::One(record(node, 0, 0)),
    ];
    Batch { boot: Boot(3), first: Sequence(1), records }
}

fn events() -> Batch<Event> {
    let kinds = [
        EventKind::Started,
        EventKind::Swapped,
        EventKind::BundleRefused,
        EventKind::DesiredRefused,
        EventKind::InputMalformed,
        EventKind::SourceFailed,
        EventKind::NodeSeen,
        EventKind::RecordsDropped,
        EventKind::StateDamaged,
        EventKind::MetadataRefused,
        EventKind::Frozen,
        EventKind::Thawed,
        EventKind::TimeUnverified,
        EventKind::Confirmed,
        EventKind::RolledBack,
        EventKind::FleetDisbelieved,
        EventKind::Drifted,
        EventKind::DriftOver,
        EventKind::InputAnomalous,
        EventKind::SiteRefused,
    ];
    let event = |kind| Event {
        at_ms: 1_800_000_000_000,
        kind,
        slot: None,
        bundle: Some(digest(1)),
        detail: "one sentence".into(),
    };
    let records = kinds.map(|kind| Record::One(event(kind))).to_vec();
    Batch { boot: Boot(3), first: Sequence(1), records }
}

fn labels() -> Batch<LabelRecord> {
    let label = |sample, truth, outcome: Option<Outcome>| LabelRecord {
        at_ms: 1_800_000_100_000,
        boot: Boot(2),
        source: "camera".parse().expect("the name is well formed"),
        sample,
        truth,
        slice: (sample > 0).then(|| "night".parse().expect("the text is short")),
        answer: outcome.map(|outcome| LabelledAnswer {
            at_ms: 1_800_000_000_000,
            slot: "main".parse().expect("the name is well formed"),
            bundle: digest(1),
            outcome,
        }),
    };
    let name = Truth::Name("Rad Flow".parse().expect("the text is short"));
    let class = Outcome::Class { index: 1, score: 0.75 };
    let records = vec![
        Record::One(label(0, Truth::Class(1), Some(class))),
        Record::One(label(1, name, None)),
        Record::Dropped { covers: 3 },
        Record::One(label(5, Truth::Value(-1.5), Some(Outcome::Values(vec![-1.25])))),
    ];
    Batch { boot: Boot(3), first: Sequence(1), records }
}

fn captures() -> Batch<CaptureRecord> {
    let piece = |sample, form, reason, bytes| CapturePiece {
        request: 4,
        sent_bytes: 1 << 20,
        boot: Boot(2),
        source: "line".into(),
        sample,
        slot: "main".parse().expect("the name is well formed"),
        bundle: digest(1),
        at_ms: 1_800_000_000_000,
        reason,
        form,
        index: 0,
        bytes,
    };
    let row = SampleForm::Row { columns: 2 };
    let image = SampleForm::Image { shape: vec![2, 2, 1] };
    let finished = CaptureFinished {
        request: 4,
        sent: 2,
        sent_bytes: 1 << 20,
        left_out: 3,
        gone: 1,
        capturing: true,
    };
    let records = vec![
        CaptureRecord::Piece(piece(7, row, CaptureReason::Drifting, vec![0; 8])),
        CaptureRecord::Piece(piece(8, image, CaptureReason::Anomalous, vec![1, 2, 3, 4])),
        CaptureRecord::Finished(finished),
    ];
    let records = records.into_iter().map(Record::One).collect();
    Batch { boot: Boot(3), first: Sequence(1), records }
}

fn request() -> CaptureRequest {
    CaptureRequest {
        number: 4,
        slot: Some("main".parse().expect("the name is well formed")),
        bundle: Some(digest(1)),
        from_ms: 1,
        to_ms: u64::MAX,
        samples_max: 100,
        bytes_max: 1 << 22,
    }
}

fn stored() -> Stored {
    let streams = Stream::ALL
        .map(|stream| StoredThrough { boot: Boot(3), stream, through: Sequence(1 << 40) })
        .to_vec();
    Stored { streams }
}

fn signed() -> Signed {
    let signature = Signature::new(std::array::from_fn(|n| n as u8));
    Signed { body: encode(&stored()), signature }
}

fn digest(seed: u8) -> Digest {
    Digest([seed; Digest::BYTES])
}
