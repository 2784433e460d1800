//! `selvedge tuf` against the public suite theupdateframework/tuf-conformance.
//!
//! The suite is not part of the repository: `TUF_CONFORMANCE` names a checkout of it. `TUF_CONFORMANCE_PYTHON` names a
//! Python with its requirements (`pip install CHECKOUT`), else `python3` is taken. The program `faketime` must be
//! there. No case is declared as an expected failure: the suite would read such a list from a file beside the program
//! it tests, and none is there.

use std::{env, path::Path, process::Command};

use selvedge_tests::binary::selvedge;

const CHECKOUT: &str = "TUF_CONFORMANCE";
const PYTHON: &str = "TUF_CONFORMANCE_PYTHON";
/// How many cases the suite had when it was last looked at: fewer would mean that some were not found.
const CASES_MIN: usize = 113;

#[test]
fn every_case_of_the_public_suite_passes() {
    let Some(checkout) = env::var_os(CHECKOUT) else {
        println!("skipped: {CHECKOUT} not set");
        return;
    };
    let client = selvedge();
    let expected_failures = client.with_extension("xfails");
    assert!(!expected_failures.exists(), "{} would excuse failures", expected_failures.display());
    let python = env::var_os(PYTHON).unwrap_or_else(|| "python3".into());
    let output = Command::new(python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tuf_conformance", "--entrypoint"])
        .arg(format!("{} tuf", client.display()))
        .current_dir(Path::new(&checkout))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("Python can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let summary = said.lines().last().unwrap_or_default();
    println!("{summary}");
    let passed = summary.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
    assert!(passed >= CASES_MIN, "only {passed} cases passed: {summary}");
    for word in ["failed", "xfailed", "xpassed", "skipped", "error"] {
        assert!(!summary.contains(word), "{summary}");
    }
}
