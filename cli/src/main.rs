//! `selvedge`, the desk tool: make, look at and try bundles, run a fleet, put models on devices, and the demo.
//!
//! One module per command: its arguments, and `main`. What a command prints goes to standard output, what it has to say
//! about itself to standard error. The exit code is 0 if what was asked for was done, 1 if not, 2 for wrong arguments.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod api;
mod assign;
mod baseline;
mod bench;
mod clock;
mod data;
mod demo;
mod desk;
mod device;
mod inspect;
mod keys;
mod labels;
mod pack;
mod publish;
mod reference;
mod repository;
mod run;
mod sign;
mod site;
mod terminal;
mod tuf;
mod verify;

/// Runs quantised models on a fleet of devices.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version)]
struct Selvedge {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pack(pack::PackArgs),
    Inspect(inspect::InspectArgs),
    Baseline(baseline::BaselineArgs),
    Verify(verify::VerifyArgs),
    Sign(sign::SignArgs),
    Run(run::RunArgs),
    Bench(bench::BenchArgs),
    Keys(keys::KeysArgs),
    Tuf(tuf::TufArgs),
    Fleet(selvedge_fleet::FleetArgs),
    Agent(selvedge_agent::AgentArgs),
    Device(device::DeviceArgs),
    Publish(publish::PublishArgs),
    Repository(repository::RepositoryArgs),
    Assign(assign::AssignArgs),
    Labels(labels::LabelsArgs),
    Site(site::SiteArgs),
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    run(std::env::args_os()).unwrap_or_else(|error| {
        eprintln!("{} {error:#}", terminal::bad("error:"));
        ExitCode::FAILURE
    })
}

/// Runs the command that `arguments` name, the program's own name first.
fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    match Selvedge::parse_from(arguments).command {
        Command::Pack(args) => pack::main(args),
        Command::Inspect(args) => inspect::main(args),
        Command::Baseline(args) => baseline::main(args),
        Command::Verify(args) => verify::main(args),
        Command::Sign(args) => sign::main(args),
        Command::Run(args) => run::main(args),
        Command::Bench(args) => bench::main(args),
        Command::Keys(args) => keys::main(args),
        Command::Tuf(args) => tuf::main(args),
        Command::Fleet(args) => Ok(selvedge_fleet::main_with(args)),
        Command::Agent(args) => Ok(selvedge_agent::main_with(args, &["agent"])),
        Command::Device(args) => device::main(args),
        Command::Publish(args) => publish::main(args),
        Command::Repository(args) => repository::main(args),
        Command::Assign(args) => assign::main(args),
        Command::Labels(args) => labels::main(args),
        Command::Site(args) => site::main(args),
        Command::Demo(args) => demo::main(args),
    }
}
