//! The processes that the demo starts, and how each of them ends with it.
//!
//! Every part is this same binary. Its standard input is a pipe whose other end only the demo
//! holds: however the demo ends, also by SIGKILL, the pipe closes and the part leaves
//! ([`end_with_parent`]). A part has a process group of its own, so that a Ctrl-C reaches the demo
//! alone, which then stops the parts in order.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use super::wait::wait_for;

/// The words of a command line, of any kind of text or path.
macro_rules! words {
    ($($word:expr),+ $(,)?) => { [$(::std::ffi::OsStr::new($word).to_owned()),+] };
}
pub(super) use words;

/// How long parts may take to end after they were asked to.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// How long a command that does not go on by itself may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// How much of a part's log an error shows.
const LOG_LINES_SHOWN_MAX: usize = 12;
/// What a part exits with when the demo is gone.
const EXIT_PARENT_GONE: i32 = 3;

/// The processes that run, in the order in which they were started.
pub struct Parts {
    binary: PathBuf,
    logs: PathBuf,
    running: Vec<Part>,
}

struct Part {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Parts {
    /// No process yet; their logs will go to the folder `logs`.
    pub fn new(logs: PathBuf) -> Result<Self> {
        let binary = std::env::current_exe().context("cannot find this binary's own file")?;
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self { binary, logs, running: Vec::new() })
    }

    /// Starts `selvedge ARGUMENTS` as the part called `name`, which goes on until it is stopped.
    pub fn start(&mut self, name: &str, arguments: &[OsString]) -> Result<()> {
        let part = self.spawn(name, arguments)?;
        self.running.push(part);
        Ok(())
    }

    /// Runs `selvedge ARGUMENTS` to its end; an error carries what it said.
    pub async fn run(&self, name: &str, arguments: &[OsString]) -> Result<()> {
        let mut part = self.spawn(name, arguments)?;
        let status = wait_for(name, COMMAND_LIMIT, async || part.ended()).await?;
        if status.success() { Ok(()) } else { Err(part.failure(status)) }
    }

    /// An error if a part has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        for part in &mut self.running {
            if let Some(status) = part.ended()? {
                return Err(part.failure(status));
            }
        }
        Ok(())
    }

    /// Asks the parts whose name `which` picks to end, and ends by force those that do not.
    pub async fn stop(&mut self, which: impl Fn(&str) -> bool) -> Result<()> {
        let (mut leaving, staying) = self.running.drain(..).partition(|part| which(&part.name));
        self.running = staying;
        leaving.iter().for_each(Part::terminate);
        wait_for("processes to end", STOP_LIMIT, async || {
            leaving.retain_mut(|part: &mut Part| !matches!(part.ended(), Ok(Some(_))));
            Ok(leaving.is_empty().then_some(()))
        })
        .await
        .with_context(|| {
            let names: Vec<_> = leaving.iter().map(|part| part.name.as_str()).collect();
            format!("{} had to be killed", names.join(", "))
        })
    }

    fn spawn(&self, name: &str, arguments: &[OsString]) -> Result<Part> {
        let log = self.logs.join(format!("{name}.log"));
        let child = spawn_logged(&self.binary, arguments, &log)
            .with_context(|| format!("cannot start {name}: {}", self.binary.display()))?;
        Ok(Part { name: name.to_owned(), child, log })
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // Agents first: the fleet was started before them.
        while self.running.pop().is_some() {}
    }
}

impl Part {
    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    fn terminate(&self) {
        // A part that has ended already needs no signal.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    fn failure(&self, status: ExitStatus) -> anyhow::Error {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = said.lines().collect();
        let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN_MAX)..].join("\n  ");
        anyhow!("{} ended with {status}; its last words:\n  {shown}", self.name)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Both fail only if the part has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn_logged(binary: &Path, arguments: &[OsString], log: &Path) -> io::Result<Child> {
    let output = File::create(log)?;
    Command::new(binary)
        .args(["demo", "part", "--"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
}

/// Called in a part: ends this process when standard input closes, that is, when the demo is gone.
pub fn end_with_parent() -> io::Result<()> {
    let watch = || {
        let mut lifeline = io::stdin().lock();
        let mut nothing = [0; 64];
        while matches!(lifeline.read(&mut nothing), Ok(read) if read > 0) {}
        process::exit(EXIT_PARENT_GONE);
    };
    thread::Builder::new().name("lifeline".into()).spawn(watch).map(drop)
}
