//! Inputs for any program: random, but the same everywhere.

use selvedge_engine::{Element, Program};

/// The inputs' bytes, one port after the other. Reals are from -4 to 4.
pub fn of(program: &Program<'_>) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        state >> 16
    };
    let mut bytes = Vec::new();
    for port in program.inputs() {
        let end = bytes.len() + port.len_bytes();
        while bytes.len() < end {
            match port.element {
                Element::F32 => bytes.extend((next() as f32 / 8192.0 - 4.0).to_le_bytes()),
                _ => bytes.push(next() as u8),
            }
        }
    }
    bytes
}
