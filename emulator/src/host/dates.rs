//! Dates as .NET and Newtonsoft's JSON read and write them, in a process whose time zone is UTC.
//!
//! Not imitated: other cultures and time zones.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// What a `DateTime` knows of its time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Utc,
    /// Had an offset, and was converted to the zone of the process.
    Local,
    Unspecified,
}

/// A point in time between the years 1 and 9999, to 100 ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DotNetDate {
    pub at: DateTime,
    pub kind: Kind,
}

impl DotNetDate {
    /// `DateTime.MaxValue`, which stands for "never", without its fraction of a second.
    pub const NEVER: Self = Self { at: DateTime::constant(9999, 12, 31, 23, 59, 59, 0), kind: Kind::Local };

    #[must_use]
    pub fn utc(at: Timestamp) -> Self {
        Self { at: Offset::UTC.to_datetime(at), kind: Kind::Utc }
    }

    /// As a `DateTime` of the zone of the process.
    #[must_use]
    pub fn local(at: Timestamp) -> Self {
        Self { kind: Kind::Local, ..Self::utc(at) }
    }

    /// What Newtonsoft takes for a date when it reads a string: ISO 8601 with a time, or `/Date(…)/`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let first = text.as_bytes().first()?;
        if *first == b'/' {
            return microsoft(text);
        }
        let length = text.encode_utf16().count();
        let likely = (19..=40).contains(&length) && first.is_ascii_digit() && text.as_bytes().get(10) == Some(&b'T');
        if likely { iso(text) } else { None }
    }

    /// ISO 8601 as JSON has it; fractions without zeros at the end.
    #[must_use]
    pub fn iso(self) -> String {
        let fraction = self.at.subsec_nanosecond() / 100;
        let digits = if fraction == 0 { String::new() } else { format!(".{fraction:07}").trim_end_matches('0').to_owned() };
        let zone = match self.kind {
            Kind::Utc => "Z",
            Kind::Local => "+00:00",
            Kind::Unspecified => "",
        };
        format!("{}{digits}{zone}", self.at.strftime("%Y-%m-%dT%H:%M:%S"))
    }

    /// ISO 8601 to the second: what is left of a date that went through `ToString` and `Parse`.
    #[must_use]
    pub fn iso_seconds(self) -> String {
        let at = self.at.with().subsec_nanosecond(0).build().unwrap_or(self.at);
        Self { at, ..self }.iso()
    }

    /// `ToString()` with the invariant culture.
    #[must_use]
    pub fn text(self) -> String {
        self.at.strftime("%m/%d/%Y %H:%M:%S").to_string()
    }
}

/// An HTTP date, as the storage services write it.
#[must_use]
pub(crate) fn http_date(text: &str) -> Option<DotNetDate> {
    let at = DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    Some(DotNetDate { at, kind: Kind::Local })
}

fn microsoft(text: &str) -> Option<DotNetDate> {
    let inner = text.strip_prefix("/Date(")?.strip_suffix(")/")?;
    let split = inner.char_indices().skip(1).find(|(_, c)| matches!(c, '+' | '-')).map(|(i, _)| i);
    let milliseconds = inner.get(..split.unwrap_or(inner.len()))?.parse::<i64>().ok()?;
    let at = Timestamp::from_millisecond(milliseconds).ok()?;
    Some(if split.is_some() { DotNetDate::local(at) } else { DotNetDate::utc(at) })
}

fn two(bytes: &[u8], at: usize) -> Option<i64> {
    let digits = bytes.get(at..at + 2)?;
    digits.iter().all(u8::is_ascii_digit).then(|| i64::from(digits[0] - b'0') * 10 + i64::from(digits[1] - b'0'))
}

fn iso(text: &str) -> Option<DotNetDate> {
    let bytes = text.as_bytes();
    let day: Date = text.get(..10)?.parse().ok()?;
    let (hour, minute, second) = (two(bytes, 11)?, two(bytes, 14)?, two(bytes, 17)?);
    let end_of_day = hour == 24 && minute == 0 && second == 0;
    if bytes.get(13) != Some(&b':') || bytes.get(16) != Some(&b':') || (hour > 23 && !end_of_day) || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = bytes.get(19..)?;
    let mut fraction = 0_i32;
    if let Some(after) = rest.strip_prefix(b".") {
        let digits = after.iter().take(7).take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        fraction = after[..digits].iter().fold(0, |sum, b| sum * 10 + i32::from(b - b'0'));
        fraction *= 10_i32.pow(u32::try_from(7 - digits).ok()?);
        rest = &after[digits..];
    }
    let (day, hour) = if end_of_day { (day.tomorrow().ok()?, 0) } else { (day, hour) };
    let small = |n: i64| i8::try_from(n).ok();
    let time = Time::new(small(hour)?, small(minute)?, small(second)?, fraction * 100).ok()?;
    let at = day.to_datetime(time);
    match rest {
        [] => Some(DotNetDate { at, kind: Kind::Unspecified }),
        b"Z" | b"z" => Some(DotNetDate { at, kind: Kind::Utc }),
        [sign @ (b'+' | b'-'), offset @ ..] => {
            let hours = two(offset, 0)?;
            let minutes = match &offset[2..] {
                [] | [b':'] => 0,
                [b':', m @ ..] | m if m.len() == 2 => two(m, 0)?,
                _ => return None,
            };
            let offset = (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 };
            let at = at.checked_sub(SignedDuration::from_mins(offset)).ok()?;
            Some(DotNetDate { at, kind: Kind::Local })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_newtonsoft_reads_them() {
        let text = |s: &str| DotNetDate::read(s).map(|d| (d.iso(), d.text()));
        let read = |iso: &str, text: &str| Some((iso.to_owned(), text.to_owned()));
        assert_eq!(text("2026-03-01T11:22:33.4567891Z"), read("2026-03-01T11:22:33.4567891Z", "03/01/2026 11:22:33"));
        assert_eq!(text("2026-03-01T11:22:33+05:30"), read("2026-03-01T05:52:33+00:00", "03/01/2026 05:52:33"));
        assert_eq!(text("2026-03-01T11:22:33.10"), read("2026-03-01T11:22:33.1", "03/01/2026 11:22:33"));
        assert_eq!(text("2026-03-01T24:00:00Z"), read("2026-03-02T00:00:00Z", "03/02/2026 00:00:00"));
        assert_eq!(text("/Date(1767225600000)/"), read("2026-01-01T00:00:00Z", "01/01/2026 00:00:00"));
        assert_eq!(text("/Date(1767225600000+0200)/"), read("2026-01-01T00:00:00+00:00", "01/01/2026 00:00:00"));
        for no in
            ["2026-03-01", "2026-03-01 11:22:33", "2026-13-01T11:22:33Z", "2026-03-01T11:22:33.12345678Z", "2026-03-01T11:22Z"]
        {
            assert_eq!(text(no), None, "{no}");
        }
        assert_eq!(DotNetDate::NEVER.iso(), "9999-12-31T23:59:59+00:00");
    }
}
