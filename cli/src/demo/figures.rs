//! What the demo measured, and what it promised.

use serde::Serialize;

use super::fleet::Sums;

/// What devices reported and the fleet stored while the demo ran.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Devices that took part.
    pub devices: usize,
    /// Inferences that gave an answer.
    pub inferences: u64,
    /// Inferences that gave none.
    pub failed: u64,
    /// Devices that run the latest version.
    pub on_latest: usize,
    /// Numbers that are missing between the records that the fleet stored.
    pub sequence_gaps: u64,
    /// Changes from one running bundle to another.
    pub swaps: u64,
    /// MQTT payload bytes that devices received.
    pub bytes_down: u64,
    /// MQTT payload bytes that devices sent.
    pub bytes_up: u64,
    /// Half of the answers took no longer; an upper bound, from the devices' newest profiles.
    pub latency_us_p50: Option<u32>,
    /// Of a hundred answers, 99 took no longer.
    pub latency_us_p99: Option<u32>,
    /// Profiles that the fleet stored.
    pub profiles: u64,
    /// The highest resident memory of an agent, in units of 1,000,000 bytes.
    pub agent_rss_mb_max: f64,
    /// Results that the fleet stored.
    pub results_stored: u64,
    /// Records that quotas made devices drop.
    pub records_dropped: u64,
    /// How long samples streamed in.
    pub streamed_s: f64,
}

impl Figures {
    /// What the fleet's sums say after `streamed_s` seconds.
    pub fn new(devices: usize, on_latest: usize, sums: &Sums, streamed_s: f64) -> Self {
        Self {
            devices,
            inferences: sums.inferences,
            failed: sums.inferences_failed,
            on_latest,
            sequence_gaps: sums.sequence_gaps,
            swaps: sums.swaps,
            bytes_down: sums.received_bytes,
            bytes_up: sums.sent_bytes,
            latency_us_p50: sums.latency_us_p50,
            latency_us_p99: sums.latency_us_p99,
            profiles: sums.profiles,
            agent_rss_mb_max: sums.resident_bytes_peak as f64 / 1e6,
            results_stored: sums.results,
            records_dropped: sums.records_dropped,
            streamed_s,
        }
    }

    /// What was promised and not kept, in plain words.
    pub fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.inferences == 0 {
            broken.push("no inference was made".to_owned());
        }
        if self.failed > 0 {
            broken.push(format!("{} inferences failed", self.failed));
        }
        if self.on_latest < self.devices {
            let late = self.devices - self.on_latest;
            broken.push(format!("{late} of {} devices do not run version 2", self.devices));
        }
        if self.swaps < self.devices as u64 {
            broken.push(format!(
                "{} changes of a running bundle were counted on {} devices",
                self.swaps, self.devices
            ));
        }
        if self.sequence_gaps > 0 {
            broken.push(format!("{} numbers are missing from the streams", self.sequence_gaps));
        }
        if self.records_dropped > 0 {
            broken.push(format!("{} records were dropped for lack of room", self.records_dropped));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Figures {
        Figures {
            devices: 5,
            inferences: 100,
            failed: 0,
            on_latest: 5,
            sequence_gaps: 0,
            swaps: 5,
            bytes_down: 1,
            bytes_up: 1,
            latency_us_p50: Some(1),
            latency_us_p99: Some(1),
            profiles: 5,
            agent_rss_mb_max: 1.0,
            results_stored: 100,
            records_dropped: 0,
            streamed_s: 1.0,
        }
    }

    #[test]
    fn each_broken_promise_is_named() {
        let cases = [
            (kept(), ""),
            (Figures { inferences: 0, ..kept() }, "no inference was made"),
            (Figures { failed: 2, ..kept() }, "2 inferences failed"),
            (Figures { on_latest: 3, ..kept() }, "2 of 5 devices do not run version 2"),
            (
                Figures { swaps: 4, ..kept() },
                "4 changes of a running bundle were counted on 5 devices",
            ),
            (Figures { sequence_gaps: 2, ..kept() }, "2 numbers are missing from the streams"),
            (Figures { records_dropped: 2, ..kept() }, "2 records were dropped for lack of room"),
        ];
        let wrong: Vec<_> = cases
            .into_iter()
            .map(|(figures, expected)| (figures.broken_promises().join("; "), expected))
            .filter(|(found, expected)| found != expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
