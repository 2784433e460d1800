//! `selvedge site`: what is usual at a site is recorded over a declared period, looked at, and approved.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use selvedge_trust::UnixMillis;
use selvedge_wire::Digest;

use crate::{
    api::{Api, ApprovedSite, FleetUrl, ProposedSite, RecordedSite, Site},
    assign::Target,
};

/// Records and approves what is usual at a site.
#[derive(Debug, Args)]
pub struct SiteArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Declares the period that is recorded: the site must be in order in it.
    Propose(ProposeArgs),
    /// Shows what was recorded and what is approved.
    Show(ShowArgs),
    /// Approves what was recorded, by the digest that `show` prints.
    Approve(ApproveArgs),
    /// Withdraws what is approved, or a declared period.
    Withdraw(WithdrawArgs),
}

#[derive(Debug, Args)]
struct ProposeArgs {
    /// The device, with /SLOT for a slot other than main
    target: Target,
    #[command(flatten)]
    period: PeriodArgs,
    /// Who declares it
    #[arg(long, value_name = "NAME")]
    by: String,
    #[command(flatten)]
    fleet: FleetUrl,
}

/// When
#[derive(Debug, Args, Serialize)]
struct PeriodArgs {
    /// From now on, for so many hours
    #[arg(long, value_name = "HOURS", required_unless_present = "from_ms", conflicts_with_all = ["from_ms", "to_ms"])]
    hours: Option<u32>,
    /// From here on: YYYY-MM-DDTHH:MM:SSZ, by the device's clock
    #[arg(long = "from", value_name = "TIME", value_parser = read_time, requires = "to_ms")]
    from_ms: Option<u64>,
    /// Up to here, which may lie in the future
    #[arg(long = "to", value_name = "TIME", value_parser = read_time, requires = "from_ms")]
    to_ms: Option<u64>,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The device, with /SLOT for a slot other than main
    target: Target,
    #[command(flatten)]
    fleet: FleetUrl,
}

#[derive(Debug, Args)]
struct ApproveArgs {
    /// The device, with /SLOT for a slot other than main
    target: Target,
    /// The digest of what was looked at
    digest: Digest,
    /// Who approves it
    #[arg(long, value_name = "NAME")]
    by: String,
    #[command(flatten)]
    fleet: FleetUrl,
}

#[derive(Debug, Args)]
struct WithdrawArgs {
    /// The device, with /SLOT for a slot other than main
    target: Target,
    /// The declared period alone; what is approved stays
    #[arg(long)]
    proposal: bool,
    #[command(flatten)]
    fleet: FleetUrl,
}

