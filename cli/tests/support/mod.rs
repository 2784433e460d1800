//! A folder to work in, and a fleet manager there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a fleet manager may take to listen on a busy machine.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A folder to work in.
pub struct Desk(tempfile::TempDir);

impl Desk {
    pub fn new() -> Desk {
        Desk(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.args(arguments).current_dir(self.0.path()).output().expect("the binary was built")
    }

    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// Starts a fleet manager with the keys in `keys`.
    #[allow(dead_code, reason = "not every file of tests needs a fleet")]
    pub fn fleet(&self, keys: &str) -> Fleet {
        let any = "127.0.0.1:0";
        let log = fs::File::create(self.path("fleet.log")).expect("writable");
        let child = Command::new(env!("CARGO_BIN_EXE_selvedge"))
            .args(["fleet", "--name", "demo", "--keys", keys, "--data", "fleet"])
            .args(["--http", any, "--broker-listen", any])
            .current_dir(self.0.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary was built");
        let mut fleet = Fleet { child, url: String::new() };
        let started = Instant::now();
        while fleet.url.is_empty() {
            let said = || fs::read_to_string(self.path("fleet.log")).unwrap_or_default();
            let ended = fleet.child.try_wait().expect("it is ours");
            assert!(ended.is_none() && started.elapsed() < LISTENS_WITHIN, "{}", said());
            if let Ok(bytes) = fs::read(self.path("fleet/addresses.json")) {
                let addresses: Value = serde_json::from_slice(&bytes).expect("it writes JSON");
                fleet.url = format!("http://{}", addresses["http"].as_str().expect("an address"));
            }
            thread::sleep(ASK_EVERY);
        }
        fleet
    }
}

/// A fleet manager that listens, until it is dropped.
pub struct Fleet {
    child: Child,
    pub url: String,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(dead_code, reason = "not every file of tests needs the example models")]
pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

#[allow(dead_code, reason = "not every file of tests needs the example models")]
pub fn text(path: &Path) -> String {
    path.to_str().expect("the clone lies in a folder with a UTF-8 name").to_owned()
}
