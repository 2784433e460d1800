//! A mosquitto for one test: on a free port, in a folder of its own, killed when it is dropped.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use selvedge_link::{BrokerUrl, TlsFiles};
use tempfile::TempDir;

use crate::certificates::CertificateAuthority;

/// Where Debian puts it, which is not in every user's path.
const USUAL_PLACES: &[&str] = &["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(20);

/// How long a wait rests before it asks again.
const STEP: Duration = Duration::from_millis(10);

/// How often a port that was free may turn out to be taken.
const PORTS_TRIED_MAX: usize = 10;

/// The user name of the fleet in the reference configuration.
pub const FLEET_USER: &str = "fleet-manager";

/// A running mosquitto.
#[derive(Debug)]
pub struct Mosquitto {
    program: PathBuf,
    child: Child,
    port: u16,
    folder: TempDir,
    authority: Option<CertificateAuthority>,
}

impl Mosquitto {
    /// Starts one that lets everybody do everything, with `settings` added to its configuration.
    ///
    /// Nothing, and a word about the test that is skipped, if mosquitto is not installed.
    ///
    /// # Panics
    /// If it does not start, or is not installed and `SELVEDGE_REQUIRE_TOOLS` is `1`.
    pub fn open(settings: &str) -> Option<Self> {
        Self::with_config(settings, "allow_anonymous true\n")
    }

    /// Starts one that knows nobody and lets nobody in.
    ///
    /// # Panics
    /// As [`Mosquitto::open`].
    pub fn locked() -> Option<Self> {
        Self::with_config("", "allow_anonymous false\n")
    }

    /// Starts one from the files in `docs/broker`, with `settings` added, for the fleet `demo`.
    ///
    /// # Panics
    /// As [`Mosquitto::open`].
    pub fn reference(settings: &str) -> Option<Self> {
        let program = program()?;
        let folder = new_folder();
        let authority = CertificateAuthority::new(folder.path());
        authority.sign_server("broker");
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/broker");
        let acl = docs.join("acl");
        fs::copy(&acl, folder.path().join("acl"))
            .unwrap_or_else(|error| panic!("{}: {error}", acl.display()));
        let config = docs.join("mosquitto.conf");
        let config = fs::read_to_string(&config)
            .unwrap_or_else(|error| panic!("{}: {error}", config.display()));
        let here = format!("{}/", folder.path().display());
        let config = config
            .replace("/etc/mosquitto/selvedge/", &here)
            .replace("/var/lib/mosquitto/", &here)
            .replace("listener 8883", "listener PORT 127.0.0.1");
        assert!(config.contains("PORT"), "the reference configuration has a listener on 8883");
        Some(Self::start(program, folder, Some(authority), &format!("{config}\n{settings}\n")))
    }

    /// Its address.
    pub fn url(&self) -> BrokerUrl {
        match self.authority {
            Some(_) => BrokerUrl::mqtts("localhost", self.port),
            None => BrokerUrl::mqtt("127.0.0.1", self.port),
        }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The authority that it trusts.
    ///
    /// # Panics
    /// If it is not a [`Mosquitto::reference`].
    pub fn authority(&self) -> &CertificateAuthority {
        self.authority.as_ref().expect("only the reference configuration has an authority")
    }

    /// The files of a new client of that name.
    ///
    /// # Panics
    /// If it is not a [`Mosquitto::reference`].
    pub fn client_files(&self, name: &str) -> TlsFiles {
        let files = self.authority().sign_client(name);
        TlsFiles {
            ca: self.authority().certificate(),
            certificate: Some(files.certificate),
            key: Some(files.key),
        }
    }

    /// Kills it (SIGKILL). What it has not saved is lost.
    ///
    /// # Panics
    /// If it is gone already.
    pub fn kill(&mut self) {
        self.child.kill().expect("the broker still runs");
        self.child.wait().expect("a child can be waited for");
    }

    /// Deletes what it has saved.
    pub fn forget(&self) {
        // It is not there if the broker never saved.
        let _ = fs::remove_file(self.folder.path().join("mosquitto.db"));
    }

    /// Starts it again on the same port.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.child = spawn(&self.program, self.folder.path());
        assert!(is_up(&mut self.child, self.port), "mosquitto did not start again");
    }

    /// Stops it (SIGSTOP): its sockets stay open, and nobody answers.
    ///
    /// # Panics
    /// If it is gone.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Panics
    /// If it is gone.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the broker still runs");
    }

    fn with_config(settings: &str, access: &str) -> Option<Self> {
        let program = program()?;
        let folder = new_folder();
        let config = format!(
            "listener PORT 127.0.0.1\n{access}persistence true\npersistence_location {}/\n{settings}\n",
            folder.path().display()
        );
        Some(Self::start(program, folder, None, &config))
    }

    fn start(
        program: PathBuf,
        folder: TempDir,
        authority: Option<CertificateAuthority>,
        config: &str,
    ) -> Self {
        for _ in 0..PORTS_TRIED_MAX {
            let port = free_port();
            // Started by root, mosquitto becomes a user who cannot read the folder.
            let config = format!("{}user root\n", config.replace("PORT", &port.to_string()));
            fs::write(folder.path().join("mosquitto.conf"), config)
                .expect("the folder can be written");
            let mut child = spawn(&program, folder.path());
            if is_up(&mut child, port) {
                return Self { program, child, port, folder, authority };
            }
        }
        panic!("mosquitto did not start; see {}", keep(folder).display());
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // Both fail only if it is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("mosquitto"));
    let found = in_path.chain(USUAL_PLACES.iter().map(PathBuf::from)).find(|path| path.is_file());
    if found.is_none() {
        let required = env::var_os("SELVEDGE_REQUIRE_TOOLS").is_some_and(|value| value == "1");
        assert!(!required, "mosquitto is not installed, and SELVEDGE_REQUIRE_TOOLS is 1");
        let test = thread::current();
        eprintln!("skipped: mosquitto not found ({})", test.name().unwrap_or("a test"));
    }
    found
}

fn new_folder() -> TempDir {
    TempDir::with_prefix("selvedge-mosquitto-").expect("there is room for a folder")
}

fn keep(folder: TempDir) -> PathBuf {
    folder.keep()
}

/// A port that nobody has at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("a listener has an address").port()
}

fn spawn(program: &Path, folder: &Path) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("mosquitto.log"))
        .expect("the folder can be written");
    Command::new(program)
        .arg("-c")
        .arg(folder.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()))
}

/// Waits until it listens; false if it ends before, as when the port was taken meanwhile.
fn is_up(child: &mut Child, port: u16) -> bool {
    let started = Instant::now();
    while started.elapsed() < START_MAX {
        if child.try_wait().expect("a child can be waited for").is_some() {
            return false;
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return true;
        }
        thread::sleep(STEP);
    }
    false
}
