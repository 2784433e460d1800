//! `selvedge device`: registers devices and writes what their agents need.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf, absolute},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use selvedge_trust::{DeviceKey, SystemRandom};
use selvedge_wire::{DeviceId, SlotName};

use crate::api::{AddedDevice, Api, FleetUrl};

const CONFIG_FILE: &str = "agent.toml";
const ROOT_FILE: &str = "root.json";
const KEY_FILE: &str = "device.pk8";
const PASSWORD_FILE: &str = "password";
const CA_FILE: &str = "ca.pem";

/// Registers devices.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Registers a device and writes the configuration of its agent.
    Add(AddArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The device's name
    id: DeviceId,
    /// The folder for agent.toml, root.json, the device's key and the password
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A CSV or .npy file whose rows or images the agent plays as samples
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// The slot whose model answers
    #[arg(long, value_name = "SLOT", default_value = "main", requires = "replay")]
    slot: SlotName,
    /// Samples per second
    #[arg(long, value_name = "RATE", default_value_t = 50.0, requires = "replay")]
    rate_hz: f64,
    /// How long the windows of profiles are, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..))]
    window_s: u64,
    /// The authority that vouches for the broker, in PEM, where the manager does not know it
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The device's certificate, in PEM, for a broker that asks for one
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    #[command(flatten)]
    fleet: FleetUrl,
}

/// Runs the command.
pub fn main(args: DeviceArgs) -> Result<ExitCode> {
    match args.action {
        Action::Add(args) => add(&args),
    }
}

/// `agent.toml`
#[derive(Serialize)]
struct AgentConfig<'a> {
    device: &'a DeviceId,
    fleet: &'a str,
    state_dir: &'a str,
    root: &'a str,
    key: &'a str,
    broker: BrokerTable<'a>,
    profile: ProfileTable,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source: Vec<SourceTable<'a>>,
}

#[derive(Serialize)]
struct BrokerTable<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
}

#[derive(Serialize)]
struct ProfileTable {
    window_s: u64,
}

#[derive(Serialize)]
struct SourceTable<'a> {
    name: &'a str,
    kind: &'a str,
    slot: &'a SlotName,
    file: PathBuf,
    rate_hz: f64,
    repeat: bool,
}

fn add(args: &AddArgs) -> Result<ExitCode> {
    check_files(args)?;
    let api = Api::connect(&args.fleet)?;
    let missing = missing_folders(&args.out);
    let registered = make_folder(&args.out).and_then(|()| register(args, &api));
    if let Err(error) = registered {
        // Only what is empty goes, and only if it was made here.
        missing.iter().try_for_each(fs::remove_dir).ok();
        return Err(error);
    }
    let config = args.out.join(CONFIG_FILE);
    println!("{} is registered; start its agent:", args.id);
    println!("  selvedge agent --config {}", config.display());
    Ok(ExitCode::SUCCESS)
}

/// Makes the device known to the manager and writes its files, or does neither.
fn register(args: &AddArgs, api: &Api) -> Result<()> {
    let key = DeviceKey::generate(&SystemRandom::new())
        .context("no randomness from the operating system")?;
    let added = api.add_device(&args.id, key.public_key())?;
    let Err(error) = write_files(args, &added, &key) else { return Ok(()) };
    // The password is nowhere now: the name must be free for another try.
    api.delete_device(&args.id)
        .with_context(|| format!("{} stays registered without its files", args.id))?;
    Err(error)
}

/// The folder and those above it, as far as they are not there; the lowest first.
fn missing_folders(folder: &Path) -> Vec<PathBuf> {
    let above = folder.ancestors().filter(|folder| !folder.as_os_str().is_empty());
    above.take_while(|folder| !folder.exists()).map(Path::to_owned).collect()
}

