//! TQL, parsed and really evaluated: the grammar as the vendor's articles and clients show it.
//!
//! Not imitated: groups, associations, attribute sub-keywords other than type and text, CAL and enrichment keywords.

use std::cmp::Ordering;

use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::indicator::Indicator;

/// A parsed query.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    All,
    And(Vec<Query>),
    Or(Vec<Query>),
    Not(Box<Query>),
    Compare { field: Field, op: Op, values: Vec<Literal> },
    IsNull { field: Field, negated: bool },
    /// Some tag, label or attribute matches.
    Has { what: What, query: Box<Query> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Tag,
    AllTags,
    Label,
    Attribute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Id,
    OwnerName,
    Owner,
    TypeName,
    Score,
    Confidence,
    Rating,
    FalsePositives,
    LastModified,
    DateAdded,
    LastSeen,
    Active,
    Label,
    Tag,
    Summary,
    IsIpv6,
    /// Inside a nested query.
    Name,
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Eq,
    Ne,
    Gt,
    Lt,
    Le,
    Ge,
    In,
    NotIn,
    Like,
    NotLike,
    Contains,
    NotContains,
    StartsWith,
    EndsWith,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Number(i128),
    Decimal(f64),
    Bool(bool),
    Text(String),
}

const FIELDS: [(&str, Field); 18] = [
    ("id", Field::Id),
    ("ownername", Field::OwnerName),
    ("owner", Field::Owner),
    ("typename", Field::TypeName),
    ("threatassessscore", Field::Score),
    ("confidence", Field::Confidence),
    ("rating", Field::Rating),
    ("falsepositivecount", Field::FalsePositives),
    ("lastmodified", Field::LastModified),
    ("dateadded", Field::DateAdded),
    ("lastseen", Field::LastSeen),
    ("indicatoractive", Field::Active),
    ("securitylabel", Field::Label),
    ("tag", Field::Tag),
    ("summary", Field::Summary),
    ("addressisipv6", Field::IsIpv6),
    ("name", Field::Name),
    ("text", Field::Text),
];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(String),
    Symbol(&'static str),
}

