//! What an operator writes: the policy of a rollout.
//!
//! [`PolicyDraft`] is what was written, in TOML or JSON with the same fields; [`Policy`] is a draft that keeps every
//! rule. An unknown key is an error, so that a misspelt limit is never a limit that is silently absent.

use std::{collections::BTreeMap, ops::Deref};

use serde::{Deserialize, Serialize};

use selvedge_wire::{Digest, SlotName};

use super::{
    FailureKind, Maintenance, Measure, Rate,
    rate::{Increase, PER_MINUTE_MAX},
};
use crate::drift::CohortQuery;

/// The most waves of one rollout.
pub const WAVES_MAX: usize = 32;

/// The most maintenance windows, and rules to abort.
pub const RULES_MAX: usize = 32;

/// The longest text of a name in a policy, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The most shadow samples of a rollout.
const SHADOW_SAMPLES_MAX: u64 = 1_000_000_000;

const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;

/// A policy that keeps every rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PolicyDraft", into = "PolicyDraft")]
pub struct Policy(PolicyDraft);

/// A field of a policy breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {reason}")]
pub struct PolicyError {
    /// The field, for example `waves[1].size`.
    pub field: String,
    /// The rule that it breaks.
    pub reason: String,
}

/// A policy as it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDraft {
    /// The bundle that devices shall have.
    pub bundle: Digest,
    /// The slot that it goes into.
    pub slot: SlotName,
    /// Which devices; all where nothing is said.
    #[serde(default)]
    pub cohort: CohortQuery,
    /// Whether devices that come into the cohort later join, as long as the last wave has not settled.
    #[serde(default = "yes")]
    pub late_joiners: bool,
    /// The steps, in order.
    pub waves: Vec<Wave>,
    /// Who keeps the old bundle meanwhile.
    #[serde(default)]
    pub control: Control,
    /// How many devices are told within a minute.
    #[serde(default)]
    pub rate: Rate,
    /// When devices may be changed.
    #[serde(default)]
    pub maintenance: Maintenance,
    /// How long things may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How often a device that failed is told again.
    #[serde(default)]
    pub retry: Retry,
    /// When failed devices alone stop the rollout: where nothing is said, half of at least five.
    #[serde(default = "half_of_five")]
    pub abort: Vec<AbortRule>,
    /// How sure gates are.
    #[serde(default)]
    pub judge: Judge,
    /// What gates look at. Where the table is missing: latency, errors, crashes and memory. An empty one is none.
    #[serde(default = "default_gates")]
    pub gates: BTreeMap<Measure, GateRule>,
    /// Where devices go back to if what they had before must not run any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_to: Option<Digest>,
    /// Samples that the bundle is given in the shadow first.
    #[serde(default)]
    pub shadow_samples: u64,
    /// Whether it may be older than what answers.
    #[serde(default)]
    pub allow_downgrade: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// What people call it.
    pub name: String,
    /// How many devices, or which.
    pub size: WaveSize,
    /// How long it is looked at after it has settled, at least.
    #[serde(default)]
    pub soak_minutes: u32,
    /// Whether somebody must approve before it starts.
    #[serde(default)]
    pub approval: bool,
    /// The share of devices that were told and must confirm.
    #[serde(default = "half")]
    pub success_percent: f64,
}

/// How many devices a wave has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaveSize {
    /// So many that with this wave this share of all devices that are to be changed was told.
    Percent(f64),
    /// So many more.
    Count(u32),
    /// Those that the query takes.
    Cohort(CohortQuery),
}

/// Who keeps the old bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// The share of the cohort; 0 for no control group.
    pub percent: f64,
    /// At least so many, but never more than half of the cohort.
    pub devices_min: u32,
    /// What becomes of them when the waves are done.
    pub after: After,
}

/// What becomes of the control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// They get the bundle, as one more wave.
    Join,
    /// They keep what they have.
    Keep,
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From telling a device to its confirmation.
    pub in_progress_minutes: u32,
    /// From the start of a wave on, so long it waits for devices that are offline.
    pub offline_minutes: u32,
    /// From the wave's having settled on, so long it waits for evidence.
    pub evidence_minutes: u32,
    /// What happens then.
    pub without_evidence: OnTimeout,
    /// From telling a device to go back on, so long the rollout waits for it.
    pub return_minutes: u32,
}

