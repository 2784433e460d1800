//! How many devices are told within a minute.
//!
//! The rules are those of AWS IoT Jobs (`JobExecutionsRolloutConfig`): a constant number, or one that grows by a factor
//! each time so many more devices were notified, or succeeded. A minute is the 60 seconds before any moment, so that no
//! boundary lets two minutes' worth through at once; those who are notified within it do not yet raise its rate.

use libm::{floor, pow};
use serde::{Deserialize, Serialize};

/// The highest rate, as in AWS IoT Jobs.
pub const PER_MINUTE_MAX: u32 = 1000;

/// Within so long the rate holds.
pub const MINUTE_MS: u64 = 60_000;

/// How many devices are told within a minute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rate {
    /// Always as many.
    Constant {
        /// Devices in a minute.
        per_minute: u32,
    },
    /// More as it goes well.
    Exponential {
        /// Devices in the first minute.
        base_per_minute: u32,
        /// What the rate is multiplied by, with one decimal.
        factor: f64,
        /// When it is multiplied.
        increase: Increase,
    },
}

/// When a rate is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Increase {
    /// Each time so many more devices were told.
    EveryNotified(u32),
    /// Each time so many more devices confirmed.
    EverySucceeded(u32),
}

impl Default for Rate {
    fn default() -> Self {
        Self::Constant { per_minute: PER_MINUTE_MAX }
    }
}

impl Rate {
    /// Devices in a minute, once so many were notified and so many succeeded.
    pub fn per_minute(self, notified: u64, succeeded: u64) -> u32 {
        match self {
            Self::Constant { per_minute } => per_minute,
            Self::Exponential { base_per_minute, factor, increase } => {
                let steps = match increase {
                    Increase::EveryNotified(every) => notified / u64::from(every.max(1)),
                    Increase::EverySucceeded(every) => succeeded / u64::from(every.max(1)),
                };
                let rate = floor(f64::from(base_per_minute) * pow(factor, steps as f64));
                if rate >= f64::from(PER_MINUTE_MAX) { PER_MINUTE_MAX } else { rate as u32 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_aws_doubles_each_thousand() {
        let rate = Rate::Exponential {
            base_per_minute: 50,
            factor: 2.0,
            increase: Increase::EveryNotified(1000),
        };
        let at = |notified| rate.per_minute(notified, 0);
        assert_eq!([at(0), at(999), at(1000), at(2000), at(3000)], [50, 50, 100, 200, 400]);
        assert_eq!(at(u64::MAX), PER_MINUTE_MAX);
    }
}
