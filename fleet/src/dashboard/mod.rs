//! The page for people: what runs where, how fast, and what is wrong.
//!
//! Rendered here, complete without script. A little script of our own fetches the page's main part
//! again when the event stream says that something changed. Nothing is loaded from elsewhere.

mod captures;
mod chart;
mod drift;
mod quality;
mod site;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use maud::{DOCTYPE, Markup, html};

use crate::{
    Error,
    manager::Manager,
    store::NewestEvent,
    view::{
        BundleView, ComparisonView, DeviceView, FleetView, PhaseView, RepositoryView, RoleView,
        SlotView, TrustView,
    },
};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("live.js");

/// Events on the page.
const EVENTS_SHOWN: u32 = 8;
/// Classes that have a name beside the bar of answers.
const CLASSES_NAMED: usize = 2;

/// The pages and what they load.
pub fn router(manager: Arc<Manager>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/live", get(live))
        .route("/drift/{bundle}", get(drift::bundle_page))
        .route("/devices/{id}/drift", get(drift::device_page))
        .with_state(manager)
        .route("/style.css", get(|| asset("text/css; charset=utf-8", STYLE)))
        .route("/live.js", get(|| asset("text/javascript; charset=utf-8", SCRIPT)))
}

async fn page(State(manager): State<Arc<Manager>>) -> Result<Markup, Error> {
    let content = read_content(&manager).await?;
    let live = html! { p #link .quiet role="status" { "not live" } };
    Ok(document(&manager, "Selvedge", true, &live, &content))
}

/// A page beside the first, which does not change by itself.
fn frame(manager: &Manager, title: &str, content: &Markup) -> Markup {
    let back = html! { p .back { a href="/" { "all devices" } } };
    document(manager, &format!("{title} · Selvedge"), false, &back, content)
}

fn document(
    manager: &Manager,
    title: &str,
    is_live: bool,
    aside: &Markup,
    content: &Markup,
) -> Markup {
    let fleet = manager.director.fleet();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (fleet) " · " (title) }
                link rel="stylesheet" href="/style.css";
                link rel="icon" href="data:,";
                @if is_live { script src="/live.js" defer {} }
            }
            body {
                header {
                    (mark())
                    @if is_live { h1 { "Selvedge" } } @else { p .name { "Selvedge" } }
                    p .fleet { "fleet " strong { (fleet) } }
                    (aside)
                }
                main { (content) }
                footer {
                    a href="/api/v1/fleet" { "fleet as JSON" }
                    a href="/api/v1/openapi.json" { "OpenAPI" }
                }
            }
        }
    }
}

/// The main part alone, for the script.
async fn live(State(manager): State<Arc<Manager>>) -> Result<Markup, Error> {
    read_content(&manager).await
}

async fn asset(kind: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], content).into_response()
}

async fn read_content(manager: &Manager) -> Result<Markup, Error> {
    let now_ms = manager.now_ms();
    let view = FleetView::read(&manager.store, now_ms).await?;
    let events = manager.store.newest_events(EVENTS_SHOWN).await?;
    let gaps = manager.store.totals().await?.sequence_gaps;
    let ingest = manager.ingest.borrow().clone();
    let repository = RepositoryView::read(manager);
    Ok(html! {
        @if let Some(reason) = &ingest.blocked {
            p .alarm role="alert" { "Nothing is stored at present: " (reason) }
        }
        @if !ingest.connected {
            p .alarm role="alert" { "The link to the broker is down; it is tried again." }
        }
        (tiles(&view, gaps))
        @if view.devices.is_empty() {
            p .empty { "No device yet. Register one with " code { "selvedge device add line-1 --out line-1" } "." }
        } @else {
            (device_table(&view.devices, now_ms))
        }
        div .columns {
            (bundle_section(&view, now_ms))
            (event_section(&events, now_ms))
        }
        (repository_section(&repository))
    })
}

