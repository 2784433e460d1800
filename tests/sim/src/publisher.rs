//! The desk: whoever holds the offline keys, and what they change in the repository.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_trust::{
    Authority, Delegation, Proposal, Role, Root, RootDraft, RootEdit, TargetsDraft, TargetsEdit,
    UnixMillis,
};
use selvedge_wire::Digest;

use crate::{
    catalogue::{OWN_FAMILY, Specimen, TEAM_FAMILY},
    clock::START_MS,
    keys::{Holder, signing_key},
};

/// The role of the team.
const TEAM_ROLE: &str = "meter-team";
/// The role of the publisher.
const TARGETS_ROLE: &str = "targets";

/// How long root and targets metadata are believed: longer than any run takes.
const VALID_S: u64 = 20 * 365 * 24 * 60 * 60;

/// How often any one key may be replaced.
pub const ROTATIONS_MAX: u8 = 4;

/// What the holders of the offline keys know.
#[derive(Clone)]
pub struct Publisher {
    root: Vec<u8>,
    // By role: the document as it is.
    documents: BTreeMap<&'static str, Vec<u8>>,
    root_key: u8,
    targets_key: u8,
    director_key: u8,
}

/// Which key is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The root's own.
    Root,
    /// The publisher's.
    Targets,
    /// The fleet's online key.
    Director,
}

/// A change of the repository that is on its way, and what the desk knows once it is accepted.
pub struct Edited {
    /// What is sent in.
    pub proposal: Proposal,
    /// What the desk knows then.
    pub after: Publisher,
}

impl Publisher {
    /// The first root and the first targets metadata.
    pub fn new() -> Self {
        let one = |holder| Authority::one(signing_key(holder).public_key().clone());
        let root = Root::new(
            1,
            expires(),
            &one(Holder::Root(1)),
            &one(Holder::Targets(1)),
            &one(Holder::Director(1)),
        );
        let root = root.sign(&[&signing_key(Holder::Root(1))]);
        let mut targets = TargetsDraft::empty(expires());
        targets
            .edit(&[TargetsEdit::Delegate(Delegation {
                role: TEAM_ROLE.parse().expect("the name is well formed"),
                keys: vec![signing_key(Holder::Team).public_key().clone()],
                threshold: 1,
                paths: vec![format!("{TEAM_FAMILY}/*")],
                terminating: true,
            })])
            .expect("the role is new");
        targets.sign(&signing_key(Holder::Targets(1)));
        let documents = BTreeMap::from([(TARGETS_ROLE, targets.to_bytes())]);
        Self { root, documents, root_key: 1, targets_key: 1, director_key: 1 }
    }

    /// The root metadata, as it is.
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// The targets metadata, as it is.
    pub fn targets(&self) -> &[u8] {
        &self.documents[TARGETS_ROLE]
    }

    /// Makes a bundle a target.
    pub fn publish(&self, specimen: &Specimen) -> Edited {
        self.edit(specimen, TargetsEdit::Add(specimen.target.clone()))
    }

    /// Takes a target back.
    pub fn revoke(&self, specimen: &Specimen) -> Edited {
        self.edit(specimen, TargetsEdit::Revoke(specimen.path()))
    }

    /// Replaces a key; nothing if that was done often enough.
    pub fn rotate(&self, rotation: Rotation) -> Option<Edited> {
        let mut after = self.clone();
        let (role, key, holder): (_, _, fn(u8) -> Holder) = match rotation {
            Rotation::Root => (Role::Root, &mut after.root_key, Holder::Root),
            Rotation::Targets => (Role::Targets, &mut after.targets_key, Holder::Targets),
            Rotation::Director => (Role::Director, &mut after.director_key, Holder::Director),
        };
        if *key == ROTATIONS_MAX {
            return None;
        }
        let old = signing_key(holder(*key)).public_key().clone();
        *key += 1;
        let new = signing_key(holder(*key)).public_key().clone();
        let edits = [RootEdit::Add(role, new), RootEdit::Revoke(role, old.id())];
        let mut root = RootDraft::after(&self.root, &edits).expect("every role keeps a key");
        root.sign(&signing_key(Holder::Root(self.root_key)));
        if rotation == Rotation::Root {
            root.sign(&signing_key(Holder::Root(after.root_key)));
        }
        after.root = root.to_bytes();
        let mut proposal = Proposal { roots: vec![text(&after.root)], ..Proposal::default() };
        if rotation == Rotation::Targets {
            let targets = TargetsDraft::after(self.targets(), &[]).expect("it is our own");
            after.keep(TARGETS_ROLE, targets, &mut proposal);
        }
        Some(Edited { proposal, after })
    }

