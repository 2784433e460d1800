//! `selvedge baseline`: what drift is measured against, made and shown without packing a bundle.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use selvedge_bundle::{Accuracy, Baseline, Order, multivariate::Threshold};
use serde_json::{Value, json};

use crate::data::read_file;
use crate::pack::baseline_of_recipe;
use crate::reference::{
    ReferenceArgs, ReferenceSamples, doubts, embedding_text, streams, uncalibrated_because,
};
use crate::terminal::strong;
use crate::verify::{load, open};

/// Makes and shows baselines: the bins that drift is measured in, and how well that can be done
#[derive(Debug, clap::Args)]
pub struct BaselineArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Build(BuildArgs),
    Show(ShowArgs),
}

/// Builds a baseline from reference data and shows it
#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// A bundle's folder, a recipe's folder, or a manifest
    #[arg(value_name = "BUNDLE|DIR|MANIFEST")]
    source: PathBuf,
    #[command(flatten)]
    given: ReferenceArgs,
    /// Write the baseline into this new file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Shows the baseline of a bundle, or one that was built
#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// A bundle's folder, or a file that `baseline build` wrote
    #[arg(value_name = "BUNDLE|FILE")]
    source: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn main(args: BaselineArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Build(args) => {
            if let Some(out) = &args.out {
                ensure!(!out.exists(), "{} exists; give a new file", out.display());
            }
            let baseline = build(&args.source, &args.given)?;
            if let Some(out) = &args.out {
                fs::write(out, baseline.encode())
                    .with_context(|| format!("cannot write {}", out.display()))?;
            }
            show(&baseline, args.json);
        }
        Action::Show(args) => show(&read(&args.source)?, args.json),
    }
    Ok(ExitCode::SUCCESS)
}

fn build(source: &Path, given: &ReferenceArgs) -> anyhow::Result<Baseline> {
    let is_bundle = source.join("index.json").is_file();
    if !is_bundle {
        return baseline_of_recipe(source, given);
    }
    let data = given.reference.as_deref();
    let data = data.context("a bundle does not hold its reference data: give --reference FILE")?;
    let bundle = open(source)?;
    let manifest = bundle.manifest();
    let samples =
        ReferenceSamples::read(data, &manifest.sample, &given.labels(), &given.sessions())?;
    let order = given.order().unwrap_or(manifest.drift.order);
    samples.baseline(manifest, &load(&bundle)?, order)
}

fn read(source: &Path) -> anyhow::Result<Baseline> {
    if source.is_file() {
        return Baseline::decode(&read_file(source)?)
            .with_context(|| format!("{} is not a baseline", source.display()));
    }
    let bundle = open(source)?;
    let baseline = bundle.baseline().cloned();
    baseline.with_context(|| {
        format!(
            "{} has no baseline: `selvedge pack` makes one where it is given --reference FILE",
            source.display()
        )
    })
}

fn show(baseline: &Baseline, as_json: bool) {
    let doubts = doubts(baseline);
    if as_json {
        println!("{}", to_json(baseline, &doubts));
        return;
    }
    let order = match baseline.order() {
        Order::Time => "in the order of time",
        Order::None => "in no order of time",
    };
    let policy = baseline.policy();
    println!("{} samples {order}, spec {}", strong(baseline.rows()), baseline.spec_id());
    println!(
        "  at most one false alarm in {} windows of at least {} samples",
        policy.alarm_windows(),
        policy.samples_min()
    );
    if let Some(cycle) = policy.cycle_windows() {
        println!("  a rhythm repeats after {cycle} windows");
    }
    if let Some(accuracy) = baseline.accuracy() {
        println!("  accuracy {:.2} % of {}", 100.0 * accuracy.share(), accuracy.rows);
    }
    let streams = streams(baseline);
    let width = streams.iter().map(|stream| stream.name.chars().count()).max().unwrap_or(0).max(6);
    println!("  {:<width$}  bins  largest      η  calibrated", "stream");
    let because = uncalibrated_because(baseline).unwrap_or_default();
    for stream in &streams {
        let (name, share, eta) = (stream.name, 100.0 * stream.largest_share, stream.table.eta());
        let calibrated =
            if stream.table.uncalibrated() { format!("no: {because}") } else { "yes".to_owned() };
        println!("  {name:<width$}  {:>4}  {share:>5.1} %  {eta:>5.3}  {calibrated}", stream.bins);
    }
    if let Some(embedding) = baseline.embedding() {
        println!("  embedding {}", embedding_text(embedding));
    }
    doubts.iter().for_each(|doubt| eprintln!("warning: {doubt}"));
}

fn to_json(baseline: &Baseline, doubts: &[String]) -> Value {
    let policy = baseline.policy();
    let streams: Vec<Value> = streams(baseline)
        .iter()
        .map(|stream| {
            let table = stream.table;
            json!({
                "stream": stream.name, "bins": stream.bins, "largest_share": stream.largest_share,
                "eta": table.eta(), "calibrated": !table.uncalibrated(),
            })
        })
        .collect();
    let thresholds = |thresholds: &[Threshold]| -> Vec<Value> {
        let told = |it: &Threshold| {
            let (t_squared, chance) = (it.t_squared(), it.chance());
            json!({"vectors": it.vectors, "windows": it.windows, "t_squared": t_squared, "chance": chance})
        };
        thresholds.iter().map(told).collect()
    };
    let embedding = baseline.embedding().map(|embedding| {
        let calibration = embedding.calibration.as_ref().map(|calibration| {
            json!({
                "reference_sources": calibration.reference_sources, "sources": calibration.sources,
                "embedding": thresholds(&calibration.embedding),
                "random_features": thresholds(&calibration.random_features),
            })
        });
        json!({
            "tensor": embedding.tensor, "width": embedding.width,
            "random_features": embedding.projection.features, "calibration": calibration,
        })
    });
    json!({
        "spec_id": baseline.spec_id().to_string(), "rows": baseline.rows(), "order": baseline.order(),
        "alarm_windows": policy.alarm_windows(), "samples_min": policy.samples_min(),
        "cycle_windows": policy.cycle_windows(), "accuracy": baseline.accuracy().map(Accuracy::share),
        "streams": streams, "embedding": embedding, "uncalibrated_because": uncalibrated_because(baseline),
        "warnings": doubts,
    })
}
