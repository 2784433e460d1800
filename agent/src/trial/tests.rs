use selvedge_bundle::TRIAL_MEMORY_BASE_BYTES;

use super::*;

/// What the child of a test is to do; the test that is the child reads it.
const DEED: &str = "SELVEDGE_TRIAL_TEST_DEED";

fn trial(limits: TrialLimits) -> TrialArgs {
    TrialArgs::new(Path::new("/nonexistent"), Digest([1; 32]), limits)
}

fn limits() -> TrialLimits {
    let time_max = Duration::from_secs(60);
    TrialLimits { time_max, memory_bytes_max: TRIAL_MEMORY_BASE_BYTES }
}

/// A shell script in the child's place.
fn script(text: &str) -> TrialProgram {
    TrialProgram { program: "/bin/sh".into(), arguments: vec!["-c".into(), text.into()] }
}

/// This test program in the child's place: it limits itself, and then does a deed.
fn deed(name: &str) -> TrialProgram {
    let own = std::env::current_exe().expect("a process knows its program");
    let own = own.to_str().expect("cargo's folders have names in UTF-8");
    let test = "trial::tests::a_child_limits_itself_and_does_a_deed";
    script(&format!("{DEED}={name} exec {own} {test} --exact --ignored --nocapture"))
}

async fn run(program: TrialProgram, limits: TrialLimits) -> Result<(), String> {
    run_trial(&program, &trial(limits)).await
}

#[tokio::test]
async fn a_verdict_is_taken_as_it_was_printed() {
    assert_eq!(run(script("echo '\"passed\"'"), limits()).await, Ok(()));
    let unfit = run(script("echo '{\"unfit\":\"row 3 is wrong\"}'"), limits()).await;
    assert_eq!(unfit, Err("row 3 is wrong".to_owned()));
}

#[tokio::test]
async fn a_child_without_a_verdict_has_failed() {
    for (text, expected) in [
        ("echo no >&2; exit 3", "exit status: 3): no"),
        ("exit 0", "without a verdict"),
        ("echo '\"passed\" and more'", "without a verdict"),
        ("echo '\"passed\"'; kill -SEGV $$", "its trial crashed"),
        ("kill -KILL $$", "its trial was killed"),
    ] {
        let reason = run(script(text), limits()).await.expect_err(text);
        assert!(reason.contains(expected), "{text}: {reason}");
    }
}

#[tokio::test]
async fn a_child_that_talks_without_end_is_not_listened_to() {
    let reason = run(script("yes; echo '\"passed\"'"), limits()).await;
    assert!(reason.is_err());
}

#[tokio::test]
async fn a_child_that_hangs_is_killed_in_time() {
    let time_max = Duration::from_secs(1);
    // The shell becomes the sleeper, so that its end can be seen.
    let folder = tempfile::tempdir().expect("the machine has a temporary folder");
    let pid = folder.path().join("pid");
    let text = format!("echo $$ > {}; exec sleep 600", pid.display());
    let reason = run(script(&text), TrialLimits { time_max, ..limits() }).await;
    assert_eq!(reason, Err("its trial took longer than 1 s".to_owned()));
    let pid = std::fs::read_to_string(pid).expect("the child wrote it");
    let gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        // A killed child that nobody has waited for yet is a zombie.
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    let waited = timeout(Duration::from_secs(10), async {
        while !gone() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the child is gone");
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_a_reason() {
    tokio::time::pause();
    let program = TrialProgram { program: "/nonexistent/agent".into(), arguments: Vec::new() };
    let reason = run(program, limits()).await.expect_err("there is no such program");
    assert!(reason.contains("could not be started"), "{reason}");
}

#[tokio::test]
async fn a_child_that_exhausts_memory_fails_its_trial_alone() {
    let reason = run(deed("exhaust-memory"), limits()).await;
    let memory = limits().memory_bytes_max;
    let expected = format!("its trial ran out of memory: it may take {memory} bytes");
    assert_eq!(reason, Err(expected));
}

#[tokio::test]
async fn a_child_that_computes_without_end_meets_its_limit_of_processor_time() {
    // Its parent would wait longer.
    let time_max = Duration::from_secs(60);
    let reason = run(deed("compute-without-end"), TrialLimits { time_max, ..limits() }).await;
    let reason = reason.expect_err("it never ends");
    assert!(reason.contains("of processor time"), "{reason}");
}

#[test]
fn a_bundle_that_is_not_there_is_unfit() {
    let verdict = judge(&trial(limits()));
    assert!(matches!(verdict, Verdict::Unfit(reason) if !reason.is_empty()));
}

#[test]
#[ignore = "the child of the tests above"]
fn a_child_limits_itself_and_does_a_deed() {
    let deed = std::env::var(DEED).unwrap_or_default();
    let mut limits = limits();
    if deed == "compute-without-end" {
        limits.time_max = Duration::from_secs(1);
    }
    limit_self(&trial(limits)).expect("a process may limit itself");
    match deed.as_str() {
        "exhaust-memory" => {
            let mut kept = Vec::new();
            loop {
                kept.push(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
        }
        "compute-without-end" => loop {
            std::hint::spin_loop();
        },
        _ => {}
    }
}
