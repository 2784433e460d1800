//! `selvedge keys root`: the ceremony. A root is edited once, then signed by its holders one after the other, each on
//! a machine of their own; what travels between them is the one file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use selvedge_trust::{
    KeyId, ROOT_BYTES_MAX, Role, Root, RootDraft, RootEdit, SignatureStatus, TrustedRoot,
};

use super::{
    KeySource, PassphraseArgs, ROOT_FILE, in_days, read_limited, read_public_key, write_new,
};

/// How much of a key's id must be given for it to be meant.
const ID_PREFIX_LEN_MIN: usize = 8;

/// What is done with a root.
#[derive(Debug, Subcommand)]
pub enum RootAction {
    Edit(EditArgs),
    /// Adds one signature to a root, in its file
    Sign {
        /// The root's file
        file: PathBuf,
        /// The private key that signs
        #[arg(long, value_name = "FILE")]
        key: KeySource,
        /// The root that it follows [default: the one beside it with the version before]
        #[arg(long, value_name = "ROOT.json")]
        after: Option<PathBuf>,
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// Says which signatures a root lacks
    Status {
        /// The root's file
        file: PathBuf,
        /// The root that it follows [default: the one beside it with the version before]
        #[arg(long, value_name = "ROOT.json")]
        after: Option<PathBuf>,
    },
}

/// Makes the root that follows another: its version is one higher, and nobody has signed it
///
/// A role is root, targets or director; the director's keys are the fleet's online keys, and hold snapshot and
/// timestamp too. PUB is 64 hexadecimal digits, or a file; ID is a key's id or the beginning of it.
#[derive(Debug, clap::Args)]
pub struct EditArgs {
    /// The root that it follows
    root: PathBuf,
    /// A key that holds a role too; may be given often
    #[arg(long, value_name = "ROLE=PUB")]
    add: Vec<OfRole>,
    /// A key that holds a role no longer; may be given often
    #[arg(long, value_name = "ROLE=ID")]
    revoke: Vec<OfRole>,
    /// How many keys must sign for a role; may be given often
    #[arg(long, value_name = "ROLE=COUNT")]
    threshold: Vec<OfRole>,
    /// The one key that the fleet signs with from then on, instead of all it has
    #[arg(long, value_name = "PUB")]
    online: Option<String>,
    /// How many days from now on the root is believed [default: as long as the one before]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=36_500))]
    days: Option<u64>,
    /// Where to put it [default: beside the root, named VERSION.root.json]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Something of a role, `ROLE=VALUE`.
#[derive(Clone, Debug)]
struct OfRole {
    role: Role,
    value: String,
}

impl FromStr for OfRole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (role, value) = text.split_once('=').ok_or("expected ROLE=…")?;
        let known = [Role::Root, Role::Targets, Role::Director];
        let role = known.into_iter().find(|known| known.to_string() == role);
        let role = role.ok_or("a role is root, targets or director")?;
        Ok(Self { role, value: value.to_owned() })
    }
}

/// Runs the command.
pub fn main(action: &RootAction) -> Result<()> {
    match action {
        RootAction::Edit(args) => edit(args),
        RootAction::Sign { file, key, after, passphrase } => {
            let mut draft = read_draft(file)?;
            let before = find_before(file, after.as_deref(), &draft)?;
            let key = key.open(passphrase)?;
            let id = key.public_key().id();
            let asked = draft.signatures(before.as_ref())?;
            let may_sign =
                asked.iter().any(|it| it.signed.contains(&id) || it.unsigned.contains(&id));
            ensure!(may_sign, "the key {id} holds the role root in neither root");
            draft.sign(&key);
            replace(file, &draft.to_bytes())?;
            println!("the key {id} has signed {}", file.display());
            tell_missing(&draft, before.as_ref())
        }
        RootAction::Status { file, after } => {
            let draft = read_draft(file)?;
            let before = find_before(file, after.as_deref(), &draft)?;
            tell_missing(&draft, before.as_ref())
        }
    }
}

/// Prints which signatures are missing, or that none is.
pub fn tell_missing(draft: &RootDraft, before: Option<&Root>) -> Result<()> {
    let asked = draft.signatures(before)?;
    for status in &asked {
        println!("{}", in_words(status));
    }
    let version = draft.root()?.version();
    if before.is_none() && version > 1 {
        println!("the signatures of root {} are not looked at: give it with --after", version - 1);
    } else if asked.iter().all(|status| status.missing() == 0) {
        println!("no signature is missing");
    }
    Ok(())
}

