//! A sensor node on an emulated board, seen from the fleet: board, line, agent, broker, fleet.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use selvedge_tests::{
    api::number,
    binary::{Leader, wait_for},
    stage::{PATIENCE, Stage, free_port},
};
use serde_json::{Value, json};

const IMAGE: &str = "firmware/thumbv7m-none-eabi/release/selvedge-node-lm3s6965evb";

/// The board's address, which is the node's name.
const MAC: &str = "52:54:00:12:34:56";
const NODE: &str = "0000525400123456";

/// What the sensor is set to, in thousandths of a degree, and how exactly it measures.
const TEMPERATURE_MCELSIUS: i64 = 31_250;
const STEP_MCELSIUS: i64 = 63;

#[test]
fn the_readings_of_an_emulated_node_are_found_in_the_fleet() {
    let Some(image) = image() else { return };
    let mut stage = Stage::embedded();
    let mut board = Board::start(&image);
    board.set_temperature(TEMPERATURE_MCELSIUS);
    let source = format!(
        "[[source]]\nname = \"uart\"\nkind = \"node\"\naddress = \"127.0.0.1:{}\"\n",
        board.line
    );
    stage.add_agent("line-1", &source);

    let is_warm = |node: &Value| {
        let value = node["value"].as_i64().unwrap_or(i64::MIN);
        (TEMPERATURE_MCELSIUS - STEP_MCELSIUS..=TEMPERATURE_MCELSIUS + STEP_MCELSIUS)
            .contains(&value)
    };
    let nodes = stage.wait_for("/api/v1/devices/line-1/nodes", "a warm node", |nodes| {
        nodes.as_array().is_some_and(|nodes| nodes.iter().any(is_warm))
    });
    let node = &nodes[0];
    assert_eq!(node["node"].as_str(), Some(NODE), "{node}");
    assert!(number(&node["readings"]) > 0 && number(&node["profiles"]) > 0, "{node}");
    stage.wait_for_event("line-1", "node-seen", NODE);

    let profiles = stage.api().rows("line-1", "profiles");
    assert!(!profiles.is_empty());
    for profile in &profiles {
        assert_eq!((profile["node"].as_str(), &profile["bundle"]), (Some(NODE), &Value::Null));
        let counters = &profile["counters"];
        let binned: u64 = counters["features"][0]
            .as_array()
            .expect("a node counts one feature")
            .iter()
            .map(number)
            .sum();
        assert_eq!(binned, number(&counters["samples"]), "every reading is in a bin: {profile}");
    }

    // A board that is gone is told, and looked for again.
    drop(board);
    stage.wait_for_event("line-1", "source-failed", "uart");
}

/// A running board, whose line and monitor are sockets of loopback.
struct Board {
    line: u16,
    monitor: BufReader<TcpStream>,
    _emulator: Leader,
}

impl Board {
    fn start(image: &Path) -> Self {
        let (line, monitor) = (free_port(), free_port());
        let socket = |port: u16| format!("tcp:127.0.0.1:{port},server=on,wait=off");
        let emulator = Leader::start(
            Command::new("qemu-system-arm")
                .args(["-M", "lm3s6965evb", "-display", "none", "-nodefaults"])
                .args(["-nic", &format!("user,model=stellaris,mac={MAC}")])
                .args(["-device", "tmp105,id=tmp,address=0x48"])
                .args(["-serial", &socket(line), "-qmp", &socket(monitor)])
                .arg("-kernel")
                .arg(image)
                .stdin(Stdio::null()),
        );
        let monitor =
            wait_for("the emulator", PATIENCE, || TcpStream::connect(("127.0.0.1", monitor)).ok());
        monitor.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time limit");
        let mut board = Self { line, monitor: BufReader::new(monitor), _emulator: emulator };
        assert!(board.answer().get("QMP").is_some(), "the monitor greets");
        board.execute("qmp_capabilities", &json!({}));
        board
    }

    fn set_temperature(&mut self, milli: i64) {
        let path = "/machine/peripheral/tmp";
        self.execute("qom-set", &json!({"path": path, "property": "temperature", "value": milli}));
    }

    fn execute(&mut self, command: &str, arguments: &Value) {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.monitor.get_mut(), "{request}").expect("the emulator reads its monitor");
        loop {
            let answer = self.answer();
            // Events may come in between.
            if answer.get("event").is_none() {
                assert!(answer.get("return").is_some(), "{command}: {answer}");
                return;
            }
        }
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.monitor.read_line(&mut line).expect("the emulator answers");
        serde_json::from_str(&line).expect("the monitor speaks JSON")
    }
}

/// The node's image, if that and the emulator are there.
fn image() -> Option<PathBuf> {
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(IMAGE);
    let emulator = Command::new("qemu-system-arm").arg("--version").stdout(Stdio::null()).status();
    let missing = match (emulator, image.is_file()) {
        (Ok(_), true) => return Some(image),
        (Err(_), _) => "qemu-system-arm".to_owned(),
        (_, false) => format!("{} (make it with firmware/build)", image.display()),
    };
    let required = env::var("SELVEDGE_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
    assert!(!required, "missing: {missing}");
    eprintln!("skipped: missing {missing}");
    None
}
