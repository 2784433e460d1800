//! The part of a device's page about what is usual at its site: what was recorded, what is approved, what to do next.

use maud::{Markup, html};

use selvedge_wire::{DeviceId, SlotName};

use super::{
    drift::{minute, state_pill},
    grouped,
};
use crate::drift::{
    ApprovedView, PeriodView, Progress, ProposalView, SiteBaselineView, SiteView, StreamView,
};

/// The site baselines of a slot.
pub fn site_section(site: Option<&SiteView>, device: &DeviceId, slot: &SlotName) -> Markup {
    let address = format!("/api/v1/devices/{device}/slots/{slot}/site");
    html! {
        section .panel .repository {
            h2 { "What is usual at this site" }
            @match site {
                Some(SiteView { proposal, approved, .. }) => {
                    @if let Some(approved) = approved { (approved_part(approved)) }
                    @if let Some(proposal) = proposal { (proposal_part(proposal, &address)) }
                }
                None => p .empty {
                    "Nothing is recorded. If the site differs from the lab and is in order, declare a period: POST "
                    code { (address) } " with " code { "{\"hours\": 24, \"by\": \"…\"}" } "."
                }
            }
        }
    }
}

fn approved_part(approved: &ApprovedView) -> Markup {
    html! {
        p .facts {
            span { "approved " strong { (minute(approved.approved_ms)) } " by " (approved.approved_by) }
            @if !approved.named { span .pill .warn { "not in force" } }
            @else if approved.in_use { span .pill .good { "the device judges by it" } }
            @else { span .pill .busy { "on its way to the device" } }
        }
        (recorded(&approved.site))
        @if let Some(reason) = &approved.reason { p .reason { (reason) } }
    }
}

fn proposal_part(proposal: &ProposalView, address: &str) -> Markup {
    html! {
        p .facts {
            span { "proposed by " (proposal.proposed_by) ": " strong { (minute(proposal.from_ms)) } " to "
                strong { (minute(proposal.to_ms)) } " UTC" }
            @match proposal.progress {
                Progress::Waiting => span .pill .busy { "recording" },
                Progress::Ready => span .pill .good { "ready to be looked at" },
                Progress::Refused => span .pill .bad { "not enough" },
            }
        }
        @if let Some(reason) = &proposal.reason { p .reason { (reason) } }
        @if let Some(site) = &proposal.site {
            (recorded(site))
            p .note { "To approve what you see: POST " code { (address) "/approve" } " with "
                code { "{\"digest\": \"" (site.digest) "\", \"by\": \"…\"}" } }
        }
        (alarms(&proposal.alarms))
        @if let Some(lab) = &proposal.lab {
            p .facts { span .quiet { "What is stored of it was counted from " (minute(lab.from_ms)) " to "
                (minute(lab.to_ms)) " UTC." } }
            (comparison(&proposal.differs, &lab.streams))
        }
    }
}

fn recorded(site: &SiteBaselineView) -> Markup {
    html! {
        p .facts {
            span { code { (site.digest.short()) } }
            span { (minute(site.from_ms)) " to " (minute(site.to_ms)) " UTC" }
            span { (grouped(site.windows.into())) " windows of " (grouped(site.samples)) " samples" }
            @if site.uncalibrated {
                span .pill title="there were too few windows to measure how much they vary" { "uncalibrated" }
            }
        }
    }
}

fn alarms(alarms: &[PeriodView]) -> Markup {
    html! {
        @if alarms.is_empty() {
            p .facts { span .quiet { "The lab's detectors were not in alarm during the period." } }
        } @else {
            p .found { "The lab's detectors were in alarm: "
                @for (place, PeriodView { from_ms, to_ms }) in alarms.iter().enumerate() {
                    @if place > 0 { ", " }
                    (minute(*from_ms)) " to " (minute(*to_ms))
                }
                ". Approve only if the site was in order then."
            }
        }
    }
}

fn comparison(differs: &[String], streams: &[StreamView]) -> Markup {
    let mean = |value: Option<f64>| value.map_or_else(|| "–".into(), super::drift::number);
    html! {
        table .dense {
            thead { tr {
                th scope="col" { "Stream" } th scope="col" { "Against the lab" }
                th scope="col" { "PSI" } th scope="col" { "Mean in the lab" } th scope="col" { "Mean here" }
            } }
            tbody {
                @for stream in streams {
                    tr {
                        th scope="row" { (stream.name)
                            @if differs.contains(&stream.name) { " " span .pill .warn { "differs" } } }
                        td data-name="Against the lab" { (state_pill(stream.state)) }
                        td .number data-name="PSI" { (mean(stream.statistics.map(|it| it.psi.value))) }
                        td .number data-name="Mean in the lab" {
                            (mean(stream.moments.as_ref().and_then(|it| it.reference_binned_mean))) }
                        td .number data-name="Mean here" {
                            (mean(stream.moments.as_ref().and_then(|it| it.binned_mean))) }
                    }
                }
            }
        }
    }
}