    fn edit(&self, specimen: &Specimen, edit: TargetsEdit) -> Edited {
        let role = match specimen.target.name.as_str() {
            OWN_FAMILY => TARGETS_ROLE,
            _ => TEAM_ROLE,
        };
        let draft = match self.documents.get(role) {
            Some(current) => TargetsDraft::after(current, &[edit]).expect("the edit fits"),
            None => {
                let mut first = TargetsDraft::empty(expires());
                first.edit(&[edit]).expect("the edit fits");
                first
            }
        };
        let (mut after, mut proposal) = (self.clone(), Proposal::default());
        after.keep(role, draft, &mut proposal);
        Edited { proposal, after }
    }

    fn keep(&mut self, role: &'static str, mut draft: TargetsDraft, proposal: &mut Proposal) {
        let key = match role {
            TARGETS_ROLE => signing_key(Holder::Targets(self.targets_key)),
            _ => signing_key(Holder::Team),
        };
        draft.sign(&key);
        let bytes = draft.to_bytes();
        proposal.targets.insert(role.to_owned(), text(&bytes));
        self.documents.insert(role, bytes);
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

fn expires() -> UnixMillis {
    UnixMillis(START_MS).plus_seconds(VALID_S)
}

fn text(document: &[u8]) -> String {
    String::from_utf8(document.to_vec()).expect("metadata is JSON")
}

/// Which bundles were targets, from which version of the timestamp to which.
#[derive(Debug, Default)]
pub struct TargetHistory {
    published: BTreeMap<Digest, Vec<(u64, u64)>>,
    // The version of each timestamp, by its digest.
    timestamps: BTreeMap<Digest, u64>,
}

impl TargetHistory {
    /// There is a timestamp of that version.
    pub fn note_timestamp(&mut self, timestamp: Digest, version: u64) {
        self.timestamps.insert(timestamp, version);
    }

    /// The version of a timestamp.
    pub fn timestamp_version(&self, timestamp: Digest) -> Option<u64> {
        self.timestamps.get(&timestamp).copied()
    }

    /// With the timestamp of that version, a bundle became a target.
    pub fn publish(&mut self, bundle: Digest, timestamp: u64) {
        self.published.entry(bundle).or_default().push((timestamp, u64::MAX));
    }

    /// With the timestamp of that version, a bundle is a target no longer.
    pub fn revoke(&mut self, bundle: Digest, timestamp: u64) {
        let last = self.published.get_mut(&bundle).and_then(|spans| spans.last_mut());
        last.expect("only a target is revoked").1 = timestamp;
    }

    /// Whether whoever follows the timestamp of that version finds the bundle.
    pub fn was_target(&self, bundle: Digest, timestamp: u64) -> bool {
        let spans = self.published.get(&bundle).map_or(&[][..], Vec::as_slice);
        spans.iter().any(|(from, to)| (*from..*to).contains(&timestamp))
    }

    /// Whether it was taken back at any time.
    pub fn was_revoked(&self, bundle: Digest) -> bool {
        let spans = self.published.get(&bundle).map_or(&[][..], Vec::as_slice);
        spans.iter().any(|(_, to)| *to != u64::MAX)
    }

    /// Whether it is a target.
    pub fn is_target(&self, bundle: Digest) -> bool {
        self.was_target(bundle, u64::MAX - 1)
    }

    /// Every bundle that is a target.
    pub fn targets(&self) -> BTreeSet<Digest> {
        self.published.keys().copied().filter(|bundle| self.is_target(*bundle)).collect()
    }
}
