//! Which faults a run has, how often, and how many there were.
//!
//! Each seed has its own weather: every kind of fault is left out by chance, or is rare, or is frequent.
//! A run with all of them all the time would never get far enough to meet those that come late.

use std::fmt;

use crate::dice::Dice;

/// What goes wrong, or changes, by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A connection ends; some of what was on its way arrives, without a receipt.
    ConnectionLost,
    /// A message comes twice.
    Duplicated,
    /// A message overtakes those of other topics.
    Reordered,
    /// A queue at the broker is full, and a message is dropped.
    QueueFull,
    /// The broker restarts and keeps all.
    BrokerRestarted,
    /// The broker restarts and loses sessions, retained messages, or both, or brings back old ones.
    BrokerLostState,
    /// The power of a device fails between two operations of its disk.
    PowerCut,
    /// The power of a device fails again while it starts.
    PowerCutInRecovery,
    /// The agent is killed between two operations of its disk; the disk keeps all.
    Killed,
    /// The agent is told to end, and starts again.
    Restarted,
    /// The disk of a device is full for a while.
    DiskFull,
    /// An operation of a device's disk fails once.
    DiskError,
    /// The clock of a device jumps.
    ClockJump,
    /// A device starts without knowing the time.
    ClockUnset,
    /// The fleet ends between a commit and its acknowledgements, or at any other time, and starts again.
    FleetRestarted,
    /// The fleet ends after a commit, before it says so to anybody.
    FleetEndedAfterCommit,
    /// What a device should run is changed.
    Reassigned,
    /// A target is published.
    Published,
    /// A target is taken back.
    Revoked,
    /// The root is replaced by the next one, with other keys.
    RootRotated,
    /// A bundle fails its trial, hangs in it, or does not load.
    BundleUnfit,
    /// A bundle fails its probation by its answers.
    BundleWorse,
    /// A bundle brings the agent down.
    BundleCrashed,
    /// An older version is wanted, without permission.
    DowngradeForbidden,
    /// An older version is wanted, with permission.
    DowngradeAllowed,
    /// Hours or days pass at once.
    LongSilence,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 26] = [
        Self::ConnectionLost,
        Self::Duplicated,
        Self::Reordered,
        Self::QueueFull,
        Self::BrokerRestarted,
        Self::BrokerLostState,
        Self::PowerCut,
        Self::PowerCutInRecovery,
        Self::Killed,
        Self::Restarted,
        Self::DiskFull,
        Self::DiskError,
        Self::ClockJump,
        Self::ClockUnset,
        Self::FleetRestarted,
        Self::FleetEndedAfterCommit,
        Self::Reassigned,
        Self::Published,
        Self::Revoked,
        Self::RootRotated,
        Self::BundleUnfit,
        Self::BundleWorse,
        Self::BundleCrashed,
        Self::DowngradeForbidden,
        Self::DowngradeAllowed,
        Self::LongSilence,
    ];

    /// In how many of 1000 occasions it happens where it is frequent.
    const fn per_mille_max(self) -> u32 {
        match self {
            Self::Reordered => 600,
            Self::Duplicated => 100,
            Self::PowerCutInRecovery => 400,
            Self::ClockUnset => 500,
            Self::PowerCut | Self::Killed => 60,
            Self::ConnectionLost | Self::DiskError | Self::Reassigned => 40,
            Self::DiskFull | Self::Restarted | Self::ClockJump | Self::FleetEndedAfterCommit => 20,
            Self::BrokerRestarted | Self::BrokerLostState | Self::FleetRestarted => 15,
            Self::Published | Self::Revoked | Self::RootRotated | Self::LongSilence => 15,
            // These have no rate of their own: they follow from what is assigned, or from a limit.
            Self::QueueFull
            | Self::BundleUnfit
            | Self::BundleWorse
            | Self::BundleCrashed
            | Self::DowngradeForbidden
            | Self::DowngradeAllowed => 0,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectionLost => "connection lost",
            Self::Duplicated => "message duplicated",
            Self::Reordered => "message reordered across topics",
            Self::QueueFull => "message lost: queue full",
            Self::BrokerRestarted => "broker restarted",
            Self::BrokerLostState => "broker restarted and lost state",
            Self::PowerCut => "power cut",
            Self::PowerCutInRecovery => "power cut in recovery",
            Self::Killed => "agent killed",
            Self::Restarted => "agent restarted in order",
            Self::DiskFull => "disk full",
            Self::DiskError => "disk error",
            Self::ClockJump => "clock jumped",
            Self::ClockUnset => "clock unset",
            Self::FleetRestarted => "fleet restarted",
            Self::FleetEndedAfterCommit => "fleet ended after a commit",
            Self::Reassigned => "desired state changed",
            Self::Published => "target published",
            Self::Revoked => "target revoked",
            Self::RootRotated => "root rotated",
            Self::BundleUnfit => "bundle failed its trial or loading",
            Self::BundleWorse => "bundle failed its probation",
            Self::BundleCrashed => "bundle crashed the agent",
            Self::DowngradeForbidden => "downgrade without permission",
            Self::DowngradeAllowed => "downgrade with permission",
            Self::LongSilence => "hours or days passed",
        })
    }
}