fn check_files(args: &AddArgs) -> Result<()> {
    if !args.rate_hz.is_finite() || args.rate_hz <= 0.0 {
        bail!("--rate-hz {} is no rate: a number above 0 is needed", args.rate_hz);
    }
    let files = [&args.replay, &args.ca, &args.certificate, &args.key];
    for file in files.into_iter().flatten() {
        fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    let config = args.out.join(CONFIG_FILE);
    if config.exists() {
        bail!("{} is there already; choose another --out", config.display());
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

fn write_files(args: &AddArgs, added: &AddedDevice, key: &DeviceKey) -> Result<()> {
    write_private(&args.out.join(KEY_FILE), key.to_pkcs8())?;
    let root = serde_json::to_vec(&added.root).context("the root metadata is not JSON")?;
    write_private(&args.out.join(ROOT_FILE), &root)?;
    if let Some(password) = &added.password {
        write_private(&args.out.join(PASSWORD_FILE), password.as_bytes())?;
    }
    if let Some(ca) = &added.ca {
        write_private(&args.out.join(CA_FILE), ca.as_bytes())?;
    }
    let config = toml::to_string(&agent_config(args, added)?).context("cannot write TOML")?;
    write_private(&args.out.join(CONFIG_FILE), config.as_bytes())
}

fn agent_config<'a>(args: &'a AddArgs, added: &'a AddedDevice) -> Result<AgentConfig<'a>> {
    let file =
        |path: &PathBuf| absolute(path).with_context(|| format!("cannot find {}", path.display()));
    let source = match &args.replay {
        Some(replay) => vec![SourceTable {
            name: "replay",
            kind: "replay",
            slot: &args.slot,
            file: file(replay)?,
            rate_hz: args.rate_hz,
            repeat: true,
        }],
        None => Vec::new(),
    };
    let own_ca = args.ca.as_ref().map(file).transpose()?;
    let login = added.password.is_some();
    Ok(AgentConfig {
        device: &args.id,
        fleet: added.fleet.as_str(),
        state_dir: "state",
        root: ROOT_FILE,
        key: KEY_FILE,
        broker: BrokerTable {
            url: &added.broker_url,
            user: login.then_some(added.user.as_str()),
            password_file: login.then_some(PASSWORD_FILE),
            ca: own_ca.or_else(|| added.ca.as_ref().map(|_| CA_FILE.into())),
            certificate: args.certificate.as_ref().map(file).transpose()?,
            key: args.key.as_ref().map(file).transpose()?,
        },
        profile: ProfileTable { window_s: args.window_s },
        source,
    })
}

/// A file that its owner alone can read.
fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let written = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// A manager that takes no device; returns its URL.
    fn refusing_manager() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it listens");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client connects");
                let mut request = BufReader::new(&stream);
                let mut line = String::new();
                request.read_line(&mut line).expect("a request has a first line");
                let posts = line.starts_with("POST");
                let mut body_len = 0;
                while line.trim() != "" {
                    line.clear();
                    request.read_line(&mut line).expect("a request has headers");
                    let header = line.to_ascii_lowercase();
                    if let Some(len) = header.strip_prefix("content-length:") {
                        body_len = len.trim().parse().expect("a length is a number");
                    }
                }
                request.read_exact(&mut vec![0; body_len]).expect("a request has its body");
                let status = if posts { "409 Conflict" } else { "200 OK" };
                let body = r#"{"error":"there is a device line-1 already"}"#;
                let len = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\
                     Content-Length: {len}\r\nConnection: close\r\n\r\n{body}"
                )
                .expect("the client waits for the answer");
            }
        });
        format!("http://{address}")
    }

    #[test]
    fn a_device_that_is_not_added_leaves_no_folder() {
        let temp = tempfile::tempdir().expect("a temporary folder can be made");
        let kept = temp.path().join("kept");
        fs::create_dir(&kept).expect("the folder can be made");
        let fleet_url = refusing_manager();
        for out in [temp.path().join("new/devices/line-1"), kept.clone()] {
            let args = AddArgs {
                id: "line-1".parse().expect("a name"),
                out,
                replay: None,
                slot: "main".parse().expect("a name"),
                rate_hz: 50.0,
                window_s: 10,
                ca: None,
                certificate: None,
                key: None,
                fleet: FleetUrl { fleet_url: fleet_url.clone() },
            };
            let error = add(&args).expect_err("the manager refuses");
            assert!(error.to_string().contains("already"), "{error}");
        }
        assert!(!temp.path().join("new").exists(), "what was made is gone");
        assert!(kept.exists(), "what was there stays");
    }
}
