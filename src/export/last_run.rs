//! The texts of the guide's "Last Run": read once, resolved against a given now. Knows neither schedule nor watermark.
//!
//! The vendor's own reader guesses (`1.5 days ago` is five days, `202311` is 1970); here everything that has two readings
//! is refused.

use std::ops::RangeInclusive;

use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;
use jiff::{SignedDuration, Span, Timestamp};

/// How far back the first run reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    text: String,
    meaning: Meaning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    At(Timestamp),
    /// Months are the calendar's: a month before 31 March is the last of February.
    Ago {
        months: i64,
        seconds: i64,
    },
    /// Midnight of the day that many days ago.
    Midnight {
        days: i64,
    },
}

const DAY: i64 = 86_400;

const ACCEPTED: &str = "give `30 days ago` (seconds, minutes, hours, days, weeks, months, quarters, years, also `1 day 12 hours ago`), \
                        `now`, `today`, `yesterday`, a date `2023-11-21`, a date and time `2023-11-21T10:11:12Z` (UTC unless it has an offset), \
                        or Unix time in seconds or milliseconds";

impl LastRun {
    /// # Errors
    /// One line that names what is accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let meaning = phrase(text).or_else(|| iso(text)).or_else(|| epoch(text)).ok_or(ACCEPTED)?;
        Ok(Self { text: text.to_owned(), meaning })
    }

    /// As the user wrote it: a changed text takes effect once.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The instant that is meant, when read at `now`; never before 1970, for nothing in ThreatConnect is.
    #[must_use]
    pub fn resolve(&self, now: Timestamp) -> Timestamp {
        let civil = Offset::UTC.to_datetime(now);
        let instant = match self.meaning {
            Meaning::At(instant) => Some(instant),
            Meaning::Ago { months, seconds } => before(civil, months, seconds),
            Meaning::Midnight { days } => before(civil.date().into(), 0, days * DAY),
        };
        instant.unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::UNIX_EPOCH)
    }
}

/// None when that is before the year −9999.
fn before(civil: DateTime, months: i64, seconds: i64) -> Option<Timestamp> {
    let month = civil.checked_sub(Span::new().try_months(months).ok()?).ok()?;
    Offset::UTC.to_timestamp(month.checked_sub(SignedDuration::from_secs(seconds)).ok()?).ok()
}

/// `now`, `yesterday`, `a month ago`, `1 hour and 30 minutes ago`.
fn phrase(text: &str) -> Option<Meaning> {
    let lower = text.to_ascii_lowercase();
    let words: Vec<&str> = lower.split([' ', '\t', ',']).filter(|word| !matches!(*word, "" | "and")).collect();
    let parts = match words[..] {
        ["now"] | ["just", "now"] => return Some(Meaning::Ago { months: 0, seconds: 0 }),
        ["today"] => return Some(Meaning::Midnight { days: 0 }),
        ["yesterday"] => return Some(Meaning::Midnight { days: 1 }),
        [ref parts @ .., "ago"] if !parts.is_empty() => parts,
        _ => return None,
    };
    let (mut months, mut seconds) = (0_i64, 0_i64);
    for part in parts.chunks(2) {
        let [amount, unit] = part else { return None };
        let amount = match *amount {
            "a" | "an" => 1,
            digits => number(digits, 1..=6)?,
        };
        let (sum, of_one) = match unit.strip_suffix('s').unwrap_or(unit) {
            "second" => (&mut seconds, 1),
            "minute" => (&mut seconds, 60),
            "hour" => (&mut seconds, 3600),
            "day" => (&mut seconds, DAY),
            "week" => (&mut seconds, 7 * DAY),
            "month" => (&mut months, 1),
            "quarter" => (&mut months, 3),
            "year" => (&mut months, 12),
            _ => return None,
        };
        *sum = sum.saturating_add(amount * of_one);
    }
    Some(Meaning::Ago { months, seconds })
}

/// Dates and date-times of ISO 8601, extended and basic, and the ordinal date `2023-325`. A zone other than UTC or an offset is refused.
fn iso(text: &str) -> Option<Meaning> {
    if text.contains('[') || !text.is_ascii() || !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let instant = text.parse::<Timestamp>().ok();
    let civil = || text.parse::<DateTime>().ok().or_else(|| ordinal(text).map(Into::into));
    instant.or_else(|| Offset::UTC.to_timestamp(civil()?).ok()).map(Meaning::At)
}

fn ordinal(text: &str) -> Option<Date> {
    let (year, day) = text.split_once('-')?;
    let (year, day) = (number(year, 4..=4)?, number(day, 3..=3)?);
    Date::new(i16::try_from(year).ok()?, 1, 1).ok()?.with().day_of_year(i16::try_from(day).ok()?).build().ok()
}

/// Nine or ten digits are seconds (1973 to 2286), twelve or thirteen milliseconds (the same years); a fraction is dropped.
fn epoch(text: &str) -> Option<Meaning> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    number(fraction, 1..=9)?;
    let seconds = number(whole, 9..=10).or_else(|| Some(number(whole, 12..=13)? / 1000))?;
    Timestamp::from_second(seconds).ok().map(Meaning::At)
}

