//! The part of OData that the lists take: `$top`, `$skip`, a `$filter` of comparisons, and links to the next page.
//!
//! Not imitated: functions, `not`, arithmetic, `$orderby`, `$search`, `$select`, `$expand`, `$count`.

use std::cmp::Ordering;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use crate::server::Call;

/// A parsed `$filter`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Filter {
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Compare { field: String, op: Op, value: Value },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
}

impl Filter {
    /// Whether a row fits, of which `get` gives a field.
    pub(crate) fn matches(&self, get: &dyn Fn(&str) -> Value) -> bool {
        match self {
            Self::And(parts) => parts.iter().all(|part| part.matches(get)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(get)),
            Self::Compare { field, op, value } => match get(field) {
                Value::Array(items) => items.iter().any(|item| holds(*op, item, value)),
                one => holds(*op, &one, value),
            },
        }
    }

    /// All fields that are named.
    pub(crate) fn fields(&self) -> Vec<&str> {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::fields).collect(),
            Self::Compare { field, .. } => vec![field],
        }
    }

    /// The texts of which this field must be one, if the filter says nothing else: an index answers that.
    pub(crate) fn one_of(&self, name: &str) -> Option<Vec<&str>> {
        match self {
            Self::Compare { field, op: Op::Eq, value: Value::String(text) } if field == name => Some(vec![text]),
            Self::Or(parts) => {
                let lists: Option<Vec<_>> = parts.iter().map(|part| part.one_of(name)).collect();
                lists.map(|lists| lists.concat())
            }
            _ => None,
        }
    }
}

fn holds(op: Op, left: &Value, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => match (a.parse::<Timestamp>(), b.parse::<Timestamp>()) {
            (Ok(a), Ok(b)) => Some(a.cmp(&b)),
            _ => Some(a.cmp(b)),
        },
        (a, b) => (a == b).then_some(Ordering::Equal),
    };
    match op {
        Op::Eq => order == Some(Ordering::Equal),
        Op::Ne => order != Some(Ordering::Equal),
        Op::Gt => order == Some(Ordering::Greater),
        Op::Ge => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        Op::Lt => order == Some(Ordering::Less),
        Op::Le => matches!(order, Some(Ordering::Less | Ordering::Equal)),
    }
}

/// Reads a filter.
pub(crate) fn parse(text: &str) -> Result<Filter, String> {
    let mut reader = Reader { tokens: tokens(text)?, at: 0 };
    let filter = reader.any_of()?;
    match reader.tokens.get(reader.at) {
        None => Ok(filter),
        Some(token) => Err(format!("Syntax error in the filter at {token:?}")),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Open,
    Close,
    Quoted(String),
    Word(String),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '(' | ')' => {
                found.push(if first == '(' { Token::Open } else { Token::Close });
                &rest[1..]
            }
            '\'' => {
                let (quoted, after) = quoted(&rest[1..]).ok_or("Unterminated string literal in the filter")?;
                found.push(Token::Quoted(quoted));
                after
            }
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '\'')).unwrap_or(rest.len());
                found.push(Token::Word(rest[..end].to_owned()));
                &rest[end..]
            }
        }
        .trim_start();
    }
    Ok(found)
}

/// Text up to the closing quote, in which two quotes stand for one; and what is behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('\'')?;
        value.push_str(before);
        let Some(more) = after.strip_prefix('\'') else { return Some((value, after)) };
        value.push('\'');
        rest = more;
    }
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
}

impl Reader {
    fn next(&mut self) -> Option<Token> {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned()
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Word(next)) if next == word);
        self.at += usize::from(found);
        found
    }

    fn any_of(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.all_of()?];
        while self.takes("or") {
            parts.push(self.all_of()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::Or(parts) })
    }

    fn all_of(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.one()?];
        while self.takes("and") {
            parts.push(self.one()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::And(parts) })
    }

    fn one(&mut self) -> Result<Filter, String> {
        let field = match self.next() {
            Some(Token::Open) => {
                let inner = self.any_of()?;
                return if self.next() == Some(Token::Close) { Ok(inner) } else { Err("Unbalanced parentheses".to_owned()) };
            }
            Some(Token::Word(word)) => word,
            other => return Err(format!("A field is expected in the filter, not {other:?}")),
        };
        let op = match self.next() {
            Some(Token::Word(word)) => op(&word).ok_or(format!("The operator {word} is not supported"))?,
            other => return Err(format!("An operator is expected in the filter, not {other:?}")),
        };
        let value = match self.next() {
            Some(Token::Quoted(text)) => Value::String(text),
            Some(Token::Word(word)) => literal(word),
            other => return Err(format!("A literal is expected in the filter, not {other:?}")),
        };
        Ok(Filter::Compare { field, op, value })
    }
}

fn op(word: &str) -> Option<Op> {
    Some(match word {
        "eq" => Op::Eq,
        "ne" => Op::Ne,
        "gt" => Op::Gt,
        "ge" => Op::Ge,
        "lt" => Op::Lt,
        "le" => Op::Le,
        _ => return None,
    })
}

/// Without quotes: a truth value, null, a number, else a time.
fn literal(word: String) -> Value {
    match word.as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        _ => word.parse::<i64>().map_or(Value::String(word), Value::from),
    }
}

/// An option of a list that is a number, at most `most`.
pub(crate) fn number(call: &Call, name: &str, most: usize) -> Result<Option<usize>, String> {
    let Some(text) = text(call, name) else { return Ok(None) };
    match text.parse::<usize>() {
        Ok(number) if number <= most => Ok(Some(number)),
        Ok(_) => Err(format!("The limit of '{most}' for {name} query has been exceeded.")),
        Err(_) => Err(format!("Invalid value '{text}' for {name} query option.")),
    }
}

/// An option of a list.
pub(crate) fn text<'c>(call: &'c Call, name: &str) -> Option<&'c str> {
    call.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The link to a page: these options instead of the ones that were sent, the others as they came.
pub(crate) fn link(base: &str, call: &Call, replaced: &[(&str, String)]) -> String {
    let kept = call.query.iter().filter(|(key, _)| !replaced.iter().any(|(name, _)| name == key));
    let kept = kept.map(|(key, value)| (key.as_str(), value.as_str()));
    let new = replaced.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (*key, value.as_str()));
    let pairs: Vec<String> = kept.chain(new).map(|(key, value)| format!("{key}={}", encode(value))).collect();
    format!("{base}{}?{}", call.path, pairs.join("&"))
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn comparisons_are_joined_and_quotes_doubled() {
        let filter = parse("a eq 'it''s' or (b eq true and c gt 2026-01-01T00:00:00Z)").expect("a filter");
        let row = |a: &str, b: bool, c: &str| {
            let row = json!({"a": a, "b": b, "c": c});
            filter.matches(&|field| row[field].clone())
        };
        assert!(row("it's", false, ""));
        assert!(row("x", true, "2026-01-01T01:30:00+01:00"));
        assert!(!row("x", true, "2025-12-31T23:00:00Z"));
        assert_eq!(filter.fields(), ["a", "b", "c"]);
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in ["", "a", "a eq", "a eq 'x", "a like 'x'", "a eq 'x' b", "(a eq 'x'", "'a' eq 'x'"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_index_serves_a_list_of_texts_only() {
        let of = |text: &str| parse(text).expect("a filter").one_of("id").map(|texts| texts.len());
        assert_eq!(of("id eq 'a' or id eq 'b'"), Some(2));
        assert_eq!(of("id eq 'a' or b eq 'b'"), None);
        assert_eq!(of("id eq 'a' and id eq 'b'"), None);
    }
}
