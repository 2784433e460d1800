//! Small charts as SVG. Their colours are the style sheet's.

use std::fmt::Write;

use maud::{Markup, html};

use super::drift::number;
use crate::drift::{CellKind, CellView, StateChangeView, StreamView};

const SPARK_WIDTH: f64 = 120.0;
const SPARK_HEIGHT: f64 = 28.0;
/// Keeps the line's own width inside the picture.
const SPARK_MARGIN: f64 = 2.0;
const SPARK_POINTS: usize = 40;

const BAR_WIDTH: f64 = 160.0;
const BAR_HEIGHT: f64 = 8.0;

const HISTOGRAM_WIDTH: f64 = 320.0;
const HISTOGRAM_HEIGHT: f64 = 110.0;
/// Below the bars, for the ends of the scale.
const HISTOGRAM_FOOT: f64 = 16.0;

const STATES_WIDTH: f64 = 600.0;
const STATES_HEIGHT: f64 = 12.0;

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

/// The last distances as a line from 0 to the highest of them, with the threshold across.
pub fn distances(values: &[f64], threshold: Option<f64>) -> Markup {
    let values = &values[values.len().saturating_sub(SPARK_POINTS)..];
    let highest = values.iter().copied().chain(threshold).fold(0.0, f64::max);
    if values.len() < 2 || highest <= 0.0 {
        return sparkline(&[]);
    }
    let limit = threshold.map(|threshold| line_through(&[threshold, threshold], highest));
    html! {
        svg .spark viewBox=(format!("0 0 {SPARK_WIDTH} {SPARK_HEIGHT}")) role="img"
            aria-label=(format!("the last {} distances, at most {highest:.1}", values.len())) {
            @if let Some(limit) = limit { path .limit d=(limit) {} }
            path .line d=(line_through(values, highest)) {}
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

/// A stream's shares now as bars, those of its reference as a line over them.
pub fn histogram(stream: &StreamView) -> Markup {
    let usual =
        |index: usize| stream.site.as_ref().and_then(|site| site.shares.get(index).copied());
    let is_shown = |(index, cell): &(usize, &CellView)| {
        matches!(cell.kind, CellKind::Bin | CellKind::Class)
            || cell.now > 0
            || cell.reference > 0
            || usual(*index).is_some_and(|share| share > 0.0)
    };
    let shown: Vec<(usize, &CellView)> = stream.cells.iter().enumerate().filter(is_shown).collect();
    let cells: Vec<&CellView> = shown.iter().map(|(_, cell)| *cell).collect();
    let at_site: Vec<f64> = shown.iter().filter_map(|(index, _)| usual(*index)).collect();
    let shares = cells.iter().flat_map(|cell| [cell.now_share, cell.reference_share]);
    let highest = shares.chain(at_site.iter().copied()).fold(f64::MIN_POSITIVE, f64::max);
    let width = HISTOGRAM_WIDTH / cells.len().max(1) as f64;
    let base = HISTOGRAM_HEIGHT - HISTOGRAM_FOOT;
    let height = |share: f64| (base - SPARK_MARGIN) * share / highest;
    let line = |shares: &mut dyn Iterator<Item = f64>| {
        let mut line = format!("M0 {base:.1}");
        for (index, share) in shares.enumerate() {
            let (left, y) = (index as f64 * width, base - height(share));
            write!(line, "L{left:.1} {y:.1}H{:.1}", left + width)
                .expect("a string takes all that is written");
        }
        write!(line, "V{base:.1}").expect("a string takes all that is written");
        line
    };
    let look = if stream.state == "drifted" { "drifted" } else { "" };
    html! {
        svg .histogram viewBox=(format!("0 0 {HISTOGRAM_WIDTH} {HISTOGRAM_HEIGHT}")) role="img"
            aria-label=(described(stream, &cells)) {
            @for (index, cell) in cells.iter().enumerate() {
                @let tall = height(cell.now_share);
                rect .now .(look) .beyond[is_beyond(cell)]
                    x=(format!("{:.1}", index as f64 * width + 1.0)) y=(format!("{:.1}", base - tall))
                    width=(format!("{:.1}", (width - 2.0).max(1.0))) height=(format!("{tall:.1}")) {}
            }
            path .reference d=(line(&mut cells.iter().map(|cell| cell.reference_share))) {}
            @if !at_site.is_empty() { path .site d=(line(&mut at_site.iter().copied())) {} }
            @for (x, anchor, text) in scale(&cells, width) {
                text x=(format!("{x:.1}")) y=(HISTOGRAM_HEIGHT - 4.0) text-anchor=(anchor) { (text) }
            }
        }
    }
}

fn is_beyond(cell: &CellView) -> bool {
    matches!(cell.kind, CellKind::Below | CellKind::Above | CellKind::NotFinite)
}

/// The picture in a sentence: where most of what changed is.
fn described(stream: &StreamView, cells: &[&CellView]) -> String {
    let change = |cell: &&&CellView| (cell.now_share - cell.reference_share).abs();
    let most = cells.iter().max_by(|a, b| change(a).total_cmp(&change(b)));
    let Some(most) = most.filter(|_| stream.now_total > 0) else {
        return format!("{}: nothing was counted", stream.name);
    };
    let place = match (most.low, most.high, &most.label) {
        (Some(low), Some(high), _) => format!("from {} to {}", number(low), number(high)),
        (None, Some(high), _) => format!("below {}", number(high)),
        (Some(low), None, _) => format!("above {}", number(low)),
        (None, None, Some(label)) => label.clone(),
        (None, None, None) => "not finite".into(),
    };
    format!(
        "{}, {} values now: most is changed {place}, {:.1} % now and {:.1} % in the reference",
        stream.name,
        stream.now_total,
        most.now_share * 100.0,
        most.reference_share * 100.0
    )
}

/// Texts below the bars: both ends and the middle of the bins, or the classes where they are few.
fn scale(cells: &[&CellView], width: f64) -> Vec<(f64, &'static str, String)> {
    const CLASSES_NAMED: usize = 6;
    const CLASS_CHARS: usize = 10;
    if cells.iter().all(|cell| cell.kind == CellKind::Class) {
        let named = if cells.len() <= CLASSES_NAMED { cells } else { &[] };
        let label = |(index, cell): (usize, &&CellView)| {
            let text: String =
                cell.label.iter().flat_map(|it| it.chars()).take(CLASS_CHARS).collect();
            ((index as f64 + 0.5) * width, "middle", text)
        };
        return named.iter().enumerate().map(label).collect();
    }
    let bins = || cells.iter().enumerate().filter(|(_, cell)| cell.kind == CellKind::Bin);
    let count = bins().count();
    let ends = bins().flat_map(|(_, cell)| [cell.low, cell.high]).flatten();
    let largest = ends.fold(0.0, |largest: f64, end| largest.max(end.abs()));
    // What is next to nothing beside the rest of the scale is written as nothing.
    let number = |end: f64| number(if end.abs() < largest / 1000.0 { 0.0 } else { end });
    let begin = |(index, cell): (usize, &&CellView), anchor| {
        cell.low.map(|low| (index as f64 * width, anchor, number(low)))
    };
    let first = bins().next().and_then(|bin| begin(bin, "start"));
    let middle = bins().nth(count / 2).filter(|_| count > 2).and_then(|bin| begin(bin, "middle"));
    let last = bins().next_back().and_then(|(index, cell)| {
        cell.high.map(|high| ((index + 1) as f64 * width, "end", number(high)))
    });
    [first, middle, last].into_iter().flatten().collect()
}

/// States over a span of time, each as a piece of a bar.
pub fn states(changes: &[StateChangeView], begin_ms: u64, end_ms: u64) -> Markup {
    let span_ms = end_ms.saturating_sub(begin_ms).max(1) as f64;
    let place = |at_ms: u64| {
        STATES_WIDTH * (at_ms.clamp(begin_ms, end_ms.max(begin_ms)) - begin_ms) as f64 / span_ms
    };
    let ends = changes.iter().skip(1).map(|next| next.at_ms).chain([end_ms]);
    html! {
        svg .states viewBox=(format!("0 0 {STATES_WIDTH} {STATES_HEIGHT}"))
            preserveAspectRatio="none" aria-hidden="true" {
            rect .track width=(STATES_WIDTH) height=(STATES_HEIGHT) {}
            @for (change, end_ms) in changes.iter().zip(ends) {
                @let (left, right) = (place(change.at_ms), place(end_ms));
                // A state of one window is still to be seen.
                rect .(format!("state-{}", change.state)) x=(format!("{left:.1}"))
                    width=(format!("{:.1}", (right - left).max(2.0))) height=(STATES_HEIGHT) {}
            }
        }
    }
}

/// The colour of a state, for a legend.
pub fn state_key(state: &str) -> Markup {
    html! {
        svg .key viewBox="0 0 8 8" width="8" height="8" aria-hidden="true" {
            rect .(format!("state-{state}")) width="8" height="8" rx="2" {}
        }
    }
}

fn class_of(index: usize) -> String {
    format!("class-{}", index % CLASS_COLOURS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::{StreamAtSiteView, StreamKind};

    #[test]
    fn the_line_spans_the_picture_and_stays_inside() {
        assert_eq!(line_through(&[0.0, 5.0, 10.0], 10.0), "M0.0 26.0L60.0 14.0L120.0 2.0");
    }

    #[test]
    fn what_cannot_be_drawn_gives_an_empty_picture() {
        for values in [&[][..], &[1.0], &[0.0, 0.0]] {
            assert!(!sparkline(values).into_string().contains("path"), "{values:?}");
        }
        for values in [&[][..], &[1.0], &[0.0, 0.0]] {
            assert!(!distances(values, None).into_string().contains("path"), "{values:?}");
        }
        assert!(!shares(&[0, 0]).into_string().contains("NaN"));
        assert!(!progress(0, 0).into_string().contains("NaN"));
    }

    #[test]
    fn a_threshold_is_drawn_on_the_scale_of_the_distances() {
        let drawn = distances(&[5.0, 10.0], Some(20.0)).into_string();
        assert!(drawn.contains(r#"class="limit" d="M0.0 2.0L120.0 2.0""#), "{drawn}");
        assert!(drawn.contains(r#"class="line" d="M0.0 20.0L120.0 14.0""#), "{drawn}");
    }

    type Cell = (CellKind, Option<f64>, Option<f64>, f64, f64);

    fn stream(cells: &[Cell]) -> StreamView {
        let cell = |&(kind, low, high, reference_share, now_share): &Cell| CellView {
            kind,
            low,
            high,
            label: (kind == CellKind::Class).then(|| "<yes>".into()),
            reference: 0,
            reference_share,
            now: (now_share * 100.0) as u32,
            now_share,
        };
        StreamView {
            name: "flow".into(),
            kind: StreamKind::Feature,
            state: "drifted",
            uncalibrated: false,
            evidence_nats: None,
            finding: None,
            cells: cells.iter().map(cell).collect(),
            reference_total: 100,
            now_total: 100,
            statistics: None,
            moments: None,
            site: None,
        }
    }

    #[test]
    fn what_is_usual_at_the_site_is_a_second_line_over_the_same_cells() {
        let mut differs = stream(&[
            (CellKind::Below, None, Some(-2.0), 0.0, 0.0),
            (CellKind::Bin, Some(-2.0), Some(3.0), 1.0, 0.5),
            (CellKind::Above, Some(3.0), None, 0.0, 0.0),
        ]);
        let cells = |drawn: &str| drawn.matches("<rect").count();
        let without = histogram(&differs).into_string();
        assert!(cells(&without) == 1 && !without.contains("class=\"site\""), "{without}");
        differs.site = Some(StreamAtSiteView {
            state: "steady",
            uncalibrated: false,
            evidence_nats: None,
            finding: None,
            cells: vec![0, 1, 1],
            shares: vec![0.0, 0.5, 0.5],
        });
        let with = histogram(&differs).into_string();
        assert!(cells(&with) == 2 && with.contains("class=\"site\""), "{with}");
    }

    #[test]
    fn a_histogram_says_in_words_where_most_has_changed() {
        let drawn = histogram(&stream(&[
            (CellKind::Below, None, Some(-2.0), 0.0, 0.0),
            (CellKind::Bin, Some(-2.0), Some(0.0), 0.5, 0.1),
            (CellKind::Bin, Some(0.0), Some(3.0), 0.5, 0.3),
            (CellKind::Above, Some(3.0), None, 0.0, 0.6),
        ]))
        .into_string();
        assert!(drawn.contains("above 3.00, 60.0 % now and 0.0 % in the reference"), "{drawn}");
        assert_eq!(drawn.matches("<rect").count(), 3, "nothing is below: {drawn}");
        for empty in [&[][..], &[(CellKind::Class, None, None, 0.0, 0.0)]] {
            let drawn = histogram(&stream(empty)).into_string();
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
        let named = histogram(&stream(&[(CellKind::Class, None, None, 1.0, 1.0)])).into_string();
        assert!(named.contains("&lt;yes&gt;") && !named.contains("<yes>"), "{named}");
    }

    #[test]
    fn states_fill_the_time_that_is_shown() {
        let at = |at_ms, state| StateChangeView { at_ms, state };
        let drawn = states(&[at(0, "steady"), at(500, "drifted")], 0, 1000).into_string();
        assert!(drawn.contains(r#"class="state-steady" x="0.0" width="300.0""#), "{drawn}");
        assert!(drawn.contains(r#"class="state-drifted" x="300.0" width="300.0""#), "{drawn}");
        for (begin_ms, end_ms) in [(0, 0), (7, 3), (0, u64::MAX)] {
            let drawn = states(&[at(5, "steady")], begin_ms, end_ms).into_string();
            assert!(!drawn.contains("NaN") && !drawn.contains("-1"), "{drawn}");
        }
    }
}
