//! Stored profiles as whoever looks for drift reads them: those of one bundle, over devices and time.

use sqlx::FromRow;

use selvedge_wire::{DeviceId, Digest, SlotName};

use super::{Store, integer, natural};
use crate::{
    Error,
    drift::{Origin, Window},
};

/// Which profiles of a bundle.
#[derive(Clone, Debug, Default)]
pub struct WindowFilter {
    /// Those of these devices; none for all.
    pub devices: Option<Vec<DeviceId>>,
    /// Those of this slot; none for all.
    pub slot: Option<SlotName>,
    /// Those that closed no later, in Unix milliseconds by the device's clock; none for all.
    pub to_ms: Option<u64>,
}

/// Profiles of a bundle.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    /// By device and slot, each in the order in which the device counted.
    pub windows: Vec<Window>,
    /// There are older ones that were not read.
    pub cut: bool,
}

#[derive(FromRow)]
struct Row {
    device: String,
    boot: u32,
    slot: String,
    window_first: i64,
    window_last: i64,
    opened_ms: i64,
    closed_ms: i64,
    profile: Vec<u8>,
}

impl Store {
    /// The profiles of `bundle` that `filter` takes: the newest ones, up to the limit.
    pub async fn windows(&self, bundle: &Digest, filter: &WindowFilter) -> Result<Windows, Error> {
        let devices = filter.devices.as_deref().map(names_of);
        let max = self.limits.drift_profiles_max;
        let mut rows: Vec<Row> = sqlx::query_as(
            "SELECT device, boot, slot, window_first, window_last, opened_ms, closed_ms, profile \
             FROM profiles WHERE bundle = $1 AND ($2 IS NULL OR slot = $2) \
             AND ($3 IS NULL OR device IN (SELECT value FROM json_each($3))) \
             AND ($4 IS NULL OR closed_ms <= $4) ORDER BY closed_ms DESC, id DESC LIMIT $5",
        )
        .bind(&bundle.0[..])
        .bind(filter.slot.as_ref().map(SlotName::as_str))
        .bind(devices)
        .bind(filter.to_ms.map(integer))
        .bind(i64::from(max) + 1)
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read profiles"))?;
        let cut = rows.len() > max as usize;
        rows.truncate(max as usize);
        let mut windows: Vec<Window> = rows.into_iter().map(Window::from).collect();
        windows.sort_by(|a, b| a.place().cmp(&b.place()));
        Ok(Windows { windows, cut })
    }
}

/// Devices as a statement takes them: a list in JSON.
pub(super) fn names_of(devices: &[DeviceId]) -> String {
    let names: Vec<&str> = devices.iter().map(DeviceId::as_str).collect();
    serde_json::to_string(&names).expect("a list of names is JSON")
}

impl From<Row> for Window {
    fn from(row: Row) -> Self {
        let origin = Origin {
            device: row.device.parse().expect("names are checked before they are stored"),
            slot: row.slot.parse().expect("names are checked before they are stored"),
        };
        Self {
            origin,
            boot: row.boot,
            first: natural(row.window_first),
            last: natural(row.window_last),
            opened_ms: natural(row.opened_ms),
            closed_ms: natural(row.closed_ms),
            profile: row.profile,
        }
    }
}
