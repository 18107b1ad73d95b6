//! The texts of the guide's "Last Run": what the vendor's app reads in all its versions, less what it misreads.

use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

const ACCEPTED: &str = "accepted are `30 days ago` (seconds to years, also `1 hour 30 minutes ago`), `now`, `today`, `yesterday`, an ISO date or date-time, Unix seconds";

/// How far back the first run reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    text: String,
    meaning: Meaning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    At(Timestamp),
    /// Whole units: months, then days, then seconds.
    Ago { months: i64, days: i64, seconds: i64 },
    Midnight { days_ago: i64 },
}

impl LastRun {
    /// # Errors
    /// One line that names what is accepted. `1.5 days ago` (the vendor's app reads 5 days), `202311` and `1` (1970) are refused.
    pub fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let lower = trimmed.to_ascii_lowercase();
        let ago = |seconds| Meaning::Ago { months: 0, days: 0, seconds };
        let meaning = match lower.as_str() {
            "" => return Err(format!("is empty; {ACCEPTED}")),
            "now" | "just now" => ago(0),
            "today" => Meaning::Midnight { days_ago: 0 },
            "yesterday" => Meaning::Midnight { days_ago: 1 },
            _ if lower.ends_with(" ago") => parse_ago(lower.trim_end_matches("ago"))
                .ok_or_else(|| format!("`{trimmed}` is no whole number of units ago; {ACCEPTED}"))?,
            _ => Meaning::At(parse_at(trimmed).ok_or_else(|| format!("`{trimmed}` is no time that is read without guessing; {ACCEPTED}"))?),
        };
        Ok(Self { text: trimmed.to_owned(), meaning })
    }

    /// As the user wrote it: a changed text takes effect once.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The instant that is meant, when read at `now`. Months and years go by the calendar.
    #[must_use]
    pub fn resolve(&self, now: Timestamp) -> Timestamp {
        let at = TimeZone::UTC.to_datetime(now);
        let back = |span: Span| at.checked_sub(span).ok();
        let resolved = match self.meaning {
            Meaning::At(at) => return at,
            Meaning::Ago { months, days, seconds } => back(months.months()).and_then(|at| at.checked_sub(days.days().seconds(seconds)).ok()),
            Meaning::Midnight { days_ago } => back(days_ago.days()).map(|at| at.date().to_datetime(civil::Time::midnight())),
        };
        resolved.and_then(|at| TimeZone::UTC.to_timestamp(at).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// `2 weeks`, `an hour`, `1 hour and 30 minutes`: whole numbers only.
fn parse_ago(text: &str) -> Option<Meaning> {
    let words: Vec<&str> = text.split_whitespace().filter(|word| *word != "and").collect();
    if words.is_empty() || words.len() % 2 != 0 {
        return None;
    }
    let (mut months, mut days, mut seconds) = (0_i64, 0_i64, 0_i64);
    for pair in words.chunks(2) {
        let count: i64 = match pair[0] {
            "a" | "an" => 1,
            digits if digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() <= 9 => digits.parse().ok()?,
            _ => return None,
        };
        match pair[1].trim_end_matches('s') {
            "second" => seconds += count,
            "minute" => seconds += count * 60,
            "hour" => seconds += count * 3_600,
            "day" => days += count,
            "week" => days += count * 7,
            "month" => months += count,
            "quarter" => months += count * 3,
            "year" => months += count * 12,
            _ => return None,
        }
    }
    (months <= 1_200 && days <= 36_500 && seconds <= 3_155_760_000).then_some(Meaning::Ago { months, days, seconds })
}

fn parse_at(text: &str) -> Option<Timestamp> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let number: i64 = text.parse().ok()?;
        return match text.len() {
            8 => text.parse::<civil::Date>().ok().and_then(midnight),
            9..=10 => Timestamp::from_second(number).ok(),
            12..=13 => Timestamp::from_millisecond(number).ok(),
            _ => None,
        };
    }
    // A date alone or an ISO date-time begins with four digits of the year; anything else would have to be guessed.
    if !text.get(..4)?.bytes().all(|b| b.is_ascii_digit()) || text.len() < 8 {
        return None;
    }
    text.parse::<Timestamp>()
        .ok()
        .or_else(|| text.parse::<civil::DateTime>().ok().filter(|_| !has_zone_name(text)).and_then(|at| TimeZone::UTC.to_timestamp(at).ok()))
        .or_else(|| text.parse::<civil::Date>().ok().filter(|_| !has_zone_name(text)).and_then(midnight))
}

/// `EST` would silently be read as UTC.
fn has_zone_name(text: &str) -> bool {
    text.chars().any(|c| c.is_ascii_alphabetic() && !matches!(c, 'T' | 't' | 'Z' | 'z'))
}

fn midnight(date: civil::Date) -> Option<Timestamp> {
    TimeZone::UTC.to_timestamp(date.to_datetime(civil::Time::midnight())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        let now = "2026-11-22T10:30:00Z".parse().expect("a time");
        LastRun::parse(text).ok().map(|last_run| last_run.resolve(now).to_string())
    }

    #[test]
    fn relative_texts_go_by_the_calendar() {
        for (text, expected) in [
            ("30 days ago", "2026-10-23T10:30:00Z"),
            ("  30   Days AGO ", "2026-10-23T10:30:00Z"),
            ("an hour ago", "2026-11-22T09:30:00Z"),
            ("2 weeks ago", "2026-11-08T10:30:00Z"),
            ("1 month ago", "2026-10-22T10:30:00Z"),
            ("1 year ago", "2025-11-22T10:30:00Z"),
            ("1 hour and 30 minutes ago", "2026-11-22T09:00:00Z"),
            ("0 days ago", "2026-11-22T10:30:00Z"),
            ("now", "2026-11-22T10:30:00Z"),
            ("today", "2026-11-22T00:00:00Z"),
            ("yesterday", "2026-11-21T00:00:00Z"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn dates_are_utc_unless_they_say_otherwise() {
        for (text, expected) in [
            ("2023-11-21", "2023-11-21T00:00:00Z"),
            ("20231121", "2023-11-21T00:00:00Z"),
            ("2023-11-21 10:11:12", "2023-11-21T10:11:12Z"),
            ("2023-11-21T10:11:12Z", "2023-11-21T10:11:12Z"),
            ("2023-11-21T10:11:12-05:00", "2023-11-21T15:11:12Z"),
            ("1700561472", "2023-11-21T10:11:12Z"),
            ("1700561472000", "2023-11-21T10:11:12Z"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_would_be_misread_is_refused() {
        for text in ["1.5 days ago", "202311", "1", "2023", "11/21/2023", "01/02/2023", "2023-11-21 10:11:12 EST", "10:30", "last week", "30d", "-30 days", "30 days", "two weeks ago", "never", "", "in 2 days", "5 fortnights ago"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
