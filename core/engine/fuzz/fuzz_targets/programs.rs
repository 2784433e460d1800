//! Programs, byte by byte.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // In memory that ends where the program does.
    selvedge_engine_fuzz::run(&input.to_vec());
});
