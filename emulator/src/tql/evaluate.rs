//! Whether an indicator matches a parsed query.

use std::cmp::Ordering;

use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::{Field, Literal, Op, Query, What};
use crate::indicator::Indicator;

/// A date literal. Fractions of seconds break the filter of real servers.
pub(super) fn date(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let upper = text.trim().to_ascii_uppercase();
    let wrong = || format!("Invalid TQL: {text} is no date");
    for (function, start) in
        [("NOW()", now), ("TODAY()", Timestamp::from_second(now.as_second() / 86_400 * 86_400).unwrap_or(now))]
    {
        if let Some(rest) = upper.strip_prefix(function) {
            let rest = rest.trim();
            if rest.is_empty() {
                return Ok(start);
            }
            let mut words = rest.trim_start_matches('-').split_whitespace();
            let count: i64 = words.next().and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
            let hours = match words.next().unwrap_or("").trim_end_matches('S') {
                "HOUR" => count,
                "DAY" => count * 24,
                "WEEK" => count * 168,
                _ => return Err(wrong()),
            };
            return start.checked_sub(hours.hours()).map_err(|_| wrong());
        }
    }
    if text.contains('.') {
        return Err(wrong());
    }
    let utc = |at: civil::DateTime| TimeZone::UTC.to_timestamp(at).ok();
    let formats = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%SZ"];
    formats
        .iter()
        .find_map(|format| civil::DateTime::strptime(format, text.trim()).ok())
        .or_else(|| {
            ["%Y-%m-%d", "%m-%d-%Y"].iter().find_map(|f| civil::Date::strptime(f, text.trim()).ok()).map(|d| d.at(0, 0, 0, 0))
        })
        .and_then(utc)
        .or_else(|| text.trim().parse::<Timestamp>().ok())
        .ok_or_else(wrong)
}

/// A field's value.
enum Actual<'a> {
    Null,
    Number(i128),
    Decimal(f64),
    Bool(bool),
    Text(&'a str),
    Owned(String),
    Time(Timestamp),
}

impl Query {
    /// Whether the query speaks of this field anywhere.
    #[must_use]
    pub fn mentions(&self, wanted: Field) -> bool {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.mentions(wanted)),
            Self::Not(inner) => inner.mentions(wanted),
            Self::Compare { field, .. } | Self::IsNull { field, .. } => *field == wanted,
            Self::All | Self::Has { .. } => false,
        }
    }

    /// The lowest id that can match, from conjuncts `id > N`: a server with an index would begin there.
    #[must_use]
    pub fn lowest_id(&self) -> u64 {
        match self {
            Self::And(parts) => parts.iter().map(Self::lowest_id).max().unwrap_or(0),
            Self::Compare { field: Field::Id, op: Op::Gt, values } => match values.as_slice() {
                [Literal::Number(n)] => u64::try_from(*n + 1).unwrap_or(0),
                _ => 0,
            },
            _ => 0,
        }
    }

    /// The highest id that can match, from conjuncts `id <= N`.
    #[must_use]
    pub fn highest_id(&self) -> u64 {
        match self {
            Self::And(parts) => parts.iter().map(Self::highest_id).min().unwrap_or(u64::MAX),
            Self::Compare { field: Field::Id, op: Op::Le, values } => match values.as_slice() {
                [Literal::Number(n)] => u64::try_from(*n).unwrap_or(u64::MAX),
                _ => u64::MAX,
            },
            _ => u64::MAX,
        }
    }

    /// Whether the indicator matches; a comparison with an unset value is false, as in SQL.
    #[must_use]
    pub fn matches(&self, indicator: &Indicator, owner_id: u64, now: Timestamp) -> bool {
        self.holds(&|field| actual(field, indicator, owner_id), indicator, now)
    }

    fn holds<'a>(&self, of: &dyn Fn(Field) -> Actual<'a>, indicator: &'a Indicator, now: Timestamp) -> bool {
        match self {
            Self::All => true,
            Self::And(parts) => parts.iter().all(|part| part.holds(of, indicator, now)),
            Self::Or(parts) => parts.iter().any(|part| part.holds(of, indicator, now)),
            Self::Not(inner) => !inner.holds(of, indicator, now),
            Self::IsNull { field, negated } => matches!(of(*field), Actual::Null) != *negated,
            Self::Compare { field: Field::Tag, op, values } => {
                indicator.tags.iter().any(|tag| compare(&Actual::Text(tag), *op, values, now))
            }
            Self::Compare { field: Field::Label, op, values } => {
                indicator.labels.iter().any(|label| compare(&Actual::Text(label), *op, values, now))
            }
            Self::Compare { field, op, values } => compare(&of(*field), *op, values, now),
            Self::Has { what: What::Tag, query } => {
                indicator.tags.iter().any(|tag| query.holds(&|field| named(field, tag, ""), indicator, now))
            }
            Self::Has { what: What::AllTags, query } => all_named(query, indicator),
            Self::Has { what: What::Label, query } => {
                indicator.labels.iter().any(|label| query.holds(&|field| named(field, label, ""), indicator, now))
            }
            Self::Has { what: What::Attribute, query } => {
                indicator.attributes.iter().any(|(name, text)| query.holds(&|field| named(field, name, text), indicator, now))
            }
        }
    }
}

