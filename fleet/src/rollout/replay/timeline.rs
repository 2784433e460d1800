//! What happened in a replay, as rows that people can read.

use std::fmt;

use serde::Serialize;

use crate::rollout::{
    Member, MemberState, Outcome, Plan, Rollout, RolloutState, Wait, why::moment,
};

/// Columns of the bar.
const BAR_COLUMNS: u32 = 40;

/// A rollout from its beginning to its end, or to the end of the replay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeline {
    /// What was rolled out, for the heading.
    pub title: String,
    /// When anything changed.
    pub moments: Vec<Moment>,
}

/// Where a rollout was from a moment on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Moment {
    /// When.
    pub at_ms: u64,
    /// The members by what they have.
    pub tally: Tally,
    /// What it did, or waited for.
    pub note: String,
}

/// Members by what they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// The new bundle.
    pub new: u32,
    /// On the way to it.
    pub under_way: u32,
    /// The old one, and wait.
    pub waiting: u32,
    /// The old one, for comparison.
    pub control: u32,
    /// On the way back, or back.
    pub back: u32,
    /// Left out.
    pub skipped: u32,
}

impl Timeline {
    pub(super) fn new(rollout: &Rollout) -> Self {
        let title = format!("{} of {}", rollout.id, rollout.policy.bundle);
        Self { title, moments: Vec::new() }
    }

    pub(super) fn add(&mut self, rollout: &Rollout, plan: &Plan) {
        let mut tally = Tally::default();
        plan.members.values().for_each(|member| tally.add(member));
        let note = note(rollout, plan);
        if self.moments.last().is_some_and(|last| last.tally == tally && last.note == note) {
            return;
        }
        self.moments.push(Moment { at_ms: plan.at_ms, tally, note });
    }
}

impl Tally {
    fn add(&mut self, member: &Member) {
        let count = match member.state {
            MemberState::Waiting { .. } => &mut self.waiting,
            MemberState::Control => &mut self.control,
            MemberState::Assigned { .. } => &mut self.under_way,
            MemberState::Confirmed { .. } => &mut self.new,
            MemberState::Returning { .. } | MemberState::Returned { .. } => &mut self.back,
            MemberState::Skipped { .. } => &mut self.skipped,
        };
        *count += 1;
    }

    fn bar(self) -> String {
        let parts = [
            (self.new, '#'),
            (self.under_way, '+'),
            (self.back, '<'),
            (self.waiting, '.'),
            (self.control, 'c'),
            (self.skipped, '-'),
        ];
        let total: u32 = parts.iter().map(|(count, _)| count).sum();
        let mut bar = String::new();
        let mut before = 0;
        for (count, letter) in parts {
            let ends = |count: u32| (count * BAR_COLUMNS).checked_div(total).unwrap_or(0);
            let columns = ends(before + count) - ends(before);
            bar.extend(std::iter::repeat_n(letter, columns as usize));
            before += count;
        }
        bar
    }
}

fn note(rollout: &Rollout, plan: &Plan) -> String {
    match &plan.state {
        RolloutState::Done => "done".into(),
        RolloutState::Returning { cause } => format!("devices go back: {cause}"),
        RolloutState::Stopped { cause } => format!("stopped: {cause}"),
        RolloutState::Aborted { cause } => cause.to_string(),
        RolloutState::Running { wave } => {
            let waits: Vec<&str> = plan.waits.iter().map(wait).collect();
            let gates = plan
                .decisions
                .iter()
                .filter(|decision| decision.wave == *wave && decision.outcome == Outcome::Wait);
            let gates: Vec<&str> = gates.map(|decision| decision.measure.as_str()).collect();
            let mut note = format!("{}: {}", rollout.policy.wave_name(*wave), waits.join(", "));
            if plan.waits.iter().any(|wait| matches!(wait, Wait::Evidence { .. })) {
                note.push_str(&format!(" ({})", gates.join(", ")));
            }
            note
        }
    }
}

fn wait(wait: &Wait) -> &'static str {
    match wait {
        Wait::Resume => "paused",
        Wait::Approval { .. } => "waits for approval",
        Wait::Devices { .. } => "devices are under way",
        Wait::Rate { .. } => "the rate holds devices",
        Wait::Windows { .. } => "outside maintenance windows",
        Wait::Offline { .. } => "devices are offline",
        Wait::Soak { .. } => "soaks",
        Wait::Evidence { .. } => "waits for evidence",
        Wait::Decision { .. } => "somebody must decide without evidence",
        Wait::Return { .. } => "devices go back",
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        writeln!(f, "# new  + under way  < back  . waiting  c control  - left out")?;
        for Moment { at_ms, tally, note } in &self.moments {
            writeln!(f, "{}  [{:<40}]  {note}", moment(*at_ms), tally.bar())?;
        }
        Ok(())
    }
}
