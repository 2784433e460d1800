//! Changes to a repository: all of a proposal or nothing, and only what a client would believe.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Answer, DocumentKind, Error, Limits, Next, Refresh, Repository, Request, Role, RoleName, Root,
    SPEC_VERSION, SigningKey, TrustedMetadata, TrustedRoot, UnixMillis,
    envelope::{Envelope, check_expiry},
    hex,
    repository::{
        changes::changes,
        files::{check_delegated_name, file_name, metadata_chunk},
        state::{HeldRole, RepositoryState, RoleContent},
    },
    sign_document,
    tuf::next_root,
};

const DAY_S: u64 = 24 * 60 * 60;

/// What a publisher or key holder sends: new roots and new versions of targets metadata, all signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// The roots that follow the newest one, in order.
    #[serde(default)]
    pub roots: Vec<String>,
    /// New versions of the roles that speak of targets, by role.
    #[serde(default)]
    pub targets: BTreeMap<String, String>,
}

/// A change that a client would believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The files to store, by name; the snapshot and the timestamp come last.
    pub files: Vec<(String, Vec<u8>)>,
    /// What changes, in sentences for people.
    pub changes: Vec<String>,
}

/// How long snapshot and timestamp are believed, and when they are signed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// How long a timestamp is believed: after that, a device that gets no newer one says it is kept
    /// from news.
    pub timestamp_s: u64,
    /// A timestamp is signed anew when it is this old.
    pub timestamp_every_s: u64,
    /// How long a snapshot is believed. It is signed anew when less than half of that is left.
    pub snapshot_s: u64,
}

impl Default for Expiry {
    fn default() -> Self {
        Self { timestamp_s: 7 * DAY_S, timestamp_every_s: DAY_S, snapshot_s: 60 * DAY_S }
    }
}

impl RepositoryState {
    /// What the repository becomes with `proposal`; nothing changes here.
    ///
    /// The `online` keys that the newest root names sign snapshot and timestamp.
    ///
    /// # Errors
    /// [`Error`] if a client would not believe any part of it, if a version does not follow the one that
    /// is held, if a path's bundle would be replaced by another one, or if a file is too long for a message.
    pub fn propose(
        &self,
        proposal: &Proposal,
        online: &[&SigningKey],
        now: UnixMillis,
        policy: &Expiry,
    ) -> Result<Accepted, Error> {
        if proposal.roots.is_empty() && proposal.targets.is_empty() {
            return Err(refused("it changes nothing"));
        }
        let mut next = Draft::of(self);
        for root in &proposal.roots {
            next.add_root(root)?;
        }
        for (role, document) in &proposal.targets {
            next.add_targets(self, role, document)?;
        }
        let files = next.sign(self, online, now, policy)?;
        for (name, bytes) in &files {
            metadata_chunk(name, bytes)?;
        }
        let after = self.with(&files)?;
        check_roles(self, &after, proposal, now)?;
        let added = added_paths(self, &after);
        check_as_client(&after, self.trusted_by_a_newcomer(), &added, now)?;
        check_as_client(&after, self.trusted_by_a_device(), &added, now)?;
        Ok(Accepted { changes: changes(self, &after), files })
    }

    /// Signs timestamp and, where its time has come, snapshot anew; nothing if neither is due.
    ///
    /// # Errors
    /// [`Error`] if the newest root does not name enough of the `online` keys.
    pub fn resign(
        &self,
        online: &[&SigningKey],
        now: UnixMillis,
        policy: &Expiry,
    ) -> Result<Option<Accepted>, Error> {
        let Some(held) = self.online() else { return Ok(None) };
        let snapshot_due =
            held.snapshot_expires <= now.plus_seconds(policy.snapshot_s / 2) && now >= held.issued;
        let timestamp_due = held.issued.plus_seconds(policy.timestamp_every_s) <= now;
        if !snapshot_due && !timestamp_due {
            return Ok(None);
        }
        let mut next = Draft::of(self);
        next.new_snapshot = snapshot_due;
        let files = next.sign(self, online, now, policy)?;
        let after = self.with(&files)?;
        Ok(Some(Accepted { changes: changes(self, &after), files }))
    }

    /// The repository with a change that was accepted.
    ///
    /// # Errors
    /// [`Error`] if the change is not one of this repository's.
    pub fn apply(&self, accepted: &Accepted) -> Result<Self, Error> {
        self.with(&accepted.files)
    }

    fn with(&self, files: &[(String, Vec<u8>)]) -> Result<Self, Error> {
        let held = self.files().map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
        // A name that is there twice is the later's: the timestamp's has no version.
        Self::from_files(held.chain(files.iter().cloned()))
    }
}

/// The next state of a repository, before snapshot and timestamp are made.
struct Draft {
    root: Root,
    files: Vec<(String, Vec<u8>)>,
    meta: Map<String, Value>,
    new_snapshot: bool,
}

