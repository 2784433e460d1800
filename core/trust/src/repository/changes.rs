//! What changes from one state of a repository to the next, in sentences for people.

use std::collections::BTreeMap;

use crate::{
    BundleTarget, KeyId, Role, RoleName, Root,
    repository::state::{Delegation, HeldRole, RepositoryState},
};

/// How many hexadecimal digits of a key's id people are shown.
const KEY_ID_DIGITS: usize = 12;

/// What changes from `before` to `after`.
pub(crate) fn changes(before: &RepositoryState, after: &RepositoryState) -> Vec<String> {
    let mut said = Vec::new();
    let (old, new) = (before.root().root(), after.root().root());
    if old.version() != new.version() {
        root_changes(old, new, &mut said);
    }
    for role in after.held() {
        role_changes(before.held_role(&role.name), role, &mut said);
    }
    for role in before.held().iter().filter(|role| after.held_role(&role.name).is_none()) {
        said.push(format!("nobody delegates to the role {} any more", role.name));
    }
    found_changes(before, after, &mut said);
    online_changes(before, after, &mut said);
    said
}

fn root_changes(old: &Root, new: &Root, said: &mut Vec<String>) {
    said.push(format!(
        "root goes from version {} to {} and expires at {}",
        old.version(),
        new.version(),
        new.expires()
    ));
    for role in [Role::Root, Role::Targets, Role::Director] {
        let who = if role == Role::Director { "online role (director)" } else { "role" };
        let name = if role == Role::Director { String::new() } else { format!(" {role}") };
        let ids =
            |root: &Root| -> Vec<KeyId> { root.keys(role).map(|(id, _)| id.clone()).collect() };
        let (old_ids, new_ids) = (ids(old), ids(new));
        for id in new_ids.iter().filter(|id| !old_ids.contains(id)) {
            said.push(format!("the key {} holds the {who}{name}", short(id)));
        }
        for id in old_ids.iter().filter(|id| !new_ids.contains(id)) {
            said.push(format!("the key {} is revoked from the {who}{name}", short(id)));
        }
        if old.threshold(role) != new.threshold(role) {
            let (was, is) = (old.threshold(role), new.threshold(role));
            said.push(format!("the {who}{name} needs {is} signatures instead of {was}"));
        }
    }
    let lost = |role| old.holders(role).lose_a_key(&new.holders(role));
    if lost(Role::Timestamp) || lost(Role::Snapshot) {
        said.push(
            "devices forget the timestamp and the snapshot that the revoked key could have signed"
                .into(),
        );
    }
    if lost(Role::Director) {
        said.push(
            "every desired state must be signed anew: devices believe none of the revoked key"
                .into(),
        );
    }
}

fn role_changes(old: Option<&HeldRole>, new: &HeldRole, said: &mut Vec<String>) {
    let name = &new.name;
    let was = old.map_or(0, |old| old.version);
    let content = match &new.content {
        Ok(content) => content,
        Err(_) if new.version == 0 => {
            said.push(format!(
                "the role {name} has no metadata yet: nothing is found below its paths until it has"
            ));
            return;
        }
        Err(error) => {
            said.push(format!(
                "the role {name} is not believed until its holders sign it anew: {error}"
            ));
            return;
        }
    };
    let old = old.and_then(|old| old.content.as_ref().ok());
    if was != new.version {
        let from = if was == 0 { String::new() } else { format!(" from version {was}") };
        said.push(format!(
            "the role {name} goes{from} to version {} and expires at {}",
            new.version, content.expires
        ));
    }
    let none = BTreeMap::new();
    target_changes(old.map_or(&none, |old| &old.targets), &content.targets, name, said);
    let delegations = old.map_or(&[][..], |old| &old.delegations);
    delegation_changes(delegations, &content.delegations, name, said);
}

fn target_changes(
    old: &BTreeMap<String, BundleTarget>,
    new: &BTreeMap<String, BundleTarget>,
    role: &RoleName,
    said: &mut Vec<String>,
) {
    for (path, target) in new {
        let what = described(target);
        match old.get(path) {
            None => said.push(format!("{role} adds {path}: {what}")),
            Some(old) if old != target => said.push(format!("{role} changes {path}: {what}")),
            Some(_) => {}
        }
    }
    for path in old.keys().filter(|path| !new.contains_key(*path)) {
        said.push(format!("{role} revokes {path}: it can be assigned no longer"));
    }
}

fn described(target: &BundleTarget) -> String {
    let mut text = format!(
        "bundle {}, for {}",
        target.bundle().short(),
        match target.hardware_classes.join(", ").as_str() {
            "*" => "all hardware".to_owned(),
            classes => format!("hardware {classes}"),
        }
    );
    for patch in &target.patches {
        text += &format!(", a patch of {} bytes from {}", patch.len_bytes, patch.source.short());
    }
    if let Some(signature) = target.signature {
        text += &format!(", model signature {}", signature.short());
    }
    text
}

fn delegation_changes(
    old: &[Delegation],
    new: &[Delegation],
    role: &RoleName,
    said: &mut Vec<String>,
) {
    for delegation in new.iter().filter(|delegation| !old.contains(delegation)) {
        let Delegation { role: to, keys, threshold, paths, terminating } = delegation;
        let keys: Vec<String> = keys.iter().map(|key| short(&key.id())).collect();
        let only = if *terminating { ", and nobody else is asked" } else { "" };
        let keys = keys.join(", ");
        said.push(format!(
            "{role} delegates {} to the role {to}: {threshold} of the keys {keys}{only}",
            paths.join(", ")
        ));
    }
    for delegation in old.iter().filter(|old| !new.iter().any(|it| it.role == old.role)) {
        said.push(format!("{role} delegates to the role {} no longer", delegation.role));
    }
}

/// What is found elsewhere, or no longer, although no role said so itself.
fn found_changes(before: &RepositoryState, after: &RepositoryState, said: &mut Vec<String>) {
    let (old, new) = (before.resolvable(), after.resolvable());
    for (path, (speaker, target)) in &old {
        let still_named = after.targets_of(&speaker.name).is_some_and(|it| it.contains_key(*path));
        match new.get(path) {
            Some((other, _)) if other.name != speaker.name => {
                said.push(format!("{path} is what the role {} says", other.name));
            }
            None if still_named || after.content(&speaker.name).is_none() => {
                let bundle = target.bundle();
                said.push(format!("{path} (bundle {}) is not found any more", bundle.short()));
            }
            _ => {}
        }
    }
}

fn online_changes(before: &RepositoryState, after: &RepositoryState, said: &mut Vec<String>) {
    let (old, Some(new)) = (before.online(), after.online()) else { return };
    if old.map(|old| old.snapshot) != Some(new.snapshot) {
        said.push(format!("snapshot {} expires at {}", new.snapshot, new.snapshot_expires));
    }
    said.push(format!("timestamp {} expires at {}", new.timestamp, new.timestamp_expires));
}

/// The beginning of a key's id: enough for people to tell keys apart.
fn short(id: &KeyId) -> String {
    id.as_str().chars().take(KEY_ID_DIGITS).collect()
}