fn all_named(query: &Query, indicator: &Indicator) -> bool {
    let Query::Compare { op: Op::In | Op::Eq, values, .. } = query else { return false };
    values.iter().all(|value| matches!(value, Literal::Text(text) if indicator.tags.contains(text)))
}

fn named<'a>(field: Field, name: &'a str, text: &'a str) -> Actual<'a> {
    match field {
        Field::Name | Field::TypeName | Field::Summary => Actual::Text(name),
        Field::Text => Actual::Text(text),
        _ => Actual::Null,
    }
}

fn actual(field: Field, indicator: &Indicator, owner_id: u64) -> Actual<'_> {
    match field {
        Field::Id => Actual::Number(indicator.id.into()),
        Field::OwnerName => Actual::Text(&indicator.owner),
        Field::Owner => Actual::Number(owner_id.into()),
        Field::TypeName => Actual::Text(&indicator.type_name),
        Field::Score => indicator.score.map_or(Actual::Null, |score| Actual::Number(score.into())),
        Field::Confidence => indicator.confidence.map_or(Actual::Null, |confidence| Actual::Number(confidence.into())),
        Field::Rating => indicator.rating.map_or(Actual::Null, Actual::Decimal),
        Field::FalsePositives => Actual::Number(indicator.false_positives.unwrap_or(0).into()),
        Field::LastModified => Actual::Time(indicator.last_modified),
        Field::DateAdded => Actual::Time(indicator.date_added),
        Field::LastSeen => indicator.last_seen.map_or(Actual::Null, Actual::Time),
        Field::Active => Actual::Bool(indicator.active),
        Field::Summary => Actual::Owned(indicator.summary()),
        Field::IsIpv6 => Actual::Bool(indicator.value.contains(':')),
        Field::Label | Field::Tag | Field::Name | Field::Text => Actual::Null,
    }
}

fn compare(actual: &Actual<'_>, op: Op, values: &[Literal], now: Timestamp) -> bool {
    if matches!(actual, Actual::Null) {
        return false;
    }
    let text = match actual {
        Actual::Text(text) => *text,
        Actual::Owned(text) => text,
        _ => "",
    };
    let any = |test: &dyn Fn(&str) -> bool| values.iter().any(|value| matches!(value, Literal::Text(wanted) if test(wanted)));
    match op {
        Op::In => values.iter().any(|value| order(actual, value, now) == Some(Ordering::Equal)),
        Op::NotIn => values.iter().all(|value| order(actual, value, now) != Some(Ordering::Equal)),
        Op::Like => any(&|wanted| like(text, wanted)),
        Op::NotLike => !any(&|wanted| like(text, wanted)),
        Op::Contains => any(&|wanted| text.contains(wanted)),
        Op::NotContains => !any(&|wanted| text.contains(wanted)),
        Op::StartsWith => any(&|wanted| text.starts_with(wanted)),
        Op::EndsWith => any(&|wanted| text.ends_with(wanted)),
        _ => {
            let Some(found) = values.first().and_then(|value| order(actual, value, now)) else { return false };
            match op {
                Op::Eq => found == Ordering::Equal,
                Op::Ne => found != Ordering::Equal,
                Op::Gt => found == Ordering::Greater,
                Op::Lt => found == Ordering::Less,
                Op::Ge => found != Ordering::Less,
                _ => found != Ordering::Greater,
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "ratings and scores are small")]
fn order(actual: &Actual<'_>, value: &Literal, now: Timestamp) -> Option<Ordering> {
    match (actual, value) {
        (Actual::Number(a), Literal::Number(b)) => Some(a.cmp(b)),
        (Actual::Number(a), Literal::Decimal(b)) => (*a as f64).partial_cmp(b),
        (Actual::Decimal(a), Literal::Number(b)) => a.partial_cmp(&(*b as f64)),
        (Actual::Decimal(a), Literal::Decimal(b)) => a.partial_cmp(b),
        (Actual::Bool(a), Literal::Bool(b)) => Some(a.cmp(b)),
        (Actual::Text(a), Literal::Text(b)) => Some((*a).cmp(b.as_str())),
        (Actual::Owned(a), Literal::Text(b)) => Some(a.as_str().cmp(b.as_str())),
        (Actual::Time(a), Literal::Text(b)) => date(b, now).ok().map(|b| a.cmp(&b)),
        _ => None,
    }
}

/// `%` stands for anything.
fn like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('%');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
