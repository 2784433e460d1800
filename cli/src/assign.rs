//! `selvedge assign`: says which bundle a device should run, and waits until it does.

use std::{
    io::IsTerminal,
    path::Path,
    process::ExitCode,
    str::FromStr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;

use selvedge_bundle::{Bundle, Limits};
use selvedge_wire::{DeviceId, Digest, SlotName};

use crate::api::{Answer, Api, FleetUrl, SetDesired, Slot, Wish};

/// The slot that is meant if none is named.
const SLOT: &str = "main";

/// How often the manager is asked whether a device has got anywhere.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Says which bundle a device should run.
#[derive(Debug, Args)]
pub struct AssignArgs {
    /// The device, with /SLOT for a slot other than main
    target: Target,
    /// The bundle: a folder, or its digest
    bundle: String,
    /// The slot
    #[arg(long, value_name = "SLOT")]
    slot: Option<SlotName>,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    fleet: FleetUrl,
}

/// How the bundle takes over
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct HowArgs {
    /// Let it answer so many samples beside the bundle before, its answers unused, before it takes over
    #[arg(long, value_name = "SAMPLES", default_value_t = 0)]
    shadow: u64,
    /// Let it replace a bundle of a newer version
    #[arg(long)]
    allow_downgrade: bool,
}

impl HowArgs {
    /// What a slot should hold, if that is `bundle`.
    fn wish(self, bundle: Digest) -> Wish {
        Wish { bundle, shadow_samples: self.shadow, allow_downgrade: self.allow_downgrade }
    }
}

/// Whether to wait
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Wait until the bundle answers, and print its first answer
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout_s: u64,
}

/// A slot of a device: `DEVICE` or `DEVICE/SLOT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The device.
    pub device: DeviceId,
    /// The slot.
    pub slot: SlotName,
}

impl FromStr for Target {
    type Err = selvedge_wire::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (device, slot) = text.split_once('/').unwrap_or((text, SLOT));
        Ok(Self { device: device.parse()?, slot: slot.parse()? })
    }
}

/// Runs the command.
pub fn main(args: AssignArgs) -> Result<ExitCode> {
    let api = Api::connect(&args.fleet)?;
    let bundle = read_digest(&args.bundle)?;
    let mut target = args.target;
    if let Some(slot) = args.slot {
        target.slot = slot;
    }
    assign(&api, &[target], &bundle, args.how, &args.wait)
}

