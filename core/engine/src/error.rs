//! Why bytes are not a program.

use core::fmt;

/// Why bytes are not a program that may run here.
///
/// `operation` is the index of the operation that breaks the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramError {
    /// The bytes do not begin as a program does.
    NotAProgram,
    /// The program is of a version that this build does not know.
    Version(u16),
    /// The bytes end before the program does.
    Truncated,
    /// A record cannot be decoded; `byte` is where it begins, within the plan.
    Malformed {
        /// The offset within the plan.
        byte: usize,
    },
    /// More of something than a limit allows.
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much may be.
        limit: u64,
    },
    /// An operation breaks a rule of the format.
    Operation {
        /// Its index.
        operation: usize,
        /// The rule.
        rule: &'static str,
    },
    /// A port breaks a rule of the format.
    Port {
        /// Its index, inputs first.
        port: usize,
        /// The rule.
        rule: &'static str,
    },
    /// The arena that the caller lends is too small.
    Arena {
        /// Its size in bytes.
        found: usize,
        /// How large it must be.
        needed: usize,
    },
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProgramError::NotAProgram => write!(f, "these bytes are not an integer program"),
            ProgramError::Version(version) => {
                write!(
                    f,
                    "the program has version {version}, and this build knows version {}",
                    crate::program::VERSION
                )
            }
            ProgramError::Truncated => write!(f, "the bytes end before the program does"),
            ProgramError::Malformed { byte } => {
                write!(f, "the record at byte {byte} of the plan cannot be decoded")
            }
            ProgramError::Limit { what, found, limit } => {
                write!(f, "{what}: {found}, and at most {limit} are allowed")
            }
            ProgramError::Operation { operation, rule } => {
                write!(f, "operation {operation}: {rule}")
            }
            ProgramError::Port { port, rule } => write!(f, "port {port}: {rule}"),
            ProgramError::Arena { found, needed } => {
                write!(f, "the arena has {found} bytes, and the program needs {needed}")
            }
        }
    }
}

impl core::error::Error for ProgramError {}