impl Draft {
    fn of(state: &RepositoryState) -> Self {
        Self {
            root: state.root().root().clone(),
            files: Vec::new(),
            meta: state.online().map(|online| online.meta.clone()).unwrap_or_default(),
            new_snapshot: true,
        }
    }

    fn add_root(&mut self, document: &str) -> Result<(), Error> {
        let file = file_name(&RoleName::root(), self.root.version().saturating_add(1));
        let bytes = document.as_bytes();
        let next =
            next_root(bytes, &self.root, &Limits::DEVICE).and_then(|_| TrustedRoot::pin(bytes));
        let next = next.map_err(|error| in_file(&file, error))?;
        self.root = next.root().clone();
        self.files.push((file, bytes.to_vec()));
        Ok(())
    }

    fn add_targets(
        &mut self,
        state: &RepositoryState,
        role: &str,
        document: &str,
    ) -> Result<(), Error> {
        let role: RoleName = role.parse().map_err(refused)?;
        if role != RoleName::targets() {
            check_delegated_name(&role).map_err(refused)?;
        }
        let version = unverified_version(document)?;
        let held = state.version_of(&role).unwrap_or(0);
        // A repository that has nothing yet takes any version: its publisher may have a history.
        let follows = version == held + 1 || state.online().is_none();
        if !follows {
            return Err(refused(format!(
                "version {version} of {role} does not follow version {held}, which the repository has; \
                 make the change again upon that one"
            )));
        }
        let file = file_name(&role, version);
        self.meta.insert(role.meta_name(), described(version, document.as_bytes()));
        self.files.push((file, document.as_bytes().to_vec()));
        Ok(())
    }

    /// Makes snapshot and timestamp; returns all files.
    fn sign(
        mut self,
        state: &RepositoryState,
        online: &[&SigningKey],
        now: UnixMillis,
        policy: &Expiry,
    ) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let held = state.online();
        let snapshot_role = RoleName::snapshot();
        let kept = held.filter(|_| !self.new_snapshot);
        let (version, snapshot) = match kept.and(state.document(&snapshot_role)) {
            Some(bytes) => (kept.map_or(0, |held| held.snapshot), bytes.to_vec()),
            None => {
                let version = held.map_or(0, |held| held.snapshot) + 1;
                let expires = now.plus_seconds(policy.snapshot_s);
                let mut signed = document(DocumentKind::Snapshot, version, expires);
                signed["meta"] = Value::Object(self.meta);
                let keys = signers(&self.root, Role::Snapshot, online)?;
                let bytes = sign_document(&signed, &keys);
                self.files.push((file_name(&snapshot_role, version), bytes.clone()));
                (version, bytes)
            }
        };
        let issued = held.map_or(now, |held| held.issued.max(now));
        let timestamp_version = held.map_or(0, |held| held.timestamp) + 1;
        let expires = now.plus_seconds(policy.timestamp_s);
        let mut signed = document(DocumentKind::Timestamp, timestamp_version, expires);
        signed["issued"] = json!(issued);
        signed["root_version"] = json!(self.root.version());
        signed["meta"] = json!({ "snapshot.json": described(version, &snapshot) });
        let keys = signers(&self.root, Role::Timestamp, online)?;
        let timestamp = sign_document(&signed, &keys);
        self.files.push((file_name(&RoleName::timestamp(), 0), timestamp));
        Ok(self.files)
    }
}

fn document(kind: DocumentKind, version: u64, expires: UnixMillis) -> Value {
    json!({
        "_type": kind.as_str(), "spec_version": SPEC_VERSION, "version": version, "expires": expires
    })
}

/// What other metadata says about a file.
fn described(version: u64, bytes: &[u8]) -> Value {
    let sha256 = hex::encode(digest(&SHA256, bytes).as_ref());
    json!({ "version": version, "length": bytes.len(), "hashes": { "sha256": sha256 } })
}

/// The version that a document names, before anything of it is verified.
fn unverified_version(document: &str) -> Result<u64, Error> {
    let limits = Limits::DEVICE;
    let bytes = document.as_bytes();
    Envelope::parse(DocumentKind::Targets, bytes, limits.targets_bytes)?
        .unverified()
        .read(|fields| fields.version())
}

fn signers<'a>(
    root: &Root,
    role: Role,
    online: &[&'a SigningKey],
) -> Result<Vec<&'a SigningKey>, Error> {
    let holds = |key: &SigningKey| root.keys(role).any(|(_, held)| held == key.public_key());
    let signers: Vec<_> = online.iter().copied().filter(|key| holds(key)).collect();
    let threshold = root.threshold(role);
    if signers.len() < threshold {
        let named: Vec<String> = root.keys(role).map(|(id, _)| id.to_string()).collect();
        return Err(Error::OnlineKeys {
            role,
            held: signers.len(),
            threshold,
            named: named.join(", "),
        });
    }
    Ok(signers)
}

