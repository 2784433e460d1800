//! `selvedge publish`: gives a signed bundle to the fleet manager.

use std::{
    io::{Cursor, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;

use selvedge_bundle::{Bundle, Limits};

use crate::{
    api::{Api, FleetUrl},
    assign::{Target, WaitArgs, assign},
};

/// Gives a signed bundle to the fleet manager.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The bundle's folder
    bundle: PathBuf,
    /// A device that should run it, with /SLOT for a slot other than main; may be given often
    #[arg(long, value_name = "DEVICE[/SLOT]")]
    assign: Vec<Target>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    fleet: FleetUrl,
}

/// Runs the command.
pub fn main(args: PublishArgs) -> Result<ExitCode> {
    let api = Api::connect(&args.fleet)?;
    let bundle = open_signed(&args.bundle)?;
    // A device that is not there is found before anything is published.
    for target in &args.assign {
        api.device(&target.device)?;
    }
    let archive = archive(&args.bundle)?;
    let progress = progress(archive.len() as u64);
    let digest = api.add_bundle(&mut progress.wrap_read(Cursor::new(archive)))?;
    progress.finish_and_clear();
    if digest != bundle.digest() {
        bail!("the fleet manager took {digest}, but {} was sent", bundle.digest());
    }
    let manifest = bundle.manifest();
    println!("published {} {} as {digest}", manifest.name, manifest.version);
    assign(&api, &args.assign, &digest, &args.wait)
}

/// What the manager would refuse is refused here first, without the way there.
fn open_signed(folder: &Path) -> Result<Bundle> {
    let bundle = Bundle::open(folder, &Limits::default())
        .with_context(|| format!("cannot open the bundle {}", folder.display()))?;
    if bundle.statement().is_none() {
        bail!("{} is not signed: pack it again with --keys DIR", folder.display());
    }
    Ok(bundle)
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
