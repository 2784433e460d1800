//! `selvedge verify`: whether a bundle is whole and right, and whether a repository that devices trust has it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use selvedge_bundle::{Bundle, ChunkIndex, Limits, digest_of};
use selvedge_runtime::{LoadOptions, Model};
use selvedge_trust::{Blob, BundleTarget};

use crate::terminal::good;
use crate::tuf::find_target;

/// Checks a bundle as a device does: whole, runnable, right on its golden vectors, and a target of a repository
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The bundle's folder
    bundle: PathBuf,
    /// A repository that the bundle shall be a target of: a folder with its metadata, or a URL such as FLEET/tuf
    #[arg(long, value_name = "DIR|URL", requires = "root")]
    repository: Option<String>,
    /// The root of that repository, as devices have it
    #[arg(long, value_name = "root.json", requires = "repository")]
    root: Option<PathBuf>,
}

/// Runs the command.
pub fn main(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let bundle = open(&args.bundle)?;
    let passed = |what: &str, detail: String| println!("{} {what}: {detail}", good("ok"));
    passed(
        "whole",
        format!("{} blobs as their digests say, {}", bundle.blobs().count(), bundle.digest()),
    );
    let model = load(&bundle)?;
    let golden = model.golden();
    let distances = golden.outputs.iter().map(|output| {
        format!(
            "{} within {:.3e} of {:.3e} allowed",
            output.output, output.largest, output.tolerance
        )
    });
    let distances: Vec<String> = distances.collect();
    let origin = bundle.manifest().golden.origin;
    passed("golden", format!("{} samples ({origin}), {}", golden.samples, distances.join(", ")));
    if let Some((place, root)) = args.repository.zip(args.root) {
        passed("a target", check_target(&bundle, &place, &root)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens a bundle, or says what to do instead.
pub fn open(folder: &Path) -> anyhow::Result<Bundle> {
    ensure!(
        folder.is_dir() || folder.extension().is_none_or(|extension| extension != "onnx"),
        "{0} is an ONNX file, not a bundle: `selvedge pack {0} --reference DATA.csv --out DIR` makes one, `selvedge bench {0}` times the bare model",
        folder.display()
    );
    Bundle::open(folder, &Limits::default()).with_context(|| {
        format!("{} is not a bundle that can be used; `selvedge pack` makes one", folder.display())
    })
}

/// Loads a bundle's model, golden vectors included.
pub fn load(bundle: &Bundle) -> anyhow::Result<Model> {
    Model::load(bundle, &LoadOptions::default()).context("this bundle's model cannot answer here")
}

/// What the repository says of the bundle, in words, if it says what the bundle is.
fn check_target(bundle: &Bundle, place: &str, root: &Path) -> anyhow::Result<String> {
    let root = std::fs::read(root).with_context(|| format!("cannot read {}", root.display()))?;
    let manifest = bundle.manifest();
    let path = format!("{}/{}", manifest.name, manifest.version);
    let found = find_target(place, root, &path)
        .with_context(|| format!("the repository {place} cannot be believed"))?;
    let found = found.with_context(|| format!("the repository {place} has no target {path}"))?;
    let target = BundleTarget::read(&found).with_context(|| format!("target {path}"))?;
    ensure!(
        target.bundle() == bundle.digest() && target.manifest.len_bytes == bundle.manifest_len(),
        "target {path} of {place} is {}, and this bundle is {}",
        target.bundle(),
        bundle.digest()
    );
    let index = ChunkIndex::of(bundle).context("the bundle cannot be cut into chunks")?.encode();
    ensure!(
        target.chunk_index == Blob { digest: digest_of(&index), len_bytes: index.len() as u64 },
        "target {path} of {place} names another chunk index; publish the bundle again"
    );
    Ok(format!("{path} for {}", target.hardware_classes.join(", ")))
}