/// Digits only, that many of them.
fn number(text: &str, digits: RangeInclusive<usize>) -> Option<i64> {
    (digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: &str = "2023-11-22T13:14:15.5Z";

    fn resolved(text: &str, now: &str) -> String {
        let last_run = LastRun::parse(text).unwrap_or_else(|reason| panic!("`{text}`: {reason}"));
        last_run.resolve(now.parse().expect("a timestamp")).to_string()
    }

    #[test]
    fn every_accepted_form_means_what_the_vendors_reader_makes_of_it() {
        for (text, expected) in [
            ("30 days ago", "2023-10-23T13:14:15.5Z"),
            ("30 day ago", "2023-10-23T13:14:15.5Z"),
            (" A  Day AGO ", "2023-11-21T13:14:15.5Z"),
            ("an hour ago", "2023-11-22T12:14:15.5Z"),
            ("15 minutes ago", "2023-11-22T12:59:15.5Z"),
            ("90 seconds ago", "2023-11-22T13:12:45.5Z"),
            ("2 weeks ago", "2023-11-08T13:14:15.5Z"),
            ("1 month ago", "2023-10-22T13:14:15.5Z"),
            ("2 quarters ago", "2023-05-22T13:14:15.5Z"),
            ("1 year ago", "2022-11-22T13:14:15.5Z"),
            ("1 hour 30 minutes ago", "2023-11-22T11:44:15.5Z"),
            ("1 hour and 30 minutes ago", "2023-11-22T11:44:15.5Z"),
            ("1 month, 2 days ago", "2023-10-20T13:14:15.5Z"),
            ("0 days ago", NOW),
            ("NOW", NOW),
            ("just now", NOW),
            ("today", "2023-11-22T00:00:00Z"),
            ("yesterday", "2023-11-21T00:00:00Z"),
            ("2023-11-21", "2023-11-21T00:00:00Z"),
            ("20231121", "2023-11-21T00:00:00Z"),
            ("2023-325", "2023-11-21T00:00:00Z"),
            ("2023-11-21 10:11:12", "2023-11-21T10:11:12Z"),
            ("2023-11-21T10:11", "2023-11-21T10:11:00Z"),
            ("2023-11-21T10:11:12Z", "2023-11-21T10:11:12Z"),
            ("2023-11-21T10:11:12.25Z", "2023-11-21T10:11:12.25Z"),
            ("20231121T101112Z", "2023-11-21T10:11:12Z"),
            ("2023-11-21T10:11:12+02:00", "2023-11-21T08:11:12Z"),
            ("1700561472", "2023-11-21T10:11:12Z"),
            ("1700561472.5", "2023-11-21T10:11:12Z"),
            ("1700561472000", "2023-11-21T10:11:12Z"),
            ("999999999", "2001-09-09T01:46:39Z"),
            ("1950-01-01", "1970-01-01T00:00:00Z"),
            ("999999 years ago", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(resolved(text, NOW), expected, "{text}");
        }
    }

    #[test]
    fn months_are_the_calendars() {
        assert_eq!(resolved("1 month ago", "2024-03-31T10:00:00Z"), "2024-02-29T10:00:00Z");
        assert_eq!(resolved("1 year ago", "2024-02-29T10:00:00Z"), "2023-02-28T10:00:00Z");
    }

    #[test]
    fn what_has_two_readings_is_refused_with_what_is_accepted() {
        for text in [
            "",
            "1.5 days ago",
            "-3 days ago",
            "ago",
            "days ago",
            "3 ago",
            "3 fortnights ago",
            "two weeks ago",
            "in 2 days",
            "30 days",
            "30d",
            "last week",
            "never",
            "2023",
            "202311",
            "2023-11",
            "1",
            "17005614",
            "17005614720",
            "170056147200000",
            "-1700561472",
            "2023-11-31",
            "2023-366",
            "11/21/2023",
            "01/02/2023",
            "Nov 21 2023",
            "10:30",
            "2023-11-21 10:11:12 EST",
            "2023-11-21T10:11:12[America/New_York]",
            "2023-11-21T10:11:12+02:00[Europe/Paris]",
        ] {
            let reason = LastRun::parse(text).map(|last_run| last_run.resolve(NOW.parse().expect("a timestamp")));
            assert!(reason.as_ref().is_err_and(|reason| reason.contains("30 days ago")), "`{text}`: {reason:?}");
        }
    }

    #[test]
    fn the_text_stays_as_it_was_written() {
        assert_eq!(LastRun::parse(" 30 Days ago ").expect("a last run").text(), "30 Days ago");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_resolves(text in "\\PC{0,24}|([0-9a]{1,7} (second|day|month|year)s? ?){1,4}ago|[0-9TZ:.+-]{4,26}") {
            if let Ok(last_run) = LastRun::parse(&text) {
                for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, NOW.parse().expect("a timestamp"), Timestamp::MAX] {
                    prop_assert!(last_run.resolve(now) >= Timestamp::UNIX_EPOCH);
                }
            }
        }
    }
}
