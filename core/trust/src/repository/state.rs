//! What a repository holds, read and verified once.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    BundleTarget, DocumentKind, Error, KeyId, Limits, PublicKey, Role, RoleName, TrustedMetadata,
    TrustedRoot, UnixMillis,
    envelope::{Envelope, Holders},
    fields::Read,
    repository::files::{file_name, parse_file_name},
    targets::TargetsDocument,
    tuf::{DelegatedRole, TargetSet, matches, next_root},
};

/// What a repository holds and serves: the chain of its roots, and the files that are current.
#[derive(Clone, Debug)]
pub struct RepositoryState {
    files: BTreeMap<String, Vec<u8>>,
    oldest_root: u64,
    root: TrustedRoot,
    // Nothing before the first targets metadata is there.
    online: Option<Online>,
    roles: Vec<HeldRole>,
}

/// What timestamp and snapshot say.
#[derive(Clone, Debug)]
pub(crate) struct Online {
    pub(crate) timestamp: u64,
    pub(crate) issued: UnixMillis,
    pub(crate) timestamp_expires: UnixMillis,
    pub(crate) snapshot: u64,
    pub(crate) snapshot_expires: UnixMillis,
    /// What the snapshot says about each file, by its name there.
    pub(crate) meta: Map<String, Value>,
}

/// A role that speaks of targets, as the first that delegates to it does.
#[derive(Clone, Debug)]
pub(crate) struct HeldRole {
    pub(crate) name: RoleName,
    pub(crate) holders: Holders,
    /// Its version in the snapshot, or 0.
    pub(crate) version: u64,
    /// What it says, or why a client does not believe it.
    pub(crate) content: Result<RoleContent, Error>,
}

/// What targets metadata says.
#[derive(Clone, Debug)]
pub(crate) struct RoleContent {
    pub(crate) expires: UnixMillis,
    pub(crate) delegations: Vec<Delegation>,
    pub(crate) targets: BTreeMap<String, BundleTarget>,
}

/// A part of the targets, given to another role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delegation {
    /// The role.
    pub role: RoleName,
    /// The keys that hold it.
    pub keys: Vec<PublicKey>,
    /// How many distinct keys must sign; at least 1.
    pub threshold: usize,
    /// Patterns of target paths: `*` stands for any characters but `/`, `?` for one.
    pub paths: Vec<String>,
    /// Whether nobody else is asked about these targets.
    pub terminating: bool,
}

/// A role that speaks of targets, as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublishedRole {
    /// Its name.
    pub role: RoleName,
    /// The version of its metadata, 0 if there is none yet.
    pub version: u64,
    /// When its metadata expires, if a client believes it.
    pub expires: Option<UnixMillis>,
    /// Why a client does not believe its metadata.
    pub problem: Option<String>,
    /// The keys that hold it.
    pub keys: Vec<KeyId>,
    /// How many of them must sign.
    pub threshold: usize,
    /// To whom it delegates.
    pub delegations: Vec<Delegation>,
    /// The paths of its targets.
    pub targets: Vec<String>,
}

impl RepositoryState {
    /// A repository that has nothing but a root.
    ///
    /// # Errors
    /// [`Error`] if `root` is no root metadata that its own keys signed.
    pub fn begin(root: &[u8]) -> Result<Self, Error> {
        let version = TrustedRoot::pin(root)?.root().version();
        Self::from_files([(file_name(&RoleName::root(), version), root.to_vec())])
    }

    /// A repository from its files, by name. Files that are not current are left out.
    ///
    /// What is stored is verified like what is received, but for its expiry.
    ///
    /// # Errors
    /// [`Error`] if there is no chain of roots, or what the roots and the timestamp vouch for is not there.
    pub fn from_files(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self, Error> {
        let mut stored: BTreeMap<String, Vec<u8>> = files.into_iter().collect();
        let mut current = BTreeMap::new();
        let (oldest_root, root) = read_roots(&mut stored, &mut current)?;
        let timestamp = file_name(&RoleName::timestamp(), 0);
        let mut state = Self { files: current, oldest_root, root, online: None, roles: Vec::new() };
        if stored.contains_key(&timestamp) {
            let online = read_online(&mut stored, &mut state)?;
            let meta = online.meta.clone();
            state.online = Some(online);
            state.read_roles(&mut stored, &meta)?;
        }
        Ok(state)
    }

    /// The files that are current, by name: all that a client can ask for.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..]))
    }

