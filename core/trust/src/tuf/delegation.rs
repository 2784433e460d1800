//! Delegations: which other role speaks of which targets.

use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::{
    KeyId, RoleName,
    envelope::Holders,
    fields::{Fields, Read},
    hex,
    key::{Keys, read_key_ids, read_keys},
};

/// The most roles that one document delegates to.
const DELEGATIONS_MAX: usize = 1024;

/// The roles that targets metadata delegates to, in the order in which they are asked.
#[derive(Debug)]
pub(crate) struct Delegations {
    keys: Keys,
    pub(crate) roles: Vec<DelegatedRole>,
}

/// A role, and the targets that it is asked about.
#[derive(Debug)]
pub(crate) struct DelegatedRole {
    pub(crate) name: RoleName,
    /// Whether nobody else is asked about these targets.
    pub(crate) terminating: bool,
    keyids: Vec<KeyId>,
    threshold: usize,
    pub(crate) targets: TargetSet,
}

/// Which targets a role is asked about.
#[derive(Debug)]
pub(crate) enum TargetSet {
    /// Targets whose path one of these patterns matches.
    Paths(Vec<String>),
    /// Targets whose path's SHA-256 begins with one of these hexadecimal digits.
    HashPrefixes(Vec<String>),
}

impl Delegations {
    pub(crate) fn read(fields: Fields<'_>) -> Read<Self> {
        let keys = read_keys(fields.fields("keys")?)?;
        let listed = match fields.optional("roles") {
            Some(_) => fields.list("roles")?,
            None => &[],
        };
        if listed.len() > DELEGATIONS_MAX {
            return Err(format!("it delegates to more than {DELEGATIONS_MAX} roles"));
        }
        let mut roles: Vec<DelegatedRole> = Vec::new();
        for role in listed {
            let role = DelegatedRole::read(Fields::of(role)?)?;
            if roles.iter().any(|other| other.name == role.name) {
                return Err(format!("it delegates to the role {} twice", role.name));
            }
            roles.push(role);
        }
        Ok(Self { keys, roles })
    }

    /// The roles to ask about the target at `path`.
    pub(crate) fn of_target(&self, path: &str) -> impl Iterator<Item = &DelegatedRole> {
        self.roles.iter().filter(move |role| role.targets.contain(path))
    }

    /// Who may sign for `role`.
    pub(crate) fn holders(&self, role: &DelegatedRole) -> Holders {
        Holders::among(&self.keys, &role.keyids, role.threshold)
    }
}

impl DelegatedRole {
    fn read(fields: Fields<'_>) -> Read<Self> {
        let name: RoleName = fields.parsed("name")?;
        if name.is_top_level() {
            return Err(format!("it delegates to {name}, which only root can"));
        }
        let lists = (fields.optional("paths"), fields.optional("path_hash_prefixes"));
        let targets = match lists {
            (Some(_), None) => TargetSet::Paths(read_texts(fields.list("paths")?)?),
            (None, Some(_)) => {
                TargetSet::HashPrefixes(read_texts(fields.list("path_hash_prefixes")?)?)
            }
            _ => {
                return Err(format!("the role {name} has not one of paths and path_hash_prefixes"));
            }
        };
        Ok(Self {
            name,
            terminating: fields.flag("terminating")?,
            keyids: read_key_ids(fields.list("keyids")?)?,
            threshold: fields.threshold()?,
            targets,
        })
    }
}

fn read_texts(list: &[Value]) -> Read<Vec<String>> {
    let read = |text: &Value| text.as_str().map(String::from);
    let texts: Option<_> = list.iter().map(read).collect();
    texts.ok_or_else(|| "a delegation has a path that is not a string".into())
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
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
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
        let value: Value = serde_json::from_str(document).expect("the case is JSON");
        DelegatedRole::read(Fields::of(&value)?)
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
        let twice: Value = serde_json::from_str(&twice).expect("the case is JSON");
        let error = Fields::of(&twice).and_then(Delegations::read).expect_err("twice");
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
