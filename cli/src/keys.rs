//! `selvedge keys new`: the keys of a fleet, and the root that devices trust.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Subcommand;
use selvedge_trust::{Authority, Root, SigningKey, SystemRandom, UnixMillis};

use crate::clock;

/// Trusted root metadata: what a device is given.
pub const ROOT_FILE: &str = "root.json";
/// The key that signs the root.
pub const ROOT_KEY_FILE: &str = "root.pk8";
/// The key that signs what bundles are.
pub const TARGETS_KEY_FILE: &str = "targets.pk8";
/// The key that signs which device runs what.
pub const DIRECTOR_KEY_FILE: &str = "director.pk8";

/// How long a new root is believed.
const ROOT_DAYS: u64 = 3650;

/// Makes the keys of a fleet
#[derive(Debug, clap::Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Makes new keys in a folder: a root, a publisher's and a director's
    New {
        /// The folder, new or without keys
        folder: PathBuf,
        /// How many days the root is believed
        #[arg(long, value_name = "DAYS", default_value_t = ROOT_DAYS, value_parser = clap::value_parser!(u64).range(1..=36_500))]
        days: u64,
    },
}

/// Runs the command.
pub fn main(args: KeysArgs) -> anyhow::Result<ExitCode> {
    let Action::New { folder, days } = args.action;
    create(&folder, clock::now().plus_seconds(days * 24 * 60 * 60))?;
    println!("keys in {}", folder.display());
    println!("  {ROOT_FILE}     what devices trust: give it to each of them");
    println!("  {ROOT_KEY_FILE}      makes new roots: keep it offline, away from this machine");
    println!("  {TARGETS_KEY_FILE}   signs bundles: selvedge pack --keys {}", folder.display());
    println!(
        "  {DIRECTOR_KEY_FILE}  signs what devices run: selvedge fleet --keys {}",
        folder.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// The key that signs bundles.
pub fn targets_key(folder: &Path) -> anyhow::Result<SigningKey> {
    let path = folder.join(TARGETS_KEY_FILE);
    let bytes = std::fs::read(&path).with_context(|| {
        format!("cannot read {}; `selvedge keys new {}` makes it", path.display(), folder.display())
    })?;
    SigningKey::from_pkcs8(&bytes).with_context(|| format!("{} is not a key", path.display()))
}

fn create(folder: &Path, expires: UnixMillis) -> anyhow::Result<()> {
    for name in [ROOT_FILE, ROOT_KEY_FILE, TARGETS_KEY_FILE, DIRECTOR_KEY_FILE] {
        let path = folder.join(name);
        ensure!(
            !path.exists(),
            "{} exists: keys are never overwritten; give another folder",
            path.display()
        );
    }
    let mut private = DirBuilder::new();
    private
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let random = SystemRandom::new();
    let generate =
        || SigningKey::generate(&random).context("no randomness from the operating system");
    let (root, targets, director) = (generate()?, generate()?, generate()?);
    let authority = |key: &SigningKey| Authority::one(key.public_key().clone());
    let document =
        Root::new(1, expires, &authority(&root), &authority(&targets), &authority(&director));
    for (name, key) in
        [(ROOT_KEY_FILE, &root), (TARGETS_KEY_FILE, &targets), (DIRECTOR_KEY_FILE, &director)]
    {
        write_new(&folder.join(name), key.to_pkcs8(), 0o600)?;
    }
    write_new(&folder.join(ROOT_FILE), &document.sign(&[&root]), 0o644)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use selvedge_trust::{Role, TrustedRoot};

    use super::*;

    #[test]
    fn new_keys_are_private_and_the_root_names_them() {
        let folder = tempfile::tempdir().expect("a temporary folder").path().join("keys");
        create(&folder, UnixMillis(4_000_000_000_000)).expect("a new folder");
        for name in [ROOT_KEY_FILE, TARGETS_KEY_FILE, DIRECTOR_KEY_FILE] {
            let mode = fs::metadata(folder.join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let root = TrustedRoot::pin(&fs::read(folder.join(ROOT_FILE)).expect("there"))
            .expect("signed by itself");
        let publisher = targets_key(&folder).expect("there").public_key().id();
        assert!(root.root().keys(Role::Targets).any(|(id, _)| *id == publisher));
        assert!(root.root().keys(Role::Director).all(|(id, _)| *id != publisher));
        let again = create(&folder, UnixMillis(4_000_000_000_000)).expect_err("never overwritten");
        assert!(again.to_string().contains("root.json exists"), "{again}");
        fs::remove_dir_all(&folder).expect("ours");
    }
}