    /// A file by its name.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// The newest root.
    pub fn root(&self) -> &TrustedRoot {
        &self.root
    }

    /// The version of the oldest root that is held: clients that trust it can follow the chain.
    pub fn oldest_root(&self) -> u64 {
        self.oldest_root
    }

    /// The version of a role's metadata, if there is some.
    pub fn version_of(&self, role: &RoleName) -> Option<u64> {
        let online = self.online.as_ref();
        match role {
            role if *role == RoleName::root() => Some(self.root.root().version()),
            role if *role == RoleName::timestamp() => online.map(|online| online.timestamp),
            role if *role == RoleName::snapshot() => online.map(|online| online.snapshot),
            role => online.map(|online| online.version_in_snapshot(role)).filter(|&it| it > 0),
        }
    }

    /// A role's metadata as it was signed.
    pub fn document(&self, role: &RoleName) -> Option<&[u8]> {
        self.file(&file_name(role, self.version_of(role)?))
    }

    /// When the timestamp was made and when it expires, if there is one.
    pub fn timestamp(&self) -> Option<(UnixMillis, UnixMillis)> {
        self.online.as_ref().map(|online| (online.issued, online.timestamp_expires))
    }

    /// When the snapshot expires, if there is one.
    pub fn snapshot_expires(&self) -> Option<UnixMillis> {
        self.online.as_ref().map(|online| online.snapshot_expires)
    }

    /// The bundles that a role names, by path; nothing if no client believes it.
    pub fn targets_of(&self, role: &RoleName) -> Option<&BTreeMap<String, BundleTarget>> {
        self.content(role).map(|content| &content.targets)
    }

    /// What a client that looks for `path` finds, and the role that says it.
    pub fn find(&self, path: &str) -> Option<(RoleName, BundleTarget)> {
        let (role, target) = self.resolve(path).ok()??;
        Some((role.name.clone(), target.clone()))
    }

    /// Every bundle that a client can find, in the order of paths, and the role that speaks of it.
    pub fn all_targets(&self) -> Vec<(RoleName, BundleTarget)> {
        self.resolvable().into_values().map(|(role, it)| (role.name.clone(), it.clone())).collect()
    }

    /// The roles that speak of targets, in the order in which a client asks them.
    pub fn roles(&self) -> Vec<PublishedRole> {
        self.roles.iter().map(HeldRole::published).collect()
    }

    pub(crate) fn online(&self) -> Option<&Online> {
        self.online.as_ref()
    }

    pub(crate) fn held(&self) -> &[HeldRole] {
        &self.roles
    }

    pub(crate) fn held_role(&self, role: &RoleName) -> Option<&HeldRole> {
        self.roles.iter().find(|held| held.name == *role)
    }

    pub(crate) fn content(&self, role: &RoleName) -> Option<&RoleContent> {
        self.held_role(role)?.content.as_ref().ok()
    }

    /// What a device that has everything trusts.
    pub(crate) fn trusted_by_a_device(&self) -> TrustedMetadata {
        let top = [RoleName::root(), RoleName::timestamp(), RoleName::snapshot()];
        let roles = top.into_iter().chain(self.roles.iter().map(|held| held.name.clone()));
        TrustedMetadata::new(roles.filter_map(|role| {
            let bytes = self.document(&role)?.to_vec();
            Some((role, bytes))
        }))
    }

    /// What a device that was just installed with the oldest root trusts.
    pub(crate) fn trusted_by_a_newcomer(&self) -> TrustedMetadata {
        let root = self.file(&file_name(&RoleName::root(), self.oldest_root));
        TrustedMetadata::new(root.map(|root| (RoleName::root(), root.to_vec())))
    }

    /// What a client finds at each path that some role speaks of.
    pub(crate) fn resolvable(&self) -> BTreeMap<&str, (&HeldRole, &BundleTarget)> {
        let contents = self.roles.iter().filter_map(|held| held.content.as_ref().ok());
        let paths = contents.flat_map(|content| content.targets.keys());
        let resolved = paths.filter_map(|path| Some((path.as_str(), self.resolve(path).ok()??)));
        resolved.collect()
    }

