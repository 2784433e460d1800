//! Puts `memory.x` where the linker looks for it, and a program with its inputs where the image includes them.
//!
//! `SELVEDGE_PROGRAM` names the program; without it, it is the classifier that the engine's tests begin with.

use std::{env, fs, path::PathBuf};

use selvedge_engine::{Limits, Program};

#[path = "../../core/engine/tests/inputs/mod.rs"]
mod inputs;
#[path = "../../core/engine/tests/small/mod.rs"]
mod small;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let write = |name: &str, bytes: &[u8]| {
        fs::write(out.join(name), bytes).expect("OUT_DIR is writable");
    };
    let bytes = match env::var_os("SELVEDGE_PROGRAM") {
        None => small::programs().swap_remove(0),
        Some(path) => {
            println!("cargo:rerun-if-changed={}", path.display());
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        }
    };
    let program = Program::check(&bytes, &Limits::new()).unwrap_or_else(|error| panic!("{error}"));
    let arena = format!("const ARENA_BYTES: usize = {};\n", program.arena_bytes());
    write("arena.rs", arena.as_bytes());
    write("inputs", &inputs::of(&program));
    write("program", &bytes);
    write("memory.x", include_bytes!("memory.x"));
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rerun-if-env-changed=SELVEDGE_PROGRAM");
    println!("cargo:rerun-if-changed=memory.x");
    println!("cargo:rerun-if-changed=../../core/engine");
}
