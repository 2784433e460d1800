//! The built `selvedge` as its users meet it: a process with arguments, output and signals.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long a wait rests before it asks again.
const STEP: Duration = Duration::from_millis(50);

/// The `selvedge` that was built beside the running test.
///
/// # Panics
/// If it was not built.
pub fn selvedge() -> PathBuf {
    let test = env::current_exe().expect("a running test is a file");
    // TARGET/debug/deps/TEST-HASH
    let profile = test.ancestors().nth(2).expect("cargo puts tests two folders deep");
    let binary = profile.join("selvedge");
    assert!(binary.is_file(), "no {}: run `cargo build --bins` first", binary.display());
    binary
}

/// The root of the clone.
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are a folder of the repository").to_path_buf()
}

/// A process with a group of its own. Whatever is left of the group is killed on drop.
#[derive(Debug)]
pub struct Leader {
    child: Child,
}

impl Leader {
    /// Starts `command` as the leader of a new group.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        use std::os::unix::process::CommandExt;
        let child = command
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal` to the leader alone.
    ///
    /// # Panics
    /// If the leader is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process still runs");
    }

    /// The exit code, once the process has ended; a signal counts as none.
    ///
    /// # Panics
    /// If it does not end within `limit`.
    pub fn exit_code(&mut self, limit: Duration) -> Option<i32> {
        wait_for("the process to end", limit, || {
            self.child.try_wait().expect("a child can be waited for")
        })
        .code()
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // Both fail only if the group is gone, which is what is wanted.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The processes of this machine with `word` in an argument, each as its id and its arguments.
pub fn processes_that_name(word: impl AsRef<OsStr>) -> Vec<String> {
    let word = word.as_ref().to_string_lossy().into_owned();
    let processes = fs::read_dir("/proc").expect("the tests run on Linux");
    let described = processes.flatten().filter_map(|entry| {
        // A process may end between the listing and the reading.
        let arguments = fs::read(entry.path().join("cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let id = entry.file_name().into_string().ok()?;
        Some(format!("{id}: {arguments}"))
    });
    described.filter(|process| process.contains(&word)).collect()
}

/// Asks until there is something.
///
/// # Panics
/// After `limit`, naming `what` was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        thread::sleep(STEP);
    }
}
