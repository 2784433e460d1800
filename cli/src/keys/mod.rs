//! `selvedge keys`: the keys of a fleet, the root that devices trust, and the ceremony that changes it.

mod file;
mod root;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use selvedge_trust::{
    Authority, PublicKey, ROOT_BYTES_MAX, Role, Root, RootDraft, SigningKey, SystemRandom,
    TargetsDraft, UnixMillis,
};

pub use file::{KeySource, PassphraseArgs, read_limited, read_public_key, write_new};
use file::{NewPassphraseArgs, write_key, write_key_file};
pub use root::in_words;

use crate::clock;

/// Trusted root metadata: what a device is given.
pub const ROOT_FILE: &str = "root.json";
/// The first targets metadata: what a fleet manager begins its repository with.
const TARGETS_FILE: &str = "targets.json";
/// The key that signs roots, where there is one.
const ROOT_KEY: &str = "root";
/// The key that signs what bundles are.
pub const TARGETS_KEY: &str = "targets";
/// The fleet's online key: snapshot, timestamp, and which device runs what.
const DIRECTOR_KEY: &str = "director";

/// How long a new root is believed.
const ROOT_DAYS: u64 = 3650;
/// How long new targets metadata is believed.
pub const TARGETS_DAYS: u64 = 365;

/// Makes the keys of a fleet, and changes who holds which role
#[derive(Debug, clap::Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    New(NewArgs),
    /// Makes one key, for a holder who keeps it: writes the private half, prints the public one
    Generate {
        /// The new file
        file: PathBuf,
        #[command(flatten)]
        passphrase: NewPassphraseArgs,
    },
    /// Shows what a key or root metadata is
    Show {
        /// A private key's file, or a root's
        file: PathBuf,
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// Makes the root that follows, and gathers its signatures
    #[command(subcommand)]
    Root(root::RootAction),
}

/// Makes new keys in a folder: of the root, of a publisher and of the fleet
#[derive(Debug, clap::Args)]
struct NewArgs {
    /// The folder, new or without keys
    folder: PathBuf,
    /// How many root keys there are
    #[arg(long, value_name = "COUNT", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=16))]
    root_keys: u16,
    /// How many of them must sign a root
    #[arg(long, value_name = "COUNT", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=16))]
    threshold: u16,
    /// How many days the root is believed
    #[arg(long, value_name = "DAYS", default_value_t = ROOT_DAYS, value_parser = clap::value_parser!(u64).range(1..=36_500))]
    days: u64,
    #[command(flatten)]
    passphrase: NewPassphraseArgs,
}

/// Runs the command.
pub fn main(args: KeysArgs) -> Result<ExitCode> {
    match args.action {
        Action::New(args) => make(&args)?,
        Action::Generate { file, passphrase } => {
            let key = generate()?;
            write_key_file(&file, &key, passphrase.read()?.as_deref())?;
            println!("{}: keep it where only its holder can read it", file.display());
            show_key(key.public_key());
        }
        Action::Show { file, passphrase } => show(&file, &passphrase)?,
        Action::Root(action) => root::main(&action)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `days` from now on.
pub fn in_days(days: u64) -> UnixMillis {
    clock::now().plus_seconds(days * 24 * 60 * 60)
}

fn make(args: &NewArgs) -> Result<()> {
    let folder = &args.folder;
    ensure!(
        args.threshold <= args.root_keys,
        "--threshold {} cannot be reached with {} root keys",
        args.threshold,
        args.root_keys
    );
    let passphrase = args.passphrase.read()?;
    let made = create(args, passphrase.as_deref())?;
    println!("keys in {}", folder.display());
    let say = |file: &Path, what: &str| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        println!("  {name:<13} {what}");
    };
    say(Path::new(ROOT_FILE), "what devices trust: the fleet gives it to each of them");
    for root in &made.roots {
        say(root, "signs new roots: keep it offline, away from this machine");
    }
    let publish = format!("signs what may run: selvedge publish --keys {}", folder.display());
    say(&made.targets, &publish);
    say(Path::new(TARGETS_FILE), "what may run so far, which is nothing: for the fleet's start");
    let fleet = format!("signs what runs where: selvedge fleet --keys {}", folder.display());
    say(&made.director, &fleet);
    if passphrase.is_some() {
        println!("the fleet starts without a passphrase, so {DIRECTOR_KEY} is not encrypted");
    }
    Ok(())
}

/// The files of new keys.
struct Made {
    roots: Vec<PathBuf>,
    targets: PathBuf,
    director: PathBuf,
}

fn create(args: &NewArgs, passphrase: Option<&str>) -> Result<Made> {
    let folder = &args.folder;
    let root_names: Vec<String> = match args.root_keys {
        1 => vec![ROOT_KEY.to_owned()],
        count => (1..=count).map(|i| format!("{ROOT_KEY}-{i}")).collect(),
    };
    check_unused(folder)?;
    let mut private = DirBuilder::new();
    private
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let roots = root_names.iter().map(|_| generate()).collect::<Result<Vec<_>>>()?;
    let (targets, director) = (generate()?, generate()?);
    let authority = |keys: &[SigningKey], threshold| Authority {
        keys: keys.iter().map(|key| key.public_key().clone()).collect(),
        threshold,
    };
    let document = Root::new(
        1,
        in_days(args.days),
        &authority(&roots, args.threshold.into()),
        &authority(std::slice::from_ref(&targets), 1),
        &authority(std::slice::from_ref(&director), 1),
    );
    let mut nothing = TargetsDraft::empty(in_days(TARGETS_DAYS));
    nothing.sign(&targets);
    let named = root_names.iter().zip(&roots);
    let made = Made {
        roots: named
            .map(|(name, key)| write_key(folder, name, key, passphrase))
            .collect::<Result<_>>()?,
        targets: write_key(folder, TARGETS_KEY, &targets, passphrase)?,
        director: write_key(folder, DIRECTOR_KEY, &director, None)?,
    };
    write_new(&folder.join(TARGETS_FILE), &nothing.to_bytes(), 0o644)?;
    let signers: Vec<&SigningKey> = roots.iter().collect();
    write_new(&folder.join(ROOT_FILE), &document.sign(&signers), 0o644)?;
    Ok(made)
}

/// An error if the folder has keys already.
fn check_unused(folder: &Path) -> Result<()> {
    let names = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let key = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let of = |name: &str| stem == name || stem.starts_with(&format!("{name}-"));
        [ROOT_KEY, TARGETS_KEY, DIRECTOR_KEY].into_iter().any(of)
    };
    let mut found: Vec<PathBuf> = names.filter(key).collect();
    found.sort();
    match found.first() {
        Some(path) => Err(anyhow::anyhow!(
            "{} exists: keys are never overwritten; give another folder",
            path.display()
        )),
        None => Ok(()),
    }
}

