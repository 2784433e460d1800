//! Small charts as SVG. Their colours are the style sheet's.

use std::fmt::Write;

use maud::{Markup, html};

const SPARK_WIDTH: f64 = 120.0;
const SPARK_HEIGHT: f64 = 28.0;
/// Keeps the line's own width inside the picture.
const SPARK_MARGIN: f64 = 2.0;
const SPARK_POINTS: usize = 40;

const BAR_WIDTH: f64 = 160.0;
const BAR_HEIGHT: f64 = 8.0;

/// The style sheet has this many colours for classes; they repeat.
const CLASS_COLOURS: usize = 10;

/// The last values as a line over its area, from 0 to the highest of them.
pub fn sparkline(values: &[f64]) -> Markup {
    let values = &values[values.len().saturating_sub(SPARK_POINTS)..];
    let highest = values.iter().copied().fold(0.0, f64::max);
    if values.len() < 2 || highest <= 0.0 {
        return html! {
            svg .spark viewBox=(format!("0 0 {SPARK_WIDTH} {SPARK_HEIGHT}")) aria-hidden="true" {}
        };
    }
    let line = line_through(values, highest);
    let (left, base) = (0.0, SPARK_HEIGHT);
    html! {
        svg .spark viewBox=(format!("0 0 {SPARK_WIDTH} {SPARK_HEIGHT}")) role="img"
            aria-label=(format!("the last {} values, at most {highest:.0}", values.len())) {
            path .area d=(format!("M{left} {base}L{}L{SPARK_WIDTH} {base}Z", &line[1..])) {}
            path .line d=(line) {}
        }
    }
}

fn line_through(values: &[f64], highest: f64) -> String {
    let step = SPARK_WIDTH / (values.len() - 1) as f64;
    let room = SPARK_HEIGHT - 2.0 * SPARK_MARGIN;
    let mut line = String::new();
    for (index, value) in values.iter().enumerate() {
        let verb = if index == 0 { 'M' } else { 'L' };
        let (x, y) = (index as f64 * step, SPARK_MARGIN + room * (1.0 - value / highest));
        write!(line, "{verb}{x:.1} {y:.1}").expect("a string takes all that is written");
    }
    line
}

/// One bar, divided by how large each count is.
pub fn shares(counts: &[u32]) -> Markup {
    let total: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    let mut left = 0.0;
    let parts = counts.iter().enumerate().map(|(index, &count)| {
        let width = BAR_WIDTH * f64::from(count) / total.max(1.0);
        let part = (index, left, width);
        left += width;
        part
    });
    html! {
        svg .shares viewBox=(format!("0 0 {BAR_WIDTH} {BAR_HEIGHT}"))
            preserveAspectRatio="none" aria-hidden="true" {
            @for (index, left, width) in parts {
                rect .(class_of(index)) x=(format!("{left:.2}")) y="0"
                    width=(format!("{width:.2}")) height=(BAR_HEIGHT) {}
            }
        }
    }
}

/// The colour of a class, for a legend.
pub fn key(index: usize) -> Markup {
    html! {
        svg .key viewBox="0 0 8 8" width="8" height="8" aria-hidden="true" {
            rect .(class_of(index)) width="8" height="8" rx="2" {}
        }
    }
}

/// How much of a whole is there.
pub fn progress(present: u32, total: u32) -> Markup {
    let width = BAR_WIDTH * f64::from(present.min(total)) / f64::from(total.max(1));
    html! {
        svg .progress viewBox=(format!("0 0 {BAR_WIDTH} 4")) preserveAspectRatio="none"
            aria-hidden="true" {
            rect .track width=(BAR_WIDTH) height="4" {}
            rect .done width=(format!("{width:.1}")) height="4" {}
        }
    }
}

fn class_of(index: usize) -> String {
    format!("class-{}", index % CLASS_COLOURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_spans_the_picture_and_stays_inside() {
        assert_eq!(line_through(&[0.0, 5.0, 10.0], 10.0), "M0.0 26.0L60.0 14.0L120.0 2.0");
    }

    #[test]
    fn what_cannot_be_drawn_gives_an_empty_picture() {
        for values in [&[][..], &[1.0], &[0.0, 0.0]] {
            assert!(!sparkline(values).into_string().contains("path"), "{values:?}");
        }
        assert!(!shares(&[0, 0]).into_string().contains("NaN"));
        assert!(!progress(0, 0).into_string().contains("NaN"));
    }
}