fn tiles(view: &FleetView, gaps: i64) -> Markup {
    let devices = &view.devices;
    let count = |is: fn(&DeviceView) -> bool| devices.iter().filter(|device| is(device)).count();
    let sum = |of: fn(&crate::view::HealthView) -> u64| -> u64 {
        let counters = devices.iter().filter_map(|device| device.health.as_ref());
        counters.map(of).fold(0, u64::saturating_add)
    };
    let total = devices.len();
    let (online, settled) = (count(|device| device.online), count(DeviceView::is_settled));
    let (inferences, failed) =
        (sum(|health| health.inferences), sum(|health| health.inferences_failed));
    let (drifting, muted) = (count(DeviceView::is_in_alarm), count(DeviceView::is_muted));
    let throughput: f64 = devices.iter().map(|device| device.throughput_per_s).sum();
    html! {
        section .tiles aria-label="Fleet" {
            (tile("Devices online", html! { (online) small { " of " (total) } }, online < total))
            (tile("As desired", html! { (settled) small { " of " (total) } }, settled < total))
            (tile("Throughput", html! { (rate(throughput)) small { " /s" } }, false))
            (tile("Latency p50 · p99", latency_pair(
                view.latency.quantile(500), view.latency.quantile(990)), false))
            (tile("Inferences", html! { (grouped(inferences)) }, false))
            (tile("Failed", html! { (grouped(failed)) }, failed > 0))
            @if drifting > 0 || muted > 0 {
                (tile("Drifting", html! { (drifting)
                    @if muted > 0 { small { " and " (muted) " muted" } } }, drifting > 0))
            }
            (tile("Sequence gaps", html! { (grouped(gaps.max(0) as u64)) }, gaps > 0))
        }
    }
}

fn tile(name: &str, value: Markup, worth_a_look: bool) -> Markup {
    html! {
        div .tile .look[worth_a_look] {
            p .name { (name) }
            p .value { (value) }
        }
    }
}

fn device_table(devices: &[DeviceView], now_ms: u64) -> Markup {
    html! {
        section .panel aria-label="Devices" {
            table {
                thead {
                    tr {
                        th scope="col" { "Device" }
                        th scope="col" { "Bundle" }
                        th scope="col" { "State" }
                        th scope="col" { "Throughput" }
                        th scope="col" { "Latency p50 · p99" }
                        th scope="col" .wide { "Answers" }
                        th scope="col" { "Last seen" }
                    }
                }
                tbody {
                    @for device in devices { (device_row(device, now_ms)) }
                }
            }
        }
    }
}

fn device_row(device: &DeviceView, now_ms: u64) -> Markup {
    let slots: &[SlotView] = device.reported.as_ref().map_or(&[], |reported| &reported.slots);
    let (dot, said) = if device.online { ("on", "online") } else { ("off", "offline") };
    html! {
        tr {
            th scope="row" {
                span .dot .(dot) title=(said) {} span .unseen { (said) }
                (device.id)
                div .under {
                    @if let Some(class) = &device.hardware_class { small { (class) } }
                    @for (name, value) in &device.labels { small .label { (name) "=" (value) } }
                }
                @if let Some(reported) = &device.reported { (trust(&reported.trust)) }
            }
            td data-name="Bundle" {
                @for slot in slots { (running(slot, slots.len() > 1)) }
                @if slots.is_empty() { span .quiet { "none yet" } }
            }
            td data-name="State" { (state(device, slots)) }
            td data-name="Throughput" {
                div .rate {
                    (chart::sparkline(&device.throughput_history))
                    span .number { (rate(device.throughput_per_s)) small { " /s" } }
                }
            }
            td .number data-name="Latency p50 · p99" { (latency_pair(device.latency_us_p50, device.latency_us_p99)) }
            td .wide data-name="Answers" { (answers(device)) }
            td .number data-name="Last seen" { (ago(device.last_seen_ms, now_ms)) }
        }
    }
}

fn running(slot: &SlotView, named: bool) -> Markup {
    html! {
        div .bundle {
            @if named { small .label { (slot.slot) } }
            @match &slot.running {
                Some(running) => {
                    (running.name) " " strong { (running.version) }
                    div .under {
                        small title=(running.bundle) { code { (running.bundle.short()) } }
                    }
                }
                None => { span .quiet { "none yet" } }
            }
        }
    }
}

fn state(device: &DeviceView, slots: &[SlotView]) -> Markup {
    html! {
        @for slot in slots {
            @match slot.phase {
                PhaseView::Settled => {
                    @if slot.running.is_some() { span .pill .good { "settled" } }
                    @else { span .pill { "empty" } }
                }
                PhaseView::Fetching => {
                    @let (present, total) = (slot.chunks_present.unwrap_or(0), slot.chunks_total.unwrap_or(0));
                    span .pill .busy { "fetching " (present) " of " (total) }
                    (chart::progress(present, total))
                }
                PhaseView::Verifying => { span .pill .busy { "verifying" } }
                PhaseView::Trial => { span .pill .busy { "trial" } }
                PhaseView::Shadow => { (progress("shadow", slot)) }
                PhaseView::Probation => { (progress("probation", slot)) }
                PhaseView::Refused => { span .pill .bad { "refused" } }
            }
            @if let Some(comparison) = &slot.comparison { (compared(comparison)) }
            @if let Some(status) = &slot.drift {
                div .under { a .drift href=(format!("/devices/{}/drift", device.id)) { "drift" } " " (drift::said(status)) }
            }
            @if let Some(site) = &slot.site {
                div .under { small { "at its site" } " " (drift::said(&site.drift)) }
            }
        }
        @if slots.is_empty() && device.desired.is_some() { span .pill .busy { "waiting" } }
        @for problem in &device.problems { p .reason { (problem) } }
    }
}

