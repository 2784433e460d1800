//! Maintenance windows, in the time zone of each device.
//!
//! A window begins on the days that it names, at a wall-clock time, and ends at the next time that the clock shows its
//! end: `22:00` to `05:00` that begins on Friday ends on Saturday. Both ends are moments, so that where a clock is put
//! forward a window that begins in the gap begins after it, and where it is put back the earlier moment counts (RFC
//! 5545, as `jiff` has it). Zones come with the program, not with the machine.

use std::{fmt, str::FromStr, sync::LazyLock};

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Time, Weekday},
    tz::{Offset, TimeZone, TimeZoneDatabase},
};
use serde::{Deserialize, Serialize};

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// How many days ahead the next window is looked for: each day of the week comes within them.
const DAYS_AHEAD: i64 = 8;

/// When devices may be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Maintenance {
    /// The label of a device that names its time zone: an IANA name or an offset such as `+02:00`.
    pub zone_label: String,
    /// The zone of devices without that label.
    pub zone: Zone,
    /// The windows; none for any time.
    pub windows: Vec<Window>,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self { zone_label: "time-zone".into(), zone: Zone::utc(), windows: Vec::new() }
    }
}

/// A time of the week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days on which it begins; empty for every day.
    #[serde(default)]
    pub days: Vec<Day>,
    /// When it begins.
    pub from: ClockTime,
    /// When it ends: later on the same day, or on the next.
    pub to: ClockTime,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the days have their names")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A time of day, `HH:MM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClockTime {
    hour: i8,
    minute: i8,
}

/// A time zone that is known.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

impl Maintenance {
    /// When a device in `zone` may be changed next: `None` if at once, else the moment in Unix milliseconds. Without
    /// windows, at once.
    pub fn opens_ms(&self, zone: &Zone, now_ms: u64) -> Option<u64> {
        if self.windows.is_empty() {
            return None;
        }
        let openings = self.windows.iter().map(|window| window.opens_ms(&zone.zone, now_ms));
        let earliest = openings.min().unwrap_or(now_ms);
        (earliest > now_ms).then_some(earliest)
    }
}

impl Window {
    /// When it is open next: `now_ms` or earlier if it is open.
    fn opens_ms(&self, zone: &TimeZone, now_ms: u64) -> u64 {
        let today = civil_day(zone, now_ms);
        let days = (-1..=DAYS_AHEAD).filter_map(|ahead| today.checked_add(ahead.days()).ok());
        let spans = days
            .filter(|day| self.days.is_empty() || self.days.iter().any(|it| it.is(day.weekday())))
            .filter_map(|day| self.span(zone, day));
        let open = spans.into_iter().find(|(_, to)| *to > now_ms).map(|(from, _)| from);
        // There is one within the week, but for the ends of the calendar, where nothing is maintained any more.
        open.unwrap_or(u64::MAX)
    }

    fn span(&self, zone: &TimeZone, day: Date) -> Option<(u64, u64)> {
        let last = if self.to > self.from { day } else { day.tomorrow().ok()? };
        let moment = |day: Date, time: ClockTime| {
            let at = day.to_datetime(Time::new(time.hour, time.minute, 0, 0).ok()?);
            let at = at.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond();
            u64::try_from(at).ok()
        };
        let span = (moment(day, self.from)?, moment(last, self.to)?);
        (span.0 < span.1).then_some(span)
    }
}

fn civil_day(zone: &TimeZone, now_ms: u64) -> Date {
    let now = i64::try_from(now_ms).ok().and_then(|now| Timestamp::from_millisecond(now).ok());
    zone.to_datetime(now.unwrap_or(Timestamp::MAX)).date()
}

impl Day {
    fn is(self, day: Weekday) -> bool {
        self as i8 == day.to_monday_zero_offset()
    }
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC }
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let zone = match name.strip_prefix(['+', '-']) {
            Some(offset) => read_offset(offset, name.starts_with('-')).map(TimeZone::fixed),
            None => ZONES.get(name).ok(),
        };
        let zone = zone.ok_or_else(|| {
            format!(
                "{name:?} is no time zone: give an IANA name such as Europe/Berlin, or an offset such as +02:00"
            )
        })?;
        Ok(Self { name: name.to_owned(), zone })
    }
}

fn read_offset(text: &str, west: bool) -> Option<Offset> {
    let time: ClockTime = text.parse().ok()?;
    let seconds = i32::from(time.hour) * 3600 + i32::from(time.minute) * 60;
    Offset::from_seconds(if west { -seconds } else { seconds }).ok()
}

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

impl FromStr for ClockTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no time of day: HH:MM, from 00:00 to 23:59");
        let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
        let read = |digits: &str, max: i8| {
            let whole = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            let number: Option<i8> = if whole { digits.parse().ok() } else { None };
            number.filter(|number| *number <= max).ok_or_else(wrong)
        };
        Ok(Self { hour: read(hour, 23)?, minute: read(minute, 59)? })
    }
}

impl TryFrom<String> for ClockTime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ClockTime> for String {
    fn from(time: ClockTime) -> Self {
        format!("{:02}:{:02}", time.hour, time.minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        let at: Timestamp = text.parse().expect("the test writes RFC 3339");
        u64::try_from(at.as_millisecond()).expect("after 1970")
    }

    fn nights() -> Maintenance {
        let window = Window {
            days: vec![Day::Fri],
            from: "22:00".parse().expect("a time"),
            to: "05:00".parse().expect("a time"),
        };
        Maintenance { windows: vec![window], ..Maintenance::default() }
    }

    #[test]
    fn a_window_is_where_the_device_is_and_goes_over_midnight() {
        // 27 November 2026 is a Friday.
        for (zone, now, opens) in [
            ("UTC", "2026-11-27T21:59:59Z", Some("2026-11-27T22:00:00Z")),
            ("UTC", "2026-11-27T22:00:00Z", None),
            ("UTC", "2026-11-28T04:59:59Z", None),
            ("UTC", "2026-11-28T05:00:00Z", Some("2026-12-04T22:00:00Z")),
            ("Asia/Tokyo", "2026-11-27T12:00:00Z", Some("2026-11-27T13:00:00Z")),
            ("Asia/Tokyo", "2026-11-27T19:59:00Z", None),
            ("-08:00", "2026-11-28T06:00:00Z", None),
        ] {
            let zone: Zone = zone.parse().expect("a zone");
            assert_eq!(nights().opens_ms(&zone, ms(now)), opens.map(ms), "{zone} {now}");
        }
    }

    #[test]
    fn a_window_that_begins_in_a_gap_begins_after_it() {
        let mut gap = nights();
        gap.windows[0].days.clear();
        gap.windows[0].from = "02:30".parse().expect("a time");
        let berlin: Zone = "Europe/Berlin".parse().expect("a zone");
        // On 28 March 2027 clocks go from 02:00 to 03:00 there.
        let opens = gap.opens_ms(&berlin, ms("2027-03-28T00:45:00Z"));
        assert_eq!(opens, Some(ms("2027-03-28T01:30:00Z")));
    }

    #[test]
    fn what_is_no_zone_and_no_time_is_named() {
        for zone in ["", "Mars/Olympus", "+25:00", "+2", "Berlin"] {
            let error = zone.parse::<Zone>().expect_err(zone);
            assert!(error.contains("is no time zone"), "{error}");
        }
        for time in ["", "24:00", "7:00", "07:60", "+7:00", "07:00:00"] {
            assert!(time.parse::<ClockTime>().is_err(), "{time}");
        }
    }
}
