//! `selvedge bench`: what one inference costs, here and in other runtimes ([`model`]); `selvedge bench drift`: how well
//! drift is found ([`drift`]).

mod drift;
mod model;
mod peers;

use std::process::ExitCode;

use rustix::time::{ClockId, clock_gettime};

/// Measures the CPU time of one inference, on one thread, or how well drift is found
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    model: model::ModelArgs,
}

/// What else is measured.
#[derive(Debug, clap::Subcommand)]
enum Other {
    Drift(drift::DriftArgs),
}

/// Runs the command.
pub fn main(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args.other {
        Some(Other::Drift(args)) => drift::main(args),
        None => model::main(&args.model),
    }
}

/// CPU time of this process.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
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

/// To two digits behind the point.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
