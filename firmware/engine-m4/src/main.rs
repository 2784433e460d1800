//! An integer program on a Cortex-M4: checked, run once on the inputs that lie beside it, and its outputs written to
//! the semihosting console, a line for each in hexadecimal digits:
//!
//! ```text
//! probabilities 0000803b00000000
//! ```
//!
//! Program and inputs are in flash, the arena is in RAM; nothing is allocated. `build.rs` says which program it is.

#![no_std]
#![no_main]

use core::panic::PanicInfo;

use cortex_m::{asm, singleton};
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprint, hprintln};
use selvedge_engine::{Limits, Program, ProgramError};

include!(concat!(env!("OUT_DIR"), "/arena.rs"));

/// Where words are read at once, they lie at multiples of their size.
#[repr(align(64))]
struct Aligned<const N: usize>([u8; N]);

const PROGRAM_BYTES: usize = include_bytes!(concat!(env!("OUT_DIR"), "/program")).len();
static PROGRAM: Aligned<PROGRAM_BYTES> =
    Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/program")));
static INPUTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inputs"));

#[entry]
fn main() -> ! {
    let arena = singleton!(: [u8; ARENA_BYTES] = [0; ARENA_BYTES]);
    let outcome = match arena.map(|arena| run(arena)) {
        Some(Ok(())) => debug::EXIT_SUCCESS,
        Some(Err(error)) => {
            hprintln!("{}", error);
            debug::EXIT_FAILURE
        }
        None => debug::EXIT_FAILURE,
    };
    debug::exit(outcome);
    loop {
        asm::nop();
    }
}

fn run(arena: &mut [u8]) -> Result<(), ProgramError> {
    let program = Program::check(&PROGRAM.0, &Limits::new())?;
    let mut inputs = INPUTS;
    for port in program.inputs() {
        let (input, rest) = inputs.split_at(port.len_bytes());
        arena[port.range()].copy_from_slice(input);
        inputs = rest;
    }
    program.run(arena)?;
    for port in program.outputs() {
        hprint!("{} ", port.name);
        arena[port.range()].iter().for_each(|byte| hprint!("{:02x}", byte));
        hprintln!();
    }
    Ok(())
}

#[panic_handler]
fn panic(fault: &PanicInfo<'_>) -> ! {
    hprintln!("{}", fault);
    debug::exit(debug::EXIT_FAILURE);
    loop {
        asm::nop();
    }
}
