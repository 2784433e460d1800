//! Why a link cannot be made.

use std::{io, path::PathBuf};

/// Who is to blame for an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Whoever wrote the configuration or put the files in place.
    Operator,
}

/// Why a link cannot be made. Whatever goes wrong later is retried and told as
/// [`LinkEvent::Down`](crate::LinkEvent::Down).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker's address is not one.
    #[error("{url:?} is not the address of a broker: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting has a value that cannot be.
    #[error("{setting} is {value}, but must be {expected}")]
    Setting {
        /// The name of the setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A file for TLS cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file for TLS does not hold what it must.
    #[error("{}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Who is to blame.
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Operator
    }
}

/// The link was closed and takes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link is closed")]
pub struct Closed;
