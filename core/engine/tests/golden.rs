//! Programs of every version that was ever shipped are still read, mean the same operations, and answer with the same
//! bits.
//!
//! The files in `tests/golden/programs/v<N>/` of the repository are programs as version N wrote them, and what they
//! answer to the inputs of `inputs::of`. They are added to, never edited. To write the files of a new program:
//! `SELVEDGE_WRITE_GOLDEN=1 cargo test -p selvedge-engine --test golden`; a file that exists is left as it is.

mod inputs;
mod small;

use std::{env, fs, path::PathBuf};

use selvedge_engine::{Arena, Executable, KernelSet, Limits, Op, Program};

const NAMES: [&str; 3] = ["classifier", "image", "products"];
const VERSIONS: [u16; 1] = [1];

#[test]
fn programs_of_every_version_are_read_and_answer_as_they_did() {
    for (name, written_now) in NAMES.into_iter().zip(small::programs()) {
        for version in VERSIONS {
            let golden = golden(version, &format!("{name}.program"), &written_now);
            let program = Program::check(&golden, &Limits::new()).expect("it was sound once");
            let now = Program::check(&written_now, &Limits::new()).expect("the program is sound");
            let operations = |program: &Program<'_>| program.operations().collect::<Vec<Op>>();
            assert_eq!(operations(&program), operations(&now), "{name} of version {version}");
            let found = outputs(&golden, KernelSet::scalar());
            let expected = self::golden(version, &format!("{name}.outputs"), &found);
            for set in KernelSet::available() {
                let found = outputs(&golden, set);
                assert_eq!(found, expected, "{name} of version {version}, {}", set.name());
            }
        }
    }
}

/// The bytes of a golden file, which is made of `now` if it is missing and asked for.
fn golden(version: u16, name: &str, now: &[u8]) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/programs");
    let path = folder.join(format!("v{version}")).join(name);
    if !path.exists() && env::var_os("SELVEDGE_WRITE_GOLDEN").is_some() {
        fs::write(&path, now).expect("the golden folder can be written");
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn outputs(bytes: &[u8], set: &'static KernelSet) -> Vec<u8> {
    let executable = Executable::prepare(bytes, set, &Limits::new()).expect("it was checked");
    let mut arena = Arena::zeroed(executable.arena_bytes());
    // The programs read bytes between pixels that nothing has written: zeros, as values.
    arena.fill(if set.stores_unsigned() { 0x80 } else { 0 });
    let inputs = inputs::of(&executable.program());
    let mut inputs = &inputs[..];
    for port in executable.program().inputs() {
        let (input, rest) = inputs.split_at(port.len_bytes());
        arena[port.range()].copy_from_slice(input);
        inputs = rest;
    }
    executable.run(&mut arena).expect("the arena is large enough");
    executable.program().outputs().flat_map(|port| arena[port.range()].to_vec()).collect()
}
