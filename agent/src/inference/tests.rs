use std::sync::{Mutex, atomic::AtomicU64};

use selvedge_bundle::{
    Baseline, CLASS_SHIFT_ANSWERS_MIN, Column, Manifest, NamedTensor, Order, ReferenceAnswer,
    ReferenceData, ReferenceEmbedding, RowSpec, SampleSpec, SiteRecord, TensorData,
};
use selvedge_runtime::ClassAnswer;
use selvedge_sketch::{DetectorPolicy, GatewayProfile};
use selvedge_wire::{DriftState, ProfileOrigin, ProfileRecord, Running};

use super::*;
use crate::{clock::Clock, limits::SHADOW_TIME_SHARE_MAX, record::decode_record};

/// A clock that moves only when told, but for 10 µs with every look.
#[derive(Default)]
struct TestClock {
    us: AtomicU64,
}

impl TestClock {
    fn pass(&self, time: Duration) {
        self.us.fetch_add(time.as_micros() as u64, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.us.load(Ordering::SeqCst) / 1000
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.us.fetch_add(10, Ordering::SeqCst))
    }
}

/// Answers with the class that is its name; rows that begin with a NaN fail.
struct Constant(usize);

impl Answerer for Constant {
    fn answer(&self, sample: &Sample) -> Result<Answer, String> {
        match sample {
            Sample::Row(row) if row.first().is_some_and(|value| value.is_nan()) => {
                Err("the value is no number".into())
            }
            _ => {
                let class = Some(ClassAnswer { index: self.0, label: None, score: 0.5 });
                Ok(Answer { outputs: Vec::new(), class, probabilities: None })
            }
        }
    }

    fn features(&self, sample: &Sample, values: &mut Vec<f32>) {
        values.clear();
        if let Sample::Row(row) = sample {
            values.extend_from_slice(row);
        }
    }
}

fn rows_of(names: &[&str]) -> SampleSpec {
    let column =
        |name: &&str| Column { name: (*name).into(), unit: String::new(), min: None, max: None };
    SampleSpec::Row(RowSpec { columns: names.iter().map(column).collect() })
}

fn model(number: u8) -> Box<LoadedModel> {
    // Two bins that meet in the middle.
    let features = [("a".to_owned(), [0.0, 1.999].repeat(number.into()))];
    let reference = ReferenceData { features: &features, ..ReferenceData::default() };
    let baseline = Baseline::build(&reference).expect("the reference is sound");
    Box::new(LoadedModel {
        running: Running {
            bundle: Digest([number; 32]),
            name: "constant".into(),
            version: "1.0.0".into(),
        },
        sample: rows_of(&["a"]),
        classes: Vec::new(),
        baseline: Some(Arc::new(baseline)),
        embedding: None,
        answerer: Box::new(Constant(number.into())),
    })
}

type Records = Arc<Mutex<Vec<(Stream, Vec<u8>)>>>;
type Observations = Arc<Mutex<Vec<(Digest, Observation)>>>;
type Judgements = Arc<Mutex<Vec<(Digest, Judged)>>>;

struct Bench {
    clock: Arc<TestClock>,
    counters: Arc<InferenceCounters>,
    records: Records,
    observations: Observations,
    judgements: Judgements,
    kept: Arc<Mutex<Option<Vec<u8>>>>,
    handle: SlotHandle,
    sent: AtomicU64,
}

impl Bench {
    fn new(publish_results: bool) -> Self {
        Self::resuming(publish_results, None)
    }

    /// A worker that goes on from what an earlier one kept.
    fn resuming(publish_results: bool, before: Option<Vec<u8>>) -> Self {
        let (clock, counters) = (Arc::new(TestClock::default()), Arc::default());
        let records = Records::default();
        let kept = records.clone();
        let observations = Observations::default();
        let observed = observations.clone();
        let (judgements, states) = (Judgements::default(), Arc::new(Mutex::new(before.clone())));
        let (judged, newest) = (judgements.clone(), states.clone());
        let settings = WorkerSettings {
            clock: clock.clone(),
            window: Duration::from_secs(60),
            publish_results,
            counters: Arc::clone(&counters),
            sink: Box::new(move |stream, record| {
                kept.lock().expect("no test panics here").push((stream, record));
            }),
            observer: Box::new(move |bundle, observation| {
                observed.lock().expect("no test panics here").push((bundle, observation));
            }),
            drift: DriftOutlet {
                kept: before,
                keep: Box::new(move |state| {
                    *newest.lock().expect("no test panics here") = Some(state);
                }),
                told: Box::new(move |bundle, said| {
                    judged.lock().expect("no test panics here").push((bundle, said));
                }),
            },
            stuck_samples: 50,
            answers_remembered: 8,
            capture: None,
        };
        let slot = "main".parse().expect("the name is well formed");
        let handle = SlotHandle::spawn(slot, settings).expect("the machine has threads");
        let (kept, sent) = (states, AtomicU64::new(0));
        Self { clock, counters, records, observations, judgements, kept, handle, sent }
    }

