//! NCRONTAB schedules as the Functions timer reads them, UTC.
//!
//! Not a library: the common ones differ in what they accept (Sunday as 7, `?`, `L`, `@daily`) and in how day of month
//! and day of week combine, and checking all that before would be this parser again. Vectors printed by the timer's own
//! library hold it (`tests/fixtures/ncrontab-vectors.json`). Stricter in two places: a reversed range, which that library
//! silently turns around, and a schedule that never comes are refused.

use std::time::Duration;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

const MONTHS: [&str; 12] = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
];
const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// 29 February on a given weekday comes every 28 years, around 2100 every 40.
const SEARCH_DAYS: u32 = 41 * 366;

/// One field: its name in messages, its bounds, its names of values.
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 6] = [
    Field { name: "seconds", min: 0, max: 59, names: &[] },
    Field { name: "minutes", min: 0, max: 59, names: &[] },
    Field { name: "hours", min: 0, max: 23, names: &[] },
    Field { name: "day of month", min: 1, max: 31, names: &[] },
    Field { name: "month", min: 1, max: 12, names: &MONTHS },
    Field { name: "day of week", min: 0, max: 6, names: &DAYS },
];

/// A parsed schedule: a set of values per field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    /// Bit n: value n. Seconds, minutes, hours, day of month, month, day of week.
    sets: [u64; 6],
}

impl Schedule {
    /// Five fields, or six with seconds first.
    ///
    /// # Errors
    /// One line that says what is wrong and what would be accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let parts = match parts.len() {
            5 => [&["0"], parts.as_slice()].concat(),
            6 => parts,
            n => return Err(format!("has {n} fields; NCRONTAB has five (minutes first) or six (seconds first), such as `0 */15 * * * *`")),
        };
        let mut sets = [0; 6];
        for ((set, part), field) in sets.iter_mut().zip(parts).zip(&FIELDS) {
            *set = field.parse(part)?;
        }
        let schedule = Self { text: text.to_owned(), sets };
        if schedule.next_after(Timestamp::UNIX_EPOCH).is_none() {
            return Err("never comes: no month has that day; the timer would accept it and never run".to_owned());
        }
        Ok(schedule)
    }

    /// As the user wrote it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first occurrence strictly after `after`.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let at = TimeZone::UTC.to_datetime(after);
        if self.has_day(at.date())
            && let Some(time) = self.next_time(at.time())
        {
            return on(at.date(), time);
        }
        let first = self.first_time()?;
        let mut day = at.date();
        for _ in 0..SEARCH_DAYS {
            day = day.tomorrow().ok()?;
            if self.has_day(day) {
                return on(day, first);
            }
        }
        None
    }

    /// The longest time between two neighbouring occurrences.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        let times: Vec<u32> = (0..86_400).filter(|second| self.has_second(*second)).collect();
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return Duration::MAX };
        let within = times.windows(2).map(|pair| u64::from(pair[1] - pair[0])).max().unwrap_or(0);
        let mut day = Date::constant(2024, 1, 1);
        let (mut before, mut longest_days) = (None, 0);
        for number in 0..u64::from(SEARCH_DAYS) {
            if self.has_day(day) {
                longest_days = before.map_or(longest_days, |before| longest_days.max(number - before));
                before = Some(number);
            }
            let Ok(next) = day.tomorrow() else { break };
            day = next;
        }
        let between = (longest_days.max(1) * 86_400).saturating_sub(u64::from(last - first));
        Duration::from_secs(within.max(between))
    }

    fn has(&self, field: usize, value: u32) -> bool {
        self.sets[field] & (1 << value) != 0
    }

    /// Day of month and day of week must both match.
    fn has_day(&self, day: Date) -> bool {
        let number = |n: i8| u32::try_from(n).unwrap_or_default();
        self.has(3, number(day.day())) && self.has(4, number(day.month())) && self.has(5, number(day.weekday().to_sunday_zero_offset()))
    }

    fn has_second(&self, second: u32) -> bool {
        self.has(2, second / 3_600) && self.has(1, second / 60 % 60) && self.has(0, second % 60)
    }

    fn first_time(&self) -> Option<Time> {
        let first = |field: usize| i8::try_from(self.sets[field].trailing_zeros()).ok();
        Time::new(first(2)?, first(1)?, first(0)?, 0).ok()
    }

    fn next_time(&self, after: Time) -> Option<Time> {
        let number = |n: i8| u32::try_from(n).unwrap_or_default();
        let from = number(after.hour()) * 3_600 + number(after.minute()) * 60 + number(after.second());
        let next = (from + 1..86_400).find(|second| self.has_second(*second))?;
        let part = |n: u32| i8::try_from(n).ok();
        Time::new(part(next / 3_600)?, part(next / 60 % 60)?, part(next % 60)?, 0).ok()
    }
}

