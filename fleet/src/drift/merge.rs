//! Profiles of any devices, slots and times, added up.

use selvedge_bundle::Baseline;
use selvedge_sketch::GatewayProfile;
use selvedge_wire::{DeviceId, SlotName};

/// Whose samples were counted: a slot of a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The device.
    pub device: DeviceId,
    /// Its slot.
    pub slot: SlotName,
}

/// A stored profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Whose samples it counts.
    pub origin: Origin,
    /// The run that counted.
    pub boot: u32,
    /// The first window that it stands for.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// When the first one opened, in Unix milliseconds by the device's clock.
    pub opened_ms: u64,
    /// When the last one closed.
    pub closed_ms: u64,
    /// The encoded profile.
    pub profile: Vec<u8>,
}

impl Window {
    /// How many windows it stands for.
    pub fn span(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// What windows are sorted by: the origin, and there the order in which the device counted.
    pub fn place(&self) -> (&Origin, u32, u64) {
        (&self.origin, self.boot, self.first)
    }

    /// The profile, if it can be read and was counted in the bins of `baseline`.
    pub fn read(&self, baseline: &Baseline) -> Option<GatewayProfile> {
        GatewayProfile::decode(&self.profile).ok().filter(|profile| baseline.fits(profile))
    }
}

/// Profiles that were added up.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The sum.
    pub profile: GatewayProfile,
    /// How many profiles it is of.
    pub profiles: u64,
    /// How many windows these stand for.
    pub windows: u64,
    /// Profiles that are not in it: they cannot be read, or were counted in other bins.
    pub unreadable: u64,
    /// When the earliest window opened, and when the latest closed; none without one.
    pub range_ms: Option<(u64, u64)>,
}

/// Adds up `windows`. The order does not matter: the same profiles give the same bytes.
pub fn merge<'a>(baseline: &Baseline, windows: impl IntoIterator<Item = &'a Window>) -> Merged {
    let empty = GatewayProfile::new(baseline.spec_id(), baseline.features().len());
    let mut merged = Merged {
        profile: empty.expect("a baseline has no more features than a profile"),
        profiles: 0,
        windows: 0,
        unreadable: 0,
        range_ms: None,
    };
    for window in windows {
        let added =
            window.read(baseline).is_some_and(|profile| merged.profile.merge(&profile).is_ok());
        if !added {
            merged.unreadable += 1;
            continue;
        }
        merged.profiles += 1;
        merged.windows = merged.windows.saturating_add(window.span());
        let (opened_ms, closed_ms) = (window.opened_ms, window.closed_ms);
        let (first, last) = merged.range_ms.unwrap_or((opened_ms, closed_ms));
        merged.range_ms = Some((first.min(opened_ms), last.max(closed_ms)));
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        name,
        reference::{Noise, baseline, encoded, profile},
    };

    static BASELINE: LazyLock<Baseline> = LazyLock::new(|| baseline(50));
    /// Windows of a few samples from four devices.
    static WINDOWS: LazyLock<Vec<Window>> = LazyLock::new(|| {
        let mut noise = Noise(5);
        let window = |at: u64| Window {
            origin: Origin {
                device: name(&format!("line-{}", at % 4)),
                slot: "main".parse().expect("the name is well formed"),
            },
            boot: 1,
            first: at / 4,
            last: at / 4,
            opened_ms: at * 10,
            closed_ms: at * 10 + 40,
            profile: encoded(&profile(&BASELINE, &mut noise, at as usize % 7, at as f32 / 8.0)),
        };
        (0..24).map(window).collect()
    });

    fn bytes(windows: &[Window]) -> Vec<u8> {
        encoded(&merge(&BASELINE, windows).profile)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_order_and_any_grouping_give_the_same_bytes(
            order in Just((0..24).collect::<Vec<usize>>()).prop_shuffle(),
            cuts in prop::collection::vec(1..24usize, 0..6),
        ) {
            let shuffled: Vec<Window> = order.iter().map(|&at| WINDOWS[at].clone()).collect();
            let mut groups: Vec<Window> = Vec::new();
            let mut begin = 0;
            let mut ends = cuts;
            ends.sort_unstable();
            ends.dedup();
            for end in ends.into_iter().chain([24]) {
                let part = &shuffled[begin..end];
                groups.push(Window { profile: bytes(part), ..part[0].clone() });
                begin = end;
            }
            prop_assert_eq!(bytes(&shuffled), bytes(&WINDOWS));
            prop_assert_eq!(bytes(&groups), bytes(&WINDOWS));
        }
    }

    #[test]
    fn what_was_counted_in_other_bins_is_left_out_and_counted() {
        let other = baseline(60);
        let mut windows = WINDOWS[..4].to_vec();
        // What comes first must not decide how wide all others are.
        let mut odd = profile(&BASELINE, &mut Noise(3), 5, 0.0);
        odd.outputs_mut().observe_embedding(&[1i8, 2]).expect("it is the first");
        windows[0].profile = encoded(&odd);
        windows[2].profile = encoded(&profile(&other, &mut Noise(3), 5, 0.0));
        windows[3].profile.truncate(4);
        let merged = merge(&BASELINE, &windows);
        assert_eq!((merged.profiles, merged.unreadable), (1, 3));
        assert_eq!(merged.range_ms, Some((10, 50)));
    }
}
