//! What counting costs on microcontrollers, in instructions (drift.md, B4): an image counts them on
//! emulated boards with a Cortex-M3 and a Cortex-M4.
//!
//! Needs `qemu-system-arm` and the images that `firmware/build` makes. Without one of them the test
//! prints SKIPPED and what is missing; with SELVEDGE_REQUIRE_TOOLS=1 it fails instead. The emulator's
//! clock advances by instructions, so the counts are the same on a machine that is busy.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const IMAGE: &str = "firmware/thumbv7m-none-eabi/release/selvedge-sketch-cost";

/// Boards of QEMU with the core that each has.
const BOARDS: [(&str, &str); 2] = [("lm3s6965evb", "Cortex-M3"), ("mps2-an386", "Cortex-M4")];

/// The most instructions per value, with the three of the loop that hands it over. Without the loop 45 and
/// 12 were asked for. Beyond the guard a value takes a longer way.
const BOUNDS: [(&str, u64); 5] =
    [("f32", 48), ("i16", 45), ("i8", 12), ("latency", 21), ("outside", 60)];

#[test]
fn counting_a_value_takes_no_more_instructions_than_planned() {
    let Some(image) = image() else { return };
    for (board, core) in BOARDS {
        let costs = costs(board, &image);
        for (what, most) in BOUNDS {
            let cost = costs.iter().find(|(name, _)| name == what);
            let (_, thousandths) = cost.unwrap_or_else(|| panic!("{board} says nothing of {what}"));
            println!("{core}: {what} {}.{:03} of {most}", thousandths / 1000, thousandths % 1000);
            // What surrounds the loop is divided among its values.
            assert!(*thousandths <= most * 1000 + 50, "{core}: {what} takes {thousandths}/1000");
        }
    }
}

/// What was counted, and thousandths of an instruction per value.
fn costs(board: &str, image: &Path) -> Vec<(String, u64)> {
    let mut command = Command::new("qemu-system-arm");
    command.args(["-M", board, "-display", "none", "-nodefaults", "-icount", "shift=0"]);
    command.args(["-semihosting-config", "enable=on,target=native"]);
    command.arg("-kernel").arg(image).stdin(Stdio::null());
    let output = command.output().expect("QEMU starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{board}: {}: {errors}", output.status);
    // Which stream the console is depends on QEMU's version.
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    said.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(what, cost)| Some((what.to_owned(), cost.parse().ok()?)))
        .collect()
}

/// The image, or `None` after it was said what is missing.
fn image() -> Option<PathBuf> {
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(IMAGE);
    let qemu = Command::new("qemu-system-arm").arg("--version").stdout(Stdio::null()).status();
    let missing = if qemu.is_err() {
        "qemu-system-arm (Debian: apt-get install qemu-system-arm)".to_owned()
    } else if !image.exists() {
        format!("{} (make it with: firmware/build)", image.display())
    } else {
        return Some(image);
    };
    let is_required = env::var("SELVEDGE_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
    assert!(!is_required, "missing: {missing}");
    eprintln!("SKIPPED: missing {missing}");
    None
}
