//! Delegations: which other role speaks of which targets.

use std::collections::{BTreeMap, BTreeSet};

use ring::digest::{SHA256, digest};
use serde::Deserialize;

use crate::{
    KeyId, PublicKey, RoleName,
    envelope::Holders,
    hex,
    key::{distinct_ids, known_keys},
};

/// The roles that targets metadata delegates to, in the order in which they are asked.
#[derive(Debug, Deserialize)]
#[serde(try_from = "DelegationsDocument")]
pub(crate) struct Delegations {
    keys: BTreeMap<KeyId, PublicKey>,
    roles: Vec<DelegatedRole>,
}

/// A role, and the targets that it is asked about.
#[derive(Debug, Deserialize)]
#[serde(try_from = "DelegatedRoleDocument")]
pub(crate) struct DelegatedRole {
    pub(crate) name: RoleName,
    /// Whether nobody else is asked about these targets.
    pub(crate) terminating: bool,
    keyids: BTreeSet<KeyId>,
    threshold: usize,
    targets: TargetSet,
}

#[derive(Debug)]
enum TargetSet {
    /// Targets whose path one of these patterns matches.
    Paths(Vec<String>),
    /// Targets whose path's SHA-256 begins with one of these hexadecimal digits.
    HashPrefixes(Vec<String>),
}

impl Delegations {
    /// The roles to ask about the target at `path`.
    pub(crate) fn of_target(&self, path: &str) -> impl Iterator<Item = &DelegatedRole> {
        self.roles.iter().filter(move |role| role.targets.contain(path))
    }

    /// Who may sign for `role`.
    pub(crate) fn holders(&self, role: &DelegatedRole) -> Holders {
        Holders::among(&self.keys, &role.keyids, role.threshold)
    }
}

impl TargetSet {
    fn contain(&self, path: &str) -> bool {
        match self {
            Self::Paths(patterns) => patterns.iter().any(|pattern| matches(pattern, path)),
            Self::HashPrefixes(prefixes) => {
                let hash = hex::encode(digest(&SHA256, path.as_bytes()).as_ref());
                prefixes.iter().any(|prefix| hash.starts_with(prefix))
            }
        }
    }
}

/// Whether `path` has as many parts, separated by `/`, as `pattern`, and each fits. In a pattern `*`
/// stands for any characters but `/`, also for none, and `?` for one.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if part_matches(pattern, part) => {}
            _ => return false,
        }
    }
}

// Only the last star can have to take more: what an earlier one would take, that one can.
// So the time is at most the product of the lengths.
fn part_matches(pattern: &str, part: &str) -> bool {
    let (mut pattern, mut part) = (pattern.chars(), part.chars());
    let mut last_star = None;
    loop {
        let untouched = part.clone();
        match (pattern.next(), part.next()) {
            (Some('*'), _) => {
                part = untouched;
                last_star = Some((pattern.clone(), part.clone()));
            }
            (None, None) => return true,
            (Some(expected), Some(met)) if expected == '?' || expected == met => {}
            _ => {
                let Some((after_star, taken)) = &mut last_star else { return false };
                if taken.next().is_none() {
                    return false;
                }
                (pattern, part) = (after_star.clone(), taken.clone());
            }
        }
    }
}

#[derive(Deserialize)]
struct DelegationsDocument {
    #[serde(deserialize_with = "known_keys")]
    keys: BTreeMap<KeyId, PublicKey>,
    #[serde(default)]
    roles: Vec<DelegatedRole>,
}

#[derive(Deserialize)]
struct DelegatedRoleDocument {
    name: RoleName,
    #[serde(deserialize_with = "distinct_ids")]
    keyids: BTreeSet<KeyId>,
    threshold: usize,
    terminating: bool,
    paths: Option<Vec<String>>,
    path_hash_prefixes: Option<Vec<String>>,
}

impl TryFrom<DelegationsDocument> for Delegations {
    type Error = String;

    fn try_from(document: DelegationsDocument) -> Result<Self, String> {
        let DelegationsDocument { keys, roles } = document;
        let mut names = BTreeSet::new();
        if let Some(twice) = roles.iter().find(|role| !names.insert(&role.name)) {
            return Err(format!("it delegates to the role {} twice", twice.name));
        }
        Ok(Self { keys, roles })
    }
}

