//! The trial of a bundle: a process of its own loads it and runs its golden vectors, with limits.
//!
//! A bundle that exhausts memory, hangs or crashes ends that process and nothing else. The agent starts
//! its own program again for it ([`TrialProgram`]), waits no longer than the bundle may take, and
//! puts what came of it into one sentence. The other side, [`try_here`], gives up what it does not need:
//! address space and processor time beyond the limits, a core file, and its priority.

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use clap::Args;
use rustix::process::{Resource, Rlimit, Signal};
use selvedge_bundle::{BUNDLE_BYTES_MAX, Bundle, Limits};
use selvedge_wire::Digest;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::{sleep, timeout},
};

use crate::{
    error::one_line,
    inference::LoadedModel,
    limits::{TRIAL_NICENESS, TRIAL_OUTPUT_BYTES_MAX, TRIAL_RETRY, TRIAL_STARTS_MAX},
    malformed::shortened,
    updates::{TrialLimits, bundle_dir},
};

/// The subcommand that the agent gives itself.
const TRIAL: &str = "trial";

/// What Rust's allocator says last when it is refused.
const OUT_OF_MEMORY: &str = "memory allocation of ";

/// How the agent starts itself for a trial.
#[derive(Clone, Debug)]
pub struct TrialProgram {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl TrialProgram {
    /// The program that runs now, even if an update has replaced its file. `words` are the arguments
    /// after which it takes the agent's.
    pub fn of_this_process(words: &[&str]) -> Self {
        let arguments = words.iter().copied().chain([TRIAL]).map(OsString::from).collect();
        Self { program: "/proc/self/exe".into(), arguments }
    }
}

/// What a trial is about.
#[derive(Clone, Debug, Args)]
pub struct TrialArgs {
    /// The state directory that keeps the bundle.
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// The bundle.
    #[arg(long, value_name = "DIGEST")]
    pub bundle: Digest,
    /// The most address space that the process may take.
    #[arg(long, value_name = "N")]
    pub memory_bytes_max: u64,
    /// The most processor time that the process may take; its parent waits as long.
    #[arg(long, value_name = "N")]
    pub cpu_s_max: u64,
}

impl TrialArgs {
    pub(crate) fn new(state_dir: &Path, bundle: Digest, limits: TrialLimits) -> Self {
        Self {
            state_dir: state_dir.into(),
            bundle,
            memory_bytes_max: limits.memory_bytes_max,
            cpu_s_max: limits.time_max.as_secs().max(1),
        }
    }

    fn arguments(&self) -> [OsString; 8] {
        [
            "--state-dir".into(),
            self.state_dir.clone().into(),
            "--bundle".into(),
            self.bundle.to_string().into(),
            "--memory-bytes-max".into(),
            self.memory_bytes_max.to_string().into(),
            "--cpu-s-max".into(),
            self.cpu_s_max.to_string().into(),
        ]
    }
}

/// What the child says on its standard output, as one line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// The model loads, and is right on its golden vectors.
    Passed,
    /// One sentence that says why the bundle must not run here.
    Unfit(String),
}

/// The child's side: limits itself, then opens the bundle, loads its model and runs its golden vectors.
pub(crate) fn try_here(trial: &TrialArgs) -> ExitCode {
    if let Err(error) = limit_self(trial) {
        eprintln!("cannot limit the trial: {error}");
        return ExitCode::FAILURE;
    }
    let line = serde_json::to_string(&judge(trial)).expect("a verdict is plain JSON");
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever asked is gone.
        Err(_) => ExitCode::FAILURE,
    }
}

fn limit_self(trial: &TrialArgs) -> io::Result<()> {
    let limit = |resource, current, maximum| {
        let limit = Rlimit { current: Some(current), maximum: Some(maximum) };
        rustix::process::setrlimit(resource, limit)
    };
    // An agent that is gone wants no answer.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    limit(Resource::Core, 0, 0)?;
    limit(Resource::As, trial.memory_bytes_max, trial.memory_bytes_max)?;
    // The soft limit's signal says what it was; the hard one's cannot be ignored.
    limit(Resource::Cpu, trial.cpu_s_max, trial.cpu_s_max + 1)?;
    // The samples of today come before the bundle of tomorrow, and so does the agent's life when the
    // machine runs out of memory. A system that has neither notion loses nothing.
    let _ = rustix::process::setpriority_process(None, TRIAL_NICENESS);
    let die_first = OpenOptions::new().write(true).open("/proc/self/oom_score_adj");
    let _ = die_first.and_then(|mut file| file.write_all(b"1000"));
    Ok(())
}

