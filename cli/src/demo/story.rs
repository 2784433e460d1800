//! The lines that the demo tells its reader.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::Instant,
};

use super::{figures::Figures, fleet::Sums};

/// Prints lines with the time since the start.
pub struct Story {
    started: Instant,
    coloured: bool,
}

impl Story {
    /// A story that starts now.
    pub fn begin() -> Self {
        let coloured = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { started: Instant::now(), coloured }
    }

    /// Something happens.
    pub fn tell(&self, line: impl Display) {
        self.line("", line);
    }

    /// Something happens that the demo is about.
    pub fn announce(&self, line: impl Display) {
        self.line("\x1b[1;32m", line);
    }

    /// Something went wrong.
    pub fn warn(&self, line: impl Display) {
        self.line("\x1b[1;31m", line);
    }

    /// How much was done so far.
    pub fn progress(&self, sums: &Sums) {
        let Sums { inferences, inferences_failed, sequence_gaps, .. } = sums;
        self.tell(format!(
            "{inferences} answers, {inferences_failed} failed, {sequence_gaps} missing"
        ));
    }

    /// What was measured, and whether the promises were kept.
    pub fn summarise(&self, figures: &Figures) {
        let Figures { devices, on_latest, inferences, failed, sequence_gaps, .. } = figures;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let us = |latency: Option<u32>| latency.map_or("-".to_owned(), |us| us.to_string());
        self.tell(format!("{inferences} answers in {:.0} s of streaming", figures.streamed_s));
        self.tell(format!("  {failed} failed, {sequence_gaps} missing from the streams"));
        self.tell(format!("  {on_latest} of {devices} devices on version 2"));
        self.tell(format!(
            "  latency: half within {} us, 99 of 100 within {} us",
            us(figures.latency_us_p50),
            us(figures.latency_us_p99)
        ));
        self.tell(format!(
            "  MQTT payload: {:.2} MB to the devices, {:.2} MB from them",
            mb(figures.bytes_down),
            mb(figures.bytes_up)
        ));
        self.tell(format!("  memory: no agent above {:.0} MB", figures.agent_rss_mb_max.ceil()));
        let broken = figures.broken_promises();
        for promise in &broken {
            self.warn(promise);
        }
        if broken.is_empty() {
            self.announce("nothing failed, nothing is missing, every device runs version 2");
        }
    }

    fn line(&self, colour: &str, line: impl Display) {
        let seconds = self.started.elapsed().as_secs_f32();
        let text = if self.coloured {
            format!("\x1b[2m{seconds:6.1} s\x1b[0m  {colour}{line}\x1b[0m\n")
        } else {
            format!("{seconds:6.1} s  {line}\n")
        };
        // A reader who closed the pipe is not a reason to end.
        let _ = io::stdout().write_all(text.as_bytes());
    }
}
