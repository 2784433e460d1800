//! `selvedge bench`: what one inference costs, on one thread; `selvedge bench drift`: how well drift is found ([`drift`]).
//!
//! The clock is the CPU time of this process, because other programs on the machine stretch the wall time. A sample is
//! at least 200 µs of repeated inferences, and the 10th percentile of the samples is reported, so that figures can be
//! set beside those of other runtimes that were measured the same way. It times the graph alone, without pre- and
//! post-processing.

mod drift;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::time::{ClockId, clock_gettime};
use selvedge_bundle::{DType, NamedTensor, TensorData};
use selvedge_runtime::Limits;
use selvedge_runtime::desk::BareModel;
use serde_json::json;

use crate::data::read_file;
use crate::terminal::progress;
use crate::verify::open;

/// The least CPU time of one sample.
const SAMPLE_NS_MIN: u64 = 200_000;
/// The most inferences in one sample.
const REPEATS_MAX: u64 = 100;
/// The fewest samples, however long they take.
const SAMPLES_MIN: usize = 10;

/// Measures the CPU time of one inference, on one thread, or how well drift is found
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    other: Option<Other>,
    /// A bundle's folder, or an ONNX file
    #[arg(value_name = "BUNDLE|MODEL.onnx", required = true)]
    model: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// How long to measure
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Where the random inputs begin
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What else is measured.
#[derive(Debug, clap::Subcommand)]
enum Other {
    Drift(drift::DriftArgs),
}

/// Runs the command.
pub fn main(args: BenchArgs) -> anyhow::Result<ExitCode> {
    if let Some(Other::Drift(args)) = args.other {
        return drift::main(args);
    }
    let path = args.model.expect("clap demands a model where there is no subcommand");
    ensure!(
        args.seconds > 0.0 && args.seconds <= 3600.0,
        "--seconds is more than 0 and at most 3600"
    );
    let onnx = if path.is_dir() { open(&path)?.model().to_vec() } else { read_file(&path)? };
    let started = Instant::now();
    let model = BareModel::build(&onnx, &Limits::default())
        .with_context(|| format!("{} cannot run here", path.display()))?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let inputs = random_inputs(&model, args.seed);
    let samples_us = measure(&model, &inputs, Duration::from_secs_f64(args.seconds))?;
    let (p10, median) = (samples_us[samples_us.len() / 10], samples_us[samples_us.len() / 2]);
    let rss_mb = peak_rss_mb().context("cannot read /proc/self/status")?;
    let runtime = "selvedge (tract 0.23.9)";
    if args.json {
        let report = json!({
            "runtime": runtime, "model": path, "cpu_us_p10": rounded(p10), "cpu_us_median": rounded(median),
            "samples": samples_us.len(), "load_ms": rounded(load_ms), "peak_rss_mb": rounded(rss_mb),
        });
        println!("{report}");
    } else {
        println!("{runtime}, {}", path.display());
        println!(
            "  CPU time per inference  {p10:.2} µs (10th percentile), {median:.2} µs (median of {})",
            samples_us.len()
        );
        println!("  load                    {load_ms:.1} ms");
        println!("  peak memory             {rss_mb:.1} MB");
    }
    Ok(ExitCode::SUCCESS)
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

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
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

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A standard normal value (Box and Muller 1958).
    fn normal(&mut self) -> f32 {
        let mut unit = || (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        let (radius, angle) = ((-2.0 * (1.0 - unit()).ln()).sqrt(), std::f64::consts::TAU * unit());
        (radius * angle.cos()) as f32
    }
}

/// The most memory that this process ever had.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes / 1024.0)
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