/// A phase that counts up to what is wanted.
fn progress(phase: &str, slot: &SlotView) -> Markup {
    let (done, wanted) = (slot.done.unwrap_or(0), slot.wanted.unwrap_or(0));
    let part = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    html! {
        span .pill .busy { (phase) " " (grouped(done)) " of " (grouped(wanted)) }
        (chart::progress(part(done), part(wanted)))
    }
}

/// How a new bundle compares with the one before.
fn compared(comparison: &ComparisonView) -> Markup {
    let ComparisonView { samples, failed, disagreed, shed, latency_us_p95, latency_us_p95_before } =
        comparison;
    html! {
        p .compared {
            (grouped(*samples)) " samples, " (grouped(*failed)) " failed, "
            (grouped(*disagreed)) " answered otherwise"
            @if *shed > 0 { ", " (grouped(*shed)) " left out" }
            @if *latency_us_p95 > 0 {
                "; p95 " (latency(*latency_us_p95))
                @if *latency_us_p95_before > 0 { " after " (latency(*latency_us_p95_before)) }
            }
        }
    }
}

/// Which metadata a device follows.
fn trust(trust: &TrustView) -> Markup {
    html! {
        div .under {
            small title="versions of the metadata that the device follows" {
                "root " (trust.root_version) " · timestamp " (trust.timestamp_version)
            }
            @if trust.frozen { div { span .pill .bad { "frozen out" } } }
            @if trust.time_unverified { div { span .pill .warn { "time unverified" } } }
        }
    }
}

fn answers(device: &DeviceView) -> Markup {
    let counts: Vec<u32> = device.classes.iter().map(|class| class.count).collect();
    let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    if total == 0 {
        return html! { span .quiet { "none yet" } };
    }
    let mut most: Vec<usize> = (0..counts.len()).filter(|&index| counts[index] > 0).collect();
    most.sort_by_key(|&index| std::cmp::Reverse(counts[index]));
    html! {
        (chart::shares(&counts))
        p .legend {
            @for &index in most.iter().take(CLASSES_NAMED) {
                span {
                    (chart::key(index)) (device.classes[index].label) " "
                    small { (percent(counts[index], total)) }
                }
            }
            @if most.len() > CLASSES_NAMED { span .quiet { "+" (most.len() - CLASSES_NAMED) } }
        }
    }
}

