//! What a repository says about a target: through delegations, in the order of their trust.

use serde_json::Value;

use crate::{
    Answer, DocumentKind, Error, FileCheck, Next, Repository, Request, Role, RoleName,
    TrustedMetadata,
    envelope::Holders,
    hashes::Hashes,
    targets::TargetsDocument,
    tuf::{metadata::read_targets, role_name::quoted},
};

/// What a repository says about a target.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetFile {
    /// The target's path.
    pub path: String,
    /// Its length.
    pub len_bytes: u64,
    /// What else is said about it.
    pub custom: Value,
    pub(crate) hashes: Hashes,
}

impl TargetFile {
    /// A check of a file, piece by piece, for whether it is the target.
    pub fn check(&self) -> FileCheck {
        FileCheck::new(self.len_bytes, &self.hashes)
    }
}

/// Looks for a target: pre-order, depth first, in the order of delegations (TUF 1.0 §5.6.7).
///
/// A role is verified with the keys of the role that delegates to it on this way, every time.
#[derive(Debug)]
pub struct Search<'repository> {
    walk: Walk<'repository>,
    visit: Visit,
    request: Request,
}

impl Repository {
    /// Looks for the target at `path`; the outcome is nothing where no role speaks of it.
    ///
    /// # Errors
    /// As [`Search::answer`].
    pub fn search(
        &self,
        path: &str,
        trusted: &TrustedMetadata,
    ) -> Result<Next<Search<'_>, Option<TargetFile>>, Error> {
        let holders = self.root.holders(Role::Targets);
        let top = Visit { role: RoleName::targets(), holders, depth: 0 };
        let path = path.into();
        Walk { repository: self, path, to_visit: vec![top], visited: Vec::new() }.go_on(trusted)
    }

    /// How to fetch `target`: the name is relative to where the repository keeps targets.
    ///
    /// # Errors
    /// [`Error::NoKnownHash`] if no hash of the target is by a function that this build knows.
    pub fn target_request(&self, target: &TargetFile) -> Result<Request, Error> {
        let hash = target.hashes.any().ok_or(Error::NoKnownHash)?;
        let path = quoted(&target.path, |byte| b"/%!$&'()*+,;=:@".contains(&byte));
        let file = match path.rsplit_once('/') {
            _ if !self.root.consistent_snapshot() => path,
            Some((folder, name)) => format!("{folder}/{hash}.{name}"),
            None => format!("{hash}.{path}"),
        };
        Ok(Request { file, max_bytes: target.len_bytes })
    }

    /// How to fetch the metadata of `role`, which speaks of targets.
    pub(crate) fn role_request(&self, role: &RoleName) -> Result<Request, Error> {
        let unlisted = || Error::RoleUnlisted { role: role.clone() };
        let meta = self.snapshot.file(role).ok_or_else(unlisted)?;
        let version = self.root.consistent_snapshot().then_some(meta.version);
        Ok(Request {
            file: role.remote_file_name(version),
            max_bytes: meta.max_bytes(DocumentKind::Targets, self.context.limits.targets_bytes)?,
        })
    }

    /// Whether `bytes` are the top-level targets metadata.
    pub(crate) fn check_targets(&self, bytes: &[u8]) -> Result<(), Error> {
        let holders = self.root.holders(Role::Targets);
        self.read_role(bytes, &RoleName::targets(), &holders).map(drop)
    }

    fn read_role(
        &self,
        bytes: &[u8],
        role: &RoleName,
        holders: &Holders,
    ) -> Result<TargetsDocument, Error> {
        let unlisted = || Error::RoleUnlisted { role: role.clone() };
        let meta = self.snapshot.file(role).ok_or_else(unlisted)?;
        read_targets(bytes, &meta, holders, self.context.now, &self.context.limits)
    }
}

impl Search<'_> {
    /// The file that comes next: the metadata of a role.
    pub fn request(&self) -> Request {
        self.request.clone()
    }

    /// Goes on with that file.
    ///
    /// # Errors
    /// [`Error`] if the file is not believed, if the snapshot does not name a role that is asked, or if
    /// the search goes further than its limits.
    pub fn answer(
        self,
        answer: Answer,
        trusted: &mut TrustedMetadata,
    ) -> Result<Next<Self, Option<TargetFile>>, Error> {
        let Self { mut walk, visit, request } = self;
        let Answer::Found(bytes) = answer else { return Err(request.missing()) };
        let targets = walk
            .repository
            .read_role(&bytes, &visit.role, &visit.holders)
            .map_err(|error| request.refused(error))?;
        trusted.keep(visit.role.clone(), bytes);
        match walk.look_into(targets, visit) {
            Some(target) => Ok(Next::Done(Some(target))),
            None => walk.go_on(trusted),
        }
    }
}

#[derive(Debug)]
struct Walk<'repository> {
    repository: &'repository Repository,
    path: String,
    /// What comes next is last.
    to_visit: Vec<Visit>,
    visited: Vec<RoleName>,
}

/// A role, as another delegates to it.
#[derive(Debug)]
struct Visit {
    role: RoleName,
    holders: Holders,
    depth: usize,
}

impl<'repository> Walk<'repository> {
    fn go_on(
        mut self,
        trusted: &TrustedMetadata,
    ) -> Result<Next<Search<'repository>, Option<TargetFile>>, Error> {
        while let Some(visit) = self.to_visit.pop() {
            if self.visited.contains(&visit.role) {
                continue;
            }
            self.check_limits(&visit)?;
            let request = self.repository.role_request(&visit.role)?;
            let known = trusted.file(&visit.role).and_then(|bytes| {
                self.repository.read_role(bytes, &visit.role, &visit.holders).ok()
            });
            let Some(targets) = known else {
                return Ok(Next::Fetch(Search { walk: self, visit, request }));
            };
            if let Some(target) = self.look_into(targets, visit) {
                return Ok(Next::Done(Some(target)));
            }
        }
        Ok(Next::Done(None))
    }

    fn check_limits(&self, visit: &Visit) -> Result<(), Error> {
        let limits = &self.repository.context.limits;
        if self.visited.len() >= limits.roles_visited {
            return Err(Error::TooManyRoles { max: limits.roles_visited });
        }
        if visit.depth > limits.delegation_depth {
            let role = visit.role.clone();
            return Err(Error::TooDeep { role, max: limits.delegation_depth });
        }
        Ok(())
    }

    /// The target, if `targets` has it; else those that it delegates to are next.
    fn look_into(&mut self, targets: TargetsDocument, visit: Visit) -> Option<TargetFile> {
        let targets = match targets.into_target(&self.path) {
            Ok(target) => return Some(target),
            Err(targets) => targets,
        };
        self.visited.push(visit.role);
        let delegations = targets.delegations.as_ref()?;
        let mut next = Vec::new();
        for role in delegations.of_target(&self.path) {
            let holders = delegations.holders(role);
            next.push(Visit { role: role.name.clone(), holders, depth: visit.depth + 1 });
            if role.terminating {
                self.to_visit.clear();
                break;
            }
        }
        self.to_visit.extend(next.into_iter().rev());
        None
    }
}
