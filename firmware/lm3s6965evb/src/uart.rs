//! UART0 as a line for bytes: 115,200 baud, 8 data bits, no parity, 1 stop bit.

use core::convert::Infallible;

use embedded_io::{ErrorType, Write};

use crate::{
    board::CORE_HZ,
    registers::{UART0_CTL, UART0_DR, UART0_FBRD, UART0_FR, UART0_IBRD, UART0_LCRH},
};

const BAUD: u32 = 115_200;
const FLAG_BUSY: u32 = 1 << 3;
const FLAG_TRANSMIT_FULL: u32 = 1 << 5;

/// The transmitting half of UART0.
pub struct Uart0 {
    _private: (),
}

impl Uart0 {
    /// Sets the line up. Its clock and its pins are there already.
    pub fn start() -> Self {
        const EIGHT_BITS: u32 = 0b11 << 5;
        const FIFO: u32 = 1 << 4;
        const ENABLE: u32 = 1;
        const TRANSMIT: u32 = 1 << 8;
        // The divisor is the clock over 16 times the rate, in 64ths, rounded: 4 × clock ÷ rate.
        let divisor = (CORE_HZ * 4 + BAUD / 2) / BAUD;
        UART0_CTL.write(0);
        UART0_IBRD.write(divisor >> 6);
        UART0_FBRD.write(divisor & 0x3f);
        UART0_LCRH.write(EIGHT_BITS | FIFO);
        UART0_CTL.write(ENABLE | TRANSMIT);
        Self { _private: () }
    }
}

impl ErrorType for Uart0 {
    type Error = Infallible;
}

impl Write for Uart0 {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        for &byte in bytes {
            while UART0_FR.read() & FLAG_TRANSMIT_FULL != 0 {}
            UART0_DR.write(u32::from(byte));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while UART0_FR.read() & FLAG_BUSY != 0 {}
        Ok(())
    }
}
