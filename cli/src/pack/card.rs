//! A model card for a bundle that came without one: what is known, in the Hugging Face format, and nothing more.

use selvedge_bundle::{Baseline, Manifest};

/// The card, in Markdown.
pub fn of(manifest: &Manifest, baseline: Option<&Baseline>) -> String {
    let mut card = format!(
        "---\nlicense: {}\npipeline_tag: {}\nlibrary_name: onnx\n---\n# {} {}\n\n{}\n",
        licence_tag(&manifest.license),
        manifest.task,
        manifest.name,
        manifest.version,
        manifest.description,
    );
    if !manifest.labels.is_empty() {
        card += &format!("\nClasses: {}.\n", manifest.labels.join(", "));
    }
    if let Some(baseline) = baseline {
        card += &format!("\nReference data: {} samples.\n", baseline.rows());
        if let Some(accuracy) = baseline.accuracy() {
            card += &format!("Accuracy on them: {:.2} %.\n", 100.0 * accuracy.share());
        }
    }
    card + "\nThis card was made from the manifest. Who trained the model, on what, and for which use is not stated.\n"
}

/// Hugging Face writes licences in lower case, and has a word for the rest.
fn licence_tag(spdx: &str) -> String {
    if spdx == "NOASSERTION" { "unknown".to_owned() } else { spdx.to_lowercase() }
}
