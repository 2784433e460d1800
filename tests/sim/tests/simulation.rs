//! A few hundred seeds, and a planted bug that must be found.

use std::thread;

use selvedge_sim::{Failure, Options, Simulator};

/// How many seeds are run; the long count is a command of its own.
const SEEDS: u64 = 300;

/// Within how many seeds a sync that does nothing must be found.
const SEEDS_TO_FIND_A_BUG_MAX: u64 = 500;

/// How many seeds are run at a time.
const JOBS: u64 = 2;

/// The failures of the seeds from 1 to `SEEDS`, half of them in each thread.
fn failures() -> Vec<Failure> {
    let run = |job| {
        let mut simulator = Simulator::new(Options::default());
        let seeds = (1..=SEEDS).filter(move |seed| seed % JOBS == job);
        seeds.filter_map(|seed| simulator.run(seed).err()).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let jobs: Vec<_> = (0..JOBS).map(|job| scope.spawn(move || run(job))).collect();
        jobs.into_iter().flat_map(|job| job.join().expect("a panic is a failure")).collect()
    })
}

#[test]
fn no_seed_fails() {
    let failures = failures();
    let lines: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} of {SEEDS} seeds fail\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn a_missing_sync_is_found() {
    let mut simulator = Simulator::new(Options { planted_bug: true, ..Options::default() });
    let found = (1..=SEEDS_TO_FIND_A_BUG_MAX).find_map(|seed| simulator.run(seed).err());
    let failure = found.expect("a sync that does nothing is found");
    println!("found by {failure}");
}
