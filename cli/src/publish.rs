//! `selvedge publish`: gives a bundle to the fleet manager, and signs that devices may run it.

use std::{
    io::{Cursor, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::ProgressBar;

use selvedge_bundle::{Bundle, ChunkIndex, Limits, Patch, digest_of};
use selvedge_trust::{Blob, BundleTarget, PatchTarget, RoleName, TargetsEdit};
use selvedge_wire::Digest;
use semver::Version;

use crate::{
    api::{Api, FleetUrl},
    assign::{HowArgs, Target, WaitArgs, assign},
    desk::{Desk, proposal_of},
    keys::{KeySource, PassphraseArgs, TARGETS_KEY},
    sign::verify_bundle,
    terminal::bytes,
};

/// The hardware class that stands for all.
const ANY_HARDWARE: &str = "*";

/// Gives a bundle to the fleet manager, and signs that devices may run it.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The bundle's folder
    bundle: PathBuf,
    /// The folder with root.json, and with the publisher's key where no other is named
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// The role that speaks of the bundle
    #[arg(long, value_name = "ROLE", default_value = "targets", requires = "signing_key")]
    role: RoleName,
    /// The private key that holds the role
    #[arg(id = "signing_key", long = "key", value_name = "FILE")]
    key: Option<KeySource>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// A class of hardware that may run the bundle; repeat it for more [default: all]
    #[arg(long = "hardware", value_name = "CLASS")]
    hardware_classes: Vec<String>,
    /// The model signature that the bundle's files came with
    #[arg(long, value_name = "FILE", requires = "signature_key")]
    signature: Option<PathBuf>,
    /// The public key that verifies the model signature, in PEM
    #[arg(long, value_name = "FILE", requires = "signature")]
    signature_key: Option<PathBuf>,
    /// Make no patch from the version before
    #[arg(long)]
    no_patch: bool,
    /// Only say what would change
    #[arg(long, conflicts_with = "assign")]
    dry_run: bool,
    /// A device that should run it, with /SLOT for a slot other than main; may be given often
    #[arg(long, value_name = "DEVICE[/SLOT]")]
    assign: Vec<Target>,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    fleet: FleetUrl,
}

/// Runs the command.
pub fn main(args: PublishArgs) -> Result<ExitCode> {
    let bundle = Bundle::open(&args.bundle, &Limits::default())
        .with_context(|| format!("cannot open the bundle {}", args.bundle.display()))?;
    let mut target = describe(&bundle, &args.hardware_classes)?;
    if let (Some(signature), Some(key)) = (&args.signature, &args.signature_key) {
        target.signature = Some(verify_bundle(&bundle, signature, key)?);
    }
    let default = || KeySource::in_folder(&args.keys, TARGETS_KEY);
    let key = args.key.clone().unwrap_or_else(default).open(&args.passphrase)?;
    let api = Api::connect(&args.fleet)?;
    // A device that is not there is found before anything is published.
    for target in &args.assign {
        api.device(&target.device)?;
    }
    let desk = Desk::open(&api, &args.keys)?;
    if is_there(&desk, &target)? {
        println!("{} is published already", target.path());
        return conclude(&args, &api, &bundle);
    }
    let patch = if args.no_patch { None } else { make_patch(&api, &desk, &bundle)? };
    target.patches.extend(patch.as_ref().map(describe_patch));

    let mut draft = desk.next(&args.role, &[TargetsEdit::Add(target)])?;
    let missing = desk.sign(&args.role, &mut draft, &[key])?;
    if let Some(missing) = missing.first() {
        bail!("{missing}: a role with a threshold is signed by `selvedge repository`");
    }
    let proposal = proposal_of(&args.role, &draft);
    if args.dry_run {
        desk.propose(&proposal, true)?;
        return Ok(ExitCode::SUCCESS);
    }
    upload(&api, &args.bundle, &bundle, patch.as_ref())?;
    desk.propose(&proposal, false)?;
    conclude(&args, &api, &bundle)
}

/// Tells what is published, and assigns it.
fn conclude(args: &PublishArgs, api: &Api, bundle: &Bundle) -> Result<ExitCode> {
    let (manifest, digest) = (bundle.manifest(), bundle.digest());
    println!("published {} {} as {digest}", manifest.name, manifest.version);
    assign(api, &args.assign, &digest, args.how, &args.wait)
}

/// What is signed about a bundle.
fn describe(bundle: &Bundle, hardware_classes: &[String]) -> Result<BundleTarget> {
    let index = ChunkIndex::of(bundle).context("the bundle cannot be cut into chunks")?.encode();
    let manifest = bundle.manifest();
    let hardware_classes = match hardware_classes {
        [] => vec![ANY_HARDWARE.to_owned()],
        named => named.to_vec(),
    };
    Ok(BundleTarget {
        name: manifest.name.to_string(),
        version: manifest.version.to_string(),
        manifest: Blob { digest: bundle.digest(), len_bytes: bundle.manifest_len() },
        chunk_index: Blob { digest: digest_of(&index), len_bytes: index.len() as u64 },
        hardware_classes,
        patches: Vec::new(),
        signature: None,
    })
}

fn describe_patch(patch: &Patch) -> PatchTarget {
    let index = patch.index().encode();
    PatchTarget {
        source: patch.source(),
        index: Blob { digest: patch.index().digest(), len_bytes: index.len() as u64 },
        len_bytes: patch.index().len_bytes(),
    }
}

/// Whether devices may run the bundle already; another bundle in its place is an error.
fn is_there(desk: &Desk<'_>, target: &BundleTarget) -> Result<bool> {
    let path = target.path();
    let Some((role, held)) = desk.state().find(&path) else { return Ok(false) };
    ensure!(
        held.bundle() == target.bundle(),
        "{path} is another bundle already ({}, which the role {role} published); give this one a version of its own",
        held.bundle().short()
    );
    let same_hardware = held.hardware_classes == target.hardware_classes;
    Ok(same_hardware && (target.signature.is_none() || held.signature == target.signature))
}

/// A patch from the newest other version of the bundle that the manager has, where it spares devices bytes.
fn make_patch(api: &Api, desk: &Desk<'_>, bundle: &Bundle) -> Result<Option<Patch>> {
    let Some(source) = newest_other(desk, bundle) else { return Ok(None) };
    let Some(archive) = api.archive(&source)? else { return Ok(None) };
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    tar::Archive::new(Cursor::new(archive))
        .unpack(folder.path())
        .with_context(|| format!("cannot unpack {source}, as the manager sends it"))?;
    let old = Bundle::open(folder.path(), &Limits::default())
        .with_context(|| format!("{source} is not a bundle, as the manager sends it"))?;
    ensure!(old.digest() == source, "the manager sends {} instead of {source}", old.digest());
    let patch = Patch::make(&old, bundle).context("cannot make a patch")?;
    if let Some(patch) = &patch {
        let version = &old.manifest().version;
        println!("a patch from {version} has {}", bytes(patch.index().len_bytes()));
    }
    Ok(patch)
}

fn newest_other(desk: &Desk<'_>, bundle: &Bundle) -> Option<Digest> {
    let name = bundle.manifest().name.to_string();
    let targets = desk.state().all_targets().into_iter().map(|(_, target)| target);
    let others = targets.filter(|it| it.name == name && it.bundle() != bundle.digest());
    let newest = others.max_by_key(|it| Version::parse(&it.version).ok());
    newest.map(|it| it.bundle())
}

fn upload(api: &Api, folder: &Path, bundle: &Bundle, patch: Option<&Patch>) -> Result<()> {
    let archive = archive(folder)?;
    let progress = progress(archive.len() as u64);
    let digest = api.add_bundle(&mut progress.wrap_read(Cursor::new(archive)))?;
    progress.finish_and_clear();
    if digest != bundle.digest() {
        bail!("the fleet manager took {digest}, but {} was sent", bundle.digest());
    }
    match patch {
        Some(patch) => api.add_patch(&digest, &patch.source(), &patch.encode()),
        None => Ok(()),
    }
}

fn archive(folder: &Path) -> Result<Vec<u8>> {
    let read = || {
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all(".", folder)?;
        archive.into_inner()
    };
    read().with_context(|| format!("cannot read {}", folder.display()))
}

fn progress(len_bytes: u64) -> ProgressBar {
    if std::io::stderr().is_terminal() {
        ProgressBar::new(len_bytes)
    } else {
        ProgressBar::hidden()
    }
}