/// What happens when evidence did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTimeout {
    /// It waits for somebody who says *go on* or *abort*.
    Ask,
    /// It stops, and devices go back.
    Stop,
}

/// How often a device that failed is told again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts of one device in all.
    pub attempts_max: u32,
    /// The pause before each.
    pub backoff_minutes: u32,
}

/// Failed devices stop the rollout: at least so many were told, and at least that share of them failed. Two must
/// have failed in any case: one bad device stops nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbortRule {
    /// Which failures count; all where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureKind>,
    /// The share of devices that were told.
    pub percent: f64,
    /// Devices that were told, at least.
    pub devices_min: u32,
}

/// How sure gates are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Judge {
    /// The chance that a rollout whose bundle is no worse is stopped by any of its gates.
    pub false_stop_rate: f64,
    /// The chance that one gate lets a wave pass that is worse by what it should detect.
    pub false_go_rate: f64,
    /// What one sample counts for, beside others of the same device: η in `docs/drift.md`.
    pub temper: f64,
    /// The share of groups that must be worse. Two must be in any case, where there are two.
    pub bad_percent: f64,
    /// Groups with enough samples, at least; a wave of fewer devices has all of them.
    pub devices_min: u32,
}

/// What one gate demands. What is missing has the default of its measure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateRule {
    /// The share of bad ones that is allowed, whatever the control group has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<f64>,
    /// How much more than that, or than the control group, is no harm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// How much more must not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detect: Option<f64>,
    /// Trials of a group before it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_min: Option<u32>,
    /// Whether a wave waits for it; otherwise it can stop, but not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

/// What one gate demands, with every default in place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of GateRule")]
pub struct GateBounds {
    pub allowed: f64,
    pub tolerance: f64,
    pub detect: f64,
    pub samples_min: u32,
    pub required: bool,
}

impl Policy {
    /// Reads TOML.
    ///
    /// # Errors
    /// [`PolicyError`], which names the field.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        let read = toml::Deserializer::parse(text)
            .map_err(|error| PolicyError::new("policy", error.message()))?;
        let draft: PolicyDraft = serde_path_to_error::deserialize(read)
            .map_err(|error| PolicyError::new(error.path(), error.inner().message()))?;
        draft.try_into()
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// [`PolicyError`], which names the field.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PolicyError> {
        let mut read = serde_json::Deserializer::from_slice(bytes);
        let draft: PolicyDraft = serde_path_to_error::deserialize(&mut read)
            .map_err(|error| PolicyError::new(error.path(), error.inner()))?;
        read.end().map_err(|error| PolicyError::new("policy", error))?;
        draft.try_into()
    }

    /// What the gate of `measure` demands.
    pub fn bounds(&self, measure: Measure) -> GateBounds {
        self.gates.get(&measure).map_or(measure.bounds(), |rule| rule.bounds(measure))
    }

    /// The wave of that number; none for the control group's.
    pub fn wave(&self, wave: usize) -> Option<&Wave> {
        self.waves.get(wave)
    }

    /// What people call the wave of that number.
    pub fn wave_name(&self, wave: usize) -> &str {
        self.wave(wave).map_or("control group", |wave| &wave.name)
    }
}

impl Deref for Policy {
    type Target = PolicyDraft;

    fn deref(&self) -> &PolicyDraft {
        &self.0
    }
}

impl From<Policy> for PolicyDraft {
    fn from(policy: Policy) -> Self {
        policy.0
    }
}

impl TryFrom<PolicyDraft> for Policy {
    type Error = PolicyError;

    fn try_from(draft: PolicyDraft) -> Result<Self, PolicyError> {
        check_waves(&draft.waves)?;
        check_rest(&draft)?;
        check_gates(&draft)?;
        Ok(Self(draft))
    }
}

impl GateRule {
    fn bounds(&self, measure: Measure) -> GateBounds {
        let usual = measure.bounds();
        GateBounds {
            allowed: self.allowed.unwrap_or(usual.allowed),
            tolerance: self.tolerance.unwrap_or(usual.tolerance),
            detect: self.detect.unwrap_or(usual.detect),
            samples_min: self.samples_min.unwrap_or(usual.samples_min),
            required: self.required.unwrap_or(usual.required),
        }
    }
}

