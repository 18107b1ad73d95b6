//! NCRONTAB schedules in UTC: six fields (five mean second 0), or a time span that repeats.
//!
//! Day of month and day of week must both fit, as in the library that the host uses. Not imitated: other time zones.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::civil::DateTime;
use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan as _};

use super::app::time_span;

const MONTHS: &str = "january february march april may june july august september october november december";
const DAYS: &str = "sunday monday tuesday wednesday thursday friday saturday";

/// When a timer is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    Cron(Box<Cron>),
    Every(Duration),
}

/// The allowed values of each field, as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    second: u64,
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Only the seconds are restricted.
    only_seconds: bool,
}

impl FromStr for Schedule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut fields: Vec<&str> = text.split_whitespace().collect();
        if let [one] = fields[..] {
            let span = time_span(one).filter(|span| !span.is_zero());
            return span
                .map(Self::Every)
                .with_context(|| format!("`{text}` is neither a schedule of six fields nor a time span"));
        }
        if fields.len() == 5 {
            fields.insert(0, "0");
        }
        let [second, minute, hour, day, month, weekday] = fields[..] else {
            bail!("`{text}` is not a schedule: give six fields (second minute hour day month weekday)");
        };
        let read = |text: &str, from: u32, to: u32, names: &str| {
            field(text, from, to, names).with_context(|| format!("`{text}` is not a field of a schedule"))
        };
        Ok(Self::Cron(Box::new(Cron {
            second: read(second, 0, 59, "")?,
            minute: read(minute, 0, 59, "")?,
            hour: read(hour, 0, 23, "")?,
            day: read(day, 1, 31, "")?,
            month: read(month, 1, 12, MONTHS)?,
            weekday: read(weekday, 0, 6, DAYS)?,
            only_seconds: fields[1..].iter().all(|field| *field == "*"),
        })))
    }
}

/// A list of `*`, `n`, `n-m`, each with an optional `/step`; names may be cut short.
fn field(text: &str, from: u32, to: u32, names: &str) -> Option<u64> {
    let number = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let place = names.split(' ').position(|name| !lower.is_empty() && name.starts_with(&lower));
        let value = place.map_or_else(|| text.parse().ok(), |i| Some(u32::try_from(i).ok()? + from))?;
        (from..=to).contains(&value).then_some(value)
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            // A step of 0 counts as 1.
            Some((range, step)) => (range, Some(step.parse::<usize>().ok()?.max(1))),
            None => (part, None),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (from, to),
            Some((low, high)) => (number(low)?, number(high)?),
            None => (number(range)?, if step.is_some() { to } else { number(range)? }),
        };
        let (low, high) = (low.min(high), low.max(high));
        (low..=high).step_by(step.unwrap_or(1)).for_each(|value| bits |= 1 << value);
    }
    Some(bits)
}

impl Schedule {
    /// The first due time after `after`; none within twelve years (31 February).
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(span) => after.checked_add(*span).ok(),
            Self::Cron(cron) => cron.next(after),
        }
    }

    /// A schedule that is due more than once a minute has no stored status.
    pub(crate) fn is_frequent(&self) -> bool {
        match self {
            Self::Every(span) => *span < Duration::from_secs(60),
            Self::Cron(cron) => cron.only_seconds && cron.second.count_ones() > 1,
        }
    }

    /// What `TimerInfo.Schedule` says.
    pub(crate) fn adjusts_for_daylight(&self) -> bool {
        matches!(self, Self::Cron(_))
    }
}

fn has<T: TryInto<u32>>(bits: u64, value: T) -> bool {
    value.try_into().is_ok_and(|value| bits >> value & 1 == 1)
}

impl Cron {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let start = Offset::UTC.to_datetime(after).with().subsec_nanosecond(0).build().ok()?;
        let mut at = start.checked_add(1.second()).ok()?;
        let limit = at.checked_add(12.years()).ok()?;
        let midnight = |at: DateTime| at.date().to_datetime(jiff::civil::Time::midnight());
        while at < limit {
            if !has(self.month, at.month()) {
                at = at.date().first_of_month().checked_add(1.month()).ok()?.to_datetime(jiff::civil::Time::midnight());
            } else if !has(self.day, at.day()) || !has(self.weekday, at.weekday().to_sunday_zero_offset()) {
                at = midnight(at).checked_add(1.day()).ok()?;
            } else if !has(self.hour, at.hour()) {
                at = midnight(at).checked_add(i64::from(at.hour() + 1).hours()).ok()?;
            } else if !has(self.minute, at.minute()) {
                at = at.with().second(0).build().ok()?.checked_add(1.minute()).ok()?;
            } else if !has(self.second, at.second()) {
                at = at.checked_add(1.second()).ok()?;
            } else {
                return Offset::UTC.to_timestamp(at).ok();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_the_hosts_library_reads_them() {
        let vectors = include_str!("../../../tests/fixtures/ncrontab-vectors.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        for case in vectors["cases"].as_array().unwrap() {
            let text = case["expression"].as_str().unwrap();
            let schedule = text.parse::<Schedule>().ok();
            // A time span is read before a schedule is tried.
            let schedule = schedule.filter(|schedule| matches!(schedule, Schedule::Cron(_)));
            assert_eq!(case["valid"], schedule.is_some(), "{text}");
            let (Some(schedule), Some(series)) = (schedule, case["next"].as_array()) else { continue };
            for series in series {
                let mut after: Timestamp = series["after"].as_str().unwrap().parse().unwrap();
                for occurrence in series["occurrences"].as_array().unwrap() {
                    after = schedule.next(after).unwrap();
                    assert_eq!(after.to_string(), occurrence.as_str().unwrap(), "{text}");
                }
            }
        }
    }

    #[test]
    fn schedules_are_evaluated_in_utc() {
        let next = |schedule: &str, after: &str| {
            schedule.parse::<Schedule>().unwrap().next(after.parse().unwrap()).map(|at| at.to_string()).unwrap_or_default()
        };
        let now = "2026-03-01T10:00:00.5Z";
        assert_eq!(next("0 * * * * *", now), "2026-03-01T10:01:00Z");
        assert_eq!(next("* * * * *", now), "2026-03-01T10:01:00Z");
        assert_eq!(next("0 0 * * * *", "2026-03-01T10:00:00Z"), "2026-03-01T11:00:00Z");
        assert_eq!(next("0 */5 8-17 * * mon-fri", now), "2026-03-02T08:00:00Z");
        assert_eq!(next("0 30 9 13 * 5", now), "2026-03-13T09:30:00Z", "both days must fit");
        assert_eq!(next("30 59 23 29 feb *", now), "2028-02-29T23:59:30Z");
        assert_eq!(next("0 0 0 31 2 *", now), "");
        assert_eq!(next("01:30:00", now), "2026-03-01T11:30:00.5Z");
        assert!("0 0 0 0 1 *".parse::<Schedule>().is_err());
        assert!("* * *".parse::<Schedule>().is_err());
        let frequent = |schedule: &str| schedule.parse::<Schedule>().unwrap().is_frequent();
        assert!(frequent("*/10 * * * * *") && frequent("00:00:30") && !frequent("0 * * * * *") && !frequent("*/10 0 * * * *"));
    }
}
