//! I²C0 as a master at 100 kHz.
//!
//! A transaction has one direction: the reads of a transaction are one message, or its writes are.
//! A change of direction would need a repeated start, which QEMU's model of this controller does not
//! make; it is refused with [`Error::DirectionChange`] instead of being left untested.

use core::iter;

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};

use crate::{
    board::CORE_HZ,
    registers::{I2C0_MCR, I2C0_MCS, I2C0_MDR, I2C0_MSA, I2C0_MTPR},
};

const BUS_HZ: u32 = 100_000;

const COMMAND_RUN: u32 = 1 << 0;
const COMMAND_START: u32 = 1 << 1;
const COMMAND_STOP: u32 = 1 << 2;
const COMMAND_ACKNOWLEDGE: u32 = 1 << 3;

const STATUS_BUSY: u32 = 1 << 0;
const STATUS_ERROR: u32 = 1 << 1;
const STATUS_ADDRESS_REFUSED: u32 = 1 << 2;
const STATUS_DATA_REFUSED: u32 = 1 << 3;
const STATUS_ARBITRATION_LOST: u32 = 1 << 4;

/// How long a byte may take, in looks at the status: at 100 kHz one takes 90 µs, or 4,500 cycles,
/// and a sensor may stretch the clock.
const LOOKS_MAX: u32 = 100_000;

/// What went wrong on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No one answered to the address.
    AddressRefused,
    /// The device refused a byte.
    DataRefused,
    /// Another master won the bus, or a line is held down.
    ArbitrationLost,
    /// A byte was not through in time.
    Timeout,
    /// The transaction both reads and writes.
    DirectionChange,
    /// The transaction moves no byte, which the controller cannot do.
    Empty,
}

impl embedded_hal::i2c::Error for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::AddressRefused => ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address),
            Self::DataRefused => ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data),
            Self::ArbitrationLost => ErrorKind::ArbitrationLoss,
            Self::Timeout => ErrorKind::Bus,
            Self::DirectionChange | Self::Empty => ErrorKind::Other,
        }
    }
}

/// The master of I²C0.
pub struct I2c0 {
    _private: (),
}

impl I2c0 {
    /// Sets the master up. Its clock and its pins are there already.
    pub fn start() -> Self {
        const MASTER: u32 = 1 << 4;
        // A bit takes 10 periods: 6 low, 4 high.
        const TIMER_PERIOD: u32 = CORE_HZ / (2 * 10 * BUS_HZ) - 1;
        I2C0_MCR.write(MASTER);
        I2C0_MTPR.write(TIMER_PERIOD);
        Self { _private: () }
    }
}

impl ErrorType for I2c0 {
    type Error = Error;
}

impl I2c for I2c0 {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        let reads = operations.iter().filter(|step| matches!(step, Operation::Read(_))).count();
        match reads {
            0 => write(address, operations),
            _ if reads == operations.len() => read(address, operations),
            _ => Err(Error::DirectionChange),
        }
    }
}

fn write(address: u8, operations: &[Operation<'_>]) -> Result<(), Error> {
    let bytes = operations.iter().flat_map(|step| match step {
        Operation::Write(bytes) => *bytes,
        Operation::Read(_) => &[],
    });
    I2C0_MSA.write(u32::from(address) << 1);
    for (&byte, edges) in bytes.clone().zip(edge_commands(bytes.count())?) {
        I2C0_MDR.write(u32::from(byte));
        run(edges)?;
    }
    Ok(())
}

fn read(address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
    const RECEIVE: u32 = 1;
    let len = operations.iter().map(|step| match step {
        Operation::Read(buffer) => buffer.len(),
        Operation::Write(_) => 0,
    });
    let commands = edge_commands(len.sum())?;
    let places = operations.iter_mut().flat_map(|step| match step {
        Operation::Read(buffer) => &mut **buffer,
        Operation::Write(_) => &mut [],
    });
    I2C0_MSA.write(u32::from(address) << 1 | RECEIVE);
    for (place, edges) in places.zip(commands) {
        // The last byte is not acknowledged: that tells the device to let the bus go.
        let is_last = edges & COMMAND_STOP != 0;
        run(if is_last { edges } else { edges | COMMAND_ACKNOWLEDGE })?;
        [*place, ..] = I2C0_MDR.read().to_le_bytes();
    }
    Ok(())
}

/// For each of `len` bytes: a start before the first one, a stop after the last one.
fn edge_commands(len: usize) -> Result<impl Iterator<Item = u32>, Error> {
    let last = len.checked_sub(1).ok_or(Error::Empty)?;
    let mut place = 0;
    Ok(iter::from_fn(move || {
        let start = if place == 0 { COMMAND_START } else { 0 };
        let stop = if place == last { COMMAND_STOP } else { 0 };
        place += 1;
        Some(start | stop)
    }))
}

/// Moves one byte, and lets the bus go if that failed in the middle of a message.
fn run(edges: u32) -> Result<(), Error> {
    I2C0_MCS.write(edges | COMMAND_RUN);
    let status = status_when_done()?;
    if status & STATUS_ERROR == 0 {
        return Ok(());
    }
    if status & STATUS_ARBITRATION_LOST != 0 {
        // QEMU's controller says so, too, when no one answers to the address.
        return Err(Error::ArbitrationLost);
    }
    if edges & COMMAND_STOP == 0 {
        I2C0_MCS.write(COMMAND_STOP);
        status_when_done()?;
    }
    match status {
        status if status & STATUS_ADDRESS_REFUSED != 0 => Err(Error::AddressRefused),
        status if status & STATUS_DATA_REFUSED != 0 => Err(Error::DataRefused),
        _ => Err(Error::ArbitrationLost),
    }
}

fn status_when_done() -> Result<u32, Error> {
    let mut looks = (0..LOOKS_MAX).map(|_| I2C0_MCS.read());
    looks.find(|status| status & STATUS_BUSY == 0).ok_or(Error::Timeout)
}
