//! The part of a bundle's page that says how right its answers were, by the labels that came.

use maud::{Markup, html};

use super::{
    drift::{maybe, minute, number, share},
    grouped,
};
use crate::quality::{
    ClassScoreView, ClassScoresView, GroupView, QualityView, ScoresView, ValueScoresView,
};

/// The accuracy or squared error of all labels, in a few words; none without a label that counts.
pub fn headline(view: &QualityView) -> Option<Markup> {
    let ScoresView { classes, values, .. } = &view.all;
    match (classes, values) {
        (Some(classes), _) => Some(html! {
            (share(classes.accuracy))
            small title="one standard error" { " ± " (share(classes.standard_error)) }
            div .under { small { (grouped(classes.labels)) " labels" } }
        }),
        (None, Some(values)) => Some(html! {
            (maybe(values.mean_absolute_error)) small { " mean absolute error" }
            div .under { small { (grouped(values.labels)) " labels" } }
        }),
        (None, None) => None,
    }
}

/// What labels say; nothing where there are none.
pub fn section(view: &QualityView) -> Markup {
    if view.matched + view.unmatched == 0 {
        return html! {};
    }
    html! {
        section .panel .repository {
            h2 { "Labels" }
            (facts(view))
            @if let Some(reason) = &view.all.unfit_reason {
                p .note { (grouped(view.all.unfit)) " labels fit no answer, for example: " (reason) }
            }
            @if view.cut { p .note { "There are labels of older answers that were not read." } }
            @if !view.groups.is_empty() { (slice_table(view)) }
            @if let Some(classes) = &view.all.classes { (class_table(classes)) }
        }
    }
}

fn facts(view: &QualityView) -> Markup {
    html! {
        p .facts {
            span { strong { (grouped(view.matched)) } " of answers"
                @if let (Some(from_ms), Some(to_ms)) = (view.from_ms, view.to_ms) {
                    " from " (minute(from_ms)) " to " (minute(to_ms)) " UTC"
                }
            }
            @if view.unmatched > 0 {
                span title="their answers are not known here, so neither is the bundle" {
                    (grouped(view.unmatched)) " unmatched" }
            }
            @if view.all.unanswered > 0 { span { (grouped(view.all.unanswered)) " of samples without an answer" } }
            @if view.dropped > 0 { span { (grouped(view.dropped)) " dropped for newer ones" } }
            @if let Some(classes) = &view.all.classes {
                span { "macro F1 " (maybe(classes.macro_f1)) }
                @if let Some(error) = classes.calibration_error { span { "calibration error " (share(error)) } }
            }
            @if let Some(values) = &view.all.values { (value_facts(values)) }
        }
    }
}

fn value_facts(values: &ValueScoresView) -> Markup {
    html! {
        span { "mean error " (maybe(values.mean_error)) }
        span { "mean absolute error " (maybe(values.mean_absolute_error)) }
        span { "mean squared error " (maybe(values.mean_squared_error)) }
    }
}

fn slice_table(view: &QualityView) -> Markup {
    html! {
        table .dense {
            thead { tr {
                th scope="col" { "Slice" } th scope="col" { "Labels" } th scope="col" { "Accuracy" }
                th scope="col" { "95 %" } th scope="col" { "Macro F1" } th scope="col" { "Mean squared error" }
            } }
            tbody { @for group in &view.groups { (slice_row(group)) } }
        }
        @if view.groups_left_out > 0 {
            p .facts { span .quiet { "and " (view.groups_left_out) " slices with fewer labels" } }
        }
    }
}

fn slice_row(group: &GroupView) -> Markup {
    let ScoresView { classes, values, .. } = &group.scores;
    let labels = classes.as_ref().map_or(0, |classes| classes.labels)
        + values.as_ref().map_or(0, |values| values.labels);
    let classes = classes.as_ref();
    let interval =
        classes.map(|it| format!("{} – {}", share(it.accuracy_low), share(it.accuracy_high)));
    html! {
        tr {
            th scope="row" { @match &group.name { Some(name) => (name), None => span .quiet { "no slice" } } }
            td .number data-name="Labels" { (grouped(labels)) }
            td .number data-name="Accuracy" { (dash(classes.map(|classes| share(classes.accuracy)))) }
            td .number data-name="95 %" { (dash(interval)) }
            td .number data-name="Macro F1" { (maybe(classes.and_then(|classes| classes.macro_f1))) }
            td .number data-name="Mean squared error" {
                (maybe(values.as_ref().and_then(|values| values.mean_squared_error))) }
        }
    }
}

fn class_table(classes: &ClassScoresView) -> Markup {
    html! {
        table .dense {
            thead { tr {
                th scope="col" { "Class" } th scope="col" { "Is" } th scope="col" { "Was said" }
                th scope="col" { "Precision" } th scope="col" { "Recall" } th scope="col" { "F1" }
            } }
            tbody { @for class in &classes.by_class { (class_row(class)) } }
        }
    }
}

fn class_row(class: &ClassScoreView) -> Markup {
    html! {
        tr {
            th scope="row" { (class.name.clone().unwrap_or_else(|| class.class.to_string())) }
            td .number data-name="Is" { (grouped(class.labelled)) }
            td .number data-name="Was said" { (grouped(class.answered)) }
            td .number data-name="Precision" { (dash(class.precision.map(share))) }
            td .number data-name="Recall" { (dash(class.recall.map(share))) }
            td .number data-name="F1" { (dash(class.f1.map(number))) }
        }
    }
}

fn dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".into())
}
