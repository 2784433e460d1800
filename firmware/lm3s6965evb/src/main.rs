//! A sensor node on the LM3S6965 evaluation board: a TMP105 on I²C0, frames on UART0.
//!
//! Unsafe code is in `registers` (memory-mapped registers) alone, and in what the attributes of
//! `cortex-m-rt` make of `main` and `SysTick`.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod board;
mod i2c;
#[allow(unsafe_code)]
mod registers;
mod systick;
mod uart;

use core::panic::PanicInfo;

use cortex_m::{asm, peripheral::SCB};
use cortex_m_rt::entry;
use selvedge_node::{Identity, Node, Schedule, Tmp105};

const SENSOR_ADDRESS: u8 = 0x48;
const SCHEDULE: Schedule = Schedule::new(200, 25);

#[entry]
fn main() -> ! {
    let board = board::start();
    let identity = Identity { node: board.node, firmware: env!("CARGO_PKG_VERSION") };
    let sensor = Tmp105::new(board.i2c, SENSOR_ADDRESS);
    let mut node = Node::new(identity, SCHEDULE, sensor, board.clock, board.uart);
    loop {
        let Ok(_) = node.poll();
        // The clock's interrupt ends the wait after a millisecond at most.
        asm::wfi();
    }
}

/// There is no one to tell: the node starts anew, and its counters show it.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    SCB::sys_reset()
}