fn bundle_section(view: &FleetView, now_ms: u64) -> Markup {
    html! {
        section .panel {
            h2 { "Bundles" }
            @if view.bundles.is_empty() {
                p .empty { "None yet. Publish one with " code { "selvedge publish BUNDLE" } "." }
            } @else {
                ul {
                    @for bundle in &view.bundles {
                        li {
                            span { a href=(format!("/drift/{}", bundle.digest)) title="drift" {
                                (bundle.name) " " strong { (bundle.version) } } " "
                                small { code { (bundle.digest.short()) } } " "
                                @if bundle.revoked { span .pill .bad { "revoked" } }
                                @else if bundle.target.is_none() { span .pill { "no target" } } }
                            span .quiet {
                                "on " (running_on(view, bundle)) " of " (view.devices.len()) " · "
                                (bytes(bundle.len_bytes)) " · "
                                (ago(Some(bundle.registered_ms), now_ms))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn repository_section(repository: &RepositoryView) -> Markup {
    let (retained, max) = (repository.chunk_bytes_retained, repository.retained_bytes_max);
    html! {
        section .panel .repository {
            h2 { "Repository" }
            p .facts {
                span { "root " strong { (repository.root_version) } " "
                    small { (signers(repository.root_threshold, repository.root_keys.len())) ", until "
                        (day(&repository.root_expires)) } }
                span { "snapshot " strong { (repository.snapshot_version) } " "
                    small { (until(repository.snapshot_expires.as_deref())) } }
                span { "timestamp " strong { (repository.timestamp_version) } " "
                    small { (until(repository.timestamp_expires.as_deref())) } }
                span { "chunks at the broker " strong { (bytes(retained)) } " "
                    small { "of " (bytes(max)) } }
            }
            table {
                thead {
                    tr {
                        th scope="col" { "Role" }
                        th scope="col" { "Version" }
                        th scope="col" { "Expires" }
                        th scope="col" { "Signatures" }
                        th scope="col" { "Targets" }
                        th scope="col" { "Delegates" }
                    }
                }
                tbody { @for role in &repository.targets { (role_row(role)) } }
            }
        }
    }
}

fn role_row(role: &RoleView) -> Markup {
    html! {
        tr {
            th scope="row" { (role.role.as_str()) }
            td .number data-name="Version" { (role.version) }
            td data-name="Expires" {
                @match &role.problem {
                    Some(problem) => { p .reason { (problem) } }
                    None => { (role.expires.as_deref().map_or("–", day)) }
                }
            }
            td .number data-name="Signatures" { (signers(role.threshold, role.keys.len())) }
            td .number data-name="Targets" title=(role.targets.join(", ")) { (role.targets.len()) }
            td data-name="Delegates" {
                @for delegation in &role.delegations {
                    span .label { (delegation.paths.join(", ")) " to " (delegation.role.as_str()) } " "
                }
                @if role.delegations.is_empty() { span .quiet { "–" } }
            }
        }
    }
}

fn signers(threshold: usize, keys: usize) -> String {
    format!("{threshold} of {keys} {}", if keys == 1 { "key" } else { "keys" })
}

fn until(expires: Option<&str>) -> String {
    expires.map_or_else(String::new, |expires| format!("until {}", day(expires)))
}

/// The day of a time in RFC 3339.
fn day(time: &str) -> &str {
    time.split('T').next().unwrap_or(time)
}

fn event_section(events: &[NewestEvent], now_ms: u64) -> Markup {
    html! {
        section .panel {
            h2 { "Events" }
            @if events.is_empty() { p .empty { "Nothing has happened yet." } }
            ul {
                @for event in events {
                    li {
                        span { strong { (event.device) } " " span .kind .(event.kind) { (event.kind) }
                            " " (event.detail) }
                        span .quiet { (ago(u64::try_from(event.at_ms).ok(), now_ms)) }
                    }
                }
            }
        }
    }
}

fn running_on(view: &FleetView, bundle: &BundleView) -> usize {
    let runs = |device: &&DeviceView| {
        let mut slots = device.reported.iter().flat_map(|reported| &reported.slots);
        slots.any(|slot| slot.running.as_ref().is_some_and(|r| r.bundle == bundle.digest))
    };
    view.devices.iter().filter(runs).count()
}

/// A selvedge: the edge of a cloth.
fn mark() -> Markup {
    html! {
        svg .mark viewBox="0 0 24 24" width="28" height="28" aria-hidden="true" {
            path d="M3 4h18M3 9h18M3 14h18M3 19h18" {}
            path .edge d="M7 2v20M4 2v20" {}
        }
    }
}

fn latency_pair(p50_us: Option<u32>, p99_us: Option<u32>) -> Markup {
    match (p50_us, p99_us) {
        (Some(p50_us), Some(p99_us)) => html! {
            span .pair { (latency(p50_us)) span .quiet { " · " } (latency(p99_us)) }
        },
        _ => html! { span .quiet { "–" } },
    }
}

fn latency(us: u32) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..10_000 => format!("{:.1} ms", f64::from(us) / 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1000),
        _ => format!("{:.1} s", f64::from(us) / 1e6),
    }
}

fn rate(per_s: f64) -> String {
    if per_s < 9.95 { format!("{per_s:.1}") } else { grouped(per_s.round() as u64) }
}

/// Digits in groups of three, with thin spaces.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

fn percent(part: u32, total: u64) -> String {
    let percent = f64::from(part) * 100.0 / total as f64;
    if percent > 0.0 && percent < 0.1 { "<0.1 %".into() } else { format!("{percent:.1} %") }
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count / 1024),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

fn ago(then_ms: Option<u64>, now_ms: u64) -> String {
    let Some(then_ms) = then_ms else { return "never".into() };
    match now_ms.saturating_sub(then_ms) / 1000 {
        0..2 => "now".into(),
        seconds @ 2..120 => format!("{seconds} s ago"),
        seconds @ 120..7200 => format!("{} min ago", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1\u{2009}234\u{2009}567");
        assert_eq!([latency(999), latency(1500), latency(12_345)], ["999 µs", "1.5 ms", "12 ms"]);
        assert_eq!(
            [rate(0.0), rate(9.94), rate(9.96), rate(1234.5)],
            ["0.0", "9.9", "10", "1\u{2009}235"]
        );
        assert_eq!(
            [percent(0, 9), percent(1, 10_000), percent(1, 3)],
            ["0.0 %", "<0.1 %", "33.3 %"]
        );
        assert_eq!([bytes(10), bytes(2048), bytes(3 << 19)], ["10 B", "2 KiB", "1.5 MiB"]);
        assert_eq!(ago(None, 0), "never");
        assert_eq!([ago(Some(9), 0), ago(Some(0), 60_000)], ["now", "60 s ago"]);
    }
}