/// Checks what a client would not: a delegation has one meaning, and a bundle's version stays what it is.
fn check_roles(
    before: &RepositoryState,
    after: &RepositoryState,
    proposal: &Proposal,
    now: UnixMillis,
) -> Result<(), Error> {
    let root = after.root().root();
    check_expiry(DocumentKind::Root, root.expires(), now)?;
    for name in proposal.targets.keys() {
        let Some(held) = after.held().iter().find(|held| held.name.as_str() == name) else {
            return Err(refused(format!("nobody delegates to the role {name}")));
        };
        let file = file_name(&held.name, held.version);
        let content = held.content.as_ref().map_err(|error| in_file(&file, error.clone()))?;
        check_expiry(DocumentKind::Targets, content.expires, now)
            .map_err(|error| in_file(&file, error))?;
        check_delegations(after, held, content)?;
        check_targets(before, after, held, content)?;
    }
    Ok(())
}

fn check_delegations(
    after: &RepositoryState,
    held: &HeldRole,
    content: &RoleContent,
) -> Result<(), Error> {
    for delegation in &content.delegations {
        check_delegated_name(&delegation.role).map_err(refused)?;
        let (name, keys) = (&delegation.role, delegation.keys.len());
        if keys < delegation.threshold {
            return Err(refused(format!(
                "the role {name} has {keys} keys and a threshold of {}",
                delegation.threshold
            )));
        }
        let elsewhere = after.held().iter().find(|other| {
            let delegations = other.content.as_ref().map(|it| &it.delegations[..]).unwrap_or(&[]);
            other.name != held.name && delegations.iter().any(|it| it.role == *name)
        });
        if let Some(other) = elsewhere {
            let other = &other.name;
            return Err(refused(format!("the role {other} delegates to {name} already")));
        }
    }
    Ok(())
}

fn check_targets(
    before: &RepositoryState,
    after: &RepositoryState,
    held: &HeldRole,
    content: &RoleContent,
) -> Result<(), Error> {
    let known = before.targets_of(&held.name);
    for (path, target) in &content.targets {
        let old = known.and_then(|known| known.get(path));
        if old == Some(target) {
            continue;
        }
        if old.is_some_and(|old| old.manifest != target.manifest) {
            return Err(refused(format!(
                "{path} is another bundle already; give the new one a version of its own"
            )));
        }
        match after.resolve(path) {
            Ok(Some((speaker, _))) if speaker.name == held.name => {}
            Ok(Some((speaker, _))) => {
                let speaker = &speaker.name;
                return Err(refused(format!("the role {speaker} speaks of {path} already")));
            }
            Ok(None) => {
                let name = &held.name;
                return Err(refused(format!("{path} is not among the paths of the role {name}")));
            }
            Err(error) => return Err(error.clone()),
        }
    }
    Ok(())
}

/// Paths at which a client finds something new, one of each role: what a role says is found in one way.
fn added_paths(before: &RepositoryState, after: &RepositoryState) -> Vec<String> {
    let known = before.resolvable();
    let mut added = BTreeMap::new();
    for (path, (speaker, target)) in after.resolvable() {
        if known.get(path).is_none_or(|(_, old)| *old != target) {
            added.entry(&speaker.name).or_insert_with(|| path.to_owned());
        }
    }
    added.into_values().collect()
}

/// Lets a client that trusts `trusted` refresh, and look for what is `added`.
fn check_as_client(
    state: &RepositoryState,
    mut trusted: TrustedMetadata,
    added: &[String],
    now: UnixMillis,
) -> Result<(), Error> {
    let serve = |request: Request| match state.file(&request.file) {
        Some(bytes) if bytes.len() as u64 <= request.max_bytes => Answer::Found(bytes.to_vec()),
        _ => Answer::NotFound,
    };
    let mut refresh = Refresh::start(&trusted, now, Limits::DEVICE)?;
    let repository: Repository = loop {
        let answer = serve(refresh.request());
        match refresh.answer(answer, &mut trusted)? {
            Next::Fetch(next) => refresh = next,
            Next::Done(repository) => break repository,
        }
    };
    for path in added {
        let mut next = repository.search(path, &trusted)?;
        let found = loop {
            match next {
                Next::Fetch(search) => {
                    let answer = serve(search.request());
                    next = search.answer(answer, &mut trusted)?;
                }
                Next::Done(found) => break found,
            }
        };
        if found.is_none() {
            return Err(refused(format!("a client does not find {path}")));
        }
    }
    Ok(())
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Proposal { reason: reason.into() }
}

fn in_file(file: &str, error: Error) -> Error {
    Error::Refused { file: file.into(), source: Box::new(error) }
}
