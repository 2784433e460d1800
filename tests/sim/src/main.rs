//! Runs many seeds, or replays one.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use clap::Parser;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use selvedge_sim::{Failure, FaultCounts, Options, Outcome, Simulator, commit};

/// Simulates devices, a broker and a fleet from seeds.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds to run at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Replay this seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "from", "jobs"])]
    seed: Option<u64>,
    /// Say what happens, step by step.
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Leave one sync out, which the simulation must find.
    #[arg(long)]
    planted_bug: bool,
    /// End after this many failures.
    #[arg(long, default_value_t = 10)]
    failures_max: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options { verbose: arguments.verbose, planted_bug: arguments.planted_bug };
    match arguments.seed {
        Some(seed) => replay(seed, options),
        None => run_many(&arguments, options),
    }
}

fn replay(seed: u64, options: Options) -> ExitCode {
    let outcome = Simulator::new(options).run(seed);
    match outcome {
        Ok(outcome) => {
            println!("seed {seed}: good after {} rounds", outcome.rounds);
            print_faults(&outcome.faults);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// What all jobs share.
struct Progress {
    next: AtomicU64,
    failures: AtomicU64,
    ended: AtomicBool,
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    outcome: Outcome,
    failures: Vec<Failure>,
}

fn run_many(arguments: &Arguments, options: Options) -> ExitCode {
    let began = Instant::now();
    let end = arguments.from + arguments.seeds;
    let progress = Progress {
        next: AtomicU64::new(arguments.from),
        failures: AtomicU64::new(0),
        ended: AtomicBool::new(false),
    };
    let work = |job: usize| {
        stay_on_one_processor(job);
        let (mut simulator, mut sum) = (Simulator::new(options), Sum::default());
        while !progress.ended.load(Ordering::Relaxed) {
            let seed = progress.next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            sum.seeds += 1;
            match simulator.run(seed) {
                Ok(outcome) => sum.outcome.add(&outcome),
                Err(failure) => {
                    println!("{failure}");
                    sum.failures.push(failure);
                    let failures = progress.failures.fetch_add(1, Ordering::Relaxed) + 1;
                    progress.ended.fetch_or(failures >= arguments.failures_max, Ordering::Relaxed);
                }
            }
        }
        sum
    };
    let sums: Vec<Sum> = thread::scope(|scope| {
        let work = &work;
        let jobs: Vec<_> =
            (0..arguments.jobs.max(1)).map(|job| scope.spawn(move || work(job))).collect();
        jobs.into_iter().map(|job| job.join().expect("a seed that panics is a failure")).collect()
    });
    report(&sums, began.elapsed().as_secs_f64())
}

/// Keeps this thread on one processor, and with it those that it starts. SQLite has a thread of its own, which takes
/// turns with this one; a turn costs several times as much between two processors.
fn stay_on_one_processor(job: usize) {
    let Ok(all) = sched_getaffinity(None) else { return };
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
    let Some(cpu) = allowed.get(job % allowed.len().max(1)) else { return };
    let mut one = CpuSet::new();
    one.set(*cpu);
    // Where that is not allowed, it is slower and no other.
    let _ = sched_setaffinity(None, &one);
}

fn report(sums: &[Sum], took_s: f64) -> ExitCode {
    let mut total = Outcome::default();
    sums.iter().for_each(|sum| total.add(&sum.outcome));
    let seeds: u64 = sums.iter().map(|sum| sum.seeds).sum();
    let failures: u64 = sums.iter().map(|sum| sum.failures.len() as u64).sum();
    print_faults(&total.faults);
    let per_second = seeds as f64 / took_s;
    println!(
        "{seeds} seeds in {took_s:.1} s ({per_second:.1} seeds/s), {} rounds, {} faults, {} updates \
         confirmed, {} records stored, {failures} failures, commit {}",
        total.rounds,
        total.faults.total(),
        total.updates_confirmed,
        total.records_stored,
        commit(),
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_faults(counts: &FaultCounts) {
    for (fault, count) in counts.iter() {
        println!("{count:>10}  {fault}");
    }
}
