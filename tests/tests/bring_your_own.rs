//! The README's *Bring your own model*, typed exactly as it stands.
//!
//! The commands use the default ports. Where the machine allows it they run in a network of their
//! own (`unshare`), so that a broker that already listens here is not in the way.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use selvedge_tests::binary::{Leader, repository, selvedge};

/// How long the commands may take, on a busy machine.
const COMMANDS_LIMIT: Duration = Duration::from_secs(120);
/// The README's heading above the commands.
const HEADING: &str = "## Bring your own model";
/// A line of the answer that the last command prints.
const COMMANDS_MAX: usize = 6;

#[test]
fn six_commands_lead_from_a_model_and_a_table_to_an_answer() {
    let commands = commands_of_readme();
    let count = commands.lines().filter(|line| line.starts_with("selvedge ")).count();
    assert!((1..=COMMANDS_MAX).contains(&count), "{count} commands:\n{commands}");

    let desk = tempfile::tempdir().expect("a temporary folder can be made");
    put_the_readers_files(desk.path());
    let said = type_commands(&commands, desk.path());
    let answer = said.lines().rev().find(|line| line.contains("line-1 answers"));
    assert!(answer.is_some(), "no answer in:\n{said}");
}

/// The one `sh` block below the heading.
fn commands_of_readme() -> String {
    let readme = fs::read_to_string(repository().join("README.md")).expect("there is a README.md");
    let (_, section) = readme.split_once(HEADING).expect("the README has the heading");
    let section = section.split("\n## ").next().expect("a split has a first part");
    let blocks: Vec<_> = section.split("```sh\n").skip(1).collect();
    assert_eq!(blocks.len(), 1, "the section has one block of commands");
    let (commands, _) = blocks[0].split_once("```").expect("the block ends");
    commands.to_owned()
}

/// A model and its table as they come from training, without a manifest.
fn put_the_readers_files(desk: &Path) {
    let shuttle = repository().join("models/shuttle");
    for (from, to) in [("v1/model.onnx", "model.onnx"), ("data/reference.csv", "reference.csv")] {
        fs::copy(shuttle.join(from), desk.join(to)).expect("the recipe has its files");
    }
}

/// What the commands print. Those in the background end with the test.
fn type_commands(commands: &str, desk: &Path) -> String {
    let printed = desk.join("printed");
    let output = File::create(&printed).expect("the folder can be written");
    let folder = selvedge().parent().map(Path::to_path_buf).expect("a file has a folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Leader::start(
        shell_in_its_own_network()
            .args(["-e", "-c", commands])
            .current_dir(desk)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the file stays open"))
            .stderr(output),
    );
    let code = shell.exit_code(COMMANDS_LIMIT);
    let said = fs::read_to_string(&printed).expect("the file was just made");
    assert_eq!(code, Some(0), "{said}");
    said
}

fn shell_in_its_own_network() -> Command {
    let isolate = ["--map-root-user", "--net", "bash", "-c", "ip link set lo up"];
    let tried = Command::new("unshare").args(isolate).stdin(Stdio::null()).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        return Command::new("bash");
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "bash", "-c"]);
    command.args([r#"ip link set lo up && exec bash "$@""#, "bash"]);
    command
}
