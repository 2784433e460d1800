//! What a node does with its time: a reading per period, a profile per window.
//!
//! On the line: a hello at the start and after each window, so a gateway that came later learns who
//! speaks; a reading, or a failure, per period; a profile when a window closes. Counters advance
//! before a frame is written, so a frame that the line lost shows as a gap in them.

use embedded_hal::i2c::I2c;
use embedded_io::Write;
use selvedge_sketch::{BinSpec, NodeProfile};
use selvedge_wire::{
    FRAME_ENCODED_BYTES_MAX, NodeId, NodeMessage, Quantity, Reading, encode_frame,
};

use crate::{Celsius, TEMPERATURE_SPEC_ID, Tmp105, temperature_bins};

/// The most samples in one window. The longest profile of so many fits [`PROFILE_BYTES_MAX`].
pub const WINDOW_SAMPLES_MAX: u32 = 64;

/// The longest encoded profile of a window, in bytes; a frame has room for it.
pub const PROFILE_BYTES_MAX: usize = 400;

/// The time since the node's start.
pub trait Clock {
    /// Milliseconds since the start, modulo 2³².
    fn uptime_ms(&mut self) -> u32;

    /// Microseconds since the start, modulo 2³²; differences under an hour are right.
    fn uptime_us(&mut self) -> u32;
}

/// Who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, unique in a fleet.
    pub node: NodeId,
    /// The version of its firmware.
    pub firmware: &'static str,
}

/// How often a node reads and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    period_ms: u32,
    window_samples: u32,
}

impl Schedule {
    /// A reading every `period_ms`, a profile after `window_samples` of them.
    ///
    /// # Panics
    /// If `period_ms` is 0 or above an hour, or `window_samples` is 0 or above [`WINDOW_SAMPLES_MAX`].
    /// An image makes its schedule in a constant, so that it is the build that fails.
    pub const fn new(period_ms: u32, window_samples: u32) -> Self {
        assert!(period_ms > 0 && period_ms <= 3_600_000, "a period has 1 ms to 1 h");
        assert!(window_samples > 0 && window_samples <= WINDOW_SAMPLES_MAX, "1 to 64 samples");
        Self { period_ms, window_samples }
    }
}

/// What a call of [`Node::poll`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No reading is due yet.
    Idle,
    /// A reading was tried.
    Sampled,
    /// A reading was tried, and with it a window closed.
    WindowClosed,
}

/// A node with one temperature sensor.
pub struct Node<I2C, C, L> {
    identity: Identity,
    schedule: Schedule,
    sensor: Tmp105<I2C>,
    clock: C,
    line: L,
    bins: BinSpec,
    // `None` before the first poll.
    due_ms: Option<u32>,
    readings: u32,
    failures: u32,
    window: u32,
    profile: NodeProfile,
}

impl<I2C: I2c, C: Clock, L: Write> Node<I2C, C, L> {
    /// A node that has not spoken yet.
    pub fn new(
        identity: Identity,
        schedule: Schedule,
        sensor: Tmp105<I2C>,
        clock: C,
        line: L,
    ) -> Self {
        Self {
            identity,
            schedule,
            sensor,
            clock,
            line,
            bins: temperature_bins(),
            due_ms: None,
            readings: 0,
            failures: 0,
            window: 0,
            profile: empty_profile(),
        }
    }

    /// Does what is due. Call it at least once per period; a reading that is a period late is left out.
    ///
    /// # Errors
    /// The line's. The node goes on with the next call; what it could not say is lost.
    pub fn poll(&mut self) -> Result<Progress, L::Error> {
        let now_ms = self.clock.uptime_ms();
        let due_ms = match self.due_ms {
            Some(due_ms) => due_ms,
            None => {
                self.due_ms = Some(now_ms);
                self.say_hello()?;
                now_ms
            }
        };
        if !has_come(due_ms, now_ms) {
            return Ok(Progress::Idle);
        }
        self.due_ms = Some(next_due_ms(due_ms, now_ms, self.schedule.period_ms));
        // The window closes even if the line fails, and a failure is told all the same.
        let sampled = self.sample();
        if self.profile.samples() < self.schedule.window_samples {
            return sampled.map(|()| Progress::Sampled);
        }
        let closed = self.close_window();
        sampled.and(closed).map(|()| Progress::WindowClosed)
    }

    fn sample(&mut self) -> Result<(), L::Error> {
        let begun_us = self.clock.uptime_us();
        let outcome = self.sensor.read();
        let ended_us = self.clock.uptime_us();
        match outcome {
            Ok(temperature) => {
                self.profile.observe_latency(ended_us.wrapping_sub(begun_us));
                self.report(temperature)
            }
            Err(_) => self.report_failure(),
        }
    }

    fn report(&mut self, temperature: Celsius) -> Result<(), L::Error> {
        let value = temperature.milli;
        self.profile.count_sample();
        self.profile.observe_integer(0, &self.bins, value);
        let (count, uptime_ms) = (self.readings, self.clock.uptime_ms());
        self.readings = self.readings.wrapping_add(1);
        let quantity = Quantity::TemperatureMilliCelsius;
        let reading = Reading { count, uptime_ms, quantity, value };
        send(&mut self.line, &NodeMessage::Reading { node: self.identity.node, reading })
    }

    fn report_failure(&mut self) -> Result<(), L::Error> {
        self.profile.count_failed_sample();
        self.failures = self.failures.saturating_add(1);
        let (node, count) = (self.identity.node, self.failures);
        send(&mut self.line, &NodeMessage::SensorFailed { node, count })
    }

    fn close_window(&mut self) -> Result<(), L::Error> {
        let closed = core::mem::replace(&mut self.profile, empty_profile());
        let window = self.window;
        self.window = self.window.wrapping_add(1);
        self.sensor.distrust();
        let mut buffer = [0; PROFILE_BYTES_MAX];
        let profile =
            closed.encode(&mut buffer).expect("a window's samples are limited so that it fits");
        let node = self.identity.node;
        send(&mut self.line, &NodeMessage::Profile { node, window, profile })?;
        self.say_hello()
    }

    fn say_hello(&mut self) -> Result<(), L::Error> {
        let Identity { node, firmware } = self.identity;
        send(&mut self.line, &NodeMessage::Hello { node, firmware })
    }
}

fn empty_profile() -> NodeProfile {
    NodeProfile::new(TEMPERATURE_SPEC_ID, 1).expect("a node's profile has room for one feature")
}

/// Whether `due_ms` is not after `now_ms`, on a clock that wraps around.
fn has_come(due_ms: u32, now_ms: u32) -> bool {
    now_ms.wrapping_sub(due_ms) <= u32::MAX / 2
}

/// One period after `due_ms`; if that has come already, one period after now.
fn next_due_ms(due_ms: u32, now_ms: u32, period_ms: u32) -> u32 {
    let next_ms = due_ms.wrapping_add(period_ms);
    if has_come(next_ms, now_ms) { now_ms.wrapping_add(period_ms) } else { next_ms }
}

fn send<L: Write>(line: &mut L, message: &NodeMessage<'_>) -> Result<(), L::Error> {
    let mut buffer = [0; FRAME_ENCODED_BYTES_MAX];
    let frame =
        encode_frame(message, &mut buffer).expect("a node's messages are limited to a frame");
    line.write_all(frame)
}

#[cfg(test)]
mod tests;