/// Parses a query; an empty one matches all.
///
/// # Errors
/// What a server would say in a 400.
pub fn parse(text: &str) -> Result<Query, String> {
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Ok(Query::All);
    }
    let mut parser = Parser { tokens, at: 0 };
    let query = parser.or()?;
    match parser.peek() {
        None => Ok(query),
        Some(token) => Err(format!("Invalid TQL: unexpected {token:?}")),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '"' | '\'' => {
                let mut value = String::new();
                loop {
                    match chars.next() {
                        None => return Err(format!("Invalid TQL: string at position {at} does not end")),
                        Some((_, '\\')) => match chars.next() {
                            Some((_, escaped)) => value.push(escaped),
                            None => return Err("Invalid TQL: backslash at the end".to_owned()),
                        },
                        Some((_, end)) if end == c => break,
                        Some((_, inner)) => value.push(inner),
                    }
                }
                tokens.push(Token::Text(value));
            }
            '(' => tokens.push(Token::Symbol("(")),
            ')' => tokens.push(Token::Symbol(")")),
            ',' => tokens.push(Token::Symbol(",")),
            '=' | '!' | '>' | '<' => {
                let double = chars.next_if(|(_, next)| *next == '=').is_some();
                tokens.push(Token::Symbol(match (c, double) {
                    ('=', _) => "=",
                    ('!', true) => "!=",
                    ('>', true) => ">=",
                    ('>', false) => ">",
                    ('<', true) => "<=",
                    ('<', false) => "<",
                    _ => return Err(format!("Invalid TQL: unexpected `!` at position {at}")),
                }));
            }
            c if c.is_ascii_digit() || c == '-' => {
                let mut number = String::from(c);
                while let Some((_, digit)) = chars.next_if(|(_, next)| next.is_ascii_digit() || *next == '.') {
                    number.push(digit);
                }
                tokens.push(Token::Number(number));
            }
            c if c.is_alphabetic() => {
                let mut word = String::from(c);
                while let Some((_, letter)) = chars.next_if(|(_, next)| next.is_alphanumeric() || *next == '_') {
                    word.push(letter);
                }
                tokens.push(Token::Word(word));
            }
            other => return Err(format!("Invalid TQL: unexpected `{other}` at position {at}")),
        }
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Result<Token, String> {
        let token = self.tokens.get(self.at).cloned().ok_or("Invalid TQL: unexpected end")?;
        self.at += 1;
        Ok(token)
    }

    fn word(&mut self, expected: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(expected));
        self.at += usize::from(found);
        found
    }

    fn symbol(&mut self, expected: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(symbol)) if *symbol == expected);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, expected: &str) -> Result<(), String> {
        if self.symbol(expected) { Ok(()) } else { Err(format!("Invalid TQL: expected `{expected}`")) }
    }

    fn or(&mut self) -> Result<Query, String> {
        let mut parts = vec![self.and()?];
        while self.word("or") {
            parts.push(self.and()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Query::Or(parts) })
    }

    fn and(&mut self) -> Result<Query, String> {
        let mut parts = vec![self.unary()?];
        while self.word("and") {
            parts.push(self.unary()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Query::And(parts) })
    }

    fn unary(&mut self) -> Result<Query, String> {
        if self.word("not") {
            return Ok(Query::Not(Box::new(self.unary()?)));
        }
        if self.symbol("(") {
            let inner = self.or()?;
            self.expect(")")?;
            return Ok(inner);
        }
        let Token::Word(word) = self.next()? else { return Err("Invalid TQL: expected a field".to_owned()) };
        let what = match word.to_ascii_lowercase().as_str() {
            "hastag" => Some(What::Tag),
            "hasalltags" => Some(What::AllTags),
            "hassecuritylabel" => Some(What::Label),
            "hasattribute" => Some(What::Attribute),
            _ => None,
        };
        if let Some(what) = what {
            self.expect("(")?;
            let query = Box::new(self.or()?);
            self.expect(")")?;
            return Ok(Query::Has { what, query });
        }
        let field = FIELDS.iter().find(|(name, _)| *name == word.to_ascii_lowercase()).map(|(_, field)| *field);
        let field = field.ok_or_else(|| format!("Invalid TQL: unknown field {word}"))?;
        self.compare(field)
    }

    fn compare(&mut self, field: Field) -> Result<Query, String> {
        if self.word("is") {
            let negated = self.word("not");
            return if self.word("null") { Ok(Query::IsNull { field, negated }) } else { Err("Invalid TQL: expected null".to_owned()) };
        }
        let negated = self.word("not");
        let op = match (self.next()?, negated) {
            (Token::Symbol("="), false) => Op::Eq,
            (Token::Symbol("!="), false) => Op::Ne,
            (Token::Symbol(">"), false) => Op::Gt,
            (Token::Symbol("<"), false) => Op::Lt,
            (Token::Symbol(">="), false) => Op::Ge,
            (Token::Symbol("<="), false) => Op::Le,
            (Token::Word(word), negated) => match (word.to_ascii_lowercase().as_str(), negated) {
                ("in", false) => Op::In,
                ("in", true) => Op::NotIn,
                ("like", false) => Op::Like,
                ("like", true) => Op::NotLike,
                ("contains", false) => Op::Contains,
                ("contains", true) => Op::NotContains,
                ("startswith", false) => Op::StartsWith,
                ("endswith", false) => Op::EndsWith,
                ("eq" | "equals", false) => Op::Eq,
                ("ne", false) => Op::Ne,
                ("gt", false) => Op::Gt,
                ("lt", false) => Op::Lt,
                ("geq", false) => Op::Ge,
                ("leq", false) => Op::Le,
                _ => return Err(format!("Invalid TQL: unknown operator {word}")),
            },
            (token, _) => return Err(format!("Invalid TQL: expected an operator, found {token:?}")),
        };
        let listed = matches!(op, Op::In | Op::NotIn) || matches!(self.peek(), Some(Token::Symbol("(")));
        let mut values = Vec::new();
        if listed {
            self.expect("(")?;
            loop {
                values.push(self.literal(field)?);
                if !self.symbol(",") {
                    break;
                }
            }
            self.expect(")")?;
        } else {
            values.push(self.literal(field)?);
        }
        Ok(Query::Compare { field, op, values })
    }

    fn literal(&mut self, field: Field) -> Result<Literal, String> {
        let literal = match self.next()? {
            Token::Text(text) => Literal::Text(text),
            Token::Number(number) => match number.parse::<i128>() {
                Ok(whole) => Literal::Number(whole),
                Err(_) => Literal::Decimal(number.parse().map_err(|_| format!("Invalid TQL: {number} is no number"))?),
            },
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Literal::Bool(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Literal::Bool(false),
            token => return Err(format!("Invalid TQL: expected a value, found {token:?}")),
        };
        if matches!(field, Field::LastModified | Field::DateAdded | Field::LastSeen) {
            let Literal::Text(text) = &literal else { return Err("Invalid TQL: a date is quoted".to_owned()) };
            date(text, Timestamp::UNIX_EPOCH)?;
        }
        Ok(literal)
    }
}

