//! NCRONTAB schedules as the Functions timer reads them, UTC. Knows no job and asks no clock.
//!
//! Our own evaluator: the timer's library takes names by their beginning (`J`, `JANUARY`), steps of 0, and wants day of
//! month *and* day of week to match, while it has no `7`, `?`, `L`, `W` or `#`. `croner` differs in each, so every field
//! would have to be parsed here before it could be handed over; what is left after that parsing is the few loops below.
//! Stricter than the timer in two places: a reversed range and a schedule that never comes are refused.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::Offset;

/// A parsed schedule. It comes at least once in 40 years (a 29 February on a given day of the week, over 2100).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// One bit per value that matches, as in the other fields.
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Sunday is 0.
    weekdays: u64,
}

/// One field of an expression.
struct Field {
    name: &'static str,
    first: u64,
    last: u64,
    /// The name of the first value, of the next, …; any beginning of a name stands for it, the first that fits wins.
    names: &'static [&'static str],
}

const FIELDS: [Field; 6] = [
    Field { name: "second", first: 0, last: 59, names: &[] },
    Field { name: "minute", first: 0, last: 59, names: &[] },
    Field { name: "hour", first: 0, last: 23, names: &[] },
    Field { name: "day of month", first: 1, last: 31, names: &[] },
    Field {
        name: "month",
        first: 1,
        last: 12,
        names: &[
            "january",
            "february",
            "march",
            "april",
            "may",
            "june",
            "july",
            "august",
            "september",
            "october",
            "november",
            "december",
        ],
    },
    Field {
        name: "day of week",
        first: 0,
        last: 6,
        names: &["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"],
    },
];

const DAY_SECONDS: u64 = 86_400;

impl Schedule {
    /// Five fields, or six with seconds first.
    ///
    /// # Errors
    /// One line that says what is wrong and what would be accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut texts: Vec<&str> = text.split_whitespace().collect();
        if texts.len() == 5 {
            texts.insert(0, "0");
        }
        let [second, minute, hour, day, month, weekday] = texts[..] else {
            return Err(format!(
                "{} fields, but a schedule has six (second minute hour day month day-of-week) or five (without seconds), as in `0 */15 * * * *`",
                texts.len()
            ));
        };
        let [seconds, minutes, hours, days, months, weekdays] = &FIELDS;
        let schedule = Self {
            seconds: seconds.parse(second)?,
            minutes: minutes.parse(minute)?,
            hours: hours.parse(hour)?,
            days: days.parse(day)?,
            months: months.parse(month)?,
            weekdays: weekdays.parse(weekday)?,
        };
        // In a leap year every date exists, and over the 400 years of the calendar each falls on every day of the week.
        let comes = values(schedule.months).any(|month| values(schedule.days).any(|day| day <= days_in_month(2000, month)));
        if comes { Ok(schedule) } else { Err(format!("never comes: no month `{month}` has a day `{day}`")) }
    }

    /// The first occurrence strictly after `after`; none after the year 9999.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let second = after.as_nanosecond().div_euclid(1_000_000_000).checked_add(1)?;
        let from = Offset::UTC.to_datetime(Timestamp::from_second(i64::try_from(second).ok()?).ok()?);
        let (date, time) = match self.first_time_from(from.time()) {
            Some(time) if self.matches(from.date()) => (from.date(), time),
            _ => (self.first_date_from(from.date().tomorrow().ok()?)?, self.first_time_from(Time::midnight())?),
        };
        Offset::UTC.to_timestamp(date.to_datetime(time)).ok()
    }

    /// The longest time between two neighbouring occurrences, over the 400 years in which the calendar repeats.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        let times = || {
            values(self.hours).flat_map(move |hour| {
                values(self.minutes)
                    .flat_map(move |minute| values(self.seconds).map(move |second| hour * 3600 + minute * 60 + second))
            })
        };
        let (first, last) = (times().next().unwrap_or_default(), times().last().unwrap_or_default());
        let within_a_day = times().zip(times().skip(1)).map(|(one, next)| next - one).max().unwrap_or_default();
        let over_days = self.longest_days() * DAY_SECONDS - last + first;
        Duration::from_secs(within_a_day.max(over_days))
    }

    /// The most days from one matching date to the next.
    fn longest_days(&self) -> u64 {
        // The calendar repeats, weekdays included, after 400 years; 40 more show the gaps over the end of that cycle.
        // 1 January 2000 was a Saturday.
        let mut day_number = 6_u64;
        let mut previous = None;
        let mut longest = 0;
        for year in 2000..2440 {
            for month in 1..=12 {
                let length = days_in_month(year, month);
                if has(self.months, month) {
                    for day in values(self.days).take_while(|day| *day <= length) {
                        let today = day_number + day - 1;
                        if has(self.weekdays, today % 7) {
                            longest = longest.max(previous.map_or(0, |previous| today - previous));
                            previous = Some(today);
                        }
                    }
                }
                day_number += length;
            }
        }
        longest
    }

    fn matches(&self, date: Date) -> bool {
        has(self.months, small(date.month()))
            && has(self.days, small(date.day()))
            && has(self.weekdays, small(date.weekday().to_sunday_zero_offset()))
    }

    fn first_date_from(&self, from: Date) -> Option<Date> {
        let mut date = from;
        while !self.matches(date) {
            let skipped = if has(self.months, small(date.month())) { date } else { date.last_of_month() };
            date = skipped.tomorrow().ok()?;
        }
        Some(date)
    }

    fn first_time_from(&self, from: Time) -> Option<Time> {
        let [hour, minute, second] = [from.hour(), from.minute(), from.second()].map(small);
        let later = |set: u64, from: u64| values(set).find(|value| *value >= from);
        let (first_minute, first_second) = (later(self.minutes, 0)?, later(self.seconds, 0)?);
        let at = |hour: u64, minute: u64, second: u64| {
            let [hour, minute, second] = [hour, minute, second].map(|part| i8::try_from(part).ok());
            Time::new(hour?, minute?, second?, 0).ok()
        };
        if has(self.hours, hour) {
            if has(self.minutes, minute)
                && let Some(second) = later(self.seconds, second)
            {
                return at(hour, minute, second);
            }
            if let Some(minute) = later(self.minutes, minute + 1) {
                return at(hour, minute, first_second);
            }
        }
        at(later(self.hours, hour + 1)?, first_minute, first_second)
    }
}