impl Timeouts {
    /// The time from telling a device to its confirmation, in milliseconds.
    pub fn in_progress_ms(&self) -> u64 {
        u64::from(self.in_progress_minutes) * MINUTE_MS
    }

    /// How long a wave waits for devices that are offline, in milliseconds.
    pub fn offline_ms(&self) -> u64 {
        u64::from(self.offline_minutes) * MINUTE_MS
    }

    /// How long a wave waits for evidence, in milliseconds.
    pub fn evidence_ms(&self) -> u64 {
        u64::from(self.evidence_minutes) * MINUTE_MS
    }

    /// How long the rollout waits for a device that goes back, in milliseconds.
    pub fn return_ms(&self) -> u64 {
        u64::from(self.return_minutes) * MINUTE_MS
    }
}

impl Retry {
    /// The pause before an attempt, in milliseconds.
    pub fn backoff_ms(&self) -> u64 {
        u64::from(self.backoff_minutes) * MINUTE_MS
    }
}

impl Wave {
    /// How long it is looked at after it has settled, in milliseconds.
    pub fn soak_ms(&self) -> u64 {
        u64::from(self.soak_minutes) * MINUTE_MS
    }
}

impl PolicyError {
    fn new(field: impl ToString, reason: impl ToString) -> Self {
        Self { field: field.to_string(), reason: reason.to_string() }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { percent: 10.0, devices_min: 2, after: After::Join }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let day = (24 * HOUR_MS / MINUTE_MS) as u32;
        Self {
            in_progress_minutes: 60,
            offline_minutes: day,
            evidence_minutes: 7 * day,
            without_evidence: OnTimeout::Ask,
            return_minutes: day,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts_max: 1, backoff_minutes: 10 }
    }
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            false_stop_rate: 0.01,
            false_go_rate: 0.05,
            temper: 0.5,
            bad_percent: 25.0,
            devices_min: 2,
        }
    }
}

fn yes() -> bool {
    true
}

fn half() -> f64 {
    50.0
}

fn half_of_five() -> Vec<AbortRule> {
    vec![AbortRule { failure: None, percent: 50.0, devices_min: 5 }]
}

fn default_gates() -> BTreeMap<Measure, GateRule> {
    Measure::DEFAULTS.into_iter().map(|measure| (measure, GateRule::default())).collect()
}

fn check_waves(waves: &[Wave]) -> Result<(), PolicyError> {
    if !(1..=WAVES_MAX).contains(&waves.len()) {
        return Err(PolicyError::new(
            "waves",
            format!("1 to {WAVES_MAX} of them, not {}", waves.len()),
        ));
    }
    let mut reached = 0.0;
    for (index, wave) in waves.iter().enumerate() {
        let field = |name: &str| format!("waves[{index}].{name}");
        if !(1..=NAME_BYTES_MAX).contains(&wave.name.len()) || wave.name.contains(char::is_control)
        {
            let rule = format!("1 to {NAME_BYTES_MAX} bytes without control characters");
            return Err(PolicyError::new(field("name"), rule));
        }
        in_range(&field("success_percent"), wave.success_percent, 0.0, 100.0)?;
        match wave.size {
            WaveSize::Percent(percent) => {
                in_range(&field("size.percent"), percent, f64::MIN_POSITIVE, 100.0)?;
                if percent <= reached {
                    let rule = format!(
                        "shares add up: it must be above the {reached} % of the wave before, not {percent}"
                    );
                    return Err(PolicyError::new(field("size.percent"), rule));
                }
                reached = percent;
            }
            WaveSize::Count(0) => {
                return Err(PolicyError::new(field("size.count"), "at least 1, not 0"));
            }
            WaveSize::Count(_) | WaveSize::Cohort(_) => {}
        }
    }
    Ok(())
}

