//! The pages about drift: what a bundle sees and says now against its reference, over a cohort or on one device.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use selvedge_trust::UnixMillis;
use selvedge_wire::{DeviceId, Digest};

use super::{captures, chart, frame, grouped, quality, site::site_section};
use crate::{
    Error, ErrorKind,
    api::{Path, Query},
    drift::{
        AccuracyView, CellKind, CellView, CourseView, DistanceFinding, DistanceView, DriftQuery,
        DriftView, FindingView, MomentsView, MultivariateView, Mute, OriginCourseView, OriginView,
        SiteVerdictView, StatisticView, StreamView, VerdictView,
    },
    manager::Manager,
    quality::{GroupBy, QualityView},
    view::{DeviceView, DriftStatusView},
};

/// What is compared where nothing else is asked.
const COMPARED_MS: u64 = 24 * 60 * 60 * 1000;
/// Origins in the time line: those that drifted first.
const LINES_SHOWN: usize = 24;

/// A bundle on all devices, or on those that the query names.
pub async fn bundle_page(
    State(manager): State<Arc<Manager>>,
    Path(bundle): Path<Digest>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Markup, Error> {
    let mut query = DriftQuery::of(bundle);
    query.read_filters(&pairs)?;
    let labels = manager.read_quality(&query, Some(GroupBy::Slice)).await?;
    let view = read(&manager, query).await?;
    let title = format!("{} {} · drift", view.name, view.version);
    Ok(frame(&manager, &title, &view_section(&view, &labels, 1)))
}

/// A device with all its slots.
pub async fn device_page(
    State(manager): State<Arc<Manager>>,
    Path(id): Path<DeviceId>,
) -> Result<Markup, Error> {
    let device = DeviceView::read(&manager.store, &id, manager.now_ms()).await?;
    let slots = device.reported.iter().flat_map(|reported| &reported.slots);
    let mut sections = Vec::new();
    for slot in slots {
        let Some(running) = &slot.running else { continue };
        let mut query = DriftQuery::of(running.bundle);
        (query.cohort.devices, query.slot) = (vec![id.clone()], Some(slot.slot.clone()));
        let labels = manager.read_quality(&query, Some(GroupBy::Slice)).await;
        let content = match (read(&manager, query).await, labels) {
            (Ok(view), Ok(labels)) => view_section(&view, &labels, 2),
            (Err(error), _) | (_, Err(error))
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict) =>
            {
                html! { p .empty { (error) } }
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let site = match manager.read_site(&id, &slot.slot).await {
            Ok(site) => Some(site),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        sections.push(html! {
            section {
                h2 .slot { "Slot " (slot.slot) }
                p .facts {
                    @if let Some(status) = &slot.drift { span { "The device says " (said(status)) } }
                    @if let Some(site) = &slot.site { span { "against the site " (said(&site.drift)) } }
                }
                (content)
                (site_section(site.as_ref(), &id, &slot.slot))
            }
        });
    }
    let captures = captures::section(&manager, &id).await?;
    let content = html! {
        h1 .page { (id) ": drift" }
        @if let Some(health) = &device.health {
            p .facts { span { "Odd samples "
                strong title="out of the reference's range, not finite, or stuck" { (grouped(health.inputs_anomalous)) }
                " of " (grouped(health.inferences)) } }
        }
        @if sections.is_empty() { p .empty { "Nothing runs on it yet." } }
        @for section in &sections { (section) }
        (captures)
    };
    Ok(frame(&manager, &format!("{id} · drift"), &content))
}

/// The last day, or everything where that has nothing or another range is asked for.
async fn read(manager: &Manager, query: DriftQuery) -> Result<DriftView, Error> {
    if query.from_ms.is_none() {
        let end_ms = query.to_ms.unwrap_or_else(|| manager.now_ms());
        let from_ms = Some(end_ms.saturating_sub(COMPARED_MS));
        match manager.read_drift(&DriftQuery { from_ms, ..query.clone() }).await {
            Err(Error::NotFound(_)) => {}
            other => return other,
        }
    }
    manager.read_drift(&query).await
}

/// What a device says of a slot, in a few words with their colour.
pub fn said(status: &DriftStatusView) -> Markup {
    html! {
        (state_pill(status.state))
        @if status.uncalibrated { " " span .pill title="how much windows vary was guessed" { "uncalibrated" } }
        @for stream in &status.streams {
            " " span .compared { (stream.name) " " (stream.change) ", since " (minute(stream.since_ms)) }
            (muted(stream.mute.as_ref()))
        }
    }
}

/// That somebody knows of it, and until when.
fn muted(mute: Option<&Mute>) -> Markup {
    html! {
        @if let Some(Mute { given, .. }) = mute {
            " " span .pill { "muted" } " "
            span .quiet { "until " (minute(given.until_ms)) " by " (given.by) " because " (given.note) }
        }
    }
}

pub fn state_pill(state: &str) -> Markup {
    let look = match state {
        "drifted" => "bad",
        "suspect" => "warn",
        "steady" => "good",
        _ => "",
    };
    html! { span .pill .(look) { (state) } }
}

fn view_section(view: &DriftView, labels: &QualityView, level: u8) -> Markup {
    html! {
        @if level == 1 {
            h1 .page { (view.name) " " (view.version) ": drift" }
        } @else {
            p .facts { span { "Bundle "
                a href=(format!("/drift/{}", view.bundle)) { (view.name) " " strong { (view.version) } } } }
        }
        (summary(view, labels))
        @if view.history_cut {
            p .note { "There are older profiles than are read here: the states begin later than the history." }
        }
        @if view.unreadable > 0 {
            p .note { (grouped(view.unreadable)) " profiles were left out: they cannot be read, or were counted in other bins." }
        }
        @if view.saturated { p .note { "A counter is full: shares are not exact." } }
        @if view.origins.len() > 1 && !view.culprits.is_empty() { (culprit_section(&view.culprits)) }
        (quality::section(labels))
        (stream_section(view))
        (time_section(view))
        @if let Some(multivariate) = &view.multivariate { (multivariate_section(multivariate)) }
        (origin_section(view))
        (export_section(view))
    }
}

/// What is said against the site, where the view is of one origin that has a site baseline.
fn at_site(view: &DriftView) -> Option<&SiteVerdictView> {
    match &view.origins[..] {
        [only] => only.site.as_ref(),
        _ => None,
    }
}

fn summary(view: &DriftView, labels: &QualityView) -> Markup {
    let devices = view.origins.len();
    let drifted = view.origins.iter().filter(|origin| origin.verdict.state == "drifted").count();
    let site = at_site(view);
    let is_alarm = |verdict: &VerdictView| verdict.state == "drifted" && !verdict.muted;
    html! {
        section .tiles aria-label="Summary" {
            (super::tile(if site.is_some() { "Against the lab" } else { "State" },
                html! { (state_pill(view.cohort.state)) }, site.is_none() && is_alarm(&view.cohort)))
            @if let Some(site) = site {
                (super::tile("Against the site",
                    html! { (state_pill(site.verdict.state)) }, is_alarm(&site.verdict)))
            }
            @if devices > 1 {
                (super::tile("Drifted by themselves",
                    html! { (drifted) small { " of " (devices) } }, drifted > 0))
            }
            (super::tile("Samples", html! { (grouped(view.samples.into())) }, false))
            (super::tile("Estimated accuracy", accuracy(view.accuracy.as_ref()),
                view.accuracy.is_some_and(|accuracy| accuracy.extrapolating)))
            @if let Some(headline) = quality::headline(labels) {
                (super::tile("By labels", headline, false))
            }
        }
        p .facts {
            span { "compared " strong { (minute(view.from_ms)) } " to " strong { (minute(view.to_ms)) } " UTC" }
            span { (grouped(view.windows)) " windows" }
            span { "reference of " (grouped(view.baseline.rows)) " samples"
                @if view.baseline.order == "none" { ", in no order" } }
            span { "at most one false alarm in " (grouped(view.policy.alarm_windows.into())) " windows" }
            @if view.cohort.uncalibrated {
                span .pill title="how much windows vary was not measured on the reference: it was guessed" { "uncalibrated" }
            }
        }
        @for finding in &view.cohort.drifted {
            p .found { @if site.is_some() { "Against the lab: " }
                strong { (finding.stream) } " " (finding_text(finding)) }
        }
        @for finding in site.iter().flat_map(|site| &site.verdict.drifted) {
            p .found { "Against the site: " strong { (finding.stream) } " " (finding_text(finding)) }
        }
    }
}

fn finding_text(finding: &FindingView) -> Markup {
    html! {
        (finding.change)
        @if finding.in_cycles { " over whole cycles" }
        @if let Some(since_ms) = finding.since_ms { ", since " (minute(since_ms)) }
        (muted(finding.mute.as_ref()))
    }
}

fn accuracy(accuracy: Option<&AccuracyView>) -> Markup {
    let Some(accuracy) = accuracy else { return html! { span .quiet { "unknown" } } };
    html! {
        (share(accuracy.cbpe.accuracy))
        small title="confidence-based performance estimation, with one standard error" {
            " ± " (share(accuracy.cbpe.standard_error)) " CBPE"
        }
        div .under { small {
            "ATC " (share(accuracy.atc.accuracy))
            @if let Some(reference) = accuracy.reference { " · reference " (share(reference)) }
        } }
        @if accuracy.extrapolating {
            div .under { span .pill .warn title="inputs have drifted: confidence may mean something else now" { "extrapolating" } }
        }
    }
}

fn culprit_section(culprits: &[OriginView]) -> Markup {
    html! {
        section .panel .culprits {
            h2 { "Named among all" }
            ul {
                @for origin in culprits {
                    li {
                        span { strong { (device_link(origin)) } " slot " (origin.slot)
                            @if let Some(stream) = &origin.leading_stream { ": " strong { (stream) } }
                            @for finding in &origin.verdict.drifted {
                                @if origin.leading_stream.as_ref() == Some(&finding.stream) { " " (finding_text(finding)) }
                            }
                        }
                        span .quiet { "evidence " (nats(origin.evidence_nats)) }
                    }
                }
            }
        }
    }
}

fn device_link(origin: &OriginView) -> Markup {
    html! { a href=(format!("/devices/{}/drift", origin.device)) { (origin.device) } }
}

fn stream_section(view: &DriftView) -> Markup {
    let mut streams: Vec<&StreamView> = view.streams.iter().collect();
    streams.sort_by_key(|stream| stream.state != "drifted");
    html! {
        section aria-label="Streams" {
            p .facts { span .quiet {
                "Bars are shares now, the line is the reference."
                @if at_site(view).is_some() { " The broken line is what is usual at the site." }
                " Bins are equally wide here, whatever they span."
            } }
            div .multiples { @for stream in streams { (stream_panel(stream)) } }
        }
    }
}

fn stream_panel(stream: &StreamView) -> Markup {
    html! {
        figure .panel {
            figcaption { strong { (stream.name) } " "
                @if let Some(site) = &stream.site {
                    "lab " (state_pill(stream.state)) " site " (state_pill(site.state))
                } @else { (state_pill(stream.state)) } }
            @if let Some(finding) = &stream.finding {
                p .found { @if stream.site.is_some() { "Against the lab: " } (finding_text(finding)) }
            }
            @if let Some(finding) = stream.site.iter().find_map(|site| site.finding.as_ref()) {
                p .found { "Against the site: " (finding_text(finding)) }
            }
            (chart::histogram(stream))
            p .compared { (distance(stream)) }
            @if let Some(moments) = &stream.moments { p .compared { (moments_text(moments)) } }
            details {
                summary { "counts and distances" }
                (cell_table(&stream.cells))
                (statistic_table(stream))
            }
        }
    }
}

fn distance(stream: &StreamView) -> Markup {
    let Some(statistics) = &stream.statistics else {
        return html! { "insufficient data for a distance" };
    };
    html! {
        "PSI " (number(statistics.psi.value))
        @if let Some(critical) = statistics.psi.critical {
            " (chance: up to " (number(critical)) ")"
        }
        ", evidence " (nats(stream.evidence_nats))
    }
}

fn moments_text(moments: &MomentsView) -> Markup {
    html! {
        "mean " (maybe(moments.mean)) ", sd " (maybe(moments.variance.map(f64::sqrt)))
        "; by the bins " (maybe(moments.binned_mean)) " now, "
        (maybe(moments.reference_binned_mean)) " in the reference"
    }
}

fn cell_table(cells: &[CellView]) -> Markup {
    html! {
        table .dense {
            thead { tr {
                th scope="col" { "Cell" } th scope="col" { "Now" } th scope="col" { "Share" }
                th scope="col" { "Reference" } th scope="col" { "Share" }
            } }
            tbody {
                @for cell in cells {
                    tr {
                        th scope="row" { (cell_name(cell)) }
                        td .number data-name="Now" { (grouped(cell.now.into())) }
                        td .number data-name="Share" { (share(cell.now_share)) }
                        td .number data-name="Reference" { (grouped(cell.reference.into())) }
                        td .number data-name="Share" { (share(cell.reference_share)) }
                    }
                }
            }
        }
    }
}

fn cell_name(cell: &CellView) -> String {
    let end = |end: Option<f64>| end.map(number).unwrap_or_default();
    match cell.kind {
        CellKind::Below => format!("below {}", end(cell.high)),
        CellKind::Bin => format!("{} to {}", end(cell.low), end(cell.high)),
        CellKind::Above => format!("above {}", end(cell.low)),
        CellKind::NotFinite => "not finite".into(),
        CellKind::Class => cell.label.clone().unwrap_or_default(),
    }
}

fn statistic_table(stream: &StreamView) -> Markup {
    let Some(it) = &stream.statistics else { return html! {} };
    let rows: [(&str, Option<&StatisticView>); 7] = [
        ("PSI", Some(&it.psi)),
        ("Jensen–Shannon", Some(&it.jensen_shannon)),
        ("Hellinger", Some(&it.hellinger)),
        ("Kolmogorov–Smirnov", it.kolmogorov_smirnov.as_ref()),
        ("Wasserstein-1", it.wasserstein.as_ref()),
        ("Kullback–Leibler", Some(&it.kullback_leibler)),
        ("chi-square", Some(&it.chi_square)),
    ];
    html! {
        table .dense {
            thead { tr {
                th scope="col" { "Distance" } th scope="col" { "Value" } th scope="col" { "Chance" }
            } }
            tbody {
                @for (name, statistic) in rows {
                    @if let Some(statistic) = statistic {
                        tr {
                            th scope="row" { (name) }
                            td .number data-name="Value" { (number(statistic.value)) }
                            td .number data-name="Chance" { (maybe(statistic.critical)) }
                        }
                    }
                }
            }
        }
    }
}

fn time_section(view: &DriftView) -> Markup {
    let mut origins: Vec<&OriginView> = view.origins.iter().collect();
    origins.sort_by_key(|origin| (!origin.culprit, origin.verdict.state != "drifted"));
    let shown = &origins[..origins.len().min(LINES_SHOWN)];
    let verdicts = || shown.iter().map(|origin| &origin.verdict).chain([&view.cohort]);
    let begin_ms = verdicts().filter_map(|it| it.changes.first()).map(|it| it.at_ms).min();
    let end_ms = origins.iter().map(|origin| origin.newest_ms).max().unwrap_or(view.to_ms);
    let begin_ms = begin_ms.unwrap_or(end_ms);
    let line = |name: Markup, verdict: &VerdictView, end_ms: u64| {
        html! {
            tr {
                th scope="row" { (name) }
                td .wide data-name="States" {
                    (chart::states(&verdict.changes, begin_ms, end_ms))
                    p .unseen {
                        @for change in &verdict.changes { (change.state) " from " (minute(change.at_ms)) "; " }
                    }
                }
            }
        }
    };
    html! {
        section .panel .times {
            h2 { "States over time" }
            p .legend {
                @for state in ["insufficient", "steady", "suspect", "drifted"] {
                    span { (chart::state_key(state)) (state) }
                }
            }
            table .dense {
                tbody {
                    @if view.origins.len() != 1 { (line(html! { "all together" }, &view.cohort, end_ms)) }
                    @for origin in shown {
                        (line(device_link(origin), &origin.verdict, end_ms))
                        @if let Some(site) = &origin.site {
                            (line(html! { (device_link(origin)) " at its site" }, &site.verdict, end_ms))
                        }
                    }
                }
            }
            p .facts { span .quiet { (minute(begin_ms)) " to " (minute(end_ms)) " UTC" }
                @if origins.len() > shown.len() {
                    span .quiet { "and " (origins.len() - shown.len()) " more devices" }
                }
            }
        }
    }
}

fn multivariate_section(view: &MultivariateView) -> Markup {
    let finding = |course: &CourseView| course.points.last().map(|newest| newest.finding());
    let mut origins: Vec<&OriginCourseView> = view.origins.iter().collect();
    origins.sort_by_key(|origin| std::cmp::Reverse(finding(&origin.course)));
    let shown = &origins[..origins.len().min(LINES_SHOWN)];
    let link = |origin: &OriginCourseView| {
        html! { a href=(format!("/devices/{}/drift", origin.device)) { (origin.device) } }
    };
    html! {
        section .panel .repository .together {
            h2 { "Several components at once" }
            table {
                thead { tr {
                    th scope="col" { "Embedding" } th scope="col" { "Mahalanobis T²" }
                    th scope="col" { "Fourier T²" } th scope="col" { "Fourier T over time" }
                    th scope="col" { "Farthest component" } th scope="col" { "Vectors" }
                } }
                tbody {
                    @if view.origins.len() != 1 { (course_row(html! { "all together" }, view, &view.cohort)) }
                    @for origin in shown { (course_row(link(origin), view, &origin.course)) }
                }
            }
            p .facts { span .quiet {
                (view.tensor) ": " (view.width) " values, " (view.random_features) " random Fourier features; reference of "
                (grouped(view.reference_vectors)) " vectors"
                @match (view.reference_sources, view.calibration_sources) {
                    (Some(reference), Some(sources)) => {
                        " from " (reference) " sessions, thresholds from " (sources) " others. "
                    }
                    _ => { ", too few sessions for a threshold. " }
                }
                "A threshold is for one window and is exceeded by chance now and then; no state follows from it."
            } }
        }
    }
}

fn course_row(name: Markup, view: &MultivariateView, course: &CourseView) -> Markup {
    let Some(newest) = course.points.last() else {
        return html! {
            tr {
                th scope="row" { (name) }
                td .quiet colspan="5" data-name="Vectors" {
                    (grouped(course.waiting)) " of " (grouped(view.vectors_wanted)) " vectors"
                }
            }
        };
    };
    let lengths: Vec<f64> =
        course.points.iter().map(|point| point.random_features.t_squared.sqrt()).collect();
    html! {
        tr {
            th scope="row" { (name) }
            td data-name="Mahalanobis T²" { (distance_text(&newest.embedding)) }
            td data-name="Fourier T²" { (distance_text(&newest.random_features)) }
            td data-name="Over time" {
                (chart::distances(&lengths, newest.random_features.threshold.map(f64::sqrt)))
            }
            td .number data-name="Farthest component" {
                (newest.component) ": " (format!("{:+.1}", newest.deviation)) " se"
            }
            td .number data-name="Vectors" { (grouped(newest.vectors)) }
        }
    }
}

fn distance_text(distance: &DistanceView) -> Markup {
    let look = match distance.finding {
        DistanceFinding::Beyond => "bad",
        DistanceFinding::Within => "good",
        _ => "",
    };
    html! {
        (number(distance.t_squared)) " "
        span .pill .(look) { (distance.finding.as_str()) }
        @if let (Some(threshold), Some(chance)) = (distance.threshold, distance.chance) {
            div .under { small { "threshold " (number(threshold)) ", chance " (share(chance)) } }
        }
    }
}

fn origin_section(view: &DriftView) -> Markup {
    html! {
        section .panel .repository {
            h2 { "Devices" }
            table {
                thead { tr {
                    th scope="col" { "Device" } th scope="col" { "Slot" } th scope="col" { "State" }
                    th scope="col" { "At its site" } th scope="col" { "Found" }
                    th scope="col" { "Evidence" } th scope="col" { "Windows" }
                    th scope="col" { "Newest" }
                } }
                tbody {
                    @for origin in &view.origins {
                        tr {
                            th scope="row" { (device_link(origin))
                                @if origin.culprit && view.origins.len() > 1 { " " span .pill .bad { "named" } } }
                            td data-name="Slot" { (origin.slot) }
                            td data-name="State" { (state_pill(origin.verdict.state)) }
                            td data-name="At its site" {
                                @match &origin.site {
                                    Some(site) => { (state_pill(site.verdict.state)) }
                                    None => { span .quiet { "–" } }
                                }
                            }
                            td data-name="Found" { (found(origin)) }
                            td .number data-name="Evidence" { (nats(origin.evidence_nats)) }
                            td .number data-name="Windows" { (grouped(origin.verdict.windows)) }
                            td .number data-name="Newest" { (minute(origin.newest_ms)) }
                        }
                    }
                }
            }
            p .facts { span .quiet {
                "Evidence is in nats; a device that stands alone has an alarm at " (nats(Some(view.policy.alarm_nats))) "."
            } }
        }
    }
}

/// What was found of an origin, against both references.
fn found(origin: &OriginView) -> Markup {
    let at_site = origin.site.iter().flat_map(|site| &site.verdict.drifted);
    let mut at_site = at_site.peekable();
    let nothing = origin.verdict.drifted.is_empty() && at_site.peek().is_none();
    html! {
        @for finding in &origin.verdict.drifted {
            div { strong { (finding.stream) } " " (finding_text(finding)) }
        }
        @for finding in at_site {
            div { "at its site " strong { (finding.stream) } " " (finding_text(finding)) }
        }
        @if nothing { span .quiet { "–" } }
    }
}

fn export_section(view: &DriftView) -> Markup {
    let address = format!("/api/v1/drift/export?bundle={}&from_ms={}", view.bundle, view.from_ms);
    let device = match &view.origins[..] {
        [only] => format!("&device={}&slot={}", only.device, only.slot),
        _ => String::new(),
    };
    html! {
        p .facts .export {
            span { "Export "
                a href=(format!("{address}{device}&format=csv")) { "CSV" } " "
                a href=(format!("{address}{device}&format=json")) { "JSON" } }
        }
    }
}

/// A time to the minute, in UTC.
pub fn minute(at_ms: u64) -> String {
    let text = UnixMillis(at_ms).to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

pub fn share(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn nats(nats: Option<f32>) -> String {
    nats.map_or_else(|| "–".into(), |nats| format!("{nats:.1}"))
}

pub fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), number)
}

/// Three significant digits.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".into()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.2e}")
    } else {
        let whole_digits = size.log10().floor().max(-3.0) as i32;
        let decimals = usize::try_from(2 - whole_digits).unwrap_or(0);
        format!("{value:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_matter() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1.00"),
            (-12.345, "-12.3"),
            (123_456.0, "123456"),
            (0.012_345, "0.0123"),
            (1.5e-7, "1.50e-7"),
            (2.5e9, "2.50e9"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(minute(1_800_000_000_000), "2027-01-15 08:00");
    }
}
