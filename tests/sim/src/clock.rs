//! The time: the true one, and what devices take for it.

/// The true time when a run begins, in Unix milliseconds: a day of the year 2027.
pub const START_MS: u64 = 1_800_000_000_000;

/// One second, in milliseconds.
pub const SECOND_MS: u64 = 1000;
/// One hour, in milliseconds.
pub const HOUR_MS: u64 = 60 * 60 * SECOND_MS;
/// One day, in milliseconds.
pub const DAY_MS: u64 = 24 * HOUR_MS;

/// The clock of one device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceClock {
    // Whether anybody ever told the device the time.
    set: bool,
    ahead_ms: i64,
    // The true time when the run of the agent began.
    booted_ms: u64,
}

impl DeviceClock {
    /// A clock that is right.
    pub fn right() -> Self {
        Self { set: true, ahead_ms: 0, booted_ms: START_MS }
    }

    /// The device starts at the true time `true_ms`; a clock that is not set begins in 1970.
    pub fn boot(&mut self, true_ms: u64, set: bool) {
        (self.set, self.booted_ms) = (set, true_ms);
    }

    /// The clock jumps to so much ahead of the true time, or behind it.
    pub fn jump(&mut self, ahead_ms: i64) {
        (self.set, self.ahead_ms) = (true, ahead_ms);
    }

    /// Nobody tells the device the time any more.
    pub fn unset(&mut self) {
        self.set = false;
    }

    /// What the device takes for the time of day.
    pub fn unix_ms(&self, true_ms: u64) -> u64 {
        match self.set {
            true => true_ms.saturating_add_signed(self.ahead_ms),
            false => self.elapsed_ms(true_ms),
        }
    }

    /// The time since the device started.
    pub fn elapsed_ms(&self, true_ms: u64) -> u64 {
        true_ms.saturating_sub(self.booted_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_not_set_counts_from_1970_and_one_that_jumped_is_off() {
        let mut clock = DeviceClock::right();
        assert_eq!(clock.unix_ms(START_MS + 5), START_MS + 5);
        clock.boot(START_MS + 10, false);
        assert_eq!((clock.unix_ms(START_MS + 15), clock.elapsed_ms(START_MS + 15)), (5, 5));
        clock.jump(-7);
        assert_eq!(clock.unix_ms(START_MS + 15), START_MS + 8);
    }
}
