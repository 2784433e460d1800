//! What the fuzz targets share: a program is refused, or it runs in memory of its own size, with every kernel set.
//!
//! Under AddressSanitizer a byte that is read or written beside that memory ends the run.

use selvedge_engine::{Executable, KernelSet, Limits, Program};

/// What a program may ask for here: little, so that many are tried.
pub const LIMITS: Limits = Limits {
    program_bytes_max: 1 << 16,
    arena_bytes_max: 1 << 15,
    operations_max: 64,
    ports_max: 16,
    extent_max: 1 << 24,
    work_max: 1 << 18,
};

/// Checks the bytes, and runs them if they are a program.
pub fn run(bytes: &[u8]) {
    let Ok(program) = Program::check(bytes, &LIMITS) else { return };
    let arena = || vec![0x5a; program.arena_bytes()];
    let ran = "the arena is large enough";
    program.run(&mut arena()).expect(ran);
    for set in KernelSet::available() {
        let executable = Executable::prepare(bytes, set, &LIMITS).expect("it was checked");
        executable.run(&mut arena()).expect(ran);
    }
}