/// Runs the command.
pub fn main(args: SiteArgs) -> Result<ExitCode> {
    match args.action {
        Action::Propose(ProposeArgs { target, period, by, fleet }) => {
            let site = Api::connect(&fleet)?.propose_site(&target, &period, &by)?;
            print!("{}", in_words(&site));
        }
        Action::Show(ShowArgs { target, fleet }) => {
            print!("{}", in_words(&Api::connect(&fleet)?.site(&target)?));
        }
        Action::Approve(ApproveArgs { target, digest, by, fleet }) => {
            let set = Api::connect(&fleet)?.approve_site(&target, &digest, &by)?;
            let Target { device, slot } = &target;
            println!("{device} is told of it for {slot}, in generation {}", set.generation);
        }
        Action::Withdraw(WithdrawArgs { target, proposal, fleet }) => {
            Api::connect(&fleet)?.withdraw_site(&target, proposal)?;
            let what = if proposal { "the period" } else { "the site baseline" };
            println!("{what} of {}/{} is withdrawn", target.device, target.slot);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read_time(text: &str) -> Result<u64, String> {
    let time = UnixMillis::from_iso8601(text);
    time.map(|time| time.0).ok_or_else(|| "a time is written YYYY-MM-DDTHH:MM:SSZ".to_owned())
}

fn in_words(site: &Site) -> String {
    let approved = site.approved.iter().map(approved_in_words);
    approved.chain(site.proposal.iter().map(proposed_in_words)).collect()
}

fn approved_in_words(approved: &ApprovedSite) -> String {
    let ApprovedSite { site, approved_ms, approved_by, named, in_use, reason } = approved;
    let how = match (reason, named, in_use) {
        (Some(reason), ..) => format!("not in force: {reason}"),
        (None, _, true) => "the device judges by it".to_owned(),
        (None, ..) => "on its way to the device".to_owned(),
    };
    let at = UnixMillis(*approved_ms);
    format!("approved {at} by {approved_by}, {how}\n{}", recorded_in_words(site))
}

fn proposed_in_words(proposed: &ProposedSite) -> String {
    let ProposedSite { from_ms, to_ms, proposed_by, progress, reason, site, differs, alarms } =
        proposed;
    let (from, to) = (UnixMillis(*from_ms), UnixMillis(*to_ms));
    let mut text = format!("proposed by {proposed_by}: {from} to {to}, {progress}\n");
    text.extend(reason.iter().map(|reason| format!("  {reason}\n")));
    text.extend(site.iter().map(recorded_in_words));
    if !differs.is_empty() {
        text += &format!("  differs from the lab in {}\n", differs.join(", "));
    }
    for alarm in alarms {
        let (from, to) = (UnixMillis(alarm.from_ms), UnixMillis(alarm.to_ms));
        text += &format!("  the lab's detectors were in alarm from {from} to {to}\n");
    }
    text
}

fn recorded_in_words(site: &RecordedSite) -> String {
    let RecordedSite { digest, windows, samples, uncalibrated } = site;
    let caution = if *uncalibrated { ", uncalibrated" } else { "" };
    format!("  {digest}: {windows} windows of {samples} samples{caution}\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        site: SiteArgs,
    }

    fn parse(text: &str) -> Result<SiteArgs, String> {
        let words = ["site"].into_iter().chain(text.split_whitespace());
        Command::try_parse_from(words).map(|it| it.site).map_err(|error| error.to_string())
    }

    #[test]
    fn a_period_is_hours_from_now_or_from_one_time_to_another() {
        let times = "--from 2026-11-28T08:00:00Z --to 2026-11-29T08:00:00Z";
        let parsed = parse(&format!("propose line-1/aux {times} --by ada")).expect("it is whole");
        let Action::Propose(ProposeArgs { period, .. }) = parsed.action else {
            panic!("it is not")
        };
        let length_ms = period.to_ms.zip(period.from_ms).map(|(to_ms, from_ms)| to_ms - from_ms);
        assert_eq!(length_ms, Some(24 * 3_600_000));
        assert!(parse("propose line-1 --hours 24 --by ada").is_ok());
        for (wrong, named) in [
            ("propose line-1 --by ada", "--hours"),
            ("propose line-1 --hours 1 --from 2026-11-28T08:00:00Z --by ada", "cannot be used"),
            ("propose line-1 --from 2026-11-28T08:00:00Z --by ada", "--to"),
            ("propose line-1 --from yesterday --to today --by ada", "YYYY-MM-DD"),
            ("propose line-1 --hours 24", "--by"),
            ("approve line-1 sha256:ab --by ada", "64 lower-case"),
        ] {
            let error = parse(wrong).expect_err(wrong);
            assert!(error.contains(named), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_was_recorded_reads_well() {
        let digest = Digest([7; 32]);
        let recorded = serde_json::json!({
            "digest": digest, "windows": 36, "samples": 14_400, "uncalibrated": true,
        });
        let site = serde_json::json!({
            "proposal": {
                "from_ms": 0, "to_ms": 60_000, "proposed_by": "ada", "progress": "ready",
                "reason": null, "site": recorded, "differs": ["f3"],
                "alarms": [{ "from_ms": 1000, "to_ms": 2000 }],
            },
            "approved": {
                "site": recorded, "approved_ms": 0, "approved_by": "ada", "named": false,
                "in_use": false, "reason": "record the site anew",
            },
        });
        let text = in_words(&serde_json::from_value(site).expect("as the manager answers"));
        let expected = format!(
            "approved 1970-01-01T00:00:00Z by ada, not in force: record the site anew\n  {digest}: 36 \
             windows of 14400 samples, uncalibrated\nproposed by ada: 1970-01-01T00:00:00Z to \
             1970-01-01T00:01:00Z, ready\n  {digest}: 36 windows of 14400 samples, uncalibrated\n  \
             differs from the lab in f3\n  the lab's detectors were in alarm from \
             1970-01-01T00:00:01Z to 1970-01-01T00:00:02Z\n"
        );
        assert_eq!(text, expected);
    }
}