fn check_rest(draft: &PolicyDraft) -> Result<(), PolicyError> {
    in_range("control.percent", draft.control.percent, 0.0, 50.0)?;
    match draft.rate {
        Rate::Constant { per_minute } => whole("rate.per_minute", per_minute, 1, PER_MINUTE_MAX)?,
        Rate::Exponential { base_per_minute, factor, increase } => {
            whole("rate.base_per_minute", base_per_minute, 1, PER_MINUTE_MAX)?;
            in_range("rate.factor", factor, 1.1, 5.0)?;
            let (Increase::EveryNotified(every) | Increase::EverySucceeded(every)) = increase;
            whole("rate.increase", every, 1, u32::MAX)?;
        }
    }
    for (field, minutes) in [
        ("timeouts.in_progress_minutes", draft.timeouts.in_progress_minutes),
        ("timeouts.offline_minutes", draft.timeouts.offline_minutes),
        ("timeouts.evidence_minutes", draft.timeouts.evidence_minutes),
        ("timeouts.return_minutes", draft.timeouts.return_minutes),
    ] {
        whole(field, minutes, 1, 92 * 24 * 60)?;
    }
    whole("retry.attempts_max", draft.retry.attempts_max, 1, 10)?;
    whole("retry.backoff_minutes", draft.retry.backoff_minutes, 1, 7 * 24 * 60)?;
    for (index, rule) in draft.abort.iter().enumerate() {
        in_range(&format!("abort[{index}].percent"), rule.percent, f64::MIN_POSITIVE, 100.0)?;
        whole(&format!("abort[{index}].devices_min"), rule.devices_min, 1, u32::MAX)?;
    }
    let rules = draft.abort.len().max(draft.maintenance.windows.len());
    if rules > RULES_MAX {
        let rule = format!("at most {RULES_MAX} windows and rules, not {rules}");
        return Err(PolicyError::new("maintenance.windows or abort", rule));
    }
    for (index, window) in draft.maintenance.windows.iter().enumerate() {
        if window.from == window.to {
            let field = format!("maintenance.windows[{index}].to");
            return Err(PolicyError::new(field, "a window does not end when it begins"));
        }
    }
    if draft.return_to == Some(draft.bundle) {
        return Err(PolicyError::new(
            "return_to",
            "another bundle than the one that is rolled out",
        ));
    }
    if draft.shadow_samples > SHADOW_SAMPLES_MAX {
        return Err(PolicyError::new("shadow_samples", format!("at most {SHADOW_SAMPLES_MAX}")));
    }
    Ok(())
}

fn check_gates(draft: &PolicyDraft) -> Result<(), PolicyError> {
    let judge = &draft.judge;
    in_range("judge.false_stop_rate", judge.false_stop_rate, 1e-6, 0.5)?;
    in_range("judge.false_go_rate", judge.false_go_rate, 1e-6, 0.5)?;
    in_range("judge.temper", judge.temper, 0.01, 1.0)?;
    in_range("judge.bad_percent", judge.bad_percent, 0.0, 100.0)?;
    whole("judge.devices_min", judge.devices_min, 1, 16)?;
    for (&measure, rule) in &draft.gates {
        let field = |name: &str| format!("gates.{}.{name}", measure.as_str());
        let bounds = rule.bounds(measure);
        in_range(&field("allowed"), bounds.allowed, 0.0, 1.0)?;
        in_range(&field("tolerance"), bounds.tolerance, 0.0, 1.0)?;
        in_range(&field("detect"), bounds.detect, f64::MIN_POSITIVE, 1.0)?;
        whole(&field("samples_min"), bounds.samples_min, 1, 1_000_000_000)?;
        if bounds.detect <= bounds.tolerance {
            let rule =
                format!("above the tolerance of {}, not {}", bounds.tolerance, bounds.detect);
            return Err(PolicyError::new(field("detect"), rule));
        }
        if measure.needs_control() && draft.control.percent == 0.0 {
            let rule = "it means nothing without a control group: set control.percent above 0";
            return Err(PolicyError::new(format!("gates.{}", measure.as_str()), rule));
        }
    }
    Ok(())
}

fn in_range(field: &str, value: f64, min: f64, max: f64) -> Result<(), PolicyError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let least = if min == f64::MIN_POSITIVE { "above 0".into() } else { format!("from {min}") };
    Err(PolicyError::new(field, format!("{least} to {max}, not {value}")))
}

fn whole(field: &str, value: u32, min: u32, max: u32) -> Result<(), PolicyError> {
    let good = (min..=max).contains(&value);
    let error = || PolicyError::new(field, format!("from {min} to {max}, not {value}"));
    good.then_some(()).ok_or_else(error)
}
