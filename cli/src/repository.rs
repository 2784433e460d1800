//! `selvedge repository`: what devices may run, and who says so.
//!
//! Every change is a new version of some metadata, signed at this desk and sent to the fleet manager, which takes it only
//! if devices would believe it. Where one desk's keys are too few, the change goes from desk to desk as a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use selvedge_trust::{
    Delegation, Proposal, RepositoryState, RoleName, Root, RootDraft, TargetsDraft, TargetsEdit,
};

use crate::api::{Api, FleetUrl};
use crate::desk::{Desk, SignerArgs, proposal_of, read_proposal, text, write_proposal};
use crate::keys::{KeySource, PassphraseArgs, in_days, in_words, read_public_key};

/// Shows and changes what devices may run, and who says so
#[derive(Debug, clap::Args)]
pub struct RepositoryArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Shows roles, keys and targets
    Show {
        /// The folder with the root.json to begin from [default: the manager's own root is believed]
        #[arg(long, value_name = "DIR")]
        keys: Option<PathBuf>,
        #[command(flatten)]
        fleet: FleetUrl,
    },
    /// Takes a bundle from what may be assigned; devices that run it keep it until they are told otherwise
    Revoke {
        /// The bundle, NAME/VERSION
        target: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    Delegate(DelegateArgs),
    /// Takes a delegation back: nothing that the role says is found any more
    Undelegate {
        /// The role
        delegated: RoleName,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Signs a role's metadata anew, so that it expires later
    Renew {
        /// How many days from now on it is believed
        #[arg(long, value_name = "DAYS", default_value_t = crate::keys::TARGETS_DAYS,
              value_parser = clap::value_parser!(u64).range(1..=36_500))]
        days: u64,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Hands in new roots, as `selvedge keys root` makes them
    ///
    /// Where a new root revokes the key that signed the targets metadata, that is signed anew with it.
    Rotate {
        /// The roots, in any order
        #[arg(required = true, value_name = "ROOT.json")]
        roots: Vec<PathBuf>,
        #[command(flatten)]
        signer: SignerArgs,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        fleet: FleetUrl,
    },
    /// Adds one signature to a change that others must sign too, in its file
    Sign {
        /// The file that --out wrote
        file: PathBuf,
        /// The private key that signs
        #[arg(long, value_name = "FILE")]
        key: KeySource,
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// Hands in a change that all have signed; copies with different signatures are put together
    Submit {
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The folder with the root.json to begin from
        #[arg(long, value_name = "DIR")]
        keys: PathBuf,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        fleet: FleetUrl,
    },
}

/// What every change of targets metadata has
#[derive(Debug, clap::Args)]
struct ChangeArgs {
    /// The role whose metadata changes
    #[arg(long, value_name = "ROLE", default_value = "targets")]
    role: RoleName,
    #[command(flatten)]
    signer: SignerArgs,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Write the change into a file for others to sign, and hand nothing in
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    out: Option<PathBuf>,
    #[command(flatten)]
    fleet: FleetUrl,
}

/// Lets a team's keys speak of some bundles; a role that is there gets these keys and paths instead
#[derive(Debug, clap::Args)]
struct DelegateArgs {
    /// The role
    delegated: RoleName,
    /// Patterns of NAME/VERSION: * stands for any characters but /
    #[arg(long, value_name = "PATTERN", required = true, num_args = 1..)]
    paths: Vec<String>,
    /// The public keys that hold the role: 64 hexadecimal digits, or a file
    #[arg(long = "key", value_name = "PUB", required = true, num_args = 1..)]
    public_keys: Vec<String>,
    /// How many of them must sign
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    threshold: usize,
    /// Nobody else is asked about these bundles
    #[arg(long)]
    terminating: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Runs the command.
pub fn main(args: RepositoryArgs) -> Result<ExitCode> {
    match args.action {
        Action::Show { keys, fleet } => show(keys.as_deref(), &fleet)?,
        Action::Revoke { target, change } => change.make(&[TargetsEdit::Revoke(target)])?,
        Action::Delegate(args) => {
            let edit = TargetsEdit::Delegate(args.delegation()?);
            args.change.make(&[edit])?;
        }
        Action::Undelegate { delegated, change } => {
            change.make(&[TargetsEdit::Undelegate(delegated)])?;
        }
        Action::Renew { days, change } => change.make(&[TargetsEdit::Expires(in_days(days))])?,
        Action::Rotate { roots, signer, dry_run, fleet } => {
            rotate(&roots, &signer, dry_run, &fleet)?;
        }
        Action::Sign { file, key, passphrase } => sign(&file, &key, &passphrase)?,
        Action::Submit { files, keys, dry_run, fleet } => {
            let api = Api::connect(&fleet)?;
            submit(&Desk::open(&api, &keys)?, &gather(&files)?, dry_run)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl ChangeArgs {
    /// Changes the role's metadata, or says what that would change, or writes it down for others to sign.
    fn make(&self, edits: &[TargetsEdit]) -> Result<()> {
        let keys = self.signer.open()?;
        let api = Api::connect(&self.fleet)?;
        let desk = Desk::open(&api, &self.signer.keys)?;
        ensure!(
            desk.state().document(&self.role).is_some(),
            "the repository has no metadata of the role {}",
            self.role
        );
        let mut draft = desk.next(&self.role, edits)?;
        let missing = desk.sign(&self.role, &mut draft, &keys)?;
        let proposal = proposal_of(&self.role, &draft);
        if let Some(out) = &self.out {
            write_proposal(out, &proposal)?;
            println!("{} holds the change", out.display());
            missing.iter().for_each(|missing| println!("  {missing}"));
            println!(
                "others sign it with `selvedge repository sign {} --key FILE`,",
                out.display()
            );
            println!("and `selvedge repository submit {}` hands it in", out.display());
            return Ok(());
        }
        if let Some(missing) = missing.first() {
            bail!("{missing}; --out FILE writes the change down for others to sign");
        }
        desk.propose(&proposal, self.dry_run)
    }
}

impl DelegateArgs {
    fn delegation(&self) -> Result<Delegation> {
        let keys = self.public_keys.iter().map(|key| read_public_key(key));
        Ok(Delegation {
            role: self.delegated.clone(),
            keys: keys.collect::<Result<_>>()?,
            threshold: self.threshold,
            paths: self.paths.clone(),
            terminating: self.terminating,
        })
    }
}

fn show(keys: Option<&Path>, fleet: &FleetUrl) -> Result<()> {
    let api = Api::connect(fleet)?;
    let desk = match keys {
        Some(keys) => Desk::open(&api, keys)?,
        None => Desk::unpinned(&api)?,
    };
    let state = desk.state();
    let root = state.root().root();
    println!("root {}, expires {}", root.version(), root.expires());
    for (name, expires) in [
        (RoleName::timestamp(), state.timestamp().map(|(_, expires)| expires)),
        (RoleName::snapshot(), state.snapshot_expires()),
    ] {
        if let (Some(version), Some(expires)) = (state.version_of(&name), expires) {
            println!("{name} {version}, expires {expires}");
        }
    }
    show_roles(state);
    Ok(())
}

fn show_roles(state: &RepositoryState) {
    for role in state.roles() {
        let name = &role.role;
        match (role.expires, &role.problem) {
            (Some(expires), _) => println!("{name} {}, expires {expires}", role.version),
            (None, problem) => {
                println!("{name}: not believed: {}", problem.as_deref().unwrap_or("nothing there"));
            }
        }
        println!("  {} of {} keys must sign", role.threshold, role.keys.len());
        role.keys.iter().for_each(|id| println!("    {id}"));
        for delegation in &role.delegations {
            let only = if delegation.terminating { ", asking nobody else" } else { "" };
            println!("  delegates {} to {}{only}", delegation.paths.join(", "), delegation.role);
        }
        for (path, target) in state.targets_of(name).into_iter().flatten() {
            println!("  {path}  {}", target.bundle());
        }
    }
}

fn rotate(roots: &[PathBuf], signer: &SignerArgs, dry_run: bool, fleet: &FleetUrl) -> Result<()> {
    let mut proposal = gather(roots)?;
    ensure!(proposal.targets.is_empty(), "only roots are handed in so; `submit` takes the rest");
    let last = proposal.roots.last().context("there is no root")?;
    let root = RootDraft::read(last.as_bytes())?.root()?;
    let api = Api::connect(fleet)?;
    let desk = Desk::open(&api, &signer.keys)?;
    if let Some(again) = targets_under(&desk, &root, signer)? {
        proposal.targets.insert(RoleName::targets().as_str().to_owned(), text(again.to_bytes()));
    }
    submit(&desk, &proposal, dry_run)
}

/// The targets metadata signed anew, if it would not be believed under `root`.
fn targets_under(
    desk: &Desk<'_>,
    root: &Root,
    signer: &SignerArgs,
) -> Result<Option<TargetsDraft>> {
    let role = RoleName::targets();
    let held = desk.state().document(&role).context("the repository has no targets metadata")?;
    if TargetsDraft::read(held)?.signatures_of_top_level(root)?.missing() == 0 {
        return Ok(None);
    }
    let mut again = desk.next(&role, &[])?;
    signer.open()?.iter().for_each(|key| again.sign(key));
    let status = again.signatures_of_top_level(root)?;
    if status.missing() > 0 {
        bail!(
            "the new root revokes keys that signed the targets metadata, and what signs it anew is not enough: {}; \
             name the new keys with --signing-key",
            in_words(&status)
        );
    }
    Ok(Some(again))
}

fn sign(file: &Path, source: &KeySource, passphrase: &PassphraseArgs) -> Result<()> {
    let mut proposal = read_proposal(file)?;
    let key = source.open(passphrase)?;
    for root in &mut proposal.roots {
        let mut draft = RootDraft::read(root.as_bytes())?;
        draft.sign(&key);
        *root = text(draft.to_bytes());
    }
    for document in proposal.targets.values_mut() {
        let mut draft = TargetsDraft::read(document.as_bytes())?;
        draft.sign(&key);
        *document = text(draft.to_bytes());
    }
    write_proposal(file, &proposal)?;
    println!("the key {} has signed {}", key.public_key().id(), file.display());
    Ok(())
}

/// Puts proposals and roots together: copies of one document become one with all signatures.
fn gather(files: &[PathBuf]) -> Result<Proposal> {
    let mut roots: BTreeMap<u64, RootDraft> = BTreeMap::new();
    let mut targets: BTreeMap<String, TargetsDraft> = BTreeMap::new();
    for file in files {
        let proposal = read_proposal(file)?;
        let differs = || format!("{} differs from another of the files", file.display());
        for root in proposal.roots {
            let draft = RootDraft::read(root.as_bytes())
                .with_context(|| format!("{} holds no root", file.display()))?;
            match roots.get_mut(&draft.root()?.version()) {
                Some(held) => held.merge(&draft).with_context(differs)?,
                None => {
                    roots.insert(draft.root()?.version(), draft);
                }
            }
        }
        for (role, document) in proposal.targets {
            let draft = TargetsDraft::read(document.as_bytes())
                .with_context(|| format!("{} holds no metadata of {role}", file.display()))?;
            match targets.get_mut(&role) {
                Some(held) => held.merge(&draft).with_context(differs)?,
                None => {
                    targets.insert(role, draft);
                }
            }
        }
    }
    let targets = targets.into_iter().map(|(role, draft)| (role, text(draft.to_bytes())));
    Ok(Proposal {
        roots: roots.into_values().map(|draft| text(draft.to_bytes())).collect(),
        targets: targets.collect(),
    })
}

/// Hands in a proposal, unless it is known to lack signatures.
fn submit(desk: &Desk<'_>, proposal: &Proposal, dry_run: bool) -> Result<()> {
    let mut missing = Vec::new();
    let mut before = desk.state().root().root().clone();
    for root in &proposal.roots {
        let draft = RootDraft::read(root.as_bytes())?;
        let asked = draft.signatures(Some(&before))?;
        missing.extend(asked.iter().filter(|it| it.missing() > 0).map(in_words));
        before = draft.root()?;
    }
    for (role, document) in &proposal.targets {
        let draft = TargetsDraft::read(document.as_bytes())?;
        let role: RoleName = role.parse().map_err(anyhow::Error::msg)?;
        let status = match role == RoleName::targets() {
            true => Some(draft.signatures_of_top_level(&before)?),
            false => draft.signatures(desk.state(), &role)?,
        };
        missing.extend(status.iter().filter(|it| it.missing() > 0).map(in_words));
    }
    if !missing.is_empty() {
        bail!("signatures are missing; {}", missing.join("; "));
    }
    desk.propose(proposal, dry_run)
}