    /// Follows delegations as a client does (TUF 1.0 §5.6.7); a role that is not believed ends it.
    pub(crate) fn resolve(&self, path: &str) -> Result<Option<(&HeldRole, &BundleTarget)>, &Error> {
        let mut visited: Vec<&RoleName> = Vec::new();
        // What comes next is last.
        let mut to_visit: Vec<&HeldRole> = self.roles.first().into_iter().collect();
        while let Some(role) = to_visit.pop() {
            if visited.contains(&&role.name) {
                continue;
            }
            visited.push(&role.name);
            let content = role.content.as_ref()?;
            if let Some(target) = content.targets.get(path) {
                return Ok(Some((role, target)));
            }
            let mut next = Vec::new();
            for delegation in content.delegations.iter().filter(|it| it.covers(path)) {
                next.extend(self.held_role(&delegation.role));
                if delegation.terminating {
                    to_visit.clear();
                    break;
                }
            }
            to_visit.extend(next.into_iter().rev());
        }
        Ok(None)
    }

    /// Reads the roles that speak of targets, in the order in which a client asks them.
    fn read_roles(
        &mut self,
        stored: &mut BTreeMap<String, Vec<u8>>,
        meta: &Map<String, Value>,
    ) -> Result<(), Error> {
        let mut to_visit = vec![(RoleName::targets(), self.root.root().holders(Role::Targets))];
        while let Some((name, holders)) = to_visit.pop() {
            if self.held_role(&name).is_some() {
                continue;
            }
            let version = version_in(meta, &name);
            let content = self.read_role(&name, version, &holders, stored);
            if let Ok(content) = &content {
                let next = content.delegations.iter().rev();
                to_visit.extend(next.map(|next| (next.role.clone(), next.holders())));
            }
            self.roles.push(HeldRole { name, holders, version, content });
        }
        // A repository whose targets metadata is not believed has nothing to offer.
        match self.roles.first().map(|targets| &targets.content) {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn read_role(
        &mut self,
        name: &RoleName,
        version: u64,
        holders: &Holders,
        stored: &mut BTreeMap<String, Vec<u8>>,
    ) -> Result<RoleContent, Error> {
        if version == 0 {
            return Err(Error::RoleUnlisted { role: name.clone() });
        }
        let bytes = take_file(stored, &mut self.files, &file_name(name, version))?;
        RoleContent::read(bytes, holders).map(|(_, content)| content)
    }
}

impl Online {
    pub(crate) fn version_in_snapshot(&self, role: &RoleName) -> u64 {
        version_in(&self.meta, role)
    }
}

impl HeldRole {
    fn published(&self) -> PublishedRole {
        let content = self.content.as_ref();
        PublishedRole {
            role: self.name.clone(),
            version: self.version,
            expires: content.ok().map(|content| content.expires),
            problem: content.err().map(Error::to_string),
            keys: self.holders.keys.iter().map(|(id, _)| id.clone()).collect(),
            threshold: self.holders.threshold,
            delegations: content.map(|it| it.delegations.clone()).unwrap_or_default(),
            targets: content.map(|it| it.targets.keys().cloned().collect()).unwrap_or_default(),
        }
    }
}

impl RoleContent {
    /// Reads targets metadata that `holders` have signed, and its version.
    pub(crate) fn read(bytes: &[u8], holders: &Holders) -> Result<(u64, Self), Error> {
        let limits = Limits::DEVICE;
        let envelope = Envelope::parse(DocumentKind::Targets, bytes, limits.targets_bytes)?;
        let mut document = TargetsDocument::read(envelope.verify_delegated(holders)?)?;
        let mut targets = BTreeMap::new();
        for file in document.take_targets() {
            targets.insert(file.path.clone(), BundleTarget::read(&file)?);
        }
        let delegations = match &document.delegations {
            Some(listed) => {
                let roles = listed.roles.iter();
                let read = roles.map(|role| Delegation::read(role, listed.holders(role)));
                read.collect::<Read<_>>().map_err(malformed)?
            }
            None => Vec::new(),
        };
        Ok((document.version, Self { expires: document.expires, delegations, targets }))
    }
}

impl Delegation {
    fn read(role: &DelegatedRole, holders: Holders) -> Read<Self> {
        let TargetSet::Paths(paths) = &role.targets else {
            return Err(format!("the role {} is delegated hash prefixes, not paths", role.name));
        };
        Ok(Self {
            role: role.name.clone(),
            keys: holders.keys.into_iter().map(|(_, key)| key).collect(),
            threshold: holders.threshold,
            paths: paths.clone(),
            terminating: role.terminating,
        })
    }

    pub(crate) fn covers(&self, path: &str) -> bool {
        self.paths.iter().any(|pattern| matches(pattern, path))
    }

    pub(crate) fn holders(&self) -> Holders {
        let keys = self.keys.iter().map(|key| (key.id(), key.clone())).collect();
        Holders { keys, threshold: self.threshold }
    }
}

/// The chain of roots: the oldest vouches for itself, each other is vouched for by the one before too.
fn read_roots(
    stored: &mut BTreeMap<String, Vec<u8>>,
    current: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(u64, TrustedRoot), Error> {
    let named = stored.keys().filter_map(|name| parse_file_name(name));
    let versions = named.filter(|(role, _)| *role == RoleName::root()).map(|(_, version)| version);
    let oldest = versions.min().ok_or(Error::NoRoot)?;
    let limits = Limits::DEVICE;
    let mut version = oldest;
    let first = take_file(stored, current, &file_name(&RoleName::root(), version))?;
    let mut root = TrustedRoot::pin(first)?;
    loop {
        version += 1;
        let name = file_name(&RoleName::root(), version);
        if !stored.contains_key(&name) {
            return Ok((oldest, root));
        }
        let bytes = take_file(stored, current, &name)?;
        next_root(bytes, root.root(), &limits)
            .and_then(|_| TrustedRoot::pin(bytes))
            .map(|next| root = next)
            .map_err(|error| Error::Refused { file: name, source: Box::new(error) })?;
    }
}

fn read_online(
    stored: &mut BTreeMap<String, Vec<u8>>,
    state: &mut RepositoryState,
) -> Result<Online, Error> {
    let (root, limits) = (state.root.root(), Limits::DEVICE);
    let timestamp = take_file(stored, &mut state.files, &file_name(&RoleName::timestamp(), 0))?;
    let envelope = Envelope::parse(DocumentKind::Timestamp, timestamp, limits.timestamp_bytes)?;
    let mut online = envelope.verify(root, Role::Timestamp)?.read(|fields| {
        let issued = UnixMillis::from_iso8601(fields.text("issued")?);
        Ok(Online {
            timestamp: fields.version()?,
            issued: issued.ok_or("issued: a time is written YYYY-MM-DDTHH:MM:SSZ")?,
            timestamp_expires: fields.expires()?,
            snapshot: fields.fields("meta")?.fields("snapshot.json")?.version()?,
            snapshot_expires: UnixMillis(0),
            meta: Map::new(),
        })
    })?;
    let name = file_name(&RoleName::snapshot(), online.snapshot);
    let snapshot = take_file(stored, &mut state.files, &name)?;
    let envelope = Envelope::parse(DocumentKind::Snapshot, snapshot, limits.snapshot_bytes)?;
    let mut signed = envelope.verify(root, Role::Snapshot)?;
    online.snapshot_expires = signed.read(|fields| fields.expires())?;
    online.meta = signed.take_object("meta");
    Ok(online)
}

/// Takes a file that must be there from what is stored to what is current.
fn take_file<'a>(
    stored: &mut BTreeMap<String, Vec<u8>>,
    current: &'a mut BTreeMap<String, Vec<u8>>,
    name: &str,
) -> Result<&'a [u8], Error> {
    let bytes = stored.remove(name).ok_or_else(|| Error::Missing { file: name.into() })?;
    Ok(current.entry(name.into()).insert_entry(bytes).into_mut())
}

/// The version of a role in a snapshot, or 0.
fn version_in(meta: &Map<String, Value>, role: &RoleName) -> u64 {
    let file = meta.get(&role.meta_name());
    file.and_then(|file| file.get("version")).and_then(Value::as_u64).unwrap_or(0)
}

fn malformed(reason: String) -> Error {
    Error::Malformed { document: DocumentKind::Targets, reason }
}
