//! What ends the agent, and who is to blame.

use std::path::PathBuf;

use crate::{config::ConfigError, disk::DiskError};

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// This machine failed.
    Device,
    /// Whoever configured or started the agent.
    Operator,
    /// The agent is wrong.
    Bug,
}

/// Why the agent does not start or does not go on.
///
/// What a peer does wrong is counted and reported; it ends nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The state directory does not work.
    #[error("the state directory does not work")]
    Disk(#[source] DiskError),
    /// A thread could not be started.
    #[error("cannot start the thread {name}")]
    Thread {
        /// The thread's name.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },

    /// The configuration is not usable.
    #[error(transparent)]
    Config(ConfigError),
    /// The root metadata cannot be read.
    #[error("cannot read the root metadata {path}", path = path.display())]
    RootFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The root metadata is not to be trusted.
    #[error("the root metadata {path} is not usable", path = path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: selvedge_trust::Error,
    },
    /// The device's key cannot be read.
    #[error("cannot read the device's key {path}: `selvedge device add` makes it", path = path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others on this machine may use the file of the device's key, and so could speak for the device.
    #[error("the device's key {path} is open to others (mode {mode:o}): chmod 600 it, and enrol the device anew if one of them may have read it", path = path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The device's key is not one.
    #[error("the device's key {path} is not usable", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: selvedge_trust::Error,
    },
    /// A broker cannot be used as configured.
    #[error("the broker of [{table}] cannot be used")]
    Link {
        /// The table of the configuration.
        table: &'static str,
        /// What is wrong.
        source: selvedge_link::Error,
    },
    /// Another agent uses the state directory.
    #[error("another agent uses the state directory {path}: stop it, or set another state_dir", path = path.display())]
    InUse {
        /// The state directory.
        path: PathBuf,
    },

    /// An actor ended although nobody told it to.
    #[error("the actor {name} ended; this is an error in the agent")]
    ActorEnded {
        /// Which.
        name: &'static str,
    },
}

impl Error {
    /// Who has to act.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk(_) | Self::Thread { .. } => ErrorKind::Device,
            Self::Config(_)
            | Self::RootFile { .. }
            | Self::Root { .. }
            | Self::KeyFile { .. }
            | Self::KeyExposed { .. }
            | Self::Key { .. }
            | Self::Link { .. }
            | Self::InUse { .. } => ErrorKind::Operator,
            Self::ActorEnded { .. } => ErrorKind::Bug,
        }
    }
}

/// An error with all its causes, in one line.
pub(crate) fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors repeat their cause in their own words.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}
