//! The programs of others that ours is held against, in a Python environment of their own.

use std::{
    env,
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Output},
    thread,
};

/// A Python that has the packages of `tests/interop/requirements.txt`, as `tests/install-tools` installs
/// it; nothing, with a word about the test that is skipped, if it is not there.
///
/// # Panics
/// If it is not there and `SELVEDGE_REQUIRE_TOOLS` is `1`.
pub fn python() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    let python = cache.join("selvedge/interop/bin/python");
    if python.is_file() {
        return Some(python);
    }
    let required = env::var_os("SELVEDGE_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(!required, "no {}: run tests/install-tools", python.display());
    let test = thread::current();
    eprintln!("skipped: {} not found ({})", python.display(), test.name().unwrap_or("a test"));
    None
}

/// What a command came to: whether it succeeded, and what it said on both of its outputs.
///
/// # Panics
/// If it cannot be started.
pub fn outcome(command: &mut Command) -> (bool, String) {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let said = [stdout, stderr].map(|output| String::from_utf8_lossy(&output).into_owned());
    (status.success(), said.concat())
}

/// Runs `program` with `arguments`.
///
/// # Panics
/// If it cannot be started or fails.
pub fn run<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> String {
    let mut command = Command::new(program);
    let (succeeded, said) = outcome(command.args(arguments));
    assert!(succeeded, "{command:?} failed:\n{said}");
    said
}
