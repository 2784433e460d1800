//! Documents on the desk: edited upon the version before, then signed by their holders, one after the
//! other and perhaps on different machines.
//!
//! What a document says beyond what this build knows is kept.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::{
    BundleTarget, DocumentKind, Error, KeyId, Limits, PublicKey, Role, RoleName, Root,
    SPEC_VERSION, SigningKey, TrustedRoot, UnixMillis,
    canonical::canonical_form,
    envelope::{Envelope, Holders},
    repository::{
        files::check_delegated_name,
        state::{Delegation, RepositoryState},
    },
};

/// One change of root metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootEdit {
    /// A key holds a role too.
    Add(Role, PublicKey),
    /// A key holds a role no longer.
    Revoke(Role, KeyId),
    /// So many keys must sign for a role.
    Threshold(Role, usize),
    /// The metadata expires then.
    Expires(UnixMillis),
}

/// One change of targets metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetsEdit {
    /// A bundle may be installed. What was said of its path before is replaced.
    Add(BundleTarget),
    /// The bundle at a path may be installed no longer.
    Revoke(String),
    /// A role speaks of some targets. What was said of the role before is replaced.
    Delegate(Delegation),
    /// A role speaks of targets no longer.
    Undelegate(RoleName),
    /// The metadata expires then.
    Expires(UnixMillis),
}

/// Who has signed a document among those who must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureStatus {
    /// Whose signatures these are, for people: a role, and the root that says who holds it.
    pub asked: String,
    /// How many must sign.
    pub threshold: usize,
    /// The keys that have signed the document as it is.
    pub signed: Vec<KeyId>,
    /// The keys that could.
    pub unsigned: Vec<KeyId>,
}

impl SignatureStatus {
    /// How many signatures are missing.
    pub fn missing(&self) -> usize {
        self.threshold.saturating_sub(self.signed.len())
    }

    fn of(asked: String, envelope: &Envelope, holders: &Holders) -> Self {
        let has_signed = |key: &(KeyId, PublicKey)| {
            envelope.signers(&Holders { keys: vec![key.clone()], threshold: 1 }) == 1
        };
        let (signed, unsigned): (Vec<_>, Vec<_>) =
            holders.keys.iter().cloned().partition(has_signed);
        let ids = |keys: Vec<(KeyId, PublicKey)>| keys.into_iter().map(|(id, _)| id).collect();
        Self { asked, threshold: holders.threshold, signed: ids(signed), unsigned: ids(unsigned) }
    }
}

/// Root metadata that is not signed by all who must.
#[derive(Clone, Debug, PartialEq)]
pub struct RootDraft(Draft);

impl RootDraft {
    /// The root that follows `current`, with changes. The roles snapshot, timestamp and director go
    /// together: a change of one is a change of all three, which the fleet's online keys hold.
    ///
    /// # Errors
    /// [`Error`] if `current` is no root, or if the changes make none in which every role has keys enough.
    pub fn after(current: &[u8], edits: &[RootEdit]) -> Result<Self, Error> {
        TrustedRoot::pin(current)?;
        let mut draft = Draft::after(DocumentKind::Root, current)?;
        for edit in edits {
            match edit {
                RootEdit::Add(role, key) => {
                    together(*role).iter().try_for_each(|role| draft.add_root_key(*role, key))?;
                }
                RootEdit::Revoke(role, id) => {
                    together(*role).iter().try_for_each(|role| draft.revoke_root_key(*role, id))?;
                }
                RootEdit::Threshold(role, threshold) => {
                    for role in together(*role) {
                        draft.root_role(*role)?["threshold"] = json!(threshold);
                    }
                }
                RootEdit::Expires(expires) => draft.signed["expires"] = json!(expires),
            }
        }
        draft.drop_unused_root_keys();
        let draft = Self(draft);
        draft.root()?;
        Ok(draft)
    }

    /// A draft that was written by [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    /// [`Error`] if the bytes are no root metadata in which every role has keys enough.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let draft = Self(Draft::read(DocumentKind::Root, bytes)?);
        draft.root()?;
        Ok(draft)
    }

    /// The document with the signatures that it has.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// What it says.
    ///
    /// # Errors
    /// [`Error::Malformed`] if a role has fewer keys than its threshold.
    pub fn root(&self) -> Result<Root, Error> {
        Root::read_complete(self.0.envelope()?.unverified())
    }

    /// Signs it.
    pub fn sign(&mut self, key: &SigningKey) {
        self.0.sign(key);
    }

    /// Takes the signatures of another copy of the same document.
    ///
    /// # Errors
    /// [`Error::Edit`] if the other says something else.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        self.0.merge(&other.0)
    }

    /// Who has signed it among the root keys of `before`, the root that it follows, and among its own.
    ///
    /// # Errors
    /// As [`root`](Self::root).
    pub fn signatures(&self, before: Option<&Root>) -> Result<Vec<SignatureStatus>, Error> {
        let (envelope, root) = (self.0.envelope()?, self.root()?);
        let asked = before.into_iter().chain([&root]);
        let status = asked.map(|root| {
            let asked = format!("root keys of version {}", root.version());
            SignatureStatus::of(asked, &envelope, &root.holders(Role::Root))
        });
        Ok(status.collect())
    }
}

