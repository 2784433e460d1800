//! What an inference costs beside the model: a slot's worker counts 16 features, the class, the confidence and an
//! embedding of 32 values with 64 random Fourier features, and allocates nothing for it.
//!
//! What was allocated between the end of one answer and the beginning of the next, on the worker's own thread, is
//! the worker's: taking a sample over, counting it, watching it, remembering it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use selvedge_agent::{
    Answerer, Clock, DriftOutlet, Embedding, InferenceCounters, LoadedModel, SampleRequest,
    SlotHandle, SystemClock, WorkerSettings,
};
use selvedge_bundle::{
    Baseline, Column, NamedTensor, ReferenceAnswer, ReferenceData, ReferenceEmbedding, RowSpec,
    SampleSpec, TensorData,
};
use selvedge_runtime::{Answer, ClassAnswer, Sample};
use selvedge_wire::{Digest, Running};

const FEATURES: usize = 16;
const EMBEDDING: usize = 32;
const SAMPLES: u64 = 4_000;

/// When a thread finds nothing to do for the first time, its channel makes what it waits with. Whether that is while
/// samples are counted, the scheduler decides.
const ALLOCATED_MAX: u64 = 1;

/// The first samples allocate what the others use again.
const WARM_UP: u64 = 100;

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread asks of it.
struct Counting;

