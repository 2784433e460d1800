//! A sensor node: reads a temperature, counts it, and reports both over a serial line.
//!
//! The crate knows no chip: an image brings an embedded-hal [`I2c`](embedded_hal::i2c::I2c) bus, a
//! [`Clock`] and an embedded-io [`Write`](embedded_io::Write) line, and calls [`Node::poll`] in its
//! main loop. What goes over the line are the frames of `selvedge-wire`; a window's counters are a
//! `selvedge-sketch` profile in the bins of [`temperature_bins`].
//!
//! No allocation, no unsafe code, no float.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod bins;
mod node;
mod tmp105;

pub use bins::{TEMPERATURE_SPEC_ID, temperature_bins};
pub use node::{Clock, Identity, Node, PROFILE_BYTES_MAX, Progress, Schedule, WINDOW_SAMPLES_MAX};
pub use tmp105::{Celsius, Tmp105};