impl Field {
    /// The set of values that `text` names.
    fn parse(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |set, part| Ok(set | self.parse_part(part)?))
    }

    /// `*`, `5`, `5-9`, each with `/step` or without; `5/step` goes on to the end. A step of 0 counts as 1.
    fn parse_part(&self, part: &str) -> Result<u64, String> {
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => (range, Some(number(step).ok_or_else(|| self.refuse(part))?)),
        };
        let (from, to) = if range == "*" {
            (self.first, self.last)
        } else if let Some((from, to)) = range.split_once('-') {
            (self.value(from, part)?, self.value(to, part)?)
        } else {
            let from = self.value(range, part)?;
            (from, if step.is_some() { self.last } else { from })
        };
        if from > to {
            return Err(format!(
                "the {} `{part}` runs backwards, which the Functions timer would read as {to}-{from}; write `{to}-{from}`, or `{from}-{},{}-{to}` to go over the end",
                self.name, self.last, self.first
            ));
        }
        let step = usize::try_from(step.unwrap_or(1).max(1)).unwrap_or(usize::MAX);
        Ok((from..=to).step_by(step).fold(0, |set, value| set | 1 << value))
    }

    fn value(&self, text: &str, part: &str) -> Result<u64, String> {
        let lower = text.to_ascii_lowercase();
        let named = || self.names.iter().position(|name| !lower.is_empty() && name.starts_with(&lower));
        let value = number(text).or_else(|| Some(self.first + named()? as u64));
        value.filter(|value| (self.first..=self.last).contains(value)).ok_or_else(|| self.refuse(part))
    }

    fn refuse(&self, part: &str) -> String {
        let Self { name, first, last, .. } = self;
        let names = if self.names.is_empty() { "" } else { ", names" };
        let sunday = if *name == "day of week" { "; Sunday is 0" } else { "" };
        format!(
            "`{part}` is no {name}: give numbers from {first} to {last}{names}, ranges `a-b`, lists `a,b`, steps `*/n`, or `*`{sunday}"
        )
    }
}

/// Digits only: no sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn has(set: u64, value: u64) -> bool {
    set & 1 << value != 0
}

/// Ascending.
fn values(set: u64) -> impl Iterator<Item = u64> {
    (0..60).filter(move |value| has(set, *value))
}