    async fn send(&self, value: f32) {
        let number = self.sent.fetch_add(1, Ordering::SeqCst);
        let sample = Sample::Row(vec![value]);
        let (source, read_for) = ("test".into(), Arc::new(rows_of(&["a"])));
        let request = SampleRequest { source, number, sample, read_for, reply: None };
        self.handle.answer(request).await.expect("the worker runs");
    }

    /// Sends a sample, and nothing else before the shadow has had it.
    async fn send_for_shadow(&self, value: f32, calls: &AtomicU64) {
        let before = calls.load(Ordering::SeqCst);
        self.send(value).await;
        let had = async {
            while calls.load(Ordering::SeqCst) == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), had).await.expect("the shadow has it");
    }

    /// Lets the worker finish what it was sent.
    async fn settle(&self) {
        let (reply, answered) = oneshot::channel();
        let sample = Sample::Row(vec![0.5]);
        let (source, read_for) = ("settle".into(), Arc::new(rows_of(&["nothing takes this"])));
        let request = SampleRequest { source, number: 0, sample, read_for, reply: Some(reply) };
        self.handle.answer(request).await.expect("the worker runs");
        assert!(answered.await.is_err(), "it is outdated");
    }

    /// What the worker says of a shadow or a probation when it has had its time.
    async fn observed(&self) -> Vec<(Digest, Observation)> {
        self.settle().await;
        self.clock.pass(OBSERVATION_INTERVAL);
        self.settle().await;
        self.settle().await;
        std::mem::take(&mut *self.observations.lock().expect("no test panics here"))
    }

    fn results(&self) -> Vec<InferenceResult> {
        self.of_stream(Stream::Results)
    }

    fn events(&self) -> Vec<Event> {
        self.of_stream(Stream::Events)
    }

    fn kept(&self) -> Vec<u8> {
        let kept = self.kept.lock().expect("no test panics here").clone();
        kept.expect("a bundle with a baseline has a state")
    }

    /// What was said last of the bundle that answers, against its reference.
    fn judged(&self) -> (Digest, DriftStatus) {
        let judgements = self.judgements.lock().expect("no test panics here");
        let (bundle, said) = judgements.last().expect("something was said");
        (*bundle, said.drift.clone().expect("a window was closed"))
    }

    /// What was said last against the site.
    fn judged_by_site(&self) -> Option<SiteReport> {
        let judgements = self.judgements.lock().expect("no test panics here");
        judgements.last().and_then(|(_, said)| said.site.clone())
    }

    /// Sends a window of samples that are as the reference but for `shift`, and closes it.
    async fn window(&self, shift: f32) {
        for number in 0..WINDOW {
            self.send(dealt(number) + shift).await;
        }
        // Time passes only when all are counted.
        self.settle().await;
        self.clock.pass(Duration::from_secs(61));
        self.settle().await;
    }

    fn profiles(&self) -> Vec<ProfileRecord> {
        self.of_stream(Stream::Profiles)
    }

    fn of_stream<T: serde::de::DeserializeOwned>(&self, wanted: Stream) -> Vec<T> {
        let records = self.records.lock().expect("no test panics here");
        let of_stream = records.iter().filter(|(stream, _)| *stream == wanted);
        of_stream.map(|(_, bytes)| decode_record(bytes).expect("our own record")).collect()
    }
}

fn read(profile: &ProfileRecord) -> GatewayProfile {
    GatewayProfile::decode(&profile.profile).expect("our own profile")
}

#[tokio::test]
async fn a_swap_loses_no_sample_and_fails_none() {
    let bench = Bench::new(true);
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    for n in 0..300 {
        if n % 100 == 50 {
            bench.handle.swap(Some(model(2 + (n / 100) as u8))).await.expect("the worker runs");
        }
        bench.send(0.5).await;
    }
    bench.handle.stop().await;
    let results = bench.results();
    assert!(results.iter().map(|result| result.sample).eq(0..300));
    assert_eq!(bench.counters.answered.load(Ordering::SeqCst), 300);
    assert_eq!(bench.counters.failed.load(Ordering::SeqCst), 0);
    assert_eq!(bench.counters.swaps.load(Ordering::SeqCst), 3);
    for (result, bundle) in [(&results[49], 1), (&results[50], 2), (&results[299], 4)] {
        assert_eq!(result.bundle, Digest([bundle; 32]));
        assert_eq!(result.outcome, Outcome::Class { index: bundle.into(), score: 0.5 });
    }
}

#[tokio::test]
async fn samples_that_were_read_for_other_columns_fail_in_no_model() {
    let bench = Bench::new(true);
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    bench.send(0.5).await;
    // The same number of columns, or the same samples with another range.
    for (number, sample, outdated) in [
        (2, rows_of(&["b"]), true),
        (3, rows_of(&["a", "b"]), true),
        (4, with_range(rows_of(&["a"])), false),
    ] {
        let other = LoadedModel { sample, ..*model(number) };
        bench.handle.swap(Some(Box::new(other))).await.expect("the worker runs");
        let before = bench.counters.outdated.load(Ordering::SeqCst);
        bench.send(f32::NAN).await;
        bench.send(0.5).await;
        bench.handle.swap(Some(model(1))).await.expect("the worker runs");
        let dropped = bench.counters.outdated.load(Ordering::SeqCst) - before;
        assert_eq!(dropped, if outdated { 2 } else { 0 }, "model {number}");
    }
    bench.handle.stop().await;
    assert_eq!(bench.counters.answered.load(Ordering::SeqCst), 2);
    assert_eq!(bench.counters.failed.load(Ordering::SeqCst), 1, "a NaN of the right shape");
    assert_eq!(bench.results().len(), 3);
}