/// How often each kind of fault happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl FaultCounts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }

    /// How often a kind happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// How often each kind happened.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL.into_iter().zip(self.0)
    }

    /// How many there were of all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// The faults of one run.
#[derive(Clone, Debug)]
pub struct Faults {
    per_mille: [u32; Fault::ALL.len()],
    counts: FaultCounts,
    dice: Dice,
}

impl Faults {
    /// The weather of a run.
    pub fn by_chance(mut dice: Dice) -> Self {
        let per_mille = Fault::ALL.map(|fault| match dice.below(4) {
            0 => 0,
            1 => fault.per_mille_max().div_ceil(8),
            2 => fault.per_mille_max().div_ceil(2),
            _ => fault.per_mille_max(),
        });
        Self { per_mille, counts: FaultCounts::default(), dice }
    }

    /// No fault at all.
    #[cfg(test)]
    pub fn none() -> Self {
        Self::only(&[], 0, Dice::of(0))
    }

    /// Some kinds, each in `per_mille` of 1000 occasions.
    #[cfg(test)]
    pub fn only(kinds: &[Fault], per_mille: u32, dice: Dice) -> Self {
        let per_mille = Fault::ALL.map(|fault| if kinds.contains(&fault) { per_mille } else { 0 });
        Self { per_mille, counts: FaultCounts::default(), dice }
    }

    /// From now on nothing goes wrong.
    pub fn calm(&mut self) {
        self.per_mille = [0; Fault::ALL.len()];
    }

    /// Whether a fault happens on this occasion; whoever makes it happen counts it.
    pub fn happens(&mut self, fault: Fault) -> bool {
        let per_mille = self.per_mille[fault as usize];
        per_mille > 0 && self.dice.chance(per_mille)
    }

    /// Whether a fault happens on this occasion; it is counted.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        let happens = self.happens(fault);
        if happens {
            self.count(fault);
        }
        happens
    }

    /// Notes that a fault has happened.
    pub fn count(&mut self, fault: Fault) {
        self.counts.0[fault as usize] += 1;
    }

    /// How often each kind happened.
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stand_in_the_order_of_their_numbers() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index, "{fault}");
        }
    }

    #[test]
    fn after_the_calm_nothing_happens() {
        let mut faults = Faults::only(&Fault::ALL, 1000, Dice::of(3));
        assert!(faults.strikes(Fault::PowerCut));
        faults.calm();
        assert!(Fault::ALL.into_iter().all(|fault| !faults.strikes(fault)));
        assert_eq!(faults.counts().total(), 1);
    }
}