fn judge(trial: &TrialArgs) -> Verdict {
    let limits = Limits { bundle_bytes_max: BUNDLE_BYTES_MAX, model_bytes_max: BUNDLE_BYTES_MAX };
    let folder = trial.state_dir.join(bundle_dir(trial.bundle));
    let bundle = match Bundle::open(&folder, &limits) {
        Ok(bundle) => bundle,
        Err(error) => return Verdict::Unfit(one_line(&error)),
    };
    if bundle.digest() != trial.bundle {
        return Verdict::Unfit(format!("its folder has the bundle {}", bundle.digest()));
    }
    LoadedModel::load(&bundle).map_or_else(Verdict::Unfit, |_| Verdict::Passed)
}

/// The agent's side: starts the child, and waits for what comes of it.
///
/// # Errors
/// One sentence that says why the bundle must not run here.
pub(crate) async fn run_trial(program: &TrialProgram, trial: &TrialArgs) -> Result<(), String> {
    let time = Duration::from_secs(trial.cpu_s_max);
    let mut starts = 0;
    loop {
        starts += 1;
        match timeout(time, run_child(program, trial)).await {
            Ok(Ok(end)) => return end.verdict(trial),
            // A machine that is short of processes or memory says nothing about the bundle.
            Ok(Err(error)) if starts < TRIAL_STARTS_MAX => {
                tracing::warn!("the trial of {} waits: {error}", trial.bundle);
                sleep(TRIAL_RETRY).await;
            }
            Ok(Err(error)) => return Err(format!("its trial could not be started: {error}")),
            // The child was killed with the future that waited for it.
            Err(_) => return Err(format!("its trial took longer than {} s", trial.cpu_s_max)),
        }
    }
}

/// How the child ended.
struct ChildEnd {
    status: ExitStatus,
    output: Vec<u8>,
    complaint: String,
}

async fn run_child(program: &TrialProgram, trial: &TrialArgs) -> io::Result<ChildEnd> {
    let mut command = Command::new(&program.program);
    command.args(&program.arguments).args(trial.arguments()).arg0("selvedge-agent");
    command.env("RUST_BACKTRACE", "0").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let piped = "it was asked for";
    let stdout = child.stdout.take().expect(piped);
    let stderr = child.stderr.take().expect(piped);
    let (output, complaint) = tokio::try_join!(read_some(stdout), read_some(stderr))?;
    let status = child.wait().await?;
    Ok(ChildEnd { status, output, complaint: String::from_utf8_lossy(&complaint).into_owned() })
}

/// Reads as much as is of interest, and closes: a child that says more must not wait for its reader.
async fn read_some(pipe: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.take(TRIAL_OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

impl ChildEnd {
    fn verdict(&self, trial: &TrialArgs) -> Result<(), String> {
        if !self.complaint.is_empty() {
            tracing::debug!("the trial of {} says: {}", trial.bundle, self.complaint);
        }
        match (self.status.signal(), serde_json::from_slice(&self.output)) {
            (None, Ok(Verdict::Passed)) => Ok(()),
            (None, Ok(Verdict::Unfit(reason))) => Err(reason),
            (None, Err(_)) => {
                let last = self.complaint.lines().last().unwrap_or("it said nothing");
                Err(format!("its trial ended without a verdict ({}): {last}", self.status))
            }
            (Some(signal), _) => Err(self.reason_of(signal, trial)),
        }
        .map_err(|reason| shortened(&reason))
    }

    fn reason_of(&self, signal: i32, trial: &TrialArgs) -> String {
        let is = |known: Signal| known.as_raw() == signal;
        if is(Signal::ABORT) && self.complaint.contains(OUT_OF_MEMORY) {
            let memory = trial.memory_bytes_max;
            return format!("its trial ran out of memory: it may take {memory} bytes");
        }
        if is(Signal::XCPU) {
            let time = trial.cpu_s_max;
            return format!("its trial took more than {time} s of processor time");
        }
        if is(Signal::KILL) {
            return "its trial was killed, as the system does when memory is short".to_owned();
        }
        format!("its trial crashed: {}", self.status)
    }
}