/// A part of a date or time, which is never negative.
fn small(part: i8) -> u64 {
    u64::from(part.unsigned_abs())
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Valid for the timer's library, refused here: they do not mean what they say, or never come.
    const STRICTER: [&str; 4] = ["0 0 22-2 * * *", "0 0 0 * * Fri-Mon", "0 0 0 30 2 *", "0 10-5 * * * *"];

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    fn hours(text: &str) -> u64 {
        Schedule::parse(text).expect("a schedule").longest_gap().as_secs() / 3600
    }

    #[test]
    fn agrees_with_the_timers_own_library_on_every_vector() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/ncrontab-vectors.json")).expect("JSON");
        let mut stricter = Vec::new();
        for case in vectors["cases"].as_array().expect("cases") {
            let expression = case["expression"].as_str().expect("an expression");
            let Ok(schedule) = Schedule::parse(expression) else {
                if case["valid"] == true {
                    stricter.push(expression);
                }
                continue;
            };
            assert_eq!(case["valid"], true, "`{expression}` must be refused");
            for next in case["next"].as_array().expect("series") {
                let mut after = at(next["after"].as_str().expect("a time"));
                let limit = after + jiff::SignedDuration::from_hours(24 * 365 * 12);
                let expected = next["occurrences"].as_array().expect("occurrences");
                for occurrence in expected {
                    after = schedule.next_after(after).expect("an occurrence");
                    assert_eq!(after, at(occurrence.as_str().expect("a time")), "{expression}");
                }
                if expected.len() < 4 {
                    assert!(schedule.next_after(after).expect("an occurrence") > limit, "{expression}");
                }
            }
        }
        assert_eq!(stricter, STRICTER);
    }

    #[test]
    fn a_refusal_says_what_is_wrong_and_what_would_be_accepted() {
        let refusal = |text| Schedule::parse(text).expect_err("must be refused");
        assert!(refusal("@daily").contains("1 fields"), "{}", refusal("@daily"));
        assert!(refusal("0 0 3 * * 7").contains("Sunday is 0"));
        assert!(refusal("0 0 24 * * *").contains("no hour: give numbers from 0 to 23"));
        assert!(refusal("0 0 22-2 * * *").contains("would read as 2-22"));
        assert!(refusal("0 0 22-2 * * *").contains("`22-23,0-2`"));
        assert!(refusal("0 0 0 31 2,4 *").contains("never comes"));
        for text in
            ["0 1, * * * *", "0 ,1 * * * *", "0 +1 * * * *", "0 */x * * * *", "0 1/2/3 * * * *", "0 - * * * *", "0 0 0 * x *"]
        {
            assert!(Schedule::parse(text).is_err(), "`{text}`");
        }
    }

    #[test]
    fn a_fraction_of_a_second_is_after_its_second() {
        let schedule = Schedule::parse("*/30 * * * * *").expect("a schedule");
        assert_eq!(schedule.next_after(at("2026-11-23T00:00:29.5Z")), Some(at("2026-11-23T00:00:30Z")));
        assert_eq!(schedule.next_after(at("1960-01-01T00:00:29.5Z")), Some(at("1960-01-01T00:00:30Z")));
    }

    #[test]
    fn the_end_of_time_has_no_next_occurrence() {
        assert_eq!(Schedule::parse("* * * * *").expect("a schedule").next_after(Timestamp::MAX), None);
    }

    #[test]
    fn the_longest_gap_is_that_of_the_calendar() {
        assert_eq!(Schedule::parse("0 */15 * * * *").expect("a schedule").longest_gap(), Duration::from_mins(15));
        assert_eq!(Schedule::parse("*/40 * * * * *").expect("a schedule").longest_gap(), Duration::from_secs(40));
        assert_eq!(hours("0 0 3 * * *"), 24);
        assert_eq!(hours("0 0 9-17 * * *"), 16);
        assert_eq!(hours("0 0 9-17 * * Mon-Fri"), 64);
        assert_eq!(hours("0 0 0 * * Sun"), 7 * 24);
        assert_eq!(hours("0 0 0 1 * *"), 31 * 24);
        assert_eq!(hours("0 0 0 31 * *"), 61 * 24);
        assert_eq!(hours("0 0 0 1 1 *"), 366 * 24);
        assert_eq!(hours("0 0 0 29 2 *"), (8 * 365 + 1) * 24);
    }

    fn field(first: u64, last: u64) -> impl Strategy<Value = String> {
        prop_oneof![
            3 => Just("*".to_owned()),
            1 => (1..70_u64).prop_map(|step| format!("*/{step}")),
            2 => (first..=last).prop_map(|value| value.to_string()),
            1 => (first..=last, first..=last, 0..9_u64).prop_map(|(a, b, step)| format!("{}-{}/{step},{a}", a.min(b), a.max(b))),
        ]
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[ -~]{0,20}|([0-9*/,-]{1,4} ){4,5}[0-9*/,-]{1,4}") {
            let _ = Schedule::parse(&text);
        }

        #[test]
        fn no_gap_is_longer_than_the_longest(
            texts in (field(0, 59), field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6)),
            start in 0..4_000_000_000_i64,
        ) {
            let (second, minute, hour, day, month, weekday) = texts;
            let schedule = Schedule::parse(&format!("{second} {minute} {hour} {day} {month} {weekday}")).expect("a schedule");
            let longest = jiff::SignedDuration::try_from(schedule.longest_gap()).expect("a gap");
            let mut time = schedule.next_after(Timestamp::from_second(start).expect("a time")).expect("an occurrence");
            for _ in 0..20 {
                let next = schedule.next_after(time).expect("an occurrence");
                prop_assert!(next > time && next.duration_since(time) <= longest);
                time = next;
            }
        }
    }
}