fn on(day: Date, time: Time) -> Option<Timestamp> {
    TimeZone::UTC.to_timestamp(day.to_datetime(time)).ok()
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, String> {
        if text.find(',').is_some_and(|at| at > 0) {
            return text.split(',').try_fold(0, |set, part| Ok(set | self.parse(part)?));
        }
        let (range, step) = match text.split_once('/') {
            Some((range, step)) if !range.is_empty() => {
                let step: i64 = step.parse().map_err(|_| self.wrong(text, "its step is no number"))?;
                (range, Some(step))
            }
            _ => (text, None),
        };
        let (start, end) = if range == "*" {
            (self.min, self.max)
        } else if let Some((start, end)) = range.split_once('-').filter(|(start, _)| !start.is_empty()) {
            let (start, end) = (self.value(start)?, self.value(end)?);
            if start > end {
                let why = format!("a reversed range; the timer would silently read {end}-{start}");
                return Err(self.wrong(text, &why));
            }
            (start, end)
        } else {
            let value = self.value(range)?;
            (value, if step.is_some() { self.max } else { value })
        };
        let step = usize::try_from(step.unwrap_or(1)).unwrap_or(1).max(1);
        Ok((start..=end).step_by(step).fold(0, |set, value| set | 1 << value))
    }

    /// A number, or the beginning of a name.
    fn value(&self, text: &str) -> Result<u32, String> {
        if text.is_empty() {
            return Err(self.wrong(text, "an empty value"));
        }
        let lower = text.to_ascii_lowercase();
        let named = self.names.iter().position(|name| name.starts_with(&lower)).and_then(|at| u32::try_from(at).ok());
        let value = if text.starts_with(|c: char| c.is_ascii_digit()) { text.parse().ok() } else { named.map(|at| at + self.min) };
        match value {
            Some(value) if (self.min..=self.max).contains(&value) => Ok(value),
            _ => Err(self.wrong(text, "not in range")),
        }
    }

    fn wrong(&self, text: &str, why: &str) -> String {
        format!("{} `{text}`: {why}; accepted are `*`, {}–{}, lists, ranges and steps", self.name, self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepted by the timer's library, refused here, each with its reason in the head of this file.
    const STRICTER: [&str; 4] = ["0 0 22-2 * * *", "0 0 0 * * Fri-Mon", "0 10-5 * * * *", "0 0 0 30 2 *"];

    #[test]
    fn schedules_agree_with_the_timers_own_library() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/ncrontab-vectors.json")).expect("vectors");
        let mut compared = 0;
        for case in vectors["cases"].as_array().expect("cases") {
            let text = case["expression"].as_str().expect("text");
            let parsed = Schedule::parse(text);
            let valid = case["valid"] == true && !STRICTER.contains(&text);
            assert_eq!(parsed.is_ok(), valid, "`{text}`: {parsed:?}");
            let Ok(schedule) = parsed else { continue };
            for next in case["next"].as_array().expect("occurrences") {
                let mut at: Timestamp = next["after"].as_str().expect("a time").parse().expect("a time");
                for occurrence in next["occurrences"].as_array().expect("occurrences") {
                    at = schedule.next_after(at).expect("an occurrence");
                    assert_eq!(at.to_string(), occurrence.as_str().expect("a time"), "`{text}`");
                    compared += 1;
                }
            }
        }
        assert!(compared > 200, "{compared} occurrences compared");
    }

    #[test]
    fn the_longest_gap_is_that_of_the_calendar() {
        let gap = |text: &str| Schedule::parse(text).expect("a schedule").longest_gap().as_secs();
        assert_eq!(gap("0 */15 * * * *"), 900);
        assert_eq!(gap("0 0 9-17 * * *"), 16 * 3_600);
        assert_eq!(gap("0 0 3 * * Sun"), 7 * 86_400);
        assert_eq!(gap("0 0 0 31 * *"), 61 * 86_400);
        assert_eq!(gap("0 0 0 29 2 *"), 1_461 * 86_400);
    }

    #[test]
    fn messages_say_what_would_happen() {
        let error = |text: &str| Schedule::parse(text).expect_err("refused");
        assert!(error("0 0 22-2 * * *").contains("silently read 2-22"));
        assert!(error("0 0 0 30 2 *").contains("never comes"));
        assert!(error("@daily").contains("five"));
    }
}
