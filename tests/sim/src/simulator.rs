//! Runs seeds, one after the other.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
};

use crate::{
    clock::START_MS,
    trace::Trace,
    world::{Outcome, World},
};

/// How a seed is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether it is said what happens.
    pub verbose: bool,
    /// Whether one sync of every device does nothing.
    pub planted_bug: bool,
}

/// A seed that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What must not have happened.
    pub what: String,
    /// How long the world had been going, in milliseconds.
    pub elapsed_ms: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, what, elapsed_ms } = self;
        let commit = commit();
        write!(
            f,
            "seed {seed} fails after {}.{:03} s at commit {commit}: {what}\n  replay: cargo run \
             --release -p selvedge-sim -- --seed {seed} --verbose",
            elapsed_ms / 1000,
            elapsed_ms % 1000
        )
    }
}

/// Runs seeds, one after the other, each in a world of its own.
pub struct Simulator {
    options: Options,
}

impl Simulator {
    /// A simulator.
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// Runs a seed.
    ///
    /// # Errors
    /// [`Failure`] if something happened that must not, or if what is simulated panicked.
    pub fn run(&mut self, seed: u64) -> Result<Outcome, Failure> {
        let mut elapsed_ms = 0;
        let run = || {
            let trace = Trace::new(self.options.verbose);
            let mut world = World::new(seed, trace, self.options.planted_bug)?;
            let outcome = world.run();
            elapsed_ms = world.around.now_ms - START_MS;
            outcome
        };
        let what = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(outcome)) => return Ok(outcome),
            Ok(Err(violation)) => violation.to_string(),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&it| it.to_owned()));
                format!("panicked: {}", text.unwrap_or_default())
            }
        };
        Err(Failure { seed, what, elapsed_ms })
    }
}

/// The commit of the working tree, for whoever replays a seed.
pub fn commit() -> String {
    let describe = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let known = describe.ok().filter(|output| output.status.success());
    known.map_or_else(
        || "unknown".into(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
