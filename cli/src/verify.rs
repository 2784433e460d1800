//! `selvedge verify`: whether devices that trust a root would let a bundle answer.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use selvedge_bundle::{Bundle, ChunkIndex, Limits};
use selvedge_runtime::{LoadOptions, Model};
use selvedge_trust::{Role, TrustedRoot, UnixMillis};

use crate::clock;
use crate::keys::ROOT_FILE;
use crate::terminal::good;

/// Checks a bundle as a device does: whole, signed, runnable, right on its golden vectors
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The bundle's folder
    bundle: PathBuf,
    /// The root that devices trust
    #[arg(long, value_name = "root.json", required_unless_present = "keys")]
    root: Option<PathBuf>,
    /// The folder of keys with that root, as `selvedge keys new` makes it
    #[arg(long, value_name = "DIR", conflicts_with = "root")]
    keys: Option<PathBuf>,
}

/// Runs the command.
pub fn main(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let bundle = open(&args.bundle)?;
    let passed = |what: &str, detail: String| println!("{} {what}: {detail}", good("ok"));
    passed(
        "whole",
        format!("{} blobs as their digests say, {}", bundle.blobs().count(), bundle.digest()),
    );
    let root = match (args.root, args.keys) {
        (Some(root), _) => root,
        (None, keys) => keys.expect("the arguments have a root or keys").join(ROOT_FILE),
    };
    let signed = check_statement(&bundle, &root, clock::now())?;
    passed("signed", signed);
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

/// What the statement says, in words, if the root's publisher signed it and it is about this bundle.
fn check_statement(bundle: &Bundle, root: &Path, now: UnixMillis) -> anyhow::Result<String> {
    let bytes = std::fs::read(root).with_context(|| format!("cannot read {}", root.display()))?;
    let root = TrustedRoot::pin(&bytes)
        .with_context(|| format!("{} is not a trusted root", root.display()))?;
    let statement =
        bundle.statement().context("the bundle is not signed; pack it with --keys DIR")?;
    let statement =
        root.verify_statement(statement, now).context("the bundle's signature does not hold")?;
    ensure!(
        statement.bundle() == bundle.digest()
            && statement.manifest.len_bytes == bundle.manifest_len(),
        "the signature is about {}, and this bundle is {}",
        statement.bundle(),
        bundle.digest()
    );
    let manifest = bundle.manifest();
    ensure!(
        statement.name == manifest.name.as_str()
            && statement.version == manifest.version.to_string(),
        "the signature is about {} {}, and the manifest says {} {}",
        statement.name,
        statement.version,
        manifest.name,
        manifest.version
    );
    let index = ChunkIndex::of(bundle).context("the bundle cannot be cut into chunks")?.encode();
    ensure!(
        statement.chunk_index.digest == selvedge_bundle::digest_of(&index),
        "the signature is about another chunk index; pack the bundle again"
    );
    let publishers = root.root().keys(Role::Targets).count();
    Ok(format!(
        "{} {} by one of {publishers} publisher keys of the root, until {}",
        statement.name, statement.version, statement.expires
    ))
}