impl TryFrom<DelegatedRoleDocument> for DelegatedRole {
    type Error = String;

    fn try_from(document: DelegatedRoleDocument) -> Result<Self, String> {
        let DelegatedRoleDocument { name, keyids, threshold, terminating, .. } = document;
        if name.is_top_level() {
            return Err(format!("it delegates to {name}, which only root can"));
        }
        if threshold == 0 {
            return Err(format!("the role {name} has a threshold of 0"));
        }
        let targets = match (document.paths, document.path_hash_prefixes) {
            (Some(patterns), None) => TargetSet::Paths(patterns),
            (None, Some(prefixes)) => TargetSet::HashPrefixes(prefixes),
            _ => {
                return Err(format!("the role {name} has not one of paths and path_hash_prefixes"));
            }
        };
        Ok(Self { name, terminating, keyids, threshold, targets })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_matches_within_the_parts_of_a_path() {
        for (pattern, path, expected) in [
            ("*", "a", true),
            ("*", "", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("*/*", "a", false),
            ("", "", true),
            ("", "a", false),
            ("?", "a", true),
            ("?", "é", true),
            ("?", "", false),
            ("?", "/", false),
            ("*.tgz", "foo.tgz", true),
            ("*.tgz", "foo.txt", false),
            ("foo-?.tgz", "foo-1.tgz", true),
            ("foo-?.tgz", "foo-alpha.tgz", false),
            ("foo-*.tgz", "foo-alpha.tgz", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("README.md", "README.MD", false),
            ("[ab]", "a", false),
            ("targets/*.tgz", "targets/x/y.tgz", false),
            ("*", ".hidden", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    fn role(document: &str) -> Result<DelegatedRole, String> {
        serde_json::from_str(document).map_err(|error| error.to_string())
    }

    #[test]
    fn a_role_is_asked_about_targets_by_hash() {
        let role = role(
            r#"{"name":"bin","keyids":[],"threshold":1,"terminating":false,"path_hash_prefixes":["8","ab"]}"#,
        )
        .expect("the role is well formed");
        // The SHA-256 of "admin" begins with 8c69, that of "foo" with 2c26.
        assert!(role.targets.contain("admin"));
        assert!(!role.targets.contain("foo"));
    }

    #[test]
    fn a_delegation_that_could_be_misread_is_refused() {
        let good = r#"{"name":"a","keyids":["k"],"threshold":1,"terminating":false,"paths":["*"]}"#;
        assert!(role(good).is_ok());
        for (from, to, reason) in [
            (r#""name":"a""#, r#""name":"root""#, "only root can"),
            (r#""name":"a""#, r#""name":"targets""#, "only root can"),
            (r#""name":"a""#, r#""name":"""#, "1 to 80 bytes"),
            (r#""threshold":1"#, r#""threshold":0"#, "threshold of 0"),
            (r#""threshold":1"#, r#""threshold":-1"#, "invalid value"),
            (r#"["k"]"#, r#"["k","k"]"#, "twice"),
            (r#","paths":["*"]"#, "", "has not one of"),
            (r#""paths""#, r#""path_hash_prefixes":["0"],"paths""#, "has not one of"),
        ] {
            let error = role(&good.replacen(from, to, 1)).expect_err(reason);
            assert!(error.contains(reason), "{reason}: {error}");
        }
        let twice = format!(r#"{{"keys":{{}},"roles":[{good},{good}]}}"#);
        let error = serde_json::from_str::<Delegations>(&twice).expect_err("twice").to_string();
        assert!(error.contains("role a twice"), "{error}");
    }

    /// The definition, which tries everything.
    fn obviously_matches(pattern: &[char], part: &[char]) -> bool {
        match (pattern, part) {
            ([], part) => part.is_empty(),
            (['*', rest @ ..], part) => {
                (0..=part.len()).any(|taken| obviously_matches(rest, &part[taken..]))
            }
            ([first, rest @ ..], [met, part @ ..]) => {
                (*first == '?' || first == met) && obviously_matches(rest, part)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_definition_says(pattern in "[ab?*]{0,8}", part in "[ab]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            let expected = obviously_matches(&chars(&pattern), &chars(&part));
            prop_assert_eq!(part_matches(&pattern, &part), expected);
        }
    }
}