/// Targets metadata that is not signed by all who must.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetsDraft(Draft);

impl TargetsDraft {
    /// Targets metadata without a target: the first version of a role.
    pub fn empty(expires: UnixMillis) -> Self {
        let signed = json!({
            "_type": DocumentKind::Targets.as_str(),
            "spec_version": SPEC_VERSION,
            "version": 1,
            "expires": expires,
            "targets": {},
        });
        Self(Draft { kind: DocumentKind::Targets, signed, signatures: Vec::new() })
    }

    /// The version that follows `current`, with changes.
    ///
    /// # Errors
    /// [`Error`] if `current` is no targets metadata, or if a change does not fit it.
    pub fn after(current: &[u8], edits: &[TargetsEdit]) -> Result<Self, Error> {
        let mut draft = Self(Draft::after(DocumentKind::Targets, current)?);
        draft.edit(edits)?;
        Ok(draft)
    }

    /// Changes it; signatures that it has are gone.
    ///
    /// # Errors
    /// [`Error::Edit`] if a change does not fit what is there.
    pub fn edit(&mut self, edits: &[TargetsEdit]) -> Result<(), Error> {
        self.0.signatures.clear();
        for edit in edits {
            match edit {
                TargetsEdit::Add(target) => {
                    let entry = target.to_entry();
                    self.0.object("targets")?.insert(target.path(), entry);
                }
                TargetsEdit::Revoke(path) => {
                    let gone = self.0.object("targets")?.remove(path);
                    gone.ok_or_else(|| wrong(format!("it does not speak of {path}")))?;
                }
                TargetsEdit::Delegate(delegation) => self.0.delegate(delegation)?,
                TargetsEdit::Undelegate(role) => self.0.undelegate(role)?,
                TargetsEdit::Expires(expires) => self.0.signed["expires"] = json!(expires),
            }
        }
        Ok(())
    }

