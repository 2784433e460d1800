//! A fleet manager's repository as those who sign for it see it: fetched, and verified from the root in their keys'
//! folder on; changed in a signed proposal.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use selvedge_trust::{
    Proposal, ROOT_BYTES_MAX, RepositoryState, RoleName, SigningKey, TargetsDraft, TargetsEdit,
    TrustedRoot,
};
use serde_json::Value;

use crate::api::Api;
use crate::keys::{
    KeySource, PassphraseArgs, ROOT_FILE, TARGETS_DAYS, TARGETS_KEY, in_days, in_words,
    read_limited,
};

/// The most roots that are followed from the one in the keys' folder.
const ROOTS_MAX: u64 = 1024;

/// Whose keys sign
#[derive(Clone, Debug, clap::Args)]
pub struct SignerArgs {
    /// The folder with root.json, and with the publisher's key where no other is named
    #[arg(long, value_name = "DIR")]
    pub keys: PathBuf,
    /// A private key that signs instead of the publisher's; may be given often
    #[arg(long = "signing-key", value_name = "FILE")]
    pub signing_keys: Vec<KeySource>,
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
}

impl SignerArgs {
    /// The keys that sign.
    pub fn open(&self) -> Result<Vec<SigningKey>> {
        let publisher = [KeySource::in_folder(&self.keys, TARGETS_KEY)];
        let sources = match &self.signing_keys[..] {
            [] => &publisher[..],
            named => named,
        };
        sources.iter().map(|source| source.open(&self.passphrase)).collect()
    }
}

/// A repository, as it is at the manager.
pub struct Desk<'a> {
    api: &'a Api,
    state: RepositoryState,
}

impl<'a> Desk<'a> {
    /// The manager's repository, verified from the root in the folder `keys` on.
    pub fn open(api: &'a Api, keys: &Path) -> Result<Self> {
        let path = keys.join(ROOT_FILE);
        let root = read_limited(&path, ROOT_BYTES_MAX as u64).with_context(|| {
            format!("`selvedge keys new {}` makes the keys of a fleet", keys.display())
        })?;
        Self::follow(api, root)
            .with_context(|| format!("the manager's repository is not that of {}", path.display()))
    }

    /// The manager's repository, as the manager itself vouches for it: for looking, not for signing.
    pub fn unpinned(api: &'a Api) -> Result<Self> {
        let name = format!("{}.root.json", api.root_version()?);
        let root = api.metadata(&name)?.with_context(|| format!("the manager lacks {name}"))?;
        Self::follow(api, root)
    }

    fn follow(api: &'a Api, root: Vec<u8>) -> Result<Self> {
        let mut version = TrustedRoot::pin(&root)?.root().version();
        let last = version.saturating_add(ROOTS_MAX);
        let mut files = vec![(format!("{version}.root.json"), root)];
        while version < last {
            version += 1;
            let name = format!("{version}.root.json");
            let Some(bytes) = api.metadata(&name)? else { break };
            files.push((name, bytes));
        }
        let mut fetch = |name: String| -> Result<Value> {
            let bytes =
                api.metadata(&name)?.with_context(|| format!("the manager lacks {name}"))?;
            let document =
                serde_json::from_slice(&bytes).with_context(|| format!("{name} is not JSON"))?;
            files.push((name, bytes));
            Ok(document)
        };
        // What these name is believed only when the state reads all of it.
        let timestamp = fetch("timestamp.json".into())?;
        let version = &timestamp["signed"]["meta"]["snapshot.json"]["version"];
        let snapshot = fetch(format!("{version}.snapshot.json"))?;
        let listed = snapshot["signed"]["meta"].as_object().cloned().unwrap_or_default();
        for (name, meta) in listed {
            let name = format!("{}.{name}", meta["version"]);
            if let Some(bytes) = api.metadata(&name)? {
                files.push((name, bytes));
            }
        }
        let state = RepositoryState::from_files(files)?;
        Ok(Self { api, state })
    }

    /// What the repository holds.
    pub fn state(&self) -> &RepositoryState {
        &self.state
    }

    /// The version of a role's metadata that follows, with changes; believed for as long as new metadata is.
    pub fn next(&self, role: &RoleName, edits: &[TargetsEdit]) -> Result<TargetsDraft> {
        let expires = in_days(TARGETS_DAYS);
        let cannot = || format!("the role {role} cannot be changed so");
        match self.state.document(role) {
            Some(held) => {
                let edits = [&[TargetsEdit::Expires(expires)], edits].concat();
                TargetsDraft::after(held, &edits).with_context(cannot)
            }
            None => {
                let mut first = TargetsDraft::empty(expires);
                first.edit(edits).with_context(cannot)?;
                Ok(first)
            }
        }
    }

    /// Signs a draft with each of the keys, which must hold the role; says whose signatures are missing.
    pub fn sign(
        &self,
        role: &RoleName,
        draft: &mut TargetsDraft,
        keys: &[SigningKey],
    ) -> Result<Vec<String>> {
        let nobody = || format!("nobody delegates to the role {role}");
        for key in keys {
            let status = draft.signatures(&self.state, role)?.with_context(nobody)?;
            let id = key.public_key().id();
            let holds = status.signed.contains(&id) || status.unsigned.contains(&id);
            ensure!(holds, "the key {id} does not hold the role {role}");
            draft.sign(key);
        }
        let status = draft.signatures(&self.state, role)?.with_context(nobody)?;
        Ok((status.missing() > 0).then(|| in_words(&status)).into_iter().collect())
    }

    /// Sends a proposal, or has the manager say what it would change, and prints the changes.
    pub fn propose(&self, proposal: &Proposal, dry_run: bool) -> Result<()> {
        let changes = self.api.propose(proposal, dry_run)?;
        if dry_run {
            println!("nothing is changed; it would be:");
        }
        for change in changes {
            println!("  {change}");
        }
        Ok(())
    }
}

/// A proposal with one role's new metadata.
pub fn proposal_of(role: &RoleName, draft: &TargetsDraft) -> Proposal {
    let document = text(draft.to_bytes());
    Proposal { roots: Vec::new(), targets: [(role.as_str().to_owned(), document)].into() }
}

/// A document as a proposal carries it.
pub fn text(document: Vec<u8>) -> String {
    String::from_utf8(document).expect("documents are JSON, which is UTF-8")
}

/// Writes a proposal for others to sign, over a file that holds one already, and never over another.
pub fn write_proposal(path: &Path, proposal: &Proposal) -> Result<()> {
    if path.exists() && read_proposal(path).is_err() {
        bail!("{} exists and is no proposal; give another file", path.display());
    }
    let bytes = serde_json::to_vec_pretty(proposal).expect("a proposal is plain JSON");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        file.write_all(&bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a proposal, which may be one root document alone.
pub fn read_proposal(path: &Path) -> Result<Proposal> {
    let bytes = read_limited(path, PROPOSAL_BYTES_MAX)?;
    let neither = || format!("{} is neither a proposal nor a root", path.display());
    let value: Value = serde_json::from_slice(&bytes).with_context(neither)?;
    if value["signed"]["_type"] == "root" {
        return Ok(Proposal { roots: vec![text(bytes)], ..Proposal::default() });
    }
    serde_json::from_value(value).with_context(neither)
}

/// The longest file with a proposal, in bytes.
const PROPOSAL_BYTES_MAX: u64 = 16 << 20;
