//! A process of the built `selvedge` with a log of its own; it ends with its owner.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::binary::{Leader, selvedge};

/// How long a process may take to end after it was told to.
const END_MAX: Duration = Duration::from_secs(30);

/// A running part of a stage.
#[derive(Debug)]
pub struct Process {
    leader: Leader,
    log: PathBuf,
}

impl Process {
    /// Starts `selvedge` with `arguments`; what it says is added to the file `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start<I, S>(arguments: I, log: &Path) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let file = File::options().create(true).append(true).open(log);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let mut command = Command::new(selvedge());
        command.args(arguments).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("the file stays open")).stderr(file);
        Self { leader: Leader::start(&mut command), log: log.to_owned() }
    }

    /// All that it has said, and those before it with the same log.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.leader.runs()
    }

    /// Ends it as a power cut would (SIGKILL).
    ///
    /// # Panics
    /// If it is gone already.
    pub fn kill(mut self) {
        assert!(self.runs(), "it ended by itself:\n{}", self.said());
        self.leader.signal(Signal::KILL);
        self.leader.exit_code(END_MAX);
    }

    /// Ends it as a service manager does (SIGTERM), which it must obey with success.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(mut self) {
        assert!(self.runs(), "it ended by itself:\n{}", self.said());
        self.leader.signal(Signal::TERM);
        assert_eq!(self.leader.exit_code(END_MAX), Some(0), "{}", self.said());
    }

    /// Lets it stand still (SIGSTOP): its connections stay open, and it does nothing.
    ///
    /// # Panics
    /// If it is gone.
    pub fn pause(&self) {
        self.leader.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Panics
    /// If it is gone.
    pub fn resume(&self) {
        self.leader.signal(Signal::CONT);
    }
}
