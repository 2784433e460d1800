//! What happens, for whoever replays a seed.

use std::fmt;

use crate::clock::START_MS;

/// Says what happens, if anybody wants to know.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    on: bool,
}

impl Trace {
    /// A trace that speaks, or one that does not.
    pub fn new(on: bool) -> Self {
        Self { on }
    }

    /// Says that at `now_ms` something happened to `who`.
    pub fn say(&self, now_ms: u64, who: &str, what: impl FnOnce() -> String) {
        if self.on {
            let elapsed_ms = now_ms - START_MS;
            println!("{:>9}.{:03} {who:<7} {}", elapsed_ms / 1000, elapsed_ms % 1000, what());
        }
    }
}

/// A bundle or topic, short enough for a line.
pub fn short(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let text = text.strip_prefix("sha256:").unwrap_or(&text);
    text.chars().take(12).collect()
}
