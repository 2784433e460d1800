//! The node's image on an emulated board: what it says over its UART, and the room it takes.
//!
//! Needs `qemu-system-arm` and the image that `firmware/build` makes. Without one of them a test
//! prints SKIPPED and what is missing; with SELVEDGE_REQUIRE_TOOLS=1 it fails instead.
//!
//! QEMU connects to sockets that the test listens on, so no port is chosen twice. Every wait ends at
//! [`WAIT_MAX`], by the sockets' read timeouts and a deadline.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use selvedge_node::{TEMPERATURE_SPEC_ID, temperature_bins};
use selvedge_sketch::NodeProfile;
use selvedge_wire::{FrameDecoder, NodeId, NodeMessage, Reading};
use serde_json::{Value, json};

/// Many times what the slowest step takes on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(60);

const IMAGE: &str = "firmware/thumbv7m-none-eabi/release/selvedge-node-lm3s6965evb";
/// A sixteenth of a degree: the sensor rounds down, and the driver to a thousandth once more.
const STEP_MCELSIUS: i32 = 63;

/// What the image may take of 256 KiB of flash and 64 KiB of RAM. Raise them knowingly.
const FLASH_USED_BYTES_MAX: u64 = 16 * 1024;
const RAM_USED_BYTES_MAX: usize = 16 * 1024;

const RAM_BEGINS: u64 = 0x2000_0000;
const RAM_BYTES: usize = 64 * 1024;

#[test]
fn the_node_says_what_the_sensor_sees_and_counts_what_it_said() {
    let Some(tools) = Tools::found() else { return };
    let mut board = Board::start(&tools, "52:54:00:12:34:56", Sensor::Fitted);
    let hello = board.next();
    assert_eq!(
        hello,
        Said::Hello { node: NodeId(0x5254_0012_3456), firmware: firmware_version() },
        "the first frame tells who speaks"
    );

    for milli in [21_500, -12_345, 85_000, 0] {
        board.set_temperature(milli);
        board.wait_for_reading(|value| {
            (milli - STEP_MCELSIUS..=milli + STEP_MCELSIUS).contains(&value)
        });
    }

    let windows = board.windows_closed;
    while board.windows_closed < windows + 2 {
        board.next();
    }

    let used_bytes = board.ram_used_bytes();
    println!("RAM: {used_bytes} of {RAM_USED_BYTES_MAX} bytes, stack included");
    assert!(used_bytes <= RAM_USED_BYTES_MAX, "{used_bytes} bytes");
}

#[test]
fn the_node_tells_that_its_sensor_is_missing_and_goes_on() {
    let Some(tools) = Tools::found() else { return };
    let mut board = Board::start(&tools, "52:54:00:00:00:02", Sensor::Missing);
    let hello = board.next();
    assert_eq!(hello, Said::Hello { node: NodeId(0x5254_0000_0002), firmware: firmware_version() });
    for count in 1..=3 {
        assert_eq!(board.next(), Said::SensorFailed(count));
    }
    while board.windows_closed == 0 {
        board.next();
    }
    assert_eq!(board.next(), hello, "a hello follows each window");
}

#[test]
fn the_image_keeps_to_its_flash() {
    let Some(tools) = Tools::found() else { return };
    let elf = fs::read(&tools.image).expect("the image was just found");
    let used_bytes = flash_used_bytes(&elf);
    println!("flash: {used_bytes} of {FLASH_USED_BYTES_MAX} bytes");
    assert!(used_bytes > 0, "the image has code");
    assert!(used_bytes <= FLASH_USED_BYTES_MAX, "{used_bytes} bytes");
}

struct Tools {
    image: PathBuf,
}