/// Says that `bundle` should run at each of `targets`, and waits if that is asked for.
pub fn assign(
    api: &Api,
    targets: &[Target],
    bundle: &Digest,
    how: HowArgs,
    wait: &WaitArgs,
) -> Result<ExitCode> {
    let mut waiting = Vec::new();
    for target in targets {
        let set = api.set_slot(&target.device, &target.slot, &how.wish(*bundle))?;
        println!("{} should run {} in {}", target.device, bundle.short(), target.slot);
        waiting.push((target, set));
    }
    if !wait.wait {
        return Ok(ExitCode::SUCCESS);
    }
    let deadline = Instant::now() + Duration::from_secs(wait.timeout_s);
    for (target, set) in waiting {
        let answer = wait_for_answer(api, target, bundle, set, deadline)?;
        println!("{}", reply(target, &answer)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn wait_for_answer(
    api: &Api,
    target: &Target,
    bundle: &Digest,
    set: SetDesired,
    deadline: Instant,
) -> Result<Answer> {
    let progress = progress();
    let first = || api.first_answer(&target.device, &target.slot, bundle, set.results_before);
    loop {
        let slot = reported_slot(api, target, set.generation)?;
        if let Some(reason) = slot.as_ref().and_then(refusal) {
            bail!("{} refuses the bundle: {reason}", target.device);
        }
        let runs = slot.as_ref().is_some_and(|slot| runs(slot, bundle));
        if runs && let Some(answer) = first()? {
            progress.finish_and_clear();
            return Ok(answer);
        }
        progress.set_message(stage(target, slot.as_ref(), runs));
        if Instant::now() >= deadline {
            progress.finish_and_clear();
            bail!("gave up waiting: {}", stage(target, slot.as_ref(), runs));
        }
        sleep(ASK_EVERY);
        progress.tick();
    }
}

/// What the device says of the slot, once it follows this generation.
fn reported_slot(api: &Api, target: &Target, generation: u64) -> Result<Option<Slot>> {
    let reported = api.device(&target.device)?.reported;
    let current = reported.filter(|reported| reported.generation >= generation);
    let slots = current.map(|reported| reported.slots).unwrap_or_default();
    Ok(slots.into_iter().find(|slot| slot.slot == target.slot.as_str()))
}

fn refusal(slot: &Slot) -> Option<&str> {
    (slot.phase == "refused").then(|| slot.reason.as_deref().unwrap_or("it does not say why"))
}

fn runs(slot: &Slot, bundle: &Digest) -> bool {
    let running = slot.running.as_ref().is_some_and(|running| running.bundle == *bundle);
    running && ["probation", "settled"].contains(&slot.phase.as_str())
}

fn stage(target: &Target, slot: Option<&Slot>, runs: bool) -> String {
    let device = &target.device;
    let Some(slot) = slot else {
        return format!("{device} has not taken note of what it should run; is its agent running?");
    };
    let reason = slot.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    match (slot.chunks_present, slot.chunks_total) {
        _ if runs => format!(
            "{device} runs the bundle, but has sent no answer; has it a source for the slot {}?",
            target.slot
        ),
        (Some(present), Some(total)) => format!("{device} has {present} of {total} chunks{reason}"),
        _ => format!("{device} is {}{reason}", slot.phase),
    }
}

fn progress() -> ProgressBar {
    if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() }
}

/// What the device says; a failure of the model is one of the command.
fn reply(target: &Target, answer: &Answer) -> Result<String> {
    let device = &target.device;
    match &answer.failure {
        Some(failure) => bail!("{device} runs the bundle, but gives no answer: {failure}"),
        None => Ok(format!("{device} answers: {}", in_words(answer))),
    }
}

fn in_words(answer: &Answer) -> String {
    let what = match (&answer.label, answer.class, &answer.values) {
        (Some(label), ..) => with_score(label, answer.score),
        (_, Some(class), _) => with_score(&format!("class {class}"), answer.score),
        (.., Some(values)) => {
            let number =
                |value: &Option<f32>| value.map_or("NaN".into(), |value| value.to_string());
            values.iter().map(number).collect::<Vec<String>>().join(", ")
        }
        _ => "nothing".into(),
    };
    format!("{what} ({} {}, {} µs)", answer.source, answer.sample, answer.latency_us)
}

fn with_score(class: &str, score: Option<f64>) -> String {
    score.map_or_else(|| class.to_owned(), |score| format!("{class} {score:.3}"))
}

/// The digest that the text is, or that of the bundle in the folder that it names.
fn read_digest(text: &str) -> Result<Digest> {
    if text.starts_with("sha256:") {
        return text.parse().with_context(|| format!("{text} is not a digest"));
    }
    if !Path::new(text).exists() {
        bail!("{text} is neither a bundle's folder nor a digest (sha256:…)");
    }
    let bundle = Bundle::open(Path::new(text), &Limits::default())
        .with_context(|| format!("cannot open the bundle {text}"))?;
    Ok(bundle.digest())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_device_and_a_slot() {
        let target = |device: &str, slot: &str| Target {
            device: device.parse().expect("a name"),
            slot: slot.parse().expect("a name"),
        };
        assert_eq!("line-1".parse(), Ok(target("line-1", "main")));
        assert_eq!("line-1/aux".parse(), Ok(target("line-1", "aux")));
        for text in ["", "/", "line-1/", "/main", "a/b/c"] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_bundle_is_told_from_one_that_cannot_be_opened() {
        let error = |text: &str| format!("{:#}", read_digest(text).expect_err("there is none"));
        assert!(error("deadbeef").contains("neither a bundle's folder nor a digest"));
        assert!(error("sha256:deadbeef").contains("is not a digest"));
        assert!(error("src").contains("cannot open the bundle src"));
    }

    #[test]
    fn answers_read_well() {
        let answer = Answer {
            source: "replay".into(),
            sample: 7,
            latency_us: 90,
            class: Some(1),
            label: None,
            score: Some(0.9876),
            values: None,
            failure: None,
        };
        assert_eq!(in_words(&answer), "class 1 0.988 (replay 7, 90 µs)");
        let labelled = Answer { label: Some("normal".into()), score: None, ..answer };
        assert_eq!(in_words(&labelled), "normal (replay 7, 90 µs)");
        let target: Target = "line-1/main".parse().expect("a device and a slot");
        let said = reply(&target, &labelled).expect("there is an answer");
        assert_eq!(said, "line-1 answers: normal (replay 7, 90 µs)");
        let failed = Answer { failure: Some("too few columns".into()), ..labelled };
        let error = reply(&target, &failed).expect_err("there is none");
        assert!(error.to_string().contains("gives no answer: too few columns"), "{error}");
    }
}
