//! The dashboard as a browser shows it. `SELVEDGE_WRITE_SCREENSHOT=1` renews the README's picture.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use selvedge_tests::binary::{Leader, repository, selvedge, wait_for};
use serde_json::Value;

/// How long the devices may take to get the second version, on a busy machine.
const DEPLOY_LIMIT: Duration = Duration::from_secs(240);
/// How long the demo may take to end.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How long the browser may take for one look.
const BROWSER_LIMIT: Duration = Duration::from_secs(60);
/// Smaller than any picture of a page with something on it.
const PICTURE_BYTES_MIN: u64 = 10_000;
/// The browser as distributions call it.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

#[test]
fn a_browser_shows_every_device_with_its_bundle() {
    let Some(browser) = browser() else { return };
    let temp = tempfile::tempdir().expect("a temporary folder can be made");
    let mut demo = start_demo(temp.path());
    let address = address_after_the_second_version(&mut demo, temp.path());

    let page = look(browser, temp.path(), &address, &["--dump-dom"]);
    let missing: Vec<_> = ["line-1", "line-2", "line-3", "meter-1", "meter-2"]
        .into_iter()
        .chain(["shuttle", "meter-digits", "2.0.0"])
        .filter(|word| !page.contains(word))
        .collect();
    assert!(missing.is_empty(), "{missing:?} is not on the page:\n{page}");

    let picture = picture_path(temp.path());
    let screenshot = format!("--screenshot={}", picture.display());
    look(browser, temp.path(), &address, &[&screenshot]);
    let size = fs::metadata(&picture).expect("the browser wrote the picture").len();
    assert!(size >= PICTURE_BYTES_MIN, "{} has {size} bytes", picture.display());

    demo.signal(Signal::INT);
    demo.exit_code(END_LIMIT);
}

/// The browser's name; none where it is not installed and need not be.
fn browser() -> Option<&'static str> {
    let installed = |name: &&str| {
        let paths = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&paths).any(|folder| folder.join(name).is_file())
    };
    let found = BROWSERS.into_iter().find(installed);
    if found.is_none() {
        assert!(env::var("SELVEDGE_REQUIRE_TOOLS").is_err(), "none of {BROWSERS:?} is here");
        eprintln!("skipped: none of {BROWSERS:?} is here");
    }
    found
}

fn start_demo(temp: &Path) -> Leader {
    // A picture for people has a history to show.
    let upgrade_after = if renews_picture() { "60s" } else { "8s" };
    Leader::start(
        Command::new(selvedge())
            .args(["demo", "--headless", "--for", "600s", "--upgrade-after", upgrade_after])
            .arg("--dir")
            .arg(temp.join("state"))
            .stdin(Stdio::null())
            .stdout(File::create(temp.join("story")).expect("the folder can be written")),
    )
}

fn address_after_the_second_version(demo: &mut Leader, temp: &Path) -> String {
    wait_for("the second version", DEPLOY_LIMIT, || {
        let said = fs::read_to_string(temp.join("story")).unwrap_or_default();
        assert!(demo.runs(), "the demo ended early:\n{said}");
        said.contains("run version 2").then_some(())
    });
    let path = temp.join("state/fleet/addresses.json");
    let addresses = fs::read(&path).expect("a fleet writes its addresses");
    let addresses: Value = serde_json::from_slice(&addresses).expect("the addresses are JSON");
    format!("http://{}/", addresses["http"].as_str().expect("one of them is for HTTP"))
}

/// What the browser prints about the page.
fn look(browser: &str, temp: &Path, address: &str, action: &[&str]) -> String {
    let profile = tempfile::tempdir_in(temp).expect("the folder can be written");
    let printed = profile.path().join("printed");
    let mut process = Leader::start(
        Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--hide-scrollbars", "--window-size=1280,880"])
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .args(action)
            .arg(address)
            .stdin(Stdio::null())
            .stdout(File::create(&printed).expect("the folder can be written"))
            .stderr(Stdio::null()),
    );
    assert_eq!(process.exit_code(BROWSER_LIMIT), Some(0), "{browser} {action:?} {address}");
    fs::read_to_string(&printed).expect("the file was just made")
}

fn picture_path(temp: &Path) -> PathBuf {
    let picture = "dashboard.png";
    if renews_picture() { repository().join("docs").join(picture) } else { temp.join(picture) }
}

fn renews_picture() -> bool {
    env::var_os("SELVEDGE_WRITE_SCREENSHOT").is_some()
}
