//! The section of a device's page about the samples that it kept and sent.

use maud::{Markup, html};

use selvedge_wire::DeviceId;

use super::{ago, bytes, grouped};
use crate::{Error, manager::Manager, store::CaptureSums, view::CaptureRequestView};

/// Requests on the page, the newest ones.
const REQUESTS_SHOWN: usize = 4;

/// What is here of a device's samples, with links to exports, and what it was asked for last.
pub async fn section(manager: &Manager, id: &DeviceId) -> Result<Markup, Error> {
    let sums = manager.store.capture_sums(id).await?;
    let dropped = manager.store.captures_dropped(id).await?;
    let requests = manager.store.capture_requests(id).await?;
    let requests: Vec<_> = requests.iter().map(CaptureRequestView::from).collect();
    let now_ms = manager.now_ms();
    Ok(html! {
        section .panel .captures {
            h2 { "Captured samples" }
            @if sums.is_empty() && requests.is_empty() {
                p .empty { "None was asked for. Ask with a POST to " code { "/api/v1/devices/" (id) "/captures/requests" } "." }
            }
            @else {
                ul {
                    @for of_bundle in &sums { li { (export_links(id, of_bundle)) } }
                    @for request in requests.iter().take(REQUESTS_SHOWN) { li { (asked(request, now_ms)) } }
                }
            }
            @if dropped > 0 {
                p .note { (grouped(dropped)) " of its samples made room for newer ones." }
            }
        }
    })
}

fn export_links(id: &DeviceId, sums: &CaptureSums) -> Markup {
    let bundle = sums.bundle();
    let address = format!("/api/v1/captures/export?bundle={bundle}&device={id}&format=");
    html! {
        span { strong { (grouped(sums.samples.unsigned_abs())) } " samples of "
            a href=(format!("/drift/{bundle}")) { code { (bundle.short()) } } }
        span .quiet { (bytes(sums.len_bytes.unsigned_abs())) " · export "
            a href=(format!("{address}parquet")) { "Parquet" } " "
            a href=(format!("{address}npy")) { "NumPy" } " "
            a href=(format!("{address}ids")) { "ids" } }
    }
}

fn asked(request: &CaptureRequestView, now_ms: u64) -> Markup {
    html! {
        span { "request " (request.number) " "
            @if request.state == "finished" { span .pill .good { "finished" } }
            @else { span .pill .busy[request.state != "replaced"] { (request.state) } }
            @if let Some(finished) = &request.finished {
                @if finished.capturing {
                    " " (grouped(finished.sent.into())) " sent"
                    @if finished.left_out > 0 { ", " (grouped(finished.left_out.into())) " left out" }
                    @if finished.gone > 0 { ", " (grouped(finished.gone.into())) " gone" }
                } @else { " the device is not configured to keep samples" }
            }
        }
        span .quiet { (bytes(request.received_bytes)) " of at most " (bytes(request.bytes_max))
            " · " (ago(Some(request.asked_ms), now_ms)) }
    }
}
