//! Records as the spool keeps them: encoded, and profiles that merge.

use selvedge_sketch::GatewayProfile;
use selvedge_wire::{ProfileOrigin, ProfileRecord, WindowRange};
use serde::{Serialize, de::DeserializeOwned};

/// The bytes of a record.
pub fn encode_record<T: Serialize>(record: &T) -> Vec<u8> {
    postcard::to_allocvec(record).expect("records have no map and no sequence of unknown length")
}

/// A record of these bytes.
pub(crate) fn decode_record<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

/// The bytes of a profile.
pub(crate) fn encode_profile(profile: &GatewayProfile) -> Vec<u8> {
    let mut buffer = vec![0; GatewayProfile::ENCODED_BYTES_MAX];
    let len = profile.encode(&mut buffer).expect("the buffer has the length of the longest").len();
    buffer.truncate(len);
    buffer
}

/// Merges two encoded [`ProfileRecord`]s of one origin; the first has the earlier windows.
pub fn merge_profile_records(earlier: &[u8], later: &[u8]) -> Option<Vec<u8>> {
    let earlier: ProfileRecord = decode_record(earlier)?;
    let later: ProfileRecord = decode_record(later)?;
    if !same_origin(&earlier.origin, &later.origin) || earlier.windows.last >= later.windows.first {
        return None;
    }
    let mut profile = GatewayProfile::decode(&earlier.profile).ok()?;
    profile.merge(&GatewayProfile::decode(&later.profile).ok()?).ok()?;
    Some(encode_record(&ProfileRecord {
        // The later one knows a node's newest reading.
        origin: later.origin,
        windows: WindowRange { first: earlier.windows.first, last: later.windows.last },
        opened_ms: earlier.opened_ms,
        closed_ms: later.closed_ms,
        profile: encode_profile(&profile),
    }))
}

fn same_origin(a: &ProfileOrigin, b: &ProfileOrigin) -> bool {
    match (a, b) {
        (ProfileOrigin::Node { node: a, .. }, ProfileOrigin::Node { node: b, .. }) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use selvedge_sketch::SpecId;
    use selvedge_wire::{NodeId, Quantity, Reading};

    use super::*;

    fn node(count: u32) -> ProfileOrigin {
        let quantity = Quantity::TemperatureMilliCelsius;
        let latest = Reading { count, uptime_ms: count * 1000, quantity, value: 21_000 };
        ProfileOrigin::Node { node: NodeId(7), latest }
    }

    fn record(origin: ProfileOrigin, window: u64, samples: u32) -> Vec<u8> {
        let mut profile = GatewayProfile::new(SpecId([1; 8]), 0).expect("no feature always fits");
        (0..samples).for_each(|_| profile.count_sample());
        encode_record(&ProfileRecord {
            origin,
            windows: WindowRange { first: window, last: window },
            opened_ms: window * 10,
            closed_ms: window * 10 + 10,
            profile: encode_profile(&profile),
        })
    }

    #[test]
    fn windows_of_one_origin_merge_and_keep_their_counts() {
        let merged = merge_profile_records(&record(node(4), 3, 5), &record(node(9), 4, 6));
        let merged: ProfileRecord =
            decode_record(&merged.expect("the windows are adjacent")).expect("our own");
        assert_eq!(merged.origin, node(9));
        assert_eq!(merged.windows, WindowRange { first: 3, last: 4 });
        assert_eq!((merged.opened_ms, merged.closed_ms), (30, 50));
        let profile = GatewayProfile::decode(&merged.profile).expect("our own");
        assert_eq!(profile.samples(), 11);
    }

    #[test]
    fn other_origins_the_same_window_and_garbage_do_not_merge() {
        let first = record(node(0), 3, 1);
        let other = ProfileOrigin::Model {
            slot: "main".parse().expect("the name is well formed"),
            bundle: selvedge_wire::Digest([0; 32]),
        };
        for second in [record(other, 4, 1), record(node(0), 3, 1), record(node(0), 2, 1), vec![9]] {
            assert_eq!(merge_profile_records(&first, &second), None);
        }
    }
}