// SAFETY: all is handed on to the system's allocator as it came; the counter is a plain cell of the thread, which
// takes no memory itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + 1);
        // SAFETY: the caller keeps the rules of `alloc`, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the rules of `dealloc`, and the block is of the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + 1);
        // SAFETY: the caller keeps the rules of `realloc`, and the block is of the system's allocator.
        unsafe { System.realloc(pointer, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A model that notes what happened since its last answer.
struct Noting {
    clock: SystemClock,
    answers: AtomicU64,
    left: Mutex<(u64, Duration)>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Samples for which something was allocated.
    allocated: AtomicU64,
    /// Nanoseconds between answers.
    between: Mutex<Vec<u64>>,
}

impl Answerer for Noting {
    fn answer(&self, _: &Sample) -> Result<Answer, String> {
        let (allocated, now) = (ALLOCATED.get(), self.clock.elapsed());
        let (allocated_before, left) = *self.left.lock().expect("nothing panics here");
        let answers = self.answers.fetch_add(1, Ordering::SeqCst);
        if answers >= WARM_UP {
            let more = allocated - allocated_before;
            self.seen.allocated.fetch_add(u64::from(more > 0), Ordering::SeqCst);
            let between = now.saturating_sub(left).as_nanos();
            let mut all = self.seen.between.lock().expect("nothing panics here");
            all.push(u64::try_from(between).expect("it is short"));
        }
        let class = Some(ClassAnswer { index: 1, label: None, score: 0.75 });
        let outputs = NamedTensor::new("embedding", vec![EMBEDDING], vector(answers));
        let outputs = vec![outputs.expect("it has as many values as the shape says")];
        let answer = Answer { outputs, class, probabilities: Some(vec![0.25, 0.75]) };
        *self.left.lock().expect("nothing panics here") = (ALLOCATED.get(), self.clock.elapsed());
        Ok(answer)
    }

    fn features(&self, sample: &Sample, values: &mut Vec<f32>) {
        values.clear();
        if let Sample::Row(row) = sample {
            values.extend_from_slice(row);
        }
    }
}

fn columns() -> Vec<Column> {
    let column = |number| Column {
        name: format!("channel-{number}"),
        unit: String::new(),
        min: None,
        max: None,
    };
    (0..FEATURES).map(column).collect()
}

/// The embedding of a sample.
fn vector(number: u64) -> TensorData {
    let value = |place| ((number * 37 + place * 11) % 571) as f32 / 100.0;
    TensorData::F32((0..EMBEDDING as u64).map(value).collect())
}

fn baseline(with_embedding: bool) -> Baseline {
    let column = |column: Column| (column.name, (0..4000).map(|row| row as f32 / 7.0).collect());
    let features: Vec<(String, Vec<f32>)> = columns().into_iter().map(column).collect();
    let answer = |row: u32| ReferenceAnswer {
        class: Some(row % 2),
        confidence: Some(0.5 + row as f32 / 8000.0),
        correct: Some(!row.is_multiple_of(3)),
    };
    let answers: Vec<ReferenceAnswer> = (0..4000).map(answer).collect();
    let vectors: Vec<_> = (0..4000).map(|row| Some(vector(row))).collect();
    let embedding = ReferenceEmbedding { tensor: "embedding", vectors: &vectors };
    let reference = ReferenceData {
        features: &features,
        answers: &answers,
        class_count: 2,
        embedding: with_embedding.then_some(embedding),
        ..ReferenceData::default()
    };
    Baseline::build(&reference).expect("the reference is sound")
}

/// For how many samples the worker allocated, and the median of the nanoseconds that it took for a sample.
async fn measure(baseline: Option<Baseline>) -> (u64, u64) {
    let embedding = baseline.as_ref().and_then(Baseline::embedding);
    let embedding =
        embedding.map(|embedding| Embedding { output: 0, counter: embedding.counter() });
    let seen = Arc::<Seen>::default();
    let settings = WorkerSettings {
        clock: Arc::new(SystemClock::new()),
        window: Duration::from_secs(3600),
        publish_results: false,
        counters: Arc::<InferenceCounters>::default(),
        sink: Box::new(|_, _| ()),
        observer: Box::new(|_, _| ()),
        drift: DriftOutlet { kept: None, keep: Box::new(|_| ()), told: Box::new(|_, _| ()) },
        stuck_samples: 50,
        answers_remembered: 1000,
        capture: None,
    };
    let slot = "main".parse().expect("the name is well formed");
    let worker = SlotHandle::spawn(slot, settings).expect("the machine has threads");
    let sample = SampleSpec::Row(RowSpec { columns: columns() });
    let left = Mutex::new((0, Duration::ZERO));
    let (clock, answers) = (SystemClock::new(), AtomicU64::new(0));
    let model = LoadedModel {
        running: Running {
            bundle: Digest([1; 32]),
            name: "noting".into(),
            version: "1.0.0".into(),
        },
        sample: sample.clone(),
        classes: Vec::new(),
        baseline: baseline.map(Arc::new),
        embedding,
        answerer: Box::new(Noting { clock, answers, left, seen: seen.clone() }),
    };
    worker.swap(Some(Box::new(model))).await.expect("the worker runs");
    let (source, read_for) = (Arc::<str>::from("bench"), Arc::new(sample));
    for number in 0..SAMPLES {
        let value = |feature: usize| ((number * 37 + feature as u64 * 11) % 571) as f32;
        let request = SampleRequest {
            source: source.clone(),
            number,
            sample: Sample::Row((0..FEATURES).map(value).collect()),
            read_for: read_for.clone(),
            reply: None,
        };
        worker.answer(request).await.expect("the worker runs");
    }
    worker.stop().await;
    let mut between = seen.between.lock().expect("nothing panics here").clone();
    assert_eq!(between.len() as u64, SAMPLES - WARM_UP);
    between.sort_unstable();
    (seen.allocated.load(Ordering::SeqCst), between[between.len() / 2])
}

#[tokio::test]
async fn counting_features_a_class_a_confidence_and_an_embedding_allocates_nothing() {
    let (allocated_without, without_ns) = measure(None).await;
    let (allocated, with_ns) = measure(Some(baseline(false))).await;
    let (allocated_embedding, embedding_ns) = measure(Some(baseline(true))).await;
    println!(
        "{with_ns} ns a sample, {without_ns} ns without a baseline, {embedding_ns} ns with an embedding"
    );
    for allocated in [allocated_without, allocated, allocated_embedding] {
        assert!(allocated <= ALLOCATED_MAX, "for {allocated} samples something was allocated");
    }
}