/// Whose signatures a document has, and whose it lacks.
pub fn in_words(status: &SignatureStatus) -> String {
    let SignatureStatus { asked, threshold, signed, unsigned } = status;
    let mut text = format!("{asked}: {} of {threshold} signatures", signed.len());
    if status.missing() > 0 {
        let ids: Vec<&str> = unsigned.iter().map(KeyId::as_str).collect();
        text += &format!("; {} missing, of {}", status.missing(), ids.join(", "));
    }
    text
}

fn edit(args: &EditArgs) -> Result<()> {
    let current = read_limited(&args.root, ROOT_BYTES_MAX as u64)?;
    let root = TrustedRoot::pin(&current)
        .with_context(|| format!("{} is no root that its keys have signed", args.root.display()))?;
    let edits = edits(args, root.root())?;
    ensure!(!edits.is_empty(), "nothing is to be changed: --help says what can be");
    let draft = RootDraft::after(&current, &edits).context("this makes no root")?;
    let version = draft.root()?.version();
    let beside = || args.root.with_file_name(format!("{version}.root.json"));
    let out = args.out.clone().unwrap_or_else(beside);
    write_new(&out, &draft.to_bytes(), 0o644)?;
    println!("{} is root {version}; nobody has signed it", out.display());
    tell_missing(&draft, Some(root.root()))
}

fn edits(args: &EditArgs, root: &Root) -> Result<Vec<RootEdit>> {
    let mut edits = Vec::new();
    for OfRole { role, value } in &args.add {
        edits.push(RootEdit::Add(*role, read_public_key(value)?));
    }
    for OfRole { role, value } in &args.revoke {
        edits.push(RootEdit::Revoke(*role, find_key(root, *role, value)?));
    }
    if let Some(online) = &args.online {
        let held =
            root.keys(Role::Director).map(|(id, _)| RootEdit::Revoke(Role::Director, id.clone()));
        edits.extend(held);
        edits.push(RootEdit::Add(Role::Director, read_public_key(online)?));
        edits.push(RootEdit::Threshold(Role::Director, 1));
    }
    for OfRole { role, value } in &args.threshold {
        let count = value.parse().with_context(|| format!("{value} is not a number of keys"))?;
        ensure!(count > 0, "a threshold of 0 would let anybody sign");
        edits.push(RootEdit::Threshold(*role, count));
    }
    edits.extend(args.days.map(|days| RootEdit::Expires(in_days(days))));
    Ok(edits)
}

/// The key of a role whose id begins so.
fn find_key(root: &Root, role: Role, prefix: &str) -> Result<KeyId> {
    ensure!(
        prefix.len() >= ID_PREFIX_LEN_MIN,
        "{prefix} is too short: give at least {ID_PREFIX_LEN_MIN} digits of the key's id"
    );
    let ids = root.keys(role).map(|(id, _)| id);
    let found: Vec<&KeyId> = ids.filter(|id| id.as_str().starts_with(prefix)).collect();
    match found[..] {
        [id] => Ok(id.clone()),
        [] => bail!("no key of the role {role} has an id that begins with {prefix}"),
        _ => bail!("several keys of the role {role} have ids that begin with {prefix}"),
    }
}

fn read_draft(file: &Path) -> Result<RootDraft> {
    let bytes = read_limited(file, ROOT_BYTES_MAX as u64)?;
    RootDraft::read(&bytes).with_context(|| format!("{} is no root", file.display()))
}

/// The root before a draft: the one that was named, or one beside it of the right version.
fn find_before(file: &Path, named: Option<&Path>, draft: &RootDraft) -> Result<Option<Root>> {
    let wanted = draft.root()?.version().saturating_sub(1);
    let read = |path: &Path| -> Result<Root> {
        let bytes = read_limited(path, ROOT_BYTES_MAX as u64)?;
        let root =
            TrustedRoot::pin(&bytes).with_context(|| format!("{} is no root", path.display()))?;
        let version = root.root().version();
        ensure!(version == wanted, "{} is root {version}, not {wanted}", path.display());
        Ok(root.root().clone())
    };
    if let Some(path) = named {
        return read(path).map(Some);
    }
    let beside = [format!("{wanted}.root.json"), ROOT_FILE.to_owned()];
    Ok(beside.iter().find_map(|name| read(&file.with_file_name(name)).ok()))
}

/// Puts new content into the place of a file, all of it or nothing.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut file = tempfile::NamedTempFile::new_in(beside.unwrap_or(Path::new(".")))?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(fs::metadata(path)?.permissions())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map(drop).with_context(|| format!("cannot write {}", path.display()))
}
