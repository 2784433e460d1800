//! The TUF client of `trust` against that of the crate `tough`: on the same repositories both must come
//! to the same, file by file and target by target.
//!
//! `oracle [SEEDS]` makes that many histories of repositories with the repository's side of `trust`, lets
//! both clients follow each up to some stage, breaks the next stage in one way out of [`Fault::ALL`], and
//! compares what the clients make of it; and then of a sound stage after it, since a broken stage must not
//! block the next. A disagreement prints its seed and fails.
//!
//! **Known differences**, which are no disagreement:
//! - tough reads every delegated role before it answers; ours reads those that a path leads to. Where a
//!   delegated role is broken, tough refuses the whole repository, and ours what would be found there.
//! - Where a snapshot lacks a delegated role, tough finds nothing there; ours refuses, as for any file that
//!   is missing.
//! - Our timestamps name the version of the root that they were signed under. A client of ours that trusts a
//!   newer root refuses such a timestamp, tough does not look at that member.
//! - A root that only adds a key of the timestamp's or snapshot's makes tough forget both files; ours only
//!   does where a key is taken away. No history here only adds one.
//! - In tough `*` also matches `/`, and a role that lists a target outside of its paths is an error. The
//!   repository's side does not publish such a role.

mod clients;
mod history;

use std::{collections::BTreeMap, env, process::ExitCode};

use selvedge_trust::UnixMillis;

use clients::{Ours, Tough, Verdict};
use history::{Fault, Files, History, Random};

/// How many histories are made if no number is given: every fault several times.
const SEEDS: u64 = 400;

fn main() -> ExitCode {
    let seeds = env::args().nth(1).map_or(Ok(SEEDS), |text| text.parse());
    let Ok(seeds) = seeds else {
        eprintln!("usage: oracle [SEEDS]");
        return ExitCode::from(2);
    };
    let mut met: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut disagreements = 0;
    for seed in 0..seeds {
        let trial = Trial::run(seed);
        let tally = met.entry(trial.fault.name()).or_default();
        tally.trials += 1;
        tally.refused += usize::from(trial.refused);
        for disagreement in trial.disagreements {
            disagreements += 1;
            eprintln!("seed {seed}, {}: {disagreement}", trial.fault.name());
        }
    }
    println!("{:<44} trials  refused by both", "fault");
    for (fault, Tally { trials, refused }) in &met {
        println!("{fault:<44} {trials:>6}  {refused:>15}");
    }
    let missing: Vec<_> =
        Fault::ALL.iter().filter(|fault| !met.contains_key(fault.name())).collect();
    if !missing.is_empty() {
        println!("never met, since there were few seeds: {missing:?}");
    }
    println!("{seeds} histories, {disagreements} disagreements");
    ExitCode::from(u8::from(disagreements > 0))
}

#[derive(Default)]
struct Tally {
    trials: usize,
    refused: usize,
}

struct Trial {
    fault: Fault,
    /// Whether both refused the broken stage, or what would be found in the role that is broken.
    refused: bool,
    disagreements: Vec<String>,
}

impl Trial {
    fn run(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let now = clients::now();
        let mut history = History::new(&mut random, now);
        let seen = random.below(history.stages.len());
        let seen = (random.below(4) > 0).then_some(seen);
        let (fault, broken) = history.broken_stage(&mut random, seen);
        let repaired = history.repaired_stage(&mut random);

        let mut ours = Ours::new(history.first_root());
        let mut tough = Tough::new(history.first_root());
        let mut trial = Self { fault, refused: false, disagreements: Vec::new() };
        let mut compare = |what: &str, files: &Files, fault: Fault, now: UnixMillis| {
            let paths = history.paths();
            let (ours, theirs) = (ours.follow(files, &paths, now), tough.follow(files, &paths));
            let verdicts = paths.iter().zip(ours.iter().zip(&theirs));
            let mut refused = false;
            for (path, (ours, theirs)) in verdicts {
                refused |= matches!((ours, theirs), (Verdict::Refused(_), Verdict::Refused(_)));
                if !fault.agree(path, ours, theirs) {
                    let said = format!("{what}, {path}: ours {ours:?}, tough {theirs:?}");
                    trial.disagreements.push(said);
                }
            }
            refused
        };
        if let Some(seen) = seen {
            compare("before", &history.stages[seen], Fault::None, now);
        }
        trial.refused = compare("broken", &broken, fault, now);
        compare("repaired", &repaired, Fault::None, now);
        trial
    }
}
