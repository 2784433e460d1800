//! What one inference of a model costs, on one thread.
//!
//! The clock is the CPU time of this process, because other programs on the machine stretch the wall time. A sample is
//! at least 200 µs of repeated inferences, and the 10th percentile of the samples is reported, so that figures can be
//! set beside those of other runtimes that were measured the same way ([`peers`](super::peers)). It times the graph
//! alone, without pre- and post-processing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use selvedge_bundle::{DType, NamedTensor, TensorData};
use selvedge_runtime::desk::{self, BareModel};
use selvedge_runtime::{Limits, PlanSurvey};
use serde::{Deserialize, Serialize};

use super::{SplitMix, cpu_ns, peers, rounded};
use crate::data::read_file;
use crate::terminal::progress;
use crate::verify::open;

/// The least CPU time of one sample.
const SAMPLE_NS_MIN: u64 = 200_000;
/// The most inferences in one sample.
const REPEATS_MAX: u64 = 100;
/// The fewest samples, however long they take.
const SAMPLES_MIN: usize = 10;

/// The library that runs what integer programs do not.
const TRACT: &str = "tract 0.23.9";
/// Operations that move bytes, and compute nothing.
const COPIES: [&str; 5] = ["import", "export", "constant", "border", "copy"];

/// What is measured, and beside what.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// A bundle's folder, or an ONNX file
    #[arg(value_name = "BUNDLE|MODEL.onnx", required = true)]
    pub model: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// How long to measure; with --peers, in each round
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Where the random inputs begin
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Measure this runtime, tract alone, onnxruntime and LiteRT in turn, each in a process of its own
    #[arg(long)]
    pub peers: bool,
    /// The same model for LiteRT
    #[arg(long, value_name = "FILE", requires = "peers")]
    pub tflite: Option<PathBuf>,
    /// How often each takes its turn
    #[arg(long, default_value_t = 5, requires = "peers", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// The Python that has the other runtimes
    #[arg(long, value_name = "PATH", default_value = "python3", requires = "peers")]
    pub python: PathBuf,
    /// Who runs the graph
    #[arg(long, value_enum, default_value = "selvedge")]
    pub runtime: Runtime,
}

/// Who runs the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    /// As a device does: integer programs where the graph allows it, tract for the rest
    Selvedge,
    /// tract for everything
    Tract,
}

/// What was measured of one runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Its name and version.
    pub runtime: String,
    /// The 10th percentile of the samples.
    pub cpu_us_p10: f64,
    /// Their median.
    pub cpu_us_median: f64,
    /// How many there are.
    pub samples: usize,
    /// From bytes in memory, or a file, to a model that can run.
    pub load_ms: f64,
    /// The most memory that the process ever had.
    pub peak_rss_mb: f64,
    /// Where the time of integer programs goes, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Share>,
}

/// A kind of operation, and its part of an inference.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Share {
    /// Its name; `[copy]` moves bytes alone, `[other]` is what remains of the whole.
    pub operation: String,
    /// How many there are.
    pub count: usize,
    /// The shortest times of each, added up.
    pub us: f64,
}

/// Runs the command.
pub fn main(args: &ModelArgs) -> anyhow::Result<ExitCode> {
    let path = args.model.as_deref().expect("clap demands a model where there is no subcommand");
    ensure!(
        args.seconds > 0.0 && args.seconds <= 3600.0,
        "--seconds is more than 0 and at most 3600"
    );
    let onnx = if path.is_dir() { open(path)?.model().to_vec() } else { read_file(path)? };
    if args.peers {
        return peers::main(args, path, &onnx);
    }
    let measured = measured(&onnx, args, path)?;
    if args.json {
        println!("{}", serde_json::to_string(&measured)?);
    } else {
        println!("{}, {}", measured.runtime, path.display());
        println!(
            "  CPU time per inference  {:.2} µs (10th percentile), {:.2} µs (median of {})",
            measured.cpu_us_p10, measured.cpu_us_median, measured.samples
        );
        println!("  load                    {:.1} ms", measured.load_ms);
        println!("  peak memory             {:.1} MB", measured.peak_rss_mb);
        print_shares(&measured);
    }
    Ok(ExitCode::SUCCESS)
}