fn with_range(mut sample: SampleSpec) -> SampleSpec {
    if let SampleSpec::Row(row) = &mut sample {
        row.columns[0].max = Some(9.0);
    }
    sample
}

#[tokio::test]
async fn each_bundle_has_profiles_of_its_own_and_every_sample_is_in_one() {
    let bench = Bench::new(false);
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    for value in [0.5, 1.5, f32::NAN] {
        bench.send(value).await;
    }
    bench.handle.swap(Some(model(2))).await.expect("the worker runs");
    bench.send(5.0).await;
    bench.handle.stop().await;
    assert!(bench.results().is_empty(), "results were not asked for");
    let profiles = bench.profiles();
    let origins: Vec<_> = profiles.iter().map(|profile| profile.origin.clone()).collect();
    let slot: SlotName = "main".parse().expect("the name is well formed");
    let expected = [1, 2]
        .map(|bundle| ProfileOrigin::Model { slot: slot.clone(), bundle: Digest([bundle; 32]) });
    assert_eq!(origins, expected);
    assert_eq!(profiles[1].windows.first, 1);
    let (first, second) = (read(&profiles[0]), read(&profiles[1]));
    assert_eq!((first.samples(), first.failed()), (3, 1));
    assert_eq!(first.features()[0].bins(), [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(first.features()[0].nan(), 1);
    assert_eq!(first.classes().classes()[1], 2);
    assert_eq!((second.samples(), second.features()[0].above()), (1, 1));
    assert_eq!(second.latency().total(), 1);
}

/// Gives the sample's value as one of two outputs.
struct Twofold;

impl Answerer for Twofold {
    fn answer(&self, sample: &Sample) -> Result<Answer, String> {
        let Sample::Row(row) = sample else { return Err("it takes rows".to_owned()) };
        let output = |name: &str, data| {
            NamedTensor::new(name, vec![1], data).expect("one value fills its shape")
        };
        let outputs = vec![
            output("steady", TensorData::I8(vec![3])),
            output("value", TensorData::F32(row.clone())),
        ];
        Ok(Answer { outputs, class: None, probabilities: None })
    }

    fn features(&self, _: &Sample, values: &mut Vec<f32>) {
        values.clear();
    }
}

#[test]
fn an_embedding_of_another_output_than_the_manifest_names_is_refused() {
    let manifest = |embedding: Option<&str>| {
        let output = |name: &str, width: u32| serde_json::json!({"name": name, "axes": ["batch", "f"], "shape": [-1, width], "dtype": "f32"});
        let manifest = serde_json::json!({
            "name": "twofold", "version": "1.0.0", "task": "feature-extraction",
            "description": "Two outputs.", "license": "CC0-1.0",
            "sample": {"kind": "row", "columns": [{"name": "a"}]},
            "inputs": [{"name": "x", "axes": ["batch", "f"], "shape": [-1, 1], "dtype": "f32"}],
            "outputs": [output("wide", 2), output("value", 1)],
            "golden": {"origin": "user", "framework": "by hand", "tolerance": {"wide": 0, "value": 0}},
            "drift": embedding.map_or(serde_json::json!({}), |name| serde_json::json!({"embedding": name})),
        });
        Manifest::from_json(manifest.to_string().as_bytes()).expect("it keeps every rule")
    };
    let vectors = [Some(TensorData::F32(vec![0.0])), Some(TensorData::F32(vec![1.0]))];
    let features = [("a".to_owned(), vec![0.0, 1.0])];
    let mut reference = ReferenceData { features: &features, ..ReferenceData::default() };
    let without = Baseline::build(&reference).expect("the reference is sound");
    reference.embedding = Some(ReferenceEmbedding { tensor: "value", vectors: &vectors });
    let baseline = Baseline::build(&reference).expect("the reference is sound");
    let of = |named, baseline| {
        let found = model::embedding_of(&manifest(named), baseline);
        found.map(|embedding| embedding.map(|embedding| embedding.output))
    };
    assert_eq!(of(Some("value"), Some(&baseline)), Ok(Some(1)));
    assert_eq!(of(Some("value"), Some(&without)), Ok(None), "what is not in it is not counted");
    assert_eq!(of(Some("value"), None), Ok(None));
    for named in [None, Some("wide")] {
        let refused = of(named, Some(&baseline)).expect_err("another output");
        assert!(refused.contains("\"value\" of 1 values is not the manifest's"), "{refused}");
    }
}

#[tokio::test]
async fn the_output_that_is_the_embedding_is_summed_up_in_its_windows() {
    let bench = Bench::new(false);
    let vectors: Vec<_> =
        (0..100).map(|row| Some(TensorData::F32(vec![row as f32 / 100.0]))).collect();
    let features = [("a".to_owned(), (0..100).map(|row| row as f32).collect())];
    let reference = ReferenceData {
        features: &features,
        embedding: Some(ReferenceEmbedding { tensor: "value", vectors: &vectors }),
        ..ReferenceData::default()
    };
    let baseline = Baseline::build(&reference).expect("the reference is sound");
    let embedding = baseline.embedding().expect("it was declared");
    let (codes, counter) = (embedding.codes, embedding.counter());
    let loaded = LoadedModel {
        baseline: Some(Arc::new(baseline)),
        embedding: Some(Embedding { output: 1, counter }),
        answerer: Box::new(Twofold),
        ..*model(1)
    };
    bench.handle.swap(Some(Box::new(loaded))).await.expect("the worker runs");
    for value in [0.25, f32::NAN, 0.5] {
        bench.send(value).await;
    }
    bench.handle.stop().await;
    let profile = read(&bench.profiles()[0]);
    let outputs = profile.outputs();
    let code = |value| i64::from(codes.code(value).expect("it is a number"));
    assert_eq!(outputs.embedding().sums(), [code(0.25) + code(0.5)]);
    assert_eq!((outputs.embedding().vectors(), profile.samples()), (2, 3));
    assert_eq!(
        (outputs.random_features().vectors(), outputs.random_features().sums().len()),
        (2, 64)
    );
}

#[tokio::test]
async fn a_window_closes_in_time_even_if_no_sample_comes() {
    let bench = Bench::new(false);
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    bench.send(0.5).await;
    // The swap comes behind the sample, so this waits for it.
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    assert_eq!(bench.profiles().len(), 1, "a swap closes a window");
    bench.send(0.5).await;
    let (reply, answered) = oneshot::channel();
    let sample = Sample::Row(vec![1.0]);
    let (source, read_for) = ("test".into(), Arc::new(rows_of(&["a"])));
    let request = SampleRequest { source, number: 9, sample, read_for, reply: Some(reply) };
    bench.handle.answer(request).await.expect("the worker runs");
    assert_eq!(answered.await, Ok(Outcome::Class { index: 1, score: 0.5 }));
    assert_eq!(bench.profiles().len(), 1, "the second window is still open");
    bench.clock.pass(Duration::from_secs(61));
    bench.handle.tick();
    bench.handle.stop().await;
    let profiles = bench.profiles();
    assert_eq!(profiles.len(), 2);
    assert_eq!((profiles[1].windows.first, read(&profiles[1]).samples()), (1, 2));
    assert!(profiles[1].closed_ms >= profiles[1].opened_ms + 60_000);
}

#[tokio::test]
async fn an_empty_slot_answers_nothing_and_counts_no_inference() {
    let bench = Bench::new(true);
    assert!(bench.handle.shape().borrow().is_none());
    bench.send(0.5).await;
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    assert!(bench.handle.shape().borrow().is_some());
    bench.handle.swap(None).await.expect("the worker runs");
    assert!(bench.handle.shape().borrow().is_none());
    bench.handle.stop().await;
    assert!(bench.results().is_empty() && bench.profiles().is_empty());
    assert_eq!(bench.counters.without_model.load(Ordering::SeqCst), 1);
    assert_eq!(bench.counters.swaps.load(Ordering::SeqCst), 0);
}

/// Does something before it answers with the class 1.
struct Then<F>(F);

impl<F: Fn() + Send> Answerer for Then<F> {
    fn answer(&self, sample: &Sample) -> Result<Answer, String> {
        (self.0)();
        Constant(1).answer(sample)
    }

    fn features(&self, _: &Sample, values: &mut Vec<f32>) {
        values.clear();
    }
}

fn model_then(number: u8, deed: impl Fn() + Send + 'static) -> Box<LoadedModel> {
    Box::new(LoadedModel { answerer: Box::new(Then(deed)), ..*model(number) })
}

/// Answers with the whole part of the sample as class, and counts its calls.
struct Floor(Arc<AtomicU64>);

impl Answerer for Floor {
    fn answer(&self, sample: &Sample) -> Result<Answer, String> {
        self.0.fetch_add(1, Ordering::SeqCst);
        match sample {
            Sample::Row(row) => Constant(row[0] as usize).answer(sample),
            Sample::Image { .. } => Err("it is no row".into()),
        }
    }

    fn features(&self, _: &Sample, values: &mut Vec<f32>) {
        values.clear();
    }
}

fn floor(number: u8, calls: &Arc<AtomicU64>) -> Box<LoadedModel> {
    Box::new(LoadedModel { answerer: Box::new(Floor(calls.clone())), ..*model(number) })
}

#[tokio::test]
async fn a_shadow_gets_the_same_samples_and_its_answers_are_only_counted() {
    let bench = Bench::new(true);
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    let calls = Arc::<AtomicU64>::default();
    bench.handle.shadow(Some(floor(2, &calls)), 100).await.expect("the worker runs");
    for value in [1.5, 1.7, 2.5, f32::NAN] {
        bench.send_for_shadow(value, &calls).await;
    }
    let (bundle, observation) = *bench.observed().await.last().expect("a second has passed");
    assert_eq!(bundle, Digest([2; 32]));
    let comparison = observation.comparison;
    let counted = (comparison.samples, comparison.failed, comparison.disagreed, comparison.shed);
    assert_eq!(counted, (4, 1, 1, 0));
    assert!(comparison.latency_us_p95 > 0 && comparison.latency_us_p95_before > 0);
    assert_eq!((observation.failed_before, observation.class_shift), (0.25, None));

    bench.handle.shadow(None, 0).await.expect("the worker runs");
    bench.send(0.5).await;
    assert!(bench.observed().await.is_empty(), "the shadow is over");
    bench.handle.stop().await;
    assert_eq!(bench.results().len(), 5);
    assert!(bench.results().iter().all(|result| result.bundle == Digest([1; 32])));
    let profiles: u32 = bench.profiles().iter().map(|profile| read(profile).samples()).sum();
    assert_eq!(profiles, 5, "the shadow is in no profile");
}

#[tokio::test]
async fn a_shadow_ends_with_the_samples_that_are_wanted_and_says_so_at_once() {
    let bench = Bench::new(false);
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    let calls = Arc::<AtomicU64>::default();
    bench.handle.shadow(Some(floor(2, &calls)), 3).await.expect("the worker runs");
    for _ in 0..3 {
        bench.send_for_shadow(1.5, &calls).await;
    }
    bench.send(1.5).await;
    bench.settle().await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let told = bench.observations.lock().expect("no test panics here").clone();
    assert_eq!(told.len(), 1, "no second has passed");
    assert_eq!((told[0].1.comparison.samples, told[0].1.comparison.disagreed), (3, 0));
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_shadow_that_panics_or_takes_other_samples_harms_nothing() {
    let bench = Bench::new(true);
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    let calls = Arc::<AtomicU64>::default();
    let counter = calls.clone();
    let panics = model_then(2, move || {
        counter.fetch_add(1, Ordering::SeqCst);
        panic!("this one is planted");
    });
    bench.handle.shadow(Some(panics), 100).await.expect("the worker runs");
    bench.send_for_shadow(0.5, &calls).await;
    let (_, observation) = *bench.observed().await.last().expect("a second has passed");
    assert_eq!((observation.comparison.samples, observation.comparison.failed), (1, 1));

    let other = Box::new(LoadedModel { sample: rows_of(&["b"]), ..*model(3) });
    bench.handle.shadow(Some(other), 100).await.expect("the worker runs");
    bench.send(0.5).await;
    let (_, observation) = *bench.observed().await.last().expect("a second has passed");
    assert_eq!((observation.comparison.samples, observation.comparison.shed), (0, 1));
    bench.handle.stop().await;
    assert_eq!(bench.results().len(), 2);
    assert_eq!(bench.counters.failed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_shadow_is_shed_while_other_samples_wait() {
    let bench = Bench::new(false);
    let (release, gate) = std::sync::mpsc::channel();
    let slow = model_then(1, move || gate.recv().expect("the test releases each sample"));
    bench.handle.swap(Some(slow)).await.expect("the worker runs");
    bench.handle.shadow(Some(model(1)), 100).await.expect("the worker runs");
    for _ in 0..10 {
        bench.send(0.5).await;
    }
    (0..10).for_each(|_| release.send(()).expect("the model waits"));
    let (_, observation) = *bench.observed().await.last().expect("a second has passed");
    let comparison = observation.comparison;
    assert_eq!(comparison.samples + comparison.shed, 10);
    assert!(comparison.shed >= 9, "only the last finds nobody waiting: {comparison:?}");
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_shadow_that_takes_more_than_its_share_of_time_is_shed() {
    let bench = Bench::new(false);
    let clock = bench.clock.clone();
    let slow = model_then(2, move || clock.pass(Duration::from_millis(100)));
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    bench.handle.shadow(Some(slow), 1000).await.expect("the worker runs");
    for _ in 0..200 {
        bench.send(0.5).await;
        bench.settle().await;
        bench.clock.pass(Duration::from_millis(100));
    }
    let (_, observation) = *bench.observed().await.last().expect("a second has passed");
    let Comparison { samples, shed, .. } = observation.comparison;
    assert_eq!(samples + shed, 200);
    // The shadow's own time passes too: of n samples, 100 ms each, (200 + n) / 10 s may be a share.
    let allowed = |n: u64| (200 + n) as f64 / 10.0 * SHADOW_TIME_SHARE_MAX + 1.0;
    assert!(samples as f64 / 10.0 <= allowed(samples) + 0.1, "{samples}");
    assert!(shed > 50, "{shed}");
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_watched_bundle_is_compared_with_what_answered_before() {
    let bench = Bench::new(false);
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    let enough = CLASS_SHIFT_ANSWERS_MIN;
    for _ in 0..enough {
        bench.send(0.5).await;
    }
    bench.send(f32::NAN).await;
    bench.handle.watch(true).await.expect("the worker runs");
    bench.send(0.5).await;
    let early = bench.observed().await;
    assert!(early.iter().all(|(bundle, _)| *bundle == Digest([1; 32])), "nothing new answers yet");
    bench.handle.swap(Some(model(2))).await.expect("the worker runs");
    for _ in 0..enough {
        bench.send(0.5).await;
    }
    bench.send(f32::NAN).await;
    bench.send(f32::NAN).await;
    let (bundle, observation) = *bench.observed().await.last().expect("a second has passed");
    assert_eq!(bundle, Digest([2; 32]));
    assert_eq!((observation.comparison.samples, observation.comparison.failed), (enough + 2, 2));
    assert_eq!(observation.class_shift, Some(1.0), "no class in common");
    assert!((observation.failed_before - 1.0 / (enough + 2) as f64).abs() < 1e-12);
    assert!(observation.comparison.latency_us_p95_before > 0);

    bench.handle.watch(false).await.expect("the worker runs");
    bench.send(0.5).await;
    assert!(bench.observed().await.is_empty(), "the watch is over");
    bench.handle.stop().await;
}

#[tokio::test]
async fn after_a_start_there_is_nothing_to_compare_with_and_errors_are_counted() {
    let bench = Bench::new(false);
    bench.handle.watch(true).await.expect("the worker runs");
    bench.handle.swap(Some(model(2))).await.expect("the worker runs");
    bench.send(f32::NAN).await;
    let (_, observation) = *bench.observed().await.last().expect("a second has passed");
    assert_eq!((observation.comparison.samples, observation.comparison.failed), (1, 1));
    assert_eq!(observation.comparison.latency_us_p95_before, 0);
    assert_eq!((observation.class_shift, observation.failed_before), (None, 0.0));
    bench.handle.stop().await;
}

/// The samples of a window in the tests of drift.
const WINDOW: usize = 100;

/// The values of a window: of a logistic distribution, whose deviation is 1.8, in the order of a shuffled deck.
fn dealt(number: usize) -> f32 {
    let share = ((number * 37 % WINDOW) as f32 + 0.5) / WINDOW as f32;
    (share / (1.0 - share)).ln()
}

/// A model whose reference are such values, in the order of time or not.
fn judged_model(number: u8, order: Order) -> Box<LoadedModel> {
    let rows = 40 * WINDOW;
    let features = [("flow".to_owned(), (0..rows).map(dealt).collect())];
    let answer = ReferenceAnswer { class: Some(number.into()), ..ReferenceAnswer::default() };
    let policy = DetectorPolicy::new(1_000, WINDOW as u16, 0, 2).expect("it is above the least");
    let reference = ReferenceData {
        features: &features,
        answers: &vec![answer; rows],
        class_count: usize::from(number) + 1,
        order,
        policy,
        ..ReferenceData::default()
    };
    let baseline = Baseline::build(&reference).expect("the reference is sound");
    Box::new(LoadedModel { baseline: Some(Arc::new(baseline)), ..*model(number) })
}

#[tokio::test]
async fn a_shift_is_told_with_the_feature_and_the_time_and_again_when_it_is_over() {
    let bench = Bench::new(false);
    bench.handle.swap(Some(judged_model(1, Order::Time))).await.expect("the worker runs");
    for _ in 0..20 {
        bench.window(0.0).await;
    }
    assert_eq!(bench.judged().1.state, DriftState::Steady);
    let shifted_at_ms = bench.clock.unix_ms();
    let mut windows = 0;
    while bench.events().iter().all(|event| event.kind != EventKind::Drifted) {
        bench.window(1.0).await;
        windows += 1;
        assert!(windows <= 4, "{:?}", bench.judged());
    }
    let (bundle, status) = bench.judged();
    assert_eq!((bundle, status.state), (Digest([1; 32]), DriftState::Drifted));
    assert_eq!((status.streams.len(), status.uncalibrated), (1, false));
    assert_eq!((&*status.streams[0].name, &*status.streams[0].change), ("flow", "higher"));
    let window_ms = 61_000;
    let since_ms = status.streams[0].since_ms;
    assert!((shifted_at_ms - window_ms..=shifted_at_ms + window_ms).contains(&since_ms));
    let drifted = bench.events();
    let drifted: Vec<_> = drifted.iter().filter(|event| event.kind == EventKind::Drifted).collect();
    assert_eq!((drifted.len(), drifted[0].bundle), (1, Some(Digest([1; 32]))));
    let since = selvedge_trust::UnixMillis(since_ms);
    assert_eq!(drifted[0].detail, format!("against the lab: flow is higher since {since}"));

    for _ in 0..40 {
        bench.window(0.0).await;
    }
    assert_eq!(bench.judged().1.state, DriftState::Steady);
    let over: Vec<_> =
        bench.events().into_iter().filter(|event| event.kind == EventKind::DriftOver).collect();
    assert_eq!(over.len(), 1);
    assert!(over[0].detail.contains(": flow is as the reference again"), "{}", over[0].detail);
    bench.handle.stop().await;
}

#[tokio::test]
async fn what_is_concluded_without_an_order_of_time_says_so() {
    let bench = Bench::new(false);
    bench.handle.swap(Some(judged_model(1, Order::None))).await.expect("the worker runs");
    for _ in 0..10 {
        bench.window(1.5).await;
    }
    bench.handle.stop().await;
    assert!(bench.judged().1.uncalibrated);
    let events = bench.events();
    let drifted = events.iter().find(|event| event.kind == EventKind::Drifted);
    let drifted = drifted.expect("it is nearly a deviation");
    assert!(drifted.detail.ends_with("(uncalibrated)"), "{}", drifted.detail);
}

/// A worker that was ended while the bundle of `judged_model(1)` drifts.
async fn drifted() -> Bench {
    let bench = Bench::new(false);
    bench.handle.swap(Some(judged_model(1, Order::Time))).await.expect("the worker runs");
    for _ in 0..6 {
        bench.window(1.0).await;
    }
    bench.handle.stop().await;
    assert_eq!(bench.judged().1.state, DriftState::Drifted);
    bench
}

#[tokio::test]
async fn a_restart_goes_on_with_what_was_known_and_does_not_tell_it_again() {
    let before = drifted().await;
    let bench = Bench::resuming(false, Some(before.kept()));
    bench.handle.swap(Some(judged_model(1, Order::Time))).await.expect("the worker runs");
    assert_eq!(bench.judged(), before.judged(), "it is said before the first window");
    bench.window(1.0).await;
    assert_eq!(bench.judged().1.streams, before.judged().1.streams);
    bench.handle.stop().await;
    let told: Vec<_> = bench.events().into_iter().map(|event| event.kind).collect();
    assert!(!told.contains(&EventKind::Drifted) && !told.contains(&EventKind::StateDamaged));
}

#[tokio::test]
async fn another_bundle_starts_afresh_and_so_does_the_first_when_it_comes_back() {
    let before = drifted().await;
    let bench = Bench::resuming(false, Some(before.kept()));
    for number in [2, 1] {
        bench.handle.swap(Some(judged_model(number, Order::Time))).await.expect("the worker runs");
        assert_ne!(bench.kept(), before.kept());
        bench.window(0.0).await;
        let (bundle, status) = bench.judged();
        assert_eq!((bundle, status.state), (Digest([number; 32]), DriftState::Steady));
    }
    bench.handle.stop().await;
    assert!(bench.events().iter().all(|event| event.kind != EventKind::StateDamaged));
}

#[tokio::test]
async fn a_damaged_state_starts_afresh_and_is_told() {
    let whole = drifted().await.kept();
    let mut damaged: Vec<Vec<u8>> =
        [0, 1, 4, whole.len() - 1].iter().map(|len| whole[..*len].to_vec()).collect();
    for place in [0, 5, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        damaged.push(flipped);
    }
    for state in damaged {
        let bench = Bench::resuming(false, Some(state));
        bench.handle.swap(Some(judged_model(1, Order::Time))).await.expect("the worker runs");
        bench.window(0.0).await;
        bench.handle.stop().await;
        assert_eq!(bench.judged().1.state, DriftState::Steady);
        let told: Vec<_> = bench.events().into_iter().map(|event| event.kind).collect();
        assert_eq!(told, [EventKind::StateDamaged]);
    }
}

#[tokio::test]
async fn a_value_that_is_no_number_is_told_with_its_source_and_feature() {
    let bench = Bench::new(false);
    bench.handle.swap(Some(judged_model(1, Order::Time))).await.expect("the worker runs");
    for value in [0.5, f32::NAN, f32::NAN, 0.5] {
        bench.send(value).await;
    }
    bench.handle.stop().await;
    let events = bench.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].kind, EventKind::InputAnomalous);
    assert_eq!(events[0].detail, "source test: flow is NaN");
    assert_eq!(bench.counters.anomalous.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_slot_remembers_its_newest_answers_where_results_are_not_sent() {
    let bench = Bench::new(false);
    let named = LoadedModel { classes: vec!["a".into(), "b".into()], ..*model(1) };
    bench.handle.swap(Some(Box::new(named))).await.expect("the worker runs");
    bench.send(0.5).await;
    bench.handle.swap(Some(model(2))).await.expect("the worker runs");
    for _ in 1..8 {
        bench.send(0.5).await;
    }
    let recall = async |number| bench.handle.recall("test", number).await;
    let first = recall(0).await.expect("eight are remembered");
    assert_eq!((first.by.bundle, first.by.classes.len()), (Digest([1; 32]), 2));
    assert_eq!(first.outcome, Outcome::Class { index: 1, score: 0.5 });
    let last = recall(7).await.expect("eight are remembered");
    assert_eq!(
        (last.by.bundle, last.outcome),
        (Digest([2; 32]), Outcome::Class { index: 2, score: 0.5 })
    );
    bench.send(0.5).await;
    assert_eq!(recall(0).await, None);
    assert_eq!(bench.handle.recall("settle", 7).await, None);
    assert!(bench.results().is_empty());
}

/// The windows of a site whose flow is higher by `shift`, in the bins of `judged_model`.
fn site_of(model: &LoadedModel, shift: f32) -> WantedSite {
    let baseline = model.baseline.as_ref().expect("it is judged");
    let mut profile = GatewayProfile::new(baseline.spec_id(), 1).expect("one feature fits");
    for number in 0..WINDOW {
        let value = dealt(number) + shift;
        let answer = model.answerer.answer(&Sample::Row(vec![value]));
        model.count(&mut profile, &[value], answer.as_ref().ok());
    }
    let record = SiteRecord {
        device: "line-1".parse().expect("the name is well formed"),
        slot: "main".parse().expect("the name is well formed"),
        bundle: model.running.bundle,
        from_ms: 1,
        to_ms: 2,
    };
    let site = SiteBaseline::build(baseline, record, &vec![profile; 40]);
    let site = Arc::new(site.expect("there are enough windows"));
    WantedSite { site, bundle: model.running.bundle }
}

/// Windows that are higher by `shift` until the site's detectors find them, few as they must be.
async fn found_at_site(bench: &Bench, shift: f32) -> SiteReport {
    for _ in 0..5 {
        bench.window(shift).await;
        let said = bench.judged_by_site().expect("there is a site");
        if said.drift.state == DriftState::Drifted {
            return said;
        }
    }
    panic!("it is not found: {:?}", bench.judged_by_site());
}

#[tokio::test]
async fn every_verdict_comes_twice_and_events_say_against_what() {
    let bench = Bench::new(false);
    let model = judged_model(1, Order::Time);
    let wanted = site_of(&model, 1.0);
    bench.handle.swap(Some(model)).await.expect("the worker runs");
    for _ in 0..6 {
        bench.window(1.0).await;
    }
    assert_eq!(bench.judged().1.state, DriftState::Drifted, "the site differs from the lab");
    bench.handle.judge_by_site(Some(wanted.clone())).await.expect("the worker runs");
    bench.settle().await;
    let said = bench.judged_by_site().expect("there is a site from now on");
    assert_eq!((said.baseline, said.drift.state), (wanted.site.digest(), DriftState::Insufficient));
    for _ in 0..6 {
        bench.window(1.0).await;
    }
    assert_eq!(bench.judged().1.state, DriftState::Drifted, "and stays so");
    let said = bench.judged_by_site().expect("there is a site");
    assert_eq!((said.drift.state, said.drift.uncalibrated), (DriftState::Steady, false));

    let said = found_at_site(&bench, 2.0).await;
    assert_eq!(&*said.drift.streams[0].name, "flow");
    let drifted = bench.events().into_iter().filter(|event| event.kind == EventKind::Drifted);
    let details: Vec<String> = drifted.map(|event| event.detail).collect();
    assert_eq!(details.len(), 2, "{details:?}");
    assert!(details[0].starts_with("against the lab: flow is "), "{details:?}");
    assert!(details[1].starts_with("against the site: flow is "), "{details:?}");

    bench.handle.judge_by_site(None).await.expect("the worker runs");
    bench.window(2.0).await;
    assert_eq!(bench.judged_by_site(), None);
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_with_what_was_known_at_the_site_too() {
    let before = Bench::new(false);
    let wanted = site_of(&judged_model(1, Order::Time), 1.0);
    before.handle.judge_by_site(Some(wanted.clone())).await.expect("the worker runs");
    before.handle.swap(Some(judged_model(1, Order::Time))).await.expect("the worker runs");
    let drifted = found_at_site(&before, 0.0).await;
    before.handle.stop().await;

    let resumed = Bench::resuming(false, Some(before.kept()));
    resumed.handle.judge_by_site(Some(wanted)).await.expect("the worker runs");
    resumed.handle.swap(Some(judged_model(1, Order::Time))).await.expect("the worker runs");
    assert_eq!(resumed.judged_by_site(), Some(drifted), "it is said before the first window");
    resumed.handle.stop().await;
    assert!(resumed.events().is_empty(), "nothing is news");

    // Another site starts afresh; what the lab's detectors know stays.
    let other = Bench::resuming(false, Some(before.kept()));
    let another = site_of(&judged_model(1, Order::Time), 0.5);
    other.handle.judge_by_site(Some(another)).await.expect("the worker runs");
    other.handle.swap(Some(judged_model(1, Order::Time))).await.expect("the worker runs");
    let said = other.judged_by_site().expect("there is a site");
    assert_eq!(said.drift.state, DriftState::Insufficient);
    assert_eq!(other.judged(), before.judged());
    other.handle.stop().await;
}

#[tokio::test]
async fn a_site_baseline_of_other_bins_is_refused_of_the_bundle_that_it_is_wanted_for_alone() {
    let bench = Bench::new(false);
    // `model` has other bins than `judged_model`.
    let foreign = site_of(&judged_model(1, Order::Time), 1.0);
    bench.handle.judge_by_site(Some(foreign.clone())).await.expect("the worker runs");
    bench.handle.swap(Some(model(2))).await.expect("the worker runs");
    bench.settle().await;
    assert!(bench.events().is_empty(), "the bundle that it is for has yet to come");
    bench.handle.swap(Some(model(1))).await.expect("the worker runs");
    bench.send(0.5).await;
    bench.handle.stop().await;
    let events = bench.events();
    assert_eq!((events.len(), events[0].kind), (1, EventKind::SiteRefused), "{events:?}");
    let digest = foreign.site.digest().to_string();
    assert!(events[0].detail.contains(&digest), "{}", events[0].detail);
    assert_eq!(
        bench.counters.answered.load(Ordering::SeqCst),
        1,
        "the bundle answers all the same"
    );
    assert_eq!(bench.judged_by_site(), None);
}
