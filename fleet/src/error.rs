//! The manager's one error type.

use std::{io, net::SocketAddr, path::PathBuf};

/// Who can do something about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Whoever started the manager: its arguments, its files, its keys.
    Operator,
    /// Whoever sent the request or the bundle.
    Peer,
    /// Whoever asked for something that is not there.
    NotFound,
    /// Whoever asked for something that does not fit what is there.
    Conflict,
    /// The machine: disk, network, the database.
    Environment,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// A document of the keys folder, or one that it must make, is not usable.
    #[error("{what}")]
    Trust {
        /// What was being done.
        what: String,
        /// What is wrong with it.
        source: selvedge_trust::Error,
    },
    /// A request or an upload is refused.
    #[error("{0}")]
    Refused(String),
    /// The thing asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The thing asked for does not fit what is there.
    #[error("{0}")]
    Conflict(String),
    /// A file or folder could not be used.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An address could not be listened on.
    #[error("cannot listen on {address} for {what}")]
    Listen {
        /// For whom.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The embedded broker does not start, or ended.
    #[error("the embedded broker {0}")]
    Broker(String),
    /// The link to the broker cannot be set up.
    #[error("cannot set up the link to the broker")]
    Link(#[from] selvedge_link::Error),
    /// The database refused.
    #[error("cannot {verb} in the database")]
    Store {
        /// What was tried.
        verb: &'static str,
        /// Why not.
        source: sqlx::Error,
    },
}

impl Error {
    /// Who can do something about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) | Self::Trust { .. } | Self::Link(_) => ErrorKind::Operator,
            Self::Refused(_) => ErrorKind::Peer,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Io { .. } | Self::Listen { .. } | Self::Broker(_) | Self::Store { .. } => {
                ErrorKind::Environment
            }
        }
    }

    /// For `map_err`: the path and the verb of a failed access.
    pub(crate) fn io(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { verb, path, source }
    }

    /// For `map_err`: the verb of a failed statement.
    pub(crate) fn store(verb: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Store { verb, source }
    }
}

/// The error and its causes in one line, as people should read it.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        // Some libraries repeat their cause in their own text.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = next.source();
    }
    line.replace('\n', " ")
}