fn generate() -> Result<SigningKey> {
    SigningKey::generate(&SystemRandom::new()).context("no randomness from the operating system")
}

fn show(file: &Path, passphrase: &PassphraseArgs) -> Result<()> {
    let bytes = read_limited(file, ROOT_BYTES_MAX as u64)?;
    if let Ok(draft) = RootDraft::read(&bytes) {
        let root = draft.root().context("the root is malformed")?;
        show_root(&root);
        return root::tell_missing(&draft, None);
    }
    let key = KeySource::File(file.to_owned()).open(passphrase)?;
    show_key(key.public_key());
    Ok(())
}

fn show_key(key: &PublicKey) {
    println!("  id          {}", key.id());
    println!("  public key  {}", key.to_hex());
}

fn show_root(root: &Root) {
    println!("root {}, expires {}", root.version(), root.expires());
    for role in [Role::Root, Role::Targets, Role::Director] {
        let keys: Vec<_> = root.keys(role).collect();
        println!("  {role}: {} of {} must sign", root.threshold(role), keys.len());
        for (id, key) in keys {
            println!("    {id}  public key {}", key.to_hex());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use selvedge_trust::{RepositoryState, TrustedRoot};

    use super::*;

    fn args(folder: PathBuf) -> NewArgs {
        let passphrase = NewPassphraseArgs::default();
        NewArgs { folder, root_keys: 1, threshold: 1, days: ROOT_DAYS, passphrase }
    }

    #[test]
    fn new_keys_are_private_and_the_root_names_them() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let folder = temp.path().join("keys");
        create(&args(folder.clone()), None).expect("a new folder");
        for name in ["root.pk8", "targets.pk8", "director.pk8"] {
            let mode = fs::metadata(folder.join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let bytes = fs::read(folder.join(ROOT_FILE)).expect("there");
        let root = TrustedRoot::pin(&bytes).expect("signed by itself");
        let open = |name| KeySource::in_folder(&folder, name).open(&PassphraseArgs::default());
        let publisher = open(TARGETS_KEY).expect("there").public_key().id();
        assert!(root.root().keys(Role::Targets).any(|(id, _)| *id == publisher));
        assert!(root.root().keys(Role::Director).all(|(id, _)| *id != publisher));
        let again = create(&args(folder.clone()), None).err().expect("never overwritten");
        assert!(again.to_string().contains("exists: keys are never overwritten"), "{again}");

        let director = open(DIRECTOR_KEY).expect("there");
        let targets = fs::read_to_string(folder.join(TARGETS_FILE)).expect("there");
        let proposal = selvedge_trust::Proposal {
            roots: Vec::new(),
            targets: [("targets".to_owned(), targets)].into(),
        };
        let state = RepositoryState::begin(&bytes).expect("the root is whole");
        state
            .propose(&proposal, &[&director], clock::now(), &selvedge_trust::Expiry::default())
            .expect("a repository begins with what is in the folder");
    }

    #[test]
    fn several_root_keys_are_encrypted_and_the_fleets_key_is_not() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let folder = temp.path().join("keys");
        let args = NewArgs { root_keys: 3, threshold: 2, ..args(folder.clone()) };
        let made = create(&args, Some("open sesame")).expect("a new folder");
        let names: Vec<_> = made.roots.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["root-1.pem", "root-2.pem", "root-3.pem"]);
        assert!(folder.join("targets.pem").exists() && folder.join("director.pk8").exists());
        let bytes = fs::read(folder.join(ROOT_FILE)).expect("there");
        let root = TrustedRoot::pin(&bytes).expect("signed by all");
        assert_eq!(root.root().threshold(Role::Root), 2);
        assert_eq!(root.root().keys(Role::Root).count(), 3);
    }
}