fn measured(onnx: &[u8], args: &ModelArgs, path: &Path) -> anyhow::Result<Measured> {
    let limits = Limits::default();
    let started = Instant::now();
    let model = match args.runtime {
        Runtime::Selvedge => BareModel::build(onnx, &limits),
        Runtime::Tract => BareModel::by_tract(onnx, &limits),
    };
    let model = model.with_context(|| format!("{} cannot run here", path.display()))?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let inputs = random_inputs(&model, args.seed);
    let samples_us = measure(&model, &inputs, Duration::from_secs_f64(args.seconds))?;
    let peak_rss_mb = peak_rss_mb().context("cannot read /proc/self/status")?;
    let cpu_us_p10 = samples_us[samples_us.len() / 10];
    let (runtime, operations) = match args.runtime {
        Runtime::Tract => (format!("{TRACT} alone"), Vec::new()),
        Runtime::Selvedge => {
            let plan = desk::bare_plan(onnx, &limits, || started.elapsed())
                .context("the model cannot be planned")?;
            (computed_by(&plan), shares(&plan, cpu_us_p10))
        }
    };
    Ok(Measured {
        runtime,
        cpu_us_p10: rounded(cpu_us_p10),
        cpu_us_median: rounded(samples_us[samples_us.len() / 2]),
        samples: samples_us.len(),
        load_ms: rounded(load_ms),
        peak_rss_mb: rounded(peak_rss_mb),
        operations,
    })
}

fn computed_by(plan: &PlanSurvey) -> String {
    match plan.programs.first() {
        None => format!("selvedge ({TRACT})"),
        Some(program) if plan.unlowered.is_empty() => format!("selvedge ({})", program.kernels),
        Some(program) => format!("selvedge ({}, {TRACT})", program.kernels),
    }
}

/// The operations by kind, the longest first, and what remains of `whole_us`.
fn shares(plan: &PlanSurvey, whole_us: f64) -> Vec<Share> {
    let mut kinds: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for operation in plan.programs.iter().flat_map(|program| &program.operations) {
        let name = if COPIES.contains(&operation.name) { "[copy]" } else { operation.name };
        let (count, us) = kinds.entry(name).or_default();
        *count += 1;
        *us += operation.time.as_secs_f64() * 1e6;
    }
    if kinds.is_empty() {
        return Vec::new();
    }
    let share = |(name, (count, us)): (&str, (usize, f64))| Share {
        operation: name.to_owned(),
        count,
        us: rounded(us),
    };
    let mut shares: Vec<Share> = kinds.into_iter().map(share).collect();
    shares.sort_by(|a, b| b.us.total_cmp(&a.us));
    let rest = whole_us - shares.iter().map(|share| share.us).sum::<f64>();
    shares.push(share(("[other]", (plan.unlowered.len(), rest))));
    shares
}

fn print_shares(measured: &Measured) {
    for Share { operation, count, us } in &measured.operations {
        let share = us / measured.cpu_us_p10 * 100.0;
        println!("    {operation:14} {count:4} {us:11.2} µs {share:6.1} %");
    }
}

/// CPU time per inference in µs, sorted.
fn measure(model: &BareModel, inputs: &[NamedTensor], time: Duration) -> anyhow::Result<Vec<f64>> {
    let timed = |repeats: u64| {
        let started = cpu_ns();
        for _ in 0..repeats {
            model.run(inputs.to_vec()).context("the model failed")?;
        }
        anyhow::Ok(cpu_ns() - started)
    };
    timed(1)?;
    let repeats = (SAMPLE_NS_MIN / timed(1)?.max(1) + 1).min(REPEATS_MAX);
    let bar = progress(usize::try_from(time.as_millis()).unwrap_or(usize::MAX), "measuring (ms)");
    let mut samples_us = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time || samples_us.len() < SAMPLES_MIN {
        samples_us.push(timed(repeats)? as f64 / 1e3 / repeats as f64);
        bar.set_position(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
    bar.finish_and_clear();
    samples_us.sort_by(f64::total_cmp);
    Ok(samples_us)
}

fn random_inputs(model: &BareModel, seed: u64) -> Vec<NamedTensor> {
    let mut random = SplitMix(seed);
    let mut tensor = |(name, dtype, shape): (&str, DType, Vec<usize>)| {
        let count = shape.iter().product();
        let data = match dtype {
            DType::F32 => TensorData::F32((0..count).map(|_| random.normal()).collect()),
            DType::I8 => TensorData::I8((0..count).map(|_| random.next() as i8).collect()),
            DType::U8 => TensorData::U8((0..count).map(|_| random.next() as u8).collect()),
            DType::I32 => TensorData::I32((0..count).map(|_| random.next() as i32).collect()),
            DType::I64 => TensorData::I64((0..count).map(|_| random.next() as i64).collect()),
        };
        NamedTensor::new(name, shape, data).expect("as many elements as the shape says")
    };
    model.inputs().map(&mut tensor).collect()
}

/// The most memory that this process ever had.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes / 1024.0)
}