/// A date literal. Fractions of seconds break the filter of real servers.
fn date(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let upper = text.trim().to_ascii_uppercase();
    let wrong = || format!("Invalid TQL: {text} is no date");
    for (function, start) in [("NOW()", now), ("TODAY()", Timestamp::from_second(now.as_second() / 86_400 * 86_400).unwrap_or(now))] {
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
        .or_else(|| ["%Y-%m-%d", "%m-%d-%Y"].iter().find_map(|f| civil::Date::strptime(f, text.trim()).ok()).map(|d| d.at(0, 0, 0, 0)))
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
            Self::All => false,
            Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.mentions(wanted)),
            Self::Not(inner) => inner.mentions(wanted),
            Self::Compare { field, .. } | Self::IsNull { field, .. } => *field == wanted,
            Self::Has { .. } => false,
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
            Self::Has { what: What::Tag, query } => indicator.tags.iter().any(|tag| query.holds(&|field| named(field, tag, ""), indicator, now)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn indicator() -> Indicator {
        Indicator {
            id: 7,
            rating: Some(3.5),
            confidence: Some(50),
            tags: vec!["APT29".to_owned(), "a \"b\" \\c".to_owned()],
            labels: vec!["TLP:AMBER".to_owned()],
            attributes: vec![("Phase of Intrusion".to_owned(), "C2".to_owned())],
            ..Indicator::new("Acme Org", "Host", "bad.example", at("2023-11-20T18:00:00Z"))
        }
    }

    fn matches(text: &str) -> bool {
        parse(text).expect("a query").matches(&indicator(), 1, at("2023-11-21T00:00:00Z"))
    }

    #[test]
    fn and_binds_tighter_than_or() {
        assert!(matches("id = 7 or id = 8 and id = 9"));
        assert!(!matches("(id = 7 or id = 8) and id = 9"));
        assert!(matches("not id = 8 and not (id = 9)"));
    }

    #[test]
    fn each_form_of_the_vendors_examples_is_read() {
        for text in [
            "threatAssessScore is null",
            "rating>=3 and rating >= 3.5 AND RATING gt 3",
            "typeName in (\"Host\", 'URL') and typeName NOT IN (\"File\")",
            "typeName LIKE (\"Ho%\")",
            "hasTag(name in (\"x\", \"APT29\")) and tag in (\"APT29\")",
            "hasTag(name = \"a \\\"b\\\" \\\\c\")",
            "hasAttribute(typeName = \"Phase of Intrusion\" and text = \"C2\")",
            "securityLabel = \"TLP:AMBER\" and hasSecurityLabel(name = \"TLP:AMBER\")",
            "lastModified > \"NOW() - 24 hours\" and lastModified >= \"2023-11-20\" and lastModified < \"2023-11-20T18:00:01Z\"",
            "summary STARTSWITH \"bad\" and summary contains \"example\" and summary ENDSWITH \"example\"",
            "falsePositiveCount <= 0 and indicatorActive = True",
        ] {
            assert!(matches(text), "{text}");
        }
        assert!(!matches("hasTag(name = \"apt29\")"), "tag names are case-sensitive");
        assert!(!matches("threatAssessScore >= 0"), "a comparison with an unset value is false");
    }

    #[test]
    fn what_a_server_refuses_is_refused() {
        for text in ["xid = \"1\"", "id in ()", "id =", "(id = 1", "lastModified > \"2023-11-20T18:00:01.5Z\"", "id = 1 id = 2", "name ~ 1", "\"x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
