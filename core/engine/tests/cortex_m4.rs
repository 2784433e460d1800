//! A program on an emulated Cortex-M4 gives the bytes that it gives here, with every kernel set.
//!
//! Needs `qemu-system-arm` and the image that `firmware/build` makes. Without one of them the test prints SKIPPED and
//! what is missing; with SELVEDGE_REQUIRE_TOOLS=1 it fails instead. If the image was made with `SELVEDGE_PROGRAM`,
//! this test wants the same.

#![cfg(not(miri))]

mod inputs;
mod small;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use selvedge_engine::{Arena, Executable, KernelSet, Limits, Program};

const IMAGE: &str = "firmware/thumbv7em-none-eabihf/release/selvedge-engine-m4";

#[test]
fn a_microcontroller_gives_the_same_bytes() {
    let Some(image) = image() else { return };
    let bytes = match env::var_os("SELVEDGE_PROGRAM") {
        None => small::programs().swap_remove(0),
        Some(path) => fs::read(path).expect("SELVEDGE_PROGRAM can be read"),
    };
    let said = said(&image);
    let program = Program::check(&bytes, &Limits::new()).expect("the program is sound");
    let mut arena = Arena::zeroed(program.arena_bytes());
    put_inputs(&program, &mut arena);
    program.run(&mut arena).expect("the arena is large enough");
    assert_eq!(said, outputs(&program, &arena), "the reference");
    for set in KernelSet::available() {
        let executable =
            Executable::prepare(&bytes[..], set, &Limits::new()).expect("the program is sound");
        put_inputs(&program, &mut arena);
        executable.run(&mut arena).expect("the arena is large enough");
        assert_eq!(said, outputs(&program, &arena), "{}", set.name());
    }
}

fn put_inputs(program: &Program<'_>, arena: &mut [u8]) {
    let bytes = inputs::of(program);
    let mut bytes = &bytes[..];
    for port in program.inputs() {
        let (input, rest) = bytes.split_at(port.len_bytes());
        arena[port.range()].copy_from_slice(input);
        bytes = rest;
    }
}

/// A line for each output, as the image writes them.
fn outputs(program: &Program<'_>, arena: &[u8]) -> String {
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    program
        .outputs()
        .map(|port| format!("{} {}\n", port.name, digits(&arena[port.range()])))
        .collect()
}

/// What the image wrote, without what the emulator itself says.
fn said(image: &Path) -> String {
    let mut command = Command::new("qemu-system-arm");
    command.args(["-M", "mps2-an386", "-display", "none", "-nodefaults"]);
    command.args(["-semihosting-config", "enable=on,target=native"]);
    command.arg("-kernel").arg(image).stdin(Stdio::null());
    let output = command.output().expect("QEMU starts");
    // Which stream the console is depends on QEMU's version.
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    let lines = said.lines().filter(|line| !line.starts_with("qemu-system-arm: "));
    lines.flat_map(|line| [line, "\n"]).collect()
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
