//! `selvedge inspect`: what a bundle holds.

mod plan;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use selvedge_bundle::{
    Bundle, Extent, GoldenOrigin, PostStep, PreStep, SampleSpec, TensorSpec, UpdatePolicy,
};
use selvedge_runtime::PlanSurvey;
use serde_json::{Value, json};

use crate::data::read_file;
use crate::terminal::{bytes, strong};
use crate::verify::open;

/// Shows what a bundle holds
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The bundle's folder; with --plan, also an ONNX file
    #[arg(value_name = "BUNDLE|MODEL.onnx")]
    bundle: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print how the model is computed on this CPU: each operation with its shapes and costs, and what stays in the
    /// float engine
    #[arg(long)]
    plan: bool,
    /// With --plan: write the integer programs into this new folder
    #[arg(long, value_name = "DIR", requires = "plan")]
    programs: Option<PathBuf>,
    /// Write the bundle's files into this new folder: the tree that `selvedge sign` signs
    #[arg(long, value_name = "DIR")]
    extract: Option<PathBuf>,
}

/// Runs the command.
pub fn main(args: InspectArgs) -> anyhow::Result<ExitCode> {
    if args.plan && args.bundle.is_file() {
        ensure!(
            args.extract.is_none(),
            "--extract needs a bundle, and {} is a file",
            args.bundle.display()
        );
        return show_plan(&plan::survey_file(&read_file(&args.bundle)?)?, &args);
    }
    let bundle = open(&args.bundle)?;
    if let Some(folder) = &args.extract {
        extract(&bundle, folder)?;
    }
    if args.plan {
        return show_plan(&plan::survey(&bundle)?, &args);
    }
    if args.json {
        println!("{}", as_json(&bundle)?);
    } else {
        print(&bundle);
    }
    Ok(ExitCode::SUCCESS)
}

fn show_plan(plan: &PlanSurvey, args: &InspectArgs) -> anyhow::Result<ExitCode> {
    if let Some(folder) = &args.programs {
        plan::write_programs(plan, folder)?;
    }
    if args.json {
        println!("{}", plan::as_json(plan));
    } else {
        plan::print(plan);
    }
    Ok(ExitCode::SUCCESS)
}

