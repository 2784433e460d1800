//! `selvedge demo` from outside: it keeps its promises, and leaves nothing behind however it ends.

use std::{
    fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use selvedge_tests::binary::{Leader, processes_that_name, selvedge, wait_for};
use serde_json::Value;

/// How long the demo may take to bring five devices to the first version, on a busy machine.
const DEPLOY_LIMIT: Duration = Duration::from_secs(180);
/// How long the demo's processes may live on after it was told to end.
const END_LIMIT: Duration = Duration::from_secs(30);
/// The fleet and five agents.
const PARTS: usize = 6;

#[test]
fn every_device_gets_version_2_while_no_inference_fails_and_no_result_is_missing() {
    let length = if std::env::var_os("SELVEDGE_FULL").is_some() { "60s" } else { "20s" };
    let output = Command::new(selvedge())
        .args(["demo", "--headless", "--json", "--for", length])
        .stdin(Stdio::null())
        .output()
        .expect("the demo can be started");
    let story = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{story}\n{errors}", output.status);

    let last = story.lines().last().expect("the demo prints lines");
    let figures: Value = serde_json::from_str(last).expect("the last line is one JSON object");
    let broken: Vec<_> = expectations()
        .into_iter()
        .filter(|(name, holds)| !figures[name].as_f64().is_some_and(*holds))
        .map(|(name, _)| format!("{name} = {}", figures[name]))
        .collect();
    assert!(broken.is_empty(), "{broken:?} in {figures}\n{story}");
}

type Holds = fn(f64) -> bool;

fn expectations() -> Vec<(&'static str, Holds)> {
    vec![
        ("devices", |n| n == 5.0),
        // Twenty seconds at three times 50 and two times 20 samples a second are 3,800.
        ("inferences", |n| n >= 2_000.0),
        ("failed", |n| n == 0.0),
        ("on_latest", |n| n == 5.0),
        ("sequence_gaps", |n| n == 0.0),
        ("swaps", |n| n >= 5.0),
        ("bytes_down", |n| n > 0.0),
        ("bytes_up", |n| n > 0.0),
        ("latency_us_p50", |n| n > 0.0),
        ("latency_us_p99", |n| n > 0.0),
        ("profiles", |n| n >= 5.0),
        ("agent_rss_mb_max", |n| n > 0.0),
    ]
}

#[test]
fn an_interrupt_ends_all_that_the_demo_started() {
    let mut demo = RunningDemo::start();
    demo.leader.signal(Signal::INT);
    let code = demo.leader.exit_code(END_LIMIT);
    assert!(code.is_some_and(|code| code != 0), "an unfinished demo has shown nothing: {code:?}");
    assert_eq!(processes_that_name(&demo.dir), Vec::<String>::new());
}

#[test]
fn nothing_outlives_a_demo_that_is_killed() {
    let mut demo = RunningDemo::start();
    demo.leader.signal(Signal::KILL);
    assert_eq!(demo.leader.exit_code(END_LIMIT), None);
    wait_for("the demo's parts to end", END_LIMIT, || {
        processes_that_name(&demo.dir).is_empty().then_some(())
    });
}

#[test]
fn a_folder_that_is_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(dir.path().join("kept"), "mine").expect("the folder can be written");
    let output = Command::new(selvedge())
        .args(["demo", "--headless", "--dir"])
        .arg(dir.path())
        .output()
        .expect("the demo can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("is not empty"), "{errors}");
    assert!(dir.path().join("kept").is_file());
}

/// A demo in the middle of its work.
struct RunningDemo {
    leader: Leader,
    dir: PathBuf,
    _temp: tempfile::TempDir,
}

impl RunningDemo {
    fn start() -> Self {
        let temp = tempfile::tempdir().expect("a temporary folder can be made");
        let dir = temp.path().join("state");
        let story = temp.path().join("story");
        let leader = Leader::start(
            Command::new(selvedge())
                .args(["demo", "--headless", "--for", "600s", "--dir"])
                .arg(&dir)
                .stdin(Stdio::null())
                .stdout(File::create(&story).expect("the folder can be written")),
        );
        let mut demo = Self { leader, dir, _temp: temp };
        demo.wait_until_it_streams(&story);
        demo
    }

    fn wait_until_it_streams(&mut self, story: &Path) {
        wait_for("the devices to stream", DEPLOY_LIMIT, || {
            let said = fs::read_to_string(story).unwrap_or_default();
            assert!(self.leader.runs(), "the demo ended early:\n{said}");
            said.contains("answers stream in").then_some(())
        });
        let others = processes_that_name(&self.dir).len() - 1;
        assert!(others >= PARTS, "{:#?}", processes_that_name(&self.dir));
    }
}