    /// A draft that was written by [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    /// [`Error`] if the bytes are no targets metadata.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        Draft::read(DocumentKind::Targets, bytes).map(Self)
    }

    /// The document with the signatures that it has.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// Signs it.
    pub fn sign(&mut self, key: &SigningKey) {
        self.0.sign(key);
    }

    /// Takes the signatures of another copy of the same document.
    ///
    /// # Errors
    /// [`Error::Edit`] if the other says something else.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        self.0.merge(&other.0)
    }

    /// Who has signed it among those that hold the role targets in `root`.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is no document that can be signed.
    pub fn signatures_of_top_level(&self, root: &Root) -> Result<SignatureStatus, Error> {
        let asked = format!("targets keys of root version {}", root.version());
        Ok(SignatureStatus::of(asked, &self.0.envelope()?, &root.holders(Role::Targets)))
    }

    /// Who has signed it among those that hold `role` in `state`; nothing if nobody delegates to it.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is no document that can be signed.
    pub fn signatures(
        &self,
        state: &RepositoryState,
        role: &RoleName,
    ) -> Result<Option<SignatureStatus>, Error> {
        let Some(held) = state.held_role(role) else { return Ok(None) };
        let envelope = self.0.envelope()?;
        Ok(Some(SignatureStatus::of(format!("keys of the role {role}"), &envelope, &held.holders)))
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Draft {
    kind: DocumentKind,
    signed: Value,
    signatures: Vec<Value>,
}

impl Draft {
    fn read(kind: DocumentKind, bytes: &[u8]) -> Result<Self, Error> {
        let limits = Limits::DEVICE;
        let max_bytes = limits.root_bytes.max(limits.targets_bytes);
        let (signed, signatures) = Envelope::parse(kind, bytes, max_bytes)?.into_parts();
        Ok(Self { kind, signed, signatures })
    }

    fn after(kind: DocumentKind, current: &[u8]) -> Result<Self, Error> {
        let mut draft = Self::read(kind, current)?;
        let version = draft.signed["version"].as_u64().and_then(|version| version.checked_add(1));
        let version = version.ok_or_else(|| wrong("its version is no number that has a next"))?;
        draft.signed["version"] = json!(version);
        draft.signatures.clear();
        Ok(draft)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let document = json!({ "signed": self.signed, "signatures": self.signatures });
        document.to_string().into_bytes()
    }

    fn envelope(&self) -> Result<Envelope, Error> {
        Envelope::parse(self.kind, &self.to_bytes(), usize::MAX)
    }

    fn sign(&mut self, key: &SigningKey) {
        let message = canonical_form(&self.signed).expect("a draft holds no number but integers");
        let signature = key.sign(&message);
        self.signatures.retain(|other| other["keyid"] != signature["keyid"]);
        self.signatures.push(signature);
    }

    fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if self.signed != other.signed {
            return Err(wrong("the copies do not say the same"));
        }
        for signature in &other.signatures {
            if !self.signatures.iter().any(|held| held["keyid"] == signature["keyid"]) {
                self.signatures.push(signature.clone());
            }
        }
        Ok(())
    }

    fn object(&mut self, name: &str) -> Result<&mut Map<String, Value>, Error> {
        let object = self.signed.get_mut(name).and_then(Value::as_object_mut);
        object.ok_or_else(|| wrong(format!("its member {name} is no object")))
    }

    fn root_role(&mut self, role: Role) -> Result<&mut Value, Error> {
        let place = match role {
            Role::Director => self.signed.get_mut(role.to_string()),
            _ => self.signed["roles"].get_mut(role.to_string()),
        };
        let role = place.filter(|role| role["keyids"].is_array());
        role.ok_or_else(|| wrong("it lacks a role"))
    }

    fn add_root_key(&mut self, role: Role, key: &PublicKey) -> Result<(), Error> {
        let id = json!(key.id());
        let ids = self.root_role(role)?["keyids"].as_array_mut().expect("checked with the role");
        if ids.contains(&id) {
            return Err(wrong(format!("the key {} holds the role {role} already", key.id())));
        }
        ids.push(id);
        self.object("keys")?.insert(key.id().to_string(), json!(key));
        Ok(())
    }

    fn revoke_root_key(&mut self, role: Role, id: &KeyId) -> Result<(), Error> {
        let ids = self.root_role(role)?["keyids"].as_array_mut().expect("checked with the role");
        let before = ids.len();
        ids.retain(|held| held.as_str() != Some(id.as_str()));
        if ids.len() == before {
            return Err(wrong(format!("the key {id} does not hold the role {role}")));
        }
        Ok(())
    }

    fn drop_unused_root_keys(&mut self) {
        let roles = Role::ALL.into_iter().filter_map(|role| self.root_role(role).ok().cloned());
        let used = named_keys(&roles.collect::<Vec<_>>());
        if let Ok(keys) = self.object("keys") {
            keys.retain(|id, _| used.contains(id));
        }
    }

    fn delegate(&mut self, delegation: &Delegation) -> Result<(), Error> {
        let Delegation { role, keys, threshold, paths, terminating } = delegation;
        check_delegated_name(role).map_err(wrong)?;
        if *threshold == 0 || keys.len() < *threshold {
            return Err(wrong(format!(
                "the role {role} would have {} keys and a threshold of {threshold}",
                keys.len()
            )));
        }
        if paths.is_empty() {
            return Err(wrong(format!("the role {role} would have no paths")));
        }
        if !self.signed["delegations"].is_object() {
            self.signed["delegations"] = json!({ "keys": {}, "roles": [] });
        }
        let ids: Vec<KeyId> = keys.iter().map(PublicKey::id).collect();
        for (id, key) in ids.iter().zip(keys) {
            self.signed["delegations"]["keys"][id.as_str()] = json!(key);
        }
        let entry = json!({
            "name": role.as_str(),
            "keyids": ids,
            "threshold": threshold,
            "paths": paths,
            "terminating": terminating,
        });
        let roles = self.delegated_roles()?;
        match roles.iter_mut().find(|other| other["name"] == role.as_str()) {
            Some(other) => *other = entry,
            None => roles.push(entry),
        }
        self.drop_unused_delegation_keys()
    }

    fn undelegate(&mut self, role: &RoleName) -> Result<(), Error> {
        let none = || wrong(format!("it does not delegate to the role {role}"));
        let roles = self.delegated_roles().map_err(|_| none())?;
        let before = roles.len();
        roles.retain(|other| other["name"] != role.as_str());
        if roles.len() == before {
            return Err(none());
        }
        self.drop_unused_delegation_keys()
    }

    fn delegated_roles(&mut self) -> Result<&mut Vec<Value>, Error> {
        let roles = self.signed.get_mut("delegations").and_then(|it| it.get_mut("roles"));
        roles.and_then(Value::as_array_mut).ok_or_else(|| wrong("it delegates to no roles by name"))
    }

    fn drop_unused_delegation_keys(&mut self) -> Result<(), Error> {
        let used = named_keys(self.delegated_roles()?);
        if let Some(keys) = self.signed["delegations"]["keys"].as_object_mut() {
            keys.retain(|id, _| used.contains(id));
        }
        Ok(())
    }
}

/// The roles that change together with `role`.
fn together(role: Role) -> &'static [Role] {
    match role {
        Role::Root => &[Role::Root],
        Role::Targets => &[Role::Targets],
        Role::Timestamp | Role::Snapshot | Role::Director => {
            &[Role::Timestamp, Role::Snapshot, Role::Director]
        }
    }
}

/// The ids of the keys that `roles` name.
fn named_keys(roles: &[Value]) -> BTreeSet<String> {
    let ids = roles.iter().filter_map(|role| role["keyids"].as_array()).flatten();
    ids.filter_map(|id| id.as_str().map(String::from)).collect()
}

fn wrong(reason: impl Into<String>) -> Error {
    Error::Edit { reason: reason.into() }
}