impl Tools {
    /// What the tests need, or `None` after it was said what is missing.
    fn found() -> Option<Self> {
        let image = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(IMAGE);
        let qemu = Command::new("qemu-system-arm").arg("--version").stdout(Stdio::null()).status();
        let missing = if qemu.is_err() {
            "qemu-system-arm (Debian: apt-get install qemu-system-arm)".to_owned()
        } else if !image.exists() {
            format!("{} (make it with: firmware/build)", image.display())
        } else {
            return Some(Self { image });
        };
        let is_required = env::var("SELVEDGE_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
        assert!(!is_required, "missing: {missing}");
        eprintln!("SKIPPED: missing {missing}");
        None
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Hello { node: NodeId, firmware: String },
    Reading(Reading),
    Profile,
    SensorFailed(u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sensor {
    Fitted,
    Missing,
}

/// A running board. Everything that it says is checked against what it said before.
struct Board {
    emulator: Emulator,
    line: BufReader<TcpStream>,
    monitor: BufReader<TcpStream>,
    decoder: FrameDecoder,
    deadline: Instant,
    readings: u32,
    failures: u32,
    windows_closed: u32,
    /// What the next profile must say.
    expected: NodeProfile,
}

impl Board {
    fn start(tools: &Tools, mac: &str, sensor: Sensor) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a local port is free");
        let (line, monitor) = (listen(), listen());
        let socket =
            |listener: &TcpListener| format!("tcp:{}", listener.local_addr().expect("it listens"));
        let mut command = Command::new("qemu-system-arm");
        command.args(["-M", "lm3s6965evb", "-display", "none", "-nodefaults"]);
        command.args(["-nic", &format!("user,model=stellaris,mac={mac}")]);
        command.args(["-serial", &socket(&line), "-qmp", &socket(&monitor)]);
        command.arg("-kernel").arg(&tools.image);
        if sensor == Sensor::Fitted {
            command.args(["-device", "tmp105,id=tmp,address=0x48"]);
        }
        let mut emulator = Emulator(command.stdin(Stdio::null()).spawn().expect("QEMU starts"));
        let line = emulator.accept(&line);
        let monitor = emulator.accept(&monitor);
        let mut board = Self {
            emulator,
            line,
            monitor,
            decoder: FrameDecoder::new(),
            deadline: Instant::now() + WAIT_MAX,
            readings: 0,
            failures: 0,
            windows_closed: 0,
            expected: empty_profile(),
        };
        let greeting = board.answer();
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        board.execute("qmp_capabilities", json!({}));
        board
    }

    fn set_temperature(&mut self, milli: i32) {
        let path = "/machine/peripheral/tmp";
        self.execute("qom-set", json!({"path": path, "property": "temperature", "value": milli}));
    }

    fn wait_for_reading(&mut self, is_expected: impl Fn(i32) -> bool) {
        self.deadline = Instant::now() + WAIT_MAX;
        loop {
            if matches!(self.next(), Said::Reading(reading) if is_expected(reading.value)) {
                return;
            }
        }
    }

    /// The next message, of which all that can be checked is checked.
    fn next(&mut self) -> Said {
        loop {
            assert!(Instant::now() < self.deadline, "{}", self.emulator.state("what is awaited"));
            let mut byte = [0];
            if let Err(error) = self.line.read_exact(&mut byte) {
                panic!("{}: {error}", self.emulator.state("a byte"));
            }
            let Some(frame) = self.decoder.push(byte[0]) else { continue };
            return match frame.expect("an emulated line loses nothing") {
                NodeMessage::Hello { node, firmware } => {
                    Said::Hello { node, firmware: firmware.to_owned() }
                }
                NodeMessage::Reading { reading, .. } => {
                    assert_eq!(reading.count, self.readings);
                    self.readings += 1;
                    self.expected.count_sample();
                    self.expected.observe_feature(0, &temperature_bins(), reading.value);
                    Said::Reading(reading)
                }
                NodeMessage::SensorFailed { count, .. } => {
                    self.failures += 1;
                    assert_eq!(count, self.failures);
                    self.expected.count_failed_sample();
                    Said::SensorFailed(count)
                }
                NodeMessage::Profile { window, profile, .. } => {
                    assert_eq!(window, self.windows_closed);
                    self.windows_closed += 1;
                    let profile = NodeProfile::decode(profile).expect("the node writes profiles");
                    let expected = std::mem::replace(&mut self.expected, empty_profile());
                    assert_profile(&profile, &expected);
                    Said::Profile
                }
            };
        }
    }

    /// The RAM that was ever written to. The image's start code has painted all that is not static.
    fn ram_used_bytes(&mut self) -> usize {
        const PAINT: [u8; 4] = [0xcc; 4];
        let name = format!("node-ram-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        self.execute(
            "pmemsave",
            json!({"val": RAM_BEGINS, "size": RAM_BYTES, "filename": path.display().to_string()}),
        );
        let ram = fs::read(&path).expect("QEMU has saved the memory");
        fs::remove_file(&path).expect("the file is ours");
        assert_eq!(ram.len(), RAM_BYTES);
        let untouched = ram.chunks_exact(PAINT.len()).filter(|word| **word == PAINT).count();
        assert!(untouched > 0, "the start code paints the RAM");
        RAM_BYTES - untouched * PAINT.len()
    }

    fn execute(&mut self, command: &str, arguments: Value) {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.monitor.get_mut(), "{request}").expect("QEMU reads its monitor");
        loop {
            let answer = self.answer();
            // Events may come in between.
            if answer.get("event").is_none() {
                assert!(answer.get("return").is_some(), "{request}: {answer}");
                return;
            }
        }
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.monitor.read_line(&mut line).expect("QEMU answers on its monitor");
        serde_json::from_str(&line).expect("QEMU answers in JSON")
    }
}

/// QEMU, ended with the test.
struct Emulator(Child);

impl Emulator {
    /// Accepts QEMU's connection, or panics if QEMU has ended instead.
    fn accept(&mut self, listener: &TcpListener) -> BufReader<TcpStream> {
        listener.set_nonblocking(true).expect("a listener can be polled");
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false).expect("a stream can block");
                stream.set_read_timeout(Some(WAIT_MAX)).expect("a minute is a timeout");
                return BufReader::new(stream);
            }
            let ended = self.0.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "{}", self.state("a connection"));
            assert!(Instant::now() < deadline, "{}", self.state("a connection"));
            std::thread::yield_now();
        }
    }

    fn state(&mut self, awaited: &str) -> String {
        match self.0.try_wait() {
            Ok(Some(status)) => format!("QEMU ended with {status} before {awaited} came"),
            _ => format!("QEMU runs, but {awaited} did not come in {WAIT_MAX:?}"),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left of it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn empty_profile() -> NodeProfile {
    NodeProfile::new(TEMPERATURE_SPEC_ID, 1).expect("there is room for one feature")
}

fn assert_profile(profile: &NodeProfile, expected: &NodeProfile) {
    assert_eq!(profile.spec_id(), expected.spec_id());
    assert_eq!(profile.samples(), expected.samples());
    assert_eq!(profile.failed(), expected.failed());
    assert_eq!(profile.features(), expected.features());
    // How long a reading takes is the emulator's affair; that each was timed is the node's.
    let readings = u64::from(expected.samples() - expected.failed());
    assert_eq!(profile.latency().total(), readings);
}

/// As the image's own manifest says.
fn firmware_version() -> String {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../lm3s6965evb/Cargo.toml");
    let manifest = fs::read_to_string(manifest).expect("the image has a manifest");
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = "));
    version.expect("the manifest has a version").trim_matches('"').to_owned()
}

/// Adds up the loadable segments of a 32-bit little-endian ELF file ("Tool Interface Standard ELF
/// Specification 1.2", figure 2-1: program header). Initial values of statics lie in flash, too.
fn flash_used_bytes(elf: &[u8]) -> u64 {
    const LOADABLE: u64 = 1;
    let field = |at: usize, len: usize| {
        let bytes = elf[at..at + len].iter().rev();
        bytes.fold(0, |value, &byte| value << 8 | u64::from(byte))
    };
    assert_eq!(elf[..6], [0x7f, b'E', b'L', b'F', 1, 1], "it is a 32-bit little-endian ELF file");
    let (table, entry_len, count) = (field(28, 4), field(42, 2), field(44, 2));
    let entry_at = |entry| usize::try_from(table + entry * entry_len).expect("it is in the file");
    let loadable = (0..count).map(entry_at).filter(|&at| field(at, 4) == LOADABLE);
    loadable.map(|at| field(at + 16, 4)).sum()
}