fn extract(bundle: &Bundle, folder: &Path) -> anyhow::Result<()> {
    ensure!(!folder.exists(), "{} exists; give a new folder", folder.display());
    for (name, content) in bundle.tree() {
        let path = folder.join(name);
        let parent = path.parent().expect("a file inside a folder has a parent");
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn as_json(bundle: &Bundle) -> anyhow::Result<Value> {
    let manifest: Value =
        serde_json::from_slice(&bundle.manifest().to_json()).context("our own JSON")?;
    let layers: Vec<Value> = bundle
        .layers()
        .map(|(name, content)| json!({"name": name, "bytes": content.len()}))
        .collect();
    let baseline = bundle.baseline().map(|baseline| {
        let features: Vec<&str> =
            baseline.features().iter().map(|feature| feature.name.as_str()).collect();
        json!({
            "rows": baseline.rows(),
            "features": features,
            "class_counts": baseline.classes().map(|classes| &classes.counts),
            "accuracy": baseline.accuracy().map(|accuracy| accuracy.share()),
        })
    });
    Ok(json!({
        "digest": bundle.digest(),
        "bytes": bundle.len_bytes(),
        "manifest": manifest,
        "layers": layers,
        "golden": {"origin": bundle.manifest().golden.origin, "samples": bundle.golden().rows()},
        "baseline": baseline,
    }))
}

fn print(bundle: &Bundle) {
    let manifest = bundle.manifest();
    println!("{} {}", strong(&manifest.name), strong(&manifest.version));
    println!("{}", manifest.description);
    let line = |name: &str, value: String| println!("  {name:<12} {value}");
    line("digest", bundle.digest().to_string());
    line("task", manifest.task.clone());
    line("licence", manifest.license.clone());
    line(
        "size",
        format!("{}, model {}", bytes(bundle.len_bytes()), bytes(bundle.model().len() as u64)),
    );
    line("sample", sample_text(&manifest.sample));
    manifest.pre.iter().for_each(|step| line("pre", pre_text(step)));
    manifest.inputs.iter().for_each(|tensor| line("input", tensor_text(tensor)));
    manifest.outputs.iter().for_each(|tensor| line("output", tensor_text(tensor)));
    manifest.post.iter().for_each(|step| line("post", post_text(step)));
    if !manifest.labels.is_empty() {
        line("labels", manifest.labels.join(", "));
    }
    let golden = &manifest.golden;
    line(
        "golden",
        format!("{}: {} samples by {}", golden.origin, bundle.golden().rows(), golden.framework),
    );
    if golden.origin == GoldenOrigin::SelfMade {
        line(
            "",
            "self-made vectors show that optimising kept the answers, not that they are right"
                .to_owned(),
        );
    }
    if let Some(baseline) = bundle.baseline() {
        let names: Vec<&str> =
            baseline.features().iter().map(|feature| feature.name.as_str()).collect();
        line("baseline", format!("{} samples of {}", baseline.rows(), names.join(", ")));
        if let Some(accuracy) = baseline.accuracy() {
            let (right, rows) = (accuracy.correct, accuracy.rows);
            line(
                "accuracy",
                format!("{:.2} % of the reference ({right} of {rows})", 100.0 * accuracy.share()),
            );
        }
    }
    line("memory", format!("stated at most {}", bytes(manifest.resources.ram_peak_bytes_max)));
    let update = &manifest.update;
    let memory = bytes(manifest.trial_memory_bytes_max());
    line("trial", format!("at most {} s and {memory} of address space", update.trial_time_s_max));
    line("probation", probation_text(update));
}

fn probation_text(update: &UpdatePolicy) -> String {
    format!(
        "{} s and {} inferences; bears {} crashes, {:.1} % more failures, {:.1} times the latency, a shift of classes by {:.2}",
        update.probation_s,
        update.probation_inferences,
        update.crashes_max,
        100.0 * update.failed_fraction_max,
        update.latency_ratio_max,
        update.class_shift_max
    )
}

fn sample_text(sample: &SampleSpec) -> String {
    match sample {
        SampleSpec::Row(row) => {
            let names: Vec<&str> = row.columns.iter().map(|column| column.name.as_str()).collect();
            format!("a row of {}", names.join(", "))
        }
        SampleSpec::Image(image) => {
            format!("an image {:?} u8, {} to {}", image.shape, image.min, image.max)
        }
    }
}

fn tensor_text(tensor: &TensorSpec) -> String {
    let axes = tensor.axes.iter().zip(&tensor.shape).map(|(axis, extent)| match extent {
        Extent::Free => axis.clone(),
        Extent::Fixed(extent) => format!("{axis} {extent}"),
    });
    let axes: Vec<String> = axes.collect();
    let step = tensor.scale.map(|scale| format!(", one step is {scale:.6}")).unwrap_or_default();
    format!("{}: [{}] {}{step}", tensor.name, axes.join(", "), tensor.dtype)
}

fn pre_text(step: &PreStep) -> String {
    match step {
        PreStep::Normalize { mean, .. } => {
            format!("normalize {} values by mean and deviation", mean.len())
        }
        PreStep::Scale { factor, offset } => format!("scale by {factor}, then add {offset}"),
        PreStep::Resize { height, width, .. } => format!("resize to {height} by {width}"),
        PreStep::Layout { to } => format!("layout {to:?}").to_lowercase(),
    }
}

fn post_text(step: &PostStep) -> String {
    match step {
        PostStep::Softmax { output } => format!("softmax of {output}"),
        PostStep::Argmax { output } => format!("argmax of {output}"),
        PostStep::Threshold { output, at } => format!("threshold of {output} at {at}"),
    }
}
