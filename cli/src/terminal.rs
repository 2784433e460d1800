//! How commands speak to people: colours and progress bars on a terminal, plain text anywhere else.

use std::fmt;
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error for `count` steps; nothing is drawn where that is no terminal.
pub fn progress(count: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
    let style = style.expect("the template names fields that there are");
    ProgressBar::new(count as u64).with_style(style).with_message(what)
}

/// Text that stands out on a terminal.
pub struct Emphasis<T> {
    text: T,
    code: &'static str,
}

/// Good news, on standard output.
pub fn good<T: fmt::Display>(text: T) -> Emphasis<T> {
    Emphasis { text, code: if coloured(&io::stdout()) { "32" } else { "" } }
}

/// What to read first, on standard output.
pub fn strong<T: fmt::Display>(text: T) -> Emphasis<T> {
    Emphasis { text, code: if coloured(&io::stdout()) { "1" } else { "" } }
}

/// What is wrong, on standard error.
pub fn bad<T: fmt::Display>(text: T) -> Emphasis<T> {
    Emphasis { text, code: if coloured(&io::stderr()) { "1;31" } else { "" } }
}

impl<T: fmt::Display> fmt::Display for Emphasis<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code.is_empty() {
            return self.text.fmt(f);
        }
        write!(f, "\u{1b}[{}m{}\u{1b}[0m", self.code, self.text)
    }
}

/// A number of bytes as people read it.
pub fn bytes(len_bytes: u64) -> String {
    match len_bytes {
        0..10_000 => format!("{len_bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", len_bytes as f64 / 1e3),
        _ => format!("{:.1} MB", len_bytes as f64 / 1e6),
    }
}

/// See <https://no-color.org>.
fn coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
